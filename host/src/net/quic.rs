//! QUIC: the sockets, handshakes and connections that carry sessions to clients. The only room that knows quinn. It finds out who a
//! client is, and leaves what is said to `session`.
//!
//! Every task and its end:
//! - one accept loop per listener, and the admission, which decides about what these take in: until shutdown;
//! - one task per connection, from its handshake on: until the connection is gone or shutdown has drained it.
//!
//! What nobody may guess (keys of retry tokens and reset tokens, connection ids) is drawn from the source that the options name; TLS has
//! its own. Nothing of a session depends on chance.

mod admission;
mod connection;
mod handshakes;
mod listener_context;
pub(super) mod listeners;
pub(super) mod options;
pub(super) mod socket;
mod waiting_room;

#[cfg(test)]
mod tests;
