//! The call of a filter, one step of a cohort: reads the next events, calls the plugin, and tells the members' subscriptions what came of it. Which cohort
//! has its turn, and when, is decided by the lane.

use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::Lane;
use crate::broker::event_log::unreadable_conditions;
use crate::broker::matching::lane::cohort::TopicRules;
use crate::broker::matching::lane::command::Member;
use crate::broker::matching::lane::verdicts::{Call, RuleFailure, Untried, Verdicts};
use crate::domain::{BlockOrigin, FailurePolicy, PluginWorld, Position, TopicId, plugin_pause};
use crate::locks::read;
use crate::plugin::{Evaluation, FilterFailure, RuleKey, Undecided};
use crate::store::ReadError;
use crate::telemetry::error_line::with_causes;

/// How long a lane waits before it tries again what failed for no fault of a rule.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Bytes of blocks a cohort takes in one step.
const STEP_BYTES: usize = 512 * 1024;
/// Events in one call of a plugin.
const CALL_EVENTS_MAX: usize = 512;
/// Pairs of a rule and an event that it wants or failed on, after which a step ends, so that rules that want everything do not fill
/// the memory. A step of a thousand rules of which each wants a hundredth has about 5,000.
const STEP_PAIRS_MAX: usize = 256 * 1024;
/// How exactly members wait for another try.
const REST_STEP: Duration = Duration::from_millis(50);

// The log cannot be read.
struct Unreadable {
    why: String,
    // Events that wait for that, at least.
    events: u64,
}

impl Unreadable {
    fn at(position: Position, error: &ReadError) -> Self {
        Self {
            why: with_causes(error),
            events: unreadable_conditions::waits_for(error, position),
        }
    }
}

// Where a member's subscription is to pause: its rule failed on this event, as the plugin says.
struct Stop {
    position: Position,
    words: String,
}

impl Lane {
    // One step of a cohort. Returns whether its cursor moved.
    pub(super) async fn advance(&mut self, index: usize, end: Position) -> bool {
        // Not past the cohort ahead, so that the two meet.
        let stop = self
            .cohorts
            .iter()
            .map(|other| other.cursor)
            .filter(|cursor| *cursor > self.cohorts[index].cursor)
            .min()
            .unwrap_or(end)
            .min(end);
        let mut verdicts = std::mem::take(&mut self.verdicts);
        let evaluated = self.evaluate(index, stop, &mut verdicts).await;
        let done = match &evaluated {
            Ok(next) => {
                if self.cohorts[index].unreadable.take().is_some() {
                    self.stand_at(index, None);
                }
                self.cohorts[index].cursor = *next;
                let done = self.report(index, &mut verdicts, *next);
                self.send_back(index);
                done
            }
            Err(_) => Vec::new(),
        };
        self.set_aside(&verdicts.undecided);
        verdicts.clear();
        self.verdicts = verdicts;
        for key in done {
            self.drop_member(key).await;
        }
        match evaluated {
            Ok(_) => true,
            Err(Unreadable { why: error, events }) => {
                self.stand_at(index, Some(self.cohorts[index].cursor));
                let cohort = &mut self.cohorts[index];
                if cohort.unreadable != Some(cohort.cursor) {
                    cohort.unreadable = Some(cohort.cursor);
                    self.parts.metrics.unreadable(events);
                    tracing::error!(position = %cohort.cursor, error, "a lane cannot read the log; subscriptions that stand there wait, and it tries again");
                }
                // The others go on meanwhile.
                cohort.rests_until = Some(Instant::now() + RETRY);
                false
            }
        }
    }

    // What the subscriptions of a cohort are shown to wait for.
    fn stand_at(&self, index: usize, position: Option<Position>) {
        let rules = self.cohorts[index].rules.iter();
        for member in rules.filter_map(|key| self.members.get(key)) {
            member.live.stand_at(member.chain.revision, position);
        }
    }

    // Members of a ward's cohort that have been sound for long enough.
    fn send_back(&mut self, index: usize) {
        if !self.id.is_apart() {
            return;
        }
        // The cohort may have ended with the step; then this is another one.
        let rules = self.cohorts.get(index).into_iter();
        let rules = rules.flat_map(|cohort| cohort.rules.iter().copied());
        let sound = |key: &RuleKey| self.members.get(key).is_some_and(|m| m.stay.is_over());
        for key in rules.filter(sound).collect::<Vec<_>>() {
            self.leave_cohort(key);
            self.leaving.push(key);
        }
    }

    // Who was not tried on an event rests before it, or goes on in a ward; the others go on.
    fn set_aside(&mut self, undecided: &[Untried]) {
        let now = Instant::now();
        // Those that were told to wait one after the other go on together.
        let rests_until = |after: &Duration| {
            let steps = after.as_millis().div_ceil(REST_STEP.as_millis());
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            (steps > 0).then(|| now + REST_STEP.saturating_mul(steps))
        };
        for untried in undecided {
            let key = untried.rule;
            // Unless its subscription is paused.
            if !self.members.contains_key(&key) || self.parked.contains(&key) {
                continue;
            }
            self.leave_cohort(key);
            match untried.apart {
                true => self.leaving.push(key),
                false => self.join_at(key, untried.position, rests_until(&untried.after)),
            }
        }
    }

    // Fills `verdicts` and answers the position before which the step ended.
    async fn evaluate(
        &mut self,
        index: usize,
        stop: Position,
        verdicts: &mut Verdicts,
    ) -> Result<Position, Unreadable> {
        let cursor = self.cohorts[index].cursor;
        let blocks = self
            .parts
            .log
            .blocks_from(cursor, STEP_BYTES)
            .await
            .map_err(|error| Unreadable::at(cursor, &error))?;
        let mut next = stop;
        let mut call = Call::default();
        for block in &blocks {
            if block.first_position >= stop {
                break;
            }
            next = block.last_position().next().min(stop);
            let Some((topic, rules)) = self.rules_of(index, block.topic, block.mark) else {
                continue;
            };
            if !call.same_rules(&rules) || call.events.len() >= CALL_EVENTS_MAX {
                if let Some(stopped) = self.call(&mut call, verdicts).await {
                    return Ok(stopped);
                }
                if verdicts.pairs > STEP_PAIRS_MAX {
                    return Ok(block.first_position);
                }
                call.rules = rules;
            }
            let added = call.add(block, &topic, cursor, stop);
            added.map_err(|why| Unreadable { why, events: 1 })?;
        }
        if let Some(stopped) = self.call(&mut call, verdicts).await {
            return Ok(stopped);
        }
        // Everything up to `stop` that is kept was in these blocks, unless the step was cut short by size.
        if blocks
            .iter()
            .any(|block| block.last_position().next() >= stop)
            || blocks.is_empty()
        {
            next = stop;
        }
        Ok(next)
    }

    // Passes the events of `call` to the plugin. `Some` when the step ends before this position: a rule was not tried on all of
    // them, or enough is known to be told.
    async fn call(&mut self, call: &mut Call, verdicts: &mut Verdicts) -> Option<Position> {
        let group = self.group.as_mut()?;
        while !call.events.is_empty() {
            let count = call.events.len().min(CALL_EVENTS_MAX);
            let Evaluation {
                matches,
                failures,
                undecided,
            } = group.evaluate(&call.events[..count], &call.rules).await;
            if self.id.is_apart() {
                note_stays(&mut self.members, &call.rules, count, &failures, &undecided);
            }
            for (event, rule) in matches {
                verdicts.push(rule, call.positions[event as usize]);
            }
            for failure in failures {
                verdicts.push_failure(call, failure);
            }
            for undecided in undecided {
                verdicts.undecided.push(Untried {
                    rule: undecided.rule,
                    position: call.positions[undecided.event as usize],
                    after: undecided.after,
                    apart: undecided.apart,
                });
            }
            let end = call.positions[count - 1].next();
            call.events.drain(..count);
            call.positions.drain(..count);
            if !verdicts.undecided.is_empty() || verdicts.pairs > STEP_PAIRS_MAX {
                return Some(call.positions.first().copied().unwrap_or(end));
            }
        }
        None
    }

    // Tells every member of a cohort what came out of a step that ended before `next`. Returns those that have nothing left
    // to look at, because another chain judges from there on.
    fn report(&mut self, index: usize, verdicts: &mut Verdicts, next: Position) -> Vec<RuleKey> {
        let stops = self.report_failures(verdicts);
        let untried: FxHashMap<RuleKey, Position> = verdicts
            .undecided
            .iter()
            .map(|untried| (untried.rule, untried.position))
            .collect();
        let mut done = Vec::new();
        for key in &self.cohorts[index].rules {
            let Some(member) = self.members.get(key) else {
                continue;
            };
            let mut none = Vec::new();
            let matched = verdicts.matched.get_mut(key).unwrap_or(&mut none);
            matched.sort_unstable();
            matched.dedup();
            let stop = stops.get(key);
            if let Some(stop) = stop {
                matched.retain(|position| *position < stop.position);
            }
            // Before the event that ends the step for this member.
            let until = stop.map(|stop| stop.position);
            let until = until.or_else(|| untried.get(key).copied()).unwrap_or(next);
            let through = Position(until.0.saturating_sub(1));
            if is_done(member, through, matched, stop) {
                done.push(*key);
            }
        }
        for key in stops.into_keys() {
            self.leave_cohort(key);
            self.parked.push(key);
        }
        done
    }

    // Does with failures what each member's subscription says. Returns where those are to pause that say so.
    fn report_failures(&self, verdicts: &mut Verdicts) -> FxHashMap<RuleKey, Stop> {
        let mut stops: FxHashMap<RuleKey, Stop> = FxHashMap::default();
        for failure in std::mem::take(&mut verdicts.failures) {
            let position = failure.position;
            let Some(member) = self.members.get(&failure.rule) else {
                continue;
            };
            if !member.judges(position) {
                continue;
            }
            self.log_failure(member, &failure);
            match member.policy() {
                FailurePolicy::DeadLetter => {
                    let reason = &failure.reason;
                    member
                        .live
                        .apply(|state, _| state.exclude(member.stage, position, reason));
                }
                FailurePolicy::Drop => {}
                FailurePolicy::Pass => verdicts.push(failure.rule, position),
                FailurePolicy::Pause => {
                    let known = stops.get(&failure.rule);
                    if known.is_none_or(|known| position < known.position) {
                        let words = failure.reason;
                        stops.insert(failure.rule, Stop { position, words });
                    }
                }
            }
        }
        stops
    }

    fn log_failure(&self, member: &Member, failure: &RuleFailure) {
        let Some(events) = member.live.log_limits.filter_failed.admit(1) else {
            return;
        };
        let RuleFailure {
            position,
            topic,
            reason,
            ..
        } = failure;
        let on_failure = member.policy();
        tracing::warn!(subscription = %member.live.name, %topic, %position, reason, ?on_failure, events, "a filter failed on an event");
        let now = self.parts.registry.clock.wall();
        let line = format!(
            "filter {} failed on the event at position {position} ({events} since the last line): {reason}",
            self.label
        );
        member.live.log_limits.told.push(now, line);
    }

    fn rules_of(&mut self, index: usize, topic: TopicId, mark: BlockOrigin) -> Option<TopicRules> {
        let cohort = &mut self.cohorts[index];
        let looked_up = (topic, mark.is_letter());
        if let Some(known) = cohort.by_topic.get(&looked_up) {
            return known.clone();
        }
        let name = {
            let catalog = read(&self.parts.catalog);
            catalog.topic_name(topic)
        };
        let entry = name.and_then(|name| {
            let selects = |key: &&RuleKey| {
                self.members
                    .get(*key)
                    .is_some_and(|member| member.selects(&name, mark))
            };
            let rules: Vec<RuleKey> = cohort.rules.iter().filter(selects).copied().collect();
            if rules.is_empty() {
                return None;
            }
            // Lists are compared by pointer when events are put together, so equal ones must be one.
            let mut known = cohort.by_topic.values().flatten().map(|(_, list)| list);
            let shared = known.find(|list| list[..] == rules[..]).cloned();
            Some((name, shared.unwrap_or_else(|| rules.into())))
        });
        cohort.by_topic.insert(looked_up, entry.clone());
        entry
    }
}

// Tells a member's subscription. Whether another chain judges what comes next.
fn is_done(member: &Member, through: Position, matched: &[Position], stop: Option<&Stop>) -> bool {
    let revision = member.chain.revision;
    member.live.apply(|state, _| {
        if state.revision() != revision {
            return true;
        }
        state.stage_result(member.stage, through, matched);
        if let Some(Stop { position, words }) = stop.filter(|_| state.revision() == revision) {
            reached!(PausedByFilter);
            state.pause(&plugin_pause(PluginWorld::Filter, *position, words));
            return false;
        }
        state.revision() != revision || state.stage_through(member.stage) >= state.judges_until()
    })
}

// How members of a ward fared in a call.
fn note_stays(
    members: &mut FxHashMap<RuleKey, Member>,
    asked: &[RuleKey],
    events: usize,
    failures: &[FilterFailure],
    undecided: &[Undecided],
) {
    for key in asked {
        if let Some(member) = members.get_mut(key) {
            member.stay.asked(events);
        }
    }
    let failed = failures.iter().map(|failure| failure.rule);
    for key in failed.chain(undecided.iter().map(|undecided| undecided.rule)) {
        if let Some(member) = members.get_mut(&key) {
            member.stay.failed();
        }
    }
}
