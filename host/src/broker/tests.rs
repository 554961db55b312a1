//! The whole broker at work, without a network: what becomes of those who wait when something in it fails.

mod deaths;
mod eased;
mod given_up;
mod plugins;
mod room;
mod scripted;
mod standing;
mod wards;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::domain::{Durability, Entries, Principal, ProducerId, SubscriptionInfo, TopicSpec};
use crate::plugin::{PluginLimits, PluginOptions, Plugins};
use crate::store::tests::faulty::{Fault, FaultyFileSystem, Operation};
use crate::store::{self, OpenError, StoreOptions};
use crate::telemetry::{Condition, Metrics};

const MIB: u64 = 1 << 20;
/// Long enough for any machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// A plugin of this name may run so long that others are certain to be done meanwhile.
const SLOW: &str = "slow";

struct Fixture {
    broker: Broker,
    metrics: Metrics,
    fs: FaultyFileSystem,
    dir: TempDir,
}

// The store in a data directory, looked at.
async fn examined(dir: &Path, accept_loss: bool, fs: FaultyFileSystem) -> store::Examined {
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

// A broker with small limits on a store that was read; its plugins are in a folder.
async fn broker_on(
    readable: Readable,
    dir: &Path,
    tail_bytes: usize,
    bundled: &[crate::plugin::bundled::BundledPlugin],
    metrics: &Metrics,
) -> Broker {
    let slow = PluginLimits {
        call_base: Duration::from_millis(300),
        ..PluginLimits::default()
    };
    let plugins = Plugins::start(PluginOptions {
        cache_dir: dir.join("cache"),
        overrides: [(SLOW.to_owned(), slow)].into(),
        ..PluginOptions::default()
    });
    let many = crate::state::census::Quota {
        all: 1_000,
        principal: 1_000,
    };
    let options = BrokerOptions {
        clock: crate::runtime::Clock::start(),
        metrics: metrics.clone(),
        plugins_dir: dir.join("plugins"),
        auto_create_topics: true,
        interval_ms: 100,
        tail_bytes,
        checkpoint_bytes: MIB,
        checkpoint_blocks: 10_000,
        journal_bytes_max: 4 * MIB,
        producers_max: 100,
        topics: many,
        subscriptions: many,
        specification_bytes: crate::state::census::Quota {
            all: 1 << 30,
            principal: 1 << 30,
        },
        plugins: super::PluginQuotas {
            versions: many,
            bytes: crate::state::census::Quota {
                all: 1 << 30,
                principal: 1 << 30,
            },
        },
        subscription_patterns_max: 4,
        event_bytes_max: crate::domain::EVENT_BYTES_MAX,
        policy: crate::auth::Policy::of_local(),
    };
    let plugins = plugins.expect("starts");
    let started = Broker::start(options, readable, plugins, bundled).await;
    started.expect("starts")
}

impl Fixture {
    async fn start(tail_bytes: usize) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), tail_bytes, false).await
    }

    // Stops, lets `change` do something to the store's folder, and starts again with losses accepted.
    async fn start_after(self, change: impl FnOnce(&Path)) -> Self {
        self.broker.shutdown().await;
        let Self { broker, dir, .. } = self;
        drop(broker);
        change(&dir.path().join("store"));
        Self::start_in(dir, 1 << 20, true).await
    }

    async fn start_in(dir: TempDir, tail_bytes: usize, accept_loss: bool) -> Self {
        Self::start_with(dir, tail_bytes, accept_loss, &[]).await
    }

    async fn start_with(
        dir: TempDir,
        tail_bytes: usize,
        accept_loss: bool,
        bundled: &[crate::plugin::bundled::BundledPlugin],
    ) -> Self {
        let fs = FaultyFileSystem::default();
        let examined = examined(dir.path(), accept_loss, fs.clone()).await;
        let readable = Readable::of(examined, 100).expect("readable");
        let metrics = Metrics::default();
        let broker = broker_on(readable, dir.path(), tail_bytes, bundled, &metrics).await;
        Self {
            broker,
            metrics,
            fs,
            dir,
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

    fn resume(&self, name: &str) {
        let found = self.broker.find(name).expect("there");
        self.broker.resume_subscription(&found).expect("resumed");
    }

    // Waits until a line of the metrics is there.
    fn metrics_text(&self) -> String {
        self.metrics
            .page(self.broker.metrics_of_state(&Principal::local()))
    }

    async fn wait_for_metric(&self, line: &str) {
        let reached = async {
            while !self.metrics_text().contains(line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        assert!(waited.is_ok(), "{line}: {}", self.metrics_text());
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
    let text = fixture.metrics_text();
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
            .metrics_text()
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
    let text = fixture.metrics_text();
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

    // A decision that cannot be written down decides nothing.
    fixture.fs.fail(Operation::Write, "manifest");
    let refused = fixture.broker.give_up_unreadable(true).await;
    assert!(refused.is_err(), "{refused:?}");
    let now = fixture.broker.subscription("kept").expect("it exists");
    assert_eq!(
        (now.dead_lettered, now.depth, now.unreadable),
        (0, 32, kept.unreadable)
    );
    fixture.fs.heal();

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

// Publishes so much that a checkpoint is made, the `nth`; answers how many events that were.
async fn fill_a_generation(fixture: &Fixture, stream: &mut Stream, nth: u64) -> u64 {
    const BATCHES: u64 = 14;
    for correlation in 0..BATCHES {
        stream.submit(correlation, "a.b", 10, 10_000).await;
    }
    let answers = stream.answers(BATCHES as usize).await;
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    let line = format!("tidegate_checkpoints_total {nth}\n");
    fixture.wait_for_metric(&line).await;
    BATCHES * 10
}

// A state that is lost takes no events with it: what the generation holds is judged again.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_generation_whose_state_is_lost_are_judged_again() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", "a.>").await;
    let mut stream = fixture.publisher().await;
    let mut events = fill_a_generation(&fixture, &mut stream, 1).await;
    events += fill_a_generation(&fixture, &mut stream, 2).await;
    stream.submit(1, "a.b", 1, 10).await;
    let last = stream.answers(1).await.remove(0).result.expect("appended");
    drop(stream);
    let fixture = fixture
        .start_after(|store| {
            let generations = fs::read_dir(store.join("generations")).expect("generations");
            let newest = generations.map(|entry| entry.expect("entry").path()).max();
            let state = newest.expect("some").join("state");
            fs::remove_dir_all(state).expect("removed");
        })
        .await;
    let line = format!(
        "tidegate_subscription_depth{{subscription=\"s\"}} {}\n",
        events + 1
    );
    fixture.wait_for_metric(&line).await;
    // What was lost with the state may have had any number after those that are known.
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 1, 10).await;
    let next = stream.answers(1).await.remove(0).result.expect("appended");
    assert!(next.first_sequence.0 > last.first_sequence.0 + (1 << 31));
    fixture.broker.shutdown().await;
}

// The events of a topic whose creation is lost are nobody's, and its id is not given to another.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_topic_that_nobody_knows_any_more_are_counted_and_never_anybodys() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("all", ">").await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "secret", 3, 10).await;
    stream.answers(1).await;
    drop(stream);
    // Each start begins a file of its own.
    let fixture = fixture.start_after(|_| ()).await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "secret", 4, 10).await;
    stream.answers(1).await;
    drop(stream);
    let fixture = fixture
        .start_after(|store| {
            let journal = fs::read_dir(store.join("journal")).expect("journal");
            let first = journal.map(|entry| entry.expect("entry").path()).min();
            fs::remove_file(first.expect("some")).expect("removed");
        })
        .await;
    let text = fixture.metrics_text();
    assert!(
        text.contains("tidegate_orphaned_events_total 4\n"),
        "{text}"
    );
    fixture.subscribe_to_all("new").await;
    for n in 0..4 {
        let topic = TopicSpec {
            name: format!("z.{n}").parse().expect("a name"),
            durability: Durability::Sync,
            created_by: None,
        };
        let topic = fixture.broker.create_topic(topic).await.expect("created");
        assert!(topic.id.0 > 1 << 32, "{topic:?}");
    }
    let mut stream = fixture.publisher().await;
    stream.submit(1, "z.1", 1, 10).await;
    stream.answers(1).await;
    let line = "tidegate_subscription_depth{subscription=\"new\"} 1\n";
    fixture.wait_for_metric(line).await;
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_names_the_topics_whose_events_are_gone() {
    let mut fixture = Fixture::start(1 << 20).await;
    for count in [3, 4, 2] {
        let mut stream = fixture.publisher().await;
        stream.submit(1, "orders.new", count, 10).await;
        stream.answers(1).await;
        drop(stream);
        // Each start begins a file of its own.
        fixture = fixture.start_after(|_| ()).await;
    }
    let Fixture { broker, dir, .. } = fixture;
    broker.shutdown().await;
    drop(broker);
    let journal = fs::read_dir(dir.path().join("store/journal")).expect("journal");
    let mut files: Vec<_> = journal.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    fs::remove_file(&files[1]).expect("removed");
    let examined = examined(dir.path(), false, FaultyFileSystem::default()).await;
    let refused = Readable::of(examined, 100).map(|_| ());
    let error = refused.expect_err("refused").to_string();
    let lost = "topic `orders.new` sequences 4 to 7 (4 events)";
    assert!(error.contains(lost), "{error}");
}
