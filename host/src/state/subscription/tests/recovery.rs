//! A broker that ended at any moment: what is read back from a snapshot and the journal after it ends where the crash was.

use proptest::prelude::*;

use super::*;

/// What the journal holds, in order.
#[derive(Clone, Debug)]
enum Item {
    Commit {
        count: u64,
        matched: u64,
        passed: u64,
    },
    /// Acks some of what is pending: the bits choose.
    Ack(u64),
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        (1u64..10, any::<u64>(), any::<u64>()).prop_map(|(count, matched, passed)| Item::Commit {
            count,
            matched,
            passed
        }),
        any::<u64>().prop_map(Item::Ack),
    ];
    prop::collection::vec(item, 1..60)
}

/// A subscription with `stages` filters, its lanes and the events they look at.
struct Replay {
    state: SubscriptionState,
    stages: usize,
    /// Per position, from 1: the verdicts of the filters.
    verdicts: Vec<[bool; 2]>,
}

impl Replay {
    /// Lets the lane of `stage` look at up to `ahead` more events of those committed.
    fn advance(&mut self, stage: usize, ahead: u64) {
        let after = match self.stages {
            0 => self.state.evaluated_through().0,
            _ => self.state.stage_through(stage).0,
        };
        let through = (after + ahead).min(self.verdicts.len() as u64);
        let matched: Vec<Position> = (after + 1..=through)
            .filter(|position| self.verdicts[*position as usize - 1][stage])
            .map(Position)
            .collect();
        if self.stages == 0 {
            self.state
                .observe(Position(through), matched.iter().map(|p| *p..=*p));
        } else {
            self.state.stage_result(stage, Position(through), &matched);
        }
    }

    fn commit(&mut self, count: u64, matched: u64, passed: u64) {
        self.verdicts
            .extend((0..count).map(|bit| [matched >> bit & 1 == 1, passed >> bit & 1 == 1]));
    }

    fn catch_up(&mut self) {
        (0..self.stages.max(1)).for_each(|stage| self.advance(stage, u64::MAX >> 1));
    }

    fn pending(&self) -> Vec<u64> {
        self.state
            .pending
            .ranges(0, u64::MAX)
            .flat_map(|(first, last)| first..=last)
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn recovery_ends_where_the_crash_was(
        stages in 0usize..3,
        items in items(),
        snapshot_at in any::<prop::sample::Index>(),
        journal_from in any::<prop::sample::Index>(),
        lags in prop::collection::vec((0usize..2, 0u64..15), 0..80),
        recovery_lags in prop::collection::vec((0usize..2, 0u64..15), 0..80),
    ) {
        let new = || SubscriptionState::new(policy(), Position(1), stages);
        let mut live = Replay { state: new(), stages, verdicts: vec![] };
        let snapshot_at = snapshot_at.index(items.len());
        let journal_from = journal_from.index(snapshot_at + 1);
        let mut snapshot = new().snapshot();
        let mut journal = Vec::new();
        let mut lags = lags.into_iter().cycle();
        for (number, item) in items.iter().enumerate() {
            if number == snapshot_at {
                snapshot = live.state.snapshot();
            }
            match item {
                Item::Commit { count, matched, passed } => {
                    live.commit(*count, *matched, *passed);
                    journal.push((number, None));
                }
                Item::Ack(bits) => {
                    let chosen: Vec<_> = live
                        .pending()
                        .into_iter()
                        .filter(|position| bits >> (position % 64) & 1 == 1)
                        .map(|position| run(position, position))
                        .collect();
                    live.state.finish(&chosen);
                    live.state.acked_before_match(&chosen);
                    journal.push((number, Some(live.state.take_effects().acked)));
                }
            }
            if let Some((stage, ahead)) = lags.next() {
                live.advance(stage.min(stages.saturating_sub(1)), ahead);
            }
        }

        let state = SubscriptionState::restore(&snapshot, policy(), |_| Some(stages)).expect("just written");
        let mut recovered = Replay { state, stages, verdicts: vec![] };
        let mut lags = recovery_lags.into_iter().cycle();
        for (number, acked) in journal {
            // What the journal no longer holds, the lanes read from generations.
            match (&items[number], acked) {
                (Item::Commit { count, matched, passed }, _) => recovered.commit(*count, *matched, *passed),
                (Item::Ack(_), Some(acked)) if number >= journal_from => {
                    recovered.state.is_acked(&acked);
                }
                _ => {}
            }
            if let Some((stage, ahead)) = lags.next() {
                recovered.advance(stage.min(stages.saturating_sub(1)), ahead);
            }
        }
        live.catch_up();
        recovered.catch_up();
        prop_assert_eq!(recovered.pending(), live.pending());
        prop_assert_eq!(recovered.state.depth(), live.state.depth());
        prop_assert!(recovered.state.acked_ahead.is_empty());
    }
}
