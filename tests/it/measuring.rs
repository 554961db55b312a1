//! What a client and its broker say of the connection between them, over real sockets.

use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

use anyhow::Context;
use serde_json::Value;
use tidegate_tests::{BrokerProcess, Setup, within};

use crate::support::publish;

#[tokio::test]
async fn both_ends_report_what_they_counted() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let mut meter = within("a meter", async { Ok(client.meter().await?) }).await?;
    let first = within("a report", async { Ok(meter.report().await?) }).await?;
    let here = first.here.peer_address.map(|address| address.to_string());
    assert_eq!(here.as_deref(), Some(broker.quic_addr()));
    let there = first.broker.peer_address.expect("the broker sees a socket");
    assert!(there.ip().is_loopback(), "{there}");
    publish(&client, "in", 1..=200).await?;
    let second = within("a report", async { Ok(meter.report().await?) }).await?;
    let since = second.since(&first);
    // How many datagrams and answers 200 events take, is not promised; that they went over this connection, and were answered, is.
    assert!(since.here.bytes_sent > 1_000, "{since:?}");
    assert!(since.broker.bytes_received > 1_000, "{since:?}");
    assert!(since.broker.bytes_sent > 0, "{since:?}");
    assert!(since.here.bytes_received > 0, "{since:?}");
    for end in [&second.here, &second.broker] {
        assert!(end.mtu >= 1_200, "{end:?}");
        assert!(end.datagrams_sent > 0 && end.datagrams_received > 0);
        assert!(end.packets_sent >= end.datagrams_sent, "{end:?}");
        assert!(end.congestion_window_bytes > 0, "{end:?}");
        assert!(!end.round_trip.is_zero(), "{end:?}");
        // What `auto` has chosen, which takes a busy machine's loopback for a long path at times.
        let chosen = ["cubic", "a model of the path"];
        assert!(chosen.contains(&&*end.congestion), "{end:?}");
    }
    let metrics = broker.admin().metrics().await?;
    assert!(
        metrics.contains("tidegate_measure_streams_open 1"),
        "{metrics}"
    );
    Ok(())
}

// Runs a command to its end, without holding up what is served here.
pub(crate) async fn output(mut command: Command) -> anyhow::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || command.output());
    within("the command to end", async { Ok(ended.await??) }).await
}

#[tokio::test]
async fn a_link_is_tested_for_people_and_for_scripts() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let tested = output(broker.command_line(&["link-test", "--time", "200ms", "-o", "json"])?);
    let tested = tested.await?;
    let told = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{told}");
    let found: Value = serde_json::from_slice(&tested.stdout)?;
    assert_eq!(found["broker"], broker.quic_addr());
    assert_eq!(found["address_change"]["outcome"], "kept", "{found:#}");
    let [before, after] = ["before", "after"].map(|end| &found["address_change"][end]);
    assert!(
        before.is_string() && after.is_string() && before != after,
        "{found:#}"
    );
    let number = |pointer: &str| {
        let value = found.pointer(pointer).and_then(Value::as_f64);
        value.with_context(|| format!("{pointer} of {found:#}"))
    };
    for pointer in [
        "/round_trip/echoes",
        "/round_trip/min_ms",
        "/up/bytes",
        "/down/bytes",
        "/up/bytes_per_second",
        "/down/datagrams",
        "/up/congestion_window_bytes",
        "/down/send_window_bytes",
        "/chosen/publish_credit_bytes",
        "/chosen/batch_bytes_max",
    ] {
        assert!(number(pointer)? > 0.0, "{pointer} of {found:#}");
    }
    for way in ["up", "down"] {
        assert!(number(&format!("/{way}/mtu"))? >= 1_200.0);
        // Nothing is declared lost on loopback that was not, however busy the machine is; whether a datagram is lost, nobody knows.
        assert!(number(&format!("/{way}/lost"))? <= number(&format!("/{way}/datagrams"))?);
    }
    let admin = broker.admin();
    assert_eq!(admin.metric("tidegate_link_tests_total").await?, 1.0);
    let carried = admin.metric("tidegate_link_test_bytes_total").await?;
    assert!(carried >= number("/up/bytes")? + number("/down/bytes")?);

    // With the address as an argument, for people.
    let address = broker.quic_addr().to_owned();
    let tested = output(broker.command_line(&["link-test", &address, "--time", "100ms"])?).await?;
    let told = String::from_utf8(tested.stdout)?;
    for row in [
        "round trip ",
        "up ",
        "down ",
        "largest datagram ",
        "change of port ",
        "to set ",
    ] {
        assert!(
            told.lines().any(|line| line.starts_with(row)),
            "{row}: {told}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn who_has_no_right_is_refused_and_who_gets_no_answer_is_told() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::grants(
        "[[policy.grants]]\nprincipals = [\"local\"]\nadmin = [\">\"]\n",
    ))
    .await?;
    let nobody = broker.client_as(&broker.pki.client("nobody")?).await?;
    let refused = nobody.link_report().await.unwrap_err();
    assert!(
        matches!(&refused, tidegate_client::MeasureError::Refused(_)),
        "{refused:?}"
    );
    let silent = UdpSocket::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?.to_string();
    let tested = broker.command_line(&["link-test", &address, "--timeout", "200ms"])?;
    let tested = output(tested).await?;
    let told = String::from_utf8_lossy(&tested.stderr);
    assert_eq!(tested.status.code(), Some(124), "{told}");
    assert!(
        told.contains(&format!("no answer from {address}")),
        "{told}"
    );
    Ok(())
}
