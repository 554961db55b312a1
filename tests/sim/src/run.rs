//! A whole run: a broker that is published to and consumed from, life after life, while its disk loses power. What was seen is kept as a
//! history, one line an entry, and what broke a promise as words.

mod clients;
mod record;

use std::time::Duration;

use serde_json::json;
use tidegate_simulated::domain::Principal;
use tokio::time::{Instant, sleep};

use crate::disk::{End, Shape, SimDisk};
use crate::life::{Life, Machine, Sizes};
use crate::scheduler::{Options, Outcome, kill, mix, new_owner, run, start_owned, text};
use record::Record;

/// What events are published to, and what they are consumed from.
const TOPIC: &str = "orders.new";
const SUBSCRIPTION: &str = "shipping";
/// How often it is looked whether a life has ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long the last life may take to hand out what is pending.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// What a run is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What is drawn follows from this.
    pub seed: u64,
    /// Lives in which it is published, before the last.
    pub lives: u64,
    /// Whether the power goes in them.
    pub is_cut: bool,
    /// Events that are published in each.
    pub events: u64,
    /// How large everything is.
    pub sizes: Sizes,
    /// How its disk is.
    pub shape: Shape,
}

impl Plan {
    /// The one of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let draw = |what: &str, among: u64| mix(&[seed, text(what)]) % among;
        let sector = if draw("sector", 4) == 0 { 4_096 } else { 512 };
        let latency = [0, 200, 3_000][usize::try_from(draw("latency", 3)).unwrap_or_default()];
        Self {
            seed,
            lives: 1 + draw("lives", 4),
            is_cut: true,
            events: 1 + draw("events", 60),
            sizes: Sizes::of(seed),
            shape: Shape {
                room: 16 << 20,
                sector,
                latency_max: Duration::from_micros(latency),
                ..Shape::of(seed)
            },
        }
    }

    fn draw(&self, what: &str, number: u64, among: u64) -> u64 {
        mix(&[self.seed, text(what), number]) % among.max(1)
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was seen, in order.
    pub history: Vec<String>,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

/// Makes a run.
///
/// # Panics
///
/// As [`scheduler::run`](crate::scheduler::run).
#[must_use]
pub fn simulate(plan: Plan, options: Options) -> Outcome<Report> {
    run(options, move || async move {
        let record = Record::new();
        let disk = SimDisk::new(plan.shape);
        let machine = Machine::new(plan.seed, disk, plan.sizes);
        let mut machine = machine.expect("a new disk is sound");
        for number in 0..plan.lives {
            short_life(&plan, number, &mut machine, &record).await;
        }
        last_life(&mut machine, &record).await;
        record.report()
    })
}

// A life that the power ends, or somebody does before that.
async fn short_life(plan: &Plan, number: u64, machine: &mut Machine, record: &Record) {
    let how = End::ALL[usize::try_from(plan.draw("end", number, 5)).unwrap_or_default()];
    let operations = plan.draw("power", number, 600);
    if plan.is_cut {
        let at = machine.disk.operations() + 1 + operations;
        machine.disk.end_at(at, how);
    }
    let Some(life) = begin(machine, record).await else {
        return;
    };
    let clients = new_owner();
    let consumer = clients::consume(life.broker.clone(), record.clone());
    let publisher = clients::publish(life.broker.clone(), *plan, number, record.clone());
    let ready = clients::ready(life.broker.clone(), record.clone());
    let work = async move {
        if ready.await {
            let _consumer = start_owned(clients, "consumer", consumer);
            start_owned(clients, "publisher", publisher).await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut work = start_owned(clients, "clients", work).detached();
    let mut is_done = false;
    while !machine.disk.is_off() && !is_done {
        is_done = tokio::time::timeout(LOOK_EVERY, &mut work).await.is_ok();
    }
    kill(clients);
    let is_cut = plan.is_cut && plan.draw("stop", number, 2) == 0;
    match machine.disk.is_off() || is_cut {
        true => {
            record.say(&format!("cut {how:?}"));
            machine.cut(life, how);
        }
        false => {
            machine.stop(life).await;
            record.say("stopped");
        }
    }
}

// A life in which all that is pending is consumed, and then another that has nothing to do.
async fn last_life(machine: &mut Machine, record: &Record) {
    let Some(life) = begin(machine, record).await else {
        return;
    };
    let clients = new_owner();
    if clients::ready(life.broker.clone(), record.clone()).await {
        let consumer = clients::consume(life.broker.clone(), record.clone());
        let consumer = start_owned(clients, "consumer", consumer);
        let until = Instant::now() + DRAIN_MAX;
        while life.depth(SUBSCRIPTION) != Some(0) && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
        // What was acked is confirmed by then.
        sleep(Duration::from_secs(1)).await;
        record.say(&format!("depth {:?}", life.depth(SUBSCRIPTION)));
        drop(consumer);
    }
    record.nothing_is_lost();
    machine.stop(life).await;
    record.say("stopped");
    if let Some(life) = begin(machine, record).await {
        let depth = life.known_depth(SUBSCRIPTION).await;
        record.say(&format!("depth {depth:?}"));
        machine.stop(life).await;
        record.say("stopped");
    }
}

// On an honest disk a start is only refused where the power goes during it.
async fn begin(machine: &mut Machine, record: &Record) -> Option<Life> {
    match machine.begin().await {
        Ok(life) => {
            record.say("begins");
            Some(life)
        }
        Err(why) if machine.disk.has_gone() => {
            record.say(&format!("is cut at its start: {why}"));
            None
        }
        Err(why) => {
            record.breaks(&format!("a start on a sound disk is refused: {why}"));
            None
        }
    }
}

fn local() -> Principal {
    Principal::local()
}

fn subscription() -> serde_json::Value {
    json!({"name": SUBSCRIPTION, "topics": ["orders.>"]})
}
