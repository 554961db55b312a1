//! Rules that share an instance of a filter, and the search for the guilty one when a call fails. A failed call is
//! bisected, rules first, then events; every probe gets a fresh instance with only the rules it needs. A guilty
//! rule leaves for an instance of its own. When its batches take long, a shard has replicas, which take a part of each. Owned by
//! one filter group; nothing here waits for anything but guests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filter::{FilterFailure, Kit, RuleKey};
use super::guest::{Fault, FaultKind};
use super::lower::{Parsed, calls};
use super::quarantine::Quarantined;
use super::replica::Replica;
use super::rules::{Matches, RuleHost};

// What failed calls of one evaluation may cost together. A guilty rule of 1,024 costs about 11 failed calls, a
// guilty event about as many. Beyond this the plugin is broken, not a rule of it.
const FAULT_COST_MAX: u32 = 256;
// A trap costs an instance, some 20 µs and its rules; a call that ran out of time costs 50 ms and more.
const TRAP_COST: u32 = 1;
const TIMEOUT_COST: u32 = 8;

// Below this many rules it is cheaper to look at each than to suspect the event.
const POISON_RULES_MIN: usize = 8;

/// Rules in one instance.
#[derive(Default)]
pub(super) struct Shard {
    /// Every rule with its configuration.
    pub(super) rules: BTreeMap<RuleKey, Arc<str>>,
    // None after a fault; made again, with the rules that are needed, by the next call.
    host: Option<RuleHost>,
    // Those that are not at work.
    replicas: Vec<Replica>,
    // How long an event of the last batch took.
    per_event: Duration,
}

/// What came of an evaluation by one shard or one quarantined rule.
#[derive(Default)]
pub(super) struct Found {
    pub(super) matches: Matches,
    pub(super) failures: Vec<FilterFailure>,
    /// Rules that were found guilty and left the shard.
    pub(super) quarantined: Vec<Quarantined>,
    /// The call on all rules failed, and those on each half did not.
    pub(super) strained: bool,
    /// Nothing could be evaluated: no instance can be made. Everything else here is void.
    pub(super) stopped: Option<Fault>,
    fault_cost: u32,
}

// A set of events and rules on which a call failed.
struct Suspect<'a> {
    events: Vec<Parsed<'a>>,
    keys: Vec<RuleKey>,
    reason: String,
    // Looking for guilty events has been tried.
    events_cleared: bool,
}

enum Probe {
    /// The call went well.
    Passed(Matches),
    /// The call failed.
    Failed(Fault),
    /// No instance could be made.
    Stopped(Fault),
}

impl Shard {
    /// Gives the shard a rule. After an error it does not have it.
    pub(super) async fn add(
        &mut self,
        kit: &Kit,
        key: RuleKey,
        config: &Arc<str>,
    ) -> Result<Result<(), String>, Fault> {
        let mut host = match self.host.take() {
            Some(host) => host,
            None => RuleHost::new(&kit.plugin, &kit.limits).await?,
        };
        let configured = host.configure(key, config).await?;
        self.host = Some(host);
        if configured.is_ok() {
            self.rules.insert(key, Arc::clone(config));
        }
        Ok(configured)
    }

    /// Takes a rule from the shard.
    pub(super) async fn remove(&mut self, key: RuleKey) {
        self.rules.remove(&key);
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
        kit: &Kit,
        events: usize,
        keys: &[RuleKey],
        others: usize,
    ) -> Vec<Replica> {
        self.replicas.retain(|replica| !replica.is_idle());
        let batch = self.per_event.as_nanos() * events as u128;
        let parts = batch.checked_div(kit.replica_part_min.as_nanos());
        let parts = parts.map_or(usize::MAX, |parts| {
            usize::try_from(parts).unwrap_or(usize::MAX)
        });
        let parts = parts.min(events);
        if parts < 2 {
            return Vec::new();
        }
        let threads = kit.plugin.shared.threads_each().saturating_sub(others);
        let wanted = parts.min(threads).max(1) - 1;
        while self.replicas.len() < wanted && kit.plugin.shared.has_instances_to_spare() {
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
    pub(super) fn split(&mut self) -> Option<Shard> {
        let middle = self.rules.keys().nth(self.rules.len() / 2).copied()?;
        if self.rules.len() < 2 {
            return None;
        }
        self.host = None;
        self.replicas.clear();
        Some(Shard {
            rules: self.rules.split_off(&middle),
            ..Shard::default()
        })
    }

    /// Evaluates `events` for those of `keys` that are here. Every pair ends as evaluated or under `failures`,
    /// unless `stopped` is set.
    pub(super) async fn evaluate(
        &mut self,
        kit: &Kit,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
    ) -> Found {
        let begin = Instant::now();
        // Making an instance takes time that says nothing of the next batch.
        let had_instance = self.host.is_some();
        let mut found = Found::default();
        let mut keys: Vec<RuleKey> = keys
            .iter()
            .copied()
            .filter(|key| self.rules.contains_key(key))
            .collect();
        for range in calls(events, keys.len()) {
            let events = &events[range];
            // Rules that left during an earlier call of this batch see the rest of it, too.
            let mut left_before = std::mem::take(&mut found.quarantined);
            self.evaluate_call(kit, events, keys.clone(), &mut found)
                .await;
            for rule in &mut left_before {
                rule.evaluate(kit, events, &mut found).await;
            }
            if !found.quarantined.is_empty() {
                keys.retain(|key| self.rules.contains_key(key));
            }
            found.quarantined.append(&mut left_before);
            if found.stopped.is_some() {
                break;
            }
        }
        if let Ok(events @ 1..) = u32::try_from(events.len())
            && had_instance
        {
            self.per_event = begin.elapsed() / events;
        }
        found
    }

    async fn evaluate_call<'a>(
        &mut self,
        kit: &Kit,
        events: &[Parsed<'a>],
        mut keys: Vec<RuleKey>,
        found: &mut Found,
    ) {
        if found.gave_up() {
            return found.fail(
                events,
                &keys,
                "not tried, since the plugin failed too often on this batch",
            );
        }
        match self.probe(kit, events, &mut keys, found).await {
            Probe::Passed(matches) => found.matches.extend(matches),
            Probe::Stopped(fault) => found.stopped = Some(fault),
            Probe::Failed(fault) => {
                let suspect = Suspect {
                    events: events.to_vec(),
                    keys,
                    reason: fault.reason,
                    events_cleared: false,
                };
                if let Err(fault) = self.bisect(kit, suspect, found).await {
                    found.stopped = Some(fault);
                }
            }
        }
    }

    // Narrows a failed call down until every pair of event and rule is evaluated or has failed by itself.
    async fn bisect<'a>(
        &mut self,
        kit: &Kit,
        suspect: Suspect<'a>,
        found: &mut Found,
    ) -> Result<(), Fault> {
        let mut suspects = vec![suspect];
        while let Some(mut suspect) = suspects.pop() {
            if found.gave_up() {
                found.fail(&suspect.events, &suspect.keys, &suspect.reason);
                continue;
            }
            if let [key] = suspect.keys[..] {
                self.quarantine(kit, key, &suspect.events, suspect.reason, found)
                    .await;
                continue;
            }
            let mut right = suspect.keys.split_off(suspect.keys.len() / 2);
            let mut left = std::mem::take(&mut suspect.keys);
            let on_left = self.probe(kit, &suspect.events, &mut left, found).await;
            let on_right = self.probe(kit, &suspect.events, &mut right, found).await;
            let (events, events_cleared) = (suspect.events, suspect.events_cleared);
            let half = |keys, fault: Fault| Suspect {
                events: events.clone(),
                keys,
                reason: fault.reason,
                events_cleared,
            };
            match (on_left, on_right) {
                (Probe::Stopped(fault), _) | (_, Probe::Stopped(fault)) => return Err(fault),
                (Probe::Passed(matches), Probe::Passed(more)) => {
                    found.matches.extend(matches);
                    found.matches.extend(more);
                    found.strained = true;
                }
                (Probe::Failed(fault), Probe::Passed(matches)) => {
                    found.matches.extend(matches);
                    suspects.push(half(left, fault));
                }
                (Probe::Passed(matches), Probe::Failed(fault)) => {
                    found.matches.extend(matches);
                    suspects.push(half(right, fault));
                }
                (Probe::Failed(on_left), Probe::Failed(on_right)) => {
                    let keys: Vec<RuleKey> = left.iter().chain(&right).copied().collect();
                    let poisoned = if events_cleared {
                        None
                    } else {
                        self.poisoned(kit, &events, &keys, found).await?
                    };
                    match poisoned {
                        Some(poisoned) => {
                            let reason = on_left.reason;
                            let rest = self
                                .without(kit, events, &poisoned, keys, reason, found)
                                .await?;
                            suspects.extend(rest);
                        }
                        None => {
                            suspects.push(half(left, on_left));
                            suspects.push(half(right, on_right));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    // Whether some events fail whatever the rule: a plugin that chokes on one payload does so for each of a
    // thousand rules, and they are not to blame. Three rules are asked; if all of them fail, the events on which
    // each of them fails are the answer.
    async fn poisoned(
        &mut self,
        kit: &Kit,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
        found: &mut Found,
    ) -> Result<Option<Vec<u32>>, Fault> {
        if keys.len() < POISON_RULES_MIN {
            return Ok(None);
        }
        let mut suspected: Vec<Parsed<'_>> = events.to_vec();
        for witness in [
            keys[keys.len() / 4],
            keys[keys.len() / 2],
            keys[keys.len() - 1],
        ] {
            suspected = self.failing(kit, &suspected, witness, found).await?;
            if suspected.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(suspected.iter().map(|event| event.index).collect()))
    }

    // The events on which `key` alone fails, found by halving.
    async fn failing<'a>(
        &mut self,
        kit: &Kit,
        events: &[Parsed<'a>],
        key: RuleKey,
        found: &mut Found,
    ) -> Result<Vec<Parsed<'a>>, Fault> {
        let mut failing = Vec::new();
        let mut open = vec![events];
        while let Some(events) = open.pop() {
            if found.gave_up() {
                failing.extend_from_slice(events);
                continue;
            }
            match self.probe(kit, events, &mut vec![key], found).await {
                Probe::Passed(_) => {}
                Probe::Stopped(fault) => return Err(fault),
                Probe::Failed(_) if events.len() == 1 => failing.extend_from_slice(events),
                Probe::Failed(_) => {
                    let (left, right) = events.split_at(events.len() / 2);
                    open.extend([right, left]);
                }
            }
        }
        Ok(failing)
    }

    // Fails all rules on the poisoned events and evaluates the others; answers what of those still fails.
    async fn without<'a>(
        &mut self,
        kit: &Kit,
        events: Vec<Parsed<'a>>,
        poisoned: &[u32],
        mut keys: Vec<RuleKey>,
        reason: String,
        found: &mut Found,
    ) -> Result<Option<Suspect<'a>>, Fault> {
        let (poisoned, clean): (Vec<_>, Vec<_>) = events
            .into_iter()
            .partition(|event| poisoned.contains(&event.index));
        found.fail(&poisoned, &keys, &reason);
        if clean.is_empty() {
            return Ok(None);
        }
        match self.probe(kit, &clean, &mut keys, found).await {
            Probe::Passed(matches) => {
                found.matches.extend(matches);
                Ok(None)
            }
            Probe::Stopped(fault) => Err(fault),
            Probe::Failed(fault) => Ok(Some(Suspect {
                events: clean,
                keys,
                reason: fault.reason,
                events_cleared: true,
            })),
        }
    }

    // One call on `events` for `keys`, configuring what the instance lacks. A rule that cannot even be
    // configured is guilty by itself: it leaves the shard, and `keys`.
    async fn probe(
        &mut self,
        kit: &Kit,
        events: &[Parsed<'_>],
        keys: &mut Vec<RuleKey>,
        found: &mut Found,
    ) -> Probe {
        let mut host = loop {
            if keys.is_empty() {
                return Probe::Passed(Vec::new());
            }
            let mut host = match self.host.take() {
                Some(host) => host,
                None => match RuleHost::new(&kit.plugin, &kit.limits).await {
                    Ok(host) => host,
                    Err(fault) => return Probe::Stopped(fault),
                },
            };
            match self.configure_missing(&mut host, keys).await {
                Ok(()) => break host,
                Err((key, fault, sound)) => {
                    self.host = sound.then_some(host);
                    found.spend(&fault);
                    keys.retain(|other| *other != key);
                    self.quarantine(kit, key, events, fault.reason, found).await;
                    if found.gave_up() {
                        let reason =
                            "too many rules of this plugin cannot be configured again".to_owned();
                        return Probe::Stopped(Fault {
                            kind: FaultKind::Trap,
                            reason,
                        });
                    }
                }
            }
        };
        match host.evaluate(events, keys).await {
            Ok(matches) => {
                self.host = Some(host);
                Probe::Passed(matches)
            }
            Err(fault) => {
                found.spend(&fault);
                Probe::Failed(fault)
            }
        }
    }

    // The rule that cannot be configured, why, and whether the instance is still sound.
    async fn configure_missing(
        &self,
        host: &mut RuleHost,
        keys: &[RuleKey],
    ) -> Result<(), (RuleKey, Fault, bool)> {
        if host.knows(keys) {
            return Ok(());
        }
        for key in keys {
            if host.has(*key) {
                continue;
            }
            let Some(config) = self.rules.get(key) else {
                continue;
            };
            match host.configure(*key, config).await {
                Ok(Ok(())) => {}
                Ok(Err(message)) => return Err((*key, Fault::nonsense(message), true)),
                Err(fault) => return Err((*key, fault, false)),
            }
        }
        Ok(())
    }

    // The rule goes to an instance of its own, which looks at `events` one by one.
    async fn quarantine(
        &mut self,
        kit: &Kit,
        key: RuleKey,
        events: &[Parsed<'_>],
        reason: String,
        found: &mut Found,
    ) {
        let Some(config) = self.rules.remove(&key) else {
            return;
        };
        // Which have it still.
        self.replicas.clear();
        tracing::warn!(plugin = %kit.label, rule = key.0, reason, "a rule failed and gets an instance of its own");
        let mut rule = Quarantined::new(kit, key, config);
        rule.evaluate(kit, events, found).await;
        found.quarantined.push(rule);
    }
}

impl Found {
    /// It failed so often that the rest was not tried and stands under `failures`.
    pub(super) fn gave_up(&self) -> bool {
        self.fault_cost >= FAULT_COST_MAX
    }

    fn spend(&mut self, fault: &Fault) {
        self.fault_cost += match fault.kind {
            FaultKind::Timeout => TIMEOUT_COST,
            FaultKind::Trap | FaultKind::Nonsense | FaultKind::Busy => TRAP_COST,
        };
    }

    /// Every pair of `events` and `keys` failed.
    pub(super) fn fail(&mut self, events: &[Parsed<'_>], keys: &[RuleKey], reason: &str) {
        for event in events {
            self.failures.extend(keys.iter().map(|rule| FilterFailure {
                rule: *rule,
                event: event.index,
                reason: reason.to_owned(),
            }));
        }
    }
}
