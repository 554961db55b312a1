//! Filters in WASM: the bundled one by name, uploaded ones, and guests that misbehave in every way, each at the
//! cost of its own subscription only.

use serde_json::{Value, json};
use tidegate_client::Event;
use tidegate_tests::{BrokerProcess, Setup, guest};

use crate::support::{
    consume, header_values, next, number_of, numbers, publish, publish_events, take, take_numbers,
};

/// The guest whose rules misbehave as their configuration says.
const MISBEHAVING: &str = "misbehaving_filter";
/// Configuration of a rule of it that behaves, and wants everything.
const GOOD: &str = "contains";
/// Configuration of a rule that traps on the event with the number [`MARKED`], and wants all others.
const TRAP_ON_MARKED: &str = r#"trap "n":23}"#;
/// Number of the event that it traps on.
const MARKED: u64 = 23;
/// Deadlines short enough that a guest that loops is noticed soon.
const SHORT_DEADLINES: &str = "[plugins]\ndeadline_base_ms = 100\ndeadline_pair_us = 100\n";

fn filtered(name: &str, plugin: &str, config: &str) -> Value {
    json!({
        "name": name,
        "topics": ["t"],
        "filters": [{"plugin": plugin, "config": config}],
    })
}

#[tokio::test]
async fn event_patterns_choose_by_payload_and_header() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let patterns = [
        (
            "dear",
            r#"{"price": [{"numeric": [">=", 100]}]}"#,
            vec![2, 3],
        ),
        ("book", r#"{"kind": ["book"]}"#, vec![1, 3]),
        (
            "not-book",
            r#"{"kind": [{"anything-but": ["book"]}]}"#,
            vec![2, 4],
        ),
        (
            "either",
            r#"{"$or": [{"price": [1]}, {"kind": [{"prefix": "ca"}]}]}"#,
            vec![1, 2],
        ),
        ("nested", r#"{"to": {"country": ["de"]}}"#, vec![4]),
    ];
    for (name, pattern, _) in &patterns {
        broker
            .admin()
            .create(filtered(name, "event-pattern", pattern))
            .await?;
    }
    broker
        .admin()
        .create(json!({"name": "all", "topics": ["t"]}))
        .await?;
    let events = [
        r#"{"n":1,"price":1,"kind":"book"}"#,
        r#"{"n":2,"price":100,"kind":"car"}"#,
        r#"{"n":3,"price":250.5,"kind":"book"}"#,
        r#"{"n":4,"kind":"pen","to":{"country":"de"}}"#,
    ];
    publish_events(&client, "t", events.map(Event::json)).await?;
    for (name, pattern, expected) in &patterns {
        let deliveries = take(&mut consume(&client, name).await?, expected.len()).await?;
        assert_eq!(&numbers(&deliveries)?, expected, "{pattern}");
        let info = broker
            .admin()
            .wait_subscription(name, "to be evaluated", |s| s.unevaluated == 0)
            .await?;
        assert_eq!(info.depth, expected.len() as u64, "{pattern}");
    }
    take_numbers(&mut consume(&client, "all").await?, 1..=4).await?;
    Ok(())
}

#[tokio::test]
async fn a_filter_that_was_created_survives_a_restart() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let odd = r#"{"n": [1, 3, 5, 7]}"#;
    broker
        .admin()
        .create(filtered("odd", "event-pattern", odd))
        .await?;
    publish(&broker.client().await?, "t", 0..4).await?;
    broker.kill()?;
    broker.restart().await?;
    let client = broker.client().await?;
    publish(&client, "t", 4..8).await?;
    let deliveries = take(&mut consume(&client, "odd").await?, 4).await?;
    assert_eq!(numbers(&deliveries)?, [1, 3, 5, 7]);
    let info = broker
        .admin()
        .wait_subscription("odd", "to be evaluated", |s| s.unevaluated == 0)
        .await?;
    assert_eq!(info.depth, 4);
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_the_guests_words() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let cases = [
        (r#"{"price": [{"numerical": [">", 1]}]}"#, "numerical"),
        (r#"{"price": 1}"#, "price"),
        ("not json", ""),
    ];
    for (pattern, named) in cases {
        let spec = filtered("s", "event-pattern", pattern);
        let refusal = broker.admin().try_create(spec).await?.expect_err(pattern);
        assert!(
            [400, 422].contains(&refusal.status),
            "{pattern}: {refusal:?}"
        );
        assert!(refusal.text.contains(named), "{pattern}: {refusal:?}");
    }
    let unknown = filtered("s", "no-such-plugin", "");
    let refusal = broker
        .admin()
        .try_create(unknown)
        .await?
        .expect_err("no such plugin");
    assert!(refusal.text.contains("no-such-plugin"), "{refusal:?}");
    assert!(
        broker.admin().subscriptions().await?.is_empty(),
        "nothing was created"
    );
    Ok(())
}

#[tokio::test]
async fn an_upload_that_is_no_filter_is_refused_with_what_is_wrong() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let cases = [
        ("no WebAssembly", b"hello".to_vec(), "component"),
        ("a core module", wat::parse_str("(module)")?, "component"),
        (
            "an empty component",
            wat::parse_str("(component)")?,
            "filter",
        ),
        (
            "an import that no plugin may have",
            guest("forbidden_import").await?,
            "example:forbidden/secrets",
        ),
    ];
    for (what, bytes, named) in cases {
        let refusal = broker
            .admin()
            .try_upload("bad", bytes)
            .await?
            .expect_err(what);
        assert!([400, 422].contains(&refusal.status), "{what}: {refusal:?}");
        assert!(refusal.text.contains(named), "{what}: {refusal:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_uploaded_filter_works_and_keeps_its_versions() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let bytes = guest(MISBEHAVING).await?;
    let first = broker.admin().upload("mine", bytes.clone()).await?;
    assert_eq!((first.version, first.bundled), (1, false));
    let again = broker.admin().upload("mine", bytes).await?;
    assert_eq!(
        (again.version, again.digest),
        (1, first.digest),
        "the same bytes are the same version"
    );
    broker.admin().create(filtered("s", "mine", GOOD)).await?;
    publish(&client, "t", 0..10).await?;
    take_numbers(&mut consume(&client, "s").await?, 0..10).await?;
    let refusal = broker
        .admin()
        .try_create(filtered("bad", "mine", "no such mode"))
        .await?;
    assert!(refusal.is_err(), "the guest refuses it");
    Ok(())
}

#[tokio::test]
async fn a_damaged_plugin_file_is_told_and_mended_by_the_same_bytes() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let bytes = guest(MISBEHAVING).await?;
    broker.admin().upload("mine", bytes.clone()).await?;
    broker.admin().create(filtered("s", "mine", GOOD)).await?;
    broker.stop().await?;
    let mut damaged = 0;
    for file in std::fs::read_dir(broker.data_directory().join("plugins"))? {
        let path = file?.path();
        let mut content = std::fs::read(&path)?;
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&path, content)?;
        damaged += 1;
    }
    assert!(damaged > 1, "the bundled ones as well");
    broker.restart().await?;
    let broken = "tidegate_condition{condition=\"plugin_broken\",subject=\"";
    let told = broker.admin().metrics().await?;
    assert!(told.contains(&format!("{broken}mine@1\"}} 1")), "{told}");
    assert_eq!(told.matches(broken).count(), 1, "the bundled are mended");
    broker.admin().upload("mine", bytes.clone()).await?;
    assert!(!broker.admin().metrics().await?.contains(broken));
    broker.admin().resume("s").await?;
    let client = broker.client().await?;
    publish(&client, "t", 0..10).await?;
    take_numbers(&mut consume(&client, "s").await?, 0..10).await?;
    broker.stop().await?;
    broker.restart().await?;
    assert!(!broker.admin().metrics().await?.contains(broken));
    Ok(())
}

#[tokio::test]
async fn a_rule_that_loops_for_ever_fails_alone() -> anyhow::Result<()> {
    fails_alone("loop").await
}

#[tokio::test]
async fn a_rule_that_allocates_without_end_fails_alone() -> anyhow::Result<()> {
    fails_alone("allocate").await
}

#[tokio::test]
async fn a_rule_that_traps_fails_alone() -> anyhow::Result<()> {
    fails_alone("trap").await
}

#[tokio::test]
async fn a_rule_with_nonsense_answers_fails_alone() -> anyhow::Result<()> {
    fails_alone("nonsense-rule").await?;
    fails_alone("nonsense-event").await?;
    fails_alone("twice").await
}

#[tokio::test]
async fn a_rule_that_answers_without_end_fails_alone() -> anyhow::Result<()> {
    fails_alone("flood").await
}

#[tokio::test]
async fn a_plugin_that_fails_while_it_is_configured_refuses_the_subscription() -> anyhow::Result<()>
{
    let broker = BrokerProcess::start_with(Setup::config(SHORT_DEADLINES)).await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    broker.admin().create(filtered("good", "p", GOOD)).await?;
    for mode in ["configure-trap", "configure-loop"] {
        let refused = broker
            .admin()
            .try_create(filtered("bad", "p", mode))
            .await?;
        assert!(refused.is_err(), "{mode}");
    }
    let client = broker.client().await?;
    publish(&client, "t", 0..10).await?;
    take_numbers(&mut consume(&client, "good").await?, 0..10)
        .await
        .map(drop)
}

// One subscription whose rule misbehaves beside three whose rules, of the same plugin, do not, and one without a
// filter: all events of the first are dead letters, and the others get everything.
async fn fails_alone(mode: &str) -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::config(SHORT_DEADLINES)).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    broker.admin().create(filtered("guilty", "p", mode)).await?;
    for name in ["good-1", "good-2", "good-3"] {
        broker.admin().create(filtered(name, "p", GOOD)).await?;
    }
    broker
        .admin()
        .create(json!({"name": "plain", "topics": ["t"]}))
        .await?;
    broker
        .admin()
        .create(json!({"name": "dead", "topics": ["dead.guilty"]}))
        .await?;
    publish(&client, "t", 0..20).await?;
    for name in ["good-1", "good-2", "good-3", "plain"] {
        take_numbers(&mut consume(&client, name).await?, 0..20).await?;
        broker.admin().wait_drained(name).await?;
    }
    let mut dead = consume(&client, "dead").await?;
    let letter = next(&mut dead).await?;
    assert!(
        header_values(&letter).contains("p"),
        "names the plugin: {}",
        header_values(&letter)
    );
    let mut found = vec![number_of(&letter)?];
    for letter in take(&mut dead, 19).await? {
        found.push(number_of(&letter)?);
    }
    found.sort_unstable();
    assert_eq!(found, (0..20).collect::<Vec<_>>());
    let info = broker.admin().wait_drained("guilty").await?;
    assert_eq!(info.dead_lettered, 20);
    Ok(())
}

#[tokio::test]
async fn one_event_that_traps_is_the_only_one_that_fails() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    broker
        .admin()
        .create(filtered("guilty", "p", TRAP_ON_MARKED))
        .await?;
    broker.admin().create(filtered("good", "p", GOOD)).await?;
    broker
        .admin()
        .create(json!({"name": "dead", "topics": ["dead.guilty"]}))
        .await?;
    publish(&client, "t", 0..50).await?;
    take_numbers(&mut consume(&client, "good").await?, 0..50).await?;
    let unmarked = (0..50).filter(|n| *n != MARKED);
    take_numbers(&mut consume(&client, "guilty").await?, unmarked).await?;
    assert_eq!(
        number_of(&next(&mut consume(&client, "dead").await?).await?)?,
        MARKED
    );
    let info = broker.admin().wait_drained("guilty").await?;
    assert_eq!(info.dead_lettered, 1);
    Ok(())
}

#[tokio::test]
async fn the_policy_decides_what_becomes_of_an_event_that_fails() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    for policy in ["drop", "pass", "pause"] {
        let spec = json!({
            "name": policy,
            "topics": ["t"],
            "filters": [{"plugin": "p", "config": TRAP_ON_MARKED, "on_failure": policy}],
        });
        broker.admin().create(spec).await?;
    }
    publish(&client, "t", 0..50).await?;
    take_numbers(
        &mut consume(&client, "drop").await?,
        (0..50).filter(|n| *n != MARKED),
    )
    .await?;
    let dropped = broker.admin().wait_drained("drop").await?;
    assert_eq!(dropped.dead_lettered, 0);
    take_numbers(&mut consume(&client, "pass").await?, 0..50).await?;
    broker.admin().wait_drained("pass").await?;
    let paused = broker
        .admin()
        .wait_subscription("pause", "to pause", |s| s.paused.is_some())
        .await?;
    assert!(
        paused.depth + paused.unevaluated >= 50 - MARKED,
        "nothing is lost: {paused:?}"
    );
    // In the author's words: which, where, for whom, on what, how, and what now.
    let why = paused.paused.unwrap_or_default();
    for part in [
        "plugin p@1 failed in `evaluate` for pause on event #",
        " of t: ",
        "told to trap on this event",
        "misbehaving_filter",
        "upload one that takes it",
    ] {
        assert!(why.contains(part), "{part:?} is not in {why}");
    }
    Ok(())
}

#[tokio::test]
async fn one_guilty_rule_among_a_thousand_good_ones() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    broker
        .admin()
        .create(filtered("guilty", "p", "trap"))
        .await?;
    for index in 0..1_000 {
        broker
            .admin()
            .create(filtered(&format!("good-{index}"), "p", GOOD))
            .await?;
    }
    // The second time there are more events than fit into a call, and more matches than fit into a step.
    for numbers in [0..10, 10..3_000] {
        let published = numbers.end;
        publish(&client, "t", numbers).await?;
        for info in broker.admin().subscriptions().await? {
            let name = info.spec.name.as_str().to_owned();
            let expected = if name == "guilty" { 0 } else { published };
            broker
                .admin()
                .wait_subscription(&name, "to have its events", |s| {
                    s.depth == expected && s.unevaluated == 0
                })
                .await?;
        }
        let guilty = broker.admin().subscription("guilty").await?;
        assert_eq!(guilty.dead_lettered, published);
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_plugin_delays_only_its_own_subscriptions() -> anyhow::Result<()> {
    let config = "[plugins]\ndeadline_base_ms = 10_000\ndeadline_pair_us = 100_000\n";
    let broker = BrokerProcess::start_with(Setup::config(config)).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("slow", guest(MISBEHAVING).await?)
        .await?;
    broker
        .admin()
        .create(filtered("slow", "slow", "burn"))
        .await?;
    broker
        .admin()
        .create(filtered(
            "fast",
            "event-pattern",
            r#"{"n": [{"exists": true}]}"#,
        ))
        .await?;
    let mut fast = consume(&client, "fast").await?;
    publish(&client, "t", 0..2_000).await?;
    take_numbers(&mut fast, 0..2_000).await?;
    broker.admin().wait_drained("fast").await?;
    take_numbers(&mut consume(&client, "slow").await?, 0..2_000).await?;
    broker.admin().wait_drained("slow").await?;
    Ok(())
}

// Payloads of which every second one is marked.
fn good_and_poison(count: u64) -> Vec<Event> {
    let event = |n: u64| match n.is_multiple_of(2) {
        true => Event::json(format!(r#"{{"n":{n}}}"#)),
        false => Event::json(format!(r#"{{"n":{n},"poison":true}}"#)),
    };
    (0..count).map(event).collect()
}

#[tokio::test]
async fn good_events_between_poison_pass_whatever_the_policy() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    for policy in ["drop", "dead-letter"] {
        let spec = json!({
            "name": policy,
            "topics": ["t"],
            "filters": [{"plugin": "p", "config": "trap poison", "on_failure": policy}],
        });
        broker.admin().create(spec).await?;
    }
    publish_events(&client, "t", good_and_poison(400)).await?;
    for (policy, letters) in [("drop", 0), ("dead-letter", 200)] {
        let good = (0..400).filter(|n: &u64| n.is_multiple_of(2));
        take_numbers(&mut consume(&client, policy).await?, good).await?;
        let info = broker.admin().wait_drained(policy).await?;
        assert_eq!(info.dead_lettered, letters, "{policy}");
    }
    Ok(())
}

#[tokio::test]
async fn a_sound_rule_does_not_pay_for_seven_that_fail() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest(MISBEHAVING).await?)
        .await?;
    broker.admin().create(filtered("sound", "p", GOOD)).await?;
    for index in 0..7 {
        let name = format!("bad-{index}");
        broker.admin().create(filtered(&name, "p", "trap")).await?;
    }
    publish(&client, "t", 0..300).await?;
    take_numbers(&mut consume(&client, "sound").await?, 0..300).await?;
    let info = broker.admin().wait_drained("sound").await?;
    assert_eq!(info.dead_lettered, 0);
    // Each of the others fails on its own account.
    for index in 0..7 {
        let name = format!("bad-{index}");
        broker
            .admin()
            .wait_subscription(&name, "to have tried everything", |s| {
                s.dead_lettered == 300 && s.unevaluated == 0
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_filter_may_look_at_clocks_while_it_allocates() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("curious", guest(MISBEHAVING).await?)
        .await?;
    broker
        .admin()
        .create(filtered("s", "curious", "curious"))
        .await?;
    publish(&client, "t", 0..20).await?;
    take_numbers(&mut consume(&client, "s").await?, 0..20).await?;
    Ok(())
}
