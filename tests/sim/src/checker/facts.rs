//! What all groups know of a history as far as it was read: which requests are open, which topics and subscriptions there are, whether the
//! broker serves, and how long nothing has been wrong.

use std::collections::{BTreeMap, BTreeSet};

use super::attempts::Attempts;
use super::catalog::{Changes, News, Subscription, Topic};
use super::catching_up::CatchingUp;
use super::filters::Filters;
use super::losses::Losses;
use super::troubles::{Troubles, is_full};
use crate::history::{Cause, Durability, Entry, Text, What};

/// How long a sync may take beside the interval in which it comes. A slow disk is in the plan, and then nothing is held against the broker.
const SYNC_MS: u64 = 1_000;
/// How long what was sent may wait for the disk, whose syncs take 10 s at most, for it and for what is before it.
const WRITTEN_MS_MAX: u64 = 30_000;

#[derive(Default)]
pub(super) struct Facts {
    pub(super) topics: BTreeMap<Text, Topic>,
    pub(super) subscriptions: BTreeMap<Text, Subscription>,
    pub(super) changes: Changes,
    pub(super) filters: Filters,
    pub(super) attempts: Attempts,
    pub(super) losses: Losses,
    pub(super) catching_up: CatchingUp,
    /// What follows from the entry that was seen last.
    pub(super) news: Vec<News>,
    /// Entries so far.
    pub(super) at: usize,
    /// Requests that were made, by number, also answered ones.
    pub(super) requests: BTreeMap<u64, Request>,
    /// The life of the broker that serves, if one does.
    pub(super) serves: Option<u64>,
    /// Since when it does.
    pub(super) serves_since: u64,
    /// The entry that said so.
    pub(super) serves_at: usize,
    interval_ms: u64,
    /// What is wrong by plan.
    pub(super) troubles: Troubles,
    pub(super) is_draining: bool,
    /// The event of each number.
    pub(super) events: BTreeMap<u64, Event>,
    /// What a life perhaps took with it when it ended last.
    taken: BTreeSet<u64>,
}

/// A request, and what is known of it.
pub(super) struct Request {
    pub(super) who: Text,
    pub(super) what: What,
    pub(super) is_open: bool,
}

/// An event that was handed to a client.
pub(super) struct Event {
    pub(super) topic: Text,
    pub(super) hash: u64,
    /// Where it is in its topic and in the log, once that was seen.
    pub(super) sequence: Option<u64>,
    pub(super) position: Option<u64>,
    /// The entry with which it was published, and when.
    pub(super) asked_at: usize,
    pub(super) asked_ms: u64,
    /// When the broker answered, and with which entry.
    pub(super) answered_ms: Option<u64>,
    pub(super) answered_at: Option<usize>,
    /// In which life, and topic of its name, it was published.
    asked_in: Option<(u64, u64)>,
    /// In which it got its numbers, if it was published and answered in one: an answer that comes in a later one may be of either.
    pub(super) numbered_in: Option<(u64, u64)>,
}

impl Facts {
    pub(super) fn see(&mut self, entry: &Entry) {
        let (ms, what) = (entry.ms, &entry.what);
        self.at += 1;
        self.troubles.see(entry);
        self.losses.see(entry);
        if let Some(op) = asks(what) {
            let request = Request {
                who: entry.who.clone(),
                what: what.clone(),
                is_open: true,
            };
            self.requests.entry(op).or_insert(request);
        }
        match what {
            What::Serves { life, interval_ms } => {
                (self.serves, self.serves_since) = (Some(*life), ms);
                self.serves_at = self.at;
                self.interval_ms = *interval_ms;
            }
            What::Stops { .. } | What::Stopped { .. } => self.serves = None,
            What::Crashed { cause, .. } => {
                self.serves = None;
                self.taken = self.taken_by(*cause, ms);
            }
            What::Drains {} => self.is_draining = true,
            What::Publishes { topic, n, hash, .. } => {
                let event = Event {
                    topic: topic.clone(),
                    hash: *hash,
                    sequence: None,
                    position: None,
                    asked_at: self.at,
                    asked_ms: ms,
                    answered_ms: None,
                    answered_at: None,
                    asked_in: self.numbers_in(topic),
                    numbered_in: None,
                };
                self.events.entry(*n).or_insert(event);
            }
            What::Published { op, sequence, .. } => {
                let n = self.event_of(*op).unwrap_or_default();
                let topic = self.events.get(&n).map(|event| event.topic.clone());
                let numbers_in = topic.and_then(|topic| self.numbers_in(&topic));
                if let Some(event) = self.events.get_mut(&n) {
                    (event.answered_ms, event.answered_at) = (Some(ms), Some(self.at));
                    event.sequence = Some(*sequence);
                    event.numbered_in = numbers_in.filter(|_| event.asked_in == numbers_in);
                }
            }
            What::Delivered {
                n,
                position,
                sequence,
                ..
            } => {
                if let Some(event) = self.events.get_mut(n) {
                    (event.sequence, event.position) = (Some(*sequence), Some(*position));
                }
            }
            What::Dies {} => {
                let died = self.requests.values_mut();
                died.filter(|request| request.who == entry.who)
                    .for_each(|request| request.is_open = false);
            }
            _ => {}
        }
        self.see_change(entry);
        self.see_filters(entry);
        self.see_catching_up(entry);
        self.see_attempts(entry);
    }

    // What gives numbers to events of a topic now: a life of the broker, and the topic that has that name. `None` if either may end.
    fn numbers_in(&self, topic: &Text) -> Option<(u64, u64)> {
        let of = self.topics.get(topic);
        let age = of.map_or(Some(0), |of| (!of.is_going).then_some(of.age))?;
        Some((self.serves?, age))
    }

    /// The number of the event that a request is about.
    pub(super) fn event_of(&self, op: u64) -> Option<u64> {
        match self.requests.get(&op)?.what {
            What::Publishes { n, .. } => Some(n),
            _ => None,
        }
    }

    /// Whether an event may be one of those that damage took, as was told.
    pub(super) fn may_be_damaged(&self, n: u64) -> bool {
        let event = self.events.get(&n);
        event.is_some_and(|event| self.losses.may_have(event, self))
    }

    /// Since when the broker serves and nothing is wrong.
    pub(super) fn quiet_since(&self, now_ms: u64) -> Option<u64> {
        self.served_since(now_ms, self.troubles.until(|_| true))
    }

    /// Since when it serves and nothing is wrong that hinders a request: on the links of others, or a disk that is full, which hinders
    /// nobody but who writes more.
    pub(super) fn quiet_for(&self, request: &Request, now_ms: u64) -> Option<u64> {
        let works_when_full = matches!(request.what, What::Attaches { .. } | What::Flushes { .. });
        let until = self.troubles.until(|fault| match fault.actor() {
            Some(actor) => *actor == *request.who,
            None => !(works_when_full && is_full(fault)),
        });
        self.served_since(now_ms, until)
    }

    fn served_since(&self, now_ms: u64, troubled_until: u64) -> Option<u64> {
        let since = self.serves_since.max(troubled_until);
        (self.serves.is_some() && since <= now_ms).then_some(since)
    }

    /// Before that nobody was handed an event, since it was not there.
    pub(super) fn first_handed_out_ms(&self, n: u64) -> u64 {
        self.events.get(&n).map_or(0, |event| event.asked_ms)
    }

    /// With which entry it was published.
    pub(super) fn asked_at(&self, n: u64) -> usize {
        self.events.get(&n).map_or(0, |event| event.asked_at)
    }

    /// Whether the topic of an event is synced at intervals.
    pub(super) fn is_synced_at_intervals(&self, event: &Event) -> bool {
        let topic = self.topics.get(&event.topic);
        topic.is_some_and(|topic| topic.durability == Durability::Interval)
    }

    /// Whether an event of which nobody was told may come to a subscription later than then: it waits for a disk as slow as they get.
    pub(super) fn may_be_on_its_way(&self, subscription: &Text, ms: u64) -> bool {
        let Some(of) = self.subscriptions.get(subscription) else {
            return false;
        };
        let mut events = self.events.values();
        events.any(|event| {
            event.topic == of.topic
                && event.answered_ms.is_none()
                && event.asked_ms.saturating_add(WRITTEN_MS_MAX) > ms
        })
    }

    // What may be lost of what was published, with a life that ends like this.
    fn taken_by(&self, cause: Cause, now_ms: u64) -> BTreeSet<u64> {
        let events = self.events.iter();
        let taken = events.filter(|(_, event)| {
            self.may_be_lost(event, event.answered_ms.unwrap_or(now_ms), cause, now_ms)
        });
        taken.map(|(n, _)| *n).collect()
    }

    /// Whether an event is perhaps gone with the life that ended last, though somebody gets it: it was on its way.
    pub(super) fn is_perhaps_taken(&self, n: u64) -> bool {
        self.serves.is_none() && self.taken.contains(&n)
    }

    /// Whether the power may have taken an event that was answered or seen then.
    pub(super) fn may_be_lost(
        &self,
        event: &Event,
        seen_ms: u64,
        crash: Cause,
        now_ms: u64,
    ) -> bool {
        let takes_ms = self.interval_ms + SYNC_MS;
        self.is_synced_at_intervals(event)
            && crash == Cause::Power
            && self
                .troubles
                .synced_by(seen_ms, takes_ms, self.serves_since)
                >= now_ms
    }
}

/// The number of a request, of what is one.
pub(super) fn asks(what: &What) -> Option<u64> {
    match what {
        What::CreatesTopic { op, .. }
        | What::DeletesTopic { op, .. }
        | What::CreatesSubscription { op, .. }
        | What::DeletesSubscription { op, .. }
        | What::Pauses { op, .. }
        | What::Resumes { op, .. }
        | What::Changes { op, .. }
        | What::ChangesFilters { op, .. }
        | What::Uploads { op, .. }
        | What::CreatesRoute { op, .. }
        | What::Publishes { op, .. }
        | What::Attaches { op, .. }
        | What::Flushes { op, .. } => Some(*op),
        _ => None,
    }
}
