//! Plugins: everything that touches wasmtime. A plugin is a component that somebody uploaded; it is checked and
//! compiled once ([`Plugins::load`]), then runs as part of a [`FilterGroup`] or a [`Transformer`] on threads of
//! its own. Guests are hostile: time, memory and output are bounded, every answer is checked, and a failure is
//! pinned to the rule and the event that caused it. What is delivered to whom is not decided here.

mod abi;
mod instance_budget;
pub mod bundled;
mod compiled_cache;
mod compile_queue;
mod engine;
mod error;
mod guest_fault;
mod filter_group;
mod guest;
mod guest_state;
mod imports;
mod guest_setup;
mod checked_component;
mod call_input;
mod limits;
mod guest_output;
mod backoff;
mod failure_budget;
mod evaluation;
mod rule_names;
mod filter_instance;
mod service;
mod counters;
mod transformer;
mod wasi;
mod batch_size;

#[cfg(test)]
mod tests;

pub use instance_budget::{Held, Holder, PluginLimit, ReachedLimit};
pub use error::{ConfigureError, LoadError, PluginStartError};
pub use filter_group::FilterGroup;
pub use limits::{PluginLimits, PluginOptions};
pub use evaluation::{Evaluation, FilterFailure, InputEvent, RuleKey, Undecided};
pub use service::{LoadedPlugin, Plugins};
pub use counters::PluginStats;
pub use transformer::{Outcome, OutputEvent, TransformFailure, Transformer};
