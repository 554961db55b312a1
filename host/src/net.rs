//! The network side of the broker: what clients say to it, and how that gets to it. `session` is what is said, over streams of whatever
//! transport; `quic` is the transport there is; `start` starts both. Beside one message in `domain`, this is the only module that
//! knows the wire's messages. Nothing here decides what is delivered to whom or what is durable; that is asked of
//! [`Broker`](crate::broker::Broker).
//!
//! `session` and `counters` know nothing of `quic`, so other transports can be put beside it.

mod counters;
mod door;
#[cfg(not(feature = "simulation"))]
mod quic;
mod session;
#[cfg(not(feature = "simulation"))]
mod start;

pub use counters::{NetCounters, NetCounts};
pub use door::Door;
#[cfg(not(feature = "simulation"))]
pub use quic::listeners::NetHandle;
#[cfg(not(feature = "simulation"))]
pub use quic::options::{ListenerOptions, QuicOptions};
#[cfg(not(feature = "simulation"))]
pub use quic::socket::ServeError;
pub use session::options::SessionOptions;
#[cfg(not(feature = "simulation"))]
pub use start::{NetOptions, serve};
pub use tidegate_wire::compact::Compression;
pub use tidegate_wire::limits::Limits;
#[cfg(not(feature = "simulation"))]
pub use tidegate_wire::stream::quic::congestion::Congestion;
