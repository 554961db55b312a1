//! Filters: by which chain an event is judged, which follows from its position and the fences that were answered, and whether what it says
//! is what happened. Who fails alone is blamed, and nobody else.

use std::collections::BTreeMap;

use super::catalog::{News, Pause};
use super::facts::{Event, Facts};
use super::{Found, Group, Promise};
use crate::history::{Cause, Durability, Entry, Text, What};
use crate::plan::filter::{Filter, Verdict, read, takes, written};

pub(super) const FENCED: Promise = Promise {
    id: "I4",
    page: "guide/changes.md",
    words: "the filters that were there judge them, however late that is and whatever crashes in between.",
};
pub(super) const HOLDS: Promise = Promise {
    id: "I4",
    page: "delivery.md",
    words: "a filter holds [from a position on](guide/changes.md), whatever crashes",
};
pub(super) const PASSED: Promise = Promise {
    id: "I3",
    page: "ARCHITECTURE.md",
    words: "No event is judged by another chain than that of its position",
};
pub(super) const BLAMED: Promise = Promise {
    id: "I6",
    page: "plugins/failures.md",
    words: "only the one whose rule and event fail *by themselves* pays for it.",
};

/// What is known of filters.
#[derive(Default)]
pub(super) struct Filters {
    of: BTreeMap<Text, Chains>,
    /// What a subscription is to be created with.
    chosen: BTreeMap<u64, Vec<Filter>>,
    /// Where events are, as far as that was seen.
    positions: BTreeMap<u64, u64>,
    events: BTreeMap<u64, u64>,
    broken: Vec<(&'static Promise, String)>,
}

/// The chains of a subscription, in the order in which they came.
struct Chains {
    list: Vec<Chain>,
    /// Positions that it has handed out, and the entries that said so first.
    handed: BTreeMap<u64, usize>,
    /// Of which nobody knows whether they came, by the request.
    open: BTreeMap<u64, Chain>,
}

struct Chain {
    /// The first position that it judges.
    from: u64,
    filters: Vec<Filter>,
    /// The entries with which it was asked for, and answered.
    asked_at: usize,
    done_at: usize,
    /// The entry that said that the life serves in which it was asked for.
    served_at: usize,
    /// That its fence is at the wrong place has been told.
    is_told: bool,
    /// The subscription may have been paused then, so that the fence may be before what was published before.
    steps_back: bool,
}

impl Filters {
    /// Whether a subscription has, or had, any.
    pub(super) fn judges(&self, subscription: &Text) -> bool {
        let Some(chains) = self.of.get(subscription) else {
            return false;
        };
        let mut all = chains.list.iter().chain(chains.open.values());
        all.any(|chain| !chain.filters.is_empty())
    }

    /// Whether it may stand still by itself.
    pub(super) fn may_pause(&self, subscription: &Text) -> bool {
        self.of.get(subscription).is_some_and(|chains| {
            let mut all = chains.list.iter().chain(chains.open.values());
            all.any(|chain| written(&chain.filters).contains(" pause "))
        })
    }

    /// What the chain of an event says of it; `None` if it is not known which that is.
    pub(super) fn takes(&self, subscription: &Text, n: u64, facts: &Facts) -> Option<bool> {
        let (chains, event) = self.of.get(subscription).zip(facts.events.get(&n))?;
        let judging = self.judging(chains, n, facts);
        let mut verdicts = judging.map(|chain| takes(&chain.filters, &event.topic, n));
        let first = verdicts.next()?;
        verdicts.all(|next| next == first).then_some(first)
    }

    // Which chains may be that of an event.
    fn judging<'a>(
        &'a self,
        chains: &'a Chains,
        n: u64,
        facts: &Facts,
    ) -> impl Iterator<Item = &'a Chain> {
        let position = self.positions.get(&n).copied();
        let event = facts.events.get(&n);
        let asked_at = event.map_or(0, |event| event.asked_at);
        let answered_at = event.and_then(|event| event.answered_at);
        let list = &chains.list;
        let last = |is: &dyn Fn(&Chain) -> bool| list.iter().rposition(is).unwrap_or_default();
        let range = match position {
            Some(position) => {
                let at = last(&|chain: &Chain| chain.from <= position);
                at..at + 1
            }
            // It is behind each fence that was answered before it was published.
            None => last(&|chain: &Chain| chain.done_at < asked_at)..list.len(),
        };
        // And before each that was asked for after it was answered.
        let may_judge = move |chain: &Chain| {
            position.is_some()
                || chain.steps_back
                || answered_at.is_none_or(|answered| chain.asked_at < answered)
        };
        let first = list.get(range.start);
        let more = list.get(range.start + 1..range.end).unwrap_or_default();
        let open = chains.open.values().filter(move |chain| {
            chain.steps_back || answered_at.is_none_or(|answered| chain.asked_at < answered)
        });
        let more = more.iter().filter(move |chain| may_judge(chain));
        first.into_iter().chain(more).chain(open)
    }

    /// Whether any of its filters ever fails on an event by itself.
    pub(super) fn is_guilty(&self, subscription: &Text, topic: &Text, n: u64) -> bool {
        let Some(chains) = self.of.get(subscription) else {
            return true;
        };
        let mut filters = chains
            .list
            .iter()
            .chain(chains.open.values())
            .flat_map(|chain| &chain.filters);
        filters.any(|filter| filter.verdict(topic, n) == Verdict::Fails)
    }
}

impl Facts {
    pub(super) fn see_filters(&mut self, entry: &Entry) {
        self.filters.broken.clear();
        match &entry.what {
            What::ChoosesFilters { op, chain } => {
                let chain = read(chain).unwrap_or_default();
                self.filters.chosen.insert(*op, chain);
            }
            What::CreatesSubscription {
                op, subscription, ..
            } => {
                let is_new = |of: &super::catalog::Subscription| of.born == self.at;
                if self.subscriptions.get(subscription).is_some_and(is_new) {
                    let filters = self.filters.chosen.remove(op).unwrap_or_default();
                    let list = vec![Chain::new(0, filters, self.at)];
                    let chains = Chains {
                        list,
                        handed: BTreeMap::new(),
                        open: BTreeMap::new(),
                    };
                    self.filters.of.insert(subscription.clone(), chains);
                }
            }
            What::ChangesFilters {
                op,
                subscription,
                chain,
            } => {
                let pause = self.subscriptions.get(subscription).map(|of| &of.pause);
                let mut new = Chain::new(0, read(chain).unwrap_or_default(), self.at);
                new.served_at = self.serves_at;
                new.steps_back = pause != Some(&Pause::No) || self.filters.may_pause(subscription);
                if let Some(chains) = self.filters.of.get_mut(subscription) {
                    chains.open.insert(*op, new);
                }
            }
            What::Done { op, id } => {
                self.filters.changed(*op, *id, self.at);
                self.check_fences(None);
            }
            What::NotDone {
                op, is_sure: true, ..
            } => {
                for chains in self.filters.of.values_mut() {
                    chains.open.remove(op);
                }
            }
            What::SeesFilters {
                subscription,
                chain,
                fence,
            } => {
                self.filters.seen(subscription, chain, *fence, self.at);
                self.check_fences(None);
            }
            What::Delivered {
                subscription,
                position,
                n,
                ..
            } => {
                self.filters.events.insert(*position, *n);
                let is_of_this = self.attached(&entry.who, subscription).is_some();
                if is_of_this && let Some(chains) = self.filters.of.get_mut(subscription) {
                    chains.handed.entry(*position).or_insert(self.at);
                }
                if self.filters.positions.insert(*n, *position) != Some(*position) {
                    self.check_fences(Some(*n));
                }
            }
            // What the power took is sent again, and then is elsewhere.
            What::Crashed {
                cause: Cause::Power,
                ..
            } => {
                let (topics, events) = (&self.topics, &self.events);
                self.filters.positions.retain(|n, _| {
                    let topic = events.get(n).and_then(|event| topics.get(&event.topic));
                    topic.is_none_or(|topic| topic.durability == Durability::Sync)
                });
            }
            _ => {}
        }
        for news in &self.news {
            if let News::SubscriptionGone(subscription) = news {
                self.filters.of.remove(subscription);
            }
        }
    }
}

impl Facts {
    // Whether each fence is where it has to be beside an event whose place was seen, or beside all of them.
    fn check_fences(&mut self, n: Option<u64>) {
        let filters = &mut self.filters;
        let all = || 0..=u64::MAX;
        let range = n.map_or_else(all, |n| n..=n);
        for (subscription, chains) in &mut filters.of {
            let handed = &chains.handed;
            let list = chains.list.iter_mut().skip(1);
            for chain in list.filter(|chain| !chain.is_told) {
                let mut places = filters.positions.range(range.clone());
                let wrong = places.find_map(|(n, position)| {
                    let why = chain.is_misplaced(*position, self.events.get(n)?, handed)?;
                    Some((n, position, why))
                });
                if let Some((n, position, why)) = wrong {
                    let from = chain.from;
                    let says = format!(
                        "the filters of {subscription} hold from {from} on, and event {n} at {position} was {why}"
                    );
                    filters.broken.push((&FENCED, says));
                    chain.is_told = true;
                }
            }
        }
    }
}

impl Filters {
    fn changed(&mut self, op: u64, fence: u64, at: usize) {
        for chains in self.of.values_mut() {
            // Without a fence nothing was changed, nor where they are what they were.
            let chain = chains.open.remove(&op).filter(|_| fence > 0);
            let is_new = |chain: &Chain| {
                let last = chains.list.last();
                last.is_none_or(|last| {
                    last.from != fence || written(&last.filters) != written(&chain.filters)
                })
            };
            if let Some(chain) = chain.filter(is_new) {
                chains.came(chain, fence, at);
            }
        }
    }

    fn seen(&mut self, subscription: &Text, chain: &str, fence: u64, at: usize) {
        let Some(chains) = self.of.get_mut(subscription) else {
            return;
        };
        let open = std::mem::take(&mut chains.open);
        let mut open = open.into_values();
        let came = open.find(|open| written(&open.filters) == *chain);
        let Some(last) = chains.list.last() else {
            return;
        };
        let is_last = written(&last.filters) == *chain && last.from == fence;
        match came {
            Some(came) if !is_last => chains.came(came, fence, at),
            _ if is_last => {}
            _ => {
                let says = format!(
                    "{subscription} has {chain} from {fence} on, and was given {} from {} on",
                    written(&last.filters),
                    last.from
                );
                self.broken.push((&HOLDS, says));
            }
        }
    }
}

impl Chains {
    fn came(&mut self, chain: Chain, fence: u64, at: usize) {
        self.list.push(Chain {
            from: fence,
            done_at: at,
            ..chain
        });
    }
}

impl Chain {
    // What an event was that is on the wrong side of its fence. That is behind all that was answered before it was asked for, unless the
    // subscription was paused; behind all that was handed out before, as it was decided; and before all that was published since.
    fn is_misplaced(
        &self,
        position: u64,
        event: &Event,
        handed: &BTreeMap<u64, usize>,
    ) -> Option<&'static str> {
        if position < self.from {
            return (event.asked_at > self.done_at).then_some("published after that was answered");
        }
        let is_before = |at: &usize| *at < self.asked_at;
        if !self.steps_back && event.answered_at.as_ref().is_some_and(is_before) {
            return Some("answered before that was asked for");
        }
        // What was decided in another life may be undecided again.
        let handed_at = handed.get(&position).filter(|at| **at > self.served_at);
        handed_at
            .is_some_and(is_before)
            .then_some("handed out before that was asked for")
    }

    fn new(from: u64, filters: Vec<Filter>, at: usize) -> Self {
        Self {
            from,
            filters,
            asked_at: at,
            done_at: at,
            served_at: 0,
            is_told: false,
            steps_back: false,
        }
    }
}

/// Holds the broker to it.
#[derive(Default)]
pub(super) struct Judged;

impl Group for Judged {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        for (promise, says) in &facts.filters.broken {
            found.breaks(promise, says.clone());
        }
        match &entry.what {
            What::Delivered {
                subscription,
                position,
                n,
                ..
            } => {
                let is_of_this = facts.attached(&entry.who, subscription).is_some();
                if is_of_this && facts.filters.takes(subscription, *n, facts) == Some(false) {
                    let says = format!(
                        "the filters of {subscription} at {position} do not take event {n}, and it gets it"
                    );
                    found.breaks(&FENCED, says);
                }
            }
            What::Blames {
                subscription,
                position,
            } => {
                let n = facts.filters.events.get(position);
                if let Some((n, event)) = n.and_then(|n| Some((n, facts.events.get(n)?)))
                    && !facts.filters.is_guilty(subscription, &event.topic, *n)
                {
                    let says = format!(
                        "{subscription} is blamed for event {n}, on which none of its filters fails alone"
                    );
                    found.breaks(&BLAMED, says);
                }
            }
            _ => {}
        }
    }
}
