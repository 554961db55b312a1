//! Publish, subscribe, ack: what every user relies on, and what survives the end of the broker.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tidegate_client::{ConsumerOptions, Event};
use tidegate_tests::{BrokerProcess, RawClient, within};
use tidegate_wire::pb;

use crate::support::{
    code_of, consume, header_values, next, number_of, numbers, publish, publish_events, take,
    take_numbers,
};

#[tokio::test]
async fn events_arrive_in_order_and_unchanged() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    assert_eq!(client.principal(), "uri:spiffe://tidegate.test/everybody");
    broker
        .admin()
        .create(json!({"name": "all", "topics": ["orders"]}))
        .await?;
    let answers = publish(&client, "orders", 0..100).await?;
    let sequences: Vec<u64> = answers.iter().map(|answer| answer.sequence).collect();
    assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
    let special = Event::new(vec![0, 159, 146, 150])
        .with_id("the-id")
        .with_key(vec![1, 2])
        .with_header("ce-type", "order")
        .with_header("empty", "")
        .with_content_type("application/x-special");
    publish_events(&client, "orders", [special.clone()]).await?;

    let mut consumer = consume(&client, "all").await?;
    let deliveries = take(&mut consumer, 101).await?;
    assert_eq!(numbers(&deliveries[..100])?, (0..100).collect::<Vec<_>>());
    let last = &deliveries[100];
    assert_eq!(
        (&*last.topic, last.sequence, last.attempt),
        ("orders", 101, 1)
    );
    assert_eq!(format!("{:?}", last.event()), format!("{special:?}"));
    deliveries.iter().for_each(|delivery| delivery.ack());
    let info = broker.admin().wait_drained("all").await?;
    assert_eq!((info.redelivered, info.dead_lettered), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_wildcard_joins_topics_that_come_later() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "eu", "topics": ["orders.*.created", "audit.>"]}))
        .await?;
    let mut consumer = consume(&client, "eu").await?;
    publish(&client, "orders.eu.created", [1]).await?;
    publish(&client, "orders.eu.deleted", [2]).await?;
    publish(&client, "orders.us.created", [3]).await?;
    publish(&client, "audit.login.failed", [4]).await?;
    publish(&client, "audit", [5]).await?;
    publish(&client, "orders.eu.created", [6]).await?;
    assert_eq!(numbers(&take(&mut consumer, 4).await?)?, [1, 3, 4, 6]);
    assert_eq!(broker.admin().evaluated("eu").await?.depth, 4);
    Ok(())
}

#[tokio::test]
async fn consumers_of_one_subscription_share_its_events() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "group", "topics": ["work"]}))
        .await?;
    let small = || ConsumerOptions {
        credit_events: 10,
        ..ConsumerOptions::default()
    };
    let mut first = client.subscribe("group", small()).await?;
    let mut second = broker.client().await?.subscribe("group", small()).await?;
    publish(&client, "work", 0..200).await?;

    // Nobody reads from the first one at first, so it holds no more than its credit and the second gets the rest.
    let mut held: Vec<_> = take(&mut second, 100)
        .await?
        .into_iter()
        .map(|one| (1, one))
        .collect();
    held.push((0, next(&mut first).await?));
    let mut seen = BTreeSet::new();
    let mut shares = [0, 0];
    loop {
        for (share, delivery) in held.drain(..) {
            assert!(
                seen.insert(number_of(&delivery)?),
                "handed out twice: {}",
                delivery.sequence
            );
            shares[share] += 1;
            delivery.ack();
        }
        if seen.len() == 200 {
            break;
        }
        held.push(
            within("the rest", async {
                tokio::select! {
                    delivery = next(&mut first) => Ok((0, delivery?)),
                    delivery = next(&mut second) => Ok((1, delivery?)),
                }
            })
            .await?,
        );
    }
    assert!(shares[0] >= 1 && shares[1] >= 100, "{shares:?}");
    broker.admin().wait_drained("group").await?;
    Ok(())
}

#[tokio::test]
async fn a_nack_brings_the_event_again_with_its_attempt() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&client, "t", [1]).await?;
    let mut consumer = consume(&client, "s").await?;
    for attempt in 1..=4 {
        let delivery = next(&mut consumer).await?;
        assert_eq!((delivery.attempt, delivery.sequence), (attempt, 1));
        match attempt {
            4 => delivery.ack(),
            _ => delivery.nack(Some(Duration::ZERO)),
        }
    }
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!(info.redelivered, 3);
    Ok(())
}

#[tokio::test]
async fn an_event_nobody_acks_in_time_comes_again() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let delivery = json!({"ack_deadline_ms": 100, "backoff_ms": [0]});
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"], "delivery": delivery}))
        .await?;
    publish(&client, "t", [1]).await?;
    let mut consumer = consume(&client, "s").await?;
    let first = next(&mut consumer).await?;
    let second = next(&mut consumer).await?;
    assert_eq!((first.sequence, first.attempt), (1, 1));
    assert_eq!(second.sequence, 1);
    assert!(second.attempt >= 2);
    second.ack();
    broker.admin().wait_drained("s").await?;
    Ok(())
}

#[tokio::test]
async fn the_last_attempt_ends_in_the_dead_letter_topic() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let policy = json!({"attempts_max": 2, "backoff_ms": [0]});
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "grave", "topics": ["dead.>"]}))
        .await?;
    publish(&client, "t", [7]).await?;
    let mut consumer = consume(&client, "s").await?;
    for attempt in 1..=2 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt, attempt);
        delivery.nack(Some(Duration::ZERO));
    }
    let mut grave = consume(&client, "grave").await?;
    let dead = next(&mut grave).await?;
    assert_eq!((&*dead.topic, number_of(&dead)?), ("dead.s", 7));
    let headers = header_values(&dead);
    assert!(
        headers.contains(": s\n") && headers.contains(": t\n"),
        "{headers}"
    );
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!(info.dead_lettered, 1);
    Ok(())
}

#[tokio::test]
async fn term_sends_to_the_dead_letter_topic_with_its_reason() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let policy = json!({"dead_letter": "graves.orders"});
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "grave", "topics": ["graves.*"]}))
        .await?;
    publish_events(
        &client,
        "t",
        [Event::json(r#"{"n":1}"#).with_header("mine", "kept")],
    )
    .await?;
    let mut consumer = consume(&client, "s").await?;
    next(&mut consumer).await?.term("checksum is wrong");
    let dead = next(&mut consume(&client, "grave").await?).await?;
    let headers = header_values(&dead);
    assert!(headers.contains("checksum is wrong"), "{headers}");
    assert!(headers.contains("mine: kept"), "{headers}");
    assert_eq!(number_of(&dead)?, 1);
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_goes_gives_its_events_back_at_once() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    // Only the consumer's end can bring the events back within the time of a test.
    let policy = json!({"ack_deadline_ms": 3_600_000, "backoff_ms": [3_600_000]});
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    publish(&client, "t", 0..10).await?;
    let mut first = consume(&client, "s").await?;
    let held = take(&mut first, 10).await?;
    drop(first);
    let mut second = consume(&client, "s").await?;
    assert_eq!(take_numbers(&mut second, 0..10).await?, 0);
    drop(held);
    broker.admin().wait_drained("s").await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_acked_survives_a_graceful_restart() -> anyhow::Result<()> {
    survives(async |broker| {
        let status = broker.stop().await?;
        assert!(status.success(), "{status}");
        broker.restart().await
    })
    .await
}

#[tokio::test]
async fn what_is_not_acked_survives_sigkill() -> anyhow::Result<()> {
    survives(async |broker| {
        broker.kill()?;
        broker.restart().await
    })
    .await
}

async fn survives(
    restart: impl AsyncFnOnce(&mut BrokerProcess) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t.>"]}))
        .await?;
    publish(&client, "t.a", 0..25).await?;
    publish(&client, "t.b", 25..50).await?;
    let mut consumer = consume(&client, "s").await?;
    for delivery in take(&mut consumer, 50).await? {
        if number_of(&delivery)? % 2 == 0 {
            delivery.ack();
        }
    }
    within("durable acks", async { Ok(consumer.flush_acks().await?) }).await?;
    client.close().await;
    drop(consumer);

    restart(&mut broker).await?;
    assert_eq!(broker.admin().evaluated("s").await?.depth, 25);
    let client = broker.client().await?;
    let mut consumer = consume(&client, "s").await?;
    let left = take(&mut consumer, 25).await?;
    let odd: Vec<u64> = (0..50).filter(|n| n % 2 == 1).collect();
    assert_eq!(numbers(&left)?, odd, "in order, and nothing that was acked");
    left.iter().for_each(|delivery| delivery.ack());
    broker.admin().wait_drained("s").await?;
    let answers = publish(&client, "t.a", [99]).await?;
    assert_eq!(answers[0].sequence, 26, "sequences go on where they were");
    Ok(())
}

#[tokio::test]
async fn a_client_goes_on_by_itself_after_a_restart() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let publisher = client.publisher(Default::default()).await?;
    let mut consumer = consume(&client, "s").await?;
    publisher.publish("t", crate::support::numbered(0)).await?;
    assert_eq!(take_numbers(&mut consumer, [0]).await?, 0);
    broker.kill()?;
    let ticket = publisher.send("t", crate::support::numbered(1)).await?;
    broker.restart().await?;
    within("the answer after the restart", async { Ok(ticket.await?) }).await?;
    take_numbers(&mut consumer, [1]).await?;
    broker.admin().wait_drained("s").await?;
    assert_eq!(broker.admin().topic("t").await?.next_sequence.0, 3);
    Ok(())
}

#[tokio::test]
async fn a_resend_is_recognised_and_never_doubles() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let producer = Some([7; 16]);
    let batch = pb::PublishBatch {
        correlation: 1,
        topic: "t".to_owned(),
        first_number: 1,
        resolved_through: 0,
        events: (0..3)
            .map(|n| encoded(&format!(r#"{{"n":{n}}}"#)))
            .collect(),
        ..Default::default()
    };
    let first = send_batch(&broker, producer, 0, &batch).await?;
    assert_eq!(
        (first.first_sequence, first.count, first.duplicate),
        (1, 3, false)
    );
    // The same producer on a new connection, which is how a client resends after it lost one.
    let second = send_batch(&broker, producer, 1, &batch).await?;
    assert_eq!(
        (second.first_sequence, second.count, second.duplicate),
        (1, 3, true)
    );
    broker.kill()?;
    broker.restart().await?;
    let third = send_batch(&broker, producer, 2, &batch).await?;
    assert_eq!(
        (third.first_sequence, third.count, third.duplicate),
        (1, 3, true)
    );
    assert_eq!(broker.admin().topic("t").await?.next_sequence.0, 4);
    assert_eq!(
        broker
            .admin()
            .wait_subscription("s", "to have them", |s| s.depth == 3)
            .await?
            .depth,
        3
    );
    Ok(())
}

#[tokio::test]
async fn an_older_stream_of_a_producer_is_fenced() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let (raw, _) = RawClient::hello(&broker).await?;
    let (_newer, _) = raw
        .publish_stream(Some([9; 16]), 5)
        .await?
        .expect("epoch 5 is the first");
    let refused = raw
        .publish_stream(Some([9; 16]), 4)
        .await?
        .err()
        .expect("epoch 4 is over");
    assert_eq!(refused.code(), pb::ErrorCode::ProducerFenced, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_publish_that_nobody_will_see_says_so() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    assert!(publish(&client, "t", [1]).await?[0].unkept);
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    assert!(!publish(&client, "t", [2]).await?[0].unkept);
    broker.admin().delete_subscription("s").await?;
    assert!(publish(&client, "t", [3]).await?[0].unkept);
    Ok(())
}

#[tokio::test]
async fn what_does_not_exist_is_named() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let error = consume(&client, "nothing")
        .await
        .expect_err("no such subscription");
    assert_eq!(code_of(&error), Some(pb::ErrorCode::NotFound), "{error:#}");
    assert!(format!("{error:#}").contains("nothing"), "{error:#}");
    let spec = json!({"name": "s", "topics": ["t"]});
    broker.admin().create(spec.clone()).await?;
    let refusal = broker
        .admin()
        .try_create(spec)
        .await?
        .expect_err("the name is taken");
    assert_eq!(refusal.status, 409, "{refusal:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_broker_on_the_same_directory_is_refused() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let output = broker.second_on_same_directory().await?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains(&*broker.data_directory().to_string_lossy()),
        "{text}"
    );
    assert!(broker.admin().is_ready().await);
    Ok(())
}

fn encoded(payload: &str) -> bytes::Bytes {
    let event = pb::Event {
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
        ..pb::Event::default()
    };
    prost::Message::encode_to_vec(&event).into()
}

async fn send_batch(
    broker: &BrokerProcess,
    producer: Option<[u8; 16]>,
    epoch: u32,
    batch: &pb::PublishBatch,
) -> anyhow::Result<pb::PublishAck> {
    let (raw, _) = RawClient::hello(broker).await?;
    let (mut stream, _) = raw
        .publish_stream(producer, epoch)
        .await?
        .expect("the stream opens");
    stream.send(batch).await?;
    let reply: pb::PublishReply = stream.receive().await?;
    match reply.result {
        Some(pb::publish_reply::Result::Ack(ack)) => Ok(ack),
        other => anyhow::bail!("no ack: {other:?}"),
    }
}
