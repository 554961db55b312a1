//! One instance of a component, as wasmtime has it: its store, its limits, and the calls of its functions. A fault of any kind makes
//! it useless.

use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Func, Lift, Lower};

use super::abi;
use super::checked_component::CheckedComponent;
use super::guest_fault::Fault;
use super::guest_output::GuestOutput;
use super::guest_state::{GuestState, begin, fault};
use super::instance_budget::Memory;
use super::limits::PluginLimits;
use super::wasi::{Purity, Wasi};
use crate::domain::PluginWorld;

/// What a filter evaluates with.
pub(super) const EVALUATE: &str = "evaluate";
/// What a transform transforms with.
pub(super) const APPLY: &str = "apply";

/// An instance. Each call has so much time as its caller allows.
pub(super) struct Instance {
    store: Store<GuestState>,
    configure: Func,
    release: Func,
    // `evaluate` of a filter, `apply` of a transform.
    run: Func,
}

impl Instance {
    /// Makes one, with what memory there is for it.
    pub(super) async fn new(
        plugin: &CheckedComponent,
        limits: &PluginLimits,
        memory: Memory,
        allowance: Duration,
    ) -> Result<Self, Fault> {
        let purity = match plugin.world {
            PluginWorld::Filter => Purity::Pure,
            PluginWorld::Transform => Purity::Live {
                clock: plugin.shared.clock.clone(),
                random: plugin.shared.random.clone(),
            },
        };
        let wasi = Wasi::new(purity, GuestOutput::new(&plugin.log));
        let state = GuestState::new(wasi, memory, limits.memory_bytes_max);
        let linked = &plugin.linked;
        let mut store = Store::new(linked.pre.engine(), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.output_bytes_max);
        store.epoch_deadline_callback(|mut context| context.data_mut().tick());

        begin(&mut store, allowance);
        let instance = linked.pre.instantiate_async(&mut store).await;
        let instance =
            instance.map_err(|error| fault(&mut store, &error, allowance, "its start"))?;
        let mut function = |index| {
            instance
                .get_func(&mut store, index)
                .ok_or_else(|| Fault::nonsense("the instance lacks an export its component has"))
        };
        Ok(Self {
            configure: function(&linked.exports.configure)?,
            release: function(&linked.exports.release)?,
            run: function(&linked.exports.run)?,
            store,
        })
    }

    /// Compiles a rule. The inner error is the guest's own message.
    pub(super) async fn configure(
        &mut self,
        allowance: Duration,
        config: &str,
    ) -> Result<Result<(u32, abi::Wants), String>, Fault> {
        let function = (self.configure, "configure");
        let (answer,) = self
            .call::<abi::ConfigureParams<'_>, abi::Configured>(function, allowance, (config,))
            .await?;
        Ok(answer)
    }

    /// Forgets a rule.
    pub(super) async fn release(&mut self, allowance: Duration, rule: u32) -> Result<(), Fault> {
        let function = (self.release, "release");
        self.call::<abi::ReleaseParams, ()>(function, allowance, (rule,))
            .await
    }

    /// Asks a filter which rules want which events. The answer is not checked.
    pub(super) async fn evaluate(
        &mut self,
        allowance: Duration,
        events: &[abi::Event<'_>],
        rules: &[u32],
    ) -> Result<Vec<abi::Match>, Fault> {
        let function = (self.run, EVALUATE);
        let (matches,) = self
            .call::<abi::EvaluateParams<'_>, abi::Evaluated>(function, allowance, (events, rules))
            .await?;
        Ok(matches)
    }

    /// Transforms events. The answer is not checked.
    pub(super) async fn apply(
        &mut self,
        allowance: Duration,
        rule: u32,
        events: &[abi::Event<'_>],
    ) -> Result<Vec<Result<abi::Outcome, abi::Failure>>, Fault> {
        let function = (self.run, APPLY);
        let (outcomes,) = self
            .call::<abi::ApplyParams<'_>, abi::Applied>(function, allowance, (rule, events))
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
        let answer = match function.typed::<P, R>(&self.store) {
            Ok(typed) => typed.call_async(&mut self.store, parameters).await,
            Err(error) => Err(error),
        };
        self.store.data_mut().wasi.end_call();
        answer.map_err(|error| fault(&mut self.store, &error, allowance, export))
    }
}
