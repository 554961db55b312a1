//! One instance of a plugin: its store, its limits, and the calls into it. A fault of any kind makes the instance
//! useless, and whoever owns it must drop it; nothing here decides whose fault it was.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use wasmtime::component::{ComponentNamedList, Func, Lift, Lower};
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline, bail};

use super::PluginLimits;
use super::abi;
use super::budget::{Account, Exhausted, Memory, Place, Stay};
use super::engine::{TABLE_ELEMENT_BYTES, TABLE_ELEMENTS_MAX, TICK};
use super::loaded::Loaded;
use super::output::GuestOutput;
use super::stats::Gauge;
use super::wasi::{Purity, Wasi};
use crate::domain::PluginWorld;

// Making an instance and compiling a rule happen rarely and may take longer than looking at an event.
const SETUP_FACTOR: u32 = 20;

// Longest message of a guest that is passed on.
const MESSAGE_BYTES_MAX: usize = 2048;

/// What went wrong in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// It trapped, used up its memory or its stack, or called what it may not.
    Trap,
    /// It ran longer than it may.
    Timeout,
    /// Its answer makes no sense.
    Nonsense,
    /// No fault of the guest: no instance is to be had, or no more memory for it, since others have them.
    Busy,
}

/// A call that failed. The instance is of no use any more.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn nonsense(reason: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Nonsense,
            reason: reason.into(),
        }
    }

    fn busy(reason: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Busy,
            reason: reason.into(),
        }
    }
}

impl From<Exhausted> for Fault {
    fn from(exhausted: Exhausted) -> Self {
        Self::busy(exhausted.to_string())
    }
}

/// What wasmtime keeps for an instance.
pub(super) struct GuestState {
    pub(super) wasi: Wasi,
    // Ticks the current call may still use.
    ticks_left: u64,
    timed_out: bool,
    memory_bytes: usize,
    memory_bytes_max: usize,
    // A growth was refused, which is the likely cause of a trap that follows.
    memory_refused: bool,
    // What all its memories and tables take of what there is for all instances.
    memory: Memory,
    // There was no more of that, which ended the call.
    exhausted: Option<Exhausted>,
}

/// An instance, ready to be called.
pub(super) struct Guest {
    store: Store<GuestState>,
    configure: Func,
    release: Func,
    // `evaluate` of a filter, `apply` of a transform.
    run: Func,
    plugin: Arc<Loaded>,
    limits: Arc<PluginLimits>,
    _counted: Gauge,
    // Behind the store, since it is given back when the instance is gone.
    _place: Place,
}

impl Guest {
    /// Makes an instance, on this account.
    pub(super) async fn new(
        plugin: &Arc<Loaded>,
        limits: &Arc<PluginLimits>,
        account: &Account,
        stay: Stay,
    ) -> Result<Self, Fault> {
        let place = account.place(plugin.places, stay)?;
        let purity = match plugin.world {
            PluginWorld::Filter => Purity::Pure,
            PluginWorld::Transform => Purity::Live {
                clock: plugin.shared.clock.clone(),
                random: plugin.shared.random.clone(),
            },
        };
        let state = GuestState {
            wasi: Wasi::new(purity, GuestOutput::new(&plugin.log)),
            ticks_left: 0,
            timed_out: false,
            memory_bytes: 0,
            memory_bytes_max: limits.memory_bytes_max,
            memory_refused: false,
            memory: account.memory(limits.memory_bytes_max),
            exhausted: None,
        };
        let mut store = Store::new(plugin.pre.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.output_bytes_max);
        store.epoch_deadline_callback(|mut context| context.data_mut().tick());

        let allowance = limits.call_base * SETUP_FACTOR;
        begin(&mut store, allowance);
        let running = plugin.running();
        let (instance, busy) = timed(plugin.pre.instantiate_async(&mut store)).await;
        drop(running);
        plugin.ran(busy);
        let functions = instance
            .map_err(|error| fault(&mut store, &error, allowance))
            .and_then(|instance| {
                let mut function = |index| {
                    instance.get_func(&mut store, index).ok_or_else(|| {
                        Fault::nonsense("the instance lacks an export its component has")
                    })
                };
                Ok((
                    function(&plugin.exports.configure)?,
                    function(&plugin.exports.release)?,
                    function(&plugin.exports.run)?,
                ))
            });
        let (configure, release, run) = functions.inspect_err(|fault| plugin.count(fault))?;
        Ok(Self {
            store,
            configure,
            release,
            run,
            plugin: Arc::clone(plugin),
            limits: Arc::clone(limits),
            _counted: Gauge::new(&plugin.counters, |counters| &counters.instances),
            _place: place,
        })
    }

    /// Compiles a rule. The inner error is the guest's own message.
    pub(super) async fn configure(
        &mut self,
        config: &str,
    ) -> Result<Result<(u32, abi::Wants), String>, Fault> {
        let allowance = self.limits.call_base * SETUP_FACTOR;
        let (answer,) = self
            .call::<abi::ConfigureParams<'_>, abi::Configured>(self.configure, allowance, (config,))
            .await?;
        if answer.is_err() {
            self.plugin
                .counters
                .configure_failures
                .fetch_add(1, Ordering::Relaxed);
        }
        Ok(answer.map_err(clip))
    }

    /// Forgets a rule.
    pub(super) async fn release(&mut self, rule: u32) -> Result<(), Fault> {
        let allowance = self.limits.call_base;
        self.call::<abi::ReleaseParams, ()>(self.release, allowance, (rule,))
            .await
    }

    /// Asks a filter which rules want which events. The answer is not checked.
    pub(super) async fn evaluate(
        &mut self,
        events: &[abi::Event<'_>],
        rules: &[u32],
    ) -> Result<Vec<abi::Match>, Fault> {
        self.count_call(events.len());
        let allowance = self.limits.allowance(events.len() * rules.len());
        let (matches,) = self
            .call::<abi::EvaluateParams<'_>, abi::Evaluated>(self.run, allowance, (events, rules))
            .await?;
        Ok(matches)
    }

    /// Transforms events. The answer is not checked.
    pub(super) async fn apply(
        &mut self,
        rule: u32,
        events: &[abi::Event<'_>],
    ) -> Result<Vec<Result<abi::Outcome, abi::Failure>>, Fault> {
        self.count_call(events.len());
        let allowance = self.limits.allowance(events.len());
        let (outcomes,) = self
            .call::<abi::ApplyParams<'_>, abi::Applied>(self.run, allowance, (rule, events))
            .await?;
        Ok(outcomes)
    }

    async fn call<P, R>(
        &mut self,
        function: Func,
        allowance: Duration,
        parameters: P,
    ) -> Result<R, Fault>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        begin(&mut self.store, allowance);
        let running = self.plugin.running();
        let (answer, busy) = match function.typed::<P, R>(&self.store) {
            Ok(typed) => timed(typed.call_async(&mut self.store, parameters)).await,
            Err(error) => (Err(error), Duration::ZERO),
        };
        drop(running);
        self.plugin.ran(busy);
        self.store.data_mut().wasi.end_call();
        answer
            .map_err(|error| fault(&mut self.store, &error, allowance))
            .inspect_err(|fault| self.plugin.count(fault))
    }

    fn count_call(&self, events: usize) {
        self.plugin.counters.calls.fetch_add(1, Ordering::Relaxed);
        self.plugin
            .counters
            .events
            .fetch_add(events as u64, Ordering::Relaxed);
    }
}

impl GuestState {
    // Called by a running guest when the epoch has moved on. The call pays one tick, however long the thread was
    // kept from running by others, and lets the other guests of this thread go first.
    fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        if self.ticks_left == 0 {
            self.timed_out = true;
            bail!("out of time");
        }
        self.ticks_left -= 1;
        Ok(UpdateDeadline::Yield(1))
    }

    // Ends the call when there is no more: a guest that is told could go on and answer otherwise than it would have.
    fn take(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if let Err(exhausted) = self.memory.grow(bytes) {
            let reason = exhausted.to_string();
            self.exhausted = Some(exhausted);
            bail!("{reason}");
        }
        Ok(())
    }
}

impl ResourceLimiter for GuestState {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // It fails then anyway, and must not be counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let total = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.memory_refused = true;
            return Ok(false);
        }
        self.take(desired.saturating_sub(current))?;
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired
            > maximum
                .unwrap_or(TABLE_ELEMENTS_MAX)
                .min(TABLE_ELEMENTS_MAX)
        {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current);
        self.take(elements.saturating_mul(TABLE_ELEMENT_BYTES))?;
        Ok(true)
    }
}

/// A guest's message, cut to a bounded length.
pub(super) fn clip(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
        message.truncate(end);
        message.push('…');
    }
    message
}

fn begin(store: &mut Store<GuestState>, allowance: Duration) {
    let state = store.data_mut();
    // The first tick may come right after the start, so it is not counted.
    state.ticks_left = u64::try_from(allowance.as_nanos() / TICK.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1);
    state.timed_out = false;
    state.memory_refused = false;
    state.wasi.begin_call();
    store.set_epoch_deadline(1);
}

fn fault(store: &mut Store<GuestState>, error: &wasmtime::Error, allowance: Duration) -> Fault {
    let state = store.data_mut();
    if let Some(exhausted) = state.exhausted.take() {
        return exhausted.into();
    }
    if let Some(limit) = error.downcast_ref::<PoolConcurrencyLimitError>() {
        return Fault::busy(format!("no room for another plugin instance: {limit}"));
    }
    if state.timed_out {
        let reason = format!("it ran longer than the {} ms it may", allowance.as_millis());
        return Fault {
            kind: FaultKind::Timeout,
            reason,
        };
    }
    let mut reason = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => clip(format!("{error:#}")),
    };
    if state.memory_refused {
        reason = format!(
            "it asked for more than the {} bytes of memory it may have; {reason}",
            state.memory_bytes_max
        );
    }
    if !state.wasi.last_words().is_empty() {
        reason = format!("{reason}; it wrote: {}", state.wasi.last_words());
    }
    Fault {
        kind: FaultKind::Trap,
        reason,
    }
}

// The time a future was being polled: for a guest, the time it ran.
async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let mut future = pin!(future);
    let mut busy = Duration::ZERO;
    let output = poll_fn(|context| {
        let start = Instant::now();
        let poll = future.as_mut().poll(context);
        busy += start.elapsed();
        poll
    })
    .await;
    (output, busy)
}
