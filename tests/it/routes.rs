//! Routes: exactly once across SIGKILL, a hop limit that ends cycles, outputs by name.

use std::collections::BTreeMap;

use serde_json::json;
use tidegate_client::Event;
use tidegate_tests::BrokerProcess;

use crate::support::{
    IDENTITY, consume, header_values, next, number_of, publish, publish_events, take,
};

#[tokio::test]
async fn a_route_reshapes_what_its_filter_lets_through() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "out", "topics": ["out"]}))
        .await?;
    let route = json!({
        "name": "route",
        "topics": ["in"],
        "filters": [{"plugin": "event-pattern", "config": r#"{"n": [{"numeric": [">=", 5]}]}"#}],
        "transforms": [{"plugin": "json-reshape", "config": RENAMED}],
        "outputs": {"out": "out"},
    });
    broker.admin().create(route).await?;
    publish(&client, "in", 0..10).await?;
    let mut consumer = consume(&client, "out").await?;
    for (expected, delivery) in (5..10).zip(take(&mut consumer, 5).await?) {
        let payload: serde_json::Value = serde_json::from_slice(&delivery.event().payload)?;
        assert_eq!(payload, json!({"number": expected, "kind": "reshaped"}));
        delivery.ack();
    }
    broker.admin().wait_drained("route").await?;
    broker.admin().wait_drained("out").await?;
    assert_eq!(broker.admin().topic("out").await?.next_sequence.0, 6);
    Ok(())
}

#[tokio::test]
async fn outputs_come_exactly_once_across_sigkill() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    broker
        .admin()
        .create(json!({"name": "out", "topics": ["out"]}))
        .await?;
    let route = json!({
        "name": "route",
        "topics": ["in"],
        "transforms": [{"plugin": "json-reshape", "config": IDENTITY}],
        "outputs": {"out": "out"},
    });
    broker.admin().create(route).await?;
    let rounds = 8;
    let each = 500;
    for round in 0..rounds {
        let client = broker.client().await?;
        publish(&client, "in", round * each..(round + 1) * each).await?;
        // The route is somewhere in the middle of what was just published.
        broker.kill()?;
        broker.restart().await?;
    }
    broker.admin().wait_drained("route").await?;
    let total = rounds * each;
    assert_eq!(
        broker.admin().topic("out").await?.next_sequence.0,
        total + 1
    );
    let client = broker.client().await?;
    let mut consumer = consume(&client, "out").await?;
    let mut times = BTreeMap::<u64, u64>::new();
    for delivery in take(&mut consumer, total as usize).await? {
        *times.entry(number_of(&delivery)?).or_default() += 1;
        delivery.ack();
    }
    assert_eq!(times.len() as u64, total);
    assert!(times.values().all(|times| *times == 1), "each output once");
    broker.admin().wait_drained("out").await?;
    Ok(())
}

#[tokio::test]
async fn a_cycle_ends_at_the_hop_limit() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "dead", "topics": ["dead.>"]}))
        .await?;
    for (from, to) in [("ping", "pong"), ("pong", "ping")] {
        let route = json!({
            "name": from,
            "topics": [from],
            "transforms": [{"plugin": "json-reshape", "config": IDENTITY}],
            "outputs": {"out": to},
        });
        broker.admin().create(route).await?;
    }
    publish(&client, "ping", [1]).await?;
    // Kept until the end: an ack of a consumer that is gone counts for nothing.
    let mut consumer = consume(&client, "dead").await?;
    let dead = next(&mut consumer).await?;
    let headers = header_values(&dead).to_lowercase();
    assert!(headers.contains("hop"), "says why: {headers}");
    dead.ack();
    for name in ["ping", "pong", "dead"] {
        broker.admin().wait_drained(name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn outputs_go_by_their_names() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "left", "topics": ["left"]}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "right", "topics": ["right"]}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "dead", "topics": ["dead.route"]}))
        .await?;
    let route = json!({
        "name": "route",
        "topics": ["in"],
        "transforms": [{"plugin": "json-reshape", "config": BY_HEADER}],
        "outputs": {"l": "left", "r": "right"},
    });
    broker.admin().create(route).await?;
    let to =
        |n: u64, output: &str| Event::json(format!(r#"{{"n":{n}}}"#)).with_header("output", output);
    publish_events(
        &client,
        "in",
        [to(1, "l"), to(2, "r"), to(3, "nowhere"), to(4, "l")],
    )
    .await?;
    let left = take(&mut consume(&client, "left").await?, 2).await?;
    assert_eq!(crate::support::numbers(&left)?, [1, 4]);
    assert_eq!(
        number_of(&next(&mut consume(&client, "right").await?).await?)?,
        2
    );
    let dead = next(&mut consume(&client, "dead").await?).await?;
    assert_eq!(number_of(&dead)?, 3);
    assert!(
        header_values(&dead).contains("nowhere"),
        "{}",
        header_values(&dead)
    );
    Ok(())
}

/// Renames a member and adds one.
const RENAMED: &str = r#"{"payload": {"number": {"$get": "/n"}, "kind": "reshaped"}}"#;
/// Changes nothing that is looked at, and names the output by a header.
const BY_HEADER: &str = r#"{"pick": ["/n"], "output": {"$header": "output"}}"#;
