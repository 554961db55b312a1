//! A committer for tests, with a journal in memory that fails when a test says so, and the streams and requests that reach it. Nobody
//! else runs: what a router would do, a test does.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::auth::Policy;
use crate::broker::commit::checkpoint_due::CheckpointDue;
use crate::broker::commit::committer::{Committer, CommitterParts, CommitterSettings, TurnEnd};
use crate::broker::commit::draft::CatalogLimits;
use crate::broker::commit::inbox::{Inbox, LastCame};
use crate::broker::commit::journal_note::{self, Note};
use crate::broker::commit::producer_streams::ProducerStreams;
use crate::broker::commit::publish_reply::{PublishOutcome, PublishReply};
use crate::broker::commit::publisher::{PublishRequest, Publisher};
use crate::broker::commit::request::{Appended, ChangeRequest, Control, Outputs, Reply};
use crate::broker::counters::Counters;
use crate::broker::error::{ChangeError, OutputError, PublishError, Unavailable};
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::dead_letter_counts::DeadLetterCounts;
use crate::broker::subscriptions::effect_targets::{EffectTargets, Start};
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{
    BlockOrigin, Durability, EncodedEvents, Position, Principal, ProducerId, SubscriptionId,
    SubscriptionSpec, TopicSpec,
};
use crate::runtime::clock::Clock;
use crate::state::Producers;
use crate::state::catalog::Catalog;
use crate::state::quotas::{PluginQuotas, Quota};
use crate::store::tests::memory_store::{MemoryJournal, MemoryStore};
use crate::store::{Checkpoints, Opened, StoreReader};
use crate::telemetry::conditions::Conditions;
use crate::telemetry::metrics_registry::Metrics;

/// Where a test looks for the answer to what it asked.
pub(in crate::broker) type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

pub(in crate::broker) const INTERVAL: Duration = Duration::from_millis(200);
const MANY: Quota = Quota {
    all: 1_000_000,
    principal: 1_000_000,
};

pub(in crate::broker) struct Fixture {
    pub(in crate::broker) committer: Committer,
    pub(in crate::broker) journal: MemoryJournal,
    pub(in crate::broker) inbox: Arc<Inbox>,
    pub(in crate::broker) streams: Arc<ProducerStreams>,
    pub(in crate::broker) registry: Arc<Registry>,
    pub(in crate::broker) shared: Arc<RwLock<Catalog>>,
    pub(in crate::broker) log: Log,
    pub(in crate::broker) conditions: Conditions,
    pub(in crate::broker) checkpoint_due: Arc<Notify>,
    pub(in crate::broker) clock: Clock,
    pub(in crate::broker) metrics: Arc<Counters>,
    pub(in crate::broker) reader: StoreReader,
    /// Taken by who tests the checkpointer.
    pub(in crate::broker) checkpoints: Option<Checkpoints>,
    _starts: mpsc::UnboundedReceiver<Start>,
    _store: MemoryStore,
}

impl Fixture {
    pub(in crate::broker) fn new() -> Self {
        Self::with(Clock::start())
    }

    /// One whose clock is this.
    pub(in crate::broker) fn with(clock: Clock) -> Self {
        let store = MemoryStore::new();
        let Opened {
            journal,
            reader,
            checkpoints,
            ..
        } = store.open();
        let metrics = Arc::new(Counters::registered(&Metrics::default()));
        let conditions = Conditions::default();
        let inbox = Inbox::new(clock.clone());
        let (starts, to_start) = mpsc::unbounded_channel();
        let letters = mpsc::unbounded_channel().0;
        let effect_targets = EffectTargets::new(clock.clone(), inbox.clone(), letters, starts);
        let registry = Registry::new(effect_targets, Position(1));
        let log = Log::new(reader.clone(), 1 << 20, Position(1));
        let streams = ProducerStreams::new(Producers::new(100));
        let shared = Arc::default();
        let checkpoint_due = Arc::new(Notify::new());
        let committer = Committer::new(CommitterParts {
            journal,
            catalog: Catalog::default(),
            shared: Arc::clone(&shared),
            registry: registry.clone(),
            log: log.clone(),
            inbox: inbox.clone(),
            streams: streams.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            policy: Policy::of_local(),
            checkpoint_due: checkpoint_due.clone(),
            conditions: conditions.clone(),
            next_position: Position(1),
            settings: CommitterSettings {
                interval: INTERVAL,
                checkpoint_at: CheckpointDue {
                    bytes: 64 << 10,
                    blocks: 1_000,
                },
                journal_bytes_max: 1 << 20,
                limits: CatalogLimits {
                    auto_create: true,
                    recreate_after_ms: 600_000,
                    topics: MANY,
                    subscriptions: MANY,
                    specification_bytes: MANY,
                    plugins: PluginQuotas {
                        versions: MANY,
                        bytes: MANY,
                    },
                },
            },
        });
        Self {
            committer,
            journal: store.journal.clone(),
            inbox,
            streams,
            registry,
            shared,
            log,
            conditions,
            checkpoint_due,
            clock,
            metrics,
            reader,
            checkpoints: Some(checkpoints),
            _starts: to_start,
            _store: store,
        }
    }

    pub(in crate::broker) fn stream(&self, producer: Option<(u128, u32)>) -> Stream {
        let (replies, answers) = mpsc::unbounded_channel();
        let stream = producer.map(|(id, epoch)| {
            let owner = Principal::local().digest();
            let opened = self.streams.open(ProducerId(id), epoch, owner);
            opened.expect("opens").0
        });
        Stream {
            publisher: Publisher {
                inbox: self.inbox.clone(),
                streams: self.streams.clone(),
                stream,
                by: Principal::local(),
                replies,
                last_came: LastCame::default(),
            },
            answers,
        }
    }

    /// Hands something over, without a turn.
    pub(in crate::broker) fn ask<T, E>(
        &self,
        make: impl FnOnce(Reply<T, E>) -> Control,
    ) -> Answer<T, E> {
        let (reply, answer) = oneshot::channel();
        let asked = self.inbox.ask(|unused: Reply<(), Unavailable>| {
            drop(unused);
            make(Reply::new(reply, None))
        });
        // Handed over by the first look at it; what it answers is not asked for here.
        let _ = asked.now_or_never();
        answer
    }

    pub(in crate::broker) fn change<T>(
        &self,
        make: impl FnOnce(Reply<T, ChangeError>) -> ChangeRequest,
    ) -> Answer<T, ChangeError> {
        self.ask(|reply| Control::Change(make(reply)))
    }

    pub(in crate::broker) fn create_topic(
        &self,
        name: &str,
        durability: Durability,
    ) -> Answer<(), ChangeError> {
        let spec = TopicSpec {
            name: name.parse().expect("a name"),
            durability,
            created_by: None,
        };
        self.change(|reply| ChangeRequest::CreateTopic(spec.into(), reply))
    }

    pub(in crate::broker) async fn subscribe(&mut self, name: &str) -> SubscriptionId {
        let spec = spec(name, &[]);
        let created = self.change(|reply| ChangeRequest::CreateSubscription(spec, reply));
        self.turn().await;
        answered(created).expect("created")
    }

    /// One turn that does not fail.
    pub(in crate::broker) async fn turn(&mut self) {
        let turn = self.committer.step().await;
        assert!(matches!(turn, TurnEnd::Done), "it fails or ends");
    }

    /// Whether there is nothing for the committer to do within `time`.
    pub(in crate::broker) async fn is_idle_for(&mut self, time: Duration) -> bool {
        let turn = tokio::time::timeout(time, self.committer.step()).await;
        turn.is_err()
    }

    pub(in crate::broker) fn notes(&self) -> Vec<Note> {
        let groups = self.journal.groups().into_iter();
        let notes = groups.flat_map(|group| journal_note::decode(&group.notes).expect("readable"));
        notes.collect()
    }
}

pub(in crate::broker) struct Stream {
    pub(in crate::broker) publisher: Publisher,
    pub(in crate::broker) answers: mpsc::UnboundedReceiver<Vec<PublishReply>>,
}

impl Stream {
    /// Hands over a batch of one event, with this number or with none.
    pub(in crate::broker) fn publish(&self, topic: &str, number: u64) {
        self.publish_event(topic, number, &[7; 10]);
    }

    pub(in crate::broker) fn publish_event(&self, topic: &str, number: u64, event: &[u8]) {
        let request = PublishRequest {
            correlation: number,
            topic: topic.parse().expect("a name"),
            first_number: number,
            resolved_through: 0,
            entries: EncodedEvents::of([event]),
            cost: 100,
        };
        let rest = self.publisher.submit_now(request).expect("open");
        assert!(rest.is_none(), "there is room");
    }

    /// What was answered since the last call.
    pub(in crate::broker) fn answers(&mut self) -> Vec<Result<PublishOutcome, PublishError>> {
        let mut answers = Vec::new();
        while let Ok(together) = self.answers.try_recv() {
            answers.extend(together.into_iter().map(|reply| reply.result));
        }
        answers
    }

    pub(in crate::broker) fn answer(&mut self) -> Result<PublishOutcome, PublishError> {
        let mut answers = self.answers();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }
}

pub(in crate::broker) fn answered<T, E>(mut answer: Answer<T, E>) -> Result<T, E> {
    answer.try_recv().expect("answered")
}

pub(in crate::broker) fn spec(name: &str, filters: &[&str]) -> SubscriptionSpec {
    let filters: Vec<_> = filters
        .iter()
        .map(|plugin| serde_json::json!({ "plugin": plugin }))
        .collect();
    let spec = serde_json::json!({"name": name, "topics": [">"], "filters": filters});
    serde_json::from_value(spec).expect("valid")
}

pub(in crate::broker) fn outputs(
    subscription: SubscriptionId,
    acked: u64,
) -> (Outputs, Answer<(), OutputError>) {
    let (done, answer) = oneshot::channel();
    let event = Appended {
        topic: "out".parse().expect("a name"),
        mark: BlockOrigin::Ordinary,
        event: vec![1; 20].into(),
    };
    let outputs = Outputs {
        subscription,
        acks: vec![Position(acked)..=Position(acked)],
        events: vec![event],
        letters: DeadLetterCounts::default(),
        done: Reply::new(done, None),
    };
    (outputs, answer)
}

/// Lets a subscription have the event at `position`, as the router does.
pub(in crate::broker) fn observe(fixture: &Fixture, id: SubscriptionId, position: u64) {
    let live = fixture.registry.by_id(id).expect("it runs");
    let here = Position(position)..=Position(position);
    live.apply(|state, _| state.observe(Position(position), std::iter::once(here)));
}
