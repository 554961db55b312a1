//! Order: events of a topic are stored in the order in which a producer sent them, and first offered in that in which they are stored. The
//! first offer is seen only where nothing hinders it: what waits in a client whose connection is lost, or that takes nothing for as long as
//! the ack deadline, is offered again, as if for the first time.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::News;
use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, Text, What};

pub(super) const IN_ORDER: Promise = Promise {
    id: "I9",
    page: "delivery/publishing.md",
    words: "Events of a topic are stored, and first offered, in the order of commit.",
};

#[derive(Default)]
pub(super) struct Order {
    /// Each producer's events of a topic, as they were sent.
    sent: BTreeMap<(Text, Text), Vec<u64>>,
    /// When each was sent.
    sent_ms: BTreeMap<u64, u64>,
    /// Where they are, and the line that says so.
    positions: BTreeMap<u64, (u64, usize)>,
    offers: BTreeMap<Text, Offers>,
}

/// What a subscription was offered.
#[derive(Default)]
struct Offers {
    consumers: BTreeSet<Text>,
    seen: BTreeSet<u64>,
    last: u64,
    /// When one of its consumers was last gone.
    left_ms: u64,
}

/// For so long events may still go to a client that is gone without a word.
pub(super) const GONE_MS: u64 = 30_000;
/// Whoever takes something once in a while never takes nothing for so long.
const PATIENT_MS: u64 = 30_000;

impl Group for Order {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::Publishes {
                producer, topic, n, ..
            } => {
                let sent = self.sent.entry((producer.clone(), topic.clone()));
                sent.or_default().push(*n);
                self.sent_ms.entry(*n).or_insert(entry.ms);
            }
            What::Attaches { subscription, .. } => {
                let offers = self.offers.entry(subscription.clone()).or_default();
                offers.consumers.insert(entry.who.clone());
            }
            What::Delivered {
                subscription,
                position,
                attempt,
                n,
                ..
            } => {
                self.positions.entry(*n).or_insert((*position, found.line));
                let sent_ms = self.sent_ms.get(n).copied().unwrap_or_default();
                let is_patient = facts.subscriptions.get(subscription);
                let is_patient = is_patient.is_some_and(|of| of.ack_deadline_ms >= PATIENT_MS);
                let offers = self.offers.entry(subscription.clone()).or_default();
                let is_first = offers.seen.insert(*position) && *attempt == 1;
                // When it was published nothing was wrong, and nobody was taken to be there who had gone.
                let quiet = facts.quiet_since(entry.ms).unwrap_or(u64::MAX);
                let settled = quiet.max(offers.left_ms).saturating_add(GONE_MS);
                let is_hindered = sent_ms <= settled || !is_patient;
                // Of several consumers, whoever is faster comes first.
                if is_first && !is_hindered && offers.consumers.len() < 2 {
                    if *position < offers.last {
                        let last = offers.last;
                        let says = format!("{subscription} was offered {position} after {last}");
                        found.breaks(&IN_ORDER, says);
                    }
                    offers.last = offers.last.max(*position);
                }
            }
            What::Dies {} | What::Detached { .. } => {
                let offers = self.offers.values_mut();
                offers
                    .filter(|offers| offers.consumers.contains(&entry.who))
                    .for_each(|offers| offers.left_ms = entry.ms);
            }
            _ => {}
        }
        for news in &facts.news {
            self.hear(news, entry.ms, facts);
        }
    }

    fn end(&mut self, _: &Facts, found: &mut Found) {
        for ((producer, topic), sent) in &self.sent {
            let mut last = None;
            for n in sent {
                let Some((position, line)) = self.positions.get(n) else {
                    continue;
                };
                if let Some((before, at)) = last.filter(|(_, at)| at > position) {
                    found.line = *line;
                    let says = format!(
                        "{producer} sent event {before} to {topic} before {n}, and they are at {at} and {position}"
                    );
                    found.breaks(&IN_ORDER, says);
                }
                last = Some((*n, *position));
            }
        }
    }
}

impl Order {
    // Whatever changes with a subscription or its topic hinders its offers as somebody who goes does.
    fn hear(&mut self, news: &News, ms: u64, facts: &Facts) {
        let is_about = |name: &Text| match news {
            News::SubscriptionGone(of)
            | News::SubscriptionCame(of)
            | News::SubscriptionChanges(of) => of == name,
            News::TopicGone(topic) => {
                let of = facts.subscriptions.get(name);
                of.is_some_and(|of| of.topic == *topic)
            }
            News::Broken(..) => false,
        };
        let is_anew = matches!(news, News::SubscriptionGone(_) | News::SubscriptionCame(_));
        for (_, offers) in self.offers.iter_mut().filter(|(name, _)| is_about(name)) {
            offers.left_ms = ms;
            if is_anew {
                offers.seen.clear();
                offers.last = 0;
            }
        }
    }
}
