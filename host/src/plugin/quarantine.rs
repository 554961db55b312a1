//! A filter rule that failed, alone in an instance of its own. It sees events one by one, so that only what it
//! fails on is lost to it; when it keeps failing it is left alone for a growing while, and its events fail untried.

use std::sync::Arc;

use super::filter::{FilterFailure, Kit, RuleKey};
use super::guest::FaultKind;
use super::lower::Parsed;
use super::pause::Pause;
use super::rules::RuleHost;
use super::shard::Found;
use super::stats::Gauge;

// Failures in a row after which the rule is left alone for a while.
const FAULTS_IN_A_ROW_MAX: u32 = 3;
// What its failures in one batch may cost before the same happens. The whole group waits for a call that runs out
// of time, so two of those are enough: then the rule takes at most a tenth of the group's time, and less with every
// pause.
const FAULT_COST_MAX: u32 = 8;
const TRAP_COST: u32 = 1;
const TIMEOUT_COST: u32 = 4;

// Events without a failure after which a rule may go back among the others.
const CLEAN_EVENTS_MIN: u32 = 4096;

/// A rule on its own.
pub(super) struct Quarantined {
    pub(super) key: RuleKey,
    pub(super) config: Arc<str>,
    host: Option<RuleHost>,
    pause: Pause,
    in_a_row: u32,
    clean_events: u32,
    last_reason: String,
    _counted: Gauge,
}

impl Quarantined {
    pub(super) fn new(kit: &Kit, key: RuleKey, config: Arc<str>) -> Self {
        Self {
            key,
            config,
            host: None,
            pause: kit.pause(),
            in_a_row: 0,
            clean_events: 0,
            last_reason: String::new(),
            _counted: Gauge::new(&kit.plugin.counters, |counters| &counters.quarantined),
        }
    }

    /// Whether it has behaved for long enough to join the others again.
    pub(super) fn is_cured(&self) -> bool {
        self.clean_events >= CLEAN_EVENTS_MIN
    }

    /// Evaluates `events` one by one.
    pub(super) async fn evaluate(&mut self, kit: &Kit, events: &[Parsed<'_>], found: &mut Found) {
        let mut cost = 0;
        for (at, event) in events.iter().enumerate() {
            if let Some(left) = self.pause.left() {
                let reason = format!(
                    "not tried: the rule is left alone for {} ms more, because {}",
                    left.as_millis(),
                    self.last_reason
                );
                return found.fail(&events[at..], &[self.key], &reason);
            }
            match self.evaluate_one(kit, event).await {
                Ok(matches) => {
                    found.matches.extend(matches);
                    self.in_a_row = 0;
                    self.clean_events = self.clean_events.saturating_add(1);
                }
                Err((FaultKind::Busy, reason)) => {
                    return found.fail(&events[at..], &[self.key], &reason);
                }
                Err((kind, reason)) => {
                    found.failures.push(FilterFailure {
                        rule: self.key,
                        event: event.index,
                        reason: reason.clone(),
                    });
                    self.last_reason = reason;
                    self.clean_events = 0;
                    self.in_a_row += 1;
                    cost += match kind {
                        FaultKind::Timeout => TIMEOUT_COST,
                        _ => TRAP_COST,
                    };
                    if self.in_a_row >= FAULTS_IN_A_ROW_MAX || cost >= FAULT_COST_MAX {
                        self.pause.strike();
                        self.in_a_row = 0;
                    }
                }
            }
        }
        if cost == 0 {
            self.pause.clear();
        }
    }

    async fn evaluate_one(
        &mut self,
        kit: &Kit,
        event: &Parsed<'_>,
    ) -> Result<super::rules::Matches, (FaultKind, String)> {
        let split = |fault: super::guest::Fault| (fault.kind, fault.reason);
        let mut host = match self.host.take() {
            Some(host) => host,
            None => {
                let mut host = RuleHost::new(&kit.plugin, &kit.limits)
                    .await
                    .map_err(split)?;
                host.configure(self.key, &self.config)
                    .await
                    .map_err(split)?
                    .map_err(|message| (FaultKind::Nonsense, message))?;
                host
            }
        };
        let matches = host
            .evaluate(std::slice::from_ref(event), &[self.key])
            .await
            .map_err(split)?;
        self.host = Some(host);
        Ok(matches)
    }
}
