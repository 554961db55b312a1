//! `tidegate link-test`: what the link to a broker carries, what it loses and reorders, and what is chosen on it, measured over a
//! connection of its own with traffic that is no events. Nothing is changed by it.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate_client::{Client, LinkReport, LinkTest, MeasureError, Transfer};
use tokio::time::{Instant, timeout};

use self::findings::{AddressChange, Chosen, Direction, Findings, RoundTrips};
use super::connect::connect;
use super::connection_flags::{CertificateFlags, QuicFlags};
use super::human_values;
use super::output::{self, OutputFlags};
use super::time_limit::TimeLimit;

mod advice;
mod findings;

/// Echoes, and the fewest of them however long each takes.
const ECHOES_MAX: usize = 100;
const ECHOES_MIN: usize = 5;

/// What goes in each direction at most. At 1 Gbit/s that is almost a second.
const BYTES_MAX: u64 = 100 << 20;

/// How long each direction may be made to carry: what is under way then still has to arrive, and the broker ends a test after a minute.
const SECONDS_MAX_MS: u64 = 10_000;

/// For everything but the change of the address, for which there is time then: the broker ends a test after a minute.
const TEST_WITHIN: Duration = Duration::from_secs(50);

/// How long the broker may take to answer at a new address. Beyond six seconds the client connects anew.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the broker's QUIC listener; the same as --addr
    #[arg(value_name = "ADDR", conflicts_with = "addr")]
    address: Option<String>,
    /// How long to send in each direction, 10s at most. Fast links are done sooner
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = transfer_ms)]
    time: u64,
    /// Give up when there is no connection for so long (exit code 124) [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = human_values::duration_ms)]
    timeout: Option<u64>,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    quic: QuicFlags,
    #[command(flatten)]
    certificates: CertificateFlags,
}

fn transfer_ms(text: &str) -> Result<u64, String> {
    match human_values::duration_ms(text)? {
        0 => Err("say how long to send, 3s for example".to_owned()),
        ms if ms > SECONDS_MAX_MS => Err("10s are the most".to_owned()),
        ms => Ok(ms),
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let quic = args.quic.clone().at(args.address.clone());
    let limit = TimeLimit::new(args.timeout);
    let broker = connect(&quic, &args.certificates, limit).await?;
    let begun = begin(&broker.client).await;
    let mut test = begun.map_err(|error| match error {
        MeasureError::Unsupported => anyhow::Error::new(error)
            .context("this broker is older than `tidegate link-test`; renew it, or test with `tidegate bench` beside it"),
        error => error.into(),
    })?;
    let within = Duration::from_millis(args.time);
    let measured = timeout(TEST_WITHIN, measure(&mut test, within)).await;
    let Ok(measured) = measured else {
        bail!(
            "the test was not done within {TEST_WITHIN:?}; try a shorter --time, since what is sent has to arrive as well"
        );
    };
    let mut findings = measured.context("the test was broken off")?;
    say("changing the port of this end");
    findings.address_change = change_address(&mut test).await;
    findings.broker = broker
        .client
        .address()
        .unwrap_or_else(|| findings.broker.clone());
    findings.advice = advice::advice(&findings);
    drop(test);
    broker.client.close().await;
    output::either(args.output.format(), &findings, Findings::told)?;
    Ok(ExitCode::SUCCESS)
}

// Begins a test; after one before it, when the broker says that it may. It waits once: somebody may go on testing with the same rights.
async fn begin(client: &Client) -> Result<LinkTest, MeasureError> {
    let refusal = match client.link_test().await {
        Err(MeasureError::Refused(refusal)) => refusal,
        begun => return begun,
    };
    let Some(wait) = refusal.retry_after else {
        return Err(MeasureError::Refused(refusal));
    };
    // For scripts as well: it may take a minute.
    output::note(&refusal.message);
    tokio::time::sleep(wait).await;
    client.link_test().await
}

// Only for who watches.
fn say(what: &str) {
    if std::io::stderr().is_terminal() {
        output::note(what);
    }
}

async fn measure(test: &mut LinkTest, within: Duration) -> Result<Findings, MeasureError> {
    say("measuring round trips");
    let round_trips = round_trips(test, within).await?;
    let before = test.report().await?;
    say("sending to the broker");
    let up = test.send(BYTES_MAX, within).await?;
    let between = test.report().await?;
    say("receiving from the broker");
    let down = test.receive(BYTES_MAX, within).await?;
    // What is on its way still arrives, or is lost.
    test.echo().await?;
    let after = test.report().await?;
    Ok(found(
        test,
        &round_trips,
        [up, down],
        [&before, &between, &after],
    ))
}

async fn round_trips(test: &mut LinkTest, within: Duration) -> Result<Vec<Duration>, MeasureError> {
    let until = Instant::now() + within;
    let mut round_trips = Vec::new();
    while round_trips.len() < ECHOES_MAX
        && (round_trips.len() < ECHOES_MIN || Instant::now() < until)
    {
        round_trips.push(test.echo().await?);
    }
    Ok(round_trips)
}

fn found(
    test: &LinkTest,
    round_trips: &[Duration],
    [up, down]: [Transfer; 2],
    [before, between, after]: [&LinkReport; 3],
) -> Findings {
    let all = after.since(before);
    // Each end as it was when it had just sent; what was lost is of the whole test, with all that was late.
    let sending = |transfer, losses, sender| Direction::new(transfer, losses, sender);
    Findings {
        broker: String::new(),
        client_address: after.broker.peer_address.map(|address| address.to_string()),
        round_trip: RoundTrips::of(round_trips),
        up: sending(up, all.up(), &between.here),
        down: sending(down, all.down(), &after.broker),
        address_change: AddressChange::default(),
        chosen: Chosen::from(test.settings()),
        advice: Vec::new(),
    }
}

// Whether the connection outlives a change of this end's port, as after one of its address or of a NAT's mind.
async fn change_address(test: &mut LinkTest) -> AddressChange {
    let before = match test.report().await {
        Ok(report) => report.broker.peer_address,
        Err(error) => return AddressChange::not_tried(&error),
    };
    if let Err(error) = test.rebind() {
        return AddressChange::not_tried(&error);
    }
    let begun = Instant::now();
    let answered = timeout(ANSWERS_WITHIN, async {
        test.echo().await?;
        Ok::<_, MeasureError>((begun.elapsed(), test.report().await?))
    });
    match answered.await {
        Ok(Ok((took, report))) => AddressChange::kept(before, report.broker.peer_address, took),
        Ok(Err(error)) => not_answered(&error),
        Err(_) => AddressChange::lost(&format!("no answer within {ANSWERS_WITHIN:?}")),
    }
}

fn not_answered(error: &MeasureError) -> AddressChange {
    match error {
        // The broker was heard, and has had enough of the test.
        MeasureError::Refused(_) => AddressChange::not_tried(error),
        error => AddressChange::lost(error),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_client::{ErrorCode, Refusal};

    use super::*;

    #[test]
    fn a_broker_that_ends_the_test_has_not_lost_the_connection() {
        let refusal = Refusal {
            code: ErrorCode::Overloaded,
            message: "a test takes 60s at most".to_owned(),
            retryable: true,
            retry_after: None,
        };
        let told = not_answered(&MeasureError::Refused(refusal)).told();
        assert!(told.contains("not tried: "), "{told}");
        let told = not_answered(&MeasureError::Lost("timed out".into())).told();
        assert!(told.contains("was lost: "), "{told}");
    }
}
