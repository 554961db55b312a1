//! Silence: for how long the other side of a connection has said nothing, and answered nothing that it was asked. Pure: it is counted in
//! looks at what has gone over the connection, and not by a clock, which goes on while a process stands still. How often to look, and after
//! how many looks to do what, each end decides for itself.

use super::Traffic;

/// What looks at a connection have seen of its other side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    seen: Traffic,
    quiet: u32,
    unanswered: Option<u32>,
}

impl Silence {
    /// That of a connection over which so much has gone until now.
    #[must_use]
    pub fn since(traffic: Traffic) -> Self {
        Self {
            seen: traffic,
            ..Self::default()
        }
    }

    /// Looks at what has gone over the connection so far.
    pub fn look(&mut self, traffic: Traffic) {
        let is_heard = traffic.heard > self.seen.heard;
        let was_asked = traffic.asked > self.seen.asked;
        self.seen = traffic;
        if is_heard {
            (self.quiet, self.unanswered) = (0, None);
            return;
        }
        self.quiet = self.quiet.saturating_add(1);
        self.unanswered = match self.unanswered {
            Some(looks) => Some(looks.saturating_add(1)),
            None => was_asked.then_some(0),
        };
    }

    /// The other side is asked something just now, which the next look need not find.
    pub fn ask(&mut self) {
        self.unanswered.get_or_insert(0);
    }

    /// Looks in a row that found nothing heard since the one before.
    #[must_use]
    pub fn quiet_looks(&self) -> u32 {
        self.quiet
    }

    /// Those of them that came after one which found something asked; `None` while nothing is.
    #[must_use]
    pub fn unanswered_looks(&self) -> Option<u32> {
        self.unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_asked_leaves_something_unanswered() {
        let mut traffic = Traffic { asked: 5, heard: 5 };
        let mut silence = Silence::since(traffic);
        let mut look = |silence: &mut Silence, more_asked: u64, more_heard: u64| {
            traffic.asked += more_asked;
            traffic.heard += more_heard;
            silence.look(traffic);
            (silence.quiet_looks(), silence.unanswered_looks())
        };
        assert_eq!(look(&mut silence, 1, 1), (0, None), "it has answered");
        for quiet in 1..100 {
            assert_eq!(look(&mut silence, 0, 0), (quiet, None), "nobody asked");
        }
        assert_eq!(look(&mut silence, 1, 0), (100, Some(0)));
        for unanswered in 1..100 {
            let asked_again = u64::from(unanswered % 2);
            let expected = (100 + unanswered, Some(unanswered));
            assert_eq!(look(&mut silence, asked_again, 0), expected);
        }
        assert_eq!(look(&mut silence, 7, 1), (0, None), "anything heard counts");
        silence.ask();
        assert_eq!(look(&mut silence, 1, 0), (1, Some(1)));
        silence.ask();
        assert_eq!(look(&mut silence, 0, 0), (2, Some(2)));
    }
}
