//! Rules that share an instance of a filter. When its batches take long, a shard has replicas, which take a part of each. Owned by
//! one filter group; nothing here waits for anything but guests.
//!
//! Here is what a shard has. A batch is evaluated in `evaluate`: when a call fails, an event is singled out first, by smaller and
//! smaller batches, and then the rules that fail on it by themselves, each alone in a fresh instance (`culprits`). A rule that fails
//! where others do not leaves for an instance of its own.

mod batch;
mod culprits;
mod evaluate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::super::batch_size::BatchSize;
use super::super::call_input::Parsed;
use super::super::evaluation::RuleKey;
use super::super::failure_budget::{FailureBudget, SHARD_COST_BEFORE_PAUSE};
use super::super::filter_instance::{FilterInstance, Trial, trial};
use super::super::guest_fault::Fault;
use super::super::guest_setup::GuestSetup;
use super::replica::Replica;

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
    budget: FailureBudget,
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
            budget: FailureBudget::new(setup.pause(), SHARD_COST_BEFORE_PAUSE),
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
        self.drop_idle(Instant::now());
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

    /// When the first of its replicas is idle.
    pub(super) fn idle_at(&self) -> Option<Instant> {
        self.replicas.iter().map(Replica::idle_at).min()
    }

    /// Lets go of the replicas that are idle.
    pub(super) fn drop_idle(&mut self, now: Instant) {
        self.replicas.retain(|replica| replica.idle_at() > now);
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
        self.budget.left().is_some()
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
}
