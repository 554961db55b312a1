//! What an operator sets about plugins: limits per plugin and sizes of the service. Only values and their
//! defaults with the arithmetic; nothing here acts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::runtime::{Clock, Random};

/// Limits that hold for one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// Bytes of linear memory an instance may have, over all its memories. Default 64 MiB: a Rust filter with
    /// 1,024 rules needs 2–4, an interpreter (componentize-py, componentize-js) 20–50.
    pub memory_bytes_max: usize,
    /// Running time that every call gets, however small its batch. Default 50 ms: a garbage collection or a
    /// scheduling hiccup must not look like an endless loop.
    pub call_base: Duration,
    /// Running time a call gets on top for each pair of event and rule in it. Default 20 µs. A call has at most
    /// 32,768 pairs, so the longest allowance is 50 ms + 32,768 × 20 µs = 0.7 s. Measured: a compiled filter
    /// needs 0.02–4 µs for a pair, interpreted JavaScript 14 µs.
    pub call_pair: Duration,
    /// Bytes that one call may hand back to the broker. Default 16 MiB: four times what a call is given.
    pub output_bytes_max: usize,
    /// Bytes of an uploaded component. Default 32 MiB: componentize-py makes 18 MB, componentize-js 12 MB.
    pub module_bytes_max: usize,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 << 20,
            call_base: Duration::from_millis(50),
            call_pair: Duration::from_micros(20),
            output_bytes_max: 16 << 20,
            module_bytes_max: 32 << 20,
        }
    }
}

impl PluginLimits {
    /// Running time for a call on `pairs` pairs of event and rule.
    #[must_use]
    pub fn allowance(&self, pairs: usize) -> Duration {
        let pairs = u32::try_from(pairs).unwrap_or(u32::MAX);
        self.call_base
            .saturating_add(self.call_pair.saturating_mul(pairs))
    }
}

/// Where components are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// In a process of its own: this program, run with [`COMMAND`](super::job::COMMAND).
    Child(PathBuf),
    /// In this process, without limits of memory, and not to be stopped: for programs that lack the command, such as tests.
    InProcess,
}

/// What compiling one component may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct CompileLimits {
    pub(super) memory_bytes_max: u64,
    /// From its turn on.
    pub(super) time: Duration,
}

/// How plugins are compiled and run.
#[derive(Clone, Debug)]
pub struct PluginOptions {
    /// Limits of every plugin that has none of its own.
    pub limits: PluginLimits,
    /// Limits of single plugins, by name (`scrub`) or by name and version (`scrub@3`); the latter goes first.
    pub overrides: BTreeMap<String, PluginLimits>,
    /// Where plugins are compiled.
    pub compiler: Compiler,
    /// How long compiling a component may take, and how long it waits for others before. Default 120 s: 18 MB take 15–20 s on two
    /// idle cores.
    pub compile_timeout: Duration,
    /// Bytes of memory that the process which compiles a component may take. Default 1 GiB: a function of 4.5 MB
    /// takes some 530 MB, 18 MB in 3,000 functions take 160 MB.
    pub compile_memory_bytes_max: u64,
    /// Rules of one filter instance; more make a further instance. Default 1,024.
    pub rules_per_instance_max: usize,
    /// A batch that takes a filter instance long is shared with replicas, further instances with the same rules on threads that
    /// are free, in parts that take at least this long. Default 1 ms: waking another thread takes some 50 µs.
    pub replica_part_min: Duration,
    /// Live instances in the whole process. Each reserves address space (4 GiB, not memory). Default 512. An eighth is for
    /// owners of plugins that have none.
    pub instances_max: usize,
    /// Of these, those of the plugins of one owner. 0, the default: half of them.
    pub owner_instances_max: usize,
    /// Bytes that the memories and tables of all instances may grow to. Default 1 GiB: 256 compiled filters of 4 MiB, or 20
    /// interpreters of 50 MiB. An eighth is for first instances of owners. Never less than one instance may have.
    pub instances_memory_bytes_max: usize,
    /// Of these, those of the plugins of one owner. 0, the default: half of them. Never less than one instance may have.
    pub owner_memory_bytes_max: usize,
    /// Threads that run guests. Default: the number of cores, at least 2, so that compiling a plugin and running
    /// one never wait for each other.
    pub worker_threads: usize,
    /// Folder for compiled plugins. Created if missing, readable by its owner only.
    pub cache_dir: PathBuf,
    /// How long a plugin or rule that keeps failing is left alone the first time; doubles from there.
    /// Default 1 s.
    pub pause_min: Duration,
    /// The longest it is left alone. Default 60 s.
    pub pause_max: Duration,
    /// The time that transforms see.
    pub clock: Clock,
    /// Where transforms get random numbers from, and the cache its key.
    pub random: Random,
}

impl Default for PluginOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            limits: PluginLimits::default(),
            overrides: BTreeMap::new(),
            compiler: Compiler::InProcess,
            compile_timeout: Duration::from_secs(120),
            compile_memory_bytes_max: 1 << 30,
            rules_per_instance_max: 1024,
            replica_part_min: Duration::from_millis(1),
            instances_max: 512,
            owner_instances_max: 0,
            instances_memory_bytes_max: 1 << 30,
            owner_memory_bytes_max: 0,
            worker_threads: cores.max(2),
            cache_dir: PathBuf::from("plugin-cache"),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
            clock: Clock::start(),
            random: Random::of_system(),
        }
    }
}

impl PluginOptions {
    /// The limits of the plugin called `label` (`name` or `name@version`).
    #[must_use]
    pub fn limits_for(&self, label: &str) -> &PluginLimits {
        let name = label.split_once('@').map_or(label, |(name, _)| name);
        self.overrides
            .get(label)
            .or_else(|| self.overrides.get(name))
            .unwrap_or(&self.limits)
    }

    /// The widest limits that any plugin has.
    #[must_use]
    pub(super) fn widest(&self) -> PluginLimits {
        self.overrides
            .values()
            .fold(self.limits.clone(), |widest, limits| PluginLimits {
                memory_bytes_max: widest.memory_bytes_max.max(limits.memory_bytes_max),
                call_base: widest.call_base.max(limits.call_base),
                call_pair: widest.call_pair.max(limits.call_pair),
                output_bytes_max: widest.output_bytes_max.max(limits.output_bytes_max),
                module_bytes_max: widest.module_bytes_max.max(limits.module_bytes_max),
            })
    }
}
