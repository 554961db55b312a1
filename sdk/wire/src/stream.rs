//! The streams that carry the protocol, as traits: a sending half, a receiving half, and the connection they belong to. Client
//! and broker are written against these, so that the same code runs over QUIC and over whatever else has streams of bytes. What
//! the bytes mean is not known here (see [`frame`](crate::frame)), and how a connection comes about is its transport's business.
//!
//! What holds of every transport:
//!
//! - The bytes of a stream arrive in order and without gaps, or the stream ends with an error.
//! - Each direction takes only so much ahead of its reader. A sender waits then, and no other stream waits with it.
//! - A half that is dropped ends its direction: a sending half finishes unless it was reset, a receiving half stops with code 0
//!   unless it has seen the end.
//! - A connection whose last handle is gone, streams included, is closed with code 0 and no reason.
//! - Every future may be dropped before it is ready, and has done nothing then. That is what lets a stream's futures be raced.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::counters::ConnectionCounters;

pub mod memory;
#[cfg(feature = "quic")]
pub mod quic;
mod silence;

pub use self::silence::Silence;

/// The shortest round trip from which on a path is long: longer than those within a data centre, whatever its machines are busy with.
pub const LONG_PATH: Duration = Duration::from_millis(8);

/// The half of a stream that sends.
pub trait SendHalf: Send + 'static {
    /// Takes as much from the front of `queue` as there is room for, and returns how many bytes that were. Waits until it is one
    /// at least, and then waits no longer; a chunk that is taken in part stays in front with its rest. An empty queue is 0 at
    /// once, and empty chunks are removed.
    ///
    /// # Errors
    /// The direction is over: see [`SendError`]. What `queue` holds was not sent.
    ///
    /// # Cancel safety
    /// Cancel-safe: a future that was not ready has taken nothing.
    fn send(
        &mut self,
        queue: &mut VecDeque<Bytes>,
    ) -> impl Future<Output = Result<usize, SendError>> + Send;

    /// Says that nothing more will be sent. Does nothing when the direction is over already.
    fn finish(&mut self);

    /// Ends the direction at once, with a code that the reader sees. Of what it has not read yet it may see nothing, also after
    /// [`finish`](Self::finish). Does nothing when the reader has everything, or the direction was reset or stopped.
    fn reset(&mut self, code: u32);

    /// Waits until the other side has all that was sent, and the end of it; for ever, unless the direction is over. A transport
    /// that hears of its reader's progress only may wait until everything was read.
    ///
    /// # Errors
    /// When the other side stops reading, or the connection ends before.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    fn drained(&mut self) -> impl Future<Output = Result<(), SendError>> + Send;
}

/// The half of a stream that receives.
pub trait ReceiveHalf: Send + 'static {
    /// Appends what is there to `buffer`, and returns how many bytes that were. Waits until it is one at least, and then waits no
    /// longer; 0 is the end of the stream, this time and every time after. No more is appended at once than about 128 KiB, or as
    /// much as `buffer` has room for; room that is missing is made.
    ///
    /// # Errors
    /// The direction is over, and not as its sender wanted: see [`ReceiveError`].
    ///
    /// # Cancel safety
    /// Cancel-safe: a future that was not ready has appended nothing.
    fn receive(
        &mut self,
        buffer: &mut BytesMut,
    ) -> impl Future<Output = Result<usize, ReceiveError>> + Send;

    /// Tells the sender, with a code, that nothing more will be read. Does nothing when the direction is over already.
    fn stop(&mut self, code: u32);
}

/// A connection: it carries any number of streams, which either side may open. Cheap to clone; all clones are one connection.
pub trait Connection: Clone + Send + Sync + 'static {
    /// The half of its streams that sends.
    type Send: SendHalf;
    /// The half of its streams that receives.
    type Receive: ReceiveHalf;

    /// Opens a stream. Waits while the other side wants no more of them. The other side may not learn of the stream before
    /// something is sent on it.
    ///
    /// # Errors
    /// How the connection has ended.
    ///
    /// # Cancel safety
    /// Cancel-safe: a future that was not ready has opened nothing.
    fn open(
        &self,
    ) -> impl Future<Output = Result<(Self::Send, Self::Receive), ConnectionEnd>> + Send;

    /// The next stream that the other side has opened, in the order in which it opened them.
    ///
    /// # Errors
    /// How the connection has ended.
    ///
    /// # Cancel safety
    /// Cancel-safe: no stream is lost.
    fn accept(
        &self,
    ) -> impl Future<Output = Result<(Self::Send, Self::Receive), ConnectionEnd>> + Send;

    /// Ends the connection with all its streams, at once, and says why: with a code, and words for people. What is under way may
    /// be lost. Does nothing when the connection has ended.
    fn close(&self, code: u32, reason: &str);

    /// Waits until the connection has ended, and says how. Ended here it has as soon as [`close`](Self::close) is called.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    fn closed(&self) -> impl Future<Output = ConnectionEnd> + Send;

    /// How the connection has ended, if it has.
    fn end(&self) -> Option<ConnectionEnd>;

    /// How long a message to the other side and its answer are under way at present, as far as is known.
    fn round_trip(&self) -> Duration;

    /// Whether the path is a long one, on which bytes are worth some work. A path that only seems long, since the other side is busy, is
    /// none, as far as the transport can tell.
    fn is_long(&self) -> bool {
        self.round_trip() >= LONG_PATH
    }

    /// How many packets of this end the other side has acknowledged after later ones. None of them counts as lost, and none that was lost is
    /// among them: where packets come in order it is none at all. Only so many as the transport notices, which may see none.
    fn overtaken(&self) -> u64 {
        0
    }

    /// What the transport goes by. One that has nothing to choose says nothing of it.
    fn settings(&self) -> TransportSettings {
        TransportSettings::default()
    }

    /// What has gone over the connection so far. A transport that cannot fall silent says nothing of it.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// What this end has counted of the connection, and thinks of the path. A transport that counts nothing knows its round trip.
    fn counters(&self) -> ConnectionCounters {
        ConnectionCounters {
            round_trip: self.round_trip(),
            ..ConnectionCounters::default()
        }
    }

    /// Goes on over another socket, with another port, as if the address of this side had changed. The other side learns of it by the
    /// next packet, and may never be heard of again.
    ///
    /// # Errors
    /// There is no other socket to be had; the connection goes on over the one it has. Most transports know no such thing.
    fn rebind(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Looks whether this machine sends to the other side from another address than at the last look, and has the other side hear of that
    /// at once if so: until it hears something, it sends to the old one. Returns whether it was so. Otherwise nothing is sent. Most
    /// transports know no addresses.
    fn follow_route(&self) -> bool {
        false
    }

    /// Where the other side is now, which may change while a connection lives. Most transports know no addresses.
    fn peer_address(&self) -> Option<SocketAddr> {
        None
    }

    /// How many bytes may wait on this side to be sent or acknowledged, as the path is now: what is made ready beyond that only
    /// waits longer. Little at first.
    fn send_window(&self) -> usize;

    /// How many bytes the other side may have sent, on all streams together, that were not read here. Less than before holds as
    /// what was promised is used up.
    fn set_receive_window(&self, bytes: usize);
}

/// What a transport goes by, on every path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportSettings {
    /// Bytes that may wait to be sent or acknowledged, if the path carries so much: without a share of what all connections of this end
    /// have together, and with it.
    pub send_window_bytes_free: u64,
    /// The most that may wait.
    pub send_window_bytes_max: u64,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            send_window_bytes_free: u64::MAX,
            send_window_bytes_max: u64::MAX,
        }
    }
}

/// What has gone over a connection. Both numbers only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What was sent that the other side has to answer, if only with an acknowledgement. What is sent again counts again.
    pub asked: u64,
    /// What came, whatever it was.
    pub heard: u64,
}

/// Why nothing can be sent on a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The other side reads no more, and says so with a code.
    #[error("the other side reads no more of the stream (code {0})")]
    Stopped(u32),
    /// This side has finished or reset the stream.
    #[error("the stream was ended by this side")]
    Ended,
    /// The connection has ended.
    #[error("the connection is lost: {0}")]
    Lost(#[from] ConnectionEnd),
}

/// Why nothing can be received on a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// The other side gave the stream up, and says so with a code.
    #[error("the other side has given the stream up (code {0})")]
    Reset(u32),
    /// This side has stopped the stream.
    #[error("the stream was stopped by this side")]
    Stopped,
    /// The connection has ended.
    #[error("the connection is lost: {0}")]
    Lost(#[from] ConnectionEnd),
}

/// How a connection ended: who ended it, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionEnd {
    /// This side closed it.
    #[error("closed")]
    Here,
    /// The other side closed it.
    #[error("closed by peer: {}", close_words(.code, .reason))]
    Peer {
        /// What for, as the protocol counts it; 0 says nothing. Codes beyond 32 bits are `u32::MAX`.
        code: u32,
        /// The same for people. Empty when the other side had nothing to say, or was ended without a chance to.
        reason: String,
    },
    /// There was none: the other side is there, and takes no connection at present.
    #[error("the other side takes no connection at present")]
    Busy,
    /// Nothing was heard of the other side for too long.
    #[error("timed out")]
    TimedOut,
    /// One side does not accept who the other is, or what it speaks.
    #[error("{} objects: {reason}", if *by_peer { "the other side" } else { "this side" })]
    Rejected {
        /// Whether it is the other side.
        by_peer: bool,
        /// What it objects to, in words.
        reason: String,
    },
    /// The transport failed.
    #[error("{0}")]
    Failed(String),
}

fn close_words(code: &u32, reason: &str) -> String {
    match reason {
        "" => code.to_string(),
        reason => format!("{reason} (code {code})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_who_and_why() {
        let peer = |reason: &str| ConnectionEnd::Peer {
            code: 4,
            reason: reason.to_owned(),
        };
        for (end, expected) in [
            (ConnectionEnd::Here, "closed"),
            (peer("not you"), "closed by peer: not you (code 4)"),
            (peer(""), "closed by peer: 4"),
        ] {
            assert_eq!(end.to_string(), expected);
        }
        let lost = SendError::from(ConnectionEnd::TimedOut);
        assert_eq!(lost.to_string(), "the connection is lost: timed out");
    }
}
