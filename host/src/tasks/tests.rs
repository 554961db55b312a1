//! The whole broker at work, without a network: what becomes of those who wait when something in it fails.

mod room;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::domain::{Durability, Entries, Principal, SubscriptionInfo, TopicSpec};
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
        let many = super::Quota {
            all: 1_000,
            principal: 1_000,
        };
        let options = BrokerOptions {
            plugins_dir: dir.path().join("plugins"),
            auto_create_topics: true,
            interval_ms: 100,
            tail_bytes,
            checkpoint_bytes: MIB,
            checkpoint_blocks: 10_000,
            journal_bytes_max: 4 * MIB,
            producers_max: 100,
            topics: many,
            subscriptions: many,
            subscription_patterns_max: 4,
            policy: crate::auth::Policy::of_local(),
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
        let (publisher, _) = self
            .broker
            .publisher(&Principal::local(), None, replies)
            .await
            .expect("opens");
        Stream { publisher, answers }
    }

    async fn subscribe(&self, name: &str, topics: &str) {
        let spec = serde_json::json!({"name": name, "topics": [topics]});
        let spec = serde_json::from_value(spec).expect("a specification");
        let created = self
            .broker
            .create_subscription(&Principal::local(), spec)
            .await;
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
        created_by: None,
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
    let text = fixture.broker.metrics_text(&Principal::local());
    let line = "tidegate_condition{condition=\"task_died\",subject=\"router\"} 1\n";
    assert!(text.contains(line), "{text}");
    fixture.broker.shutdown().await;
}

impl Fixture {
    async fn subscribe_to_all(&self, name: &str) {
        let spec = serde_json::json!({"name": name, "topics": [">"], "start": "earliest"});
        let spec = serde_json::from_value(spec).expect("a specification");
        let created = self
            .broker
            .create_subscription(&Principal::local(), spec)
            .await;
        created.expect("created");
    }

    // Waits until a subscription is as it should be.
    async fn wait_info(
        &self,
        name: &str,
        is_so: impl Fn(&SubscriptionInfo) -> bool,
    ) -> SubscriptionInfo {
        let reached = async {
            loop {
                let info = self.broker.subscription(name).expect("it exists");
                if is_so(&info) {
                    return info;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        waited.unwrap_or_else(|_| panic!("{:?}", self.broker.subscription(name)))
    }

    // Overwrites every database with events, and answers how many there are.
    fn damage_generations(&self) -> usize {
        let generations = self._dir.path().join("store/generations");
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

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_seen_and_waits_until_an_operator_gives_it_up() {
    let fixture = Fixture::start(0).await;
    fixture.subscribe("kept", "a").await;
    let mut stream = fixture.publisher().await;
    for correlation in 0..8 {
        stream.submit(correlation, "a", 4, 60_000).await;
    }
    stream.answers(8).await;
    let moved = async {
        while !fixture
            .broker
            .metrics_text(&Principal::local())
            .contains("tidegate_checkpoints_total 1")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let moved = tokio::time::timeout(PATIENCE, moved).await;
    moved.expect("a checkpoint");
    assert!(fixture.damage_generations() > 0);

    // Somebody has to look at it, and stands there, which is seen.
    fixture.subscribe_to_all("late").await;
    let late = fixture
        .wait_info("late", |late| late.stands_at.is_some())
        .await;
    assert_eq!(late.stands_at, Some(crate::domain::Position(1)));
    let kept = fixture.wait_info("kept", |kept| kept.unreadable > 0).await;
    assert!(kept.unreadable <= kept.depth && kept.depth == 32);
    let unreadable = fixture.broker.unreadable();
    assert!(unreadable[0].damage);
    let text = fixture.broker.metrics_text(&Principal::local());
    assert!(
        !text.contains("tidegate_unreadable_events_total 0"),
        "{text}"
    );
    let condition = Condition::Unreadable(unreadable[0].path.clone().into());
    fixture.wait_for(&condition, true).await;
    assert!(fixture.broker.health().ready, "the rest of it works");

    // Nobody else pays.
    fixture.subscribe("fresh", "b").await;
    stream.submit(100, "b", 1, 10).await;
    stream.answers(1).await;
    fixture.wait_info("fresh", |fresh| fresh.depth == 1).await;

    let given_up = fixture
        .broker
        .give_up_unreadable(true)
        .await
        .expect("given up");
    assert!(given_up.iter().all(|one| one.kept_as.is_some()));
    fixture
        .wait_info("kept", |now| {
            now.dead_lettered == kept.unreadable
                && now.depth == 32 - kept.unreadable
                && now.unreadable == 0
        })
        .await;
    fixture
        .wait_info("late", |late| {
            late.stands_at.is_none() && late.unevaluated == 0
        })
        .await;
    fixture.wait_for(&condition, false).await;
    assert_eq!(
        fixture
            .broker
            .give_up_unreadable(true)
            .await
            .expect("nothing left"),
        []
    );
    fixture.broker.shutdown().await;
}
