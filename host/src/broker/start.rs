//! The start of a broker: what the store holds is recovered, and every task is made of it and started. Whoever starts one gets its
//! handle. Nothing here runs later; how it ends is in `stop`.

mod error;
mod options;
mod recovered_store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub use error::StartError;
pub use options::BrokerOptions;
pub use recovered_store::RecoveredStore;

use super::checkpoint::checkpointer::{Checkpointer, CheckpointerParts, Decision};
use super::checkpoint::recovery::Recovered;
use super::commit::committer::{self, Committer, CommitterParts, CommitterSettings};
use super::commit::draft::CatalogLimits;
use super::commit::inbox::Inbox;
use super::commit::producer_streams::ProducerStreams;
use super::counters::Counters;
use super::delivery::context::DeliveryContext;
use super::delivery::{TransformCache, dead_letters};
use super::event_log::tail::Log;
use super::folder_watch;
use super::handle::{Broker, Inner};
use super::idle_subscriptions;
use super::matching::lane::LaneParts;
use super::matching::lanes::Lanes;
use super::matching::subscription_supervisor::Supervisor;
use super::matching::unfiltered_router::Router;
use super::plugin_store::files::PluginFiles;
use super::plugin_store::limit_conditions;
use super::plugin_store::store::PluginStore;
use super::plugin_store::uploads::Uploads;
use super::subscriptions::effect_targets::{EffectTargets, Start};
use super::subscriptions::registry::Registry;
use super::subscriptions::resting_subscription::RestingSubscription;
use crate::broker::task_names::{CHECKPOINTER, COMMITTER, ROUTER};
use crate::domain::{Position, SubscriptionId, TopicId};
use crate::locks;
use crate::plugin::Plugins;
use crate::plugin::bundled::BundledPlugin;
use crate::runtime::clock::Clock;
use crate::runtime::executor::{self, ThreadEnd};
use crate::runtime::spawn::Spawner;
use crate::runtime::unfinished::{Unfinished, panicked};
use crate::state::catalog::Catalog;
use crate::store::{Folders, Opened};
use crate::telemetry::conditions::Conditions;

/// Topics without a name that a line of the log tells of.
const ORPHANS_NAMED_MAX: usize = 16;

// What several tasks of a broker share.
struct Common {
    clock: Clock,
    registry: Arc<Registry>,
    log: Log,
    inbox: Arc<Inbox>,
    catalog: Arc<RwLock<Catalog>>,
    metrics: Arc<Counters>,
    spawner: Spawner,
    checkpoint_due: Arc<Notify>,
    shutdown: CancellationToken,
}

// What the tasks that serve others read from.
struct Queues {
    given_up: mpsc::UnboundedReceiver<SubscriptionId>,
    to_start: mpsc::UnboundedReceiver<Start>,
}

impl Broker {
    /// Recovers what the store holds and starts every task. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// What is on disk cannot be understood, or a bundled plugin does not load.
    pub async fn start(
        options: BrokerOptions,
        readable: RecoveredStore,
        plugins: Arc<Plugins>,
        bundled: &[BundledPlugin],
    ) -> Result<Self, StartError> {
        // Refused before anything of the store is changed.
        let files = PluginFiles::open(options.file_system.clone(), &options.plugins_dir);
        let files = files.map_err(StartError::PluginFiles)?;
        let begun = executor::blocking(move || readable.begin()).await;
        let begun = begun.map_err(|unfinished| match unfinished {
            Unfinished::Panicked(panic) => StartError::Fault(panicked(&*panic)),
            Unfinished::Stopped => StartError::Interrupted,
        });
        let (mut opened, mut recovered) = begun??;
        say_recovered(&recovered, opened.clean);
        if let Some(reserved) = &recovered.reserved
            && !planted!(ReservedNotWritten)
        {
            committer::reserve(&mut *opened.journal, reserved).map_err(StartError::Reserve)?;
        }
        let (decide, decisions) = mpsc::channel(1);
        let has_deleted = recovered.has_deleted;
        let (common, queues) = Common::new(&options, &opened, &mut recovered);
        let context = common.context(&options, &plugins);
        let supervisor = Arc::new(Supervisor {
            lanes: Lanes::new(common.lane_parts(&options, &plugins)),
            context: context.clone(),
        });
        let reader = opened.reader.clone();
        let plugins =
            Arc::new(common.plugin_store(&options, plugins, files.beside(reader.folders())));
        let streams = ProducerStreams::new(recovered.producers);
        let at_rest = (recovered.catalog, recovered.next_position);
        let mut threads = Vec::new();
        let writers = common.writers(&options, opened, at_rest, streams.clone(), decisions);
        let started = writers.start(&common, &mut threads);
        let broker = Self(Arc::new(Inner {
            subscription_patterns_max: options.subscription_patterns_max,
            threads: Mutex::new(threads),
            registry: common.registry.clone(),
            log: common.log.clone(),
            inbox: common.inbox.clone(),
            catalog: common.catalog.clone(),
            policy: options.policy.clone(),
            context: context.clone(),
            streams,
            plugins,
            reader,
            decide,
            spawner: common.spawner.clone(),
            shutdown: common.shutdown.clone(),
        }));
        let ready = match started {
            Ok(()) => broker.load_plugins(bundled).await,
            failed => failed,
        };
        if let Err(error) = ready {
            // What runs already ends, and the journal is closed: whoever tries again finds the store free and whole.
            broker.shutdown().await;
            return Err(error);
        }
        if has_deleted {
            // The broker may have ended before they were told.
            broker.forget_events(None).await;
        }
        for live in common.registry.all() {
            // Its deadlines and unwritten dead letters are those that were read from disk.
            if !planted!(NothingArmedAtStart) {
                live.tick();
            }
            supervisor.start(live);
        }
        common.start_tasks(supervisor, context, &broker.0.plugins, queues);
        Ok(broker)
    }

    async fn load_plugins(&self, bundled: &[BundledPlugin]) -> Result<(), StartError> {
        let loaded = self.0.plugins.load_all(bundled).await;
        loaded.map_err(|(name, error)| StartError::Bundled {
            name,
            why: error.to_string(),
        })
    }
}

impl Common {
    fn new(options: &BrokerOptions, opened: &Opened, recovered: &mut Recovered) -> (Self, Queues) {
        let shutdown = CancellationToken::new();
        let inbox = Inbox::new(options.clock.clone());
        let (letters, given_up) = mpsc::unbounded_channel();
        let (starts, to_start) = mpsc::unbounded_channel();
        let effect_targets =
            EffectTargets::new(options.clock.clone(), inbox.clone(), letters, starts);
        let registry = Registry::new(effect_targets, recovered.next_position);
        let subscriptions = std::mem::take(&mut recovered.subscriptions);
        insert_recovered(&registry, subscriptions, recovered);
        let metrics = Arc::new(Counters::registered(&options.metrics));
        say_orphans(&recovered.orphans, &metrics);
        let common = Self {
            clock: options.clock.clone(),
            registry,
            log: Log::new(
                opened.reader.clone(),
                options.tail_bytes,
                recovered.next_position,
            ),
            inbox,
            catalog: Arc::new(RwLock::new(recovered.catalog.clone())),
            metrics,
            spawner: Spawner::new(Conditions::default(), shutdown.clone()),
            checkpoint_due: Arc::new(Notify::new()),
            shutdown,
        };
        (common, Queues { given_up, to_start })
    }

    fn context(&self, options: &BrokerOptions, plugins: &Arc<Plugins>) -> Arc<DeliveryContext> {
        let (catalog, policy) = (self.catalog.clone(), options.policy.clone());
        Arc::new(DeliveryContext {
            registry: self.registry.clone(),
            log: self.log.clone(),
            inbox: self.inbox.clone(),
            catalog: self.catalog.clone(),
            chains: TransformCache::new(plugins.clone(), catalog, policy),
            metrics: self.metrics.clone(),
            spawner: self.spawner.clone(),
            event_bytes_max: options.event_bytes_max,
            delivery_bytes_max: options.delivery_bytes_max,
            policy: options.policy.clone(),
            shutdown: self.shutdown.clone(),
        })
    }

    fn lane_parts(&self, options: &BrokerOptions, plugins: &Arc<Plugins>) -> LaneParts {
        LaneParts {
            registry: self.registry.clone(),
            log: self.log.clone(),
            metrics: self.metrics.clone(),
            plugins: plugins.clone(),
            catalog: self.catalog.clone(),
            policy: options.policy.clone(),
            spawner: self.spawner.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    fn plugin_store(
        &self,
        options: &BrokerOptions,
        plugins: Arc<Plugins>,
        files: PluginFiles,
    ) -> PluginStore {
        PluginStore {
            files,
            uploads: Uploads::new(),
            quotas: options.plugins,
            loaded: plugins,
            catalog: self.catalog.clone(),
            inbox: self.inbox.clone(),
            policy: options.policy.clone(),
            clock: self.clock.clone(),
            spawner: self.spawner.clone(),
        }
    }

    fn writers(
        &self,
        options: &BrokerOptions,
        opened: Opened,
        (catalog, next_position): (Catalog, Position),
        streams: Arc<ProducerStreams>,
        decisions: mpsc::Receiver<Decision>,
    ) -> Writers {
        let (folders, conditions) = (opened.reader.folders(), self.spawner.conditions());
        let checkpointer = Checkpointer::new(CheckpointerParts {
            checkpoints: opened.checkpoints,
            folders: folders.clone(),
            reader: opened.reader,
            log: self.log.clone(),
            registry: self.registry.clone(),
            inbox: self.inbox.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            due: self.checkpoint_due.clone(),
            shutdown: self.shutdown.clone(),
            conditions: conditions.clone(),
            decisions,
        });
        let committer = Committer::new(CommitterParts {
            journal: opened.journal,
            catalog,
            shared: self.catalog.clone(),
            registry: self.registry.clone(),
            log: self.log.clone(),
            inbox: self.inbox.clone(),
            streams,
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            policy: options.policy.clone(),
            checkpoint_due: self.checkpoint_due.clone(),
            conditions: conditions.clone(),
            next_position,
            settings: settings(options),
        });
        Writers {
            folders,
            checkpointer,
            committer,
        }
    }

    // What runs once every subscription has been started.
    fn start_tasks(
        &self,
        supervisor: Arc<Supervisor>,
        context: Arc<DeliveryContext>,
        plugins: &Arc<PluginStore>,
        queues: Queues,
    ) {
        let Queues { given_up, to_start } = queues;
        let (spawner, shutdown) = (&self.spawner, || self.shutdown.clone());
        let catalog = self.catalog.clone();
        let names = move |id: TopicId| locks::read(&catalog).topic_name(id);
        spawner.lasting("supervisor", supervisor.run(to_start));
        let router = Router::new(self.registry.clone(), self.log.clone(), names);
        spawner.lasting(ROUTER, router.run(shutdown()));
        spawner.lasting("timers", self.registry.clone().run_timers(shutdown()));
        let (registry, catalog) = (self.registry.clone(), self.catalog.clone());
        let idle = idle_subscriptions::watch(registry, catalog, self.inbox.clone(), shutdown());
        spawner.lasting("idle subscriptions", idle);
        let conditions = spawner.conditions().clone();
        let limits = limit_conditions::run(plugins.loaded.clone(), conditions, shutdown());
        spawner.lasting("plugin limits", limits);
        let awaited = plugins.clone().load_awaited(shutdown());
        spawner.passing("awaited plugins", awaited, |_| ());
        spawner.lasting(
            "dead letters",
            dead_letters::run(context, given_up, shutdown()),
        );
    }
}

// Who writes to the store, and the store's folder.
struct Writers {
    folders: Arc<Folders>,
    checkpointer: Checkpointer,
    committer: Committer,
}

impl Writers {
    // In threads of their own since they wait for the disk, and beside them who watches that. Those that run are in `threads`, whatever
    // is answered.
    fn start(self, common: &Common, threads: &mut Vec<ThreadEnd>) -> Result<(), StartError> {
        let spawner = &common.spawner;
        let (inbox, shutdown) = (common.inbox.clone(), common.shutdown.clone());
        let watch = folder_watch::watch(self.folders, spawner.clone(), inbox, shutdown);
        spawner.lasting("folder watch", watch);
        let runtime = Handle::current();
        let (checkpointer, committer) = (self.checkpointer, self.committer);
        let committing = spawner.thread(COMMITTER, move || committer.run());
        threads.push(committing.map_err(StartError::Thread)?);
        let checkpointing = spawner.thread(CHECKPOINTER, move || checkpointer.run(&runtime));
        threads.push(checkpointing.map_err(StartError::Thread)?);
        Ok(())
    }
}

// Before anything runs that could checkpoint: what no subscription in the registry asks for is let go.
fn insert_recovered(
    registry: &Registry,
    subscriptions: Vec<(RestingSubscription, bool)>,
    recovered: &Recovered,
) {
    let next_position = recovered.next_position;
    let now = registry.clock.now();
    for (mut resting, routed) in subscriptions {
        resting.wake_at(now, recovered.last_time);
        if routed {
            // The router starts at the end of what was replayed, which is what these have seen.
            let through = Position(next_position.0.saturating_sub(1));
            resting.state.observe(through, std::iter::empty());
        }
        let live = registry.live(resting);
        if routed {
            let _ = registry.followers.join(&live);
        }
        registry.insert(live);
    }
}

fn settings(options: &BrokerOptions) -> CommitterSettings {
    CommitterSettings {
        interval: Duration::from_millis(options.interval_ms),
        checkpoint_at: options.checkpoint_at,
        journal_bytes_max: options.journal_bytes_max,
        limits: CatalogLimits {
            auto_create: options.auto_create_topics,
            recreate_after_ms: options.recreate_after_ms,
            topics: options.topics,
            subscriptions: options.subscriptions,
            specification_bytes: options.specification_bytes,
            plugins: options.plugins,
        },
    }
}

fn say_recovered(recovered: &Recovered, clean: bool) {
    tracing::info!(
        topics = recovered.catalog.topics.len(),
        subscriptions = recovered.subscriptions.len(),
        journal_groups = recovered.groups,
        next_position = %recovered.next_position,
        clean,
        "recovered"
    );
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
    tracing::error!(events, topics = orphans.len(), first_topics = ?topics, "events are lost although they are on disk: the loss that was accepted took the creation of their topics, so nobody knows whose they are; they are handed to nobody");
}
