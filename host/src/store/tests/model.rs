//! Random use of a store against a model of what it must hold.

use bytes::Bytes;
use proptest::prelude::*;

use super::harness::*;
use crate::domain::{Block, CommitNumber, Position};
use crate::store::Opened;

#[derive(Clone, Debug)]
enum Step {
    Append {
        topics: Vec<(u64, u8, u16)>,
        notes: Vec<u8>,
    },
    Sync,
    Rotate,
    Checkpoint {
        keep_every: u64,
    },
    DeleteOldest,
    Reopen {
        close: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let blocks = prop::collection::vec((1u64..4, 1u8..6, 0u16..4000), 0..4);
    let notes = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        8 => (blocks, notes).prop_map(|(topics, notes)| Step::Append { topics, notes }),
        4 => Just(Step::Sync),
        1 => Just(Step::Rotate),
        2 => (1u64..4).prop_map(|keep_every| Step::Checkpoint { keep_every }),
        1 => Just(Step::DeleteOldest),
        2 => any::<bool>().prop_map(|close| Step::Reopen { close }),
    ]
}

#[derive(Default)]
struct Model {
    /// Groups since the mark.
    groups: Vec<Group>,
    /// Blocks in generations, by generation.
    sealed: Vec<Vec<Block>>,
    state: Vec<(Bytes, Bytes)>,
    next: u64,
    next_position: u64,
}

impl Model {
    fn blocks(&self) -> Vec<Block> {
        let sealed = self.sealed.iter().flatten().cloned();
        sealed
            .chain(self.groups.iter().flat_map(|group| group.blocks.clone()))
            .collect()
    }

    fn check(&self, opened: &mut Opened) {
        assert_eq!(read_all(&opened.reader, 0).expect("read"), self.blocks());
        for block in self.blocks() {
            let at = Position(block.first_position.0 + u64::from(block.count) / 2);
            assert_eq!(
                opened.reader.block_at(at).expect("read").as_deref(),
                Some(&block)
            );
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = folder();
    let mut opened = start(dir.path());
    let mut model = Model {
        next: 1,
        next_position: 1,
        ..Model::default()
    };
    for step in steps {
        match step {
            Step::Append { topics, notes } => {
                let mut blocks = Vec::new();
                for (topic, count, bytes) in topics {
                    let (position, count) = (model.next_position, u64::from(count));
                    blocks.push(filled(topic, position, position, count, usize::from(bytes)));
                    model.next_position += count;
                }
                let number = opened.journal.append(&notes, &blocks).expect("append");
                assert_eq!(number, CommitNumber(model.next));
                model.next += 1;
                model.groups.push(Group {
                    number,
                    notes: notes.into(),
                    blocks,
                });
            }
            Step::Sync => opened.journal.sync().expect("sync"),
            Step::Rotate => assert_eq!(opened.journal.mark().expect("rotate").0, model.next),
            Step::Checkpoint { keep_every } => {
                let keep = |block: &Block| {
                    block
                        .thinned(|position| position.0.is_multiple_of(keep_every))
                        .expect("sound")
                };
                let mark = opened.journal.mark().expect("rotate");
                model.state = vec![("mark".into(), mark.to_string().into())];
                checkpoint(&mut opened, mark, keep, &model.state);
                let groups = std::mem::take(&mut model.groups);
                let blocks = groups.iter().flat_map(|group| &group.blocks);
                model.sealed.push(blocks.filter_map(keep).collect());
            }
            Step::DeleteOldest => {
                let generations = opened.checkpoints.generations();
                let deleted = generations
                    .first()
                    .map(|oldest| opened.checkpoints.delete_generation(oldest.id));
                if generations.len() > 2 {
                    deleted.expect("one").expect("deleted");
                    model.sealed.remove(0);
                } else {
                    assert!(deleted.is_none_or(|result| result.is_err()));
                }
            }
            Step::Reopen { close } => {
                if close {
                    opened.journal.close().expect("close");
                    drop((opened.reader, opened.checkpoints, opened.replay));
                } else {
                    drop(opened);
                }
                opened = start(dir.path());
                assert!(opened.clean || !close);
                assert_eq!(opened.state, model.state);
                assert_eq!(replayed(&mut opened), model.groups);
            }
        }
    }
    opened.journal.sync().expect("sync");
    model.check(&mut opened);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_use_of_the_store_matches_the_model(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}
