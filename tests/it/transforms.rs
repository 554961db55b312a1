//! Transforms of subscriptions: what consumers get of what a transform answers, and what becomes of events that
//! it refuses or fails on. Transforms of routes are looked at beside the routes.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_client::{Consumer, Delivery, Event};
use tidegate_tests::{BrokerProcess, Setup, guest};

use crate::support::{
    consume, header_values, next, number_of, numbered, publish, publish_events, take, take_numbers,
};

/// The guest that misbehaves as its configuration says.
const MISBEHAVING: &str = "misbehaving_transform";
/// Number of the event that it misbehaves on in these tests; it keeps all others.
const MARKED: u64 = 23;
/// How the payload of that event ends, and of no other.
const MARK: &str = r#""n":23}"#;
/// Deadlines short enough that a guest that loops is noticed soon.
const SHORT_DEADLINES: &str = "[plugins]\ndeadline_base_ms = 100\ndeadline_pair_us = 100\n";

fn transformed(name: &str, plugin: &str, config: &str) -> Value {
    json!({
        "name": name,
        "topics": ["t"],
        "transforms": [{"plugin": plugin, "config": config}],
    })
}

fn payload_of(event: &Event) -> anyhow::Result<Value> {
    Ok(serde_json::from_slice(&event.payload)?)
}

// A broker with the misbehaving transform as `p`, and a subscription `dead` of all dead letters.
async fn broker_with_guest(setup: Setup) -> anyhow::Result<BrokerProcess> {
    let broker = BrokerProcess::start_with(setup).await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    create_dead(&broker).await?;
    Ok(broker)
}

async fn create_dead(broker: &BrokerProcess) -> anyhow::Result<()> {
    let dead = json!({"name": "dead", "topics": ["dead.>"]});
    broker.admin().create(dead).await.map(drop)
}

// The next dead letter, which must have this number and give this reason.
async fn check_letter(letters: &mut Consumer, number: u64, reason: &str) -> anyhow::Result<()> {
    let letter = next(letters).await?;
    letter.ack();
    let headers = header_values(&letter);
    assert_eq!(number_of(&letter)?, number, "{headers}");
    assert!(headers.contains(reason), "{reason:?} is not in {headers}");
    Ok(())
}

#[tokio::test]
async fn consumers_get_what_the_transform_made_of_the_events() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let config = r#"{
        "payload": {"number": {"$get": "/n"}, "at": {"$event": "sequence"}},
        "key": "k",
        "headers": {"kind": "reshaped"}
    }"#;
    broker
        .admin()
        .create(transformed("s", "json-reshape", config))
        .await?;
    broker
        .admin()
        .create(json!({"name": "plain", "topics": ["t"]}))
        .await?;
    publish_events(
        &client,
        "t",
        (0..10).map(|n| numbered(n).with_id(format!("id-{n}"))),
    )
    .await?;
    let mut consumer = consume(&client, "s").await?;
    for (n, delivery) in (0..10).zip(take(&mut consumer, 10).await?) {
        let event = delivery.event();
        assert_eq!(payload_of(event)?, json!({"number": n, "at": n + 1}));
        assert_eq!(event.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(event.header("kind"), Some("reshaped"));
        assert_eq!(event.id, format!("id-{n}"), "the id stays");
        assert_eq!((&*delivery.topic, delivery.sequence), ("t", n + 1));
        delivery.ack();
    }
    broker.admin().wait_drained("s").await?;
    take_numbers(&mut consume(&client, "plain").await?, 0..10).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_transform_drops_is_done_with() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let config = r#"{"if": {"$gt": [{"$get": "/n"}, 1000]}, "pick": ["/n"]}"#;
    broker
        .admin()
        .create(transformed("s", "json-reshape", config))
        .await?;
    publish(&client, "t", 0..100).await?;
    assert_eq!(broker.admin().evaluated("s").await?.depth, 100);
    let mut consumer = consume(&client, "s").await?;
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!(info.dead_lettered, 0);

    // The first event that comes is the first that is not dropped.
    publish(&client, "t", [1_001]).await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(number_of(&delivery)?, 1_001);
    delivery.ack();
    consumer.flush_acks().await?;
    broker.kill()?;
    broker.restart().await?;
    let info = broker.admin().subscription("s").await?;
    assert_eq!(info.depth, 0, "what was dropped does not come back");
    Ok(())
}

#[tokio::test]
async fn parts_of_one_event_are_acked_together() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(transformed(
            "s",
            "json-reshape",
            r#"{"each": "/items", "set": {"/of": {"$get": "/n"}}}"#,
        ))
        .await?;
    let items = |n: u64, count: u64| {
        let items: Vec<Value> = (0..count).map(|item| json!({"item": item})).collect();
        Event::json(json!({"n": n, "items": items}).to_string())
    };
    publish_events(&client, "t", [items(1, 3), items(2, 0), items(3, 1)]).await?;
    let mut consumer = consume(&client, "s").await?;
    let first = next(&mut consumer).await?;
    check_parts(&first, 1, 3)?;
    let last = next(&mut consumer).await?;
    check_parts(&last, 3, 1)?;
    broker
        .admin()
        .wait_subscription("s", "to be done with the event without items", |s| {
            s.depth == 2
        })
        .await?;

    first.nack(Some(Duration::ZERO));
    let again = next(&mut consumer).await?;
    assert_eq!(again.attempt, 2);
    check_parts(&again, 1, 3)?;
    again.ack();
    consumer.flush_acks().await?;
    let info = broker.admin().subscription("s").await?;
    assert_eq!(info.depth, 1, "one ack for all three parts: {info:?}");
    last.ack();
    broker.admin().wait_drained("s").await?;
    Ok(())
}

// That the delivery has `count` parts, in order, all made of the event with the number `of`.
fn check_parts(delivery: &Delivery, of: u64, count: u64) -> anyhow::Result<()> {
    let parts: Vec<Value> = delivery
        .parts()
        .iter()
        .map(payload_of)
        .collect::<Result<_, _>>()?;
    let expected: Vec<Value> = (0..count)
        .map(|item| json!({"item": item, "of": of}))
        .collect();
    assert_eq!(parts, expected);
    assert_eq!(delivery.sequence, of, "numbers count from 1 like sequences");
    Ok(())
}

#[tokio::test]
async fn a_redelivery_is_transformed_again() -> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::default()).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(transformed("s", "p", "upper"))
        .await?;
    publish(&client, "t", [7]).await?;
    let mut consumer = consume(&client, "s").await?;
    for attempt in 1..=3 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt, attempt);
        assert_eq!(&delivery.event().payload[..], br#"{"N":7}"#);
        match attempt {
            3 => delivery.ack(),
            _ => delivery.nack(Some(Duration::ZERO)),
        }
    }
    broker.admin().wait_drained("s").await?;
    Ok(())
}

#[tokio::test]
async fn transforms_apply_one_after_the_other() -> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::default()).await?;
    let client = broker.client().await?;
    let spec = json!({
        "name": "s",
        "topics": ["t"],
        "filters": [{"plugin": "event-pattern", "config": r#"{"n": [2]}"#}],
        "transforms": [
            {"plugin": "json-reshape", "config": r#"{"each": "/items", "pick": ["/a"]}"#},
            {"plugin": "p", "config": r#"drop "a":2"#},
            {"plugin": "p", "config": "upper"},
        ],
    });
    broker.admin().create(spec).await?;
    let items =
        |n: u64| Event::json(json!({"n": n, "items": [{"a": 1}, {"a": 2}, {"a": 3}]}).to_string());
    publish_events(&client, "t", [items(1), items(2)]).await?;
    let mut consumer = consume(&client, "s").await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(delivery.sequence, 2);
    let payloads: Vec<&[u8]> = delivery
        .parts()
        .iter()
        .map(|part| &part.payload[..])
        .collect();
    assert_eq!(payloads, [br#"{"A":1}"#, br#"{"A":3}"#]);
    delivery.ack();
    broker.admin().wait_drained("s").await?;
    Ok(())
}

#[tokio::test]
async fn what_a_transform_rejects_is_a_dead_letter_with_the_reason() -> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::default()).await?;
    let client = broker.client().await?;
    let config = format!("reject {MARK}");
    broker
        .admin()
        .create(transformed("told", "p", &config))
        .await?;
    let needs_items =
        r#"{"if": {"$gt": [{"$add": [{"$get": "/n"}, {"$get": "/m"}]}, 0]}, "pick": ["/n"]}"#;
    publish(&client, "t", 0..50).await?;
    let mut told = consume(&client, "told").await?;
    take_numbers(&mut told, (0..50).filter(|n| *n != MARKED)).await?;
    let mut letters = consume(&client, "dead").await?;
    check_letter(&mut letters, MARKED, "told to reject").await?;
    let info = broker.admin().wait_drained("told").await?;
    assert_eq!(info.dead_lettered, 1);

    broker
        .admin()
        .create(transformed("missing", "json-reshape", needs_items))
        .await?;
    let mut missing = consume(&client, "missing").await?;
    publish_events(
        &client,
        "t",
        [numbered(100), Event::json(r#"{"n":101,"m":1}"#)],
    )
    .await?;
    take_numbers(&mut missing, [101]).await?;
    check_letter(&mut letters, 100, "$add").await?;
    broker.admin().wait_drained("missing").await?;
    Ok(())
}

#[tokio::test]
async fn an_event_that_a_transform_wants_later_is_tried_until_the_last_attempt()
-> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::default()).await?;
    let client = broker.client().await?;
    let mut spec = transformed("s", "p", &format!("retry {MARK}"));
    spec["delivery"] = json!({"attempts_max": 3, "backoff_ms": [0]});
    broker.admin().create(spec).await?;
    publish(&client, "t", 0..50).await?;
    let mut consumer = consume(&client, "s").await?;
    take_numbers(&mut consumer, (0..50).filter(|n| *n != MARKED)).await?;
    let mut letters = consume(&client, "dead").await?;
    check_letter(&mut letters, MARKED, "tidegate-dead-attempts: 3\n").await?;
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!((info.redelivered, info.dead_lettered), (2, 1));
    Ok(())
}

#[tokio::test]
async fn an_event_that_a_transform_fails_on_fails_alone() -> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::config(SHORT_DEADLINES)).await?;
    let client = broker.client().await?;
    let modes = [
        "trap", "loop", "allocate", "too-few", "too-many", "flood", "large",
    ];
    for mode in modes {
        broker
            .admin()
            .create(transformed(mode, "p", &format!("{mode} {MARK}")))
            .await?;
    }
    publish(&client, "t", 0..50).await?;
    let mut letters = consume(&client, "dead").await?;
    for mode in modes {
        let mut consumer = consume(&client, mode).await?;
        take_numbers(&mut consumer, (0..50).filter(|n| *n != MARKED)).await?;
        let subscription = format!("tidegate-dead-subscription: {mode}\n");
        check_letter(&mut letters, MARKED, &subscription).await?;
        let info = broker.admin().wait_drained(mode).await?;
        assert_eq!(info.dead_lettered, 1, "{mode}");
    }
    Ok(())
}

#[tokio::test]
async fn the_policy_decides_what_becomes_of_an_event_that_a_transform_fails_on()
-> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::default()).await?;
    let client = broker.client().await?;
    for policy in ["drop", "pass", "dead-letter", "pause"] {
        let mut spec = transformed(policy, "p", &format!("trap {MARK}"));
        spec["transforms"][0]["on_failure"] = json!(policy);
        broker.admin().create(spec).await?;
    }
    publish(&client, "t", 0..50).await?;
    let unmarked = || (0..50).filter(|n| *n != MARKED);
    take_numbers(&mut consume(&client, "pass").await?, 0..50).await?;
    for policy in ["drop", "dead-letter"] {
        take_numbers(&mut consume(&client, policy).await?, unmarked()).await?;
    }
    let mut letters = consume(&client, "dead").await?;
    check_letter(&mut letters, MARKED, "tidegate-dead-topic: t\n").await?;
    for (policy, dead) in [("drop", 0), ("pass", 0), ("dead-letter", 1)] {
        let info = broker.admin().wait_drained(policy).await?;
        assert_eq!(info.dead_lettered, dead, "{policy}");
    }

    let _attached = consume(&client, "pause").await?;
    let paused = broker
        .admin()
        .wait_subscription("pause", "to pause", |s| s.paused.is_some())
        .await?;
    assert_eq!(paused.depth, 50, "nothing is lost: {paused:?}");
    Ok(())
}

#[tokio::test]
async fn an_event_that_waits_for_a_failing_transform_loses_no_attempt() -> anyhow::Result<()> {
    let broker = broker_with_guest(Setup::default()).await?;
    let client = broker.client().await?;
    let mut spec = transformed("s", "p", "trap");
    spec["delivery"] = json!({"attempts_max": 2, "backoff_ms": [0]});
    broker.admin().create(spec).await?;
    // More than are tried before the plugin pauses.
    publish(&client, "t", 0..600).await?;
    let _attached = consume(&client, "s").await?;
    let mut letters = consume(&client, "dead").await?;
    for _ in 0..600 {
        let letter = next(&mut letters).await?;
        let headers = header_values(&letter);
        assert!(headers.contains("unreachable"), "tried itself: {headers}");
        assert!(headers.contains("tidegate-dead-attempts: 1\n"), "{headers}");
        letter.ack();
    }
    Ok(())
}
