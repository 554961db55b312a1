//! The controller called `auto`: cubic on short paths, the model of [`path_model`](super::path_model) on long ones. Only what decides
//! between the two stands here.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use super::Congestion;
use super::path_model::PathModel;

/// A path is long from this round trip on: the shortest that was seen.
const LONG: Duration = super::LONG_PATH;
/// And short, whatever it seemed before, from this one down: a machine that was too busy to answer has found time.
const SHORT: Duration = Duration::from_millis(4);
/// Acknowledged packets before a path is believed to be long.
const PACKETS_SEEN: u32 = 4;

/// Packets of the first window, and the least bytes that it is (RFC 9002, section 7.2).
const FIRST_PACKETS: u64 = 10;
const PACKET_MIN: u64 = 1_200;

/// Packets of the window when a path turns out to be long. Each round of doubling takes a round trip there, and quinn's pacer spreads
/// the packets over one, so that this is no burst; quinn's BBR begins with 200, and many a sender on the Internet with 32 and more
/// (Rüth and others, "Large-Scale Scanning of TCP's Initial Window", IMC 2017).
const LONG_FIRST_PACKETS: u64 = 32;

/// Makes the controllers of connections.
#[derive(Debug, Default)]
pub(super) struct AutoFactory;

impl ControllerFactory for AutoFactory {
    fn build(self: Arc<Self>, now: Instant, packet: u16) -> Box<dyn Controller> {
        Box::new(Auto::new(now, packet))
    }
}

/// One connection's, on one path.
#[derive(Clone)]
pub(super) struct Auto {
    packet: u16,
    shortest: Duration,
    packets_seen: u32,
    order: AckOrder,
    path: Path,
}

/// In which order packets are acknowledged.
#[derive(Clone, Copy, Default)]
struct AckOrder {
    /// When the newest packet left that an earlier batch of acknowledgements told of, and the newest of this one.
    before: Option<Instant>,
    now: Option<Instant>,
    overtaken: u64,
}

impl AckOrder {
    fn on_ack(&mut self, sent: Instant) {
        self.overtaken += u64::from(self.before.is_some_and(|newest| sent < newest));
        self.now = self.now.max(Some(sent));
    }

    // What comes in one batch is told in order, whatever it came in.
    fn on_end_acks(&mut self) {
        self.before = self.before.max(self.now);
    }
}

#[derive(Clone)]
enum Path {
    /// Not known yet, or short.
    Short(Cubic),
    Long(Box<PathModel>),
}

impl Auto {
    fn new(now: Instant, packet: u16) -> Self {
        Self {
            packet,
            shortest: Duration::MAX,
            packets_seen: 0,
            order: AckOrder::default(),
            path: Path::Short(cubic(first_window(packet), now, packet)),
        }
    }

    /// What it has chosen, in words.
    pub(super) fn in_use(&self) -> &'static str {
        match self.path {
            Path::Short(_) => Congestion::Cubic.name(),
            Path::Long(_) => "a model of the path",
        }
    }

    /// Whether it goes by the model, which is for long paths.
    pub(super) fn takes_path_for_long(&self) -> bool {
        matches!(self.path, Path::Long(_))
    }

    /// How many packets were acknowledged after later ones.
    pub(super) fn overtaken(&self) -> u64 {
        self.order.overtaken
    }

    fn choose(&mut self, now: Instant, sent: Instant) {
        self.packets_seen = self.packets_seen.saturating_add(1);
        let round_trip = now.saturating_duration_since(sent);
        if round_trip >= self.shortest && self.packets_seen != PACKETS_SEEN {
            return;
        }
        self.shortest = self.shortest.min(round_trip);
        match &self.path {
            Path::Short(cubic) if self.packets_seen == PACKETS_SEEN && self.shortest >= LONG => {
                let packet = u64::from(self.packet);
                let window = cubic.window().max(LONG_FIRST_PACKETS * packet);
                let model = PathModel::new(window, packet);
                self.path = Path::Long(Box::new(model));
            }
            Path::Long(model) if self.shortest <= SHORT => {
                self.path = Path::Short(cubic(model.window(), now, self.packet));
            }
            _ => {}
        }
    }
}

impl Controller for Auto {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        match &mut self.path {
            Path::Short(cubic) => cubic.on_sent(now, bytes, last_packet_number),
            Path::Long(model) => model.on_sent(now),
        }
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.choose(now, sent);
        self.order.on_ack(sent);
        match &mut self.path {
            Path::Short(cubic) => cubic.on_ack(now, sent, bytes, app_limited, rtt),
            Path::Long(model) => model.on_ack(now, sent, bytes, app_limited),
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.order.on_end_acks();
        match &mut self.path {
            Path::Short(cubic) => {
                cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
            }
            Path::Long(model) => model.on_acks_end(now, app_limited),
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        match &mut self.path {
            Path::Short(cubic) => {
                cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
            }
            Path::Long(model) if is_persistent_congestion => model.on_silence(),
            Path::Long(model) if lost_bytes == 0 => model.on_marked(),
            Path::Long(model) => model.on_lost(lost_bytes),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet = new_mtu;
        match &mut self.path {
            Path::Short(cubic) => cubic.on_mtu_update(new_mtu),
            Path::Long(model) => model.on_packet_size(new_mtu.into()),
        }
    }

    fn window(&self) -> u64 {
        match &self.path {
            Path::Short(cubic) => cubic.window(),
            Path::Long(model) => model.window(),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        match &self.path {
            Path::Short(cubic) => cubic.metrics(),
            Path::Long(_) => {
                let mut metrics = ControllerMetrics::default();
                metrics.congestion_window = self.window();
                metrics
            }
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        first_window(self.packet)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn first_window(packet: u16) -> u64 {
    FIRST_PACKETS * u64::from(packet).max(PACKET_MIN)
}

fn cubic(window: u64, now: Instant, packet: u16) -> Cubic {
    let mut config = CubicConfig::default();
    config.initial_window(window);
    Cubic::new(Arc::new(config), now, packet)
}
