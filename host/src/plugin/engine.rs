//! The one wasmtime engine and the thread that advances its epoch. Every setting that decides what a guest can
//! do or how fast it runs is here; nothing here knows events or rules.

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::{Config, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::error::PluginStartError;
use super::limits::PluginOptions;

pub(super) use wasmtime::Engine;
pub(super) use wasmtime::component::Component;

/// Time between two ticks of the epoch. Guests yield to each other at ticks, and allowances are counted in them.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Elements of one table: a componentize-py guest has about 20,000.
pub(super) const TABLE_ELEMENTS_MAX: usize = 65_536;

/// What one of them takes: a pointer.
pub(super) const TABLE_ELEMENT_BYTES: usize = 8;

// Memories and tables of a component that counts as one instance in the pool.
const PLACE_MEMORIES: u32 = 1;
const PLACE_TABLES: u32 = 4;
pub(super) const CORE_INSTANCES_MAX: u32 = 128;
// Those of any component.
const MEMORIES_MAX: u32 = 4;
const TABLES_MAX: u32 = 16;

// Ticks without a running guest after which the ticker sleeps until there is one.
const IDLE_TICKS_MAX: u32 = 64;

/// An engine with a pooling allocator, or without one where the address space for it cannot be had.
pub(super) fn engine(options: &PluginOptions) -> Result<Engine, PluginStartError> {
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options)));
    match Engine::new(&config) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "no address space for a pool of plugin instances; making each on demand, which is slower"
            );
            config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
            Engine::new(&config).map_err(|error| PluginStartError::Engine(format!("{error:#}")))
        }
    }
}

/// An engine for compiling alone.
pub(super) fn compiling_engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// Changes with the wasmtime version, the settings of the engine and the features of the processor.
pub(super) fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn config() -> Config {
    let mut config = Config::new();
    config
        // 149 ns instead of 541 ns for a call that does nothing; no guest here uses component-model async.
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        // Filters must give the same answer on every machine and every time.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_memory64(false)
        // Of a trap's backtrace the names of functions are shown, which need no map of addresses.
        .generate_address_map(false);
    config
}

fn pool(options: &PluginOptions) -> PoolingAllocationConfig {
    let instances = u32::try_from(options.instances_max)
        .unwrap_or(u32::MAX)
        .max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_stacks(instances)
        // A toolchain's component has one memory and two tables in three or four core modules; an interpreter
        // linked from many libraries has more modules. Only memories and tables cost address space; what has many of them
        // counts as several instances, so that whoever has a place finds all that its component needs.
        .total_memories(instances.saturating_mul(PLACE_MEMORIES))
        .total_tables(instances.saturating_mul(PLACE_TABLES))
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_tables_per_module(4)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(options.widest().memory_bytes_max.next_multiple_of(64 << 10));
    pool
}

/// As how many instances one of this component counts.
pub(super) fn places(component: &Component) -> usize {
    // Every component that can be uploaded says so; what does not has as much as any may have.
    let most = MEMORIES_MAX.max(TABLES_MAX.div_ceil(PLACE_TABLES));
    let places = component.resources_required().map_or(most, |required| {
        let tables = required.num_tables.div_ceil(PLACE_TABLES);
        required.num_memories.div_ceil(PLACE_MEMORIES).max(tables)
    });
    places.max(1) as usize
}

/// Handle to the thread that advances the epoch. The thread ends when this is dropped.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    ticks: AtomicU64,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// While one exists, the epoch advances.
pub(super) struct Running(Arc<Shared>);

impl Ticker {
    /// Starts the thread.
    pub(super) fn start(engine: &Engine) -> Result<Self, PluginStartError> {
        let shared = Arc::new(Shared::default());
        let ticking = Arc::clone(&shared);
        // Weak, so that a forgotten ticker cannot keep the engine's address space.
        let engine = engine.weak();
        let thread = std::thread::Builder::new()
            .name("plugin-epoch".into())
            .spawn(move || {
                // Without it no guest would time out any more, and it keeps nothing that a panic could leave half done.
                while catch_unwind(AssertUnwindSafe(|| ticking.tick(&engine))).is_err() {
                    tracing::error!("the thread that advances the epoch panicked; it goes on");
                    std::thread::sleep(TICK);
                }
            })
            .map_err(PluginStartError::Threads)?;
        Ok(Self {
            shared,
            thread: thread.thread().clone(),
        })
    }

    /// Ticks so far. None are added while no guest runs.
    pub(super) fn ticks(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }

    /// Keeps the epoch advancing while the answer lives.
    pub(super) fn running(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(Arc::clone(&self.shared))
    }
}

impl Shared {
    // Until it is stopped, or the engine is gone.
    fn tick(&self, engine: &EngineWeak) {
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            idle = if self.running.load(Ordering::SeqCst) == 0 {
                idle + 1
            } else {
                0
            };
            if idle > IDLE_TICKS_MAX {
                self.park();
                idle = 0;
            }
            std::thread::sleep(TICK);
            self.ticks.fetch_add(1, Ordering::Relaxed);
            let Some(engine) = engine.upgrade() else {
                return;
            };
            engine.increment_epoch();
        }
    }

    // Both sides write their own flag before they read the other's, so either the parking thread sees the guest
    // or the guest sees the flag and unparks.
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_counts_as_the_instances_whose_room_it_takes() {
        let engine = Engine::new(&config()).expect("an engine");
        let check = |module: &str, modules: usize, expected: usize| {
            let instances = "(core instance (instantiate $m))".repeat(modules);
            let text = format!("(component (core module $m {module}) {instances})");
            let bytes = wat::parse_str(text).expect("a component in text form");
            let component = Component::new(&engine, bytes).expect("a component");
            assert_eq!(places(&component), expected, "{module} {modules}");
        };
        check("", 0, 1);
        check("(memory 1)", 1, 1);
        check("(memory 1) (table 1 funcref)", 4, 4);
        check("(table 1 funcref)", 4, 1);
        check("(table 1 funcref)", 5, 2);
    }
}
