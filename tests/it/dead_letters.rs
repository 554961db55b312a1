//! Dead letters as events among others: who takes them in, that circles of subscriptions that give up each other's come to
//! an end however they are joined, and that the broker tells a letter from what is published to its topic.

use serde_json::{Value, json};
use tidegate_client::Event;
use tidegate_tests::{AdminApi, BrokerProcess, Setup, guest, wait_for};

use crate::support::{SMALL, consume, header_values, next, publish_events};

/// A transform that rejects every event that is not JSON.
const REJECTS: &str = r#"{"pick": ["/a"]}"#;
/// Letters that were given up a second time.
const DROPPED: &str = "tidegate_dead_letters_dropped_total";

fn not_json() -> Event {
    Event::new("not JSON")
}

// A route that gives up all that is not JSON.
fn rejecting(name: &str, topics: &[&str]) -> Value {
    json!({
        "name": name,
        "topics": topics,
        "transforms": [{"plugin": "json-reshape", "config": REJECTS}],
        "outputs": {"out": format!("out.{name}")},
    })
}

// Events that were ever appended to a topic.
async fn appended(admin: &AdminApi, topic: &str) -> anyhow::Result<u64> {
    Ok(admin.topic(topic).await?.next_sequence.0 - 1)
}

// Waits until these have given up so many events in all, with nothing left to do.
async fn wait_given_up(admin: &AdminApi, names: &[&str], each: u64) -> anyhow::Result<()> {
    for name in names {
        admin
            .wait_subscription(name, &format!("to give up {each} events"), |info| {
                let idle = info.depth == 0 && info.unevaluated == 0;
                idle && info.dead_lettered + info.letters_dropped == each
            })
            .await?;
    }
    Ok(())
}

async fn wait_dropped(admin: &AdminApi, letters: u64) -> anyhow::Result<()> {
    wait_for(format!("{letters} letters to be dropped"), async || {
        Ok((admin.metric(DROPPED).await? == letters as f64).then_some(()))
    })
    .await
}

#[tokio::test]
async fn routes_that_give_up_each_others_letters_come_to_an_end() -> anyhow::Result<()> {
    let all: [&[&str]; 2] = [&[">"], &[">"]];
    let spelled_out: [&[&str]; 2] = [&["x", "dead.b"], &["x", "dead.a"]];
    let by_prefix: [&[&str]; 2] = [&["x", "dead.>"], &["x", "dead.>"]];
    // Of each event: letters in each topic, and letters that each route drops.
    for (topics, include, letters, dropped) in [
        (all, false, 1, 0),
        (all, true, 2, 1),
        (spelled_out, false, 2, 1),
        (by_prefix, false, 2, 1),
    ] {
        let mut broker = BrokerProcess::start().await?;
        for (name, topics) in ["a", "b"].into_iter().zip(topics) {
            let mut route = rejecting(name, topics);
            route["include_dead_letters"] = json!(include);
            let made = broker.admin().create(route).await?;
            assert_eq!(made.spec.include_dead_letters, include);
        }
        let client = broker.client().await?;
        for round in 1..=2 {
            publish_events(&client, "x", [not_json()]).await?;
            wait_given_up(&broker.admin(), &["a", "b"], round * (letters + dropped)).await?;
            let admin = broker.admin();
            for topic in ["dead.a", "dead.b"] {
                let found = appended(&admin, topic).await?;
                assert_eq!(found, round * letters, "{topic}, {topics:?} {include}");
            }
            wait_dropped(&admin, 2 * round * dropped).await?;
        }
        // A restart judges and gives up nothing anew.
        broker.kill()?;
        broker.restart().await?;
        let client = broker.client().await?;
        publish_events(&client, "x", [not_json()]).await?;
        wait_given_up(&broker.admin(), &["a", "b"], letters + dropped).await?;
        assert_eq!(appended(&broker.admin(), "dead.a").await?, 3 * letters);
        if dropped > 0 {
            wait_for("the log to tell of what is dropped", async || {
                let said = broker.log().contains("given up a second time");
                Ok(said.then_some(()))
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn filters_that_fail_on_each_others_letters_make_few_of_one_event() -> anyhow::Result<()> {
    // Of one event each of three makes a letter; of those it takes in two, and of what comes of these four, which it drops.
    for (include, letters, dropped) in [(false, 1, 0), (true, 1 + 2, 4)] {
        let broker = BrokerProcess::start().await?;
        let admin = broker.admin();
        admin
            .upload("p", guest("misbehaving_filter").await?)
            .await?;
        let names = ["a", "b", "c"];
        for name in names {
            let spec = json!({
                "name": name,
                "topics": [">"],
                "filters": [{"plugin": "p", "config": "trap BAD"}],
                "include_dead_letters": include,
            });
            admin.create(spec).await?;
        }
        publish_events(&broker.client().await?, "x", [Event::new("BAD")]).await?;
        wait_given_up(&admin, &names, letters + dropped).await?;
        for name in names {
            let found = appended(&admin, &format!("dead.{name}")).await?;
            assert_eq!(found, letters, "{name}");
        }
        wait_dropped(&admin, 3 * dropped).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_circle_of_a_dead_letter_and_a_route_that_brings_it_back_ends_at_the_hop_limit()
-> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    admin
        .create(json!({"name": "grave", "topics": ["dead.>"]}))
        .await?;
    admin.create(rejecting("s", &["t"])).await?;
    let back = json!({"name": "again", "topics": ["dead.s"], "outputs": {"out": "t"}});
    admin.create(back).await?;
    publish_events(&broker.client().await?, "t", [not_json()]).await?;
    // Hops 0, 2 … 16 in `t`, each given up; the letter of the last one is not brought back but given up again.
    let grave = |info: &tidegate::domain::SubscriptionInfo| info.depth == 10;
    admin
        .wait_subscription("grave", "to get every letter", grave)
        .await?;
    for name in ["s", "again"] {
        admin.wait_drained(name).await?;
    }
    for (topic, events) in [("t", 9), ("dead.s", 9), ("dead.again", 1)] {
        assert_eq!(appended(&admin, topic).await?, events, "{topic}");
    }
    wait_dropped(&admin, 0).await
}

#[tokio::test]
async fn what_is_given_up_three_times_is_dropped_and_counted() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let (admin, client) = (broker.admin(), broker.client().await?);
    for (name, topic) in [("s", "t"), ("first", "dead.s"), ("second", "dead.first")] {
        admin
            .create(json!({"name": name, "topics": [topic]}))
            .await?;
    }
    publish_events(&client, "t", [not_json()]).await?;
    for name in ["s", "first", "second"] {
        let mut consumer = consume(&client, name).await?;
        let delivery = next(&mut consumer).await?;
        if name != "s" {
            let headers = header_values(&delivery);
            assert_eq!(headers.matches("tidegate-dead-reason").count(), 1);
        }
        delivery.term("cannot");
        admin.wait_drained(name).await?;
    }
    let dropped = admin.subscription("second").await?;
    assert_eq!((dropped.dead_lettered, dropped.letters_dropped), (0, 1));
    wait_dropped(&admin, 1).await?;
    assert!(admin.topic("dead.second").await.is_err(), "nothing came");
    // Brought back by a route, an event is as it was before: it may be given up twice again.
    let back = json!({
        "name": "back", "topics": ["dead.first"], "outputs": {"out": "t"}, "start": "new",
    });
    admin.create(back).await?;
    publish_events(&client, "t", [not_json()]).await?;
    for name in ["s", "first", "s", "first"] {
        let mut consumer = consume(&client, name).await?;
        next(&mut consumer).await?.term("again");
    }
    wait_for("four letters in all, and two before", async || {
        let first = appended(&admin, "dead.first").await?;
        Ok((first == 3).then_some(()))
    })
    .await
}

#[tokio::test]
async fn letters_are_told_from_what_is_published_to_their_topic_through_checkpoints_and_kills()
-> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let admin = broker.admin();
    admin
        .upload("p", guest("misbehaving_filter").await?)
        .await?;
    let mine = json!([{"plugin": "p", "config": "contains not JSON"}]);
    let takers = |start: &str| {
        let spec = |kind: &str, topic: &str, filters: &Value, include: bool| {
            json!({
                "name": format!("{kind}.{start}"),
                "topics": [topic],
                "filters": filters,
                "include_dead_letters": include,
                "start": start,
            })
        };
        let none = json!([]);
        [
            spec("plain", ">", &none, false),
            spec("every", ">", &none, true),
            spec("dead", "dead.>", &none, false),
            spec("filtered", ">", &mine, false),
            spec("filtered-every", ">", &mine, true),
        ]
    };
    for spec in takers("new") {
        admin.create(spec).await?;
    }
    admin.create(rejecting("s", &["t"])).await?;
    let client = broker.client().await?;
    // By turns, so that letters and others have to share groups, if not blocks.
    for _ in 0..10 {
        publish_events(&client, "t", [not_json()]).await?;
        publish_events(&client, "dead.s", [not_json(), not_json()]).await?;
    }
    wait_given_up(&admin, &["s"], 10).await?;
    let filler = 300;
    let padding = vec![b'.'; 32 * 1024];
    let padded = (0..filler).map(|_| Event::new(padding.clone()));
    publish_events(&client, "filler", padded).await?;
    wait_for("a checkpoint", async || {
        let generations = admin.metric("tidegate_generations").await?;
        Ok((generations > 0.0).then_some(()))
    })
    .await?;
    let published = 30;
    let expected = [
        ("plain", published + filler),
        ("every", published + 10 + filler),
        ("dead", 20 + 10),
        ("filtered", published),
        ("filtered-every", published + 10),
    ];
    let check = async |admin: &AdminApi, start: &str| -> anyhow::Result<()> {
        for (kind, depth) in expected {
            let name = format!("{kind}.{start}");
            assert_eq!(admin.evaluated(&name).await?.depth, depth, "{name}");
        }
        Ok(())
    };
    check(&admin, "new").await?;
    broker.kill()?;
    broker.restart().await?;
    let admin = broker.admin();
    check(&admin, "new").await?;
    for spec in takers("earliest") {
        admin.create(spec).await?;
    }
    check(&admin, "earliest").await
}

#[tokio::test]
async fn whether_letters_are_taken_in_changes_from_a_position_on() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    admin
        .create(json!({"name": "all", "topics": [">"]}))
        .await?;
    admin.create(rejecting("s", &["t"])).await?;
    let mut depth = 0;
    for (round, include) in (1..).zip([false, true, false]) {
        let patch = json!({"include_dead_letters": include});
        let info = broker.admin().update("all", patch).await?;
        assert_eq!(info.spec.include_dead_letters, include);
        let client = broker.client().await?;
        publish_events(&client, "t", [not_json()]).await?;
        wait_for("the letter", async || {
            let found = appended(&broker.admin(), "dead.s").await.unwrap_or(0);
            Ok((found == round).then_some(()))
        })
        .await?;
        depth += 1 + u64::from(include);
        assert_eq!(broker.admin().evaluated("all").await?.depth, depth);
        broker.kill()?;
        broker.restart().await?;
        assert_eq!(broker.admin().evaluated("all").await?.depth, depth);
    }
    Ok(())
}
