//! The UDP socket of a listener, and quinn's endpoint on it: which ids its connections get, and how many probes of a path are answered.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, HashedConnectionIdGenerator, InvalidCid};
use ring::{hkdf, hmac};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_wire::compact::Compression;
use tidegate_wire::stream::quic::reordering;
use tokio::time::Instant;
use tracing::info;

use super::admission::{INCOMING_BYTES_MAX, INCOMING_MAX, INCOMING_TOTAL_BYTES_MAX};
use super::options::{ListenerOptions, QuicOptions};
use crate::locks::lock;
use crate::net::session::options::SessionOptions;
use crate::tls::{TlsError, TlsIdentity};

/// Probes of paths that are answered at once, and then one in so much time.
const PROBES_AT_ONCE: u32 = 4;
const PROBE_EVERY: Duration = Duration::from_millis(100);

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

/// An endpoint that listens.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) endpoint: Endpoint,
    /// For connections on whose path packets overtake each other.
    pub(super) for_reordering: Arc<ServerConfig>,
    /// Whether events are compressed on its connections.
    pub(super) compression: Compression,
}

/// Opens an endpoint for connections that carry one of `sessions`.
///
/// # Errors
///
/// The address, the certificate or a setting cannot be used.
pub(super) fn bind(
    listener: &ListenerOptions,
    options: &QuicOptions,
    sessions: &SessionOptions,
    tls: &TlsIdentity,
) -> Result<Bound, ServeError> {
    let addr = listener.addr;
    let bind_error = |source| ServeError::Bind { addr, source };
    let crypto = tls.server_config(listener.client_auth, &[tidegate_wire::ALPN])?;
    let crypto = QuicServerConfig::try_from(crypto);
    let crypto = crypto.map_err(|error| TlsError::Setup(error.to_string()))?;
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&options.random.bytes::<64>());
    let mut server_config = ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    server_config
        .transport_config(Arc::new(options.transport(sessions, listener.congestion)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BYTES_MAX)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES_MAX);
    let mut transport = options.transport(sessions, listener.congestion);
    reordering::expect(&mut transport, listener.congestion);
    let mut for_reordering = server_config.clone();
    for_reordering.transport_config(Arc::new(transport));
    let mut endpoint_config = endpoint_config(options);
    endpoint_config
        .max_udp_payload_size(options.datagram_bytes_max())
        .map_err(|_| {
            ServeError::Setting("mtu_upper_bound must be from 1200 to 65527".to_owned())
        })?;
    let socket = socket(addr, options.socket_buffer_bytes).map_err(bind_error)?;
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(endpoint_config, Some(server_config), socket, runtime);
    Ok(Bound {
        endpoint: endpoint.map_err(bind_error)?,
        for_reordering: Arc::new(for_reordering),
        compression: listener.compression,
    })
}

fn endpoint_config(options: &QuicOptions) -> EndpointConfig {
    let random = &options.random;
    let key = options.reset_key.unwrap_or_else(|| random.bytes());
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)));
    config.rng_seed(Some(random.bytes()));
    // Ids are checked against their key before a reset is sent, so that key must be the same one, too.
    let id_key = u64::from_be_bytes(std::array::from_fn(|index| key[index]));
    config.cid_generator(move || {
        Box::new(Ids {
            ids: HashedConnectionIdGenerator::from_key(id_key),
            probes: Mutex::default(),
        })
    });
    config
}

/// Ids of connections, and the one that probes of a path bear: a short packet with that is answered with a reset, like one of a
/// connection that is gone.
struct Ids {
    ids: HashedConnectionIdGenerator,
    probes: Mutex<AnsweredProbes>,
}

/// The probes that were answered lately. quinn answers with one reset in 20 ms at most, whatever for, and clients of a broker that was
/// killed need them: so probes get a fifth of them, and at once no more than one look at a path takes.
#[derive(Debug, Default)]
struct AnsweredProbes {
    lately: u32,
    /// When one of these counts no more.
    until: Option<Instant>,
}

impl AnsweredProbes {
    // Whether there is an answer for one that comes now.
    fn add(&mut self, now: Instant) -> bool {
        while let Some(until) = self.until.filter(|until| self.lately > 0 && *until <= now) {
            self.lately -= 1;
            self.until = Some(until + PROBE_EVERY);
        }
        if self.lately == 0 {
            self.until = Some(now + PROBE_EVERY);
        }
        let has_answer = self.lately < PROBES_AT_ONCE;
        self.lately += u32::from(has_answer);
        has_answer
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.ids.generate_cid()
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match **id == tidegate_wire::PATH_PROBE_ID {
            true if lock(&self.probes).add(Instant::now()) => Ok(()),
            true => Err(InvalidCid),
            false => self.ids.validate(id),
        }
    }

    fn cid_len(&self) -> usize {
        self.ids.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.ids.cid_lifetime()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_a_path_is_answered_and_a_flood_of_them_seldom() {
        let (mut probes, begun) = (AnsweredProbes::default(), Instant::now());
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let mut answered = |from: u64, to: u64| {
            let probes = (from..to).filter(|ms| probes.add(at(*ms)));
            probes.collect::<Vec<u64>>()
        };
        assert_eq!(answered(0, 100), [0, 1, 2, 3]);
        assert_eq!(answered(100, 1_000).len(), 9);
        // After a while there are as many as at first, and no more.
        assert_eq!(answered(5_000, 5_100), [5_000, 5_001, 5_002, 5_003]);
    }
}
