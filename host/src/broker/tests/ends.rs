//! How a broker begins and ends: a start that is refused leaves nothing behind, and an end loses nothing that was said before it.

use super::*;
use crate::broker::delivery::fetcher::Manner;
use crate::telemetry::Metrics;

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_leaves_the_store_free_and_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    // Where files of plugins are to be.
    let in_the_way = dir.path().join("plugins");
    std::fs::write(&in_the_way, "no folder").expect("written");
    for _ in 0..2 {
        let examined = examined(dir.path(), false, FaultyFileSystem::default());
        // It waits for whoever has the store.
        let examined = tokio::time::timeout(PATIENCE, examined).await;
        let examined = examined.expect("nobody has the store any more");
        assert!(examined.is_clean());
        let readable = RecoveredStore::of(examined, 100).expect("readable");
        let metrics = Metrics::default();
        let refused = start_on(readable, dir.path(), 1 << 20, &[], &metrics).await;
        assert!(matches!(refused, Err(StartError::PluginFiles(_))));
    }
    std::fs::remove_file(in_the_way).expect("removed");
    let fixture = Fixture::start_in(dir, 1 << 20, false).await;
    fixture.create_topic("a").await.expect("it works");
    fixture.broker.shutdown().await;
}

// Whoever hears of the end may have something in hand.
#[tokio::test(flavor = "multi_thread")]
async fn acks_that_come_while_the_broker_ends_are_written() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", ">").await;
    let mut stream = fixture.publisher().await;
    stream.publish().await.expect("appended");
    let local = Principal::local();
    let consumer = fixture.broker.attach(&local, "s", Manner::Silent).await;
    let consumer = consumer.expect("attached");
    let deliveries = consumer.next(1, 1).await.expect("delivered");
    let position = deliveries[0].position;
    fixture.broker.spawner().passing(
        "consumer",
        async move {
            consumer.next(1, 1).await.expect_err("it ends");
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            consumer.ack(&[position..=position]);
        },
        |why| panic!("{why}"),
    );
    drop(stream);
    let fixture = fixture.start_after(|_| {}).await;
    fixture.wait_info("s", |info| info.depth == 0).await;
    fixture.broker.shutdown().await;
}

// Found once, it is this one that is changed, whatever has its name since.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_of_the_subscription_that_was_found_and_of_what_can_be_changed() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", "a").await;
    let (broker, me) = (&fixture.broker, Principal::local());
    let found = broker.find("s").expect("there");
    let before = broker.info_of(&found).expect("there");
    let mut elsewhere = before.spec.clone();
    elsewhere.topics = vec!["b".parse().expect("a pattern")];
    let refused = broker
        .update_subscription(&me, &found, &before, elsewhere)
        .await;
    assert!(
        matches!(refused, Err(ChangeError::Invalid(_))),
        "{refused:?}"
    );

    broker.delete_subscription(&found).await.expect("deleted");
    fixture.subscribe("s", "a").await;
    let mut spec = before.spec.clone();
    spec.include_dead_letters = !spec.include_dead_letters;
    let refused = broker.update_subscription(&me, &found, &before, spec).await;
    assert!(
        matches!(refused, Err(ChangeError::NotFound(_))),
        "{refused:?}"
    );
    let refused = broker.delete_subscription(&found).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("`s`")));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_route_is_in_the_way_of_a_deletion_learns_only_who_may_see_it() {
    let fixture = Fixture::start(1 << 20).await;
    let route = serde_json::json!({"name": "r", "topics": ["in"], "outputs": {"out": "out"}});
    fixture.create(route).await;
    let topic = "out".parse().expect("a name");
    for (who, expected) in [
        (Principal::local(), "r"),
        (
            Principal::common_name("other"),
            "somebody else's subscription",
        ),
    ] {
        let refused = fixture.broker.delete_topic(&who, &topic).await;
        match refused {
            Err(ChangeError::InUse { by, .. }) => assert_eq!(by.to_string(), expected),
            other => panic!("{other:?}"),
        }
    }
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_made_to_go_does_so_once_it_has_no_consumer() {
    let fixture = Fixture::start(1 << 20).await;
    let (broker, local) = (&fixture.broker, Principal::local());
    let goes = |name: &str, after: u64| serde_json::json!({"name": name, "topics": [">"], "delete_after_idle_ms": after});
    for (spec, wrong) in [
        (goes("soon", 999), "from 1000"),
        (goes("late", 31 * 86_400_000), "30 days"),
        (
            serde_json::json!({"name": "r", "topics": ["a"], "outputs": {"x": "b"}, "delete_after_idle_ms": 1_000}),
            "a route has no consumers",
        ),
    ] {
        let spec = serde_json::from_value(spec).expect("a specification");
        let refused = broker.create_subscription(&local, spec).await;
        let refused = refused.expect_err(wrong).to_string();
        assert!(refused.contains(wrong), "{refused}");
    }
    let consumer = loop {
        fixture.create(goes("consumed", 1_000)).await;
        // On a machine that is slow enough it may be gone.
        if let Ok(consumer) = broker.attach(&local, "consumed", Manner::Silent).await {
            break consumer;
        }
    };
    fixture.create(goes("kept", 86_400_000)).await;
    fixture.subscribe("plain", ">").await;
    fixture.create(goes("left", 1_000)).await;
    let is_there = |name: &str| broker.subscription(name).is_ok();
    until(|| !is_there("left"), || "it stays".to_owned()).await;
    for name in ["kept", "plain", "consumed"] {
        assert!(is_there(name), "{name}");
    }
    drop(consumer);
    until(|| !is_there("consumed"), || "it stays".to_owned()).await;
    let fixture = fixture.start_after(|_| {}).await;
    let kept = fixture.broker.subscription("kept").expect("kept");
    assert_eq!(kept.spec.delete_after_idle_ms, Some(86_400_000));
    assert!(fixture.broker.subscription("left").is_err());
    fixture.broker.shutdown().await;
}
