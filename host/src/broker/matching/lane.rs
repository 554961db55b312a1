//! A plugin lane: one task for a filter plugin in use, with a cursor of its own over the log. It takes the next events of the
//! topics its rules care about and calls the plugin once per batch for all subscriptions that use it. A slow plugin delays its own
//! lane and nothing else; a late lane reads from the store and pins nothing.
//!
//! A lane's members move in cohorts that share a cursor. A subscription that starts in the past, or was paused,
//! is a cohort of its own beside the live one and joins it where their cursors meet; so is one whose rule could not be tried on
//! an event yet, which rests there while the others go on. A member belongs to one filter chain of its subscription and leaves at
//! the fence of the next; that one's members are added when all of the first have got there.
//!
//! Here is what a lane has, and who is in it; `run` is what it does next, and `call_filter` what a cohort does in its turn. What lanes there
//! are is not known here.

mod call_filter;
pub(super) mod cohort;
pub(super) mod command;
mod run;
mod verdicts;

use std::sync::{Arc, RwLock};

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::cohort::Cohort;
use self::command::{LaneCommand, Member};
use self::verdicts::Verdicts;
use super::isolation_lanes::LaneId;
use crate::auth::Policy;
use crate::broker::counters::Counters;
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{Name, PluginUse, Position};
use crate::locks::read;
use crate::plugin::{ConfigureError, FilterGroup, Plugins, RuleKey};
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;
use crate::telemetry::error_line::with_causes;

/// What a lane needs of the broker.
#[derive(Clone)]
pub(crate) struct LaneParts {
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) catalog: Arc<RwLock<Catalog>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) spawner: Spawner,
    pub(crate) shutdown: CancellationToken,
}

impl LaneParts {
    /// What the plugin is called for whoever uses it there.
    pub(super) fn label(&self, live: &LiveSubscription, used: &PluginUse) -> String {
        let spec = &live.settings().spec;
        let catalog = read(&self.catalog);
        catalog.plugin_label(&self.policy, spec.responsible(), used)
    }
}

/// The other lanes, as one of them knows them.
pub(super) trait Neighbours: Send + Sync {
    /// Hands members of the lane at `id` over: from the common one to wards, from a ward to the common one. False when
    /// something was said to the lane that it has not heard yet: it might concern them, and the lane they go to was told before
    /// they are there.
    fn hand_over(
        &self,
        id: LaneId,
        label: &str,
        members: Vec<Member>,
        nothing_said: &dyn Fn() -> bool,
    ) -> bool;

    /// Whether a lane that has nobody left may end: nobody is on the way to it.
    fn close(&self, id: LaneId, nothing_said: &dyn Fn() -> bool) -> bool;
}

/// A lane at work.
pub(super) struct Lane {
    parts: LaneParts,
    neighbours: Arc<dyn Neighbours>,
    id: LaneId,
    label: String,
    commands: mpsc::UnboundedReceiver<LaneCommand>,
    end: watch::Receiver<Position>,
    group: Option<FilterGroup>,
    members: FxHashMap<RuleKey, Member>,
    // Of the step at hand; empty between steps.
    verdicts: Verdicts,
    next_key: u64,
    cohorts: Vec<Cohort>,
    // Members whose subscription is paused at an event their rule failed on.
    parked: Vec<RuleKey>,
    // Members that go on in another lane of the plugin.
    leaving: Vec<RuleKey>,
    // Members whose rule could not be set up; their subscription is paused.
    failed: Vec<Member>,
    // Members for whom there is no plugin yet, for no fault of it; they are added again and again.
    awaiting: Vec<Member>,
}

impl Lane {
    pub(super) fn new(
        parts: LaneParts,
        neighbours: Arc<dyn Neighbours>,
        id: LaneId,
        label: String,
        commands: mpsc::UnboundedReceiver<LaneCommand>,
    ) -> Self {
        Self {
            end: parts.log.watch_end(),
            parts,
            neighbours,
            id,
            label,
            commands,
            group: None,
            members: FxHashMap::default(),
            verdicts: Verdicts::default(),
            next_key: 1,
            cohorts: Vec::new(),
            parked: Vec::new(),
            leaving: Vec::new(),
            failed: Vec::new(),
            awaiting: Vec::new(),
        }
    }

    async fn obey(&mut self, command: LaneCommand) {
        match command {
            // Deleted before its start was noticed.
            LaneCommand::Add(member) | LaneCommand::Move(member) if member.live.is_deleted() => {}
            LaneCommand::Add(member) => self.add(member).await,
            LaneCommand::Move(member) => self.take_in(member).await,
            LaneCommand::Retire(id) => {
                let retired = |member: &Member| {
                    member.live.id == id && member.chain.revision < member.live.read().revision()
                };
                self.forget_not_set_up(retired);
                self.release(retired).await;
            }
            LaneCommand::Remove(id) => {
                let removed = |member: &Member| member.live.id == id;
                self.forget_not_set_up(removed);
                self.release(removed).await;
            }
            LaneCommand::Resume(id) => {
                let (again, failed) = std::mem::take(&mut self.failed)
                    .into_iter()
                    .partition(|member| member.live.id == id);
                self.failed = failed;
                for member in again {
                    self.add(member).await;
                }
                let (resumed, parked) = std::mem::take(&mut self.parked)
                    .into_iter()
                    .partition(|key| self.members.get(key).is_some_and(|m| m.live.id == id));
                self.parked = parked;
                for key in resumed {
                    self.join(key).await;
                }
            }
        }
    }

    // Forgets members for whom the plugin keeps nothing.
    fn forget_not_set_up(&mut self, goes: impl Fn(&Member) -> bool) {
        self.failed.retain(|member| !goes(member));
        self.awaiting.retain(|member| !goes(member));
    }

    // Forgets members and frees what the plugin keeps for them.
    async fn release(&mut self, goes: impl Fn(&Member) -> bool) {
        let gone: Vec<RuleKey> = self
            .members
            .iter()
            .filter(|(_, member)| goes(member))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.drop_member(key).await;
        }
    }

    async fn drop_member(&mut self, key: RuleKey) {
        self.members.remove(&key);
        self.verdicts.forget(key);
        self.leave_cohort(key);
        self.parked.retain(|parked| *parked != key);
        self.leaving.retain(|leaving| *leaving != key);
        if let Some(group) = &mut self.group {
            group.remove(key).await;
        }
        if self.members.is_empty() {
            // Its instances with it.
            self.group = None;
        }
    }

    async fn add(&mut self, member: Member) {
        let Some(used) = member.chain.filters.get(member.stage) else {
            return;
        };
        let config = used.config.clone();
        if member.next().is_none() {
            return;
        }
        let key = RuleKey(self.next_key);
        self.next_key += 1;
        match self.configure(key, &config, &member.live.name).await {
            Ok(()) => {
                self.members.insert(key, member);
                self.join(key).await;
            }
            // No fault of the rule: it waits with its events.
            Err(error)
                if error.is_passing()
                    && let Some(group) = &mut self.group =>
            {
                let subscription = member.live.name.as_str();
                group.add_later(key, &config, subscription).await;
                self.members.insert(key, member);
                self.join(key).await;
            }
            Err(error) => self.cannot_set_up(member, &error),
        }
    }

    // The rule was configured in another lane, so nothing has to be found out about that.
    async fn take_in(&mut self, member: Member) {
        let Some(used) = member.chain.filters.get(member.stage) else {
            return;
        };
        let config = used.config.clone();
        let key = RuleKey(self.next_key);
        self.next_key += 1;
        match self.group().await {
            Ok(group) => {
                let subscription = member.live.name.as_str();
                group.add_later(key, &config, subscription).await;
                self.members.insert(key, member);
                self.join(key).await;
            }
            Err(error) => self.cannot_set_up(member, &error),
        }
    }

    async fn add_awaiting(&mut self) {
        for member in std::mem::take(&mut self.awaiting) {
            self.add(member).await;
        }
    }

    fn cannot_set_up(&mut self, member: Member, error: &ConfigureError) {
        if error.is_passing() {
            return self.awaiting.push(member);
        }
        let reason = with_causes(error);
        tracing::error!(subscription = %member.live.name, reason, "a filter cannot be set up; the subscription is paused");
        if member.pause(&reason) {
            self.failed.push(member);
        }
    }

    async fn configure(
        &mut self,
        key: RuleKey,
        config: &str,
        subscription: &Name,
    ) -> Result<(), ConfigureError> {
        let group = self.group().await?;
        group.add(key, config, subscription.as_str()).await
    }

    async fn group(&mut self) -> Result<&mut FilterGroup, ConfigureError> {
        if self.group.is_none() {
            let (plugins, digest) = (&self.parts.plugins, &self.id.digest);
            let group = match self.id.is_apart() {
                false => plugins.common_filter_group(digest, &self.label)?,
                true => plugins.filter_group(digest, &self.label)?,
            };
            self.group = Some(group);
        }
        self.group
            .as_mut()
            .ok_or(ConfigureError::NotLoaded(self.id.digest))
    }

    // Adds a member to those that look at events, if there is one left for it.
    async fn join(&mut self, key: RuleKey) {
        let Some(cursor) = self.members.get(&key).and_then(Member::next) else {
            return self.drop_member(key).await;
        };
        self.join_at(key, cursor, None);
    }

    // With those who are there and rest as long.
    fn join_at(&mut self, key: RuleKey, cursor: Position, rests_until: Option<Instant>) {
        let same =
            |cohort: &&mut Cohort| cohort.cursor == cursor && cohort.rests_until == rests_until;
        match self.cohorts.iter_mut().find(same) {
            Some(cohort) => cohort.push(key),
            None => {
                let mut cohort = Cohort::new(cursor, rests_until);
                cohort.push(key);
                self.cohorts.push(cohort);
            }
        }
    }

    fn leave_cohort(&mut self, key: RuleKey) {
        for cohort in &mut self.cohorts {
            if let Some(index) = cohort.rules.iter().position(|rule| *rule == key) {
                cohort.rules.swap_remove(index);
                cohort.by_topic.clear();
            }
        }
        self.cohorts.retain(|cohort| !cohort.rules.is_empty());
    }
}
