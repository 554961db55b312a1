//! Subscriptions and routes as the command line manages them: what an update leaves as it was, what is said of plugins that fail and of
//! dead letters that nobody keeps, and that all that is said to be typed can be.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::domain::{FailurePolicy, SubscriptionInfo};
use tidegate_client::{Client, Consumer, Event};
use tidegate_tests::{BrokerProcess, guest, wait_for};

use crate::support::{consume, next, numbered, publish, publish_events, run, take_numbers};

/// A guest of which each rule says how it misbehaves.
const MISBEHAVING: &str = "misbehaving_filter";
const TRAP: &str = r#"trap "n":2}"#;
const WELL: &str = r#"contains "n":"#;
/// A transform that rejects every event that is not JSON.
const PICK: &str = r#"json-reshape={"pick": ["/n"]}"#;
const UNKNOWN_OUTPUT: &str = r#"json-reshape={"output": "won"}"#;

// Uploads the misbehaving filter under this name, in two versions.
async fn upload_two(broker: &BrokerProcess, name: &str) -> anyhow::Result<()> {
    let mut bytes = guest(MISBEHAVING).await?;
    broker.admin().upload(name, bytes.clone()).await?;
    // A section that says nothing makes other bytes of the same program.
    bytes.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    broker.admin().upload(name, bytes).await?;
    Ok(())
}

async fn wait_log(
    broker: &BrokerProcess,
    command: [&str; 3],
    part: &str,
) -> anyhow::Result<String> {
    let said = wait_for(format!("{command:?} to say {part:?}"), async || {
        let (log, _) = run(broker, &command)?;
        Ok(log
            .lines()
            .find(|line| line.contains(part))
            .map(str::to_owned))
    });
    said.await
}

fn paused(info: &SubscriptionInfo) -> bool {
    info.paused.is_some()
}

#[tokio::test]
async fn what_a_paused_subscription_says_to_type_lets_it_go_on() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    upload_two(&broker, "p").await?;
    let pauses = json!([{"plugin": "p@1", "config": TRAP, "on_failure": "pause"}]);
    let spec = json!({"name": "s", "topics": ["t"], "filters": pauses});
    admin.create(spec).await?;
    publish(&broker.client().await?, "t", 1..=3).await?;
    let info = admin.wait_subscription("s", "to pause", paused).await?;
    let why = info.paused.unwrap_or_default();
    assert!(why.starts_with("filter failed at position 2: "), "{why}");
    let advice = "upload a version of p that takes the event, then `tidegate subscription update s --filter p`, then `tidegate subscription resume s`";
    // The event that it stands at is not evaluated, and waits all the same.
    admin
        .wait_subscription("s", "to tell how long its oldest event waits", |info| {
            info.unevaluated > 0 && info.oldest_unacked_ms.is_some_and(|age| age > 0)
        })
        .await?;

    let (shown, _) = run(&broker, &["subscription", "show", "s"])?;
    assert!(shown.contains("p@1 (on failure: pause) trap"), "{shown}");
    assert!(shown.contains(advice), "{shown}");
    let mut sub = broker.command_line(&["sub", "s", "--timeout", "10s"])?;
    let said = String::from_utf8(sub.stderr(Stdio::piped()).output()?.stderr)?;
    assert!(said.contains(advice), "{said}");
    let (listed, _) = run(&broker, &["subscription", "list"])?;
    assert!(listed.contains(" p@1 "), "{listed}");
    let row = listed
        .lines()
        .find(|line| line.starts_with("s "))
        .unwrap_or_default();
    assert!(row.ends_with('…'), "no more than a row has room for: {row}");
    let (wide, _) = run(&broker, &["subscription", "list", "-o", "wide"])?;
    assert!(wide.contains("told to trap on this event"), "{wide}");

    let (_, said) = run(&broker, &["subscription", "update", "s", "--filter", "p"])?;
    let resume = "tidegate subscription resume s";
    assert!(
        said.contains(&format!("note: s is paused; let it go on with: {resume}")),
        "{said}"
    );
    let stage = |info: &SubscriptionInfo| {
        let used = &info.spec.filters[0];
        (
            info.plugin_labels.clone(),
            used.config.clone(),
            used.on_failure,
        )
    };
    let newest = stage(&admin.subscription("s").await?);
    let expected = (
        vec!["p@2".to_owned()],
        TRAP.to_owned(),
        FailurePolicy::Pause,
    );
    assert_eq!(newest, expected, "as it was, but for the version");
    // It fails in this version too, and says so again.
    run(&broker, &["subscription", "resume", "s"])?;
    admin
        .wait_subscription("s", "to pause again", paused)
        .await?;

    let well = format!("p={WELL}");
    run(&broker, &["subscription", "update", "s", "--filter", &well])?;
    let (answer, _) = run(&broker, &["subscription", "resume", "s"])?;
    assert_eq!(answer.trim(), "resumed s");
    let client = broker.client().await?;
    take_numbers(&mut consume(&client, "s").await?, 1..=3).await?;
    let info = admin.wait_drained("s").await?;
    let expected = (
        vec!["p@2".to_owned()],
        WELL.to_owned(),
        FailurePolicy::Pause,
    );
    assert_eq!(stage(&info), expected);
    let (answer, _) = run(&broker, &["subscription", "resume", "s"])?;
    assert_eq!(answer.trim(), "s was not paused");
    Ok(())
}

#[tokio::test]
async fn an_update_says_what_its_lists_leave_out() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    upload_two(&broker, "p").await?;
    let two = json!([
        {"plugin": "event-pattern", "config": r#"{"n": [1]}"#, "on_failure": "drop"},
        {"plugin": "p", "config": WELL, "on_failure": "pass"},
    ]);
    let outputs = json!({"a": "out.a", "b": "out.b"});
    let route = json!({"name": "r", "topics": ["t"], "filters": two, "outputs": outputs});
    admin.create(route).await?;
    let update = ["route", "update", "r", "--filter", "p@1", "--to", "a=out.c"];
    let (_, said) = run(&broker, &update)?;
    for gone in ["filter event-pattern", "output b"] {
        assert!(
            said.contains(&format!("note: its {gone} is gone")),
            "{said}"
        );
    }
    let info = admin.subscription("r").await?;
    let [only] = &info.spec.filters[..] else {
        panic!("{info:?}");
    };
    assert_eq!(
        (&*only.config, only.on_failure),
        (WELL, FailurePolicy::Pass)
    );
    assert_eq!(info.plugin_labels, ["p@1"]);
    // By its digest, and from it by its name.
    let digest = admin.upload("p", guest(MISBEHAVING).await?).await?.digest;
    for named in [digest.to_string(), "p".to_owned()] {
        let (_, said) = run(&broker, &["route", "update", "r", "--filter", &named])?;
        assert!(!said.contains("is gone"), "{said}");
        let info = admin.subscription("r").await?;
        let used = &info.spec.filters[0];
        assert_eq!(
            (&*used.config, used.on_failure),
            (WELL, FailurePolicy::Pass),
            "{named}"
        );
    }
    Ok(())
}

async fn publish_bad(client: &Client, topic: &str) -> anyhow::Result<()> {
    publish_events(client, topic, [Event::new("not JSON")]).await?;
    Ok(())
}

// Each as often as there are attempts, until something fails.
async fn nack_events(client: &Client, consumer: &mut Consumer) -> anyhow::Result<()> {
    loop {
        publish_events(client, "t", [numbered(1)]).await?;
        for _ in 0..2 {
            next(consumer).await?.nack(Some(Duration::ZERO));
        }
    }
}

#[tokio::test]
async fn dead_letters_that_nobody_keeps_are_told_of_until_somebody_does() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let create = [
        "subscription",
        "create",
        "o",
        "--topic",
        "t",
        "--transform",
        PICK,
    ];
    let (_, note) = run(&broker, &create)?;
    let keep = "tidegate subscription create dead.o --topic dead.o --attempts 0";
    assert!(
        note.contains(&format!(
            "since no subscription is for dead.o; to keep them: {keep}"
        )),
        "{note}"
    );
    let (shown, _) = run(&broker, &["subscription", "show", "o"])?;
    assert!(shown.contains(keep), "{shown}");
    let all: Value =
        serde_json::from_str(&run(&broker, &["subscription", "list", "-o", "json"])?.0)?;
    assert_eq!(all[0].get("letters_kept"), None, "nobody looks in lists");

    publish_bad(&client, "t").await?;
    let mut consumer = consume(&client, "o").await?;
    let command = ["subscription", "log", "o"];
    let line = wait_log(&broker, command, "was given up").await?;
    for part in [
        "position 1 of t ",
        "to dead.o, and is not kept",
        "refused by the transform",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    wait_for("the log to say the same", async || {
        let said = broker.log().contains("its dead letter is not kept");
        Ok(said.then_some(()))
    })
    .await?;

    // What was said to be typed.
    let typed: Vec<&str> = keep.split(' ').skip(1).collect();
    let (_, note) = run(&broker, &typed)?;
    assert_eq!(note, "", "it gives up nothing by itself");
    let (shown, _) = run(&broker, &["subscription", "show", "o"])?;
    assert!(!shown.contains("not kept"), "{shown}");
    let (_, note) = run(&broker, &["subscription", "update", "o", "--attempts", "2"])?;
    assert_eq!(note, "");
    publish_bad(&client, "t").await?;
    let letter = next(&mut consume(&client, "dead.o").await?).await?;
    assert_eq!(&letter.event().payload[..], b"not JSON");
    // Of what happens to many events a line is said once a second.
    wait_for("a letter to be told of that is kept", async || {
        publish_bad(&client, "t").await?;
        let (log, _) = run(&broker, &command)?;
        let kept = |line: &str| line.contains("was given up") && !line.contains("not kept");
        Ok(log.lines().any(kept).then_some(()))
    })
    .await?;
    // Attempts that are used up are told as well.
    let nacking = nack_events(&client, &mut consumer);
    let told = wait_log(&broker, command, "after 2 attempts");
    let line = tokio::select! {
        failed = nacking => return failed,
        line = told => line?,
    };
    assert!(line.contains("handed out as often"), "{line}");
    let (_, note) = run(
        &broker,
        &["subscription", "update", "o", "--dead-letter", "graves"],
    )?;
    assert!(note.contains("--topic graves --attempts 0"), "{note}");
    Ok(())
}

#[tokio::test]
async fn routes_are_paused_resumed_and_looked_at_by_their_own_commands() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let create = [
        "route",
        "create",
        "r",
        "--from",
        "t",
        "--to",
        "out=u",
        "--transform",
        UNKNOWN_OUTPUT,
    ];
    let (_, note) = run(&broker, &create)?;
    assert!(
        note.contains("tidegate subscription create dead.r --topic dead.r"),
        "{note}"
    );
    let (shown, _) = run(&broker, &["route", "show", "r"])?;
    assert!(
        !shown.contains("attach"),
        "nobody attaches to a route: {shown}"
    );
    let (paused, _) = run(&broker, &["route", "pause", "r", "--reason", "look"])?;
    assert!(paused.contains("tidegate route resume r"), "{paused}");
    publish(&broker.client().await?, "t", 0..1).await?;
    assert_eq!(broker.admin().subscription("r").await?.dead_lettered, 0);
    let (resumed, _) = run(&broker, &["route", "resume", "r"])?;
    assert_eq!(resumed.trim(), "resumed r");
    let line = wait_log(&broker, ["route", "log", "r"], "was given up").await?;
    assert!(
        line.contains("output `won` is not one of this route's: out"),
        "{line}"
    );
    // As before.
    run(&broker, &["subscription", "pause", "r"])?;
    run(&broker, &["subscription", "resume", "r"])?;
    Ok(())
}

#[tokio::test]
async fn all_who_use_a_plugin_are_named_and_nobody_else() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    upload_two(&broker, "p").await?;
    // The same bytes under another name.
    admin.upload("same", guest(MISBEHAVING).await?).await?;
    for (name, plugin) in [("a", "p@1"), ("b", "p@1"), ("c", "same"), ("d", "p@2")] {
        let filters = json!([{"plugin": plugin, "config": WELL}]);
        admin
            .create(json!({"name": name, "topics": ["t"], "filters": filters}))
            .await?;
    }
    let refused = async |plugin: &str| -> anyhow::Result<String> {
        let refusal = admin.try_delete_plugin(plugin).await?;
        Ok(refusal.expect_err("in use").text)
    };
    let message = refused("p@1").await?;
    assert!(message.contains("in use by a, b; "), "{message}");
    let message = refused("same").await?;
    assert!(message.contains("in use by c; "), "{message}");
    let deleted = run(&broker, &["subscription", "delete", "a", "b"])?.0;
    assert_eq!(deleted, "deleted subscription a\ndeleted subscription b\n");
    // Not by who uses these bytes under the other name.
    wait_for("the version to go", async || {
        match admin.try_delete_plugin("p@1").await? {
            Ok(()) => Ok(Some(())),
            // Until a checkpoint nobody would ask for it again.
            Err(refusal) if refusal.text.contains("until lately") => Ok(None),
            Err(refusal) => panic!("{refusal:?}"),
        }
    })
    .await?;
    let client = broker.client().await?;
    publish(&client, "t", 0..3).await?;
    take_numbers(&mut consume(&client, "c").await?, 0..3).await?;
    Ok(())
}

#[tokio::test]
async fn one_name_that_is_wrong_deletes_none_of_the_others() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    for name in ["a", "b"] {
        broker
            .admin()
            .create(json!({"name": name, "topics": ["t"]}))
            .await?;
    }
    let mut command = broker.command_line(&["subscription", "delete", "a", "x", "b"])?;
    assert!(!command.output()?.status.success());
    assert_eq!(broker.admin().subscriptions().await?.len(), 2);
    let (answer, _) = run(&broker, &["subscription", "delete", "a", "b", "-o", "json"])?;
    let answer: Value = serde_json::from_str(&answer)?;
    let gone = |name: &str| json!({"deleted": name, "pending": 0});
    assert_eq!(answer, json!([gone("a"), gone("b")]));
    Ok(())
}
