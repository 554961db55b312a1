//! A soak run by hand: a backlog of 1 GiB with the subscribers offline, then drained. Prints what memory and disk
//! it takes on the way. Not part of the test line, since it takes minutes.
//!
//! `cargo run --release -p tidegate-tests --bin soak [MEBIBYTES]`

use std::time::Instant;

use anyhow::{Context, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tidegate_client::{ConsumerOptions, Event, PublisherOptions};
use tidegate_tests::{BrokerProcess, Setup};

const MIB: u64 = 1 << 20;
/// Bytes of a payload.
const EVENT_BYTES: u64 = 1_024;
/// What the broker may hold in memory at most: tail and cache of 64 MiB each, two open sled databases of 64 MiB that take up to
/// twice that, the inbox of 64 MiB, and as much again for everything else.
const RESIDENT_BYTES_MAX: u64 = 640 * MIB;
/// Subscriptions; each gets the whole backlog.
const SUBSCRIPTIONS: u64 = 2;
/// A journal much smaller than the backlog, so that nearly all of it is served from sled.
const CONFIG: &str = "[store]\njournal_bytes_max = 134_217_728\njournal_file_bytes = 16_777_216\n";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mebibytes: u64 = match std::env::args().nth(1) {
        Some(text) => text.parse().context("the size of the backlog in MiB")?,
        None => 1_024,
    };
    let events = mebibytes * MIB / EVENT_BYTES;
    let broker = BrokerProcess::start_with(Setup::config(CONFIG)).await?;
    for index in 0..SUBSCRIPTIONS {
        broker
            .admin()
            .create(json!({"name": format!("s{index}"), "topics": ["soak"]}))
            .await?;
    }
    state(&broker, "started")?;
    fill(&broker, events).await?;
    state(&broker, "filled")?;
    for index in 0..SUBSCRIPTIONS {
        drain(&broker, &format!("s{index}"), events).await?;
        state(&broker, "drained")?;
    }
    let begin = Instant::now();
    while broker.disk_bytes() > 300 * MIB && begin.elapsed().as_secs() < 60 {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    state(&broker, "at rest")?;
    ensure!(
        broker.resident_bytes_max()? <= RESIDENT_BYTES_MAX,
        "the broker took more memory than it may"
    );
    ensure!(
        broker.disk_bytes() <= 300 * MIB,
        "the disk was not given back"
    );
    Ok(())
}

async fn fill(broker: &BrokerProcess, events: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    let publisher = broker
        .client()
        .await?
        .publisher(PublisherOptions::default())
        .await?;
    let payload = bytes::Bytes::from(vec![b'x'; EVENT_BYTES as usize]);
    let mut tickets = FuturesUnordered::new();
    for number in 0..events {
        let event = Event::new(payload.clone()).with_id(number.to_string());
        tickets.push(publisher.send("soak", event).await?);
        if tickets.len() >= 4_096 {
            tickets.next().await.context("tickets are outstanding")??;
        }
        if number % 100_000 == 0 {
            state(broker, &format!("{number} published"))?;
        }
    }
    while let Some(answer) = tickets.next().await {
        answer?;
    }
    println!(
        "{events} events published in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

async fn drain(broker: &BrokerProcess, subscription: &str, events: u64) -> anyhow::Result<()> {
    let begin = Instant::now();
    let client = broker.client().await?;
    let mut consumer = client
        .subscribe(subscription, ConsumerOptions::default())
        .await?;
    let mut missing = vec![true; events as usize];
    let mut left = events;
    while left > 0 {
        let delivery = consumer.next().await.context("the consumer ended")??;
        let number: usize = delivery.event().id.parse()?;
        left -= u64::from(std::mem::take(&mut missing[number]));
        delivery.ack();
        if left.is_multiple_of(100_000) {
            state(broker, &format!("{subscription}: {left} left"))?;
        }
    }
    consumer.flush_acks().await?;
    println!(
        "{subscription} drained in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

fn state(broker: &BrokerProcess, when: &str) -> anyhow::Result<()> {
    let (memory, disk) = (broker.resident_bytes_max()?, broker.disk_bytes());
    println!(
        "{when:24} at most {} MiB resident, {} MiB on disk",
        memory / MIB,
        disk / MIB
    );
    Ok(())
}
