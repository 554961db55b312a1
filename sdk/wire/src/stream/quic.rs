//! QUIC's connections and streams, as quinn has them, behind the traits of [`stream`](super). Only translated here: each call is one of
//! quinn's, and what its errors say of an end is all that is kept of them. Sockets, certificates and settings are the business of
//! whoever makes a connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quinn::{
    ConnectionError, FrameStats, ReadError, RecvStream, SendStream, StoppedError,
    TransportErrorCode, VarInt, WriteError,
};

use self::send_window::{SendBudget, SendWindow, Sharer};
use super::{
    Connection, ConnectionEnd, LONG_PATH, ReceiveError, ReceiveHalf, SendError, SendHalf, Traffic,
    TransportSettings,
};
use crate::counters::ConnectionCounters;

pub mod congestion;
pub mod reordering;
pub mod send_window;
#[cfg(test)]
mod tests;

/// Segments taken from quinn at once: a datagram each, so one lock for about 100 KiB at the largest MTU. And pieces given to it at once
/// where they are counted.
const SEGMENTS: usize = 16;

/// A connection past its handshake, and what is to live as long: the socket of its own that a client has for it, or nothing.
#[derive(Clone, Debug)]
pub struct QuicConnection<K = ()> {
    sending: Arc<Sending>,
    kept: K,
}

/// A connection, and how much may wait to be sent on it.
#[derive(Debug)]
struct Sending {
    connection: quinn::Connection,
    window: SendWindow,
}

/// What lives as long as a connection.
pub trait Kept: Clone + Send + Sync + 'static {
    /// Gives the connection to `peer` another socket.
    ///
    /// # Errors
    /// There is none to be had, or the socket is not only this connection's.
    fn rebind(&self, _peer: SocketAddr) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Looks from which address this machine reaches `peer`, as in [`Connection::follow_route`].
    fn follow_route(&self, _peer: SocketAddr) -> bool {
        false
    }
}

impl Kept for () {}

/// The sending half of one of its streams.
#[derive(Debug)]
pub struct QuicSend {
    stream: SendStream,
    sending: Arc<Sending>,
}

/// The receiving half of one of its streams.
#[derive(Debug)]
pub struct QuicReceive(RecvStream);

impl QuicConnection {
    /// What quinn has connected. What waits to be sent counts in `budget`.
    #[must_use]
    pub fn new(connection: quinn::Connection, budget: &Arc<SendBudget>) -> Self {
        Self::keeping(connection, budget, ())
    }
}

impl<K> QuicConnection<K> {
    /// The same, with what lives as long.
    #[must_use]
    pub fn keeping(connection: quinn::Connection, budget: &Arc<SendBudget>, kept: K) -> Self {
        let window = SendWindow::new(budget.clone());
        connection.set_send_window(window.bytes());
        let sending = Arc::new(Sending { connection, window });
        Self { sending, kept }
    }

    fn quinn(&self) -> &quinn::Connection {
        &self.sending.connection
    }

    fn send_half(&self, stream: SendStream) -> QuicSend {
        QuicSend {
            stream,
            sending: self.sending.clone(),
        }
    }

    /// What lives as long.
    #[must_use]
    pub fn kept(&self) -> &K {
        &self.kept
    }
}

impl Sending {
    /// So many bytes were written.
    fn wrote(self: &Arc<Self>, bytes: usize) {
        if !self.window.wrote(bytes) {
            return;
        }
        let path = self.connection.stats().path;
        let set = |window| self.connection.set_send_window(window);
        self.window.follow(path.cwnd, path.lost_packets, set);
        if self.window.is_to_be_listed() {
            let this: Weak<Self> = Arc::downgrade(self);
            self.window.budget().list(this);
        }
        self.window.looked();
    }
}

impl Sharer for Sending {
    fn rest(&self) -> bool {
        self.window
            .rest(|window| self.connection.set_send_window(window))
    }
}

impl<K: Kept> Connection for QuicConnection<K> {
    type Send = QuicSend;
    type Receive = QuicReceive;

    async fn open(&self) -> Result<(QuicSend, QuicReceive), ConnectionEnd> {
        let (send, receive) = self.quinn().open_bi().await.map_err(end_of)?;
        Ok((self.send_half(send), QuicReceive(receive)))
    }

    async fn accept(&self) -> Result<(QuicSend, QuicReceive), ConnectionEnd> {
        let (send, receive) = self.quinn().accept_bi().await.map_err(end_of)?;
        Ok((self.send_half(send), QuicReceive(receive)))
    }

    fn close(&self, code: u32, reason: &str) {
        self.quinn().close(code.into(), reason.as_bytes());
    }

    async fn closed(&self) -> ConnectionEnd {
        end_of(self.quinn().closed().await)
    }

    fn end(&self) -> Option<ConnectionEnd> {
        self.quinn().close_reason().map(end_of)
    }

    fn round_trip(&self) -> Duration {
        self.quinn().rtt()
    }

    fn is_long(&self) -> bool {
        let round_trip = self.quinn().rtt();
        // A controller is copied to be asked; where round trips are as short as this, there is nothing to ask.
        if round_trip < LONG_PATH / 2 {
            return false;
        }
        let controller = self.quinn().congestion_state();
        congestion::takes_path_for_long(controller).unwrap_or(round_trip >= LONG_PATH)
    }

    fn overtaken(&self) -> u64 {
        congestion::overtaken(self.quinn().congestion_state())
    }

    fn settings(&self) -> TransportSettings {
        TransportSettings {
            send_window_bytes_free: send_window::SEND_WINDOW_BYTES_FREE,
            send_window_bytes_max: send_window::SEND_WINDOW_BYTES_MAX,
        }
    }

    fn traffic(&self) -> Traffic {
        let stats = self.quinn().stats();
        let sent = stats.frame_tx;
        Traffic {
            // A probe for a lost answer is one of these two: the second where both ends know of it.
            asked: answered_frames(&sent) + sent.ping + sent.immediate_ack,
            heard: stats.udp_rx.datagrams,
        }
    }

    fn counters(&self) -> ConnectionCounters {
        let stats = self.quinn().stats();
        let (sent, received, path) = (stats.udp_tx, stats.udp_rx, stats.path);
        ConnectionCounters {
            datagrams_sent: sent.datagrams,
            datagrams_received: received.datagrams,
            bytes_sent: sent.bytes,
            bytes_received: received.bytes,
            packets_sent: path.sent_packets,
            packets_lost: path.lost_packets,
            bytes_lost: path.lost_bytes,
            mtu_probes_lost: path.lost_plpmtud_probes,
            round_trip: path.rtt,
            congestion_window_bytes: path.cwnd,
            mtu: path.current_mtu,
            peer_address: Some(self.quinn().remote_address()),
            congestion: congestion::in_use(self.quinn().congestion_state()).into(),
            send_window_bytes: self.sending.window.bytes(),
            frames_sent: answered_frames(&stats.frame_tx),
            frames_received: answered_frames(&stats.frame_rx),
        }
    }

    fn rebind(&self) -> io::Result<()> {
        self.kept.rebind(self.quinn().remote_address())
    }

    fn follow_route(&self) -> bool {
        self.kept.follow_route(self.quinn().remote_address())
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        Some(self.quinn().remote_address())
    }

    fn send_window(&self) -> usize {
        usize::try_from(self.sending.window.bytes()).unwrap_or(usize::MAX)
    }

    fn set_receive_window(&self, bytes: usize) {
        self.quinn().set_receive_window(var_int(bytes));
    }
}

impl SendHalf for QuicSend {
    async fn send(&mut self, queue: &mut VecDeque<Bytes>) -> Result<usize, SendError> {
        while queue.front().is_some_and(Bytes::is_empty) {
            queue.pop_front();
        }
        if queue.is_empty() {
            return Ok(0);
        }
        let share = self.sending.window.share();
        let stream = &mut self.stream;
        // Whether it counts is asked whenever it is tried: the window may have grown while this waited.
        let written = poll_fn(|context| match share.is_taken() {
            false => pin!(stream.write_chunks(queue.make_contiguous())).poll(context),
            true => {
                let pieces = queue.iter().take(SEGMENTS);
                let mut counted: Vec<_> = pieces.map(|piece| share.counted(piece)).collect();
                let written = pin!(stream.write_chunks(&mut counted)).poll(context);
                if let Poll::Ready(Ok(written)) = &written
                    && let Some(rest) = counted.get(written.chunks)
                {
                    // What was written of it does not wait here any more.
                    let piece = &mut queue[written.chunks];
                    piece.advance(piece.len() - rest.len());
                }
                written
            }
        });
        let written = written.await;
        let written = written.map_err(|error| match error {
            WriteError::Stopped(code) => SendError::Stopped(code_of(code)),
            WriteError::ClosedStream => SendError::Ended,
            WriteError::ConnectionLost(error) => SendError::Lost(end_of(error)),
            WriteError::ZeroRttRejected => SendError::Lost(no_early_data()),
        })?;
        queue.drain(..written.chunks);
        self.sending.wrote(written.bytes);
        Ok(written.bytes)
    }

    fn finish(&mut self) {
        // Fails only when the direction is over already; so does a reset.
        let _ = self.stream.finish();
    }

    fn reset(&mut self, code: u32) {
        let _ = self.stream.reset(code.into());
    }

    async fn drained(&mut self) -> Result<(), SendError> {
        match self.stream.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(SendError::Stopped(code_of(code))),
            Err(StoppedError::ConnectionLost(error)) => Err(SendError::Lost(end_of(error))),
            Err(StoppedError::ZeroRttRejected) => Err(SendError::Lost(no_early_data())),
        }
    }
}

impl ReceiveHalf for QuicReceive {
    async fn receive(&mut self, buffer: &mut BytesMut) -> Result<usize, ReceiveError> {
        let mut segments: [Bytes; SEGMENTS] = Default::default();
        let read = self.0.read_chunks(&mut segments).await;
        let read = read.map_err(|error| match error {
            ReadError::Reset(code) => ReceiveError::Reset(code_of(code)),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead => ReceiveError::Stopped,
            ReadError::ConnectionLost(error) => ReceiveError::Lost(end_of(error)),
            ReadError::ZeroRttRejected => ReceiveError::Lost(no_early_data()),
        })?;
        let segments = segments.iter().take(read.unwrap_or(0));
        let bytes = segments.clone().map(Bytes::len).sum();
        // At once, so that what is there already moves once at most.
        buffer.reserve(bytes);
        segments.for_each(|segment| buffer.extend_from_slice(segment));
        Ok(bytes)
    }

    fn stop(&mut self, code: u32) {
        // Fails only when the direction is over already.
        let _ = self.0.stop(code.into());
    }
}

/// So many bytes as QUIC says numbers. The largest that it can say stands for all above it.
#[must_use]
pub fn var_int(bytes: usize) -> VarInt {
    u64::try_from(bytes)
        .ok()
        .and_then(|bytes| VarInt::from_u64(bytes).ok())
        .unwrap_or(VarInt::MAX)
}

/// How a connection ended, in the words of every transport. Only who said goodbye in the protocol's own terms counts as the peer: a
/// close by QUIC itself is a failure of the transport, or of TLS.
#[must_use]
pub fn end_of(error: ConnectionError) -> ConnectionEnd {
    match error {
        ConnectionError::LocallyClosed => ConnectionEnd::Here,
        ConnectionError::TimedOut => ConnectionEnd::TimedOut,
        ConnectionError::ApplicationClosed(close) => ConnectionEnd::Peer {
            code: code_of(close.error_code),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::ConnectionClosed(ref close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            ConnectionEnd::Busy
        }
        ConnectionError::TransportError(ref objection) if is_tls_alert(objection.code) => {
            rejected(false, &error)
        }
        ConnectionError::ConnectionClosed(ref close) if is_tls_alert(close.error_code) => {
            rejected(true, &error)
        }
        error => ConnectionEnd::Failed(error.to_string()),
    }
}

// Frames with data or credit: packets that carry them are answered by the other end.
fn answered_frames(frames: &FrameStats) -> u64 {
    frames.stream + frames.max_data + frames.max_stream_data
}

fn rejected(by_peer: bool, error: &ConnectionError) -> ConnectionEnd {
    let reason = error.to_string();
    ConnectionEnd::Rejected { by_peer, reason }
}

// TLS alerts are the QUIC error codes from 0x100 to 0x1ff.
fn is_tls_alert(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

fn code_of(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

// The settings of TLS allow none, so this is never said.
fn no_early_data() -> ConnectionEnd {
    ConnectionEnd::Failed("early data was rejected".to_owned())
}
