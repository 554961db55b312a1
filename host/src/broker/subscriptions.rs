//! The live subscriptions: each with its state behind a short lock, found by name, fed with positions, and waked when a deadline
//! comes. Every change of a state goes through one door, which does what the change makes necessary. What an event says, and who
//! consumes, feeds or commits, is not known here.

pub(super) mod dead_letter_counts;
mod definition;
pub(super) mod effect_targets;
pub(super) mod given_up_ranges;
pub(super) mod live_subscription;
mod log_limits;
pub(super) mod registry;
pub(super) mod resting_subscription;
pub(super) mod subscription_log;
#[cfg(test)]
pub(super) mod test_rig;
mod timers;
pub(super) mod unfiltered_followers;

pub(super) use self::definition::Settings;
