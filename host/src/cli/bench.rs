//! `tidegate bench`: how fast the broker is on this machine. Starts a broker of its own, or uses a running one;
//! puts a load on it through the public client, and reports rates and latency histograms.

mod report;
mod traffic;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_client::{Client, ClientOptions};
use tokio_util::task::AbortOnDropHandle;

use self::report::{BenchReport, Figures};
use self::traffic::{BenchReceiver, BenchSender, GROUPS, Shape, TOPIC};
use super::chain_flags::plugin_named;
use super::load::{
    Clients, Counts, Latencies, Numbers, PACED_OUTSTANDING, Phase, Published, Rate, Run, consume,
    publish, publish_at_rate,
};
use super::local_broker::{self, LocalAdmin, LocalBroker};
use super::output::{self, OutputFlags};
use super::process_usage::ProcessUsage;
use super::signals::Signals;
use super::wait_notices::{self, Patience};
use crate::domain::{PluginUse, SubscriptionSpec};

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
    #[arg(long, value_name = "HOST:PORT", requires_all = ["admin", "certs"])]
    pub addr: Option<String>,
    /// Admin API of the running broker, such as http://127.0.0.1:4480.
    #[arg(long, requires = "addr", value_name = "URL")]
    pub admin: Option<String>,
    /// Folder with ca.pem, client.pem and client.key for the running broker.
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Where the broker that is started keeps its data; a disk to be measured. Default: the system's temporary
    /// directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputFlags,
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
    output::either(args.output.format(), &report.json(), |_| report.table())?;
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
    admin: LocalAdmin,
    _directory: Option<tempfile::TempDir>,
}

impl Target {
    async fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        if let (Some(addr), Some(admin), Some(certs)) = (&args.addr, &args.admin, &args.certs) {
            return Ok(Self {
                broker: None,
                options: local_broker::client_options(addr, certs)?,
                admin: LocalAdmin::new(admin),
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

    fn usage(&self) -> Option<ProcessUsage> {
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

async fn measure(args: &BenchArgs, target: &Target) -> anyhow::Result<BenchReport> {
    let plan = Plan::new(args)?;
    for spec in &plan.subscriptions {
        target.admin.create(spec).await?;
    }
    let run = Run::new();
    let mut clients = Clients::new(Arc::clone(&run));
    start_consumers(target, &run, &plan.consumers, &mut clients).await?;
    let _told = start_publishers(args, target, &run, plan.shape, &mut clients).await?;

    clients.run_for(WARM_UP).await?;
    let begin = Moment::now(&run, target);
    run.enter(Phase::Measure);
    clients.run_for(Duration::from_secs(args.seconds)).await?;
    let end = Moment::now(&run, target);

    let published = clients.stop_publishing().await?;
    let due = |one: &Published| plan.shape.deliveries(one.events);
    let due = match plan.consumers.is_empty() {
        true => 0,
        false => published.iter().map(due).sum(),
    };
    let missing = run.wait_received(due, POLL, STALLED_AFTER).await;
    let received = clients.stop().await?;
    let acks = Figures {
        count: end.counts.answered - begin.counts.answered,
        latencies: published.into_iter().map(|one| one.latencies).collect(),
    };
    let deliveries = Figures {
        count: end.counts.wanted - begin.counts.wanted,
        latencies: received.into_iter().collect(),
    };
    let usage = begin.usage.zip(end.usage);
    Ok(BenchReport {
        workload: plan.name,
        size: args.size,
        publishers: args.publishers,
        subscriptions: plan.subscriptions.len(),
        window: end.at - begin.at,
        acks,
        deliveries: (!plan.consumers.is_empty()).then_some(deliveries),
        broker: usage.map(|(begin, end)| end.since(begin)),
        missing,
    })
}

/// How far everything was at one moment.
struct Moment {
    at: Instant,
    counts: Counts,
    usage: Option<ProcessUsage>,
}

impl Moment {
    fn now(run: &Run, target: &Target) -> Self {
        Self {
            at: Instant::now(),
            counts: run.counts(),
            usage: target.usage(),
        }
    }
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
    let config = format!(r#"{{"group": [{}]}}"#, index % GROUPS as usize);
    plugin_named("event-pattern", &config)
}

fn specification(name: &str, filter: Option<PluginUse>) -> anyhow::Result<SubscriptionSpec> {
    Ok(SubscriptionSpec {
        filters: filter.into_iter().collect(),
        ..SubscriptionSpec::new(name.parse()?, vec![TOPIC.parse()?])
    })
}

async fn start_consumers(
    target: &Target,
    run: &Arc<Run>,
    consumers: &[String],
    clients: &mut Clients<Published, Latencies>,
) -> anyhow::Result<()> {
    for chunk in consumers.chunks(CONSUMERS_PER_CONNECTION) {
        let client = Client::connect(target.options.clone()).await?;
        for subscription in chunk {
            let mut receiver = BenchReceiver::new(&client, subscription).await?;
            let run = Arc::clone(run);
            clients.start_consumer(async move { consume(&mut receiver, &run).await });
        }
    }
    Ok(())
}

// What is handed back says why the publishers wait, should they.
async fn start_publishers(
    args: &BenchArgs,
    target: &Target,
    run: &Arc<Run>,
    shape: Shape,
    clients: &mut Clients<Published, Latencies>,
) -> anyhow::Result<Option<AbortOnDropHandle<Infallible>>> {
    let rate = (args.workload == Workload::Latency).then(|| Rate {
        per_second: (args.rate / args.publishers as u64).max(1),
        publishers: args.publishers as u64,
    });
    let outstanding = rate.map_or(args.outstanding, |_| PACED_OUTSTANDING);
    let mut told = None;
    for _ in 0..args.publishers {
        let client = Client::connect(target.options.clone()).await?;
        let mut sender = BenchSender::new(client, shape, outstanding).await?;
        // One of them speaks for all: what the broker refuses it refuses everybody.
        told.get_or_insert_with(|| {
            let publisher = sender.publisher().clone();
            AbortOnDropHandle::new(tokio::spawn(async move {
                let mut patience = Patience::default();
                wait_notices::say_why(&mut patience, move || publisher.obstacle()).await
            }))
        });
        let run = Arc::clone(run);
        clients.start_publisher(async move {
            match rate {
                Some(rate) => publish_at_rate(&mut sender, &run, rate).await,
                None => publish(&mut sender, &run, Numbers::default(), outstanding).await,
            }
        });
    }
    Ok(told)
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
