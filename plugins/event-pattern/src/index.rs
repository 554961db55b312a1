//! Many patterns over one event. Each pattern is a few conjunctions of conditions; each conjunction hangs on the one
//! condition that few events satisfy, and is looked at only when that one is met. What an event costs is one pass over
//! its payload, a lookup per value that some rule asks for, and a check per candidate.
//!
//! Which of its conditions a conjunction hangs on is chosen here, by a guess at how often each is met. By what of that
//! condition it is then looked up, as by which piece of a wildcard, is chosen in `lookup`; ranges are in `intervals`.

use std::sync::Arc;

use crate::Pattern;
use crate::conjunction::{self, Conjunct, Part};
use crate::evaluate::Subject;
use crate::extract::{FieldId, NodeId, Paths, Tables, Values};
use crate::fast_hash::FastMap;
use crate::matcher::Matcher;

mod intervals;
mod lookup;

use lookup::{FieldLookup, Precision};

/// Patterns by rule number, arranged so that an event costs about the same for a thousand as for one.
///
/// Agrees with [`Pattern::matches`] on every event.
#[derive(Debug, Default)]
pub struct PatternSet {
    /// The places of the rules in `slots`.
    rules: FastMap<u32, usize>,
    slots: Vec<Slot>,
    /// Slots whose rule was removed; what hangs on them stays until the next rebuild.
    dead: usize,
    paths: Paths,
    /// By field.
    lookups: Vec<FieldLookup>,
    /// Fields with something that hangs on their absence.
    absent_fields: Vec<FieldId>,
    conditions: Vec<Condition>,
    condition_ids: FastMap<(FieldId, Arc<[Matcher]>), ConditionId>,
    conjunctions: Vec<Conjunction>,
    scratch: Scratch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ConjunctionId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConditionId(u32);

#[derive(Debug)]
struct Slot {
    rule: u32,
    /// `None` once removed.
    pattern: Option<Pattern>,
}

/// A field and what it must satisfy; shared by all rules that say the same.
#[derive(Debug)]
struct Condition {
    field: FieldId,
    matchers: Arc<[Matcher]>,
    /// Conjunctions that hang on it.
    attached: usize,
}

/// A rule, or one combination of its alternatives.
#[derive(Debug)]
struct Conjunction {
    slot: usize,
    needs_payload: bool,
    /// To be checked once the condition it hangs on is met.
    rest: Vec<ConditionId>,
    /// Objects that two of its conditions lie in. If the event has several there, which stand together matters.
    shared: Vec<NodeId>,
}

/// Kept from event to event, so that none is cleared or allocated anew. A stamp is the number of the event that set it.
#[derive(Debug, Default)]
struct Scratch {
    event: u64,
    tables: Tables,
    candidates: Vec<ConjunctionId>,
    /// By conjunction: seen in this event.
    seen: Vec<u64>,
    /// By slot: matched in this event.
    matched: Vec<u64>,
    /// By condition: twice the event, plus one if it was satisfied.
    checked: Vec<u64>,
}

impl PatternSet {
    /// A set without rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rules it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Adds a rule, in place of the one with this number if there is one.
    pub fn insert(&mut self, rule: u32, pattern: Pattern) {
        self.remove(rule);
        self.add(rule, pattern);
    }

    /// Removes a rule. A number that is not in use is nothing.
    pub fn remove(&mut self, rule: u32) {
        let Some(slot) = self.rules.remove(&rule) else {
            return;
        };
        self.slots[slot].pattern = None;
        self.dead += 1;
        // Tables are not unpicked: once half of what they hold is dead, building them anew costs no more per removal.
        if self.dead > self.rules.len() + 64 {
            self.rebuild();
        }
    }

    /// Adds to `matched` the numbers of the rules that match an event, each once, in no particular order.
    pub fn evaluate(&mut self, payload: &[u8], headers: &[(&str, &str)], matched: &mut Vec<u32>) {
        self.scratch.event += 1;
        let event = self.scratch.event;
        let mut tables = std::mem::take(&mut self.scratch.tables);
        let values = Values::extract(&self.paths, &mut tables, payload, headers);
        self.find_candidates(&values);

        let mut candidates = std::mem::take(&mut self.scratch.candidates);
        let mut subject = None;
        for id in candidates.drain(..) {
            if std::mem::replace(&mut self.scratch.seen[id.0 as usize], event) == event {
                continue;
            }
            let conjunction = &self.conjunctions[id.0 as usize];
            let slot = &self.slots[conjunction.slot];
            let Some(pattern) = &slot.pattern else {
                continue;
            };
            if self.scratch.matched[conjunction.slot] == event
                || (conjunction.needs_payload && !values.payload_is_object())
                || !conjunction
                    .rest
                    .iter()
                    .all(|condition| self.scratch.check(&self.conditions, *condition, &values))
            {
                continue;
            }
            if values.is_any_repeated(&conjunction.shared) {
                let subject = subject.get_or_insert_with(|| Subject::new(payload, headers));
                if !subject.satisfies(pattern) {
                    continue;
                }
            }
            self.scratch.matched[conjunction.slot] = event;
            matched.push(slot.rule);
        }
        drop(values);
        self.scratch.candidates = candidates;
        self.scratch.tables = tables;
    }

    fn find_candidates(&mut self, values: &Values<'_, '_>) {
        let candidates = &mut self.scratch.candidates;
        for field in values.fields() {
            let lookup = &mut self.lookups[field.0 as usize];
            lookup.find_present(candidates);
            for value in values.of(*field) {
                lookup.find(value, candidates);
            }
        }
        for field in &self.absent_fields {
            if !values.has(*field) {
                candidates.extend_from_slice(&self.lookups[field.0 as usize].absent);
            }
        }
    }

    fn add(&mut self, rule: u32, pattern: Pattern) {
        let slot = self.slots.len();
        for conjuncts in conjunction::all_of(&pattern) {
            self.add_conjunction(slot, &conjuncts);
        }
        self.slots.push(Slot {
            rule,
            pattern: Some(pattern),
        });
        self.rules.insert(rule, slot);
        self.scratch.matched.push(0);
    }

    fn add_conjunction(&mut self, slot: usize, conjuncts: &[Conjunct<'_>]) {
        let id = ConjunctionId(self.conjunctions.len() as u32);
        let mut conditions = Vec::with_capacity(conjuncts.len());
        let mut ways = Vec::new();
        for conjunct in conjuncts {
            let field = match conjunct.part {
                Part::Headers => self.paths.header_field(conjunct.path.last().unwrap_or(&"")),
                Part::Payload => {
                    let (field, way) = self.paths.payload_field(&conjunct.path);
                    ways.extend(way);
                    field
                }
            };
            conditions.push(self.condition(field, conjunct.matchers));
        }
        self.lookups
            .resize_with(self.paths.field_count(), FieldLookup::default);

        let hangs_on = conditions
            .iter()
            .enumerate()
            .min_by_key(|(_, condition)| self.conditions[condition.0 as usize].cost())
            .map(|(place, _)| place);
        if let Some(place) = hangs_on
            && self.attach(conditions[place], id) == Precision::Exact
        {
            conditions.swap_remove(place);
        }
        self.conjunctions.push(Conjunction {
            slot,
            needs_payload: conjuncts.iter().any(|c| c.part == Part::Payload),
            rest: conditions,
            shared: repeated(ways),
        });
        self.scratch.seen.push(0);
    }

    /// The condition that says this, new or shared.
    fn condition(&mut self, field: FieldId, matchers: &[Matcher]) -> ConditionId {
        let key = (field, Arc::from(matchers));
        if let Some(id) = self.condition_ids.get(&key) {
            return *id;
        }
        let id = ConditionId(self.conditions.len() as u32);
        self.conditions.push(Condition {
            field,
            matchers: key.1.clone(),
            attached: 0,
        });
        self.scratch.checked.push(0);
        self.condition_ids.insert(key, id);
        id
    }

    /// Hangs a conjunction on a condition: on each of its matchers, since any of them may be the one that is met.
    fn attach(&mut self, condition: ConditionId, id: ConjunctionId) -> Precision {
        let condition = &mut self.conditions[condition.0 as usize];
        condition.attached += 1;
        let lookup = &mut self.lookups[condition.field.0 as usize];
        let mut precision = Precision::Exact;
        for matcher in condition.matchers.iter() {
            if lookup.insert(matcher, id) == Precision::Candidate {
                precision = Precision::Candidate;
            }
            if *matcher == Matcher::Absent && !self.absent_fields.contains(&condition.field) {
                self.absent_fields.push(condition.field);
            }
        }
        precision
    }

    fn rebuild(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        *self = Self::default();
        for slot in slots {
            if let Some(pattern) = slot.pattern {
                self.add(slot.rule, pattern);
            }
        }
    }
}

impl Condition {
    /// How much work it makes per event to hang one more conjunction on it: how often such a condition is met, as a
    /// guess, for everything that hangs there.
    fn cost(&self) -> usize {
        let frequency: usize = self.matchers.iter().map(frequency).sum();
        frequency.saturating_mul(1 + self.attached)
    }
}

/// A guess at how often an event satisfies it, against an exact value's 1.
fn frequency(matcher: &Matcher) -> usize {
    match matcher {
        Matcher::Number(_) | Matcher::Text(_) | Matcher::TextIgnoreCase(_) => 1,
        Matcher::Network(_) => 4,
        Matcher::Prefix(_)
        | Matcher::PrefixIgnoreCase(_)
        | Matcher::Suffix(_)
        | Matcher::SuffixIgnoreCase(_) => 4,
        Matcher::Bool(_) | Matcher::Null => 16,
        Matcher::Wildcard(wildcard) if !wildcard.first.is_empty() || !wildcard.last.is_empty() => 8,
        Matcher::Wildcard(wildcard) if !wildcard.middle.is_empty() => 16,
        Matcher::Wildcard(_) => 256,
        Matcher::Range(range) => {
            let is_open = |bound| matches!(bound, std::ops::Bound::Unbounded);
            if is_open(range.low) || is_open(range.high) {
                64
            } else {
                16
            }
        }
        Matcher::Not(_) | Matcher::Exists => 256,
        Matcher::Absent => 512,
    }
}

impl Scratch {
    /// Whether a condition is satisfied; found out once per event.
    fn check(
        &mut self,
        conditions: &[Condition],
        id: ConditionId,
        values: &Values<'_, '_>,
    ) -> bool {
        let stamp = &mut self.checked[id.0 as usize];
        if *stamp >> 1 != self.event {
            let condition = &conditions[id.0 as usize];
            let is_satisfied = condition.is_satisfied(values);
            *stamp = self.event << 1 | u64::from(is_satisfied);
        }
        *stamp & 1 == 1
    }
}

impl Condition {
    fn is_satisfied(&self, values: &Values<'_, '_>) -> bool {
        if !values.has(self.field) {
            return self.matchers.contains(&Matcher::Absent);
        }
        values
            .of(self.field)
            .any(|value| self.matchers.iter().any(|matcher| matcher.accepts(value)))
    }
}

/// The nodes that occur more than once.
fn repeated(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort();
    let mut repeated: Vec<_> = nodes
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    repeated.dedup();
    repeated
}
