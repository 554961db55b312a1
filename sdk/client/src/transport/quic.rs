//! QUIC with mutual TLS, as Tidegate wants it: transport parameters, certificates. With `own_endpoint` and its `socket`, the
//! only files of the client that know quinn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::CipherSuite;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use tidegate_wire::ALPN;
use tidegate_wire::stream::quic::congestion::Congestion;
use tidegate_wire::stream::quic::send_window::SendBudget;
use tidegate_wire::stream::quic::{self, end_of, reordering};

use self::datagram_size::largest_datagram;
use self::own_endpoint::OwnEndpoint;
use super::renewed_identity::RenewedIdentity;
use super::{Answered, Connector};
use crate::error::{ConfigError, ConnectError};
use crate::options::ClientOptions;

pub(crate) mod datagram_size;
mod own_endpoint;
mod socket;

/// Largest packet that path MTU discovery tries. quinn sends groups of ten, and more than 64 KiB in one system call
/// fails, which reads as a black hole; ten of these are 65,000 bytes.
const MTU_UPPER_BOUND: u16 = 6_500;

/// Largest packet that this end accepts where its interface carries it, announced to the peer: what its discovery may find, with room to
/// spare.
const UDP_PAYLOAD_BYTES_MAX: u16 = 9_000;

/// Kernel buffers of the socket: at 1 GB/s, 4 MiB hold 4 ms, the time a busy machine may not run us.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Receive window of one stream: twice as many bytes as a consumer's credit grows to by itself, so that flow control is the
/// credit's business and QUIC's window never stands in the way.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// Receive window of the connection: four streams full. Streams are always read, so this is hardly ever held.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024 * 1024;

/// Assumed round trip before the first is measured. Decides when an unanswered first packet is sent again: three
/// times this, so a broker that comes up a moment later is found soon.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// Keep-alives to a broker on the same machine, which cost no network anything: when it was killed and has come back, its answer to
/// one tells at once that the connection is gone.
const KEEP_ALIVE_HERE: Duration = Duration::from_secs(2);

/// A QUIC connection, and the socket it has to itself.
pub(crate) type QuicConnection = quic::QuicConnection<OwnEndpoint>;

/// Makes QUIC connections to one broker. What can be made once from the options is made once.
pub(crate) struct QuicConnector {
    addr: String,
    server_name: String,
    config: quinn::ClientConfig,
    congestion: Congestion,
    keep_alive: Duration,
    idle_timeout: Duration,
    send_budget: Arc<SendBudget>,
}

impl QuicConnector {
    /// # Errors
    /// When the options are of no use.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, ConfigError> {
        let server_name = options.server_name.clone();
        if ServerName::try_from(server_name.as_str()).is_err() {
            return Err(ConfigError::ServerName { name: server_name });
        }
        let config = quinn::ClientConfig::new(Arc::new(tls_config(options)?));
        Ok(Self {
            addr: options.addr.clone(),
            server_name,
            config,
            congestion: options.congestion,
            keep_alive: options.keep_alive,
            idle_timeout: options.idle_timeout,
            // There is one connection at a time, and a few that end, so only its own bound matters.
            send_budget: SendBudget::new(u64::MAX >> 1),
        })
    }
}

impl QuicConnector {
    fn config(
        &self,
        address: SocketAddr,
        datagram_bytes_max: u16,
        expects_reordering: bool,
    ) -> quinn::ClientConfig {
        let mut config = self.config.clone();
        let mut transport = self.transport(address, datagram_bytes_max);
        if expects_reordering {
            reordering::ask(&mut config);
            reordering::expect(&mut transport, self.congestion);
        }
        config.transport_config(Arc::new(transport));
        config
    }

    fn transport(&self, address: SocketAddr, datagram_bytes_max: u16) -> TransportConfig {
        let keep_alive = match address.ip().is_loopback() {
            true => self.keep_alive.min(KEEP_ALIVE_HERE),
            false => self.keep_alive,
        };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(datagram_bytes_max.min(MTU_UPPER_BOUND));
        let mut transport = TransportConfig::default();
        transport
            .mtu_discovery_config(Some(discovery))
            .initial_rtt(INITIAL_RTT)
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
            .congestion_controller_factory(self.congestion.factory())
            // The client opens every stream, and there are no datagrams.
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            // Two may be lost, whatever the options say.
            .keep_alive_interval(Some(keep_alive.min(self.idle_timeout / 3)))
            // A duration beyond QUIC's 2^62 ms stands for none at all.
            .max_idle_timeout(self.idle_timeout.try_into().ok());
        transport
    }
}

impl Connector for QuicConnector {
    type Address = SocketAddr;
    type Connection = QuicConnection;

    async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let resolved = tokio::net::lookup_host(&self.addr).await;
        let resolved = resolved.map_err(|error| ConnectError::Resolve {
            addr: self.addr.clone(),
            source: Arc::new(error),
        })?;
        Ok(resolved.collect())
    }

    async fn dial(
        &self,
        address: &SocketAddr,
        answered: &Answered,
        expects_reordering: bool,
    ) -> Result<QuicConnection, ConnectError> {
        let datagram_bytes_max = largest_datagram(*address, UDP_PAYLOAD_BYTES_MAX);
        let own = OwnEndpoint::open(*address, datagram_bytes_max, answered)
            .map_err(|error| ConnectError::Socket(Arc::new(error)))?;
        let connecting = own
            .endpoint
            .connect_with(
                self.config(*address, datagram_bytes_max, expects_reordering),
                *address,
                &self.server_name,
            )
            .map_err(|error| ConnectError::Protocol(error.to_string()))?;
        let connection = connecting.await.map_err(end_of)?;
        Ok(QuicConnection::keeping(connection, &self.send_budget, own))
    }

    async fn heard_of_close(&self, connection: &QuicConnection) {
        connection.kept().endpoint.wait_idle().await;
    }
}

fn tls_config(options: &ClientOptions) -> Result<QuicClientConfig, ConfigError> {
    let mut roots = rustls::RootCertStore::empty();
    for root in &options.roots {
        roots.add(root.clone()).map_err(ConfigError::Tls)?;
    }
    if roots.is_empty() {
        return Err(ConfigError::NoRoots);
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ConfigError::Tls)?
        .with_root_certificates(roots);
    let mut config = match (&options.identity, &options.identity_source) {
        (Some(identity), None) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(ConfigError::Tls)?,
        (Some(identity), Some(source)) => {
            let renewed = RenewedIdentity::new(identity, source.clone(), crypto_provider());
            builder.with_client_cert_resolver(Arc::new(renewed.map_err(ConfigError::Tls)?))
        }
        (None, _) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the check of the client's certificate.
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config)
        .map_err(|error| ConfigError::Tls(rustls::Error::General(error.to_string())))
}

/// The broker takes the first cipher suite that it knows too. With a key of 128 bits, AES takes 10 rounds instead of 14; it is
/// the suite that TLS 1.3 makes everybody have (RFC 8446, section 9.1), and the first choice of most who use it.
fn crypto_provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}
