//! Congestion control: how much may be under way on one QUIC connection. What an operator may choose stands here; how the choice
//! called `auto` finds the number stands in the files below. Settings that are no choice of a controller (windows, thresholds of
//! loss) are the business of whoever makes a connection.
//!
//! Of quinn's controllers, cubic takes every lost packet for a full queue, so that one loss in a hundred leaves it next to
//! nothing of a long path; BBR keeps its speed, but quinn's pacer goes by window and round trip and ignores the rate that BBR
//! wants, so that it fills every queue to the brim and sends much of what it sends again. `auto` is made for that pacer.

use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{Bbr, BbrConfig, Controller, ControllerFactory, Cubic, CubicConfig};

use crate::choices::choices;

mod at_most;
mod auto;
mod delivery_rate;
mod path_model;
#[cfg(test)]
mod tests;

/// Which controller decides how much may be under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Congestion {
    /// Cubic where round trips are short, as within a data centre; where they are long, a model of the path: what it delivers and
    /// how long it takes when no queue is in the way. Loss that the path always has does not slow it down.
    #[default]
    Auto,
    /// Cubic (RFC 9438): every loss counts as congestion.
    Cubic,
    /// quinn's BBR, which is experimental: fast on paths with loss, at the price of full queues and much that is sent again.
    Bbr,
}

choices!(Congestion, "congestion controller" {
    Auto => "auto",
    Cubic => "cubic",
    Bbr => "bbr",
});

impl Congestion {
    /// What makes a controller for each connection, for quinn's transport settings.
    #[must_use]
    pub fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Auto => Arc::new(auto::AutoFactory),
            Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(BbrConfig::default()),
        }
    }
}

/// The shortest round trip from which on a path is long, for `auto`.
pub const LONG_PATH: Duration = crate::stream::LONG_PATH;

/// Whether `controller` takes the path for a long one, by the shortest round trip there was; `None` when it is all the same to it.
#[must_use]
pub fn takes_path_for_long(controller: Box<dyn Controller>) -> Option<bool> {
    let controller = controller.into_any();
    let auto = controller.downcast_ref::<auto::Auto>()?;
    Some(auto.takes_path_for_long())
}

/// How many packets `controller` has seen acknowledged after later ones; none where it does not look.
#[must_use]
pub fn overtaken(controller: Box<dyn Controller>) -> u64 {
    let controller = controller.into_any();
    let auto = controller.downcast_ref::<auto::Auto>();
    auto.map_or(0, auto::Auto::overtaken)
}

/// What `controller` goes by at present, in words: of `auto`, what it has chosen.
#[must_use]
pub fn in_use(controller: Box<dyn Controller>) -> &'static str {
    let controller = controller.into_any();
    if let Some(auto) = controller.downcast_ref::<auto::Auto>() {
        auto.in_use()
    } else if controller.is::<Cubic>() {
        Congestion::Cubic.name()
    } else if controller.is::<Bbr>() {
        Congestion::Bbr.name()
    } else {
        "another"
    }
}

/// Packets under way at most where they arrive out of order: each that is missing before a later one is a gap, and quinn's peers give up
/// a connection with more than 1,024 of them in a stream.
const REORDERED_PACKETS_MAX: u64 = 1_536;

impl Congestion {
    /// The same for connections whose packets arrive out of order.
    pub(super) fn factory_for_reordering(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        Arc::new(at_most::AtMostFactory {
            packets_max: REORDERED_PACKETS_MAX,
            of: self.factory(),
        })
    }
}
