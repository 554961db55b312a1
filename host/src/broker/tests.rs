//! The whole broker at work, without a network: what becomes of those who wait when something in it fails.

mod checkpoint_without_space;
mod conditions;
mod disk_space;
mod ends;
mod fixture;
mod given_up;
mod isolation_lanes;
mod journal_failures;
mod plugins;
mod task_deaths;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fixture::*;

use super::*;
use crate::domain::{
    Durability, EncodedEvents, Principal, ProducerId, SubscriptionInfo, TopicSpec,
};
use crate::store::tests::faulty_disk::{Fault, FaultyFileSystem, Operation};
use crate::telemetry::Condition;

#[tokio::test(flavor = "multi_thread")]
async fn a_committer_that_panics_answers_everybody_and_makes_the_broker_unready() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 1, 10).await;
    assert!(stream.answers(1).await[0].result.is_ok());
    assert!(fixture.broker.health().ready);
    fixture
        .fs
        .fail_with(Operation::Write, "journal", Fault::Panic);
    for correlation in 2..40 {
        stream.submit(correlation, "a.b", 1, 10).await;
    }
    let mut answered = Vec::new();
    for reply in stream.answers(38).await {
        let refused = matches!(
            reply.result,
            Err(PublishError::Unavailable(Unavailable::Store(_)))
        );
        assert!(refused, "{:?}", reply.result);
        answered.push(reply.correlation);
    }
    answered.sort_unstable();
    assert_eq!(answered, (2..40).collect::<Vec<_>>(), "each once");
    let topic = TopicSpec {
        name: "c".parse().expect("a name"),
        durability: Durability::Sync,
        created_by: None,
    };
    let refused = fixture.broker.create_topic(topic).await;
    assert!(matches!(
        refused,
        Err(ChangeError::Unavailable(Unavailable::Store(_)))
    ));
    fixture.wait_for(&died("committer"), true).await;
    assert!(!fixture.broker.health().ready);
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_panics_makes_the_broker_unready() {
    // Nothing is kept in memory, so the router reads what it routes, all but the newest block.
    let fixture = Fixture::start(0).await;
    fixture.subscribe("s", ">").await;
    fixture
        .fs
        .fail_with(Operation::Read, "journal", Fault::Panic);
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 4, 60_000).await;
    assert!(stream.answers(1).await[0].result.is_ok());
    fixture.wait_for(&died("router"), true).await;
    assert!(!fixture.broker.health().ready);
    let text = fixture.metrics_text();
    let line = "tidegate_condition{condition=\"task_died\",subject=\"router\"} 1\n";
    assert!(text.contains(line), "{text}");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_seen_and_waits_until_an_operator_gives_it_up() {
    let fixture = Fixture::start(0).await;
    fixture.subscribe("kept", "a").await;
    let mut stream = fixture.publisher().await;
    for correlation in 0..8 {
        stream.submit(correlation, "a", 4, 60_000).await;
    }
    stream.answers(8).await;
    let moved = async {
        while !fixture
            .metrics_text()
            .contains("tidegate_checkpoints_total 1")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let moved = tokio::time::timeout(PATIENCE, moved).await;
    moved.expect("a checkpoint");
    assert!(fixture.damage_generations() > 0);

    // Somebody has to look at it, and stands there, which is seen.
    fixture.subscribe_to_all("late").await;
    let late = fixture
        .wait_info("late", |late| late.stands_at.is_some())
        .await;
    assert_eq!(late.stands_at, Some(crate::domain::Position(1)));
    let kept = fixture.wait_info("kept", |kept| kept.unreadable > 0).await;
    assert!(kept.unreadable <= kept.depth && kept.depth == 32);
    let unreadable = fixture.broker.unreadable();
    assert!(unreadable[0].damage);
    let text = fixture.metrics_text();
    assert!(
        !text.contains("tidegate_unreadable_events_total 0"),
        "{text}"
    );
    let condition = Condition::Unreadable(unreadable[0].path.clone().into());
    fixture.wait_for(&condition, true).await;
    assert!(fixture.broker.health().ready, "the rest of it works");

    // Nobody else pays.
    fixture.subscribe("fresh", "b").await;
    stream.submit(100, "b", 1, 10).await;
    stream.answers(1).await;
    fixture.wait_info("fresh", |fresh| fresh.depth == 1).await;

    // A decision that cannot be written down decides nothing.
    fixture.fs.fail(Operation::Write, "manifest");
    let refused = fixture.broker.give_up_unreadable(true).await;
    assert!(refused.is_err(), "{refused:?}");
    let now = fixture.broker.subscription("kept").expect("it exists");
    assert_eq!(
        (now.dead_lettered, now.depth, now.unreadable),
        (0, 32, kept.unreadable)
    );
    fixture.fs.heal();

    let given_up = fixture
        .broker
        .give_up_unreadable(true)
        .await
        .expect("given up");
    assert!(given_up.iter().all(|one| one.kept_as.is_some()));
    fixture
        .wait_info("kept", |now| {
            now.dead_lettered == kept.unreadable
                && now.depth == 32 - kept.unreadable
                && now.unreadable == 0
        })
        .await;
    fixture
        .wait_info("late", |late| {
            late.stands_at.is_none() && late.unevaluated == 0
        })
        .await;
    fixture.wait_for(&condition, false).await;
    assert_eq!(
        fixture
            .broker
            .give_up_unreadable(true)
            .await
            .expect("nothing left"),
        []
    );
    fixture.broker.shutdown().await;
}

// Publishes so much that a checkpoint is made, the `nth`; answers how many events that were.
async fn fill_a_generation(fixture: &Fixture, stream: &mut Stream, nth: u64) -> u64 {
    const BATCHES: u64 = 14;
    for correlation in 0..BATCHES {
        stream.submit(correlation, "a.b", 10, 10_000).await;
    }
    let answers = stream.answers(BATCHES as usize).await;
    assert!(answers.iter().all(|answer| answer.result.is_ok()));
    let line = format!("tidegate_checkpoints_total {nth}\n");
    fixture.wait_for_metric(&line).await;
    BATCHES * 10
}

// A state that is lost takes no events with it: what the generation holds is judged again.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_generation_whose_state_is_lost_are_judged_again() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", "a.>").await;
    let mut stream = fixture.publisher().await;
    let mut events = fill_a_generation(&fixture, &mut stream, 1).await;
    events += fill_a_generation(&fixture, &mut stream, 2).await;
    stream.submit(1, "a.b", 1, 10).await;
    let last = stream.answers(1).await.remove(0).result.expect("appended");
    drop(stream);
    let fixture = fixture
        .start_after(|store| {
            let generations = fs::read_dir(store.join("generations")).expect("generations");
            let newest = generations.map(|entry| entry.expect("entry").path()).max();
            let state = newest.expect("some").join("state");
            fs::remove_dir_all(state).expect("removed");
        })
        .await;
    let line = format!(
        "tidegate_subscription_depth{{subscription=\"s\"}} {}\n",
        events + 1
    );
    fixture.wait_for_metric(&line).await;
    // What was lost with the state may have had any number after those that are known.
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 1, 10).await;
    let next = stream.answers(1).await.remove(0).result.expect("appended");
    assert!(next.first_sequence.0 > last.first_sequence.0 + (1 << 31));
    fixture.broker.shutdown().await;
}

// The events of a topic whose creation is lost are nobody's, and its id is not given to another.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_topic_that_nobody_knows_any_more_are_counted_and_never_anybodys() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("all", ">").await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "secret", 3, 10).await;
    stream.answers(1).await;
    drop(stream);
    // Each start begins a file of its own.
    let fixture = fixture.start_after(|_| ()).await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "secret", 4, 10).await;
    stream.answers(1).await;
    drop(stream);
    let fixture = fixture
        .start_after(|store| {
            let journal = fs::read_dir(store.join("journal")).expect("journal");
            let first = journal.map(|entry| entry.expect("entry").path()).min();
            fs::remove_file(first.expect("some")).expect("removed");
        })
        .await;
    let text = fixture.metrics_text();
    assert!(
        text.contains("tidegate_orphaned_events_total 4\n"),
        "{text}"
    );
    fixture.subscribe_to_all("new").await;
    for n in 0..4 {
        let topic = TopicSpec {
            name: format!("z.{n}").parse().expect("a name"),
            durability: Durability::Sync,
            created_by: None,
        };
        let topic = fixture.broker.create_topic(topic).await.expect("created");
        assert!(topic.id.0 > 1 << 32, "{topic:?}");
    }
    let mut stream = fixture.publisher().await;
    stream.submit(1, "z.1", 1, 10).await;
    stream.answers(1).await;
    let line = "tidegate_subscription_depth{subscription=\"new\"} 1\n";
    fixture.wait_for_metric(line).await;
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_names_the_topics_whose_events_are_gone() {
    let mut fixture = Fixture::start(1 << 20).await;
    for count in [3, 4, 2] {
        let mut stream = fixture.publisher().await;
        stream.submit(1, "orders.new", count, 10).await;
        stream.answers(1).await;
        drop(stream);
        // Each start begins a file of its own.
        fixture = fixture.start_after(|_| ()).await;
    }
    let Fixture { broker, dir, .. } = fixture;
    broker.shutdown().await;
    drop(broker);
    let journal = fs::read_dir(dir.path().join("store/journal")).expect("journal");
    let mut files: Vec<_> = journal.map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    fs::remove_file(&files[1]).expect("removed");
    let examined = examined(dir.path(), false, FaultyFileSystem::default()).await;
    let refused = RecoveredStore::of(examined, 100).map(|_| ());
    let error = refused.expect_err("refused").to_string();
    let lost = "topic `orders.new` sequences 4 to 7 (4 events)";
    assert!(error.contains(lost), "{error}");
}
