//! The QUIC side of the broker: listeners, connections and the streams clients open on them. The only module
//! that knows quinn, and beside one message in `domain` the only one that knows the wire's messages. Nothing
//! here decides what is delivered to whom or what is durable; that is asked of [`Broker`](crate::broker::Broker).
//!
//! Every task and its end:
//! - one accept loop per listener: until shutdown;
//! - one task per connection, from its handshake on: until the connection is gone or shutdown has drained it;
//! - one task per stream, owned by its connection: until the client finishes, a refusal ends it, or the
//!   connection's task drops it. A panic in it ends that stream only.

mod account;
mod connection;
mod credit;
mod deliver;
mod frames;
mod handshakes;
mod listener;
mod options;
mod publish;
mod refusal;
mod slots;
mod stats;
mod subscribe;
mod tls;
mod window;

#[cfg(test)]
mod tests;

pub use listener::{NetHandle, ServeError, serve};
pub use options::{ClientAuth, ListenerOptions, NetOptions};
pub use stats::{NetCounts, NetStats};
pub use tidegate_wire::limits::Limits;
pub use tls::{TlsError, TlsIdentity};
