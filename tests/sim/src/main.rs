//! Runs by hand: of one seed or many, or of a plan in a file, and what they did.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate_sim::checker::{PROMISES, Promise};
use tidegate_sim::history;
use tidegate_sim::long_run;
use tidegate_sim::plan::Plan;
use tidegate_sim::planted::{look, on_two_threads};
use tidegate_sim::scheduler::Options;
use tidegate_sim::simulation::Bug;
use tidegate_sim::stage::{examine, smallest};

/// Runs that making a plan smaller may take.
const TRIES_MAX: usize = 300;

const HELP: &str = "\
Plays plans on a simulated broker, and says which promise breaks.

  --seed N          the plan of this seed
  --seeds N..M      those of these, one after the other, and what they came to
  --minutes N       seeds from a new one on, or from that of --seed, until the time is over, and what they came to
  --plan FILE       the plan in a file, as --show-plan prints it
  --show-plan       prints the plan, and plays nothing
  --trace           prints all that happened
  --steps           prints each step of each strand, too
  --shrink          prints the smallest plan found that breaks the same promise
  --planted NAME    plants a fault in the broker: with --seed or --plan in that run; with --seeds it is looked
                    for the first one that finds it, and NAME may be all, or several with commas between
  --breaks NAME     looks for the first one in which a planted fault breaks this promise
";

#[derive(Default)]
struct Asked {
    seeds: std::ops::Range<u64>,
    plan: Option<Plan>,
    minutes: u64,
    shows_plan: bool,
    traces: bool,
    steps: bool,
    shrinks: bool,
    planted: Vec<Bug>,
    breaks: Option<&'static Promise>,
    looks: bool,
}

fn main() -> ExitCode {
    match asked(std::env::args().skip(1)) {
        Ok(asked) if asked.looks && !asked.planted.is_empty() => look_for(&asked),
        Ok(asked) => play(&asked),
        Err(why) => {
            eprintln!("{why}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn asked(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                asked.seeds = seed..seed.saturating_add(1);
            }
            "--seeds" => {
                let range = value()?;
                let both = range.split_once("..");
                let (first, end) = both.ok_or(format!("{range} is not like 0..1000"))?;
                asked.seeds = number(first)?..number(end)?;
                asked.looks = true;
            }
            "--minutes" => asked.minutes = number(&value()?)?,
            "--plan" => {
                let file = value()?;
                let json = std::fs::read_to_string(&file);
                let json = json.map_err(|error| format!("{file}: {error}"))?;
                let plan = Plan::from_json(&json).map_err(|why| format!("{file}: {why}"))?;
                asked.plan = Some(plan);
            }
            "--planted" => asked.planted = bugs(&value()?)?,
            "--breaks" => {
                let name = value()?;
                let promise = PROMISES.iter().find(|promise| promise.name() == name);
                let promise = promise.ok_or_else(|| format!("nothing promised is called {name}"));
                asked.breaks = Some(promise?);
            }
            "--show-plan" => asked.shows_plan = true,
            "--trace" => asked.traces = true,
            "--steps" => asked.steps = true,
            "--shrink" => asked.shrinks = true,
            _ => return Err(format!("{arg} is nothing that is known here")),
        }
    }
    match asked.plan.is_none() && asked.seeds.is_empty() && asked.minutes == 0 {
        true => Err("which plan?".to_owned()),
        false => Ok(asked),
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no seed"))
}

// Seeds for so long, and what they came to.
fn play_long(asked: &Asked) -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let new = now.map_or(0, |since| since.as_secs()) * 1_000;
    let first = asked.seeds.clone().next().unwrap_or(new);
    let time = Duration::from_secs(asked.minutes * 60);
    let totals = long_run::play(first, time, |failed| eprintln!("{failed}\n"));
    println!("from seed {first}: {totals}");
    match totals.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn bugs(names: &str) -> Result<Vec<Bug>, String> {
    if names == "all" {
        return Ok(Bug::ALL.to_vec());
    }
    let named = names.split(',').map(|name| {
        let bug = Bug::ALL.iter().find(|bug| bug.name() == name);
        bug.copied()
            .ok_or_else(|| format!("nothing called {name} can be planted"))
    });
    named.collect()
}

// Which seed finds each planted fault first, as lines for the table in `it/planted.rs`.
fn look_for(asked: &Asked) -> ExitCode {
    let all = on_two_threads(&asked.planted, |bug| {
        let found = look(*bug, asked.seeds.clone(), asked.breaks);
        let line = match &found {
            Some(of) => {
                let names: Vec<&str> = of.promises.iter().map(|promise| promise.name()).collect();
                format!(
                    "    (Bug::{}, {}, {}), // after {}, {}: {}",
                    bug.name(),
                    asked.breaks.map_or(names[0], Promise::name),
                    of.seed,
                    of.tries,
                    names.join(" "),
                    of.says
                )
            }
            None => format!("    // {} was not found", bug.name()),
        };
        println!("{line}");
        found.is_some()
    });
    match all.into_iter().all(|is_found| is_found) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn play(asked: &Asked) -> ExitCode {
    if asked.minutes > 0 {
        return play_long(asked);
    }
    let seeds = asked.seeds.clone().map(Plan::of);
    let (mut totals, begun) = (long_run::Totals::default(), Instant::now());
    for plan in asked.plan.clone().into_iter().chain(seeds) {
        if asked.shows_plan {
            println!("{}", plan.to_json());
            continue;
        }
        let options = Options {
            keeps_trace: asked.steps,
            planted: asked.planted.first().copied(),
            ..plan.options()
        };
        let report = examine(&plan, options);
        totals.add(plan.seed, &report, begun);
        if asked.traces {
            print!("{}", history::text(&report.history));
        }
        if let Some(steps) = &report.trace.all {
            print!("{steps}");
        }
        if let Some(breaks) = report.failed(&plan) {
            let breaks = match asked.shrinks {
                true => breaks.with(smallest(&plan, &report, options, TRIES_MAX)),
                false => breaks,
            };
            eprintln!("{breaks}\n");
        }
    }
    let (played, failed) = (totals.seeds, totals.failed.len());
    eprintln!("{played} played, {failed} of them break a promise");
    if asked.looks {
        println!("{totals}");
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
