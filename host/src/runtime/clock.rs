//! The broker's clock: wall time that never goes backwards while the process lives, so that a deadline set
//! before somebody turned the machine's clock back still comes.

use std::time::{Duration, Instant, SystemTime};

use crate::domain::Millis;

/// Started once; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    wall: Millis,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            started: Instant::now(),
            wall: Millis(wall.as_millis() as u64),
        }
    }

    pub(crate) fn now(&self) -> Millis {
        self.wall.plus(self.started.elapsed().as_millis() as u64)
    }

    /// The instant at which [`now`](Self::now) reaches `at`.
    pub(crate) fn instant(&self, at: Millis) -> Instant {
        self.started + Duration::from_millis(at.0.saturating_sub(self.wall.0))
    }
}
