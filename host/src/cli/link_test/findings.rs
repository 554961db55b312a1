//! What a test of a link has found, for people and for scripts. Numbers and words; nothing is measured here.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use tidegate_client::{ConnectionCounters, Losses, PathSettings, Transfer};

use super::watch::Outage;
use crate::cli::{human_values, output};

/// All of it. What a field is called and means does not change.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    /// How long each direction was given.
    #[serde(skip)]
    pub(super) given_seconds: f64,
    /// Where the broker is.
    pub(super) broker: String,
    /// Where this client is, as the broker sees it.
    pub(super) client_address: Option<String>,
    pub(super) round_trip: RoundTrips,
    /// To the broker, and from it.
    pub(super) up: Direction,
    pub(super) down: Direction,
    pub(super) address_change: AddressChange,
    pub(super) chosen: Chosen,
    /// When nothing came from the broker.
    pub(super) outages: Vec<Outage>,
    /// All that the test took.
    pub(super) traffic: Traffic,
    /// Why some of the numbers may be wrong.
    pub(super) doubts: Vec<String>,
    /// What its user should set.
    pub(super) advice: Vec<String>,
}

/// What went over the link in all, with what was sent again and what is around it: bytes of UDP payload.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Traffic {
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

/// Of a few bytes each, while nothing else was under way.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct RoundTrips {
    pub(super) echoes: usize,
    pub(super) min_ms: f64,
    pub(super) mean_ms: f64,
    pub(super) p99_ms: f64,
    /// Mean difference between one and the next.
    pub(super) jitter_ms: f64,
}

/// One direction.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Direction {
    /// Payload that arrived, in how long.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) bytes_per_second: f64,
    /// Datagrams under way while either direction was full, those that never came, and those that were taken for lost and were only late.
    pub(super) datagrams: u64,
    pub(super) lost: u64,
    pub(super) lost_percent: f64,
    pub(super) late: u64,
    pub(super) late_percent: f64,
    /// The same before that, while only small echoes were under way.
    pub(super) at_rest: AtRest,
    /// Both ends count frames, so that no datagram that came twice hides a lost one.
    #[serde(skip)]
    pub(super) counts_frames: bool,
    /// Of its sender, at the end: bytes of its largest datagram, and what is chosen.
    pub(super) mtu: u16,
    pub(super) congestion: String,
    pub(super) congestion_window_bytes: u64,
    pub(super) send_window_bytes: u64,
}

/// What became of the datagrams of one direction while they were so few that they filled no queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct AtRest {
    pub(super) datagrams: u64,
    pub(super) lost: u64,
    pub(super) lost_percent: f64,
}

/// What it is that loses datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostBy {
    /// Few are lost.
    Nothing,
    /// The link: it loses them whether it is full or not.
    Link,
    /// A queue that runs over, at the narrowest place, when more comes than that carries.
    Queue,
    /// One of these: there were too few at rest to tell.
    Either,
}

/// Seconds that a direction may be given at most.
pub(super) const SECONDS_MAX: u64 = 10;

/// From here on much is said to be lost, in percent.
const LOST_PERCENT: f64 = 5.0;
/// Fewer datagrams lost at rest are an accident.
const LOST_AT_REST_MIN: u64 = 2;
/// So many would have to be lost at rest, if as much were lost then as otherwise, for none or fewer to be no accident: there are none with a
/// probability of one in twenty.
const LOST_AT_REST_EXPECTED: f64 = 3.0;

/// What became of the connection when this end's port changed.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct AddressChange {
    pub(super) outcome: Outcome,
    /// This end as the broker saw it.
    pub(super) before: Option<SocketAddr>,
    pub(super) after: Option<SocketAddr>,
    pub(super) answered_ms: Option<f64>,
    /// Why it was lost or not tried.
    pub(super) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    #[default]
    NotTried,
    /// The same connection went on.
    Kept,
    Lost,
}

/// What client and broker choose on this path by themselves.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Chosen {
    pub(super) long_path_from_ms: f64,
    pub(super) publish_credit_bytes: u64,
    pub(super) publish_credit_batches: u32,
    pub(super) batch_bytes_max: u64,
    pub(super) small_batches_max: u64,
    /// What may wait at an end to be sent or acknowledged: always, and at most, as far as what all connections share goes.
    pub(super) send_window_bytes_free: u64,
    pub(super) send_window_bytes_max: u64,
    /// Whether the broker takes compressed events, and so sends some, where it pays.
    pub(super) takes_compressed: bool,
}

impl Traffic {
    /// Of what this end has counted.
    pub(super) fn of(here: &ConnectionCounters) -> Self {
        Self {
            sent_bytes: here.bytes_sent,
            received_bytes: here.bytes_received,
        }
    }
}

impl RoundTrips {
    /// Of these, in the order in which they were measured.
    pub(super) fn of(measured: &[Duration]) -> Self {
        let mut sorted = measured.to_vec();
        sorted.sort_unstable();
        let (Some(min), Some(sum)) = (
            sorted.first(),
            measured.iter().copied().reduce(|a, b| a + b),
        ) else {
            return Self::default();
        };
        let rank = (measured.len() * 99).div_ceil(100).saturating_sub(1);
        let differences = measured.windows(2).map(|two| two[0].abs_diff(two[1]));
        let jitter: Duration = differences.sum();
        Self {
            echoes: measured.len(),
            min_ms: ms(*min),
            mean_ms: ms(sum) / measured.len() as f64,
            p99_ms: ms(sorted[rank]),
            jitter_ms: ms(jitter) / (measured.len() - 1).max(1) as f64,
        }
    }
}

impl Direction {
    pub(super) fn new(
        transfer: Transfer,
        [rest, losses]: [Losses; 2],
        sender: &ConnectionCounters,
        counts_frames: bool,
    ) -> Self {
        let seconds = transfer.took.as_secs_f64();
        Self {
            bytes: transfer.bytes,
            seconds,
            bytes_per_second: transfer.bytes as f64 / seconds,
            datagrams: losses.sent,
            lost: losses.lost,
            lost_percent: 100.0 * losses.lost_part(),
            late: losses.late,
            late_percent: 100.0 * losses.late_part(),
            // So few were sent that those under way when they were counted would be much of them.
            at_rest: AtRest {
                datagrams: rest.sent,
                lost: rest.noticed,
                lost_percent: 100.0 * rest.noticed_part(),
            },
            counts_frames,
            mtu: sender.mtu,
            congestion: sender.congestion.to_string(),
            congestion_window_bytes: sender.congestion_window_bytes,
            send_window_bytes: sender.send_window_bytes,
        }
    }

    /// What it is that loses datagrams here.
    pub(super) fn lost_by(&self) -> LostBy {
        let AtRest {
            datagrams,
            lost,
            lost_percent,
        } = self.at_rest;
        let expected = datagrams as f64 * self.lost_percent / 100.0;
        match (
            lost_percent >= LOST_PERCENT,
            self.lost_percent >= LOST_PERCENT,
        ) {
            (true, _) if lost >= LOST_AT_REST_MIN => LostBy::Link,
            (_, true) if expected < LOST_AT_REST_EXPECTED => LostBy::Either,
            (_, true) => LostBy::Queue,
            (_, false) => LostBy::Nothing,
        }
    }

    fn told(&self) -> String {
        let Self {
            seconds,
            datagrams,
            lost,
            lost_percent,
            late,
            late_percent,
            at_rest,
            ..
        } = self;
        let queue = match self.lost_by() {
            LostBy::Queue => {
                ": a queue ran over that was full of this test, as at the narrowest place of any link"
            }
            LostBy::Nothing | LostBy::Link | LostBy::Either => "",
        };
        format!(
            "{:.2} MB/s ({} in {seconds:.1} s); of {datagrams} datagrams {lost} lost ({lost_percent:.2} %), {late} only late ({late_percent:.2} %); of \
             {} at rest {} lost ({:.2} %){queue}",
            self.bytes_per_second / 1e6,
            human_values::bytes(self.bytes),
            at_rest.datagrams,
            at_rest.lost,
            at_rest.lost_percent,
        )
    }
}

impl AddressChange {
    pub(super) fn kept(
        before: Option<SocketAddr>,
        after: Option<SocketAddr>,
        took: Duration,
    ) -> Self {
        Self {
            outcome: Outcome::Kept,
            before,
            after,
            answered_ms: Some(ms(took)),
            reason: None,
        }
    }

    pub(super) fn lost(reason: &dyn Display) -> Self {
        Self {
            outcome: Outcome::Lost,
            reason: Some(reason.to_string()),
            ..Self::default()
        }
    }

    pub(super) fn not_tried(reason: &dyn Display) -> Self {
        Self {
            reason: Some(reason.to_string()),
            ..Self::default()
        }
    }

    pub(super) fn told(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        match (self.outcome, self.answered_ms) {
            (Outcome::NotTried, _) => format!("not tried: {reason}"),
            (Outcome::Lost, _) => format!("the connection was lost: {reason}"),
            (Outcome::Kept, None) => "the connection went on".to_owned(),
            (Outcome::Kept, Some(took)) => match (self.before, self.after) {
                (Some(before), Some(after)) if before != after => format!(
                    "the connection went on after {took:.1} ms, from {after} instead of {before}"
                ),
                _ => format!(
                    "the connection went on after {took:.1} ms; something between keeps the address that the broker sees"
                ),
            },
        }
    }
}

impl From<PathSettings> for Chosen {
    fn from(settings: PathSettings) -> Self {
        Self {
            long_path_from_ms: ms(settings.long_path),
            publish_credit_bytes: settings.publish_credit_bytes,
            publish_credit_batches: settings.publish_credit_batches,
            batch_bytes_max: settings.batch_bytes_max as u64,
            small_batches_max: settings.small_batches_max as u64,
            send_window_bytes_free: settings.send_window_bytes_free,
            send_window_bytes_max: settings.send_window_bytes_max,
            takes_compressed: settings.takes_compressed,
        }
    }
}

impl Findings {
    /// Whether another test may be given more time.
    pub(super) fn may_be_longer(&self) -> bool {
        self.given_seconds < SECONDS_MAX as f64
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let RoundTrips {
            echoes,
            min_ms,
            mean_ms,
            p99_ms,
            jitter_ms,
        } = &self.round_trip;
        let Chosen {
            long_path_from_ms,
            publish_credit_bytes,
            publish_credit_batches,
            batch_bytes_max,
            small_batches_max,
            ..
        } = &self.chosen;
        let (up, down, bytes) = (&self.up, &self.down, human_values::bytes);
        let or = |lines: &[String], none: &str| match lines.is_empty() {
            true => none.to_owned(),
            false => lines.join("\n"),
        };
        let mut rows = vec![
            ("broker", self.broker.clone()),
            ("seen as", self.client_address.clone().unwrap_or_default()),
            (
                "round trip",
                format!(
                    "{min_ms:.2} ms at least, {mean_ms:.2} on average, {p99_ms:.2} at the 99th of a hundred, jitter {jitter_ms:.2} ({echoes} echoes)"
                ),
            ),
            ("up", up.told()),
            ("down", down.told()),
            (
                "largest datagram",
                format!("{} bytes up, {} down", up.mtu, down.mtu),
            ),
            ("change of port", self.address_change.told()),
            (
                "congestion",
                format!(
                    "up by {}, down by {}; auto takes cubic where the shortest round trip is below {long_path_from_ms} ms, else a model of the path",
                    up.congestion, down.congestion
                ),
            ),
            (
                "under way",
                format!(
                    "{} up and {} down as far as congestion goes; {} and {} may wait to be sent or acknowledged",
                    bytes(up.congestion_window_bytes),
                    bytes(down.congestion_window_bytes),
                    bytes(up.send_window_bytes),
                    bytes(down.send_window_bytes)
                ),
            ),
            (
                "publishing",
                format!(
                    "{} in {publish_credit_batches} batches unanswered, batches of {} at most, {small_batches_max} small ones of a topic at once",
                    bytes(*publish_credit_bytes),
                    bytes(*batch_bytes_max)
                ),
            ),
            ("compression", self.compression()),
            (
                "traffic",
                format!(
                    "{} sent and {} received by this test, with all that is around it and was sent again",
                    bytes(self.traffic.sent_bytes),
                    bytes(self.traffic.received_bytes)
                ),
            ),
            ("not sure", or(&self.doubts, "")),
            ("advice", or(&self.advice, "nothing is to be set")),
        ];
        rows.retain(|(_, said)| !said.is_empty());
        output::details(rows)
    }

    // What the traffic of a test would be packed to says nothing of events.
    fn compression(&self) -> String {
        let Chosen {
            long_path_from_ms,
            takes_compressed,
            ..
        } = self.chosen;
        if !takes_compressed {
            return "off at the broker, in both directions".to_owned();
        }
        let here = match self.round_trip.min_ms >= long_path_from_ms {
            true => "events are compressed here where that pays",
            false => "events are not compressed here",
        };
        format!(
            "by auto, {here} (it begins at a round trip of {long_path_from_ms} ms); how small they get is not tested, since it depends on them"
        )
    }
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_summed_up() {
        let measured = [10, 14, 12, 40].map(Duration::from_millis);
        let expected = RoundTrips {
            echoes: 4,
            min_ms: 10.0,
            mean_ms: 19.0,
            p99_ms: 40.0,
            jitter_ms: 34.0 / 3.0,
        };
        let found = RoundTrips::of(&measured);
        assert_eq!(found.echoes, expected.echoes);
        for (found, expected) in [
            (found.min_ms, expected.min_ms),
            (found.mean_ms, expected.mean_ms),
            (found.p99_ms, expected.p99_ms),
            (found.jitter_ms, expected.jitter_ms),
        ] {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let hundred: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert!((RoundTrips::of(&hundred).p99_ms - 99.0).abs() < 1e-6);
        assert_eq!(RoundTrips::of(&[]), RoundTrips::default());
        assert!(RoundTrips::of(&measured[..1]).jitter_ms.abs() < 1e-6);
    }

    #[test]
    fn what_the_link_loses_is_told_from_what_a_full_queue_drops() {
        #[track_caller]
        fn check((datagrams, lost): (u64, u64), lost_percent: f64, expected: LostBy) {
            let direction = Direction {
                lost_percent,
                at_rest: AtRest {
                    datagrams,
                    lost,
                    lost_percent: 100.0 * lost as f64 / datagrams.max(1) as f64,
                },
                ..Direction::default()
            };
            assert_eq!(direction.lost_by(), expected);
            let says_queue = direction.told().contains("a queue ran over");
            assert_eq!(says_queue, expected == LostBy::Queue);
        }
        check((60, 0), 0.3, LostBy::Nothing);
        check((60, 1), 4.9, LostBy::Nothing);
        // A narrow link with a short queue, and one that loses.
        check((60, 0), 19.6, LostBy::Queue);
        check((60, 2), 19.6, LostBy::Queue);
        check((60, 11), 19.6, LostBy::Link);
        check((60, 3), 6.0, LostBy::Link);
        // It loses while it is not full, whatever for.
        check((60, 6), 1.0, LostBy::Link);
        // Few: one is an accident, and so is none.
        check((10, 1), 19.6, LostBy::Either);
        check((15, 0), 19.6, LostBy::Either);
        check((0, 0), 19.6, LostBy::Either);
        check((10, 1), 1.0, LostBy::Nothing);
        check((16, 0), 19.6, LostBy::Queue);
    }

    #[test]
    fn a_change_of_port_is_told_with_its_outcome() {
        let [before, after] = [1, 2].map(|port| Some(SocketAddr::from(([192, 0, 2, 1], port))));
        let took = Duration::from_millis(12);
        for (change, words) in [
            (
                AddressChange::kept(before, after, took),
                "from 192.0.2.1:2 instead of 192.0.2.1:1",
            ),
            (
                AddressChange::kept(before, before, took),
                "something between",
            ),
            (AddressChange::lost(&"no answer"), "was lost: no answer"),
            (
                AddressChange::not_tried(&"unsupported"),
                "not tried: unsupported",
            ),
        ] {
            let told = change.told();
            assert!(told.contains(words), "{told}");
        }
    }
}
