//! Late packets: whether packets that count as lost only came late, because the path lets others overtake them. Where it is many, this end
//! sees it by itself; otherwise the broker is asked when there is a reason to. What to do about it is the supervisor's business.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tidegate_wire::counters::{ConnectionCounters, Losses};
use tidegate_wire::stream::Connection;
use tracing::debug;

use crate::error::MeasureError;
use crate::hello::Established;
use crate::measure::report_on;
use crate::silence::LOOK_EVERY;

/// So many packets late are no accident.
const LATE_LEAST: u64 = 20;
/// Nor is this part of them: where one packet in fifty is sent again in vain, to wait for it would cost more than that. Where a broker
/// counts no frames, datagrams that the network doubles make up for lost ones, and look like late ones.
const LATE_PART_LEAST: f64 = 0.05;

/// Where this part of what was sent counts as lost, and packets are acknowledged after later ones, these were not lost: no question is
/// needed, which would have to wait behind what is sent again in vain. Most of those that were overtaken count as lost before they are
/// acknowledged, so few are left to be seen; where packets come in order it is none. One may be an accident.
const OBVIOUS_PART: f64 = 0.25;
const OVERTAKEN_LEAST: u64 = 2;
/// Of so many packets at a time.
const OBVIOUS_OF: u64 = 512;

/// So many datagrams sent between two looks are traffic of which the next look may tell something.
const BUSY_DATAGRAMS: u64 = 8;
/// How often to look while there is such traffic, at most: it is half a round trip otherwise.
const BUSY_LOOKS_EVERY_LEAST: Duration = Duration::from_millis(25);

/// The broker is asked for the first time when so many datagrams came: something may have counted as lost there. Each further question
/// takes twice as much as the one before, whether packets came or count as lost here: most paths that lose packets really lose them.
const CAME_LEAST: u64 = 200;

/// So many times that at most, for packets that came and for those that count as lost: a path may change however long it was as it is.
const CAME_TIMES_MAX: u64 = 1_024;
const LOST_TIMES_MAX: u64 = 64;

/// What was seen of a connection.
pub(crate) struct LatePackets {
    /// What was counted here at the last look.
    looked: ConnectionCounters,
    look_again: Duration,
    /// What was counted here when the packets began in which it may be obvious.
    obvious_since: Sent,
    /// What was counted here when the broker was asked last.
    asked: ConnectionCounters,
    /// How many times more than at first the next question takes.
    times: u64,
    asking: Option<BoxFuture<'static, Result<[Way; 2], MeasureError>>>,
    /// What both ends had counted when nothing was found the last time: only what has happened since counts.
    unremarkable: [Way; 2],
    /// The broker does not know the question, or does not want it.
    is_over: bool,
}

impl LatePackets {
    /// Of a connection that was just made.
    pub(crate) fn new() -> Self {
        Self {
            looked: ConnectionCounters::default(),
            look_again: BUSY_LOOKS_EVERY_LEAST,
            obvious_since: Sent::default(),
            asked: ConnectionCounters::default(),
            times: 1,
            asking: None,
            unremarkable: [Way::default(), Way::default()],
            is_over: false,
        }
    }

    /// Looks at what this end of `established` has counted. Returns whether that alone says that packets come late; otherwise asks the
    /// broker when it is worth it. Not where the broker is near, nor while the connection is measured by others, whose numbers the question
    /// would change.
    pub(crate) fn look<C: Connection>(&mut self, established: &Arc<Established<C>>) -> bool {
        let connection = &established.connection;
        self.look_again = LOOK_EVERY;
        let is_measured = !established.meters.is_empty();
        if is_measured || !established.takes_measure || !connection.is_long() {
            return false;
        }
        let here = connection.counters();
        let sent = here.since(&self.looked).datagrams_sent;
        if sent >= BUSY_DATAGRAMS {
            let half = connection.round_trip() / 2;
            self.look_again = half.clamp(BUSY_LOOKS_EVERY_LEAST, LOOK_EVERY);
        }
        self.looked = here.clone();
        if self.is_obvious(Sent::of(&here, connection.overtaken())) {
            self.asking = None;
            return true;
        }
        if !self.is_over && self.asking.is_none() && self.is_worth_asking(&here) {
            self.asking = Some(ask(Arc::clone(established), here).boxed());
        }
        false
    }

    /// How long after that to look again: soon while there is traffic on a long path, and seldom otherwise.
    pub(crate) fn look_again(&self) -> Duration {
        self.look_again
    }

    // Whether packets come late, by what this end has sent and heard of. Of what is long ago it says nothing.
    fn is_obvious(&mut self, now: Sent) -> bool {
        let more = now.since(self.obvious_since);
        let is_obvious = more.lost >= LATE_LEAST
            && more.lost as f64 >= OBVIOUS_PART * more.packets as f64
            && more.overtaken >= OVERTAKEN_LEAST;
        if more.packets >= OBVIOUS_OF {
            self.obvious_since = now;
        }
        is_obvious
    }

    // Whether there is a reason to ask the broker, who is asked then.
    fn is_worth_asking(&mut self, here: &ConnectionCounters) -> bool {
        let more = here.since(&self.asked);
        let is_reason = more.packets_lost >= LATE_LEAST * self.times.min(LOST_TIMES_MAX)
            || more.datagrams_received >= CAME_LEAST * self.times;
        if is_reason {
            self.asked = here.clone();
            self.times = (2 * self.times).min(CAME_TIMES_MAX);
        }
        is_reason
    }

    /// Waits until the path is found to let packets overtake each other; for ever while nobody asks.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn found(&mut self) {
        while let Some(asking) = &mut self.asking {
            let answer = asking.await;
            self.asking = None;
            match answer {
                Ok(ways) if self.is_found(&ways) => return,
                Ok(ways) => self.unremarkable = ways,
                Err(error) => {
                    debug!(%error, "the broker does not say what it has counted");
                    // One that has no room for the question now is asked again when there is more to ask after.
                    self.is_over =
                        !matches!(&error, MeasureError::Refused(refusal) if refusal.retryable);
                }
            }
        }
        std::future::pending().await
    }

    fn is_found(&self, ways: &[Way; 2]) -> bool {
        let mut ways = ways.iter().zip(&self.unremarkable);
        ways.any(|(now, earlier)| lets_overtake(now.since(earlier)))
    }
}

/// What one end has counted of the packets that it sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    packets: u64,
    /// Of them, those that it takes for lost.
    lost: u64,
    /// Of the others, those that were acknowledged after later ones.
    overtaken: u64,
}

impl Sent {
    fn of(here: &ConnectionCounters, overtaken: u64) -> Self {
        Self {
            packets: here.packets_sent,
            lost: here.packets_lost,
            overtaken,
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets.saturating_sub(earlier.packets),
            lost: self.lost.saturating_sub(earlier.lost),
            overtaken: self.overtaken.saturating_sub(earlier.overtaken),
        }
    }
}

/// What both ends have counted of one direction.
#[derive(Clone, Debug, Default)]
struct Way {
    sender: ConnectionCounters,
    receiver: ConnectionCounters,
}

impl Way {
    // What counts as lost must not seem late since the numbers are not of one moment: what went out meanwhile counts as lost, and what
    // counted as lost meanwhile does not count.
    fn up(
        before: &ConnectionCounters,
        broker: &ConnectionCounters,
        after: &ConnectionCounters,
    ) -> Self {
        let mut sender = after.clone();
        sender.packets_lost = before.packets_lost;
        Self {
            sender,
            receiver: broker.clone(),
        }
    }

    fn down(before: &ConnectionCounters, broker: &ConnectionCounters) -> Self {
        Self {
            sender: broker.clone(),
            receiver: before.clone(),
        }
    }

    fn losses(&self) -> Losses {
        Losses::between(&self.sender, &self.receiver)
    }

    // What was lost since `earlier`, when it may have been under way, must not seem late either: that never makes more of all late.
    fn since(&self, earlier: &Self) -> Losses {
        let more_late = self.losses().late.saturating_sub(earlier.losses().late);
        let (sender, receiver) = (
            self.sender.since(&earlier.sender),
            self.receiver.since(&earlier.receiver),
        );
        let mut losses = Losses::between(&sender, &receiver);
        losses.late = losses.late.min(more_late);
        losses
    }
}

async fn ask<C: Connection>(
    established: Arc<Established<C>>,
    before: ConnectionCounters,
) -> Result<[Way; 2], MeasureError> {
    let broker = report_on(&established).await?.broker;
    let after = established.connection.counters();
    Ok([
        Way::up(&before, &broker, &after),
        Way::down(&before, &broker),
    ])
}

fn lets_overtake(losses: Losses) -> bool {
    losses.late >= LATE_LEAST && losses.late_part() >= LATE_PART_LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(sent: u64, received: u64, lost: u64) -> ConnectionCounters {
        let mut counters = ConnectionCounters::default();
        counters.datagrams_sent = sent;
        counters.datagrams_received = received;
        counters.packets_lost = lost;
        counters
    }

    #[test]
    fn a_path_that_loses_packets_is_asked_after_ever_more_seldom() {
        // Ten minutes of looks at 40 losses a second, alone and among 4,000 packets that come.
        for (came, questions_max) in [(0, 30), (4_000, 30)] {
            let mut late = LatePackets::new();
            let looked = |look: u64| counters(2_000 * look, came / 2 * look, 20 * look);
            let questions = (1..=1_200).filter(|look| late.is_worth_asking(&looked(*look)));
            let questions: Vec<u64> = questions.collect();
            assert_eq!(questions[0], 1, "at once");
            assert!(questions.len() <= questions_max, "{questions:?}");
            assert!(questions.len() >= 8, "it goes on: {questions:?}");
        }
    }

    #[test]
    fn many_late_packets_are_obvious_and_lost_ones_never() {
        #[track_caller]
        fn check(looks: &[(u64, u64, u64)], expected: bool) {
            let mut late = LatePackets::new();
            let sent = |(packets, lost, overtaken)| Sent {
                packets,
                lost,
                overtaken,
            };
            let looks = looks.iter().map(|look| late.is_obvious(sent(*look)));
            let found = looks.collect::<Vec<_>>();
            assert_eq!(found.last(), Some(&expected), "{found:?}");
        }
        check(&[(10, 5, 2), (40, 20, 2)], true);
        // Some may be lost beside: it is the others that could not have been overtaken.
        check(&[(80, 20, 2)], true);
        check(&[(40, 19, 2)], false);
        check(&[(81, 20, 2)], false);
        check(&[(1_000, 700, 0)], false);
        check(&[(1_000, 700, 1)], false);
        // A path that changes after a long time, and one that was so for a moment long ago.
        check(&[(100_000, 1_000, 0), (100_200, 1_080, 3)], true);
        check(&[(100_000, 1_000, 9), (100_200, 1_080, 10)], false);
    }

    #[test]
    fn what_was_lost_does_not_seem_late_however_much_goes_on_meanwhile() {
        let (before, after) = (counters(1_000, 1_000, 80), counters(1_200, 1_200, 100));
        // Of what went out before 80 were lost, and all of the 100 came that went out until it answered.
        let broker = counters(1_100, 1_020, 80);
        assert_eq!(Way::up(&before, &broker, &after).losses().late, 0);
        assert_eq!(Way::down(&before, &broker).losses().late, 0);
    }

    #[test]
    fn what_was_lost_does_not_seem_late_since_others_came_twice() {
        let with_frames = |sent, received, lost, frames: (u64, u64)| {
            let mut counters = counters(sent, received, lost);
            (counters.frames_sent, counters.frames_received) = frames;
            counters
        };
        // 7 % are lost, and a fifth of the others comes twice.
        let before = with_frames(1_000, 1_100, 70, (900, 925));
        let after = with_frames(1_010, 1_110, 71, (910, 935));
        let broker = with_frames(1_000, 1_116, 70, (1_000, 840));
        let (up, down) = (
            Way::up(&before, &broker, &after).losses(),
            Way::down(&before, &broker).losses(),
        );
        assert!(!lets_overtake(up), "{up:?}");
        assert!(!lets_overtake(down), "{down:?}");
        // The same, and a tenth of all comes late.
        let before = with_frames(1_000, 1_100, 170, (900, 925));
        assert!(lets_overtake(Way::up(&before, &broker, &after).losses()));
    }

    #[test]
    fn what_came_although_it_counts_as_lost_is_late() {
        let (before, after) = (counters(1_000, 1_000, 400), counters(1_010, 1_010, 404));
        let broker = counters(1_005, 1_000, 300);
        let (up, down) = (
            Way::up(&before, &broker, &after).losses(),
            Way::down(&before, &broker).losses(),
        );
        assert_eq!((up.late, down.late), (390, 295));
        assert!(lets_overtake(up) && lets_overtake(down));
        assert!(!lets_overtake(Losses::between(
            &counters(1_000, 0, 19),
            &counters(0, 1_000, 0)
        )));
        assert!(!lets_overtake(Losses::between(
            &counters(1_000, 0, 40),
            &counters(0, 1_000, 0)
        )));
    }

    #[test]
    fn a_path_that_changes_after_a_day_is_found() {
        let mut late = LatePackets::new();
        // A day of looks, 4,000 packets a second.
        let day = 172_800;
        for look in 1..=day {
            late.is_worth_asking(&counters(2_000 * look, 2_000 * look, 0));
        }
        late.asked = counters(2_000 * day, 2_000 * day, 0);
        let all = late.asked.clone();
        late.unremarkable = [Way::up(&all, &all, &all), Way::down(&all, &all)];
        // From now on one in ten is late, up alone or down alone.
        let (sent, lost) = (2_000 * day + 12_800, 1_280);
        let (here, broker) = (counters(sent, sent, lost), counters(sent, sent, 0));
        assert!(late.is_worth_asking(&here), "losses here");
        let up = [Way::up(&here, &broker, &here), Way::down(&here, &broker)];
        assert!(!lets_overtake(up[0].losses()), "of all it is nothing");
        assert!(late.is_found(&up));
        assert!(late.is_found(&[Way::up(&broker, &here, &broker), Way::down(&broker, &here)]));
        assert!(!late.is_found(&[Way::up(&broker, &broker, &broker), Way::default()]));
        // What counts as lost at the broker alone is asked after soon too.
        let more = CAME_LEAST * CAME_TIMES_MAX;
        assert!(late.is_worth_asking(&counters(sent, sent + more, lost)));
    }

    #[test]
    fn what_was_under_way_when_the_broker_was_asked_before_does_not_seem_late() {
        // 7 % are lost. A thousand were under way, of which nothing was known yet.
        let earlier = Way {
            sender: counters(100_000, 0, 6_930),
            receiver: counters(0, 92_070, 0),
        };
        let now = Way {
            sender: counters(101_000, 0, 7_070),
            receiver: counters(0, 93_930, 0),
        };
        assert_eq!(now.since(&earlier).late, 0);
    }
}
