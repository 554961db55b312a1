//! QUIC and TLS as Tidegate wants them: sockets, transport parameters, the handshake, the hello, and streams of
//! frames. Makes one connection at a time; when to make one is the supervisor's business.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::select_ok;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{EndpointConfig, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::CipherSuite;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_wire::frame::{FrameReader, decode, encode_frame};
use tidegate_wire::limits::{FRAME_BYTES_MAX, OPEN_FRAME_BYTES_MAX};
use tidegate_wire::pb::{self, hello_reply, stream_open};
use tidegate_wire::{ALPN, Limits, PROTOCOL_VERSION};
use tokio::io::AsyncReadExt;
use tracing::debug;

use crate::error::{ConfigError, ConnectError, ErrorCode, Refusal, StreamError};
use crate::options::ClientOptions;

/// Largest packet that path MTU discovery tries. quinn sends groups of ten, and more than 64 KiB in one system call
/// fails, which reads as a black hole; ten of these are 65,000 bytes.
const MTU_UPPER_BOUND: u16 = 6_500;

/// Largest packet that this end accepts, announced to the peer: what its discovery may find, with room to spare.
const UDP_PAYLOAD_BYTES_MAX: u16 = 9_000;

/// Kernel buffers of the socket: at 1 GB/s, 4 MiB hold 4 ms, the time a busy machine may not run us.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Receive window of one stream: twice a consumer's default credit in bytes, so that flow control is the credit's
/// business and QUIC's window never stands in the way.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Receive window of the connection: four streams full. Streams are always read, so this is hardly ever held.
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// Bytes that may be on their way to the broker: twice a publisher's default of outstanding bytes.
const SEND_WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// Assumed round trip before the first is measured. Decides when an unanswered first packet is sent again: three
/// times this, so a broker that comes up a moment later is found soon.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// How long each further address of a host waits for the ones before it.
const ADDRESS_STAGGER: Duration = Duration::from_millis(200);

/// Room made for reading at once.
const READ_BYTES: usize = 64 * 1024;

/// A connection whose hello was answered.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: quinn::Connection,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) principal: String,
    pub(crate) limits: Limits,
}

impl Session {
    /// Opens a stream that says what it is with `kind`.
    pub(crate) async fn open(
        &self,
        kind: stream_open::Kind,
    ) -> Result<(quinn::SendStream, FrameSource), StreamError> {
        open_stream(&self.connection, kind).await
    }
}

/// What is made once from the options and used for every connection.
pub(crate) struct Transport {
    options: ClientOptions,
    config: quinn::ClientConfig,
}

impl Transport {
    /// # Errors
    /// When the options are of no use.
    pub(crate) fn new(options: ClientOptions) -> Result<Self, ConfigError> {
        if ServerName::try_from(options.server_name.as_str()).is_err() {
            return Err(ConfigError::ServerName {
                name: options.server_name,
            });
        }
        let mut config = quinn::ClientConfig::new(Arc::new(tls_config(&options)?));
        config.transport_config(Arc::new(transport_config(&options)));
        Ok(Self { options, config })
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// Connects and says hello, to whichever address of the host answers first. `timeout` is for all of it.
    /// Returns the session and the hello stream's remainder.
    pub(crate) async fn connect(
        &self,
        timeout: Duration,
    ) -> Result<(Session, HelloStream), ConnectError> {
        tokio::time::timeout(timeout, self.connect_any())
            .await
            .unwrap_or_else(|_| {
                Err(ConnectError::TimedOut {
                    addr: self.options.addr.clone(),
                    waited: timeout,
                    source: None,
                })
            })
    }

    async fn connect_any(&self) -> Result<(Session, HelloStream), ConnectError> {
        let resolve_error = |error| ConnectError::Resolve {
            addr: self.options.addr.clone(),
            source: Arc::new(error),
        };
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&self.options.addr)
            .await
            .map_err(resolve_error)?
            .collect();
        let attempt = |(index, address): (usize, SocketAddr)| {
            async move {
                tokio::time::sleep(ADDRESS_STAGGER * u32::try_from(index).unwrap_or(u32::MAX))
                    .await;
                self.connect_one(address).await
            }
            .boxed()
        };
        let attempts: Vec<_> = addresses.into_iter().enumerate().map(attempt).collect();
        if attempts.is_empty() {
            return Err(resolve_error(std::io::ErrorKind::NotFound.into()));
        }
        select_ok(attempts).await.map(|(connected, _)| connected)
    }

    async fn connect_one(
        &self,
        address: SocketAddr,
    ) -> Result<(Session, HelloStream), ConnectError> {
        let endpoint =
            open_endpoint(address).map_err(|error| ConnectError::Socket(Arc::new(error)))?;
        let connection = endpoint
            .connect_with(self.config.clone(), address, &self.options.server_name)
            .map_err(|error| ConnectError::Protocol(error.to_string()))?
            .await
            .map_err(|error| self.explain(error))?;
        let hello = say_hello(&connection, &self.options.client_name).await;
        let (welcome, hello) = hello.map_err(|error| match connection.close_reason() {
            // The handshake ends for us before the broker has looked at our certificate.
            Some(reason) => self.explain(reason),
            None => error,
        })?;
        let session = Session {
            connection,
            endpoint,
            principal: welcome.principal,
            limits: Limits::from(welcome.limits.as_ref()),
        };
        Ok((session, hello))
    }

    /// Tells a failed handshake and a refusal from a lost connection.
    fn explain(&self, error: quinn::ConnectionError) -> ConnectError {
        let (code, side) = match &error {
            quinn::ConnectionError::TransportError(error) => (error.code, "this client objects"),
            quinn::ConnectionError::ConnectionClosed(close) => {
                (close.error_code, "the broker objects")
            }
            quinn::ConnectionError::ApplicationClosed(close) => {
                let refusal = refusal_of(close);
                return refusal.map_or(ConnectError::Lost(error), ConnectError::Refused);
            }
            _ => return ConnectError::Lost(error),
        };
        // TLS alerts are the QUIC error codes from 0x100 to 0x1ff.
        if !(0x100..0x200).contains(&u64::from(code)) {
            return ConnectError::Lost(error);
        }
        ConnectError::Handshake {
            addr: self.options.addr.clone(),
            reason: format!("{side}: {error}"),
        }
    }
}

/// A broker closes a connection with the code of the refusal that makes it do so.
fn refusal_of(close: &quinn::ApplicationClose) -> Option<Refusal> {
    let code = i32::try_from(close.error_code.into_inner()).ok()?;
    let code = ErrorCode::try_from(code)
        .ok()
        .filter(|code| *code != ErrorCode::Unspecified)?;
    let message = String::from_utf8_lossy(&close.reason);
    Some(pb::Error::new(code, message).into())
}

/// What is left of the hello stream: the broker may say goodbye on it. Our side stays open as long as the connection.
pub(crate) struct HelloStream {
    _send: quinn::SendStream,
    source: FrameSource,
}

impl HelloStream {
    /// Waits for the broker's goodbye; `None` when the stream ends without one.
    pub(crate) async fn go_away(&mut self) -> Option<pb::GoAway> {
        let frame = self.source.next().await.ok()??;
        decode(frame).ok()
    }
}

async fn say_hello(
    connection: &quinn::Connection,
    client_name: &str,
) -> Result<(pb::Welcome, HelloStream), ConnectError> {
    let hello = pb::Hello {
        versions: vec![PROTOCOL_VERSION],
        client: client_name.to_owned(),
        frame_bytes_max: FRAME_BYTES_MAX as u64,
    };
    let protocol = |error: StreamError| ConnectError::Protocol(error.to_string());
    let opened = open_stream(connection, stream_open::Kind::Hello(hello)).await;
    let (send, mut source) = opened.map_err(protocol)?;
    let frame = source.next().await.map_err(protocol)?;
    let frame = frame.ok_or_else(|| ConnectError::Protocol("the hello was not answered".into()))?;
    let reply: pb::HelloReply = decode(frame).map_err(|error| protocol(error.into()))?;
    match reply.result {
        Some(hello_reply::Result::Welcome(welcome)) if welcome.version == PROTOCOL_VERSION => Ok((
            welcome,
            HelloStream {
                _send: send,
                source,
            },
        )),
        Some(hello_reply::Result::Welcome(welcome)) => Err(ConnectError::Version {
            chosen: welcome.version,
        }),
        Some(hello_reply::Result::Error(error)) => Err(ConnectError::Refused(Refusal::from(error))),
        None => Err(ConnectError::Protocol(
            "the answer to the hello is empty".into(),
        )),
    }
}

async fn open_stream(
    connection: &quinn::Connection,
    kind: stream_open::Kind,
) -> Result<(quinn::SendStream, FrameSource), StreamError> {
    let (mut send, recv) = connection.open_bi().await?;
    let mut frame = BytesMut::new();
    encode_frame(&pb::StreamOpen { kind: Some(kind) }, &mut frame);
    debug_assert!(frame.len() <= OPEN_FRAME_BYTES_MAX);
    send.write_chunk(frame.freeze()).await?;
    Ok((send, FrameSource::new(recv)))
}

/// The frames of one stream, as they come.
pub(crate) struct FrameSource {
    recv: quinn::RecvStream,
    reader: FrameReader,
    buffer: BytesMut,
}

impl FrameSource {
    pub(crate) fn new(recv: quinn::RecvStream) -> Self {
        Self {
            recv,
            reader: FrameReader::new(FRAME_BYTES_MAX),
            buffer: BytesMut::new(),
        }
    }

    /// The next frame; `None` when the stream has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
                self.buffer.reserve(READ_BYTES);
            }
            if self.recv.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next frame that is here already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Bytes>, StreamError> {
        Ok(self.reader.next_frame(&mut self.buffer)?)
    }

    #[cfg(test)]
    pub(crate) fn recv(&mut self) -> &mut quinn::RecvStream {
        &mut self.recv
    }

    /// Tells the broker that nothing more will be read.
    pub(crate) fn stop(&mut self) {
        // Fails only when the stream is over already.
        let _ = self.recv.stop(VarInt::from_u32(0));
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
    let mut config = match &options.identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(ConfigError::Tls)?,
        None => builder.with_no_client_auth(),
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

fn transport_config(options: &ClientOptions) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_UPPER_BOUND);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(discovery))
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        // The client opens every stream, and there are no datagrams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(options.keep_alive))
        // A duration beyond QUIC's 2^62 ms stands for none at all.
        .max_idle_timeout(options.idle_timeout.try_into().ok());
    transport
}

/// An endpoint of its own for each connection: a new port leaves nothing of a dead connection behind.
fn open_endpoint(peer: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let local: SocketAddr = match peer {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
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
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX)
        .map_err(std::io::Error::other)?;
    quinn::Endpoint::new(config, None, socket.into(), Arc::new(quinn::TokioRuntime))
}
