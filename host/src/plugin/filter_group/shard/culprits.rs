//! Which rules of a shard fail on one event by themselves. Halves of the rules are tried on it, each half in a fresh instance with
//! nothing else in it, down to single rules; where several halves in a row all fail, it seems to be the event, and each rule is
//! tried alone at once. Only who fails alone is guilty.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Shard;
use super::batch::Batch;
use crate::plugin::call_input::Parsed;
use crate::plugin::evaluation::RuleKey;
use crate::plugin::filter_instance::Trial;
use crate::plugin::guest_fault::Fault;

// So many times in a row all parts failed: then the rules are tried one by one. Halving all of 1,024 down takes twice as many calls.
const ALL_FAILED_MAX: u32 = 3;

/// What a look at one event came to. Whoever is not named here is done with it.
#[derive(Default)]
pub(super) struct Culprits {
    /// Rules that failed on it alone, and how.
    pub(super) failed: Vec<(RuleKey, Fault)>,
    /// Rules that could not be tried, and how long they have to wait for it.
    pub(super) untried: BTreeMap<RuleKey, Duration>,
    /// A rule of those that could not be configured.
    pub(super) unconfigured: Option<(RuleKey, String)>,
}

// Rules on which a call failed, in a fresh instance with these and no others.
struct Accused {
    keys: Vec<RuleKey>,
    fault: Fault,
    all_failed: u32,
}

impl Culprits {
    fn wait(&mut self, keys: &[RuleKey], after: Duration) {
        self.untried.extend(keys.iter().map(|key| (*key, after)));
    }
}

/// Finds them. `fault` is what became of a call on this event for all rules of the batch.
pub(super) async fn single_out(
    shard: &mut Shard,
    batch: &mut Batch<'_>,
    event: &Parsed<'_>,
    fault: Fault,
) -> Culprits {
    let mut culprits = Culprits::default();
    let mut open = vec![Accused {
        keys: batch.keys.clone(),
        fault,
        all_failed: 0,
    }];
    while let Some(accused) = open.pop() {
        if let [key] = accused.keys[..] {
            culprits.failed.push((key, accused.fault));
            continue;
        }
        if planted!(AllBlamed) {
            let all = accused.keys.iter();
            culprits
                .failed
                .extend(all.map(|key| (*key, accused.fault.clone())));
            continue;
        }
        let tried = try_parts(shard, batch, event, &accused, &mut culprits).await;
        if tried.all_passed {
            batch.found.strained = true;
        }
        let all_failed = match tried.any_passed {
            true => 0,
            false => accused.all_failed + 1,
        };
        open.extend(tried.failed.into_iter().map(|(keys, fault)| Accused {
            keys,
            fault,
            all_failed,
        }));
    }
    culprits
}

struct Tried {
    failed: Vec<(Vec<RuleKey>, Fault)>,
    any_passed: bool,
    all_passed: bool,
}

async fn try_parts(
    shard: &mut Shard,
    batch: &mut Batch<'_>,
    event: &Parsed<'_>,
    accused: &Accused,
    culprits: &mut Culprits,
) -> Tried {
    let mut tried = Tried {
        failed: Vec::new(),
        any_passed: false,
        all_passed: true,
    };
    let size = match accused.all_failed {
        ALL_FAILED_MAX.. => 1,
        _ => accused.keys.len().div_ceil(2),
    };
    for part in accused.keys.chunks(size) {
        let trial = match shard.may_spend(batch) {
            Ok(()) if batch.found.stopped.is_none() => {
                shard
                    .trial(batch.setup, std::slice::from_ref(event), part)
                    .await
            }
            Ok(()) => {
                tried.all_passed = false;
                culprits.wait(part, Duration::ZERO);
                continue;
            }
            Err(after) => {
                tried.all_passed = false;
                culprits.wait(part, after);
                continue;
            }
        };
        match trial {
            Trial::Passed(matches, host) => {
                shard.keep(host);
                batch.found.matches.extend(matches);
                tried.any_passed = true;
                continue;
            }
            Trial::Failed(fault) => {
                shard.spend(batch, &fault);
                tried.failed.push((part.to_vec(), fault));
            }
            Trial::NoInstance(fault) => {
                culprits.wait(part, Duration::ZERO);
                batch.found.stopped = Some(fault);
            }
            Trial::Unconfigured(key, fault) => {
                culprits.wait(part, Duration::ZERO);
                culprits.unconfigured = Some((key, fault.reason));
            }
        }
        tried.all_passed = false;
    }
    tried
}
