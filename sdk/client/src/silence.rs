//! Whether a broker that was asked for something has answered anything at all, for too long. Pure; when to look, and what to do about it, is
//! the supervisor's business.

use std::time::Duration;

use tidegate_wire::stream::{Silence, Traffic};

use crate::random::Random;

/// How often to look.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A broker is silent when so many looks in a row saw nothing of it since it was asked: after 6 s. Packets are sent again some five
/// times meanwhile, on a path of 100 ms, so that even where every other one is lost, this is no accident. Looks are counted, and not the
/// clock, which goes on while this machine stands still.
const SILENT_LOOKS: u32 = 12;

/// Each client waits for up to so many more, so that a broker which stands still for a moment is not looked for by all of them at once.
const MORE_LOOKS: u32 = 4;

/// What was seen of a connection.
#[derive(Debug)]
pub(crate) struct SilenceWatch {
    silence: Silence,
    looks_max: u32,
}

/// What a look may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The broker has been silent for so long.
    Silent(Duration),
    /// A broker that was silent is heard again.
    Heard,
}

impl SilenceWatch {
    /// Of a connection that was just made.
    pub(crate) fn new(random: &Random) -> Self {
        let more = random.within(0.0..=f64::from(MORE_LOOKS)).round();
        Self {
            silence: Silence::default(),
            looks_max: SILENT_LOOKS + more as u32,
        }
    }

    /// For how long nothing was seen of the broker since it was asked.
    pub(crate) fn lasts(&self) -> Duration {
        self.silence.unanswered_looks().unwrap_or_default() * LOOK_EVERY
    }

    /// Looks at what has gone over the connection so far. Returns what is new.
    pub(crate) fn look(&mut self, traffic: Traffic) -> Option<Sign> {
        let before = self.silence.unanswered_looks();
        self.silence.look(traffic);
        match self.silence.unanswered_looks() {
            None => before
                .is_some_and(|looks| looks >= self.looks_max)
                .then_some(Sign::Heard),
            Some(looks) => {
                (looks == self.looks_max).then(|| Sign::Silent(self.looks_max * LOOK_EVERY))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_asked_is_silent() {
        let mut silence = SilenceWatch::new(&Random::new(Some(1)));
        let looks_max = silence.looks_max;
        let (mut asked, mut heard) = (0, 0);
        let mut looks = |more_asked: u64, more_heard: u64, looks: u32| {
            asked += more_asked;
            heard += more_heard;
            let look = |_| silence.look(Traffic { asked, heard });
            (0..looks).filter_map(look).collect::<Vec<Sign>>()
        };
        assert_eq!(looks(1, 1, 1), []);
        assert_eq!(looks(0, 0, 3_600), [], "nobody asked");
        assert_eq!(looks(1, 0, 10), []);
        assert_eq!(looks(1, 0, looks_max - 10), [], "asked again");
        let waited = looks_max * LOOK_EVERY;
        assert!(waited >= Duration::from_secs(6) && waited <= Duration::from_secs(8));
        assert_eq!(looks(0, 0, 60), [Sign::Silent(waited)], "said once");
        assert_eq!(looks(0, 1, 1), [Sign::Heard]);
        assert_eq!(looks(0, 1, 60), [], "said once");
        assert_eq!(looks(1, 0, looks_max), []);
        assert_eq!(looks(0, 1, 1), [], "it was not silent");
    }

    #[test]
    fn clients_do_not_find_a_broker_silent_all_at_once() {
        let random = Random::new(Some(1));
        let mut looks: Vec<u32> = (0..100)
            .map(|_| SilenceWatch::new(&random).looks_max)
            .collect();
        looks.sort_unstable();
        looks.dedup();
        let all: Vec<u32> = (SILENT_LOOKS..=SILENT_LOOKS + MORE_LOOKS).collect();
        assert_eq!(looks, all);
    }
}
