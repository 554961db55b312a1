//! Tests of the store as a whole, through its public functions: what is synced comes back, whatever happens to
//! the disk in between.

mod damage;
mod faults;
pub(crate) mod faulty;
mod folders;
mod foreign;
mod generations;
pub(super) mod harness;
mod journal;
pub(crate) mod memory;
mod missing;
mod model;
mod power;
mod seam;
mod unreadable;
