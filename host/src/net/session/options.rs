//! Session options: what an operator can set about sessions, whatever carries them, with every default and its arithmetic. What a
//! transport has to be told beside that is in the options of its own room.

use std::time::Duration;

use tidegate_wire::limits::{Limits, OPEN_FRAME_BYTES_MAX};

use super::connection_slots::SlotLimits;
use super::memory_account::Share;

/// From this round trip on, publish credit grows with it. With the default credit that is 335 MB/s.
const CREDIT_ROUND_TRIP: Duration = Duration::from_millis(25);
/// How many times larger it gets: full at 100 ms.
const CREDIT_FACTOR_MAX: u32 = 4;

/// Part of the grace of a shutdown in which consumers may answer. What is left of the default one is as long as the last of these answers
/// may take to be durable and confirmed.
const SHUTDOWN_ACKS_PART: u32 = 2;

/// What has not answered for so long was sent some five times meanwhile, on a path of 100 ms: even where every other packet is lost, that
/// is no accident.
const SILENT_AFTER_MIN: Duration = Duration::from_secs(6);
/// The part of the time after which a connection is given up. With the default that is as long.
const SILENT_PARTS: u32 = 5;

/// Part of the credit of all that comes on top for messages larger than what their stream was granted.
const LARGE_PART: usize = 4;
/// The same for what is remembered of what consumers were sent packed. With the default that is enough for 10,922 of them.
const SENT_PART: usize = 2;

/// Everything that can be set about sessions.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// What is accepted of clients, announced in the hello.
    pub limits: Limits,
    /// What one publish stream may have outstanding (sent, not answered), in bytes of cost: its events, 16 bytes more for
    /// each, and 1 KiB for each batch. Default 8 MiB: at 400 MB/s that is 20 ms of waiting for a sync. It grows with
    /// round trips from 25 ms on, to four times as much at 100 ms, so that a path of 1 Gbit/s is full. Costs that much memory per
    /// stream that uses it.
    pub publish_credit_bytes: usize,
    /// Batches that one publish stream may have outstanding. Default 256. Grows as the bytes do.
    pub publish_credit_batches: u32,
    /// The same over all streams, beyond the 32 KiB that each has. Default 256 MiB. One principal may have half of it, one
    /// connection a quarter, and a stream an eighth of what is left of each, on a long path up to half of it. A quarter of it comes
    /// on top for messages that are larger than what their stream was granted, which wait for room there. So with the default
    /// limits memory for what clients send stays below 320 MiB + 44 KiB × publish streams: 12 KiB of these are what is remembered of a
    /// stream whose client packs its events. Half of it, 128 MiB, comes on top for what is remembered of what far consumers were sent,
    /// 12 KiB for each; whoever finds no room there gets its events unpacked.
    pub publish_credit_total_bytes: usize,
    /// Time for a handshake of the transport, for the hello after it, and for the first message of a stream. Default 5 s: QUIC
    /// sends again what was lost after 1 and after 3 s, as long as it knows nothing of the path.
    pub handshake_timeout: Duration,
    /// Time for a message from its first byte to its last. Default 30 s, so a megabyte may come at 300 kbit/s. Time in which
    /// nothing comes between two messages does not count.
    pub frame_timeout: Duration,
    /// Open connections over all listeners; more are refused. Default 10,000. An idle one costs about 30 KiB. The last
    /// sixteenth, 64 at most, is for principals that hold an admin right.
    pub connections_max: usize,
    /// Of those, how many one principal may have. Default 0: half of them. Clients without a certificate are one principal,
    /// and those of one network among them may have a quarter of what that may.
    pub principal_connections_max: usize,
    /// Publish and subscribe streams on one connection; more are refused. Default 256.
    pub streams_max: u32,
    /// Time from the start of a shutdown until connections are closed whatever they still do. Default 10 s. In the first half of it, a
    /// consumer may answer what it has in hand, and is ended as soon as that is nothing, or is over.
    pub shutdown_grace: Duration,
    /// How long a client may answer nothing at all before others get what its consumers hold. Looked at each second. Default 6 s, see
    /// [`silent_after`](Self::silent_after).
    pub silent_after: Duration,
}

/// What a publish stream is to get, as far as there is memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedCredit {
    /// Of cost.
    pub(super) bytes: usize,
    pub(super) batches: u32,
    /// So many times what a stream of a near client is to get.
    pub(super) times: usize,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            publish_credit_bytes: 8 << 20,
            publish_credit_batches: 256,
            publish_credit_total_bytes: 256 << 20,
            handshake_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            connections_max: 10_000,
            principal_connections_max: 0,
            streams_max: 256,
            shutdown_grace: Duration::from_secs(10),
            silent_after: SILENT_AFTER_MIN,
        }
    }
}

impl SessionOptions {
    /// How long a client may answer nothing where a connection is given up after `idle_timeout`: a fifth of it, 6 s at least.
    #[must_use]
    pub fn silent_after(idle_timeout: Duration) -> Duration {
        (idle_timeout / SILENT_PARTS).max(SILENT_AFTER_MIN)
    }

    /// How long a consumer has at a shutdown to answer what it has in hand, after deliveries stopped.
    #[must_use]
    pub fn shutdown_acks(&self) -> Duration {
        self.shutdown_grace / SHUTDOWN_ACKS_PART
    }

    /// Bytes a client can have sent on a publish stream without exceeding its credit: a batch costs at least the bytes of its
    /// frame. As a stream's receive window it never stops a client that keeps to its credit.
    #[must_use]
    pub fn stream_window_bytes(&self) -> usize {
        self.publish_credit(Duration::MAX)
            .bytes
            .max(self.limits.frame_bytes_max.saturating_mul(2))
            .max(OPEN_FRAME_BYTES_MAX)
    }

    /// What a publish stream is to get on a path of this round trip.
    pub(super) fn publish_credit(&self, round_trip: Duration) -> WantedCredit {
        let times = round_trip.as_micros() / CREDIT_ROUND_TRIP.as_micros();
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        let times = times.clamp(1, CREDIT_FACTOR_MAX);
        WantedCredit {
            bytes: self.publish_credit_bytes.saturating_mul(times as usize),
            batches: self.publish_credit_batches.saturating_mul(times),
            times: times as usize,
        }
    }

    pub(super) fn slot_limits(&self) -> SlotLimits {
        let principal = match self.principal_connections_max {
            0 => self.connections_max.div_ceil(2),
            max => max,
        };
        SlotLimits {
            all: self.connections_max,
            principal,
            streams: self.streams_max as usize,
        }
    }

    /// Memory for what all clients send.
    pub(super) fn memory_share(&self) -> Share {
        Share {
            streams: self.connections_max.max(self.streams_max as usize),
            credit_bytes: self.publish_credit_total_bytes,
            large_bytes: self.publish_credit_total_bytes / LARGE_PART,
            sent_bytes: self.publish_credit_total_bytes / SENT_PART,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_what_credit_allows() {
        let options = SessionOptions::default();
        assert_eq!(options.stream_window_bytes(), 32 << 20);
        for (round_trip_ms, factor) in [(0, 1), (49, 1), (50, 2), (100, 4), (10_000, 4)] {
            let credit = options.publish_credit(Duration::from_millis(round_trip_ms));
            let expected = WantedCredit {
                bytes: factor * (8 << 20),
                batches: 256 * factor as u32,
                times: factor,
            };
            assert_eq!(credit, expected, "{round_trip_ms} ms");
        }
        let tight = SessionOptions {
            publish_credit_bytes: 0,
            publish_credit_batches: 1,
            ..options
        };
        assert!(tight.stream_window_bytes() >= tight.limits.frame_bytes_max);
    }

    #[test]
    fn who_may_be_idle_for_longer_may_be_silent_for_longer() {
        for (idle_s, silent_s) in [(1, 6), (30, 6), (60, 12), (600, 120)] {
            let silent_after = SessionOptions::silent_after(Duration::from_secs(idle_s));
            assert_eq!(silent_after, Duration::from_secs(silent_s), "{idle_s}");
        }
    }

    #[test]
    fn consumers_have_half_of_the_grace_for_their_answers() {
        for (grace_ms, acks_ms) in [(0, 0), (500, 250), (10_000, 5_000), (3_600_000, 1_800_000)] {
            let options = SessionOptions {
                shutdown_grace: Duration::from_millis(grace_ms),
                ..SessionOptions::default()
            };
            assert_eq!(options.shutdown_acks(), Duration::from_millis(acks_ms));
        }
    }

    #[test]
    fn a_principal_has_half_of_the_connections_unless_it_is_said_otherwise() {
        let principal = |connections_max, principal_connections_max| {
            let options = SessionOptions {
                connections_max,
                principal_connections_max,
                ..SessionOptions::default()
            };
            options.slot_limits().principal
        };
        assert_eq!(principal(10_000, 0), 5_000);
        assert_eq!(principal(1, 0), 1);
        assert_eq!(principal(100, 7), 7);
    }
}
