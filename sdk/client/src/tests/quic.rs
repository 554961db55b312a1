//! The client over real sockets: certificates, how quinn's ends of connections and streams are understood, and that events come
//! through. What does not depend on the transport is tested over the network within the process.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate_wire::ALPN;
use tidegate_wire::stream::ConnectionEnd;
use tidegate_wire::stream::quic::QuicConnection;
use tidegate_wire::stream::quic::send_window::SendBudget;
use tidegate_wire::stream::{Connection, SendHalf};
use tokio::sync::mpsc;

use super::broker::{Broker, Manner, Stream, soon, welcome};
use crate::transport::Connector;
use crate::transport::quic::{self, QuicConnector};
use crate::{
    Answered, Client, ClientOptions, ConnectError, ConsumerOptions, ErrorCode, Event, Identity,
    PublisherOptions,
};

type QuicBroker = Broker<QuicConnection, Socket>;

/// Where a broker listens, and who vouches for it.
struct Socket {
    authority: Authority,
    addr: SocketAddr,
}

impl QuicBroker {
    fn on_a_socket() -> Self {
        Self::listen(Manner::Answers(welcome(1)), false)
    }

    fn listen(manner: Manner, ask_for_certificate: bool) -> Self {
        let authority = Authority::new();
        let config = server_config(&authority, ask_for_certificate);
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let addr = endpoint.local_addr().unwrap();
        let (sender, incoming) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(attempt) = endpoint.accept().await {
                if let Ok(connection) = attempt.await {
                    let connection = QuicConnection::new(connection, &SendBudget::new(0));
                    let _ = sender.send(connection);
                }
            }
        });
        Self::behind(Socket { authority, addr }, incoming, manner)
    }

    fn options(&self) -> ClientOptions {
        ClientOptions::new(self.door.addr.to_string())
            .server_name("localhost")
            .roots_pem(self.door.authority.pem().as_bytes())
            .unwrap()
            .backoff(Duration::from_millis(1), Duration::from_millis(20))
    }

    async fn client(&self) -> Client {
        soon(Client::connect(self.options())).await.unwrap()
    }
}

/// A certificate authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `localhost`, and its key.
    fn identity(&self) -> Identity {
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

#[tokio::test]
async fn a_foreign_authority_is_no_authority() {
    let broker = QuicBroker::on_a_socket();
    let mut options = broker.options();
    options.roots.clear();
    let options = options
        .roots_pem(Authority::new().pem().as_bytes())
        .unwrap();
    let error = soon(Client::connect(options)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_client_certificate_is_a_failed_handshake() {
    let broker = QuicBroker::listen(Manner::Answers(welcome(1)), true);
    let error = soon(Client::connect(broker.options())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
    let mut options = broker.options();
    options.identity = Some(broker.door.authority.identity());
    soon(Client::connect(options)).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_with_the_next_connection() {
    let broker = QuicBroker::listen(Manner::Answers(welcome(1)), true);
    let ours = broker.door.authority.identity();
    let shown = Arc::new(Mutex::new(Ok(ours.clone())));
    let asked = Arc::new(AtomicUsize::new(0));
    let (source, counted) = (Arc::clone(&shown), Arc::clone(&asked));
    let options = broker.options().identity_from(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        source.lock().unwrap().clone()
    });
    let options = options.unwrap();
    let client = soon(Client::connect(options)).await.unwrap();
    let renew = |identity| {
        *shown.lock().unwrap() = identity;
        broker.drop_connections();
    };
    let trouble = async |has: fn(&str) -> bool| loop {
        let error = client.trouble().map(|error| error.to_string());
        if has(&error.unwrap_or_default()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    renew(Ok(Authority::new().identity()));
    soon(trouble(|error| error.contains("objects"))).await;
    // Another, without the program beginning anew.
    renew(Ok(ours));
    soon(trouble(str::is_empty)).await;
    // None for now: the one before.
    let before = asked.load(Ordering::Relaxed);
    renew(Err("half written"));
    soon(async {
        while asked.load(Ordering::Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    soon(trouble(str::is_empty)).await;
}

// The clock stands still but for timeouts, and nothing answers in the meantime.
#[tokio::test(start_paused = true)]
async fn nobody_there_is_an_error_after_the_timeout() {
    let broker = QuicBroker::on_a_socket();
    // Nothing speaks QUIC on this socket.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = broker.options().connect_timeout(Duration::from_millis(200));
    options.addr = silent.local_addr().unwrap().to_string();
    let error = soon(Client::connect(options)).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_closed_with_a_code_is_a_refusal() {
    let broker = QuicBroker::listen(
        Manner::Closes(ErrorCode::PermissionDenied, "not you"),
        false,
    );
    let error = soon(Client::connect(broker.options())).await.unwrap_err();
    match error {
        ConnectError::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::PermissionDenied);
            assert_eq!(refusal.message, "not you");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dropping_everything_closes_the_connection() {
    let mut broker = QuicBroker::on_a_socket();
    let client = broker.client().await;
    let (publisher, mut stream) =
        tokio::join!(client.publisher(PublisherOptions::default()), async {
            let mut stream = broker.stream().await;
            stream.publish_ready(1000, 10).await;
            stream
        });
    drop(client);
    stream.ack(4711, 1, false).await;
    drop(publisher);
    stream.ended().await;
    let end = broker.closed().await;
    assert!(matches!(end, ConnectionEnd::Peer { .. }), "{end:?}");
}

#[tokio::test]
async fn closing_says_so() {
    let broker = QuicBroker::on_a_socket();
    let client = broker.client().await;
    soon(client.close()).await;
    let expected = ConnectionEnd::Peer {
        code: 0,
        reason: "client closed".into(),
    };
    assert_eq!(broker.closed().await, expected);
}

/// A consumer's stream, on which the broker has delivered one event.
async fn deliver_one(broker: &mut QuicBroker) -> Stream<QuicConnection> {
    let mut stream = broker.stream().await;
    stream.subscribe_ready().await;
    stream.deliver(1, &[1]).await;
    stream
}

#[tokio::test]
async fn events_and_answers_come_through_and_again_after_a_loss() {
    let mut broker = QuicBroker::on_a_socket();
    let client = broker.client().await;
    let (publisher, mut stream) =
        tokio::join!(soon(client.publisher(PublisherOptions::default())), async {
            let mut stream = broker.stream().await;
            stream.publish_ready(1 << 20, 10).await;
            stream
        });
    let publisher = publisher.unwrap();
    // Too long to be copied behind its head, and for one packet.
    let payload = "x".repeat(100_000);
    let ticket = publisher
        .send("a", Event::new(payload.clone()))
        .await
        .unwrap();
    let (batch, payloads) = stream.batch().await;
    assert_eq!(payloads, std::slice::from_ref(&payload));
    broker.drop_connections();
    let mut stream = broker.stream().await;
    stream.publish_ready(1 << 20, 10).await;
    let (again, payloads) = stream.batch().await;
    assert_eq!(
        (again.first_number, payloads),
        (batch.first_number, vec![payload])
    );
    stream.ack(again.correlation, 7, false).await;
    assert_eq!(soon(ticket).await.unwrap().sequence, 7);

    let (consumer, mut stream) = tokio::join!(
        soon(client.subscribe("s", ConsumerOptions::default())),
        deliver_one(&mut broker)
    );
    let mut consumer = consumer.unwrap();
    soon(consumer.next()).await.unwrap().unwrap().ack();
    stream.command().await;
    soon(consumer.close()).await;
    assert_eq!(stream.reset_code().await, None, "finished");
}

#[tokio::test]
async fn a_consumer_that_goes_down_with_a_panic_says_so() {
    let mut broker = QuicBroker::on_a_socket();
    let client = broker.client().await;
    let (consumer, mut stream) = tokio::join!(
        soon(client.subscribe("s", ConsumerOptions::default())),
        deliver_one(&mut broker)
    );
    let mut consumer = consumer.unwrap();
    let application = tokio::spawn(async move {
        consumer.next().await;
        panic!("the application of a test fails, as it should");
    });
    assert!(soon(application).await.is_err());
    assert_eq!(stream.reset_code().await, Some(1));
}

// A dialing client, and what a broker without time gets of it.
async fn dialing() -> (
    tokio::task::JoinHandle<Result<quic::QuicConnection, ConnectError>>,
    Answered,
    quinn::Endpoint,
) {
    let authority = Authority::new();
    let config = server_config(&authority, false);
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let options = ClientOptions::new(addr.to_string())
        .server_name("localhost")
        .roots_pem(authority.pem().as_bytes())
        .unwrap();
    let connector = QuicConnector::new(&options).unwrap();
    let answered = Answered::default();
    let noted = answered.clone();
    let dialed = tokio::spawn(async move { connector.dial(&addr, &noted, false).await });
    (dialed, answered, endpoint)
}

#[tokio::test]
async fn who_is_asked_to_prove_an_address_was_heard() {
    let (dialed, answered, endpoint) = dialing().await;
    let attempt = soon(endpoint.accept()).await.unwrap();
    assert_eq!(answered.heard(), 0);
    attempt.retry().unwrap();
    let attempt = soon(endpoint.accept()).await.unwrap();
    assert!(attempt.remote_address_validated());
    // It came back because it was heard, and nobody has said more to it.
    assert!(answered.heard() > 0);
    let connected = soon(async { tokio::join!(attempt.accept().unwrap(), dialed) }).await;
    connected.0.unwrap();
    connected.1.unwrap().unwrap();
}

#[tokio::test]
async fn a_broker_hears_at_once_of_another_address_of_this_machine() {
    let (dialed, _, endpoint) = dialing().await;
    let attempt = soon(endpoint.accept()).await.unwrap();
    let connected = soon(async { tokio::join!(attempt.accept().unwrap(), dialed) }).await;
    let (broker, client) = (connected.0.unwrap(), connected.1.unwrap().unwrap());
    // Each address has an identifier of the connection, so a packet with the next one, which says that the last is over, comes from there.
    let heard_from_another = async |times: u64| {
        while broker.stats().frame_rx.retire_connection_id < times {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let own = client.kept();
    let source = |last: u8| Ok(SocketAddr::from(([192, 0, 2, last], 9)));
    let failed = |kind: std::io::ErrorKind| Err(kind.into());
    let no_way = std::io::ErrorKind::NetworkUnreachable;
    assert!(own.note_look(source(1)));
    soon(heard_from_another(1)).await;
    // The same, none for now, and a look that came to nothing, are no news.
    assert!(!own.note_look(source(1)));
    assert!(!own.note_look(failed(std::io::ErrorKind::Other)));
    assert!(!own.note_look(source(1)));
    assert!(!own.note_look(failed(no_way)));
    assert!(own.note_look(source(1)), "there is a way again");
    soon(heard_from_another(2)).await;
    assert!(own.note_look(source(2)));
    soon(heard_from_another(3)).await;
    assert_eq!(broker.stats().frame_rx.retire_connection_id, 3);
    // To itself a machine has one way.
    assert!(!client.follow_route());
    // The connection goes on, on the socket that it has or another.
    client.rebind().unwrap();
    let (mut send, _receive) = soon(client.open()).await.unwrap();
    soon(send.send(&mut VecDeque::from([Bytes::from_static(b"x")])))
        .await
        .unwrap();
    soon(broker.accept_bi()).await.unwrap();
}

#[tokio::test]
async fn who_gets_no_answer_goes_on_asking() {
    let (dialed, _, endpoint) = dialing().await;
    let attempt = soon(endpoint.accept()).await.unwrap();
    let connected = soon(async { tokio::join!(attempt.accept().unwrap(), dialed) }).await;
    let (broker, client) = (connected.0.unwrap(), connected.1.unwrap().unwrap());
    let (mut send, _receive) = soon(client.open()).await.unwrap();
    soon(send.send(&mut VecDeque::from([Bytes::from_static(b"x")])))
        .await
        .unwrap();
    soon(broker.accept_bi()).await.unwrap();
    // The broker is at another port from now on, where the client does not look for it.
    let elsewhere = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    endpoint.rebind(elsewhere).unwrap();
    soon(send.send(&mut VecDeque::from([Bytes::from_static(b"y")])))
        .await
        .unwrap();
    // That, and at least three probes, long before the next ping would be due by itself.
    let asked = client.traffic().asked;
    while client.traffic().asked < asked + 4 {
        assert!(client.end().is_none());
        soon(tokio::time::sleep(Duration::from_millis(1))).await;
    }
}

#[tokio::test]
async fn a_refused_attempt_is_known_as_one() {
    let (dialed, _, endpoint) = dialing().await;
    soon(endpoint.accept()).await.unwrap().refuse();
    let error = soon(dialed).await.unwrap().unwrap_err();
    assert!(
        matches!(error, ConnectError::Lost(ConnectionEnd::Busy)),
        "{error:?}"
    );
}
