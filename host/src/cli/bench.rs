//! `tidegate bench`: how fast the broker is on this machine. Starts a broker of its own, or uses a running one;
//! puts a load on it through the public client, and reports rates and latency histograms.

mod load;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_client::{Client, ClientOptions};
use tokio::task::JoinSet;

use self::load::{Figures, GROUPS, Phase, Run, Shape, TOPIC};
use self::report::Report;
use super::local_broker::{self, Admin, LocalBroker, Usage};
use super::output;
use super::signals::Signals;
use crate::domain::{DeliveryPolicy, Millis, PluginUse, StartAt, SubscriptionSpec};

/// Load before anything counts, so that connections, caches and the journal's first files are there.
const WARM_UP: Duration = Duration::from_secs(1);
/// Without a delivery for so long, what is missing at the end counts as missing.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// How often the end of the run is looked for.
const POLL: Duration = Duration::from_millis(20);
/// Consumers on one connection.
const CONSUMERS_PER_CONNECTION: usize = 32;
/// Grants of the broker that the bench starts.
const GRANTS: &str = r#"
[[policy.grants]]
principals = ["local", "uri:spiffe://tidegate.dev/*"]
publish = [">"]
subscribe = [">"]
admin = [">"]
"#;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Durable publishes per second, kept for a subscription nobody consumes.
    Publish,
    /// From publishers to one subscription that `--subscribers` consumers share.
    E2e,
    /// To `--subscribers` subscriptions, each of which gets everything.
    Fanout,
    /// JSON events to `--rules` subscriptions, each of which wants a tenth by a field, filtered in WASM.
    Filter,
    /// Latency at `--rate` events per second, counted from the moment each was meant to be sent.
    Latency,
}

/// Measures how fast the broker is on this machine.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// What to measure.
    pub workload: Workload,
    /// Bytes of an event's payload.
    #[arg(long, default_value_t = 1_024, value_parser = parse_size)]
    pub size: usize,
    /// Publishers, each on a connection of its own.
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    pub publishers: usize,
    /// Consumers of the one subscription (e2e, latency), or subscriptions with one consumer each (fanout).
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    pub subscribers: usize,
    /// Seconds that are measured, after one second of warm-up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Events per second of all publishers together (latency).
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: u64,
    /// Subscriptions with a filter (filter).
    #[arg(long, default_value_t = 100, value_parser = parse_count)]
    pub rules: usize,
    /// Events each publisher keeps unanswered (all but latency).
    #[arg(long, default_value_t = 1_000, value_parser = parse_count)]
    pub outstanding: usize,
    /// Use the running broker at this address instead of starting one.
    #[arg(long, value_name = "HOST:PORT", requires = "certs")]
    pub addr: Option<String>,
    /// Admin API of the running broker.
    #[arg(long, default_value = "http://127.0.0.1:4480", value_name = "URL")]
    pub admin: String,
    /// Folder with ca.pem, client.pem and client.key for the running broker.
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Where the broker that is started keeps its data; a disk to be measured. Default: the system's temporary
    /// directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs one workload. The exit code tells whether everything that was due came.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let target = Target::new(&args).await?;
    let mut signals = Signals::new()?;
    let report = tokio::select! {
        report = measure(&args, &target) => report?,
        _ = signals.next() => bail!("interrupted"),
    };
    drop(target);
    if args.json {
        output::line(&format!("{:#}", report.json()))?;
    } else {
        output::line(&report.table())?;
    }
    Ok(if report.missing == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The broker to measure. Fields drop in this order: the process before its directory.
struct Target {
    broker: Option<LocalBroker>,
    options: ClientOptions,
    admin: Admin,
    _directory: Option<tempfile::TempDir>,
}

impl Target {
    async fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        if let (Some(addr), Some(certs)) = (&args.addr, &args.certs) {
            return Ok(Self {
                broker: None,
                options: local_broker::client_options(addr, certs)?,
                admin: Admin::new(&args.admin),
                _directory: None,
            });
        }
        let directory = temporary_directory(args.dir.as_deref())?;
        let broker = LocalBroker::start(directory.path(), GRANTS).await?;
        Ok(Self {
            options: broker.client_options()?,
            admin: broker.admin(),
            broker: Some(broker),
            _directory: Some(directory),
        })
    }

    fn usage(&self) -> Option<Usage> {
        self.broker.as_ref().and_then(LocalBroker::usage)
    }
}

fn temporary_directory(parent: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("tidegate-bench-");
    match parent {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    }
    .context("making a temporary directory for the broker")
}

async fn measure(args: &BenchArgs, target: &Target) -> anyhow::Result<Report> {
    let plan = Plan::new(args)?;
    for spec in &plan.subscriptions {
        target.admin.create(spec).await?;
    }
    let run = Run::new();
    let mut consumers = start_consumers(target, &run, &plan.consumers).await?;
    let mut publishers = start_publishers(args, target, &run, plan.shape).await?;

    load_for(WARM_UP, &mut publishers, &mut consumers).await?;
    let before = target.usage();
    run.enter(Phase::Measure);
    let began = Instant::now();
    load_for(
        Duration::from_secs(args.seconds),
        &mut publishers,
        &mut consumers,
    )
    .await?;
    let window = began.elapsed();
    run.enter(Phase::Drain);
    let broker = used_between(before, target.usage());

    let acks = collect(&mut publishers).await?;
    let missing = if plan.consumers.is_empty() {
        0
    } else {
        drained(&run).await
    };
    run.enter(Phase::Done);
    let deliveries = collect(&mut consumers).await?;
    Ok(Report {
        workload: plan.name,
        size: args.size,
        publishers: args.publishers,
        subscriptions: plan.subscriptions.len(),
        window,
        acks: Figures::merge(acks),
        deliveries: (!plan.consumers.is_empty()).then(|| Figures::merge(deliveries)),
        broker,
        missing,
    })
}

/// The subscriptions and consumers of a workload, and what its publishers send.
struct Plan {
    name: &'static str,
    subscriptions: Vec<SubscriptionSpec>,
    /// Subscription of each consumer.
    consumers: Vec<String>,
    shape: Shape,
}

impl Plan {
    fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        // A name of its own for each run, so that a running broker can be measured again.
        let run = std::process::id();
        let named = |index: usize| format!("bench-{run}-{index}");
        let subscription =
            |index: usize, filter: Option<PluginUse>| specification(&named(index), filter);
        let (name, count, per_group) = match args.workload {
            Workload::Publish => ("publish", 1, [0; GROUPS as usize]),
            Workload::E2e => ("e2e", 1, [1; GROUPS as usize]),
            Workload::Latency => ("latency", 1, [1; GROUPS as usize]),
            Workload::Fanout => (
                "fanout",
                args.subscribers,
                [args.subscribers as u64; GROUPS as usize],
            ),
            Workload::Filter => ("filter", args.rules, rules_per_group(args.rules)),
        };
        let filtered = args.workload == Workload::Filter;
        let subscriptions = (0..count)
            .map(|index| subscription(index, filtered.then(|| filter(index))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let consumers = match args.workload {
            Workload::Publish => Vec::new(),
            Workload::E2e | Workload::Latency => vec![named(0); args.subscribers],
            Workload::Fanout | Workload::Filter => (0..count).map(named).collect(),
        };
        Ok(Self {
            name,
            subscriptions,
            consumers,
            shape: Shape {
                size: args.size,
                json: filtered,
                deliveries_by_group: per_group,
            },
        })
    }
}

fn rules_per_group(rules: usize) -> [u64; GROUPS as usize] {
    let mut groups = [0; GROUPS as usize];
    for rule in 0..rules {
        groups[rule % GROUPS as usize] += 1;
    }
    groups
}

fn filter(index: usize) -> PluginUse {
    PluginUse {
        plugin: "event-pattern".to_owned(),
        config: format!(r#"{{"group": [{}]}}"#, index % GROUPS as usize),
        digest: None,
        on_failure: Default::default(),
    }
}

fn specification(name: &str, filter: Option<PluginUse>) -> anyhow::Result<SubscriptionSpec> {
    Ok(SubscriptionSpec {
        name: name.parse()?,
        topics: vec![TOPIC.parse()?],
        filters: filter.into_iter().collect(),
        transforms: Vec::new(),
        start: StartAt::New,
        delivery: DeliveryPolicy::default(),
        outputs: Default::default(),
        owner: None,
        include_dead_letters: false,
        created: Millis(0),
        created_by: None,
    })
}

type Tasks = JoinSet<anyhow::Result<Figures>>;

async fn start_consumers(
    target: &Target,
    run: &Arc<Run>,
    consumers: &[String],
) -> anyhow::Result<Tasks> {
    let mut tasks = JoinSet::new();
    for chunk in consumers.chunks(CONSUMERS_PER_CONNECTION) {
        let client = Client::connect(target.options.clone()).await?;
        for subscription in chunk {
            tasks.spawn(load::consume(
                client.clone(),
                run.clone(),
                subscription.clone(),
            ));
        }
    }
    Ok(tasks)
}

async fn start_publishers(
    args: &BenchArgs,
    target: &Target,
    run: &Arc<Run>,
    shape: Shape,
) -> anyhow::Result<Tasks> {
    let mut tasks = JoinSet::new();
    for _ in 0..args.publishers {
        let client = Client::connect(target.options.clone()).await?;
        if args.workload == Workload::Latency {
            let rate = (args.rate / args.publishers as u64).max(1);
            tasks.spawn(load::publish_at_rate(client, run.clone(), shape, rate));
        } else {
            tasks.spawn(load::publish(client, run.clone(), shape, args.outstanding));
        }
    }
    Ok(tasks)
}

// Lets the load run, and fails at once when a task fails.
async fn load_for(
    time: Duration,
    publishers: &mut Tasks,
    consumers: &mut Tasks,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        () = tokio::time::sleep(time) => return Ok(()),
        Some(ended) = publishers.join_next() => ended,
        Some(ended) = consumers.join_next() => ended,
    };
    ended??;
    bail!("a client ended before its time");
}

async fn collect(tasks: &mut Tasks) -> anyhow::Result<Vec<Figures>> {
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}

// Waits until everything that is due has come, and returns how much has not.
async fn drained(run: &Run) -> u64 {
    let mut last = (0, Instant::now());
    loop {
        let delivered = run.delivered.load(Ordering::Relaxed);
        let missing = run.due.load(Ordering::Relaxed).saturating_sub(delivered);
        if missing == 0 || last.1.elapsed() > STALLED_AFTER {
            return missing;
        }
        if delivered != last.0 {
            last = (delivered, Instant::now());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn used_between(before: Option<Usage>, after: Option<Usage>) -> Option<Usage> {
    let (before, after) = (before?, after?);
    Some(Usage {
        cpu: after.cpu.saturating_sub(before.cpu),
        resident_bytes_max: after.resident_bytes_max,
    })
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=100_000) => Ok(count),
        _ => Err("a number from 1 to 100000 is expected".to_owned()),
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 64..=1_000_000) => Ok(bytes),
        _ => Err("a number of bytes from 64 to 1000000 is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_due_where_a_rule_wants_it() {
        assert_eq!(rules_per_group(25), [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]);
        assert_eq!(rules_per_group(3).iter().sum::<u64>(), 3);
    }

    #[test]
    fn sizes_and_counts_have_bounds() {
        assert!(parse_size("63").is_err() && parse_size("64").is_ok());
        assert!(parse_count("0").is_err() && parse_count("7").is_ok());
    }
}
