//! Numbers: each stands for one thing, over all lives of a broker, and each event has one place.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::News;
use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Cause, Entry, Text, What};

pub(super) const ONCE: Promise = Promise {
    id: "I8",
    page: "delivery/publishing.md",
    words: "What was not answered before a lost connection is sent again with the same numbers, and the broker recognises it, even after its own restart.",
};
pub(super) const ONE_STANDS_FOR_ONE: Promise = Promise {
    id: "I11",
    page: "ARCHITECTURE.md",
    words: "No id, sequence, position or version is given again that something lost or deleted may have had.",
};
pub(super) const NEVER_AGAIN: Promise = Promise {
    id: "I11",
    page: "delivery/durability.md",
    words: "Sequences and positions then skip ahead, so a number is never given to two events",
};
pub(super) const WITHOUT_GAPS: Promise = Promise {
    id: "I10",
    page: "words.md",
    words: "an event's place in its topic: without gaps at append, never reused",
};

#[derive(Default)]
pub(super) struct Numbers {
    /// Which event has a sequence of a topic.
    sequences: BTreeMap<(Text, u64), u64>,
    /// Which event has a position.
    positions: BTreeMap<u64, u64>,
    /// Where an event is, and when that was seen.
    places: BTreeMap<u64, Place>,
    ids: BTreeSet<(&'static str, u64)>,
    /// What each subscription got of its topic.
    got: BTreeMap<Text, Got>,
}

/// Events by their sequence, and whether they are of the subscription that has the name now for sure.
type Got = BTreeMap<u64, (u64, bool)>;

#[derive(Default)]
struct Place {
    sequence: Option<u64>,
    position: Option<u64>,
    seen_ms: u64,
}

impl Group for Numbers {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::Published { op, sequence, .. } => {
                if let Some(n) = facts.event_of(*op)
                    && let Some(event) = facts.events.get(&n)
                {
                    self.sequence((n, entry.ms), &event.topic, *sequence, facts, found);
                }
            }
            What::Delivered {
                subscription,
                topic,
                position,
                sequence,
                n,
                ..
            } => {
                self.sequence((*n, entry.ms), topic, *sequence, facts, found);
                self.position(*n, *position, facts, found);
                let is_of_this = facts.attached(&entry.who, subscription).is_some();
                let is_sure = is_of_this && !facts.is_perhaps_taken(*n);
                let got = self.got.entry(subscription.clone()).or_default();
                let known = got.entry(*sequence).or_insert((*n, false));
                known.1 |= is_sure;
            }
            What::Done { op, id } if *id > 0 => self.id(*op, *id, facts, found),
            What::Crashed { cause, .. } => self.crashed(*cause, entry.ms, facts),
            What::Drained { subscription } => self.drained(subscription, facts, found),
            _ => {}
        }
        for news in &facts.news {
            if let News::SubscriptionGone(subscription) = news {
                self.got.remove(subscription);
            }
        }
    }

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}

impl Numbers {
    fn sequence(
        &mut self,
        (n, ms): (u64, u64),
        topic: &Text,
        sequence: u64,
        facts: &Facts,
        found: &mut Found,
    ) {
        let has = *self.sequences.entry((topic.clone(), sequence)).or_insert(n);
        if has != n {
            let says = format!("sequence {sequence} of {topic} is event {has}, and {n}");
            found.breaks(&ONE_STANDS_FOR_ONE, says);
        }
        if facts.losses.is_blurred() {
            return;
        }
        let place = self.places.entry(n).or_default();
        place.seen_ms = ms;
        let before = *place.sequence.get_or_insert(sequence);
        if before != sequence {
            let says = format!("event {n} is in {topic} as {before} and as {sequence}");
            found.breaks(&ONCE, says);
        }
    }

    fn position(&mut self, n: u64, position: u64, facts: &Facts, found: &mut Found) {
        let has = *self.positions.entry(position).or_insert(n);
        if has != n {
            let says = format!("position {position} is event {has}, and {n}");
            found.breaks(&NEVER_AGAIN, says);
        }
        if facts.losses.is_blurred() {
            return;
        }
        let place = self.places.entry(n).or_default();
        let before = *place.position.get_or_insert(position);
        if before != position {
            let says = format!("event {n} is at position {before} and at {position}");
            found.breaks(&ONCE, says);
        }
    }

    fn id(&mut self, op: u64, id: u64, facts: &Facts, found: &mut Found) {
        let kind = match facts.requests.get(&op).map(|request| &request.what) {
            Some(What::CreatesTopic { .. }) => "topic",
            Some(What::CreatesSubscription { .. }) => "subscription",
            _ => return,
        };
        if !self.ids.insert((kind, id)) {
            found.breaks(&ONE_STANDS_FOR_ONE, format!("a second {kind} has id {id}"));
        }
    }

    // An event that the power took is sent again, and then is elsewhere. Its numbers are still its own.
    fn crashed(&mut self, cause: Cause, now_ms: u64, facts: &Facts) {
        self.places.retain(|n, place| {
            let event = facts.events.get(n);
            !event.is_some_and(|event| facts.may_be_lost(event, place.seen_ms, cause, now_ms))
        });
        for (_, (n, is_sure)) in self.got.values_mut().flatten() {
            *is_sure &= !facts.is_perhaps_taken(*n);
        }
    }

    // Who got all that there is got each number between two that one life gave.
    fn drained(&mut self, subscription: &Text, facts: &Facts, found: &mut Found) {
        // What its filters do not take is no gap, nor what was given up. Of what is lost the checker of losses knows.
        let may_lack = facts.may_give_up_unseen(subscription) || facts.losses.is_accepted();
        if facts.filters.judges(subscription) || may_lack {
            return;
        }
        let got = self.got.entry(subscription.clone()).or_default();
        let life = |n: &u64| facts.events.get(n).and_then(|event| event.numbered_in);
        // Of what was published before it, it got what was still there; and nothing of a topic that was deleted meanwhile.
        let since = facts.subscriptions.get(subscription);
        let since = since.map_or(usize::MAX, |of| of.sure_since);
        let is_owed = |n: &u64| {
            let event = facts.events.get(n);
            event.is_some_and(|of| of.asked_at > since) && !facts.may_have_gone(*n)
        };
        let sure = || {
            let sure = got.iter().filter(|(_, (_, is_sure))| *is_sure);
            sure.filter(|(_, (n, _))| is_owed(n))
        };
        for ((before, (one, _)), (after, (next, _))) in sure().zip(sure().skip(1)) {
            let is_same = life(one).is_some() && life(one) == life(next);
            let between = got.range(before + 1..*after).count() as u64;
            if after - before - 1 > between && is_same {
                let says = format!(
                    "{subscription} has {before} and {after}, and nothing between, of one life"
                );
                found.breaks(&WITHOUT_GAPS, says);
            }
        }
    }
}
