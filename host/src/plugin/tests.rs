//! The plugin service against guests that behave and guests that do not. The guests are components in text form
//! (`testdata/`), whose rules do what their configuration says; nothing here looks at a stopwatch. Who is to blame for what is
//! in `tests/blame.rs`.

mod blame;
mod clocks;
mod shares;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::call_input::CALL_EVENTS_MAX;
use super::*;
use crate::domain::{Digest, PluginWorld};
use crate::domain::{Event, Millis, Sequence};

const FILTER: &str = include_str!("testdata/filter.wat");
const TRANSFORM: &str = include_str!("testdata/transform.wat");

// A service with a cache of its own, pauses so long that no test sees the end of one, and no replicas however slow the machine.
struct Rig {
    plugins: Arc<Plugins>,
    _cache: tempfile::TempDir,
}

impl Rig {
    fn new(change: impl FnOnce(&mut PluginOptions)) -> Self {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let mut options = PluginOptions {
            cache_dir: cache.path().join("plugins"),
            instances_max: 16,
            owner_instances_max: usize::MAX,
            worker_threads: 2,
            replica_part_min: Duration::from_secs(3600),
            pause_min: Duration::from_secs(3600),
            pause_max: Duration::from_secs(3600),
            ..PluginOptions::default()
        };
        change(&mut options);
        Self {
            plugins: Plugins::start(options).expect("a plugin service"),
            _cache: cache,
        }
    }

    async fn load(&self, text: &str) -> Result<LoadedPlugin, LoadError> {
        let bytes = wat::parse_str(text).expect("a component in text form");
        self.plugins.load("p", bytes.into()).await
    }

    async fn group(&self, configs: &[&str]) -> FilterGroup {
        let plugin = self.load(FILTER).await.expect("the test filter");
        let mut group = self
            .plugins
            .filter_group(&plugin.digest, "test@1")
            .expect("a filter");
        for (key, config) in (0..).zip(configs) {
            group
                .add(RuleKey(key), config, "s")
                .await
                .expect("a configuration");
        }
        group
    }

    async fn transformer(&self, config: &str) -> Result<Transformer, ConfigureError> {
        let plugin = self.load(TRANSFORM).await.expect("the test transform");
        self.plugins
            .transformer(&plugin.digest, config, "test@1", "s")
            .await
    }

    fn stats(&self) -> PluginStats {
        self.plugins
            .stats()
            .into_iter()
            .next()
            .expect("a loaded plugin")
    }
}

fn events(count: u64) -> Vec<InputEvent> {
    let event = |sequence: u64| InputEvent {
        topic: "orders.eu".into(),
        sequence: Sequence(sequence),
        time: Millis(1),
        bytes: Event {
            payload: Bytes::from(sequence.to_string()),
            ..Event::default()
        }
        .encode_to_vec()
        .into(),
    };
    (0..count).map(event).collect()
}

fn keys(count: u64) -> Vec<RuleKey> {
    (0..count).map(RuleKey).collect()
}

// What a rule got: indices of events it wants, and of events it failed on.
fn of_rule(evaluation: &Evaluation, key: u64) -> (Vec<u32>, Vec<u32>) {
    assert_eq!(evaluation.undecided, []);
    let mut wanted: Vec<u32> = evaluation
        .matches
        .iter()
        .filter(|(_, rule)| rule.0 == key)
        .map(|(event, _)| *event)
        .collect();
    let mut failed: Vec<u32> = evaluation
        .failures
        .iter()
        .filter(|failure| failure.rule.0 == key)
        .map(|failure| failure.event)
        .collect();
    wanted.sort_unstable();
    failed.sort_unstable();
    (wanted, failed)
}

fn without(count: u32, left_out: u32) -> Vec<u32> {
    (0..count).filter(|event| *event != left_out).collect()
}

#[tokio::test]
async fn a_filter_says_which_rules_want_which_events() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["a", "n", "q2"]).await;
    let evaluation = group.evaluate(&events(4), &keys(3)).await;
    assert_eq!(of_rule(&evaluation, 0), (vec![0, 1, 2, 3], vec![]));
    assert_eq!(of_rule(&evaluation, 1), (vec![], vec![]));
    assert_eq!(of_rule(&evaluation, 2), (vec![2], vec![]));

    group.remove(RuleKey(0)).await;
    let evaluation = group.evaluate(&events(4), &keys(3)).await;
    assert_eq!(evaluation.matches, [(2, RuleKey(2))]);
    let stats = rig.stats();
    assert_eq!(
        (
            stats.label.as_str(),
            stats.calls,
            stats.events,
            stats.instances
        ),
        ("test@1", 2, 8, 1)
    );
}

#[tokio::test]
async fn what_no_instance_may_have_is_refused_with_the_reason() {
    let rig = Rig::new(|_| {});
    let check = async |from: &str, to: &str, reason: &str| {
        let changed = FILTER.replacen(from, to, 1);
        assert_ne!(changed, FILTER);
        let refused = rig.load(&changed).await.expect_err("it fits no pool");
        assert!(matches!(refused, LoadError::Instance(_)), "{refused}");
        let refused = refused.to_string();
        assert!(refused.contains(reason), "{refused}");
        assert!(refused.contains("plugins.memory_bytes_max"), "{refused}");
    };
    let memory = "(memory (export \"memory\") 8)";
    let large = "(memory (export \"memory\") 60000)";
    check(memory, large, "minimum byte size").await;
    let types = "(type $match' (record";
    let instances = "(core instance (instantiate $none))";
    let many = |count: usize, module: &str| {
        let instances = instances.repeat(count);
        format!("(core module $none {module}) {instances} {types}")
    };
    check(types, &many(5, "(memory 1)"), "linear memories").await;
    check(types, &many(130, ""), "core module instances").await;

    // What is put between a component and WASI is left out where there is no room for it.
    let nearly = FILTER.replacen(types, &many(126, ""), 1);
    rig.load(&nearly).await.expect("it fits as it is");
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_the_reason() {
    async fn check(rig: &Rig, text: String, expected: &str) {
        let message = rig.load(&text).await.expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}");
    }
    let rig = Rig::new(|options| options.limits.module_bytes_max = 16 << 10);
    let export = r#"(export "release" (func $release))"#;
    check(&rig, "(module)".into(), "core WebAssembly module").await;
    check(&rig, "(component)".into(), "exports nothing").await;
    check(
        &rig,
        FILTER.replace(export, ""),
        "filtering@0.1.0#release is missing",
    )
    .await;
    let mistyped = r#"(export "release" (func $configure))"#;
    check(
        &rig,
        FILTER.replace(export, mistyped),
        "filtering@0.1.0#release has another type",
    )
    .await;
    for import in [
        "acme:spy/files@1.0.0",
        "wasi:nn/graph@0.2.0",
        "wasi:clocks/wall-clock@0.3.0",
    ] {
        let with_import = format!(r#"(import "{import}" (instance))"#);
        check(
            &rig,
            FILTER.replace(";; here: another import", &with_import),
            import,
        )
        .await;
    }
    let large = FILTER.replace(
        "(memory (export",
        &format!("(data \"{}\") (memory (export", "x".repeat(17 << 10)),
    );
    check(&rig, large, "at most 16384 are accepted").await;
    let error = rig
        .plugins
        .load("p", Bytes::from_static(b"#!/bin/sh"))
        .await
        .expect_err("no WebAssembly");
    assert!(matches!(error, LoadError::NotWasm));
    assert!(rig.plugins.stats().is_empty());
}

#[tokio::test]
async fn one_plugin_may_be_larger_than_the_others() {
    let rig = Rig::new(|options| {
        options.limits.module_bytes_max = 16 << 10;
        let large = PluginLimits {
            module_bytes_max: 32 << 10,
            ..options.limits.clone()
        };
        options.overrides.insert("large".into(), large);
    });
    let load = async |name: &str, data_bytes: usize| {
        let data = format!("(data \"{}\") (memory (export", "x".repeat(data_bytes));
        let text = FILTER.replace("(memory (export", &data);
        let bytes = wat::parse_str(text).expect("a component in text form");
        rig.plugins.load(name, bytes.into()).await
    };
    let refused = load("p", 17 << 10).await.expect_err("beyond the limit");
    assert!(matches!(refused, LoadError::TooLarge { max: 16_384, .. }));
    load("large", 17 << 10).await.expect("within its own limit");
    let refused = load("large", 33 << 10).await.expect_err("beyond its own");
    assert!(matches!(refused, LoadError::TooLarge { max: 32_768, .. }));
}

#[tokio::test]
async fn a_configuration_is_tried_within_the_limits_it_is_used_with() {
    let rig = Rig::new(|options| {
        let wide = options.limits.clone();
        options.overrides.insert("wide".into(), wide);
        options.limits.memory_bytes_max = 1;
    });
    let plugin = rig.load(FILTER).await.expect("the test filter");
    let check = async |label| {
        let (digest, world) = (&plugin.digest, PluginWorld::Filter);
        rig.plugins.check(digest, world, "a", label).await
    };
    assert_eq!(check("wide@1").await, Ok(()));
    let refused = check("test@1").await;
    assert!(
        matches!(refused, Err(ConfigureError::Fault(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_guest_explains_a_bad_configuration_itself() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["a"]).await;
    let digest = rig.stats().digest;
    let check = async |config| {
        rig.plugins
            .check(&digest, PluginWorld::Filter, config, "test@1")
            .await
    };
    assert_eq!(check("q1").await, Ok(()));
    assert_eq!(
        check("e: no such field").await,
        Err(ConfigureError::Refused("e: no such field".into()))
    );
    assert!(matches!(check("c").await, Err(ConfigureError::Fault(_))));
    let wrong = rig
        .plugins
        .check(&digest, PluginWorld::Transform, "a", "test@1")
        .await;
    assert!(matches!(
        wrong,
        Err(ConfigureError::WrongWorld { is: "filter", .. })
    ));

    // The same through a group, which goes on with what it has.
    let refused = group.add(RuleKey(1), "e2", "s").await;
    assert_eq!(refused, Err(ConfigureError::Refused("e2".into())));
    assert!(matches!(
        group.add(RuleKey(2), "c", "s").await,
        Err(ConfigureError::Fault(_))
    ));
    assert!(matches!(
        group.add(RuleKey(3), "i", "s").await,
        Err(ConfigureError::Fault(_)) | Ok(())
    ));
    let evaluation = group.evaluate(&events(1), &keys(3)).await;
    assert_eq!(evaluation.matches, [(0, RuleKey(0))]);
}

#[tokio::test]
async fn a_group_grows_by_instances_and_survives_a_fault_in_each() {
    let rig = Rig::new(|options| options.rules_per_instance_max = 10);
    let mut configs = vec!["a"; 35];
    configs[7] = "t1";
    configs[22] = "t2";
    let mut group = rig.group(&configs).await;
    let evaluation = group.evaluate(&events(4), &keys(35)).await;
    assert_eq!(of_rule(&evaluation, 7), (without(4, 1), vec![1]));
    assert_eq!(of_rule(&evaluation, 22), (without(4, 2), vec![2]));
    assert_eq!(evaluation.matches.len(), 35 * 4 - 2);
    assert_eq!(rig.stats().instances, 6);
}

// A service whose every batch is worth sharing.
fn sharing() -> Rig {
    Rig::new(|options| options.replica_part_min = Duration::ZERO)
}

#[tokio::test]
async fn a_replica_takes_half_of_a_batch() {
    let rig = sharing();
    let mut group = rig.group(&["a", "q2", "q98"]).await;
    let evaluation = group.evaluate(&events(100), &keys(3)).await;
    assert_eq!(of_rule(&evaluation, 0), ((0..100).collect(), vec![]));
    assert_eq!(of_rule(&evaluation, 1), (vec![2], vec![]));
    assert_eq!(of_rule(&evaluation, 2), (vec![98], vec![]));
    assert_eq!(evaluation.matches.len(), 102);
    let stats = rig.stats();
    assert_eq!((stats.instances, stats.calls, stats.events), (2, 2, 100));

    // What its rules are changes for the replica, too.
    group.remove(RuleKey(0)).await;
    for (key, config) in [(1, "q97"), (3, "q3")] {
        let added = group.add(RuleKey(key), config, "s").await;
        added.expect("a configuration");
    }
    let evaluation = group.evaluate(&events(100), &keys(4)).await;
    let mut matches = evaluation.matches.clone();
    matches.sort_unstable();
    assert_eq!(
        matches,
        [(3, RuleKey(3)), (97, RuleKey(1)), (98, RuleKey(2))]
    );
    assert_eq!(rig.stats().instances, 2);
    // One event is nothing to share.
    let evaluation = group.evaluate(&events(1), &keys(4)).await;
    assert_eq!(evaluation.matches, []);
    assert_eq!(rig.stats().calls, 5);

    // What is not called for long keeps one instance, without another call.
    let idle_at = group.idle_at().expect("a replica");
    group
        .give_back_idle(idle_at - Duration::from_millis(1))
        .await;
    assert_eq!((rig.stats().instances, group.idle_at()), (2, Some(idle_at)));
    group.give_back_idle(idle_at).await;
    assert_eq!((rig.stats().instances, group.idle_at()), (1, None));
}

#[tokio::test]
async fn a_rule_that_a_replica_knew_may_come_back_as_another() {
    let rig = sharing();
    let mut group = rig.group(&["a", "t77"]).await;
    group.evaluate(&events(100), &keys(2)).await;
    group
        .add(RuleKey(1), "q80", "s")
        .await
        .expect("a configuration");
    let evaluation = group.evaluate(&events(100), &keys(2)).await;
    assert_eq!(of_rule(&evaluation, 1), (vec![80], vec![]));
}

#[tokio::test]
async fn an_event_that_cannot_be_read_fails_once_wherever_it_is() {
    for broken in [3, 77] {
        let rig = sharing();
        let mut group = rig.group(&["a", "t78"]).await;
        let mut events = events(100);
        events[broken as usize].bytes = Bytes::from_static(b"\xff");
        let evaluation = group.evaluate(&events, &keys(2)).await;
        let expected = (without(100, broken), vec![broken]);
        assert_eq!(of_rule(&evaluation, 0), expected);
        assert_eq!(of_rule(&evaluation, 1).1, [broken, 78]);
        assert_eq!(evaluation.failures.len(), 3);
    }
}

#[tokio::test]
async fn a_replica_does_not_take_the_thread_of_another_plugin() {
    let rig = sharing();
    let transformer = rig.transformer("k").await.expect("a configuration");
    let mut group = rig.group(&["a"]).await;
    let instances = || {
        let plugins = rig.plugins.stats();
        plugins.iter().map(|stats| stats.instances).sum::<u64>()
    };
    transformer.apply(&events(1)).await;
    group.evaluate(&events(100), &keys(1)).await;
    assert_eq!(instances(), 2);
    // By and by the thread is free again: time goes on while guests run.
    while instances() == 2 {
        group.evaluate(&events(100), &keys(1)).await;
    }
}

#[tokio::test]
async fn without_instances_to_spare_there_are_no_replicas() {
    let rig = Rig::new(|options| {
        options.replica_part_min = Duration::ZERO;
        options.instances_max = 2;
    });
    let mut group = rig.group(&["a"]).await;
    let evaluation = group.evaluate(&events(100), &keys(1)).await;
    assert_eq!(evaluation.matches.len(), 100);
    assert_eq!(rig.stats().instances, 1);
}

#[tokio::test]
async fn without_a_free_instance_the_batch_waits() {
    let rig = Rig::new(|options| options.instances_max = 1);
    let mut first = rig.group(&["a"]).await;
    let mut second = rig.group(&[]).await;
    assert!(matches!(
        second.add(RuleKey(0), "a", "s").await,
        Err(ConfigureError::Busy(_))
    ));
    drop(first.evaluate(&events(1), &keys(1)).await);
    drop(first);
    second
        .add(RuleKey(0), "a", "s")
        .await
        .expect("the instance of the first group is free");
}

#[tokio::test]
async fn a_filter_sees_the_same_world_every_time() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["r", "w"]).await;
    let first = group.evaluate(&events(64), &keys(2)).await;
    let again = group.evaluate(&events(64), &keys(2)).await;
    let mut other_group = rig.group(&["r", "w"]).await;
    let elsewhere = other_group.evaluate(&events(64), &keys(2)).await;
    assert_eq!(first, again);
    assert_eq!(first, elsewhere);
    let (by_chance, _) = of_rule(&first, 0);
    assert!(!by_chance.is_empty() && by_chance.len() < 64);
    assert_eq!(of_rule(&first, 1).0.len(), 64);
}

#[tokio::test]
async fn a_slow_plugin_does_not_delay_another() {
    let rig = Rig::new(|options| {
        // One thread, so that only yielding lets anybody else run.
        options.worker_threads = 1;
        let endless = PluginLimits {
            call_base: Duration::from_secs(3600),
            ..PluginLimits::default()
        };
        options.overrides.insert("slow".into(), endless);
    });
    let mut quick = rig.group(&["a"]).await;
    let digest = rig.stats().digest;
    let mut slow = rig
        .plugins
        .filter_group(&digest, "slow@1")
        .expect("a filter");
    slow.add(RuleKey(0), "l", "s")
        .await
        .expect("a configuration");
    let looping = tokio::spawn(async move { slow.evaluate(&events(1), &keys(1)).await });
    let calls = rig.stats().calls;
    while rig.stats().calls == calls {
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let evaluation = quick.evaluate(&events(8), &keys(1)).await;
        assert_eq!(evaluation.matches.len(), 8);
    }
    assert!(!looping.is_finished());
    // Stopping does not wait for it either.
    drop(rig);
    assert_eq!(looping.await.expect("no panic").undecided.len(), 1);
}

#[tokio::test]
async fn a_damaged_or_foreign_artifact_is_compiled_again() {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let dir = cache.path().join("plugins");
    let start = || {
        Plugins::start(PluginOptions {
            cache_dir: dir.clone(),
            instances_max: 4,
            ..PluginOptions::default()
        })
        .expect("a plugin service")
    };
    let bytes = Bytes::from(wat::parse_str(TRANSFORM).expect("a component"));
    let artifact = || {
        std::fs::read_dir(&dir)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "cwasm")
            })
    };
    start().load("p", bytes.clone()).await.expect("a plugin");
    let path = artifact().expect("an artifact");
    let sound = std::fs::read(&path).expect("the artifact");

    for damage in [0, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[damage] ^= 1;
        std::fs::write(&path, &damaged).expect("write");
        start().load("p", bytes.clone()).await.expect("a plugin");
        assert_ne!(std::fs::read(&path).expect("the artifact"), damaged);
    }
    std::fs::write(&path, b"short").expect("write");
    start().load("p", bytes.clone()).await.expect("a plugin");

    // Sealed with another key.
    let theirs = std::fs::read(&path).expect("the artifact");
    std::fs::remove_file(dir.join("cache.key")).expect("the key");
    start().load("p", bytes.clone()).await.expect("a plugin");
    assert_ne!(std::fs::read(&path).expect("the artifact"), theirs);

    // A sound one is used as it is.
    let sound = std::fs::read(&path).expect("the artifact");
    start().load("p", bytes).await.expect("a plugin");
    assert_eq!(std::fs::read(&path).expect("the artifact"), sound);
}

#[tokio::test]
async fn a_folder_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let cache = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(cache.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let options = PluginOptions {
        cache_dir: cache.path().to_owned(),
        ..PluginOptions::default()
    };
    assert!(matches!(
        Plugins::start(options),
        Err(PluginStartError::Cache { .. })
    ));
}

#[tokio::test]
async fn a_transform_answers_for_each_event() {
    use TransformFailure::{Reject, Retry};
    let rig = Rig::new(|_| {});
    let check = async |config: &str, expected: Result<Outcome, TransformFailure>| {
        let outcomes = rig
            .transformer(config)
            .await
            .expect("a transform")
            .apply(&events(5))
            .await;
        let mut all = vec![Ok(Outcome::Keep); 5];
        all[3] = expected;
        assert_eq!(outcomes, all, "{config}");
    };
    check("k", Ok(Outcome::Keep)).await;
    let replaced = OutputEvent {
        payload: Bytes::from_static(b"3"),
        ..OutputEvent::default()
    };
    check("o3", Ok(Outcome::Replace(replaced))).await;
    check("j3", Err(Reject("because".into()))).await;
    check("y3", Err(Retry("because".into()))).await;
    let refused = rig.transformer("e").await.map(drop);
    assert_eq!(refused, Err(ConfigureError::Refused("e".into())));
}

#[tokio::test]
async fn a_batch_ends_where_its_outputs_get_large() {
    let rig = Rig::new(|options| options.limits.output_bytes_max = 100_000);
    let all = events(3 * CALL_EVENTS_MAX as u64);
    let kept = rig.transformer("k").await.expect("a transform");
    assert_eq!(kept.apply(&all).await.len(), all.len());
    let replaced = rig.transformer("o").await.expect("a transform");
    let mut rounds = 0;
    let mut done = 0;
    while done < all.len() {
        let outcomes = replaced.apply(&all[done..]).await;
        assert!(!outcomes.is_empty() && outcomes.iter().all(Result::is_ok));
        done += outcomes.len();
        rounds += 1;
    }
    assert!(rounds > 1);
}

#[tokio::test]
async fn a_stopped_service_is_an_answer() {
    let rig = Rig::new(|_| {});
    let mut group = rig.group(&["a"]).await;
    let transformer = rig.transformer("k").await.expect("a transform");
    drop(rig);
    let evaluation = group.evaluate(&events(1), &keys(1)).await;
    assert_eq!(evaluation.undecided.len(), 1);
    assert_eq!(
        group.add(RuleKey(1), "a", "s").await,
        Err(ConfigureError::Stopped)
    );
    let outcomes = transformer.apply(&events(1)).await;
    assert!(matches!(
        outcomes[..],
        [Err(TransformFailure::Untried { .. })]
    ));
}

#[tokio::test]
async fn the_bundled_plugins_do_what_their_readmes_say() {
    let rig = Rig::new(|_| {});
    let mut loaded = Vec::new();
    for plugin in bundled::bundled() {
        let bytes = Bytes::from_static(plugin.bytes);
        loaded.push(
            rig.plugins
                .load(plugin.name, bytes)
                .await
                .expect(plugin.name),
        );
    }
    let [pattern, reshape] = loaded[..] else {
        panic!("two plugins are bundled")
    };
    let order = |total: u32, kind: &str| {
        let header = crate::domain::Header {
            name: "ce-type".into(),
            value: kind.into(),
        };
        let event = Event {
            headers: vec![header],
            payload: format!(r#"{{"total":{total},"card":"1234"}}"#).into(),
            ..Event::default()
        };
        InputEvent {
            bytes: event.encode_to_vec().into(),
            ..events(1).remove(0)
        }
    };
    let orders = [
        order(50, "created"),
        order(500, "created"),
        order(500, "paid"),
    ];

    let mut group = (rig.plugins.filter_group(&pattern.digest, "event-pattern@1"))
        .expect("event-pattern is a filter");
    let large = r#"{"$headers": {"ce-type": ["created"]}, "total": [{"numeric": [">", 100]}]}"#;
    (group.add(RuleKey(0), large, "s").await).expect("a pattern of payload and headers");
    let paid = r#"{"$headers": {"ce-type": ["paid"]}}"#;
    (group.add(RuleKey(1), paid, "s").await).expect("a pattern of headers");
    let nonsense = group.add(RuleKey(2), "{", "s").await;
    assert!(matches!(nonsense, Err(ConfigureError::Refused(_))));
    let evaluation = group.evaluate(&orders, &keys(3)).await;
    assert_eq!(of_rule(&evaluation, 0), (vec![1], vec![]));
    assert_eq!(of_rule(&evaluation, 1), (vec![2], vec![]));

    let config = r#"{"remove": ["/card"]}"#;
    let transformer = (rig
        .plugins
        .transformer(&reshape.digest, config, "json-reshape@1", "s")
        .await)
        .expect("json-reshape is a transform");
    let outcomes = transformer.apply(&orders[..1]).await;
    let [Ok(Outcome::Replace(output))] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(output.payload, r#"{"total":50}"#);
    assert_eq!(
        output.headers,
        [("ce-type".to_owned(), "created".to_owned())]
    );
}
