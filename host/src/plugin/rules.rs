//! An instance of a filter with the rules it was given, under the caller's keys. Checks every answer; a nonsense
//! answer is a fault like a trap. Decides nothing about what follows from one.

use std::collections::HashMap;
use std::sync::Arc;

use super::abi;
use super::guest::{Fault, Guest};
use super::loaded::Loaded;
use super::lower::{HeaderTable, Parsed, Wanted};
use super::{PluginLimits, RuleKey};

/// Answer of a call: index of the event in the caller's batch, and the rule that wants it.
pub(super) type Matches = Vec<(u32, RuleKey)>;

/// A filter instance and its rules.
pub(super) struct RuleHost {
    guest: Guest,
    // Rules by the number the guest gave them.
    by_number: HashMap<u32, RuleKey>,
    by_key: HashMap<RuleKey, u32>,
    wanted: Wanted,
}

impl RuleHost {
    pub(super) async fn new(
        plugin: &Arc<Loaded>,
        limits: &Arc<PluginLimits>,
    ) -> Result<Self, Fault> {
        Ok(Self {
            guest: Guest::new(plugin, limits).await?,
            by_number: HashMap::new(),
            by_key: HashMap::new(),
            wanted: Wanted::default(),
        })
    }

    pub(super) fn has(&self, key: RuleKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Gives the instance a rule. The inner error is the guest's own message and leaves the instance sound.
    pub(super) async fn configure(
        &mut self,
        key: RuleKey,
        config: &str,
    ) -> Result<Result<(), String>, Fault> {
        let (number, wants) = match self.guest.configure(config).await? {
            Ok(configured) => configured,
            Err(message) => return Ok(Err(message)),
        };
        if self.by_number.insert(number, key).is_some() {
            return Err(Fault::nonsense(format!(
                "configure answered rule {number}, which it had given before"
            )));
        }
        self.by_key.insert(key, number);
        // Never shrinks while the instance lives: a rule that left may have been the only one that wanted
        // something, which then costs a copy until the instance is made anew.
        self.wanted.add(&wants);
        Ok(Ok(()))
    }

    /// Takes a rule from the instance. After a fault the instance is of no use.
    pub(super) async fn release(&mut self, key: RuleKey) -> Result<(), Fault> {
        let Some(number) = self.by_key.remove(&key) else {
            return Ok(());
        };
        self.by_number.remove(&number);
        self.guest.release(number).await
    }

    /// Asks which of `keys` want which of `events`. Keys without a rule here are left out.
    pub(super) async fn evaluate(
        &mut self,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
    ) -> Result<Matches, Fault> {
        let mut asked: Vec<(u32, RuleKey)> = keys
            .iter()
            .filter_map(|key| Some((*self.by_key.get(key)?, *key)))
            .collect();
        // Rising, so that answers are found by halving.
        asked.sort_unstable();
        let numbers: Vec<u32> = asked.iter().map(|(number, _)| *number).collect();
        let table = HeaderTable::collect(events, &self.wanted);
        let lowered = table.lower(events, &self.wanted);
        let found = self.guest.evaluate(&lowered, &numbers).await?;
        check(found, events, &asked)
    }
}

// The answer under the caller's names, if each event and rule in it was asked about and no pair comes twice.
fn check(
    found: Vec<abi::Match>,
    events: &[Parsed<'_>],
    asked: &[(u32, RuleKey)],
) -> Result<Matches, Fault> {
    let pairs = events.len() * asked.len();
    if found.len() > pairs {
        return Err(Fault::nonsense(format!(
            "it answered {} matches for {pairs} pairs of event and rule",
            found.len()
        )));
    }
    let mut seen = vec![
        0_u64;
        if found.is_empty() {
            0
        } else {
            pairs.div_ceil(64)
        }
    ];
    let mut matches = Vec::with_capacity(found.len());
    for abi::Match { event, rule } in found {
        let Some(parsed) = events.get(event as usize) else {
            let count = events.len();
            return Err(Fault::nonsense(format!(
                "it answered event {event} of a batch of {count}"
            )));
        };
        let Ok(ordinal) = asked.binary_search_by_key(&rule, |(number, _)| *number) else {
            return Err(Fault::nonsense(format!(
                "it answered rule {rule}, which was not asked for"
            )));
        };
        let bit = event as usize * asked.len() + ordinal;
        if seen[bit / 64] & (1 << (bit % 64)) != 0 {
            return Err(Fault::nonsense(format!(
                "it answered event {event} and rule {rule} twice"
            )));
        }
        seen[bit / 64] |= 1 << (bit % 64);
        matches.push((parsed.index, asked[ordinal].1));
    }
    Ok(matches)
}
