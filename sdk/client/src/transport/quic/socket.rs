//! The UDP socket of one connection, as quinn is to see it: one that notes when anything comes from its peer, which may be long before a
//! handshake says anything, and that takes as much memory as it needs. What comes is not looked at here.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use super::UDP_PAYLOAD_BYTES_MAX;
use crate::transport::Answered;

/// Datagrams that the system may hand over as one. It makes at most 64 KiB of them, and quinn has room for as many of the largest
/// kind, 32 times: 2.3 MB, where the 64 small ones that there may be would take 18 MB, for each connection.
const SEGMENTS: usize = (64 * 1024_usize).div_ceil(UDP_PAYLOAD_BYTES_MAX as usize);

const _: () = assert!(SEGMENTS * UDP_PAYLOAD_BYTES_MAX as usize >= 64 * 1024);

/// A socket that notes that it was answered.
#[derive(Debug)]
pub(super) struct AnsweredSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    peer: SocketAddr,
    answered: Answered,
}

impl AnsweredSocket {
    /// Takes `socket`, and notes with `answered` whatever comes from `peer`: anybody may send to a port.
    ///
    /// # Errors
    /// The runtime cannot use the socket.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        peer: SocketAddr,
        answered: Answered,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TokioRuntime.wrap_udp_socket(socket)?,
            peer,
            answered,
        })
    }
}

impl AsyncUdpSocket for AnsweredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(context, buffers, meta);
        if let Poll::Ready(Ok(count)) = received {
            // The rest of an address of IPv6 is about this machine.
            let is_peer =
                |from: SocketAddr| (from.ip(), from.port()) == (self.peer.ip(), self.peer.port());
            if meta.iter().take(count).any(|meta| is_peer(meta.addr)) {
                self.answered.note();
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments().min(SEGMENTS)
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
