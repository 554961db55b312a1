//! SIGKILL at random moments, start-up included, while a client publishes and another acks: whatever was
//! answered is delivered, at the sequence that was answered, and no sequence is ever given twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tidegate_client::{Client, PublisherOptions};
use tidegate_tests::{BrokerProcess, Setup, wait_for, within};

use crate::support::{SMALL, consume, number_of, numbered, numbers, publish, take, take_numbers};

/// How often the broker is killed.
const KILLS: usize = 50;
/// Publishes that are not answered yet, at most.
const OUTSTANDING: usize = 128;

/// What the publisher was told and what the consumer got.
#[derive(Default)]
struct Books {
    /// Number → sequence, as answered.
    answered: Mutex<HashMap<u64, u64>>,
    /// Sequence → number, as delivered.
    delivered: Mutex<HashMap<u64, u64>>,
    deliveries: AtomicU64,
    stop: AtomicBool,
}

#[tokio::test]
async fn fifty_kills_lose_nothing_that_was_answered() -> anyhow::Result<()> {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "offline", "topics": ["t"]}))
        .await?;
    let books = Arc::new(Books::default());
    let publisher = tokio::spawn(publish_for_ever(impatient(&broker).await?, books.clone()));
    let consumer = tokio::spawn(consume_for_ever(impatient(&broker).await?, books.clone()));

    for kill in 0..KILLS {
        // Every other time at any moment of the start; else while it works.
        if kill % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        } else {
            broker
                .wait_ready()
                .await
                .with_context(|| format!("before kill {kill}, seed {seed}"))?;
            books
                .wait_for_progress()
                .await
                .with_context(|| format!("before kill {kill}, seed {seed}"))?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        }
        broker.kill()?;
        broker.spawn()?;
    }
    broker
        .wait_ready()
        .await
        .with_context(|| format!("after the last kill, seed {seed}"))?;
    books.stop.store(true, Ordering::Relaxed);
    within("the publisher's last answers", async { publisher.await? }).await?;
    check_books(&broker, &books)
        .await
        .with_context(|| format!("seed {seed}"))?;
    // It may wait for a delivery that does not come; what it found wrong so far counts.
    consumer.abort();
    match consumer.await {
        Ok(ended) => ended.context("the consumer")?,
        Err(error) if error.is_cancelled() => {}
        Err(error) => return Err(error).context("the consumer"),
    }

    // A subscriber that was away all the time gets the same.
    let answered = books
        .answered
        .lock()
        .expect("no panic under the lock")
        .len();
    let client = broker.client().await?;
    let expected: Vec<u64> = {
        let answered = books.answered.lock().expect("no panic under the lock");
        answered.keys().copied().collect()
    };
    take_numbers(&mut consume(&client, "offline").await?, expected).await?;
    broker.admin().wait_drained("offline").await?;
    println!("{answered} events that were offline for the whole run came as well");
    Ok(())
}

impl Books {
    /// Waits until something is answered and something is delivered.
    async fn wait_for_progress(&self) -> anyhow::Result<()> {
        let state = || {
            let answered = self.answered.lock().expect("no panic under the lock").len();
            (answered, self.deliveries.load(Ordering::Relaxed))
        };
        let before = state();
        wait_for("the clients to go on", async || {
            let now = state();
            Ok((now.0 > before.0 && now.1 > before.1).then_some(()))
        })
        .await
    }
}

// A client that notices soon that the broker is gone.
async fn impatient(broker: &BrokerProcess) -> anyhow::Result<Client> {
    let mut options = broker.client_options(Some(broker.everybody()))?;
    options.idle_timeout = Duration::from_millis(800);
    options.keep_alive = Duration::from_millis(200);
    options.backoff_max = Duration::from_millis(200);
    Ok(Client::connect(options).await?)
}

async fn check_books(broker: &BrokerProcess, books: &Books) -> anyhow::Result<()> {
    let answered = books
        .answered
        .lock()
        .expect("no panic under the lock")
        .clone();
    wait_for("everything that was answered to be delivered", async || {
        let delivered = books.delivered.lock().expect("no panic under the lock");
        Ok(answered
            .values()
            .all(|sequence| delivered.contains_key(sequence))
            .then_some(()))
    })
    .await?;
    broker.admin().wait_drained("s").await?;
    let delivered = books
        .delivered
        .lock()
        .expect("no panic under the lock")
        .clone();
    for (number, sequence) in &answered {
        assert_eq!(delivered.get(sequence), Some(number), "sequence {sequence}");
    }
    assert_eq!(
        delivered.len(),
        answered.len(),
        "nothing was appended that was not answered in the end"
    );
    let highest = answered.values().max().copied().unwrap_or_default();
    assert_eq!(
        highest,
        answered.len() as u64,
        "sequences have no gaps, so none was given twice"
    );
    println!(
        "{} events answered, {} deliveries, {KILLS} kills",
        answered.len(),
        books.deliveries.load(Ordering::Relaxed)
    );
    assert!(
        answered.len() > KILLS,
        "the run was too short to say anything"
    );
    Ok(())
}

async fn publish_for_ever(client: Client, books: Arc<Books>) -> anyhow::Result<()> {
    let publisher = client.publisher(PublisherOptions::default()).await?;
    let mut tickets = FuturesUnordered::new();
    for number in 0.. {
        let stop = books.stop.load(Ordering::Relaxed);
        if !stop {
            let ticket = publisher.send("t", numbered(number)).await?;
            tickets.push(async move { (number, ticket.await) });
        }
        if !stop && tickets.len() < OUTSTANDING {
            // A little apart, so that there is always something on its way without swamping the test.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        let Some((number, answer)) = tickets.next().await else {
            break;
        };
        books
            .answered
            .lock()
            .expect("no panic under the lock")
            .insert(number, answer?.sequence);
    }
    Ok(())
}

async fn consume_for_ever(client: Client, books: Arc<Books>) -> anyhow::Result<()> {
    let mut consumer = consume(&client, "s").await?;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let number = number_of(&delivery)?;
        let before = {
            let mut delivered = books.delivered.lock().expect("no panic under the lock");
            delivered.insert(delivery.sequence, number)
        };
        assert!(
            before.is_none_or(|before| before == number),
            "sequence {} was reused",
            delivery.sequence
        );
        books.deliveries.fetch_add(1, Ordering::Relaxed);
        delivery.ack();
    }
    Ok(())
}

#[tokio::test]
async fn kills_between_any_two_batches_leave_each_batch_whole() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    for round in 0..5 {
        let client = broker.client().await?;
        publish(&client, "t", round * 10..(round + 1) * 10).await?;
        broker.kill()?;
        broker.restart().await?;
        let depth = broker.admin().evaluated("s").await?.depth;
        assert_eq!(depth, (round + 1) * 10);
    }
    let client = broker.client().await?;
    let all = take(&mut consume(&client, "s").await?, 50).await?;
    assert_eq!(numbers(&all)?, (0..50).collect::<Vec<_>>());
    Ok(())
}
