//! The command line, and what it means for every measurement.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::broker::Kind;
use crate::report::PAIRS_MIN;

/// Load before anything counts, so that connections, caches and the first files are there.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures Tidegate beside NATS JetStream on this machine.
#[derive(Clone, Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Args {
    /// What to measure; everything by default.
    pub(crate) workloads: Vec<Workload>,
    /// Seconds of each measurement, after a second of warm-up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// How often each measurement is repeated: 3 times, and 7 with --tidegate. The brokers take turns.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) runs: Option<u64>,
    /// Two builds of Tidegate in turns, the one before a change and the one after, instead of the brokers: each a file to run as
    /// `FILE serve`. Other brokers take part only if --only names them.
    #[arg(long, value_delimiter = ',', value_name = "OLD,NEW")]
    pub(crate) tidegate: Vec<PathBuf>,
    /// Only these brokers.
    #[arg(long, value_delimiter = ',', value_name = "BROKERS")]
    pub(crate) only: Vec<Kind>,
    /// Where the brokers keep their data: a folder on the disk to be measured. Default: the system's temporary one.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The NATS server's program. Default: `nats-server` on the path.
    #[arg(long, value_name = "FILE")]
    pub(crate) nats: Option<PathBuf>,
    /// MiB of events that wait before they are drained (backlog).
    #[arg(long, default_value_t = 2_048, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub(crate) backlog_mib: u64,
    /// Fill the events of backlog with the bytes of this file, piece by piece, instead of random letters, which hardly compress.
    #[arg(long, value_name = "FILE")]
    pub(crate) backlog_filling: Option<PathBuf>,
    /// Most connections, topics and idle subscriptions of `scale`, rules of `rules`, and clients of `reconnect`.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) scale_max: u64,
    /// Fewest of them in `scale` and `reconnect`.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) scale_min: u64,
    /// What `scale` has many of; everything in turn by default.
    #[arg(long, value_delimiter = ',', value_name = "AXES")]
    pub(crate) axes: Vec<Axis>,
    /// Keep the cores from halting meanwhile, which takes root: on a virtual machine, how long the host takes to wake one is much
    /// of what is measured otherwise.
    #[arg(long)]
    pub(crate) awake: bool,
    /// One run of two seconds each: whether it works rather than how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Write all samples to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// W1: durable publishes, 1,000 outstanding per publisher, kept and not consumed.
    Publish,
    /// W2: one publisher, one durable consumer that acks each event.
    E2e,
    /// W3: latency at 1,000 events/s and at half of what `e2e` reached, from the moment an event was meant to be sent.
    Latency,
    /// W4: ten durable subscriptions that get everything.
    Fanout,
    /// W5: ten subscriptions that each want a tenth by a field of the JSON body.
    Filter,
    /// W6: up to 10,000 subscriptions with a rule each, nobody consuming (Tidegate only).
    Rules,
    /// A filter that takes 100 µs for an event, on one thread and on as many as there are cores (Tidegate only).
    Slow,
    /// W7: a backlog, drained while publishing goes on.
    Backlog,
    /// W8: many connections, topics, idle subscriptions; with the time to open after a restart.
    Scale,
    /// 100, 1,000 and 5,000 clients that lose their broker at once and come back (Tidegate only).
    Reconnect,
    /// Good subscriptions beside a bad neighbour (Tidegate only).
    Isolation,
    /// What the machine itself can do: a QUIC stream, the disk, the journal alone.
    Limits,
}

/// What `scale` can have many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Axis {
    Connections,
    Topics,
    IdleSubscriptions,
}

impl Args {
    /// Whether two builds of Tidegate take turns.
    pub(crate) fn compares_builds(&self) -> bool {
        !self.tidegate.is_empty()
    }

    /// Whether `workload` was asked for.
    pub(crate) fn wants(&self, workload: Workload) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&workload)
    }

    /// How often each measurement is made.
    pub(crate) fn runs(&self) -> usize {
        let asked_for = self.runs.map(|runs| runs as usize);
        let usual = || match self.compares_builds() {
            true => PAIRS_MIN,
            false => 3,
        };
        if self.quick {
            1
        } else {
            asked_for.unwrap_or_else(usual)
        }
    }

    /// How long one measurement is.
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs(if self.quick { 2 } else { self.seconds })
    }

    /// How long load runs before it.
    pub(crate) fn warm_up(&self) -> Duration {
        WARM_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_are_one_argument() {
        let parsed = Args::parse_from(["compare", "publish", "--tidegate", "a/old,b/new", "e2e"]);
        assert_eq!(parsed.tidegate, ["a/old", "b/new"].map(PathBuf::from));
        assert_eq!(parsed.workloads, [Workload::Publish, Workload::E2e]);
        assert_eq!(parsed.runs(), PAIRS_MIN);
        assert_eq!(Args::parse_from(["compare"]).runs(), 3);
    }
}
