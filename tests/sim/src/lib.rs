//! A deterministic simulation: all that would be threads, tasks and blocking calls runs in one thread, on virtual time, in an order
//! that a seed chooses. Running a seed again gives the same run, byte for byte. Nothing here reads the machine's clock, its
//! randomness, or the order of its threads; the only real time is the watchdog's, which ends a program that hangs, and that
//! of a long run, which ends when it is over.

pub mod actors;
pub mod checker;
pub mod disk;
pub mod history;
pub mod life;
pub mod long_run;
pub mod network;
pub mod plan;
pub mod planted;
pub mod scheduler;
pub mod shrink;
pub mod stage;
pub use tidegate_simulated::simulation;

// What a simulated library has in place of its own.
#[cfg(test)]
#[path = "../seams/locks.rs"]
mod locks;
#[cfg(test)]
mod runtime;
