//! The rules of the broker as pure state: what a subscription owes its consumers, which subscriptions select a
//! topic, and what was published before. No I/O, no async, no clock, no locks: whoever shares a state wraps it
//! in a mutex of its own, and time is an argument.

mod classes;
mod dedup;
mod idle;
mod matching;
mod positions;
mod ranges;
mod subscription;

pub use dedup::{OpenError, Producers, ProducersRestoreError, Verdict};
pub use matching::TopicInterests;
pub use subscription::{
    GiveUpReason, GivenUp, HandedOver, Lease, RestoreError, Strain, SubscriptionState, Unseen,
};
