//! What a client and its broker say of the connection between them, over real sockets.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tidegate_client::{LinkTest, MeasureError, PATH_PROBE_ID};
use tidegate_tests::{BrokerProcess, Setup, wait_for, within};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::command_line::Running;
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
        "compression ",
        "traffic ",
        "advice ",
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

/// A command that runs, and what it says on standard error.
struct Heard {
    command: Running,
    said: mpsc::UnboundedReceiver<String>,
}

impl Heard {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stderr(Stdio::piped());
        let mut command = Running::new(command)?;
        let stderr = command.0.stderr.take().context("it is piped")?;
        let (sender, said) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Nobody may listen any more.
                let _ = sender.send(line);
            }
        });
        Ok(Self { command, said })
    }

    // Reads until a line begins so.
    async fn says(&mut self, beginning: &str) -> anyhow::Result<String> {
        within(beginning, async {
            loop {
                let line = self.said.recv().await.context("it has ended")?;
                if line.starts_with(beginning) {
                    return Ok(line);
                }
            }
        })
        .await
    }

    // With which code it ends, and what else it says.
    async fn ends(mut self) -> anyhow::Result<(i32, String)> {
        within("the command to end", async {
            let mut said = String::new();
            while let Some(line) = self.said.recv().await {
                said = said + &line + "\n";
            }
            Ok((self.command.code().await?, said))
        })
        .await
    }
}

// A test as that of a command of the same principal. There may have been one just now.
async fn hold_a_test(client: &tidegate_client::Client) -> anyhow::Result<LinkTest> {
    wait_for("a test", async || match client.link_test().await {
        Ok(test) => Ok(Some(test)),
        Err(MeasureError::Refused(refusal)) if refusal.retryable => Ok(None),
        Err(error) => Err(error.into()),
    })
    .await
}

// Lets something happen in it until the task is dropped or the broker goes: else it gives way to another.
fn keep_busy(mut test: LinkTest) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(async move {
        while test.echo().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    task
}

#[tokio::test]
async fn a_second_test_waits_for_the_first_and_a_broker_that_goes_meanwhile_is_told()
-> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    let first = keep_busy(hold_a_test(&client).await?);
    let mut second = Heard::start(broker.command_line(&["link-test", "--time", "100ms"])?)?;
    let line = second.says("waiting: ").await?;
    assert!(line.contains("is being tested, and"), "{line}");
    drop(first);
    let (code, said) = second.ends().await?;
    assert_eq!(code, 0, "{said}");

    let _held = keep_busy(hold_a_test(&client).await?);
    let arguments = ["link-test", "--timeout", "4s"];
    let mut waits = Heard::start(broker.command_line(&arguments)?)?;
    waits.says("waiting: ").await?;
    broker.stop().await?;
    let (code, said) = waits.ends().await?;
    assert_eq!(code, 124, "{said}");

    // It ends before a time to ask again that would come too late.
    broker.restart().await?;
    let _held = keep_busy(hold_a_test(&client).await?);
    let tested = output(broker.command_line(&["link-test", "--timeout", "5s"])?).await?;
    let said = String::from_utf8_lossy(&tested.stderr);
    assert_eq!(tested.status.code(), Some(124), "{said}");
    assert!(said.contains("no turn to test within 5s: "), "{said}");
    Ok(())
}

// Carries what one client sends to `broker` and what comes back, as long as `is_carried` says so: of how many datagrams it is the one
// at this place, and whether the client is still where it was at first.
async fn way_that_ends(
    broker: &str,
    is_carried: impl Fn(usize, bool) -> bool + Send + 'static,
) -> anyhow::Result<SocketAddr> {
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let behind = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    behind.connect(broker).await?;
    let address = front.local_addr()?;
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 65_527], vec![0; 65_527]);
        let (mut first, mut sent, mut carries) = (None, 0, true);
        loop {
            tokio::select! {
                Ok((length, from)) = front.recv_from(&mut up) => {
                    // Others look what is at this address, while a connection is made that takes long.
                    if length == 1 || up[1..].starts_with(&PATH_PROBE_ID) {
                        continue;
                    }
                    let first = *first.get_or_insert(from);
                    sent += 1;
                    carries &= is_carried(sent, from == first);
                    if carries {
                        let _ = behind.send(&up[..length]).await;
                    }
                }
                Ok(length) = behind.recv(&mut down) => if let Some(first) = first && carries {
                    let _ = front.send_to(&down[..length], first).await;
                }
            }
        }
    });
    Ok(address)
}

#[tokio::test]
async fn a_test_ends_when_nothing_comes_any_more() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    // Enough to begin with; a hundred echoes take more.
    let address = way_that_ends(broker.quic_addr(), |sent, _| sent <= 80).await?;
    let address = address.to_string();
    let arguments = ["link-test", &address, "--timeout", "4s", "--time", "10s"];
    let mut tested = Heard::start(broker.command_line(&arguments)?)?;
    let line = tested.says("waiting: ").await?;
    assert_eq!(line, format!("waiting: nothing comes from {address}"));
    let (code, said) = tested.ends().await?;
    assert_eq!(code, 124, "{said}");
    assert!(
        said.contains("no answer from the broker within 4s"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn where_nothing_comes_after_a_change_of_port_that_is_said_and_found() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let address = way_that_ends(broker.quic_addr(), |_, is_first| is_first).await?;
    let address = address.to_string();
    let arguments = ["link-test", &address, "--time", "100ms", "-o", "json"];
    let mut command = broker.command_line(&arguments)?;
    command.stdout(Stdio::piped());
    let mut tested = Heard::start(command)?;
    let mut stdout = tested.command.0.stdout.take().context("it is piped")?;
    tested.says("changing the port of this end").await?;
    let line = tested.says("waiting: ").await?;
    assert_eq!(line, format!("waiting: nothing comes from {address}"));
    let (code, said) = tested.ends().await?;
    assert_eq!(code, 0, "{said}");
    let found: Value = serde_json::from_reader(&mut stdout)?;
    let change = &found["address_change"];
    assert_eq!(change["outcome"], "lost", "{found}");
    let why = format!("no answer from the broker within 5s: nothing comes from {address}");
    assert_eq!(change["reason"], why, "{found}");
    Ok(())
}
