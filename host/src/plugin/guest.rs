//! One instance of a plugin: its store, its limits, and the calls into it. A fault of any kind makes the instance
//! useless, and whoever owns it must drop it; nothing here decides whose fault it was.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Func, Lift, Lower};

use super::abi;
use super::checked_component::CheckedComponent;
use super::counters::Gauge;
use super::guest_fault::{Fault, clip};
use super::guest_output::GuestOutput;
use super::guest_state::{GuestState, begin, fault};
use super::instance_budget::{Account, Place, Tenure};
use super::limits::PluginLimits;
use super::wasi::{Purity, Wasi};
use crate::domain::PluginWorld;

// Making an instance and compiling a rule happen rarely and may take longer than looking at an event.
const SETUP_FACTOR: u32 = 20;

/// What a filter evaluates with.
pub(super) const EVALUATE: &str = "evaluate";
/// What a transform transforms with.
pub(super) const APPLY: &str = "apply";

/// An instance, ready to be called.
pub(super) struct Guest {
    store: Store<GuestState>,
    configure: Func,
    release: Func,
    // `evaluate` of a filter, `apply` of a transform.
    run: Func,
    plugin: Arc<CheckedComponent>,
    limits: Arc<PluginLimits>,
    _counted: Gauge,
    // Behind the store, since it is given back when the instance is gone.
    _place: Place,
}

impl Guest {
    /// Makes an instance, on this account.
    pub(super) async fn new(
        plugin: &Arc<CheckedComponent>,
        limits: &Arc<PluginLimits>,
        account: &Account,
        tenure: Tenure,
    ) -> Result<Self, Fault> {
        let place = account.place(plugin.places, tenure)?;
        let purity = match plugin.world {
            PluginWorld::Filter => Purity::Pure,
            PluginWorld::Transform => Purity::Live {
                clock: plugin.shared.clock.clone(),
                random: plugin.shared.random.clone(),
            },
        };
        let wasi = Wasi::new(purity, GuestOutput::new(&plugin.log));
        let memory = account.memory(limits.memory_bytes_max);
        let state = GuestState::new(wasi, memory, limits.memory_bytes_max);
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
            .map_err(|error| fault(&mut store, &error, allowance, "its start"))
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
            .call::<abi::ConfigureParams<'_>, abi::Configured>(
                (self.configure, "configure"),
                allowance,
                (config,),
            )
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
        self.call::<abi::ReleaseParams, ()>((self.release, "release"), allowance, (rule,))
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
            .call::<abi::EvaluateParams<'_>, abi::Evaluated>(
                (self.run, EVALUATE),
                allowance,
                (events, rules),
            )
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
            .call::<abi::ApplyParams<'_>, abi::Applied>(
                (self.run, APPLY),
                allowance,
                (rule, events),
            )
            .await?;
        Ok(outcomes)
    }

    async fn call<P, R>(
        &mut self,
        (function, export): (Func, &'static str),
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
            .map_err(|error| fault(&mut self.store, &error, allowance, export))
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
