//! How large batches may be and how many small ones may be under way, by the path to the broker. Pure.

use std::time::Duration;

use tidegate_wire::stream::LONG_PATH;

/// Small batches of one topic that may be unanswered at once when the broker is not near; the next waits for an answer, and
/// fills meanwhile. The broker answers a group of batches together, so more small ones would not be faster, only dearer.
pub(super) const SMALL_IN_FLIGHT: usize = 8;

/// Of longer round trips than eight times this, one small batch more for each of it: where answers are seconds away, a lost packet
/// holds up eight batches for as long, and events would wait for them that could be on their way.
const SMALL_EVERY: Duration = Duration::from_micros(2_500);

/// However long the round trip is: as many batches as a broker lets be unanswered by default.
const SMALL_IN_FLIGHT_MAX: usize = 256;

/// A broker whose round trip is shorter than this is near: about what a commit takes on a slow disk. There, one small batch
/// at a time is under way. An event waits at most a round trip longer, and mostly for a group that it would have missed
/// anyway; in return, groups for a single event do not stand before full batches.
const NEAR_ROUND_TRIP: Duration = Duration::from_millis(1);

/// A path that is not near carries so many batches at a time at least: they are answered whole, and nobody should wait for the last
/// byte of a batch to hear of the first.
const PATH_BATCHES: usize = 4;

/// Batches are not made smaller than this for the sake of a slow path: heads and answers would be much of what it carries. A
/// connection that has just begun has as much under way.
const PATH_BYTES_LEAST: usize = 8 * 1024;

/// How often answers come between two looks at a path that is not long: what it is like is a mean over many packets, and each look takes
/// a lock that whoever sends and receives needs as well. On a long path a round trip brings few answers, and the window may have doubled
/// from one to the next.
const ANSWERS_PER_LOOK: u32 = 8;

/// How often answers come between two looks at a path of this round trip.
pub(super) fn answers_per_look(round_trip: Duration) -> u32 {
    match round_trip < LONG_PATH {
        true => ANSWERS_PER_LOOK,
        false => 1,
    }
}

/// Small batches of one topic that may be under way at once.
pub(crate) fn small_batches_max(round_trip: Duration) -> usize {
    match round_trip < NEAR_ROUND_TRIP {
        true => 1,
        false => {
            let several = round_trip.as_micros() / SMALL_EVERY.as_micros();
            let several = usize::try_from(several).unwrap_or(usize::MAX);
            several.clamp(SMALL_IN_FLIGHT, SMALL_IN_FLIGHT_MAX)
        }
    }
}

/// Bytes of a batch on a path of this round trip, when it is worth handing so many to it at a time.
pub(crate) fn batch_bytes_max(round_trip: Duration, send_window: usize) -> usize {
    match round_trip < NEAR_ROUND_TRIP {
        true => usize::MAX,
        false => (send_window / PATH_BATCHES).max(PATH_BYTES_LEAST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_looked_at_with_every_answer() {
        for (round_trip_ms, answers) in [(0, 8), (7, 8), (8, 1), (600, 1)] {
            let found = answers_per_look(Duration::from_millis(round_trip_ms));
            assert_eq!(found, answers, "{round_trip_ms} ms");
        }
    }
}
