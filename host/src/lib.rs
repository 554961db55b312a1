//! Tidegate: a WebAssembly-extensible event router. `ARCHITECTURE.md` has the map; imports go one way:
//! domain ← broker ← {store, plugin, auth} ← tasks ← {net, admin} ← app ← main.

pub mod auth;
pub mod domain;
pub mod net;
pub mod tasks;
