//! Real QUIC clients against real listeners in one process: who is let in, the hello, and what happens to
//! those who break the protocol. In `served` there is a broker behind the streams.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_wire::frame::encode_frame;
use tidegate_wire::pb::{self, ErrorCode, hello_reply, publish_opened, stream_open};
use tokio_util::sync::CancellationToken;

use super::connection::Backend;
use super::listener::start;
use super::{ClientAuth, ListenerOptions, NetHandle, NetOptions, TlsIdentity};
use crate::auth::{Grant, Policy};

mod served;

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

use pki::Ca;

/// Far longer than anything takes that does not hang.
const HANG: Duration = Duration::from_secs(30);

struct Net {
    ca: Ca,
    handle: NetHandle,
    shutdown: CancellationToken,
}

impl Net {
    // Everybody may publish and subscribe, but there is no broker behind it.
    fn start(client_auth: ClientAuth, change: impl FnOnce(&mut NetOptions)) -> Self {
        let everything = || vec![">".parse().expect("valid")];
        let policy = Policy::new(vec![Grant {
            principals: vec!["*".parse().expect("valid")],
            publish: everything(),
            subscribe: everything(),
            ..Grant::default()
        }]);
        Self::start_with(client_auth, policy, Backend::Absent, change)
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
        let mut options = NetOptions {
            listeners: vec![ListenerOptions { addr, client_auth }],
            ..NetOptions::default()
        };
        change(&mut options);
        let shutdown = CancellationToken::new();
        let handle =
            start(options, &tls, policy.into(), backend, shutdown.clone()).expect("starts");
        Self {
            ca,
            handle,
            shutdown,
        }
    }

    async fn connect(&self, identity: Option<(String, String)>) -> Result<Client, ConnectionError> {
        self.connect_by(client_config(&self.ca, identity)).await
    }

    async fn connect_by(&self, config: ClientConfig) -> Result<Client, ConnectionError> {
        let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("socket");
        let connecting = endpoint
            .connect_with(config, self.handle.local_addrs[0], "localhost")
            .expect("valid name");
        Ok(Client {
            connection: connecting.await?,
            hello: Mutex::default(),
            _endpoint: endpoint,
        })
    }

    async fn connect_ok(&self) -> Client {
        self.connect(Some(self.ca.issue("client.example")))
            .await
            .expect("connects")
    }

    // Connected and welcomed.
    async fn welcomed(&self) -> Client {
        self.welcome(self.connect_ok().await).await
    }

    // The same for a client that takes only so many bytes of a stream before they are read.
    async fn welcomed_narrow(&self, bytes: u32) -> Client {
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(bytes.into());
        let mut config = client_config(&self.ca, Some(self.ca.issue("client.example")));
        config.transport_config(Arc::new(transport));
        let client = self.connect_by(config).await.expect("connects");
        self.welcome(client).await
    }

    async fn welcome(&self, client: Client) -> Client {
        let (hello, streams) = client.hello(&[1]).await.expect("answered");
        assert!(
            matches!(hello, hello_reply::Result::Welcome(_)),
            "{hello:?}"
        );
        *client.hello.lock().expect("not poisoned") = Some(streams);
        client
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

struct Client {
    connection: Connection,
    /// Kept open, as the protocol wants it.
    hello: Mutex<Option<(SendStream, RecvStream)>>,
    _endpoint: Endpoint,
}

fn frame<M: Message>(message: &M) -> Bytes {
    let mut out = BytesMut::new();
    encode_frame(message, &mut out);
    out.freeze()
}

fn open(kind: stream_open::Kind) -> Bytes {
    frame(&pb::StreamOpen { kind: Some(kind) })
}

fn hello(versions: &[u32]) -> Bytes {
    let client = "test".to_owned();
    let hello = pb::Hello {
        versions: versions.to_vec(),
        client,
        frame_bytes_max: 0,
    };
    open(stream_open::Kind::Hello(hello))
}

fn publish() -> Bytes {
    open(stream_open::Kind::Publish(pb::PublishOpen::default()))
}

// The next message, or `None` at the end of the stream.
async fn read<M: Message + Default>(recv: &mut RecvStream) -> Option<M> {
    let mut length = 0;
    for shift in (0..).step_by(7) {
        let mut byte = [0];
        recv.read_exact(&mut byte).await.ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    recv.read_exact(&mut body).await.expect("whole message");
    Some(M::decode(&body[..]).expect("a message"))
}

impl Client {
    async fn send(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.expect("connection is up");
        send.write_all(bytes).await.expect("written");
        (send, recv)
    }

    async fn hello(
        &self,
        versions: &[u32],
    ) -> Option<(hello_reply::Result, (SendStream, RecvStream))> {
        let (send, mut recv) = self.send(&hello(versions)).await;
        let reply: pb::HelloReply = read(&mut recv).await?;
        Some((reply.result?, (send, recv)))
    }

    // What a stream that begins with `bytes` is refused with.
    async fn refusal(&self, bytes: &[u8], finish: bool) -> pb::Error {
        let (mut send, mut recv) = self.send(bytes).await;
        if finish {
            send.finish().expect("open");
        }
        let opened: pb::PublishOpened = read(&mut recv).await.expect("an answer");
        match opened.result {
            Some(publish_opened::Result::Error(error)) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn close_code(&self) -> Option<ErrorCode> {
        match tokio::time::timeout(HANG, self.connection.closed())
            .await
            .expect("closed in time")
        {
            ConnectionError::ApplicationClosed(close) => {
                ErrorCode::try_from(i32::try_from(close.error_code.into_inner()).ok()?).ok()
            }
            _ => None,
        }
    }
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
            let error = closed.expect("closed in time");
            assert!(
                matches!(error, ConnectionError::ConnectionClosed(_)),
                "{error:?}"
            );
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
async fn an_unknown_version_is_refused_with_the_known_one() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.connect_ok().await;
    match client.hello(&[2, 3]).await.expect("answered").0 {
        hello_reply::Result::Error(error) => {
            assert_eq!(error.code(), ErrorCode::UnsupportedVersion);
            assert!(
                error.message.contains("speaks version 1"),
                "{}",
                error.message
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        client.close_code().await,
        Some(ErrorCode::UnsupportedVersion)
    );
}

#[tokio::test]
async fn whoever_says_no_hello_is_closed() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.handshake_timeout = Duration::from_millis(300);
    });
    let silent = net.connect_ok().await;
    assert_eq!(silent.close_code().await, Some(ErrorCode::InvalidArgument));
    let half = net.connect_ok().await;
    let _streams = half.send(&hello(&[1])[..2]).await;
    assert_eq!(half.close_code().await, Some(ErrorCode::InvalidArgument));
}

#[tokio::test]
async fn each_way_to_break_the_protocol() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let innocent = net.welcomed().await;
    let check = async |bytes: &[u8], finish: bool, code: ErrorCode| {
        let client = net.welcomed().await;
        assert_eq!(
            client.refusal(bytes, finish).await.code(),
            code,
            "{bytes:02x?}"
        );
        assert_eq!(client.close_code().await, Some(code), "{bytes:02x?}");
    };
    let kind_9 = [2, 9 << 3 | 2, 0];
    let text_not_utf8 = [6, 3 << 3 | 2, 4, 1 << 3 | 2, 2, 0xff, 0xff];
    check(&[0], false, ErrorCode::Malformed).await;
    check(&kind_9, false, ErrorCode::Malformed).await;
    check(&[3, 0xff, 0xff, 0xff], false, ErrorCode::Malformed).await;
    check(&text_not_utf8, false, ErrorCode::Malformed).await;
    check(&[0xff; 16], false, ErrorCode::TooLarge).await;
    check(&[0x81, 0x80, 0x01], false, ErrorCode::TooLarge).await;
    check(&[0x80; 10], false, ErrorCode::Malformed).await;
    check(&[9, 1, 2], true, ErrorCode::Malformed).await;
    check(&hello(&[1]), false, ErrorCode::Malformed).await;
    // Nobody else noticed: a well-formed stream still gets as far as the broker.
    assert_eq!(
        innocent.refusal(&publish(), false).await.code(),
        ErrorCode::Internal
    );
}

#[tokio::test]
async fn the_first_stream_must_be_the_hello() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.connect_ok().await;
    assert_eq!(
        client.refusal(&publish(), false).await.code(),
        ErrorCode::Malformed
    );
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
}

#[tokio::test]
async fn nothing_may_follow_the_hello() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.connect_ok().await;
    let (_, (mut send, _recv)) = client.hello(&[1]).await.expect("answered");
    send.write_all(&hello(&[1])).await.expect("written");
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
}

#[tokio::test]
async fn a_refused_stream_leaves_the_connection_alone() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.welcomed().await;
    let mut bad_id = BytesMut::new();
    bad_id.put(
        &open(stream_open::Kind::Publish(pb::PublishOpen {
            producer_id: vec![1; 5].into(),
            ..pb::PublishOpen::default()
        }))[..],
    );
    assert_eq!(
        client.refusal(&bad_id, false).await.code(),
        ErrorCode::InvalidArgument
    );
    // Opened and given up, finished without a word, or reset: all the client's good right.
    drop(client.send(&[]).await);
    let (mut send, _recv) = client.send(&[5]).await;
    send.reset(0u32.into()).expect("open");
    assert_eq!(
        client.refusal(&publish(), false).await.code(),
        ErrorCode::Internal
    );
    assert!(client.connection.close_reason().is_none());
}

#[tokio::test]
async fn streams_beyond_the_cap_are_refused() {
    let net = Net::start(ClientAuth::Required, |options| options.streams_max = 1);
    let client = net.welcomed().await;
    let _held = client.send(&publish()[..1]).await;
    let error = client.refusal(&publish(), false).await;
    assert_eq!(
        (error.code(), error.retryable),
        (ErrorCode::Overloaded, true)
    );
}

#[tokio::test]
async fn connections_beyond_the_cap_are_refused() {
    let net = Net::start(ClientAuth::Required, |options| options.connections_max = 1);
    let _first = net.welcomed().await;
    let second = net.connect(Some(net.ca.issue("client.example"))).await;
    assert!(second.is_err());
    assert_eq!(net.handle.stats.counts().connections_refused, 1);
}

#[tokio::test]
async fn without_any_grant_no_stream_opens_and_nothing_is_asked_of_the_broker() {
    let net = Net::start_with(
        ClientAuth::Required,
        Policy::default(),
        Backend::Absent,
        |_| {},
    );
    let client = net.welcomed().await;
    let subscribe = open(stream_open::Kind::Subscribe(pb::SubscribeOpen {
        subscription: "s".to_owned(),
        ..pb::SubscribeOpen::default()
    }));
    for first in [publish(), subscribe] {
        let error = client.refusal(&first, false).await;
        assert_eq!(error.code(), ErrorCode::PermissionDenied);
        assert!(error.message.contains("right at all"), "{}", error.message);
    }
    assert!(client.connection.close_reason().is_none());
    assert_eq!(net.handle.stats.counts().publish_streams_open, 0);
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
        options.connections_max = 16;
        options.principal_connections_max = 15;
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
        let ConnectionError::ApplicationClosed(close) = closed.expect("in time") else {
            panic!("not closed with a reason");
        };
        assert_eq!(close.error_code, (ErrorCode::Overloaded as u32).into());
        let reason = String::from_utf8_lossy(&close.reason);
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
    tokio::time::timeout(HANG, async {
        while net.handle.stats.counts().connections_open > 11 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("noticed");
    for _ in 0..4 {
        held.push(net.welcomed().await);
    }
    assert_eq!(net.handle.stats.counts().connections_refused, 2);
}

#[tokio::test]
async fn a_principal_has_its_own_limit_of_connections() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.principal_connections_max = 2
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

// Passes on what the client says, and of the answers only the request to prove its address. So the client does that, and then
// stalls.
async fn stall(net: &Net) -> tokio::task::JoinSet<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let before = Arc::new(tokio::net::UdpSocket::bind(any).await.expect("socket"));
    let behind = Arc::new(tokio::net::UdpSocket::bind(any).await.expect("socket"));
    let relay = before.local_addr().expect("bound");
    behind
        .connect(net.handle.local_addrs[0])
        .await
        .expect("an address");
    let endpoint = Endpoint::client(any).expect("socket");
    let identity = Some(net.ca.issue("client.example"));
    let connecting = endpoint.connect_with(client_config(&net.ca, identity), relay, "localhost");
    let connecting = connecting.expect("valid name");
    let client = endpoint.local_addr().expect("bound");
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let _ = connecting.await;
        drop(endpoint);
        std::future::pending().await
    });
    let (there, back) = (before.clone(), behind.clone());
    tasks.spawn(async move {
        let mut datagram = [0; 2_048];
        while let Ok(length) = before.recv(&mut datagram).await {
            let _ = behind.send(&datagram[..length]).await;
        }
    });
    tasks.spawn(async move {
        let mut datagram = [0; 2_048];
        while let Ok(length) = back.recv(&mut datagram).await {
            if datagram[0] & 0xf0 == 0xf0 {
                let _ = there.send_to(&datagram[..length], client).await;
            }
        }
    });
    tasks
}

#[tokio::test]
async fn handshakes_that_stall_give_way_to_one_that_does_not() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.handshakes_before_retry = 4;
        options.handshake_timeout = 2 * HANG;
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
async fn a_client_that_must_prove_its_address_gets_in() {
    let net = Net::start(ClientAuth::Required, |options| {
        options.handshakes_before_retry = 0
    });
    net.welcomed().await;
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_ends() {
    let net = Net::start(ClientAuth::Required, |_| {});
    let client = net.connect_ok().await;
    let (_, (_send, mut recv)) = client.hello(&[1]).await.expect("answered");
    net.shutdown.cancel();
    let go_away: pb::GoAway = read(&mut recv).await.expect("a goodbye");
    assert_eq!(go_away.grace_ms, 10_000);
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    tokio::time::timeout(HANG, net.handle.stopped())
        .await
        .expect("stops in time");
}
