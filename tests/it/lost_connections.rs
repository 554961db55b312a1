//! Consumers that lose their connection while they hold events: what they never had in hand counts nothing, what brought
//! one down is found, and nobody else waits for it.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::process::Stdio;

use anyhow::{Context, bail};
use serde_json::json;
use tidegate::domain::SubscriptionInfo;
use tidegate_client::ConsumerOptions;
use tidegate_tests::{BrokerProcess, RawClient, RawStream};
use tidegate_wire::pb::{self, broker_to_consumer, consumer_command};
use tidegate_wire::positions::{decode_deltas, encode_positions};

use crate::support::{consume, header_values, next, number_of, publish};

/// A consumer that keeps nothing to itself.
struct Raw {
    client: RawClient,
    stream: RawStream,
    /// Came while something else was waited for.
    come: VecDeque<Frame>,
}

/// What a frame of deliveries says.
#[derive(Debug, PartialEq)]
struct Frame {
    positions: Vec<u64>,
    attempt: u32,
    suspect: bool,
}

impl Frame {
    fn of(deliver: &pb::Deliver) -> anyhow::Result<Self> {
        Ok(Self {
            positions: decode_deltas(&deliver.positions)?,
            attempt: deliver.attempt,
            suspect: deliver.suspect,
        })
    }
}

impl Raw {
    async fn attach(broker: &BrokerProcess, credit: u64, says: bool) -> anyhow::Result<Self> {
        let (client, _) = RawClient::hello(broker).await?;
        let open = pb::SubscribeOpen {
            subscription: "s".to_owned(),
            credit_events: credit,
            credit_bytes: 1 << 24,
            says_handed_over: says,
            ..pb::SubscribeOpen::default()
        };
        let (stream, _) = client
            .subscribe(open)
            .await?
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(Self {
            client,
            stream,
            come: VecDeque::new(),
        })
    }

    async fn message(&mut self) -> anyhow::Result<broker_to_consumer::Message> {
        let message: pb::BrokerToConsumer = self.stream.receive().await?;
        message.message.context("an empty message")
    }

    async fn frame(&mut self) -> anyhow::Result<Frame> {
        if let Some(frame) = self.come.pop_front() {
            return Ok(frame);
        }
        match self.message().await? {
            broker_to_consumer::Message::Deliver(deliver) => Frame::of(&deliver),
            other => bail!("not a delivery: {other:?}"),
        }
    }

    /// Positions of the next `count` deliveries.
    async fn take(&mut self, count: usize) -> anyhow::Result<Vec<u64>> {
        let mut positions = Vec::new();
        while positions.len() < count {
            positions.extend(self.frame().await?.positions);
        }
        Ok(positions)
    }

    async fn say(&mut self, command: consumer_command::Command) -> anyhow::Result<()> {
        let command = Some(command);
        self.stream.send(&pb::ConsumerCommand { command }).await
    }

    async fn ack(&mut self, positions: &[u64]) -> anyhow::Result<()> {
        let positions = encode_positions(positions.iter().map(|position| *position..=*position));
        self.say(consumer_command::Command::Ack(pb::Ack {
            positions: Some(positions),
            confirm: 0,
        }))
        .await
    }

    /// Returns when the broker has heard it.
    async fn handed_over(&mut self, deliveries: u64) -> anyhow::Result<()> {
        self.say(consumer_command::Command::Credit(pb::Credit {
            handed_over: deliveries,
            confirm_handed_over: true,
            ..pb::Credit::default()
        }))
        .await?;
        loop {
            match self.message().await? {
                broker_to_consumer::Message::HandedOver(heard) => {
                    assert_eq!(heard.deliveries, deliveries);
                    return Ok(());
                }
                // How many go into a frame is the broker's business, so more may have been under way.
                broker_to_consumer::Message::Deliver(deliver) => {
                    self.come.push_back(Frame::of(&deliver)?);
                }
                other => bail!("in place of an echo: {other:?}"),
            }
        }
    }

    /// Loses its connection, as a process does that dies.
    async fn cut(self, broker: &BrokerProcess, left: u64) -> anyhow::Result<()> {
        self.client.connection.close(0u32.into(), b"");
        let gone = |info: &SubscriptionInfo| info.consumers == left;
        broker
            .admin()
            .wait_subscription("s", "to lose it", gone)
            .await?;
        Ok(())
    }
}

async fn start(policy: serde_json::Value, events: u64) -> anyhow::Result<BrokerProcess> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    publish(&broker.client().await?, "t", 1..=events).await?;
    Ok(broker)
}

#[tokio::test]
async fn an_event_that_brings_its_consumers_down_is_given_up_and_the_next_one_comes()
-> anyhow::Result<()> {
    let broker = start(json!({"attempts_max": 3, "backoff_ms": [0]}), 2).await?;
    broker
        .admin()
        .create(json!({"name": "grave", "topics": ["dead.>"]}))
        .await?;
    // A client that does not say what it hands over, and handles one event at a time.
    let mut attempts = Vec::new();
    let mut other = 0;
    // Three are all it may have. The letter is waited for below: writing it takes a sync, so that it may not be there yet.
    while attempts.len() < 3 {
        let mut consumer = Raw::attach(&broker, 1, false).await?;
        let frame = consumer.frame().await?;
        if frame.positions == [1] {
            attempts.push(frame.attempt);
        } else {
            // Behind it, and it comes although the first is not through.
            other += 1;
            consumer.ack(&frame.positions).await?;
            let acked = |info: &SubscriptionInfo| info.depth == 1;
            broker
                .admin()
                .wait_subscription("s", "to be acked", acked)
                .await?;
        }
        consumer.cut(&broker, 0).await?;
    }
    assert_eq!((attempts, other), (vec![1, 2, 3], 1));
    let dead = next(&mut consume(&broker.client().await?, "grave").await?).await?;
    assert_eq!(number_of(&dead)?, 1);
    let headers = header_values(&dead);
    assert!(headers.contains("lost its connection"), "{headers}");
    Ok(())
}

#[tokio::test]
async fn fifty_cuts_with_a_full_prefetch_give_nothing_up() -> anyhow::Result<()> {
    let policy = json!({"attempts_max": 3, "backoff_ms": [0], "ack_deadline_ms": 600_000});
    let broker = start(policy, 300).await?;
    for round in 0..50 {
        // It had one in hand, and acked it.
        let mut consumer = Raw::attach(&broker, 300, true).await?;
        let frame = consumer.frame().await?;
        consumer.handed_over(1).await?;
        consumer.ack(&frame.positions[..1]).await?;
        let left = 299 - round;
        let acked = |info: &SubscriptionInfo| info.depth == left;
        broker
            .admin()
            .wait_subscription("s", "to be acked", acked)
            .await?;
        consumer.cut(&broker, 0).await?;
    }
    let client = broker.client().await?;
    let mut consumer = consume(&client, "s").await?;
    for _ in 0..250 {
        next(&mut consumer).await?.ack();
    }
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!(info.dead_lettered, 0);
    Ok(())
}

#[tokio::test]
async fn what_a_client_says_it_has_not_handed_over_counts_nothing() -> anyhow::Result<()> {
    let broker = start(json!({"attempts_max": 1, "backoff_ms": [0]}), 1).await?;
    for _ in 0..5 {
        let mut consumer = Raw::attach(&broker, 10, true).await?;
        assert_eq!(consumer.frame().await?.attempt, 1);
        consumer.cut(&broker, 0).await?;
    }
    let mut consumer = Raw::attach(&broker, 10, true).await?;
    let frame = consumer.frame().await?;
    assert!(frame.suspect, "it may have been in hand the first time");
    consumer.handed_over(1).await?;
    consumer.cut(&broker, 0).await?;
    let given_up = |info: &SubscriptionInfo| info.dead_lettered == 1;
    broker
        .admin()
        .wait_subscription("s", "to give it up", given_up)
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_waits_in_front_of_an_application_that_stands_still_goes_to_another_and_counts_nothing()
-> anyhow::Result<()> {
    let policy = json!({"attempts_max": 1, "backoff_ms": [0], "ack_deadline_ms": 50});
    let broker = start(policy, 3).await?;
    let mut stands = Raw::attach(&broker, 10, true).await?;
    assert_eq!(stands.take(3).await?, [1, 2, 3]);
    stands.handed_over(1).await?;
    // That one is in its hands, and late; the others never got there.
    let late = |info: &SubscriptionInfo| info.dead_lettered == 1 && info.in_flight == 0;
    broker
        .admin()
        .wait_subscription("s", "to miss its deadline", late)
        .await?;
    let mut goes_on = Raw::attach(&broker, 10, true).await?;
    let frame = goes_on.frame().await?;
    assert_eq!((frame.positions, frame.attempt), (vec![2, 3], 1));
    goes_on.handed_over(2).await?;
    goes_on.ack(&[2, 3]).await?;
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!(info.dead_lettered, 1);
    Ok(())
}

#[tokio::test]
async fn what_a_client_holds_that_answers_nothing_goes_to_another_before_its_connection_is_given_up()
-> anyhow::Result<()> {
    let broker = start(json!({"ack_deadline_ms": 600_000}), 2).await?;
    // Nobody goes on with what it has to answer, as of a process that was killed.
    let stopped = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let holds = async {
        let mut raw = Raw::attach(&broker, 10, true).await?;
        assert_eq!(raw.take(2).await?, [1, 2]);
        raw.handed_over(2).await?;
        anyhow::Ok(raw)
    };
    let silent = std::thread::scope(|scope| {
        let held = scope.spawn(|| stopped.block_on(holds));
        held.join().expect("no panic")
    })?;
    let mut other = Raw::attach(&broker, 10, true).await?;
    // Each may be what brought the client down.
    for position in [1, 2] {
        assert_eq!(other.take(1).await?, [position]);
        other.handed_over(position).await?;
        other.ack(&[position]).await?;
    }
    broker.admin().wait_drained("s").await?;
    let log = broker.log();
    assert!(log.contains("the client is silent"), "{log}");
    {
        let _entered = stopped.enter();
        drop(silent);
    }
    stopped.shutdown_background();
    Ok(())
}

#[tokio::test]
async fn suspects_go_out_alone_while_others_go_on() -> anyhow::Result<()> {
    let policy = json!({"backoff_ms": [0], "ack_deadline_ms": 600_000});
    let broker = start(policy, 6).await?;
    let mut first = Raw::attach(&broker, 3, false).await?;
    assert_eq!(first.take(3).await?, [1, 2, 3]);
    let mut other = Raw::attach(&broker, 2, false).await?;
    assert_eq!(other.take(2).await?, [4, 5]);
    first.cut(&broker, 1).await?;
    let mut again = Raw::attach(&broker, 100, false).await?;
    let alone = Frame {
        positions: vec![1],
        attempt: 2,
        suspect: true,
    };
    assert_eq!(again.frame().await?, alone);
    other
        .say(consumer_command::Command::Credit(pb::Credit {
            events: 1,
            ..pb::Credit::default()
        }))
        .await?;
    assert_eq!(other.take(1).await?, [6], "the other goes on");
    again.ack(&[1]).await?;
    assert_eq!(again.take(2).await?, [2, 3], "two after the first answer");
    again.ack(&[2, 3]).await?;
    // And what is no suspect comes once there is none left.
    publish(&broker.client().await?, "t", [7, 8]).await?;
    assert_eq!(again.take(2).await?, [7, 8]);
    Ok(())
}

#[tokio::test]
async fn who_says_goodbye_makes_nobody_suspect() -> anyhow::Result<()> {
    let broker = start(json!({"attempts_max": 1, "backoff_ms": [0]}), 3).await?;
    for end in ["finish", "reset", "close"] {
        let mut consumer = Raw::attach(&broker, 10, false).await?;
        assert_eq!(consumer.take(3).await?, [1, 2, 3], "{end}");
        match end {
            "finish" => consumer.stream.finish()?,
            "reset" => consumer.stream.reset()?,
            _ => consumer.client.connection.close(0u32.into(), b"bye"),
        }
        let gone = |info: &SubscriptionInfo| info.consumers == 0;
        broker
            .admin()
            .wait_subscription("s", "to be left", gone)
            .await?;
    }
    assert_eq!(broker.admin().subscription("s").await?.dead_lettered, 0);
    Ok(())
}

#[tokio::test]
async fn looking_costs_nothing_however_long_it_takes() -> anyhow::Result<()> {
    let policy = json!({"attempts_max": 1, "backoff_ms": [0], "ack_deadline_ms": 1});
    let broker = start(policy, 1).await?;
    let mut looks = broker
        .command_line(&["sub", "s", "--no-ack"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut shown = std::io::BufReader::new(looks.stdout.take().context("piped")?).lines();
    let line = tokio::task::spawn_blocking(move || shown.next()).await?;
    assert!(line.context("shown")??.starts_with("t #1"), "it looks");
    // A deadline would have passed when this one's has.
    broker
        .admin()
        .create(json!({"name": "clock", "topics": ["c"], "delivery": {"ack_deadline_ms": 20, "attempts_max": 1}}))
        .await?;
    let client = broker.client().await?;
    publish(&client, "c", [1]).await?;
    let mut clock = consume(&client, "clock").await?;
    let _tick = next(&mut clock).await?;
    let late = |info: &SubscriptionInfo| info.dead_lettered == 1;
    broker
        .admin()
        .wait_subscription("clock", "to be late", late)
        .await?;
    broker.admin().delete_subscription("clock").await?;
    looks.kill()?;
    looks.wait()?;
    let info = broker.admin().subscription("s").await?;
    assert_eq!((info.dead_lettered, info.depth), (0, 1));
    Ok(())
}

#[tokio::test]
async fn whoever_looks_keeps_nothing_from_a_consumer_with_a_window_of_one() -> anyhow::Result<()> {
    let broker = start(json!({"in_flight_events_max": 1}), 3).await?;
    let client = broker.client().await?;
    let mut looks = client.look("s", ConsumerOptions::default()).await?;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let shown = next(&mut looks).await?;
        assert_eq!(shown.attempt, 1);
        seen.push(shown);
    }
    let mut works = consume(&client, "s").await?;
    for shown in &seen {
        // Whatever is said of what was only looked at: somebody else holds it.
        shown.ack();
        let delivery = next(&mut works).await?;
        assert_eq!(delivery.position, shown.position);
        assert_eq!(delivery.attempt, 1);
        assert_eq!(broker.admin().subscription("s").await?.in_flight, 1);
        delivery.ack();
    }
    works.flush_acks().await?;
    publish(&client, "t", [4]).await?;
    assert_eq!(number_of(&next(&mut looks).await?)?, 4);
    assert_eq!(number_of(&next(&mut works).await?)?, 4);
    Ok(())
}
