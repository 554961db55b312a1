//! Lives of the broker, as the stage begins and ends them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate_simulated::auth::Policy;
use tidegate_simulated::broker::Broker;
use tidegate_simulated::domain::Principal;
use tidegate_simulated::net::{Door, SessionOptions};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::conditions::Watch;
use super::disk_faults;
use super::operator::OPERATOR;
use super::{Stage, bounds, cause, told};
use crate::actors::ADDRESS;
use crate::checker::MAY_BE_ACCEPTED;
use crate::disk::{End, SimDisk};
use crate::history::{Text, What};
use crate::life::Life;
use crate::network::SimListener;
use crate::plan::payload::hash;
use crate::plan::{Crash, How, Subscription};
use crate::scheduler::{mix, start_owned};
use crate::simulation::{self, Handed, State, times_reached};

/// How long sessions have for their end: a little longer than they take at most.
const SESSIONS_MAX: Duration = Duration::from_secs(12);

/// A life that serves.
pub(super) struct Serving {
    number: u64,
    life: Life,
    shutdown: CancellationToken,
    accepts: Handed<()>,
    pub(super) operator: Handed<()>,
    watch: Watch,
    watches: Handed<()>,
    gauges: Handed<()>,
}

impl Serving {
    /// Whether it says that anything is wrong.
    pub(super) fn is_unwell(&self) -> bool {
        self.watch.look()
    }

    /// Whether it writes nothing before a restart.
    pub(super) fn needs_restart(&self) -> bool {
        self.watch.needs_restart()
    }

    /// See [`Life::depth`].
    pub(super) fn depth(&self, subscription: &str) -> Option<u64> {
        self.life.depth(subscription)
    }

    /// Whether it has found damage that it cannot read.
    pub(super) fn has_damage(&self) -> bool {
        let unreadable = self.life.broker.unreadable();
        unreadable.iter().any(|one| one.damage)
    }

    /// Whether there is such a subscription.
    pub(super) fn is_there(&self, subscription: &str) -> bool {
        self.life.broker.find(subscription).is_ok()
    }
}

/// How the disk sees that a life ends; one that is told to stop ends by itself.
pub(super) fn end_of(how: How) -> Option<End> {
    let power = [End::Mild, End::Usual, End::Ordered, End::Cruel];
    match how {
        How::Stop => None,
        How::Kill => Some(End::Killed),
        How::Power(n) => Some(power[usize::try_from(n % 4).unwrap_or_default()]),
    }
}

impl Stage {
    /// Begins a life. `None` if it was ended meanwhile, or refused to start.
    pub(super) async fn begin(&mut self) -> Option<Serving> {
        let number = self.lives_begun + 1;
        self.lives_begun = number;
        self.held_back = times_reached(State::ReturnsHeld);
        // Without its folders a broker that starts would begin anew.
        self.machine.disk.move_back();
        self.note_torn();
        self.note_image(number);
        disk_faults::note_struck(&self.machine.disk, &self.scene.history);
        let accepts = std::mem::take(&mut self.accepts);
        if accepts {
            self.note(What::Accepts { life: number });
        }
        self.note(What::Starts { life: number });
        let begun = self.machine.begin(accepts).await;
        self.note_losses();
        let life = match begun {
            Ok(life) => life,
            Err(_) if self.machine.disk.has_gone() => {
                disk_faults::note_struck(&self.machine.disk, &self.scene.history);
                self.accepts = accepts;
                self.note(What::Crashed {
                    life: number,
                    cause: self.armed,
                });
                return None;
            }
            Err(why) => {
                self.accepts = accepts || why.contains(MAY_BE_ACCEPTED);
                let why = why.into();
                disk_faults::note_struck(&self.machine.disk, &self.scene.history);
                self.note(What::Refuses { life: number, why });
                self.note_image(number);
                self.rescue();
                return None;
            }
        };
        let interval_ms = self.sizes.interval_ms;
        // A start whose disk went with its last steps may have passed over that it did, and serves nobody any more.
        if !self.machine.disk.has_gone() {
            self.note(What::Serves {
                life: number,
                interval_ms,
            });
        }
        let shutdown = CancellationToken::new();
        let listener = self.scene.network.listen(ADDRESS);
        let accepts = accept(listener, life.broker.clone(), shutdown.clone());
        let accepts = start_owned(life.owner(), "accepts", accepts);
        let operator = self.operator.clone();
        let operator =
            operator.operate(self.scene.clone(), life.broker.clone(), self.phase.clone());
        let operator = start_owned(life.owner(), "operator", operator);
        let history = self.scene.history.clone();
        let watch = Watch::new(history, life.broker.clone(), self.machine.disk.clone());
        let watches = start_owned(life.owner(), "watches", watch.clone().run());
        let (history, disk) = (self.scene.history.clone(), self.machine.disk.clone());
        let journal_bytes_max = bounds::journal_bytes_max(self.sizes, &self.scene.plan);
        let gauges = bounds::watch(history, life.broker.clone(), disk, journal_bytes_max);
        let gauges = start_owned(life.owner(), "gauges", gauges);
        Some(Serving {
            number,
            life,
            shutdown,
            accepts,
            operator,
            watch,
            watches,
            gauges,
        })
    }

    /// Ends a life as the plan says.
    pub(super) async fn end(&mut self, serving: Serving, crash: Crash) {
        let Some(how) = end_of(crash.how).filter(|_| crash.how != How::Stop) else {
            return self.stop(serving).await;
        };
        let Serving { number, life, .. } = serving;
        let cause = cause(crash.how);
        disk_faults::note_struck(&self.machine.disk, &self.scene.history);
        if times_reached(State::ReturnsHeld) > self.held_back {
            self.note(What::HeldBack {});
        }
        self.note(What::Crashed {
            life: number,
            cause,
        });
        self.scene.history.note(OPERATOR, What::Dies {});
        self.scene.network.crash(ADDRESS);
        self.machine.cut(life, how);
    }

    /// Tells a life to stop, and waits until it has.
    pub(super) async fn stop(&self, serving: Serving) {
        let Serving {
            number,
            life,
            shutdown,
            accepts,
            operator,
            watch,
            watches,
            gauges,
        } = serving;
        self.note(What::Stops { life: number });
        drop(operator);
        self.scene.history.note(OPERATOR, What::Dies {});
        shutdown.cancel();
        // Which is over when all sessions have ended, or been left.
        let _ = accepts.ended().await;
        self.machine.stop(life).await;
        // What ended before it should have while the broker stopped is told by its conditions only.
        drop((watches, gauges));
        watch.last_look();
        self.note(What::Stopped { life: number });
    }
}

impl Stage {
    /// Has the broker give up what generations have lost.
    pub(super) async fn give_up(&self, serving: &Serving) {
        // What it gave up is in its log, too.
        let _ = serving.life.broker.give_up_unreadable(false).await;
        self.note_losses();
    }

    // What the broker says that it goes on without.
    fn note_losses(&self) {
        for what in told::take() {
            let what = what.into();
            self.note(What::Loses { what });
        }
    }

    pub(super) fn note(&self, what: What) {
        self.scene.history.note("broker", what);
    }

    // What the power left that cannot be read.
    fn note_torn(&self) {
        let files = self.machine.disk.unreadable();
        if !files.is_empty() {
            let files = names(&files);
            self.note(What::Torn { files });
        }
    }

    // What an operator does about a disk that never reads a sector again, as the book says: copies the files without it.
    fn rescue(&self) {
        let files = self.machine.disk.rescue();
        if !files.is_empty() {
            let files = names(&files);
            self.note(What::Rescued { files });
        }
    }

    fn note_image(&self, life: u64) {
        let digest = image(&self.machine.disk);
        self.note(What::Image { life, digest });
    }

    /// What is consumed stays so, over a start.
    pub(super) async fn check_empty(&self, serving: &Serving) {
        for Subscription { name, .. } in &self.scene.plan.subscriptions {
            if serving.is_there(name)
                && let Some(1..) = serving.life.known_depth(name).await
            {
                let subscription = name.as_str().into();
                self.note(What::CameBack { subscription });
            }
        }
    }
}

fn names(files: &[PathBuf]) -> Text {
    let names: Vec<String> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(",").into()
}

// A number that depends on all that is on a disk.
fn image(disk: &SimDisk) -> u64 {
    let image = disk.image();
    let entries = image.iter().map(|(path, content)| {
        let path = hash(path.to_string_lossy().as_bytes());
        match content {
            None => mix(&[path]),
            Some(content) => mix(&[path, hash(content)]),
        }
    });
    entries.fold(0, |digest, entry| mix(&[digest, entry]))
}

// Takes connections until the broker is told to stop, and then waits for their sessions.
async fn accept(listener: SimListener, broker: Broker, shutdown: CancellationToken) {
    let door = Door::open(
        SessionOptions::default(),
        policy(),
        broker,
        shutdown.clone(),
    );
    let remote = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
    let mut sessions: Vec<Handed<()>> = Vec::new();
    loop {
        let incoming = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            incoming = listener.accept() => incoming,
        };
        let door = door.clone();
        let serves = async move {
            door.serve(incoming.connection, Principal::local(), remote)
                .await;
        };
        sessions.push(simulation::start("session", serves));
    }
    let until = Instant::now() + SESSIONS_MAX;
    for session in sessions {
        let _ = timeout_at(until, session).await;
    }
}

fn policy() -> Arc<Policy> {
    let grant = json!({
        "principals": ["local"], "publish": [">"], "subscribe": [">"], "admin": [">"],
    });
    let grant = serde_json::from_value(grant).expect("a grant");
    Arc::new(Policy::new(vec![grant]))
}
