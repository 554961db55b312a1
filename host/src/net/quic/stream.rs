//! QUIC's connections and streams as the traits that sessions run over. Only translated here: each call is one of quinn's, and what its
//! errors say of an end is all that is kept of them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tidegate_wire::stream::{
    Connection, ConnectionEnd, ReceiveError, ReceiveHalf, SendError, SendHalf,
};

/// Segments taken from quinn at once: a datagram each, so one lock for about 100 KiB at the largest MTU.
const SEGMENTS: usize = 16;

/// A connection past its handshake.
#[derive(Clone, Debug)]
pub(super) struct QuicConnection(pub(super) quinn::Connection);

/// The sending half of one of its streams.
#[derive(Debug)]
pub(super) struct QuicSend(SendStream);

/// The receiving half of one of its streams.
#[derive(Debug)]
pub(super) struct QuicReceive(RecvStream);

impl Connection for QuicConnection {
    type Send = QuicSend;
    type Receive = QuicReceive;

    async fn open(&self) -> Result<(QuicSend, QuicReceive), ConnectionEnd> {
        let opened = self.0.open_bi().await.map_err(end_of)?;
        Ok((QuicSend(opened.0), QuicReceive(opened.1)))
    }

    async fn accept(&self) -> Result<(QuicSend, QuicReceive), ConnectionEnd> {
        let accepted = self.0.accept_bi().await.map_err(end_of)?;
        Ok((QuicSend(accepted.0), QuicReceive(accepted.1)))
    }

    fn close(&self, code: u32, reason: &str) {
        self.0.close(code.into(), reason.as_bytes());
    }

    async fn closed(&self) -> ConnectionEnd {
        end_of(self.0.closed().await)
    }

    fn end(&self) -> Option<ConnectionEnd> {
        self.0.close_reason().map(end_of)
    }

    fn round_trip(&self) -> Duration {
        self.0.rtt()
    }

    fn set_receive_window(&self, bytes: usize) {
        self.0.set_receive_window(var_int(bytes));
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
        let written = self.0.write_chunks(queue.make_contiguous()).await;
        let written = written.map_err(|error| match error {
            WriteError::Stopped(code) => SendError::Stopped(code_of(code)),
            WriteError::ClosedStream => SendError::Ended,
            WriteError::ConnectionLost(error) => SendError::Lost(end_of(error)),
            WriteError::ZeroRttRejected => SendError::Lost(no_early_data()),
        })?;
        queue.drain(..written.chunks);
        Ok(written.bytes)
    }

    fn finish(&mut self) {
        // Fails only when the direction is over already.
        let _ = self.0.finish();
    }

    fn reset(&mut self, code: u32) {
        // As above.
        let _ = self.0.reset(code.into());
    }

    async fn drained(&mut self) -> Result<(), SendError> {
        match self.0.stopped().await {
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
        let before = buffer.len();
        for segment in segments.iter().take(read.unwrap_or(0)) {
            buffer.extend_from_slice(segment);
        }
        Ok(buffer.len() - before)
    }

    fn stop(&mut self, code: u32) {
        // Fails only when the direction is over already.
        let _ = self.0.stop(code.into());
    }
}

/// The largest number that QUIC can say stands for all above it.
pub(super) fn var_int(bytes: usize) -> VarInt {
    u64::try_from(bytes)
        .ok()
        .and_then(|bytes| VarInt::from_u64(bytes).ok())
        .unwrap_or(VarInt::MAX)
}

fn code_of(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}

// Only who said goodbye in the protocol's own terms counts as the peer: a close by QUIC itself is a failure of the transport.
fn end_of(error: ConnectionError) -> ConnectionEnd {
    match error {
        ConnectionError::LocallyClosed => ConnectionEnd::Here,
        ConnectionError::ApplicationClosed(close) => ConnectionEnd::Peer {
            code: code_of(close.error_code),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::TimedOut => ConnectionEnd::TimedOut,
        error => ConnectionEnd::Failed(error.to_string()),
    }
}

// The settings of TLS allow none, so this is never said.
fn no_early_data() -> ConnectionEnd {
    ConnectionEnd::Failed("early data was rejected".to_owned())
}
