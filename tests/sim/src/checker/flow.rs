//! Deliveries go on while a disk is full: what was answered before is handed to whoever has nothing in hand, unless something else keeps
//! them apart.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::{News, Pause, Subscription};
use super::disks::FULL;
use super::facts::Facts;
use super::order::GONE_MS;
use super::troubles::is_full;
use super::{Found, Group};
use crate::history::{Answer, Durability, Entry, Text, What};

/// How long nothing may come while an event waits.
const STALLS_MS: u64 = 5_000;
/// How long after anything else was wrong, or a life began, nothing is expected: clients come again.
const SETTLES_MS: u64 = 15_000;

#[derive(Default)]
pub(super) struct Flow {
    of: BTreeMap<Text, Stream>,
    /// The subscriptions for which that was told.
    told: BTreeSet<Text>,
}

/// What goes to the consumers of a subscription.
#[derive(Default)]
struct Stream {
    /// Who is attached, and the positions that it has not answered.
    consumers: BTreeMap<Text, BTreeSet<u64>>,
    /// Events that were handed out, and not wanted again since.
    handed: BTreeSet<u64>,
    /// The event at a position.
    events: BTreeMap<u64, u64>,
    /// Events that somebody was done with. Who wants one again after that is late.
    done: BTreeSet<u64>,
    /// When anything happened with it.
    moved_ms: u64,
    /// When somebody left it, which may have had events that it never handed over.
    left_ms: Option<u64>,
}

impl Group for Flow {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        self.check(entry.ms, facts, found);
        match &entry.what {
            What::Attached { op } => {
                let request = facts.requests.get(op).map(|request| &request.what);
                if let Some(What::Attaches { subscription, .. }) = request {
                    let stream = self.stream(subscription, entry.ms);
                    stream.consumers.insert(entry.who.clone(), BTreeSet::new());
                }
            }
            What::Delivered {
                subscription,
                position,
                n,
                ..
            } => {
                let stream = self.stream(subscription, entry.ms);
                stream.handed.insert(*n);
                stream.events.insert(*position, *n);
                let of = stream.consumers.entry(entry.who.clone()).or_default();
                of.insert(*position);
            }
            What::Says {
                subscription,
                position,
                answer,
            } => {
                let comes_again = facts.attempts.comes_at_once(subscription, *position);
                let stream = self.stream(subscription, entry.ms);
                stream.hears(*position, *answer, comes_again);
                if let Some(of) = stream.consumers.get_mut(&entry.who) {
                    of.remove(position);
                }
            }
            What::Detached { .. } | What::Dies {} => {
                for stream in self.of.values_mut() {
                    if stream.consumers.remove(&entry.who).is_some() {
                        (stream.moved_ms, stream.left_ms) = (entry.ms, Some(entry.ms));
                    }
                }
            }
            _ => {}
        }
        for news in &facts.news {
            if let News::SubscriptionGone(name) | News::SubscriptionChanges(name) = news {
                self.stream(name, entry.ms);
            }
        }
    }
}

impl Stream {
    fn hears(&mut self, position: u64, answer: Answer, comes_again: bool) {
        let Some(n) = self.events.get(&position) else {
            return;
        };
        match answer {
            Answer::Ack | Answer::Term => drop(self.done.insert(*n)),
            Answer::Nack if comes_again && !self.done.contains(n) => drop(self.handed.remove(n)),
            Answer::Nack | Answer::Extend => {}
        }
    }
}

impl Flow {
    fn stream(&mut self, subscription: &Text, ms: u64) -> &mut Stream {
        let stream = self.of.entry(subscription.clone()).or_default();
        stream.moved_ms = ms;
        stream
    }

    fn check(&mut self, now_ms: u64, facts: &Facts, found: &mut Found) {
        let since_ms = now_ms.saturating_sub(STALLS_MS);
        if facts.serves.is_none() || !facts.troubles.was_full(since_ms, now_ms) {
            return;
        }
        let settled_ms = now_ms.saturating_sub(SETTLES_MS);
        if facts.serves_since > settled_ms {
            return;
        }
        for (name, stream) in &self.of {
            let (Some(subscription), Some((who, held))) = (
                facts.subscriptions.get(name),
                stream.consumers.first_key_value(),
            ) else {
                continue;
            };
            let is_alone = stream.consumers.len() == 1 && held.is_empty();
            let is_plain = subscription.pause == Pause::No && !facts.filters.judges(name);
            let is_troubled = facts.troubles.any_since(settled_ms, |fault| {
                !is_full(fault) && fault.actor().is_none_or(|actor| *actor == **who)
            });
            let left = stream.left_ms;
            let is_left = left.is_some_and(|ms| ms.saturating_add(GONE_MS) > since_ms);
            if stream.moved_ms > since_ms || is_left || !is_alone || !is_plain || is_troubled {
                continue;
            }
            let mut waiting = facts.events.iter();
            let waits =
                |n: &u64| is_owed(*n, subscription, since_ms, facts) && !stream.handed.contains(n);
            if let Some((n, _)) = waiting.find(|(n, _)| waits(n))
                && self.told.insert(name.clone())
            {
                let says = format!(
                    "for {STALLS_MS} ms on a full disk {name} hands out nothing, and event {n} waits",
                    name = &**name
                );
                found.breaks(&FULL, says);
            }
        }
    }
}

// Whether an event was in the log for this subscription before, for sure.
fn is_owed(n: u64, subscription: &Subscription, before_ms: u64, facts: &Facts) -> bool {
    let Some(event) = facts.events.get(&n) else {
        return false;
    };
    let topic = facts.topics.get(&event.topic);
    subscription.is_sure
        && event.topic == subscription.topic
        && topic.is_some_and(|topic| topic.durability == Durability::Sync)
        && event.asked_at > subscription.sure_since
        && event.answered_ms.is_some_and(|ms| ms < before_ms)
        && !facts.may_have_gone(n)
}
