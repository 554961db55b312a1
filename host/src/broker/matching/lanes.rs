//! The lanes of the filter plugins in use: a common one for each plugin, and wards beside it. Opens and closes them, passes on what
//! they are to know, and pauses whoever a lane that died judged for. What a lane does is not known here.
//!
//! The common lane of a plugin does not look for who is to blame when a call fails: the members that were asked leave it for a ward
//! ([`super::isolation_lanes`]), which is a lane too, and the only kind that looks. Members that are sound there for long come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tracing::{Instrument as _, error_span};

use super::isolation_lanes::{LaneId, Stay, Wards};
use super::lane::command::{LaneCommand, Member};
use super::lane::{Lane, LaneParts, Neighbours};
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{Digest, SubscriptionId};
use crate::locks::lock;
use crate::state::filter_chain::FilterChain;
use crate::telemetry::conditions::Condition;

/// So much of a plugin's digest tells it from others: `sha256:` and twelve digits.
const DIGEST_SHOWN: usize = 19;

/// All lanes. Shared by whoever starts and ends subscriptions.
pub(crate) struct Lanes {
    parts: LaneParts,
    running: Mutex<Running>,
    // Lanes that died and were not started anew, by what they are called where that is shown.
    dead: Mutex<FxHashMap<LaneId, String>>,
}

// The lanes there are.
#[derive(Default)]
struct Running {
    // In an order that can be repeated, since it is that in which they are told.
    common: BTreeMap<Digest, mpsc::UnboundedSender<LaneCommand>>,
    wards: Wards<mpsc::UnboundedSender<LaneCommand>>,
}

impl Lanes {
    pub(crate) fn new(parts: LaneParts) -> Arc<Self> {
        Arc::new(Self {
            parts,
            running: Mutex::default(),
            dead: Mutex::default(),
        })
    }

    /// Starts to filter for a subscription with the chain that judges now, from where its state says, and lets the filters
    /// of those before it go.
    pub(crate) fn start(self: &Arc<Self>, live: &Arc<LiveSubscription>, chain: &Arc<FilterChain>) {
        if chain.revision > 0 {
            self.tell_all(&LaneCommand::Retire(live.id));
        }
        for (stage, used) in chain.filters.iter().enumerate() {
            let member = Member {
                live: live.clone(),
                chain: chain.clone(),
                stage,
                stay: Stay::default(),
            };
            if let Some(digest) = used.digest {
                let label = self.parts.label(live, used);
                self.add(digest, &label, member);
            }
        }
    }

    /// Stops filtering for a subscription that was deleted.
    pub(crate) fn stop(&self, subscription: SubscriptionId) {
        self.tell_all(&LaneCommand::Remove(subscription));
    }

    /// Lets a paused subscription go on.
    pub(crate) fn resume(&self, live: &LiveSubscription) {
        self.tell_all(&LaneCommand::Resume(live.id));
    }

    // A few lanes for each filter plugin in use, so telling those that it does not concern costs little.
    fn tell_all(&self, command: &LaneCommand) {
        let running = lock(&self.running);
        for lane in running.common.values().chain(running.wards.lanes()) {
            // A lane that has died is told of in another way.
            let _ = lane.send(command.clone());
        }
    }

    fn add(self: &Arc<Self>, digest: Digest, label: &str, member: Member) {
        let mut running = lock(&self.running);
        // Whoever was in a ward that died starts in the common lane again.
        self.forget_deaths_of(|id| id.digest == digest && id.is_apart());
        let _ = self
            .common(&mut running, digest, label)
            .send(LaneCommand::Add(member));
    }

    fn common<'r>(
        self: &Arc<Self>,
        running: &'r mut Running,
        digest: Digest,
        label: &str,
    ) -> &'r mpsc::UnboundedSender<LaneCommand> {
        let lane = running.common.entry(digest);
        lane.or_insert_with(|| self.open(LaneId::common(digest), label))
    }

    fn open(self: &Arc<Self>, id: LaneId, label: &str) -> mpsc::UnboundedSender<LaneCommand> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let others = Arc::new(Others(self.clone()));
        let lane = Lane::new(self.parts.clone(), others, id, label.to_owned(), inbox);
        self.forget_deaths_of(|dead| *dead == id);
        let (this, name) = (self.clone(), lane_name(label, id));
        let task = name.clone();
        let died = move |why: &str| this.lane_died(id, name, why);
        // Of the highest level, so that it is there whichever lines are written.
        let span = error_span!("lane", plugin = %label, ward = id.ward);
        let run = lane.run().instrument(span);
        self.parts.spawner.resumable(task, run, died);
        commands
    }

    // Its subscriptions would wait for verdicts for ever. They are paused, which is seen, and resuming one starts a lane anew.
    fn lane_died(&self, id: LaneId, name: String, why: &str) {
        let digest = id.digest;
        lock(&self.dead).insert(id, name);
        let owners = {
            let mut running = lock(&self.running);
            if !id.is_apart() {
                running.common.remove(&digest);
            }
            running.wards.close(id)
        };
        let may_be_there = |live: &&Arc<LiveSubscription>| {
            let whose = || live.settings().spec.responsible().cloned();
            live.is_judged_by(digest) && (!id.is_apart() || owners.contains(&whose()))
        };
        let subscriptions = self.parts.registry.all();
        for live in subscriptions.iter().filter(may_be_there) {
            // Its other lanes are started anew with it.
            self.tell_all(&LaneCommand::Remove(live.id));
            self.parts
                .registry
                .pause_unfed(live, &format!("a filter's lane: {why}"));
        }
        // The last one that it judged for may have gone at the same time.
        self.forget_deaths();
    }

    /// A dead lane is nothing that is wrong once nobody is judged by it any more.
    pub(crate) fn forget_deaths(&self) {
        if lock(&self.dead).is_empty() {
            return;
        }
        let subscriptions = self.parts.registry.all();
        self.forget_deaths_of(|dead| {
            !subscriptions
                .iter()
                .any(|live| live.is_judged_by(dead.digest))
        });
    }

    fn forget_deaths_of(&self, is_over: impl Fn(&LaneId) -> bool) {
        let mut dead = lock(&self.dead);
        for (_, name) in dead.extract_if(|id, _| is_over(id)) {
            let died = Condition::TaskDied(name.into());
            self.parts.spawner.conditions().clear(&died);
        }
    }
}

// A lane's way to the others: it keeps them alive as long as it runs.
struct Others(Arc<Lanes>);

impl Neighbours for Others {
    fn hand_over(
        &self,
        id: LaneId,
        label: &str,
        members: Vec<Member>,
        nothing_said: &dyn Fn() -> bool,
    ) -> bool {
        let lanes = &self.0;
        let mut running = lock(&lanes.running);
        if !nothing_said() {
            return false;
        }
        for mut member in members {
            let next = if id.is_apart() {
                lanes.common(&mut running, id.digest, label)
            } else {
                reached!(FilterSetApart);
                member.stay.begin();
                let open = |id| lanes.open(id, label);
                running.wards.of(id.digest, &member.whose(), open)
            };
            let _ = next.send(LaneCommand::Move(member));
        }
        true
    }

    fn close(&self, id: LaneId, nothing_said: &dyn Fn() -> bool) -> bool {
        let mut running = lock(&self.0.running);
        let nobody_comes = nothing_said();
        if nobody_comes && id.is_apart() {
            running.wards.close(id);
        } else if nobody_comes {
            running.common.remove(&id.digest);
        }
        nobody_comes
    }
}

// Several versions of a plugin may have a lane, and be called the same by those who use them.
fn lane_name(label: &str, id: LaneId) -> String {
    let digest = id.digest.to_string();
    let short = digest.get(..DIGEST_SHOWN).unwrap_or(&digest);
    match id.ward {
        None => format!("lane of {label} ({short})"),
        Some(number) => format!("lane of {label} ({short}), ward {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_several_versions_are_told_apart() {
        let name = |byte| lane_name("scrub", LaneId::common(Digest([byte; 32])));
        assert_eq!(name(0xab), "lane of scrub (sha256:abababababab)");
        assert_ne!(name(1), name(2));
        let ward = LaneId {
            ward: Some(3),
            ..LaneId::common(Digest([0xab; 32]))
        };
        let ward = lane_name("scrub", ward);
        assert_eq!(ward, "lane of scrub (sha256:abababababab), ward 3");
    }
}
