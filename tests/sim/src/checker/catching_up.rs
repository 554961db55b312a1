//! Consumers that have not caught up: nothing came to them, or they took nothing, for so long that others got what was meant for them, or
//! they themselves once more, which they do not know. What is on their stream comes in order, so they have caught up once something came
//! that was not there then, or they had nothing to take.

use std::collections::BTreeMap;

use super::facts::Facts;
use crate::history::{Entry, Text, What};

#[derive(Default)]
pub(super) struct CatchingUp {
    /// By consumer and subscription.
    readers: BTreeMap<(Text, Text), Reader>,
}

#[derive(Clone, Copy, Default)]
struct Reader {
    /// When something was taken last, and with which entry.
    took: Option<(u64, usize)>,
    /// With which entry that was over for which it is behind.
    behind: Option<usize>,
    /// When it was, if it took nothing itself.
    waited_ms: Option<u64>,
}

impl Facts {
    /// Whether what somebody gets now may have been on its way for so long that it was handed out anew.
    pub(super) fn is_behind(&self, who: &Text, subscription: &Text) -> bool {
        let key = (who.clone(), subscription.clone());
        let reader = self.catching_up.readers.get(&key);
        reader.is_some_and(|reader| reader.behind.is_some())
    }

    /// When somebody who is behind went on, if it is so because it took nothing.
    pub(super) fn waited_until(&self, who: &Text, subscription: &Text) -> Option<u64> {
        let key = (who.clone(), subscription.clone());
        self.catching_up.readers.get(&key)?.waited_ms
    }

    pub(super) fn see_catching_up(&mut self, entry: &Entry) {
        match &entry.what {
            What::Attaches { subscription, .. } | What::Opens { subscription } => {
                let reader = self.reader(&entry.who, subscription);
                (reader.behind, reader.waited_ms) = (None, None);
            }
            What::Delivered {
                subscription, n, ..
            } => self.takes(entry, subscription, *n),
            What::Confirmed { op } | What::NotConfirmed { op, .. } => self.waited(entry, *op),
            _ => {}
        }
    }

    fn takes(&mut self, entry: &Entry, subscription: &Text, n: u64) {
        let (who, at) = (&entry.who, self.at);
        let of = self.subscriptions.get(subscription);
        let deadline_ms = of.map_or(u64::MAX, |of| of.ack_deadline_ms);
        let asked_at = self.events.get(&n).map_or(0, |event| event.asked_at);
        let comes_late = self.troubles.may_come_late(who, entry.ms, deadline_ms);
        let reader = self.reader(who, subscription);
        let took = reader.took.replace((entry.ms, at));
        let had_nothing = |since: usize| {
            took.is_some_and(|(ms, at)| at >= since && entry.ms - ms > deadline_ms / 2)
        };
        if reader
            .behind
            .is_some_and(|since| asked_at > since || had_nothing(since))
        {
            (reader.behind, reader.waited_ms) = (None, None);
        }
        if comes_late {
            reader.behind = Some(at);
        }
    }

    // Somebody waited for what its flush came to, and took nothing meanwhile.
    fn waited(&mut self, entry: &Entry, op: u64) {
        let asked = self.requests.get(&op).map(|request| request.what.clone());
        let Some(What::Flushes { subscription, .. }) = asked else {
            return;
        };
        let of = self.subscriptions.get(&subscription);
        let deadline_ms = of.map_or(0, |of| of.ack_deadline_ms);
        let at = self.at;
        let reader = self.reader(&entry.who, &subscription);
        if reader
            .took
            .is_some_and(|(took_ms, _)| entry.ms - took_ms > deadline_ms / 2)
        {
            (reader.behind, reader.waited_ms) = (Some(at), Some(entry.ms));
        }
    }

    fn reader(&mut self, who: &Text, subscription: &Text) -> &mut Reader {
        let key = (who.clone(), subscription.clone());
        self.catching_up.readers.entry(key).or_default()
    }
}
