//! A bound around any controller: so many packets are under way at most, whatever it thinks that the path can take. Controllers count
//! bytes, so it goes by how large the last packets were, those that were sent or those that were acknowledged, whichever were smaller: what
//! is sent tells at once when they become small, but not always that it is no mere acknowledgement, which is never under way.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Over so many packets their size is a mean: no more of them are too many when they become small all at once.
const MEAN_PACKETS: u64 = 32;

/// What is sent and is no larger may be an acknowledgement and nothing else.
const ACK_BYTES_MAX: u64 = 100;

/// No packet is larger.
const DATAGRAM_BYTES_MAX: u64 = 65_535;

/// Makes the controllers of another factory, bounded.
pub(super) struct AtMostFactory {
    pub(super) packets_max: u64,
    pub(super) of: Arc<dyn ControllerFactory + Send + Sync>,
}

impl ControllerFactory for AtMostFactory {
    fn build(self: Arc<Self>, now: Instant, packet: u16) -> Box<dyn Controller> {
        let inner = Arc::clone(&self.of).build(now, packet);
        Box::new(AtMost::new(self.packets_max, packet, inner))
    }
}

/// One of them.
struct AtMost {
    packets_max: u64,
    /// How large packets were.
    sent: Mean,
    acked: Mean,
    last_packet_number: Option<u64>,
    inner: Box<dyn Controller>,
}

/// Bytes of `MEAN_PACKETS` packets of the mean size.
#[derive(Clone, Copy)]
struct Mean(u64);

impl Mean {
    fn of(bytes: u64) -> Self {
        Self(MEAN_PACKETS * bytes)
    }

    // So many packets more, of so many bytes each. The more there are, the less of those before is left.
    fn note(&mut self, packets: u64, bytes: u64) {
        let forgotten = packets.min(MEAN_PACKETS);
        self.0 -= self.0 * forgotten / MEAN_PACKETS;
        self.0 += bytes.min(DATAGRAM_BYTES_MAX) * forgotten;
    }
}

impl AtMost {
    fn new(packets_max: u64, packet: u16, inner: Box<dyn Controller>) -> Self {
        Self {
            packets_max,
            sent: Mean::of(packet.into()),
            acked: Mean::of(packet.into()),
            last_packet_number: None,
            inner,
        }
    }

    fn bytes_max(&self) -> u64 {
        let mean = self.sent.0.min(self.acked.0);
        self.packets_max.saturating_mul(mean) / MEAN_PACKETS
    }

    // Packets up to this number were sent, of so many bytes together.
    fn note_sent(&mut self, bytes: u64, last_packet_number: u64) {
        // Numbers begin anew twice while a connection is made.
        let last = self.last_packet_number.replace(last_packet_number);
        let packets = last.and_then(|last| last_packet_number.checked_sub(last));
        let packets = packets.unwrap_or(1).max(1);
        if bytes > ACK_BYTES_MAX {
            self.sent.note(packets, bytes / packets);
        }
    }

    // A packet of so many bytes is under way no more.
    fn note_acked(&mut self, bytes: u64) {
        self.acked.note(1, bytes);
    }
}

impl Controller for AtMost {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.note_sent(bytes, last_packet_number);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.note_acked(bytes);
        // One that grows with what arrives would grow for ever: the path never stops it.
        let is_far_above = self.inner.window() >= self.bytes_max().saturating_mul(2);
        self.inner
            .on_ack(now, sent, bytes, app_limited || is_far_above, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window().min(self.bytes_max())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.inner.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            packets_max: self.packets_max,
            sent: self.sent,
            acked: self.acked,
            last_packet_number: self.last_packet_number,
            inner: self.inner.clone_box(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window().min(self.bytes_max())
    }

    // The one within: how it is bounded is no business of who asks what it is.
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}

#[cfg(test)]
mod tests {
    use quinn::congestion::CubicConfig;

    use super::*;

    const PACKETS_MAX: u64 = 1_536;

    // One that would let far more be under way.
    fn unbounded() -> Arc<CubicConfig> {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(1 << 30);
        Arc::new(cubic)
    }

    fn bounded() -> Box<dyn Controller> {
        let factory = AtMostFactory {
            packets_max: PACKETS_MAX,
            of: unbounded(),
        };
        Arc::new(factory).build(Instant::now(), 1_500)
    }

    /// A path on which everything is acknowledged when `acked` says so.
    struct Path {
        controller: AtMost,
        number: u64,
    }

    impl Path {
        fn new() -> Self {
            let mut path = Self {
                controller: AtMost::new(
                    PACKETS_MAX,
                    1_500,
                    unbounded().build(Instant::now(), 1_500),
                ),
                number: 0,
            };
            path.send(0, 0);
            path
        }

        fn send(&mut self, packets: u64, bytes: u64) {
            self.number += packets;
            let now = Instant::now();
            self.controller.on_sent(now, packets * bytes, self.number);
        }

        fn acked(&mut self, packets: u64, bytes: u64) {
            for _ in 0..packets {
                self.controller.note_acked(bytes);
            }
        }

        // As many packets of so many bytes as there are to be, or a few less.
        fn assert_bound(&self, bytes: u64) {
            let window = self.controller.window();
            let exact = PACKETS_MAX * bytes;
            let most = exact + exact / 20 + PACKETS_MAX;
            assert!(
                (exact * 9 / 10..=most).contains(&window),
                "{bytes}: {window}"
            );
        }
    }

    #[test]
    fn small_packets_are_as_many_as_large_ones() {
        for bytes in [200, 1_500, 120] {
            // However many are sent at a time, few of them are enough.
            for (packets, times) in [(1, 200), (10, 20), (64, 1)] {
                let mut path = Path::new();
                path.send(40, 1_000);
                path.acked(200, 1_000);
                for _ in 0..times {
                    path.send(packets, bytes);
                }
                // Before any of them has arrived, if they are smaller.
                path.assert_bound(bytes.min(1_000));
                path.acked(200, bytes);
                path.assert_bound(bytes);
            }
        }
    }

    #[test]
    fn acknowledgements_between_packets_do_not_make_these_fewer() {
        let mut path = Path::new();
        for _ in 0..200 {
            path.send(1, 40);
            path.send(2, 1_400);
            path.acked(2, 1_400);
        }
        path.assert_bound(1_400);
        // Packets as small as these count when they arrive.
        for _ in 0..200 {
            path.send(1, 60);
            path.acked(1, 60);
        }
        path.assert_bound(60);
    }

    #[test]
    fn numbers_that_begin_anew_and_no_bytes_do_no_harm() {
        let now = Instant::now();
        let mut controller = bounded();
        for (bytes, number) in [(1_200, 5), (1_200, 0), (0, 0), (u64::MAX, u64::MAX), (0, 1)] {
            controller.on_sent(now, bytes, number);
            assert!(controller.window() <= 1 << 30);
        }
    }
}
