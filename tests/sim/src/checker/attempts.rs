//! How often an event was handed out, as each delivery says: never more often than somebody had it, and not less often than is known of it,
//! over all lives of the broker. What is known is what its consumer said in time, or had in hand when the broker stopped. What follows of it
//! for when an event comes again, and whether it does, is in `given_up.rs`.

use std::collections::BTreeMap;

use super::catalog::News;
use super::facts::Facts;
use super::given_up::{Again, GIVES_UP, WAITS};
use super::troubles::is_of_disk;
use super::{Found, Group, Promise};
use crate::history::{Answer, Entry, Text, What};
use crate::plan::Fault;

pub(super) const COUNTED: Promise = Promise {
    id: "I13",
    page: "delivery/acks.md",
    words: "A delivery's `attempt` counts hand-outs.",
};
pub(super) const KEPT: Promise = Promise {
    id: "I13",
    page: "delivery/acks.md",
    words: "| attempts and suspects | as they were | as they were, without the hand-outs whose events were in hand",
};

/// By then the broker has heard that an application has got something, on a link that holds nothing up. The client says so within 10 ms.
pub(super) const HEARD_MS: u64 = 1_000;
/// What nobody has got for less long has not missed its deadline unseen, however short that is.
const UNSEEN_MS_MIN: u64 = 2_000;

/// What is known of attempts.
#[derive(Default)]
pub(super) struct Attempts {
    of: BTreeMap<Text, Hands>,
    /// What a subscription is to be created with.
    chosen: BTreeMap<u64, u64>,
    /// Where events are, by topic and sequence.
    positions: BTreeMap<(Text, u64), u64>,
    /// How long what is answered next is to be left alone, by who says so.
    delays: BTreeMap<Text, u64>,
    /// Hand-outs that were answered and not yet flushed, by who has them.
    open: BTreeMap<Text, Vec<Place>>,
    /// Those that a flush is about.
    flushes: BTreeMap<u64, Vec<Place>>,
    /// What was in somebody's hands, and known to be, when the broker was told to stop.
    stops: Vec<Place>,
    /// When the life that there is, or was last, began to serve.
    served_ms: u64,
    broken: Vec<(&'static Promise, String)>,
}

/// A hand-out: of which subscription, position, and the how manyth of it.
type Place = (Text, u64, usize);

/// What a subscription handed out.
#[derive(Default)]
pub(super) struct Hands {
    /// After so many attempts that count it gives an event up; 0 is never.
    pub(super) attempts_max: u64,
    pub(super) events: BTreeMap<u64, Vec<HandOut>>,
    /// Who consumes, by the entry with which it asked for it last.
    consumers: BTreeMap<Text, Asked>,
    /// Entries with which somebody who had perhaps something in hand was cut off.
    cuts: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Asked {
    at: usize,
    ms: u64,
    /// The application has asked for it, and its client not yet.
    is_new: bool,
    /// When the newest event that it got since was published.
    newest_ms: u64,
}

/// What somebody got: an event, what a route has made of one, or a letter of one.
struct Got<'a> {
    subscription: &'a Text,
    topic: &'a Text,
    position: u64,
    sequence: u64,
    attempt: u64,
    n: u64,
    /// Which letter of the event: 0 is none.
    level: u64,
}

/// An event in somebody's hands.
#[derive(Clone)]
pub(super) struct HandOut {
    pub(super) who: Text,
    /// The event, and which letter of it: 0 is the event itself.
    pub(super) n: u64,
    pub(super) level: u64,
    /// With which entry, and when.
    pub(super) at: usize,
    pub(super) ms: u64,
    pub(super) attempt: u64,
    /// Since which entry its consumer was attached, if that is known.
    pub(super) since: Option<usize>,
    /// What was said of it first, and when.
    pub(super) answer: Option<(Answer, u64)>,
    /// How long it was to be left alone then.
    pub(super) waits_ms: u64,
    /// The entry that says that this came in time and is on disk.
    pub(super) confirmed_at: Option<usize>,
    /// The same for one that was in hand when the broker stopped.
    stopped_at: Option<usize>,
    /// When the life that had handed it out began to serve.
    served_ms: u64,
    /// Until then it has not failed: its consumer lost its connection while others were in its hands for sure, or the broker stopped.
    pub(super) sound_until_ms: Option<u64>,
    /// It was perhaps on its way for longer than its deadline. Then others may have had it meanwhile, and it has not counted.
    pub(super) may_be_void: bool,
}

impl Facts {
    pub(super) fn see_attempts(&mut self, entry: &Entry) {
        self.attempts.broken.clear();
        match &entry.what {
            What::Attaches { subscription, .. } => self.asks(entry, subscription, true),
            What::Opens { subscription } => self.asks(entry, subscription, false),
            What::Detached { .. } | What::Dies {} => self.leaves(entry),
            What::ChoosesAttempts {
                op, attempts_max, ..
            } => drop(self.attempts.chosen.insert(*op, *attempts_max)),
            What::CreatesSubscription {
                op, subscription, ..
            } => self.chose(*op, subscription),
            What::Waits { delay_ms, .. } => {
                let delays = &mut self.attempts.delays;
                delays.insert(entry.who.clone(), *delay_ms);
            }
            What::Says {
                subscription,
                position,
                answer,
            } => self.attempts.said(entry, subscription, *position, *answer),
            What::Flushes { op, .. } => {
                let open = self.attempts.open.remove(&entry.who);
                self.attempts.flushes.insert(*op, open.unwrap_or_default());
            }
            What::Late { op, position } => {
                if let Some(places) = self.attempts.flushes.get_mut(op) {
                    places.retain(|(_, of, _)| of != position);
                }
            }
            What::Confirmed { op } => self.confirmed(*op),
            What::NotConfirmed { op, .. } => drop(self.attempts.flushes.remove(op)),
            What::Serves { .. } => self.attempts.served_ms = entry.ms,
            What::Stops { .. } => self.attempts.stops = self.in_hand(entry.ms),
            What::HeldBack {} => self.attempts.forget_what_is_confirmed(),
            What::Crashed { .. } => self.attempts.stops.clear(),
            What::Stopped { .. } => self.stopped(entry.ms),
            What::Troubled { what, .. } => self.attempts.cut_while_it_stops(what),
            _ => {}
        }
        if let Some(got) = self.got(&entry.what) {
            self.handed_out(entry, &got);
        }
        for news in &self.news {
            if let News::SubscriptionGone(subscription) = news {
                self.attempts.of.remove(subscription);
            }
        }
    }

    // Whoever asks again, and has not been told to, was cut off: by what is wrong with its link, or by the end of a life, by which nobody
    // becomes a suspect.
    fn asks(&mut self, entry: &Entry, subscription: &Text, is_new: bool) {
        let hands = self.attempts.of.entry(subscription.clone()).or_default();
        let (at, ms) = (self.at, entry.ms);
        let newest_ms = 0;
        let asked = Asked {
            at,
            ms,
            is_new,
            newest_ms,
        };
        let before = hands.consumers.insert(entry.who.clone(), asked);
        if let Some(before) = before.filter(|before| !is_new && !before.is_new) {
            let was_cut = self.troubles.any_since(before.ms, |fault| {
                fault.actor().is_some_and(|actor| *actor == *entry.who)
            });
            if was_cut || before.ms > self.serves_since {
                hands.cuts.push(self.at);
            }
            self.is_cut(&entry.who, subscription, before.at, ms);
        }
    }

    fn leaves(&mut self, entry: &Entry) {
        let (who, mut left) = (&entry.who, Vec::new());
        for (subscription, hands) in &mut self.attempts.of {
            if let Some(asked) = hands.consumers.remove(who) {
                hands.cuts.push(self.at);
                left.push((subscription.clone(), asked.at));
            }
        }
        for (subscription, since) in left {
            self.is_cut(who, &subscription, since, entry.ms);
        }
        self.attempts.open.remove(who);
    }

    // What somebody got with this, if anything.
    fn got<'a>(&self, what: &'a What) -> Option<Got<'a>> {
        let (What::Delivered {
            subscription,
            topic,
            position,
            sequence,
            attempt,
            n,
            ..
        }
        | What::Output {
            subscription,
            topic,
            position,
            sequence,
            attempt,
            n,
            ..
        }
        | What::Letter {
            subscription,
            topic,
            position,
            sequence,
            attempt,
            n,
            ..
        }) = what
        else {
            return None;
        };
        let level = match what {
            What::Letter { from, .. } => {
                let event = self.events.get(n);
                let is_of_event = event.is_some_and(|event| event.topic == *from);
                if is_of_event { 1 } else { 2 }
            }
            _ => 0,
        };
        Some(Got {
            subscription,
            topic,
            position: *position,
            sequence: *sequence,
            attempt: *attempt,
            n: *n,
            level,
        })
    }

    // The policy of one that is created now; the name may be there already.
    fn chose(&mut self, op: u64, subscription: &Text) {
        let is_new = |of: &super::catalog::Subscription| of.born == self.at;
        if self.subscriptions.get(subscription).is_some_and(is_new) {
            let attempts_max = self.attempts.chosen.remove(&op).unwrap_or_default();
            let hands = self.attempts.of.entry(subscription.clone()).or_default();
            hands.attempts_max = attempts_max;
        }
    }

    fn handed_out(&mut self, entry: &Entry, got: &Got<'_>) {
        let place = (got.topic.clone(), got.sequence);
        self.attempts.positions.insert(place, got.position);
        let since = self.attached(&entry.who, got.subscription);
        // What was on its way when that was deleted.
        if self.is_attached_to_another(&entry.who, got.subscription) {
            return;
        }
        let hands = self.attempts.of.get(got.subscription);
        let before = hands.and_then(|hands| hands.events.get(&got.position));
        let before = before.map_or(&[][..], |before| before);
        let may_be_void = self.may_be_void(&entry.who, got.subscription, got.n, before);
        let broken = self.breaks(entry, got, before, since);
        let of = HandOut {
            who: entry.who.clone(),
            n: got.n,
            level: got.level,
            at: self.at,
            ms: entry.ms,
            attempt: got.attempt,
            since,
            answer: None,
            waits_ms: 0,
            confirmed_at: None,
            stopped_at: None,
            served_ms: self.attempts.served_ms,
            sound_until_ms: None,
            may_be_void,
        };
        self.attempts.broken.extend(broken);
        let published_ms = self.first_handed_out_ms(got.n);
        let hands = self.attempts.of.entry(got.subscription.clone());
        let hands = hands.or_default();
        if let Some(asked) = hands.consumers.get_mut(&entry.who) {
            asked.newest_ms = asked.newest_ms.max(published_ms);
        }
        hands.events.entry(got.position).or_default().push(of);
    }

    // What is wrong with a hand-out, after those before it.
    fn breaks(
        &self,
        entry: &Entry,
        got: &Got<'_>,
        before: &[HandOut],
        since: Option<usize>,
    ) -> Vec<(&'static Promise, String)> {
        let Got {
            subscription,
            position,
            attempt,
            ..
        } = got;
        let hands = self.attempts.of.get(*subscription);
        let unseen = hands.map_or(0, |hands| hands.unseen(self.asked_at(got.n)));
        let had = before.len() as u64;
        let what = format!("attempt {attempt} of {position} in {}", &***subscription);
        let mut broken = Vec::new();
        if *attempt > had + 1 + unseen {
            let says = format!("{what}, which was handed out {had} times before");
            broken.push((&COUNTED, says));
        }
        let mut counted = before
            .iter()
            .filter_map(|of| Some((of, self.counts_before(of, entry, since?)?)));
        if let Some((of, promise)) = counted.find(|(of, _)| *attempt <= of.attempt) {
            let (before, ms) = (of.attempt, of.ms);
            let says = format!("{what}, after attempt {before} at {ms} ms, which counts");
            broken.push((promise, says));
        }
        if let Some((hands, since)) = hands.zip(since) {
            let again = Again {
                hands,
                before,
                entry,
                since,
            };
            let deadline_ms = self.deadline_ms(subscription);
            let why = self.comes_too_early(&again, deadline_ms);
            broken.extend(why.map(|why| (&WAITS, format!("{what}, which {why}"))));
            let why = self.comes_no_more(&again, deadline_ms);
            broken.extend(why.map(|why| (&GIVES_UP, format!("{what}, which {why}"))));
        }
        broken
    }

    // Whether what comes to somebody may have been on its way, when a trouble of its link ended or it had not caught up, for so long that
    // it missed its deadline unseen. It was not sent before it was asked for, nor before whoever had it last answered. What a client asked
    // for comes in the order in which it was sent: once it has got what was published after the trouble, nothing that comes was sent before.
    fn may_be_void(&self, who: &Text, subscription: &Text, n: u64, before: &[HandOut]) -> bool {
        let answered_ms = before.last().map_or(0, |of| match of.answer {
            Some((_, ms)) => ms,
            None => of.ms,
        });
        let hands = self.attempts.of.get(subscription);
        let asked = hands.and_then(|hands| hands.consumers.get(who));
        let newest_ms = asked.map_or(0, |asked| asked.newest_ms.max(asked.ms));
        let newest_ms = newest_ms.max(answered_ms).max(self.first_handed_out_ms(n));
        let deadline_ms = self.deadline_ms(subscription).max(UNSEEN_MS_MIN);
        let waited_ms = self.waited_until(who, subscription);
        self.troubles.held_up(who, newest_ms, deadline_ms)
            || waited_ms.is_some_and(|ms| newest_ms <= ms)
    }

    pub(super) fn deadline_ms(&self, subscription: &Text) -> u64 {
        let of = self.subscriptions.get(subscription);
        of.map_or(0, |of| of.ack_deadline_ms)
    }

    // Whether it is known by itself that an event was in somebody's hands.
    pub(super) fn is_certain(&self, of: &HandOut) -> bool {
        !of.may_be_void && !self.troubles.held_up(&of.who, of.ms, 0)
    }

    // Whether a hand-out was over, and has counted, before another one that came with this entry to somebody attached since then. By what.
    pub(super) fn counts_before(
        &self,
        of: &HandOut,
        entry: &Entry,
        since: usize,
    ) -> Option<&'static Promise> {
        if of.who == entry.who && of.since == Some(since) && self.is_certain(of) {
            return Some(&COUNTED);
        }
        // Where nothing could be written, what came back is only in memory.
        let unwritten =
            self.serves_since > of.ms && self.troubles.any_since(of.served_ms, is_of_disk);
        let known_at = of.confirmed_at.or(of.stopped_at)?;
        (since > known_at && !unwritten).then_some(&KEPT)
    }

    fn confirmed(&mut self, op: u64) {
        let at = self.at;
        for place in self.attempts.flushes.remove(&op).unwrap_or_default() {
            let deadline_ms = self.deadline_ms(&place.0);
            let Some(of) = self.attempts.hand_out(&place) else {
                continue;
            };
            // If it was late, something else has counted in its place, perhaps.
            let said = of.answer.filter(|(_, ms)| ms - of.ms < deadline_ms);
            if said.is_some() && self.is_certain(of) {
                self.attempts.with(&place, |of| of.confirmed_at = Some(at));
            }
        }
    }

    // What is in the hands of those who are attached, as far as the broker has heard by now that they have it.
    fn in_hand(&self, now_ms: u64) -> Vec<Place> {
        let mut in_hand = Vec::new();
        for (subscription, hands) in &self.attempts.of {
            for (position, all) in &hands.events {
                let Some(of) = all.last() else {
                    continue;
                };
                let since = self.attached(&of.who, subscription);
                // Whoever has died, and was not heard of since, had more in hand perhaps.
                let is_here = hands.consumers.contains_key(&of.who)
                    && of.since.is_some()
                    && of.since == since
                    && since > Some(self.serves_at);
                if is_here && of.ms + HEARD_MS < now_ms && self.is_certain(of) {
                    in_hand.push((subscription.clone(), *position, all.len() - 1));
                }
            }
        }
        in_hand
    }

    // It has come back, and its hand-out is kept. Nobody has failed on it, unless its deadline was over or its consumer lost its
    // connection before.
    fn stopped(&mut self, now_ms: u64) {
        let at = self.at;
        for place in std::mem::take(&mut self.attempts.stops) {
            let deadline_ms = self.deadline_ms(&place.0);
            let hands = self.attempts.of.get(&place.0);
            let of = self.attempts.hand_out(&place);
            let is_here = hands.zip(of).is_some_and(|(hands, of)| {
                hands.consumers.contains_key(&of.who)
                    && now_ms < of.ms + deadline_ms
                    && self.troubles.is_well(&of.who, of.ms, now_ms)
            });
            self.attempts.with(&place, |of| {
                of.stopped_at = Some(at);
                if is_here {
                    of.sound_until_ms = Some(u64::MAX);
                }
            });
        }
    }
}

impl Hands {
    /// How often an attempt at what was there with that entry may have counted that nobody has seen: what a client is given as a suspect
    /// counts, although it may be killed before its application has it. By the first cut there were no suspects.
    pub(super) fn unseen(&self, since: usize) -> u64 {
        let before = self.cuts.partition_point(|at| *at < since).max(1);
        self.cuts.len().saturating_sub(before) as u64
    }
}

impl Attempts {
    // What came back in this life is perhaps only in memory, whatever a flush was answered.
    fn forget_what_is_confirmed(&mut self) {
        let served_ms = self.served_ms;
        let events = self
            .of
            .values_mut()
            .flat_map(|hands| hands.events.values_mut());
        for of in events.flatten().filter(|of| of.served_ms == served_ms) {
            of.confirmed_at = None;
        }
    }

    // Whoever is cut off while the broker stops had perhaps more in hand, of which each may be a suspect.
    fn cut_while_it_stops(&mut self, fault: &Fault) {
        let Some(actor) = fault.actor() else {
            return;
        };
        let stops = std::mem::take(&mut self.stops);
        let stays = stops.into_iter().filter(|place| {
            let of = self.hand_out(place);
            of.is_some_and(|of| *of.who != *actor)
        });
        self.stops = stays.collect();
    }

    /// What a subscription handed out.
    pub(super) fn hands(&self, subscription: &Text) -> Option<&Hands> {
        self.of.get(subscription)
    }

    pub(super) fn hands_mut(&mut self, subscription: &Text) -> Option<&mut Hands> {
        self.of.get_mut(subscription)
    }

    /// Whether what is wanted again is to come at once: it is neither left alone for a while nor given up.
    pub(super) fn comes_at_once(&self, subscription: &Text, position: u64) -> bool {
        self.hands(subscription).is_some_and(|hands| {
            let last = hands.events.get(&position).and_then(|all| all.last());
            hands.attempts_max == 0 && last.is_some_and(|of| of.waits_ms == 0)
        })
    }

    /// Who had an event of a topic.
    pub(super) fn handed_out(
        &self,
        subscription: &Text,
        topic: &Text,
        sequence: u64,
    ) -> &[HandOut] {
        let position = self.positions.get(&(topic.clone(), sequence));
        let hands = self.of.get(subscription).zip(position);
        let of = hands.and_then(|(hands, position)| hands.events.get(position));
        of.map_or(&[][..], |of| of)
    }

    /// All that a subscription handed out, by topic and sequence.
    pub(super) fn all_of(
        &self,
        subscription: &Text,
    ) -> impl Iterator<Item = (&(Text, u64), &[HandOut])> {
        let all = self.positions.keys().map(move |place| {
            let (topic, sequence) = place;
            (place, self.handed_out(subscription, topic, *sequence))
        });
        all.filter(|(_, handed)| !handed.is_empty())
    }

    fn hand_out(&self, (subscription, position, number): &Place) -> Option<&HandOut> {
        let hands = self.of.get(subscription)?;
        hands.events.get(position)?.get(*number)
    }

    fn with(
        &mut self,
        (subscription, position, number): &Place,
        change: impl FnOnce(&mut HandOut),
    ) {
        let hands = self.of.get_mut(subscription);
        let all = hands.and_then(|hands| hands.events.get_mut(position));
        all.and_then(|all| all.get_mut(*number)).map(change);
    }

    // Of the last hand-out to whoever says it.
    fn said(&mut self, entry: &Entry, subscription: &Text, position: u64, answer: Answer) {
        let Some(hands) = self.of.get_mut(subscription) else {
            return;
        };
        let Some(of) = hands.events.get_mut(&position) else {
            return;
        };
        let Some(number) = of.iter().rposition(|of| of.who == entry.who) else {
            return;
        };
        let waits_ms = self.delays.remove(&entry.who).unwrap_or_default();
        if answer != Answer::Extend && of[number].answer.is_none() {
            of[number].answer = Some((answer, entry.ms));
            of[number].waits_ms = waits_ms;
            let open = self.open.entry(entry.who.clone()).or_default();
            open.push((subscription.clone(), position, number));
        }
    }
}

/// Holds the broker to it.
#[derive(Default)]
pub(super) struct Counted;

impl Group for Counted {
    fn see(&mut self, _: &Entry, facts: &Facts, found: &mut Found) {
        for (promise, says) in &facts.attempts.broken {
            found.breaks(promise, says.clone());
        }
    }
}
