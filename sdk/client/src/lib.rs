//! Async client for Tidegate: publishes events to topics and consumes durable subscriptions, over QUIC with mutual
//! TLS. A lost connection is made anew in the background, and publishers and consumers go on by themselves.
//!
//! ```no_run
//! use tidegate_client::{Client, ClientOptions, ConsumerOptions, Event, PublisherOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ClientOptions::new("localhost:4433")
//!     .roots_pem(&std::fs::read("ca.pem")?)?
//!     .identity_pem(&std::fs::read("client.pem")?, &std::fs::read("client.key")?)?;
//! let client = Client::connect(options).await?;
//!
//! let publisher = client.publisher(PublisherOptions::default()).await?;
//! let event = Event::json(r#"{"total": 12}"#).with_header("region", "eu");
//! let published = publisher.publish("orders.created", event).await?;
//! println!("durable as number {} of its topic", published.sequence);
//!
//! let mut orders = client.subscribe("billing", ConsumerOptions::default()).await?;
//! while let Some(delivery) = orders.next().await {
//!     let delivery = delivery?;
//!     println!("{}: {:?}", delivery.topic, delivery.event().payload);
//!     delivery.ack();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//! - An event whose ticket resolves to [`Published`] is as durable as its topic promises. What was sent and not
//!   answered when the connection was lost is sent again with the same number; the broker recognises it, so it is
//!   never appended twice (unless [`PublisherOptions::idempotent`] is off).
//! - A delivery that is not acknowledged comes again, to this consumer or another of its subscription: at least once.
//! - Nothing is buffered without bound: [`Publisher::send`] waits, and the broker sends a consumer no more than its
//!   credit.

mod attempts;
mod backoff;
mod client;
mod connection_supervisor;
mod consumer;
mod dial;
mod error;
mod event;
mod frames;
mod hello;
mod late_packets;
mod link;
mod measure;
mod options;
mod publisher;
mod random;
mod silence;
mod spawn;
mod transport;

pub use client::Client;
pub use consumer::{Acker, Consumer, Delivery};
pub use error::{
    ConfigError, ConnectError, ConnectionEnd, ErrorCode, MeasureError, PublishError, Refusal,
    SubscribeError,
};
pub use event::Event;
pub use measure::{CountedHere, LinkTest, Meter, PathSettings, Transfer};
pub use options::{ClientOptions, ConsumerOptions, Identity, PublisherOptions};
pub use publisher::{PublishTicket, Published, Publisher};
pub use tidegate_wire::PATH_PROBE_ID;
pub use tidegate_wire::compact::Compression;
pub use tidegate_wire::counters::{ConnectionCounters, LinkReport, Losses};
pub use tidegate_wire::stream::quic::congestion::Congestion;
#[doc(hidden)]
pub use transport::quic::datagram_size::known_datagram_max;
pub use transport::{Answered, Connector};

#[cfg(test)]
mod tests;
