//! The rules of the broker as pure state: what exists, what a subscription owes its consumers, which subscriptions select a
//! topic, and what was published before. No I/O, no async, no clock, no locks of its own: whoever shares a state wraps it
//! in a mutex, and time is an argument. What somebody may is asked of `auth`, whose answer changes with the policy.

pub(crate) mod catalog;
mod dedup;
pub(crate) mod filter_chain;
pub(crate) mod handover;
pub(crate) mod position_set;
mod positions_by_value;
pub(crate) mod quotas;
pub(crate) mod range_map;
pub(crate) mod release;
mod subscription;
mod topic_trie;

pub use dedup::{OpenError, Producers, ProducersRestoreError, Verdict};
pub use quotas::{Quota, QuotaReached};
pub use subscription::{
    CameBack, Effects, GiveUpReason, GivenUp, Lease, Next, RestoreError, Strain, SubscriptionState,
    Unseen,
};
pub use topic_trie::TopicTrie;
