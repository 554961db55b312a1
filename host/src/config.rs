//! The configuration: a TOML file parsed and checked into types that cannot be wrong. `examples/tidegate.toml`
//! documents every key for people and is what a broker without a file runs on; `defaults` holds the values
//! with their arithmetic. The parts of the program take their sections as they are and validate nothing again.
//!
//! Beside it stand the two things that brokers and commands leave on disk for commands, so that these need not be configured:
//! `contexts` and `endpoints`. Nothing else here makes files, and nothing opens sockets.

mod bounds;
mod choices;
mod contexts;
mod defaults;
mod documented_file;
mod endpoints;
mod error;
mod key_location;
mod loading;
mod log_levels;
mod sections;
mod show;
mod unknown_keys;
mod validation;

pub use contexts::{Context, ContextError, ContextFolder, Contexts, DEFAULT_CONTEXT};
pub use documented_file::DEVELOPMENT;
pub use endpoints::Endpoints;
pub use error::{ConfigError, Problem, Warning};
pub use log_levels::check as check_log_levels;
pub use sections::{
    CompressionMode, Config, CongestionControl, Limits, Listen, Log, LogFormat, PluginLimits,
    Plugins, Policy, Shutdown, Store, Tls, Topics,
};

#[cfg(test)]
mod tests;
