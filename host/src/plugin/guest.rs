//! One instance of a plugin, with its place and its account: what calls of it may take, and what is counted of them. A fault of any
//! kind makes the instance useless, and whoever owns it must drop it; nothing here decides whose fault it was.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::abi;
use super::checked_component::CheckedComponent;
use super::counters::Gauge;
use super::engine::Running;
use super::guest_fault::{Fault, clip};
use super::instance::Instance;
use super::instance_budget::{Account, Place, Tenure};
use super::limits::PluginLimits;

// Making an instance and compiling a rule happen rarely and may take longer than looking at an event.
const SETUP_FACTOR: u32 = 20;

/// An instance, ready to be called.
pub(super) struct Guest {
    instance: Instance,
    plugin: Arc<CheckedComponent>,
    limits: Arc<PluginLimits>,
    _counted: Gauge,
    // Behind the instance, since it is given back when that is gone.
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
        let memory = account.memory(limits.memory_bytes_max);
        let allowance = limits.call_base * SETUP_FACTOR;
        let running = plugin.running();
        let made = timed(Instance::new(plugin, limits, memory, allowance)).await;
        Ok(Self {
            instance: over(plugin, running, made)?,
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
        let running = self.plugin.running();
        let call = timed(self.instance.configure(allowance, config)).await;
        let answer = over(&self.plugin, running, call)?;
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
        let running = self.plugin.running();
        let call = timed(self.instance.release(allowance, rule)).await;
        over(&self.plugin, running, call)
    }

    /// Asks a filter which rules want which events. The answer is not checked.
    pub(super) async fn evaluate(
        &mut self,
        events: &[abi::Event<'_>],
        rules: &[u32],
    ) -> Result<Vec<abi::Match>, Fault> {
        self.count_call(events.len());
        let allowance = self.limits.allowance(events.len() * rules.len());
        let running = self.plugin.running();
        let call = timed(self.instance.evaluate(allowance, events, rules)).await;
        over(&self.plugin, running, call)
    }

    /// Transforms events. The answer is not checked.
    pub(super) async fn apply(
        &mut self,
        rule: u32,
        events: &[abi::Event<'_>],
    ) -> Result<Vec<Result<abi::Outcome, abi::Failure>>, Fault> {
        self.count_call(events.len());
        let allowance = self.limits.allowance(events.len());
        let running = self.plugin.running();
        let call = timed(self.instance.apply(allowance, rule, events)).await;
        over(&self.plugin, running, call)
    }

    fn count_call(&self, events: usize) {
        self.plugin.counters.calls.fetch_add(1, Ordering::Relaxed);
        self.plugin
            .counters
            .events
            .fetch_add(events as u64, Ordering::Relaxed);
    }
}

// A call is over: counts the time that the guest ran, and what it did wrong.
fn over<T>(
    plugin: &CheckedComponent,
    running: Running,
    (answer, busy): (Result<T, Fault>, Duration),
) -> Result<T, Fault> {
    drop(running);
    plugin.ran(busy);
    answer.inspect_err(|fault| plugin.count(fault))
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
