//! Guest SDK: write Tidegate filters and transforms in Rust.
//!
//! A filter is a type that holds one subscription's configuration and answers one question. This is a whole plugin:
//!
//! ```
//! use tidegate_plugin::{Event, Filter, Wants};
//!
//! struct Big(usize);
//!
//! impl Filter for Big {
//!     fn configure(config: &str) -> Result<Self, String> {
//!         config.trim().parse().map(Big).map_err(|error| format!("want a number of bytes: {error}"))
//!     }
//!
//!     fn wants(&self) -> Wants {
//!         Wants::payload()
//!     }
//!
//!     fn matches(&self, event: &Event) -> bool {
//!         event.payload.len() > self.0
//!     }
//! }
//!
//! tidegate_plugin::export_filter!(Big);
//! ```
//!
//! Its `Cargo.toml` says `crate-type = ["cdylib"]`, and it is built with
//!
//! ```text
//! rustup target add wasm32-wasip2 && cargo build --release --target wasm32-wasip2
//! ```
//!
//! which makes `target/wasm32-wasip2/release/<name>.wasm`, ready for `tidegate plugin upload`.
//!
//! One instance of the plugin holds the rules of many subscriptions; the SDK keeps them and asks each about each event.
//! Events are borrowed from what the broker passed, never copied again. A filter that wants to share work between its
//! rules implements [`FilterSet`] instead. What changes events is a [`Transform`].
//!
//! A panic ends the instance; the broker makes another and applies the policy of the guilty subscription alone. What a
//! plugin prints goes to the broker's log, rate-limited.

#[doc(hidden)]
pub mod bindings;
mod event;
mod export;
mod filter;
mod table;
mod transform;

pub use bindings::filter::exports::tidegate::plugin::filtering::Match;
pub use bindings::filter::tidegate::plugin::types::{Event, Header, HeaderSet, Rule, Wants};
pub use bindings::transform::exports::tidegate::plugin::transforming::{
    Emitted, Failure, Outcome, Output,
};
pub use filter::{EachRule, Filter, FilterSet};
pub use table::RuleTable;
pub use transform::{Transform, TransformSet};

/// Fails to compile unless `S` is a filter set. For the macros.
#[doc(hidden)]
pub fn check_filter_set<S: FilterSet>() {}

/// Fails to compile unless `T` is a transform. For the macros.
#[doc(hidden)]
pub fn check_transform<T: Transform>() {}
