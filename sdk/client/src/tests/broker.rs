//! A broker of the tests: does the handshake and the hello by itself, and leaves every other stream to the test,
//! which plays the broker's part word by word.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use quinn::VarInt;
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate_wire::frame::{decode, encode_frame};
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, broker_to_consumer, hello_reply, publish_opened, publish_reply};
use tidegate_wire::pb::{stream_open, subscribe_opened};
use tidegate_wire::{ALPN, Limits};
use tokio::sync::mpsc;

use crate::transport::FrameSource;
use crate::{Client, ClientOptions, ErrorCode, Event, Identity};

/// Nothing in these tests takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `work`, but not for ever.
#[track_caller]
pub(super) fn soon<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let waited = tokio::time::timeout(PATIENCE, work).await;
        waited.unwrap_or_else(|_| panic!("nothing happened at {place}"))
    }
}

/// A certificate authority and what it signs.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `localhost`, and its key.
    pub(super) fn identity(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Identity::new(vec![certificate.der().clone()], key)
    }

    fn verifier(&self) -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap()
    }
}

pub(super) struct Broker {
    pub(super) authority: Authority,
    addr: SocketAddr,
    streams: mpsc::UnboundedReceiver<Stream>,
    connections: Arc<Mutex<Vec<(quinn::Connection, quinn::SendStream)>>>,
    endpoint: quinn::Endpoint,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The answer to a hello that is welcome.
pub(super) fn welcome(version: u32) -> hello_reply::Result {
    hello_reply::Result::Welcome(pb::Welcome {
        version,
        broker: "test".into(),
        principal: "cn:tester".into(),
        limits: Some(pb::Limits::from(&Limits::default())),
    })
}

impl Broker {
    pub(super) fn start() -> Self {
        Self::start_with(welcome(1), false)
    }

    /// A broker that answers every hello with `hello`.
    pub(super) fn start_with(hello: hello_reply::Result, ask_for_certificate: bool) -> Self {
        let (mut broker, stream_sender) = Self::listen(ask_for_certificate);
        let connections = Arc::clone(&broker.connections);
        broker.serving = tokio::spawn(serve(
            broker.endpoint.clone(),
            hello,
            stream_sender,
            connections,
        ));
        broker
    }

    /// A broker that closes every connection at once.
    pub(super) fn start_closing(code: ErrorCode, reason: &'static str) -> Self {
        let (mut broker, _) = Self::listen(false);
        let endpoint = broker.endpoint.clone();
        broker.serving = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                if let Ok(connection) = incoming.await {
                    connection.close(VarInt::from_u32(code as u32), reason.as_bytes());
                }
            }
        });
        broker
    }

    fn listen(ask_for_certificate: bool) -> (Self, mpsc::UnboundedSender<Stream>) {
        let authority = Authority::new();
        let config = server_config(&authority, ask_for_certificate);
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (stream_sender, streams) = mpsc::unbounded_channel();
        let broker = Self {
            authority,
            addr: endpoint.local_addr().unwrap(),
            streams,
            connections: Arc::default(),
            endpoint,
            serving: tokio::spawn(async {}),
        };
        (broker, stream_sender)
    }

    pub(super) fn options(&self) -> ClientOptions {
        ClientOptions::new(self.addr.to_string())
            .server_name("localhost")
            .roots_pem(self.authority.pem().as_bytes())
            .unwrap()
            .backoff(Duration::from_millis(1), Duration::from_millis(20))
    }

    pub(super) async fn client(&self) -> Client {
        soon(Client::connect(self.options())).await.unwrap()
    }

    /// The next stream that a client opens.
    pub(super) async fn stream(&mut self) -> Stream {
        soon(self.streams.recv()).await.unwrap()
    }

    /// Ends every connection there is, without a word on its streams.
    pub(super) fn drop_connections(&self) {
        for (connection, _) in self.connections.lock().unwrap().drain(..) {
            connection.close(VarInt::from_u32(1), b"dropped by the test");
        }
    }

    /// Says goodbye on every connection there is, and leaves it open.
    pub(super) async fn go_away(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for (connection, mut hello) in connections {
            let goodbye = pb::GoAway {
                reason: "test".into(),
                grace_ms: 60_000,
            };
            write(&mut hello, &goodbye).await;
            self.connections.lock().unwrap().push((connection, hello));
        }
    }

    /// How the first connection ends, once it does.
    pub(super) async fn closed(&self) -> quinn::ConnectionError {
        let connection = self.connections.lock().unwrap()[0].0.clone();
        soon(connection.closed()).await
    }
}

fn server_config(authority: &Authority, ask_for_certificate: bool) -> quinn::ServerConfig {
    let identity = authority.identity();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let builder = match ask_for_certificate {
        true => builder.with_client_cert_verifier(authority.verifier()),
        false => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()))
}

async fn serve(
    endpoint: quinn::Endpoint,
    hello: hello_reply::Result,
    streams: mpsc::UnboundedSender<Stream>,
    connections: Arc<Mutex<Vec<(quinn::Connection, quinn::SendStream)>>>,
) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else {
            continue;
        };
        let (hello, streams, connections) =
            (hello.clone(), streams.clone(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut send, recv)) = connection.accept_bi().await {
                let mut source = FrameSource::new(recv);
                let Ok(Some(frame)) = source.next().await else {
                    continue;
                };
                let open: pb::StreamOpen = decode(frame).unwrap();
                let open = open.kind.unwrap();
                if let stream_open::Kind::Hello(_) = open {
                    write(
                        &mut send,
                        &pb::HelloReply {
                            result: Some(hello.clone()),
                        },
                    )
                    .await;
                    connections.lock().unwrap().push((connection.clone(), send));
                } else {
                    let _ = streams.send(Stream { open, send, source });
                }
            }
        });
    }
}

async fn write(send: &mut quinn::SendStream, message: &impl Message) {
    let mut out = BytesMut::new();
    encode_frame(message, &mut out);
    send.write_all(&out).await.unwrap();
}

/// A stream that a client opened.
pub(super) struct Stream {
    pub(super) open: stream_open::Kind,
    pub(super) send: quinn::SendStream,
    source: FrameSource,
}

impl Stream {
    pub(super) async fn write(&mut self, message: &impl Message) {
        soon(write(&mut self.send, message)).await;
    }

    /// The next message; `None` when the client has finished its side.
    pub(super) async fn read<M: Message + Default>(&mut self) -> Option<M> {
        let frame = soon(self.source.next()).await.unwrap();
        frame.map(|frame| decode(frame).unwrap())
    }

    /// The client has finished or reset its side.
    pub(super) async fn ended(&mut self) {
        while let Ok(Some(_)) = soon(self.source.next()).await {}
    }
}

/// The broker's part on a publish stream.
impl Stream {
    pub(super) fn publish_open(&self) -> &pb::PublishOpen {
        match &self.open {
            stream_open::Kind::Publish(open) => open,
            other => panic!("not a publish stream: {other:?}"),
        }
    }

    pub(super) async fn publish_ready(&mut self, credit_bytes: u64, credit_batches: u32) {
        self.publish_opened(pb::PublishReady {
            credit_bytes,
            credit_batches,
            last_number: 0,
        })
        .await;
    }

    pub(super) async fn publish_opened(&mut self, ready: pb::PublishReady) {
        self.publish_open();
        self.write(&pb::PublishOpened {
            result: Some(publish_opened::Result::Ready(ready)),
        })
        .await;
    }

    /// The next batch, and the payloads of its events.
    pub(super) async fn batch(&mut self) -> (pb::PublishBatch, Vec<String>) {
        let batch: pb::PublishBatch = self.read().await.expect("a batch, not the end");
        let payload = |event: &Bytes| {
            let event: pb::Event = decode(event.clone()).unwrap();
            String::from_utf8(event.payload.to_vec()).unwrap()
        };
        let payloads = batch.events.iter().map(payload).collect();
        (batch, payloads)
    }

    pub(super) async fn ack(&mut self, correlation: u64, first_sequence: u64, duplicate: bool) {
        let ack = pb::PublishAck {
            first_sequence,
            count: 1,
            duplicate,
            unkept: false,
        };
        self.write(&pb::PublishReply {
            correlation,
            result: Some(publish_reply::Result::Ack(ack)),
        })
        .await;
    }

    pub(super) async fn refuse(&mut self, correlation: u64, error: pb::Error) {
        self.write(&pb::PublishReply {
            correlation,
            result: Some(publish_reply::Result::Error(error)),
        })
        .await;
    }
}

/// The broker's part on a consumer's stream.
impl Stream {
    pub(super) fn subscribe_open(&self) -> &pb::SubscribeOpen {
        match &self.open {
            stream_open::Kind::Subscribe(open) => open,
            other => panic!("not a consumer's stream: {other:?}"),
        }
    }

    pub(super) async fn subscribe_ready(&mut self) {
        self.subscribe_open();
        let ready = pb::SubscribeReady {
            ack_deadline_ms: 30_000,
        };
        self.write(&pb::SubscribeOpened {
            result: Some(subscribe_opened::Result::Ready(ready)),
        })
        .await;
    }

    pub(super) async fn say(&mut self, message: broker_to_consumer::Message) {
        self.write(&pb::BrokerToConsumer {
            message: Some(message),
        })
        .await;
    }

    /// Delivers one event for each of `positions`, given as `Deliver` counts them.
    pub(super) async fn deliver(&mut self, attempt: u32, positions: &[u64]) {
        self.deliver_as(attempt, positions, false).await;
    }

    /// The same, of events that another consumer had in hand when it was lost.
    pub(super) async fn deliver_suspects(&mut self, attempt: u32, positions: &[u64]) {
        self.deliver_as(attempt, positions, true).await;
    }

    async fn deliver_as(&mut self, attempt: u32, positions: &[u64], suspect: bool) {
        let event =
            |index| Bytes::from(pb::Event::from(Event::new(format!("e{index}"))).encode_to_vec());
        let deliver = pb::Deliver {
            topic: "a".into(),
            attempt,
            time_ms: 7,
            positions: positions.to_vec(),
            sequences: positions.to_vec(),
            suspect,
            events: (0..positions.len()).map(event).collect(),
        };
        self.say(broker_to_consumer::Message::Deliver(deliver))
            .await;
    }

    /// The next command, but for what it says of what was handed over, which comes when it comes.
    pub(super) async fn command(&mut self) -> pb::consumer_command::Command {
        loop {
            match self.any_command().await {
                Command::Credit(pb::Credit {
                    events: 0,
                    bytes: 0,
                    ..
                }) => {}
                Command::Credit(credit) => {
                    return Command::Credit(pb::Credit {
                        handed_over: 0,
                        ..credit
                    });
                }
                other => return other,
            }
        }
    }

    pub(super) async fn heard(&mut self, deliveries: u64) {
        self.say(broker_to_consumer::Message::HandedOver(pb::HandedOver {
            deliveries,
        }))
        .await;
    }

    /// The code with which the client resets its side; `None` when it finishes it.
    pub(super) async fn reset_code(&mut self) -> Option<u64> {
        loop {
            match soon(self.source.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(_) => {
                    let reset = self.source.recv().received_reset().await;
                    return reset.ok().flatten().map(|code| code.into_inner());
                }
            }
        }
    }

    pub(super) async fn any_command(&mut self) -> Command {
        let command: pb::ConsumerCommand = self.read().await.expect("a command, not the end");
        command.command.unwrap()
    }

    /// Waits until the client says that it has handed over so many deliveries; whether it wants that confirmed.
    pub(super) async fn handed_over(&mut self, deliveries: u64) -> bool {
        loop {
            if let Command::Credit(credit) = self.any_command().await
                && credit.handed_over >= deliveries
            {
                assert_eq!(credit.handed_over, deliveries);
                return credit.confirm_handed_over;
            }
        }
    }
}
