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
    /// A consumer takes what it gets; the bits choose what of it it answers, and what it holds that is terminated instead of nacked.
    Answer {
        nacked: u64,
        terminated: u64,
        delay: Option<u64>,
    },
    /// So much time goes by.
    Wait(u64),
    /// The consumer is gone, its connection lost or not.
    Leave(bool),
}

/// What the journal has of an item.
enum Noted {
    Acked(Vec<RangeInclusive<Position>>),
    CameBack(CameBack, Millis),
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        (1u64..10, any::<u64>(), any::<u64>()).prop_map(|(count, matched, passed)| Item::Commit {
            count,
            matched,
            passed
        }),
        any::<u64>().prop_map(Item::Ack),
        (any::<u64>(), any::<u64>(), prop::option::of(0u64..300)).prop_map(
            |(nacked, terminated, delay)| Item::Answer {
                nacked,
                terminated: terminated & (terminated >> 7),
                delay,
            }
        ),
        (0u64..120).prop_map(Item::Wait),
        any::<bool>().prop_map(Item::Leave),
    ];
    prop::collection::vec(item, 1..60)
}

fn chosen(positions: impl IntoIterator<Item = u64>, bits: u64) -> Vec<RangeInclusive<Position>> {
    let positions = positions.into_iter();
    let chosen = positions.filter(|position| bits >> (position % 64) & 1 == 1);
    chosen.map(|position| run(position, position)).collect()
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
        let mut snapshot = new().snapshot(0);
        let (mut journal, mut now) = (Vec::new(), 1_000);
        let mut lags = lags.into_iter().cycle();
        for (number, item) in items.iter().enumerate() {
            if number == snapshot_at {
                snapshot = live.state.snapshot(0);
            }
            match item {
                Item::Commit { count, matched, passed } => {
                    live.commit(*count, *matched, *passed);
                    journal.push((number, None));
                }
                Item::Ack(bits) => {
                    let chosen = chosen(live.pending(), *bits);
                    live.state.finish(&chosen);
                    live.state.acked_before_match(&chosen);
                }
                Item::Answer { nacked, terminated, delay } => {
                    live.state.attach(C);
                    lease(&mut live.state, C, 100, now);
                    let held: Vec<u64> = live.state.consumers[&C].flights.iter().flat_map(|(first, last, _)| first..=last).collect();
                    live.state.nack(C, &chosen(held.iter().copied(), *nacked), *delay, Millis(now));
                    live.state.term(C, &chosen(held, *terminated), "broken");
                }
                Item::Wait(ms) => {
                    now += ms;
                    live.state.tick(Millis(now), |_| None);
                }
                Item::Leave(true) => live.state.cut(C, &[], &[], true, Millis(now)),
                Item::Leave(false) => live.state.detach(C, &[]),
            }
            let effects = live.state.take_effects();
            journal.extend(effects.came_back.into_iter().map(|back| (number, Some(Noted::CameBack(back, Millis(now))))));
            journal.push((number, Some(Noted::Acked(effects.acked))));
            if let Some((stage, ahead)) = lags.next() {
                live.advance(stage.min(stages.saturating_sub(1)), ahead);
            }
        }

        let state = SubscriptionState::restore(&snapshot, policy(), |_| Some(stages)).expect("just written");
        let mut recovered = Replay { state, stages, verdicts: vec![] };
        let mut lags = recovery_lags.into_iter().cycle();
        for (number, noted) in journal {
            // What the journal no longer holds, the lanes read from generations.
            match (&items[number], noted) {
                (Item::Commit { count, matched, passed }, None) => recovered.commit(*count, *matched, *passed),
                (_, Some(Noted::Acked(acked))) if number >= journal_from => {
                    recovered.state.is_acked(&acked);
                }
                (_, Some(Noted::CameBack(back, at))) if number >= journal_from => {
                    recovered.state.is_back(&back, at);
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
        prop_assert!(recovered.state.acked_ahead.is_empty() && recovered.state.ahead.is_empty());

        // What was in hand is not known, everything else is.
        live.state.tick(Millis(now), |_| None);
        recovered.state.tick(Millis(now), |_| None);
        prop_assert_eq!(&recovered.state.delayed, &live.state.delayed);
        prop_assert_eq!(&recovered.state.tries, &live.state.tries);
        prop_assert_eq!(recovered.state.given_up.all(), live.state.given_up.all());
        prop_assert_eq!(&recovered.state.suspects.all, &live.state.suspects.all);
        recovered.state.suspects.all = PositionSet::default();
        recovered.state.policy.in_flight_events_max = 1_000;
        let resting = recovered.state.delayed.0.len() + recovered.state.given_up();
        let again = SubscriptionState::restore(&recovered.state.snapshot(0), recovered.state.policy.clone(), |_| Some(stages));
        let mut again = again.expect("sound");
        again.suspects = Suspects::default();
        again.attach(D);
        let handed = lease(&mut again, D, 1_000, now).len() as u64;
        prop_assert_eq!(handed + resting, again.depth(), "the others are handed out");
    }
}
