//! Tidegate: a WebAssembly-extensible event router. `ARCHITECTURE.md` has the map; imports go one way:
//! domain ← broker ← {store, plugin, auth} ← tasks ← {net, admin} ← app ← main.

pub mod admin;
pub mod app;
pub mod auth;
pub mod broker;
pub mod cli;
pub mod config;
pub mod domain;
pub mod lines;
pub mod net;
pub mod pki;
pub mod plugin;
pub mod store;
pub mod tasks;
