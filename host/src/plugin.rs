//! Plugins: everything that touches wasmtime. A plugin is a component that somebody uploaded; it is checked and
//! compiled once ([`Plugins::load`]), then runs as part of a [`FilterGroup`] or a [`Transformer`] on threads of
//! its own. Guests are hostile: time, memory and output are bounded, every answer is checked, and a failure is
//! pinned to the rule and the event that caused it. What is delivered to whom is not decided here.

#[cfg_attr(feature = "simulation", path = "../../tests/sim/seams/plugin/abi.rs")]
mod abi;
mod backoff;
mod batch_size;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/plugin/bundled.rs"
)]
pub mod bundled;
mod call_input;
mod checked_component;
mod compile_queue;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/plugin/compiled_cache.rs"
)]
mod compiled_cache;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/plugin/compiler.rs"
)]
mod compiler;
mod counters;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/plugin/engine.rs"
)]
mod engine;
mod error;
mod evaluation;
mod failure_budget;
mod filter_group;
mod filter_instance;
mod guest;
mod guest_fault;
mod guest_output;
mod guest_setup;
#[cfg(not(feature = "simulation"))]
mod guest_state;
#[cfg(not(feature = "simulation"))]
mod imports;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/plugin/instance.rs"
)]
mod instance;
mod instance_budget;
mod limits;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/plugin/linked_component.rs"
)]
mod linked_component;
mod rule_names;
mod service;
mod shared;
mod transformer;
#[cfg(not(feature = "simulation"))]
mod wasi;
#[cfg(not(feature = "simulation"))]
mod while_allocating;

#[cfg(test)]
mod tests;

#[cfg(not(feature = "simulation"))]
pub use compiler::job;
pub use counters::PluginStats;
pub use error::{CONFIG_BYTES_MAX, ConfigureError, LoadError, PluginStartError};
pub use evaluation::{Evaluation, FilterFailure, InputEvent, RuleKey, Undecided};
pub use filter_group::FilterGroup;
pub use instance_budget::{Held, Holder, PluginLimit, ReachedLimit};
pub use limits::{Compiler, PluginLimits, PluginOptions};
pub use service::{LoadedPlugin, Plugins};
pub use transformer::{Outcome, OutputEvent, TransformFailure, Transformer};
