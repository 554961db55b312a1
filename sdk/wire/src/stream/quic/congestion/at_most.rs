//! A bound around any controller: so many packets are under way at most, whatever it thinks that the path can take. Controllers count
//! bytes, so it goes by how large the last packets were.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Over so many packets their size is a mean: no more of them are too many when they become small all at once.
const MEAN_PACKETS: u64 = 32;

/// No packet is larger.
const DATAGRAM_BYTES_MAX: u64 = 65_535;

/// Makes the controllers of another factory, bounded.
pub(super) struct AtMostFactory {
    pub(super) packets_max: u64,
    pub(super) of: Arc<dyn ControllerFactory + Send + Sync>,
}

impl ControllerFactory for AtMostFactory {
    fn build(self: Arc<Self>, now: Instant, packet: u16) -> Box<dyn Controller> {
        Box::new(AtMost {
            packets_max: self.packets_max,
            mean_bytes: MEAN_PACKETS * u64::from(packet),
            last_packet_number: None,
            inner: Arc::clone(&self.of).build(now, packet),
        })
    }
}

/// One of them.
struct AtMost {
    packets_max: u64,
    /// Bytes of `MEAN_PACKETS` packets of the mean size.
    mean_bytes: u64,
    last_packet_number: Option<u64>,
    inner: Box<dyn Controller>,
}

impl AtMost {
    fn bytes_max(&self) -> u64 {
        self.packets_max.saturating_mul(self.mean_bytes) / MEAN_PACKETS
    }

    // Packets up to this number were sent, of so many bytes together.
    fn note_sent(&mut self, bytes: u64, last_packet_number: u64) {
        // Numbers begin anew twice while a connection is made.
        let last = self.last_packet_number.replace(last_packet_number);
        let packets = last.and_then(|last| last_packet_number.checked_sub(last));
        let packets = packets.unwrap_or(1).max(1);
        // The more there are, the less of those before is left.
        let forgotten = packets.min(MEAN_PACKETS);
        self.mean_bytes -= self.mean_bytes * forgotten / MEAN_PACKETS;
        self.mean_bytes += (bytes / packets).min(DATAGRAM_BYTES_MAX) * forgotten;
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
            mean_bytes: self.mean_bytes,
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

    // A bounded controller that would let far more be under way.
    fn bounded() -> Box<dyn Controller> {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(1 << 30);
        let factory = AtMostFactory {
            packets_max: PACKETS_MAX,
            of: Arc::new(cubic),
        };
        Arc::new(factory).build(Instant::now(), 1_500)
    }

    #[test]
    fn small_packets_are_as_many_as_large_ones() {
        let now = Instant::now();
        let mut controller = bounded();
        assert_eq!(controller.window(), PACKETS_MAX * 1_500);
        let mut number = 0;
        let mut send = |controller: &mut Box<dyn Controller>, packets: u64, bytes: u64| {
            number += packets;
            controller.on_sent(now, packets * bytes, number);
            controller.window()
        };
        send(&mut controller, 0, 0);
        for bytes in [200, 1_500, 60] {
            // However many are sent at a time, few of them are enough.
            for (packets, times) in [(1, 200), (10, 20), (64, 1)] {
                send(&mut controller, 40, 1_000);
                for _ in 0..times {
                    send(&mut controller, packets, bytes);
                }
                let window = controller.window();
                let exact = PACKETS_MAX * bytes;
                let most = exact + exact / 20 + PACKETS_MAX;
                assert!(
                    (exact * 9 / 10..=most).contains(&window),
                    "{bytes}: {window}"
                );
            }
        }
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
