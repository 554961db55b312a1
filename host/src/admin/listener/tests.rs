//! Who gets through the listeners, and as whom, over real sockets.

use axum::routing::get;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::*;
use crate::pki::{Authority, ClientName, PemPair, ServerNames, Validity};
use crate::telemetry::conditions::Conditions;
use crate::tls::{ClientAuth, TlsIdentity};

struct Fixture {
    authority: Authority,
    plain: SocketAddr,
    tls: SocketAddr,
    metrics: Arc<AdminCounters>,
    // One for each request that waits.
    waiting: Arc<Semaphore>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

const SHARES: Shares = Shares {
    connections_max: 8,
    address_connections_max: 4,
    principal_connections_max: 2,
};

async fn fixture() -> Fixture {
    fixture_at(Clock::start()).await
}

// One whose broker believes that it is another time; what TLS believes is the machine's.
async fn fixture_at(clock: Clock) -> Fixture {
    let authority = Authority::new("test CA", Validity::days(1)).expect("an authority");
    let server = authority
        .issue_server(&ServerNames::loopback(), Validity::days(1))
        .expect("a certificate");
    let identity = TlsIdentity::from_pem(
        server.cert.as_bytes(),
        server.key.as_bytes(),
        authority.cert_pem().as_bytes(),
    );
    let config = identity
        .and_then(|identity| identity.server_config(ClientAuth::Required, &[ALPN]))
        .map(Arc::new)
        .expect("a TLS set-up");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let listeners = Listeners::bind(Some(any), Some((any, config)))
        .await
        .expect("bound");
    let (plain, tls) = (
        listeners.plain_addr().expect("bound"),
        listeners.tls_addr().expect("bound"),
    );
    let who = get(|Extension(who): Extension<Principal>| async move { who.to_string() });
    let waiting = Arc::new(Semaphore::new(0));
    let begun = Arc::clone(&waiting);
    let wait = get(async move || {
        begun.add_permits(1);
        std::future::pending::<&str>().await
    });
    let router = Router::new()
        .route("/who", who)
        .route("/wait", wait)
        .route(
            "/refused",
            axum::routing::post(async || (axum::http::StatusCode::FORBIDDEN, "refused")),
        )
        .route("/healthz", get(async || "well"));
    let metrics = Arc::new(AdminCounters::default());
    let shutdown = CancellationToken::new();
    let (counted, until) = (Arc::clone(&metrics), shutdown.clone());
    let server = tokio::spawn(async move {
        let spawner = Spawner::new(Conditions::default(), until.clone());
        let run_by = (&spawner, clock);
        serve(listeners, router, SHARES, counted, run_by, until).await;
    });
    Fixture {
        authority,
        plain,
        tls,
        metrics,
        waiting,
        shutdown,
        server,
    }
}

impl Fixture {
    // The answer, or why there is none.
    async fn ask_tls(&self, client: Option<PemPair>) -> Result<String, String> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.authority.cert_pem().as_bytes()).expect("PEM");
        roots.add(ca).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
                config
                    .with_client_auth_cert(vec![cert], key)
                    .expect("a pair")
            }
        };
        let stream = TcpStream::connect(self.tls).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        ask(stream, &format!("localhost:{}", self.tls.port())).await
    }

    fn client(&self, name: &str, validity: Validity) -> Option<PemPair> {
        let name = ClientName::CommonName(name.to_owned());
        Some(
            self.authority
                .issue_client(&name, validity)
                .expect("a certificate"),
        )
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S, host: &str) -> Result<String, String> {
    request(stream, host, "/who").await
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    host: &str,
    path: &str,
) -> Result<String, String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .map_err(|error| error.to_string())?;
    Ok(answer)
}

#[tokio::test]
async fn plain_callers_are_local_and_named_by_loopback_only() {
    let fixture = fixture().await;
    let ask_plain = async |host: String| {
        let stream = TcpStream::connect(fixture.plain).await.expect("connected");
        ask(stream, &host).await.expect("an answer")
    };
    let good = ask_plain(fixture.plain.to_string()).await;
    assert!(
        good.starts_with("HTTP/1.1 200") && good.ends_with("local"),
        "{good}"
    );
    let rebound = ask_plain(format!("evil.example:{}", fixture.plain.port())).await;
    assert!(
        rebound.starts_with("HTTP/1.1 403") && rebound.contains("foreign-origin"),
        "{rebound}"
    );
}

#[tokio::test]
async fn tls_callers_are_who_their_certificate_says() {
    let fixture = fixture().await;
    let days = Validity::days(1);
    let answer = fixture
        .ask_tls(fixture.client("press 4", days))
        .await
        .expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("cn:press 4"),
        "{answer}"
    );

    fixture.ask_tls(None).await.expect_err("no certificate");
    fixture
        .ask_tls(fixture.client("press 4", Validity::expired()))
        .await
        .expect_err("expired");
    let foreign = Authority::new("test CA", days)
        .and_then(|ca| ca.issue_client(&ClientName::CommonName("press 4".into()), days))
        .expect("a certificate");
    fixture
        .ask_tls(Some(foreign))
        .await
        .expect_err("a foreign authority");
    let text = page(&fixture);
    assert!(
        text.contains("tidegate_admin_handshakes_failed_total 3"),
        "{text}"
    );
}

#[tokio::test]
async fn nobody_acts_by_a_certificate_that_has_ended() {
    let now = Clock::start().now();
    let in_hours = |hours: u64| Clock::standing_at(Millis(now.0 + hours * 60 * 60 * 1_000));
    let asked = async |clock| {
        let fixture = fixture_at(clock).await;
        fixture
            .ask_tls(fixture.client("press 4", Validity::days(1)))
            .await
    };
    let answer = asked(in_hours(23)).await.expect("it holds for an hour");
    assert!(answer.ends_with("cn:press 4"), "{answer}");
    let answer = asked(in_hours(25)).await;
    assert!(answer.is_err() || answer == Ok(String::new()), "{answer:?}");
}

async fn silent(to: SocketAddr) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..5 * SHARES.connections_max {
        all.push(TcpStream::connect(to).await.expect("connected"));
    }
    all
}

async fn get_plain(to: SocketAddr, path: &str) -> String {
    let stream = TcpStream::connect(to).await.expect("connected");
    let answer = request(stream, &to.to_string(), path).await;
    answer.expect("an answer")
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let fixture = fixture().await;
    let _silent_tls = silent(fixture.tls).await;
    let answer = get_plain(fixture.plain, "/who").await;
    assert!(answer.ends_with("local"), "{answer}");
    let _silent = silent(fixture.plain).await;
    let answer = get_plain(fixture.plain, "/who").await;
    assert!(answer.ends_with("local"), "{answer}");
    let client = fixture.client("press 4", Validity::days(1));
    let answer = fixture.ask_tls(client).await.expect("an answer");
    assert!(answer.ends_with("cn:press 4"), "{answer}");
    let text = page(&fixture);
    assert!(!text.contains("connections_evicted_total 0"), "{text}");
    assert!(text.contains("connections_refused_total 0"), "{text}");
}

#[tokio::test]
async fn when_all_are_at_work_health_is_answered_and_the_rest_is_told_to_come_again() {
    let fixture = fixture().await;
    let mut working = Vec::new();
    for _ in 0..SHARES.connections_max {
        let plain = fixture.plain;
        working.push(tokio::spawn(async move { get_plain(plain, "/wait").await }));
    }
    let all = u32::try_from(SHARES.connections_max).expect("a few");
    drop(fixture.waiting.acquire_many(all).await.expect("not closed"));
    let _silent = silent(fixture.plain).await;
    let well = get_plain(fixture.plain, "/healthz").await;
    assert!(well.ends_with("well"), "{well}");
    let refused = get_plain(fixture.plain, "/who").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("overloaded"), "{refused}");
    assert!(working.iter().all(|request| !request.is_finished()));
}

#[tokio::test]
async fn shutdown_ends_idle_connections() {
    let fixture = fixture().await;
    let mut idle = TcpStream::connect(fixture.plain).await.expect("connected");
    fixture.shutdown.cancel();
    fixture.server.await.expect("it returns");
    let mut rest = Vec::new();
    let read = idle.read_to_end(&mut rest).await;
    assert!(read.is_err() || rest.is_empty());
}

#[tokio::test]
async fn plain_http_stays_on_loopback() {
    let open = "0.0.0.0:0".parse().expect("an address");
    assert!(matches!(
        Listeners::bind(Some(open), None).await,
        Err(BindError::NotLoopback(_))
    ));
}

// The body goes out whole before anything is read, as most clients do it.
async fn send_then_read(stream: &mut TcpStream, host: &str, bytes: usize) -> String {
    let head = format!("POST /refused HTTP/1.1\r\nHost: {host}\r\nContent-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("open");
    let chunk = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        stream.write_all(&chunk).await.expect("open");
    }
    let mut answer = Vec::new();
    while !answer.ends_with(b"refused") {
        let read = stream.read_buf(&mut answer).await.expect("an answer");
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn who_sends_megabytes_that_nobody_reads_gets_the_answer() {
    let fixture = fixture().await;
    let mut stream = TcpStream::connect(fixture.plain).await.expect("connected");
    let host = fixture.plain.to_string();
    for _ in 0..3 {
        let answer = send_then_read(&mut stream, &host, 48 << 20).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    let answer = request(stream, &host, "/who").await.expect("an answer");
    assert!(answer.ends_with("local"), "{answer}");
}

fn page(fixture: &Fixture) -> String {
    let families = fixture.metrics.families(&crate::auth::Policy::default());
    crate::telemetry::Metrics::default().page(families)
}
