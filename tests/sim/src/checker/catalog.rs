//! What topics and subscriptions there are, as far as a history tells: what was answered is so, what was refused is as before, and what
//! nobody heard the end of is open until the broker is seen in its next life. What it shows then may be nothing else.

use std::collections::{BTreeMap, BTreeSet};

use super::Promise;
use super::facts::Facts;
use crate::history::{Durability, Entry, Start, Text, What};

pub(super) const MADE: Promise = Promise {
    id: "I3",
    page: "ARCHITECTURE.md",
    words: "Nothing is answered or delivered before it is as durable as its topic promises.",
};
pub(super) const DELETED: Promise = Promise {
    id: "I3",
    page: "delivery/publishing.md",
    words: "When the deletion is answered, its events count for no subscription, wait for nobody and are in no consumer's window",
};
pub(super) const STAYS_PAUSED: Promise = Promise {
    id: "I15",
    page: "delivery/acks.md",
    words: "| a paused subscription | is paused | is paused;",
};
pub(super) const STAYS_RESUMED: Promise = Promise {
    id: "I15",
    page: "delivery/acks.md",
    words: "| a subscription that was resumed, once that is answered | goes on | goes on |",
};

/// A topic that there was at some time.
pub(super) struct Topic {
    pub(super) durability: Durability,
    is: Is,
    /// Ids that it had before it was deleted.
    gone: BTreeSet<u64>,
    /// How often a deletion of it began or ended: between two of one number there was none.
    pub(super) age: u64,
    /// Whether a deletion is under way.
    pub(super) is_going: bool,
    /// The entry that said that it was deleted last.
    gone_at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    /// Nobody has said.
    Open,
    There(u64),
    /// Deleted; a publish may make it again.
    Gone,
}

/// A subscription that may be there.
pub(super) struct Subscription {
    pub(super) topic: Text,
    pub(super) start: Start,
    /// The shortest that there was.
    pub(super) ack_deadline_ms: u64,
    /// The broker has said that it is there, and nobody has asked it to delete it.
    pub(super) is_sure: bool,
    /// The entry that it was asked for with: tells it from others of its name.
    pub(super) born: usize,
    /// The entry that said that it is there.
    pub(super) sure_since: usize,
    pub(super) pause: Pause,
    settings: Settings,
}

/// Whether a subscription stands still, as far as is known.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Pause {
    No,
    Open,
    /// Since that entry, at that time, for that reason; it is none where only a look showed it.
    Since(usize, u64, Text),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    ack_deadline_ms: u64,
    /// `None` is what it is by default.
    in_flight_max: Option<u64>,
}

/// What follows from an entry.
pub(super) enum News {
    /// A topic was deleted by now. Its name may be another's.
    TopicGone(Text),
    /// So was a subscription, or it never came.
    SubscriptionGone(Text),
    /// It is there for sure.
    SubscriptionCame(Text),
    /// Something of it begins to change, or has changed.
    SubscriptionChanges(Text),
    /// What is seen contradicts what was said.
    Broken(&'static Promise, String),
}

/// Changes of which nobody has heard what became of them, and who is attached to which subscription.
#[derive(Default)]
pub(super) struct Changes {
    open: BTreeSet<u64>,
    attached: BTreeMap<(Text, Text), (usize, usize)>,
}

impl Facts {
    /// Which of a subscription's name whoever consumes it is attached to for sure, and since which entry: `None` if it may be one that was
    /// there before.
    pub(super) fn attached(&self, who: &Text, subscription: &Text) -> Option<usize> {
        let (born, since) = self
            .changes
            .attached
            .get(&(who.clone(), subscription.clone()))?;
        let is_this = self.subscriptions.get(subscription)?.born == *born;
        is_this.then_some(*since)
    }

    /// Whether whoever consumes a subscription of this name was attached to one that is not, or no more, that of it.
    pub(super) fn is_attached_to_another(&self, who: &Text, subscription: &Text) -> bool {
        let attached = &self.changes.attached;
        let Some((born, _)) = attached.get(&(who.clone(), subscription.clone())) else {
            return false;
        };
        let of = self.subscriptions.get(subscription);
        of.is_none_or(|of| of.born != *born)
    }

    /// Whether an event may have been in a topic that was deleted since.
    pub(super) fn may_have_gone(&self, n: u64) -> bool {
        let event = self.events.get(&n);
        let topic = event.and_then(|event| Some((event, self.topics.get(&event.topic)?)));
        topic.is_some_and(|(event, topic)| event.asked_at < topic.gone_at)
    }

    // Whoever asked before this subscription came, and gets what was published after it, is attached to this one.
    fn gets(&mut self, who: &Text, subscription: &Text, n: u64) {
        let asked_at = self.events.get(&n).map_or(0, |event| event.asked_at);
        let of = self.subscriptions.get(subscription);
        let key = (who.clone(), subscription.clone());
        if let Some((of, attached)) = of.zip(self.changes.attached.get_mut(&key))
            && attached.0 != of.born
            && asked_at > of.sure_since
        {
            *attached = (of.born, self.at);
        }
    }

    pub(super) fn see_change(&mut self, entry: &Entry) {
        self.news.clear();
        match &entry.what {
            What::Delivered {
                subscription, n, ..
            } => self.gets(&entry.who, subscription, *n),
            What::Attaches { subscription, .. } | What::Opens { subscription } => {
                let key = (entry.who.clone(), subscription.clone());
                match self.subscriptions.get(subscription) {
                    Some(of) => self.changes.attached.insert(key, (of.born, self.at)),
                    None => self.changes.attached.remove(&key),
                };
            }
            What::Done { op, id } if self.changes.open.remove(op) => self.made(*op, *id, entry.ms),
            What::NotDone {
                op, is_sure: true, ..
            } if self.changes.open.remove(op) => self.not_made(*op),
            What::SeesTopic { topic, id } => self.sees_topic(topic, *id),
            What::SeesSubscription { .. } => self.sees_subscription(&entry.what, entry.ms),
            what => self.asks_for(what),
        }
    }

    fn asks_for(&mut self, what: &What) {
        let op = match what {
            What::CreatesTopic {
                op,
                topic,
                durability,
            } => {
                let new = Topic {
                    durability: *durability,
                    is: Is::Open,
                    gone: BTreeSet::new(),
                    age: 0,
                    is_going: false,
                    gone_at: 0,
                };
                self.topics.entry(topic.clone()).or_insert(new);
                op
            }
            What::DeletesTopic { op, topic } => {
                if let Some(of) = self.topics.get_mut(topic) {
                    (of.age, of.is_going) = (of.age + 1, true);
                }
                op
            }
            What::CreatesSubscription {
                op,
                subscription,
                topic,
                start,
                ack_deadline_ms,
            } => {
                let new = Subscription {
                    topic: topic.clone(),
                    start: *start,
                    ack_deadline_ms: *ack_deadline_ms,
                    is_sure: false,
                    born: self.at,
                    sure_since: self.at,
                    pause: Pause::No,
                    settings: Settings {
                        ack_deadline_ms: *ack_deadline_ms,
                        in_flight_max: None,
                    },
                };
                self.subscriptions
                    .entry(subscription.clone())
                    .or_insert(new);
                op
            }
            What::DeletesSubscription { op, subscription } => {
                if let Some(of) = self.subscriptions.get_mut(subscription) {
                    of.is_sure = false;
                    self.news
                        .push(News::SubscriptionChanges(subscription.clone()));
                }
                op
            }
            What::Pauses {
                op, subscription, ..
            }
            | What::Resumes { op, subscription } => {
                if let Some(of) = self.subscriptions.get_mut(subscription) {
                    // What stands still does so however often that is said again.
                    if matches!(what, What::Resumes { .. }) || of.pause == Pause::No {
                        of.pause = Pause::Open;
                    }
                    self.news
                        .push(News::SubscriptionChanges(subscription.clone()));
                }
                op
            }
            What::ChangesFilters {
                op, subscription, ..
            } => {
                let news = News::SubscriptionChanges(subscription.clone());
                self.news.push(news);
                op
            }
            What::Changes {
                op,
                subscription,
                ack_deadline_ms,
                ..
            } => {
                if let Some(of) = self.subscriptions.get_mut(subscription) {
                    of.ack_deadline_ms = of.ack_deadline_ms.min(*ack_deadline_ms);
                    self.news
                        .push(News::SubscriptionChanges(subscription.clone()));
                }
                op
            }
            _ => return,
        };
        self.changes.open.insert(*op);
    }

    fn made(&mut self, op: u64, id: u64, ms: u64) {
        let Some(asked) = self.requests.get(&op).map(|request| request.what.clone()) else {
            return;
        };
        match asked {
            What::CreatesTopic { topic, .. } => {
                if let Some(of) = self.topics.get_mut(&topic) {
                    if let Is::There(other) = of.is
                        && other != id
                    {
                        let says =
                            format!("topic {topic} was there as {other}, and is made as {id}");
                        self.news.push(News::Broken(&MADE, says));
                    }
                    of.is = Is::There(id);
                }
            }
            What::DeletesTopic { topic, .. } => self.topic_gone(&topic),
            What::CreatesSubscription { subscription, .. } => {
                let at = self.at;
                if let Some(of) = self.subscriptions.get_mut(&subscription) {
                    if of.is_sure {
                        let says = format!("{subscription} was there, and is made again");
                        self.news.push(News::Broken(&MADE, says));
                    }
                    (of.is_sure, of.sure_since) = (true, at);
                    self.news.push(News::SubscriptionCame(subscription));
                }
            }
            What::DeletesSubscription { subscription, .. } => self.subscription_gone(&subscription),
            What::Pauses {
                subscription, why, ..
            } => {
                let since = Pause::Since(self.at, ms, why);
                self.with(&subscription, |of| of.pause = since);
            }
            What::Resumes { subscription, .. } => {
                self.with(&subscription, |of| of.pause = Pause::No);
            }
            What::Changes {
                subscription,
                ack_deadline_ms,
                in_flight_max,
                ..
            } => self.with(&subscription, |of| {
                of.settings = Settings {
                    ack_deadline_ms,
                    in_flight_max: Some(in_flight_max),
                };
            }),
            _ => {}
        }
    }

    fn not_made(&mut self, op: u64) {
        let asked = self.requests.get(&op).map(|request| request.what.clone());
        match asked {
            Some(What::DeletesTopic { topic, .. }) => {
                if let Some(of) = self.topics.get_mut(&topic) {
                    (of.age, of.is_going) = (of.age + 1, false);
                }
            }
            // It asked for another than the one that there is.
            Some(What::CreatesSubscription { subscription, .. }) => {
                let is_asked_for = |of: &Subscription| !of.is_sure;
                if self
                    .subscriptions
                    .get(&subscription)
                    .is_some_and(is_asked_for)
                {
                    self.subscription_gone(&subscription);
                }
            }
            Some(What::DeletesSubscription { subscription, .. }) => {
                self.with(&subscription, |of| of.is_sure = true);
            }
            _ => {}
        }
    }

    fn with(&mut self, subscription: &Text, change: impl FnOnce(&mut Subscription)) {
        if let Some(of) = self.subscriptions.get_mut(subscription) {
            change(of);
            self.news
                .push(News::SubscriptionChanges(subscription.clone()));
        }
    }

    fn topic_gone(&mut self, topic: &Text) {
        if let Some(of) = self.topics.get_mut(topic) {
            if let Is::There(id) = of.is {
                of.gone.insert(id);
            }
            (of.is, of.is_going, of.gone_at) = (Is::Gone, false, self.at);
            of.age += 1;
            self.news.push(News::TopicGone(topic.clone()));
        }
    }

    fn subscription_gone(&mut self, subscription: &Text) {
        if self.subscriptions.remove(subscription).is_some() {
            self.news.push(News::SubscriptionGone(subscription.clone()));
        }
    }

    // Changes that may have been made or not, which a look decides.
    fn decided(&mut self, is_about: impl Fn(&What) -> bool) -> Vec<What> {
        let open = self.changes.open.iter().copied();
        let about = open.filter_map(|op| {
            let request = self.requests.get(&op)?;
            is_about(&request.what).then(|| (op, request.what.clone()))
        });
        let about: Vec<(u64, What)> = about.collect();
        for (op, _) in &about {
            self.changes.open.remove(op);
        }
        about.into_iter().map(|(_, what)| what).collect()
    }

    fn sees_topic(&mut self, topic: &Text, id: u64) {
        let is_about = |what: &What| match what {
            What::CreatesTopic { topic: of, .. } | What::DeletesTopic { topic: of, .. } => {
                of == topic
            }
            _ => false,
        };
        let open = self.decided(is_about);
        let may_be_gone = open
            .iter()
            .any(|what| matches!(what, What::DeletesTopic { .. }));
        let Some(of) = self.topics.get(topic) else {
            return;
        };
        if of.gone.contains(&id) {
            let says = format!("topic {topic} was deleted, and is there as {id} again");
            self.news.push(News::Broken(&DELETED, says));
        }
        match of.is {
            Is::There(known) if known != id && !may_be_gone => {
                let says = format!("topic {topic} was there as {known}, and is seen as {id}");
                self.news.push(News::Broken(&MADE, says));
            }
            Is::There(known) if may_be_gone && known != id => self.topic_gone(topic),
            Is::Gone | Is::Open if may_be_gone && id == 0 => self.topic_gone(topic),
            // Which of them it is cannot be told, if its id was not known before.
            _ if may_be_gone => {
                if let Some(of) = self.topics.get_mut(topic) {
                    (of.age, of.is_going) = (of.age + 1, false);
                }
            }
            Is::Gone | Is::Open | Is::There(_) => {}
        }
        if let Some(of) = self.topics.get_mut(topic) {
            of.is = match id {
                0 => Is::Gone,
                id => Is::There(id),
            };
        }
    }

    fn sees_subscription(&mut self, seen: &What, ms: u64) {
        let What::SeesSubscription {
            subscription,
            is_there,
            is_paused,
            ack_deadline_ms,
            in_flight_max,
        } = seen
        else {
            return;
        };
        let open = self.decided(|what| subscription_of(what) == Some(subscription));
        self.sees_whether(subscription, *is_there, &open);
        if *is_there {
            self.sees_pause(subscription, *is_paused, ms, &open);
            let seen = Settings {
                ack_deadline_ms: *ack_deadline_ms,
                in_flight_max: Some(*in_flight_max),
            };
            self.sees_settings(subscription, seen, &open);
        }
    }

    fn sees_whether(&mut self, subscription: &Text, is_there: bool, open: &[What]) {
        let may_be_gone = open
            .iter()
            .any(|what| matches!(what, What::DeletesSubscription { .. }));
        let at = self.at;
        match (self.subscriptions.get_mut(subscription), is_there) {
            (Some(of), true) => {
                if !of.is_sure {
                    (of.is_sure, of.sure_since) = (true, at);
                    self.news.push(News::SubscriptionCame(subscription.clone()));
                }
            }
            (Some(of), false) => {
                if of.is_sure && !may_be_gone {
                    let says = format!("{subscription} was there, and is not any more");
                    self.news.push(News::Broken(&MADE, says));
                }
                self.subscription_gone(subscription);
            }
            (None, true) => {
                let says = format!("there was no {subscription}, and it is there");
                self.news.push(News::Broken(&MADE, says));
            }
            (None, false) => {}
        }
    }

    fn sees_pause(&mut self, subscription: &Text, is_paused: bool, ms: u64, open: &[What]) {
        let pauses = |what: &What| matches!(what, What::Pauses { .. });
        let resumes = |what: &What| matches!(what, What::Resumes { .. });
        let at = self.at;
        let may_pause = self.filters.may_pause(subscription);
        let Some(of) = self.subscriptions.get_mut(subscription) else {
            return;
        };
        match (&of.pause, is_paused) {
            (Pause::Since(..), false) if !open.iter().any(resumes) => {
                let says = format!("{subscription} was paused, and is not any more");
                self.news.push(News::Broken(&STAYS_PAUSED, says));
            }
            (Pause::No, true) if !may_pause && !open.iter().any(pauses) => {
                let says = format!("{subscription} was resumed, and is paused again");
                self.news.push(News::Broken(&STAYS_RESUMED, says));
            }
            _ => {}
        }
        of.pause = match is_paused {
            false => Pause::No,
            true => match of.pause.clone() {
                since @ Pause::Since(..) => since,
                _ if may_pause => Pause::Open,
                _ => Pause::Since(at, ms, Text::default()),
            },
        };
    }

    fn sees_settings(&mut self, subscription: &Text, seen: Settings, open: &[What]) {
        let Some(of) = self.subscriptions.get_mut(subscription) else {
            return;
        };
        let is_asked_for = open.iter().any(|what| {
            matches!(what, What::Changes { ack_deadline_ms, in_flight_max, .. }
                if (*ack_deadline_ms, Some(*in_flight_max)) == (seen.ack_deadline_ms, seen.in_flight_max))
        });
        let known = of.settings;
        let is_known = known.ack_deadline_ms == seen.ack_deadline_ms
            && (known.in_flight_max.is_none() || known.in_flight_max == seen.in_flight_max);
        if !is_known && !is_asked_for {
            let says = format!("{subscription} has {seen:?}, and was given {known:?}");
            self.news.push(News::Broken(&MADE, says));
        }
        of.settings = seen;
    }
}

/// The subscription that a change is about.
pub(super) fn subscription_of(what: &What) -> Option<&Text> {
    match what {
        What::CreatesSubscription { subscription, .. }
        | What::DeletesSubscription { subscription, .. }
        | What::Pauses { subscription, .. }
        | What::Resumes { subscription, .. }
        | What::Changes { subscription, .. }
        | What::ChangesFilters { subscription, .. } => Some(subscription),
        _ => None,
    }
}
