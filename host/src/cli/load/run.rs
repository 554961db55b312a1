//! What all tasks of one load share: its clock, its phases, the window that is measured, and the counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Load runs, nothing counts.
    WarmUp,
    /// Load runs and counts.
    Measure,
    /// Publishers are done; consumers take what is left.
    Drain,
    /// Everybody stops.
    Done,
}

/// One run of a load, shared by its tasks. Counters are statistics, so relaxed ordering is enough throughout.
#[derive(Debug)]
pub struct Run {
    started: Instant,
    /// Microseconds of the clock between which an event must be meant to be sent to count for latency; `u64::MAX` when unknown
    /// yet.
    window: [AtomicU64; 2],
    answered: AtomicU64,
    received: AtomicU64,
    wanted: AtomicU64,
    phase: watch::Sender<Phase>,
}

/// What a run has done so far, over all tasks and phases.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Events answered.
    pub answered: u64,
    /// Deliveries that were acked, wanted or not.
    pub received: u64,
    /// Deliveries that a consumer wanted.
    pub wanted: u64,
}

impl Run {
    /// A run that starts now, in its warm-up.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            window: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            answered: AtomicU64::new(0),
            received: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::WarmUp),
        })
    }

    /// Goes on to `phase`.
    pub fn enter(&self, phase: Phase) {
        match phase {
            Phase::Measure => self.window[0].store(self.now_us(), Ordering::Relaxed),
            Phase::Drain => self.window[1].store(self.now_us(), Ordering::Relaxed),
            Phase::WarmUp | Phase::Done => {}
        }
        self.phase.send_replace(phase);
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            answered: self.answered.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            wanted: self.wanted.load(Ordering::Relaxed),
        }
    }

    /// Waits until `due` deliveries have been acked, and returns how many are missing when none came for `stalled_after`: 0 if
    /// all is well. Looks every `poll`. Cancel-safe.
    pub async fn wait_received(&self, due: u64, poll: Duration, stalled_after: Duration) -> u64 {
        let mut last = (0, Instant::now());
        loop {
            let received = self.counts().received;
            let missing = due.saturating_sub(received);
            if missing == 0 || last.1.elapsed() > stalled_after {
                return missing;
            }
            if received != last.0 {
                last = (received, Instant::now());
            }
            tokio::time::sleep(poll).await;
        }
    }

    /// Microseconds of its clock.
    pub(super) fn now_us(&self) -> u64 {
        self.clock().as_micros() as u64
    }

    /// The same as a duration.
    pub(super) fn clock(&self) -> Duration {
        self.started.elapsed()
    }

    /// Watches the clock until then, so that whoever waits is at work when it comes. Other tasks go on in between.
    pub(super) async fn wait_awake(&self, until_us: u64) {
        while self.now_us() < until_us {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn is_publishing(&self) -> bool {
        *self.phase.borrow() < Phase::Drain
    }

    /// Whether an event that was meant to be sent then counts for latency.
    pub(super) fn is_measured(&self, sent_us: u64) -> bool {
        let [from, to] = &self.window;
        (from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed)).contains(&sent_us)
    }

    /// Resolves once the run is done.
    pub(super) async fn done(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as this does.
        let _ = phase.wait_for(|phase| *phase == Phase::Done).await;
    }

    pub(super) fn add_answered(&self, events: u64) {
        self.answered.fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_wanted(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_sent_inside_the_window_count() {
        let run = Run::new();
        assert!(!run.is_measured(run.now_us()));
        run.enter(Phase::Measure);
        let inside = run.now_us();
        assert!(run.is_measured(inside));
        while run.now_us() == inside {
            std::hint::spin_loop();
        }
        run.enter(Phase::Drain);
        assert!(run.is_measured(inside));
        assert!(!run.is_measured(run.now_us() + 1));
        assert!(!run.is_publishing());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_missing() {
        let run = Run::new();
        run.add_received();
        let second = Duration::from_secs(1);
        assert_eq!(run.wait_received(1, second, second).await, 0);
        assert_eq!(run.wait_received(3, second, Duration::ZERO).await, 2);
    }
}
