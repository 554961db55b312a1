//! How a shard evaluates a batch: call by call, in the instance that is there. When one fails for good, smaller ones follow, down to a
//! single event; then who fails on that alone is told, and those that are to blame leave. How they are found is not known here.

use std::time::Duration;

use tokio::time::Instant;

use super::Shard;
use super::batch::Batch;
use super::culprits::{Culprits, single_out};
use crate::plugin::call_input::{Parsed, next_call};
use crate::plugin::evaluation::RuleKey;
use crate::plugin::failure_budget::EVENTS_FAILED_BEFORE_QUARANTINE;
use crate::plugin::filter_group::part_outcome::PartOutcome;
use crate::plugin::filter_group::quarantine::Quarantined;
use crate::plugin::filter_instance::{FilterInstance, Trial};
use crate::plugin::guest_fault::Fault;
use crate::plugin::guest_setup::GuestSetup;

impl Shard {
    /// Evaluates `events` for those of `keys` that are here. Every pair ends as evaluated, as failed by itself, or as
    /// undecided. Rules that get an instance of their own leave, and come with the answer.
    pub(in crate::plugin::filter_group) async fn evaluate(
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
                self.budget.went_well(call.len());
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
        for (key, fault) in failed {
            batch.found.fail(batch.setup, event, key, &fault);
            if !others_passed {
                continue;
            }
            let marks = self.marks.entry(key).or_default();
            *marks += 1;
            if is_minority || *marks >= EVENTS_FAILED_BEFORE_QUARANTINE {
                self.move_out(batch, key, &fault.explained(), behind).await;
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
