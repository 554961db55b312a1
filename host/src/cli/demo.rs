//! `tidegate demo`: a broker in a child process, auction events over QUIC with mutual TLS, subscriptions with
//! WASM filters, a route, a SIGKILL half-way, and a table that proves that nothing was lost. Everything is done
//! through the public client and the admin API; nothing here reaches into the broker.

mod auction;
mod interests;
mod ledger;
mod progress;
mod report;
mod traffic;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_client::Client;
use tokio::task::JoinSet;

use self::interests::Interest;
use self::ledger::Ledger;
use self::progress::Progress;
use self::report::DemoReport;
use self::traffic::PublisherPlan;
use super::broker_child::data_directory;
use super::local_broker::LocalBroker;
use super::output::{self, OutputFlags};
use super::signals::Signals;
use crate::pki::Authority;

/// Publishers, each with a certificate of its own.
const PUBLISHERS: u64 = 4;
/// How often the run is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Without any delivery for so long, what is missing counts as lost.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// What the demo's broker grants: as little as its clients need.
const GRANTS: &str = r#"
[[policy.grants]]
principals = ["local"]
publish = [">"]
subscribe = [">"]
admin = [">"]

[[policy.grants]]
principals = ["uri:spiffe://tidegate.dev/demo-publisher-*"]
publish = ["auction.>"]

[[policy.grants]]
principals = ["uri:spiffe://tidegate.dev/demo-consumer-*"]
subscribe = ["auction.>"]
"#;

/// Shows the whole broker at work, in under two minutes.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Events to publish.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    pub events: u64,
    /// Seconds over which they are published; what the outage costs is caught up.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    /// Keep the broker's directory and say where it is.
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    output: OutputFlags,
}

/// Runs the demo. The exit code tells whether everything held.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let directory = tempfile::Builder::new()
        .prefix("tidegate-demo-")
        .tempdir()
        .context("making a temporary directory for the demo")?;
    // The run owns the child process, so an interrupt that drops the run also ends the broker.
    let result = tokio::select! {
        result = drive(&args, directory.path()) => result,
        signal = interrupted() => signal.and_then(|()| bail!("interrupted")),
    };
    if args.keep {
        eprintln!("the broker's directory is {}", directory.keep().display());
    }
    let report = result?;
    output::either(args.output.format(), &report.json(), |_| report.table())?;
    let faults = report.faults();
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn drive(args: &DemoArgs, directory: &Path) -> anyhow::Result<DemoReport> {
    let interests: Arc<[Interest]> = interests::interests()?.into();
    let ledger = Arc::new(Ledger::new(args.events, interests.len()));
    let mut broker = LocalBroker::start(directory, GRANTS).await?;
    let mut progress = Progress::new(args.events, &interests);
    progress.note(&format!(
        "broker on {}, data in {}",
        broker.addr(),
        directory.display()
    ));

    for interest in interests.iter() {
        broker.admin().create(&interest.spec()?).await?;
    }
    broker.admin().create(&interests::route()?).await?;

    let authority = Authority::load(&data_directory(directory).join("pki"))?;
    let addr = broker.addr().to_owned();
    let started = Instant::now();
    let mut consumers = start_consumers(&addr, &authority, &interests, &ledger).await?;
    let mut publishers = start_publishers(&addr, &authority, args, &interests, &ledger).await?;
    let mut outage = None;
    let mut last_change = (0, Instant::now());
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Some(ended) = publishers.join_next() => ended??,
            Some(ended) = consumers.join_next() => {
                ended??;
                bail!("a consumer was told that its subscription ended");
            }
        }
        progress.update(&ledger, &interests);
        if outage.is_none() && ledger.acked_count() * 2 >= args.events {
            outage = Some(crash(&mut broker, &progress).await?);
        }
        let work_done = ledger.acked_count() + ledger.deliveries();
        if work_done != last_change.0 {
            last_change = (work_done, Instant::now());
        }
        if publishers.is_empty() && ledger.is_complete() && is_drained(&broker).await? {
            break;
        }
        if last_change.1.elapsed() > STALLED_AFTER {
            progress.note(&format!(
                "nothing moves any more; the broker's log ends with:\n{}",
                broker.log_tail()
            ));
            break;
        }
    }
    progress.update(&ledger, &interests);
    progress.finish();
    Ok(DemoReport::new(
        &interests,
        &ledger,
        args.events,
        outage,
        started.elapsed(),
    ))
}

async fn start_consumers(
    addr: &str,
    authority: &Authority,
    interests: &Arc<[Interest]>,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    for (index, interest) in interests.iter().enumerate() {
        for member in 1..=interest.consumers {
            let name = format!("demo-consumer-{}-{member}", interest.name);
            let client = Client::connect(traffic::client_options(authority, addr, &name)?).await?;
            tasks.spawn(traffic::consume(
                client,
                index,
                interests.clone(),
                ledger.clone(),
            ));
        }
    }
    Ok(tasks)
}

async fn start_publishers(
    addr: &str,
    authority: &Authority,
    args: &DemoArgs,
    interests: &Arc<[Interest]>,
    ledger: &Arc<Ledger>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    let interval =
        Duration::from_secs(args.seconds).mul_f64(PUBLISHERS as f64 / args.events as f64);
    for index in 0..PUBLISHERS {
        let name = format!("demo-publisher-{}", index + 1);
        let client = Client::connect(traffic::client_options(authority, addr, &name)?).await?;
        let plan = PublisherPlan {
            index,
            publishers: PUBLISHERS,
            events: args.events,
            interval,
        };
        tasks.spawn(traffic::publish(
            client,
            plan,
            interests.clone(),
            ledger.clone(),
        ));
    }
    Ok(tasks)
}

// Kills the broker without warning and starts it again. Returns how long it was away.
async fn crash(broker: &mut LocalBroker, progress: &Progress) -> anyhow::Result<Duration> {
    let at = Instant::now();
    broker.kill()?;
    progress.note("half of the events are published: broker killed with SIGKILL");
    broker.restart().await?;
    progress.note(&format!(
        "broker ready again after {:.2} s",
        at.elapsed().as_secs_f64()
    ));
    Ok(at.elapsed())
}

// Whether nothing waits anywhere in the broker, so that what has not come will not come.
async fn is_drained(broker: &LocalBroker) -> anyhow::Result<bool> {
    let all = broker.admin().subscriptions().await?;
    Ok(all.iter().all(|one| one.depth == 0 && one.unevaluated == 0))
}

async fn interrupted() -> anyhow::Result<()> {
    Signals::new()?.next().await;
    Ok(())
}
