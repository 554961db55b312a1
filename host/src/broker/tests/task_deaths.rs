//! What feeds a subscription dies: the subscription is paused, which is seen, and that is over once it is resumed or deleted.

use serde_json::json;

use super::*;
use crate::domain::Event;
use crate::plugin::bundled::bundled;

impl Fixture {
    // With as many events as that in topic `a`, which the router is done with and which are not in memory any more.
    async fn with_events(events: u64, event: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let fixture = Self::start_with(dir, 0, false, &bundled()).await;
        fixture.subscribe("kept", "a").await;
        let mut stream = fixture.publisher().await;
        let all = vec![event; events as usize];
        stream.submit_all(1, "a", &all).await;
        stream.submit(2, "b", 1, 10).await;
        for answer in stream.answers(2).await {
            answer.result.expect("appended");
        }
        fixture
            .wait_info("kept", |kept| kept.depth == events && kept.unevaluated == 0)
            .await;
        fixture
    }

    fn cannot_read(&self) {
        self.fs.fail_with(Operation::Read, "journal", Fault::Panic);
    }

    // Waits until exactly these tasks are dead: names that begin like this.
    async fn wait_for_dead(&self, dead: &[&str]) {
        let is_so = || {
            let raised = self.raised();
            let names: Vec<_> = raised
                .iter()
                .filter_map(|condition| match condition {
                    Condition::TaskDied(name) => Some(name.as_ref()),
                    _ => None,
                })
                .collect();
            names.len() == dead.len()
                && dead
                    .iter()
                    .all(|wanted| names.iter().any(|name| name.starts_with(wanted)))
                && self.broker.health().ready == dead.is_empty()
        };
        until(is_so, || format!("{dead:?}: {:?}", self.raised())).await;
    }

    async fn wait_paused(&self, name: &str, why: &str) {
        let says = |info: &SubscriptionInfo| {
            let paused = info.paused.as_ref();
            paused.is_some_and(|paused| paused.contains(why))
        };
        self.wait_info(name, says).await;
    }

    pub(super) async fn delete(&self, name: &str) {
        let found = self.broker.find(name).expect("there");
        let deleted = self.broker.delete_subscription(&found).await;
        deleted.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catch_up_that_dies_is_over_when_its_subscription_is_resumed_or_deleted() {
    let fixture = Fixture::with_events(8, &[7; 60_000]).await;
    fixture.cannot_read();
    let late = |name: &str| json!({"name": name, "topics": ["a"], "start": "earliest"});
    for name in ["late", "other"] {
        fixture.create(late(name)).await;
    }
    let both = ["catch-up of late", "catch-up of other"];
    fixture.wait_for_dead(&both).await;
    fixture.wait_paused("late", "its catch-up").await;
    fixture.delete("other").await;
    fixture.wait_for_dead(&both[..1]).await;
    fixture.fs.heal();
    fixture.resume("late").await;
    fixture.wait_info("late", |late| late.depth == 8).await;
    fixture.wait_for_dead(&[]).await;
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_dies_is_over_when_it_is_started_anew_or_needed_no_more() {
    // Nothing here is a letter: whoever writes those reads, too. So it has to be an event, and JSON.
    let event = Event {
        payload: format!("{{\"n\":2}}{}", " ".repeat(60_000)).into(),
        ..Event::default()
    };
    let event = prost::Message::encode_to_vec(&event);
    let fixture = Fixture::with_events(8, &event).await;
    let filtered = |name: &str| {
        let filter = json!({"plugin": "event-pattern", "config": "{\"n\":[1]}"});
        json!({"name": name, "topics": ["a"], "start": "earliest", "filters": [filter]})
    };
    let lane = "lane of event-pattern@1 (sha256:";
    for (round, names) in [&["one", "two"][..], &["three"]].into_iter().enumerate() {
        fixture.cannot_read();
        // Each when the lane of the one before is dead and everybody in it paused. Who comes while that goes on may be paused with
        // them, and then the lane that was opened for it ends without having read anything.
        for name in names {
            fixture.create(filtered(name)).await;
            fixture.wait_paused(name, "a filter's lane").await;
        }
        fixture.wait_for_dead(&[lane]).await;
        fixture.wait_paused("one", "a filter's lane").await;
        fixture.wait_paused("two", "a filter's lane").await;
        if round == 0 {
            fixture.fs.heal();
            for name in ["one", "two"] {
                fixture.resume(name).await;
                fixture.wait_info(name, |info| info.unevaluated == 0).await;
            }
            fixture.wait_for_dead(&[]).await;
        }
    }
    for name in ["one", "two"] {
        fixture.delete(name).await;
        assert!(!fixture.broker.health().ready, "another one needs it");
    }
    fixture.delete("three").await;
    fixture.wait_for_dead(&[]).await;
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_dies_is_over_when_it_is_resumed_or_deleted() {
    let fixture = Fixture::with_events(8, &[7; 60_000]).await;
    let transform =
        json!({"plugin": "json-reshape", "config": "{\"pick\":[\"/a\"]}", "on_failure": "pause"});
    let route = json!({
        "name": "r", "topics": ["a"], "start": "earliest",
        "transforms": [transform], "outputs": {"out": "c"},
    });
    fixture.create(route).await;
    // It stands at an event that is no JSON; when it is resumed it reads that again.
    fixture.wait_paused("r", "").await;
    for _ in 0..2 {
        fixture.cannot_read();
        fixture.resume("r").await;
        fixture.wait_for_dead(&["route r"]).await;
        fixture.wait_paused("r", "panicked").await;
        fixture.fs.heal();
        fixture.resume("r").await;
        fixture.wait_for_dead(&[]).await;
        let transform = |info: &SubscriptionInfo| {
            let paused = info.paused.as_ref();
            paused.is_some_and(|why| !why.contains("panicked"))
        };
        fixture.wait_info("r", transform).await;
    }
    fixture.cannot_read();
    fixture.resume("r").await;
    fixture.wait_for_dead(&["route r"]).await;
    fixture.delete("r").await;
    fixture.wait_for_dead(&[]).await;
    fixture.broker.shutdown().await;
}

// A change of a paused subscription holds everything back until it comes. When it cannot be written, it does not come.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_finds_no_room_leaves_a_paused_subscription_as_it_was() {
    let fixture = Fixture::with_events(8, &[7; 60_000]).await;
    fixture.cannot_read();
    let late = json!({"name": "late", "topics": ["a"], "start": "earliest"});
    fixture.create(late).await;
    fixture.wait_for_dead(&["catch-up of late"]).await;
    let full = Fault::Error(std::io::ErrorKind::StorageFull);
    fixture.fs.fail_with(Operation::Write, "journal", full);
    let before = fixture.broker.subscription("late").expect("it exists");
    let mut spec = before.spec.clone();
    // What is judged otherwise from a position on.
    spec.include_dead_letters = !spec.include_dead_letters;
    let (me, found) = (Principal::local(), fixture.broker.find("late"));
    let found = found.expect("it exists");
    let broker = &fixture.broker;
    let refused = broker.update_subscription(&me, &found, &before, spec).await;
    let refused = refused.expect_err("no room");
    assert!(refused.is_retryable(), "{refused}");
    fixture.fs.heal();
    fixture.resume("late").await;
    fixture.wait_info("late", |late| late.depth == 8).await;
    fixture.wait_for(&Condition::DiskFull, false).await;
    fixture.wait_for_dead(&[]).await;
    fixture.broker.shutdown().await;
}
