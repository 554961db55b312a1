//! What became of each event for each subscription. What the history leaves open is a set of possible fates: an answer was lost with its
//! connection, so the event may be there or not; an ack was not confirmed before the broker was killed, so the event may be done or not. Each
//! later entry narrows the set, and what contradicts it breaks a promise.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Answer, Cause, Entry, Text, What};

pub(super) const ANSWERED: Promise = Promise {
    id: "I1",
    page: "delivery.md",
    words: "an answered publish is on disk, or as its topic",
};
pub(super) const ANSWERED_AT_INTERVALS: Promise = Promise {
    id: "I1",
    page: "delivery/durability.md",
    words: "| survives the end of the process, `kill -9` included | yes | yes |",
};
pub(super) const LOST_AT_INTERVALS: Promise = Promise {
    id: "I1",
    page: "delivery/durability.md",
    words: "what was answered since the last sync may be lost",
};
pub(super) const REFUSED: Promise = Promise {
    id: "I2",
    page: "ARCHITECTURE.md",
    words: "No refusal changes anything",
};
pub(super) const ACKED: Promise = Promise {
    id: "I5",
    page: "delivery/durability.md",
    words: "The client's `flush_acks` waits until acks are on disk.",
};

/// What may have become of an event. Never none of them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fates(u8);

impl Fates {
    /// It is not in the log, or not for this subscription.
    const ABSENT: Self = Self(1);
    /// It waits, or is in somebody's hands.
    const PENDING: Self = Self(2);
    /// It was acked, or given up.
    const DONE: Self = Self(4);

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn may_be(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that `other` has too; `None` if they contradict each other.
    fn and(self, other: Self) -> Option<Self> {
        Some(Self(self.0 & other.0)).filter(|both| both.0 != 0)
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    subscriptions: BTreeMap<Text, Holding>,
    /// Events of which the broker said that it does not take them.
    refused: BTreeSet<u64>,
    /// Unanswered when the power went, to topics that are synced at intervals.
    doubtful: BTreeSet<u64>,
    /// For each event, subscriptions that were there for sure when it was published.
    due: BTreeMap<u64, Vec<Text>>,
    /// What a flush is about: its answers, by position, and whether they are acks.
    flushes: BTreeMap<u64, (Text, BTreeMap<u64, Said>)>,
}

#[derive(Default)]
struct Holding {
    fates: BTreeMap<u64, Fates>,
    /// The event at a position.
    positions: BTreeMap<u64, u64>,
    /// Who got it last, when, and how often anybody did.
    handed: BTreeMap<u64, (Text, u64, u64)>,
    /// Answers that were not confirmed, by who gave them and position.
    said: BTreeMap<(Text, u64), Said>,
}

#[derive(Clone, Copy)]
struct Said {
    settles: bool,
    /// When its giver got the event, for how long it had had it, and how often it had been handed out until then.
    got_ms: u64,
    after_ms: u64,
    handed: u64,
}

impl Group for Ledger {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::Publishes { topic, n, .. } => self.published(topic, *n, facts),
            What::Published { op, .. } => self.answered(*op, facts, found),
            What::NotPublished {
                op, is_sure: true, ..
            } => self.refused(*op, facts, found),
            What::Delivered { .. } => self.delivered(entry, facts, found),
            What::Says {
                subscription,
                position,
                answer,
            } => {
                self.said(entry, subscription, *position, *answer);
            }
            What::Flushes { op, subscription } => {
                let holding = self.subscriptions.entry(subscription.clone()).or_default();
                let of = |((who, at), said): (&(Text, u64), &Said)| {
                    (*who == entry.who).then_some((*at, *said))
                };
                let said = holding.said.iter().filter_map(of).collect();
                self.flushes.insert(*op, (subscription.clone(), said));
            }
            What::Late { op, position } => {
                if let Some((subscription, said)) = self.flushes.get_mut(op) {
                    said.remove(position);
                    if let Some(holding) = self.subscriptions.get_mut(subscription) {
                        holding.said.remove(&(entry.who.clone(), *position));
                    }
                }
            }
            What::Confirmed { op } => self.confirmed(*op, &entry.who, facts),
            What::NotConfirmed { op, .. } => self.not_confirmed(*op, &entry.who),
            What::Dies {} => self.forgets(&entry.who),
            What::DeletesSubscription { subscription, .. } => {
                self.subscriptions.remove(subscription);
                for due in self.due.values_mut() {
                    due.retain(|of| of != subscription);
                }
            }
            What::DeletesTopic { topic, .. } => self.topic_goes(topic, facts),
            What::Crashed { cause, .. } => self.crashed(*cause, entry.ms, facts),
            What::CameBack { subscription } => {
                let says = format!("{subscription} was empty, and is not after a stop and a start");
                found.breaks(&ACKED, says);
            }
            What::Drained { subscription } => self.drained(subscription, facts, found),
            _ => {}
        }
    }
}

impl Ledger {
    fn published(&mut self, topic: &Text, n: u64, facts: &Facts) {
        let of = facts.subscriptions.iter();
        let due = of.filter(|(_, subscription)| subscription.topic == *topic);
        for (name, subscription) in due {
            let holding = self.subscriptions.entry(name.clone()).or_default();
            let open = Fates::ABSENT.or(Fates::PENDING);
            holding.fates.insert(n, open);
            if subscription.is_sure {
                self.due.entry(n).or_default().push(name.clone());
            }
        }
    }

    fn answered(&mut self, op: u64, facts: &Facts, found: &mut Found) {
        let Some(n) = facts.event_of(op) else {
            return;
        };
        // The answer may have been on its way when the power took the event.
        if self.doubtful.contains(&n) {
            return;
        }
        for name in self.due.get(&n).into_iter().flatten() {
            let holding = self.subscriptions.entry(name.clone()).or_default();
            let fates = holding.fates.entry(n).or_insert(Fates::PENDING);
            match fates.and(Fates::PENDING.or(Fates::DONE)) {
                Some(narrowed) => *fates = narrowed,
                None => found.breaks(&REFUSED, format!("event {n} was refused before")),
            }
        }
    }

    fn refused(&mut self, op: u64, facts: &Facts, found: &mut Found) {
        let Some(n) = facts.event_of(op) else {
            return;
        };
        self.refused.insert(n);
        for (name, holding) in &mut self.subscriptions {
            if let Some(fates) = holding.fates.get_mut(&n) {
                if !fates.may_be(Fates::ABSENT) {
                    let says = format!("event {n} was refused, and {name} has had it");
                    found.breaks(&REFUSED, says);
                }
                *fates = Fates::ABSENT;
            }
        }
    }

    fn delivered(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        let What::Delivered {
            subscription,
            position,
            n,
            ..
        } = &entry.what
        else {
            return;
        };
        if self.refused.contains(n) {
            found.breaks(&REFUSED, format!("event {n} was refused, and is there"));
            return;
        }
        let holding = self.subscriptions.entry(subscription.clone()).or_default();
        let before = holding
            .handed
            .get(position)
            .map_or(0, |(_, _, times)| *times);
        let handed = (entry.who.clone(), entry.ms, before + 1);
        // One that was there before its subscription was published for it all the same, if that begins with what is there.
        let open = Fates::ABSENT.or(Fates::PENDING);
        let fates = holding.fates.entry(*n).or_insert(open);
        let deadline_ms = facts.subscriptions.get(subscription);
        let deadline_ms = deadline_ms.map_or(u64::MAX, |of| of.ack_deadline_ms);
        let was_on_its_way = facts.may_come_late(&entry.who, entry.ms, deadline_ms);
        match *fates == Fates::DONE {
            // An earlier hand-out to this consumer, which was given to another when its deadline was over.
            true if was_on_its_way => {}
            true => {
                let says = format!(
                    "event {n} at {position} was acked in {subscription}, which was confirmed, and came again"
                );
                found.breaks(&ACKED, says);
                *fates = Fates::PENDING;
            }
            false => *fates = Fates::PENDING,
        }
        holding.positions.insert(*position, *n);
        holding.handed.insert(*position, handed);
    }

    fn said(&mut self, entry: &Entry, subscription: &Text, position: u64, answer: Answer) {
        let holding = self.subscriptions.entry(subscription.clone()).or_default();
        let Some(n) = holding.positions.get(&position) else {
            return;
        };
        let settles = matches!(answer, Answer::Ack | Answer::Term);
        if settles && let Some(fates) = holding.fates.get_mut(n) {
            *fates = fates.or(Fates::DONE);
        }
        let Some((_, since, handed)) = holding.handed.get(&position) else {
            return;
        };
        let said = Said {
            settles,
            got_ms: *since,
            after_ms: entry.ms - since,
            handed: *handed,
        };
        holding.said.insert((entry.who.clone(), position), said);
    }

    fn confirmed(&mut self, op: u64, who: &Text, facts: &Facts) {
        let Some((subscription, said)) = self.flushes.remove(&op) else {
            return;
        };
        let Some(holding) = self.subscriptions.get_mut(&subscription) else {
            return;
        };
        for (position, said) in said {
            holding.said.remove(&(who.clone(), position));
            let handed = holding
                .handed
                .get(&position)
                .map_or(0, |(_, _, times)| *times);
            // If it was handed out again since, or may have been, it is not known which of them was answered.
            let deadline_ms = facts.subscriptions.get(&subscription);
            let deadline_ms = deadline_ms.map_or(u64::MAX, |of| of.ack_deadline_ms);
            let is_known = said.settles
                && said.handed == handed
                && said.after_ms < deadline_ms
                && !facts.may_come_late(who, said.got_ms, deadline_ms);
            if is_known
                && let Some(n) = holding.positions.get(&position)
                && let Some(fates) = holding.fates.get_mut(n)
            {
                *fates = Fates::DONE;
            }
        }
    }

    // What became of these answers nobody will ever be told.
    fn not_confirmed(&mut self, op: u64, who: &Text) {
        let flushed = self.flushes.remove(&op);
        if let Some((subscription, said)) = flushed
            && let Some(holding) = self.subscriptions.get_mut(&subscription)
        {
            for position in said.keys() {
                holding.said.remove(&(who.clone(), *position));
            }
        }
    }

    fn forgets(&mut self, who: &Text) {
        for holding in self.subscriptions.values_mut() {
            holding.said.retain(|(of, _), _| of != who);
        }
    }

    fn topic_goes(&mut self, topic: &Text, facts: &Facts) {
        for holding in self.subscriptions.values_mut() {
            for (n, fates) in &mut holding.fates {
                if facts
                    .events
                    .get(n)
                    .is_some_and(|event| event.topic == *topic)
                {
                    *fates = fates.or(Fates::ABSENT);
                }
            }
        }
        let is_of = |n: &u64| {
            facts
                .events
                .get(n)
                .is_some_and(|event| event.topic == *topic)
        };
        self.due.retain(|n, _| !is_of(n));
    }

    fn crashed(&mut self, cause: Cause, now_ms: u64, facts: &Facts) {
        for (n, event) in &facts.events {
            let Some(answered_ms) = event.answered_ms else {
                if facts.may_be_lost(event, now_ms, cause, now_ms) {
                    self.doubtful.insert(*n);
                }
                continue;
            };
            if facts.may_be_lost(event, answered_ms, cause, now_ms) {
                for holding in self.subscriptions.values_mut() {
                    if let Some(fates) = holding.fates.get_mut(n) {
                        *fates = fates.or(Fates::ABSENT);
                    }
                }
            }
        }
    }

    fn drained(&mut self, subscription: &Text, facts: &Facts, found: &mut Found) {
        let Some(holding) = self.subscriptions.get_mut(subscription) else {
            return;
        };
        for (n, fates) in &mut holding.fates {
            match fates.and(Fates::ABSENT.or(Fates::DONE)) {
                Some(narrowed) => *fates = narrowed,
                None => {
                    let topic = facts.events.get(n).map_or("", |event| &event.topic);
                    let says = format!(
                        "event {n} of {topic} was answered and never acked, and {subscription} has nothing more"
                    );
                    found.breaks(&ANSWERED, says);
                }
            }
        }
    }
}
