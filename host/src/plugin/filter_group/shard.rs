//! Rules that share an instance of a filter. When a call fails, an event is singled out first, by smaller and smaller batches, and
//! then the rules that fail on it by themselves, each alone in a fresh instance ([`culprits`]). A rule that fails where
//! others do not leaves for an instance of its own. When its batches take long, a shard has replicas, which take a part of each.
//! Owned by one filter group; nothing here waits for anything but guests.

mod culprits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use rustc_hash::FxHashMap;

use super::super::batch_size::BatchSize;
use super::super::call_input::{Parsed, next_call};
use super::super::evaluation::RuleKey;
use super::super::failure_budget::{FailureBudget, cost};
use super::super::filter_instance::{FilterInstance, Trial, trial};
use super::super::guest_fault::Fault;
use super::super::guest_setup::GuestSetup;
use super::part_outcome::PartOutcome;
use super::quarantine::Quarantined;
use super::replica::Replica;
use culprits::{Culprits, single_out};

// What looking for the guilty may cost before the rules concerned pause: four events that fail with each of 1,024 rules, some 0.4 s,
// or 32 calls that run out of time, some 1.6 s. A looping rule among 1,024 is found with 13.
const COST_MAX: u32 = 4096;
// The same for one look at a batch, after which others have a turn.
const TURN_COST_MAX: u32 = 2048;

// A rule leaves when it fails on an event that most others do not fail on, or on so many that any other does not fail on: an event
// on which all fail says nothing of a rule.
const MARKS_MAX: u32 = 3;

/// Rules in one instance.
pub(super) struct Shard {
    /// Every rule with its configuration.
    pub(super) rules: BTreeMap<RuleKey, Arc<str>>,
    // None after a fault; made again, with the rules that are needed, by the next call.
    host: Option<Box<FilterInstance>>,
    // Those that are not at work.
    replicas: Vec<Replica>,
    // How long an event of the last batch took.
    per_event: Duration,
    window: BatchSize,
    ration: FailureBudget,
    // How often a rule failed lately on an event on which others did not.
    marks: FxHashMap<RuleKey, u32>,
}

impl Shard {
    pub(super) fn new(setup: &GuestSetup) -> Self {
        Self {
            rules: BTreeMap::new(),
            host: None,
            replicas: Vec::new(),
            per_event: Duration::ZERO,
            window: BatchSize::default(),
            ration: FailureBudget::new(setup.pause(), COST_MAX),
            marks: FxHashMap::default(),
        }
    }

    /// Gives the shard a rule. After an error it does not have it.
    pub(super) async fn add(
        &mut self,
        setup: &GuestSetup,
        key: RuleKey,
        config: &Arc<str>,
    ) -> Result<Result<(), String>, Fault> {
        if let Some(mut host) = self.host.take() {
            let configured = host.configure(key, config).await;
            if configured.is_ok() {
                self.host = Some(host);
            }
            if let Ok(Ok(())) = configured {
                self.rules.insert(key, Arc::clone(config));
                return Ok(Ok(()));
            }
        }
        // The instance may be full of others' rules, or worn out; what counts is what a fresh one says.
        let mut fresh = FilterInstance::new(setup).await?;
        let configured = fresh.configure(key, config).await?;
        if configured.is_ok() {
            self.rules.insert(key, Arc::clone(config));
            self.host.get_or_insert(Box::new(fresh));
        }
        Ok(configured)
    }

    /// Takes a rule from the shard.
    pub(super) async fn remove(&mut self, key: RuleKey) {
        self.rules.remove(&key);
        self.marks.remove(&key);
        if let Some(mut host) = self.host.take()
            && host.release(key).await.is_ok()
        {
            self.host = Some(host);
        }
        for replica in &mut self.replicas {
            replica.remove(key).await;
        }
    }

    /// Replicas to take parts of a batch of so many events for `keys`, one each: as many as are worth it, and as the plugin has
    /// threads for once this shard and `others` beside it have one each. They come back through [`take_back`](Self::take_back).
    pub(super) fn lend_replicas(
        &mut self,
        setup: &GuestSetup,
        events: usize,
        keys: &[RuleKey],
        others: usize,
    ) -> Vec<Replica> {
        self.replicas.retain(|replica| !replica.is_idle());
        // What a replica fails on, the shard would look at again.
        if !self.window.is_whole() {
            return Vec::new();
        }
        let batch = self.per_event.as_nanos() * events as u128;
        let parts = batch.checked_div(setup.replica_part_min.as_nanos());
        let parts = parts.map_or(usize::MAX, |parts| {
            usize::try_from(parts).unwrap_or(usize::MAX)
        });
        let parts = parts.min(events);
        if parts < 2 {
            return Vec::new();
        }
        let threads = setup.plugin.shared.threads_each().saturating_sub(others);
        let wanted = parts.min(threads).max(1) - 1;
        while self.replicas.len() < wanted && setup.account.has_to_spare() {
            self.replicas.push(Replica::new());
        }
        let idle = self.replicas.len().saturating_sub(wanted);
        let mut lent = self.replicas.split_off(idle);
        for replica in &mut lent {
            replica.prepare(&self.rules, keys);
        }
        lent
    }

    /// A replica has done its part.
    pub(super) fn take_back(&mut self, replica: Replica) {
        self.replicas.push(replica);
    }

    /// Splits off half of the rules, for an instance that is too small for all.
    pub(super) fn split(&mut self, setup: &GuestSetup) -> Option<Shard> {
        let middle = self.rules.keys().nth(self.rules.len() / 2).copied()?;
        if self.rules.len() < 2 {
            return None;
        }
        self.host = None;
        self.replicas.clear();
        Some(Shard {
            rules: self.rules.split_off(&middle),
            ..Shard::new(setup)
        })
    }

    /// Lets go of what is not at work, since there are no instances left.
    pub(super) fn give_way(&mut self) {
        self.host = None;
        self.replicas.clear();
    }

    /// Whether rules of it are left alone at the moment, when calls on them fail.
    pub(super) fn pauses(&self) -> bool {
        self.ration.left().is_some()
    }

    /// Evaluates `events` for those of `keys` that are here. Every pair ends as evaluated, as failed by itself, or as
    /// undecided. Rules that get an instance of their own leave, and come with the answer.
    pub(super) async fn evaluate(
        &mut self,
        setup: &GuestSetup,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
    ) -> (PartOutcome, Vec<Quarantined>) {
        let begin = Instant::now();
        // Making an instance takes time that says nothing of the next batch.
        let had_instance = self.host.is_some();
        let here = keys.iter().filter(|key| self.rules.contains_key(key));
        let mut batch = Batch {
            setup,
            keys: here.copied().collect(),
            found: PartOutcome::default(),
            moved_out: Vec::new(),
            spent: 0,
            crowded: false,
        };
        let mut rest = events;
        while !rest.is_empty() && !batch.keys.is_empty() {
            rest = self.step(&mut batch, rest).await;
        }
        if let Ok(events @ 1..) = u32::try_from(events.len())
            && had_instance
        {
            self.per_event = begin.elapsed() / events;
        }
        (batch.found, batch.moved_out)
    }

    // The next call of a batch, and who is to blame if it fails on a single event. Answers the events that are left.
    async fn step<'e, 'a>(
        &mut self,
        batch: &mut Batch<'_>,
        rest: &'e [Parsed<'a>],
    ) -> &'e [Parsed<'a>] {
        let of = next_call(rest, batch.keys.len());
        let (call, behind) = rest.split_at(self.window.of(of));
        match self.call(batch.setup, call, &batch.keys).await {
            Trial::Passed(matches, host) => {
                self.host = Some(host);
                batch.found.matches.extend(matches);
                self.window.went_well(call.len(), of);
                self.ration.went_well(call.len());
                if self.window.is_whole() && !self.marks.is_empty() {
                    self.marks.clear();
                }
                return behind;
            }
            Trial::NoInstance(fault) => batch.stop(fault, rest),
            Trial::Unconfigured(key, fault) => {
                self.set_aside(batch, key, &fault.reason, rest).await
            }
            Trial::Failed(fault) if batch.setup.hands_over => batch.hand_over(rest, &fault),
            Trial::Failed(fault) => {
                let may_look = self.may_spend(batch);
                self.spend(batch, &fault);
                match (call, may_look) {
                    (_, Err(after)) => batch.leave(rest, after),
                    ([_], Ok(())) => {
                        self.judge(batch, rest, fault).await;
                        return behind;
                    }
                    (_, Ok(())) => self.window.failed(call.len()),
                }
            }
        }
        rest
    }

    // A call in the instance that is there. If that fails, whatever the reason, what counts is what a fresh one does.
    async fn call(&mut self, setup: &GuestSetup, events: &[Parsed<'_>], keys: &[RuleKey]) -> Trial {
        if let Some(mut host) = self.host.take()
            && self.configure_missing(&mut host, keys).await.is_some()
            && let Ok(matches) = host.evaluate(events, keys).await
        {
            return Trial::Passed(matches, host);
        }
        self.trial(setup, events, keys).await
    }

    pub(super) async fn trial(
        &mut self,
        setup: &GuestSetup,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
    ) -> Trial {
        // Its place may be the last one.
        self.host = None;
        let rules: Vec<_> = keys
            .iter()
            .filter_map(|key| Some((*key, self.rules.get(key)?)))
            .collect();
        trial(setup, events, &rules).await
    }

    /// A trial went well: its instance is as good as any.
    pub(super) fn keep(&mut self, host: Box<FilterInstance>) {
        self.host = Some(host);
    }

    async fn configure_missing(&self, host: &mut FilterInstance, keys: &[RuleKey]) -> Option<()> {
        if host.knows(keys) {
            return Some(());
        }
        for key in keys {
            if let Some(config) = self.rules.get(key)
                && !host.has(*key)
            {
                host.configure(*key, config).await.ok()?.ok()?;
            }
        }
        Some(())
    }

    /// Whether the guilty may be looked for, or how long those concerned have to wait for it.
    pub(super) fn may_spend(&self, batch: &Batch<'_>) -> Result<(), Duration> {
        match self.ration.left() {
            Some(left) => Err(left),
            None if batch.spent >= TURN_COST_MAX => Err(Duration::ZERO),
            None => Ok(()),
        }
    }

    pub(super) fn spend(&mut self, batch: &mut Batch<'_>, fault: &Fault) {
        batch.spent += cost(fault.kind);
        if let Some(pause) = self.ration.spend(fault.kind) {
            tracing::warn!(
                plugin = %batch.setup.label,
                reason = fault.reason,
                pause_ms = pause.as_millis(),
                "a filter plugin keeps failing; the events that it fails on wait for a while"
            );
        }
    }

    // A call on the first of `rest` failed for all keys of the batch, in a fresh instance.
    async fn judge(&mut self, batch: &mut Batch<'_>, rest: &[Parsed<'_>], fault: Fault) {
        let Some((event, behind)) = rest.split_first() else {
            return;
        };
        let culprits = single_out(self, batch, event, fault).await;
        let tried = batch.keys.len() - culprits.untried.len();
        let Culprits {
            failed,
            untried,
            unconfigured,
        } = culprits;
        batch.keys.retain(|key| !untried.contains_key(key));
        for (key, after) in untried {
            batch.found.leave(&[key], event, after);
        }
        if let Some((key, reason)) = unconfigured {
            self.set_aside(batch, key, &reason, rest).await;
        }
        let others_passed = failed.len() < tried;
        let is_minority = failed.len() * 2 <= tried;
        for (key, reason) in failed {
            batch.found.fail(event, key, reason.clone());
            if !others_passed {
                continue;
            }
            let marks = self.marks.entry(key).or_default();
            *marks += 1;
            if is_minority || *marks >= MARKS_MAX {
                self.move_out(batch, key, &reason, behind).await;
            }
        }
        if batch.found.strained {
            batch.leave(behind, Duration::ZERO);
        }
    }

    // A rule could not be configured beside others, or not at all: which of the two shows where it is alone. When it happens
    // again in a batch, it is the instance that is too small for them.
    async fn set_aside(
        &mut self,
        batch: &mut Batch<'_>,
        key: RuleKey,
        reason: &str,
        rest: &[Parsed<'_>],
    ) {
        let is_first = !std::mem::replace(&mut batch.crowded, true);
        if is_first || batch.keys.len() < 2 {
            batch.found.forget(key);
            if batch.setup.hands_over {
                batch.keys.retain(|other| *other != key);
                return batch.found.hand_over(&[key], rest);
            }
            self.move_out(batch, key, reason, rest).await;
        } else {
            batch.found.strained = true;
            batch.leave(rest, Duration::ZERO);
        }
    }

    // The rule goes to an instance of its own and looks at the events there.
    async fn move_out(
        &mut self,
        batch: &mut Batch<'_>,
        key: RuleKey,
        reason: &str,
        events: &[Parsed<'_>],
    ) {
        let Some(config) = self.rules.remove(&key) else {
            return;
        };
        batch.keys.retain(|other| *other != key);
        self.marks.remove(&key);
        // Which have it still.
        self.replicas.clear();
        let subscription = batch.setup.rule_names.of(key);
        tracing::warn!(plugin = %batch.setup.label, subscription = subscription.map(display), reason, "a rule failed and gets an instance of its own");
        let mut rule = Quarantined::new(batch.setup, key, config);
        rule.evaluate(batch.setup, events, &mut batch.found).await;
        batch.moved_out.push(rule);
    }
}

/// An evaluation under way.
pub(super) struct Batch<'k> {
    pub(super) setup: &'k GuestSetup,
    /// Rules that look at the events that are left.
    pub(super) keys: Vec<RuleKey>,
    pub(super) found: PartOutcome,
    /// Rules that left the shard.
    moved_out: Vec<Quarantined>,
    // On failed calls, so far.
    spent: u32,
    // A rule could not be configured beside others.
    crowded: bool,
}

impl Batch<'_> {
    // Nobody looks at the rest for now.
    fn leave(&mut self, rest: &[Parsed<'_>], after: Duration) {
        if let Some(first) = rest.first() {
            self.found.leave(&self.keys, first, after);
        }
        self.keys.clear();
    }

    // Who of them is to blame is found out elsewhere, so that those who were not asked do not wait for it.
    fn hand_over(&mut self, rest: &[Parsed<'_>], fault: &Fault) {
        tracing::warn!(plugin = %self.setup.label, rules = self.keys.len(), reason = fault.reason, "a call of a filter plugin failed; who is to blame is found out apart from the plugin's other rules");
        let keys = std::mem::take(&mut self.keys);
        self.found.hand_over(&keys, rest);
    }

    fn stop(&mut self, fault: Fault, rest: &[Parsed<'_>]) {
        self.leave(rest, Duration::ZERO);
        self.found.stopped = Some(fault);
    }
}
