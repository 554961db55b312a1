//! Whatever may happen in a row happens to the state and to the naive model, and both are the same after each step.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::effects::{Did, Ritual};
use super::model::{self, Model, Place};
use super::*;
use crate::state::subscription::snapshot::told;

/// Of the three consumers, the one that only looks.
const LOOKS: ConsumerId = ConsumerId(3);

#[derive(Clone, Debug)]
enum Op {
    /// Looks at the next events: how many, and which of them match.
    Matched {
        stage: usize,
        ahead: u64,
        matched: u32,
        repeat: bool,
    },
    Exclude {
        stage: usize,
        ahead: u64,
    },
    Attach(ConsumerId),
    Detach {
        consumer: ConsumerId,
        unseen: Vec<(u64, u64)>,
    },
    Cut {
        consumer: ConsumerId,
        unseen: Vec<(u64, u64)>,
        /// So many of these ranges may have been in hand all the same.
        reached: usize,
        says: bool,
    },
    Lease {
        consumer: ConsumerId,
        max: usize,
    },
    GiveBack {
        consumer: ConsumerId,
        ranges: Vec<(u64, u64)>,
    },
    Ack {
        consumer: Option<ConsumerId>,
        ranges: Vec<(u64, u64)>,
    },
    Nack {
        consumer: ConsumerId,
        ranges: Vec<(u64, u64)>,
        delay: Option<u64>,
    },
    Term {
        consumer: ConsumerId,
        ranges: Vec<(u64, u64)>,
    },
    GiveUp {
        consumer: ConsumerId,
        position: u64,
    },
    GiveUpPending {
        first: u64,
        length: u64,
    },
    Extend {
        consumer: ConsumerId,
        ranges: Vec<(u64, u64)>,
    },
    Tick(u64),
    TakeGivenUp(usize),
    GiveUpFailed(u64),
    Pause(bool),
    Restart,
}

fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let range = (0u64..60, 0u64..10).prop_map(|(first, length)| (first, first + length));
    prop::collection::vec(range, 1..4)
}

fn unseen() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop_oneof![Just(Vec::new()), ranges()]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let consumer = (1u64..4).prop_map(ConsumerId);
    let op = prop_oneof![
        5 => (0usize..3, 0u64..12, any::<u32>(), any::<bool>())
            .prop_map(|(stage, ahead, matched, repeat)| Op::Matched { stage, ahead, matched, repeat }),
        1 => (0usize..3, 0u64..6).prop_map(|(stage, ahead)| Op::Exclude { stage, ahead }),
        2 => consumer.clone().prop_map(Op::Attach),
        1 => (consumer.clone(), unseen()).prop_map(|(consumer, unseen)| Op::Detach { consumer, unseen }),
        2 => (consumer.clone(), unseen(), 0usize..4, any::<bool>())
            .prop_map(|(consumer, unseen, reached, says)| Op::Cut { consumer, unseen, reached, says }),
        6 => (consumer.clone(), 0usize..10).prop_map(|(consumer, max)| Op::Lease { consumer, max }),
        1 => (consumer.clone(), ranges()).prop_map(|(consumer, ranges)| Op::GiveBack { consumer, ranges }),
        4 => (prop::option::weighted(0.8, consumer.clone()), ranges())
            .prop_map(|(consumer, ranges)| Op::Ack { consumer, ranges }),
        3 => (consumer.clone(), ranges(), prop::option::of(0u64..80))
            .prop_map(|(consumer, ranges, delay)| Op::Nack { consumer, ranges, delay }),
        1 => (consumer.clone(), ranges()).prop_map(|(consumer, ranges)| Op::Term { consumer, ranges }),
        1 => (consumer.clone(), 0u64..60).prop_map(|(consumer, position)| Op::GiveUp { consumer, position }),
        1 => (0u64..60, 0u64..6).prop_map(|(first, length)| Op::GiveUpPending { first, length }),
        1 => (consumer, ranges()).prop_map(|(consumer, ranges)| Op::Extend { consumer, ranges }),
        4 => (0u64..70).prop_map(Op::Tick),
        1 => Just(Op::Tick(1_500)),
        1 => (0usize..4).prop_map(Op::TakeGivenUp),
        1 => (0u64..60).prop_map(Op::GiveUpFailed),
        1 => any::<bool>().prop_map(Op::Pause),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..120)
}

/// Both, the positions moved by `base`.
struct Pair {
    state: SubscriptionState,
    model: Model,
    base: u64,
    now: u64,
    /// So many reasons are kept one by one.
    exact_max: usize,
    /// Those who do what a change makes necessary.
    ritual: Ritual,
}

impl Pair {
    // What those who keep to the effects know of an operation themselves.
    fn did(&self, op: &Op) -> Did {
        match op {
            Op::Lease { consumer, max } => {
                let mut leased = Vec::new();
                let mut state = self.state.clone();
                state.lease(*consumer, *max, Millis(self.now), &mut leased);
                match leased.is_empty() && *max > 0 && state.consumers.contains_key(consumer) {
                    true => Did::GotNothing(*consumer),
                    false => Did::Other,
                }
            }
            Op::Detach { consumer, .. } | Op::Cut { consumer, .. } => Did::Left(*consumer),
            Op::Tick(_) => Did::Ticked,
            Op::TakeGivenUp(_) => Did::TookGivenUp,
            Op::Restart => Did::Restarted,
            _ => Did::Other,
        }
    }

    fn moved(&self, ranges: &[(u64, u64)]) -> (Vec<RangeInclusive<Position>>, Vec<(u64, u64)>) {
        let moved: Vec<(u64, u64)> = ranges
            .iter()
            .map(|(first, last)| (first + self.base, last + self.base))
            .collect();
        (
            moved
                .iter()
                .map(|(first, last)| run(*first, *last))
                .collect(),
            moved,
        )
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Matched {
                stage,
                ahead,
                matched,
                repeat,
            } => self.matched(stage, ahead, matched, repeat),
            Op::Exclude { stage, ahead } => self.exclude(stage, ahead),
            Op::Attach(consumer) => self.attach(consumer),
            Op::Detach { consumer, unseen } => self.detach(consumer, &unseen),
            Op::Cut {
                consumer,
                unseen,
                reached,
                says,
            } => self.cut(consumer, &unseen, reached, says),
            Op::Lease { consumer, max } => self.lease(consumer, max),
            Op::GiveBack { consumer, ranges } => self.give_back(consumer, &ranges),
            Op::Ack { consumer, ranges } => self.ack(consumer, &ranges),
            Op::Nack {
                consumer,
                ranges,
                delay,
            } => self.nack(consumer, &ranges, delay),
            Op::Term { consumer, ranges } => self.term(consumer, &ranges),
            Op::GiveUp { consumer, position } => self.give_up(consumer, self.base + position),
            Op::GiveUpPending { first, length } => self.give_up_pending(self.base + first, length),
            Op::Extend { consumer, ranges } => self.extend(consumer, &ranges),
            Op::Tick(ms) => self.tick(ms),
            Op::TakeGivenUp(max) => {
                assert_eq!(self.state.take_given_up(max), self.model.take_given_up(max));
            }
            Op::GiveUpFailed(position) => self.give_up_failed(self.base + position),
            Op::Pause(paused) => self.pause(paused),
            Op::Restart => self.restart(),
        }
    }

    fn exclude(&mut self, stage: usize, ahead: u64) {
        if let Some((through, _)) = self.model.stages.get(stage) {
            let position = through + ahead;
            self.state.exclude(stage, Position(position), "trap");
            self.model.exclude(stage, position);
        }
    }

    fn attach(&mut self, consumer: ConsumerId) {
        if consumer == LOOKS {
            self.state.attach_to_look(consumer);
            self.model.lookers.entry(consumer).or_insert(0);
        } else {
            self.state.attach(consumer);
            self.model.consumers.insert(consumer);
        }
    }

    fn detach(&mut self, consumer: ConsumerId, unseen: &[(u64, u64)]) {
        let (ranges, moved) = self.moved(unseen);
        self.state.detach(consumer, &ranges);
        self.model.gone(consumer, &moved, None, self.now);
    }

    fn cut(&mut self, consumer: ConsumerId, unseen: &[(u64, u64)], reached: usize, says: bool) {
        let (ranges, moved) = self.moved(unseen);
        let reached = reached.min(ranges.len());
        let (out_of_reach, out_of_model) = (&ranges[reached..], &moved[reached..]);
        self.state
            .cut(consumer, &ranges, out_of_reach, says, Millis(self.now));
        self.model
            .gone(consumer, &moved, Some((says, out_of_model)), self.now);
    }

    fn lease(&mut self, consumer: ConsumerId, max: usize) {
        let leased = lease(&mut self.state, consumer, max, self.now);
        assert_eq!(leased, self.model.lease(consumer, max, self.now));
        assert!(
            leased
                .iter()
                .all(|(position, _)| !self.model.acked.contains(position))
        );
    }

    fn give_back(&mut self, consumer: ConsumerId, ranges: &[(u64, u64)]) {
        let (ranges, moved) = self.moved(ranges);
        let positions = ranges.iter().flat_map(|r| r.start().0..=r.end().0);
        self.state.give_back(consumer, positions.map(Position));
        for position in self.model.held(consumer, &moved) {
            self.model.pending.get_mut(&position).expect("held").0 = Place::Ready;
        }
        if let Some(from) = self.model.lookers.get_mut(&consumer) {
            *from = moved.iter().map(|range| range.0).fold(*from, u64::min);
        }
    }

    fn ack(&mut self, consumer: Option<ConsumerId>, ranges: &[(u64, u64)]) {
        let (ranges, moved) = self.moved(ranges);
        if let Some(consumer) = consumer {
            let late = self.state.clone().ack(consumer, &ranges);
            self.check_late(consumer, &late, &moved);
        }
        let acked = ack(&mut self.state, consumer, &ranges);
        let acked: Vec<u64> = acked
            .into_iter()
            .flat_map(|(first, last)| first..=last)
            .collect();
        let unique: BTreeSet<u64> = acked.iter().copied().collect();
        assert_eq!(acked.len(), unique.len(), "nothing is acked twice");
        let expected = self.model.ack(consumer, &moved);
        assert_eq!(unique, expected);
        if let Some(consumer) = consumer {
            self.model.answered(consumer, &acked);
        }
    }

    // An answer returns what the consumer did not hold, of all that it named. Asked before the model is changed.
    fn check_late(
        &self,
        consumer: ConsumerId,
        late: &[RangeInclusive<Position>],
        named: &[(u64, u64)],
    ) {
        let late: BTreeSet<u64> = late
            .iter()
            .flat_map(|range| range.start().0..=range.end().0)
            .collect();
        let mut expected = BTreeSet::new();
        if !self.model.lookers.contains_key(&consumer) {
            expected.extend(named.iter().flat_map(|(first, last)| *first..=*last));
        }
        for position in self.model.held(consumer, named) {
            expected.remove(&position);
        }
        assert_eq!(late, expected);
    }

    fn nack(&mut self, consumer: ConsumerId, ranges: &[(u64, u64)], delay: Option<u64>) {
        let (ranges, moved) = self.moved(ranges);
        let late = self.state.nack(consumer, &ranges, delay, Millis(self.now));
        self.check_late(consumer, &late, &moved);
        let held = self.model.held(consumer, &moved);
        self.model.answered(consumer, &held);
        for position in held {
            self.model.suspects.remove(&position);
            self.model.hand_back(position, delay, false, self.now);
        }
    }

    fn term(&mut self, consumer: ConsumerId, ranges: &[(u64, u64)]) {
        let (ranges, moved) = self.moved(ranges);
        let late = self.state.term(consumer, &ranges, "bad");
        self.check_late(consumer, &late, &moved);
        let held = self.model.held(consumer, &moved);
        self.model.answered(consumer, &held);
        for position in held {
            let reason = GiveUpReason::Terminated("bad".into());
            self.model.give_up(position, reason);
        }
    }

    fn give_up(&mut self, consumer: ConsumerId, position: u64) {
        let reason = GiveUpReason::HopLimit;
        let held = self.state.give_up(consumer, Position(position), &reason);
        let expected = self.model.held(consumer, &[(position, position)]);
        assert_eq!(held, !expected.is_empty());
        self.model.answered(consumer, &expected);
        for position in expected {
            self.model.give_up(position, GiveUpReason::HopLimit);
        }
    }

    fn give_up_pending(&mut self, first: u64, length: u64) {
        let reason = GiveUpReason::Unreadable("lost".into());
        let range = run(first, first + length);
        let given_up = self.state.give_up_pending(range, &reason);
        let expected = self.model.give_up_pending(first, first + length, &reason);
        assert_eq!(given_up, expected);
    }

    fn extend(&mut self, consumer: ConsumerId, ranges: &[(u64, u64)]) {
        let (ranges, moved) = self.moved(ranges);
        let late = self.state.extend(consumer, &ranges, None, Millis(self.now));
        self.check_late(consumer, &late, &moved);
        let deadline = self.now + self.model.policy.ack_deadline_ms;
        for position in self.model.held(consumer, &moved) {
            let place = &mut self.model.pending.get_mut(&position).expect("held").0;
            *place = Place::InFlight(consumer, deadline);
        }
    }

    fn tick(&mut self, ms: u64) {
        self.now += ms;
        let before = self.model.deliverable();
        let changed = self.state.tick(Millis(self.now), |_| None);
        self.model.tick(self.now);
        assert!(
            changed || before || !self.model.deliverable(),
            "a change was kept quiet"
        );
    }

    fn give_up_failed(&mut self, position: u64) {
        self.state.give_up_failed(&run(position, position));
        if let Some((Place::GivenUp(_, handed_out), _)) = self.model.pending.get_mut(&position) {
            *handed_out = false;
        }
    }

    fn pause(&mut self, paused: bool) {
        if paused {
            self.state.pause("stop");
        } else {
            self.state.resume();
        }
        self.model.paused = paused;
        assert_eq!(self.state.paused(), paused.then_some("stop"));
    }

    fn restart(&mut self) {
        let exact_max = self.exact_max;
        self.state = self.restored();
        self.keep_exact(exact_max);
        self.model.restart();
    }

    fn restored(&self) -> SubscriptionState {
        let bytes = self.state.snapshot(0);
        let stages = self.model.stages.len();
        let policy = self.model.policy.clone();
        let restored = SubscriptionState::restore(&bytes, policy, |_| Some(stages));
        let restored = restored.expect("whatever it can be in is a state to start from");
        assert_eq!(
            told(&restored.snapshot(0)),
            told(&bytes),
            "and it is the same one"
        );
        restored
    }

    fn keep_exact(&mut self, max: usize) {
        self.exact_max = max;
        self.state.given_up.keep_exact(max);
        self.state.failed.keep_exact(max);
    }

    fn matched(&mut self, stage: usize, ahead: u64, matched: u32, repeat: bool) {
        let through = match self.model.stages.get(stage) {
            Some((through, _)) => *through,
            None if self.model.stages.is_empty() => self.model.evaluated,
            None => return,
        };
        // With what was said before, as a lane that starts again from its checkpoint does.
        let after = if repeat {
            through.saturating_sub(5)
        } else {
            through
        };
        let through = (through + ahead).min(self.base + 70);
        let positions: Vec<u64> = (after + 1..=through)
            .filter(|position| matched >> (position % 32) & 1 == 1)
            .collect();
        let deliverable = self.model.deliverable();
        let changed = if self.model.stages.is_empty() {
            self.model.observe(through, &positions);
            self.state
                .observe(Position(through), positions.iter().map(|p| run(*p, *p)))
        } else {
            self.model.stage_result(stage, through, &positions);
            let positions: Vec<Position> = positions.into_iter().map(Position).collect();
            self.state
                .stage_result(stage, Position(through), &positions)
        };
        assert!(
            changed || deliverable || !self.model.deliverable(),
            "a match was kept quiet"
        );
    }

    fn check(&self) {
        let Self { state, model, .. } = self;
        self.restored();
        let window = self.base.saturating_sub(5)..self.base + 90;
        for position in window.clone() {
            let suspect = model.suspects.contains(&position);
            assert_eq!(state.suspects.all.contains(position), suspect, "{position}");
            let expected = model.pending.get(&position).cloned();
            assert_eq!(model::place(state, position), expected, "{position}");
            let needed = model.pending.contains_key(&position)
                || (position >= model.start && position > model.evaluated);
            assert_eq!(
                state.needs(run(position, position)),
                needed,
                "{position} is needed"
            );
        }
        assert_eq!(state.depth(), model.pending.len() as u64);
        assert_eq!(state.in_flight(), model.in_flight() as u64);
        assert_eq!(
            state.oldest_pending(),
            model.pending.keys().next().copied().map(Position)
        );
        assert_eq!(state.evaluated_through(), Position(model.evaluated));
        assert_eq!(state.has_deliverable(), model.deliverable());
        let needed = state.needed(Position(window.start), Position(window.end));
        assert!(
            model
                .pending
                .keys()
                .all(|position| needed.contains(*position))
        );
        let times = model.pending.values().filter_map(|(place, _)| match place {
            Place::Delayed(time) | Place::InFlight(_, time) => Some(*time),
            _ => None,
        });
        if let Some(earliest) = times.min() {
            let wakeup = state.next_wakeup().expect("something is timed");
            assert!(wakeup <= Millis(earliest), "{wakeup} is after {earliest}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(
        stages in 0usize..4,
        base in prop::sample::select(vec![0u64, (1 << 16) - 30, (1 << 32) - 30]),
        start in 1u64..6,
        exact_max in prop::sample::select(vec![0usize, 3, 100]),
        ops in ops(),
    ) {
        let mut pair = Pair {
            state: SubscriptionState::new(policy(), Position(base + start), stages),
            model: Model::new(policy(), base + start, stages),
            base,
            now: 1_000,
            exact_max,
            ritual: Ritual::default(),
        };
        pair.keep_exact(exact_max);
        for op in ops {
            let did = pair.did(&op);
            pair.apply(op);
            pair.ritual.follow(&mut pair.state, did, pair.now);
            pair.check();
        }
    }
}
