//! A component that passed every check and can be instantiated: from bytes to [`CheckedComponent`], and what goes with it as long as
//! it is used. Nothing here runs a guest.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::compiled_cache::{Staged, load_made};
use super::compiler::Stop;
use super::counters::Counters;
use super::engine::{Component, Running, places};
use super::error::LoadError;
use super::guest_fault::{Fault, FaultKind};
use super::guest_output::OutputLog;
use super::limits::CompileLimits;
use super::linked_component::LinkedComponent;
use super::shared::Shared;
use crate::domain::{Digest, PluginWorld};

/// A component, compiled and linked.
pub(super) struct CheckedComponent {
    pub(super) digest: Digest,
    pub(super) world: PluginWorld,
    pub(super) linked: LinkedComponent,
    /// As how many instances one of it counts.
    pub(super) places: usize,
    pub(super) counters: Arc<Counters>,
    pub(super) log: Arc<OutputLog>,
    pub(super) shared: Arc<Shared>,
}

impl CheckedComponent {
    /// Takes the compiled form of `bytes` from the cache, or has it made and keeps it there, and checks what it is. Blocks until it
    /// is done, or `stop` says to end, so it belongs on a thread of its own.
    pub(super) fn load(
        shared: &Arc<Shared>,
        digest: Digest,
        bytes: &[u8],
        limits: CompileLimits,
        stop: &Stop,
    ) -> Result<Self, LoadError> {
        let (engine, cache) = (&shared.engine, &shared.cache);
        // Code lies in the memory of the process that makes it, so it never has more.
        let bytes_max = limits.memory_bytes_max;
        if let Some(component) = cache.get(engine, &digest, bytes_max) {
            return Self::link(shared, digest, &component);
        }
        let compile = |staged: io::Result<Staged>| {
            let staged = staged.map_err(LoadError::unwritable)?;
            let compiler = &shared.compiler;
            compiler.compile(engine, bytes, limits, &staged, stop)?;
            Ok(staged)
        };
        let staged = match compile(cache.stage()) {
            // Without what filters let through, a full disk may never be drained.
            Err(LoadError::Unwritable(error)) => {
                tracing::warn!(
                    error,
                    "cannot keep the compiled plugin; the next start compiles it again"
                );
                compile(Staged::in_memory())?
            }
            compiled => compiled?,
        };
        let code = staged.read(bytes_max).map_err(LoadError::unwritable)?;
        // What was just made is sound: the engine has no place for an instance of it.
        let component = load_made(engine, &code).map_err(LoadError::Instance)?;
        let checked = Self::link(shared, digest, &component)?;
        cache.keep(&digest, staged, &code);
        Ok(checked)
    }

    fn link(
        shared: &Arc<Shared>,
        digest: Digest,
        component: &Component,
    ) -> Result<Self, LoadError> {
        let linked = LinkedComponent::link(&shared.engine, component)?;
        let counters = shared.new_counters();
        Ok(Self {
            digest,
            world: linked.world,
            linked,
            places: places(component),
            log: OutputLog::new(&counters),
            counters,
            shared: Arc::clone(shared),
        })
    }

    /// While the answer lives, the epoch advances, and the plugin counts as at work.
    pub(super) fn running(&self) -> Running {
        self.counters.at_work(self.shared.ticker.ticks());
        self.shared.ticker.running()
    }

    /// A call of it is over; guests ran for so long.
    pub(super) fn ran(&self, busy: Duration) {
        self.counters.ran(busy);
        self.counters.at_work(self.shared.ticker.ticks());
    }

    /// Adds a fault to the statistics.
    pub(super) fn count(&self, fault: &Fault) {
        use std::sync::atomic::Ordering;
        match fault.kind {
            FaultKind::Timeout => self.counters.timeouts.fetch_add(1, Ordering::Relaxed),
            FaultKind::Trap | FaultKind::Nonsense => {
                self.counters.traps.fetch_add(1, Ordering::Relaxed)
            }
            FaultKind::Busy => 0,
        };
    }
}

/// Refuses what is no component before any work is done for it.
pub(super) fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes.get(..8) {
        Some(b"\0asm\x0d\0\x01\0") => Ok(()),
        Some(b"\0asm\x01\0\0\0") => Err(LoadError::CoreModule),
        _ => Err(LoadError::NotWasm),
    }
}
