//! Tidegate: a WebAssembly-extensible event router. `ARCHITECTURE.md` has the map; imports go one way:
//! domain ← state ← {store, plugin, auth} ← broker ← {net, admin} ← app ← main.

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
