//! What is measured, one file per kind of question, and what they share: the turns the brokers take, and the figures
//! that every measurement ends with.

mod backlog;
mod delivery;
mod isolation;
mod limits;
mod publish;
mod reconnect;
mod rules;
mod scale;
mod slow_filter;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value, json};
use tidegate_tests::guest;

use crate::args::{Args, Workload};
use crate::broker::{Broker, Kind, Places};
use crate::event_shape::Shape;
use crate::load::{Measured, Plan, Wants};
use crate::nats;
use crate::report::{Figure, Sample, Table, Unit, figure, verdict};

/// Topic of all events, unless a workload is about topics.
const TOPIC: &str = "compare.events";
/// Events that a publisher leaves unanswered.
const OUTSTANDING: usize = 1_000;
/// Deadlines that a [`misbehaving_filter`] keeps when it is told to be slow, so that it is not in error.
const SLOW_CONFIG: &str = "[plugins]\ndeadline_base_ms = 10_000\ndeadline_pair_us = 100_000\n";
/// A run that takes longer is given up.
const RUN_MAX: Duration = Duration::from_secs(20 * 60);

/// A filter that does as its configuration says, as a component.
async fn misbehaving_filter() -> anyhow::Result<Vec<u8>> {
    let built = guest("misbehaving_filter").await;
    built.context("this needs a filter that misbehaves")
}

/// All measurements of one call of the program, and what they found so far.
pub(crate) struct Bench {
    args: Args,
    kinds: Vec<Kind>,
    // What stands below the brokers where it says something.
    floors: Vec<Kind>,
    places: Places,
    nats_version: Option<String>,
    tables: Vec<Table>,
}

impl Bench {
    /// Finds the programs, and decides who takes part.
    pub(crate) fn new(args: Args) -> anyhow::Result<Self> {
        let builds = builds(&args)?;
        let is_asked_for = |kind: &Kind| match args.only.is_empty() {
            true => builds.is_none(),
            false => args.only.contains(kind),
        };
        let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(is_asked_for).collect();
        let floors: Vec<Kind> = Kind::FLOORS.into_iter().filter(is_asked_for).collect();
        if builds.is_some() {
            kinds.retain(|kind| !kind.is_tidegate());
            kinds.splice(0..0, Kind::BUILDS);
        }
        let found = match kinds[..] {
            [] | [Kind::Tidegate] | [Kind::Old, Kind::New] => None,
            _ => nats::find(args.nats.as_deref())?,
        };
        let (nats, nats_version) = found.unzip();
        if nats.is_none() {
            kinds.retain(|kind| kind.is_tidegate());
        }
        ensure!(
            !kinds.is_empty() || !floors.is_empty(),
            "there is no nats-server on the path; say where it is with --nats"
        );
        let directory = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        Ok(Self {
            args,
            kinds,
            floors,
            places: Places {
                directory,
                nats,
                builds,
            },
            nats_version,
            tables: Vec::new(),
        })
    }

    /// What the tables have to be read with.
    pub(crate) fn preamble(&self) -> String {
        let mut text = format!(
            "{} runs of {} s each after {} s of warm-up, the brokers in turns, each on a fresh directory below {}. A cell is \
             the median (lowest–highest).\n`ratio` is the first column to that of the row it is compared with, run by run. \
             CPU, memory and disk are the broker's; `wire` is all bytes over loopback, both ways and headers included, per \
             published event.\n{} cores{}.\n",
            self.args.runs(),
            self.args.window().as_secs(),
            self.args.warm_up().as_secs(),
            self.places.directory.display(),
            std::thread::available_parallelism().map_or(0, usize::from),
            if self.args.awake { ", kept awake" } else { "" },
        );
        match &self.nats_version {
            Some(version) => {
                let _ = writeln!(text, "{version}.");
            }
            None if self.args.only != [Kind::Tidegate] && !self.args.compares_builds() => {
                text += "There is no nats-server on the path (`--nats FILE` says where it is): Tidegate runs alone.\n";
            }
            None => {}
        }
        text
    }

    /// Runs every workload that was asked for, and prints each table as soon as it is there.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let has_tidegate = self.kinds.contains(&Kind::Tidegate);
        let wants = |bench: &Self, workload| bench.args.wants(workload);
        if wants(self, Workload::Limits) && has_tidegate {
            Box::pin(self.limits()).await;
        }
        if wants(self, Workload::Publish) {
            Box::pin(self.publish()).await;
        }
        if wants(self, Workload::E2e) {
            Box::pin(self.end_to_end()).await;
        }
        if wants(self, Workload::Latency) {
            Box::pin(self.latency()).await;
        }
        if wants(self, Workload::Fanout) {
            Box::pin(self.fan_out()).await;
        }
        if wants(self, Workload::Filter) {
            Box::pin(self.filter()).await;
        }
        if wants(self, Workload::Rules) && has_tidegate {
            Box::pin(self.rules()).await;
        }
        if wants(self, Workload::Slow) && has_tidegate {
            Box::pin(self.slow()).await?;
        }
        if wants(self, Workload::Backlog) {
            Box::pin(self.backlog()).await;
        }
        if wants(self, Workload::Scale) {
            Box::pin(self.scale()).await;
        }
        if wants(self, Workload::Reconnect) && self.kinds.iter().any(|kind| kind.is_tidegate()) {
            Box::pin(self.reconnect()).await;
        }
        if wants(self, Workload::Isolation) && has_tidegate {
            Box::pin(self.isolation()).await?;
        }
        if self.args.compares_builds() {
            println!("{}", verdict(&self.tables));
        }
        Ok(())
    }

    /// Every sample of every table.
    pub(crate) fn json(&self) -> Value {
        json!({
            "runs": self.args.runs(),
            "seconds": self.args.window().as_secs(),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "awake": self.args.awake,
            "nats": self.nats_version,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
        })
    }

    /// Whether a run failed, or a build is slower than the one before it.
    pub(crate) fn has_failures(&self) -> bool {
        self.tables.iter().any(Table::has_failures)
    }

    // A table with a row for each broker, compared with plain NATS.
    fn table(&self, workload: &'static str, title: impl Into<String>, kinds: &[Kind]) -> Table {
        let mut table = Table::new(workload, title);
        for kind in kinds {
            table.row(kind.label());
        }
        compare_with_base(&mut table, kinds);
        table
    }

    // Lets the rows of a table take turns, and keeps the table.
    async fn take_turns(
        &mut self,
        mut table: Table,
        rows: usize,
        mut measure: impl AsyncFnMut(usize) -> anyhow::Result<Sample>,
    ) {
        for run in 1..=self.args.runs() {
            for row in 0..rows {
                // Whatever goes on while the machine is measured, the same broker must not always have it.
                let row = match run % 2 {
                    0 => rows - 1 - row,
                    _ => row,
                };
                let (title, label) = (table.title(), table.label(row));
                eprintln!("{title}: {label}, run {run}");
                let sample = tokio::time::timeout(RUN_MAX, measure(row)).await;
                let late = || anyhow!("it was not done after {} minutes", RUN_MAX.as_secs() / 60);
                table.record(row, sample.unwrap_or_else(|_| Err(late())));
                // The files of this run are removed now, and the disk is not to be busy with that during the next one.
                rustix::fs::sync();
            }
        }
        self.finish(table);
    }

    fn finish(&mut self, table: Table) {
        println!("{}", table.markdown());
        self.tables.push(table);
    }

    // A plan of one publisher as fast as it can, without consumers.
    fn plan(&self, shape: Shape) -> Plan {
        Plan {
            publishers: 1,
            outstanding: OUTSTANDING,
            rate: None,
            shape,
            consumers: Vec::<(String, Wants)>::new(),
            warm_up: self.args.warm_up(),
            window: self.args.window(),
        }
    }
}

// The two programs of `--tidegate`, both there before anything is measured.
fn builds(args: &Args) -> anyhow::Result<Option<[PathBuf; 2]>> {
    let Ok([old, new]) = <[PathBuf; 2]>::try_from(args.tidegate.clone()) else {
        ensure!(
            args.tidegate.is_empty(),
            "--tidegate takes two files: OLD,NEW"
        );
        return Ok(None);
    };
    let of_one = [
        Workload::Limits,
        Workload::Rules,
        Workload::Slow,
        Workload::Isolation,
    ];
    if let Some(workload) = args.workloads.iter().find(|asked| of_one.contains(asked)) {
        bail!("{workload:?} measures one build of Tidegate only: leave it or --tidegate out");
    }
    let found = |file: PathBuf| {
        let shown = file.display().to_string();
        std::path::absolute(&file)
            .and_then(std::fs::canonicalize)
            .with_context(|| format!("--tidegate: there is no program `{shown}`"))
    };
    Ok(Some([found(old)?, found(new)?]))
}

// Compares rows of these brokers with that of the one to be compared with, if it takes part.
fn compare_with_base(table: &mut Table, kinds: &[Kind]) {
    if let Some(base) = Kind::base(kinds) {
        table.compare(0..kinds.len(), base);
    }
    if let Some(new) = kinds.iter().position(|kind| *kind == Kind::New) {
        table.judge(new);
    }
}

// What every sample ends with.
fn usage(broker: &Broker, measured: &Measured) -> anyhow::Result<Vec<Figure>> {
    Ok(vec![
        figure(
            "CPU µs/event",
            Unit::FineMicroseconds,
            measured.cpu_us_per_event,
        ),
        figure("wire B/event", Unit::Count, measured.wire_bytes_per_event),
        figure(
            "peak RSS MiB",
            Unit::Mebibytes,
            broker.resident_bytes_max()? as f64,
        ),
        figure("disk MiB", Unit::Mebibytes, broker.disk_bytes() as f64),
    ])
}
