//! A subscription's state as bytes, for checkpoints. Consumers and what they hold are not part of it: after a
//! restart everything in flight is deliverable again, with the attempts it had before.
//!
//! Layout: version (1 byte), the postcard form of [`Stored`], from version 2 on that of [`StoredChains`], then the
//! position sets in roaring's portable format: pending, acked ahead, and one per stage. A subscription whose
//! filters were never changed is written as version 1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chains::{Chains, Upcoming};
use super::{Delayed, GiveUpReason, GivenUpEntry, Stage, SubscriptionState};
use crate::broker::positions::PositionSet;
use crate::broker::ranges::RangeMap;
use crate::domain::{DeliveryPolicy, Millis, Position};

/// Filters that were never changed.
const FIRST_CHAIN: u8 = 1;
/// With the chain that judges and those after it.
const CHAINS: u8 = 2;

/// Why the bytes are not a subscription's state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version.
    #[error(
        "the subscription's state has version {0}, this broker reads {FIRST_CHAIN} and {CHAINS}; start the version that wrote it"
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

impl SubscriptionState {
    /// The state as bytes. Counters since the start of the broker are not part of it.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let stored = Stored {
            start: self.start,
            evaluated: self.evaluated,
            stages_through: self.stages.iter().map(|stage| stage.through).collect(),
            next_fresh: self.next_fresh,
            attempts: self.attempts.iter().collect(),
            delayed: self.delayed.by_position.iter().collect(),
            given_up: self
                .given_up
                .iter()
                .map(|(position, entry)| (*position, entry.attempts, entry.reason.clone()))
                .collect(),
            failed: self
                .failed
                .iter()
                .map(|(position, reason)| (*position, reason.clone()))
                .collect(),
            paused: self.paused.clone(),
        };
        let changed = self.chains.revision > 0 || !self.chains.upcoming.is_empty();
        let version = if changed { CHAINS } else { FIRST_CHAIN };
        let mut bytes = postcard::to_extend(&stored, vec![version])
            .expect("plain numbers and texts always serialize into a Vec");
        if changed {
            bytes = postcard::to_extend(&StoredChains::of(&self.chains), bytes)
                .expect("plain numbers always serialize into a Vec");
        }
        let sets = [&self.pending, &self.acked_ahead];
        for set in sets
            .into_iter()
            .chain(self.stages.iter().map(|stage| &stage.candidates))
        {
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
        if ![FIRST_CHAIN, CHAINS].contains(version) {
            return Err(RestoreError::Version(*version));
        }
        let (stored, mut rest) = postcard::take_from_bytes::<Stored>(bytes)?;
        let mut chains = Chains::default();
        if *version == CHAINS {
            let (stored, after) = postcard::take_from_bytes::<StoredChains>(rest)?;
            (chains, rest) = (stored.chains(), after);
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
        let state = Self {
            pending,
            acked_ahead,
            stages: candidates,
            chains,
            ..Self::new(policy, Position(stored.start), 0)
        };
        state.with(stored)
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
        self.attempts = self.ranges_of_pending(&stored.attempts)?;
        self.delayed = Delayed {
            by_position: self.ranges_of_pending(&stored.delayed)?,
            by_due: stored
                .delayed
                .iter()
                .map(|(first, last, due)| (*due, *first, *last))
                .collect(),
        };
        for (position, attempts, reason) in stored.given_up {
            check(
                self.pending.contains(position),
                "a given-up event is not pending",
            )?;
            self.given_up
                .insert(position, GivenUpEntry { attempts, reason });
        }
        self.given_up_waiting = self.given_up.keys().copied().collect::<BTreeSet<_>>();
        self.failed = stored.failed.into_iter().collect::<BTreeMap<_, _>>();
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

        // Whatever was handed out and is in no other place was in flight or ready.
        if let Some(last) = self.next_fresh.checked_sub(1) {
            let sent: Vec<(u64, u64)> = self.pending.ranges(0, last).collect();
            for (first, last) in sent {
                self.ready.insert_range(first, last);
            }
        }
        for (first, last, _) in self.delayed.by_position.iter() {
            check(
                last < self.next_fresh,
                "a delayed event was never handed out",
            )?;
            self.ready.remove_range(first, last);
        }
        for position in self.given_up.keys() {
            check(
                self.delayed.by_position.get(*position).is_none(),
                "a given-up event is delayed",
            )?;
            self.ready.remove_range(*position, *position);
        }
        Ok(self)
    }

    // Checks that the ranges rise and cover pending positions only.
    fn ranges_of_pending<V: Copy + PartialEq>(
        &self,
        stored: &[(u64, u64, V)],
    ) -> Result<RangeMap<V>, RestoreError> {
        let mut ranges = RangeMap::default();
        let mut after = 0;
        for (first, last, value) in stored.iter().copied() {
            let pending = first >= after
                && first <= last
                && last <= self.evaluated
                && self.pending.contains_range(first, last);
            if !pending {
                return Err(RestoreError::Inconsistent(
                    "a returned event is not pending",
                ));
            }
            ranges.insert(first, last, value);
            after = last.saturating_add(1);
        }
        Ok(ranges)
    }
}

impl StoredChains {
    fn of(chains: &Chains) -> Self {
        let upcoming = chains.upcoming.iter().map(|next| {
            let stages = u8::try_from(next.stages).unwrap_or(u8::MAX);
            (next.revision, next.from, stages)
        });
        Self {
            revision: chains.revision,
            upcoming: upcoming.collect(),
        }
    }

    fn chains(self) -> Chains {
        let upcoming = self.upcoming.into_iter();
        Chains {
            revision: self.revision,
            upcoming: upcoming
                .map(|(revision, from, stages)| Upcoming {
                    revision,
                    from,
                    stages: usize::from(stages),
                })
                .collect(),
            ..Chains::default()
        }
    }
}
