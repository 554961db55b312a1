//! How many deliveries a consumer takes in all, and how much credit the broker may have so that it never sends more. Pure.

/// How many deliveries the application wants in all, and how many of those the broker may not send yet. Nothing here ends where no
/// number is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// The application has not got so many yet.
    left: u64,
    /// The broker has had no credit for so many of these on the present stream.
    ungranted: u64,
}

impl Default for Wanted {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Wanted {
    /// So many; with 0 as many as there are.
    pub(super) fn new(events_max: u64) -> Self {
        let left = match events_max {
            0 => u64::MAX,
            events => events,
        };
        Self {
            left,
            ungranted: left,
        }
    }

    /// A stream begins on which the broker may send `events` at first, as far as they are wanted: returns how many that is.
    pub(super) fn begin(&mut self, events: u64) -> u64 {
        self.ungranted = self.left;
        self.grant(events)
    }

    /// As many of `events` more as the broker may send.
    pub(super) fn grant(&mut self, events: u64) -> u64 {
        let granted = events.min(self.ungranted);
        self.ungranted -= granted;
        granted
    }

    /// The application has got so many.
    pub(super) fn took(&mut self, events: u64) {
        self.left = self.left.saturating_sub(events);
    }

    /// So many came that it does not get: as many others may come for them.
    pub(super) fn passed_over(&mut self, events: u64) {
        self.ungranted = self.ungranted.saturating_add(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_granted_than_is_wanted() {
        let mut wanted = Wanted::new(10);
        assert_eq!((wanted.begin(4), wanted.grant(4)), (4, 4));
        assert_eq!((wanted.grant(4), wanted.grant(1)), (2, 0));
        // What goes back to the broker is made up for.
        wanted.passed_over(3);
        assert_eq!((wanted.grant(2), wanted.grant(2)), (2, 1));
        // On another stream all comes again that the application has not got.
        wanted.took(7);
        assert_eq!((wanted.begin(4), wanted.grant(4)), (3, 0));
        wanted.took(3);
        assert_eq!((wanted.begin(4), wanted.grant(4)), (0, 0));
        let mut all = Wanted::new(0);
        all.took(1 << 40);
        let most = u64::MAX - (1 << 40);
        assert_eq!(
            (all.begin(4_096), all.grant(u64::MAX)),
            (4_096, most - 4_096)
        );
    }
}
