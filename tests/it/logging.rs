//! What a broker says, and that it never waits for whoever reads it.

use std::io::Read;
use std::process::ChildStderr;

use anyhow::Context;
use serde_json::json;
use tidegate_tests::{BrokerProcess, Setup, wait_for};

use crate::support::{consume, publish, take_numbers};

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
