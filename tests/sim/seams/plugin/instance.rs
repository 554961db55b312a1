//! One instance of a scripted plugin, with the names of `host/src/plugin/instance.rs`: it goes by [`rules`](crate::simulation::rules).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::abi;
use super::checked_component::CheckedComponent;
use super::guest_fault::{Fault, FaultKind};
use super::instance_budget::Memory;
use super::limits::PluginLimits;
use crate::domain::PluginWorld;
use crate::locks::lock;
use crate::simulation::rules::{
    Becomes, Fault as Scripted, Faults, FilterRule, TransformRule, emitted, number, replaced,
};

/// What a filter evaluates with.
pub(super) const EVALUATE: &str = "evaluate";
/// What a transform transforms with.
pub(super) const APPLY: &str = "apply";

/// What an instance takes of the memory for all.
const BYTES: usize = 64 << 10;

/// An instance. Each call has so much time as its caller allows.
pub(super) struct Instance {
    world: PluginWorld,
    rules: BTreeMap<u32, (String, Rule)>,
    next: u32,
    failures: Failures,
    // It has been called before.
    has_past: bool,
    _memory: Memory,
}

/// How often something has failed already, by the rule and the number of its event.
pub(super) type Failures = Arc<Mutex<BTreeMap<(String, u64), u32>>>;

enum Rule {
    Filter(FilterRule),
    Transform(TransformRule),
}

impl Rule {
    fn faults(&self) -> &Faults {
        match self {
            Self::Filter(rule) => &rule.faults,
            Self::Transform(rule) => &rule.faults,
        }
    }
}

impl Instance {
    /// Makes one, with what memory there is for it.
    pub(super) async fn new(
        plugin: &CheckedComponent,
        _limits: &PluginLimits,
        mut memory: Memory,
        _allowance: Duration,
    ) -> Result<Self, Fault> {
        memory.grow(BYTES)?;
        Ok(Self {
            world: plugin.world,
            rules: BTreeMap::new(),
            next: 0,
            failures: Arc::clone(&plugin.linked.failures),
            has_past: false,
            _memory: memory,
        })
    }

    /// Takes a rule. The inner error is that it is none.
    pub(super) async fn configure(
        &mut self,
        _allowance: Duration,
        config: &str,
    ) -> Result<Result<(u32, abi::Wants), String>, Fault> {
        let rule = match self.world {
            PluginWorld::Filter => config.parse().map(Rule::Filter),
            PluginWorld::Transform => config.parse().map(Rule::Transform),
        };
        let rule = match rule {
            Ok(rule) => rule,
            Err(refused) => return Ok(Err(refused)),
        };
        let id = self.next;
        self.next += 1;
        self.rules.insert(id, (config.to_owned(), rule));
        let wants = abi::Wants {
            headers: abi::HeaderSet::None,
            payload: true,
        };
        Ok(Ok((id, wants)))
    }

    /// Forgets a rule.
    pub(super) async fn release(&mut self, _allowance: Duration, rule: u32) -> Result<(), Fault> {
        let known = self.rules.remove(&rule);
        known.map(drop).ok_or_else(|| trap("release"))
    }

    /// Asks a filter which rules want which events.
    pub(super) async fn evaluate(
        &mut self,
        allowance: Duration,
        events: &[abi::Event<'_>],
        rules: &[u32],
    ) -> Result<Vec<abi::Match>, Fault> {
        let mut matches = self.struck(allowance, events, rules, EVALUATE).await?;
        for (at, event) in events.iter().enumerate() {
            let number = number(event.payload).unwrap_or_default();
            for id in rules {
                let Some((_, Rule::Filter(rule))) = self.rules.get(id) else {
                    return Err(trap(EVALUATE));
                };
                if rule.wants(event.topic, number) {
                    matches.push(abi::Match {
                        event: as_u32(at),
                        rule: *id,
                    });
                }
            }
        }
        Ok(matches)
    }

    /// Transforms events.
    pub(super) async fn apply(
        &mut self,
        allowance: Duration,
        rule: u32,
        events: &[abi::Event<'_>],
    ) -> Result<Vec<Result<abi::Outcome, abi::Failure>>, Fault> {
        self.struck(allowance, events, &[rule], APPLY).await?;
        let Some((text, Rule::Transform(rule))) = self.rules.get(&rule) else {
            return Err(trap(APPLY));
        };
        let outcomes = events.iter().map(|event| {
            let number = number(event.payload).unwrap_or_default();
            for (fault, on) in &rule.faults {
                match fault {
                    Scripted::Reject if on.contains(&number) => {
                        return Err(abi::Failure::Reject("the rule says so".to_owned()));
                    }
                    Scripted::Retry(times)
                        if on.contains(&number) && self.fails_again(text, number, *times) =>
                    {
                        return Err(abi::Failure::Retry("the rule says so".to_owned()));
                    }
                    _ => {}
                }
            }
            Ok(outcome(&rule.becomes, number, event))
        });
        Ok(outcomes.collect())
    }

    // Does what is wrong with the rules of a call. Answers what stands in front of its answer.
    async fn struck(
        &mut self,
        allowance: Duration,
        events: &[abi::Event<'_>],
        rules: &[u32],
        export: &'static str,
    ) -> Result<Vec<abi::Match>, Fault> {
        let numbers: Vec<u64> = events
            .iter()
            .filter_map(|event| number(event.payload))
            .collect();
        // One rule that fails on one event in a fresh instance is guilty.
        let is_proof = !self.has_past && events.len() == 1 && rules.len() == 1;
        self.has_past = true;
        let mut time = Duration::ZERO;
        let mut nonsense = Vec::new();
        for id in rules {
            let (text, rule) = self.rules.get(id).ok_or_else(|| trap(export))?;
            for (fault, on) in rule.faults() {
                if !numbers.iter().any(|number| on.contains(number)) {
                    continue;
                }
                match fault {
                    Scripted::Trap => return Err(trap(export)),
                    Scripted::TrapOnce if !is_proof && self.fails_again(text, 0, 1) => {
                        return Err(trap(export));
                    }
                    Scripted::Together(tag) if self.is_together(rules, tag) => {
                        return Err(trap(export));
                    }
                    Scripted::Slow(more) => time += *more,
                    Scripted::Nonsense => nonsense.push(abi::Match {
                        event: 0,
                        rule: u32::MAX,
                    }),
                    _ => {}
                }
            }
        }
        tokio::time::sleep(time.min(allowance)).await;
        if time > allowance {
            let late = Fault::new(FaultKind::Timeout, "it took too long", "");
            return Err(late.in_export(export));
        }
        Ok(nonsense)
    }

    fn is_together(&self, rules: &[u32], tag: &str) -> bool {
        let has = |id: &&u32| {
            let faults = self.rules.get(id).map(|(_, rule)| rule.faults());
            let mut faults = faults.into_iter().flatten();
            faults.any(|(fault, _)| matches!(fault, Scripted::Together(other) if other == tag))
        };
        rules.iter().filter(has).count() > 1
    }

    fn fails_again(&self, rule: &str, number: u64, times: u32) -> bool {
        let mut failures = lock(&self.failures);
        let failed = failures.entry((rule.to_owned(), number)).or_default();
        *failed += 1;
        *failed <= times
    }
}

fn outcome(becomes: &Becomes, number: u64, event: &abi::Event<'_>) -> abi::Outcome {
    let with = |payload: String| abi::Output {
        key: event.key.map(<[u8]>::to_vec),
        content_type: event.content_type.map(str::to_owned),
        headers: Vec::new(),
        payload: payload.into_bytes(),
    };
    match becomes {
        Becomes::Itself => abi::Outcome::Keep,
        Becomes::Nothing => abi::Outcome::Drop,
        Becomes::Another => abi::Outcome::Replace(with(replaced(number))),
        Becomes::Others { count, output } => {
            let events = (0..*count).map(|at| abi::Emitted {
                output: output.clone(),
                event: with(emitted(number, at)),
            });
            abi::Outcome::Emit(events.collect())
        }
    }
}

fn trap(export: &'static str) -> Fault {
    Fault::new(FaultKind::Trap, "it trapped, as its rule says", "").in_export(export)
}

fn as_u32(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
