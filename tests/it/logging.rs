//! What a broker says, by which fields it is found, and that it never waits for whoever reads it.

use std::io::Read;
use std::process::ChildStderr;

use anyhow::Context;
use serde_json::{Value, json};
use tidegate_client::ConsumerOptions;
use tidegate_tests::{BrokerProcess, Setup, guest, wait_for};

use crate::support::{consume, publish, take_numbers};

// Waits for a line that says this, with these fields.
async fn wait_line(
    broker: &BrokerProcess,
    message: &str,
    fields: &[(&str, &str)],
) -> anyhow::Result<()> {
    let is_it = |line: &Value| {
        let has = |(name, value): &(&str, &str)| line[name] == *value;
        let said = line["message"].as_str();
        said.is_some_and(|said| said.starts_with(message)) && fields.iter().all(has)
    };
    let waited = wait_for(format!("`{message}` with {fields:?}"), async || {
        let log = broker.log();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(lines.any(|line: Value| is_it(&line)).then_some(()))
    });
    waited
        .await
        .with_context(|| format!("the log: {}", broker.log()))
}

#[tokio::test]
async fn what_fails_is_found_by_subscription_topic_plugin_and_principal() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::config("[log]\nformat = \"json\"\n")).await?;
    let admin = broker.admin();
    admin
        .upload("f", guest("misbehaving_filter").await?)
        .await?;
    admin
        .upload("t", guest("misbehaving_transform").await?)
        .await?;
    let uploaded = [("plugin", "t"), ("principal", "local")];
    wait_line(&broker, "plugin uploaded", &uploaded).await?;
    let uses = |plugin: &str, config: &str| json!([{"plugin": plugin, "config": config}]);
    let specs = [
        json!({"name": "sound", "topics": ["a"], "filters": uses("f", "contains")}),
        json!({"name": "filtered", "topics": ["a"], "filters": uses("f", "trap")}),
        json!({"name": "transformed", "topics": ["b"], "transforms": uses("t", "trap")}),
        json!({
            "name": "routed",
            "topics": ["c"],
            "transforms": uses("t", "trap"),
            "outputs": {"out": "d"},
        }),
    ];
    for spec in specs {
        admin.create(spec).await?;
    }
    let client = broker.client().await?;
    for topic in ["a", "b", "c"] {
        // As many as make a plugin that fails on each pause.
        publish(&client, topic, 0..400).await?;
    }
    let _consumer = consume(&client, "transformed").await?;
    let nobody = client.subscribe("nobody", ConsumerOptions::default()).await;
    assert!(nobody.is_err(), "there is none");

    let of = |subscription, topic, plugin| {
        [
            ("subscription", subscription),
            ("topic", topic),
            ("plugin", plugin),
        ]
    };
    let filtered = of("filtered", "a", "f@1");
    wait_line(&broker, "a filter failed", &filtered).await?;
    let [subscription, _, plugin] = filtered;
    wait_line(&broker, "a call of a filter", &[plugin]).await?;
    for message in ["a rule failed", "a rule keeps failing"] {
        wait_line(&broker, message, &[subscription, plugin]).await?;
    }
    for failed in [of("transformed", "b", "t@1"), of("routed", "c", "t@1")] {
        let [subscription, topic, plugin] = failed;
        wait_line(&broker, "a transform failed", &failed).await?;
        wait_line(&broker, "a transform plugin keeps", &[subscription, plugin]).await?;
        wait_line(&broker, "event given up", &[subscription, topic]).await?;
    }
    let refused = [
        ("subscription", "nobody"),
        ("principal", "uri:spiffe://tidegate.test/everybody"),
    ];
    wait_line(&broker, "refused", &refused).await
}

// A broker that says much, to nobody. Its pipe is full, and so is its queue.
async fn talking_to_nobody() -> anyhow::Result<(BrokerProcess, ChildStderr)> {
    let mut broker = BrokerProcess::start_with(Setup {
        piped_stderr: true,
        ..Setup::config("[log]\nlevel = \"trace\"\n")
    })
    .await?;
    let stderr = broker.take_stderr().context("a pipe")?;
    wait_for("lines to be dropped", async || {
        publish(&broker.client().await?, "noise", 0..100).await?;
        let dropped = broker
            .admin()
            .metric("tidegate_log_lines_dropped_total")
            .await?;
        Ok((dropped > 0.0).then_some(()))
    })
    .await?;
    Ok((broker, stderr))
}

#[tokio::test]
async fn a_broker_whose_log_nobody_reads_works_and_stops() -> anyhow::Result<()> {
    let (mut broker, unread) = talking_to_nobody().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    for round in 0..20 {
        let client = broker.client().await?;
        publish(&client, "t", round * 10..(round + 1) * 10).await?;
    }
    let client = broker.client().await?;
    take_numbers(&mut consume(&client, "s").await?, 0..200).await?;
    assert!(broker.admin().is_ready().await);
    let status = broker.stop().await?;
    assert!(status.success(), "{status}");
    drop(unread);
    Ok(())
}

#[tokio::test]
async fn what_was_dropped_is_said_once_somebody_reads_and_last_lines_come_out() -> anyhow::Result<()>
{
    let (mut broker, mut stderr) = talking_to_nobody().await?;
    let read = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text)
    });
    broker.stop().await?;
    let text = String::from_utf8(read.await??)?;
    assert!(text.contains("log lines were dropped"));
    assert!(text.lines().any(|line| line.ends_with(" stopped")));
    Ok(())
}
