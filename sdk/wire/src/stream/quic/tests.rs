//! Connections over real sockets: what a peer that withholds its acknowledgements can make this end keep.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, TransportConfig};
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::send_window::{SEND_WINDOW_BYTES_FREE, SEND_WINDOW_BYTES_MAX, SendBudget};
use super::{Connection, QuicConnection, QuicReceive, QuicSend, ReceiveHalf, SendHalf};

const HANG: Duration = Duration::from_secs(60);
const SHARED: u64 = SEND_WINDOW_BYTES_MAX - SEND_WINDOW_BYTES_FREE;
const PING_EVERY: Duration = Duration::from_millis(20);

/// Whatever carries data is larger, and the probes for a larger MTU are; acknowledgements and PINGs are smaller.
const SMALL_DATAGRAM_BYTES: usize = 500;

/// A connection, seen from both ends, with a path between them on which what carries data to the peer may be lost: then the peer is one
/// that is heard and acknowledges none of it.
struct Connected {
    here: QuicConnection,
    peer: QuicConnection,
    _endpoints: [Endpoint; 2],
    withholds: Arc<AtomicBool>,
    path: JoinHandle<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.path.abort();
    }
}

fn transport() -> Arc<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(SEND_WINDOW_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(congestion))
        .stream_receive_window((2 * SEND_WINDOW_BYTES_MAX).try_into().unwrap())
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(HANG.try_into().unwrap()))
        .keep_alive_interval(Some(PING_EVERY));
    Arc::new(transport)
}

impl Connected {
    async fn new(budget: &Arc<SendBudget>) -> Self {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = own.cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport());
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listening = Endpoint::server(config, anywhere).unwrap();
        let withholds = Arc::new(AtomicBool::new(false));
        let (front, path) = path_to(listening.local_addr().unwrap(), withholds.clone()).await;

        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport());
        let connecting = Endpoint::client(anywhere).unwrap();
        let accept = async { listening.accept().await.unwrap().await.unwrap() };
        let connect = connecting.connect_with(config, front, "localhost").unwrap();
        let (here, peer) = tokio::join!(accept, connect);
        Self {
            here: QuicConnection::new(here, budget),
            peer: QuicConnection::new(peer.unwrap(), &SendBudget::new(0)),
            _endpoints: [listening, connecting],
            withholds,
            path,
        }
    }

    // A stream, on which a byte has come.
    async fn stream(&self) -> (QuicSend, QuicReceive) {
        let (mut send, _) = self.here.open().await.unwrap();
        send_all(&mut send, 1).await;
        let (_, mut receive) = self.peer.accept().await.unwrap();
        receive_all(&mut receive, 1).await;
        (send, receive)
    }

    fn heard(&self) -> u64 {
        self.here.traffic().heard
    }
}

// Carries datagrams to `broker` and back. Of what comes back only the small is carried while somebody `withholds`.
async fn path_to(broker: SocketAddr, withholds: Arc<AtomicBool>) -> (SocketAddr, JoinHandle<()>) {
    let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let behind = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    behind.connect(broker).await.unwrap();
    let address = front.local_addr().unwrap();
    let carrying = tokio::spawn(async move {
        let (mut there, mut back) = (vec![0; 65_527], vec![0; 65_527]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut there) => {
                    client = Some(from);
                    let _ = behind.send(&there[..length]).await;
                }
                Ok(length) = behind.recv(&mut back) => {
                    let is_lost = withholds.load(Ordering::Relaxed) && length > SMALL_DATAGRAM_BYTES;
                    if let Some(client) = client.filter(|_| !is_lost) {
                        let _ = front.send_to(&back[..length], client).await;
                    }
                }
            }
        }
    });
    (address, carrying)
}

async fn send_all(send: &mut QuicSend, bytes: usize) {
    let mut queue = VecDeque::from([Bytes::from(vec![7; bytes])]);
    while !queue.is_empty() {
        send.send(&mut queue).await.unwrap();
    }
}

async fn receive_all(receive: &mut QuicReceive, bytes: usize) {
    let mut buffer = bytes::BytesMut::new();
    while buffer.len() < bytes {
        assert_ne!(receive.receive(&mut buffer).await.unwrap(), 0);
    }
    assert_eq!(buffer, vec![7; bytes]);
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_peer_that_is_heard_and_acknowledges_nothing_keeps_its_part_of_what_is_shared() {
    let check = async {
        let budget = SendBudget::new(SHARED);
        let connected = Connected::new(&budget).await;
        let (mut send, mut receive) = connected.stream().await;
        assert_eq!(budget.left(), 0, "it has all that is shared");
        connected.withholds.store(true, Ordering::Relaxed);
        let bytes = 5 << 20;
        send_all(&mut send, bytes).await;
        for _ in 0..50 {
            let heard = connected.heard();
            budget.take_back_from_idle();
            assert_eq!(budget.left(), 0);
            until(|| connected.heard() > heard).await;
        }
        connected.withholds.store(false, Ordering::Relaxed);
        receive_all(&mut receive, bytes).await;
        // Once its acknowledgements have come.
        until(|| {
            budget.take_back_from_idle();
            budget.left() == SHARED
        })
        .await;
        // And what is written after that comes as well, in its order.
        send_all(&mut send, bytes).await;
        receive_all(&mut receive, bytes).await;
    };
    timeout(HANG, check).await.expect("it hangs");
}
