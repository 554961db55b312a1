//! The broker's clock: time that never goes backwards while the process lives, whatever is done to the machine's clock, so that
//! deadlines come when they should; the monotonic time that it is reckoned from; and the time on the wall, read anew, for what
//! bears it: events, and whatever is kept beyond a restart. All come from here, and the first two from tokio's clock only, so a test
//! that pauses that, or moves a clock by hand, decides what time it is.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::domain::Millis;
use crate::locks::lock;

/// Started once; clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock {
    started: Instant,
    // Since the Unix epoch, when it was started.
    wall: Duration,
    by_hand: Option<Arc<Mutex<ByHand>>>,
}

// What was done to a clock that does not go by the machine's wall.
#[derive(Debug, Default)]
struct ByHand {
    /// How far it was moved, if it stands.
    moved: Option<Duration>,
    /// How far that on the wall is ahead of it.
    wall_ahead_ms: i64,
}

impl Clock {
    /// A clock that goes: with tokio's, which is the machine's unless a test has paused it.
    #[must_use]
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            started: tokio::time::Instant::now().into_std(),
            wall: since.unwrap_or_default(),
            by_hand: None,
        }
    }

    /// A clock that stands at this wall time until it is moved.
    #[must_use]
    pub fn standing_at(wall: Millis) -> Self {
        Self {
            started: tokio::time::Instant::now().into_std(),
            wall: Duration::from_millis(wall.0),
            by_hand: Some(Arc::new(Mutex::new(ByHand {
                moved: Some(Duration::ZERO),
                ..ByHand::default()
            }))),
        }
    }

    /// A clock that goes with tokio's from this wall time on, whatever the machine says that it is.
    #[must_use]
    pub fn going_from(wall: Millis) -> Self {
        Self {
            started: tokio::time::Instant::now().into_std(),
            wall: Duration::from_millis(wall.0),
            by_hand: Some(Arc::default()),
        }
    }

    /// Moves a clock that stands. One that goes stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(by_hand) = &self.by_hand
            && let Some(moved) = &mut lock(by_hand).moved
        {
            *moved += by;
        }
    }

    /// Sets the clock on the wall to so many milliseconds more or less, unless it is the machine's.
    pub fn turn_wall(&self, by_ms: i64) {
        if let Some(by_hand) = &self.by_hand {
            lock(by_hand).wall_ahead_ms += by_ms;
        }
    }

    /// Time since the Unix epoch, by what the wall said at the start.
    #[must_use]
    pub fn now(&self) -> Millis {
        let now = self.since_epoch();
        Millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }

    /// Wall time since the Unix epoch, as exactly as it is known.
    #[must_use]
    pub fn since_epoch(&self) -> Duration {
        self.wall.saturating_add(self.elapsed())
    }

    /// What the wall says now. It may have been set forward or back since it was asked last.
    #[must_use]
    pub fn wall(&self) -> Millis {
        if let Some(by_hand) = &self.by_hand {
            let ahead = lock(by_hand).wall_ahead_ms;
            return self.now().shifted(ahead);
        }
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default().as_millis();
        Millis(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// By how many milliseconds the wall is ahead of [`now`](Self::now).
    #[must_use]
    pub fn wall_ahead_ms(&self) -> i64 {
        let ahead = i128::from(self.wall().0) - i128::from(self.now().0);
        i64::try_from(ahead).unwrap_or_default()
    }

    /// Monotonic time.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.started + self.elapsed()
    }

    /// The instant at which [`now`](Self::now) reaches `at`.
    #[must_use]
    pub fn instant_of(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.0).saturating_sub(self.wall)
    }

    /// Waits until [`now`](Self::now) is later than `at`. Looks every hour, since a machine that sleeps may not count that time.
    pub async fn passed(&self, at: Millis) {
        const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
        while let Some(left) = at.0.checked_sub(self.now().0) {
            let left = Duration::from_millis(left.saturating_add(1));
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }

    fn elapsed(&self) -> Duration {
        let by_hand = self.by_hand.as_ref();
        let moved = by_hand.and_then(|by_hand| lock(by_hand).moved);
        moved.unwrap_or_else(|| tokio::time::Instant::now().into_std() - self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_stands_is_moved_by_hand_for_all_its_clones() {
        let clock = Clock::standing_at(Millis(1_000));
        let (clone, begin) = (clock.clone(), clock.instant());
        assert_eq!(clock.instant_of(Millis(1_000)), begin);
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clone.now(), Millis(2_500));
        assert_eq!(clone.instant(), begin + Duration::from_millis(1_500));
        assert_eq!(clone.instant_of(Millis(2_500)), clone.instant());
    }

    #[test]
    fn the_wall_is_set_and_deadlines_stay() {
        let clock = Clock::standing_at(Millis(100_000));
        clock.turn_wall(86_400_000);
        assert_eq!(clock.now(), Millis(100_000));
        assert_eq!(clock.wall(), Millis(86_500_000));
        clock.turn_wall(-86_460_000);
        assert_eq!(clock.wall_ahead_ms(), -60_000);
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.wall(), Millis(41_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_goes_from_a_time_has_a_wall_of_its_own() {
        let clock = Clock::going_from(Millis(100_000));
        let (clone, begin) = (clock.clone(), clock.instant());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(
            (clock.now(), clock.wall()),
            (Millis(110_000), Millis(110_000))
        );
        assert_eq!(clone.instant() - begin, Duration::from_secs(10));
        clock.turn_wall(-60_000);
        assert_eq!(
            (clone.now(), clone.wall()),
            (Millis(110_000), Millis(50_000))
        );
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), Millis(110_000));
        let another_life = Clock::going_from(clock.wall());
        assert_eq!(another_life.now(), Millis(50_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_goes_does_as_tokio_does() {
        let clock = Clock::start();
        let (wall, begin) = (clock.now(), clock.instant());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now(), wall.plus(3_600_000));
        assert_eq!(clock.instant() - begin, Duration::from_secs(3_600));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now(), wall.plus(3_600_000));
    }
}
