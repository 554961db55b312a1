//! Tests of the store as a whole, through its public functions: what is synced comes back, whatever happens to
//! the disk in between.

mod damage;
mod faults;
pub(crate) mod faulty_disk;
mod folders;
mod foreign_files;
mod generations;
pub(super) mod harness;
mod journal;
mod journal_contract;
pub(crate) mod memory_store;
mod missing;
mod model;
mod power_cuts;
mod unreadable;
