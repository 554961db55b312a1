//! The UDP socket of one connection, as quinn is to see it: one that notes when anything comes from its peer, which may be long before a
//! handshake says anything, and that takes as much memory as it needs. What comes is not looked at here.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

use crate::transport::Answered;

/// What the system hands over as one, at most.
const RECEIVED_AT_ONCE: usize = 64 * 1024;

/// A socket that notes that it was answered.
#[derive(Debug)]
pub(super) struct AnsweredSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    peer: SocketAddr,
    /// Datagrams that the system may hand over as one. It makes at most 64 KiB of them, and quinn has room for as many of the largest
    /// kind, 32 times: 2.3 MB, where the 64 of 9,000 bytes that there may be would take 18 MB, for each connection.
    segments: usize,
    answered: Answered,
}

impl AnsweredSocket {
    /// Takes `socket` for datagrams of up to `datagram_bytes_max`, and notes with `answered` whatever comes from `peer`: anybody may send
    /// to a port.
    ///
    /// # Errors
    /// The runtime cannot use the socket.
    pub(super) fn new(
        socket: std::net::UdpSocket,
        peer: SocketAddr,
        datagram_bytes_max: u16,
        answered: Answered,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TokioRuntime.wrap_udp_socket(socket)?,
            peer,
            segments: RECEIVED_AT_ONCE.div_ceil(datagram_bytes_max.max(1).into()),
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
        self.socket.max_receive_segments().min(self.segments)
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
