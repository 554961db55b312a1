//! What most tests need: publishing numbered events, taking deliveries, and reading codes out of refusals.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use tidegate_client::{
    Client, Consumer, ConsumerOptions, Delivery, Event, PublishError, Published, PublisherOptions,
    SubscribeError,
};
use tidegate_tests::{BrokerProcess, within};
use tidegate_wire::pb::ErrorCode;

/// Runs a command line and returns what it printed, and what it said on standard error.
pub(crate) fn run(broker: &BrokerProcess, arguments: &[&str]) -> anyhow::Result<(String, String)> {
    let mut command = broker.command_line(arguments)?;
    let output = command.stdout(Stdio::piped()).output()?;
    let (printed, said) = (
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    );
    ensure!(output.status.success(), "{arguments:?}: {printed}{said}");
    Ok((printed, said))
}

/// An event whose payload is its number as JSON: `{"n":7}`.
pub(crate) fn numbered(n: u64) -> Event {
    Event::json(format!(r#"{{"n":{n}}}"#))
}

/// The number in a delivery of a [`numbered`] event.
pub(crate) fn number_of(delivery: &Delivery) -> anyhow::Result<u64> {
    number_in(&delivery.event().payload)
}

/// The number in a payload of a [`numbered`] event.
pub(crate) fn number_in(payload: &[u8]) -> anyhow::Result<u64> {
    let value: serde_json::Value = serde_json::from_slice(payload)?;
    value["n"]
        .as_u64()
        .with_context(|| format!("no number in {value}"))
}

/// Publishes numbered events to `topic` and waits for all answers.
pub(crate) async fn publish(
    client: &Client,
    topic: &str,
    numbers: impl IntoIterator<Item = u64>,
) -> anyhow::Result<Vec<Published>> {
    publish_events(client, topic, numbers.into_iter().map(numbered)).await
}

/// Publishes events to `topic` and waits for all answers.
pub(crate) async fn publish_events(
    client: &Client,
    topic: &str,
    events: impl IntoIterator<Item = Event>,
) -> anyhow::Result<Vec<Published>> {
    let publisher = client.publisher(PublisherOptions::default()).await?;
    let mut tickets = Vec::new();
    for event in events {
        let ticket = within("room to publish", async {
            Ok(publisher.send(topic, event).await?)
        })
        .await?;
        tickets.push(ticket);
    }
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(within("an answer to a publish", async { Ok(ticket.await?) }).await?);
    }
    Ok(answers)
}

/// Attaches a consumer with default options.
pub(crate) async fn consume(client: &Client, subscription: &str) -> anyhow::Result<Consumer> {
    let attach = client.subscribe(subscription, ConsumerOptions::default());
    within(format!("a consumer of `{subscription}`"), async {
        Ok(attach.await?)
    })
    .await
}

/// The next delivery.
pub(crate) async fn next(consumer: &mut Consumer) -> anyhow::Result<Delivery> {
    within("a delivery", async {
        match consumer.next().await {
            Some(delivery) => Ok(delivery?),
            None => bail!("the consumer ended"),
        }
    })
    .await
}

/// The next `count` deliveries, not acked.
pub(crate) async fn take(consumer: &mut Consumer, count: usize) -> anyhow::Result<Vec<Delivery>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let delivery = next(consumer)
            .await
            .with_context(|| format!("after {} of {count} deliveries", all.len()))?;
        all.push(delivery);
    }
    Ok(all)
}

/// Takes and acks deliveries until all of `numbers` have come, whatever comes beside them, and returns how often
/// something came that had come before. Acks are durable when it returns.
pub(crate) async fn take_numbers(
    consumer: &mut Consumer,
    numbers: impl IntoIterator<Item = u64>,
) -> anyhow::Result<u64> {
    let mut missing: BTreeSet<u64> = numbers.into_iter().collect();
    let mut again = 0;
    while !missing.is_empty() {
        let delivery = next(consumer)
            .await
            .with_context(|| format!("{} missing, first {:?}", missing.len(), missing.first()))?;
        again += u64::from(!missing.remove(&number_of(&delivery)?));
        delivery.ack();
    }
    within("the acks to be durable", async {
        Ok(consumer.flush_acks().await?)
    })
    .await?;
    Ok(again)
}

/// Numbers of these deliveries, in order.
pub(crate) fn numbers(deliveries: &[Delivery]) -> anyhow::Result<Vec<u64>> {
    deliveries.iter().map(number_of).collect()
}

/// The broker's code in an error of the client, wherever in its chain it is.
pub(crate) fn code_of(error: &anyhow::Error) -> Option<ErrorCode> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(PublishError::Refused(refusal)) => Some(refusal.code),
        _ => match cause.downcast_ref() {
            Some(SubscribeError::Refused(refusal)) => Some(refusal.code),
            _ => None,
        },
    })
}

/// Values of all headers of the first part, for searching.
pub(crate) fn header_values(delivery: &Delivery) -> String {
    let headers = &delivery.event().headers;
    headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect()
}

/// A configuration with the smallest journal there can be, so that checkpoints run all the time.
pub(crate) const SMALL: &str = r#"
[limits]
frame_bytes_max = 524_288
event_bytes_max = 262_144

[store]
journal_file_bytes = 1_048_576
journal_bytes_max = 4_194_304
journal_reserve_bytes = 1_048_576
generation_part_bytes = 4_194_304
tail_bytes = 2_097_152
cache_bytes = 4_194_304
"#;

/// Configuration of `json-reshape` that changes nothing a test looks at.
pub(crate) const IDENTITY: &str = r#"{"pick": ["/n"]}"#;
