//! Tidegate: a WebAssembly-extensible event router. `ARCHITECTURE.md` has the map; imports go one way:
//! domain ← auth ← state, then {state, store, plugin} ← broker ← {net, admin} ← app ← cli ← main.

// Tests hold locks as they like.
#![cfg_attr(test, allow(clippy::disallowed_methods))]
// Whoever simulates runs has tests of its own.
#![cfg(not(all(test, feature = "simulation")))]
// A simulated run has only a part of the host, with other files where it meets the machine: `tests/sim/broker` compiles it so.
#![cfg_attr(feature = "simulation", allow(dead_code, unused_imports))]

// Whether a fault is planted here, for which simulated runs are looked through: nowhere in what is shipped.
#[cfg(feature = "simulation")]
macro_rules! planted {
    ($bug:ident) => {
        $crate::simulation::is_planted($crate::simulation::Bug::$bug)
    };
}
#[cfg(not(feature = "simulation"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

// Counts, in simulated runs, that a state or a transition is reached here. In what is shipped it is nothing.
#[cfg(feature = "simulation")]
macro_rules! reached {
    ($state:ident) => {
        $crate::simulation::reached($crate::simulation::State::$state)
    };
}
#[cfg(not(feature = "simulation"))]
macro_rules! reached {
    ($state:ident) => {
        ()
    };
}

// A bound as it is, and as simulated runs have it: small, so that what it bounds is full in a short run, too.
#[cfg(feature = "simulation")]
macro_rules! bound {
    ($real:expr, $simulated:expr) => {
        $simulated
    };
}
#[cfg(not(feature = "simulation"))]
macro_rules! bound {
    ($real:expr, $simulated:expr) => {
        $real
    };
}

#[cfg(not(feature = "simulation"))]
pub mod admin;
#[cfg(not(feature = "simulation"))]
pub mod app;
pub mod auth;
pub mod broker;
#[cfg(not(feature = "simulation"))]
pub mod cli;
#[cfg(not(feature = "simulation"))]
pub mod config;
pub mod disk;
pub mod domain;
#[cfg_attr(feature = "simulation", path = "../../tests/sim/seams/locks.rs")]
mod locks;
pub mod net;
#[cfg(not(feature = "simulation"))]
pub mod pki;
pub mod plugin;
pub mod runtime;
#[cfg(feature = "simulation")]
#[path = "../../tests/sim/seams/hooks.rs"]
pub mod simulation;
pub mod state;
pub mod store;
pub mod telemetry;
#[cfg(not(feature = "simulation"))]
pub mod tls;
