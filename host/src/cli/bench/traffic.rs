//! The bench's events, and its clients: how one is sent and received through the public client.

use anyhow::Context;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Map;
use tidegate_client::{
    Client, Consumer, ConsumerOptions, Delivery, Event, PublishError, PublishTicket, Published,
    Publisher, PublisherOptions,
};

use crate::cli::load::{Receiver, Seen, Sender};

/// Topic of all events of the bench.
pub(super) const TOPIC: &str = "bench.events";
/// Values of the field that filters look at: each rule wants one of them, so a tenth of the events.
pub(super) const GROUPS: u64 = 10;
/// Bytes that publishers may have outstanding: more than what the number of events allows, so that it is what counts.
const OUTSTANDING_BYTES_MAX: usize = 256 << 20;

/// What publishers send, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a payload.
    pub(super) size: usize,
    /// JSON with a field to filter by, rather than plain bytes.
    pub(super) json: bool,
    /// Deliveries that an event of each group makes.
    pub(super) deliveries_by_group: [u64; GROUPS as usize],
}

impl Shape {
    /// Deliveries that the first `events` events of a publisher make.
    pub(super) fn deliveries(&self, events: u64) -> u64 {
        let of_round: u64 = self.deliveries_by_group.iter().sum();
        let rest = &self.deliveries_by_group[..(events % GROUPS) as usize];
        events / GROUPS * of_round + rest.iter().sum::<u64>()
    }

    // The id carries the send time: the one field that every workload has and no filter looks at.
    fn event(&self, number: u64, sent_us: u64, padding: &Bytes) -> Event {
        let event = if self.json {
            let group = number % GROUPS;
            let mut text = format!(r#"{{"group":{group},"source":"bench","pad":""#).into_bytes();
            let room = self.size.saturating_sub(text.len() + 2);
            text.extend_from_slice(&padding[..room]);
            text.extend_from_slice(br#""}"#);
            Event::json(text)
        } else {
            Event::new(padding.clone())
        };
        event.with_id(sent_us.to_string())
    }
}

/// Sends events of a shape, whose groups take turns.
pub(super) struct BenchSender {
    publisher: Publisher,
    shape: Shape,
    padding: Bytes,
}

impl BenchSender {
    /// On `client`'s connection, with at most `outstanding` events unanswered.
    pub(super) async fn new(
        client: Client,
        shape: Shape,
        outstanding: usize,
    ) -> anyhow::Result<Self> {
        let options = PublisherOptions {
            outstanding_events_max: outstanding,
            outstanding_bytes_max: OUTSTANDING_BYTES_MAX,
            ..PublisherOptions::default()
        };
        Ok(Self {
            publisher: client.publisher(options).await?,
            shape,
            padding: padding(shape.size),
        })
    }

    /// What it publishes with.
    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

type Answer = Result<Published, PublishError>;

impl Sender for BenchSender {
    type Ticket = Map<PublishTicket, fn(Answer) -> anyhow::Result<()>>;
    const TIMES_EACH: bool = true;

    async fn send(&mut self, number: u64, sent_us: u64) -> anyhow::Result<Self::Ticket> {
        let event = self.shape.event(number, sent_us, &self.padding);
        let ticket = self.publisher.send(TOPIC, event).await?;
        Ok(ticket.map(|answer| answer.map(drop).map_err(anyhow::Error::from)))
    }
}

/// Consumes a subscription and wants everything it gets.
pub(super) struct BenchReceiver {
    consumer: Consumer,
    subscription: String,
}

impl BenchReceiver {
    /// On `client`'s connection.
    pub(super) async fn new(client: &Client, subscription: &str) -> anyhow::Result<Self> {
        let options = ConsumerOptions::default();
        Ok(Self {
            consumer: client.subscribe(subscription, options).await?,
            subscription: subscription.to_owned(),
        })
    }
}

impl Receiver for BenchReceiver {
    type Delivery = Delivery;

    async fn next(&mut self) -> anyhow::Result<Delivery> {
        let next = self.consumer.next().await;
        let delivery = next.with_context(|| format!("`{}` ended", self.subscription))?;
        delivery.with_context(|| format!("consuming `{}`", self.subscription))
    }

    fn look(&mut self, delivery: &Delivery) -> anyhow::Result<Seen> {
        let sent_us = delivery.event().id.parse();
        let sent_us = sent_us.context("an event that the bench did not send")?;
        Ok(Seen::Wanted { sent_us })
    }

    async fn ack(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        delivery.ack();
        Ok(())
    }
}

// Letters that do not compress to nothing.
fn padding(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 24) as u8 % 26
    });
    letters.take(size).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_events_have_the_size_asked_for() {
        let shape = Shape {
            size: 256,
            json: true,
            deliveries_by_group: [1; GROUPS as usize],
        };
        let event = shape.event(13, 17, &padding(256));
        assert_eq!((event.payload.len(), event.id.as_str()), (256, "17"));
        let json: serde_json::Value = serde_json::from_slice(&event.payload).expect("valid JSON");
        assert_eq!(json["group"], 3);
    }

    #[test]
    fn deliveries_are_due_by_the_groups_of_the_events() {
        let shape = Shape {
            size: 64,
            json: true,
            deliveries_by_group: [3, 2, 0, 0, 0, 0, 0, 0, 0, 1],
        };
        for (events, expected) in [(0, 0), (1, 3), (2, 5), (9, 5), (10, 6), (21, 15)] {
            assert_eq!(shape.deliveries(events), expected, "{events}");
        }
    }
}
