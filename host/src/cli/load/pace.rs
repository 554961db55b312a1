//! Says when the next event of a fixed rate is due.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::run::Run;

/// Intended send times that a late publisher may be behind before the pacing itself waits. It is never reached before the run is
/// useless anyway.
const QUEUE_MAX: usize = 1 << 20;
/// Events per second of a publisher up to which each is sent as exactly as the kernel can.
const PRECISE_RATE_MAX: u64 = 10_000;
/// How long before it sends one of those a publisher wakes up and watches the clock: longer than a core of a virtual machine
/// mostly takes for it. At most a part of the time between two events of all publishers, so that no core is kept busy with it.
const AWAKE_BEFORE: Duration = Duration::from_micros(150);
const AWAKE_PART: u32 = 5;

/// How fast a publisher is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Its events per second; at least 1.
    pub per_second: u64,
    /// How many publishers there are of this rate.
    pub publishers: u64,
}

impl Rate {
    // How long before an event is due it is called.
    fn early(self) -> Duration {
        if self.per_second > PRECISE_RATE_MAX {
            return Duration::ZERO;
        }
        let all = self.per_second.saturating_mul(self.publishers).max(1);
        let interval = Duration::from_secs(1) / u32::try_from(all).unwrap_or(u32::MAX);
        AWAKE_BEFORE.min(interval / AWAKE_PART)
    }
}

/// Intended send times, in microseconds of the run's clock, each somewhat before it comes; until the run drains.
///
/// On a thread of its own, since the runtime's timer ticks in milliseconds, which is what is to be measured. At rates up to
/// `PRECISE_RATE_MAX` it calls early: a thread that sleeps wakes up late, by up to 50 µs since the kernel saves wake-ups, and by
/// what the core takes for it, once here and once in the publisher. The rest is for [`Run::wait_awake`]. At higher rates being
/// late is welcome: events go out in small bursts.
pub(super) fn pace(run: Arc<Run>, rate: Rate) -> mpsc::Receiver<u64> {
    let (intended, due) = mpsc::channel(QUEUE_MAX);
    std::thread::spawn(move || {
        let early = rate.early();
        if !early.is_zero() {
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        let begin = run.clock() + early;
        for number in 0_u64.. {
            let at = begin + Duration::from_secs_f64(number as f64 / rate.per_second as f64);
            std::thread::sleep(at.saturating_sub(run.clock() + early));
            // The receiver is gone when the publisher failed.
            if !run.is_publishing() || intended.blocking_send(at.as_micros() as u64).is_err() {
                return;
            }
        }
    });
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load::Phase;

    #[test]
    fn watching_the_clock_takes_a_part_of_a_core_at_most() {
        let early = |per_second, publishers| {
            Rate {
                per_second,
                publishers,
            }
            .early()
        };
        assert_eq!(early(1, 1), AWAKE_BEFORE);
        assert_eq!(early(10_000, 1), Duration::from_micros(20));
        assert_eq!(early(1_000, 10), Duration::from_micros(20));
        assert_eq!(early(10_001, 1), Duration::ZERO);
        assert_eq!(early(10_000, u64::MAX), Duration::ZERO);
    }

    #[tokio::test]
    async fn events_are_due_at_even_intervals_until_the_run_drains() {
        let run = Run::new();
        let rate = Rate {
            per_second: 2_000,
            publishers: 1,
        };
        let mut due = pace(Arc::clone(&run), rate);
        let mut times = Vec::new();
        for _ in 0..10 {
            times.push(due.recv().await.expect("paced"));
        }
        let intervals = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(
            intervals.into_iter().all(|us| (499..=501).contains(&us)),
            "{times:?}"
        );
        run.enter(Phase::Drain);
        while due.recv().await.is_some() {}
    }
}
