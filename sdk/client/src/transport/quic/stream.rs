//! quinn's connections and streams as the client knows connections and streams. Nothing is added here, and no byte is copied that
//! quinn would not copy.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ConnectionError, ReadError, TransportErrorCode, VarInt, WriteError};
use tidegate_wire::stream::{
    Connection, ConnectionEnd, ReceiveError, ReceiveHalf, SendError, SendHalf,
};
use tokio::io::AsyncReadExt;

/// A QUIC connection, and the socket it has to itself.
#[derive(Clone)]
pub(crate) struct QuicConnection {
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
}

impl QuicConnection {
    pub(crate) fn new(connection: quinn::Connection, endpoint: quinn::Endpoint) -> Self {
        Self {
            connection,
            endpoint,
        }
    }

    pub(super) fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }
}

impl Connection for QuicConnection {
    type Send = QuicSend;
    type Receive = QuicReceive;

    async fn open(&self) -> Result<(QuicSend, QuicReceive), ConnectionEnd> {
        let (send, receive) = self.connection.open_bi().await.map_err(end_of)?;
        Ok((QuicSend(send), QuicReceive(receive)))
    }

    async fn accept(&self) -> Result<(QuicSend, QuicReceive), ConnectionEnd> {
        let (send, receive) = self.connection.accept_bi().await.map_err(end_of)?;
        Ok((QuicSend(send), QuicReceive(receive)))
    }

    fn close(&self, code: u32, reason: &str) {
        self.connection
            .close(VarInt::from_u32(code), reason.as_bytes());
    }

    async fn closed(&self) -> ConnectionEnd {
        end_of(self.connection.closed().await)
    }

    fn end(&self) -> Option<ConnectionEnd> {
        self.connection.close_reason().map(end_of)
    }

    fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    fn set_receive_window(&self, bytes: usize) {
        let window = u64::try_from(bytes).ok();
        let window = window.and_then(|bytes| VarInt::from_u64(bytes).ok());
        // The largest number that QUIC can say stands for all above it.
        self.connection
            .set_receive_window(window.unwrap_or(VarInt::MAX));
    }
}

pub(crate) struct QuicSend(quinn::SendStream);

impl SendHalf for QuicSend {
    async fn send(&mut self, queue: &mut VecDeque<Bytes>) -> Result<usize, SendError> {
        if queue.iter().all(Bytes::is_empty) {
            queue.clear();
            return Ok(0);
        }
        let written = self.0.write_chunks(queue.make_contiguous()).await;
        let written = written.map_err(|error| match error {
            WriteError::Stopped(code) => SendError::Stopped(short(code)),
            WriteError::ConnectionLost(error) => SendError::Lost(end_of(error)),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => SendError::Ended,
        })?;
        queue.drain(..written.chunks);
        Ok(written.bytes)
    }

    fn finish(&mut self) {
        // Fails only when the direction is over already; so does a reset.
        let _ = self.0.finish();
    }

    fn reset(&mut self, code: u32) {
        let _ = self.0.reset(VarInt::from_u32(code));
    }

    async fn drained(&mut self) -> Result<(), SendError> {
        match self.0.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(SendError::Stopped(short(code))),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(SendError::Lost(end_of(error))),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(SendError::Ended),
        }
    }
}

pub(crate) struct QuicReceive(quinn::RecvStream);

impl ReceiveHalf for QuicReceive {
    async fn receive(&mut self, buffer: &mut BytesMut) -> Result<usize, ReceiveError> {
        self.0.read_buf(buffer).await.map_err(receive_error)
    }

    fn stop(&mut self, code: u32) {
        // Fails only when the direction is over already.
        let _ = self.0.stop(VarInt::from_u32(code));
    }
}

/// What quinn says when it is read by way of tokio's traits has its own error inside.
fn receive_error(error: io::Error) -> ReceiveError {
    let read = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<ReadError>());
    match read {
        Some(ReadError::Reset(code)) => ReceiveError::Reset(short(*code)),
        Some(ReadError::ConnectionLost(error)) => ReceiveError::Lost(end_of(error.clone())),
        Some(ReadError::ClosedStream) => ReceiveError::Stopped,
        _ => ReceiveError::Lost(ConnectionEnd::Failed(error.to_string())),
    }
}

/// How a connection ended, in the words of every transport.
pub(super) fn end_of(error: ConnectionError) -> ConnectionEnd {
    match error {
        ConnectionError::LocallyClosed => ConnectionEnd::Here,
        ConnectionError::TimedOut => ConnectionEnd::TimedOut,
        ConnectionError::ApplicationClosed(close) => ConnectionEnd::Peer {
            code: short(close.error_code),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::TransportError(ref objection) if is_tls_alert(objection.code) => {
            ConnectionEnd::Rejected(format!("this client objects: {error}"))
        }
        ConnectionError::ConnectionClosed(ref close) if is_tls_alert(close.error_code) => {
            ConnectionEnd::Rejected(format!("the broker objects: {error}"))
        }
        error => ConnectionEnd::Failed(error.to_string()),
    }
}

/// TLS alerts are the QUIC error codes from 0x100 to 0x1ff.
fn is_tls_alert(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

fn short(code: VarInt) -> u32 {
    u32::try_from(code.into_inner()).unwrap_or(u32::MAX)
}
