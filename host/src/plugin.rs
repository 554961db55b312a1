//! Plugins: everything that touches wasmtime. A plugin is a component that somebody uploaded; it is checked and
//! compiled once ([`Plugins::load`]), then runs as part of a [`FilterGroup`] or a [`Transformer`] on threads of
//! its own. Guests are hostile: time, memory and output are bounded, every answer is checked, and a failure is
//! pinned to the rule and the event that caused it. What is delivered to whom is not decided here.

mod abi;
mod budget;
pub mod bundled;
mod cache;
mod compiling;
mod culprits;
mod engine;
mod filter;
mod guest;
mod loaded;
mod lower;
mod options;
mod output;
mod pause;
mod quarantine;
mod ration;
mod replica;
mod rules;
mod shard;
mod stats;
mod transform;
mod wasi;
mod window;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Handle, Runtime};

use budget::{Bounds, Budget, Stay};
use cache::ArtifactCache;
use compiling::Compiler;
use engine::Ticker;
use filter::{Kit, finished};
use guest::{Fault, FaultKind, Guest};
use loaded::{Loaded, Shared, check_kind};

pub use budget::{Held, Holder, PluginLimit, ReachedLimit};
pub use filter::{Evaluation, FilterFailure, FilterGroup, InputEvent, RuleKey, Undecided};
pub use options::{PluginLimits, PluginOptions};
pub use stats::PluginStats;
pub use transform::{Outcome, OutputEvent, TransformFailure, Transformer};

use crate::domain::{Digest, Owner, PluginWorld};

// Bytes of a configuration: it travels in a subscription's specification and is kept in the catalog.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The plugin service: one engine, one epoch thread, and the threads that run guests. Dropping it stops them
/// without waiting, also from async code; groups and transformers that outlive it answer that it stopped.
pub struct Plugins {
    options: PluginOptions,
    shared: Arc<Shared>,
    registry: Mutex<BTreeMap<Digest, Arc<Loaded>>>,
    compiler: Compiler,
    // Some until dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

/// A plugin that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedPlugin {
    /// Its address: SHA-256 of its bytes.
    pub digest: Digest,
    /// What it is for.
    pub world: PluginWorld,
}

/// Why the plugin service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PluginStartError {
    /// wasmtime does not accept its settings on this machine.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Engine(String),
    /// No threads.
    #[error("cannot start the plugin threads")]
    Threads(#[source] std::io::Error),
    /// The folder for compiled plugins.
    #[error("cannot use {} for compiled plugins", path.display())]
    Cache {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: std::io::Error,
    },
}

/// Why bytes are refused as a plugin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Larger than the broker accepts.
    #[error(
        "the component has {bytes} bytes; at most {max} are accepted (plugins.module_bytes_max; \
         plugins.override.NAME.module_bytes_max for one plugin)"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not WebAssembly.
    #[error("this is not a WebAssembly component: it does not start with one's magic number")]
    NotWasm,
    /// A core module.
    #[error(
        "this is a core WebAssembly module; a plugin is a component: build for the target wasm32-wasip2, or run \
         `wasm-tools component new`"
    )]
    CoreModule,
    /// Cranelift or its validation says no.
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    /// Compiling took too long. It goes on, so that a later upload of the same bytes may succeed.
    #[error("compiling took longer than {} s; upload it again later", .0.as_secs())]
    CompileTimeout(Duration),
    /// Others are being compiled, and take long.
    #[error("other plugins are being compiled; upload it again later")]
    Busy,
    /// The compiler panicked, as it would again.
    #[error("compiling it failed by a fault of the broker's own; its log says more")]
    Panicked,
    /// No thread for it.
    #[error("no thread can be started to compile it")]
    Thread(#[source] Arc<std::io::Error>),
    /// It exports neither world.
    #[error(
        "the component exports neither tidegate:plugin/filtering@0.1.0 nor tidegate:plugin/transforming@0.1.0; it \
         exports {}", list(.0)
    )]
    NoWorld(Vec<String>),
    /// It exports both worlds.
    #[error("the component exports both filtering and transforming; make it two plugins")]
    BothWorlds,
    /// An export is missing or has another type.
    #[error("the export {name} {problem}")]
    Export {
        /// Interface and function.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It imports what no plugin gets.
    #[error(
        "the component imports {}; a plugin may import tidegate:plugin/types@0.1.x and interfaces of WASI 0.2, \
         nothing else", list(.0)
    )]
    Imports(Vec<String>),
    /// wasmtime cannot link it.
    #[error("the component cannot be linked: {0}")]
    Link(String),
    /// The service is stopping.
    #[error("the plugin service is stopping")]
    Stopped,
}

/// Why a plugin does not take a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// Not loaded.
    #[error("plugin {0} is not loaded")]
    NotLoaded(Digest),
    /// A filter was to be used as a transform, or the other way round.
    #[error("the plugin is a {is}, not a {wanted}")]
    WrongWorld {
        /// What it is.
        is: &'static str,
        /// What it was to be.
        wanted: &'static str,
    },
    /// Too long.
    #[error("the configuration has {0} bytes; at most {CONFIG_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// The plugin's own message.
    #[error("{0}")]
    Refused(String),
    /// The plugin failed on it.
    #[error("the plugin failed on its configuration: {0}")]
    Fault(String),
    /// The broker has no instance left. Later it may.
    #[error("{0}")]
    Busy(String),
    /// The service is stopping.
    #[error("the plugin service is stopping")]
    Stopped,
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
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.worker_threads.max(1))
            .thread_name("plugin")
            .build()
            .map_err(PluginStartError::Threads)?;
        let shared = Shared {
            ticker: Ticker::start(&engine)?,
            engine,
            budget: Budget::new(Bounds::of(&options)),
            worker_threads: options.worker_threads.max(1),
            clock: options.clock.clone(),
            random: options.random.clone(),
            cache,
            counters: Mutex::default(),
        };
        Ok(Arc::new(Self {
            options,
            shared: Arc::new(shared),
            registry: Mutex::new(BTreeMap::new()),
            compiler: Compiler::new(),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        }))
    }

    /// The address of a component, from a thread that may take the time to read all of it.
    ///
    /// # Errors
    ///
    /// The service is stopping.
    pub async fn digest(&self, bytes: Bytes) -> Result<Digest, LoadError> {
        let task = self
            .handle
            .spawn_blocking(move || Digest(Sha256::digest(&bytes).into()));
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
    /// Dropped before completion, compiling goes on; uploading the same bytes again then takes its result.
    pub async fn load(&self, name: &str, bytes: Bytes) -> Result<LoadedPlugin, LoadError> {
        let digest = self.digest(bytes.clone()).await?;
        self.load_while_holding(name, digest, bytes, ()).await
    }

    /// The same for bytes whose address is known. `held` is kept as long as compiling takes, even if that is longer than
    /// anybody waits.
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
        let limit = self.options.compile_timeout;
        let known = || self.get(&digest);
        let compiled =
            self.compiler
                .compile(&self.shared, digest, bytes, limit, Box::new(held), known);
        Ok(self.keep(compiled.await?).describe())
    }

    /// Forgets a plugin, its compiled form on disk included. Groups and transformers that use it keep it as long as they live.
    /// Blocks while it removes files.
    pub fn unload(&self, digest: &Digest) {
        if let Ok(mut registry) = self.registry.lock() {
            registry.remove(digest);
        }
        self.shared.cache.remove(digest);
    }

    /// Removes the compiled forms on disk of all plugins but these, which earlier brokers left. Blocks, and nothing may be
    /// compiled meanwhile.
    pub fn keep_only(&self, kept: &HashSet<Digest>) {
        self.shared.cache.keep_only(kept);
    }

    /// Runs the plugin's `configure` on `config` in an instance made for it. `label` as for
    /// [`filter_group`](Self::filter_group).
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
        // The name it will be used under is not known here, so its limits are not either.
        let limits = Arc::new(self.options.widest());
        let account = self.shared.budget.account(label, digest);
        let task = self.handle.spawn(async move {
            let mut guest = Guest::new(&plugin, &limits, &account, Stay::Passing).await?;
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
    pub async fn filter_group(
        &self,
        digest: &Digest,
        label: &str,
    ) -> Result<FilterGroup, ConfigureError> {
        let plugin = self.find(digest, PluginWorld::Filter)?;
        Ok(FilterGroup::new(
            self.kit(plugin, label),
            self.handle.clone(),
        ))
    }

    /// The same, for the rules of many who do not know of each other. It never looks for who is to blame when a call fails: who
    /// was asked about is undecided and is to go on in a group of [`filter_group`](Self::filter_group), while the others
    /// go on in this one.
    ///
    /// # Errors
    ///
    /// As for [`filter_group`](Self::filter_group).
    pub async fn common_filter_group(
        &self,
        digest: &Digest,
        label: &str,
    ) -> Result<FilterGroup, ConfigureError> {
        let plugin = self.find(digest, PluginWorld::Filter)?;
        let kit = Kit {
            hands_over: true,
            ..self.kit(plugin, label)
        };
        Ok(FilterGroup::new(kit, self.handle.clone()))
    }

    /// The transform `digest`, configured. `label` as for [`filter_group`](Self::filter_group).
    ///
    /// # Errors
    ///
    /// The plugin is not loaded, not a transform, or does not take the configuration.
    pub async fn transformer(
        &self,
        digest: &Digest,
        config: &str,
        label: &str,
    ) -> Result<Transformer, ConfigureError> {
        let plugin = self.find(digest, PluginWorld::Transform)?;
        check_config(config)?;
        let kit = self.kit(plugin, label);
        Transformer::new(
            kit,
            config.into(),
            self.options.worker_threads,
            self.handle.clone(),
        )
        .await
    }

    /// The limits of the plugin called `label` (`name` or `name@version`).
    #[must_use]
    pub fn limits_for(&self, label: &str) -> &PluginLimits {
        self.options.limits_for(label)
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
        let Ok(registry) = self.registry.lock() else {
            return Vec::new();
        };
        registry
            .values()
            .map(|plugin| plugin.counters.snapshot(plugin.digest))
            .collect()
    }

    fn get(&self, digest: &Digest) -> Option<Arc<Loaded>> {
        self.registry.lock().ok()?.get(digest).cloned()
    }

    fn keep(&self, loaded: Arc<Loaded>) -> Arc<Loaded> {
        match self.registry.lock() {
            Ok(mut registry) => Arc::clone(registry.entry(loaded.digest).or_insert(loaded)),
            Err(_) => loaded,
        }
    }

    fn find(&self, digest: &Digest, wanted: PluginWorld) -> Result<Arc<Loaded>, ConfigureError> {
        let plugin = self.get(digest).ok_or(ConfigureError::NotLoaded(*digest))?;
        if plugin.world != wanted {
            return Err(ConfigureError::WrongWorld {
                is: word(plugin.world),
                wanted: word(wanted),
            });
        }
        Ok(plugin)
    }

    fn kit(&self, plugin: Arc<Loaded>, label: &str) -> Kit {
        plugin.counters.set_label(label);
        Kit {
            account: self.shared.budget.account(label, &plugin.digest),
            plugin,
            limits: Arc::new(self.options.limits_for(label).clone()),
            label: label.to_owned(),
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
        if let Some(runtime) = self.runtime.take() {
            // Not waiting: this may be async code.
            runtime.shutdown_background();
        }
    }
}

impl Loaded {
    fn describe(&self) -> LoadedPlugin {
        LoadedPlugin {
            digest: self.digest,
            world: self.world,
        }
    }
}

impl LoadError {
    /// Whether it says nothing of the plugin, so that the same bytes may be taken later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::CompileTimeout(_) | Self::Busy | Self::Thread(_) | Self::Stopped
        )
    }
}

impl ConfigureError {
    /// Whether it says nothing of the plugin or the configuration and goes away by itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Stopped)
    }
}

impl From<Fault> for ConfigureError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Busy => Self::Busy(fault.reason),
            FaultKind::Trap | FaultKind::Timeout | FaultKind::Nonsense => Self::Fault(fault.reason),
        }
    }
}

impl From<ConfigureError> for Fault {
    fn from(error: ConfigureError) -> Self {
        let kind = match error {
            ConfigureError::Busy(_) | ConfigureError::Stopped => FaultKind::Busy,
            _ => FaultKind::Trap,
        };
        Self {
            kind,
            reason: error.to_string(),
        }
    }
}

fn check_config(config: &str) -> Result<(), ConfigureError> {
    if config.len() > CONFIG_BYTES_MAX {
        return Err(ConfigureError::TooLong(config.len()));
    }
    Ok(())
}

fn word(world: PluginWorld) -> &'static str {
    match world {
        PluginWorld::Filter => "filter",
        PluginWorld::Transform => "transform",
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "nothing".into()
    } else {
        names.join(", ")
    }
}
