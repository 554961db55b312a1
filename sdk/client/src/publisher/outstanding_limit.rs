//! Room for what is outstanding, in events and in bytes, and who waits for it. Pure.

/// How many senders in a row find room before one of them yields. Fewer cut batches short.
const SENDS_PER_TURN: usize = 512;

/// What is left of the room.
#[derive(Debug)]
pub(super) struct Room {
    events: usize,
    bytes: usize,
    bytes_max: usize,
    /// Senders that wait, for room or for their turn.
    waiting: usize,
    /// How many more may find room without anybody yielding.
    sends_left: usize,
}

impl Room {
    pub(super) fn new(events_max: usize, bytes_max: usize) -> Self {
        Self {
            events: events_max.max(1),
            bytes: bytes_max.max(1),
            bytes_max: bytes_max.max(1),
            waiting: 0,
            sends_left: SENDS_PER_TURN,
        }
    }

    /// There is room for so many bytes in all from now on, if that is more than before.
    pub(super) fn widen(&mut self, bytes_max: usize) {
        let more = bytes_max.saturating_sub(self.bytes_max);
        self.bytes_max += more;
        self.bytes += more;
    }

    /// Takes room for one event of `size` bytes without waiting: not before others who do, and not when it is time to let
    /// others run. Returns the bytes taken, to be given back.
    pub(super) fn take_in_passing(&mut self, size: usize) -> Option<usize> {
        if self.waiting > 0 || self.sends_left == 0 {
            return None;
        }
        self.sends_left -= 1;
        self.take(size)
    }

    /// The same for the one whose turn it is.
    pub(super) fn take(&mut self, size: usize) -> Option<usize> {
        // Never more than there is in all, so that the largest event can be sent alone.
        let bytes = size.clamp(1, self.bytes_max);
        if self.events == 0 || self.bytes < bytes {
            return None;
        }
        self.events -= 1;
        self.bytes -= bytes;
        Some(bytes)
    }

    /// The room of a resolved batch. Returns whether somebody waits for it.
    pub(super) fn give_back(&mut self, events: usize, bytes: usize) -> bool {
        self.events += events;
        self.bytes += bytes;
        self.waiting > 0
    }

    /// One more waits. Returns whether it should let others run first: room that is there is taken without waiting, so a
    /// sender in a loop might never do so, not even the driver.
    pub(super) fn wait(&mut self) -> bool {
        self.waiting += 1;
        std::mem::replace(&mut self.sends_left, SENDS_PER_TURN) == 0
    }

    /// One waits no longer.
    pub(super) fn waited(&mut self) {
        self.waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_events_and_bytes_are_bounded() {
        let mut room = Room::new(3, 10);
        assert_eq!(room.take(6), Some(6));
        assert_eq!(room.take(5), None);
        assert_eq!(room.take(0), Some(1), "even nothing takes a byte");
        assert_eq!(room.take(3), Some(3));
        assert_eq!(room.take(0), None);
        assert!(!room.give_back(3, 10));
        assert_eq!(room.take(100), Some(10), "a large one gets all there is");
    }

    #[test]
    fn room_only_grows() {
        let mut room = Room::new(10, 10);
        assert_eq!(room.take(10), Some(10));
        room.widen(5);
        assert_eq!(room.take(1), None);
        room.widen(14);
        assert_eq!(room.take(4), Some(4));
        room.give_back(2, 14);
        assert_eq!(room.take(100), Some(14));
    }

    #[test]
    fn nobody_overtakes_who_waits() {
        let mut room = Room::new(2, 10);
        assert!(!room.wait());
        assert_eq!(room.take_in_passing(1), None);
        assert!(room.give_back(0, 0));
        room.waited();
        assert_eq!(room.take_in_passing(1), Some(1));
    }

    #[test]
    fn one_in_many_lets_others_run() {
        let mut room = Room::new(usize::MAX >> 1, usize::MAX >> 1);
        for _ in 0..2 {
            for _ in 0..SENDS_PER_TURN {
                assert_eq!(room.take_in_passing(1), Some(1));
            }
            assert_eq!(room.take_in_passing(1), None);
            assert!(room.wait());
            room.waited();
        }
    }
}
