//! Changes of live subscriptions and routes: from which event on changed filters judge, through backlogs, pauses and
//! SIGKILL, and what changes at once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_client::{Client, Event};
use tidegate_tests::{BrokerProcess, Setup, guest, wait_for};

use crate::support::{
    SMALL, consume, next, number_of, numbers, publish, publish_events, take, take_numbers,
};

/// The guest whose rules misbehave as their configuration says.
const MISBEHAVING: &str = "misbehaving_filter";
/// A rule of it that works slowly, and lets everything pass.
const SLOW: &str = "burn";

/// A filter that lets events pass whose `p` is one of these.
fn parts(parts: &[u64]) -> Value {
    json!([{"plugin": "event-pattern", "config": json!({"p": parts}).to_string()}])
}

/// Events whose `p` is the remainder of their number by 3.
async fn publish_parts(
    client: &Client,
    numbers: impl IntoIterator<Item = u64>,
) -> anyhow::Result<()> {
    let event = |n: u64| Event::json(json!({"n": n, "p": n % 3}).to_string());
    publish_events(client, "t", numbers.into_iter().map(event)).await?;
    Ok(())
}

async fn create(broker: &BrokerProcess, filters: Value) -> anyhow::Result<()> {
    let spec = json!({"name": "s", "topics": ["t"], "filters": filters});
    broker.admin().create(spec).await.map(drop)
}

// Takes everything the subscription has once it is evaluated, and compares the numbers, in order.
async fn check_numbers(broker: &BrokerProcess, expected: &[u64]) -> anyhow::Result<()> {
    broker
        .admin()
        .wait_subscription("s", "to be evaluated", |s| {
            s.unevaluated == 0 && s.pending_changes == 0 && s.depth == expected.len() as u64
        })
        .await?;
    let client = broker.client().await?;
    let deliveries = take(&mut consume(&client, "s").await?, expected.len()).await?;
    assert_eq!(numbers(&deliveries)?, expected);
    Ok(())
}

#[tokio::test]
async fn events_are_judged_by_the_filters_that_held_when_they_came() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("slow", guest(MISBEHAVING).await?)
        .await?;
    // The first chain is slow, so that the changes find a backlog.
    create(
        &broker,
        json!([parts(&[0])[0], {"plugin": "slow", "config": SLOW}]),
    )
    .await?;
    publish_parts(&client, 0..3_000).await?;
    let first = broker
        .admin()
        .update("s", json!({"filters": parts(&[1])}))
        .await?;
    assert_eq!(
        (first.revision, first.fence.map(|fence| fence.0)),
        (1, Some(3_001))
    );
    publish_parts(&client, 3_000..3_030).await?;
    let second = broker
        .admin()
        .update("s", json!({"filters": parts(&[2, 0])}))
        .await?;
    assert_eq!(second.fence.map(|fence| fence.0), Some(3_031));
    publish_parts(&client, 3_030..3_060).await?;

    // Once with the state in memory, and once more after a restart that evaluates everything again.
    let expected: Vec<u64> = (0..3_060)
        .filter(|n| match n {
            0..3_000 => n % 3 == 0,
            3_000..3_030 => n % 3 == 1,
            _ => n % 3 != 1,
        })
        .collect();
    check_numbers(&broker, &expected).await?;
    broker.kill()?;
    broker.restart().await?;
    check_numbers(&broker, &expected).await
}

#[tokio::test]
async fn filters_come_and_go_on_a_live_subscription() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    create(&broker, json!([])).await?;
    let mut expected = Vec::new();
    for round in 0..6 {
        let client = broker.client().await?;
        let range = round * 30..(round + 1) * 30;
        publish_parts(&client, range.clone()).await?;
        let filtered = round % 2 == 1;
        expected.extend(range.filter(|n| !filtered || n % 3 == 0));
        let filters = if filtered { json!([]) } else { parts(&[0]) };
        let info = broker
            .admin()
            .update("s", json!({ "filters": filters }))
            .await?;
        assert_eq!(info.revision, round as u32 + 1);
        if round > 2 {
            broker.kill()?;
            broker.restart().await?;
        }
    }
    check_numbers(&broker, &expected).await
}

// Publishes and changes at the same time, kills right after the change, and compares what comes with what the fences say.
#[tokio::test]
async fn kills_right_after_a_change_leave_every_verdict_as_it_was() -> anyhow::Result<()> {
    const ROUNDS: u64 = 12;
    const EACH: u64 = 400;
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    broker
        .admin()
        .upload("slow", guest(MISBEHAVING).await?)
        .await?;
    create(&broker, parts(&[0])).await?;
    broker
        .admin()
        .create(json!({"name": "all", "topics": ["t"]}))
        .await?;
    // From which position on which parts pass.
    let mut holds: BTreeMap<u64, Vec<u64>> = BTreeMap::from([(1, vec![0])]);
    for round in 0..ROUNDS {
        let client = broker.client().await?;
        let wanted = match round % 4 {
            0 => vec![1],
            1 => vec![0, 1, 2],
            2 => vec![2],
            _ => vec![0, 1],
        };
        let filters = match round % 4 {
            1 => json!([]),
            3 => json!([parts(&wanted)[0], {"plugin": "slow", "config": SLOW}]),
            _ => parts(&wanted),
        };
        let admin = broker.admin();
        let (published, updated) = tokio::join!(
            publish_parts(&client, round * EACH..(round + 1) * EACH),
            admin.update("s", json!({ "filters": filters })),
        );
        published?;
        let fence = updated?.fence.expect("its filters were changed");
        holds.insert(fence.0, wanted);
        broker.kill()?;
        broker.restart().await?;
    }
    let client = broker.client().await?;
    let mut all = consume(&client, "all").await?;
    let mut expected = Vec::new();
    for delivery in take(&mut all, (ROUNDS * EACH) as usize).await? {
        let (_, wanted) = holds
            .range(..=delivery.position)
            .next_back()
            .expect("the first holds from 1 on");
        let number = number_of(&delivery)?;
        if wanted.contains(&(number % 3)) {
            expected.push(number);
        }
        delivery.ack();
    }
    check_numbers(&broker, &expected).await
}

#[tokio::test]
async fn acks_before_a_change_hold_after_a_kill() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    create(&broker, parts(&[0, 1])).await?;
    publish_parts(&client, 0..30).await?;
    let acked = (0..30).filter(|n| n % 3 == 0);
    let mut consumer = consume(&client, "s").await?;
    for delivery in take(&mut consumer, 20).await? {
        if number_of(&delivery)? % 3 == 0 {
            delivery.ack();
        }
    }
    consumer.flush_acks().await?;
    drop(consumer);
    broker
        .admin()
        .update("s", json!({"filters": parts(&[2])}))
        .await?;
    publish_parts(&client, 30..60).await?;
    broker.kill()?;
    broker.restart().await?;
    let acked: Vec<u64> = acked.collect();
    let expected: Vec<u64> = (0..60)
        .filter(|n| match n {
            0..30 => n % 3 == 1,
            _ => n % 3 == 2,
        })
        .collect();
    assert!(expected.iter().all(|n| !acked.contains(n)));
    check_numbers(&broker, &expected).await
}

#[tokio::test]
async fn a_change_frees_a_subscription_that_its_filter_paused() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    let trap = json!([{"plugin": "p", "config": r#"trap "n":23}"#, "on_failure": "pause"}]);
    create(&broker, trap).await?;
    publish(&client, "t", 0..50).await?;
    broker
        .admin()
        .wait_subscription("s", "to pause", |s| s.paused.is_some() && s.depth == 23)
        .await?;
    let filters = json!([{"plugin": "p", "config": "contains"}]);
    let info = broker
        .admin()
        .update("s", json!({ "filters": filters }))
        .await?;
    assert_eq!(
        info.fence.map(|fence| fence.0),
        Some(24),
        "the event it stands at"
    );
    assert!(info.paused.is_some(), "until somebody resumes it");
    broker.kill()?;
    broker.restart().await?;
    broker.admin().resume("s").await?;
    check_numbers(&broker, &(0..50).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn changes_beyond_what_may_wait_are_refused_until_some_hold() -> anyhow::Result<()> {
    let config = "[plugins]\ndeadline_base_ms = 60_000\n";
    let broker = BrokerProcess::start_with(Setup::config(config)).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("slow", guest(MISBEHAVING).await?)
        .await?;
    create(&broker, json!([{"plugin": "slow", "config": SLOW}])).await?;
    publish_parts(&client, 0..20_000).await?;
    let mut refused = false;
    for round in 0..20 {
        let patch = json!({"filters": parts(&[round % 3])});
        match broker.admin().try_update("s", patch.clone()).await? {
            Ok(info) => assert!(info.pending_changes <= 8, "{info:?}"),
            Err(refusal) => {
                assert_eq!(refusal.status, 503, "{refusal:?}");
                assert!(refusal.text.contains("wait"), "{refusal:?}");
                refused = true;
                broker.admin().update("s", patch).await?;
                break;
            }
        }
        publish_parts(&client, [20_000 + round]).await?;
    }
    if !refused {
        println!("the filter was faster than the changes");
    }
    broker
        .admin()
        .wait_subscription("s", "to be evaluated", |s| {
            s.pending_changes == 0 && s.unevaluated == 0
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_transform_applies_to_redeliveries() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let spec = json!({"name": "s", "topics": ["t"], "transforms": [reshape(1)]});
    broker.admin().create(spec).await?;
    publish(&client, "t", [7]).await?;
    let mut consumer = consume(&client, "s").await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(version_of(&delivery.event().payload)?, 1);
    let info = broker
        .admin()
        .update("s", json!({"transforms": [reshape(2)]}))
        .await?;
    assert_eq!((info.revision, info.fence), (1, None), "nothing to fence");
    delivery.nack(Some(Duration::ZERO));
    let again = next(&mut consumer).await?;
    assert_eq!((again.attempt, version_of(&again.event().payload)?), (2, 2));
    broker
        .admin()
        .update("s", json!({"transforms": []}))
        .await?;
    drop((again, consumer));
    broker.kill()?;
    broker.restart().await?;
    let client = broker.client().await?;
    let plain = next(&mut consume(&client, "s").await?).await?;
    assert_eq!(&plain.event().payload[..], br#"{"n":7}"#);
    Ok(())
}

fn reshape(version: u64) -> Value {
    let config = json!({"set": {"/version": version}}).to_string();
    json!({"plugin": "json-reshape", "config": config})
}

fn version_of(payload: &[u8]) -> anyhow::Result<u64> {
    let value: Value = serde_json::from_slice(payload)?;
    Ok(value["version"].as_u64().unwrap_or_default())
}

#[tokio::test]
async fn the_delivery_policy_changes_for_what_is_delivered_next() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    create(&broker, json!([])).await?;
    broker
        .admin()
        .create(json!({"name": "dead", "topics": ["given-up"]}))
        .await?;
    publish(&client, "t", [1]).await?;
    let mut consumer = consume(&client, "s").await?;
    let delivery = next(&mut consumer).await?;
    let patch = json!({"delivery": {"attempts_max": 1, "dead_letter": "given-up"}});
    let info = broker.admin().update("s", patch.clone()).await?;
    assert_eq!(info.spec.delivery.attempts_max, 1);
    assert_eq!(info.spec.delivery.ack_deadline_ms, 30_000, "not named");
    delivery.nack(None);
    let letter = next(&mut consume(&client, "dead").await?).await?;
    assert_eq!(number_of(&letter)?, 1);
    let same = broker.admin().update("s", patch).await?;
    assert_eq!(same.revision, info.revision, "nothing to change");
    Ok(())
}

#[tokio::test]
async fn naming_a_plugin_again_takes_its_newest_version() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    let mut bytes = guest(MISBEHAVING).await?;
    let first = broker.admin().upload("mine", bytes.clone()).await?;
    let filters = json!([{"plugin": "mine", "config": r#"contains "n":1"#}]);
    create(&broker, filters.clone()).await?;
    publish(&client, "t", 0..20).await?;
    // A section that says nothing makes other bytes of the same program.
    bytes.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    let second = broker.admin().upload("mine", bytes).await?;
    assert_eq!(second.version, 2);
    let digest = |info: &tidegate::domain::SubscriptionInfo| info.spec.filters[0].digest;
    let kept = broker
        .admin()
        .update("s", json!({"delivery": {"attempts_max": 5}}))
        .await?;
    assert_eq!(digest(&kept), Some(first.digest), "pinned while not named");
    let upgraded = broker
        .admin()
        .update("s", json!({ "filters": filters }))
        .await?;
    assert_eq!(digest(&upgraded), Some(second.digest));
    publish(&client, "t", 20..40).await?;
    let expected: Vec<u64> = (0..40).filter(|n| *n == 1 || n / 10 == 1).collect();
    check_numbers(&broker, &expected).await?;

    // The first version is needed as long as a crash could ask for it.
    broker.kill()?;
    broker.restart().await?;
    check_numbers(&broker, &expected).await?;
    wait_for(
        "the old version to be needed no more",
        async || match broker.admin().try_delete_plugin("mine@1").await? {
            Ok(()) => Ok(Some(())),
            Err(refusal) => {
                assert!([409, 503].contains(&refusal.status), "{refusal:?}");
                Ok(None)
            }
        },
    )
    .await?;
    let refusal = broker.admin().try_delete_plugin("mine@2").await?;
    assert_eq!(refusal.expect_err("in use").status, 409);
    broker.kill()?;
    broker.restart().await?;
    check_numbers(&broker, &expected).await
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_and_nothing_changes() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    create(&broker, parts(&[0])).await?;
    let before = broker.admin().subscription("s").await?;
    let bad_rule = json!([{"plugin": "event-pattern", "config": r#"{"p": [{"numerical": 1}]}"#}]);
    let cases = [
        (json!({"filters": bad_rule}), "numerical"),
        (
            json!({"filters": [], "transforms": [{"plugin": "nobody"}]}),
            "nobody",
        ),
        (
            json!({"transforms": [{"plugin": "event-pattern"}]}),
            "is a filter",
        ),
        (json!({"topics": ["u"]}), "topics"),
        (json!({"start": "earliest"}), "start"),
        (json!({"outputs": {"out": "u"}}), "route"),
        (
            json!({"delivery": {"ack_deadline_ms": 0}}),
            "ack_deadline_ms",
        ),
        (json!({"delivery": {"dead_letter": "t"}}), "dead-letter"),
        (json!({"unknown": 1}), "unknown"),
    ];
    for (patch, named) in cases {
        let refusal = broker.admin().try_update("s", patch.clone()).await?;
        let refusal = refusal.expect_err(named);
        assert!(
            [400, 404, 422].contains(&refusal.status),
            "{patch}: {refusal:?}"
        );
        assert!(refusal.text.contains(named), "{patch}: {refusal:?}");
    }
    let missing = broker
        .admin()
        .try_update("x", json!({"filters": []}))
        .await?;
    assert_eq!(missing.expect_err("there is none").status, 404);
    let after = broker.admin().subscription("s").await?;
    assert_eq!((after.revision, after.spec), (0, before.spec));
    let client = broker.client().await?;
    publish_parts(&client, 0..9).await?;
    check_numbers(&broker, &[0, 3, 6]).await
}

#[tokio::test]
async fn a_route_changes_its_transform_filter_and_outputs() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    for name in ["left", "right"] {
        broker
            .admin()
            .create(json!({"name": name, "topics": [name]}))
            .await?;
    }
    let route = json!({
        "name": "r",
        "topics": ["t"],
        "filters": parts(&[0]),
        "transforms": [reshape(1)],
        "outputs": {"out": "left"},
    });
    broker.admin().create(route).await?;
    publish_parts(&client, 0..30).await?;
    broker.admin().wait_drained("r").await?;
    let patch = json!({
        "filters": parts(&[1]),
        "transforms": [reshape(2)],
        "outputs": {"out": "right"},
    });
    let info = broker.admin().update("r", patch).await?;
    assert_eq!(info.spec.outputs.len(), 1);
    let none = broker
        .admin()
        .try_update("r", json!({"outputs": {}}))
        .await?;
    assert!(none.is_err(), "a route needs an output");
    publish_parts(&client, 30..60).await?;
    broker.admin().wait_drained("r").await?;
    broker.kill()?;
    broker.restart().await?;
    let client = broker.client().await?;
    publish_parts(&client, 60..90).await?;
    broker.admin().wait_drained("r").await?;
    for (topic, version, numbers) in [("left", 1, 0..30), ("right", 2, 30..90)] {
        let wanted: Vec<u64> = numbers.filter(|n| n % 3 == version - 1).collect();
        let mut consumer = consume(&client, topic).await?;
        for (expected, delivery) in wanted.iter().zip(take(&mut consumer, wanted.len()).await?) {
            assert_eq!(number_of(&delivery)?, *expected, "{topic}");
            assert_eq!(version_of(&delivery.event().payload)?, version, "{topic}");
            delivery.ack();
        }
        broker.admin().wait_drained(topic).await?;
    }
    // A topic that a route no longer appends to may go.
    broker.admin().delete_topic("left").await?;
    take_numbers(&mut consume(&client, "right").await?, []).await?;
    Ok(())
}
