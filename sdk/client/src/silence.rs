//! Silence: whether a broker that was asked for something has answered anything at all. Pure; when to look, and what to do about it,
//! is the supervisor's business.

use std::time::Duration;

use tidegate_wire::stream::Traffic;
use tokio::time::Instant;

/// A broker is silent when it has said nothing for so long since it was asked. Packets are sent again some five times meanwhile, on a
/// path of 100 ms, so that even where every other one is lost, this is no accident.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(6);

/// How often to look.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen of a connection.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    seen: Traffic,
    /// Since when something is unanswered.
    since: Option<Instant>,
}

impl Silence {
    /// Looks at what has gone over the connection by `now`. Returns whether the broker is silent.
    pub(crate) fn look(&mut self, now: Instant, traffic: Traffic) -> bool {
        if traffic.heard > self.seen.heard {
            self.since = None;
        } else if traffic.asked > self.seen.asked && self.since.is_none() {
            self.since = Some(now);
        }
        self.seen = traffic;
        self.since.is_some_and(|since| now - since >= SILENT_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_who_was_asked_is_silent() {
        let mut silence = Silence::default();
        let (mut asked, mut heard) = (0, 0);
        let mut look = async |more_asked: u64, more_heard: u64, after: u64| {
            tokio::time::advance(Duration::from_secs(after)).await;
            asked += more_asked;
            heard += more_heard;
            silence.look(Instant::now(), Traffic { asked, heard })
        };
        assert!(!look(1, 1, 0).await);
        assert!(!look(0, 0, 3_600).await, "nobody asked");
        assert!(!look(1, 0, 1).await);
        assert!(!look(1, 0, 5).await, "asked again, but not for six seconds");
        assert!(look(0, 0, 1).await);
        assert!(!look(0, 1, 1).await, "an answer");
        assert!(!look(0, 0, 60).await);
    }
}
