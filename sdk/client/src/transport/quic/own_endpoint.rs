//! The endpoint that each connection has to itself, and its socket: a new port leaves nothing of a dead connection behind. It also knows by
//! which address this machine reaches the broker, and has the broker hear of another at once: until it hears something, it sends what it has
//! to the old one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    reach: Arc<Mutex<Reach>>,
}

/// By what it reaches the broker at present.
#[derive(Debug)]
struct Reach {
    socket: Arc<dyn AsyncUdpSocket>,
    /// From where this machine reached the broker at the last look; nothing where there was no way.
    source: Option<IpAddr>,
    /// The port of all looks, since a way may be chosen by it; 0 is any.
    look_port: u16,
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
        let looked = look_towards(peer, 0).ok();
        let reach = Reach {
            socket: Arc::clone(&socket),
            source: looked.map(|looked| looked.ip()),
            look_port: looked.map_or(0, |looked| looked.port()),
        };
        Ok(Self {
            endpoint: Endpoint::new_with_abstract_socket(config, None, socket, runtime)?,
            datagram_bytes_max,
            reach: Arc::new(Mutex::new(reach)),
        })
    }

    /// A look says that the broker is reached from there now, or why not. Returns whether that is another address than before, of which it
    /// is told.
    pub(crate) fn note_look(&self, looked: io::Result<SocketAddr>) -> bool {
        let mut reach = self.reach();
        let source = match looked {
            Ok(from) => {
                reach.look_port = from.port();
                Some(from.ip())
            }
            Err(error) if is_no_way(&error) => None,
            Err(_) => {
                // That says nothing of the way. Somebody else may have the port now.
                reach.look_port = 0;
                return false;
            }
        };
        let before = std::mem::replace(&mut reach.source, source);
        if source.is_none() || source == before {
            return false;
        }
        debug!(
            ?before,
            now = ?source,
            "the broker is reached from another address of this machine; telling it"
        );
        // A connection that gets a socket says something at once, and may get the one it has: that is bound to no address.
        let told = self.endpoint.rebind_abstract(Arc::clone(&reach.socket));
        told.is_ok()
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept for OwnEndpoint {
    fn rebind(&self, peer: SocketAddr) -> io::Result<()> {
        let socket = open_socket(peer, self.datagram_bytes_max, Answered::default())?;
        let mut reach = self.reach();
        self.endpoint.rebind_abstract(Arc::clone(&socket))?;
        reach.socket = socket;
        Ok(())
    }

    fn follow_route(&self, peer: SocketAddr) -> bool {
        if peer.ip().is_loopback() {
            return false;
        }
        let look_port = self.reach().look_port;
        self.note_look(look_towards(peer, look_port))
    }
}

// From where this machine would send to `peer`, with this port or any. Nothing is sent.
fn look_towards(peer: SocketAddr, port: u16) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind(unspecified_of(peer, port))?;
    socket.connect(peer)?;
    socket.local_addr()
}

fn is_no_way(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkDown, NetworkUnreachable};
    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | NetworkDown | NetworkUnreachable
    )
}

// No address in particular, of the same family.
fn unspecified_of(peer: SocketAddr, port: u16) -> SocketAddr {
    match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

fn open_socket(
    peer: SocketAddr,
    datagram_bytes_max: u16,
    answered: Answered,
) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let local = unspecified_of(peer, 0);
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
    fn a_machine_reaches_itself_from_its_own_address_and_each_look_has_the_same_port() {
        let here = SocketAddr::from(([127, 0, 0, 1], 9));
        let first = look_towards(here, 0).expect("there is a way");
        assert_eq!(first.ip(), here.ip());
        assert_ne!(first.port(), 0);
        // Somebody else may have it by now.
        if let Ok(second) = look_towards(here, first.port()) {
            assert_eq!(second, first);
        }
    }
}
