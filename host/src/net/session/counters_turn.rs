//! When a connection's counters are told next, over all of its measure streams: to look at them holds up the connection.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::locks::lock;

/// Counters are told once in this time at most, on all streams of a connection together. Who asks more often waits, with its own measure
/// streams only, and nothing runs while nobody asks; there is no state that this could wait for instead.
const COUNTERS_EVERY: Duration = Duration::from_millis(10);

/// From when the counters of one connection may be told to whoever asks next. Who has asked first is told first.
#[derive(Default)]
pub(super) struct CountersTurn(Mutex<Option<Instant>>);

impl CountersTurn {
    /// Waits for the turn, then counts. Cancel-safe: the turn of who waits no more passes like others.
    pub(super) async fn of<T>(&self, count: impl FnOnce() -> T) -> T {
        let turn = self.take(Instant::now());
        sleep_until(turn).await;
        count()
    }

    fn take(&self, now: Instant) -> Instant {
        let mut next = lock(&self.0);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + COUNTERS_EVERY);
        turn
    }
}
