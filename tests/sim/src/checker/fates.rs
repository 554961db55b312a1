//! What became of each event for each subscription. What the history leaves open is a set of possible fates: an answer was lost with its
//! connection, so the event may be there or not; an ack was not confirmed before the broker was killed, so the event may be done or not. Each
//! later entry narrows the set, and what contradicts it breaks a promise.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::News;
use super::facts::Facts;
use super::filters::PASSED;
use super::{Found, Group, Promise};
use crate::history::{Answer, Cause, Entry, Start, Text, What};
use crate::plan::Fault;

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

/// For so long an event may be on its way to a client while nothing is wrong.
const ON_ITS_WAY_MS: u64 = 5_000;

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
    /// Answered long enough before a life was ended, to topics that are synced at intervals, and what it survives for that.
    survives: BTreeMap<u64, Cause>,
    /// For each event, subscriptions that were there for sure when it was published.
    due: BTreeMap<u64, Vec<Text>>,
    /// What a flush is about: its answers, by position, and whether they are acks.
    flushes: BTreeMap<u64, (Text, BTreeMap<u64, Said>)>,
    /// When each subscription was found empty last.
    drained_ms: BTreeMap<Text, u64>,
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
    /// Who acked what is done for sure, when that was confirmed, and with which entry.
    done: BTreeMap<u64, (Text, u64, usize)>,
    /// Those of it that were refused in this life, and not acked.
    given_up: BTreeSet<u64>,
    /// Events that were answered, whose filters decide what becomes of them.
    judged: BTreeSet<u64>,
}

#[derive(Clone, Copy)]
struct Said {
    answer: Answer,
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
            What::Letter { of, n, .. } => self.given_up(of, *n),
            What::Says {
                subscription,
                position,
                answer,
            } => {
                self.said(entry, subscription, *position, *answer, facts);
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
            What::Confirmed { op } => {
                self.confirmed(*op, entry, facts);
            }
            What::NotConfirmed { op, .. } => {
                self.not_confirmed(*op, &entry.who);
            }
            What::ChangesFilters { subscription, .. } => self.filters_change(subscription),
            What::Dies {} => self.forgets(&entry.who),
            What::Crashed { cause, .. } => self.crashed(*cause, entry.ms, facts),
            What::HeldBack {} => self.held_back(),
            What::Serves { .. } => self.subscriptions.values_mut().for_each(|holding| {
                holding.given_up.clear();
            }),
            What::CameBack { subscription } => {
                let drained_ms = self.drained_ms.get(subscription).copied();
                if !drained_ms.is_some_and(|ms| facts.may_be_on_its_way(subscription, ms)) {
                    let says =
                        format!("{subscription} was empty, and is not after a stop and a start");
                    found.breaks(&ACKED, says);
                }
            }
            What::Drained { subscription } => {
                self.drained_ms.insert(subscription.clone(), entry.ms);
                self.drained(entry.ms, subscription, facts, found);
            }
            _ => {}
        }
        for news in &facts.news {
            self.hear(news, entry.ms, facts);
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
            if facts.filters.judges(name) {
                // Of what has come already it is known.
                if !holding.positions.values().any(|of| *of == n) {
                    holding.judged.insert(n);
                }
                continue;
            }
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
        let late = facts.is_behind(&entry.who, subscription);
        // One that was there before its subscription was published for it all the same, if that begins with what is there.
        let open = Fates::ABSENT.or(Fates::PENDING);
        let fates = holding.fates.entry(*n).or_insert(open);
        holding.positions.insert(*position, *n);
        holding.handed.insert(*position, handed);
        // Perhaps by one that had this name before.
        let is_of_this = facts.attached(&entry.who, subscription).is_some();
        let done = holding.done.get(n).filter(|_| *fates == Fates::DONE);
        let was_on_its_way = match done {
            Some(done) => {
                is_of_before(done, entry, subscription, facts)
                    && (late || may_have_waited(done, entry, facts))
            }
            None => late,
        };
        if !is_of_this || was_on_its_way {
            holding.judged.remove(n);
            *fates = fates.or(Fates::PENDING);
            return;
        }
        if *fates == Fates::DONE {
            let says = format!(
                "event {n} at {position} was acked in {subscription}, which was confirmed, and came again"
            );
            found.breaks(&ACKED, says);
        }
        // Perhaps it waited in a client, and its topic is gone, or the power took it.
        let gone = match facts.may_have_gone(*n) || facts.is_perhaps_taken(*n) {
            true => Fates::ABSENT,
            false => Fates::PENDING,
        };
        *fates = Fates::PENDING.or(gone);
    }

    // Whether it might be given up is held of its letter.
    fn given_up(&mut self, subscription: &Text, n: u64) {
        if let Some(holding) = self.subscriptions.get_mut(subscription) {
            holding.judged.remove(&n);
            if let Some(fates) = holding.fates.get_mut(&n) {
                *fates = fates.or(Fates::DONE);
            }
        }
    }

    fn said(
        &mut self,
        entry: &Entry,
        subscription: &Text,
        position: u64,
        answer: Answer,
        facts: &Facts,
    ) {
        let holding = self.subscriptions.entry(subscription.clone()).or_default();
        let Some(n) = holding.positions.get(&position) else {
            return;
        };
        if settles(answer)
            && let Some(fates) = holding.fates.get_mut(n)
        {
            *fates = fates.or(Fates::DONE);
        }
        let Some((_, since, handed)) = holding.handed.get(&position) else {
            return;
        };
        if facts.attached(&entry.who, subscription).is_none() {
            return;
        }
        let said = Said {
            answer,
            got_ms: *since,
            after_ms: entry.ms - since,
            handed: *handed,
        };
        holding.said.insert((entry.who.clone(), position), said);
    }

    fn confirmed(&mut self, op: u64, entry: &Entry, facts: &Facts) {
        let (who, now_ms) = (&entry.who, entry.ms);
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
            let Some(n) = holding.positions.get(&position) else {
                continue;
            };
            // If it was handed out again since, or may have been, it is not known which of them was answered.
            let deadline_ms = facts.subscriptions.get(&subscription);
            let deadline_ms = deadline_ms.map_or(u64::MAX, |of| of.ack_deadline_ms);
            let may_be_late = (facts.troubles.may_come_late(who, said.got_ms, deadline_ms)
                || facts.is_behind(who, &subscription))
                && now_ms - facts.first_handed_out_ms(*n) >= deadline_ms;
            let is_known = settles(said.answer)
                && said.handed == handed
                && said.after_ms < deadline_ms
                && !may_be_late;
            if is_known && let Some(fates) = holding.fates.get_mut(n) {
                *fates = Fates::DONE;
                holding.done.insert(*n, (who.clone(), now_ms, facts.at));
                if said.answer == Answer::Term {
                    holding.given_up.insert(*n);
                }
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

    fn hear(&mut self, news: &News, ms: u64, facts: &Facts) {
        match news {
            News::SubscriptionGone(subscription) => {
                self.subscriptions.remove(subscription);
                for due in self.due.values_mut() {
                    due.retain(|of| of != subscription);
                }
            }
            News::SubscriptionCame(subscription) => self.came(subscription, ms, facts),
            News::TopicGone(topic) => self.topic_went(topic, facts),
            News::SubscriptionChanges(_) | News::Broken(..) => {}
        }
    }

    // What was answered and not handed out may be judged by filters that it did not have before.
    fn filters_change(&mut self, subscription: &Text) {
        let Some(holding) = self.subscriptions.get_mut(subscription) else {
            return;
        };
        let handed: BTreeSet<u64> = holding.positions.values().copied().collect();
        let waiting = holding.fates.iter_mut();
        let waiting = waiting.filter(|(n, fates)| **fates == Fates::PENDING && !handed.contains(n));
        for (n, fates) in waiting {
            *fates = fates.or(Fates::ABSENT);
            holding.judged.insert(*n);
        }
    }

    // What waits for another was there when this one came.
    fn came(&mut self, name: &Text, ms: u64, facts: &Facts) {
        let Some(new) = facts.subscriptions.get(name) else {
            return;
        };
        if new.start == Start::Latest {
            return;
        }
        let others = self.subscriptions.iter().filter(|(other, _)| {
            let of = facts.subscriptions.get(*other);
            *other != name && of.is_some_and(|of| of.is_sure && of.topic == new.topic)
        });
        let waiting = others.flat_map(|(other, holding)| {
            let all = holding.fates.iter().map(|(n, fates)| (*n, *fates));
            all.filter(move |(n, fates)| {
                *fates == Fates::PENDING && !facts.may_be_given_up(other, *n, ms)
            })
        });
        let waiting: Vec<u64> = waiting.map(|(n, _)| n).collect();
        let holding = self.subscriptions.entry(name.clone()).or_default();
        if facts.filters.judges(name) {
            holding.judged.extend(waiting);
            return;
        }
        for n in waiting {
            let fates = holding.fates.entry(n).or_insert(Fates::PENDING);
            *fates = fates.and(Fates::PENDING.or(Fates::DONE)).unwrap_or(*fates);
        }
    }

    // Nobody is owed what was in it. What was asked for before may have been in it or not.
    fn topic_went(&mut self, topic: &Text, facts: &Facts) {
        let is_of = |n: &u64| {
            let event = facts.events.get(n);
            event.is_some_and(|event| event.topic == *topic)
        };
        for holding in self.subscriptions.values_mut() {
            let of = holding.fates.iter_mut().filter(|(n, _)| is_of(n));
            of.for_each(|(_, fates)| *fates = fates.or(Fates::ABSENT));
            holding.judged.retain(|n| !is_of(n));
        }
        self.due.retain(|n, _| !is_of(n));
    }

    // That an event is given up is perhaps only in memory, whatever a flush was answered.
    fn held_back(&mut self) {
        for holding in self.subscriptions.values_mut() {
            for n in std::mem::take(&mut holding.given_up) {
                holding.done.remove(&n);
                if let Some(fates) = holding.fates.get_mut(&n) {
                    *fates = fates.or(Fates::PENDING);
                }
            }
        }
    }

    fn crashed(&mut self, cause: Cause, now_ms: u64, facts: &Facts) {
        for (n, event) in &facts.events {
            let seen_ms = event.answered_ms.unwrap_or(now_ms);
            if facts.may_be_lost(event, seen_ms, cause, now_ms) {
                if event.answered_ms.is_none() {
                    self.doubtful.insert(*n);
                }
                for holding in self.subscriptions.values_mut() {
                    holding.judged.remove(n);
                    if let Some(fates) = holding.fates.get_mut(n) {
                        *fates = fates.or(Fates::ABSENT);
                    }
                }
            } else if event.answered_ms.is_some() && facts.is_synced_at_intervals(event) {
                let survives = self.survives.entry(*n).or_insert(cause);
                if cause == Cause::Power {
                    *survives = cause;
                }
            }
        }
    }

    fn drained(&mut self, ms: u64, subscription: &Text, facts: &Facts, found: &mut Found) {
        let Some(holding) = self.subscriptions.get_mut(subscription) else {
            return;
        };
        let owed = holding.judged.iter().filter(|n| {
            let fates = holding.fates.get(n).copied().unwrap_or(Fates::ABSENT);
            fates.may_be(Fates::ABSENT)
                && !facts.may_be_damaged(**n)
                && facts.filters.takes(subscription, **n, facts) == Some(true)
        });
        for n in owed {
            let says = format!("the filters of {subscription} take event {n}, and it never came");
            found.breaks(facts.losses.of_what_is_gone(&PASSED), says);
        }
        for (n, fates) in &mut holding.fates {
            match fates.and(Fates::ABSENT.or(Fates::DONE)) {
                Some(narrowed) => *fates = narrowed,
                None if facts.may_be_given_up(subscription, *n, ms) => *fates = Fates::DONE,
                None if facts.may_be_damaged(*n) => *fates = Fates::ABSENT,
                None => {
                    let topic = facts.events.get(n).map_or("", |event| &event.topic);
                    let says = format!(
                        "event {n} of {topic} was answered and never acked, and {subscription} has nothing more"
                    );
                    let promise = match self.survives.get(n) {
                        None => &ANSWERED,
                        Some(Cause::Kill) => &ANSWERED_AT_INTERVALS,
                        Some(Cause::Power) => &LOST_AT_INTERVALS,
                    };
                    found.breaks(facts.losses.of_what_is_gone(promise), says);
                }
            }
        }
    }
}

// Whether an event is done by such an answer, once that is heard.
fn settles(answer: Answer) -> bool {
    matches!(answer, Answer::Ack | Answer::Term)
}

// Whether an event may have been handed out before it was done: to who has attached before, by a life that there was then or whose end
// its consumer has perhaps not heard of.
fn is_of_before(
    (_, _, done_at): &(Text, u64, usize),
    entry: &Entry,
    subscription: &Text,
    facts: &Facts,
) -> bool {
    let came_later = facts.attached(&entry.who, subscription) > Some(*done_at);
    let hears_of_it_by = facts.troubles.heard_by(&entry.who, facts.serves_since);
    let is_of_another_life =
        facts.serves_at > *done_at && entry.ms > hears_of_it_by.saturating_add(ON_ITS_WAY_MS);
    !came_later && !is_of_another_life
}

// Whether it was perhaps on its way already when somebody else had acked it.
fn may_have_waited((by, done_ms, _): &(Text, u64, usize), entry: &Entry, facts: &Facts) -> bool {
    let of_both = |fault: &Fault| {
        let actor = fault.actor();
        actor.is_some_and(|actor| *actor == **by || *actor == *entry.who)
    };
    let is_on_its_way =
        entry.ms - done_ms < ON_ITS_WAY_MS || facts.troubles.until(of_both) > *done_ms;
    *by != entry.who && is_on_its_way
}
