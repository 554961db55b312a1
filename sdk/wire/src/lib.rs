//! The wire protocol of Tidegate: schema, generated types, framing, limits, error codes, and the traits of the streams that carry
//! it. Pure: bytes in, values out. No I/O, no clock and no task ever lives here. The feature `quic` adds how quinn's streams are
//! these, which broker and client share.

pub mod batch;
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

/// The code with which a client resets a subscribe stream when its application failed with what it had in hand.
pub const APPLICATION_FAILED: u32 = 1;

#[cfg(test)]
mod golden;
