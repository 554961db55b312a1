//! The rules of de-duplication against a naive model that remembers everything, and single cases.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::Principal;

const P: ProducerId = ProducerId(7);

fn me() -> PrincipalDigest {
    Principal::local().digest()
}

#[derive(Clone, Debug)]
struct Step {
    producer: u128,
    epoch: u32,
    // Where the batch starts, relative to the highest number of this producer.
    back: u64,
    count: u32,
    resolved_back: u64,
    reopen: bool,
    restart: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (
        0u128..3,
        0u32..3,
        0u64..12,
        1u32..6,
        0u64..20,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(producer, epoch, back, count, resolved_back, reopen, restart)| Step {
                producer,
                epoch,
                back,
                count,
                resolved_back,
                reopen,
                restart,
            },
        );
    prop::collection::vec(step, 1..100)
}

// Every number's sequence, for ever, and what the producer says it has seen.
#[derive(Default)]
struct Model {
    epoch: u32,
    sequences: BTreeMap<u64, u64>,
    // Numbers → the last number of their batch.
    batch_last: BTreeMap<u64, u64>,
    resolved: u64,
}

proptest! {
    #[test]
    fn behaves_like_a_naive_memory_of_all_numbers(steps in steps()) {
        let mut producers = Producers::new(10);
        let mut models: HashMap<u128, Model> = HashMap::new();
        let mut next_sequence = 1;
        for step in steps {
            let id = ProducerId(step.producer);
            let model = models.entry(step.producer).or_default();
            let committed = model.sequences.keys().next_back().copied().unwrap_or(0);
            if step.reopen {
                let expected = if step.epoch < model.epoch {
                    Err(OpenError::Fenced { epoch: model.epoch })
                } else {
                    model.epoch = step.epoch;
                    Ok(committed)
                };
                prop_assert_eq!(producers.open(id, step.epoch, me()), expected);
            }
            let first = (committed + 3).saturating_sub(step.back).max(1);
            let last = first + u64::from(step.count) - 1;
            let verdict = producers.check(id, step.epoch, first, step.count);
            let remembered = (first..=last).all(|number| {
                model.batch_last.get(&number).is_some_and(|last| *last > model.resolved)
            });
            let in_a_row = (first..last).all(|number| {
                model.sequences.get(&number).map(|s| s + 1) == model.sequences.get(&(number + 1)).copied()
            });
            let expected = if step.epoch < model.epoch {
                Verdict::Fenced
            } else if first > committed {
                Verdict::Fresh
            } else if remembered && in_a_row {
                Verdict::Duplicate { first_sequence: Sequence(model.sequences[&first]) }
            } else {
                Verdict::OutOfOrder { committed }
            };
            prop_assert_eq!(verdict, expected);
            if verdict == Verdict::Fresh {
                let resolved = committed.saturating_sub(step.resolved_back);
                producers.commit(id, step.epoch, first, step.count, Sequence(next_sequence), resolved);
                // Again, as recovery may.
                producers.commit(id, step.epoch, first, step.count, Sequence(next_sequence), resolved);
                model.epoch = step.epoch;
                model.resolved = model.resolved.max(resolved);
                for number in first..=last {
                    model.sequences.insert(number, next_sequence + number - first);
                    model.batch_last.insert(number, last);
                }
                next_sequence += u64::from(step.count) + u64::from(step.count % 2);
            }
            if step.restart {
                producers = Producers::restore(&producers.snapshot(), 10).expect("just written");
            }
        }
    }

    #[test]
    fn restoring_nonsense_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = bytes;
        let _ = Producers::restore(&bytes, 10);
        for known in [VERSION_OWNERLESS, VERSION] {
            if let Some(version) = bytes.first_mut() {
                *version = known;
            }
            if let Ok(producers) = Producers::restore(&bytes, 10) {
                let _ = producers.check(ProducerId(0), u32::MAX, 1, 5);
            }
        }
    }
}

#[test]
fn what_is_taken_back_can_come_again() {
    let mut producers = Producers::new(10);
    assert_eq!(producers.commit(P, 0, 1, 10, Sequence(1), 0), 0);
    let refused = [(20, 5), (30, 5)];
    let before =
        refused.map(|(first, count)| producers.commit(P, 1, first, count, Sequence(50), 10));
    assert_eq!(before, [10, 24]);
    for last_number in before.into_iter().rev() {
        producers.take_back(P, last_number);
    }
    assert_eq!(producers.last_number(P), 10);
    // Between what was refused and what was committed as well.
    assert_eq!(producers.check(P, 1, 11, 5), Verdict::Fresh);
    let kept = producers.batches;
    assert_eq!(kept, producers.by_id[&P].known.batches.len());
    // What said nothing new takes nothing with it.
    let before = producers.commit(P, 1, 5, 2, Sequence(5), 0);
    producers.take_back(P, before);
    assert_eq!((producers.last_number(P), producers.batches), (10, kept));
}

#[test]
fn numbers_may_have_gaps() {
    let mut producers = Producers::new(10);
    producers.commit(P, 0, 1, 10, Sequence(1), 0);
    assert_eq!(producers.check(P, 0, 21, 10), Verdict::Fresh);
    producers.commit(P, 0, 21, 10, Sequence(11), 0);
    assert_eq!(
        producers.check(P, 0, 11, 10),
        Verdict::OutOfOrder { committed: 30 }
    );
    assert_eq!(
        producers.check(P, 0, 5, 20),
        Verdict::OutOfOrder { committed: 30 }
    );
    assert_eq!(
        producers.check(P, 0, 21, 10),
        Verdict::Duplicate {
            first_sequence: Sequence(11)
        }
    );
}

#[test]
fn numbers_near_the_end_do_not_overflow() {
    let mut producers = Producers::new(10);
    producers.commit(P, 0, u64::MAX, 5, Sequence(1), 0);
    assert!(matches!(
        producers.check(P, 0, u64::MAX, 2),
        Verdict::OutOfOrder { .. }
    ));
    assert!(matches!(
        producers.check(P, 0, 1, 2),
        Verdict::OutOfOrder { .. }
    ));
}

#[test]
fn only_so_many_batches_are_remembered() {
    let mut producers = Producers::new(10);
    let count = BATCHES_MAX as u64 + 1;
    for number in 1..=count {
        producers.commit(P, 0, number, 1, Sequence(number), 0);
    }
    assert_eq!(
        producers.check(P, 0, 1, 1),
        Verdict::OutOfOrder { committed: count }
    );
    assert_eq!(
        producers.check(P, 0, 2, 1),
        Verdict::Duplicate {
            first_sequence: Sequence(2)
        }
    );
}

#[test]
fn all_together_remember_no_more_than_there_is_room_for() {
    let mut producers = Producers::new(200);
    let max = producers.batches_max();
    for id in 1..=100 {
        for number in 1..=100 {
            producers.commit(ProducerId(id), 0, number, 1, Sequence(number), 0);
        }
        let remembered = |producers: &Producers| -> usize {
            let known = producers.by_id.values();
            known.map(|one| one.known.batches.len()).sum()
        };
        assert_eq!(producers.batches, remembered(&producers));
        assert!(producers.batches <= max, "{} of {max}", producers.batches);
    }
    // Who was active last can resend; who is idle longest cannot, but is known.
    let resent = producers.check(ProducerId(100), 0, 1, 1);
    assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
    let resent = producers.check(ProducerId(1), 0, 1, 1);
    assert_eq!(resent, Verdict::OutOfOrder { committed: 100 });
    let restored = Producers::restore(&producers.snapshot(), 200).expect("just written");
    assert_eq!(restored.batches, producers.batches);
}

#[test]
fn memory_of_resolved_batches_is_given_back() {
    let mut producers = Producers::new(10);
    for number in 1..=BATCHES_MAX as u64 {
        producers.commit(P, 0, number, 1, Sequence(number), 0);
    }
    let next = BATCHES_MAX as u64 + 1;
    producers.commit(P, 0, next, 1, Sequence(next), next - 1);
    assert_eq!(producers.batches, 1);
    assert!(producers.by_id[&P].known.batches.capacity() <= BATCHES_KEPT);
}

#[test]
fn who_never_published_is_forgotten_before_who_is_idle() {
    let mut producers = Producers::new(3);
    for id in 1..=3 {
        producers.commit(ProducerId(id), 0, 1, 1, Sequence(1), 0);
    }
    producers.commit(ProducerId(1), 0, 2, 1, Sequence(2), 0);
    for id in 100..200 {
        producers.open(ProducerId(id), 0, me()).expect("not fenced");
    }
    assert_eq!(producers.len(), 3);
    assert_eq!(
        producers.open(ProducerId(2), 0, me()),
        Ok(0),
        "idle longest, forgotten"
    );
    assert_eq!(producers.open(ProducerId(3), 0, me()), Ok(1));
    assert_eq!(producers.open(ProducerId(1), 0, me()), Ok(2));
}

#[test]
fn a_flood_of_ids_makes_the_broker_forget_only_the_floods_own() {
    let theirs = Principal::common_name("other").digest();
    let mut producers = Producers::new(10);
    for id in 1..=4 {
        producers.open(ProducerId(id), 1, me()).expect("not fenced");
        producers.commit(ProducerId(id), 1, 1, 1, Sequence(id as u64), 0);
    }
    for id in 100..200 {
        let id = ProducerId(id);
        producers.open(id, 1, theirs).expect("not fenced");
        producers.commit(id, 1, 1, 1, Sequence(9), 0);
    }
    assert_eq!(producers.len(), 10);
    for id in 1..=4 {
        let id = ProducerId(id);
        let resent = producers.check(id, 1, 1, 1);
        assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
        assert_eq!(producers.open(id, 2, theirs), Err(OpenError::NotYours));
    }
    let restored = Producers::restore(&producers.snapshot(), 8).expect("just written");
    let known = |id: &u128| restored.check(ProducerId(*id), 1, 1, 1) != Verdict::Fresh;
    assert_eq!((1..=4).filter(known).count(), 4, "nor does a smaller limit");
}

#[test]
fn a_producer_with_an_open_stream_is_forgotten_after_those_without() {
    let mut producers = Producers::new(3);
    let commit = |producers: &mut Producers, id| {
        producers.open(ProducerId(id), 1, me()).expect("not fenced");
        producers.commit(ProducerId(id), 1, 1, 1, Sequence(1), 0);
    };
    commit(&mut producers, 1);
    for id in 2..20 {
        commit(&mut producers, id);
        producers.close(ProducerId(id));
    }
    let resent = producers.check(ProducerId(1), 1, 1, 1);
    assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
    producers.close(ProducerId(1));
    for id in 20..23 {
        commit(&mut producers, id);
    }
    assert_eq!(producers.check(ProducerId(1), 1, 1, 1), Verdict::Fresh);
}

#[test]
fn who_was_forgotten_is_owned_again_with_the_next_batch() {
    let theirs = Principal::common_name("other").digest();
    let mut producers = Producers::new(1);
    assert!(producers.own(P, me()));
    assert!(!producers.own(P, me()));
    assert!(producers.own(ProducerId(8), me()), "the only place");
    assert!(producers.own(P, me()), "to be written down again");
    assert_eq!(producers.open(P, 1, theirs), Err(OpenError::NotYours));
}

#[test]
fn who_remembers_most_batches_forgets_first() {
    let theirs = Principal::common_name("other").digest();
    let mut producers = Producers::new(200);
    producers.open(P, 0, me()).expect("not fenced");
    for number in 1..=500 {
        producers.commit(P, 0, number, 1, Sequence(number), 0);
    }
    for id in 100..150 {
        let id = ProducerId(id);
        producers.open(id, 0, theirs).expect("not fenced");
        for number in 1..=100 {
            producers.commit(id, 0, number, 1, Sequence(number), 0);
        }
        producers.close(id);
    }
    let resent = producers.check(P, 0, 1, 1);
    assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
    // Of one that has the most by itself as well, however often it is used.
    let mut producers = Producers::new(200);
    for number in 1..=1_000 {
        producers.open(P, 0, me()).expect("not fenced");
        producers.commit(P, 0, number, 1, Sequence(number), 0);
    }
    for id in 100..102 {
        let id = ProducerId(id);
        producers.open(id, 0, theirs).expect("not fenced");
        producers.commit(id, 0, 1, 1, Sequence(1), 0);
    }
    assert_eq!(producers.by_owner.by_batches()[0], P);
}

#[test]
fn a_producer_is_its_first_principals() {
    let theirs = Principal::common_name("other").digest();
    let mut producers = Producers::new(10);
    assert_eq!(producers.open(P, 1, me()), Ok(0));
    producers.commit(P, 1, 1, 5, Sequence(1), 0);
    for epoch in [0, 1, 9] {
        let refused = producers.open(P, epoch, theirs);
        assert_eq!(
            refused,
            Err(OpenError::NotYours),
            "not even that it is fenced"
        );
    }
    let mut restored = Producers::restore(&producers.snapshot(), 10).expect("just written");
    assert_eq!(restored.open(P, 9, theirs), Err(OpenError::NotYours));
    assert_eq!(restored.open(P, 1, me()), Ok(5), "nobody has fenced it");
}

#[test]
fn a_state_without_owners_is_read_and_the_first_to_come_owns() {
    let known = Known {
        epoch: 3,
        last_number: 7,
        batches: VecDeque::new(),
    };
    let stored = vec![(P, true, known)];
    let bytes = postcard::to_extend(&stored, vec![VERSION_OWNERLESS]).expect("plain numbers");
    let mut producers = Producers::restore(&bytes, 10).expect("an older broker wrote it");
    assert_eq!(producers.open(P, 3, me()), Ok(7));
    let theirs = Principal::common_name("other").digest();
    assert_eq!(producers.open(P, 4, theirs), Err(OpenError::NotYours));
}

#[test]
fn restoring_keeps_who_was_active_last() {
    let mut producers = Producers::new(10);
    for id in 1..=5 {
        producers.commit(ProducerId(id), 0, 1, 1, Sequence(1), 0);
    }
    let producers = Producers::restore(&producers.snapshot(), 2).expect("just written");
    assert_eq!(producers.len(), 2);
    assert_eq!(producers.check(ProducerId(1), 0, 1, 1), Verdict::Fresh);
    assert!(matches!(
        producers.check(ProducerId(5), 0, 1, 1),
        Verdict::Duplicate { .. }
    ));
}
