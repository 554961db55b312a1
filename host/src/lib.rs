//! Tidegate: a WebAssembly-extensible event router. `ARCHITECTURE.md` has the map; imports go one way:
//! domain ← auth ← state, then {state, store, plugin} ← broker ← {net, admin} ← app ← cli ← main.

// Tests hold locks as they like.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod admin;
pub mod app;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod config;
pub mod disk;
pub mod domain;
mod locks;
pub mod net;
pub mod pki;
pub mod plugin;
pub mod runtime;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod tls;
