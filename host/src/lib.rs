//! Tidegate: a WebAssembly-extensible event router. `ARCHITECTURE.md` has the map; imports go one way:
//! domain ← broker ← {store, plugin, auth} ← tasks ← {net, admin} ← app ← main.

pub mod domain;
pub mod plugin;
pub mod tasks;
