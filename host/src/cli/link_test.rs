//! `tidegate link-test`: what the link to a broker carries, what it loses and reorders, and what is chosen on it, measured over a
//! connection of its own with traffic that is no events. Nothing is changed by it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate_client::{Client, LinkReport, LinkTest, MeasureError, Transfer};
use tokio::time::{Instant, timeout};

use self::findings::{
    AddressChange, Chosen, Direction, Findings, RoundTrips, SECONDS_MAX, Traffic,
};
use self::watch::{NO_ANSWER, Step, Steps, Watch};
use super::connect::{CONNECT_TIMEOUT, Connected, connect};
use super::connection_flags::{CertificateFlags, QuicFlags};
use super::human_values;
use super::obstacles::LinkWatch;
use super::output::{self, OutputFlags};
use super::time_limit::{TimeIsOver, TimeLimit};
use super::wait_notices::{self, GOING_ON, Patience};

mod advice;
mod doubts;
mod findings;
mod watch;

/// Echoes, and the fewest of them however long each takes.
const ECHOES_MAX: usize = 100;
const ECHOES_MIN: usize = 5;

/// What goes in each direction at most. At 1 Gbit/s that is almost a second.
const BYTES_MAX: u64 = 100 << 20;

/// How long each direction may be made to carry: what is under way then still has to arrive, and the broker ends a test after a minute.
const SECONDS_MAX_MS: u64 = SECONDS_MAX * 1_000;

/// For everything but the change of the address, for which there is time then: the broker ends a test after a minute.
const TEST_WITHIN: Duration = Duration::from_secs(50);

/// How long nothing may come from the broker at a new address. A test in which nothing happens for six seconds gives way to another there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// How long nothing may come once there is a connection, unless a flag says otherwise: so long that an outage can be told of, and shorter
/// than it takes a connection to be given up.
const SILENT_FOR: Duration = Duration::from_secs(20);

/// How long a test may wait for its turn, unless a flag says otherwise. One before it takes a minute, and as much again until the next.
const TURN_WITHIN: Duration = Duration::from_secs(300);

/// How often it asks for its turn when the broker does not say when that is, and towards the end of the time that it may wait.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_EVERY_AT_LAST: Duration = Duration::from_millis(250);

/// What is the matter when it does not come.
const NO_TURN: &str = "no turn to test";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the broker's QUIC listener; the same as --addr
    #[arg(value_name = "ADDR", conflicts_with = "addr")]
    address: Option<String>,
    /// How long to send in each direction, 10s at most. Fast links are done sooner
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = transfer_ms)]
    time: u64,
    /// Give up (exit code 124) when for so long there is no connection, nothing comes, or it is not this test's turn [default: 5s for a
    /// connection, 20s while nothing comes, 5m for the turn]
    #[arg(long, value_name = "TIME", value_parser = human_values::limit_ms)]
    timeout: Option<u64>,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    quic: QuicFlags,
    #[command(flatten)]
    certificates: CertificateFlags,
}

/// How long it waits for what.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connection: TimeLimit,
    silence: TimeLimit,
    turn: TimeLimit,
    /// How long nothing may come at a new address, which is no failure of the test.
    address_change: TimeLimit,
}

impl Limits {
    fn of(timeout_ms: Option<u64>) -> Self {
        let given = timeout_ms.map(Duration::from_millis);
        let or = |default| TimeLimit::after(given.unwrap_or(default));
        Self {
            connection: or(CONNECT_TIMEOUT),
            silence: or(SILENT_FOR),
            turn: or(TURN_WITHIN),
            address_change: TimeLimit::after(ANSWERS_WITHIN.min(given.unwrap_or(ANSWERS_WITHIN))),
        }
    }
}

fn transfer_ms(text: &str) -> Result<u64, String> {
    match human_values::duration_ms(text)? {
        0 => Err("say how long to send, 3s for example".to_owned()),
        ms if ms > SECONDS_MAX_MS => Err("10s are the most".to_owned()),
        ms => Ok(ms),
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let limits = Limits::of(args.timeout);
    let (broker, mut test) = begin(&args, limits).await?;
    let within = Duration::from_millis(args.time);
    let mut findings = watched(&broker, &mut test, within, limits).await?;
    findings.broker = broker
        .client
        .address()
        .unwrap_or_else(|| findings.broker.clone());
    findings.traffic = Traffic::of(&test.counted_here().now());
    findings.doubts = doubts::doubts(&findings);
    findings.advice = advice::advice(&findings);
    drop(test);
    broker.client.close().await;
    output::either(args.output.format(), &findings, Findings::told)?;
    Ok(ExitCode::SUCCESS)
}

// Begins a test when the broker lets it: one of the same principal may be under way, or have been just now. Each try has a connection of
// its own, so that while it waits nothing is there that could be lost, and that a broker would have to keep.
async fn begin(args: &Args, limits: Limits) -> anyhow::Result<(Connected, LinkTest)> {
    let quic = args.quic.clone().at(args.address.clone());
    let begun = Instant::now();
    let mut said = None;
    loop {
        // What was counted of a connection is of that one alone, so there is no other to go on with.
        let connecting = connect(&quic, &args.certificates, limits.connection, |options| {
            options.reconnect(false)
        });
        let broker = connecting.await?;
        let (why, after) = match open(&broker.client, limits.silence).await? {
            Opened::Test(test) => {
                if said.is_some() {
                    output::note(GOING_ON);
                }
                return Ok((broker, test));
            }
            Opened::NotYet { why, after } => (why, after),
        };
        broker.client.close().await;
        let wait = next_try(limits.turn, begun.elapsed(), after, &why)?;
        if said.as_ref() != Some(&why) {
            output::note(&format!("waiting: {why}"));
        }
        said = Some(why);
        tokio::time::sleep(wait).await;
        let why = said.as_deref();
        limits.turn.check(begun.elapsed(), NO_TURN, why)?;
    }
}

// How long until it asks again, after it has waited for `waited`: until its turn, where the broker says that this is `after` so long, and
// else for some time, which is half of what is left at most. Ends when nothing is left, or that is known to be over before its turn.
fn next_try(
    limit: TimeLimit,
    waited: Duration,
    after: Option<Duration>,
    why: &str,
) -> Result<Duration, TimeIsOver> {
    limit.check(waited + after.unwrap_or_default(), NO_TURN, Some(why))?;
    let left = limit.get().map_or(Duration::MAX, |limit| limit - waited);
    let soon = ASK_EVERY.min((left / 2).max(ASK_EVERY_AT_LAST)).min(left);
    Ok(after.unwrap_or(soon))
}

enum Opened {
    Test(LinkTest),
    NotYet {
        why: String,
        after: Option<Duration>,
    },
}

// Asks for a test. Says why it waits for the answer.
async fn open(client: &Client, limit: TimeLimit) -> anyhow::Result<Opened> {
    let asked = Instant::now();
    let mut link = LinkWatch::new(client);
    let mut patience = Patience::default();
    let obstacle = || Some(link.silence(asked.elapsed()));
    let opened = tokio::select! {
        opened = limit.of(NO_ANSWER, client.link_test()) => opened?,
        never = wait_notices::say_why(&mut patience, obstacle) => match never {},
    };
    patience.is_over();
    Ok(match opened {
        Ok(test) => Opened::Test(test),
        Err(MeasureError::Refused(refusal)) if refusal.retryable => Opened::NotYet {
            why: refusal.message,
            after: refusal.retry_after,
        },
        // It went away before anything was measured.
        Err(error @ (MeasureError::Lost(_) | MeasureError::Connection(_))) => Opened::NotYet {
            why: error.to_string(),
            after: None,
        },
        Err(error @ MeasureError::Unsupported) => {
            return Err(anyhow::Error::new(error).context(
                "this broker is older than `tidegate link-test`; renew it, or test with `tidegate bench` beside it",
            ));
        }
        Err(error) => return Err(error.into()),
    })
}

// What is found, and when nothing came meanwhile.
async fn watched(
    broker: &Connected,
    test: &mut LinkTest,
    within: Duration,
    limits: Limits,
) -> anyhow::Result<Findings> {
    let steps = Steps::new();
    let mut watch = Watch::new(&steps, &broker.client, test.counted_here());
    let measured = tokio::select! {
        measured = timeout(TEST_WITHIN, measure(test, within, &steps)) => measured,
        over = watch.look_on(limits.silence) => return Err(over.into()),
    };
    let Ok(measured) = measured else {
        bail!(
            "the test was not done within {TEST_WITHIN:?}; try a shorter --time, since what is sent has to arrive as well"
        );
    };
    let (mut findings, address) = measured.context("the test was broken off")?;
    steps.begin(Step::AddressChange);
    // That nothing comes now is something found, and has a time of its own.
    findings.address_change = tokio::select! {
        changed = change_address(test, address) => changed,
        over = watch.look_on(limits.address_change) => AddressChange::lost(&over),
    };
    findings.outages = watch.outages();
    Ok(findings)
}

// What is found but for the change of the address, and where the broker sees this end.
async fn measure(
    test: &mut LinkTest,
    within: Duration,
    steps: &Steps,
) -> Result<(Findings, Option<SocketAddr>), MeasureError> {
    steps.begin(Step::RoundTrips);
    let begun = test.report().await?;
    let round_trips = round_trips(test, within).await?;
    let before = test.report().await?;
    steps.begin(Step::Up);
    let up = test.send(BYTES_MAX, within).await?;
    let between = test.report().await?;
    steps.begin(Step::Down);
    let down = test.receive(BYTES_MAX, within).await?;
    // What is on its way still arrives, or is lost.
    test.echo().await?;
    let after = test.report().await?;
    let reports = [&begun, &before, &between, &after];
    let findings = Findings {
        given_seconds: within.as_secs_f64(),
        ..found(test, &round_trips, [up, down], reports)
    };
    Ok((findings, after.broker.peer_address))
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
    [begun, before, between, after]: [&LinkReport; 4],
) -> Findings {
    let (rest, all) = (before.since(begun), after.since(before));
    // Each end as it was when it had just sent; what was lost is of all that came after the echoes, with all that was late.
    let counts_frames = after.broker.frames_sent > 0;
    let sending =
        |transfer, losses, sender| Direction::new(transfer, losses, sender, counts_frames);
    Findings {
        client_address: after.broker.peer_address.map(|address| address.to_string()),
        round_trip: RoundTrips::of(round_trips),
        up: sending(up, [rest.up(), all.up()], &between.here),
        down: sending(down, [rest.down(), all.down()], &after.broker),
        chosen: Chosen::from(test.settings()),
        ..Findings::default()
    }
}

// Whether the connection outlives a change of this end's port, as after one of its address or of a NAT's mind.
async fn change_address(test: &mut LinkTest, before: Option<SocketAddr>) -> AddressChange {
    if let Err(error) = test.rebind() {
        return AddressChange::not_tried(&error);
    }
    let begun = Instant::now();
    let answered = async {
        test.echo().await?;
        Ok::<_, MeasureError>((begun.elapsed(), test.report().await?))
    };
    match answered.await {
        Ok((took, report)) => AddressChange::kept(before, report.broker.peer_address, took),
        Err(error) => not_answered(&error),
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
    fn what_the_user_says_holds_for_every_wait() {
        let given = Limits::of(Some(1_500));
        let all = [
            given.connection,
            given.silence,
            given.turn,
            given.address_change,
        ];
        let wanted = Duration::from_millis(1_500);
        assert!(all.iter().all(|limit| limit.get() == Some(wanted)));
        let long = Limits::of(Some(60_000)).address_change;
        assert_eq!(long.get(), Some(ANSWERS_WITHIN));
        let default = Limits::of(None);
        assert_eq!(default.connection.get(), Some(CONNECT_TIMEOUT));
        assert_eq!(default.silence.get(), Some(SILENT_FOR));
        assert_eq!(default.turn.get(), Some(TURN_WITHIN));
    }

    #[test]
    fn it_waits_for_its_turn_as_long_as_it_may_unless_that_is_known_to_be_too_late() {
        let ms = Duration::from_millis;
        let check = |limit, waited, after: Option<u64>, expected: Option<u64>| {
            let limit = TimeLimit::after(ms(limit));
            let next = next_try(limit, ms(waited), after.map(ms), "others test");
            assert_eq!(next.ok(), expected.map(ms), "{limit:?} {waited} {after:?}");
        };
        // Nothing is known: it asks again, sooner towards the end.
        check(10_000, 0, None, Some(2_000));
        check(10_000, 7_000, None, Some(1_500));
        check(2_000, 1_700, None, Some(250));
        check(2_000, 1_900, None, Some(100));
        check(500, 100, None, Some(250));
        check(500, 500, None, None);
        // It is known.
        check(10_000, 1_000, Some(8_999), Some(8_999));
        check(10_000, 1_000, Some(9_000), None);
        check(10_000, 1_000, Some(20), Some(20));
    }

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
