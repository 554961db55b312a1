//! The live subscriptions: each with its state behind a short lock, found by name, fed with positions, and waked when a deadline
//! comes. Every change of a state goes through one door, which does what the change makes necessary. What an event says, and who
//! consumes, feeds or commits, is not known here.

mod definition;
pub(super) mod followers;
pub(super) mod given_up;
pub(super) mod live;
mod log_limits;
pub(super) mod plugin_log;
pub(super) mod registry;
pub(super) mod resting;
pub(super) mod surroundings;
#[cfg(test)]
pub(super) mod testing;
mod timers;

pub(super) use self::definition::Settings;
