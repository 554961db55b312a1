//! UDP sockets, and the decision about each connection attempt: serve it, ask it to prove its address, or
//! refuse it. Also the order of the network's shutdown. What happens on a connection is in `connection`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::connection::{self, Backend, Server};
use super::handshakes::TooMany;
use super::options::{ClientAuth, ListenerOptions, NetOptions};
use super::refusal::shutting_down;
use super::stats::NetStats;
use super::tls::{TlsError, TlsIdentity};
use crate::auth::Policy;
use crate::broker::Broker;
use crate::runtime::spawn::Spawner;

/// Time beyond the grace period for connections to bring their last words home, and for sockets to say
/// goodbye.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// Why the network side does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nothing to listen on.
    #[error("no QUIC listener is configured; name at least one address")]
    NoListener,
    /// The address cannot be used.
    #[error("cannot listen on UDP {addr}; is it in use, or not an address of this machine?")]
    Bind {
        /// Which address.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("TLS for the QUIC listeners")]
    Tls(#[from] TlsError),
    /// A setting that quinn refuses.
    #[error("{0}")]
    Setting(String),
}

/// The running network side.
#[derive(Debug)]
pub struct NetHandle {
    /// Where it listens, in the order of the options; port 0 is resolved.
    pub local_addrs: Vec<SocketAddr>,
    /// Its counters.
    pub stats: Arc<NetStats>,
    tasks: Spawner,
}

impl NetHandle {
    /// Completes when the network side has shut down: some time after its token was cancelled, at most the
    /// grace period and a few seconds. Never fails; a panic of its own is a condition of the broker.
    pub async fn stopped(self) {
        self.tasks.ended().await;
    }
}

/// Starts to listen and serves connections until `shutdown` is cancelled. Then nothing new is accepted,
/// clients are told to go away, deliveries stop, publishes under way are answered, and what is left after
/// the grace period is closed.
///
/// # Errors
///
/// An address, certificate or setting cannot be used. Nothing is served then.
pub async fn serve(
    options: NetOptions,
    tls: TlsIdentity,
    policy: Arc<Policy>,
    broker: Broker,
    shutdown: CancellationToken,
) -> Result<NetHandle, ServeError> {
    start(options, &tls, policy, Backend::Broker(broker), shutdown)
}

/// [`serve`], for any backend.
pub(super) fn start(
    options: NetOptions,
    tls: &TlsIdentity,
    policy: Arc<Policy>,
    backend: Backend,
    shutdown: CancellationToken,
) -> Result<NetHandle, ServeError> {
    if options.listeners.is_empty() {
        return Err(ServeError::NoListener);
    }
    let mut endpoints = Vec::new();
    let mut local_addrs = Vec::new();
    for listener in &options.listeners {
        let endpoint = bind(listener, &options, tls)?;
        let addr = endpoint.local_addr().map_err(|source| ServeError::Bind {
            addr: listener.addr,
            source,
        })?;
        info!(%addr, client_auth = ?listener.client_auth, "listening for QUIC");
        local_addrs.push(addr);
        endpoints.push((endpoint, listener.client_auth));
    }
    let server = Arc::new(Server::new(options, policy, backend, shutdown));
    let stats = Arc::clone(&server.stats);
    let tasks = server.spawner();
    tasks.lasting("network", supervise(server, endpoints));
    Ok(NetHandle {
        local_addrs,
        stats,
        tasks,
    })
}

fn bind(
    listener: &ListenerOptions,
    options: &NetOptions,
    tls: &TlsIdentity,
) -> Result<Endpoint, ServeError> {
    let addr = listener.addr;
    let bind_error = |source| ServeError::Bind { addr, source };
    let crypto = tls.quic_config(listener.client_auth)?;
    let mut server_config = ServerConfig::with_crypto(Arc::new(crypto));
    server_config.transport_config(Arc::new(options.transport()));
    let mut endpoint_config = endpoint_config(options.reset_key.as_ref());
    endpoint_config
        .max_udp_payload_size(options.datagram_bytes_max())
        .map_err(|_| {
            ServeError::Setting("mtu_upper_bound must be from 1200 to 65527".to_owned())
        })?;
    let socket = socket(addr, options.socket_buffer_bytes).map_err(bind_error)?;
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(endpoint_config, Some(server_config), socket, runtime).map_err(bind_error)
}

fn endpoint_config(reset_key: Option<&[u8; 64]>) -> EndpointConfig {
    let Some(key) = reset_key else {
        return EndpointConfig::default();
    };
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key)));
    // Ids are checked against their key before a reset is sent, so that key must be the same one, too.
    let id_key = u64::from_be_bytes(std::array::from_fn(|index| key[index]));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config
}

fn socket(addr: SocketAddr, buffer_bytes: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // One listener for both families, on systems where that is not the default too.
        socket.set_only_v6(false)?;
    }
    // A kernel that refuses has a smaller buffer, which is slower but works.
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    let (recv_bytes, send_bytes) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    if recv_bytes.min(send_bytes) < buffer_bytes {
        info!(
            %addr, asked = buffer_bytes, recv_bytes, send_bytes,
            "the kernel caps the socket's buffers, which costs throughput under load; raise net.core.rmem_max and net.core.wmem_max",
        );
    }
    socket.bind(&addr.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

// Owns the accept loops and all connections.
async fn supervise(server: Arc<Server>, endpoints: Vec<(Endpoint, ClientAuth)>) {
    let connections = server.spawner();
    let accepting = server.spawner();
    for (endpoint, client_auth) in &endpoints {
        let (server, endpoint) = (Arc::clone(&server), endpoint.clone());
        let name = match endpoint.local_addr() {
            Ok(addr) => format!("QUIC listener {addr}"),
            Err(_) => "QUIC listener".to_owned(),
        };
        let accept = accept(server, endpoint, *client_auth, connections.clone());
        accepting.lasting(name, accept);
    }
    accepting.ended().await;
    server.shutdown.cancelled().await;
    let grace = server.options.shutdown_grace + AFTER_GRACE;
    if tokio::time::timeout(grace, connections.ended())
        .await
        .is_err()
    {
        warn!(
            left = connections.running(),
            "connections are closed although they are not done"
        );
    }
    let reason = shutting_down();
    let code = u32::try_from(reason.code).unwrap_or_default();
    for (endpoint, _) in &endpoints {
        endpoint.close(code.into(), reason.message.as_bytes());
        // Peers that do not answer the close are not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    }
}

async fn accept(
    server: Arc<Server>,
    endpoint: Endpoint,
    client_auth: ClientAuth,
    connections: Spawner,
) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = server.shutdown.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else {
            error!("a QUIC listener ended by itself; its socket failed");
            break;
        };
        admit(&server, incoming, client_auth, &connections);
    }
    // From here on attempts are refused by quinn.
    endpoint.set_server_config(None);
}

/// What is done about a connection attempt.
#[derive(Debug, PartialEq)]
enum Admission {
    Serve,
    Retry,
    Refuse,
}

fn admission(handshakes: usize, full: bool, validated: bool, options: &NetOptions) -> Admission {
    if full {
        Admission::Refuse
    } else if handshakes >= options.handshakes_before_retry && !validated {
        Admission::Retry
    } else {
        Admission::Serve
    }
}

fn admit(server: &Arc<Server>, incoming: Incoming, client_auth: ClientAuth, connections: &Spawner) {
    let remote = incoming.remote_address();
    // One that cannot be asked again has proved its address.
    let validated = incoming.remote_address_validated() || !incoming.may_retry();
    let (handshakes, full) = (server.handshakes.len(), server.slots.are_full());
    match admission(handshakes, full, validated, &server.options) {
        Admission::Serve => match server.handshakes.begin(remote.ip().into()) {
            Ok(handshake) => {
                let serve = connection::serve(Arc::clone(server), incoming, client_auth, handshake);
                drop(connections.serving("connection", serve));
            }
            Err(TooMany) => {
                incoming.refuse();
                server.log_refused(remote, "too many handshakes are under way");
            }
        },
        Admission::Retry => {
            if incoming.retry().is_err() {
                debug!(%remote, "a connection attempt could not be asked to prove its address");
            }
        }
        Admission::Refuse => {
            incoming.refuse();
            server.log_refused(remote, "all connections are taken (limits.connections_max)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_admitted_by_load() {
        let options = NetOptions {
            handshakes_before_retry: 2,
            ..NetOptions::default()
        };
        let check = |handshakes, full, validated, expected| {
            assert_eq!(admission(handshakes, full, validated, &options), expected);
        };
        check(0, false, false, Admission::Serve);
        check(1, false, false, Admission::Serve);
        check(2, false, false, Admission::Retry);
        check(2, false, true, Admission::Serve);
        check(0, true, true, Admission::Refuse);
        check(2, true, false, Admission::Refuse);
    }
}
