//! Tests of the subscription's state: against a naive model that keeps one entry per position, recovery in
//! random interleavings, damaged snapshots, and the rules a user can name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use self::effects::{Did, Ritual};
use super::returned::Tried;
use super::snapshot::told;
use super::*;

const C: ConsumerId = ConsumerId(1);
const D: ConsumerId = ConsumerId(2);

fn policy() -> DeliveryPolicy {
    DeliveryPolicy {
        ack_deadline_ms: 100,
        attempts_max: 3,
        backoff_ms: vec![0, 40],
        in_flight_events_max: 12,
        ..DeliveryPolicy::default()
    }
}

fn run(first: u64, last: u64) -> RangeInclusive<Position> {
    Position(first)..=Position(last)
}

fn lease(
    state: &mut SubscriptionState,
    consumer: ConsumerId,
    max: usize,
    now: u64,
) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    state.lease(consumer, max, Millis(now), &mut out);
    out.into_iter()
        .map(|lease| (lease.position.0, lease.attempt))
        .collect()
}

fn ack(
    state: &mut SubscriptionState,
    consumer: Option<ConsumerId>,
    ranges: &[RangeInclusive<Position>],
) -> Vec<(u64, u64)> {
    match consumer {
        Some(consumer) => state.ack(consumer, ranges),
        None => {
            state.finish(ranges);
            state.acked_before_match(ranges);
        }
    }
    let acked = std::mem::take(&mut state.effects.acked);
    acked.iter().map(bounds).collect()
}

/// Unfiltered, with `1..=count` matched and consumer `C` attached.
fn with_events(count: u64) -> SubscriptionState {
    let mut state = SubscriptionState::new(policy(), Position(1), 0);
    assert!(state.observe(Position(count), [run(1, count)]));
    state.attach(C);
    state
}

mod effects;
mod model {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    pub(super) enum Place {
        Fresh,
        Ready,
        Delayed(u64),
        InFlight(ConsumerId, u64),
        GivenUp(GiveUpReason, bool),
    }

    #[derive(Clone, Copy)]
    pub(super) enum What {
        Returned,
        Retry,
        Untried,
        Accused,
        Fresh,
    }

    enum Turn {
        Wait,
        Suspects(What, u64),
        Sound(u64),
    }

    /// One entry per position, nothing clever.
    pub(super) struct Model {
        pub(super) policy: DeliveryPolicy,
        pub(super) start: u64,
        pub(super) evaluated: u64,
        /// Per stage: through, and what it let through with the failure if that is why.
        pub(super) stages: Vec<(u64, BTreeSet<u64>)>,
        pub(super) failed: BTreeMap<u64, GiveUpReason>,
        pub(super) acked_ahead: BTreeSet<u64>,
        pub(super) pending: BTreeMap<u64, (Place, Tried)>,
        pub(super) consumers: BTreeSet<ConsumerId>,
        /// Those that only look, and what they are shown next.
        pub(super) lookers: BTreeMap<ConsumerId, u64>,
        pub(super) suspects: BTreeSet<u64>,
        tester: Option<ConsumerId>,
        draining: Option<ConsumerId>,
        window: u64,
        waiting: Option<u64>,
        shaken: bool,
        pub(super) paused: bool,
        pub(super) retries_in_a_row: u64,
        /// Everything that was acked, for ever.
        pub(super) acked: BTreeSet<u64>,
    }

    impl Model {
        pub(super) fn new(policy: DeliveryPolicy, start: u64, stages: usize) -> Self {
            Self {
                policy,
                start,
                evaluated: start - 1,
                stages: vec![(start - 1, BTreeSet::new()); stages],
                failed: BTreeMap::new(),
                acked_ahead: BTreeSet::new(),
                pending: BTreeMap::new(),
                consumers: BTreeSet::new(),
                lookers: BTreeMap::new(),
                suspects: BTreeSet::new(),
                tester: None,
                draining: None,
                window: 1,
                waiting: None,
                shaken: false,
                paused: false,
                retries_in_a_row: 0,
                acked: BTreeSet::new(),
            }
        }

        pub(super) fn observe(&mut self, through: u64, matched: &[u64]) {
            for position in (self.evaluated + 1)..=through {
                self.decide(position, matched.contains(&position));
            }
            self.evaluated = self.evaluated.max(through);
        }

        pub(super) fn stage_result(&mut self, stage: usize, through: u64, matched: &[u64]) {
            let (after, candidates) = &mut self.stages[stage];
            candidates.extend(
                matched
                    .iter()
                    .filter(|p| (*after + 1..=through).contains(p)),
            );
            *after = (*after).max(through);
            let through = self
                .stages
                .iter()
                .map(|stage| stage.0)
                .min()
                .expect("has stages");
            for position in (self.evaluated + 1)..=through {
                let matched = self.stages.iter().all(|stage| stage.1.contains(&position));
                self.decide(position, matched);
            }
            self.evaluated = self.evaluated.max(through);
        }

        fn decide(&mut self, position: u64, matched: bool) {
            let failed = self.failed.remove(&position);
            let acked = self.acked_ahead.remove(&position);
            if matched && !acked && position >= self.start {
                let place = failed.map_or(Place::Fresh, |reason| Place::GivenUp(reason, false));
                self.pending.insert(position, (place, Tried::default()));
            }
            if acked {
                self.acked.insert(position);
            }
        }

        pub(super) fn exclude(&mut self, stage: usize, position: u64) {
            if position > self.stages[stage].0 {
                self.stages[stage].1.insert(position);
                self.failed
                    .entry(position)
                    .or_insert_with(|| GiveUpReason::FilterFailed("trap".into()));
            }
        }

        pub(super) fn in_flight(&self) -> usize {
            self.pending
                .values()
                .filter(|(place, _)| matches!(place, Place::InFlight(..)))
                .count()
        }

        pub(super) fn deliverable(&self) -> bool {
            !self.paused
                && self.in_flight() < self.policy.in_flight_events_max as usize
                && self
                    .pending
                    .values()
                    .any(|(place, _)| matches!(place, Place::Fresh | Place::Ready))
        }

        pub(super) fn release_due(&mut self, now: u64) {
            for (place, _) in self.pending.values_mut() {
                if matches!(place, Place::Delayed(due) if *due <= now) {
                    *place = Place::Ready;
                }
            }
        }

        pub(super) fn lease(
            &mut self,
            consumer: ConsumerId,
            max: usize,
            now: u64,
        ) -> Vec<(u64, u32)> {
            if self.paused {
                return vec![];
            }
            if let Some(from) = self.lookers.get(&consumer).copied() {
                return self.show(consumer, from, max);
            }
            if !self.consumers.contains(&consumer) {
                return vec![];
            }
            self.release_due(now);
            let window = u64::from(self.policy.in_flight_events_max);
            let room = window - self.in_flight() as u64;
            let mut left = room.min(max as u64);
            if left == 0 {
                return vec![];
            }
            let turn = self.turn(consumer, now);
            let mut leased = Vec::new();
            let mut hand_out = |model: &mut Self, wanted: What, at_most: u64| {
                let chosen: Vec<u64> = model.waiting(wanted).take(at_most as usize).collect();
                let deadline = now + model.policy.ack_deadline_ms;
                for position in &chosen {
                    let (place, tried) = model.pending.get_mut(position).expect("waits");
                    *place = Place::InFlight(consumer, deadline);
                    leased.push((*position, tried.handed + 1));
                }
                chosen.len() as u64
            };
            match turn {
                Turn::Wait => return vec![],
                Turn::Suspects(what, at_most) => {
                    hand_out(self, what, left.min(at_most));
                    return leased;
                }
                Turn::Sound(spare) => left = left.min(room - spare),
            }
            left -= hand_out(self, What::Returned, left);
            let retries = self.waiting(What::Retry).count();
            let fresh_waits = retries > 0 && self.waiting(What::Fresh).count() > 0;
            if retries > 0 {
                let mut at_most = left;
                if fresh_waits {
                    let flying = |(place, tried): &&(Place, Tried)| {
                        matches!(place, Place::InFlight(..)) && tried.failed > 0
                    };
                    let in_flight = self.pending.values().filter(flying).count() as u64;
                    at_most = at_most.min((window - window / 4).saturating_sub(in_flight));
                    at_most = at_most.min(left.saturating_sub((self.retries_in_a_row + left) / 4));
                }
                let handed = hand_out(self, What::Retry, at_most);
                self.retries_in_a_row += handed;
                left -= handed;
            }
            let fresh = hand_out(self, What::Fresh, left);
            left -= fresh;
            if fresh > 0 || !fresh_waits {
                self.retries_in_a_row = 0;
            }
            if fresh_waits && self.waiting(What::Fresh).count() == 0 {
                hand_out(self, What::Retry, left);
            }
            leased
        }

        fn show(&mut self, consumer: ConsumerId, from: u64, max: usize) -> Vec<(u64, u32)> {
            let waits =
                |(_, (place, _)): &(&u64, &(Place, Tried))| !matches!(place, Place::GivenUp(..));
            let shown = self.pending.range(from..).filter(waits).take(max);
            let shown: Vec<_> = shown
                .map(|(position, (_, tried))| (*position, tried.handed + 1))
                .collect();
            if let Some((last, _)) = shown.last() {
                self.lookers.insert(consumer, last + 1);
            }
            shown
        }

        fn waiting(&self, what: What) -> impl Iterator<Item = u64> {
            let wanted = move |position: &u64, (place, tried): &(Place, Tried)| {
                let suspect = self.suspects.contains(position);
                match what {
                    What::Fresh => *place == Place::Fresh,
                    _ if *place != Place::Ready => false,
                    What::Returned => tried.failed == 0 && !suspect,
                    What::Retry => tried.failed > 0 && !suspect,
                    What::Untried => tried.failed == 0 && suspect,
                    What::Accused => tried.failed > 0 && suspect,
                }
            };
            self.pending
                .iter()
                .filter(move |(position, entry)| wanted(position, entry))
                .map(|(position, _)| *position)
        }

        fn waits(&self, what: What) -> bool {
            self.waiting(what).next().is_some()
        }

        fn holds(&self, consumer: ConsumerId) -> u64 {
            let held = |(place, _): &&(Place, Tried)| matches!(place, Place::InFlight(holder, _) if *holder == consumer);
            self.pending.values().filter(held).count() as u64
        }

        fn turn(&mut self, consumer: ConsumerId, now: u64) -> Turn {
            let retire = |model: &mut Self| {
                (model.tester, model.draining, model.waiting) = (None, None, None);
            };
            if self.suspects.is_empty() {
                retire(self);
                return Turn::Sound(0);
            }
            let others = [What::Returned, What::Retry, What::Fresh]
                .iter()
                .any(|what| self.waits(*what));
            let next = if self.waits(What::Untried) {
                Some((What::Untried, self.window))
            } else if self.waits(What::Accused) && !(self.shaken && others) {
                Some((What::Accused, 1))
            } else {
                None
            };
            let held = self.holds(consumer);
            if self.tester == Some(consumer) {
                match next {
                    Some((what, at_most)) if held < at_most => {
                        return Turn::Suspects(what, at_most - held);
                    }
                    _ if held > 0 => return Turn::Wait,
                    _ => retire(self),
                }
            }
            let tested = self.tester.is_some_and(|tester| self.holds(tester) > 0);
            let Some((what, at_most)) = next.filter(|_| !tested) else {
                return Turn::Sound(0);
            };
            if held == 0 {
                retire(self);
                self.tester = Some(consumer);
                return Turn::Suspects(what, at_most);
            }
            let since = *self.waiting.get_or_insert(now);
            if self.draining.is_none() && now >= since + 2_000 {
                self.draining = Some(consumer);
            }
            match self.draining == Some(consumer) {
                true => Turn::Wait,
                false => Turn::Sound(1),
            }
        }

        pub(super) fn answered(&mut self, consumer: ConsumerId, positions: &[u64]) {
            if positions.is_empty() {
                return;
            }
            self.shaken = false;
            if self.tester == Some(consumer) {
                let window = u64::from(self.policy.in_flight_events_max);
                self.window = (self.window * 2).min(window);
            }
        }

        /// The consumer is gone; `cut` says whether it says what it hands over, if it went without a word.
        pub(super) fn gone(
            &mut self,
            consumer: ConsumerId,
            unseen: &[(u64, u64)],
            cut: Option<bool>,
            now: u64,
        ) {
            let by_it = |(place, _): &(Place, Tried)| matches!(place, Place::InFlight(holder, _) if *holder == consumer);
            let held = self.pending.iter().filter(|(_, entry)| by_it(entry));
            let held: Vec<u64> = held.map(|(position, _)| *position).collect();
            self.lookers.remove(&consumer);
            if !self.consumers.remove(&consumer) {
                return;
            }
            let was_tester = self.tester == Some(consumer);
            for role in [&mut self.tester, &mut self.draining] {
                if *role == Some(consumer) {
                    *role = None;
                }
            }
            let hidden = |position: &u64| {
                unseen
                    .iter()
                    .any(|(first, last)| (first..=last).contains(&position))
            };
            let seen: Vec<u64> = held.iter().copied().filter(|p| !hidden(p)).collect();
            let mut alone = false;
            if let Some(says) = cut {
                self.window = 1;
                let in_hand = if says && was_tester { &seen } else { &held };
                alone = in_hand.len() == 1 && seen.len() == 1;
                self.shaken |= alone;
                self.suspects.extend(in_hand);
            }
            for position in held {
                if !seen.contains(&position) {
                    self.pending.get_mut(&position).expect("held").0 = Place::Ready;
                } else if alone {
                    self.hand_back(position, None, false, now);
                    if let Place::GivenUp(reason, _) =
                        &mut self.pending.get_mut(&position).expect("held").0
                    {
                        *reason = GiveUpReason::ConsumersLost;
                        self.suspects.remove(&position);
                    }
                } else {
                    self.hand_back(position, None, true, now);
                }
            }
        }

        /// Positions among `ranges` that `consumer` holds, in the order of the ranges.
        pub(super) fn held(&self, consumer: ConsumerId, ranges: &[(u64, u64)]) -> Vec<u64> {
            let mut held = Vec::new();
            for (first, last) in ranges {
                for position in *first..=*last {
                    if !held.contains(&position)
                        && let Some((Place::InFlight(holder, _), _)) = self.pending.get(&position)
                        && *holder == consumer
                    {
                        held.push(position);
                    }
                }
            }
            held
        }

        pub(super) fn ack(
            &mut self,
            consumer: Option<ConsumerId>,
            ranges: &[(u64, u64)],
        ) -> BTreeSet<u64> {
            let mut acked = BTreeSet::new();
            match consumer {
                Some(consumer) => acked.extend(self.held(consumer, ranges)),
                None => {
                    for position in ranges.iter().flat_map(|(first, last)| *first..=*last) {
                        if self.pending.contains_key(&position) {
                            acked.insert(position);
                        } else if position > self.evaluated {
                            self.acked_ahead.insert(position);
                        }
                    }
                }
            }
            for position in &acked {
                self.pending.remove(position);
                self.suspects.remove(position);
            }
            self.acked.extend(&acked);
            acked
        }

        pub(super) fn hand_back(
            &mut self,
            position: u64,
            delay: Option<u64>,
            detached: bool,
            now: u64,
        ) {
            let (place, tried) = self.pending.get_mut(&position).expect("held");
            *tried = tried.again(!detached);
            let exhausted = tried.failed >= self.policy.attempts_max && !detached;
            if exhausted {
                self.suspects.remove(&position);
            }
            let delay = delay.unwrap_or_else(|| self.policy.backoff_after(tried.failed));
            *place = if exhausted {
                Place::GivenUp(GiveUpReason::AttemptsExhausted, false)
            } else if delay == 0 || detached {
                Place::Ready
            } else {
                Place::Delayed(now + delay)
            };
        }

        pub(super) fn give_up(&mut self, position: u64, reason: GiveUpReason) {
            let (place, tried) = self.pending.get_mut(&position).expect("held");
            *tried = tried.again(true);
            *place = Place::GivenUp(reason, false);
            self.suspects.remove(&position);
        }

        pub(super) fn give_up_pending(
            &mut self,
            first: u64,
            last: u64,
            reason: &GiveUpReason,
        ) -> u64 {
            let mut given_up = 0;
            for (position, (place, _)) in self.pending.range_mut(first..=last) {
                if !matches!(place, Place::InFlight(..) | Place::GivenUp(..)) {
                    *place = Place::GivenUp(reason.clone(), false);
                    self.suspects.remove(position);
                    given_up += 1;
                }
            }
            given_up
        }

        pub(super) fn tick(&mut self, now: u64) {
            let expired: Vec<u64> = self
                .pending
                .iter()
                .filter(|(_, (place, _))| matches!(place, Place::InFlight(_, deadline) if *deadline <= now))
                .map(|(position, _)| *position)
                .collect();
            for position in expired {
                self.hand_back(position, None, false, now);
            }
            self.release_due(now);
        }

        pub(super) fn take_given_up(&mut self, max: usize) -> Vec<GivenUp> {
            let mut taken = Vec::new();
            for (position, (place, tried)) in &mut self.pending {
                if taken.len() < max
                    && let Place::GivenUp(reason, handed_out @ false) = place
                {
                    *handed_out = true;
                    taken.push(GivenUp {
                        position: Position(*position),
                        attempts: tried.failed,
                        reason: reason.clone(),
                    });
                }
            }
            taken
        }

        pub(super) fn restart(&mut self) {
            self.consumers.clear();
            self.lookers.clear();
            (self.retries_in_a_row, self.window, self.shaken) = (0, 1, false);
            (self.tester, self.draining, self.waiting) = (None, None, None);
            for (place, _) in self.pending.values_mut() {
                match place {
                    Place::InFlight(..) => *place = Place::Ready,
                    Place::GivenUp(_, handed_out) => *handed_out = false,
                    _ => {}
                }
            }
        }
    }

    /// Where the state has a position; panics when in several places. How often a given-up event was handed out is not
    /// kept.
    pub(super) fn place(state: &SubscriptionState, position: u64) -> Option<(Place, Tried)> {
        let mut places = Vec::new();
        let mut tried = Tried::default();
        state
            .tries
            .show(position, position, |_, _, found| tried = found);
        let suspects = &state.suspects;
        for (set, suspect, failed) in [
            (&state.ready, false, false),
            (&state.retries, false, true),
            (&suspects.untried, true, false),
            (&suspects.accused, true, true),
        ] {
            if set.contains(position) {
                assert_eq!(suspects.all.contains(position), suspect, "{position}");
                assert_eq!(tried.failed > 0, failed, "{position}");
                places.push(Place::Ready);
            }
        }
        if let Some((_, _, due)) = state.delayed.0.overlapping(position, position).pop() {
            places.push(Place::Delayed(due.0));
        }
        for (id, consumer) in &state.consumers {
            if let Some(deadline) = consumer.flights.get(position) {
                places.push(Place::InFlight(*id, deadline.0));
            }
        }
        if let Some(reason) = state.given_up.get(position) {
            let waiting = state.given_up_waiting.contains(position);
            places.push(Place::GivenUp(reason.clone(), !waiting));
        }
        assert!(places.len() <= 1, "{position} is in {places:?}");
        if !state.pending.contains(position) {
            assert_eq!(
                (places.len(), tried),
                (0, Tried::default()),
                "{position} is not pending"
            );
            return None;
        }
        let fresh = || {
            assert!(position >= state.next_fresh, "{position} is lost");
            Place::Fresh
        };
        Some((places.pop().unwrap_or_else(fresh), tried))
    }
}

use model::{Model, Place};

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
    Attach(u64),
    Detach {
        consumer: u64,
        unseen: Vec<(u64, u64)>,
    },
    Cut {
        consumer: u64,
        unseen: Vec<(u64, u64)>,
        says: bool,
    },
    Lease {
        consumer: u64,
        max: usize,
    },
    GiveBack {
        consumer: u64,
        ranges: Vec<(u64, u64)>,
    },
    Ack {
        consumer: Option<u64>,
        ranges: Vec<(u64, u64)>,
    },
    Nack {
        consumer: u64,
        ranges: Vec<(u64, u64)>,
        delay: Option<u64>,
    },
    Term {
        consumer: u64,
        ranges: Vec<(u64, u64)>,
    },
    GiveUp {
        consumer: u64,
        position: u64,
    },
    GiveUpPending {
        first: u64,
        length: u64,
    },
    Extend {
        consumer: u64,
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
    let consumer = 1u64..4;
    let op = prop_oneof![
        5 => (0usize..3, 0u64..12, any::<u32>(), any::<bool>())
            .prop_map(|(stage, ahead, matched, repeat)| Op::Matched { stage, ahead, matched, repeat }),
        1 => (0usize..3, 0u64..6).prop_map(|(stage, ahead)| Op::Exclude { stage, ahead }),
        2 => consumer.clone().prop_map(Op::Attach),
        1 => (consumer.clone(), unseen()).prop_map(|(consumer, unseen)| Op::Detach { consumer, unseen }),
        2 => (consumer.clone(), unseen(), any::<bool>())
            .prop_map(|(consumer, unseen, says)| Op::Cut { consumer, unseen, says }),
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
                let id = ConsumerId(*consumer);
                let mut state = self.state.clone();
                state.lease(id, *max, Millis(self.now), &mut leased);
                match leased.is_empty() && *max > 0 && state.consumers.contains_key(&id) {
                    true => Did::GotNothing(id),
                    false => Did::Other,
                }
            }
            Op::Detach { consumer, .. } | Op::Cut { consumer, .. } => {
                Did::Left(ConsumerId(*consumer))
            }
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
        let now = Millis(self.now);
        match op {
            Op::Matched {
                stage,
                ahead,
                matched,
                repeat,
            } => self.matched(stage, ahead, matched, repeat),
            Op::Exclude { stage, ahead } => {
                if let Some((through, _)) = self.model.stages.get(stage) {
                    let position = through + ahead;
                    self.state.exclude(stage, Position(position), "trap");
                    self.model.exclude(stage, position);
                }
            }
            Op::Attach(consumer) => {
                // The last one only looks.
                let (id, looks) = (ConsumerId(consumer), consumer == 3);
                if looks {
                    self.state.attach_to_look(id);
                    self.model.lookers.entry(id).or_insert(0);
                } else {
                    self.state.attach(id);
                    self.model.consumers.insert(id);
                }
            }
            Op::Detach { consumer, unseen } => {
                let (ranges, moved) = self.moved(&unseen);
                self.state.detach(ConsumerId(consumer), &ranges);
                self.model
                    .gone(ConsumerId(consumer), &moved, None, self.now);
            }
            Op::Cut {
                consumer,
                unseen,
                says,
            } => {
                let (ranges, moved) = self.moved(&unseen);
                self.state.cut(ConsumerId(consumer), &ranges, says, now);
                self.model
                    .gone(ConsumerId(consumer), &moved, Some(says), self.now);
            }
            Op::Lease { consumer, max } => {
                let id = ConsumerId(consumer);
                let leased = lease(&mut self.state, id, max, self.now);
                assert_eq!(leased, self.model.lease(id, max, self.now));
                assert!(
                    leased
                        .iter()
                        .all(|(position, _)| !self.model.acked.contains(position))
                );
            }
            Op::GiveBack { consumer, ranges } => {
                let (ranges, moved) = self.moved(&ranges);
                let positions = ranges
                    .iter()
                    .flat_map(|r| r.start().0..=r.end().0)
                    .map(Position);
                self.state.give_back(ConsumerId(consumer), positions);
                for position in self.model.held(ConsumerId(consumer), &moved) {
                    self.model.pending.get_mut(&position).expect("held").0 = Place::Ready;
                }
                if let Some(from) = self.model.lookers.get_mut(&ConsumerId(consumer)) {
                    *from = moved.iter().map(|range| range.0).fold(*from, u64::min);
                }
            }
            Op::Ack { consumer, ranges } => {
                let (ranges, moved) = self.moved(&ranges);
                let acked = ack(&mut self.state, consumer.map(ConsumerId), &ranges);
                let acked: Vec<u64> = acked
                    .into_iter()
                    .flat_map(|(first, last)| first..=last)
                    .collect();
                let unique: BTreeSet<u64> = acked.iter().copied().collect();
                assert_eq!(acked.len(), unique.len(), "nothing is acked twice");
                let expected = self.model.ack(consumer.map(ConsumerId), &moved);
                assert_eq!(unique, expected);
                if let Some(consumer) = consumer {
                    self.model.answered(ConsumerId(consumer), &acked);
                }
            }
            Op::Nack {
                consumer,
                ranges,
                delay,
            } => {
                let (ranges, moved) = self.moved(&ranges);
                self.state.nack(ConsumerId(consumer), &ranges, delay, now);
                let held = self.model.held(ConsumerId(consumer), &moved);
                self.model.answered(ConsumerId(consumer), &held);
                for position in held {
                    self.model.suspects.remove(&position);
                    self.model.hand_back(position, delay, false, self.now);
                }
            }
            Op::Term { consumer, ranges } => {
                let (ranges, moved) = self.moved(&ranges);
                self.state.term(ConsumerId(consumer), &ranges, "bad");
                let held = self.model.held(ConsumerId(consumer), &moved);
                self.model.answered(ConsumerId(consumer), &held);
                for position in held {
                    self.model
                        .give_up(position, GiveUpReason::Terminated("bad".into()));
                }
            }
            Op::GiveUp { consumer, position } => {
                let position = position + self.base;
                let held = self.state.give_up(
                    ConsumerId(consumer),
                    Position(position),
                    &GiveUpReason::HopLimit,
                );
                let expected = self
                    .model
                    .held(ConsumerId(consumer), &[(position, position)]);
                assert_eq!(held, !expected.is_empty());
                self.model.answered(ConsumerId(consumer), &expected);
                for position in expected {
                    self.model.give_up(position, GiveUpReason::HopLimit);
                }
            }
            Op::GiveUpPending { first, length } => {
                let reason = GiveUpReason::Unreadable("lost".into());
                let first = first + self.base;
                let range = run(first, first + length);
                let given_up = self.state.give_up_pending(range, &reason);
                let expected = self.model.give_up_pending(first, first + length, &reason);
                assert_eq!(given_up, expected);
            }
            Op::Extend { consumer, ranges } => {
                let (ranges, moved) = self.moved(&ranges);
                self.state.extend(ConsumerId(consumer), &ranges, now);
                let deadline = self.now + self.model.policy.ack_deadline_ms;
                for position in self.model.held(ConsumerId(consumer), &moved) {
                    let place = &mut self.model.pending.get_mut(&position).expect("held").0;
                    *place = Place::InFlight(ConsumerId(consumer), deadline);
                }
            }
            Op::Tick(ms) => {
                self.now += ms;
                let before = self.model.deliverable();
                let changed = self.state.tick(Millis(self.now), |_| None);
                self.model.tick(self.now);
                assert!(
                    changed || before || !self.model.deliverable(),
                    "a change was kept quiet"
                );
            }
            Op::TakeGivenUp(max) => {
                assert_eq!(self.state.take_given_up(max), self.model.take_given_up(max));
            }
            Op::GiveUpFailed(position) => {
                let position = position + self.base;
                self.state.give_up_failed(&run(position, position));
                if let Some((Place::GivenUp(_, handed_out), _)) =
                    self.model.pending.get_mut(&position)
                {
                    *handed_out = false;
                }
            }
            Op::Pause(paused) => {
                if paused {
                    self.state.pause("stop");
                } else {
                    self.state.resume();
                }
                self.model.paused = paused;
                assert_eq!(self.state.paused(), paused.then_some("stop"));
            }
            Op::Restart => {
                let exact_max = self.exact_max;
                self.state = self.restored();
                self.keep_exact(exact_max);
                self.model.restart();
            }
        }
    }

    fn restored(&self) -> SubscriptionState {
        let bytes = self.state.snapshot();
        let stages = self.model.stages.len();
        let policy = self.model.policy.clone();
        let restored = SubscriptionState::restore(&bytes, policy, |_| Some(stages));
        let restored = restored.expect("whatever it can be in is a state to start from");
        assert_eq!(
            told(&restored.snapshot()),
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

    #[test]
    fn each_event_is_judged_by_the_chain_of_its_position(
        stages in 0usize..3,
        ops in prop::collection::vec(change_op(), 1..80),
    ) {
        let mut changing = Changing::new(stages);
        for op in ops {
            changing.apply(op);
            changing.check_so_far();
        }
        changing.finish();
    }

    #[test]
    fn damaged_snapshots_of_changed_filters_are_errors_or_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut state = rich_state();
        state.change_filters(1, Position(61), 1);
        state.change_filters(2, Position(70), 3);
        let mut bytes = state.snapshot();
        let at = at.index(bytes.len());
        prop_assert!(SubscriptionState::restore(&bytes[..at], policy(), |_| None).is_err());
        bytes[at] = byte;
        if let Ok(mut state) = SubscriptionState::restore(&bytes, policy(), |_| None) {
            for stage in 0..4 {
                state.stage_result(stage, Position(80), &[Position(65), Position(75)]);
            }
            state.change_filters(9, Position(90), 0);
            state.observe(Position(100), [run(1, 100)]);
        }
    }

    #[test]
    fn damaged_snapshots_are_errors_or_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = rich_state().snapshot();
        let at = at.index(bytes.len());
        prop_assert!(SubscriptionState::restore(&bytes[..at], policy(), |_| Some(2)).is_err());
        bytes[at] = byte;
        if let Ok(mut state) = SubscriptionState::restore(&bytes, policy(), |_| Some(2)) {
            state.attach(C);
            let leased = lease(&mut state, C, 1_000, 5_000);
            prop_assert!(leased.len() <= state.depth() as usize);
            state.tick(Millis(1_000_000), |_| None);
            state.take_given_up(1_000);
            ack(&mut state, None, &[run(0, 1_000)]);
        }
    }
}

/// What happens to a subscription whose filters change.
#[derive(Clone, Debug)]
enum ChangeOp {
    Commit(u64),
    /// To a chain with this many filters, fenced behind everything that is committed.
    Change(usize),
    /// The same, fenced at the first undecided event.
    ChangeHere(usize),
    /// One that never reaches the journal: the broker ends before.
    FreezeOnly,
    Look(usize, u64),
    Snapshot,
    /// From the last snapshot, with the changes read from the journal.
    Restart,
}

fn change_op() -> impl Strategy<Value = ChangeOp> {
    prop_oneof![
        3 => (1u64..20).prop_map(ChangeOp::Commit),
        2 => (0usize..3).prop_map(ChangeOp::Change),
        1 => (0usize..3).prop_map(ChangeOp::ChangeHere),
        1 => Just(ChangeOp::FreezeOnly),
        8 => (0usize..3, 1u64..30).prop_map(|(stage, ahead)| ChangeOp::Look(stage, ahead)),
        1 => Just(ChangeOp::Snapshot),
        1 => Just(ChangeOp::Restart),
    ]
}

struct Changing {
    state: SubscriptionState,
    /// First position that is not committed.
    end: u64,
    /// As the journal has them: revision, fence, filters.
    changes: Vec<(u32, u64, usize)>,
    snapshot: Vec<u8>,
    first_stages: usize,
}

impl Changing {
    fn new(stages: usize) -> Self {
        let state = SubscriptionState::new(policy(), Position(1), stages);
        Self {
            snapshot: state.snapshot(),
            state,
            end: 1,
            changes: Vec::new(),
            first_stages: stages,
        }
    }

    fn verdict(revision: u32, stage: usize, position: u64) -> bool {
        let mixed =
            (u64::from(revision) * 7 + stage as u64 * 3 + 1).wrapping_mul(position * 2_654_435_761);
        mixed >> 7 & 3 != 0
    }

    fn wanted(&self, position: u64) -> bool {
        let mut chains = vec![(0, 1, self.first_stages)];
        for change in &self.changes {
            chains.retain(|chain| chain.1 < change.1);
            chains.push(*change);
        }
        let (revision, _, stages) = *chains
            .iter()
            .rfind(|chain| chain.1 <= position)
            .expect("the first begins at 1");
        (0..stages).all(|stage| Self::verdict(revision, stage, position))
    }

    fn apply(&mut self, op: ChangeOp) {
        let revision = self.changes.len() as u32 + 1;
        match op {
            ChangeOp::Commit(count) => self.end += count,
            ChangeOp::Change(stages) => self.change(revision, self.end, stages),
            ChangeOp::ChangeHere(stages) => {
                let fence = self.state.freeze(revision);
                // What a lane finds out between the freeze and the change counts for nothing.
                self.look(0, 30);
                self.change(revision, fence.0, stages);
            }
            ChangeOp::FreezeOnly => {
                self.state.freeze(revision);
                self.look(0, 30);
                self.restart();
            }
            ChangeOp::Look(stage, ahead) => self.look(stage, ahead),
            ChangeOp::Snapshot => self.snapshot = self.state.snapshot(),
            ChangeOp::Restart => self.restart(),
        }
    }

    fn change(&mut self, revision: u32, fence: u64, stages: usize) {
        self.changes.push((revision, fence, stages));
        assert!(self.state.change_filters(revision, Position(fence), stages));
        assert!(
            !self.state.change_filters(revision, Position(fence + 5), 1),
            "known"
        );
    }

    fn restart(&mut self) {
        self.state =
            SubscriptionState::restore(&self.snapshot, policy(), |_| None).expect("just written");
        for (revision, fence, stages) in &self.changes {
            self.state
                .change_filters(*revision, Position(*fence), *stages);
        }
    }

    // As a lane does that does not know of fences.
    fn look(&mut self, stage: usize, ahead: u64) {
        let revision = self.state.revision();
        let filtered = self.state.stages() > 0;
        let after = match filtered {
            true => self.state.stage_through(stage).0,
            false => self.state.evaluated_through().0,
        };
        let through = (after + ahead).min(self.end - 1);
        if !filtered {
            let all = (after < through).then(|| run(after + 1, through));
            self.state.observe(Position(through), all);
            return;
        }
        let matched: Vec<Position> = (after + 1..=through)
            .filter(|position| Self::verdict(revision, stage, *position))
            .map(Position)
            .collect();
        self.state.stage_result(stage, Position(through), &matched);
    }

    fn check_so_far(&self) {
        let restored = SubscriptionState::restore(&self.state.snapshot(), policy(), |_| None);
        restored.expect("whatever it can be in is a state to start from");
        let decided = self.state.evaluated_through().0;
        let pending: Vec<u64> = self
            .state
            .pending
            .ranges(0, u64::MAX)
            .flat_map(|(first, last)| first..=last)
            .collect();
        let wanted: Vec<u64> = (1..=decided)
            .filter(|position| self.wanted(*position))
            .collect();
        assert_eq!(pending, wanted, "{:?}", self.changes);
        assert!(decided < self.end);
    }

    fn finish(mut self) {
        while self.state.evaluated_through().0 + 1 < self.end {
            let before = self.state.snapshot();
            (0..3).for_each(|stage| self.look(stage, u64::MAX >> 1));
            assert_ne!(self.state.snapshot(), before, "it stands still");
        }
        assert_eq!(self.state.pending_changes(), 0);
        self.check_so_far();
        self.restart();
    }
}

#[test]
fn changed_filters_begin_exactly_at_their_fence() {
    let mut state = SubscriptionState::new(policy(), Position(1), 2);
    state.attach(C);
    state.stage_result(0, Position(3), &[Position(2), Position(3)]);
    assert!(state.change_filters(1, Position(5), 1));
    assert_eq!(
        (state.pending_changes(), state.judges_until()),
        (1, Position(4))
    );

    // The lanes of the old filters do not know of it.
    state.exclude(0, Position(4), "trap");
    state.exclude(0, Position(5), "beyond the fence");
    state.stage_result(0, Position(9), &[Position(6)]);
    assert_eq!(state.stage_through(0), Position(4));
    assert_eq!(state.revision(), 0, "the other filter has not looked");
    assert!(state.stage_result(1, Position(9), &[Position(2), Position(4), Position(7)]));
    assert_eq!((state.revision(), state.pending_changes()), (1, 0));
    assert_eq!(state.evaluated_through(), Position(4));
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 1)]);
    assert_eq!(state.take_given_up(9).len(), 1, "the event at 4");

    assert!(state.stage_result(0, Position(9), &[Position(5), Position(7)]));
    assert_eq!(lease(&mut state, C, 9, 0), [(5, 1), (7, 1)]);
    assert!(!state.has_given_up());
}

#[test]
fn filters_come_and_go() {
    let mut state = with_events(3);
    state.change_filters(1, Position(6), 1);
    assert!(state.observe(Position(9), [run(4, 9)]));
    assert_eq!(
        (state.depth(), state.revision()),
        (5, 1),
        "4 and 5, and then it was asked no more"
    );
    assert!(!state.observe(Position(20), [run(6, 20)]));
    state.change_filters(2, Position(8), 0);
    assert!(state.stage_result(0, Position(30), &[Position(7), Position(8)]));
    assert_eq!((state.depth(), state.stages()), (6, 0));
    assert!(state.observe(Position(9), [run(8, 9)]));
    assert_eq!(state.depth(), 8);
}

#[test]
fn a_change_that_is_overtaken_never_judges() {
    let mut state = SubscriptionState::new(policy(), Position(1), 1);
    state.stage_result(0, Position(4), &[]);
    state.change_filters(1, Position(20), 1);
    state.change_filters(2, Position(20), 2);
    assert_eq!(
        state.pending_changes(),
        1,
        "two at one position: the second"
    );
    assert_eq!(state.freeze(3), Position(5));
    assert!(
        !state.stage_result(0, Position(30), &[Position(5)]),
        "frozen"
    );
    state.change_filters(3, Position(5), 0);
    assert_eq!((state.revision(), state.pending_changes()), (3, 0));
    assert!(state.observe(Position(30), [run(1, 30)]));
    assert_eq!(state.depth(), 26);
}

#[test]
fn a_change_that_does_not_come_leaves_everything_as_it_was() {
    let mut state = SubscriptionState::new(policy(), Position(1), 1);
    state.stage_result(0, Position(4), &[]);
    assert_eq!(state.freeze(1), Position(5));
    assert!(!state.stage_result(0, Position(30), &[Position(5)]));
    assert!(!state.thaw(2), "that is another change");
    assert!(!state.stage_result(0, Position(30), &[Position(5)]));
    assert!(state.thaw(1) && !state.thaw(1));
    assert_eq!(state.judges_until(), Position(u64::MAX));
    assert_eq!(state.stage_through(0), Position(4), "to be judged again");
    assert!(state.stage_result(0, Position(30), &[Position(5)]));
    assert_eq!((state.depth(), state.revision()), (1, 0));
}

/// Something in every field.
fn rich_state() -> SubscriptionState {
    let mut state = SubscriptionState::new(policy(), Position(2), 2);
    state.given_up.keep_exact(1);
    state.failed.keep_exact(1);
    state.attach(C);
    state.exclude(0, Position(20), "trap");
    state.exclude(0, Position(54), "trap");
    state.exclude(0, Position(55), "trap");
    let even: Vec<Position> = (1..=60)
        .filter(|position| position % 2 == 0)
        .map(Position)
        .collect();
    state.stage_result(0, Position(60), &even);
    state.stage_result(1, Position(50), &even);
    lease(&mut state, C, 8, 0);
    state.nack(C, &[run(1, 4)], Some(1_000), Millis(0));
    state.nack(C, &[run(5, 8)], Some(0), Millis(0));
    state.term(C, &[run(10, 10)], "bad");
    lease(&mut state, C, 3, 0);
    state.cut(C, &[], false, Millis(0));
    ack(&mut state, None, &[run(30, 32), run(56, 58)]);
    state.pause("stop");
    state
}

#[test]
fn a_snapshot_says_what_is_wrong_with_it() {
    let bytes = rich_state().snapshot();
    let check = |bytes: &[u8], stages: usize, expected: &str| {
        let error =
            SubscriptionState::restore(bytes, policy(), |_| Some(stages)).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&[], 2, "empty");
    check(&[9], 2, "version 9");
    check(&[1], 2, "damaged");
    check(&bytes, 1, "2 filters, not 1");
    check(&[&bytes[..], &[0]].concat(), 2, "bytes follow");
    let restored = SubscriptionState::restore(&bytes, policy(), |_| Some(2)).expect("sound");
    assert_eq!(restored.paused(), Some("stop"));
    assert_eq!(restored.snapshot(), bytes, "nothing is lost on the way");
}

#[test]
fn back_off_grows_until_the_event_is_given_up() {
    let mut state = with_events(1);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 1)]);
    assert_eq!(state.next_wakeup(), Some(Millis(100)));
    assert!(!state.tick(Millis(99), |_| None));
    assert!(
        state.tick(Millis(100), |_| None),
        "deadline passed, no back-off after the first attempt"
    );
    assert_eq!(lease(&mut state, C, 9, 100), [(1, 2)]);
    state.nack(C, &[run(1, 1)], None, Millis(110));
    assert_eq!(state.next_wakeup(), Some(Millis(150)));
    assert_eq!(lease(&mut state, C, 9, 149), []);
    assert_eq!(lease(&mut state, C, 9, 150), [(1, 3)]);
    state.nack(C, &[run(1, 1)], Some(0), Millis(150));
    assert!(!state.has_deliverable());
    assert_eq!(
        state.take_given_up(9),
        [GivenUp {
            position: Position(1),
            attempts: 3,
            reason: GiveUpReason::AttemptsExhausted
        }]
    );
    assert_eq!(state.depth(), 1, "kept until its dead letter is durable");
    assert_eq!(ack(&mut state, None, &[run(1, 1)]), [(1, 1)]);
    assert_eq!(
        (state.depth(), state.redelivered(), state.dead_lettered()),
        (0, 2, 1)
    );
}

#[test]
fn a_consumer_that_comes_and_goes_exhausts_nothing() {
    let mut state = with_events(2);
    for attempt in 1..=5 {
        state.attach(C);
        assert_eq!(lease(&mut state, C, 9, 0), [(1, attempt), (2, attempt)]);
        state.detach(C, &[]);
    }
    assert!(!state.has_given_up());
    state.attach(D);
    assert_eq!(lease(&mut state, D, 1, 0), [(1, 6)]);
}

#[test]
fn cuts_with_a_full_prefetch_of_healthy_events_give_nothing_up() {
    // Whether the client says what it hands over or not, and however little it gets done in between.
    for says in [true, false] {
        let mut state = SubscriptionState::new(
            DeliveryPolicy {
                in_flight_events_max: 4_096,
                backoff_ms: vec![0],
                ..policy()
            },
            Position(1),
            0,
        );
        state.observe(Position(10_000), [run(1, 10_000)]);
        for round in 0..50 {
            state.attach(C);
            let leased = lease(&mut state, C, 4_096, round);
            let last = leased.len() as u64;
            assert!(last > 0, "round {round}");
            let unseen = run(leased[0].0 + last.div_ceil(2), u64::MAX - 1);
            let unseen = if says { vec![unseen] } else { vec![] };
            state.cut(C, &unseen, says, Millis(round));
        }
        assert!(!state.has_given_up(), "says: {says}");
        assert_eq!(state.depth(), 10_000);
        // Then all goes well, and the window opens again.
        state.attach(C);
        let mut asked = 0;
        while state.depth() > 0 {
            let leased = lease(&mut state, C, 4_096, 1_000 + asked);
            for (position, _) in &leased {
                ack(&mut state, Some(C), &[run(*position, *position)]);
            }
            asked += 1;
            assert!(asked < 200, "{} are left", state.depth());
        }
    }
}

#[test]
fn a_poison_event_among_a_thousand_is_found_within_its_attempts() {
    for (says, poison) in [(true, 1), (true, 500), (false, 500), (false, 1_000)] {
        let mut state = SubscriptionState::new(
            DeliveryPolicy {
                in_flight_events_max: 4_096,
                ..policy()
            },
            Position(1),
            0,
        );
        state.observe(Position(1_000), [run(1, 1_000)]);
        let (mut now, mut cuts) = (0, 0);
        while !state.has_given_up() {
            state.attach(C);
            now += 1;
            loop {
                let leased = lease(&mut state, C, 4_096, now);
                let mut seen = leased.iter().map(|(position, _)| *position);
                let Some(first) = seen.clone().next() else {
                    now += 50;
                    state.tick(Millis(now), |_| None);
                    continue;
                };
                let fatal = seen.any(|position| position == poison);
                let before = if fatal { poison - 1 } else { u64::MAX - 1 };
                // The application acks one by one, and dies of the poison before anybody hears that it got it.
                ack(&mut state, Some(C), &[run(first.min(before), before)]);
                if fatal {
                    break;
                }
            }
            let alone = state.consumers[&C].held() == 1;
            let unseen = if says && !alone {
                vec![run(poison, u64::MAX - 1)]
            } else {
                vec![]
            };
            state.cut(C, &unseen, says, Millis(now));
            cuts += 1;
        }
        assert!(cuts <= 4, "{cuts} cuts");
        let given_up = state.take_given_up(9);
        assert_eq!(given_up.len(), 1, "nobody else");
        assert_eq!(
            (
                given_up[0].position,
                given_up[0].attempts,
                &given_up[0].reason
            ),
            (Position(poison), 3, &GiveUpReason::ConsumersLost)
        );
    }
}

#[test]
fn what_the_application_never_saw_counts_nothing() {
    let mut state = with_events(2);
    for _ in 0..20 {
        state.attach(C);
        let leased = lease(&mut state, C, 1, 0);
        assert_eq!(leased, [(1, 1)]);
        state.cut(C, &[run(1, 1)], true, Millis(0));
    }
    state.attach(C);
    assert_eq!(lease(&mut state, C, 1, 0), [(1, 1)]);
    // A client that never says so may have handed over everything.
    state.cut(C, &[], false, Millis(0));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 1)], "1 waits for its turn");
    ack(&mut state, Some(C), &[run(2, 2)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)]);
}

#[test]
fn who_has_suspects_holds_nothing_else_and_others_go_on() {
    let mut state = with_events(20);
    state.attach(D);
    lease(&mut state, C, 5, 0);
    lease(&mut state, D, 2, 0);
    state.cut(C, &[], false, Millis(0));
    // D is busy, so it gets what is new.
    assert_eq!(lease(&mut state, D, 2, 10), [(8, 1), (9, 1)]);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 20), [(1, 2)]);
    assert_eq!(lease(&mut state, C, 9, 20), [], "one at a time");
    assert_eq!(lease(&mut state, D, 1, 20), [(10, 1)]);
    ack(&mut state, Some(C), &[run(1, 1)]);
    assert_eq!(lease(&mut state, C, 9, 30), [(2, 2), (3, 2)]);
    ack(&mut state, Some(C), &[run(2, 3)]);
    assert_eq!(lease(&mut state, C, 9, 40), [(4, 2), (5, 2)]);
    assert_eq!(lease(&mut state, C, 9, 40), [], "nothing else");
    // Two were in hand, so none is guilty.
    state.cut(C, &[], false, Millis(50));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 60), [(4, 3)]);
    // Alone: it waits for its back-off, which is none after the first, and lets others go first.
    state.cut(C, &[], false, Millis(70));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 80), [(5, 3)]);
    ack(&mut state, Some(C), &[run(5, 5)]);
    assert_eq!(lease(&mut state, C, 9, 90), [(4, 4)]);
    ack(&mut state, Some(C), &[run(4, 4)]);
    assert_eq!(lease(&mut state, C, 1, 90), [(11, 1)]);
    assert!(!state.is_testing());
}

#[test]
fn suspects_do_not_wait_for_a_consumer_that_never_comes_back() {
    let mut state = with_events(20);
    state.set_policy(DeliveryPolicy {
        ack_deadline_ms: 60_000,
        ..policy()
    });
    state.attach(D);
    lease(&mut state, C, 2, 0);
    lease(&mut state, D, 2, 0);
    state.cut(C, &[], false, Millis(0));
    assert_eq!(lease(&mut state, D, 1, 10), [(5, 1)]);
    assert_eq!(state.next_wakeup(), Some(Millis(2_010)));
    assert!(!state.tick(Millis(2_009), |_| None));
    assert!(
        state.tick(Millis(2_010), |_| None),
        "whoever asks now gets nothing new"
    );
    assert_ne!(state.next_wakeup(), Some(Millis(2_010)), "said once");
    assert_eq!(lease(&mut state, D, 1, 2_010), []);
    ack(&mut state, Some(D), &[run(3, 5)]);
    assert_eq!(lease(&mut state, D, 9, 2_020), [(1, 2)]);
}

#[test]
fn suspects_do_not_wait_for_a_consumer_that_stands_still() {
    const E: ConsumerId = ConsumerId(3);
    let mut state = with_events(20);
    state.set_policy(DeliveryPolicy {
        ack_deadline_ms: 60_000,
        ..policy()
    });
    state.attach_saying(D);
    state.attach(E);
    lease(&mut state, C, 2, 0);
    lease(&mut state, D, 2, 0);
    lease(&mut state, E, 2, 0);
    state.cut(C, &[], false, Millis(0));
    // D is to drain, and its application takes nothing of what it was sent.
    assert_eq!(lease(&mut state, D, 1, 10), [(7, 1)]);
    assert_eq!(lease(&mut state, D, 1, 2_010), []);
    state.extend(E, &[run(5, 6)], Millis(50_000));
    let unseen = |_| {
        Some(Unseen {
            sent: vec![run(3, 4), run(7, 7)],
            ..Unseen::default()
        })
    };
    assert!(state.tick(Millis(60_010), unseen));
    assert_eq!(lease(&mut state, D, 1, 60_010), [], "it has enough");
    // So somebody else drains, and tries them.
    assert_eq!(lease(&mut state, E, 1, 60_020), []);
    ack(&mut state, Some(E), &[run(5, 6)]);
    assert_eq!(lease(&mut state, E, 9, 60_030), [(1, 2)]);
}

#[test]
fn the_next_start_knows_who_is_suspect() {
    let mut state = with_events(9);
    lease(&mut state, C, 3, 0);
    state.cut(C, &[run(3, 3)], true, Millis(0));
    let bytes = state.snapshot();
    let mut state = SubscriptionState::restore(&bytes, policy(), |_| Some(0)).expect("sound");
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)], "alone");
    assert_eq!(state.snapshot(), bytes, "who is in flight is not suspect");
    ack(&mut state, Some(C), &[run(1, 1)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 2), (3, 1)]);
}

#[test]
fn a_suspect_that_is_given_up_is_handed_out_no_more() {
    let mut state = with_events(6);
    assert_eq!(lease(&mut state, C, 1, 0), [(1, 1)]);
    state.cut(C, &[], false, Millis(0));
    state.attach(C);
    // 1 failed alone, so the others go first; then they are suspects that never failed.
    assert_eq!(lease(&mut state, C, 3, 0), [(2, 1), (3, 1), (4, 1)]);
    state.cut(C, &[], false, Millis(0));
    let reason = GiveUpReason::Unreadable("lost".into());
    assert_eq!(state.give_up_pending(run(1, 3), &reason), 3);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(4, 2)]);
    assert_eq!(ack(&mut state, Some(C), &[run(1, 4)]), [(4, 4)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(5, 1), (6, 1)]);
    assert_eq!(ack(&mut state, Some(C), &[run(1, 6)]), [(5, 6)]);
    assert!(!state.is_testing() && !state.has_deliverable());
    assert_eq!(state.given_up(), 3);
    let restored = SubscriptionState::restore(&state.snapshot(), policy(), |_| Some(0));
    assert_eq!(restored.expect("sound").given_up(), 3);
}

#[test]
fn looking_costs_nothing() {
    for window in [1, 2, 12] {
        let mut state = SubscriptionState::new(
            DeliveryPolicy {
                in_flight_events_max: window,
                ..policy()
            },
            Position(1),
            0,
        );
        state.observe(Position(20), [run(1, 20)]);
        state.attach_to_look(D);
        let all: Vec<_> = (1..=20).map(|position| (position, 1)).collect();
        assert_eq!(lease(&mut state, D, 15, 0), all[..15]);
        assert_eq!(lease(&mut state, D, 99, 0), all[15..], "each once");
        assert_eq!(lease(&mut state, D, 99, 0), []);
        assert_eq!((state.in_flight(), state.next_wakeup()), (0, None));
        // Whatever is said of what was shown, nobody holds it.
        assert_eq!(ack(&mut state, Some(D), &[run(1, 20)]), []);
        state.nack(D, &[run(1, 20)], Some(9_000), Millis(0));
        state.term(D, &[run(1, 20)], "bad");
        state.extend(D, &[run(1, 20)], Millis(0));
        state.attach(C);
        let window = u64::from(window) as usize;
        assert_eq!(lease(&mut state, C, 99, 0), all[..window]);
        state.cut(D, &[], false, Millis(0));
        assert!(!state.is_testing() && !state.has_given_up());
        assert_eq!((state.redelivered(), state.depth()), (0, 20));
        // What others hold is shown as well, and what was not sent again.
        state.attach_to_look(D);
        assert_eq!(lease(&mut state, D, 3, 0), all[..3]);
        state.give_back(D, [2, 3].map(Position));
        assert_eq!(lease(&mut state, D, 2, 0), all[1..3]);
        state.detach(D, &[run(2, 3)]);
        assert_eq!(
            ack(&mut state, Some(C), &[run(1, 20)]),
            [(1, window as u64)]
        );
    }
}

#[test]
fn who_looks_does_not_keep_suspects_from_those_who_try_them() {
    let mut state = with_events(3);
    lease(&mut state, C, 2, 0);
    state.cut(C, &[], false, Millis(0));
    state.attach_to_look(D);
    assert_eq!(lease(&mut state, D, 9, 0), [(1, 2), (2, 2), (3, 1)]);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)], "alone");
}

#[test]
fn what_was_not_sent_does_not_count() {
    let mut state = with_events(4);
    lease(&mut state, C, 4, 0);
    state.give_back(C, [3, 4].map(Position));
    assert_eq!(lease(&mut state, C, 9, 0), [(3, 1), (4, 1)]);
    assert_eq!(state.redelivered(), 0);
}

/// What is unseen of 1 to `last`.
fn after(seen: u64, last: u64) -> impl Fn(ConsumerId) -> Option<Unseen> {
    move |_| {
        Some(Unseen {
            sent: vec![run(seen + 1, last)],
            ..Unseen::default()
        })
    }
}

fn slow() -> SubscriptionState {
    let policy = DeliveryPolicy {
        ack_deadline_ms: 5_000,
        attempts_max: 1,
        ..policy()
    };
    let mut state = SubscriptionState::new(policy, Position(1), 0);
    state.observe(Position(20), [run(1, 20)]);
    state.attach_saying(C);
    state
}

#[test]
fn a_slow_application_loses_nothing_that_it_has_not_got() {
    let mut state = slow();
    assert_eq!(lease(&mut state, C, 12, 0).len(), 12);
    // It needs a deadline for each nearly, and the last of them is handed over after eleven.
    for event in 1..=12 {
        let now = event * 4_900;
        state.take_effects();
        state.handed_over(C, &[run(event, event)], Millis(now - 4_800));
        assert_eq!(state.take_effects().deadline, Some(Millis(now + 200)));
        state.tick(Millis(now), after(event, 12));
        assert_eq!(
            ack(&mut state, Some(C), &[run(event, event)]),
            [(event, event)]
        );
    }
    assert!(!state.has_given_up());
    // What it does have in hand misses its deadline.
    assert_eq!(lease(&mut state, C, 2, 60_000), [(13, 1), (14, 1)]);
    state.handed_over(C, &[run(13, 13)], Millis(60_000));
    state.tick(Millis(65_000), after(13, 14));
    let given_up = state.take_given_up(9);
    assert_eq!(given_up.len(), 1);
    assert_eq!(
        (given_up[0].position, given_up[0].attempts),
        (Position(13), 1)
    );
}

#[test]
fn what_an_application_that_stands_still_has_not_got_goes_to_another_and_counts_nothing() {
    let mut state = slow();
    assert_eq!(lease(&mut state, C, 6, 0).len(), 6);
    state.handed_over(C, &[run(1, 1)], Millis(100));
    assert!(!state.tick(Millis(5_000), after(1, 6)), "a moment later");
    assert_eq!(state.next_wakeup(), Some(Millis(5_100)));
    assert!(state.tick(Millis(5_100), after(1, 6)));
    assert_eq!((state.given_up(), state.in_flight()), (1, 0));
    assert_eq!(lease(&mut state, C, 9, 5_100), [], "it has enough");
    assert_eq!(state.stalled(), 1);
    assert!(state.is_testing(), "whatever it answers may let it go on");
    state.attach(D);
    let again: Vec<_> = (2..=6).map(|position| (position, 1)).collect();
    assert_eq!(lease(&mut state, D, 5, 5_100), again);
    // It goes on with what it has, and gets more then.
    state.take_effects();
    state.handed_over(C, &[run(2, 2)], Millis(9_000));
    let effects = state.take_effects();
    assert_eq!((effects.deadline, effects.wakes), (None, true));
    assert_eq!(state.stalled(), 0);
    assert_eq!(lease(&mut state, C, 1, 9_000), [(7, 1)]);
}

#[test]
fn a_client_has_time_to_say_what_it_hands_over() {
    let policy = DeliveryPolicy {
        ack_deadline_ms: 1,
        attempts_max: 1,
        ..policy()
    };
    let mut state = SubscriptionState::new(policy, Position(1), 0);
    state.observe(Position(2), [run(1, 2)]);
    state.attach_saying(C);
    lease(&mut state, C, 2, 0);
    assert_eq!(state.next_wakeup(), Some(Millis(2_000)));
    state.handed_over(C, &[run(1, 1)], Millis(10));
    assert!(state.tick(Millis(11), after(1, 2)));
    assert_eq!((state.given_up(), state.in_flight()), (1, 1));
    // Of one that never says so, everything is taken to be in hand but what was not even sent.
    state.attach(D);
    state.detach(C, &[]);
    assert_eq!(lease(&mut state, D, 2, 20), [(2, 2)]);
    let unsent = |_| {
        Some(Unseen {
            unsent: vec![run(2, 2)],
            ..Unseen::default()
        })
    };
    assert!(state.tick(Millis(21), unsent));
    assert_eq!(lease(&mut state, D, 2, 22), [(2, 2)]);
    assert!(state.tick(Millis(23), |_| Some(Unseen::default())));
    assert_eq!(state.given_up(), 2);
}

#[test]
fn what_the_broker_is_at_work_on_is_late_for_no_fault_of_its_own() {
    let mut state = with_events(3);
    lease(&mut state, C, 2, 0);
    let at_work = |_| {
        Some(Unseen {
            at_work: vec![run(1, 1)],
            ..Unseen::default()
        })
    };
    for round in 1..=9 {
        state.tick(Millis(round * 2_000), at_work);
    }
    let holds = |state: &SubscriptionState| model::place(state, 1).expect("pending");
    assert_eq!(holds(&state).0, Place::InFlight(C, 20_000));
    assert_eq!(holds(&state).1, Tried::default());
    assert_eq!(ack(&mut state, Some(C), &[run(1, 2)]), [(1, 1)]);
    // A route answers by itself, however long its outputs wait.
    state.attach(D);
    state.attach_untimed(D);
    assert_eq!(lease(&mut state, D, 1, 20_000), [(2, 2)]);
    state.tick(Millis(1 << 40), |_| None);
    assert_eq!(ack(&mut state, Some(D), &[run(2, 2)]), [(2, 2)]);
    assert!(!state.has_given_up());
}

#[test]
fn nobody_acks_what_another_holds() {
    let mut state = with_events(4);
    state.attach(D);
    assert_eq!(lease(&mut state, C, 2, 0), [(1, 1), (2, 1)]);
    assert_eq!(lease(&mut state, D, 9, 0), [(3, 1), (4, 1)]);
    assert_eq!(ack(&mut state, Some(C), &[run(0, u64::MAX)]), [(1, 2)]);
    assert_eq!(ack(&mut state, Some(C), &[run(0, u64::MAX)]), []);
    assert_eq!(
        ack(&mut state, Some(D), &[run(4, 4), run(3, 3), run(9, 2)]),
        [(4, 4), (3, 3)]
    );
    assert_eq!(state.depth(), 0);
}

#[test]
fn in_flight_stays_within_the_limit() {
    let mut state = with_events(100);
    assert_eq!(lease(&mut state, C, 100, 0).len(), 12);
    assert!(!state.has_deliverable());
    ack(&mut state, Some(C), &[run(3, 5)]);
    assert_eq!(lease(&mut state, C, 100, 0), [(13, 1), (14, 1), (15, 1)]);
}

#[test]
fn a_failed_event_is_given_up_only_if_the_other_filters_want_it() {
    let mut state = SubscriptionState::new(policy(), Position(1), 2);
    state.attach(C);
    state.exclude(0, Position(1), "trap");
    state.exclude(0, Position(2), "trap");
    state.stage_result(0, Position(3), &[Position(3)]);
    assert!(state.stage_result(1, Position(3), &[Position(2), Position(3)]));
    assert_eq!(lease(&mut state, C, 9, 0), [(3, 1)]);
    let given_up = state.take_given_up(9);
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].position, Position(2));
    assert_eq!(given_up[0].attempts, 0);
}

#[test]
fn what_misses_its_deadline_does_not_keep_the_new_from_coming() {
    let policy = DeliveryPolicy {
        attempts_max: 0,
        backoff_ms: vec![0],
        in_flight_events_max: 2,
        ..policy()
    };
    let mut state = SubscriptionState::new(policy, Position(1), 0);
    state.observe(Position(2), [run(1, 2)]);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 1), (2, 1)]);
    state.observe(Position(4), [run(3, 4)]);
    assert_eq!(lease(&mut state, C, 9, 50), []);
    state.tick(Millis(100), |_| None);
    assert_eq!(lease(&mut state, C, 9, 100), [(1, 2), (3, 1)]);
    // What is new never has to wait longer than until the next is answered or misses its deadline.
    ack(&mut state, Some(C), &[run(3, 3)]);
    assert_eq!(lease(&mut state, C, 9, 110), [(4, 1)]);
    ack(&mut state, Some(C), &[run(4, 4)]);
    assert_eq!(lease(&mut state, C, 9, 120), [(2, 2)], "nothing is new");
}

#[test]
fn whoever_nacks_everything_still_gets_something_new() {
    for window in [1, 2, 3, 12] {
        let policy = DeliveryPolicy {
            attempts_max: 0,
            in_flight_events_max: window,
            ..policy()
        };
        let mut state = SubscriptionState::new(policy, Position(1), 0);
        state.observe(Position(1_000), [run(1, 1_000)]);
        state.attach(C);
        let mut seen = BTreeSet::new();
        for _ in 0..400 {
            for (position, _) in lease(&mut state, C, 1, 0) {
                seen.insert(position);
                state.nack(C, &[run(position, position)], Some(0), Millis(0));
            }
        }
        assert!(seen.len() >= 99, "{} of 400 with {window}", seen.len());
        assert!(state.redelivered() > 200, "and what failed is not left out");
    }
}

#[test]
fn any_number_of_events_may_wait_for_another_attempt() {
    let count = 600_000;
    let endless = DeliveryPolicy {
        attempts_max: 0,
        in_flight_events_max: 1_000,
        ..policy()
    };
    let mut state = SubscriptionState::new(endless.clone(), Position(1), 0);
    state.observe(Position(count), [run(1, count)]);
    state.attach(C);
    let mut now = 0;
    loop {
        let leased = lease(&mut state, C, 1_000, now);
        if leased.is_empty() {
            break;
        }
        for (position, _) in leased {
            match position % 2 {
                // Every one with a delay of its own, so that nothing joins.
                0 => state.nack(
                    C,
                    &[run(position, position)],
                    Some(3_600_000 + position % 997),
                    Millis(now),
                ),
                _ => drop(ack(&mut state, Some(C), &[run(position, position)])),
            }
        }
        now += 1;
    }
    assert_eq!(state.depth(), count / 2);
    assert!(state.delayed.0.classes() < 10, "{now} moments are few");
    let bytes = state.snapshot().len() as u64;
    assert!(bytes < count / 2 * 5, "{bytes} bytes, 5 for each");
    state.observe(Position(count + 1), [run(count + 1, count + 1)]);
    assert_eq!(lease(&mut state, C, 10, now), [(count + 1, 1)]);
    let back = SubscriptionState::restore(&state.snapshot(), endless, |_| None).expect("sound");
    assert_eq!((&back.tries, &back.delayed), (&state.tries, &state.delayed));
    assert!(state.tick(Millis(3_620_000), |_| None));
    assert_eq!(lease(&mut state, C, 1, now), [(2, 2)]);
}

#[test]
fn delays_become_coarse_instead_of_standing_still() {
    let mut state = SubscriptionState::new(
        DeliveryPolicy {
            attempts_max: 0,
            in_flight_events_max: u32::MAX,
            ..policy()
        },
        Position(1),
        0,
    );
    let count = 5_000_000;
    state.observe(Position(count), [run(1, count)]);
    state.attach(C);
    lease(&mut state, C, count as usize, 0);
    let due = |state: &SubscriptionState, position| {
        let (_, _, due) = state.delayed.0.overlapping(position, position)[0];
        due.0
    };
    state.nack(C, &[run(1, 1)], Some(511), Millis(0));
    state.nack(C, &[run(2, 2)], Some(10_001), Millis(0));
    assert_eq!((due(&state, 1), due(&state, 2)), (511, 10_016));
    state.nack(C, &[run(3, count - 1)], Some(60_000), Millis(0));
    let names = |state: &SubscriptionState| state.strain().names().collect::<Vec<_>>();
    assert_eq!(names(&state), ["coarse_delays"]);
    state.nack(C, &[run(count, count)], Some(60_000), Millis(7));
    assert_eq!(due(&state, count), 65_536, "later, and never sooner");
    ack(&mut state, None, &[run(3, count)]);
    assert!(names(&state).is_empty());
    state.observe(Position(count + 1), [run(count + 1, count + 1)]);
    lease(&mut state, C, 1, 0);
    state.nack(C, &[run(count + 1, count + 1)], Some(u64::MAX), Millis(9));
    assert_eq!(due(&state, count + 1), u64::MAX);
}

#[test]
fn any_number_of_events_may_wait_for_their_dead_letter() {
    let exact = GIVEN_UP_EXACT_MAX as u64;
    let count = 2 * exact;
    let mut state = SubscriptionState::new(
        DeliveryPolicy {
            in_flight_events_max: u32::MAX,
            ..policy()
        },
        Position(1),
        1,
    );
    state.attach(C);
    for position in 1..=count {
        state.exclude(0, Position(position), "trap");
    }
    // Of these a filter failed on half of them, and one more is lost before anybody had it.
    state.stage_result(
        0,
        Position(count + 3),
        &[count + 1, count + 2, count + 3].map(Position),
    );
    assert_eq!(state.given_up(), count);
    let names = state.strain().names().collect::<Vec<_>>();
    assert_eq!(names, ["coarse_reasons"]);
    let lost = GiveUpReason::Unreadable("lost".into());
    assert_eq!(state.give_up_pending(run(count + 1, count + 1), &lost), 1);
    assert_eq!(lease(&mut state, C, 9, 0), [(count + 2, 1), (count + 3, 1)]);
    state.term(C, &[run(count + 2, count + 2)], "bad");
    assert_eq!(lease(&mut state, C, 9, 1_000_000), [], "given up for good");
    let bytes = state.snapshot();
    assert!(
        bytes.len() as u64 <= exact * 20,
        "{} for {count}",
        bytes.len()
    );
    let mut state = SubscriptionState::restore(&bytes, policy(), |_| Some(1)).expect("sound");
    assert_eq!(state.given_up(), count + 2);
    let mut taken = state.take_given_up(usize::MAX);
    assert_eq!(taken.len() as u64, count + 2);
    let last = taken.pop().map(|last| (last.attempts, last.reason));
    assert_eq!(last, Some((1, GiveUpReason::Terminated("bad".into()))));
    let last = taken.pop().map(|last| (last.attempts, last.reason));
    assert_eq!(last, Some((0, lost)));
    let trapped = GiveUpReason::FilterFailed("trap".into());
    assert!(taken.iter().all(|item| item.reason == trapped));
    ack(&mut state, None, &[run(1, count)]);
    assert_eq!((state.given_up(), state.depth()), (2, 3));
    ack(&mut state, None, &[run(1, count + 2)]);
    assert_eq!(state.strain(), Strain::default());
}

/// As earlier versions could write it: 1 was in somebody's hands while it was delayed, and terminated there, 2 is acked, 3 was
/// delayed before anybody had it.
#[test]
fn states_with_events_in_two_places_come_back() {
    let lost = GiveUpReason::Terminated("bad".into());
    let stored = (
        1u64,
        4u64,
        Vec::<u64>::new(),
        2u64,
        Vec::<(u64, u64, u32)>::new(),
        vec![(1u64, 1u64, Millis(60_000)), (3, 3, Millis(60_000))],
        vec![(1u64, 2u32, lost.clone()), (2, 1, lost)],
        Vec::<(u64, GiveUpReason)>::new(),
        None::<Arc<str>>,
    );
    let mut bytes = postcard::to_extend(&stored, vec![1]).expect("plain");
    let mut pending = PositionSet::default();
    pending.insert_range(1, 1);
    pending.insert_range(3, 4);
    pending.write(&mut bytes).expect("a Vec takes all");
    PositionSet::default()
        .write(&mut bytes)
        .expect("a Vec takes all");
    let mut state =
        SubscriptionState::restore(&bytes, policy(), |_| Some(0)).expect("to be started from");
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(3, 1), (4, 1)]);
    assert_eq!(lease(&mut state, C, 9, 90_000), []);
    let taken = state.take_given_up(9);
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].position, taken[0].attempts), (Position(1), 2));
    assert_eq!(ack(&mut state, None, &[run(1, 4)]), [(1, 1), (3, 4)]);
}

#[test]
fn what_is_acked_needs_no_dead_letter() {
    let mut state = with_events(2);
    lease(&mut state, C, 9, 0);
    // However it came to be both: the ack counts.
    state.record_given_up(1, 1, &GiveUpReason::HopLimit);
    assert_eq!(ack(&mut state, Some(C), &[run(1, 2)]), [(1, 2)]);
    assert!(!state.has_given_up());
    assert_eq!((state.given_up(), state.depth()), (0, 0));
    let restored = SubscriptionState::restore(&state.snapshot(), policy(), |_| Some(0));
    assert_eq!(restored.expect("sound").given_up(), 0);
}

#[test]
fn a_state_of_the_version_before_comes_back() {
    // Written by it: 1 to 3 pending, 1 tried once and ready, 2 twice and due at 140.
    let stored = (
        1u64,
        3u64,
        Vec::<u64>::new(),
        3u64,
        vec![(1u64, 1u64, 1u32), (2, 2, 2)],
        vec![(2u64, 2u64, Millis(140))],
        Vec::<(u64, u32, GiveUpReason)>::new(),
        Vec::<(u64, GiveUpReason)>::new(),
        None::<Arc<str>>,
    );
    let mut bytes = postcard::to_extend(&stored, vec![1]).expect("plain");
    let mut pending = PositionSet::default();
    pending.insert_range(1, 3);
    pending.write(&mut bytes).expect("a Vec takes all");
    PositionSet::default()
        .write(&mut bytes)
        .expect("a Vec takes all");
    let mut state = SubscriptionState::restore(&bytes, policy(), |_| Some(0)).expect("sound");
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2), (3, 1)]);
    assert_eq!(lease(&mut state, C, 9, 140), [(2, 3)]);
    state.nack(C, &[run(2, 2)], None, Millis(150));
    assert_eq!(state.take_given_up(9)[0].attempts, 3);
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut state = with_events(1);
    lease(&mut state, C, 1, 0);
    state.term(C, &[run(1, 1)], &"é".repeat(REASON_BYTES_MAX));
    let GiveUpReason::Terminated(reason) = &state.take_given_up(1)[0].reason else {
        panic!("terminated");
    };
    assert_eq!(reason.len(), REASON_BYTES_MAX);
}

#[test]
fn whoever_gives_up_no_more_of_a_reason_is_kept() {
    let mut state = with_events(2);
    let long: Arc<str> = "é".repeat(2 * REASON_BYTES_MAX).into();
    lease(&mut state, C, 1, 0);
    state.give_up(
        C,
        Position(1),
        &GiveUpReason::TransformRejected(long.clone()),
    );
    state.give_up_pending(run(2, 2), &GiveUpReason::Unreadable(long));
    let given_up = state.take_given_up(2);
    let of_kind = |index: usize| given_up[index].reason.to_string();
    for (said, kind) in [
        (of_kind(0), "refused by the transform: é"),
        (of_kind(1), "cannot be read: é"),
    ] {
        assert!(said.starts_with(kind), "{said}");
        assert!(
            said.len() <= kind.len() + REASON_BYTES_MAX,
            "{}",
            said.len()
        );
    }
}

/// Prints the cost per event; run it with `--ignored --nocapture` and `--release`.
#[test]
#[ignore = "prints times, checks nothing"]
fn throughput() {
    let total = 5_000_000u64;
    let wide = DeliveryPolicy::default();
    let print = |what: &str, events: u64, started: std::time::Instant| {
        println!(
            "{what}: {} ns per event",
            started.elapsed().as_nanos() / u128::from(events)
        );
    };

    for (batch, step) in [(256, 1), (32, 1), (1, 1), (256, 10)] {
        let mut state = SubscriptionState::new(wide.clone(), Position(1), usize::from(step > 1));
        state.attach(C);
        let mut out = Vec::new();
        let mut matched = Vec::new();
        let started = std::time::Instant::now();
        let mut at = 1;
        while at < total {
            let last = at + batch * step - 1;
            if step == 1 {
                state.observe(Position(last), [run(at, last)]);
            } else {
                matched.clear();
                matched.extend((at..=last).step_by(step as usize).map(Position));
                state.stage_result(0, Position(last), &matched);
            }
            out.clear();
            state.lease(C, 1_024, Millis(at / 1_000), &mut out);
            let ranges: Vec<_> = out
                .iter()
                .map(|lease| lease.position..=lease.position)
                .collect();
            let ranges = if step == 1 {
                vec![run(at, last)]
            } else {
                ranges
            };
            state.ack(C, &ranges);
            state.take_effects();
            at = last + 1;
        }
        assert_eq!(state.depth(), 0);
        print(
            &format!("match, lease, ack in batches of {batch}, every {step}th matches"),
            total / step,
            started,
        );
    }

    let count = 1_000_000u64;
    let mut state = SubscriptionState::new(
        DeliveryPolicy {
            in_flight_events_max: u32::MAX,
            ..wide
        },
        Position(1),
        0,
    );
    state.observe(Position(count), [run(1, count)]);
    state.attach(C);
    let mut out = Vec::new();
    state.lease(C, count as usize, Millis(0), &mut out);
    let started = std::time::Instant::now();
    for index in 0..count {
        let position = index * 7_919 % count + 1;
        state.ack(C, &[run(position, position)]);
        state.take_effects();
    }
    assert_eq!(state.depth(), 0);
    print(
        "acks of single events in random order, 1,000,000 in flight",
        count,
        started,
    );
}

#[test]
fn what_the_broker_is_at_work_on_is_looked_at_seldom_however_short_the_deadline_is() {
    for says in [true, false] {
        let policy = DeliveryPolicy {
            ack_deadline_ms: 1,
            attempts_max: 1,
            ..policy()
        };
        let mut state = SubscriptionState::new(policy, Position(1), 0);
        state.observe(Position(2), [run(1, 2)]);
        state.attach(C);
        if says {
            state.attach_saying(C);
        }
        lease(&mut state, C, 2, 0);
        let at_work = |_| {
            Some(Unseen {
                at_work: vec![run(1, 2)],
                ..Unseen::default()
            })
        };
        for now in [2_000, 4_000, 6_000].map(Millis) {
            assert!(!state.tick(now, at_work));
            assert_eq!(state.next_wakeup(), Some(now.plus(2_000)), "{says}");
        }
        assert_eq!((state.in_flight(), state.given_up()), (2, 0));
    }
}
