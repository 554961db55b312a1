//! The naive model of a subscription: one entry per position, nothing clever. What the state has to agree with, whatever happens
//! to both.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::state::subscription::retries::attempt_counts::Tried;
use crate::state::subscription::retries::backoff;

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

    pub(super) fn lease(&mut self, consumer: ConsumerId, max: usize, now: u64) -> Vec<(u64, u32)> {
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

    /// The consumer is gone; `cut` says whether it says what it hands over, and what it cannot have handed over, if it went without a word.
    pub(super) fn gone(
        &mut self,
        consumer: ConsumerId,
        unseen: &[(u64, u64)],
        cut: Option<(bool, &[(u64, u64)])>,
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
        let without = |hidden: &[(u64, u64)]| {
            let is_hidden = |position: &u64| {
                let mut hidden = hidden.iter();
                hidden.any(|(first, last)| (first..=last).contains(&position))
            };
            let others = held.iter().copied().filter(|p| !is_hidden(p));
            others.collect::<Vec<u64>>()
        };
        let seen = without(unseen);
        let mut alone = false;
        if let Some((says, out_of_reach)) = cut {
            self.window = 1;
            let in_hand = &match says && was_tester {
                true => seen.clone(),
                false => without(out_of_reach),
            };
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

    /// As [`hand_back`](Self::hand_back), because no answer came in time.
    fn expire_one(&mut self, position: u64, now: u64) {
        self.hand_back(position, None, false, now);
        if let Place::GivenUp(reason, _) = &mut self.pending.get_mut(&position).expect("held").0 {
            *reason = GiveUpReason::DeadlineMissed;
        }
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
        let delay = delay.unwrap_or_else(|| backoff::step_ms(&self.policy, tried.failed));
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

    pub(super) fn give_up_pending(&mut self, first: u64, last: u64, reason: &GiveUpReason) -> u64 {
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
            .filter(
                |(_, (place, _))| matches!(place, Place::InFlight(_, deadline) if *deadline <= now),
            )
            .map(|(position, _)| *position)
            .collect();
        for position in expired {
            self.expire_one(position, now);
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
