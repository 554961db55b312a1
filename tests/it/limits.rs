//! At the limits: a journal that is always full, consumers that misbehave, many clients. Nothing is lost, nobody
//! else is held up, memory and disk stay within bounds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tidegate_client::{Client, ConsumerOptions, Event};
use tidegate_tests::{BrokerProcess, RawClient, Setup, Soak, guest, wait_for, within};
use tokio::task::JoinSet;

use crate::support::{
    IDENTITY, SMALL, consume, next, number_of, numbered, publish, publish_events, take,
    take_numbers,
};

const MIB: u64 = 1 << 20;
/// Most memory a broker may have resident in these tests. The binary, its compiled plugins and the pools take
/// about a third of it; the rest is caches and queues, which the configuration bounds.
const RESIDENT_BYTES_MAX: u64 = 512 * MIB;

#[tokio::test]
async fn a_backlog_far_above_the_journal_is_served_from_generations() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    let even = r#"{"even": [true]}"#;
    let filters = json!([{"plugin": "event-pattern", "config": even}]);
    broker
        .admin()
        .create(json!({"name": "all", "topics": ["t.>"]}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "even", "topics": ["t.>"], "filters": filters}))
        .await?;
    let empty = broker.disk_bytes();
    let events = 12_000;
    let large = |n: u64| padded(n, 2_048);
    publish_events(&client, "t.a", (0..events / 2).map(large)).await?;
    publish_events(&client, "t.b", (events / 2..events).map(large)).await?;
    broker
        .admin()
        .wait_subscription("all", "to have everything", |s| s.depth == events)
        .await?;
    broker
        .admin()
        .wait_subscription("even", "to have its half", |s| s.depth == events / 2)
        .await?;
    let full = broker.disk_bytes();
    assert!(
        full > empty + 16 * MIB,
        "{full} bytes on disk hold the backlog"
    );

    let checkpoints = broker.admin().metric("tidegate_checkpoints_total").await?;
    assert!(checkpoints > 0.0, "the journal alone held {full} bytes");

    // What was checkpointed is still there for a broker that starts anew.
    broker.kill()?;
    broker.restart().await?;
    let client = broker.client().await?;
    take_numbers(&mut consume(&client, "all").await?, 0..events).await?;
    take_numbers(&mut consume(&client, "even").await?, (0..events).step_by(2)).await?;
    broker.admin().wait_drained("all").await?;
    broker.admin().wait_drained("even").await?;
    wait_for("the disk to be given back", async || {
        Ok((broker.disk_bytes() < empty + 12 * MIB).then_some(()))
    })
    .await
    .with_context(|| format!("empty {empty}, full {full}, now {}", broker.disk_bytes()))?;
    check_memory(&broker)
}

#[tokio::test]
async fn memory_stays_bounded_while_a_gibibyte_is_drained_from_disk() -> anyhow::Result<()> {
    let soak = Soak {
        backlog_bytes: 1_024 * MIB,
        event_bytes: 1_024,
        subscriptions: 2,
    };
    soak.run().await
}

#[tokio::test]
async fn consumers_that_misbehave_hold_up_nobody_else() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    for name in ["never-reads", "never-acks", "comes-and-goes", "honest"] {
        broker
            .admin()
            .create(json!({"name": name, "topics": ["t"]}))
            .await?;
    }
    let (raw, _) = RawClient::hello(&broker).await?;
    let silent = raw
        .subscribe_stream("never-reads", 1 << 40, 1 << 40)
        .await?;
    let _never_reads = silent.expect("the stream opens");
    let idle = broker.client().await?;
    let mut never_acks = consume(&idle, "never-acks").await?;
    let hold = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some(Ok(delivery)) = never_acks.next().await {
            held.push(delivery);
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let visitor = tokio::spawn(come_and_go(broker.client().await?, stop.clone()));

    let events = 20_000;
    let mut honest = consume(&client, "honest").await?;
    let publisher = client.clone();
    let load = tokio::spawn(async move {
        publish_events(&publisher, "t", (0..events).map(|n| padded(n, 1_024))).await
    });
    take_numbers(&mut honest, 0..events).await?;
    load.await??;
    stop.store(true, Ordering::Relaxed);
    let visits = visitor.await??;
    println!("{visits} visits of the consumer that comes and goes");
    hold.abort();
    for name in ["never-reads", "never-acks", "comes-and-goes"] {
        let info = broker.admin().subscription(name).await?;
        assert_eq!(info.depth, events, "{name} acked nothing");
    }
    check_memory(&broker)
}

// Attaches, takes one event or two, and goes without a word, over and over.
async fn come_and_go(client: Client, stop: Arc<AtomicBool>) -> anyhow::Result<u64> {
    let mut visits = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut consumer = consume(&client, "comes-and-goes").await?;
        // The events may be with the visit before still; then this one goes empty-handed.
        let _ = tokio::time::timeout(Duration::from_millis(50), consumer.next()).await;
        drop(consumer);
        visits += 1;
    }
    Ok(visits)
}

#[tokio::test]
async fn a_member_that_never_acks_loses_its_events_to_the_group() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let options = broker.client_options(Some(broker.everybody()))?;
    let options = options.buffered_max(Duration::from_secs(1));
    let client = Client::connect(options).await?;
    let policy = json!({"ack_deadline_ms": 300, "backoff_ms": [0], "attempts_max": 0});
    broker
        .admin()
        .create(json!({"name": "group", "topics": ["t"], "delivery": policy}))
        .await?;
    let few = ConsumerOptions {
        credit_events: 50,
        ..ConsumerOptions::default()
    };
    let mut lazy = client.subscribe("group", few).await?;
    publish(&client, "t", 0..500).await?;
    let _held = take(&mut lazy, 50).await?;
    let other = broker.client().await?;
    take_numbers(&mut consume(&other, "group").await?, 0..500).await?;
    broker.admin().wait_drained("group").await?;
    Ok(())
}

#[tokio::test]
async fn a_hundred_publishers_and_a_hundred_subscriptions() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(broker.client().await?);
    }
    let mut consumers = JoinSet::new();
    for index in 0..100 {
        let name = format!("s{index}");
        broker
            .admin()
            .create(json!({"name": name, "topics": ["p.*"]}))
            .await?;
        let mut consumer = consume(&clients[index % clients.len()], &name).await?;
        consumers.spawn(async move { take_numbers(&mut consumer, 0..1_000).await });
    }
    let mut publishers = JoinSet::new();
    for index in 0..100_u64 {
        let client = broker.client().await?;
        publishers.spawn(async move {
            publish(&client, &format!("p.{index}"), index * 10..(index + 1) * 10).await
        });
    }
    while let Some(ended) = publishers.join_next().await {
        ended??;
    }
    while let Some(ended) = consumers.join_next().await {
        assert_eq!(ended??, 0, "nothing comes twice without a reason");
    }
    for info in broker.admin().subscriptions().await? {
        broker.admin().wait_drained(info.spec.name.as_str()).await?;
    }
    check_memory(&broker)
}

#[tokio::test]
async fn routes_that_feed_routes_drain_once_somebody_reads() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "d")] {
        let route = json!({
            "name": format!("{from}-{to}"),
            "topics": [from],
            "transforms": [{"plugin": "json-reshape", "config": IDENTITY}],
            "outputs": {"out": to},
        });
        broker.admin().create(route).await?;
    }
    broker
        .admin()
        .create(json!({"name": "end", "topics": ["d"]}))
        .await?;
    // All credit of this consumer is spent on events that it does not ack yet.
    let one = ConsumerOptions {
        credit_events: 1,
        ..ConsumerOptions::default()
    };
    let mut stuck = client.subscribe("end", one).await?;
    let events = 6_000;
    publish_events(&client, "a", (0..events).map(|n| padded(n, 1_024))).await?;
    let held = next(&mut stuck).await?;
    broker
        .admin()
        .wait_subscription("end", "to have everything", |s| s.depth == events)
        .await?;
    held.ack();
    drop(stuck);

    let mut seen = BTreeSet::from([number_of(&held)?]);
    let mut consumer = consume(&client, "end").await?;
    let mut sequences = BTreeSet::from([held.sequence]);
    while seen.len() < events as usize {
        let delivery = next(&mut consumer).await?;
        seen.insert(number_of(&delivery)?);
        sequences.insert(delivery.sequence);
        delivery.ack();
    }
    broker.admin().wait_drained("end").await?;
    assert_eq!(
        sequences.len(),
        events as usize,
        "each event went through the routes once"
    );
    assert_eq!(broker.admin().topic("d").await?.next_sequence.0, events + 1);
    check_memory(&broker)
}

#[tokio::test]
async fn events_beyond_a_consumers_credit_in_bytes_still_arrive() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish_events(
        &client,
        "t",
        [padded(0, 500_000), numbered(1), padded(2, 500_000)],
    )
    .await?;
    let tiny = ConsumerOptions {
        credit_bytes: 1_000,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.subscribe("s", tiny).await?;
    take_numbers(&mut consumer, 0..3).await?;
    Ok(())
}

#[tokio::test]
async fn a_broker_stops_in_time_with_clients_attached() -> anyhow::Result<()> {
    let mut broker =
        BrokerProcess::start_with(Setup::config("[shutdown]\ndeadline_ms = 500\n")).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&client, "t", 0..100).await?;
    let mut consumer = consume(&client, "s").await?;
    let _held = take(&mut consumer, 100).await?;
    let status = within("the broker to stop", broker.stop()).await?;
    assert!(status.success(), "{status}");
    broker.restart().await?;
    assert_eq!(broker.admin().evaluated("s").await?.depth, 100);
    Ok(())
}

/// An event of about `bytes` bytes with its number and whether that is even.
fn padded(n: u64, bytes: usize) -> Event {
    let even = n.is_multiple_of(2);
    Event::json(format!(
        r#"{{"n":{n},"even":{even},"pad":"{}"}}"#,
        "x".repeat(bytes.saturating_sub(40))
    ))
}

fn check_memory(broker: &BrokerProcess) -> anyhow::Result<()> {
    let resident = broker.resident_bytes_max()?;
    println!("at most {} MiB resident", resident / MIB);
    assert!(resident < RESIDENT_BYTES_MAX, "{resident} bytes resident");
    Ok(())
}

#[tokio::test]
async fn an_owner_of_plugins_leaves_instances_to_others_and_is_named() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::config("[plugins]\ninstances_max = 4\n")).await?;
    let admin = broker.admin();
    let filter = guest("misbehaving_filter").await?;
    // With a section of its own each is another plugin, which needs an instance.
    let upload = async |name: &str, mark: u8| {
        let bytes = [&filter[..], &[0, 2, 1, mark]].concat();
        admin.upload(name, bytes).await
    };
    let subscribe = async |name: &str, plugin: &str| {
        let filter = json!({"plugin": plugin, "config": "contains x"});
        let spec = json!({"name": name, "topics": ["t"], "filters": [filter]});
        admin.try_create(spec).await
    };
    for (name, mark) in [("team-1", b'1'), ("team-2", b'2'), ("team-3", b'3')] {
        upload(name, mark).await?;
        admin.give_plugin(name, "cn:team").await?;
    }
    let of_team = "tidegate_plugin_owner_instances{owner=\"cn:team\"}";
    for (instances, plugin) in [(1.0, "team-1"), (2.0, "team-2")] {
        let created = subscribe(&format!("of-{plugin}"), plugin).await?;
        assert!(created.is_ok());
        wait_for("its instance", async || {
            Ok((admin.metric(of_team).await? == instances).then_some(()))
        })
        .await?;
    }
    for (metric, value) in [("instances", 2.0), ("instances_max", 4.0)] {
        let metric = format!("tidegate_plugins_{metric}");
        assert_eq!(admin.metric(&metric).await?, value, "{metric}");
    }
    assert!(admin.metric("tidegate_plugins_memory_bytes").await? > 0.0);
    let refused = subscribe("of-team-3", "team-3").await?;
    let refusal = refused.err().context("a third of four was given")?;
    assert_eq!(refusal.status, 503);
    assert!(
        refusal.text.contains("owner_instances_max"),
        "{}",
        refusal.text
    );
    upload("vic", b'v').await?;
    assert!(subscribe("victim", "vic").await?.is_ok());
    wait_for("the share to be named", async || {
        let named = "plugin instances of cn:team";
        Ok(admin.metrics().await?.contains(named).then_some(()))
    })
    .await
}
