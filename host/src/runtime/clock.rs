//! The broker's clock: wall time that never goes backwards while the process lives, so that a deadline set before somebody turned
//! the machine's clock back still comes, and the monotonic time that it is reckoned from. Both come from here and from tokio's
//! clock only, so a test that pauses that, or moves a clock by hand, decides what time it is.

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
    by_hand: Option<Arc<Mutex<Duration>>>,
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
            by_hand: Some(Arc::default()),
        }
    }

    /// Moves a clock that stands. One that goes stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Some(elapsed) = &self.by_hand {
            *lock(elapsed) += by;
        }
    }

    /// Wall time.
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

    fn elapsed(&self) -> Duration {
        match &self.by_hand {
            None => tokio::time::Instant::now().into_std() - self.started,
            Some(elapsed) => *lock(elapsed),
        }
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
