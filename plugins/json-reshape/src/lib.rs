//! A transform that reshapes JSON payloads: picks, renames, sets and computes fields, and makes one event per element of
//! an array. The README describes the configuration.
//!
//! [`Reshape`] is the whole of it, and works natively like in the plugin. Nothing here does I/O.

mod config;
mod error;
mod expression;
mod pointer;
mod reshape;
mod value;

pub use config::Reshape;
pub use error::ConfigError;

tidegate_plugin::export_transform!(Reshape);
