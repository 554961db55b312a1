//! Consumers that go, and what becomes of the events that they hold. One of what a consumer had in hand when it lost its connection may
//! be what brought it down, and the others must not pay for that: nobody is called guilty that was not seen to fail alone.
//!
//! A suspect goes to one consumer at a time, the tester, which holds nothing else; all others go on. How many the tester
//! holds starts at one, doubles with each of its answers and returns to one at a cut. A suspect that was alone in
//! hand at a cut has failed: it counts an attempt and waits for its back-off, and from then on goes out by itself, after
//! all other suspects and not before something else was answered. Whatever is answered is a suspect no more.

use std::ops::RangeInclusive;

use super::SubscriptionState;
use super::came_back::Next;
use super::consumer::Consumer;
use super::lease_budget::pick;
use super::retries::Return;
use crate::domain::{ConsumerId, Millis, Position};
use crate::state::position_set::PositionSet;

/// Suspects wait this long for a consumer that holds nothing, mostly the one that comes back. Then one that is busy gets
/// nothing new until it has answered what it holds.
const WAIT_MS: u64 = 2_000;

/// What a consumer gets that asks while there are suspects.
pub(super) enum Turn {
    /// So many suspects at most, and nothing else.
    Suspects(u64),
    /// Nothing, until it has answered something.
    Wait,
    /// What is no suspect, and leaves so many places of the window free.
    Sound(u64),
}

impl SubscriptionState {
    /// A consumer is gone without a word, its connection lost. `unseen` is what it has not said to have handed to its
    /// application; `says` whether it says so at all, without which it may have seen everything that was sent; and `out_of_reach` what
    /// of that it cannot have handed over. What it may have had in hand becomes suspect; an event that was alone there has failed.
    pub fn cut(
        &mut self,
        consumer: ConsumerId,
        unseen: &[RangeInclusive<Position>],
        out_of_reach: &[RangeInclusive<Position>],
        says: bool,
        now: Millis,
    ) {
        let Some((gone, was_tester)) = self.remove_consumer(consumer) else {
            return;
        };
        if gone.looks_from.is_some() {
            return;
        }
        self.suspects.shrink();
        let held: u64 = gone.held();
        let seen = held - count(&split(&gone, unseen), false);
        // Who says what it hands over does so before it hands a suspect over, and waits until it is heard.
        let certain = says && was_tester;
        let not_in_hand = if certain { unseen } else { out_of_reach };
        let held = split(&gone, not_in_hand);
        let alone = count(&held, true) == 1 && seen == 1;
        for (first, last, _) in held.into_iter().filter(|(_, _, in_hand)| *in_hand) {
            self.suspects.all.insert_range(first, last);
        }
        if seen > 0 {
            reached!(ConsumerLostWithLeases);
        }
        if alone {
            reached!(SuspectAccused);
        }
        self.suspects.shaken |= alone;
        let why = if alone { Return::Cut } else { Return::Detached };
        self.back_from(&gone, unseen, &why, now);
    }

    /// Detaches a consumer that says so, or that the broker ends: what it held is deliverable again at once, and nothing
    /// counts as an attempt. `unseen` is what it has not said to have handed to its application.
    pub fn detach(&mut self, consumer: ConsumerId, unseen: &[RangeInclusive<Position>]) {
        if let Some((gone, _)) = self.remove_consumer(consumer) {
            self.back_from(&gone, unseen, &Return::Detached, Millis(0));
        }
    }

    /// Whether answers may let a consumer go on that waits although something is deliverable.
    #[must_use]
    pub fn is_testing(&self) -> bool {
        let suspects = &self.suspects;
        suspects.tester.is_some()
            || suspects.draining.is_some()
            || !self.stalled.is_empty()
            || !suspects.untried.is_empty()
            || !suspects.accused.is_empty()
    }

    // What `consumer` may be handed now, which asks for at least one event.
    pub(super) fn turn(&mut self, consumer: ConsumerId, now: Millis) -> Turn {
        if self.suspects.all.is_empty() {
            self.suspects.retire();
            return Turn::Sound(0);
        }
        let Some(held) = self.consumers.get(&consumer).map(Consumer::held) else {
            return Turn::Wait;
        };
        let next = self.next_suspects();
        if self.suspects.tester == Some(consumer) {
            match next {
                Some(at_most) if held < at_most => return Turn::Suspects(at_most - held),
                _ if held > 0 => return Turn::Wait,
                _ => self.suspects.retire(),
            }
        }
        let Some(at_most) = next.filter(|_| !self.is_tested()) else {
            return Turn::Sound(0);
        };
        if held == 0 {
            self.suspects.retire();
            reached!(SuspectHandedOut);
            self.suspects.tester = Some(consumer);
            return Turn::Suspects(at_most);
        }
        let (since, _) = *self.suspects.waiting.get_or_insert((now, false));
        self.effects.arm(self.wait_ends());
        if self.suspects.draining.is_none() && now >= since.plus(WAIT_MS) {
            reached!(DrainsForSuspects);
            self.suspects.draining = Some(consumer);
        }
        match self.suspects.draining == Some(consumer) {
            true => Turn::Wait,
            false => Turn::Sound(u64::from(self.in_flight_max() > 1)),
        }
    }

    // Removes up to `budget` suspects from where they wait, those first that never failed.
    pub(super) fn pick_suspects(&mut self, budget: &mut u64) -> Vec<(u64, u64)> {
        let from = match self.suspects.untried.is_empty() {
            true => &mut self.suspects.accused,
            false => &mut self.suspects.untried,
        };
        pick(from, budget)
    }

    // The consumer answered: whatever else brings its connection down, it was not the answer's event.
    pub(super) fn answered(&mut self, consumer: ConsumerId) {
        self.suspects.shaken = false;
        if self.suspects.tester == Some(consumer) {
            self.suspects.grow(self.in_flight_max());
        }
    }

    // When somebody has waited long enough for a consumer that holds nothing.
    pub(super) fn wait_ends(&self) -> Option<Millis> {
        let (since, told) = self.suspects.waiting?;
        (!told && self.suspects.draining.is_none()).then(|| since.plus(WAIT_MS))
    }

    // Who asks for nothing as long as its application stands still cannot become the tester: whoever is busy and asks next
    // is to drain in its place.
    pub(super) fn drain_no_stalled(&mut self) {
        let draining = &mut self.suspects.draining;
        let stalled = draining.take_if(|of| self.stalled.contains(of) && !planted!(StalledDrains));
        if stalled.is_some() {
            reached!(StalledDrainsNoMore);
        }
    }

    // Whether somebody who is busy may have to drain from now on; true once.
    pub(super) fn wait_is_over(&mut self, now: Millis) -> bool {
        let over = self.wait_ends().is_some_and(|end| end <= now);
        if over && let Some((_, told)) = &mut self.suspects.waiting {
            *told = true;
        }
        over
    }

    fn is_tested(&self) -> bool {
        let tester = self.suspects.tester.as_ref();
        let tester = tester.and_then(|tester| self.consumers.get(tester));
        tester.is_some_and(|tester| tester.held() > 0)
    }

    // How many a tester may hold of those that are next, if any may go out now: one alone of those that failed before, and
    // none of them while something else has not had its turn since.
    fn next_suspects(&self) -> Option<u64> {
        if !self.suspects.untried.is_empty() {
            return Some(self.suspects.window());
        }
        let others = !self.ready.is_empty() || !self.retries.is_empty() || self.has_fresh();
        let none = self.suspects.accused.is_empty() || self.suspects.shaken && others;
        (!none).then_some(1)
    }

    fn remove_consumer(&mut self, consumer: ConsumerId) -> Option<(Consumer, bool)> {
        let gone = self.consumers.remove(&consumer)?;
        self.stalled.remove(&consumer);
        let was_tester = self.suspects.tester == Some(consumer);
        if was_tester {
            self.suspects.tester = None;
        }
        if self.suspects.draining == Some(consumer) {
            self.suspects.draining = None;
        }
        self.effects.arm(self.wait_ends());
        self.effects.wakes = true;
        Some((gone, was_tester))
    }

    // What the consumer held comes back: what was seen because of `why`, the rest as if it had not been handed out.
    fn back_from(
        &mut self,
        gone: &Consumer,
        unseen: &[RangeInclusive<Position>],
        why: &Return,
        now: Millis,
    ) {
        for (first, last, seen) in split(gone, unseen) {
            if seen {
                self.hand_back(first, last, why, now);
            } else {
                reached!(UnseenCameBack);
                self.landed(first, last);
                if !self.suspects.all.is_empty() {
                    self.tell_suspects(first, last);
                }
                if planted!(UnseenGoesNowhere) {
                    continue;
                }
                self.make_ready(first, last);
            }
        }
    }

    // What was not seen came back as if it had not been handed out, but it may be suspect since.
    fn tell_suspects(&mut self, first: u64, last: u64) {
        let suspected: Vec<_> = self.suspects.all.ranges(first, last).collect();
        for (first, last) in suspected {
            let mut runs = Vec::new();
            self.tries.show(first, last, |first, last, tried| {
                runs.push((first, last, tried))
            });
            for (first, last, tried) in runs {
                self.tell_back(first, last, tried, &Next::Ready);
            }
        }
    }
}

// What a consumer held, as runs that were seen or were not; or were in hand or were not.
fn split(gone: &Consumer, unseen: &[RangeInclusive<Position>]) -> Vec<(u64, u64, bool)> {
    let mut runs = Vec::new();
    let Some((start, end)) = gone.flights.span() else {
        return runs;
    };
    let mut hidden = PositionSet::default();
    for range in unseen {
        hidden.insert_range(range.start().0.max(start), range.end().0.min(end));
    }
    for (first, last, _) in gone.flights.iter() {
        let seen = hidden.gaps(first, last).into_iter();
        runs.extend(seen.map(|(first, last)| (first, last, true)));
        let not = hidden.ranges(first, last);
        runs.extend(not.map(|(first, last)| (first, last, false)));
    }
    runs
}

fn count(runs: &[(u64, u64, bool)], seen: bool) -> u64 {
    let wanted = runs.iter().filter(|run| run.2 == seen);
    wanted.map(|(first, last, _)| last - first + 1).sum()
}
