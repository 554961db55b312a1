//! The moving parts of the broker: one owner per state, joined by bounded channels. [`Broker`] is what the
//! outside (network, admin HTTP) sees of them. Nothing here knows QUIC, HTTP or the wire's messages, except
//! that a stored event is a wire event.

mod broker;
mod catalog;
mod census;
mod chain;
mod checkpointer;
mod clock;
mod committer;
mod dead_letters;
mod delivery;
mod error;
mod folders;
mod gauges;
mod given_up;
mod handed;
mod health;
mod hops;
mod hub;
mod inbox;
mod lanes;
mod leaving;
mod log;
mod log_limit;
mod metrics;
mod note;
mod pending_acks;
mod plugin_files;
mod plugin_limits;
mod plugin_log;
mod producers;
mod publish;
mod readable;
mod recovery;
mod routes;
mod spawn;
mod standing;
mod state;
mod supervisor;
mod transform;
mod turns;
mod unreadable;
mod uploads;
mod wards;

pub use broker::{Broker, BrokerOptions, Counts, Found, Health, StartError};
pub use census::Quota;
pub use committer::PluginQuotas;
pub use dead_letters::{
    ATTEMPTS_HEADER, POSITION_HEADER, REASON_HEADER, SEQUENCE_HEADER, SUBSCRIPTION_HEADER,
    TOPIC_HEADER,
};
pub use delivery::{Body, Consumer, Delivery, Manner, SHARED_BYTES_MIN};
pub use error::BrokerError;
pub use health::{Condition, Conditions, Raised};
pub(crate) use log_limit::LogLimit;
pub use note::NoteError;
pub use publish::{PublishOutcome, PublishReplies, PublishReply, PublishRequest, Publisher};
pub use readable::Readable;
pub use recovery::RecoveryError;
pub use spawn::{Spawner, TaskName, panicked_serving};
pub use state::StateError;
pub use uploads::UploadPlace;

use catalog::Catalog;

#[cfg(test)]
mod tests;
