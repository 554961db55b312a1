//! Routes: what each makes of an event is there once, and all of it. What that is follows from their rules, which are words, so that it is
//! known of an event what comes of it over a chain of routes.

use std::collections::{BTreeMap, BTreeSet};

use super::catalog::News;
use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Cause, Durability, Entry, Text, What};
use crate::plan::payload::hash;
use crate::plan::route::{Route, made};

pub(super) const ROUTED_ONCE: Promise = Promise {
    id: "I19",
    page: "delivery.md",
    words: "consuming, transforming and appending is one step: exactly once",
};
pub(super) const ROUTED: Promise = Promise {
    id: "I19",
    page: "guide/filters.md",
    words: "Consuming, transforming and appending is one atomic step",
};

/// Routes that an event goes through at most. The broker takes it through a few more.
const ROUTES_MAX: usize = 8;

/// An event that a route made: its topic, the number of what it is made of, and what its payload comes to.
type Made = (Text, u64, u64);

#[derive(Default)]
pub(super) struct Routed {
    /// With the entry that says that it is there.
    routes: BTreeMap<u64, (Route, Option<usize>)>,
    /// Where what was made was got from.
    positions: BTreeMap<Made, BTreeSet<u64>>,
    /// The same by who got it.
    got: BTreeMap<Text, BTreeMap<Made, BTreeSet<u64>>>,
    drained: BTreeSet<Text>,
    gone: BTreeSet<Text>,
    power_ms: Option<u64>,
}

impl Group for Routed {
    // What was made of events may be among what is lost, and is made again where the state is.
    fn judges(&self, facts: &Facts) -> bool {
        !facts.losses.is_accepted()
    }

    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::CreatesRoute { op, route } => {
                if let Ok(route) = route.parse::<Route>() {
                    self.routes.insert(*op, (route, None));
                }
            }
            What::Done { op, .. } => {
                if let Some((_, since)) = self.routes.get_mut(op) {
                    *since = Some(facts.at);
                }
            }
            What::Output {
                subscription,
                topic,
                position,
                n,
                hash,
                ..
            } => {
                let made = (topic.clone(), *n, *hash);
                self.came(subscription, made, *position, facts, found);
            }
            What::Drained { subscription } => {
                self.drained.insert(subscription.clone());
            }
            What::Crashed {
                cause: Cause::Power,
                ..
            } => self.power_ms = Some(entry.ms),
            What::Over {} if facts.is_draining => self.over(facts, found),
            _ => {}
        }
        for news in &facts.news {
            if let News::TopicGone(name) = news {
                self.gone.insert(name.clone());
            }
        }
    }
}

impl Routed {
    fn came(
        &mut self,
        subscription: &Text,
        made: Made,
        position: u64,
        facts: &Facts,
        found: &mut Found,
    ) {
        let (topic, n, _) = &made;
        let all = self.all_made(*n, facts);
        let owed = all.get(&made).copied().unwrap_or_default();
        let places = self.positions.entry(made.clone()).or_default();
        let is_new = places.insert(position);
        if is_new && places.len() > owed {
            let says = format!(
                "of event {n} {owed} come to {} like that, and there are {}",
                &**topic,
                places.len()
            );
            found.breaks(&ROUTED_ONCE, says);
        }
        let got = self.got.entry(subscription.clone()).or_default();
        got.entry(made).or_default().insert(position);
    }

    // Everything that comes of an event, and how often each of it.
    fn all_made(&self, n: u64, facts: &Facts) -> BTreeMap<Made, usize> {
        let mut all = BTreeMap::new();
        let Some(event) = facts.events.get(&n) else {
            return all;
        };
        let mut next = vec![(event.topic.clone(), event.hash)];
        for _ in 0..ROUTES_MAX {
            let from = std::mem::take(&mut next);
            for (topic, before) in from {
                let routes = self.routes.values().map(|(route, _)| route);
                for route in routes.filter(|route| *route.from == *topic) {
                    for (topic, payload) in made(route, n) {
                        let hash = payload.map_or(before, |payload| hash(payload.as_bytes()));
                        next.push((topic.into(), hash));
                    }
                }
            }
            for (topic, hash) in &next {
                *all.entry((topic.clone(), n, *hash)).or_default() += 1;
            }
        }
        all
    }

    // Whoever had all that there is had all that came of what was answered after it and the routes were there.
    fn over(&self, facts: &Facts, found: &mut Found) {
        let sure = self.routes.values().map(|(_, since)| *since);
        let Some(routed_since) = sure
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().max())
        else {
            return;
        };
        let are_drained = self.routes.values().all(|(route, _)| {
            let name = Text::from(route.name.as_str());
            self.drained.contains(&name)
        });
        if !are_drained {
            return;
        }
        for (n, event) in &facts.events {
            let is_sync = facts.topics.get(&event.topic);
            let is_sync = is_sync.is_some_and(|topic| topic.durability == Durability::Sync);
            let is_there = event.answered_at.is_some() && event.asked_at > routed_since;
            let may_be_lost = !is_sync && self.power_ms.is_some_and(|ms| ms >= event.asked_ms);
            if !is_there || may_be_lost || facts.may_have_gone(*n) {
                continue;
            }
            let all = self.all_made(*n, facts);
            for (name, of) in &facts.subscriptions {
                let is_whole =
                    of.is_sure && self.drained.contains(name) && of.sure_since < event.asked_at;
                if is_whole && !self.gone.contains(&of.topic) {
                    let owed = all.iter().filter(|((topic, ..), _)| *topic == of.topic);
                    for (made, owed) in owed {
                        self.check(name, made, *owed, found);
                    }
                }
            }
        }
    }

    fn check(&self, name: &Text, made: &Made, owed: usize, found: &mut Found) {
        let got = self.got.get(name).and_then(|got| got.get(made));
        let got = got.map_or(0, BTreeSet::len);
        if got < owed {
            let (topic, n, _) = made;
            let says = format!(
                "of event {n} {owed} come to {} like that, and {} got {got}",
                &**topic, &**name
            );
            found.breaks(&ROUTED, says);
        }
    }
}
