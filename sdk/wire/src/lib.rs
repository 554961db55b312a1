//! The wire protocol of Tidegate: schema, generated types, framing, limits, error codes, and the traits of the streams that carry
//! it. Pure: bytes in, values out. No I/O, no clock and no task ever lives here. The feature `quic` adds what broker and client
//! share of QUIC: how quinn's streams are these, and what is set and reckoned for its connections (congestion control, send windows,
//! paths that reorder), by the times that quinn says.

pub mod batch;
pub mod choices;
pub mod compact;
pub mod counters;
pub mod credit;
pub mod error;
pub mod event;
pub mod frame;
pub mod frame_queue;
pub mod limits;
pub mod positions;
pub mod stream;

pub use limits::Limits;

/// The messages of `proto/tidegate.proto`, as prost generates them; `tests/it/generated.rs` of the workspace keeps the two equal.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; the schema is the documentation"
)]
#[rustfmt::skip]
pub mod pb;

/// The application protocol that client and broker agree on in the TLS handshake.
pub const ALPN: &[u8] = b"tidegate/1";

/// The version of the protocol that this crate speaks, offered and confirmed in the hello.
pub const PROTOCOL_VERSION: u32 = 1;

/// The connection id of packets that ask whether the path carries datagrams of their size. No connection has it. A broker answers a
/// short packet (RFC 9000, section 17.3) to this id with a stateless reset, which is always shorter, so that who gets no answer to
/// the first packets of a handshake, which have 1,200 bytes, can find out whether a shorter one comes through.
pub const PATH_PROBE_ID: [u8; 8] = *b"path-mtu";

/// The code with which a client resets a subscribe stream when its application failed with what it had in hand.
pub const APPLICATION_FAILED: u32 = 1;

#[cfg(test)]
mod golden;
