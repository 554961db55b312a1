//! The whole broker at work, without a network: what becomes of those who wait when something in it fails.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::domain::{Durability, Entries, TopicSpec};
use crate::plugin::{PluginOptions, Plugins};
use crate::store::tests::faulty::{Fault, FaultyFileSystem, Operation};
use crate::store::{StoreOptions, open};

const MIB: u64 = 1 << 20;
/// Long enough for any machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Fixture {
    broker: Broker,
    fs: FaultyFileSystem,
    _dir: TempDir,
}

impl Fixture {
    async fn start(tail_bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let fs = FaultyFileSystem::default();
        let options = StoreOptions {
            journal_file_bytes: MIB,
            journal_bytes_max: 4 * MIB,
            journal_reserve_bytes: MIB,
            ..StoreOptions::default()
        };
        let opened = open(&dir.path().join("store"), options, Arc::new(fs.clone()));
        let plugins = Plugins::start(PluginOptions {
            cache_dir: dir.path().join("cache"),
            ..PluginOptions::default()
        });
        let options = BrokerOptions {
            plugins_dir: dir.path().join("plugins"),
            auto_create_topics: true,
            interval_ms: 100,
            tail_bytes,
            checkpoint_bytes: MIB,
            checkpoint_blocks: 10_000,
            journal_bytes_max: 4 * MIB,
            producers_max: 100,
        };
        let broker = Broker::start(
            options,
            opened.expect("opens"),
            plugins.expect("starts"),
            &[],
        )
        .await
        .expect("starts");
        Self {
            broker,
            fs,
            _dir: dir,
        }
    }

    async fn publisher(&self) -> Stream {
        let (replies, answers) = mpsc::unbounded_channel();
        let (publisher, _) = self.broker.publisher(None, replies).await.expect("opens");
        Stream { publisher, answers }
    }

    async fn subscribe(&self, name: &str, topics: &str) {
        let spec = serde_json::json!({"name": name, "topics": [topics]});
        let spec = serde_json::from_value(spec).expect("a specification");
        let created = self.broker.create_subscription(spec).await;
        created.expect("created");
    }

    fn raised(&self) -> Vec<Condition> {
        let all = self.broker.conditions().all();
        all.into_iter().map(|raised| raised.condition).collect()
    }

    // Waits until a condition holds, or does not.
    async fn wait_for(&self, condition: &Condition, holds: bool) {
        let reached = async {
            while self.broker.conditions().reason(condition).is_some() != holds {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        assert!(waited.is_ok(), "{condition:?}: {:?}", self.raised());
    }
}

struct Stream {
    publisher: Publisher,
    answers: mpsc::UnboundedReceiver<Vec<PublishReply>>,
}

impl Stream {
    async fn submit(&self, correlation: u64, topic: &str, events: usize, bytes: usize) {
        let event = vec![7; bytes];
        let request = PublishRequest {
            correlation,
            topic: topic.parse().expect("a name"),
            first_number: 0,
            resolved_through: 0,
            entries: Entries::of((0..events).map(|_| event.as_slice())),
            cost: 1_024 + events * (bytes + 16),
        };
        self.publisher.submit(request).await.expect("handed over");
    }

    async fn answers(&mut self, count: usize) -> Vec<PublishReply> {
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

fn died(name: &'static str) -> Condition {
    Condition::TaskDied(name.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committer_that_panics_answers_everybody_and_makes_the_broker_unready() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 1, 10).await;
    assert!(stream.answers(1).await[0].result.is_ok());
    assert!(fixture.broker.health().ready);
    fixture
        .fs
        .fail_with(Operation::Write, "journal", Fault::Panic);
    for correlation in 2..40 {
        stream.submit(correlation, "a.b", 1, 10).await;
    }
    let mut answered = Vec::new();
    for reply in stream.answers(38).await {
        let refused = matches!(reply.result, Err(BrokerError::StoreUnavailable(_)));
        assert!(refused, "{:?}", reply.result);
        answered.push(reply.correlation);
    }
    answered.sort_unstable();
    assert_eq!(answered, (2..40).collect::<Vec<_>>(), "each once");
    let topic = TopicSpec {
        name: "c".parse().expect("a name"),
        durability: Durability::Sync,
    };
    let refused = fixture.broker.create_topic(topic).await;
    assert!(matches!(refused, Err(BrokerError::StoreUnavailable(_))));
    fixture.wait_for(&died("committer"), true).await;
    assert!(!fixture.broker.health().ready);
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_makes_the_broker_unready() {
    // Nothing is kept in memory, so the router reads what it routes, all but the newest block.
    let fixture = Fixture::start(0).await;
    fixture.subscribe("s", ">").await;
    fixture
        .fs
        .fail_with(Operation::Read, "journal", Fault::Panic);
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 4, 60_000).await;
    assert!(stream.answers(1).await[0].result.is_ok());
    fixture.wait_for(&died("router"), true).await;
    assert!(!fixture.broker.health().ready);
    let text = fixture.broker.metrics_text();
    let line = "tidegate_condition{condition=\"task_died\",subject=\"router\"} 1\n";
    assert!(text.contains(line), "{text}");
    fixture.broker.shutdown().await;
}
