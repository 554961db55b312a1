//! What one end of a connection has counted of it, and what both ends' numbers together say of the path: what was really lost, and
//! what only came late. Values and arithmetic; who counts, and how the numbers get to the other end, is not known here.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use crate::pb;

/// What one end of a connection has counted since it began, and what it thinks of the path at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionCounters {
    /// Datagrams sent. What is sent again counts again.
    pub datagrams_sent: u64,
    /// Datagrams received, those included that came twice.
    pub datagrams_received: u64,
    /// Bytes of the datagrams sent.
    pub bytes_sent: u64,
    /// Bytes of the datagrams received.
    pub bytes_received: u64,
    /// Packets sent. While a connection is made, several may be in one datagram.
    pub packets_sent: u64,
    /// Packets that this end takes for lost, and has sent again as far as they mattered. Probes of the MTU do not count.
    pub packets_lost: u64,
    /// Their bytes.
    pub bytes_lost: u64,
    /// Probes of the MTU that came to nothing, mostly since the path does not take datagrams of their size.
    pub mtu_probes_lost: u64,
    /// The round trip, smoothed.
    pub round_trip: Duration,
    /// Bytes that congestion control lets be under way.
    pub congestion_window_bytes: u64,
    /// Bytes of the largest datagram that is sent at present.
    pub mtu: u16,
    /// Where the other end is, as this one sees it. `None` where there is no such thing.
    pub peer_address: Option<SocketAddr>,
    /// What decides how much may be under way at present, e.g. `cubic`; for people.
    pub congestion: Cow<'static, str>,
    /// Bytes that may wait at this end to be sent or acknowledged, as the path is now.
    pub send_window_bytes: u64,
    /// Frames with data or credit in the packets sent. What is sent again counts again. 0 where they are not counted.
    pub frames_sent: u64,
    /// The same of packets received, of which each counts once, however often it came. What came so late that it was taken for one that
    /// comes again is not among them, since it is of no use.
    pub frames_received: u64,
}

impl ConnectionCounters {
    /// What has been counted since `earlier`, which is of the same end of the same connection. What is no count is as it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            datagrams_sent: self.datagrams_sent.saturating_sub(earlier.datagrams_sent),
            datagrams_received: self
                .datagrams_received
                .saturating_sub(earlier.datagrams_received),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            packets_sent: self.packets_sent.saturating_sub(earlier.packets_sent),
            packets_lost: self.packets_lost.saturating_sub(earlier.packets_lost),
            bytes_lost: self.bytes_lost.saturating_sub(earlier.bytes_lost),
            mtu_probes_lost: self.mtu_probes_lost.saturating_sub(earlier.mtu_probes_lost),
            frames_sent: self.frames_sent.saturating_sub(earlier.frames_sent),
            frames_received: self.frames_received.saturating_sub(earlier.frames_received),
            ..self.clone()
        }
    }
}

/// Both ends of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkReport {
    /// What this end has counted.
    pub here: ConnectionCounters,
    /// What the broker has.
    pub broker: ConnectionCounters,
}

impl LinkReport {
    /// One from both ends' counters.
    #[must_use]
    pub fn new(here: ConnectionCounters, broker: ConnectionCounters) -> Self {
        Self { here, broker }
    }

    /// What has been counted since `earlier`, a report about the same connection.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            here: self.here.since(&earlier.here),
            broker: self.broker.since(&earlier.broker),
        }
    }

    /// What became of the datagrams to the broker.
    #[must_use]
    pub fn up(&self) -> Losses {
        Losses::between(&self.here, &self.broker)
    }

    /// What became of the datagrams from the broker.
    #[must_use]
    pub fn down(&self) -> Losses {
        Losses::between(&self.broker, &self.here)
    }
}

/// What became of the datagrams of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Losses {
    /// Datagrams sent, without the probes of the MTU that came to nothing.
    pub sent: u64,
    /// Of them, those that never came. What is still under way counts among them. Those that the network doubles make up for others only
    /// where an end does not count frames; otherwise that part is lost that frames were lost, of what the sender takes for lost.
    pub lost: u64,
    /// Of them, those that the sender has noticed at least, so that what is still under way is none of them; nor are those that it was about
    /// to notice.
    pub noticed: u64,
    /// Packets that the sender took for lost although they came, only later than others: the path reorders, or delays some of
    /// them for long. At least so many.
    pub late: u64,
}

impl Losses {
    /// From what the sender and the receiver of the direction have counted over the same time. The sender's count of what it sent is
    /// to be the older one, so that nothing sent meanwhile counts as lost.
    #[must_use]
    pub fn between(sender: &ConnectionCounters, receiver: &ConnectionCounters) -> Self {
        let sent = sender.datagrams_sent.saturating_sub(sender.mtu_probes_lost);
        let missing = sent.saturating_sub(receiver.datagrams_received);
        let lost = missing.max(lost_behind_doubles(sender, receiver, sent));
        Self {
            sent,
            lost,
            noticed: lost.min(sender.packets_lost),
            late: sender.packets_lost.saturating_sub(lost),
        }
    }

    /// The part of what was sent that never came, from 0 to 1.
    #[must_use]
    pub fn lost_part(&self) -> f64 {
        part(self.lost, self.sent)
    }

    /// The part of what was sent that only came late, from 0 to 1.
    #[must_use]
    pub fn late_part(&self) -> f64 {
        part(self.late, self.sent)
    }

    /// The part of what was sent of which the sender has noticed that it never came, from 0 to 1.
    #[must_use]
    pub fn noticed_part(&self) -> f64 {
        part(self.noticed, self.sent)
    }
}

// What was lost although as many came, since others came twice: each packet's frames are counted once. Which packets had how many of them
// is not known, so this is taken for the part of all that was lost, and never for more than the sender takes for lost.
fn lost_behind_doubles(
    sender: &ConnectionCounters,
    receiver: &ConnectionCounters,
    sent: u64,
) -> u64 {
    if receiver.frames_received == 0 {
        return 0;
    }
    let frames_lost = sender.frames_sent.saturating_sub(receiver.frames_received);
    let lost = part(frames_lost, sender.frames_sent) * sent as f64;
    // A number that is too large ends at the largest there is.
    (lost as u64).min(sender.packets_lost)
}

fn part(of: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => of as f64 / all as f64,
    }
}

impl From<&ConnectionCounters> for pb::ConnectionCounters {
    fn from(counters: &ConnectionCounters) -> Self {
        let round_trip_us = counters.round_trip.as_micros();
        Self {
            datagrams_sent: counters.datagrams_sent,
            datagrams_received: counters.datagrams_received,
            bytes_sent: counters.bytes_sent,
            bytes_received: counters.bytes_received,
            packets_sent: counters.packets_sent,
            packets_lost: counters.packets_lost,
            bytes_lost: counters.bytes_lost,
            mtu_probes_lost: counters.mtu_probes_lost,
            round_trip_us: u64::try_from(round_trip_us).unwrap_or(u64::MAX),
            congestion_window_bytes: counters.congestion_window_bytes,
            mtu: counters.mtu.into(),
            peer_address: match counters.peer_address {
                Some(address) => address.to_string(),
                None => String::new(),
            },
            congestion: counters.congestion.clone().into_owned(),
            send_window_bytes: counters.send_window_bytes,
            frames_sent: counters.frames_sent,
            frames_received: counters.frames_received,
        }
    }
}

impl From<pb::ConnectionCounters> for ConnectionCounters {
    /// What cannot be understood is taken for unknown: the numbers are for measuring, and decide nothing alone.
    fn from(counters: pb::ConnectionCounters) -> Self {
        Self {
            datagrams_sent: counters.datagrams_sent,
            datagrams_received: counters.datagrams_received,
            bytes_sent: counters.bytes_sent,
            bytes_received: counters.bytes_received,
            packets_sent: counters.packets_sent,
            packets_lost: counters.packets_lost,
            bytes_lost: counters.bytes_lost,
            mtu_probes_lost: counters.mtu_probes_lost,
            round_trip: Duration::from_micros(counters.round_trip_us),
            congestion_window_bytes: counters.congestion_window_bytes,
            mtu: u16::try_from(counters.mtu).unwrap_or(u16::MAX),
            peer_address: counters.peer_address.parse().ok(),
            congestion: counters.congestion.into(),
            send_window_bytes: counters.send_window_bytes,
            frames_sent: counters.frames_sent,
            frames_received: counters.frames_received,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_told_from_what_is_lost() {
        #[track_caller]
        fn check(
            (sent, probes, declared): (u64, u64, u64),
            received: u64,
            expected: (u64, u64, u64),
        ) {
            let sender = ConnectionCounters {
                datagrams_sent: sent,
                mtu_probes_lost: probes,
                packets_lost: declared,
                ..Default::default()
            };
            let receiver = ConnectionCounters {
                datagrams_received: received,
                ..Default::default()
            };
            let found = Losses::between(&sender, &receiver);
            assert_eq!((found.sent, found.lost, found.late), expected);
        }
        check((1_000, 0, 0), 1_000, (1_000, 0, 0));
        check((1_000, 0, 20), 980, (1_000, 20, 0));
        // All came: whatever was declared lost was only late.
        check((1_000, 0, 300), 1_000, (1_000, 0, 300));
        check((1_000, 0, 50), 990, (1_000, 10, 40));
        // Not declared yet, and probes that the path does not take.
        check((1_000, 0, 5), 980, (1_000, 20, 0));
        check((1_000, 6, 0), 994, (994, 0, 0));
        // What came twice, and numbers that cannot be.
        check((1_000, 0, 0), 1_010, (1_000, 0, 0));
        check((0, 9, u64::MAX), u64::MAX, (0, 0, u64::MAX));
    }

    #[test]
    fn what_is_still_under_way_has_nobody_noticed() {
        #[track_caller]
        fn check(declared: u64, received: u64, expected: (u64, u64)) {
            let sender = ConnectionCounters {
                datagrams_sent: 20,
                packets_lost: declared,
                ..Default::default()
            };
            let receiver = ConnectionCounters {
                datagrams_received: received,
                ..Default::default()
            };
            let found = Losses::between(&sender, &receiver);
            assert_eq!((found.lost, found.noticed), expected);
        }
        check(0, 18, (2, 0));
        check(1, 17, (3, 1));
        // Some were only late.
        check(5, 18, (2, 2));
    }

    #[test]
    fn what_is_lost_is_seen_behind_what_comes_twice() {
        #[track_caller]
        fn check(
            declared: u64,
            received: u64,
            (frames_sent, frames_received): (u64, u64),
            expected: (u64, u64),
        ) {
            let sender = ConnectionCounters {
                datagrams_sent: 1_000,
                packets_lost: declared,
                frames_sent,
                ..Default::default()
            };
            let receiver = ConnectionCounters {
                datagrams_received: received,
                frames_received,
                ..Default::default()
            };
            let found = Losses::between(&sender, &receiver);
            assert_eq!((found.lost, found.late), expected);
        }
        // 7 % are lost, and a fifth of the others comes twice; each packet has two frames.
        check(70, 1_116, (2_000, 1_860), (70, 0));
        // The same, and 300 come late.
        check(370, 1_116, (2_000, 1_860), (70, 300));
        // Some losses are not found yet.
        check(60, 1_116, (2_000, 1_860), (60, 0));
        // Nothing comes twice: datagrams tell more exactly.
        check(50, 950, (2_000, 1_880), (50, 0));
        check(50, 930, (2_000, 1_880), (70, 0));
        // An end that counts no frames, or numbers that cannot be.
        check(70, 1_116, (2_000, 0), (0, 70));
        check(70, 1_116, (0, 1_860), (0, 70));
        check(u64::MAX, 1_116, (u64::MAX, 1), (1_000, u64::MAX - 1_000));
        // Few frames say little, and nothing alone.
        check(1, 1_000, (3, 2), (1, 0));
        check(0, 1_000, (3, 2), (0, 0));
    }

    #[test]
    fn parts_are_of_what_was_sent() {
        let losses = Losses {
            sent: 200,
            lost: 4,
            noticed: 3,
            late: 1,
        };
        assert_eq!((losses.lost_part(), losses.late_part()), (0.02, 0.005));
        assert_eq!(Losses::default().lost_part(), 0.0);
    }

    fn counters(from: u64) -> ConnectionCounters {
        ConnectionCounters {
            datagrams_sent: from,
            datagrams_received: from + 1,
            bytes_sent: from + 2,
            bytes_received: from + 3,
            packets_sent: from + 4,
            packets_lost: from + 5,
            bytes_lost: from + 6,
            mtu_probes_lost: from + 7,
            round_trip: Duration::from_micros(from + 8),
            congestion_window_bytes: from + 9,
            mtu: 1_452,
            peer_address: Some(([192, 0, 2, 1], 4_433).into()),
            congestion: "cubic".into(),
            send_window_bytes: from + 10,
            frames_sent: from + 11,
            frames_received: from + 12,
        }
    }

    #[test]
    fn counters_are_the_same_at_the_other_end() {
        for counters in [ConnectionCounters::default(), counters(10)] {
            let sent = pb::ConnectionCounters::from(&counters);
            assert_eq!(ConnectionCounters::from(sent), counters);
        }
        let strange = pb::ConnectionCounters {
            mtu: 70_000,
            peer_address: "somewhere".into(),
            ..Default::default()
        };
        let read = ConnectionCounters::from(strange);
        assert_eq!((read.mtu, read.peer_address), (u16::MAX, None));
    }

    #[test]
    fn counts_are_told_since_an_earlier_report_and_the_rest_as_it_is() {
        let report = |from| LinkReport::new(counters(from), counters(2 * from));
        let since = report(30).since(&report(10));
        let all = |value| ConnectionCounters {
            datagrams_sent: value,
            datagrams_received: value,
            bytes_sent: value,
            bytes_received: value,
            packets_sent: value,
            packets_lost: value,
            bytes_lost: value,
            mtu_probes_lost: value,
            frames_sent: value,
            frames_received: value,
            ..counters(0)
        };
        let now = |value, from: u64| ConnectionCounters {
            round_trip: Duration::from_micros(from + 8),
            congestion_window_bytes: from + 9,
            send_window_bytes: from + 10,
            ..all(value)
        };
        assert_eq!(since, LinkReport::new(now(20, 30), now(40, 60)));
        assert_eq!(report(1).since(&report(5)).here.datagrams_sent, 0);
    }

    #[test]
    fn each_direction_has_its_sender_and_receiver() {
        let end = |sent, received, declared| ConnectionCounters {
            datagrams_sent: sent,
            datagrams_received: received,
            packets_lost: declared,
            ..Default::default()
        };
        let report = LinkReport::new(end(100, 48, 12), end(50, 90, 2));
        let (up, down) = (report.up(), report.down());
        assert_eq!((up.sent, up.lost, up.late), (100, 10, 2));
        assert_eq!((down.sent, down.lost, down.late), (50, 2, 0));
    }
}
