//! The endpoint that each connection has to itself, and its socket: a new port leaves nothing of a dead connection behind. It also knows by
//! which address this machine reaches the broker, and has the broker hear of another at once: until it hears something, it sends what it has
//! to the old one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_wire::stream::quic::Kept;
use tracing::debug;

use super::SOCKET_BUFFER_BYTES;
use super::socket::AnsweredSocket;
use crate::transport::Answered;

/// The endpoint of one connection.
#[derive(Clone, Debug)]
pub(crate) struct OwnEndpoint {
    pub(super) endpoint: Endpoint,
    datagram_bytes_max: u16,
    used: Arc<Mutex<Used>>,
}

/// What it uses at present.
#[derive(Debug)]
struct Used {
    socket: Arc<dyn AsyncUdpSocket>,
    /// From where this machine reached the broker at the last look; nothing where there was no way.
    source: Option<IpAddr>,
}

impl OwnEndpoint {
    /// One for a connection to `peer`, with datagrams of up to `datagram_bytes_max`. What comes is noted with `answered`.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub(super) fn open(
        peer: SocketAddr,
        datagram_bytes_max: u16,
        answered: &Answered,
    ) -> io::Result<Self> {
        let socket = open_socket(peer, datagram_bytes_max, answered.clone())?;
        let mut config = EndpointConfig::default();
        config
            .max_udp_payload_size(datagram_bytes_max)
            .map_err(io::Error::other)?;
        let runtime = Arc::new(TokioRuntime);
        let used = Used {
            socket: Arc::clone(&socket),
            source: source_towards(peer),
        };
        Ok(Self {
            endpoint: Endpoint::new_with_abstract_socket(config, None, socket, runtime)?,
            datagram_bytes_max,
            used: Arc::new(Mutex::new(used)),
        })
    }

    /// The broker is reached from `source` now. Returns whether that is another address than before, of which it is told.
    pub(crate) fn note_source(&self, source: Option<IpAddr>) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut used.source, source);
        if source.is_none() || source == before {
            return false;
        }
        debug!(
            ?before,
            now = ?source,
            "the broker is reached from another address of this machine; telling it"
        );
        // A connection that gets a socket says something at once, and may get the one it has: that is bound to no address.
        let told = self.endpoint.rebind_abstract(Arc::clone(&used.socket));
        told.is_ok()
    }
}

impl Kept for OwnEndpoint {
    fn rebind(&self, peer: SocketAddr) -> io::Result<()> {
        let socket = open_socket(peer, self.datagram_bytes_max, Answered::default())?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        self.endpoint.rebind_abstract(Arc::clone(&socket))?;
        used.socket = socket;
        Ok(())
    }

    fn follow_route(&self, peer: SocketAddr) -> bool {
        !peer.ip().is_loopback() && self.note_source(source_towards(peer))
    }
}

// From where this machine would send to `peer`; nothing where there is no way. Nothing is sent.
fn source_towards(peer: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any(peer)).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn any(peer: SocketAddr) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn open_socket(
    peer: SocketAddr,
    datagram_bytes_max: u16,
    answered: Answered,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let local = any(peer);
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel may give less; that costs speed, not correctness.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    debug!(
        receive = socket.recv_buffer_size().unwrap_or(0),
        send = socket.send_buffer_size().unwrap_or(0),
        "UDP socket buffers in bytes"
    );
    socket.bind(&local.into())?;
    let socket = AnsweredSocket::new(socket.into(), peer, datagram_bytes_max, answered)?;
    Ok(Arc::new(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reaches_itself_from_its_own_address() {
        let here = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(source_towards(here), Some(here.ip()));
    }
}
