//! The floor: no broker at all. A process of this program that passes on over QUIC what publishers send to whoever
//! consumes, without topics, subscriptions, filters, state or acks. It uses the broker's settings of QUIC and as many
//! threads, and if it is told to, it writes everything to the broker's journal first and syncs it, what came meanwhile together. A
//! broker made of these parts cannot be faster; what Tidegate takes beyond it is what Tidegate does.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};

use ::tidegate::disk::RealFileSystem;
use ::tidegate::domain::{Block, BlockBuilder, Millis, Position, Sequence, TopicId};
use ::tidegate::store::{self, JournalWriter};
use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tidegate_tests::{bytes_under, wait_for};
use tokio::sync::{mpsc, oneshot};

use crate::broker::{self, Kind};
use crate::limits::Settings;

/// First word of the command line of the process.
pub(crate) const COMMAND: &str = "relay";
/// Its third word, when it is to keep what it passes on.
const KEEP: &str = "keep";
/// First byte of a stream: what the client is.
const PUBLISHER: u8 = b'p';
const CONSUMER: u8 = b'c';
/// Bytes of the length before each message, and of the number of answered messages.
const LENGTH_BYTES: usize = 4;
/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Reads of publishers that are passed on at a time.
const READS_MAX: usize = 1_024;

// ── the process ─────────────────────────────────────────────────────────────────────────────────────────────

/// Runs the process, until it is killed: `relay DIRECTORY [keep]`.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let served = match arguments {
        [directory] => serve(Path::new(directory), false),
        [directory, keep] if keep == KEEP => serve(Path::new(directory), true),
        _ => Err(anyhow::anyhow!("this is started by `compare` itself")),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Messages of one read of a publisher, and who is told when they are passed on.
struct Received {
    messages: Bytes,
    count: u32,
    answer: mpsc::UnboundedSender<u32>,
}

/// Where messages go.
#[derive(Clone, Default)]
struct Consumers {
    streams: Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>>,
}

impl Consumers {
    fn pass_on(&self, received: Received) {
        lock(&self.streams).retain(|stream| stream.send(received.messages.clone()).is_ok());
        // The publisher may be gone.
        let _ = received.answer.send(received.count);
    }
}

fn serve(directory: &Path, keeps: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(::tidegate::cli::broker_threads())
        .enable_all()
        .build()?;
    let consumers = Consumers::default();
    let journal = match keeps {
        true => Some(keep(directory, consumers.clone())?),
        false => None,
    };
    runtime.block_on(accept(directory, consumers, journal))
}

async fn accept(
    directory: &Path,
    consumers: Consumers,
    journal: Option<blocking::Sender<Received>>,
) -> anyhow::Result<()> {
    let read = |name: &str| fs::read(directory.join(name));
    let certificate = CertificateDer::from(read("certificate.der")?);
    let key = PrivatePkcs8KeyDer::from(read("key.der")?);
    let settings = Settings::broker();
    let endpoint = settings.endpoint(Some(settings.server(certificate, key)?))?;
    // Written aside, so that nobody reads half of it.
    let port = directory.join("port");
    let aside = directory.join("port.new");
    fs::write(&aside, endpoint.local_addr()?.port().to_string())?;
    fs::rename(aside, port)?;
    while let Some(incoming) = endpoint.accept().await {
        let (consumers, journal) = (consumers.clone(), journal.clone());
        tokio::spawn(async move {
            // A client that goes is none of its business.
            let _ = serve_client(incoming, consumers, journal).await;
        });
    }
    Ok(())
}

async fn serve_client(
    incoming: quinn::Incoming,
    consumers: Consumers,
    journal: Option<blocking::Sender<Received>>,
) -> anyhow::Result<()> {
    let connection = incoming.await?;
    let (send, mut recv) = connection.accept_bi().await?;
    let mut kind = [0];
    recv.read_exact(&mut kind).await?;
    match kind[0] {
        CONSUMER => {
            let (stream, messages) = mpsc::unbounded_channel();
            lock(&consumers.streams).push(stream);
            consume(send, messages).await
        }
        PUBLISHER => {
            let (answer, answers) = mpsc::unbounded_channel();
            let answering = tokio::spawn(answer_all(send, answers));
            let mut messages = Messages::new(recv);
            while let Some((messages, count)) = messages.next().await? {
                let received = Received {
                    messages,
                    count,
                    answer: answer.clone(),
                };
                match &journal {
                    Some(journal) => journal.send(received).context("the journal failed")?,
                    None => consumers.pass_on(received),
                }
            }
            drop(answer);
            answering.await?
        }
        other => bail!("a client of kind {other}"),
    }
}

async fn consume(
    mut send: SendStream,
    mut messages: mpsc::UnboundedReceiver<Bytes>,
) -> anyhow::Result<()> {
    let mut ready = Vec::new();
    while messages.recv_many(&mut ready, READS_MAX).await > 0 {
        send.write_all_chunks(&mut ready).await?;
        ready.clear();
    }
    Ok(())
}

async fn answer_all(
    mut send: SendStream,
    mut answers: mpsc::UnboundedReceiver<u32>,
) -> anyhow::Result<()> {
    while let Some(mut count) = answers.recv().await {
        while let Ok(more) = answers.try_recv() {
            count += more;
        }
        send.write_all(&count.to_be_bytes()).await?;
    }
    Ok(())
}

// Starts the thread that writes to the journal, which passes on what is synced.
fn keep(directory: &Path, consumers: Consumers) -> anyhow::Result<blocking::Sender<Received>> {
    let options = store::StoreOptions::default();
    let data = directory.join("data");
    fs::create_dir(&data)?;
    let mut journal = store::open(&data, options, Arc::new(RealFileSystem))?.journal;
    let (sender, receiver) = blocking::channel();
    std::thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            let group: Vec<Received> = std::iter::once(first).chain(receiver.try_iter()).collect();
            if let Err(error) = write(&mut *journal, &group) {
                eprintln!("error: {error:#}");
                return;
            }
            for received in group {
                consumers.pass_on(received);
            }
        }
    });
    Ok(sender)
}

fn write(journal: &mut dyn JournalWriter, group: &[Received]) -> anyhow::Result<()> {
    let mut position = journal.next_position();
    let mut blocks = Vec::new();
    let mut builder = BlockBuilder::default();
    for message in group.iter().flat_map(|received| each(&received.messages)) {
        if !builder.fits(message.len()) {
            blocks.push(finish(&mut builder, &mut position));
        }
        builder.push(message);
    }
    blocks.push(finish(&mut builder, &mut position));
    let bytes = journal.group_bytes(&[], &blocks)?;
    journal.make_room(bytes)?;
    journal.append(&[], &blocks)?;
    journal.sync()?;
    Ok(())
}

fn finish(builder: &mut BlockBuilder, position: &mut Position) -> Block {
    let builder = std::mem::take(builder);
    let (first, sequence) = (*position, Sequence(position.0));
    position.0 += u64::from(builder.count());
    builder.finish(TopicId(1), first, sequence, Millis(0))
}

// The messages in bytes that hold whole ones.
fn each(mut messages: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = whole(messages)?;
        let (message, rest) = messages.split_at(length);
        messages = rest;
        Some(&message[LENGTH_BYTES..])
    })
}

// Bytes of the first message with its length, if all of it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = bytes
        .first_chunk()
        .map(|length| u32::from_be_bytes(*length))?;
    let length = LENGTH_BYTES + length as usize;
    (bytes.len() >= length).then_some(length)
}

/// Messages as they come on a stream.
struct Messages {
    recv: RecvStream,
    unread: BytesMut,
}

impl Messages {
    fn new(recv: RecvStream) -> Self {
        let unread = BytesMut::new();
        Self { recv, unread }
    }

    // All whole messages that are there, and how many; waits for the first. Cancel-safe.
    async fn next(&mut self) -> anyhow::Result<Option<(Bytes, u32)>> {
        loop {
            let (mut bytes, mut count) = (0, 0);
            while let Some(length) = whole(&self.unread[bytes..]) {
                bytes += length;
                count += 1;
            }
            if count > 0 {
                return Ok(Some((self.unread.split_to(bytes).freeze(), count)));
            }
            let Some(chunk) = self.recv.read_chunk(CHUNK_BYTES, true).await? else {
                return Ok(None);
            };
            self.unread.extend_from_slice(&chunk.bytes);
        }
    }
}

// ── its clients ─────────────────────────────────────────────────────────────────────────────────────────────

/// A running relay on a fresh directory. Dropping it kills the process and removes the directory.
pub(crate) struct Relay {
    child: Child,
    address: SocketAddr,
    client: ClientConfig,
    directory: TempDir,
}

impl Relay {
    pub(crate) async fn start(kind: Kind, parent: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("compare-relay-")
            .tempdir_in(parent)?;
        let identity = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let file = |name: &str| directory.path().join(name);
        fs::write(file("certificate.der"), identity.cert.der())?;
        fs::write(file("key.der"), identity.signing_key.serialize_der())?;
        let client = Settings::broker().client(identity.cert.der().clone())?;

        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg(directory.path());
        if kind == Kind::BareQuinnJournal {
            command.arg(KEEP);
        }
        let child = command.stdin(Stdio::null()).spawn()?;
        let mut relay = Self {
            child,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            client,
            directory,
        };
        let port = relay.directory.path().join("port");
        let port = wait_for("the relay to be ready", async || {
            if let Some(status) = relay.child.try_wait()? {
                bail!("the relay ended: {status}");
            }
            Ok(fs::read_to_string(&port).ok())
        });
        relay.address.set_port(port.await?.parse()?);
        Ok(relay)
    }

    pub(crate) async fn publisher(&self) -> anyhow::Result<broker::Publisher> {
        let (connected, send, recv) = self.open(PUBLISHER).await?;
        let waiting = Arc::<Mutex<VecDeque<_>>>::default();
        tokio::spawn(take_answers(recv, waiting.clone()));
        Ok(broker::Publisher::Relay(Box::new(Publisher {
            send: tokio::sync::Mutex::new(send),
            waiting,
            _connected: connected,
        })))
    }

    pub(crate) async fn consumer(&self) -> anyhow::Result<broker::Consumer> {
        let (connected, _, recv) = self.open(CONSUMER).await?;
        Ok(broker::Consumer::Relay(Box::new(Consumer {
            messages: Messages::new(recv),
            ready: Bytes::new(),
            _connected: connected,
        })))
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        bytes_under(&self.directory.path().join("data"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn open(&self, kind: u8) -> anyhow::Result<(Connected, SendStream, RecvStream)> {
        // On a socket of its own, like a client of a broker.
        let endpoint = Settings::broker().endpoint(None)?;
        let connecting = endpoint.connect_with(self.client.clone(), self.address, "localhost")?;
        let connection = connecting.await?;
        let (mut send, recv) = connection.open_bi().await?;
        send.write_all(&[kind]).await?;
        let connected = Connected {
            _connection: connection,
            _endpoint: endpoint,
        };
        Ok((connected, send, recv))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Nothing to do about an error: it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps a connection open.
struct Connected {
    _connection: Connection,
    _endpoint: Endpoint,
}

/// Resolves when the relay has passed a message on.
pub(crate) type Ticket = oneshot::Receiver<()>;

/// Sends to the relay.
pub(crate) struct Publisher {
    send: tokio::sync::Mutex<SendStream>,
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
    _connected: Connected,
}

impl Publisher {
    pub(crate) async fn send(&self, payload: &[u8]) -> anyhow::Result<Ticket> {
        let mut message = BytesMut::with_capacity(LENGTH_BYTES + payload.len());
        message.put_u32(u32::try_from(payload.len())?);
        message.put_slice(payload);
        let (sender, ticket) = oneshot::channel();
        let mut send = self.send.lock().await;
        lock(&self.waiting).push_back(sender);
        send.write_chunk(message.freeze()).await?;
        Ok(ticket)
    }
}

// Until the connection ends; whoever still waits then is told by his ticket.
async fn take_answers(mut recv: RecvStream, waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>) {
    let mut count = [0; LENGTH_BYTES];
    while recv.read_exact(&mut count).await.is_ok() {
        let count = u32::from_be_bytes(count) as usize;
        let mut waiting = lock(&waiting);
        let count = count.min(waiting.len());
        for answered in waiting.drain(..count) {
            let _ = answered.send(());
        }
    }
    lock(&waiting).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what the relay passes on.
pub(crate) struct Consumer {
    messages: Messages,
    ready: Bytes,
    _connected: Connected,
}

impl Consumer {
    /// The next message. Cancel-safe.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Bytes> {
        if self.ready.is_empty() {
            let messages = self.messages.next().await?;
            (self.ready, _) = messages.context("the relay ended")?;
        }
        let length = whole(&self.ready).context("a message is cut")?;
        let mut message = self.ready.split_to(length);
        ensure!(message.len() > LENGTH_BYTES, "an empty message");
        message.advance(LENGTH_BYTES);
        Ok(message)
    }
}
