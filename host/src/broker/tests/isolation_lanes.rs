//! A plugin fails: who is to blame is found out apart, and whoever was not concerned does not wait for it.

use serde_json::json;

use super::*;
use crate::plugin::bundled::BundledPlugin;

/// Bytes of an event that can be read and has nothing in it.
const EMPTY: usize = 0;
const FILTER: &str = include_str!("../../plugin/testdata/filter.wat");

impl Fixture {
    // With the filter whose rules do what their configuration says, under the name that may run for long.
    async fn with_test_filter() -> Self {
        let bytes = wat::parse_str(FILTER).expect("a component in text form");
        let filter = BundledPlugin {
            name: SLOW,
            bytes: Box::leak(bytes.into_boxed_slice()),
        };
        let dir = tempfile::tempdir().expect("a directory");
        Self::start_with(dir, 1 << 20, false, &[filter]).await
    }

    async fn filtered(&self, name: &str, topic: &str, config: &str) {
        let filter = json!({"plugin": SLOW, "config": config});
        let spec = json!({"name": name, "topics": [topic], "filters": [filter]});
        self.create(spec).await;
    }

    fn plugin_metric(&self, name: &str) -> u64 {
        let text = self.metrics_text();
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with(name) && line.contains(SLOW));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.unwrap_or_else(|| panic!("{name} of the plugin in {text}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_guilty_are_looked_for_whoever_was_not_asked_goes_on() {
    let fixture = Fixture::with_test_filter().await;
    let guilty: Vec<String> = (0..8).map(|nth| format!("loops-{nth}")).collect();
    for name in &guilty {
        fixture.filtered(name, "bad", "l").await;
    }
    fixture.filtered("sound", "good", "a").await;
    let mut stream = fixture.publisher().await;
    stream.submit(1, "bad", 1, EMPTY).await;
    stream.submit(2, "good", 1, EMPTY).await;
    for answer in stream.answers(2).await {
        answer.result.expect("appended");
    }
    fixture
        .wait_info("sound", |sound| sound.unevaluated == 0 && sound.depth == 1)
        .await;
    // Finding out takes one for each of them and some for parts; two came before the sound one's turn.
    let timeouts = fixture.plugin_metric("tidegate_plugin_timeouts_total");
    assert!(timeouts < 8, "{timeouts}");
    for name in &guilty {
        let found = |info: &SubscriptionInfo| info.dead_lettered == 1 && info.unevaluated == 0;
        fixture.wait_info(name, found).await;
    }
    assert!(fixture.plugin_metric("tidegate_plugin_timeouts_total") > 8);
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_to_a_ward_and_is_sound_there_for_long_misses_nothing() {
    let fixture = Fixture::with_test_filter().await;
    fixture.filtered("sound", "good", "a").await;
    fixture.filtered("fails", "bad", "t3").await;
    let mut stream = fixture.publisher().await;
    for (correlation, topic, events) in [(1, "good", 1), (2, "bad", 10)] {
        stream.submit(correlation, topic, events, EMPTY).await;
    }
    for answer in stream.answers(2).await {
        answer.result.expect("appended");
    }
    let fails_only_there = |info: &SubscriptionInfo| {
        info.unevaluated == 0 && info.dead_lettered == 1 && info.depth == 9
    };
    fixture.wait_info("fails", fails_only_there).await;
    stream.submit(3, "good", 1, EMPTY).await;
    stream.answers(1).await;
    fixture.wait_info("sound", |sound| sound.depth == 2).await;
    // One more may still be on its way out.
    let instances = || fixture.plugin_metric("tidegate_plugin_instances");
    until(|| instances() == 2, || instances().to_string()).await;
    for correlation in 4..14 {
        stream.submit(correlation, "bad", 500, EMPTY).await;
    }
    for answer in stream.answers(10).await {
        answer.result.expect("appended");
    }
    fixture
        .wait_info("fails", |info| info.unevaluated == 0 && info.depth == 5009)
        .await;
    fixture.broker.shutdown().await;
}
