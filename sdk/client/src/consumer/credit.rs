//! The application's side of credit: what it took, given back to the broker in pieces. Pure, but for the pieces, which go to the
//! driver.

use tidegate_wire::limits::FRAME_BYTES_MAX;

use super::shared::Shared;
use crate::options::{
    CREDIT_BYTES, CREDIT_BYTES_GROWN, CREDIT_EVENTS, CREDIT_EVENTS_GROWN, ConsumerOptions,
};

/// The consumer's side of credit: what the application took, given back in pieces.
#[derive(Clone, Debug)]
pub(super) struct Credit {
    /// What the broker has at first, and at most, where more is of use.
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) events_grown: u64,
    pub(super) bytes_grown: u64,
    taken_events: u64,
    taken_bytes: u64,
    /// The stream that delivered what was taken.
    generation: u64,
    /// So little credit that the broker could be waiting for each bit of it.
    scarce: bool,
}

impl Credit {
    pub(super) fn new(options: &ConsumerOptions) -> Self {
        let bounds = |given: u64, first, grown| match given {
            0 => (first, grown),
            given => (given, given),
        };
        let (events, events_grown) =
            bounds(options.credit_events, CREDIT_EVENTS, CREDIT_EVENTS_GROWN);
        let (bytes, bytes_grown) = bounds(options.credit_bytes, CREDIT_BYTES, CREDIT_BYTES_GROWN);
        Self {
            events,
            bytes,
            events_grown,
            bytes_grown,
            taken_events: 0,
            taken_bytes: 0,
            generation: 0,
            scarce: bytes < 2 * FRAME_BYTES_MAX as u64,
        }
    }

    /// The application took a delivery of `bytes`. Half of the credit is given back at once: rarely enough to be
    /// cheap, and early enough that the broker never runs dry.
    pub(super) fn taken(&mut self, generation: u64, bytes: u64, shared: &Shared) {
        if generation != self.generation {
            // A new stream started with its own full credit.
            (self.generation, self.taken_events, self.taken_bytes) = (generation, 0, 0);
        }
        self.taken_events += 1;
        self.taken_bytes += bytes;
        if self.taken_events * 2 >= self.events || self.taken_bytes * 2 >= self.bytes {
            self.give_back(shared);
        }
    }

    /// The application waits. Gives back all there is, when the broker may be waiting for it too.
    pub(super) fn give_back_when_idle(&mut self, shared: &Shared) {
        if self.scarce && self.taken_events > 0 {
            self.give_back(shared);
        }
    }

    fn give_back(&mut self, shared: &Shared) {
        {
            let mut state = shared.state();
            if state.generation == self.generation {
                state.taken_events += self.taken_events;
                state.taken_bytes += self.taken_bytes;
            }
        }
        (self.taken_events, self.taken_bytes) = (0, 0);
        shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_never_grows() {
        let bounds = |options: &ConsumerOptions| {
            let credit = Credit::new(options);
            [
                (credit.events, credit.events_grown),
                (credit.bytes, credit.bytes_grown),
            ]
        };
        let by_path = [(4_096, 65_536), (8 << 20, 32 << 20)];
        assert_eq!(bounds(&ConsumerOptions::default()), by_path);
        let chosen = ConsumerOptions {
            credit_events: 10_000,
            ..ConsumerOptions::default()
        };
        assert_eq!(bounds(&chosen), [(10_000, 10_000), by_path[1]]);
        let few = ConsumerOptions {
            credit_events: 1,
            credit_bytes: 1,
            ..ConsumerOptions::default()
        };
        assert_eq!(bounds(&few), [(1, 1); 2]);
    }
}
