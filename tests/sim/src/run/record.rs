//! What was asked, answered and delivered: as lines, and as far as it is needed to see at once that a promise is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Report;

/// The history of a run. Clones are one.
#[derive(Clone)]
pub(super) struct Record(Arc<Mutex<Seen>>);

struct Seen {
    began: Instant,
    history: Vec<String>,
    broken: Vec<String>,
    asked: BTreeSet<u64>,
    /// Sequences, by the event's number: as answered, and as delivered.
    answered: BTreeMap<u64, u64>,
    delivered: BTreeMap<u64, u64>,
    acked: BTreeSet<u64>,
    confirmed: BTreeSet<u64>,
    is_subscribed: bool,
}

impl Record {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Seen {
            began: Instant::now(),
            history: Vec::new(),
            broken: Vec::new(),
            asked: BTreeSet::new(),
            answered: BTreeMap::new(),
            delivered: BTreeMap::new(),
            acked: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            is_subscribed: false,
        })))
    }

    pub(super) fn say(&self, what: &str) {
        self.seen().say(what);
    }

    /// A promise is broken.
    pub(super) fn breaks(&self, what: &str) {
        self.seen().breaks(what.to_owned());
    }

    /// An answered subscription is there, or one is answered now.
    pub(super) fn subscribed(&self, is_there_already: bool) {
        let mut seen = self.seen();
        if seen.is_subscribed && !is_there_already {
            seen.breaks("the subscription was answered, and is gone".to_owned());
        }
        seen.is_subscribed = true;
        seen.say(&format!("subscribed {is_there_already}"));
    }

    pub(super) fn asked(&self, first: u64, count: u64) {
        let mut seen = self.seen();
        seen.asked.extend(first..first + count);
        seen.say(&format!("publish {first} {count}"));
    }

    pub(super) fn answered(&self, first: u64, count: u64, sequence: u64, is_unkept: bool) {
        let mut seen = self.seen();
        seen.say(&format!("answered {first} {count} {sequence}"));
        if is_unkept {
            seen.breaks(format!(
                "{first} is not kept, although there is a subscription"
            ));
        }
        for at in 0..count {
            seen.answered.insert(first + at, sequence + at);
            seen.is_where_it_is(first + at);
        }
    }

    pub(super) fn delivered(&self, number: u64, sequence: u64, attempt: u32) {
        let mut seen = self.seen();
        seen.say(&format!("deliver {number} {sequence} {attempt}"));
        if !seen.asked.contains(&number) {
            seen.breaks(format!("{number} is delivered, and was never published"));
        }
        if seen.confirmed.contains(&number) {
            seen.breaks(format!("{number} is delivered after its ack was confirmed"));
        }
        let before = seen.delivered.insert(number, sequence);
        if before.is_some_and(|before| before != sequence) {
            seen.breaks(format!("{number} is delivered as two events"));
        }
        seen.is_where_it_is(number);
    }

    /// An ack was made. Until it is confirmed, its event may come again or not.
    pub(super) fn acked(&self, numbers: &[u64]) {
        let mut seen = self.seen();
        seen.say(&format!("ack {numbers:?}"));
        seen.acked.extend(numbers);
    }

    pub(super) fn confirmed(&self, numbers: &[u64]) {
        let mut seen = self.seen();
        seen.say(&format!("confirmed {numbers:?}"));
        seen.confirmed.extend(numbers);
    }

    /// All that was answered has been delivered and acked by now.
    pub(super) fn nothing_is_lost(&self) {
        let mut seen = self.seen();
        let lost = seen.answered.keys().copied();
        let lost: Vec<_> = lost.filter(|number| !seen.acked.contains(number)).collect();
        if !lost.is_empty() {
            seen.breaks(format!(
                "answered, and neither delivered nor pending: {lost:?}"
            ));
        }
    }

    pub(super) fn report(&self) -> Report {
        let seen = self.seen();
        Report {
            history: seen.history.clone(),
            broken: seen.broken.clone(),
        }
    }

    // Never across a suspension.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn say(&mut self, what: &str) {
        let ms = self.began.elapsed().as_millis();
        self.history.push(format!("{ms} {what}"));
    }

    fn breaks(&mut self, what: String) {
        self.say(&format!("BROKEN {what}"));
        self.broken.push(what);
    }

    fn is_where_it_is(&mut self, number: u64) {
        let answered = self.answered.get(&number).copied();
        let delivered = self.delivered.get(&number).copied();
        if let (Some(answered), Some(delivered)) = (answered, delivered)
            && answered != delivered
        {
            self.breaks(format!(
                "{number} was answered as {answered} and delivered as {delivered}"
            ));
        }
    }
}
