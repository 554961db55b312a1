//! A bound around any controller: so many packets are under way at most, whatever it thinks that the path can take.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// Makes the controllers of another factory, bounded.
pub(super) struct AtMostFactory {
    pub(super) packets_max: u64,
    pub(super) of: Arc<dyn ControllerFactory + Send + Sync>,
}

impl ControllerFactory for AtMostFactory {
    fn build(self: Arc<Self>, now: Instant, packet: u16) -> Box<dyn Controller> {
        Box::new(AtMost {
            packets_max: self.packets_max,
            packet,
            inner: Arc::clone(&self.of).build(now, packet),
        })
    }
}

/// One of them.
struct AtMost {
    packets_max: u64,
    packet: u16,
    inner: Box<dyn Controller>,
}

impl AtMost {
    fn bytes_max(&self) -> u64 {
        self.packets_max.saturating_mul(self.packet.into())
    }
}

impl Controller for AtMost {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
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
        self.packet = new_mtu;
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
            packet: self.packet,
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
