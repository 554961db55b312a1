//! An instance of a filter with the rules it was given, under the caller's keys. Checks every answer; a nonsense
//! answer is a fault like a trap. Decides nothing about what follows from one.

use std::collections::HashMap;
use std::sync::Arc;

use super::abi;
use super::call_input::{HeaderTable, Parsed, Wanted};
use super::evaluation::RuleKey;
use super::guest::Guest;
use super::guest_fault::{Fault, FaultKind};
use super::guest_setup::GuestSetup;
use super::instance::EVALUATE;

/// Answer of a call: index of the event in the caller's batch, and the rule that wants it.
pub(super) type Matches = Vec<(u32, RuleKey)>;

/// A filter instance and its rules.
pub(super) struct FilterInstance {
    guest: Guest,
    // Rules by the number the guest gave them.
    by_number: HashMap<u32, RuleKey>,
    by_key: HashMap<RuleKey, u32>,
    wanted: Wanted,
    // Of the last call; the next one mostly asks for the same rules.
    asked: Asked,
}

// A list of keys, translated.
#[derive(Default)]
struct Asked {
    keys: Vec<RuleKey>,
    // The guest's numbers, rising, so that answers are found by halving.
    rules: Vec<(u32, RuleKey)>,
    numbers: Vec<u32>,
}

/// What came of a call in an instance that was made for it.
pub(super) enum Trial {
    /// It went well, and the instance is still of use.
    Passed(Matches, Box<FilterInstance>),
    /// The call failed.
    Failed(Fault),
    /// This rule could not be configured; nothing was called.
    Unconfigured(RuleKey, Fault),
    /// There is no instance, or not enough memory for it among all; nothing can be said of the rules.
    NoInstance(Fault),
}

/// One call on `events` in a fresh instance that knows nothing but `rules`: the only thing that shows who is to blame.
pub(super) async fn trial(
    setup: &GuestSetup,
    events: &[Parsed<'_>],
    rules: &[(RuleKey, &Arc<str>)],
) -> Trial {
    let mut host = match FilterInstance::new(setup).await {
        Ok(host) => host,
        Err(fault) => return Trial::NoInstance(fault),
    };
    let mut keys = Vec::with_capacity(rules.len());
    for (key, config) in rules {
        match host.configure(*key, config).await {
            Ok(Ok(())) => keys.push(*key),
            Ok(Err(message)) => return Trial::Unconfigured(*key, Fault::nonsense(message)),
            Err(fault) if fault.kind == FaultKind::Busy => return Trial::NoInstance(fault),
            Err(fault) => return Trial::Unconfigured(*key, fault),
        }
    }
    match host.evaluate(events, &keys).await {
        Ok(matches) => Trial::Passed(matches, Box::new(host)),
        Err(fault) if fault.kind == FaultKind::Busy => Trial::NoInstance(fault),
        Err(fault) => Trial::Failed(fault),
    }
}

impl FilterInstance {
    pub(super) async fn new(setup: &GuestSetup) -> Result<Self, Fault> {
        Ok(Self {
            guest: setup.guest().await?,
            by_number: HashMap::new(),
            by_key: HashMap::new(),
            wanted: Wanted::default(),
            asked: Asked::default(),
        })
    }

    pub(super) fn has(&self, key: RuleKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Whether the last call was for the same keys, all of which are here.
    pub(super) fn knows(&self, keys: &[RuleKey]) -> bool {
        self.asked.keys == keys && self.asked.rules.len() == keys.len()
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
        self.asked = Asked::default();
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
        self.asked = Asked::default();
        self.guest.release(number).await
    }

    /// Asks which of `keys` want which of `events`. Keys without a rule here are left out.
    pub(super) async fn evaluate(
        &mut self,
        events: &[Parsed<'_>],
        keys: &[RuleKey],
    ) -> Result<Matches, Fault> {
        if !self.knows(keys) {
            self.asked = Asked::new(keys, &self.by_key);
        }
        let table = HeaderTable::collect(events, &self.wanted);
        let lowered = table.lower(events, &self.wanted);
        let found = self.guest.evaluate(&lowered, &self.asked.numbers).await?;
        check(found, events, &self.asked.rules).map_err(|fault| fault.in_export(EVALUATE))
    }
}

impl Asked {
    fn new(keys: &[RuleKey], by_key: &HashMap<RuleKey, u32>) -> Self {
        let mut rules: Vec<(u32, RuleKey)> = keys
            .iter()
            .filter_map(|key| Some((*by_key.get(key)?, *key)))
            .collect();
        rules.sort_unstable();
        let numbers = rules.iter().map(|(number, _)| *number).collect();
        Self {
            keys: keys.to_vec(),
            rules,
            numbers,
        }
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
