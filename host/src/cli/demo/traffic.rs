//! The demo's clients: publishers that send their share of the stream at a steady rate, and consumers that ack
//! what they get. They know the broker only through the public client, which reconnects by itself when the
//! broker is killed, and they write down everything in the ledger.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tidegate_client::{Client, ClientOptions, ConsumerOptions, Delivery, Event, PublisherOptions};
use tokio::time::Instant;

use super::auction::{self, AuctionEvent};
use super::interests::Interest;
use super::ledger::Ledger;
use crate::pki::{Authority, ClientName, Validity};

/// Events a publisher leaves unanswered before it waits.
const OUTSTANDING_EVENTS_MAX: usize = 4_096;

/// Days a client's certificate holds.
const CERTIFICATE_DAYS: u32 = 1;

/// Options for a client that is `uri:spiffe://tidegate.dev/<name>`, with a new key and certificate.
pub(super) fn client_options(
    authority: &Authority,
    addr: &str,
    name: &str,
) -> anyhow::Result<ClientOptions> {
    let name = ClientName::Uri(format!("spiffe://tidegate.dev/{name}"));
    let pair = authority.issue_client(&name, Validity::days(CERTIFICATE_DAYS))?;
    let mut options = ClientOptions::new(addr)
        .server_name("localhost")
        .roots_pem(authority.cert_pem().as_bytes())?
        .identity_pem(pair.cert.as_bytes(), pair.key.as_bytes())?;
    // The broker is killed on purpose here, on the same machine, so its silence need not be waited out long.
    options.idle_timeout = Duration::from_secs(2);
    options.keep_alive = Duration::from_millis(500);
    Ok(options)
}

/// One publisher's part of the run.
pub(super) struct PublisherPlan {
    /// Its number among the publishers, from 0.
    pub(super) index: u64,
    /// How many publishers there are.
    pub(super) publishers: u64,
    /// Events of all publishers together.
    pub(super) events: u64,
    /// Time between two events of this publisher.
    pub(super) interval: Duration,
}

/// Publishes one share of the stream and returns when every event of it has been answered. A broker that is
/// away is waited for.
pub(super) async fn publish(
    client: Client,
    plan: PublisherPlan,
    interests: Arc<[Interest]>,
    ledger: Arc<Ledger>,
) -> anyhow::Result<()> {
    let publisher = client.publisher(PublisherOptions::default()).await?;
    let mut answers = FuturesUnordered::new();
    let mut due = Instant::now();
    for event in auction::share(plan.index, plan.publishers, plan.events) {
        tokio::time::sleep_until(due).await;
        due += plan.interval;
        let (number, topic) = (event.number, event.kind.topic());
        ledger.sending(number, verdicts(&interests, &event));
        let ticket = publisher.send(topic, encode(event)).await?;
        answers.push(async move { (number, ticket.await) });
        while answers.len() >= OUTSTANDING_EVENTS_MAX
            && let Some((number, answer)) = answers.next().await
        {
            ledger.acked(number, answer?.duplicate);
        }
        // What is answered already must not wait for the bound to be reached.
        while let Some(Some((number, answer))) =
            futures_util::FutureExt::now_or_never(answers.next())
        {
            ledger.acked(number, answer?.duplicate);
        }
    }
    while let Some((number, answer)) = answers.next().await {
        ledger.acked(number, answer?.duplicate);
    }
    client.close().await;
    Ok(())
}

/// Consumes for interest `index` until it is stopped from outside, which is not before all has come.
pub(super) async fn consume(
    client: Client,
    index: usize,
    interests: Arc<[Interest]>,
    ledger: Arc<Ledger>,
) -> anyhow::Result<()> {
    let interest = &interests[index];
    let options = ConsumerOptions {
        credit_events: interest.credit_events,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.subscribe(interest.name, options).await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.with_context(|| format!("consuming `{}`", interest.name))?;
        if !interest.work.is_zero() {
            tokio::time::sleep(interest.work).await;
        }
        ledger.delivered(index, number_of(&delivery)?, delivery.sequence);
        delivery.ack();
    }
    Ok(())
}

fn verdicts(interests: &[Interest], event: &AuctionEvent) -> u8 {
    interests
        .iter()
        .enumerate()
        .fold(0, |bits, (index, interest)| {
            bits | u8::from(interest.wants(event)) << index
        })
}

// CloudEvents attributes as headers, in the convention the broker's filters know.
fn encode(event: AuctionEvent) -> Event {
    let id = event.number.to_string();
    Event::json(event.payload)
        .with_id(&id)
        .with_header("ce-specversion", "1.0")
        .with_header("ce-id", &id)
        .with_header("ce-source", "/tidegate/demo")
        .with_header("ce-type", event.kind.topic())
}

fn number_of(delivery: &Delivery) -> anyhow::Result<u64> {
    let payload: serde_json::Value = serde_json::from_slice(&delivery.event().payload)
        .with_context(|| format!("an event of {} is not JSON", delivery.topic))?;
    payload["n"]
        .as_u64()
        .with_context(|| format!("an event of {} has no number: {payload}", delivery.topic))
}
