//! The moving parts of the broker: one owner per state, joined by queues. A queue is bounded by room of its own, or by how much there is
//! of what it is about: each subscription is in it once at most, each batch was given credit. [`Broker`] is what the
//! outside (network, admin HTTP) sees of them. Nothing here knows QUIC, HTTP or the wire's messages, except
//! that a stored event is a wire event.
//!
//! The rooms lie along an event's way: `commit` appends it, `event_log` shows it to readers, `matching` finds the `subscriptions`
//! it is for, `delivery` hands it out, and `checkpoint` keeps what is left of it beyond the journal.

mod checkpoint;
mod commit;
mod counters;
mod delivery;
mod error;
mod event_log;
mod folder_watch;
mod gauges;
mod handle;
mod idle_subscriptions;
mod matching;
mod plugin_store;
mod spec_validation;
mod start;
mod stop;
mod subscriptions;
mod task_names;

pub use checkpoint::recovery::RecoveryError;
pub use checkpoint::saved_state::StateError;
pub use commit::checkpoint_due::CheckpointDue;
pub use commit::journal_note::NoteError;
pub use commit::publish_reply::{PublishOutcome, PublishReplies, PublishReply};
pub use commit::publisher::{PublishRequest, Publisher};
pub use delivery::consumer::{Body, Consumer, Delivery, SHARED_BYTES_MIN};
pub use delivery::fetcher::Manner;
pub use delivery::letter_headers::{
    ATTEMPTS_HEADER, POSITION_HEADER, REASON_HEADER, SEQUENCE_HEADER, SUBSCRIPTION_HEADER,
    TOPIC_HEADER, with_shorter_reason,
};
pub use error::{
    ChangeError, ConsumeError, NotFound, PublishError, Refusal, RefusalKind, ShowError, Unavailable,
};
pub use handle::{Broker, Counts, FoundSubscription, Health};
pub use plugin_store::uploads::UploadPlace;
pub use start::{BrokerOptions, RecoveredStore, StartError};

pub use crate::state::quotas::PluginQuotas;

#[cfg(test)]
mod tests;
