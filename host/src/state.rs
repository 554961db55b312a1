//! The rules of the broker as pure state: what exists, what a subscription owes its consumers, which subscriptions select a
//! topic, and what was published before. No I/O, no async, no clock, no locks: whoever shares a state wraps it
//! in a mutex of its own, and time is an argument.

pub(crate) mod catalog;
pub(crate) mod census;
mod classes;
mod dedup;
pub(crate) mod filter_chain;
pub(crate) mod handed;
mod idle;
mod matching;
pub(crate) mod positions;
pub(crate) mod ranges;
pub(crate) mod release;
mod subscription;

pub use census::{Quota, QuotaReached};
pub use dedup::{OpenError, Producers, ProducersRestoreError, Verdict};
pub use matching::TopicInterests;
pub use subscription::{
    Effects, GiveUpReason, GivenUp, Lease, RestoreError, Strain, SubscriptionState, Unseen,
};
