//! SIGHUP: the policy is read again while the broker runs, all of it or nothing.

use std::fs;
use std::process::Command;

use anyhow::ensure;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tidegate_client::{PublishError, PublisherOptions, SubscribeError};
use tidegate_tests::{BrokerProcess, Setup, wait_for, within};
use tidegate_wire::pb::ErrorCode;

use crate::support::{consume, numbered, publish, take_numbers};

const LOCAL: &str = r#"
[[policy.grants]]
principals = ["local"]
publish = [">"]
subscribe = [">"]
admin = [">"]
"#;

const MAKER: &str = r#"
[[policy.grants]]
principals = ["uri:spiffe://tidegate.test/maker"]
publish = [">"]
subscribe = [">"]
"#;

#[tokio::test]
async fn a_policy_that_is_read_again_ends_and_allows_what_runs() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::grants(format!("{LOCAL}{MAKER}"))).await?;
    let admin = broker.admin();
    let owner = "uri:spiffe://tidegate.test/maker";
    admin.create(json!({"name": "s", "topics": ["in"]})).await?;
    admin
        .create(
            json!({"name": "copy", "topics": ["in"], "outputs": {"out": "copies"}, "owner": owner}),
        )
        .await?;
    let maker = broker.client_as(&broker.pki.client("maker")?).await?;
    let mut consumer = consume(&maker, "s").await?;
    publish(&maker, "in", [1]).await?;
    take_numbers(&mut consumer, [1]).await?;
    admin.wait_drained("copy").await?;
    let publisher = maker.publisher(PublisherOptions::default()).await?;
    publisher.publish("in", numbered(2)).await?;
    take_numbers(&mut consumer, [2]).await?;
    admin.wait_drained("copy").await?;

    // A file with a fault changes nothing, and is told of.
    let stale = "tidegate_condition{condition=\"policy_stale\"} 1";
    let told = async |wanted: bool| {
        wait_for("the policy to be told stale or not", async || {
            let told = admin.metrics().await?.contains(stale);
            Ok((told == wanted).then_some(()))
        })
        .await
    };
    broker.set_grants(format!("{LOCAL}[no_such_section]\nkey = 1\n"));
    broker.hang_up()?;
    told(true).await?;
    assert!(admin.is_ready().await, "it goes on");
    publisher.publish("in", numbered(3)).await?;
    take_numbers(&mut consumer, [3]).await?;
    admin.wait_drained("copy").await?;

    // Without its grant, everything of the maker's ends or stops.
    broker.set_grants(LOCAL);
    broker.hang_up()?;
    told(false).await?;
    let ended = within("the end of the consumer", async {
        Ok(consumer.next().await)
    })
    .await?;
    assert!(
        matches!(&ended, Some(Err(SubscribeError::Refused(refusal))) if refusal.code == ErrorCode::PermissionDenied),
        "{ended:?}"
    );
    let refused = within("a refusal", async {
        Ok(publisher.publish("in", numbered(4)).await)
    });
    let refused = refused.await?;
    assert!(
        matches!(&refused, Err(PublishError::Refused(refusal)) if refusal.code == ErrorCode::PermissionDenied),
        "{refused:?}"
    );
    admin
        .wait_subscription("copy", "to stop", |info| info.stopped.is_some())
        .await?;

    // And comes back with it, with nothing lost or doubled.
    broker.set_grants(format!("{LOCAL}{MAKER}"));
    broker.hang_up()?;
    admin
        .wait_subscription("copy", "to go on", |info| info.stopped.is_none())
        .await?;
    publish(&maker, "in", [5]).await?;
    take_numbers(&mut consume(&maker, "s").await?, [5]).await?;
    admin.wait_drained("copy").await?;
    broker.stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_file_without_an_end_keeps_neither_a_later_one_nor_the_end_back() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::grants(LOCAL)).await?;
    let admin = broker.admin();
    let told = async |wanted: bool| {
        wait_for("the policy to be told stale or not", async || {
            let told = admin.metrics().await?;
            let told = told.contains("tidegate_condition{condition=\"policy_stale\"} 1");
            Ok((told == wanted).then_some(()))
        })
        .await
    };
    let file = broker.directory().join("tidegate.toml");
    let pid = broker
        .pid()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.expect("it runs");
    // Nobody writes to it, so whoever opens it to read would wait for ever.
    let to_pipe = || -> anyhow::Result<()> {
        fs::remove_file(&file)?;
        ensure!(Command::new("mkfifo").arg(&file).status()?.success());
        Ok(kill_process(pid, Signal::HUP)?)
    };
    to_pipe()?;
    told(true).await?;
    assert!(
        broker
            .log()
            .contains("a pipe, and has to be a regular file")
    );
    fs::remove_file(&file)?;
    broker.hang_up()?;
    told(false).await?;
    to_pipe()?;
    told(true).await?;
    assert!(broker.stop().await?.success());
    Ok(())
}
