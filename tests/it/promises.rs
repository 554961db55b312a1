//! What consumers and operators were promised holds whatever becomes of the broker: how often an event was tried, how long it is left
//! alone, that a subscription stands still or goes on, and that a topic is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_client::{Consumer, Delivery, SubscribeError};
use tidegate_tests::{BrokerProcess, guest, wait_for};
use tidegate_wire::pb::ErrorCode;

use crate::support::{code_of, consume, next, number_of, publish, take, take_numbers};

const HOUR: Duration = Duration::from_secs(3_600);

/// A subscription of `t` that tries again at once and without end.
async fn create(broker: &BrokerProcess, name: &str, more: Value) -> anyhow::Result<()> {
    let mut spec = json!({
        "name": name,
        "topics": ["t"],
        "delivery": {"attempts_max": 0, "backoff_ms": [0]},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    broker.admin().create(spec).await.map(drop)
}

// Ends the broker, one way or the other, and starts it again.
async fn end(broker: &mut BrokerProcess, cleanly: bool) -> anyhow::Result<()> {
    match cleanly {
        true => drop(broker.stop().await?),
        false => broker.kill()?,
    }
    broker.restart().await
}

async fn nth(consumer: &mut Consumer, attempt: u32) -> anyhow::Result<Delivery> {
    let delivery = next(consumer).await?;
    assert_eq!(delivery.attempt, attempt);
    Ok(delivery)
}

#[tokio::test]
async fn attempts_go_on_where_they_were() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    create(&broker, "s", json!({})).await?;
    publish(&broker.client().await?, "t", [1]).await?;
    let mut tried = 0;
    for cleanly in [false, true, false, true] {
        let client = broker.client().await?;
        let mut consumer = consume(&client, "s").await?;
        for _ in 0..2 {
            tried += 1;
            nth(&mut consumer, tried).await?.nack(Some(Duration::ZERO));
        }
        // What was answered is written with the acks.
        consumer.flush_acks().await?;
        let held = nth(&mut consumer, tried + 1).await?;
        if cleanly {
            // It goes, and is told that the broker has heard it.
            drop(held);
            consumer.close().await;
            tried += 1;
        }
        end(&mut broker, cleanly).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_is_to_wait_waits_and_whose_letter_is_owed_gets_it() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    create(&broker, "s", json!({})).await?;
    create(&broker, "letters", json!({"topics": ["dead.>"]})).await?;
    let client = broker.client().await?;
    publish(&client, "t", 1..=3).await?;
    let mut consumer = consume(&client, "s").await?;
    for delivery in take(&mut consumer, 3).await? {
        match number_of(&delivery)? {
            1 => delivery.nack(Some(HOUR)),
            2 => delivery.nack(Some(10_000 * HOUR)),
            _ => delivery.term("never"),
        }
    }
    consumer.flush_acks().await?;
    for cleanly in [false, true] {
        end(&mut broker, cleanly).await?;
        let info = broker
            .admin()
            .wait_subscription("s", "to have written its letter", |s| s.depth == 2)
            .await?;
        let hour = u64::try_from(HOUR.as_millis())?;
        assert_eq!((info.delayed, info.in_flight), (2, 0));
        let left = info.delayed_for_ms.expect("one is due first");
        // Rounded up a little.
        assert!(left > hour / 2 && left <= hour + hour / 100, "{left}");
        let metric = broker.admin().metrics().await?;
        assert!(metric.contains("tidegate_subscription_delayed{subscription=\"s\"} 2"));
    }
    take_numbers(&mut consume(&broker.client().await?, "letters").await?, [3]).await?;
    Ok(())
}

#[tokio::test]
async fn a_subscription_pauses_at_the_event_and_goes_on_for_good() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .upload("p", guest("misbehaving_transform").await?)
        .await?;
    let traps = json!([{"plugin": "p", "config": r#"trap "n":2}"#, "on_failure": "pause"}]);
    create(&broker, "s", json!({ "transforms": traps })).await?;
    let routed = json!({"transforms": traps, "outputs": {"out": "routed"}});
    create(&broker, "r", routed).await?;
    create(&broker, "out", json!({"topics": ["routed"]})).await?;
    let client = broker.client().await?;
    publish(&client, "t", 1..=5).await?;
    let mut consumer = consume(&client, "s").await?;
    let first = next(&mut consumer).await?;
    assert_eq!(number_of(&first)?, 1);
    first.ack();
    // It is told, and gets nothing else.
    wait_for("the consumer to be told", async || {
        let obstacle = consumer.obstacle();
        Ok(obstacle.filter(|why| why.contains("paused: a transform failed at position")))
    })
    .await?;
    consumer.flush_acks().await?;
    for name in ["s", "r"] {
        let paused = broker
            .admin()
            .wait_subscription(name, "to pause", |s| s.paused.is_some() && s.depth == 4)
            .await?;
        assert_eq!((paused.in_flight, paused.delayed), (0, 0), "{name}");
    }
    for cleanly in [true, false] {
        end(&mut broker, cleanly).await?;
        let info = broker.admin().subscription("s").await?;
        assert!(info.paused.is_some(), "{info:?}");
    }
    for name in ["s", "r"] {
        broker
            .admin()
            .update(name, json!({"transforms": []}))
            .await?;
        broker.admin().resume(name).await?;
    }
    // Or it would come back, and have the events in its buffer.
    drop((consumer, client));
    // Nothing waits for this to be written.
    end(&mut broker, false).await?;
    assert_eq!(broker.admin().subscription("s").await?.paused, None);
    let client = broker.client().await?;
    let mut consumer = consume(&client, "s").await?;
    let rest = take(&mut consumer, 4).await?;
    let rest: Vec<u64> = rest.iter().map(number_of).collect::<Result<_, _>>()?;
    assert_eq!(rest, [2, 3, 4, 5]);
    take_numbers(&mut consume(&client, "out").await?, 1..=5).await?;
    Ok(())
}

#[tokio::test]
async fn a_paused_subscription_tells_who_comes_and_when_it_goes_on() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    broker
        .admin()
        .upload("p", guest("misbehaving_transform").await?)
        .await?;
    let traps = json!([{"plugin": "p", "config": "trap", "on_failure": "pause"}]);
    create(&broker, "s", json!({ "transforms": traps })).await?;
    let client = broker.client().await?;
    publish(&client, "t", [1]).await?;
    let _first = consume(&client, "s").await?;
    broker
        .admin()
        .wait_subscription("s", "to pause", |s| s.paused.is_some())
        .await?;
    let mut late = consume(&client, "s").await?;
    wait_for("who comes late to be told", async || Ok(late.obstacle())).await?;
    let update = json!({"transforms": []});
    broker.admin().update("s", update).await?;
    drop(_first);
    broker.admin().resume("s").await?;
    next(&mut late).await?.ack();
    let told = wait_for("it to be told that it goes on", async || {
        Ok(late.obstacle().is_none().then_some(()))
    });
    told.await
}

#[tokio::test]
async fn a_deleted_topic_leaves_nothing_and_is_made_again_on_purpose_only() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let interval = json!({"name": "n.a", "durability": "interval"});
    let created = broker.admin().try_create_topic(interval).await?;
    created.expect("created");
    let window = json!({"attempts_max": 0, "in_flight_events_max": 10});
    let spec = json!({"topics": ["n.>"], "delivery": window});
    create(&broker, "held", spec.clone()).await?;
    create(&broker, "idle", spec).await?;
    let client = broker.client().await?;
    publish(&client, "n.a", 0..20).await?;
    publish(&client, "n.b", 20..23).await?;
    let mut consumer = consume(&client, "held").await?;
    let held = take(&mut consumer, 10).await?;
    held[0].nack(Some(HOUR));
    consumer.flush_acks().await?;

    broker.admin().delete_topic("n.a").await?;
    let idle = broker.admin().subscription("idle").await?;
    assert_eq!(idle.depth, 3, "{idle:?}");
    // What it held is in its window no more.
    let mut missing: BTreeSet<u64> = (20..23).collect();
    while !missing.is_empty() {
        let delivery = next(&mut consumer).await?;
        missing.remove(&number_of(&delivery)?);
        delivery.ack();
    }
    // What the client had in hand of the deleted topic was not held any more.
    held[1].ack();
    let told = consumer.flush_acks().await;
    let names = |positions: &[std::ops::RangeInclusive<u64>]| {
        let mut positions = positions.iter();
        positions.any(|range| range.contains(&held[1].position))
    };
    assert!(
        matches!(&told, Err(SubscribeError::NotHeld { positions, .. }) if names(positions)),
        "{told:?}"
    );
    let info = broker.admin().subscription("held").await?;
    assert_eq!(
        (info.depth, info.in_flight, info.delayed),
        (0, 0, 0),
        "{info:?}"
    );
    end(&mut broker, false).await?;
    let idle = broker.admin().subscription("idle").await?;
    assert_eq!(idle.depth, 3, "{idle:?}");

    let client = broker.client().await?;
    let refused = publish(&client, "n.a", [30]).await.expect_err("deleted");
    assert_eq!(code_of(&refused), Some(ErrorCode::NotFound));
    let said = format!("{refused:#}");
    for part in ["`n.a` was deleted", "create it explicitly"] {
        assert!(said.contains(part), "{said}");
    }
    let name = json!({"name": "n.a"});
    let again = broker.admin().try_create_topic(name).await?;
    let again = again.expect("created");
    let durability = serde_json::to_value(again.spec.durability)?;
    assert_eq!(durability, json!("interval"), "as it was");
    // Or it would come back, and have the event in its buffer.
    drop(consumer);
    publish(&client, "n.a", [30]).await?;
    let mut consumer = consume(&client, "held").await?;
    let delivery = next(&mut consumer).await?;
    assert!(delivery.sequence > 20, "{}", delivery.sequence);
    Ok(())
}

#[tokio::test]
async fn times_that_would_hide_events_are_refused() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    for (delivery, says) in [
        (json!({"ack_deadline_ms": u64::MAX}), "24 h"),
        (json!({"backoff_ms": [0, u64::MAX]}), "30 days"),
    ] {
        let spec = json!({"name": "s", "topics": ["t"], "delivery": delivery});
        let refused = broker.admin().try_create(spec).await?;
        let refused = refused.expect_err("such a time");
        assert!(refused.text.contains(says), "{refused:?}");
    }
    Ok(())
}
