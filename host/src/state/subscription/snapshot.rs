//! A subscription's state as bytes, for checkpoints. Consumers and what they hold are not part of it: after a
//! restart everything in flight is deliverable again, with the attempts it had before.
//!
//! Layout: version (1 byte), the postcard form of [`Stored`], from version 2 on that of [`StoredChains`], from version 3
//! on that of [`StoredReturned`], then the position sets in roaring's portable format: pending, acked ahead, one per
//! stage, from version 3 on those that [`StoredReturned`] names and the suspects, and in version 4, which has [`StoredReasons`]
//! behind that, those that share a reason. Version 5 has [`StoredAhead`] behind [`StoredReasons`]. The lowest version that says
//! everything is written: 5 when something undecided came back before a crash, 4 when reasons are shared, 3 when something came
//! back, 2 when the filters were changed.
//!
//! Whatever the live machine can be in is written and read: a state that is refused would keep the broker from starting. What
//! earlier versions wrote of events that were in two places is put right.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::SubscriptionState;
use super::filter_stages::{FilterChanges, Stage, Upcoming};
use super::give_up_reason::GiveUpReason;
use super::known_ahead::Known;
use super::reasons_by_position::Reasons;
use super::retries::attempt_counts::Tried;
use crate::domain::{DeliveryPolicy, Millis, Position};
use crate::state::position_set::PositionSet;
use crate::state::positions_by_value::PositionsByValue;

/// Filters that were never changed.
const FIRST_CHAIN: u8 = 1;
/// With the chain that judges and those after it.
const CHAINS: u8 = 2;
/// With what came back, as sets.
const RETURNED: u8 = 3;
/// With reasons that many events share.
const REASONS: u8 = 4;
/// With what is known of undecided events.
const AHEAD: u8 = 5;

/// Why the bytes are not a subscription's state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version.
    #[error(
        "the subscription's state has version {0}, this broker reads {FIRST_CHAIN} to {AHEAD}; start the version that wrote it"
    )]
    Version(u8),
    /// The head cannot be read.
    #[error("the subscription's state is damaged")]
    Head(#[from] postcard::Error),
    /// A position set cannot be read.
    #[error("a position set of the subscription's state is damaged")]
    Positions(#[from] std::io::Error),
    /// It belongs to a subscription with another number of filters.
    #[error("the state is of a subscription with {found} filters, not {expected}")]
    Stages {
        /// Filters in the state.
        found: usize,
        /// Filters of the subscription.
        expected: usize,
    },
    /// The parts contradict each other.
    #[error("the subscription's state is inconsistent: {0}")]
    Inconsistent(&'static str),
}

#[derive(Serialize, Deserialize)]
struct Stored {
    start: u64,
    evaluated: u64,
    stages_through: Vec<u64>,
    next_fresh: u64,
    /// Up to version 2, like the next.
    attempts: Vec<(u64, u64, u32)>,
    delayed: Vec<(u64, u64, Millis)>,
    given_up: Vec<(u64, u32, GiveUpReason)>,
    failed: Vec<(u64, GiveUpReason)>,
    paused: Option<Arc<str>>,
}

#[derive(Serialize, Deserialize)]
struct StoredChains {
    revision: u32,
    /// Revision, fence and number of filters.
    upcoming: Vec<(u32, u64, u8)>,
}

/// A set of positions follows for each, in this order.
#[derive(Default, Serialize, Deserialize)]
struct StoredReturned {
    tried: Vec<Tried>,
    due: Vec<Millis>,
}

/// A set of positions follows for each, in this order.
#[derive(Default, Serialize, Deserialize)]
struct StoredReasons {
    given_up: Vec<GiveUpReason>,
    failed: Vec<GiveUpReason>,
}

/// What came back of undecided events, first and last position of each run.
#[derive(Default, Serialize, Deserialize)]
struct StoredAhead {
    events: Vec<(u64, u64, Known)>,
    given_up: Vec<(u64, u64, GiveUpReason)>,
}

impl SubscriptionState {
    /// The state as bytes. Counters since the start of the broker are not part of it. Moments are written as
    /// so many milliseconds later than they are: by how much the clock on the wall is ahead of the one that they are reckoned by.
    #[must_use]
    pub fn snapshot(&self, wall_ahead_ms: i64) -> Vec<u8> {
        let stored = Stored {
            start: self.start,
            evaluated: self.evaluated + u64::from(planted!(SavedAsDecided)),
            stages_through: self.stages.iter().map(|stage| stage.through).collect(),
            next_fresh: self.next_fresh,
            attempts: Vec::new(),
            delayed: Vec::new(),
            given_up: self
                .given_up
                .exact()
                .map(|(position, reason)| (position, self.tries.in_vain(position), reason.clone()))
                .collect(),
            failed: self
                .failed
                .exact()
                .map(|(position, reason)| (position, reason.clone()))
                .collect(),
            paused: self.paused.clone(),
        };
        let returned = StoredReturned {
            tried: self.tries.0.iter().map(|(tried, _)| tried).collect(),
            due: {
                let dues = self.delayed.0.iter().map(|(due, _)| due);
                dues.map(|due| due.shifted(wall_ahead_ms)).collect()
            },
        };
        let changed = self.chains.revision > 0 || !self.chains.upcoming.is_empty();
        let nothing_came_back = returned.is_empty() && self.suspects.all.is_empty();
        let reasons = StoredReasons {
            given_up: reasons_of(&self.given_up),
            failed: reasons_of(&self.failed),
        };
        let version = match (reasons.is_empty(), nothing_came_back, changed) {
            _ if !self.ahead.is_empty() => AHEAD,
            (false, _, _) => REASONS,
            (true, false, _) => RETURNED,
            (true, true, true) => CHAINS,
            (true, true, false) => FIRST_CHAIN,
        };
        let mut bytes = postcard::to_extend(&stored, vec![version])
            .expect("plain numbers and texts always serialize into a Vec");
        if version >= CHAINS {
            bytes = postcard::to_extend(&StoredChains::of(&self.chains), bytes)
                .expect("plain numbers always serialize into a Vec");
        }
        if version >= RETURNED {
            bytes = postcard::to_extend(&returned, bytes)
                .expect("plain numbers always serialize into a Vec");
        }
        if version >= REASONS {
            bytes = postcard::to_extend(&reasons, bytes)
                .expect("plain texts always serialize into a Vec");
        }
        if version >= AHEAD {
            bytes = postcard::to_extend(&self.stored_ahead(wall_ahead_ms), bytes)
                .expect("plain texts always serialize into a Vec");
        }
        let sets = [&self.pending, &self.acked_ahead];
        for set in sets
            .into_iter()
            .chain(self.stages.iter().map(|stage| &stage.candidates))
            .chain(self.tries.0.iter().map(|(_, set)| set))
            .chain(self.delayed.0.iter().map(|(_, set)| set))
        {
            set.write(&mut bytes).expect("writing to a Vec never fails");
        }
        let suspects = (version >= RETURNED).then_some(&self.suspects.all);
        let shared = self.given_up.shared().chain(self.failed.shared());
        for set in suspects.into_iter().chain(shared.map(|(_, set)| set)) {
            set.write(&mut bytes).expect("writing to a Vec never fails");
        }
        bytes
    }

    /// The state that [`snapshot`](Self::snapshot) wrote. `stages_of` says how many filters the chain with a revision
    /// has; `None` for one that the caller does not know yet.
    ///
    /// # Errors
    ///
    /// The bytes are not such a state, or of another version. Nothing is allocated by a number they claim.
    pub fn restore(
        bytes: &[u8],
        policy: DeliveryPolicy,
        stages_of: impl Fn(u32) -> Option<usize>,
    ) -> Result<Self, RestoreError> {
        let (version, bytes) = bytes
            .split_first()
            .ok_or(RestoreError::Inconsistent("it is empty"))?;
        if !(FIRST_CHAIN..=AHEAD).contains(version) {
            return Err(RestoreError::Version(*version));
        }
        let (stored, mut rest) = postcard::take_from_bytes::<Stored>(bytes)?;
        let mut chains = FilterChanges::default();
        if *version >= CHAINS {
            let (stored, after) = postcard::take_from_bytes::<StoredChains>(rest)?;
            (chains, rest) = (stored.chains(), after);
        }
        let mut returned = StoredReturned::default();
        if *version >= RETURNED {
            (returned, rest) = postcard::take_from_bytes::<StoredReturned>(rest)?;
        }
        let mut reasons = StoredReasons::default();
        if *version >= REASONS {
            (reasons, rest) = postcard::take_from_bytes::<StoredReasons>(rest)?;
        }
        let mut ahead = StoredAhead::default();
        if *version >= AHEAD {
            (ahead, rest) = postcard::take_from_bytes::<StoredAhead>(rest)?;
        }
        let pending = PositionSet::read(&mut rest)?;
        let acked_ahead = PositionSet::read(&mut rest)?;
        let candidates = stored
            .stages_through
            .iter()
            .map(|through| {
                Ok(Stage {
                    through: *through,
                    candidates: PositionSet::read(&mut rest)?,
                })
            })
            .collect::<Result<Vec<_>, RestoreError>>()?;
        let tried = read_classes(&returned.tried, &mut rest)?;
        let due = read_classes(&returned.due, &mut rest)?;
        let suspects = match *version >= RETURNED {
            true => PositionSet::read(&mut rest)?,
            false => PositionSet::default(),
        };
        let given_up = stored.given_up.iter().map(|(at, _, why)| (*at, why));
        let given_up = read_reasons(given_up, &reasons.given_up, &mut rest)?;
        let failed = stored.failed.iter().map(|(at, why)| (*at, why));
        let failed = read_reasons(failed, &reasons.failed, &mut rest)?;
        if !rest.is_empty() {
            return Err(RestoreError::Inconsistent("bytes follow its end"));
        }
        let all = std::iter::once((chains.revision, candidates.len())).chain(
            chains
                .upcoming
                .iter()
                .map(|next| (next.revision, next.stages)),
        );
        for (revision, found) in all {
            let expected = stages_of(revision).unwrap_or(found);
            if found != expected {
                return Err(RestoreError::Stages { found, expected });
            }
        }
        let mut state = Self {
            pending,
            acked_ahead,
            stages: candidates,
            chains,
            ..Self::new(policy, Position(stored.start), 0)
        };
        (state.tries.0, state.delayed.0) = (tried, due);
        state.suspects.all = suspects;
        (state.given_up, state.failed) = (given_up, failed);
        state.restore_ahead(ahead, stored.evaluated)?;
        state.with(stored)
    }

    fn stored_ahead(&self, wall_ahead_ms: i64) -> StoredAhead {
        let wall = |due: Millis| due.shifted(wall_ahead_ms);
        let events = self.ahead.events.iter().map(|(first, last, known)| {
            let due = known.due.map(wall);
            (first, last, Known { due, ..known })
        });
        StoredAhead {
            events: events.collect(),
            given_up: self.ahead.given_up.runs(0, u64::MAX),
        }
    }

    fn restore_ahead(&mut self, ahead: StoredAhead, evaluated: u64) -> Result<(), RestoreError> {
        let mut after = evaluated;
        for (first, last, known) in ahead.events {
            if first <= after || last < first {
                return Err(RestoreError::Inconsistent(
                    "what came back of undecided events is out of order",
                ));
            }
            self.ahead.events.insert(first, last, known);
            after = last;
        }
        for (first, last, reason) in ahead.given_up {
            let known: Vec<_> = self.ahead.events.overlapping(first, last).collect();
            for (first, last, _) in known {
                self.ahead.given_up.insert(first, last, &reason);
            }
        }
        Ok(())
    }

    /// Moves every moment until which an event is left alone, for all there are.
    pub fn move_dues(&mut self, moved: impl Fn(Millis) -> Millis) {
        let mut runs = Vec::new();
        for (due, set) in std::mem::take(&mut self.delayed.0).iter() {
            let due = moved(due);
            runs.extend(
                set.ranges(0, u64::MAX)
                    .map(|(first, last)| (first, last, due)),
            );
        }
        for (first, last, due) in runs {
            self.delayed.0.insert(first, last, due);
        }
        self.ahead.move_dues(moved);
        self.effects.arm(self.delayed.0.first());
    }

    fn with(mut self, stored: Stored) -> Result<Self, RestoreError> {
        let check = |sound: bool, what| {
            if sound {
                Ok(())
            } else {
                Err(RestoreError::Inconsistent(what))
            }
        };
        self.evaluated = stored.evaluated;
        self.next_fresh = stored.next_fresh;
        self.paused = stored.paused;
        for (first, last, attempts) in stored.attempts {
            check(self.is_pending(first, last), NOT_PENDING)?;
            check(self.tries.0.overlapping(first, last).is_empty(), TWICE)?;
            let tried = Tried {
                failed: attempts,
                handed: attempts,
            };
            self.tries.0.insert(first, last, tried);
        }
        for (first, last, due) in stored.delayed {
            check(self.is_pending(first, last), NOT_PENDING)?;
            check(self.delayed.0.overlapping(first, last).is_empty(), TWICE)?;
            self.delayed.0.insert(first, last, due);
        }
        let returned = self.tries.0.iter().map(|(_, set)| set);
        check(
            returned
                .chain(self.delayed.0.iter().map(|(_, set)| set))
                .chain([&self.suspects.all])
                .flat_map(|set| set.ranges(0, u64::MAX))
                .all(|(first, last)| self.pending.contains_range(first, last)),
            NOT_PENDING,
        )?;
        self.settle_given_up(&stored.given_up);
        let through = self.stages.iter().map(|stage| stage.through).min();
        check(
            through.unwrap_or(self.evaluated) == self.evaluated,
            "its filters are elsewhere",
        )?;
        let after = (self.chains.revision, self.evaluated.saturating_add(1));
        let places = self.chains.upcoming.iter();
        check(
            std::iter::once(after)
                .chain(places.map(|next| (next.revision, next.from)))
                .is_sorted_by(|before, next| before.0 < next.0 && before.1 < next.1),
            "its changes are out of order",
        )?;
        check(
            self.pending
                .ranges(0, u64::MAX)
                .all(|(first, last)| first >= self.start && last <= self.evaluated),
            "an undecided event is pending",
        )?;
        check(
            self.evaluated < u64::MAX && self.next_fresh <= self.evaluated + 1,
            "its cursor is ahead",
        )?;

        let suspected = self.suspects.all.ranges(0, u64::MAX).last();
        check(
            suspected.is_none_or(|(_, last)| last < self.next_fresh),
            "a suspect was never handed out",
        )?;
        // Whatever was handed out and is in no other place was in flight or ready.
        for (first, last) in self.sent_and_back().ranges(0, u64::MAX) {
            self.make_ready(first, last);
        }
        Ok(self)
    }

    // What is given up is pending and nowhere else, and what is delayed was handed out: earlier versions did not see to that.
    fn settle_given_up(&mut self, stored: &[(u64, u32, GiveUpReason)]) {
        self.given_up.keep_within(&self.pending);
        for (first, last) in self.given_up.all().ranges(0, u64::MAX) {
            self.delayed.remove(first, last);
            self.suspects.all.remove_range(first, last);
        }
        self.delayed.remove(self.next_fresh, u64::MAX);
        self.given_up_waiting = self.given_up.all().clone();
        for (position, attempts, _) in stored {
            let known = self.tries.0.contains(*position) || *attempts == 0;
            if !known && self.given_up.all().contains(*position) {
                let tried = Tried {
                    failed: *attempts,
                    handed: *attempts,
                };
                self.tries.insert(*position, *position, tried);
            }
        }
    }

    // Asked before anything is kept of a range, since a damaged one may be endless.
    fn is_pending(&self, first: u64, last: u64) -> bool {
        first <= last && self.pending.contains_range(first, last)
    }
}

const NOT_PENDING: &str = "a returned event is not pending";
const TWICE: &str = "an event came back twice";

fn read_classes<V: Copy + Ord>(
    values: &[V],
    bytes: &mut &[u8],
) -> Result<PositionsByValue<V>, RestoreError> {
    let mut classes = PositionsByValue::default();
    for value in values {
        if !classes.insert_set(*value, PositionSet::read(bytes)?) {
            return Err(RestoreError::Inconsistent(TWICE));
        }
    }
    Ok(classes)
}

// Those with a reason of their own, and those that share one.
fn read_reasons<'a>(
    exact: impl Iterator<Item = (u64, &'a GiveUpReason)>,
    shared: &[GiveUpReason],
    bytes: &mut &[u8],
) -> Result<Reasons, RestoreError> {
    let mut reasons = Reasons::default();
    for (position, reason) in exact {
        reasons.insert(position, position, reason);
    }
    for reason in shared {
        reasons.insert_shared(reason, &PositionSet::read(bytes)?);
    }
    Ok(reasons)
}

fn reasons_of(reasons: &Reasons) -> Vec<GiveUpReason> {
    reasons.shared().map(|(reason, _)| reason.clone()).collect()
}

impl StoredReasons {
    fn is_empty(&self) -> bool {
        self.given_up.is_empty() && self.failed.is_empty()
    }
}

impl StoredReturned {
    fn is_empty(&self) -> bool {
        self.tried.is_empty() && self.due.is_empty()
    }
}

impl StoredChains {
    fn of(chains: &FilterChanges) -> Self {
        let upcoming = chains.upcoming.iter().map(|next| {
            let stages = u8::try_from(next.stages).unwrap_or(u8::MAX);
            (next.revision, next.from, stages)
        });
        Self {
            revision: chains.revision,
            upcoming: upcoming.collect(),
        }
    }

    fn chains(self) -> FilterChanges {
        let upcoming = self.upcoming.into_iter();
        FilterChanges {
            revision: self.revision,
            upcoming: upcoming
                .map(|(revision, from, stages)| Upcoming {
                    revision,
                    from,
                    stages: usize::from(stages),
                })
                .collect(),
            ..FilterChanges::default()
        }
    }
}

/// What a snapshot says, however its sets are packed: everything before them, and their ranges with the number of the set.
#[cfg(test)]
pub(super) fn told(bytes: &[u8]) -> (&[u8], Vec<(usize, u64, u64)>) {
    let (version, rest) = bytes.split_first().expect("a version");
    let (_, mut rest) = postcard::take_from_bytes::<Stored>(rest).expect("a head");
    if *version >= CHAINS {
        (_, rest) = postcard::take_from_bytes::<StoredChains>(rest).expect("chains");
    }
    if *version >= RETURNED {
        (_, rest) = postcard::take_from_bytes::<StoredReturned>(rest).expect("classes");
    }
    if *version >= REASONS {
        (_, rest) = postcard::take_from_bytes::<StoredReasons>(rest).expect("reasons");
    }
    if *version >= AHEAD {
        (_, rest) = postcard::take_from_bytes::<StoredAhead>(rest).expect("ahead");
    }
    let (head, mut ranges) = (&bytes[..bytes.len() - rest.len()], Vec::new());
    for number in 0.. {
        if rest.is_empty() {
            break;
        }
        let set = PositionSet::read(&mut rest).expect("a set");
        let of_set = set.ranges(0, u64::MAX);
        ranges.extend(of_set.map(|(first, last)| (number, first, last)));
    }
    (head, ranges)
}
