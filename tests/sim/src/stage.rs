//! The stage on which a plan is played: a broker, life after life, on a disk that fails; the network in front of it; and those who use it.
//! What happened is the history, which the checker judges. When the plan is through, all that is wrong ends, what is there is consumed, and
//! the broker stops and starts once more.

mod bounds;
mod broker;
mod conditions;
mod disk_faults;
mod operator;
mod report;
mod rot;
mod told;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::subscriber::DefaultGuard;

use crate::actors::{self, Phase, Scene};
use crate::disk::{End, SimDisk};
use crate::history::{Cause, Kept, What};
use crate::life::{Machine, Sizes};
use crate::plan::{Crash, Fault, How, Moment, Plan};
use crate::scheduler::{Options, Outcome, run};
use crate::simulation::{self, Handed};
use broker::Serving;
use operator::Operator;

pub use report::{Failed, Report, examine, smallest};

/// What fits on the disk.
const ROOM_BYTES: u64 = 64 << 20;
/// How long a broker that writes nothing any more is left so before somebody restarts it, and one that does not start.
const RESTARTS_AFTER: Duration = Duration::from_secs(1);
/// How long what was wrong may be told after it.
const CLEARS_MAX: Duration = Duration::from_secs(120);
/// Starts that are tried when all is well again. What the power left unreadable is found by the first, damage by the next.
const LAST_STARTS_MAX: usize = 4;
/// How often an operator looks whether a broker has found damage, once all is well otherwise.
const TENDS_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the disk has ended a life.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether a connection was cut that is to be.
const CUT_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked whether a life needs a restart.
const FAILS_EVERY: Duration = Duration::from_millis(200);
/// How often it is looked whether everything was consumed, and how long that may take.
const DRAINS_EVERY: Duration = Duration::from_millis(50);
const DRAINS_MAX: Duration = Duration::from_secs(600);
/// How long actors have for their end.
const ENDS_MAX: Duration = Duration::from_secs(120);

/// Plays a plan. What happens is kept, also of a run that does not come to its end.
#[must_use]
pub fn play(plan: &Plan, options: Options, kept: &Kept) -> Outcome<()> {
    let (plan, kept) = (Arc::new(plan.clone()), Arc::clone(kept));
    run(options, move || async move {
        let (scene, phase) = Scene::new(plan, kept);
        Stage::new(scene, phase).play().await;
    })
}

/// Why a life is to end.
enum Ended {
    /// By plan.
    Due,
    /// The plan ends before.
    Over,
    /// It writes nothing any more, and a restart is what helps.
    Failed,
}

struct Stage {
    scene: Scene,
    machine: Machine,
    operator: Operator,
    sizes: Sizes,
    ends_at: Instant,
    lives_begun: u64,
    /// How often attempts and delays had been held back when the life that there is began.
    held_back: u64,
    /// How the disk would end the life that there is.
    armed: Cause,
    /// The next life is to start without what the last one said is lost.
    accepts: bool,
    phase: watch::Sender<Phase>,
    _listens: DefaultGuard,
}

impl Stage {
    fn new(scene: Scene, phase: watch::Sender<Phase>) -> Self {
        let seed = scene.plan.seed;
        let disk = SimDisk::new(scene.plan.disk.shape(seed, ROOM_BYTES));
        let ends_at = Instant::now() + Duration::from_millis(scene.plan.lasts_ms);
        let sizes = scene.plan.sizes();
        Self {
            machine: Machine::new(seed, disk, sizes).expect("an empty disk takes a folder"),
            scene,
            operator: Operator::default(),
            sizes,
            ends_at,
            lives_begun: 0,
            held_back: 0,
            armed: Cause::Kill,
            accepts: false,
            phase,
            _listens: told::listen(),
        }
    }

    async fn play(mut self) {
        let actors: Vec<Handed<()>> = {
            let plan = Arc::clone(&self.scene.plan);
            let actors = plan.actors.iter().map(|actor| {
                let plays = actors::play(self.scene.clone(), actor.clone());
                simulation::start("actor", plays)
            });
            actors.collect()
        };
        let faults = simulation::start(
            "faults",
            fail(self.scene.clone(), self.machine.disk.clone()),
        );
        let serving = self.lives().await;
        drop(faults);
        self.scene.network.heal();
        self.machine.disk.heal();
        self.scene.history.note("stage", What::Healed {});
        let Some(serving) = self.mended(serving).await else {
            return self.scene.history.note("stage", What::Over {});
        };
        self.scene.history.note("stage", What::Drains {});
        self.phase.send_replace(Phase::Drains);
        let Some(serving) = self.drain(serving, actors).await else {
            return self.scene.history.note("stage", What::Over {});
        };
        self.stop(serving).await;
        // What was consumed stays so.
        if let Some(serving) = self.begin().await {
            self.check_empty(&serving).await;
            self.stop(serving).await;
        }
    }

    // Lives up to the end of the plan. The last one serves.
    async fn lives(&mut self) -> Option<Serving> {
        let crashes = self.scene.plan.crashes.clone();
        for crash in crashes {
            if Instant::now() >= self.ends_at {
                break;
            }
            self.arm(crash);
            if let Some(serving) = self.begin().await {
                let ended = self.until(crash, &serving).await;
                match ended {
                    Ended::Over if !self.machine.disk.is_off() => {
                        self.disarm();
                        return Some(serving);
                    }
                    Ended::Failed if !self.machine.disk.is_off() => {
                        self.disarm();
                        self.stop(serving).await;
                    }
                    _ => self.end(serving, crash).await,
                }
            }
            sleep(Duration::from_millis(crash.back_after_ms)).await;
        }
        self.disarm();
        self.last_lives().await
    }

    // Without an end by plan; an operator restarts who does not serve.
    async fn last_lives(&mut self) -> Option<Serving> {
        loop {
            let serving = self.begin().await;
            let has_failed = || serving.as_ref().is_none_or(Serving::needs_restart);
            while Instant::now() < self.ends_at && !has_failed() {
                sleep_until(self.ends_at.min(Instant::now() + FAILS_EVERY)).await;
            }
            if Instant::now() >= self.ends_at {
                return serving;
            }
            sleep(RESTARTS_AFTER).await;
            if let Some(serving) = serving {
                self.stop(serving).await;
            }
        }
    }

    // All faults are over: whoever serves goes on, unless it was lost to one of them.
    async fn mended(&mut self, serving: Option<Serving>) -> Option<Serving> {
        if let Some(serving) = serving {
            if !serving.needs_restart() {
                return Some(serving);
            }
            self.stop(serving).await;
        }
        for _ in 0..LAST_STARTS_MAX {
            if let Some(serving) = self.begin().await {
                return Some(serving);
            }
        }
        None
    }

    fn arm(&mut self, crash: Crash) {
        let how = broker::end_of(crash.how);
        self.armed = cause(crash.how);
        if let (Moment::Operation(operation), Some(how)) = (crash.at, how) {
            let disk = &self.machine.disk;
            disk.end_at(disk.operations() + operation, how);
        }
    }

    // The disk ends no life by itself any more.
    fn disarm(&self) {
        self.machine.disk.end_at(u64::MAX, End::Killed);
    }

    // Waits until a life is to end.
    async fn until(&self, crash: Crash, serving: &Serving) -> Ended {
        let (begun, from) = (Instant::now(), self.machine.disk.operations());
        loop {
            let now = Instant::now();
            let (is_due, next) = match crash.at {
                Moment::Time(ms) => {
                    let at = begun + Duration::from_millis(ms);
                    (now >= at, at.min(now + FAILS_EVERY))
                }
                Moment::Operation(operation) => {
                    let disk = &self.machine.disk;
                    let is_due = disk.is_off() || disk.operations() >= from + operation;
                    (is_due, now + LOOK_EVERY)
                }
            };
            if is_due {
                return Ended::Due;
            }
            if now >= self.ends_at {
                return Ended::Over;
            }
            if serving.needs_restart() {
                sleep(RESTARTS_AFTER).await;
                return Ended::Failed;
            }
            sleep_until(next.min(self.ends_at)).await;
        }
    }

    // Answers who serves then.
    async fn drain(&mut self, serving: Serving, actors: Vec<Handed<()>>) -> Option<Serving> {
        let mut serving = serving;
        let until = Instant::now() + DRAINS_MAX;
        // Who has published, and heard of all of it, has ended.
        let (publishers, consumers) = {
            let plan = &self.scene.plan;
            let all = plan.actors.iter().zip(actors);
            let (publishers, consumers): (Vec<_>, Vec<_>) =
                all.partition(|(actor, _)| actor.publishes());
            let of = |actors: Vec<(_, Handed<()>)>| {
                actors
                    .into_iter()
                    .map(|(_, actor)| actor)
                    .collect::<Vec<_>>()
            };
            (of(publishers), of(consumers))
        };
        for mut publisher in publishers {
            while Instant::now() < until && timeout(TENDS_EVERY, &mut publisher).await.is_err() {
                serving = self.tend(serving).await?;
            }
        }
        self.phase.send_replace(Phase::Settles);
        // Nothing comes or goes any more, and nothing stands still.
        while Instant::now() < until && timeout(TENDS_EVERY, &mut serving.operator).await.is_err() {
            serving = self.tend(serving).await?;
        }
        let all = self.scene.plan.subscriptions.iter();
        let routes = self.scene.plan.routes.iter().map(|of| &*of.name);
        // What a route takes goes on to others.
        let there = routes
            .chain(all.map(|of| &*of.name))
            .filter(|name| serving.is_there(name));
        let there: Vec<String> = there.map(str::to_owned).collect();
        let mut left = there.clone();
        while !left.is_empty() && Instant::now() < until {
            serving = self.tend(serving).await?;
            // What one has given up another holds then.
            let holds = |name: &&String| serving.is_there(name) && serving.depth(name) != Some(0);
            left = there.iter().filter(holds).cloned().collect();
            sleep(DRAINS_EVERY).await;
        }
        for name in there.iter().filter(|name| !left.contains(name)) {
            let subscription = name.as_str().into();
            self.scene
                .history
                .note("stage", What::Drained { subscription });
        }
        let until = Instant::now() + CLEARS_MAX;
        while serving.is_unwell() && Instant::now() < until {
            serving = self.tend(serving).await?;
            sleep(DRAINS_EVERY).await;
        }
        self.phase.send_replace(Phase::Ends);
        for consumer in consumers {
            let _ = timeout(ENDS_MAX, consumer).await;
        }
        self.scene.history.note("stage", What::Over {});
        Some(serving)
    }

    // What an operator does about damage that a broker has found since it started: gives up what generations have lost, and restarts for
    // the rest, without what is lost. Answers who serves then.
    async fn tend(&mut self, serving: Serving) -> Option<Serving> {
        if !serving.has_damage() {
            return Some(serving);
        }
        self.give_up(&serving).await;
        if !serving.has_damage() {
            return Some(serving);
        }
        self.stop(serving).await;
        self.accepts = true;
        self.mended(None).await
    }
}

// Lets go wrong what the plan says, when it says so.
async fn fail(scene: Scene, disk: SimDisk) {
    let begun = Instant::now();
    for timed in &scene.plan.faults {
        sleep_until(begun + Duration::from_millis(timed.after_ms)).await;
        let Some(lasts_ms) = inject(&scene, &disk, &timed.does) else {
            continue;
        };
        let what = timed.does.clone();
        let until_ms = scene.history.now_ms().saturating_add(lasts_ms);
        scene
            .history
            .note("stage", What::Troubled { what, until_ms });
        if let Fault::CutAfter { actor, .. } = &timed.does {
            let lifts = lifts(scene.clone(), actor.clone(), timed.does.clone());
            drop(simulation::start("cut", lifts).detached());
        }
    }
}

// Says that a connection was cut, once it was.
async fn lifts(scene: Scene, actor: String, what: Fault) {
    while scene.network.is_to_be_cut(&actor) {
        sleep(CUT_EVERY).await;
    }
    scene.history.note("stage", What::Lifted { what });
}

// How long it lasts; `None` if it does not happen.
fn inject(scene: &Scene, disk: &SimDisk, fault: &Fault) -> Option<u64> {
    use crate::network::Direction::{Down, Up};
    let network = &scene.network;
    let direction = |is_up: bool| if is_up { Up } else { Down };
    match fault {
        Fault::Cut { actor } => network.cut(actor),
        Fault::CutAfter {
            actor,
            is_up,
            bytes,
        } => {
            network.cut_after(actor, direction(*is_up), *bytes);
            return Some(u64::MAX / 2);
        }
        Fault::Outage {
            actor,
            is_up,
            lasts_ms,
        } => {
            let lasts = Duration::from_millis(*lasts_ms);
            network.outage(actor, is_up.map(direction), lasts);
            return Some(*lasts_ms);
        }
        Fault::Slow { actor, factor } => {
            network.slow(actor, *factor);
            return Some(u64::MAX / 2);
        }
        Fault::Refuse { actor, times } => network.refuse(actor, *times),
        Fault::Close { actor } => network.close(actor),
        Fault::SlowDisk { factor } => {
            disk.slow(*factor);
            return Some(u64::MAX / 2);
        }
        Fault::Disk(fault) => return disk_faults::inject(disk, fault),
        Fault::Rot(rot) => return rot::rot(disk, rot).map(|_| u64::MAX / 2),
    }
    Some(0)
}

fn cause(how: How) -> Cause {
    match how {
        How::Power(_) => Cause::Power,
        How::Stop | How::Kill => Cause::Kill,
    }
}
