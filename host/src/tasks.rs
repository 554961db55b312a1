//! The moving parts of the broker: one owner per state, joined by bounded channels. [`Broker`] is what the
//! outside (network, admin HTTP) sees of them. Nothing here knows QUIC, HTTP or the wire's messages, except
//! that a stored event is a wire event.

mod broker;
mod error;

pub use broker::{Broker, Consumer, Delivery, Health, PublishOutcome, PublishReply, PublishRequest, Publisher};
pub use error::BrokerError;
