//! A backlog much larger than the journal and all caches, published while its subscribers are offline and then drained:
//! everything arrives, memory stays within its bound, and the disk is given back. `it/limits.rs` runs it at 1 GiB,
//! `bin/soak.rs` by hand at any size. Nothing here depends on how long anything takes.

use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use tidegate_client::{ConsumerOptions, Event, PublisherOptions};

use crate::{BrokerProcess, Setup, wait_for, within};

const MIB: u64 = 1 << 20;
/// What the broker may hold in memory at most: tail and cache of 64 MiB each, two open sled databases of 64 MiB that take up to
/// twice that, the inbox of 64 MiB, and as much again for everything else.
const RESIDENT_BYTES_MAX: u64 = 640 * MIB;
/// What may be on disk once everything is acked: the journal, and a generation that the next checkpoint removes.
const DISK_BYTES_AT_REST_MAX: u64 = 300 * MIB;
/// A journal much smaller than the backlog.
const JOURNAL_BYTES_MAX: u64 = 128 * MIB;
const JOURNAL_FILE_BYTES: u64 = 16 * MIB;
/// Answers that are waited for at once.
const TICKETS_MAX: usize = 4_096;
/// Twice what a block has, so that nothing in one repeats itself.
const NOISE_BYTES_MIN: usize = 128 << 10;
const TOPIC: &str = "soak";
/// A topic that nobody wants.
const FILLER: &str = "filler";

/// How much, in which pieces, and for how many.
#[derive(Clone, Copy, Debug)]
pub struct Soak {
    /// Bytes of all payloads. More than the journal's 128 MiB.
    pub backlog_bytes: u64,
    /// Bytes of one payload.
    pub event_bytes: u64,
    /// Subscriptions; each gets the whole backlog.
    pub subscriptions: u64,
}

impl Soak {
    /// Fills and drains a broker of its own, and prints memory and disk on the way.
    ///
    /// # Errors
    /// An event did not arrive or not as it was published, the backlog was not in sled, or the broker took more memory or
    /// disk than it may.
    pub async fn run(&self) -> anyhow::Result<()> {
        let config = format!(
            "[store]\njournal_bytes_max = {JOURNAL_BYTES_MAX}\njournal_file_bytes = {JOURNAL_FILE_BYTES}\n"
        );
        let broker = BrokerProcess::start_with(Setup::config(config)).await?;
        for index in 0..self.subscriptions {
            let spec = json!({"name": name(index), "topics": [TOPIC]});
            broker.admin().create(spec).await?;
        }
        let begin = Instant::now();
        self.fill(&broker, TOPIC, self.events()).await?;
        // A whole journal of what nobody wants, so that nothing of the backlog is there, nor in the tail, any more.
        let journal = JOURNAL_BYTES_MAX / self.event_bytes;
        self.fill(&broker, FILLER, journal).await?;
        wait_for("the backlog to be in sled", async || {
            let in_sled = broker.admin().metric("tidegate_generation_bytes").await?;
            Ok((in_sled >= self.backlog_bytes as f64).then_some(()))
        })
        .await?;
        state(&broker, "filled", begin)?;
        for index in 0..self.subscriptions {
            self.drain(&broker, &name(index)).await?;
            state(&broker, &format!("{} drained", name(index)), begin)?;
        }
        wait_for("the disk to be given back", async || {
            Ok((broker.disk_bytes() <= DISK_BYTES_AT_REST_MAX).then_some(()))
        })
        .await?;
        state(&broker, "at rest", begin)?;
        let resident = broker.resident_bytes_max()?;
        ensure!(
            resident <= RESIDENT_BYTES_MAX,
            "the broker took {resident} bytes of memory"
        );
        Ok(())
    }

    async fn fill(&self, broker: &BrokerProcess, topic: &str, events: u64) -> anyhow::Result<()> {
        let client = broker.client().await?;
        let publisher = client.publisher(PublisherOptions::default()).await?;
        let noise = self.noise();
        let mut tickets = FuturesUnordered::new();
        for number in 0..events {
            let event = Event::new(self.payload(&noise, number)).with_id(number.to_string());
            let send = async { Ok(publisher.send(topic, event).await?) };
            tickets.push(within("room to publish", send).await?);
            if tickets.len() >= TICKETS_MAX {
                let answer = async { Ok(tickets.next().await.transpose()?) };
                within("an answer to a publish", answer).await?;
            }
        }
        while let Some(answer) = within("an answer", async { Ok(tickets.next().await) }).await? {
            answer?;
        }
        Ok(())
    }

    async fn drain(&self, broker: &BrokerProcess, subscription: &str) -> anyhow::Result<()> {
        let client = broker.client().await?;
        let mut consumer = client
            .subscribe(subscription, ConsumerOptions::default())
            .await?;
        let noise = self.noise();
        let mut left = self.events();
        let mut missing = vec![true; usize::try_from(left)?];
        while left > 0 {
            let next = async { consumer.next().await.context("the consumer ended") };
            let delivery = within(format!("one of {left} events"), next).await??;
            let event = delivery.event();
            let number: u64 = event.id.parse()?;
            ensure!(
                event.payload == self.payload(&noise, number),
                "event {number} differs"
            );
            let index = usize::try_from(number)?;
            left -= u64::from(std::mem::take(&mut missing[index]));
            delivery.ack();
        }
        let flush = async { Ok(consumer.flush_acks().await?) };
        within("the acks to be durable", flush).await
    }

    fn events(&self) -> u64 {
        self.backlog_bytes / self.event_bytes
    }

    // What the events have pieces of: random, or the broker would compress a backlog to next to nothing.
    fn noise(&self) -> Bytes {
        let mut noise = vec![0; NOISE_BYTES_MIN.max(2 * self.event_bytes as usize)];
        StdRng::seed_from_u64(0).fill_bytes(&mut noise);
        noise.into()
    }

    // Different in neighbours, so that none can be taken for another.
    fn payload(&self, noise: &Bytes, number: u64) -> Bytes {
        let bytes = self.event_bytes as usize;
        let piece = (number % (noise.len() / bytes) as u64) as usize;
        noise.slice(piece * bytes..(piece + 1) * bytes)
    }
}

fn name(index: u64) -> String {
    format!("s{index}")
}

fn state(broker: &BrokerProcess, when: &str, begin: Instant) -> anyhow::Result<()> {
    let (memory, disk) = (broker.resident_bytes_max()?, broker.disk_bytes());
    println!(
        "{:6.1} s {when:12} at most {} MiB resident, {} MiB on disk",
        begin.elapsed().as_secs_f64(),
        memory / MIB,
        disk / MIB
    );
    Ok(())
}
