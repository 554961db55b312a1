//! Plugins: everything that touches wasmtime. A plugin is a component that somebody uploaded; it is checked and
//! compiled once ([`Plugins::load`]), then runs as part of a [`FilterGroup`] or a [`Transformer`] on threads of
//! its own. Guests are hostile: time, memory and output are bounded, every answer is checked, and a failure is
//! pinned to the rule and the event that caused it. What is delivered to whom is not decided here.

mod abi;
mod budget;
pub mod bundled;
mod cache;
mod compiling;
mod engine;
mod error;
mod fault;
mod filter;
mod findings;
mod guest;
mod guest_state;
mod imports;
mod kit;
mod loaded;
mod lower;
mod options;
mod output;
mod pause;
mod quarantine;
mod ration;
mod replica;
mod rule;
mod rule_names;
mod rules;
mod service;
mod shard;
mod stats;
mod transform;
mod wasi;
mod window;

#[cfg(test)]
mod tests;

pub use budget::{Held, Holder, PluginLimit, ReachedLimit};
pub use error::{ConfigureError, LoadError, PluginStartError};
pub use filter::FilterGroup;
pub use options::{PluginLimits, PluginOptions};
pub use rule::{Evaluation, FilterFailure, InputEvent, RuleKey, Undecided};
pub use service::{LoadedPlugin, Plugins};
pub use stats::PluginStats;
pub use transform::{Outcome, OutputEvent, TransformFailure, Transformer};
