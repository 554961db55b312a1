//! What there is without a broker: bytes over one QUIC stream on loopback, both ends in this process, and bytes onto the
//! disk, as a plain file and through the broker's journal alone.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_wire::stream::quic::send_window::SEND_WINDOW_BYTES_FREE;

use ::tidegate::disk::RealFileSystem;
use ::tidegate::domain::{BlockBuilder, Millis, Position, Sequence, TopicId};
use ::tidegate::net::NetOptions;
use ::tidegate::store::{self, StoreOptions};
use anyhow::Context;
use bytes::Bytes;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

const MIB: usize = 1 << 20;
/// Bytes handed to the stream at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of the file that is written again and again, preallocated: one journal file.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes that the journal alone is given at most; nothing is ever released from it.
const JOURNAL_BYTES_MAX: u64 = 4 << 30;
/// Load before anything counts.
const WARM_UP: Duration = Duration::from_millis(500);
/// Datagrams up to this size, when path MTU discovery may go so far.
const MTU_LARGE: u16 = 6_000;

/// What can be measured without a broker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// A stream with quinn's own settings.
    QuicDefault,
    /// The same, with path MTU discovery up to 6,000 bytes.
    QuicLarge,
    /// A stream with the windows, socket buffers and datagrams of the broker.
    QuicBroker,
    /// A file, synced after each MiB.
    File,
    /// The broker's journal, in groups of 1 MiB.
    Journal,
}

impl Limit {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::QuicDefault,
        Self::QuicLarge,
        Self::QuicBroker,
        Self::File,
        Self::Journal,
    ];

    /// Its name in the table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::QuicDefault => "quinn stream on loopback, as it comes",
            Self::QuicLarge => "quinn stream, MTU discovery to 6,000",
            Self::QuicBroker => "quinn stream, the broker's settings",
            Self::File => "file, fdatasync per MiB",
            Self::Journal => "journal alone, groups of 1 MiB",
        }
    }
}

/// Bytes per second that `limit` allows; files are below `directory`.
pub(crate) async fn measure(
    limit: Limit,
    directory: &Path,
    window: Duration,
) -> anyhow::Result<f64> {
    let directory = tempfile::Builder::new()
        .prefix("compare-limits-")
        .tempdir_in(directory)?;
    match limit {
        Limit::QuicDefault => stream(Settings::plain(1_452), window).await,
        Limit::QuicLarge => stream(Settings::plain(MTU_LARGE), window).await,
        Limit::QuicBroker => stream(Settings::broker(), window).await,
        Limit::File => tokio::task::spawn_blocking(move || file(directory.path(), window)).await?,
        Limit::Journal => {
            tokio::task::spawn_blocking(move || journal(directory.path(), window)).await?
        }
    }
}

/// Settings of both ends of a connection.
pub(crate) struct Settings {
    transport: Arc<TransportConfig>,
    datagram_bytes_max: u16,
    socket_buffer_bytes: Option<usize>,
}

impl Settings {
    fn plain(datagram_bytes_max: u16) -> Self {
        Self {
            transport: Arc::new(transport(datagram_bytes_max)),
            datagram_bytes_max,
            socket_buffer_bytes: None,
        }
    }

    /// Those of the broker.
    pub(crate) fn broker() -> Self {
        let options = NetOptions::default();
        let window = |bytes: usize| VarInt::try_from(bytes as u64).unwrap_or(VarInt::MAX);
        let (quic, stream_window_bytes) = (options.quic, options.sessions.stream_window_bytes());
        let mut transport = transport(quic.datagram_bytes_max());
        transport
            .stream_receive_window(window(stream_window_bytes))
            .receive_window(window(4 * stream_window_bytes))
            .send_window(SEND_WINDOW_BYTES_FREE);
        Self {
            transport: Arc::new(transport),
            datagram_bytes_max: quic.datagram_bytes_max(),
            socket_buffer_bytes: Some(quic.socket_buffer_bytes),
        }
    }

    /// For a server with this identity.
    pub(crate) fn server(
        &self,
        certificate: CertificateDer<'static>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> anyhow::Result<ServerConfig> {
        let mut server = ServerConfig::with_single_cert(vec![certificate], key.into())?;
        server.transport_config(Arc::clone(&self.transport));
        Ok(server)
    }

    /// For clients that trust this server.
    pub(crate) fn client(
        &self,
        certificate: CertificateDer<'static>,
    ) -> anyhow::Result<ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate)?;
        let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
        client.transport_config(Arc::clone(&self.transport));
        Ok(client)
    }

    /// An endpoint on a port of its own.
    pub(crate) fn endpoint(&self, server: Option<ServerConfig>) -> anyhow::Result<Endpoint> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        if let Some(bytes) = self.socket_buffer_bytes {
            let socket = socket2::SockRef::from(&socket);
            // The kernel may give less, as it does to the broker.
            let _ = socket.set_recv_buffer_size(bytes);
            let _ = socket.set_send_buffer_size(bytes);
        }
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(self.datagram_bytes_max.max(1_472))?;
        let runtime = Arc::new(TokioRuntime);
        Ok(Endpoint::new(config, server, socket, runtime)?)
    }
}

fn transport(datagram_bytes_max: u16) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(datagram_bytes_max);
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(Some(discovery));
    transport
}

async fn stream(settings: Settings, window: Duration) -> anyhow::Result<f64> {
    let identity = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let certificate = CertificateDer::from(identity.cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der());
    let client = settings.client(certificate.clone())?;
    let server = settings.server(certificate, key)?;
    let receiver = settings.endpoint(Some(server))?;
    let sender = settings.endpoint(None)?;

    let received = Arc::new(AtomicU64::new(0));
    let address = receiver.local_addr()?;
    let receiving = tokio::spawn(receive(receiver, Arc::clone(&received)));
    let connection = sender.connect_with(client, address, "localhost")?.await?;
    let mut stream = connection.open_uni().await?;
    let sending = tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
        while stream.write_chunk(chunk.clone()).await.is_ok() {}
    });
    tokio::time::sleep(WARM_UP).await;
    let (begin, before) = (Instant::now(), received.load(Ordering::Relaxed));
    tokio::time::sleep(window).await;
    let bytes = received.load(Ordering::Relaxed) - before;
    let rate = bytes as f64 / begin.elapsed().as_secs_f64();
    connection.close(VarInt::from_u32(0), b"done");
    sending.await?;
    receiving.await??;
    Ok(rate)
}

async fn receive(endpoint: Endpoint, received: Arc<AtomicU64>) -> anyhow::Result<()> {
    let incoming = endpoint.accept().await.context("no connection came")?;
    let connection = incoming.await?;
    let mut stream = connection.accept_uni().await?;
    // An error is how it ends: the sender closes the connection.
    while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
        received.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn file(directory: &Path, window: Duration) -> anyhow::Result<f64> {
    let mut file = File::create(directory.join("file"))?;
    // Written once, so that no write finds blocks that were never touched.
    file.write_all(&vec![0; FILE_BYTES as usize])?;
    file.sync_all()?;
    let data = vec![b'x'; MIB];
    let begin = Instant::now();
    let mut written = 0;
    while begin.elapsed() < window {
        file.write_all_at(&data, written % FILE_BYTES)?;
        file.sync_data()?;
        written += MIB as u64;
    }
    Ok(written as f64 / begin.elapsed().as_secs_f64())
}

fn journal(directory: &Path, window: Duration) -> anyhow::Result<f64> {
    let options = StoreOptions {
        journal_bytes_max: 2 * JOURNAL_BYTES_MAX,
        ..StoreOptions::default()
    };
    let mut journal = store::open(directory, options, Arc::new(RealFileSystem))?.journal;
    let event = vec![b'x'; 1_024];
    let mut position = journal.next_position();
    let begin = Instant::now();
    let mut written = 0;
    while begin.elapsed() < window && written < JOURNAL_BYTES_MAX {
        let mut blocks = Vec::new();
        let mut group_bytes = 0;
        while group_bytes < MIB {
            let mut builder = BlockBuilder::default();
            while builder.fits(event.len()) {
                builder.push(&event);
            }
            let count = builder.count();
            let sequence = Sequence(position.0);
            blocks.push(builder.finish(TopicId(1), position, sequence, Millis(0)));
            position = Position(position.0 + u64::from(count));
            group_bytes += count as usize * event.len();
        }
        journal.append(&[], &blocks)?;
        journal.sync()?;
        written += group_bytes as u64;
    }
    let rate = written as f64 / begin.elapsed().as_secs_f64();
    journal.close()?;
    Ok(rate)
}
