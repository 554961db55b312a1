//! Group evaluation: the rules of many subscriptions on one filter plugin, evaluated together. A group is owned by
//! one lane; the work itself runs on the plugin threads. Who gets what after a failure is the caller's business, and when what was
//! not tried is tried again, too.

mod part_outcome;
mod quarantine;
mod replica;
mod shard;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::part_outcome::PartOutcome;
use self::quarantine::Quarantined;
use self::replica::Replica;
use self::shard::Shard;
use super::backoff::Backoff;
use super::call_input::parse;
use super::counters::Gauge;
use super::error::ConfigureError;
use super::evaluation::{Evaluation, FilterFailure, InputEvent, RuleKey};
use super::guest_fault::{Fault, FaultKind};
use super::guest_setup::GuestSetup;
use super::rule_names::RuleNames;
use crate::runtime::executor::{WorkersHandle, strand};
use crate::runtime::unfinished::Unfinished;

// When to ask again after the broker itself had no instance left.
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// The rules on one filter plugin. Dropping it drops its instances.
pub struct FilterGroup {
    group: Arc<Mutex<GroupState>>,
    rule_names: Arc<RuleNames>,
    workers: WorkersHandle,
    // As of the last batch.
    idle_at: Option<Instant>,
}

struct GroupState {
    setup: Arc<GuestSetup>,
    rules: FxHashMap<RuleKey, Rule>,
    shards: Vec<Shard>,
    quarantined: BTreeMap<RuleKey, Quarantined>,
    // No instance can be made.
    pause: Backoff,
    paused: Option<Gauge>,
    // The last batch found no instance. It is said once.
    is_starved: bool,
}

struct Rule {
    config: Arc<str>,
    home: Home,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Shard(usize),
    Quarantine,
}

// A part of a group that is evaluated by itself.
enum Unit {
    Shard(usize, Shard, Vec<RuleKey>),
    // Of the shard with this index.
    Replica(usize, Replica, Vec<RuleKey>),
    Rule(Box<Quarantined>),
}

// A unit, and which events of the batch it evaluates.
struct Portion {
    unit: Unit,
    events: Range<usize>,
}

// A portion that was evaluated.
struct PortionDone {
    work: Portion,
    found: PartOutcome,
    // Rules that left their shard.
    moved_out: Vec<Quarantined>,
}

// What a replica did not do.
struct Undone {
    keys: Vec<RuleKey>,
    events: Range<usize>,
}

// What came of the units of a batch.
#[derive(Default)]
struct BatchOutcome {
    evaluation: Evaluation,
    stopped: Option<Fault>,
    // What a unit had found is gone.
    lost: bool,
    left: Vec<Undone>,
}

impl FilterGroup {
    pub(super) fn new(setup: GuestSetup, workers: WorkersHandle) -> Self {
        let rule_names = Arc::clone(&setup.rule_names);
        let group = GroupState {
            pause: setup.pause(),
            setup: Arc::new(setup),
            rules: FxHashMap::default(),
            shards: Vec::new(),
            quarantined: BTreeMap::new(),
            paused: None,
            is_starved: false,
        };
        Self {
            group: Arc::new(Mutex::new(group)),
            rule_names,
            workers,
            idle_at: None,
        }
    }

    /// Adds a rule of `subscription`, as log lines name it. A key that the group has already is replaced, also when the new
    /// configuration is refused.
    ///
    /// # Errors
    ///
    /// The plugin refuses the configuration, fails on it, or cannot run. The group then lacks the rule.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, the rule may or may not have been added.
    pub async fn add(
        &mut self,
        key: RuleKey,
        config: &str,
        subscription: &str,
    ) -> Result<(), ConfigureError> {
        self.rule_names.set(key, subscription);
        let group = Arc::clone(&self.group);
        let config: Arc<str> = config.into();
        let task = self
            .workers
            .spawn(async move { group.lock().await.add(key, &config).await });
        let added = finished(task).await;
        let added = added.unwrap_or(Err(ConfigureError::Stopped));
        if added.is_err() {
            self.rule_names.forget(key);
        }
        added
    }

    /// Removes a rule, if the group has it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, the rule is still removed before the next call is looked at.
    pub async fn remove(&mut self, key: RuleKey) {
        let group = Arc::clone(&self.group);
        let task = self
            .workers
            .spawn(async move { group.lock().await.remove(key).await });
        finished(task).await;
        self.rule_names.forget(key);
    }

    /// Evaluates a batch for those of `rules` that the group has.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before completion, the batch may be evaluated again.
    pub async fn evaluate(&mut self, events: &[InputEvent], rules: &[RuleKey]) -> Evaluation {
        if events.is_empty() || rules.is_empty() {
            return Evaluation::default();
        }
        let group = Arc::clone(&self.group);
        let events: Arc<[InputEvent]> = events.into();
        let asked = rules.to_vec();
        let task = self.workers.spawn(async move {
            let mut group = group.lock().await;
            let evaluation = group.evaluate(&events, &asked).await;
            (evaluation, group.idle_at())
        });
        let evaluated = finished(task).await;
        let (evaluation, idle_at) =
            evaluated.unwrap_or_else(|| (Evaluation::down(rules, BUSY_RETRY), None));
        self.idle_at = idle_at;
        evaluation
    }

    /// When it has instances that were not needed for long, if it is not called until then.
    #[must_use]
    pub fn idle_at(&self) -> Option<Instant> {
        self.idle_at
    }

    /// Gives back the instances that are idle by `now`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, they are given back all the same.
    pub async fn give_back_idle(&mut self, now: Instant) {
        let group = Arc::clone(&self.group);
        let task = self.workers.spawn(async move {
            let mut group = group.lock().await;
            group
                .shards
                .iter_mut()
                .for_each(|shard| shard.drop_idle(now));
            group.idle_at()
        });
        self.idle_at = finished(task).await.flatten();
    }

    /// Adds a rule that was configured before without trying it now: the broker has no instance for it.
    ///
    /// # Cancel safety
    ///
    /// As for [`add`](Self::add).
    pub async fn add_later(&mut self, key: RuleKey, config: &str, subscription: &str) {
        self.rule_names.set(key, subscription);
        let group = Arc::clone(&self.group);
        let config: Arc<str> = config.into();
        let task = self.workers.spawn(async move {
            let mut group = group.lock().await;
            group.remove(key).await;
            group.place(key, config);
        });
        finished(task).await;
    }
}

impl GroupState {
    async fn add(&mut self, key: RuleKey, config: &Arc<str>) -> Result<(), ConfigureError> {
        self.remove(key).await;
        let index = self.shard_with_room();
        let added = self.shards[index].add(&self.setup, key, config).await;
        added
            .map_err(ConfigureError::from)?
            .map_err(ConfigureError::Refused)?;
        self.rules.insert(
            key,
            Rule {
                config: Arc::clone(config),
                home: Home::Shard(index),
            },
        );
        Ok(())
    }

    async fn remove(&mut self, key: RuleKey) {
        match self.rules.remove(&key).map(|rule| rule.home) {
            Some(Home::Shard(index)) => self.shards[index].remove(key).await,
            Some(Home::Quarantine) => drop(self.quarantined.remove(&key)),
            None => {}
        }
    }

    async fn evaluate(&mut self, events: &Arc<[InputEvent]>, rules: &[RuleKey]) -> Evaluation {
        if let Some(left) = self.pause.left() {
            return Evaluation::down(rules, left);
        }
        self.restore_lost();
        let mut outcome = BatchOutcome::default();
        let units = self.take_units(rules);
        let work = self.share_out(units, events.len());
        self.work(work, events, &mut outcome).await;
        // Who is to blame for it is found by the shard, and its rules may have other places by now.
        for Undone {
            mut keys,
            events: range,
        } in std::mem::take(&mut outcome.left)
        {
            let undecided = &outcome.evaluation.undecided;
            if !undecided.is_empty() {
                keys.retain(|key| undecided.iter().all(|undecided| undecided.rule != *key));
            }
            let units = self.take_units(&keys).into_iter();
            let work = units.map(|unit| Portion {
                unit,
                events: range.clone(),
            });
            self.work(work.collect(), events, &mut outcome).await;
        }
        self.release_cured();
        if outcome.lost {
            let pause = self.strike("evaluating it panicked");
            outcome.evaluation = Evaluation::down(rules, pause);
        } else if let Some(fault) = outcome.stopped {
            let pause = self.stop(&fault);
            for undecided in &mut outcome.evaluation.undecided {
                undecided.after = undecided.after.max(pause);
            }
        } else {
            self.pause.forgive();
            self.is_starved = false;
        }
        self.show_pause();
        outcome.evaluation.cut_at_undecided();
        outcome.evaluation
    }

    fn idle_at(&self) -> Option<Instant> {
        self.shards.iter().filter_map(Shard::idle_at).min()
    }

    fn show_pause(&mut self) {
        let pauses = self.pause.left().is_some()
            || self.shards.iter().any(Shard::pauses)
            || self.quarantined.values().any(Quarantined::pauses);
        match pauses {
            false => self.paused = None,
            true => {
                let counters = &self.setup.plugin.counters;
                self.paused
                    .get_or_insert_with(|| Gauge::new(counters, |counters| &counters.paused));
            }
        }
    }

    // Takes the parts out that have any of `rules`, so that they can be moved to other threads.
    fn take_units(&mut self, rules: &[RuleKey]) -> Vec<Unit> {
        let mut by_shard: BTreeMap<usize, Vec<RuleKey>> = BTreeMap::new();
        let mut units = Vec::new();
        for key in rules {
            match self.rules.get(key).map(|rule| rule.home) {
                Some(Home::Shard(index)) => by_shard.entry(index).or_default().push(*key),
                Some(Home::Quarantine) => {
                    units.extend(
                        self.quarantined
                            .remove(key)
                            .map(|rule| Unit::Rule(Box::new(rule))),
                    );
                }
                None => {}
            }
        }
        for (index, mut keys) in by_shard {
            keys.sort_unstable();
            keys.dedup();
            units.push(Unit::Shard(
                index,
                std::mem::replace(&mut self.shards[index], Shard::new(&self.setup)),
                keys,
            ));
        }
        units
    }

    // All units look at all events, except for the shard of a group that has only one: when its batches take long, replicas take
    // parts of this one on threads that are free.
    fn share_out(&self, units: Vec<Unit>, events: usize) -> Vec<Portion> {
        let all = |unit| Portion {
            unit,
            events: 0..events,
        };
        let mut work: Vec<Portion> = units.into_iter().map(all).collect();
        let others = work.len().saturating_sub(1);
        let mut shards = work.iter_mut().filter_map(|work| match &mut work.unit {
            Unit::Shard(index, shard, keys) => Some((*index, shard, keys, &mut work.events)),
            _ => None,
        });
        let (Some((index, shard, keys, first)), None) = (shards.next(), shards.next()) else {
            return work;
        };
        let replicas = shard.lend_replicas(&self.setup, events, keys, others);
        let parts = replicas.len() + 1;
        let part = |number: usize| events * number / parts..events * (number + 1) / parts;
        *first = part(0);
        let keys = keys.clone();
        work.extend((1..).zip(replicas).map(|(number, replica)| Portion {
            unit: Unit::Replica(index, replica, keys.clone()),
            events: part(number),
        }));
        work
    }

    // Evaluates units on as many threads as there are, and adds what came of it to `outcome`.
    async fn work(
        &mut self,
        work: Vec<Portion>,
        events: &Arc<[InputEvent]>,
        outcome: &mut BatchOutcome,
    ) {
        let results = match <[Portion; 1]>::try_from(work) {
            Ok([work]) => vec![do_work(Arc::clone(&self.setup), work, Arc::clone(events)).await],
            Err(work) => self.work_at_once(work, events, &mut outcome.lost).await,
        };
        // Replicas last, since whether a shard wants them back is known when it is back itself.
        let (replicas, others): (Vec<_>, Vec<_>) = results
            .into_iter()
            .partition(|done| matches!(done.work.unit, Unit::Replica(..)));
        let mut changed = false;
        for done in others.into_iter().chain(replicas) {
            let PortionDone {
                work,
                mut found,
                moved_out,
            } = done;
            outcome.evaluation.matches.append(&mut found.matches);
            outcome.evaluation.failures.append(&mut found.failures);
            outcome.evaluation.undecided.append(&mut found.undecided);
            outcome.stopped = outcome.stopped.take().or(found.stopped.take());
            changed |= found.strained || !moved_out.is_empty();
            for rule in moved_out {
                self.quarantine(rule);
            }
            match work.unit {
                Unit::Rule(rule) => self.quarantine(*rule),
                Unit::Shard(index, shard, _) => self.put_back(index, shard, found.strained),
                Unit::Replica(index, replica, keys) => {
                    if !changed {
                        self.shards[index].take_back(replica);
                    }
                    let events = work.events;
                    if !events.is_empty() {
                        outcome.left.push(Undone { keys, events });
                    }
                }
            }
        }
    }

    async fn work_at_once(
        &self,
        work: Vec<Portion>,
        events: &Arc<[InputEvent]>,
        lost: &mut bool,
    ) -> Vec<PortionDone> {
        let mut tasks = JoinSet::new();
        for work in work {
            let done = do_work(Arc::clone(&self.setup), work, Arc::clone(events));
            tasks.spawn(strand(done));
        }
        let mut results = Vec::new();
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(result) => results.push(result),
                Err(error) => {
                    tracing::error!(%error, plugin = %self.setup.label, "evaluating a part of a group panicked");
                    // What it had found is gone, so the batch does not count.
                    *lost = true;
                }
            }
        }
        results
    }

    fn put_back(&mut self, index: usize, mut shard: Shard, strained: bool) {
        let half = if strained {
            shard.split(&self.setup)
        } else {
            None
        };
        self.shards[index] = shard;
        if let Some(half) = half {
            self.push_shard(half);
        }
    }

    fn quarantine(&mut self, rule: Quarantined) {
        if let Some(known) = self.rules.get_mut(&rule.key) {
            known.home = Home::Quarantine;
            self.quarantined.insert(rule.key, rule);
        }
    }

    fn push_shard(&mut self, shard: Shard) {
        let index = self.shards.len();
        for key in shard.rules.keys() {
            if let Some(rule) = self.rules.get_mut(key) {
                rule.home = Home::Shard(index);
            }
        }
        self.shards.push(shard);
    }

    // Rules whose part of the group was lost to a panic get a new place. Costs a look at every rule, so only
    // when their number is off.
    fn restore_lost(&mut self) {
        let present = self.quarantined.len()
            + self
                .shards
                .iter()
                .map(|shard| shard.rules.len())
                .sum::<usize>();
        if present == self.rules.len() {
            return;
        }
        let lost: Vec<(RuleKey, Arc<str>)> = self
            .rules
            .iter()
            .filter(|(key, rule)| match rule.home {
                Home::Shard(index) => !self.shards[index].rules.contains_key(key),
                Home::Quarantine => !self.quarantined.contains_key(key),
            })
            .map(|(key, rule)| (*key, Arc::clone(&rule.config)))
            .collect();
        for (key, config) in lost {
            self.place(key, config);
        }
    }

    fn release_cured(&mut self) {
        let cured: Vec<RuleKey> = self
            .quarantined
            .values()
            .filter(|rule| rule.is_cured())
            .map(|rule| rule.key)
            .collect();
        for key in cured {
            if let Some(rule) = self.quarantined.remove(&key) {
                self.place(key, rule.config);
            }
        }
    }

    // Puts a rule into a shard; its instance learns of it with the next call.
    fn place(&mut self, key: RuleKey, config: Arc<str>) {
        let index = self.shard_with_room();
        self.shards[index].rules.insert(key, Arc::clone(&config));
        self.rules.insert(
            key,
            Rule {
                config,
                home: Home::Shard(index),
            },
        );
    }

    fn shard_with_room(&mut self) -> usize {
        let rules_max = self.setup.rules_per_instance_max.max(1);
        let with_room = self
            .shards
            .iter()
            .position(|shard| shard.rules.len() < rules_max);
        with_room.unwrap_or_else(|| {
            self.shards.push(Shard::new(&self.setup));
            self.shards.len() - 1
        })
    }

    // How long nothing can be evaluated.
    fn stop(&mut self, fault: &Fault) -> Duration {
        if fault.kind == FaultKind::Busy {
            if !std::mem::replace(&mut self.is_starved, true) {
                tracing::warn!(plugin = %self.setup.label, reason = fault.reason, "no instance for a plugin; its events wait, and its rules take turns");
            }
            // Its parts take turns then, or one that has none would never get one.
            self.shards.iter_mut().for_each(Shard::give_way);
            self.quarantined
                .values_mut()
                .for_each(Quarantined::give_way);
            return BUSY_RETRY;
        }
        self.strike(&fault.reason)
    }

    fn strike(&mut self, reason: &str) -> Duration {
        let pause = self.pause.strike();
        tracing::warn!(
            plugin = %self.setup.label,
            reason,
            pause_ms = pause.as_millis(),
            "a filter plugin cannot run and is left alone for a while; its events wait"
        );
        pause
    }
}

// Afterwards the work's events are those that are still to be looked at: none, except with a replica.
async fn do_work(
    setup: Arc<GuestSetup>,
    mut work: Portion,
    events: Arc<[InputEvent]>,
) -> PortionDone {
    let (parsed, broken) = parse(&events, work.events.clone());
    let mut found = PartOutcome::default();
    let mut moved_out = Vec::new();
    let mut left = work.events.end..work.events.end;
    let keys = match &mut work.unit {
        Unit::Shard(_, shard, keys) => {
            (found, moved_out) = shard.evaluate(&setup, &parsed, keys).await;
            keys.as_slice()
        }
        Unit::Rule(rule) => {
            rule.evaluate(&setup, &parsed, &mut found).await;
            std::slice::from_ref(&rule.key)
        }
        Unit::Replica(_, replica, keys) => {
            let done = replica
                .evaluate(&setup, &parsed, keys, &mut found.matches)
                .await;
            if let Some(next) = parsed.get(done) {
                left.start = next.index as usize;
            }
            keys.as_slice()
        }
    };
    // The shard says so of those that are left to it.
    for (event, reason) in broken
        .into_iter()
        .filter(|(event, _)| (*event as usize) < left.start)
    {
        found.failures.extend(keys.iter().map(|rule| FilterFailure {
            rule: *rule,
            event,
            reason: reason.clone(),
        }));
    }
    work.events = left;
    PortionDone {
        work,
        found,
        moved_out,
    }
}

// None: the plugin service stopped, or the work panicked.
pub(super) async fn finished<T>(task: impl Future<Output = Result<T, Unfinished>>) -> Option<T> {
    task.await
        .inspect_err(|error| {
            if let Unfinished::Panicked(_) = error {
                tracing::error!(%error, "work on a plugin thread panicked");
            }
        })
        .ok()
}
