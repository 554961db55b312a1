//! An instance of a filter with the rules it was given, under the caller's keys. Checks every answer; a nonsense
//! answer is a fault like a trap. Decides nothing about what follows from one.

use std::collections::HashMap;
use std::sync::Arc;

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
        let numbers: Vec<u32> = keys
            .iter()
            .filter_map(|key| self.by_key.get(key).copied())
            .collect();
        let table = HeaderTable::collect(events, &self.wanted);
        let lowered = table.lower(events, &self.wanted);
        let found = self.guest.evaluate(&lowered, &numbers).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }

        let ordinals: HashMap<u32, usize> = numbers.iter().copied().zip(0..).collect();
        let mut seen = vec![0_u64; (events.len() * numbers.len()).div_ceil(64)];
        let mut matches = Vec::with_capacity(found.len().min(events.len() * numbers.len()));
        for pair in found {
            let event = events.get(pair.event as usize).ok_or_else(|| {
                Fault::nonsense(format!(
                    "it answered event {} of a batch of {}",
                    pair.event,
                    events.len()
                ))
            })?;
            let (Some(ordinal), Some(key)) =
                (ordinals.get(&pair.rule), self.by_number.get(&pair.rule))
            else {
                return Err(Fault::nonsense(format!(
                    "it answered rule {}, which was not asked for",
                    pair.rule
                )));
            };
            let bit = pair.event as usize * numbers.len() + ordinal;
            if seen[bit / 64] & (1 << (bit % 64)) != 0 {
                return Err(Fault::nonsense(format!(
                    "it answered event {} and rule {} twice",
                    pair.event, pair.rule
                )));
            }
            seen[bit / 64] |= 1 << (bit % 64);
            matches.push((event.index, *key));
        }
        Ok(matches)
    }
}
