//! The broker as the outside sees it: a handle that any number of connections share.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::BrokerError;
use crate::domain::{
    Millis, PluginInfo, Position, ProducerId, Sequence, SubscriptionInfo, SubscriptionSpec,
    TopicInfo, TopicName, TopicSpec,
};

/// The running broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(Arc<()>);

/// How the broker fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Recovery is done and requests are served.
    pub ready: bool,
    /// Why writes are refused, when they are.
    pub store_fault: Option<String>,
}

/// Events of one batch, to be appended to one topic together and in order.
pub struct PublishRequest {
    /// Repeated in the reply.
    pub correlation: u64,
    /// Where to; created when the configuration allows it.
    pub topic: TopicName,
    /// Number of the first event; 0 for a publisher without a producer id.
    pub first_number: u64,
    /// The client has seen the answers for all numbers up to this.
    pub resolved_through: u64,
    /// Encoded events, already checked.
    pub events: Vec<Bytes>,
}

/// Answer to a [`PublishRequest`].
pub struct PublishReply {
    /// As in the request.
    pub correlation: u64,
    /// Bytes of events in the request.
    pub bytes: usize,
    /// What became of it.
    pub result: Result<PublishOutcome, BrokerError>,
}

/// The batch is as durable as its topic promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOutcome {
    /// Sequence of its first event.
    pub first_sequence: Sequence,
    /// How many events.
    pub count: u32,
    /// It was committed before; nothing was appended again.
    pub duplicate: bool,
    /// No subscription and no retention keeps it.
    pub unkept: bool,
}

/// One publish stream.
pub struct Publisher {}

/// One consumer attached to a subscription. Dropping it gives its events back at once.
pub struct Consumer {}

/// One event for a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its topic.
    pub topic: TopicName,
    /// Its place in the broker; acks name it.
    pub position: Position,
    /// Its place in its topic.
    pub sequence: Sequence,
    /// When it was appended.
    pub time: Millis,
    /// How often it has been handed out, this time included.
    pub attempt: u32,
    /// The encoded event, or the parts a transform made of it. Never empty.
    pub parts: Vec<Bytes>,
}

#[allow(unused_variables, reason = "bodies follow")]
impl Broker {
    /// Opens a publish stream. A stream of the same producer with the same or a lower epoch is fenced.
    /// Returns the publisher and the highest number committed for this producer. Replies go to `replies`,
    /// in any order; their number is bounded by what the caller lets be outstanding.
    pub fn publisher(
        &self,
        producer: Option<(ProducerId, u32)>,
        replies: mpsc::UnboundedSender<PublishReply>,
    ) -> Result<(Publisher, u64), BrokerError> {
        unimplemented!()
    }

    /// Attaches a consumer to the subscription `name`.
    pub fn attach(&self, name: &str) -> Result<Consumer, BrokerError> {
        unimplemented!()
    }

    /// Creates a topic.
    pub async fn create_topic(&self, spec: TopicSpec) -> Result<TopicInfo, BrokerError> {
        unimplemented!()
    }

    /// Deletes a topic and its events.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), BrokerError> {
        unimplemented!()
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<TopicInfo> {
        unimplemented!()
    }

    /// Creates a subscription or route: resolves and configures its plugins, then records it.
    pub async fn create_subscription(
        &self,
        spec: SubscriptionSpec,
    ) -> Result<SubscriptionInfo, BrokerError> {
        unimplemented!()
    }

    /// Deletes a subscription or route and what it has not acked.
    pub async fn delete_subscription(&self, name: &str) -> Result<(), BrokerError> {
        unimplemented!()
    }

    /// Lets a paused subscription go on.
    pub async fn resume_subscription(&self, name: &str) -> Result<(), BrokerError> {
        unimplemented!()
    }

    /// All subscriptions and routes, by name.
    pub fn subscriptions(&self) -> Vec<SubscriptionInfo> {
        unimplemented!()
    }

    /// One subscription or route.
    pub fn subscription(&self, name: &str) -> Result<SubscriptionInfo, BrokerError> {
        unimplemented!()
    }

    /// Checks, compiles and records a plugin under `name`, as its next version. The same bytes again are not
    /// an error: the version they have is answered.
    pub async fn upload_plugin(&self, name: &str, bytes: Bytes) -> Result<PluginInfo, BrokerError> {
        unimplemented!()
    }

    /// Deletes a version of a plugin (`name@3`), or all versions (`name`), that nobody uses.
    pub async fn delete_plugin(&self, name: &str) -> Result<(), BrokerError> {
        unimplemented!()
    }

    /// All plugins, bundled ones first, by name and version.
    pub fn plugins(&self) -> Vec<PluginInfo> {
        unimplemented!()
    }

    /// How the broker fares.
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    /// Metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        unimplemented!()
    }
}

#[allow(unused_variables, reason = "bodies follow")]
impl Publisher {
    /// Hands a batch to the committer. Waits while its queue is full, which is how publishers feel a full
    /// journal. The answer comes as a [`PublishReply`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, the batch may or may not be committed; no reply follows if it is not.
    pub async fn submit(&self, request: PublishRequest) -> Result<(), BrokerError> {
        unimplemented!()
    }
}

#[allow(unused_variables, reason = "bodies follow")]
impl Consumer {
    /// The subscription as it was created.
    pub fn spec(&self) -> Arc<SubscriptionSpec> {
        unimplemented!()
    }

    /// Waits until something can be delivered and returns at most `events_max` events of at most about
    /// `bytes_max` bytes (one event may exceed it, so that a large event is not stuck for ever).
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: events handed out to a cancelled call are given back at once.
    pub async fn next(&self, events_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BrokerError> {
        unimplemented!()
    }

    /// The events are done with. Positions that this consumer does not hold are ignored.
    pub fn ack(&self, positions: &[RangeInclusive<Position>]) {
        unimplemented!()
    }

    /// Like [`ack`](Self::ack), and completes once the acks are on disk.
    pub fn ack_confirmed(
        &self,
        positions: &[RangeInclusive<Position>],
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        async { unimplemented!() }
    }

    /// Deliver again, after `delay_ms` or the subscription's back-off.
    pub fn nack(&self, positions: &[RangeInclusive<Position>], delay_ms: Option<u64>) {
        unimplemented!()
    }

    /// To the dead-letter topic.
    pub fn term(&self, positions: &[RangeInclusive<Position>], reason: &str) {
        unimplemented!()
    }

    /// Starts the ack deadline anew.
    pub fn extend(&self, positions: &[RangeInclusive<Position>]) {
        unimplemented!()
    }
}
