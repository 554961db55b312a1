//! The configuration: a TOML file parsed and checked into types that cannot be wrong. `examples/tidegate.toml`
//! documents every key for people and is what a broker without a file runs on; `defaults` holds the values
//! with their arithmetic. Nothing here opens sockets or makes files; the parts of the program take their
//! sections as they are and validate nothing again.

mod contexts;
mod defaults;
mod endpoints;
mod error;
mod known_keys;
mod loading;
mod log_levels;
mod sections;
mod show;
mod validation;

pub use contexts::{Context, ContextError, ContextFolder, Contexts, DEFAULT_CONTEXT};
pub use endpoints::Endpoints;
pub use error::{ConfigError, Problem, Warning};
pub use log_levels::check as check_log_levels;
pub use sections::{
    Config, DEVELOPMENT, Limits, Listen, Log, LogFormat, PluginLimits, Plugins, Policy, Shutdown,
    Store, Tls, Topics,
};

#[cfg(test)]
mod tests;
