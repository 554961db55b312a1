//! Tests of the store as a whole, through its public functions: what is synced comes back, whatever happens to
//! the disk in between.

mod damage;
mod faults;
pub(crate) mod faulty;
mod folders;
mod foreign;
mod generations;
mod harness;
mod journal;
mod missing;
mod model;
mod power;
mod sled_facts;
mod unreadable;
