//! A whole broker for tests, with a disk that fails when a test says so, and a publish stream to it. Waits are for a state, and a
//! test that waits for long has failed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::broker::*;
use crate::disk::RealFileSystem;
use crate::domain::{
    Durability, EncodedEvents, Principal, ProducerId, SubscriptionInfo, TopicId, TopicSpec,
};
use crate::plugin::{PluginLimits, PluginOptions, Plugins};
use crate::store::tests::faulty_disk::FaultyFileSystem;
use crate::store::{self, OpenError, StoreOptions};
use crate::telemetry::{Condition, Metrics};

pub(super) const MIB: u64 = 1 << 20;
/// Long enough for any machine; a test that waits this long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A plugin of this name may run so long that others are certain to be done meanwhile.
pub(super) const SLOW: &str = "slow";

pub(super) struct Fixture {
    pub(super) broker: Broker,
    pub(super) metrics: Metrics,
    pub(super) fs: FaultyFileSystem,
    pub(super) dir: TempDir,
}

// The store in a data directory, looked at.
pub(super) async fn examined(
    dir: &Path,
    accept_loss: bool,
    fs: FaultyFileSystem,
) -> store::Examined {
    let options = StoreOptions {
        journal_file_bytes: MIB,
        journal_bytes_max: 4 * MIB,
        journal_reserve_bytes: MIB,
        accept_loss,
        // Whoever reads what is not in the tail reads from the disk.
        cache_bytes: 1,
        ..StoreOptions::default()
    };
    loop {
        let store = dir.join("store");
        match store::examine(&store, options.clone(), Arc::new(fs.clone())) {
            // Whoever has it still is about to end.
            Err(OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            examined => break examined.expect("opens"),
        }
    }
}

/// A broker with small limits on a store that was read; its plugins are in a folder.
pub(super) async fn broker_on(
    readable: RecoveredStore,
    dir: &Path,
    tail_bytes: usize,
    bundled: &[crate::plugin::bundled::BundledPlugin],
    metrics: &Metrics,
) -> Broker {
    let started = start_on(readable, dir, tail_bytes, bundled, metrics).await;
    started.expect("starts")
}

/// The same, which may be refused.
pub(super) async fn start_on(
    readable: RecoveredStore,
    dir: &Path,
    tail_bytes: usize,
    bundled: &[crate::plugin::bundled::BundledPlugin],
    metrics: &Metrics,
) -> Result<Broker, StartError> {
    let slow = PluginLimits {
        call_base: Duration::from_millis(300),
        ..PluginLimits::default()
    };
    let patient = PluginLimits {
        call_base: PATIENCE,
        ..PluginLimits::default()
    };
    let plugins = Plugins::start(PluginOptions {
        cache_dir: dir.join("cache"),
        overrides: [
            (SLOW.to_owned(), slow),
            // No call of it may fail for want of a processor.
            ("event-pattern".to_owned(), patient),
        ]
        .into(),
        // How many instances there are must not hang on how long the machine takes for a batch.
        replica_part_min: Duration::from_secs(3_600),
        ..PluginOptions::default()
    });
    let many = crate::state::quotas::Quota {
        all: 1_000,
        principal: 1_000,
    };
    let options = BrokerOptions {
        clock: crate::runtime::Clock::start(),
        metrics: metrics.clone(),
        file_system: Arc::new(RealFileSystem),
        plugins_dir: dir.join("plugins"),
        auto_create_topics: true,
        recreate_after_ms: 0,
        interval_ms: 100,
        tail_bytes,
        checkpoint_at: CheckpointDue {
            bytes: MIB,
            blocks: 10_000,
        },
        journal_bytes_max: 4 * MIB,
        producers_max: 100,
        topics: many,
        subscriptions: many,
        specification_bytes: crate::state::quotas::Quota {
            all: 1 << 30,
            principal: 1 << 30,
        },
        plugins: PluginQuotas {
            versions: many,
            bytes: crate::state::quotas::Quota {
                all: 1 << 30,
                principal: 1 << 30,
            },
        },
        subscription_patterns_max: 4,
        event_bytes_max: crate::domain::EVENT_BYTES_MAX,
        delivery_bytes_max: crate::domain::EVENT_BYTES_MAX,
        policy: crate::auth::Policy::of_local(),
    };
    let plugins = plugins.expect("starts");
    Broker::start(options, readable, plugins, bundled).await
}

impl Fixture {
    pub(super) async fn start(tail_bytes: usize) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), tail_bytes, false).await
    }

    // Stops, lets `change` do something to the store's folder, and starts again with losses accepted.
    pub(super) async fn start_after(self, change: impl FnOnce(&Path)) -> Self {
        self.broker.shutdown().await;
        let Self { broker, dir, .. } = self;
        drop(broker);
        change(&dir.path().join("store"));
        Self::start_in(dir, 1 << 20, true).await
    }

    pub(super) async fn start_in(dir: TempDir, tail_bytes: usize, accept_loss: bool) -> Self {
        Self::start_with(dir, tail_bytes, accept_loss, &[]).await
    }

    pub(super) async fn start_with(
        dir: TempDir,
        tail_bytes: usize,
        accept_loss: bool,
        bundled: &[crate::plugin::bundled::BundledPlugin],
    ) -> Self {
        let fs = FaultyFileSystem::default();
        let examined = examined(dir.path(), accept_loss, fs.clone()).await;
        let readable = RecoveredStore::of(examined, 100).expect("readable");
        let metrics = Metrics::default();
        let broker = broker_on(readable, dir.path(), tail_bytes, bundled, &metrics).await;
        Self {
            broker,
            metrics,
            fs,
            dir,
        }
    }

    pub(super) async fn publisher(&self) -> Stream {
        self.open(None).await.expect("opens")
    }

    // A publisher whose resends are recognised.
    pub(super) async fn numbered_publisher(&self, epoch: u32) -> Stream {
        let producer = Some((ProducerId(7), epoch));
        self.open(producer).await.expect("opens")
    }

    pub(super) async fn open(
        &self,
        producer: Option<(ProducerId, u32)>,
    ) -> Result<Stream, PublishError> {
        let (replies, answers) = mpsc::unbounded_channel();
        let local = Principal::local();
        let opened = self.broker.publisher(&local, producer, replies).await;
        opened.map(|(publisher, _)| Stream { publisher, answers })
    }

    pub(super) async fn create_topic(&self, name: &str) -> Result<TopicId, ChangeError> {
        let topic = TopicSpec {
            name: name.parse().expect("a name"),
            durability: Durability::Sync,
            created_by: None,
        };
        self.broker.create_topic(topic).await.map(|topic| topic.id)
    }

    pub(super) async fn create(&self, spec: serde_json::Value) {
        let spec = serde_json::from_value(spec).expect("a specification");
        let created = self
            .broker
            .create_subscription(&Principal::local(), spec)
            .await;
        created.expect("created");
    }

    // A subscription without filters, from now on.
    pub(super) async fn subscribe(&self, name: &str, topics: &str) {
        let spec = serde_json::json!({"name": name, "topics": [topics]});
        self.create(spec).await;
    }

    pub(super) async fn resume(&self, name: &str) {
        let found = self.broker.find(name).expect("there");
        self.broker
            .resume_subscription(&found)
            .await
            .expect("resumed");
    }

    pub(super) fn metrics_text(&self) -> String {
        self.metrics
            .page(self.broker.metrics_of_state(&Principal::local()))
    }

    // Waits until a line of the metrics is there.
    pub(super) async fn wait_for_metric(&self, line: &str) {
        let is_there = || self.metrics_text().contains(line);
        until(is_there, || format!("{line}: {}", self.metrics_text())).await;
    }

    pub(super) fn raised(&self) -> Vec<Condition> {
        let all = self.broker.conditions().all();
        all.into_iter().map(|raised| raised.condition).collect()
    }

    // Waits until a condition holds, or does not.
    pub(super) async fn wait_for(&self, condition: &Condition, holds: bool) {
        let is_so = || self.broker.conditions().reason(condition).is_some() == holds;
        until(is_so, || format!("{condition:?}: {:?}", self.raised())).await;
    }
}

pub(super) struct Stream {
    pub(super) publisher: Publisher,
    pub(super) answers: mpsc::UnboundedReceiver<Vec<PublishReply>>,
}

impl Stream {
    pub(super) async fn submit(&self, correlation: u64, topic: &str, events: usize, bytes: usize) {
        let event = vec![7; bytes];
        self.submit_all(correlation, topic, &vec![&event[..]; events])
            .await;
    }

    // The same of encoded events.
    pub(super) async fn submit_all(&self, correlation: u64, topic: &str, events: &[&[u8]]) {
        let bytes: usize = events.iter().map(|event| event.len() + 16).sum();
        let request = PublishRequest {
            correlation,
            topic: topic.parse().expect("a name"),
            first_number: 0,
            resolved_through: 0,
            entries: EncodedEvents::of(events.iter().copied()),
            cost: 1_024 + bytes,
        };
        self.publisher.submit(request).await.expect("handed over");
    }

    // Publishes until it is refused, and returns why.
    pub(super) async fn publish_until_refused(&mut self) -> PublishError {
        for correlation in 0..1_000 {
            self.submit(correlation, "a.b", 1, 60_000).await;
            if let Err(refusal) = self.answers(1).await.remove(0).result {
                return refusal;
            }
        }
        panic!("60 MB found room in 4 MiB");
    }

    // One event of which the producer knows the number.
    pub(super) async fn submit_numbered(&self, number: u64, topic: &str, bytes: usize) {
        let event = vec![7; bytes];
        let request = PublishRequest {
            correlation: number,
            topic: topic.parse().expect("a name"),
            first_number: number,
            resolved_through: 0,
            entries: EncodedEvents::of([event.as_slice()]),
            cost: 1_024 + bytes + 16,
        };
        self.publisher.submit(request).await.expect("handed over");
    }

    pub(super) async fn publish(&mut self) -> Result<PublishOutcome, PublishError> {
        self.submit(0, "a.b", 1, 10).await;
        self.answers(1).await.remove(0).result
    }

    pub(super) async fn answers(&mut self, count: usize) -> Vec<PublishReply> {
        let mut answers = Vec::new();
        while answers.len() < count {
            let more = tokio::time::timeout(PATIENCE, self.answers.recv()).await;
            answers.extend(
                more.expect("answered in time")
                    .expect("the broker is there"),
            );
        }
        answers
    }
}

// Waits until it is so, and otherwise fails with what there is.
pub(super) async fn until(is_so: impl Fn() -> bool, found: impl Fn() -> String) {
    let reached = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, reached).await;
    assert!(waited.is_ok(), "{}", found());
}

pub(super) fn died(name: &'static str) -> Condition {
    Condition::TaskDied(name.into())
}

impl Fixture {
    // A subscription without filters to all there is and will be.
    pub(super) async fn subscribe_to_all(&self, name: &str) {
        let spec = serde_json::json!({"name": name, "topics": [">"], "start": "earliest"});
        self.create(spec).await;
    }

    // Waits until a subscription is as it should be.
    pub(super) async fn wait_info(
        &self,
        name: &str,
        is_so: impl Fn(&SubscriptionInfo) -> bool,
    ) -> SubscriptionInfo {
        let info = || self.broker.subscription(name).expect("it exists");
        until(|| is_so(&info()), || format!("{:?}", info())).await;
        info()
    }

    // Overwrites every database with events, and answers how many there are.
    pub(super) fn damage_generations(&self) -> usize {
        let generations = self.dir.path().join("store/generations");
        let mut damaged = 0;
        for generation in std::fs::read_dir(generations).expect("generations") {
            let part = generation.expect("a folder").path().join("part-0000/db");
            if let Ok(sound) = std::fs::read(&part) {
                std::fs::write(&part, vec![0xA5; sound.len()]).expect("damaged");
                damaged += 1;
            }
        }
        damaged
    }
}
