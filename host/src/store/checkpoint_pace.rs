//! The pace of a checkpoint. What it takes of the disk and the cores, publishers miss, so it takes what time there is: until the
//! journal, in which they go on writing, would be nearly full. Pure: clock and sizes are arguments.

use std::time::{Duration, Instant};

use crate::domain::Position;

/// How full the journal may be when a checkpoint is done. What is left is for publishers that become faster meanwhile.
const FULL_PERCENT: u64 = 90;
/// Longest rest: a checkpoint that is to be given up is, with the next step.
const REST_MAX: Duration = Duration::from_millis(250);
/// A rest is at most so many times what it follows: a checkpoint that takes for ever is none.
const REST_STEPS_MAX: f64 = 2.0;

/// A checkpoint under way, step by step: each is so many bytes of events.
#[derive(Debug)]
pub(super) struct Pace {
    first: Position,
    last: Position,
    /// Bytes that the journal may have at the end.
    bytes_max: u64,
    began: Instant,
    began_bytes: u64,
    step_began: Instant,
    /// Time that went into steps, without the rests.
    worked: Duration,
}

impl Pace {
    /// A checkpoint of the events from `first` to `last` begins, while the journal has `bytes` of the `bytes_max` with which
    /// it is full.
    pub(super) fn begin(
        now: Instant,
        (first, last): (Position, Position),
        bytes: u64,
        bytes_max: u64,
    ) -> Self {
        Self {
            first,
            last,
            bytes_max: bytes_max / 100 * FULL_PERCENT,
            began: now,
            began_bytes: bytes,
            step_began: now,
            worked: Duration::ZERO,
        }
    }

    /// It is done with the events through `through`, and the journal has `bytes` by now. Returns how long to rest before the
    /// next step begins.
    pub(super) fn step_done(&mut self, now: Instant, through: Position, bytes: u64) -> Duration {
        let step = now - self.step_began;
        self.worked += step;
        let done = through.0.saturating_sub(self.first.0) + 1;
        let all = self.last.0.saturating_sub(self.first.0) + 1;
        let work_left = self.worked.as_secs_f64() * (all as f64 / done as f64 - 1.0).max(0.0);
        let written = bytes.saturating_sub(self.began_bytes) as f64;
        let room = self.bytes_max.saturating_sub(bytes) as f64;
        let time_left = room / written * (now - self.began).as_secs_f64();
        let rest = match written > 0.0 && work_left > 0.0 {
            // Nobody writes, so there is nobody to give way to; or it is as good as done.
            false => 0.0,
            true => (time_left / work_left - 1.0).clamp(0.0, REST_STEPS_MAX),
        };
        let rest = step.mul_f64(rest).min(REST_MAX);
        self.step_began = now + rest;
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const JOURNAL_BYTES_MAX: u64 = 4_000;

    // A checkpoint of half of a full journal in 100 steps, each of which takes `step`, while publishers write so many bytes in a
    // millisecond. Returns how full the journal was in the end, and how long it took.
    fn run(step: Duration, bytes_per_millisecond: u64) -> (u64, Duration) {
        let (begin, bytes) = (Instant::now(), JOURNAL_BYTES_MAX / 2);
        let mut now = begin;
        let events = (Position(1), Position(100));
        let mut pace = Pace::begin(now, events, bytes, JOURNAL_BYTES_MAX);
        let written = |now: Instant| (now - begin).as_millis() as u64 * bytes_per_millisecond;
        for number in 1..=100 {
            now += step;
            let rest = pace.step_done(now, Position(number), bytes + written(now));
            assert!(rest <= REST_MAX);
            now += rest;
        }
        (bytes + written(now), now - begin)
    }

    #[test]
    fn nobody_is_given_way_to_when_nobody_writes() {
        assert_eq!(run(5 * MILLISECOND, 0).1, 500 * MILLISECOND);
    }

    #[test]
    fn it_takes_the_time_until_the_journal_is_nearly_full() {
        // It could be done when 600 bytes are written; 1,600 is what there is room for.
        let (bytes, _) = run(6 * MILLISECOND, 1);
        assert!((3_400..=3_600).contains(&bytes), "{bytes}");
    }

    #[test]
    fn it_does_not_rest_for_ever_for_a_slow_publisher() {
        let now = Instant::now();
        let events = (Position(1), Position(100));
        let mut pace = Pace::begin(now, events, 0, JOURNAL_BYTES_MAX);
        let rest = pace.step_done(now + 5 * MILLISECOND, Position(1), 1);
        assert_eq!(rest, 10 * MILLISECOND);
        let rest = pace.step_done(now + 5_000 * MILLISECOND, Position(2), 2);
        assert_eq!(rest, REST_MAX);
    }

    #[test]
    fn it_does_not_rest_when_publishers_are_faster() {
        assert_eq!(run(20 * MILLISECOND, 1).1, 2_000 * MILLISECOND);
    }

    #[test]
    fn a_step_of_nothing_known_is_no_reason_to_rest() {
        let now = Instant::now();
        let mut pace = Pace::begin(now, (Position(5), Position(5)), 0, 0);
        assert_eq!(pace.step_done(now, Position(5), 0), Duration::ZERO);
        assert_eq!(pace.step_done(now, Position(1), 10), Duration::ZERO);
    }
}
