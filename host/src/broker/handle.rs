//! The broker as the outside sees it: a handle that any number of connections share, and the start and stop of
//! everything behind it.

mod listing;
mod plugins;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::checkpoint::checkpointer::{Checkpointer, Decision};
use super::checkpoint::recovery::RecoveryError;
use super::commit::committer::{self, Committer, CommitterParts, CommitterSettings};
use super::commit::draft::CatalogLimits;
use super::commit::inbox::Inbox;
use super::commit::producers::Sessions;
use super::commit::promise::PublishReplies;
use super::commit::publisher::Publisher;
use super::commit::request::{ChangeRequest, Control, Reply, Update};
use super::delivery::consumer::Consumer;
use super::delivery::lease::Manner;
use super::delivery::parts::DeliveryParts;
use super::delivery::{TransformChains, dead_letters};
use super::error::BrokerError;
use super::folder_watch;
use super::log::tail::Log;
use super::log::unreadable::Watch;
use super::matching::lanes::{LaneParts, Lanes};
use super::matching::router::Router;
use super::matching::supervisor::Supervisor;
use super::plugins::files::PluginFiles;
use super::plugins::limits;
use super::plugins::uploads::Uploads;
use super::readable::Readable;
use super::subscriptions::live::LiveSubscription;
use super::subscriptions::registry::Registry;
use super::subscriptions::surroundings::{Start, Surroundings};
use super::subscriptions::timers;
use crate::auth::{Policy, rights};
use crate::broker::counters::Counters;
use crate::domain::{
    LogLine, Name, NameError, Owner, PluginWorld, Position, Principal, ProducerId,
    SubscriptionInfo, SubscriptionSpec, TopicId, TopicInfo, TopicName, TopicSpec, UnreadableInfo,
};
use crate::plugin::Plugins;
use crate::plugin::bundled::BundledPlugin;
use crate::runtime::clock::Clock;
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;
use crate::state::census::{PluginQuotas, Quota};
use crate::store::{CheckpointError, OpenError, StoreReader, StoreUsage, WriteError};
use crate::telemetry::errors::with_causes;
use crate::telemetry::health::{Conditions, Raised};
use crate::telemetry::metrics::Metrics;

/// Topics without a name that a line of the log tells of.
const ORPHANS_NAMED_MAX: usize = 16;

/// What the configuration says to the broker's tasks.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// What time it is.
    pub clock: Clock,
    /// Where it is shown what is counted.
    pub metrics: Metrics,
    /// Where plugins are kept.
    pub plugins_dir: PathBuf,
    /// A publish to a topic that does not exist creates it.
    pub auto_create_topics: bool,
    /// Milliseconds that an event of a topic with `interval` durability may stay unsynced.
    pub interval_ms: u64,
    /// Bytes of recent blocks kept in memory.
    pub tail_bytes: usize,
    /// Journal bytes at which a checkpoint starts. Below the journal's limit, so that it is done before
    /// publishers have to wait.
    pub checkpoint_bytes: u64,
    /// Journal blocks at which a checkpoint starts.
    pub checkpoint_blocks: usize,
    /// Journal bytes at which even routes wait.
    pub journal_bytes_max: u64,
    /// Producers whose resends are recognised. Beyond it, those that were idle longest are forgotten.
    pub producers_max: usize,
    /// Topics there may be, those of routes and dead letters among them.
    pub topics: Quota,
    /// Subscriptions and routes there may be.
    pub subscriptions: Quota,
    /// Bytes that their specifications may have.
    pub specification_bytes: Quota,
    /// Plugins there may be, and their bytes.
    pub plugins: PluginQuotas,
    /// Topic patterns of one subscription or route.
    pub subscription_patterns_max: usize,
    /// Bytes of the largest event that is taken from a publisher, and so of what a transform may make for a topic.
    pub event_bytes_max: usize,
    /// Who may do what.
    pub policy: Arc<Policy>,
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(OpenError),
    /// What is damaged in generations cannot be given up.
    #[error("cannot give up what is damaged in generations")]
    GiveUp(#[source] CheckpointError),
    /// What is on disk cannot be made a state of.
    #[error("recovery failed")]
    Recovery(#[source] RecoveryError),
    /// The numbers that are skipped after an unclean end cannot be written down.
    #[error("the journal cannot be written")]
    Reserve(#[source] WriteError),
    /// A plugin's file cannot be read or written.
    #[error("the plugin directory cannot be used")]
    PluginFiles(#[source] std::io::Error),
    /// The runtime ends.
    #[error("opening the store was interrupted")]
    Interrupted,
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// A plugin that comes with the binary does not load.
    #[error("the bundled plugin `{name}` does not load: {why}")]
    Bundled {
        /// Its name.
        name: &'static str,
        /// Why.
        why: String,
    },
}

/// How the broker fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Publishes are taken and everything runs that has to.
    pub ready: bool,
    /// The broker is on its way down.
    pub stopping: bool,
    /// What is wrong, what makes it unready first.
    pub conditions: Vec<Raised>,
}

pub use listing::{Counts, Found};

/// The running broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    subscription_patterns_max: usize,
    parts: Arc<DeliveryParts>,
    supervisor: Arc<Supervisor>,
    sessions: Arc<Sessions>,
    files: PluginFiles,
    plugin_quotas: PluginQuotas,
    uploads: Arc<Uploads>,
    reader: StoreReader,
    // To the checkpointer.
    decide: mpsc::Sender<Decision>,
    spawner: Spawner,
    // Ends routes, lanes and consumers, before the committer is closed.
    shutdown: CancellationToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Broker {
    /// Recovers what the store holds and starts every task. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// What is on disk cannot be understood, or a bundled plugin does not load.
    pub async fn start(
        options: BrokerOptions,
        readable: Readable,
        plugins: Arc<Plugins>,
        bundled: &[BundledPlugin],
    ) -> Result<Self, StartError> {
        let begun = tokio::task::spawn_blocking(move || readable.begin());
        let (opened, recovered) = begun.await.map_err(|_| StartError::Interrupted)??;
        tracing::info!(
            topics = recovered.catalog.topics.len(),
            subscriptions = recovered.subscriptions.len(),
            journal_groups = recovered.groups,
            next_position = %recovered.next_position,
            clean = opened.clean,
            "recovered"
        );
        let mut journal = opened.journal;
        if let Some(reserved) = &recovered.reserved {
            committer::reserve(&mut *journal, reserved).map_err(StartError::Reserve)?;
        }
        let clock = options.clock.clone();
        let shutdown = CancellationToken::new();
        let inbox = Inbox::new();
        let metrics = Arc::new(Counters::registered(&options.metrics));
        say_orphans(&recovered.orphans, &metrics);
        let shared = Arc::new(RwLock::new(recovered.catalog.clone()));
        let log = Log::new(
            opened.reader.clone(),
            options.tail_bytes,
            recovered.next_position,
        );
        let (dead_letters, given_up) = mpsc::unbounded_channel();
        let (starts, to_start) = mpsc::unbounded_channel();
        let surroundings = Surroundings::new(clock, inbox.clone(), dead_letters, starts);
        let registry = Registry::new(surroundings, recovered.next_position);
        // Before anything runs that could checkpoint: what no subscription in the registry asks for is let go.
        for (mut resting, routed) in recovered.subscriptions {
            if routed {
                // The router starts at the end of what was replayed, which is what these have seen.
                let through = Position(recovered.next_position.0.saturating_sub(1));
                resting.state.observe(through, std::iter::empty());
            }
            let live = registry.live(resting);
            if routed {
                let _ = registry.followers.join(&live);
            }
            registry.insert(live);
        }
        let sessions = Sessions::new(recovered.producers);
        let conditions = Conditions::default();
        let spawner = Spawner::new(conditions.clone(), shutdown.clone());
        let checkpoint_due = Arc::new(Notify::new());
        let committer = Committer::new(CommitterParts {
            journal,
            catalog: recovered.catalog,
            shared: shared.clone(),
            registry: registry.clone(),
            log: log.clone(),
            inbox: inbox.clone(),
            sessions: sessions.clone(),
            metrics: metrics.clone(),
            policy: options.policy.clone(),
            checkpoint_due: checkpoint_due.clone(),
            conditions: conditions.clone(),
            next_position: recovered.next_position,
            settings: CommitterSettings {
                interval: Duration::from_millis(options.interval_ms),
                checkpoint_bytes: options.checkpoint_bytes,
                checkpoint_blocks: options.checkpoint_blocks,
                journal_bytes_max: options.journal_bytes_max,
                limits: CatalogLimits {
                    auto_create: options.auto_create_topics,
                    topics: options.topics,
                    subscriptions: options.subscriptions,
                    specification_bytes: options.specification_bytes,
                    plugins: options.plugins,
                },
            },
        });
        let (decide, decisions) = mpsc::channel(1);
        let checkpointer = Checkpointer {
            checkpoints: opened.checkpoints,
            folders: opened.reader.folders(),
            reader: opened.reader.clone(),
            log: log.clone(),
            registry: registry.clone(),
            inbox: inbox.clone(),
            metrics: metrics.clone(),
            due: checkpoint_due,
            shutdown: shutdown.clone(),
            runtime: tokio::runtime::Handle::current(),
            last_checkpoint: Instant::now(),
            conditions: conditions.clone(),
            unreadable: Watch::default(),
            misses_file: false,
            decisions,
            mark: None,
            retry: None,
        };
        let threads = vec![
            spawn_thread(&spawner, "checkpointer", || checkpointer.run())?,
            spawn_thread(&spawner, "committer", || committer.run())?,
        ];
        let watch = folder_watch::watch(
            opened.reader.folders(),
            conditions,
            inbox.clone(),
            shutdown.clone(),
        );
        spawner.lasting("folder watch", watch);
        let parts = Arc::new(DeliveryParts {
            registry: registry.clone(),
            log: log.clone(),
            inbox,
            catalog: shared.clone(),
            plugins: plugins.clone(),
            chains: TransformChains::default(),
            metrics,
            spawner: spawner.clone(),
            event_bytes_max: options.event_bytes_max,
            policy: options.policy,
            shutdown: shutdown.clone(),
        });
        let lanes = Lanes::new(LaneParts {
            registry: registry.clone(),
            log: log.clone(),
            metrics: parts.metrics.clone(),
            plugins,
            catalog: shared.clone(),
            policy: parts.policy.clone(),
            spawner: spawner.clone(),
            shutdown: shutdown.clone(),
        });
        let supervisor = Arc::new(Supervisor {
            parts: parts.clone(),
            lanes,
        });
        let broker = Self(Arc::new(Inner {
            subscription_patterns_max: options.subscription_patterns_max,
            parts: parts.clone(),
            supervisor: supervisor.clone(),
            sessions,
            files: PluginFiles::open(&options.plugins_dir)
                .map_err(StartError::PluginFiles)?
                .beside(opened.reader.folders()),
            plugin_quotas: options.plugins,
            uploads: Uploads::new(),
            reader: opened.reader,
            decide,
            spawner: spawner.clone(),
            shutdown: shutdown.clone(),
            threads: Mutex::new(threads),
        }));
        broker.load_plugins(bundled).await?;
        for live in registry.all() {
            // Its deadlines and unwritten dead letters are those that were read from disk.
            live.tick();
            supervisor.start(live);
        }
        let names = move |id: TopicId| {
            let catalog = shared.read().unwrap_or_else(PoisonError::into_inner);
            catalog.topic_name(id)
        };
        spawner.lasting("supervisor", supervisor.run(to_start));
        let router = Router::new(registry.clone(), log, names);
        spawner.lasting("router", router.run(shutdown.clone()));
        spawner.lasting("timers", timers::run(registry, shutdown.clone()));
        let conditions = broker.conditions().clone();
        let limits = limits::run(parts.plugins.clone(), conditions, shutdown.clone());
        spawner.lasting("plugin limits", limits);
        spawner.lasting("dead letters", dead_letters::run(parts, given_up, shutdown));
        Ok(broker)
    }

    /// Opens a publish stream. A stream of the same producer with the same or a lower epoch is fenced.
    /// Returns the publisher and the highest number committed for this producer, all of which is durable. Replies go to
    /// `replies`, in any order; their number is bounded by what the caller lets be outstanding.
    ///
    /// # Errors
    ///
    /// The producer is another principal's, a stream of it with a higher epoch has been open, or its last events cannot be
    /// made durable. No other stream is fenced then, unless the disk fills up in the very moment in which it is.
    pub async fn publisher(
        &self,
        who: &Principal,
        producer: Option<(ProducerId, u32)>,
        replies: PublishReplies,
    ) -> Result<(Publisher, u64), BrokerError> {
        let (session, last_number) = match producer {
            Some((id, epoch)) => {
                // What would refuse this does so before anybody is fenced for it.
                if self.0.sessions.may_open(id, epoch, who.digest())? > 0 {
                    self.ask(Control::ConfirmAcks).await?;
                }
                let (session, last) = self.0.sessions.open(id, epoch, who.digest())?;
                (Some(session), last)
            }
            None => (None, 0),
        };
        let publisher = Publisher {
            inbox: self.0.parts.inbox.clone(),
            sessions: self.0.sessions.clone(),
            session,
            by: who.clone(),
            replies,
        };
        let last_number = match last_number {
            0 => 0,
            _ => publisher.last_durable_number().await?,
        };
        Ok((publisher, last_number))
    }

    /// Takes the room for publishes but for what costs `left`, for as long as the answer lives.
    #[cfg(test)]
    pub(crate) async fn take_publish_room(&self, left: usize) -> impl Send + use<> {
        let taken = super::commit::inbox::PUBLISH_COST_MAX - left;
        self.0.parts.inbox.publish_room(taken).await
    }

    /// Attaches a consumer of `who` to the subscription `name`, perhaps only to `look`: then nothing that it does counts
    /// as an attempt.
    ///
    /// # Errors
    ///
    /// `who` may not, there is none of that name, it is a route, or its transforms cannot be set up. Who may not learns
    /// nothing else.
    pub async fn attach(
        &self,
        who: &Principal,
        name: &str,
        manner: Manner,
    ) -> Result<Consumer, BrokerError> {
        // Looked at first: what changes from here on is noticed by the consumer.
        let let_in_by = self.0.parts.policy.version();
        let live = self.0.parts.registry.by_name(name);
        let settings = live.as_ref().map(|live| live.settings());
        let spec = settings.as_ref().map(|settings| &*settings.spec);
        rights::attach(&self.0.parts.policy, who, name, spec)?;
        let Some((live, settings)) = live.zip(settings) else {
            return Err(BrokerError::NoSubscription(name.to_owned()));
        };
        if settings.spec.is_route() {
            return Err(BrokerError::Invalid(format!(
                "`{name}` is a route, which the broker consumes itself; subscribe to its output topics"
            )));
        }
        let transforms = self.0.parts.transforms(&live, &settings).await;
        transforms.map_err(|error| BrokerError::Invalid(with_causes(&error)))?;
        let parts = self.0.parts.clone();
        Ok(Consumer::attach(
            parts,
            live,
            manner,
            who.clone(),
            let_in_by,
        ))
    }

    /// Creates a topic.
    ///
    /// # Errors
    ///
    /// It exists already, nothing new may have that name, or the store refuses writes.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, BrokerError> {
        let name = spec.name.clone();
        name.check_new()?;
        self.change(|reply| ChangeRequest::CreateTopic(spec, reply))
            .await?;
        self.look(move |broker| broker.topic(&name)).await
    }

    /// Deletes a topic and its events. Creating it again makes another topic.
    ///
    /// # Errors
    ///
    /// There is none, or a route appends to it.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), BrokerError> {
        self.change(|reply| ChangeRequest::DeleteTopic(name.clone(), reply))
            .await
    }

    /// Creates a subscription or route for `who`: resolves and configures its plugins, then records it.
    ///
    /// # Errors
    ///
    /// `who` has no right to it, the specification cannot be carried out (the message says what to change), the name is
    /// taken, or the store refuses writes.
    pub async fn create_subscription(
        &self,
        who: &Principal,
        mut spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, BrokerError> {
        rights::create(&self.0.parts.policy, who, &spec)?;
        check_spec(&spec).map_err(BrokerError::Invalid)?;
        let patterns_max = self.0.subscription_patterns_max;
        if spec.topics.len() > patterns_max {
            return Err(BrokerError::LimitReached(format!(
                "it has {} topic patterns, and `limits.subscription_patterns_max` allows {patterns_max}; use `*` and `>`, or several subscriptions",
                spec.topics.len()
            )));
        }
        check_new_names(&spec, None)?;
        for used in &mut spec.filters {
            self.resolve(who, used, PluginWorld::Filter).await?;
        }
        for used in &mut spec.transforms {
            self.resolve(who, used, PluginWorld::Transform).await?;
        }
        spec.created = self.0.parts.registry.clock.now();
        spec.created_by = Some(who.clone());
        let name = spec.name.clone();
        self.change(|reply| ChangeRequest::CreateSubscription(spec, reply))
            .await?;
        self.look(move |broker| broker.subscription(name.as_str()))
            .await
    }

    /// Changes a subscription or route to `spec`, which was made of `before`. A plugin without a digest is looked up and
    /// configured; the others stay what they are. Changed filters hold from a fence on, see `FilterChain`; everything else
    /// from the next delivery on.
    ///
    /// # Errors
    ///
    /// `who` has no right to it, the specification cannot be carried out (the message says what to change), the subscription was changed by
    /// somebody else since `before`, too many changes are pending, or the store refuses writes. Nothing is changed
    /// then.
    pub async fn update_subscription(
        &self,
        who: &Principal,
        before: &SubscriptionInfo,
        mut spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, BrokerError> {
        let name = spec.name.clone();
        let live = self.live(name.as_str())?;
        rights::change(&self.0.parts.policy, who, &before.spec, &spec)?;
        check_spec(&spec).map_err(BrokerError::Invalid)?;
        check_new_names(&spec, Some(&before.spec))?;
        if spec.is_route() != before.spec.is_route() {
            return Err(BrokerError::Invalid(
                "a route keeps at least one output, and a subscription has none".into(),
            ));
        }
        for used in &mut spec.filters {
            if used.digest.is_none() {
                self.resolve(who, used, PluginWorld::Filter).await?;
            }
        }
        for used in &mut spec.transforms {
            if used.digest.is_none() {
                self.resolve(who, used, PluginWorld::Transform).await?;
            }
        }
        self.record_update(&live, before, spec).await
    }

    /// Gives the subscription or route `before` to another owner, or to nobody. Consumers that may not be attached any more
    /// end.
    ///
    /// # Errors
    ///
    /// `who` may not give it away, the new owner lacks a right that it takes, it was changed by somebody else since
    /// `before`, or the store refuses writes. Nothing is changed then.
    pub async fn give_subscription(
        &self,
        who: &Principal,
        before: &SubscriptionInfo,
        owner: Option<Owner>,
    ) -> Result<SubscriptionInfo, BrokerError> {
        let policy = &self.0.parts.policy;
        rights::give(policy, who, &before.spec, owner.as_ref())?;
        let live = self.live(before.spec.name.as_str())?;
        let spec = SubscriptionSpec {
            owner,
            ..before.spec.clone()
        };
        let info = self.record_update(&live, before, spec).await?;
        policy.owners_changed();
        Ok(info)
    }

    async fn record_update(
        &self,
        live: &LiveSubscription,
        before: &SubscriptionInfo,
        spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, BrokerError> {
        if spec != before.spec {
            let update = Update {
                id: live.id,
                from_revision: before.revision,
                spec,
            };
            self.change(|reply| ChangeRequest::UpdateSubscription(update, reply))
                .await?;
        }
        let name = live.name.clone();
        self.look(move |broker| broker.subscription(name.as_str()))
            .await
    }

    /// Deletes a subscription or route, the one that `found` is and no other of its name, and what it has not acked.
    ///
    /// # Errors
    ///
    /// It is gone, or the store refuses writes.
    pub async fn delete_subscription(&self, found: &Found) -> Result<(), BrokerError> {
        let live = self.found(found)?;
        self.change(|reply| ChangeRequest::DeleteSubscription(live.id, reply))
            .await
    }

    /// Lets a paused subscription go on, the one that `found` is and no other of its name.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn resume_subscription(&self, found: &Found) -> Result<(), BrokerError> {
        let live = self.found(found)?;
        live.apply(|state, _| state.resume());
        self.0.supervisor.lanes.resume(&live);
        // Should what fed it have died, it is fed anew.
        self.0.parts.registry.start(Start::Filters(live));
        Ok(())
    }

    /// What was lately said of the failures of a subscription's plugins, the oldest first. It may quote events, so it is for
    /// those who may receive them.
    ///
    /// # Errors
    ///
    /// There is none of that name, or `who` may not consume it.
    pub fn plugin_log(&self, who: &Principal, name: &str) -> Result<Vec<LogLine>, BrokerError> {
        let live = self.live(name)?;
        let spec = live.settings().spec.clone();
        rights::read_log(&self.0.parts.policy, who, &spec)?;
        Ok(live.log_limits.plugins.lines())
    }

    /// What could not be read when that was last tried.
    #[must_use]
    pub fn unreadable(&self) -> Vec<UnreadableInfo> {
        let list = self.0.reader.unreadable().into_iter();
        list.map(|one| UnreadableInfo {
            path: one.path.display().to_string(),
            first: Some(one.first),
            last: Some(one.last),
            damage: one.why.is_damage(),
            reason: Some(with_causes(&*one.why)),
            kept_as: None,
        })
        .collect()
    }

    /// Gives up what is damaged of that in generations, for all subscriptions and for good. With `dead_letters`, those for which
    /// events of it are pending get a letter for each, with what is known. Answers what was given up. Damage of the journal takes a
    /// start that accepts losses.
    ///
    /// # Errors
    ///
    /// The disk failed, or the broker is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, it is still done.
    pub async fn give_up_unreadable(
        &self,
        dead_letters: bool,
    ) -> Result<Vec<UnreadableInfo>, BrokerError> {
        let (done, answer) = oneshot::channel();
        let decision = Decision { dead_letters, done };
        let gone = || {
            match self.0.shutdown.is_cancelled() {
            true => BrokerError::ShuttingDown,
            false => BrokerError::Internal(
                "nothing was decided: the checkpointer ended by a fault of its own; restart the broker".into(),
            ),
        }
        };
        let told = self.0.decide.send(decision).await;
        told.map_err(|_| gone())?;
        let losses = answer.await.map_err(|_| gone())?;
        let losses = losses
            .map_err(|why| BrokerError::Internal(format!("nothing was given up: {why}")))?
            .into_iter();
        Ok(losses
            .map(|loss| UnreadableInfo {
                path: loss.path.display().to_string(),
                first: loss.positions.map(|(first, _)| first),
                last: loss.positions.map(|(_, last)| last),
                damage: true,
                reason: None,
                kept_as: loss.kept_aside.map(|path| path.display().to_string()),
            })
            .collect())
    }

    /// How the broker fares.
    #[must_use]
    pub fn health(&self) -> Health {
        let stopping = self.0.shutdown.is_cancelled();
        Health {
            ready: !stopping && self.conditions().is_ready(),
            stopping,
            conditions: self.conditions().all(),
        }
    }

    /// Where whoever notices that something is wrong says so.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        self.0.spawner.conditions()
    }

    /// Starts what runs beside its caller, so that its end is seen.
    #[must_use]
    pub fn spawner(&self) -> &Spawner {
        &self.0.spawner
    }

    /// What the store takes.
    #[must_use]
    pub fn usage(&self) -> StoreUsage {
        self.0.reader.usage()
    }

    /// Stops: publishes are refused, consumers, routes and lanes end, and what they said is written before the
    /// journal is closed. The caller bounds the time.
    pub async fn shutdown(&self) {
        let inner = self.0.clone();
        inner.parts.inbox.close_publishes();
        inner.shutdown.cancel();
        inner.parts.inbox.close();
        let threads =
            std::mem::take(&mut *inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic was caught and told of in it.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        inner.spawner.ended().await;
    }

    fn live(&self, name: &str) -> Result<Arc<LiveSubscription>, BrokerError> {
        let live = self.0.parts.registry.by_name(name);
        live.ok_or_else(|| BrokerError::NoSubscription(name.to_owned()))
    }

    fn found(&self, found: &Found) -> Result<Arc<LiveSubscription>, BrokerError> {
        let live = self.0.parts.registry.by_id(found.id);
        live.ok_or_else(|| BrokerError::NoSubscription(found.spec.name.to_string()))
    }

    fn catalog(&self) -> std::sync::RwLockReadGuard<'_, Catalog> {
        self.0
            .parts
            .catalog
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Control) -> Result<T, BrokerError> {
        self.0.parts.inbox.ask(make).await
    }

    async fn change<T>(
        &self,
        make: impl FnOnce(Reply<T>) -> ChangeRequest,
    ) -> Result<T, BrokerError> {
        self.ask(|reply| Control::Change(make(reply))).await
    }
}

// Each topic's once, as far as they fit into a line that somebody reads.
fn say_orphans(orphans: &BTreeMap<TopicId, u64>, metrics: &Counters) {
    let events: u64 = orphans.values().sum();
    if events == 0 {
        return;
    }
    metrics.orphaned(events);
    let topics: Vec<String> = orphans
        .iter()
        .take(ORPHANS_NAMED_MAX)
        .map(|(topic, events)| format!("{topic}: {events}"))
        .collect();
    tracing::error!(events, topics = orphans.len(), first = ?topics, "events are lost although they are on disk: the loss that was accepted took the creation of their topics, so nobody knows whose they are; they are handed to nobody");
}

fn spawn_thread(
    spawner: &Spawner,
    name: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    spawner.thread(name, run).map_err(StartError::Thread)
}

// Names that a specification brings into being. What was there before stays.
fn check_new_names(
    spec: &SubscriptionSpec,
    before: Option<&SubscriptionSpec>,
) -> Result<(), NameError> {
    if before.is_none() {
        spec.name.check_new()?;
    }
    let known = |topic: &TopicName| {
        before.is_some_and(|before| {
            before.dead_letter_topic() == *topic || before.outputs.values().any(|t| t == topic)
        })
    };
    let topics = spec.outputs.values().chain(&spec.delivery.dead_letter);
    for topic in topics.filter(|topic| !known(topic)) {
        topic.check_new()?;
    }
    let outputs = spec.outputs.keys();
    let known = |name: &&Name| before.is_some_and(|before| before.outputs.contains_key(*name));
    for name in outputs.filter(|name| !known(name)) {
        name.check_new()?;
    }
    Ok(())
}

// What can be said of a specification without looking at anything else.
fn check_spec(spec: &SubscriptionSpec) -> Result<(), String> {
    const FILTERS_MAX: usize = 8;
    const TRANSFORMS_MAX: usize = 8;
    const OUTPUTS_MAX: usize = 256;
    const BACKOFFS_MAX: usize = 64;
    let delivery = &spec.delivery;
    if spec.topics.is_empty() {
        return Err("name at least one topic pattern, such as `orders.>`".into());
    }
    if spec.filters.len() > FILTERS_MAX || spec.transforms.len() > TRANSFORMS_MAX {
        return Err(format!(
            "at most {FILTERS_MAX} filters and {TRANSFORMS_MAX} transforms"
        ));
    }
    if spec.outputs.len() > OUTPUTS_MAX || delivery.backoff_ms.len() > BACKOFFS_MAX {
        return Err(format!(
            "at most {OUTPUTS_MAX} outputs and {BACKOFFS_MAX} times of back-off"
        ));
    }
    if delivery.ack_deadline_ms == 0 {
        return Err("`ack_deadline_ms` must be at least 1".into());
    }
    if delivery.in_flight_events_max == 0 {
        return Err("`in_flight_events_max` must be at least 1".into());
    }
    let dead_letter = spec.dead_letter_topic();
    if spec
        .topics
        .iter()
        .any(|pattern| pattern.as_str() == dead_letter.as_str())
    {
        return Err(format!(
            "its own dead-letter topic `{dead_letter}` is among its topics; use another subscription for it"
        ));
    }
    Ok(())
}
