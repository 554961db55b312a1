//! Who publishes and consumes, by the broker's own handle.

use std::collections::BTreeMap;

use prost::Message as _;
use tidegate_simulated::broker::{Body, Broker, Delivery, Manner, PublishReply, PublishRequest};
use tidegate_simulated::domain::{EncodedEvents, Event};
use tidegate_simulated::simulation::rules::number;
use tokio::sync::mpsc;

use super::record::Record;
use super::{Plan, SUBSCRIPTION, TOPIC, local, subscription};

/// Batches that a publisher has under way.
const UNDER_WAY_MAX: usize = 4;
/// What a consumer takes at once.
const EVENTS_MAX: usize = 8;
const BYTES_MAX: usize = 64 << 10;

/// Makes the subscription, unless it is there. Whether it is now.
pub(super) async fn ready(broker: Broker, record: Record) -> bool {
    if broker.find(SUBSCRIPTION).is_ok() {
        record.subscribed(true);
        return true;
    }
    let spec = serde_json::from_value(subscription()).expect("a specification");
    match broker.create_subscription(&local(), spec).await {
        Ok(_) => record.subscribed(false),
        Err(error) => {
            record.say(&format!("not subscribed: {error}"));
            return false;
        }
    }
    true
}

/// Publishes what the plan says for a life, as fast as it is answered.
pub(super) async fn publish(broker: Broker, plan: Plan, life: u64, record: Record) {
    let (replies, mut answers) = mpsc::unbounded_channel();
    let publisher = match broker.publisher(&local(), None, replies).await {
        Ok((publisher, _)) => publisher,
        Err(error) => return record.say(&format!("no publisher: {error}")),
    };
    let mut under_way = BTreeMap::new();
    // So that no two lives publish the same.
    let (mut next, end) = (life * 1_000, life * 1_000 + plan.events);
    while next < end || !under_way.is_empty() {
        if next < end && under_way.len() < UNDER_WAY_MAX {
            let count = (1 + plan.draw("batch", next, 4)).min(end - next);
            record.asked(next, count);
            under_way.insert(next, count);
            let request = batch(&plan, next, count);
            if let Err(error) = publisher.submit(request).await {
                return record.say(&format!("refused {next}: {error}"));
            }
            next += count;
            // Now and then it waits for all answers.
            if plan.draw("waits", next, 3) > 0 {
                continue;
            }
        }
        let Some(replies) = answers.recv().await else {
            return record.say("the broker is gone");
        };
        for reply in replies {
            let count = under_way.remove(&reply.correlation);
            hear(&reply, count, &record);
        }
    }
}

fn hear(reply: &PublishReply, count: Option<u64>, record: &Record) {
    let first = reply.correlation;
    match (&reply.result, count) {
        (_, None) => record.breaks(&format!("{first} is answered twice")),
        (Ok(outcome), Some(count)) => {
            if u64::from(outcome.count) != count || outcome.duplicate {
                record.breaks(&format!("{first} is answered with {outcome:?}"));
            }
            record.answered(first, count, outcome.first_sequence.0, outcome.unkept);
        }
        (Err(error), Some(_)) => record.say(&format!("failed {first}: {error}")),
    }
}

fn batch(plan: &Plan, first: u64, count: u64) -> PublishRequest {
    let events = (first..first + count).map(|number| {
        let filler =
            [0, 10, 700, 6_000][usize::try_from(plan.draw("size", number, 4)).unwrap_or(0)];
        let event = Event {
            payload: format!("{number} {}", "x".repeat(filler))
                .into_bytes()
                .into(),
            ..Event::default()
        };
        event.encode_to_vec()
    });
    let events: Vec<Vec<u8>> = events.collect();
    let bytes: usize = events.iter().map(|event| event.len() + 16).sum();
    PublishRequest {
        correlation: first,
        topic: TOPIC.parse().expect("a name"),
        first_number: 0,
        resolved_through: 0,
        entries: EncodedEvents::of(events.iter().map(Vec::as_slice)),
        cost: 1_024 + bytes,
    }
}

/// Consumes until the broker ends, and acks all that it gets.
pub(super) async fn consume(broker: Broker, record: Record) {
    let attached = broker.attach(&local(), SUBSCRIPTION, Manner::Silent).await;
    let consumer = match attached {
        Ok(consumer) => consumer,
        Err(error) => return record.say(&format!("not attached: {error}")),
    };
    loop {
        let deliveries = match consumer.next(EVENTS_MAX, BYTES_MAX).await {
            Ok(deliveries) => deliveries,
            Err(error) => return record.say(&format!("consumes no more: {error}")),
        };
        let mut numbers = Vec::new();
        for delivery in &deliveries {
            take(delivery, &record, &mut numbers);
        }
        let ranges: Vec<_> = deliveries.iter().map(Delivery::range).collect();
        record.acked(&numbers);
        let late = consumer.ack(&ranges);
        if !late.is_empty() {
            record.say("acked late");
            continue;
        }
        match consumer.acks_durable().await {
            Ok(()) => record.confirmed(&numbers),
            Err(error) => record.say(&format!("not confirmed: {error}")),
        }
    }
}

fn take(delivery: &Delivery, record: &Record, numbers: &mut Vec<u64>) {
    let Body::Stored(entries) = &delivery.body else {
        return record.breaks("nobody transforms this");
    };
    for (sequence, event) in (delivery.sequence.0..).zip(entries.events()) {
        let event = Event::decode(event).ok();
        match event.and_then(|event| number(&event.payload)) {
            Some(number) => {
                record.delivered(number, sequence, delivery.attempt);
                numbers.push(number);
            }
            None => record.breaks("what is delivered was never published"),
        }
    }
}
