//! A client that speaks the wire protocol by hand, so that it can also break it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_wire::frame::{self, FrameReader};
use tidegate_wire::pb::{self, stream_open};

use crate::{BrokerProcess, TestIdentity, within};

/// Largest answer this client reads.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// A QUIC connection without any of the client library's manners.
pub struct RawClient {
    /// The connection.
    pub connection: Connection,
    // Kept so that the connection's socket stays open.
    _endpoint: Endpoint,
    // Open for as long as the connection, as the protocol wants it.
    hello: Option<RawStream>,
}

/// One stream, with its messages cut out of the bytes.
pub struct RawStream {
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
    frames: FrameReader,
}

/// How a stream ended instead of giving a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The broker finished it.
    Finished,
    /// The broker reset it, with this code.
    Reset(u64),
    /// The connection was closed, for this reason.
    Closed(String),
}

impl RawClient {
    /// Connects to the broker with this certificate, or without one, and the broker's own protocol name.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn connect(
        broker: &BrokerProcess,
        identity: Option<&TestIdentity>,
    ) -> anyhow::Result<Self> {
        Self::connect_to(
            broker.quic_addr(),
            broker.pki.ca_pem(),
            identity,
            tidegate_wire::ALPN,
        )
        .await
    }

    /// Connects to `addr`, trusting `ca_pem`, offering `alpn`.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn connect_to(
        addr: &str,
        ca_pem: &str,
        identity: Option<&TestIdentity>,
        alpn: &[u8],
    ) -> anyhow::Result<Self> {
        let mut tls = tls_config(ca_pem, identity)?;
        tls.alpn_protocols = vec![alpn.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
        let addr: SocketAddr = addr.parse()?;
        let connecting = endpoint.connect_with(config, addr, "localhost")?;
        let connection = within("the handshake", async { Ok(connecting.await?) }).await?;
        Ok(Self {
            connection,
            _endpoint: endpoint,
            hello: None,
        })
    }

    /// Connects as a well-behaved client and says hello.
    ///
    /// # Errors
    /// The handshake or the hello failed.
    pub async fn hello(broker: &BrokerProcess) -> anyhow::Result<(Self, pb::Welcome)> {
        Self::hello_as(broker, broker.everybody()).await
    }

    /// The same with this certificate.
    ///
    /// # Errors
    /// The handshake or the hello failed.
    pub async fn hello_as(
        broker: &BrokerProcess,
        identity: &TestIdentity,
    ) -> anyhow::Result<(Self, pb::Welcome)> {
        let mut client = Self::connect(broker, Some(identity)).await?;
        let (stream, welcome) = client
            .say_hello(vec![tidegate_wire::PROTOCOL_VERSION])
            .await?;
        client.hello = Some(stream);
        match welcome {
            Ok(welcome) => Ok((client, welcome)),
            Err(error) => bail!("the hello was refused: {error}"),
        }
    }

    /// Offers `versions`; the inner error is the broker's refusal.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn say_hello(
        &self,
        versions: Vec<u32>,
    ) -> anyhow::Result<(RawStream, Result<pb::Welcome, pb::Error>)> {
        let hello = pb::Hello {
            versions,
            client: "raw".to_owned(),
            frame_bytes_max: 0,
        };
        let mut stream = self.open(stream_open::Kind::Hello(hello)).await?;
        let reply: pb::HelloReply = stream.receive().await?;
        match reply.result.context("an empty hello reply")? {
            pb::hello_reply::Result::Welcome(welcome) => Ok((stream, Ok(welcome))),
            pb::hello_reply::Result::Error(error) => Ok((stream, Err(error))),
        }
    }

    /// Opens a stream and says what it is.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn open(&self, kind: stream_open::Kind) -> anyhow::Result<RawStream> {
        let mut stream = self.open_silent().await?;
        stream.send(&pb::StreamOpen { kind: Some(kind) }).await?;
        Ok(stream)
    }

    /// Opens a stream and says nothing on it.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn open_silent(&self) -> anyhow::Result<RawStream> {
        let (send, recv) =
            within("a stream", async { Ok(self.connection.open_bi().await?) }).await?;
        Ok(RawStream {
            send,
            recv,
            buffer: BytesMut::new(),
            frames: FrameReader::new(FRAME_BYTES_MAX),
        })
    }

    /// Opens a publish stream; the inner error is the broker's refusal.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn publish_stream(
        &self,
        producer_id: Option<[u8; 16]>,
        epoch: u32,
    ) -> anyhow::Result<Result<(RawStream, pb::PublishReady), pb::Error>> {
        let open = pb::PublishOpen {
            producer_id: producer_id
                .map(|id| Bytes::copy_from_slice(&id))
                .unwrap_or_default(),
            epoch,
            counts_costs: false,
        };
        let mut stream = self.open(stream_open::Kind::Publish(open)).await?;
        let opened: pb::PublishOpened = stream.receive().await?;
        match opened.result.context("an empty answer")? {
            pb::publish_opened::Result::Ready(ready) => Ok(Ok((stream, ready))),
            pb::publish_opened::Result::Error(error) => Ok(Err(error)),
        }
    }

    /// Opens a subscribe stream; the inner error is the broker's refusal.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn subscribe_stream(
        &self,
        subscription: &str,
        credit_events: u64,
        credit_bytes: u64,
    ) -> anyhow::Result<Result<(RawStream, pb::SubscribeReady), pb::Error>> {
        let open = pb::SubscribeOpen {
            subscription: subscription.to_owned(),
            credit_events,
            credit_bytes,
            ..pb::SubscribeOpen::default()
        };
        self.subscribe(open).await
    }

    /// Opens a subscribe stream as `open` says; the inner error is the broker's refusal.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn subscribe(
        &self,
        open: pb::SubscribeOpen,
    ) -> anyhow::Result<Result<(RawStream, pb::SubscribeReady), pb::Error>> {
        let mut stream = self.open(stream_open::Kind::Subscribe(open)).await?;
        let opened: pb::SubscribeOpened = stream.receive().await?;
        match opened.result.context("an empty answer")? {
            pb::subscribe_opened::Result::Ready(ready) => Ok(Ok((stream, ready))),
            pb::subscribe_opened::Result::Error(error) => Ok(Err(error)),
        }
    }
}

impl RawStream {
    /// Sends a message in its frame.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn send<M: Message>(&mut self, message: &M) -> anyhow::Result<()> {
        let mut bytes = BytesMut::new();
        frame::encode_frame(message, &mut bytes);
        self.send_bytes(&bytes).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        within("room to send", async {
            Ok(self.send.write_all(bytes).await?)
        })
        .await
    }

    /// Ends this side of the stream.
    ///
    /// # Errors
    /// It had ended already.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.send.finish()?)
    }

    /// Resets this side of the stream.
    ///
    /// # Errors
    /// It had ended already.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        Ok(self.send.reset(VarInt::from_u32(7))?)
    }

    /// Reads until the broker refuses something, and returns the refusal. On every kind of stream a refusal
    /// is field 2 (in place of the first answer) or field 3 (later) of the message.
    ///
    /// # Errors
    /// The stream ended without one.
    pub async fn receive_refusal(&mut self) -> anyhow::Result<pb::Error> {
        loop {
            let frame = match self.receive_frame().await? {
                Ok(frame) => frame,
                Err(ended) => bail!("the stream ended without a refusal: {ended:?}"),
            };
            let early = frame::decode::<pb::HelloReply>(frame.clone());
            if let Ok(Some(pb::hello_reply::Result::Error(error))) = early.map(|reply| reply.result)
                && error.code() != pb::ErrorCode::Unspecified
            {
                return Ok(error);
            }
            let later = frame::decode::<pb::PublishReply>(frame);
            if let Ok(Some(pb::publish_reply::Result::Error(error))) =
                later.map(|reply| reply.result)
                && error.code() != pb::ErrorCode::Unspecified
            {
                return Ok(error);
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// The stream ended, or holds something else.
    pub async fn receive<M: Message + Default>(&mut self) -> anyhow::Result<M> {
        match self.receive_or_end().await? {
            Ok(message) => Ok(message),
            Err(ended) => bail!("the stream ended in place of a message: {ended:?}"),
        }
    }

    /// The next message, or how the stream ended.
    ///
    /// # Errors
    /// Neither came in time, or what came is no such message.
    pub async fn receive_or_end<M: Message + Default>(
        &mut self,
    ) -> anyhow::Result<Result<M, Ended>> {
        match self.receive_frame().await? {
            Ok(frame) => Ok(Ok(frame::decode(frame)?)),
            Err(ended) => Ok(Err(ended)),
        }
    }

    async fn receive_frame(&mut self) -> anyhow::Result<Result<Bytes, Ended>> {
        within("an answer", async {
            loop {
                if let Some(frame) = self.frames.next_frame(&mut self.buffer)? {
                    return Ok(Ok(frame));
                }
                match self.recv.read_chunk(usize::MAX, true).await {
                    Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                    Ok(None) => return Ok(Err(Ended::Finished)),
                    Err(quinn::ReadError::Reset(code)) => {
                        return Ok(Err(Ended::Reset(code.into_inner())));
                    }
                    Err(quinn::ReadError::ConnectionLost(error)) => {
                        return Ok(Err(Ended::Closed(error.to_string())));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        })
        .await
    }
}

fn tls_config(
    ca_pem: &str,
    identity: Option<&TestIdentity>,
) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let Some(identity) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}
