//! Changes of topics and subscriptions: what was answered stays so over all lives, what is deleted is gone and its numbers are given to
//! nobody else, a new subscription begins where it was asked to, and one that is paused stands still, which its consumers are told.

use std::collections::BTreeMap;

use super::catalog::{DELETED, News, Pause};
use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, Start, Text, What};

pub(super) const BEGINS: Promise = Promise {
    id: "I3",
    page: "delivery/publishing.md",
    words: "A subscription gets what is stored after it was created.",
};
pub(super) const GOES_ON_ABOVE: Promise = Promise {
    id: "I11",
    page: "delivery/publishing.md",
    words: "A topic that is made again goes on above the sequences that the one before gave",
};
pub(super) const PAUSED: Promise = Promise {
    id: "I15",
    page: "guide/changes.md",
    words: "let it hand out nothing until it is resumed",
};
pub(super) const TOLD: Promise = Promise {
    id: "I15",
    page: "delivery/acks.md",
    words: "Its consumers stay attached and are told so",
};

/// How long it may take until a consumer is told, while nothing is wrong. One that has just lost its connection is back in that time.
const TOLD_MS: u64 = 20_000;

#[derive(Default)]
pub(super) struct Changed {
    topics: BTreeMap<Text, Topic>,
    /// Consumers that are attached: since when, and what they were told last.
    consumers: BTreeMap<(Text, Text), (u64, Text)>,
    /// Why and since when subscriptions stand still.
    paused: BTreeMap<Text, (u64, Text)>,
}

#[derive(Default)]
struct Topic {
    /// The highest sequence that was seen.
    highest: u64,
    /// The entry that asked for a deletion.
    asked_at: usize,
    gone: Option<Gone>,
}

/// Of the topic that had the name before.
#[derive(Clone, Copy)]
struct Gone {
    highest: u64,
    asked_at: usize,
    /// The entry that said so.
    since: usize,
}

impl Group for Changed {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::DeletesTopic { topic, .. } => {
                self.topics.entry(topic.clone()).or_default().asked_at = facts.at;
            }
            What::Published { op, sequence, .. } => {
                if let Some(n) = facts.event_of(*op) {
                    self.has_sequence(n, *sequence, facts, found);
                }
            }
            What::Delivered { n, sequence, .. } => {
                self.has_sequence(*n, *sequence, facts, found);
                self.delivered(entry, facts, found);
            }
            What::Attached { op } => {
                let asked = facts.requests.get(op).map(|request| &request.what);
                if let Some(What::Attaches { subscription, .. }) = asked {
                    let key = (entry.who.clone(), subscription.clone());
                    self.consumers.insert(key, (entry.ms, Text::default()));
                }
            }
            What::Hears { subscription, why } => {
                let key = (entry.who.clone(), subscription.clone());
                if let Some((_, told)) = self.consumers.get_mut(&key) {
                    *told = why.clone();
                }
            }
            What::Detached { .. } | What::Dies {} => {
                self.consumers.retain(|(who, _), _| *who != entry.who);
            }
            What::Resumes { subscription, .. } => {
                self.told(subscription, entry.ms, facts, found);
            }
            _ => {}
        }
        for news in &facts.news {
            self.hear(news, facts, found);
        }
    }
}

impl Changed {
    fn hear(&mut self, news: &News, facts: &Facts, found: &mut Found) {
        match news {
            News::Broken(promise, says) => found.breaks(promise, says.clone()),
            News::TopicGone(topic) => {
                let of = self.topics.entry(topic.clone()).or_default();
                of.gone = Some(Gone {
                    highest: of.highest,
                    asked_at: of.asked_at,
                    since: facts.at,
                });
            }
            News::SubscriptionGone(name)
            | News::SubscriptionCame(name)
            | News::SubscriptionChanges(name) => {
                match facts.subscriptions.get(name).map(|of| &of.pause) {
                    Some(Pause::Since(_, ms, why)) => {
                        let since = (*ms, why.clone());
                        self.paused.insert(name.clone(), since);
                    }
                    _ => drop(self.paused.remove(name)),
                }
            }
        }
    }

    fn has_sequence(&mut self, n: u64, sequence: u64, facts: &Facts, found: &mut Found) {
        let Some(event) = facts.events.get(&n) else {
            return;
        };
        let of = self.topics.entry(event.topic.clone()).or_default();
        of.highest = of.highest.max(sequence);
        if let Some(gone) = of.gone.filter(|gone| event.asked_at > gone.since)
            && sequence <= gone.highest
        {
            let says = format!(
                "event {n} is {sequence} in {}, and the one before had given {}",
                &*event.topic, gone.highest
            );
            found.breaks(&GOES_ON_ABOVE, says);
        }
    }

    fn delivered(&self, entry: &Entry, facts: &Facts, found: &mut Found) {
        let What::Delivered {
            subscription, n, ..
        } = &entry.what
        else {
            return;
        };
        let Some((event, of)) = facts
            .events
            .get(n)
            .zip(facts.subscriptions.get(subscription))
        else {
            return;
        };
        let attached = facts.attached(&entry.who, subscription);
        let answered_at = event.answered_at.unwrap_or(usize::MAX);
        let gone = self.topics.get(&event.topic).and_then(|topic| topic.gone);
        if let Some(gone) = gone
            && answered_at < gone.asked_at
            && attached.is_some_and(|at| at > gone.since)
        {
            let says = format!("event {n} went with its topic, and {subscription} gets it");
            found.breaks(&DELETED, says);
        }
        if of.start == Start::Latest && attached.is_some() && answered_at < of.born {
            let says = format!("event {n} was there before {subscription}, which gets it");
            found.breaks(&BEGINS, says);
        }
        // What its client has may have come before.
        if let Pause::Since(since, ..) = of.pause
            && (event.asked_at > since || attached.is_some_and(|at| at > since))
        {
            let says = format!("{subscription} is paused, and hands out event {n}");
            found.breaks(&PAUSED, says);
        }
    }

    // Whoever was there long enough was told that a subscription stands still, before somebody has it go on.
    fn told(&self, subscription: &Text, ms: u64, facts: &Facts, found: &mut Found) {
        let Some((since, why)) = self.paused.get(subscription) else {
            return;
        };
        // It may have been paused for another reason already.
        if facts.filters.may_pause(subscription) {
            return;
        }
        let Some(quiet) = facts.quiet_since(ms) else {
            return;
        };
        let consumers = self.consumers.iter();
        for ((who, _), (attached, told)) in consumers.filter(|((_, of), _)| of == subscription) {
            let waited = ms - quiet.max(*since).max(*attached);
            let is_told = !told.is_empty() && told.contains(&**why);
            if waited >= TOLD_MS && !is_told {
                let says = format!(
                    "{subscription} has been paused for {waited} ms, and {who} was told: {told}"
                );
                found.breaks(&TOLD, says);
            }
        }
    }
}
