//! Publish and subscribe streams with a whole broker behind them, spoken to in bare frames.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::broker::{Broker, BrokerOptions, PluginQuotas, Readable};
use crate::disk::{File, FileSystem, Hold, RealFileSystem};
use crate::domain::{
    DeliveryPolicy, Millis, Principal, StartAt, SubscriptionInfo, SubscriptionSpec,
};
use crate::plugin::{PluginOptions, Plugins};
use crate::state::census::Quota;
use crate::store::{self, StoreOptions};
use tidegate_wire::pb::broker_to_consumer::Message as ToConsumer;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{publish_reply, subscribe_opened};

const MIB: u64 = 1 << 20;
const TOPICS_MAX: usize = 4;

struct Served {
    net: Net,
    broker: Broker,
    policy: Arc<Policy>,
    grants: Vec<Grant>,
    _dir: tempfile::TempDir,
}

impl Served {
    async fn start(change: impl FnOnce(&mut NetOptions)) -> Self {
        Self::start_on(Arc::new(RealFileSystem), change).await
    }

    async fn start_on(
        file_system: Arc<dyn FileSystem>,
        change: impl FnOnce(&mut NetOptions),
    ) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let options = StoreOptions {
            journal_file_bytes: MIB,
            journal_bytes_max: 16 * MIB,
            journal_reserve_bytes: 4 * MIB,
            ..StoreOptions::default()
        };
        let examined = store::examine(&dir.path().join("store"), options, file_system);
        let readable = Readable::of(examined.expect("opens"), 100);
        let cache_dir = dir.path().join("cache");
        let plugins = Plugins::start(PluginOptions {
            cache_dir,
            ..PluginOptions::default()
        });
        let topics = |pattern: &str| vec![pattern.parse().expect("valid")];
        let grant = |who: &str, pattern: &str| Grant {
            principals: vec![who.parse().expect("valid")],
            publish: topics(pattern),
            subscribe: topics(pattern),
            ..Grant::default()
        };
        let grants = vec![grant("dns:client.example", "orders.>"), grant("local", ">")];
        let policy = Arc::new(Policy::new(grants.clone()));
        let many = Quota {
            all: 1_000,
            principal: 1_000,
        };
        let few = Quota {
            all: TOPICS_MAX,
            principal: TOPICS_MAX,
        };
        let options = BrokerOptions {
            clock: crate::runtime::Clock::start(),
            metrics: crate::telemetry::Metrics::default(),
            plugins_dir: dir.path().join("plugins"),
            auto_create_topics: true,
            interval_ms: 100,
            tail_bytes: 4 << 20,
            checkpoint_bytes: 8 * MIB,
            checkpoint_blocks: 10_000,
            journal_bytes_max: 16 * MIB,
            producers_max: 100,
            topics: few,
            subscriptions: many,
            specification_bytes: Quota {
                all: 1 << 30,
                principal: 1 << 30,
            },
            plugins: PluginQuotas {
                versions: many,
                bytes: many,
            },
            subscription_patterns_max: 4,
            event_bytes_max: tidegate_wire::limits::EVENT_BYTES_MAX,
            policy: policy.clone(),
        };
        let broker = Broker::start(
            options,
            readable.expect("readable"),
            plugins.expect("starts"),
            &[],
        )
        .await
        .expect("starts");
        let net = Net::start_with(
            ClientAuth::Required,
            policy.clone(),
            Backend::Broker(broker.clone()),
            change,
        );
        Self {
            net,
            broker,
            policy,
            grants,
            _dir: dir,
        }
    }

    async fn subscription(&self, name: &str, topics: &str) {
        let spec = SubscriptionSpec {
            name: name.parse().expect("valid"),
            topics: vec![topics.parse().expect("valid")],
            filters: vec![],
            transforms: vec![],
            start: StartAt::New,
            delivery: DeliveryPolicy::default(),
            outputs: std::collections::BTreeMap::new(),
            owner: None,
            include_dead_letters: false,
            created: Millis(0),
            created_by: None,
        };
        self.broker
            .create_subscription(&Principal::local(), spec)
            .await
            .expect("created");
    }

    fn depth(&self, name: &str) -> u64 {
        self.broker.subscription(name).expect("exists").depth
    }
}

fn batch(correlation: u64, topic: &str, first_number: u64, payloads: &[&str]) -> Bytes {
    let event = |payload: &&str| {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        pb::Event {
            payload,
            ..pb::Event::default()
        }
        .encode_to_vec()
        .into()
    };
    frame(&pb::PublishBatch {
        correlation,
        topic: topic.to_owned(),
        first_number,
        resolved_through: 0,
        events: payloads.iter().map(event).collect(),
    })
}

struct Publishing {
    send: SendStream,
    recv: RecvStream,
    ready: pb::PublishReady,
}

impl Publishing {
    async fn open(client: &Client, producer_id: &[u8], epoch: u32) -> Self {
        let producer_id = Bytes::copy_from_slice(producer_id);
        let open_frame = open(stream_open::Kind::Publish(pb::PublishOpen {
            producer_id,
            epoch,
            counts_costs: true,
        }));
        let (send, mut recv) = client.send(&open_frame).await;
        let opened: pb::PublishOpened = read(&mut recv).await.expect("answered");
        match opened.result {
            Some(publish_opened::Result::Ready(ready)) => Self { send, recv, ready },
            other => panic!("{other:?}"),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.expect("written");
    }

    async fn reply(&mut self) -> Option<(u64, Result<pb::PublishAck, ErrorCode>)> {
        let reply: pb::PublishReply = tokio::time::timeout(HANG, read(&mut self.recv))
            .await
            .expect("in time")?;
        let result = match reply.result.expect("a result") {
            publish_reply::Result::Ack(ack) => Ok(ack),
            publish_reply::Result::Error(error) => Err(error.code()),
        };
        Some((reply.correlation, result))
    }

    async fn ack(&mut self) -> pb::PublishAck {
        let (correlation, result) = self.reply().await.expect("a reply");
        result.unwrap_or_else(|code| panic!("batch {correlation} refused: {code}"))
    }

    async fn refusal(&mut self) -> (u64, ErrorCode) {
        let (correlation, result) = self.reply().await.expect("a reply");
        (correlation, result.expect_err("refused"))
    }
}

struct Consuming {
    send: SendStream,
    recv: RecvStream,
}

impl Consuming {
    async fn open(client: &Client, subscription: &str, events: u64) -> Result<Self, ErrorCode> {
        let subscribe = pb::SubscribeOpen {
            subscription: subscription.to_owned(),
            credit_events: events,
            credit_bytes: 1 << 20,
            ..Default::default()
        };
        let (send, mut recv) = client
            .send(&open(stream_open::Kind::Subscribe(subscribe)))
            .await;
        let opened: pb::SubscribeOpened = read(&mut recv).await.expect("answered");
        match opened.result.expect("a result") {
            subscribe_opened::Result::Ready(ready) => {
                assert_eq!(ready.ack_deadline_ms, 30_000);
                Ok(Self { send, recv })
            }
            subscribe_opened::Result::Error(error) => Err(error.code()),
        }
    }

    async fn say(&mut self, command: Command) {
        let command = frame(&pb::ConsumerCommand {
            command: Some(command),
        });
        self.send.write_all(&command).await.expect("written");
    }

    async fn ack_confirmed(&mut self, position: u64) {
        let positions = Some(pb::Positions {
            first: vec![position],
            more: vec![0],
        });
        self.say(Command::Ack(pb::Ack {
            positions,
            confirm: 7,
        }))
        .await;
        match self.next().await {
            ToConsumer::Confirmed(confirmed) => assert_eq!(confirmed.confirm, [7]),
            other => panic!("{other:?}"),
        }
    }

    async fn next(&mut self) -> ToConsumer {
        let message: pb::BrokerToConsumer = tokio::time::timeout(HANG, read(&mut self.recv))
            .await
            .expect("in time")
            .expect("a message");
        message.message.expect("of a kind")
    }

    // Payloads and attempt of one event, and its position.
    async fn event(&mut self) -> (String, u32, u64) {
        match self.next().await {
            ToConsumer::Deliver(deliver) => {
                assert_eq!(deliver.events.len(), 1, "{deliver:?}");
                let event = pb::Event::decode(deliver.events[0].clone()).expect("an event");
                let payload = String::from_utf8(event.payload.to_vec()).expect("text");
                (payload, deliver.attempt, deliver.positions[0])
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_batch_that_waits_for_room_is_not_overtaken() {
    let served = Served::start(|_| {}).await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
    let read = || served.net.handle.stats.counts().bytes_in;
    let room = served.broker.take_publish_room(1_100).await;
    let before = read();
    // In one datagram: the broker has room for the others, but not for the first.
    let mut batches = batch(1, "orders.eu", 1, &["x".repeat(200).as_str()]).to_vec();
    for number in 2..=5 {
        batches.extend(batch(number, "orders.eu", number, &["fits"]));
    }
    publishing.write(&batches).await;
    while read() < before + batches.len() as u64 {
        tokio::task::yield_now().await;
    }
    drop(room);
    publishing
        .write(&batch(6, "orders.eu", 6, &["comes later"]))
        .await;
    for number in 1..=6 {
        let ack = publishing.ack().await;
        assert_eq!((ack.first_sequence, ack.duplicate), (number, false));
    }
}

#[tokio::test]
async fn batches_are_answered_and_a_resend_is_recognised() {
    let served = Served::start(|_| {}).await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
    assert_eq!(
        (publishing.ready.credit_bytes, publishing.ready.last_number),
        (8 << 20, 0)
    );
    publishing
        .write(&batch(1, "orders.eu", 1, &["a", "b"]))
        .await;
    let ack = publishing.ack().await;
    assert_eq!(
        (ack.first_sequence, ack.count, ack.duplicate, ack.unkept),
        (1, 2, false, true)
    );
    publishing.write(&batch(2, "invoices", 3, &["c"])).await;
    assert_eq!(publishing.refusal().await, (2, ErrorCode::PermissionDenied));
    publishing.write(&batch(3, "orders.eu", 3, &["d"])).await;
    assert_eq!(publishing.ack().await.first_sequence, 3);
    drop(publishing);
    let mut again = Publishing::open(&client, &[1; 16], 1).await;
    assert_eq!(again.ready.last_number, 3);
    again.write(&batch(1, "orders.eu", 1, &["a", "b"])).await;
    let ack = again.ack().await;
    assert_eq!((ack.first_sequence, ack.count, ack.duplicate), (1, 2, true));
    assert_eq!(served.net.handle.stats.counts().publish_streams_open, 1);
}

#[tokio::test]
async fn a_client_that_finishes_still_gets_its_answers() {
    let served = Served::start(|_| {}).await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    for correlation in 1..=20 {
        publishing
            .write(&batch(correlation, "orders.eu", 0, &["a"]))
            .await;
    }
    publishing.send.finish().expect("open");
    for _ in 0..20 {
        publishing.ack().await;
    }
    assert_eq!(publishing.reply().await, None);
    assert!(client.connection.close_reason().is_none());
}

#[tokio::test]
async fn a_taken_over_producer_is_told_and_ends() {
    let served = Served::start(|_| {}).await;
    let client = served.net.welcomed().await;
    let mut old = Publishing::open(&client, &[1; 16], 0).await;
    let _new = Publishing::open(&client, &[1; 16], 1).await;
    old.write(&batch(1, "orders.eu", 1, &["a"])).await;
    assert_eq!(old.refusal().await, (1, ErrorCode::ProducerFenced));
    assert_eq!(old.reply().await, None);
}

#[tokio::test]
async fn more_than_the_credit_ends_the_stream_and_only_that() {
    let served = Served::start(|options| options.publish_credit_batches = 1).await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let flood: Vec<u8> = (1..=300)
        .flat_map(|n| batch(n, "orders.eu", 0, &["a"]))
        .collect();
    publishing.write(&flood).await;
    loop {
        match publishing
            .reply()
            .await
            .expect("the refusal comes before the end")
        {
            (_, Ok(_)) => {}
            (correlation, Err(code)) => {
                assert_eq!((correlation, code), (0, ErrorCode::FlowControl));
                break;
            }
        }
    }
    assert_eq!(publishing.reply().await, None);
    let mut other = Publishing::open(&client, &[], 0).await;
    other.write(&batch(1, "orders.eu", 0, &["a"])).await;
    other.ack().await;
}

#[tokio::test]
async fn a_client_that_does_not_count_costs_gets_credit_for_fewer_batches() {
    let served = Served::start(|_| {}).await;
    let client = served.net.welcomed().await;
    let (_send, mut recv) = client.send(&publish()).await;
    let opened: pb::PublishOpened = read(&mut recv).await.expect("answered");
    let Some(publish_opened::Result::Ready(ready)) = opened.result else {
        panic!("{opened:?}");
    };
    assert_eq!((ready.credit_bytes, ready.credit_batches), (4 << 20, 63));
}

#[tokio::test]
async fn empty_events_cost_credit() {
    let served = Served::start(|_| {}).await;
    let _room = served.broker.take_publish_room(0).await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let empty = batch(1, "orders.eu", 0, &[""; 4_096]);
    let batches = 8 * (MIB as usize) / (1_024 + 4_096 * 16);
    publishing.write(&empty.repeat(batches)).await;
    publishing.write(&empty).await;
    // Nothing is answered meanwhile, so the last one is too much.
    assert_eq!(publishing.refusal().await, (0, ErrorCode::FlowControl));
    assert_eq!(publishing.reply().await, None);
}

#[tokio::test]
async fn a_message_that_does_not_come_whole_in_time_ends_its_stream_only() {
    let served = Served::start(|options| options.frame_timeout = Duration::from_millis(100)).await;
    served.subscription("s", "orders.>").await;
    let client = served.net.welcomed().await;
    let mut slow = Publishing::open(&client, &[], 0).await;
    let whole = batch(1, "orders.eu", 0, &["a"]);
    slow.write(&whole[..whole.len() - 1]).await;
    assert_eq!(slow.refusal().await, (0, ErrorCode::Overloaded));
    let mut consuming = Consuming::open(&client, "s", 1).await.expect("attached");
    consuming.send.write_all(&[9]).await.expect("written");
    match consuming.next().await {
        ToConsumer::Error(error) => assert_eq!(error.code(), ErrorCode::Overloaded),
        other => panic!("{other:?}"),
    }
    let mut other = Publishing::open(&client, &[], 0).await;
    other.write(&whole).await;
    other.ack().await;
}

#[tokio::test]
async fn large_messages_of_one_connection_take_turns() {
    let served = Served::start(|options| {
        options.publish_credit_bytes = 32 << 10;
        options.publish_credit_total_bytes = 1 << 20;
    })
    .await;
    let client = served.net.welcomed().await;
    let mut first = Publishing::open(&client, &[], 0).await;
    let mut second = Publishing::open(&client, &[], 0).await;
    assert_eq!(first.ready.credit_bytes, 32 << 10);
    // Beyond its credit this takes all that one connection may have: a sixteenth of what all have.
    let large = batch(1, "orders.eu", 0, &["x".repeat(95 << 10).as_str()]);
    let read = || served.net.handle.stats.counts().bytes_in;
    let before = read();
    let half = large.len() / 2;
    first.write(&large[..half]).await;
    while read() < before + half as u64 {
        tokio::task::yield_now().await;
    }
    let waiting = tokio::spawn(async move {
        second.write(&large_of_another()).await;
        second.ack().await.first_sequence
    });
    // The second is whole before the first is, and yet has to wait for it.
    while read() < before + half as u64 + 1 {
        tokio::task::yield_now().await;
    }
    first.write(&large[half..]).await;
    assert_eq!(first.ack().await.first_sequence, 1);
    assert_eq!(waiting.await.expect("no panic"), 2);
}

fn large_of_another() -> Bytes {
    batch(1, "orders.eu", 0, &["y".repeat(95 << 10).as_str()])
}

#[tokio::test]
async fn what_gathers_while_the_disk_stands_still_is_not_written_as_one_group() {
    let disk = Arc::new(Disk::default());
    let served = Served::start_on(disk.clone(), |_| {}).await;
    let client = served.net.welcomed().await;
    let empty = |correlation| batch(correlation, "orders.eu", 0, &[""; 4_096]);
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(Publishing::open(&client, &[], 0).await);
    }
    disk.stall();
    streams[0].write(&empty(0)).await;
    disk.until_somebody_waits().await;
    let before = served.net.handle.stats.counts().bytes_in;
    let batches = 70;
    let mut sent = 0;
    for stream in &mut streams {
        for correlation in 1..=batches {
            let batch = empty(correlation);
            sent += batch.len() as u64;
            stream.write(&batch).await;
        }
    }
    while served.net.handle.stats.counts().bytes_in < before + sent {
        tokio::task::yield_now().await;
    }
    disk.go_on();
    streams[0].ack().await;
    for stream in &mut streams {
        for _ in 0..batches {
            stream.ack().await;
        }
    }
    let longest = disk.longest_write();
    assert!(
        longest < MIB as usize,
        "{sent} bytes waited, {longest} were written at once"
    );
}

/// A disk whose syncs can be held up, and that remembers its longest write.
#[derive(Default)]
struct Disk {
    state: Arc<DiskState>,
}

#[derive(Default)]
struct DiskState {
    stalled: Mutex<bool>,
    goes_on: std::sync::Condvar,
    waiting: AtomicUsize,
    longest: AtomicUsize,
}

impl Disk {
    fn stall(&self) {
        *self.state.stalled.lock().expect("not poisoned") = true;
    }

    async fn until_somebody_waits(&self) {
        while self.state.waiting.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn go_on(&self) {
        *self.state.stalled.lock().expect("not poisoned") = false;
        self.state.goes_on.notify_all();
    }

    fn longest_write(&self) -> usize {
        self.state.longest.load(Ordering::Relaxed)
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        let state = self.state.clone();
        Arc::new(DiskFile { file, state })
    }
}

impl FileSystem for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealFileSystem.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealFileSystem.open(path).map(|file| self.wrap(file))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealFileSystem.create(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFileSystem.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.sync_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        RealFileSystem.lock(path)
    }
}

struct DiskFile {
    file: Arc<dyn File>,
    state: Arc<DiskState>,
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state.longest.fetch_max(bytes.len(), Ordering::Relaxed);
        self.file.write_blocks_at(bytes, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
    fn sync(&self) -> io::Result<()> {
        let stalled = self.state.stalled.lock().expect("not poisoned");
        self.state
            .waiting
            .fetch_add(usize::from(*stalled), Ordering::Relaxed);
        let held = self.state.goes_on.wait_while(stalled, |stalled| *stalled);
        drop(held.expect("not poisoned"));
        self.file.sync()
    }
}

#[tokio::test]
async fn events_are_delivered_acked_and_given_back() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    publishing
        .write(&batch(1, "orders.eu", 0, &["a", "b"]))
        .await;
    assert!(!publishing.ack().await.unkept);
    // Credit for one event, then for another.
    let mut first = Consuming::open(&client, "s", 1).await.expect("attached");
    let (payload, attempt, position) = first.event().await;
    assert_eq!((payload.as_str(), attempt), ("a", 1));
    first.ack_confirmed(position).await;
    first
        .say(Command::Credit(pb::Credit {
            events: 1,
            bytes: 0,
            ..Default::default()
        }))
        .await;
    assert_eq!(first.event().await.0, "b");
    // Not acked: whoever comes next gets it, as soon as this one is gone.
    first.send.reset(0u32.into()).expect("open");
    let mut second = Consuming::open(&client, "s", 10).await.expect("attached");
    let (payload, _, position) = second.event().await;
    assert_eq!(payload, "b");
    second.ack_confirmed(position).await;
    assert_eq!(served.depth("s"), 0);
}

#[tokio::test]
async fn a_consumer_needs_a_subscription_and_the_right() {
    let served = Served::start(|_| {}).await;
    served.subscription("theirs", "invoices").await;
    let client = served.net.welcomed().await;
    let check = async |name: &str, code| {
        assert_eq!(
            Consuming::open(&client, name, 1).await.err(),
            Some(code),
            "{name}"
        );
    };
    check("theirs", ErrorCode::PermissionDenied).await;
    check("nobodys", ErrorCode::PermissionDenied).await;
    assert_eq!(
        served
            .broker
            .subscription("theirs")
            .expect("exists")
            .consumers,
        0
    );
}

#[tokio::test]
async fn a_malformed_command_closes_the_connection_and_gives_back() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    publishing.write(&batch(1, "orders.eu", 0, &["a"])).await;
    publishing.ack().await;
    let mut consuming = Consuming::open(&client, "s", 1).await.expect("attached");
    consuming.event().await;
    consuming
        .send
        .write_all(&[3, 0xff, 0xff, 0xff])
        .await
        .expect("written");
    match consuming.next().await {
        ToConsumer::Error(error) => assert_eq!(error.code(), ErrorCode::Malformed),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
    let other = served.net.welcomed().await;
    let mut consuming = Consuming::open(&other, "s", 1).await.expect("attached");
    assert_eq!(consuming.event().await.0, "a");
}

#[tokio::test]
async fn who_does_not_read_can_still_ack() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.net.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 1_000_000)
        .await
        .expect("attached");
    consuming
        .say(Command::Credit(pb::Credit {
            events: 0,
            bytes: 1 << 40,
            ..Default::default()
        }))
        .await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    // More than the stream's window takes, and none of it is read.
    let large = "x".repeat(100_000);
    for correlation in 1..=40 {
        publishing
            .write(&batch(correlation, "orders.eu", 0, &[&large]))
            .await;
        publishing.ack().await;
    }
    let positions = Some(pb::Positions {
        first: vec![1],
        more: vec![4],
    });
    consuming
        .say(Command::Ack(pb::Ack {
            positions,
            confirm: 0,
        }))
        .await;
    let acked = async {
        while served.depth("s") != 35 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(HANG, acked)
        .await
        .expect("acked while nothing was read");
}

#[tokio::test]
async fn what_was_never_sent_counts_nothing_when_the_connection_is_lost() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let large = "x".repeat(100_000);
    for correlation in 1..=14 {
        let events = batch(correlation, "orders.eu", 0, &[&large]);
        publishing.write(&events).await;
        publishing.ack().await;
    }
    // Six are taken at once. It reads none of them, so the next six wait behind them.
    let unread = served.net.welcomed_narrow(16 * 1024).await;
    let subscribe = pb::SubscribeOpen {
        subscription: "s".to_owned(),
        credit_events: 14,
        credit_bytes: 1 << 30,
        ..Default::default()
    };
    let subscribe = open(stream_open::Kind::Subscribe(subscribe));
    let _streams = unread.send(&subscribe).await;
    let holds = async |count: u64| {
        let held = || served.broker.subscription("s").expect("exists").in_flight;
        let holding = async {
            while held() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(HANG, holding).await.expect("in time");
    };
    holds(12).await;
    unread.connection.close(0u32.into(), b"");
    holds(0).await;
    let mut second = Consuming::open(&client, "s", 1).await.expect("attached");
    let mut attempts = std::collections::BTreeMap::new();
    while attempts.len() < 14 {
        let (_, attempt, position) = second.event().await;
        attempts.insert(position, attempt);
        second.ack_confirmed(position).await;
        let more = pb::Credit {
            events: 1,
            bytes: 200_000,
            ..Default::default()
        };
        second.say(Command::Credit(more)).await;
    }
    let attempts: Vec<_> = attempts.into_values().collect();
    assert_eq!(attempts[..6], [2; 6], "sent, and it does not say more");
    assert_eq!(attempts[6..], [1; 8]);
}

#[tokio::test]
async fn a_topic_too_many_is_refused_alone() {
    let served = Served::start(|_| {}).await;
    let client = served.net.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    for number in 1..=TOPICS_MAX as u64 {
        let topic = format!("orders.number{number}");
        publishing.write(&batch(number, &topic, 0, &["a"])).await;
        publishing.ack().await;
    }
    publishing.write(&batch(90, "orders.more", 0, &["a"])).await;
    let refused = publishing.refusal().await;
    assert_eq!(refused, (90, ErrorCode::LimitReached));
    // The stream goes on, and so does what exists.
    publishing
        .write(&batch(91, "orders.number1", 0, &["a"]))
        .await;
    publishing.ack().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_is_under_way() {
    let served = Served::start(|options| options.shutdown_acks = Duration::from_millis(50)).await;
    served.subscription("s", "orders.>").await;
    let client = served.net.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("attached");
    let mut publishing = Publishing::open(&client, &[], 0).await;
    publishing.write(&batch(1, "orders.eu", 0, &["a"])).await;
    publishing.ack().await;
    consuming.event().await;
    served.net.shutdown.cancel();
    assert_eq!(publishing.reply().await, None);
    match consuming.next().await {
        ToConsumer::Error(error) => assert_eq!(error.code(), ErrorCode::ShuttingDown),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    // It was never acked.
    assert_eq!(served.depth("s"), 1);
    tokio::time::timeout(HANG, served.net.handle.stopped())
        .await
        .expect("stops in time");
}

#[tokio::test]
async fn other_grants_stop_and_start_what_runs() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    served.subscription("copies", "copies").await;
    let route =
        serde_json::json!({"name": "route", "topics": ["orders.>"], "outputs": {"out": "copies"}});
    let route = serde_json::from_value(route).expect("a specification");
    let local = Principal::local();
    let created = served.broker.create_subscription(&local, route).await;
    created.expect("created");
    let client = served.net.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("granted");
    let mut publishing = Publishing::open(&client, &[], 0).await;
    publishing.write(&batch(1, "orders.eu", 0, &["one"])).await;
    publishing.ack().await;
    let (payload, _, position) = consuming.event().await;
    assert_eq!(payload, "one");
    consuming.ack_confirmed(position).await;
    let until = async |name: &str, wanted: fn(&SubscriptionInfo) -> bool| {
        while !wanted(&served.broker.subscription(name).expect("exists")) {
            tokio::task::yield_now().await;
        }
    };
    until("copies", |info| info.depth == 1).await;

    // Nothing but publishing is left.
    let mut grants = served.grants.clone();
    grants.pop();
    grants[0].subscribe.clear();
    served.policy.reload(grants);
    match consuming.next().await {
        ToConsumer::Error(error) => assert_eq!(error.code(), ErrorCode::PermissionDenied),
        other => panic!("{other:?}"),
    }
    publishing.write(&batch(2, "orders.eu", 0, &["two"])).await;
    publishing.ack().await;
    until("route", |info| info.stopped.is_some() && info.depth == 1).await;
    assert_eq!(served.depth("copies"), 1);
    let mut elsewhere = served.grants.clone();
    elsewhere[0].publish = vec!["elsewhere".parse().expect("a pattern")];
    served.policy.reload(elsewhere);
    publishing.write(&batch(3, "orders.eu", 0, &["no"])).await;
    assert_eq!(publishing.refusal().await, (3, ErrorCode::PermissionDenied));
    // Who may publish nothing at all has no stream any more.
    served.policy.reload(Vec::new());
    assert_eq!(publishing.refusal().await, (0, ErrorCode::PermissionDenied));

    served.policy.reload(served.grants.clone());
    until("copies", |info| info.depth == 2).await;
    let mut consuming = Consuming::open(&client, "s", 10)
        .await
        .expect("granted again");
    assert_eq!(consuming.event().await.0, "two");
}
