//! Whether the client of a consumer is gone without a word: killed, without power, or behind a path that carries nothing. What it holds
//! is given to other clients then, long before its connection is given up, if there are others. Who holds nothing is not looked at, and
//! who is alone is not asked: nobody else waits for what it holds, and after an outage its answers still count. Nor is anybody given up
//! for others that are silent themselves, as all are when the outage is on the broker's side: those who could take over are asked too.

use std::time::Duration;

use tidegate_wire::stream::{Connection, Traffic};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::super::peer::Peer;
use super::takers::Call;
use crate::broker::Consumer;

/// How often to look. The pause between two looks is slept, and looks are counted instead of time, so that a process that stood still
/// does not take for silence what it has not read yet.
pub(in super::super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who says nothing for so many looks is asked whether it is there.
pub(in super::super) const QUIET_LOOKS: u32 = 3;

/// A silent client has so many looks to be heard after others were: when all come back, it may be the last.
pub(in super::super) const COMPANY_LOOKS: u32 = 3;

/// What was seen of a connection.
#[derive(Debug, Default)]
struct Silence {
    seen: Traffic,
    /// Looks in a row that found nothing heard since the one before.
    quiet: u32,
    /// Those of them that came after one which found something asked.
    unanswered: Option<u32>,
}

impl Silence {
    fn look(&mut self, traffic: Traffic) {
        if traffic.heard > self.seen.heard {
            self.quiet = 0;
            self.unanswered = None;
        } else {
            self.quiet = self.quiet.saturating_add(1);
            self.unanswered = match self.unanswered {
                Some(looks) => Some(looks.saturating_add(1)),
                None => (traffic.asked > self.seen.asked).then_some(0),
            };
        }
        self.seen = traffic;
    }

    // For how long something is unanswered.
    fn lasts(&self) -> Duration {
        LOOK_EVERY.saturating_mul(self.unanswered.unwrap_or(0))
    }

    // Something was asked, after what was seen last.
    fn asked(&mut self) {
        self.unanswered.get_or_insert(0);
    }

    // It is time to ask something.
    fn is_quiet(&self) -> bool {
        self.unanswered.is_none() && self.quiet >= QUIET_LOOKS
    }
}

/// Waits until the client of `consumer` is silent and other clients could have what it holds; returns for how long it is. `took` says that the
/// consumer was handed something.
pub(super) async fn of_client<C: Connection>(
    peer: &Peer<C>,
    consumer: &Consumer,
    took: &Notify,
) -> Duration {
    loop {
        took.notified().await;
        let mut silence = Silence::default();
        silence.look(peer.traffic());
        let takers = &peer.service.takers;
        let silent_after = peer.service.options.silent_after;
        let mut call = None;
        let mut company = 0;
        while !consumer.holds_nothing() {
            sleep(LOOK_EVERY).await;
            silence.look(peer.traffic());
            let is_late = silence.lasts() + LOOK_EVERY * COMPANY_LOOKS >= silent_after;
            if !is_late || !takers.are_beside(peer.id, consumer) {
                (call, company) = (None, 0);
                if silence.is_quiet() && takers.are_beside(peer.id, consumer) {
                    peer.window.nudge();
                    silence.asked();
                }
                continue;
            }
            let call = call.get_or_insert_with(|| Call::new(takers, peer.id, consumer));
            if !call.is_answered(takers, peer.id, consumer) {
                company = 0;
                continue;
            }
            company += 1;
            if company >= COMPANY_LOOKS && silence.lasts() >= silent_after {
                return silence.lasts();
            }
            if company == 1 {
                // What was asked during an outage may be asked again late.
                peer.window.nudge();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_asked_is_silent() {
        let mut silence = Silence::default();
        let (mut asked, mut heard) = (0, 0);
        let mut look = |more_asked: u64, more_heard: u64| {
            asked += more_asked;
            heard += more_heard;
            silence.look(Traffic { asked, heard });
            (silence.lasts().as_secs(), silence.is_quiet())
        };
        assert_eq!(look(1, 1), (0, false));
        for quiet in 1..100 {
            assert_eq!(look(0, 0), (0, quiet >= QUIET_LOOKS), "nobody asked");
        }
        assert_eq!(look(1, 0), (0, false));
        for unanswered in 1..100 {
            assert_eq!(look(unanswered % 2, 0), (unanswered, false));
        }
        assert_eq!(look(7, 1), (0, false), "anything heard counts");
        assert_eq!(look(0, 0), (0, false));
        silence.asked();
        silence.look(silence.seen);
        assert_eq!(silence.lasts(), LOOK_EVERY, "it counts from then on");
    }
}
