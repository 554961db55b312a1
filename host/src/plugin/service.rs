//! The plugin service, as the broker sees it: components go in, filter groups and transformers come out. Owns the engine and the
//! threads that run guests. Nothing here runs a guest itself, but for trying a configuration.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tracing::{Instrument as _, error_span};

use super::checked_component::{CheckedComponent, check_kind};
use super::compile_queue::CompileQueue;
use super::compiled_cache::ArtifactCache;
use super::counters::PluginStats;
use super::engine::{self, Ticker};
use super::error::{CONFIG_BYTES_MAX, ConfigureError, LoadError, PluginStartError};
use super::filter_group::{FilterGroup, finished};
use super::guest::Guest;
use super::guest_setup::GuestSetup;
use super::instance_budget::{Bounds, Held, Holder, InstanceBudget, ReachedLimit, Tenure};
use super::limits::{CompileLimits, PluginLimits, PluginOptions};
use super::shared::Shared;
use super::transformer::Transformer;
use crate::domain::{Digest, Owner, PluginWorld};
use crate::locks::lock;
use crate::runtime::executor::Workers;

/// The plugin service: one engine, one epoch thread, and the threads that run guests. Dropping it stops them
/// without waiting, also from async code; groups and transformers that outlive it answer that it stopped.
pub struct Plugins {
    // The first to go, before what they work with.
    workers: Workers,
    options: PluginOptions,
    pub(super) shared: Arc<Shared>,
    registry: Mutex<Registry>,
    compiler: CompileQueue,
}

#[derive(Default)]
struct Registry {
    loaded: BTreeMap<Digest, Arc<CheckedComponent>>,
    /// Somebody is about to load these, one time or another.
    awaited: HashSet<Digest>,
}

/// A plugin that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedPlugin {
    /// Its address: SHA-256 of its bytes.
    pub digest: Digest,
    /// What it is for.
    pub world: PluginWorld,
}

impl Plugins {
    /// Starts the service.
    ///
    /// # Errors
    ///
    /// The engine, the threads or the folder for compiled plugins cannot be had.
    pub fn start(options: PluginOptions) -> Result<Arc<Self>, PluginStartError> {
        let engine = engine::engine(&options)?;
        let cache = ArtifactCache::open(&options.cache_dir, &engine, &options.random).map_err(
            |source| PluginStartError::Cache {
                path: options.cache_dir.clone(),
                source,
            },
        )?;
        let worker_threads = options.worker_threads.max(1);
        let workers =
            Workers::start("plugin", worker_threads).map_err(PluginStartError::Threads)?;
        let shared = Shared {
            ticker: Ticker::start(&engine)?,
            engine,
            budget: InstanceBudget::new(Bounds::of(&options)),
            worker_threads,
            clock: options.clock.clone(),
            random: options.random.clone(),
            compiler: options.compiler.clone(),
            cache,
            counters: Mutex::default(),
        };
        Ok(Arc::new(Self {
            workers,
            options,
            shared: Arc::new(shared),
            registry: Mutex::default(),
            compiler: CompileQueue::new(),
        }))
    }

    /// The address of a component, from a thread that may take the time to read all of it.
    ///
    /// # Errors
    ///
    /// The service is stopping.
    pub async fn digest(&self, bytes: Bytes) -> Result<Digest, LoadError> {
        let digest = move || Digest(Sha256::digest(&bytes).into());
        let task = self.workers.handle().blocking(digest);
        finished(task).await.ok_or(LoadError::Stopped)
    }

    /// Checks and compiles a component and keeps it for use. The same bytes again cost nothing. `name` is that of the
    /// plugin, for its limits.
    ///
    /// # Errors
    ///
    /// See [`LoadError`]; every message says what to do about it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, nothing is loaded, and compiling is stopped.
    pub async fn load(&self, name: &str, bytes: Bytes) -> Result<LoadedPlugin, LoadError> {
        let digest = self.digest(bytes.clone()).await?;
        self.load_while_holding(name, digest, bytes, ()).await
    }

    /// The same for bytes whose address is known. `held` is kept until nothing works on them any more, which may be a moment longer
    /// than anybody waits.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub async fn load_while_holding(
        &self,
        name: &str,
        digest: Digest,
        bytes: Bytes,
        held: impl Send + 'static,
    ) -> Result<LoadedPlugin, LoadError> {
        let max = self.options.limits_for(name).module_bytes_max;
        if bytes.len() > max {
            return Err(LoadError::TooLarge {
                bytes: bytes.len(),
                max,
            });
        }
        check_kind(&bytes)?;
        if let Some(known) = self.get(&digest) {
            return Ok(known.describe());
        }
        let limits = CompileLimits {
            memory_bytes_max: self.options.compile_memory_bytes_max,
            time: self.options.compile_timeout,
        };
        let known = || self.get(&digest);
        let compiled =
            self.compiler
                .compile(&self.shared, digest, bytes, limits, Box::new(held), known);
        let compiled = compiled.instrument(error_span!("compile", plugin = %name, %digest));
        Ok(self.keep(compiled.await?).describe())
    }

    /// Says whether somebody is about to load the plugin with these bytes, one time or another: who wants to use it may wait for that.
    pub fn await_it(&self, digest: Digest, is_awaited: bool) {
        let mut registry = lock(&self.registry);
        match is_awaited {
            true => registry.awaited.insert(digest),
            false => registry.awaited.remove(&digest),
        };
    }

    /// Whether somebody is, and it is not loaded.
    #[must_use]
    pub fn is_awaited(&self, digest: &Digest) -> bool {
        lock(&self.registry).awaited.contains(digest)
    }

    /// Whether the plugin with these bytes is loaded.
    #[must_use]
    pub fn is_loaded(&self, digest: &Digest) -> bool {
        self.get(digest).is_some()
    }

    /// Stops what is being compiled and compiles nothing more: what runs goes on, and who wants to load something is told that the
    /// service stops, unless that is loaded.
    pub fn stop_compiling(&self) {
        self.compiler.stop();
    }

    /// Forgets a plugin, its compiled form on disk included. Groups and transformers that use it keep it as long as they live.
    /// Blocks while it removes files.
    pub fn unload(&self, digest: &Digest) {
        let mut registry = lock(&self.registry);
        registry.awaited.remove(digest);
        let unloaded = registry.loaded.remove(digest);
        drop(registry);
        drop(unloaded);
        self.shared.cache.remove(digest);
    }

    /// Removes the compiled forms on disk of all plugins but these, which earlier brokers left. Blocks, and nothing may be
    /// compiled meanwhile.
    pub fn keep_only(&self, kept: &HashSet<Digest>) {
        self.shared.cache.keep_only(kept);
    }

    /// Runs the plugin's `configure` on `config` in an instance made for it, within the limits that it will be used with. `label`
    /// as for [`filter_group`](Self::filter_group).
    ///
    /// # Errors
    ///
    /// [`ConfigureError::Refused`] has the plugin's own message.
    pub async fn check(
        &self,
        digest: &Digest,
        world: PluginWorld,
        config: &str,
        label: &str,
    ) -> Result<(), ConfigureError> {
        let plugin = self.find(digest, world)?;
        check_config(config)?;
        let config = config.to_owned();
        let limits = Arc::new(self.options.limits_for(label).clone());
        let account = self.shared.budget.account(label, digest);
        let task = self.workers.handle().spawn(async move {
            let mut guest = Guest::new(&plugin, &limits, &account, Tenure::Passing).await?;
            guest
                .configure(&config)
                .await?
                .map_err(ConfigureError::Refused)?;
            Ok(())
        });
        finished(task).await.unwrap_or(Err(ConfigureError::Stopped))
    }

    /// A group without rules on the filter `digest`. `label` is the plugin's name for people and for its limits:
    /// `name@version`.
    ///
    /// # Errors
    ///
    /// The plugin is not loaded or not a filter.
    pub fn filter_group(
        &self,
        digest: &Digest,
        label: &str,
    ) -> Result<FilterGroup, ConfigureError> {
        let plugin = self.find(digest, PluginWorld::Filter)?;
        Ok(FilterGroup::new(
            self.setup(plugin, label),
            self.workers.handle().clone(),
        ))
    }

    /// The same, for the rules of many who do not know of each other. It never looks for who is to blame when a call fails: who
    /// was asked about is undecided and is to go on in a group of [`filter_group`](Self::filter_group), while the others
    /// go on in this one.
    ///
    /// # Errors
    ///
    /// As for [`filter_group`](Self::filter_group).
    pub fn common_filter_group(
        &self,
        digest: &Digest,
        label: &str,
    ) -> Result<FilterGroup, ConfigureError> {
        let plugin = self.find(digest, PluginWorld::Filter)?;
        let setup = GuestSetup {
            hands_over: true,
            ..self.setup(plugin, label)
        };
        Ok(FilterGroup::new(setup, self.workers.handle().clone()))
    }

    /// The transform `digest`, configured for `subscription`, as log lines name it. `label` as for
    /// [`filter_group`](Self::filter_group).
    ///
    /// # Errors
    ///
    /// The plugin is not loaded, not a transform, or does not take the configuration.
    pub async fn transformer(
        &self,
        digest: &Digest,
        config: &str,
        label: &str,
        subscription: &str,
    ) -> Result<Transformer, ConfigureError> {
        let plugin = self.find(digest, PluginWorld::Transform)?;
        check_config(config)?;
        let setup = self.setup(plugin, label);
        Transformer::new(
            setup,
            config.into(),
            subscription.into(),
            self.options.worker_threads,
            self.workers.handle().clone(),
        )
        .await
    }

    /// The limits of the plugin called `label` (`name` or `name@version`).
    #[must_use]
    pub fn limits_for(&self, label: &str) -> &PluginLimits {
        self.options.limits_for(label)
    }

    /// Metrics and lines of output call the plugin with these bytes so from now on, whatever it is used as.
    pub fn call_it(&self, digest: &Digest, label: &str) {
        if let Some(plugin) = self.get(digest) {
            plugin.counters.set_label(label);
        }
    }

    /// From now on what plugins of this name hold is on this owner's account; without one it is on the broker's.
    pub fn belongs(&self, name: &str, digest: Digest, owner: Option<&Owner>) {
        self.shared.budget.belongs(name, digest, owner);
    }

    /// There is no plugin of this name with these bytes any more.
    pub fn belongs_no_more(&self, name: &str, digest: &Digest) {
        self.shared.budget.belongs_no_more(name, digest);
    }

    /// Which owners' plugins hold instances and memory, and how much; the one with the most memory first.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        self.shared.budget.holders()
    }

    /// What all plugins hold, and the most that they may.
    #[must_use]
    pub fn held(&self) -> (Held, Held) {
        let budget = &self.shared.budget;
        let bounds = budget.bounds();
        let most = Held {
            instances: bounds.instances_max,
            memory_bytes: bounds.memory_bytes_max,
        };
        (budget.held(), most)
    }

    /// What all versions of the plugin `name` hold.
    #[must_use]
    pub fn held_by(&self, name: &str) -> Held {
        self.shared.budget.held_by(name)
    }

    /// What the plugins of one owner may hold.
    #[must_use]
    pub fn share(&self) -> Held {
        let bounds = self.shared.budget.bounds();
        Held {
            instances: bounds.owner_instances_max,
            memory_bytes: bounds.owner_memory_bytes_max,
        }
    }

    /// Bounds of what plugins may hold that refused something in the last ten seconds.
    #[must_use]
    pub fn reached_limits(&self) -> Vec<ReachedLimit> {
        self.shared.budget.reached()
    }

    /// Completes when such a bound has refused something since this last completed. For one caller.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn limit_reached(&self) {
        self.shared.budget.refused().await;
    }

    /// How every loaded plugin fares, by digest.
    #[must_use]
    pub fn stats(&self) -> Vec<PluginStats> {
        let registry = lock(&self.registry);
        registry
            .loaded
            .values()
            .map(|plugin| plugin.counters.snapshot(plugin.digest))
            .collect()
    }

    fn get(&self, digest: &Digest) -> Option<Arc<CheckedComponent>> {
        lock(&self.registry).loaded.get(digest).cloned()
    }

    fn keep(&self, loaded: Arc<CheckedComponent>) -> Arc<CheckedComponent> {
        let mut registry = lock(&self.registry);
        registry.awaited.remove(&loaded.digest);
        let entry = registry.loaded.entry(loaded.digest);
        Arc::clone(entry.or_insert(loaded))
    }

    fn find(
        &self,
        digest: &Digest,
        wanted: PluginWorld,
    ) -> Result<Arc<CheckedComponent>, ConfigureError> {
        let registry = lock(&self.registry);
        let plugin = match registry.loaded.get(digest) {
            Some(plugin) => Arc::clone(plugin),
            None if registry.awaited.contains(digest) => {
                return Err(ConfigureError::NotYetLoaded(*digest));
            }
            None => return Err(ConfigureError::NotLoaded(*digest)),
        };
        drop(registry);
        if plugin.world != wanted {
            return Err(ConfigureError::WrongWorld {
                is: plugin.world.word(),
                wanted: wanted.word(),
            });
        }
        Ok(plugin)
    }

    fn setup(&self, plugin: Arc<CheckedComponent>, label: &str) -> GuestSetup {
        plugin.counters.set_first_label(label);
        GuestSetup {
            account: self.shared.budget.account(label, &plugin.digest),
            plugin,
            limits: Arc::new(self.options.limits_for(label).clone()),
            label: label.to_owned(),
            rule_names: Arc::default(),
            hands_over: false,
            rules_per_instance_max: self.options.rules_per_instance_max,
            replica_part_min: self.options.replica_part_min,
            pause_min: self.options.pause_min,
            pause_max: self.options.pause_max,
        }
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        self.shared.budget.close();
    }
}

impl CheckedComponent {
    fn describe(&self) -> LoadedPlugin {
        LoadedPlugin {
            digest: self.digest,
            world: self.world,
        }
    }
}

fn check_config(config: &str) -> Result<(), ConfigureError> {
    if config.len() > CONFIG_BYTES_MAX {
        return Err(ConfigureError::TooLong(config.len()));
    }
    Ok(())
}
