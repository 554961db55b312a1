//! Log lines about what may happen to every event: the first is written at once, and what follows within a second is counted
//! into the next one. A rule that fails on each of a hundred thousand events a second must not fill the disk with its
//! complaints; the dead letters and the metrics have every one.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::locks::lock;

const QUIET: Duration = Duration::from_secs(1);

/// One kind of line about one thing.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written: Option<Instant>,
    unsaid: u64,
}

impl LogLimit {
    /// It happened `events` times more. Returns how often it happened since the last line, if a line is to be written now.
    pub(crate) fn admit(&self, events: u64) -> Option<u64> {
        self.admit_at(events, Instant::now())
    }

    fn admit_at(&self, events: u64, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        state.unsaid += events;
        let is_quiet = |written: Instant| now.saturating_duration_since(written) < QUIET;
        if state.unsaid == 0 || state.written.is_some_and(is_quiet) {
            return None;
        }
        state.written = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_the_rest_once_a_second() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(limit.admit_at(0, at(0)), None);
        assert_eq!(limit.admit_at(2, at(0)), Some(2));
        assert_eq!(limit.admit_at(5, at(1)), None);
        assert_eq!(limit.admit_at(1, at(999)), None);
        assert_eq!(limit.admit_at(1, at(1_000)), Some(7));
        assert_eq!(limit.admit_at(1, at(2_500)), Some(1));
    }
}
