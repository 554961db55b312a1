//! Answers that come too late, and events and letters as large as they may be: what a consumer is told, and that it gets them.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use tidegate::domain::SubscriptionInfo;
use tidegate_client::{ConsumerOptions, Event, SubscribeError};
use tidegate_tests::{BrokerProcess, RawClient, Setup, wait_for, within};
use tidegate_wire::pb::{self, broker_to_consumer};

use crate::support::{consume, header_values, next, publish, publish_events};

/// The largest payload of an event that has nothing else and is taken by default.
const LARGEST: usize = 1_047_548;

#[tokio::test]
async fn a_late_ack_is_told_counted_and_changes_nothing() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    let policy = json!({"ack_deadline_ms": 50, "backoff_ms": [3_600_000]});
    admin
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    let client = broker.client().await?;
    publish(&client, "t", [1]).await?;
    let mut consumer = consume(&client, "s").await?;
    let late = next(&mut consumer).await?;
    admin
        .wait_subscription("s", "to take it back", |info: &SubscriptionInfo| {
            info.in_flight == 0
        })
        .await?;
    assert!(late.is_expired());
    late.ack();
    match consumer.flush_acks().await {
        Err(SubscribeError::NotHeld { positions, more }) => {
            assert_eq!(
                (positions, more),
                (vec![late.position..=late.position], false)
            );
        }
        other => bail!("{other:?}"),
    }
    consumer.flush_acks().await?;
    assert_eq!(admin.subscription("s").await?.depth, 1);
    assert_eq!(admin.metric("tidegate_late_answers_total").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn what_is_acked_long_after_the_goodbye_and_in_time_is_not_delivered_again()
-> anyhow::Result<()> {
    // Half of it is for answers.
    let config = "[shutdown]\ndeadline_ms = 120_000\n";
    let mut broker = BrokerProcess::start_with(Setup::config(config)).await?;
    let all = json!({"name": "s", "topics": ["t"]});
    broker.admin().create(all).await?;
    let client = broker.client().await?;
    publish(&client, "t", [1]).await?;
    let mut consumer = consume(&client, "s").await?;
    let in_hand = next(&mut consumer).await?;
    let answering = async {
        wait_for("a goodbye", async || Ok(client.trouble().map(drop))).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        in_hand.ack();
        let confirmed = async { Ok(consumer.flush_acks().await?) };
        within("the confirmation", confirmed).await
    };
    let (stopped, answered) = tokio::join!(broker.stop(), answering);
    answered?;
    assert!(stopped?.success());
    broker.spawn()?;
    broker.wait_ready().await?;
    assert_eq!(broker.admin().subscription("s").await?.depth, 0);
    Ok(())
}

#[tokio::test]
async fn the_letter_of_the_largest_event_says_everything_and_can_be_published_again()
-> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    for (name, topic) in [("s", "t"), ("letters", "dead.s"), ("narrow", "dead.s")] {
        admin
            .create(json!({"name": name, "topics": [topic]}))
            .await?;
    }
    let client = broker.client().await?;
    let mut letters = consume(&client, "letters").await?;
    let many = (0..128).fold(Event::new("x"), |event, n| {
        event.with_header(format!("name-{n}"), "value")
    });
    let reason = "r".repeat(1_000);
    for event in [Event::new(vec![b'x'; LARGEST]), many] {
        publish_events(&client, "t", [event.clone()]).await?;
        next(&mut consume(&client, "s").await?).await?.term(&reason);
        let letter = next(&mut letters).await?;
        let said = format!("tidegate-dead-reason: refused by the consumer: {reason}\n");
        assert!(header_values(&letter).contains(&said), "all of the reason");
        letter.ack();
        let again = letter.event().clone().without_broker_headers();
        assert_eq!(again, event);
        publish_events(&client, "again", [again]).await?;
    }
    // Whoever takes no larger frames than the event needs gets less of the reason.
    let (raw, _) = RawClient::hello(&broker).await?;
    let opened = raw.subscribe_stream("narrow", 1, 1 << 24).await?;
    let (mut stream, _) = opened.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let message: pb::BrokerToConsumer = stream.receive().await?;
    match message.message.context("empty")? {
        broker_to_consumer::Message::Deliver(deliver) => {
            let bytes = deliver.events[0].len();
            assert!((LARGEST..1 << 20).contains(&bytes), "{bytes}");
        }
        other => bail!("{other:?}"),
    }
    assert_eq!(admin.subscription("letters").await?.dead_lettered, 0);
    Ok(())
}

#[tokio::test]
async fn whatever_a_publisher_may_send_comes_to_a_consumer_with_any_credit() -> anyhow::Result<()> {
    let limits = "[limits]\nframe_bytes_max = 4_194_304\nevent_bytes_max = 4_000_000\n";
    let broker = BrokerProcess::start_with(Setup::config(limits)).await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let client = broker.client().await?;
    let large = Event::new(vec![b'x'; 3_999_000]);
    publish_events(&client, "t", [Event::new("a"), large, Event::new("b")]).await?;
    let little = ConsumerOptions {
        credit_events: 1,
        credit_bytes: 1,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.subscribe("s", little).await?;
    for length in [1, 3_999_000, 1] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.event().payload.len(), length);
        delivery.ack();
    }
    consumer.flush_acks().await?;
    Ok(())
}

#[tokio::test]
async fn a_transform_that_makes_too_much_of_an_event_has_failed_on_it() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    let twice = json!({"plugin": "json-reshape", "config": r#"{"set": {"/b": {"$get": "/a"}}}"#});
    admin
        .create(json!({"name": "s", "topics": ["t"], "transforms": [twice]}))
        .await?;
    admin
        .create(
            json!({"name": "r", "topics": ["t"], "transforms": [twice], "outputs": {"out": "o"}}),
        )
        .await?;
    for name in ["s", "r"] {
        let letters = json!({"name": format!("l{name}"), "topics": [format!("dead.{name}")]});
        admin.create(letters).await?;
    }
    let client = broker.client().await?;
    let large = format!(r#"{{"a": "{}"}}"#, "x".repeat(600_000));
    publish_events(&client, "t", [Event::json(large.clone())]).await?;
    let _consumer = consume(&client, "s").await?;
    for name in ["ls", "lr"] {
        let letter = next(&mut consume(&client, name).await?).await?;
        let said = header_values(&letter);
        assert!(
            said.contains("tidegate-dead-reason: transform failed: ")
                && said.contains("_bytes_max"),
            "{said}"
        );
        assert_eq!(letter.event().payload, large.as_bytes());
    }
    wait_for("what counts to be counted", async || {
        let info = admin.subscription("s").await?;
        Ok((info.dead_lettered == 1 && info.depth == 0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn what_is_in_hand_is_shown_with_how_often_it_was_handed_out() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    let policy = json!({"backoff_ms": [0]});
    admin
        .create(json!({"name": "s", "topics": ["t"], "delivery": policy}))
        .await?;
    let client = broker.client().await?;
    publish(&client, "t", [1, 2]).await?;
    assert_eq!(admin.subscription("s").await?.oldest_in_flight, None);
    let mut consumer = consume(&client, "s").await?;
    let first = next(&mut consumer).await?;
    let position = first.position;
    let shown = admin.subscription("s").await?.oldest_in_flight;
    let shown = shown.context("one is in hand")?;
    assert_eq!((shown.position.0, shown.handed_out), (position, 1));
    assert!(shown.age_ms.is_some());
    first.nack(None);
    let again = loop {
        let delivery = next(&mut consumer).await?;
        match delivery.position == position {
            true => break delivery,
            false => delivery.ack(),
        }
    };
    consumer.flush_acks().await?;
    let shown = admin.subscription("s").await?.oldest_in_flight;
    let shown = shown.context("it is in hand again")?;
    assert_eq!((shown.position.0, shown.handed_out), (position, 2));
    again.ack();
    consumer.flush_acks().await?;
    assert_eq!(admin.subscription("s").await?.oldest_in_flight, None);
    Ok(())
}
