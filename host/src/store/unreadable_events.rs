//! The unreadable events: which stored events could not be read lately, so that nobody pays for asking again. Until it is time
//! for another try, which comes at growing intervals, the answer is the one that was found, for all events that are known to share
//! it. What is here is shown to the operator; nothing here reads.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::error::ReadError;
use crate::domain::Position;
use crate::locks::lock;
use crate::runtime::Clock;

/// The longest time between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(60);
// Stretches that are remembered. The oldest gives way; who asks for it tries again.
const KNOWN_MAX: usize = 1024;

/// Where events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Journal,
    /// A part of a generation.
    Part {
        generation: u64,
        part: usize,
    },
}

/// A stretch of positions whose events cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The file or database.
    pub path: PathBuf,
    /// First position.
    pub first: Position,
    /// Last position. Not each one in between need be an event of it.
    pub last: Position,
    /// What was said.
    pub why: Arc<ReadError>,
}

/// All that are known.
pub(super) struct UnreadableEvents {
    known: Mutex<Vec<Trouble>>,
    /// How often something was [forgotten](Self::forget). Changed under the lock.
    forgotten: AtomicU64,
    pause_min: Duration,
    clock: Clock,
}

struct Trouble {
    holder: Holder,
    unreadable: Unreadable,
    pause: Duration,
    again: Instant,
}

impl Trouble {
    fn covers(&self, holder: Holder, position: Position) -> bool {
        let Unreadable { first, last, .. } = self.unreadable;
        self.holder == holder && first <= position && position <= last
    }
}

impl Unreadable {
    fn error(&self) -> ReadError {
        ReadError::Unreadable {
            path: self.path.clone(),
            first: self.first,
            last: self.last,
            source: self.why.clone(),
        }
    }
}

impl UnreadableEvents {
    /// The first pause is this long.
    pub(super) fn new(pause_min: Duration, clock: Clock) -> Self {
        Self {
            known: Mutex::default(),
            forgotten: AtomicU64::new(0),
            pause_min,
            clock,
        }
    }

    /// To be asked before it is looked for where events are, so that what is [found](Self::found) there counts only as long as
    /// nothing was decided about it meanwhile.
    pub(super) fn since(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// What reading there would come to, while it is too early to try again.
    pub(super) fn known(&self, holder: Holder, position: Position) -> Option<ReadError> {
        let known = self.lock();
        let trouble = known.iter().find(|one| one.covers(holder, position))?;
        (trouble.again > self.clock.instant()).then(|| trouble.unreadable.error())
    }

    /// Another try failed as well. `None` when there was none before: then the caller finds out how far it reaches, and says
    /// so with [`found`](Self::found).
    pub(super) fn failed_again(
        &self,
        holder: Holder,
        position: Position,
        why: &ReadError,
    ) -> Option<ReadError> {
        let mut known = self.lock();
        let trouble = known.iter_mut().find(|one| one.covers(holder, position))?;
        trouble.pause = trouble.pause.saturating_mul(2).min(PAUSE_MAX);
        trouble.again = self.clock.instant() + trouble.pause;
        trouble.unreadable.why = Arc::new(why.clone());
        Some(trouble.unreadable.error())
    }

    /// These events cannot be read. It is remembered unless something was forgotten [since](Self::since), which may have been just
    /// this: then whoever asks again finds out again.
    pub(super) fn found(
        &self,
        holder: Holder,
        path: &Path,
        positions: RangeInclusive<Position>,
        why: ReadError,
        since: u64,
    ) -> ReadError {
        let unreadable = Unreadable {
            path: path.to_owned(),
            first: *positions.start(),
            last: *positions.end(),
            why: Arc::new(why),
        };
        let error = unreadable.error();
        let mut known = self.lock();
        if self.since() != since {
            return error;
        }
        if known.len() >= KNOWN_MAX {
            known.remove(0);
        }
        reached!(Unreadable);
        known.push(Trouble {
            holder,
            unreadable,
            pause: self.pause_min,
            again: self.clock.instant() + self.pause_min,
        });
        error
    }

    /// What is there can be read, as it turns out.
    pub(super) fn went_well(&self, holder: Holder, position: Position) {
        self.lock().retain(|one| !one.covers(holder, position));
    }

    /// The first event of a stretch that nobody has tried to read for a whole pause since it was time to, if there is one: perhaps nobody
    /// needs it any more, and then nobody finds out that it can be read again.
    pub(super) fn overdue(&self) -> Option<Position> {
        let now = self.clock.instant();
        let known = self.lock();
        let mut overdue = known.iter().filter(|one| one.again + one.pause <= now);
        overdue.next().map(|one| one.unreadable.first)
    }

    /// Forgets those of which this is so.
    pub(super) fn forget(&self, is_over: impl Fn(Holder, &Unreadable) -> bool) {
        let mut known = self.lock();
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        known.retain(|one| !is_over(one.holder, &one.unreadable));
    }

    /// All of them, in order of position.
    pub(super) fn list(&self) -> Vec<(Holder, Unreadable)> {
        let known = self.lock();
        let mut list: Vec<_> = known
            .iter()
            .map(|one| (one.holder, one.unreadable.clone()))
            .collect();
        list.sort_by_key(|(_, unreadable)| unreadable.first);
        list
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Trouble>> {
        lock(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Millis;

    fn damage() -> ReadError {
        ReadError::damaged(Path::new("part"), "an item")
    }

    const PART: Holder = Holder::Part {
        generation: 1,
        part: 0,
    };

    fn one(pause_min: Duration) -> UnreadableEvents {
        let troubles = UnreadableEvents::new(pause_min, Clock::standing_at(Millis(0)));
        let range = Position(5)..=Position(9);
        troubles.found(PART, Path::new("part"), range, damage(), 0);
        troubles
    }

    #[test]
    fn what_was_read_before_a_decision_is_not_noted_after_it() {
        let troubles = one(Duration::from_secs(3600));
        let since = troubles.since();
        troubles.forget(|holder, _| holder == PART);
        let found = |since| {
            let range = Position(5)..=Position(9);
            troubles.found(PART, Path::new("part"), range, damage(), since)
        };
        // Whoever read it is told all the same.
        assert!(matches!(found(since), ReadError::Unreadable { .. }));
        assert!(troubles.list().is_empty());
        found(troubles.since());
        assert_eq!(troubles.list().len(), 1);
    }

    #[test]
    fn what_is_known_is_answered_for_all_events_that_share_it() {
        let troubles = one(Duration::from_secs(3600));
        for position in [5, 7, 9] {
            let known = troubles.known(PART, Position(position));
            assert!(matches!(
                known,
                Some(ReadError::Unreadable {
                    first: Position(5),
                    last: Position(9),
                    ..
                })
            ));
        }
        for (holder, position) in [(PART, 4), (PART, 10), (Holder::Journal, 7)] {
            assert!(troubles.known(holder, Position(position)).is_none());
        }
        troubles.went_well(PART, Position(6));
        assert!(troubles.known(PART, Position(7)).is_none());
        assert!(troubles.list().is_empty());
    }

    #[test]
    fn when_it_is_time_it_is_tried_again_and_stays_known_until_it_goes_well() {
        let troubles = one(Duration::from_secs(1));
        assert!(troubles.known(PART, Position(7)).is_some());
        troubles.clock.advance(Duration::from_secs(1));
        assert!(troubles.known(PART, Position(7)).is_none());
        assert_eq!(troubles.overdue(), None, "whoever needs it tries first");
        let again = troubles.failed_again(PART, Position(7), &damage());
        assert!(again.is_some(), "the same stretch");
        assert_eq!(troubles.list().len(), 1);
        troubles.clock.advance(Duration::from_secs(1));
        let known = || troubles.known(PART, Position(7)).is_some();
        assert!(known(), "each pause is twice as long");
        troubles.clock.advance(Duration::from_secs(1));
        assert!(!known());
        troubles.clock.advance(Duration::from_secs(2));
        assert_eq!(troubles.overdue(), Some(Position(5)));
        assert!(
            troubles
                .failed_again(PART, Position(10), &damage())
                .is_none()
        );
        for position in 10..2000 {
            let range = Position(position)..=Position(position);
            troubles.found(PART, Path::new("part"), range, damage(), 0);
        }
        assert_eq!(troubles.list().len(), KNOWN_MAX);
    }
}
