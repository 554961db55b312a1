//! What all plugins share: the engine, threads and places for instances, the compiler with its cache, and the counters of those that are
//! there. Nothing here loads a component or runs one.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::compiled_cache::ArtifactCache;
use super::counters::Counters;
use super::engine::{Engine, Ticker};
use super::instance_budget::InstanceBudget;
use super::limits::Compiler;
use crate::locks::lock;
use crate::runtime::{Clock, Random};

/// What all plugins share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) ticker: Ticker,
    /// What instances may be had.
    pub(super) budget: Arc<InstanceBudget>,
    /// Threads that run guests.
    pub(super) worker_threads: usize,
    pub(super) compiler: Compiler,
    pub(super) cache: ArtifactCache,
    /// What transforms may see of the world.
    pub(super) clock: Clock,
    pub(super) random: Random,
    /// Of all plugins that are still there.
    pub(super) counters: Mutex<Vec<Weak<Counters>>>,
}

impl Shared {
    /// Threads that each plugin may use, when those that were at work a moment ago share them evenly.
    pub(super) fn threads_each(&self) -> usize {
        let now = self.ticker.ticks();
        let plugins = self.counters();
        let at_work = plugins.iter().filter_map(Weak::upgrade);
        let at_work = at_work.filter(|counters| counters.is_at_work(now)).count();
        self.worker_threads / at_work.max(1)
    }

    /// Counters of a plugin that is new.
    pub(super) fn new_counters(&self) -> Arc<Counters> {
        let counters = Arc::default();
        let mut plugins = self.counters();
        plugins.retain(|plugin| plugin.strong_count() > 0);
        plugins.push(Arc::downgrade(&counters));
        counters
    }

    fn counters(&self) -> MutexGuard<'_, Vec<Weak<Counters>>> {
        lock(&self.counters)
    }
}
