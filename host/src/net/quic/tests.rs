//! Real QUIC clients against real listeners in one process: who is let in, how connections are limited, and that sessions run over QUIC
//! as they do over anything else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectionError, Endpoint};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_wire::compact::Compression;
use tidegate_wire::pb::broker_to_consumer::Message as ToConsumer;
use tidegate_wire::pb::{ErrorCode, hello_reply};
use tidegate_wire::stream::quic::QuicConnection;
use tidegate_wire::stream::quic::congestion::Congestion;
use tidegate_wire::stream::quic::send_window::SendBudget;
use tidegate_wire::stream::{Connection, ConnectionEnd, SendHalf};
use tokio_util::sync::CancellationToken;

use self::pki::Ca;
use super::listeners::{NetHandle, listen};
use super::options::ListenerOptions;
use crate::auth::{Grant, Policy};
use crate::net::session::receive_window::{FIRST_WINDOW_BYTES, ReceiveWindow};
use crate::net::session::service::{Backend, Service};
use crate::net::session::tests::client::{Client, Consuming, Publishing, batch, publish};
use crate::net::session::tests::served::Served;
use crate::net::session::tests::{HANG, everything, until};
use crate::net::start::NetOptions;
use crate::tls::{ClientAuth, TlsIdentity};

/// Certificates for tests.
pub(super) mod pki {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
        date_time_ymd,
    };

    /// A certificate authority.
    pub(in crate::net) struct Ca(CertifiedIssuer<'static, KeyPair>);

    impl Ca {
        pub(in crate::net) fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
                .distinguished_name
                .push(DnType::CommonName, "test CA");
            let key = KeyPair::generate().expect("key");
            Self(CertifiedIssuer::self_signed(params, key).expect("CA"))
        }

        pub(in crate::net) fn pem(&self) -> String {
            self.0.pem()
        }

        /// Certificate and key, as PEM, with one DNS name.
        pub(in crate::net) fn issue(&self, name: &str) -> (String, String) {
            self.sign(CertificateParams::new(vec![name.to_owned()]).expect("valid name"))
        }

        /// One whose days are over.
        pub(in crate::net) fn issue_expired(&self, name: &str) -> (String, String) {
            let mut params = CertificateParams::new(vec![name.to_owned()]).expect("valid name");
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
            self.sign(params)
        }

        /// One with several URIs.
        pub(in crate::net) fn issue_uris(&self, uris: &[&str]) -> (String, String) {
            let mut params = CertificateParams::default();
            params.subject_alt_names = uris
                .iter()
                .map(|uri| SanType::URI((*uri).try_into().expect("ascii")))
                .collect();
            self.sign(params)
        }

        fn sign(&self, params: CertificateParams) -> (String, String) {
            let key = KeyPair::generate().expect("key");
            let certificate = params.signed_by(&key, &self.0).expect("certificate");
            (certificate.pem(), key.serialize_pem())
        }
    }
}

struct Net {
    ca: Ca,
    handle: NetHandle,
    shutdown: CancellationToken,
}

/// A client, and the socket that its connection needs.
struct Connected {
    client: Client<QuicConnection>,
    _endpoint: Endpoint,
}

impl std::ops::Deref for Connected {
    type Target = Client<QuicConnection>;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Net {
    // Everybody may publish and subscribe, but there is no broker behind it.
    fn start(client_auth: ClientAuth, change: impl FnOnce(&mut NetOptions)) -> Self {
        Self::start_with(client_auth, everything(), Backend::Absent, change)
    }

    fn start_with(
        client_auth: ClientAuth,
        policy: impl Into<Arc<Policy>>,
        backend: Backend,
        change: impl FnOnce(&mut NetOptions),
    ) -> Self {
        let ca = Ca::new();
        let (chain, key) = ca.issue("localhost");
        let tls = TlsIdentity::from_pem(chain.as_bytes(), key.as_bytes(), ca.pem().as_bytes())
            .expect("sound files");
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut options = NetOptions::default();
        options.quic.listeners = vec![ListenerOptions {
            addr,
            client_auth,
            congestion: Congestion::Auto,
            compression: Compression::Auto,
        }];
        change(&mut options);
        let shutdown = CancellationToken::new();
        let service = Service::new(options.sessions, policy.into(), backend, shutdown.clone());
        let handle = listen(options.quic, &tls, service).expect("starts");
        Self {
            ca,
            handle,
            shutdown,
        }
    }

    async fn connect(
        &self,
        identity: Option<(String, String)>,
    ) -> Result<Connected, ConnectionError> {
        let (connection, _endpoint) = self.connect_bare(identity).await?;
        Ok(Connected {
            client: Client::new(QuicConnection::new(connection, &SendBudget::new(0))),
            _endpoint,
        })
    }

    async fn connect_bare(
        &self,
        identity: Option<(String, String)>,
    ) -> Result<(quinn::Connection, Endpoint), ConnectionError> {
        let config = client_config(&self.ca, identity);
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("socket");
        let connecting = endpoint
            .connect_with(config, self.handle.local_addrs[0], "localhost")
            .expect("valid name");
        Ok((connecting.await?, endpoint))
    }

    async fn connect_ok(&self) -> Connected {
        self.connect(Some(self.ca.issue("client.example")))
            .await
            .expect("connects")
    }

    // Connected and welcomed.
    async fn welcomed(&self) -> Connected {
        let Connected { client, _endpoint } = self.connect_ok().await;
        Connected {
            client: client.welcomed().await,
            _endpoint,
        }
    }
}

fn client_config(ca: &Ca, identity: Option<(String, String)>) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("CA");
    roots.add(root).expect("CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(chain.as_bytes()).expect("certificate")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("key"),
            )
            .expect("sound identity"),
    };
    config.alpn_protocols = vec![tidegate_wire::ALPN.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("QUIC")))
}

#[tokio::test]
async fn a_certificate_makes_a_principal() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let check = async |identity, expected: &str| {
        let client = net.connect(Some(identity)).await.expect("connects");
        match client.hello(&[7, 1]).await.expect("answered").0 {
            hello_reply::Result::Welcome(welcome) => {
                assert_eq!((welcome.version, welcome.principal.as_str()), (1, expected));
                let limits = tidegate_wire::Limits::from(welcome.limits.as_ref());
                assert_eq!(limits, tidegate_wire::Limits::default());
            }
            other => panic!("{other:?}"),
        }
    };
    check(net.ca.issue("client.example"), "dns:client.example").await;
    check(
        net.ca.issue_uris(&["spiffe://plant/press-4"]),
        "uri:spiffe://plant/press-4",
    )
    .await;
    assert_eq!(net.handle.stats.counts().connections_total, 2);
}

#[tokio::test]
async fn an_anonymous_listener_asks_for_no_certificate() {
    let net = Net::start(ClientAuth::Anonymous, |_| {});
    let client = net.connect(None).await.expect("connects");
    match client.hello(&[1]).await.expect("answered").0 {
        hello_reply::Result::Welcome(welcome) => assert_eq!(welcome.principal, "anonymous"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_valid_certificate_nobody_gets_in() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let check = async |identity: Option<(String, String)>| {
        // TLS 1.3 lets a client believe it is in until the server has seen its certificate.
        if let Ok(client) = net.connect(identity).await {
            let closed = tokio::time::timeout(HANG, client.connection.closed()).await;
            let ConnectionEnd::Rejected { by_peer, .. } = closed.expect("closed in time") else {
                panic!("it ended otherwise");
            };
            assert!(by_peer);
        }
    };
    check(None).await;
    check(Some(Ca::new().issue("client.example"))).await;
    check(Some(net.ca.issue_expired("client.example"))).await;
    assert_eq!(net.handle.stats.counts().handshake_failures, 3);
    net.welcomed().await;
}

#[tokio::test]
async fn a_certificate_with_two_identities_is_refused_by_name() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let identity = net.ca.issue_uris(&["spiffe://a/b", "spiffe://a/c"]);
    let client = net.connect(Some(identity)).await.expect("connects");
    assert_eq!(client.close_code().await, Some(ErrorCode::PermissionDenied));
    assert_eq!(net.handle.stats.counts().handshake_failures, 1);
}

#[tokio::test]
async fn connections_beyond_the_cap_are_refused() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.sessions.connections_max = 1
    });
    let _first = net.welcomed().await;
    let second = net.connect(Some(net.ca.issue("client.example"))).await;
    assert!(second.is_err());
    assert_eq!(net.handle.stats.counts().connections_refused, 1);
}

#[tokio::test]
async fn one_principal_does_not_take_every_connection() {
    let grant = |who: &str, admin: Vec<crate::domain::TopicPattern>| Grant {
        principals: vec![who.parse().expect("valid")],
        admin,
        ..Grant::default()
    };
    let policy = Policy::new(vec![grant(
        "dns:chief.example",
        vec![">".parse().expect("valid")],
    )]);
    let net = Net::start_with(ClientAuth::Required, policy, Backend::Absent, |options| {
        options.sessions.connections_max = 16;
        options.sessions.principal_connections_max = 15;
    });
    let mut held = Vec::new();
    for _ in 0..15 {
        held.push(net.welcomed().await);
    }
    let check = async |name: &str, why: &str| {
        let client = net
            .connect(Some(net.ca.issue(name)))
            .await
            .expect("TLS works");
        let closed = tokio::time::timeout(HANG, client.connection.closed()).await;
        let ConnectionEnd::Peer { code, reason } = closed.expect("in time") else {
            panic!("not closed with a reason");
        };
        assert_eq!(code, ErrorCode::Overloaded as u32);
        assert!(reason.contains(why), "{reason}");
    };
    // One is left, and it is for those who administer.
    check("client.example", "admin right").await;
    check("other.example", "admin right").await;
    let chief = net
        .connect(Some(net.ca.issue("chief.example")))
        .await
        .expect("connects");
    chief.hello(&[1]).await.expect("welcomed");
    held.truncate(10);
    // Those places are free once the broker has noticed.
    until(|| net.handle.stats.counts().connections_open <= 11).await;
    for _ in 0..4 {
        held.push(net.welcomed().await);
    }
    assert_eq!(net.handle.stats.counts().connections_refused, 2);
}

#[tokio::test]
async fn a_principal_has_its_own_limit_of_connections() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.sessions.principal_connections_max = 2
    });
    let _held = [net.welcomed().await, net.welcomed().await];
    let third = net.connect_ok().await;
    assert_eq!(third.close_code().await, Some(ErrorCode::Overloaded));
    let other = net
        .connect(Some(net.ca.issue("other.example")))
        .await
        .expect("connects");
    other.hello(&[1]).await.expect("welcomed");
}

#[tokio::test]
async fn a_client_with_another_address_keeps_its_connection_and_is_counted() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let connected = net.welcomed().await;
    let changed = || net.handle.stats.counts().addresses_changed;
    for times in 0..3 {
        // An endpoint of our client does that when this machine has another address.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        connected._endpoint.rebind(socket).expect("another socket");
        // Whatever it opens is served, and may be heard of before its new address is.
        let served = async {
            while changed() == times {
                connected.refusal(&publish(), false).await;
            }
        };
        tokio::time::timeout(HANG, served).await.expect("noticed");
        assert_eq!(changed(), times + 1);
    }
    assert_eq!(net.handle.stats.counts().connections_total, 1);
}

/// An attempt that stalls.
struct Stalled {
    attempt: tokio::task::JoinHandle<()>,
    /// What carries its packets.
    _relay: tokio::task::JoinSet<()>,
}

impl Stalled {
    // The client gives it up.
    fn withdraw(&self) {
        self.attempt.abort();
    }
}

// Passes on what the client says, and of the answers only the request to prove its address. So the client does that, and then
// stalls.
async fn stall(net: &Net) -> Stalled {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let before = Arc::new(tokio::net::UdpSocket::bind(any).await.expect("socket"));
    let behind = Arc::new(tokio::net::UdpSocket::bind(any).await.expect("socket"));
    let relayed_at = before.local_addr().expect("bound");
    behind
        .connect(net.handle.local_addrs[0])
        .await
        .expect("an address");
    let endpoint = Endpoint::client(any).expect("socket");
    let identity = Some(net.ca.issue("client.example"));
    let connecting =
        endpoint.connect_with(client_config(&net.ca, identity), relayed_at, "localhost");
    let connecting = connecting.expect("valid name");
    let client = endpoint.local_addr().expect("bound");
    let attempt = tokio::spawn(async move {
        let _ = connecting.await;
        drop(endpoint);
    });
    let mut _relay = tokio::task::JoinSet::new();
    let (there, back) = (before.clone(), behind.clone());
    _relay.spawn(async move {
        let mut datagram = [0; 2_048];
        while let Ok(length) = before.recv(&mut datagram).await {
            let _ = behind.send(&datagram[..length]).await;
        }
    });
    _relay.spawn(async move {
        let mut datagram = [0; 2_048];
        while let Ok(length) = back.recv(&mut datagram).await {
            if datagram[0] & 0xf0 == 0xf0 {
                let _ = there.send_to(&datagram[..length], client).await;
            }
        }
    });
    Stalled { attempt, _relay }
}

#[tokio::test]
async fn an_attempt_that_its_client_needs_no_more_is_no_failure() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let stats = &net.handle.stats;
    let stalled = stall(&net).await;
    until(|| stats.counts().handshakes_open == 1).await;
    // The client ends it, and nobody else knows why.
    stalled.withdraw();
    until(|| stats.counts().attempts_withdrawn == 1).await;
    let counts = stats.counts();
    assert_eq!((counts.handshakes_open, counts.handshake_failures), (0, 0));
}

#[tokio::test]
async fn handshakes_that_stall_give_way_to_one_that_does_not() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.quic.handshakes_before_retry = 4;
        options.sessions.handshake_timeout = 2 * HANG;
    });
    let mut stalled = Vec::new();
    for _ in 0..64 {
        stalled.push(stall(&net).await);
    }
    let stats = &net.handle.stats;
    let tried = async {
        loop {
            let counts = stats.counts();
            let many = counts.connections_refused + counts.handshakes_given_up > 0;
            // What stalls is from the same address, and it may have begun too lately to give way.
            if many
                && net
                    .connect(Some(net.ca.issue("client.example")))
                    .await
                    .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, tried).await.expect("gets in");
    let counts = stats.counts();
    assert!(counts.handshakes_given_up > 0, "{counts:?}");
    assert!(
        counts.handshakes_open <= 8,
        "a quarter of all, but eight at least: {counts:?}"
    );
}

#[tokio::test]
async fn who_finds_no_place_waits_and_gets_in_without_a_second_handshake() {
    const CLIENTS: u64 = 16;
    let net = Net::start(ClientAuth::Required, |options| {
        // Eight places.
        options.quic.handshakes_before_retry = 1;
    });
    let identity = net.ca.issue("client.example");
    let client = async || loop {
        // Fails on a machine that is too slow for all of them.
        if let Ok(connected) = net.connect(Some(identity.clone())).await {
            return connected;
        }
    };
    let clients = futures_util::future::join_all((0..CLIENTS).map(|_| client()));
    let _connected = clients.await;
    let stats = &net.handle.stats;
    until(|| stats.counts().connections_open == CLIENTS).await;
    let counts = stats.counts();
    assert_eq!(
        counts.handshakes_begun - counts.handshake_failures,
        CLIENTS,
        "{counts:?}"
    );
    assert_eq!(counts.handshakes_waiting, 0);
}

#[tokio::test]
async fn a_client_that_must_prove_its_address_gets_in() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.quic.handshakes_before_retry = 0
    });
    net.welcomed().await;
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_ends() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.welcomed().await;
    net.shutdown.cancel();
    let go_away = client.go_away().await.expect("a goodbye");
    assert_eq!(go_away.grace_ms, 10_000);
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    tokio::time::timeout(HANG, net.handle.stopped())
        .await
        .expect("stops in time");
}

// What a session does is tested in `session`; here it does some of it over real streams.
#[tokio::test]
async fn a_session_runs_over_quic() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let backend = Backend::Broker(served.broker.clone());
    let net = Net::start_with(ClientAuth::Required, served.policy.clone(), backend, |_| {});
    let client = net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
    // More than all windows at first.
    let large = "x".repeat(900_000);
    for (number, payload) in [(1, &*large), (2, "a"), (3, "b")] {
        let event = batch(number, "orders.eu", number, &[payload]);
        publishing.write(&event).await;
        assert_eq!(publishing.ack().await.first_sequence, number);
    }
    publishing.stream.send.finish();
    assert_eq!(publishing.reply().await, None);
    let mut first = Consuming::open(&client, "s", 1).await.expect("attached");
    let (payload, attempt, position) = first.event().await;
    assert_eq!((payload.len(), attempt), (large.len(), 1));
    first.ack_confirmed(position).await;
    for expected in ["a", "b"] {
        first.grant(1, 1 << 20).await;
        assert_eq!(first.event().await.0, expected);
    }
    // Without a word, so either of the two may have been too much for it.
    let other = net.welcomed().await;
    client.connection.close(0, "");
    let mut second = Consuming::open(&other, "s", 10).await.expect("attached");
    for expected in ["a", "b"] {
        let ToConsumer::Deliver(deliver) = second.next().await else {
            panic!("not a delivery");
        };
        assert!(deliver.suspect, "{expected}");
        second.ack(deliver.positions[0], 0).await;
    }
    let counts = net.handle.stats.counts();
    assert!(
        counts.bytes_in.min(counts.bytes_out) > 900_000,
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_nudge_asks_the_other_end_each_time_and_is_answered() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let identity = net.ca.issue("client.example");
    let (connection, _endpoint) = net.connect_bare(Some(identity)).await.expect("connects");
    let transport = QuicConnection::new(connection.clone(), &SendBudget::new(0));
    // As the broker's end begins.
    transport.set_receive_window(FIRST_WINDOW_BYTES);
    let window = ReceiveWindow::new(transport);
    for _ in 0..3 {
        let before = connection.stats();
        window.nudge();
        until(|| connection.stats().frame_tx.max_data > before.frame_tx.max_data).await;
        until(|| connection.stats().frame_rx.acks > before.frame_rx.acks).await;
    }
}

#[tokio::test]
async fn ends_of_quic_connections_are_told_apart() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.welcomed().await;
    assert_eq!(client.connection.end(), None);
    client.connection.close(7, "enough");
    assert_eq!(client.connection.end(), Some(ConnectionEnd::Here));
    let client = net.welcomed().await;
    let refused = client.refusal(&[0], false).await.code();
    assert_eq!(refused, ErrorCode::Malformed);
    let ConnectionEnd::Peer { code, reason } = client.connection.closed().await else {
        panic!("not closed by the broker");
    };
    assert_eq!(code, ErrorCode::Malformed as u32);
    assert!(!reason.is_empty());
}
