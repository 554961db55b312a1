//! Events that failed: when one comes again, and how often at most. What may have failed is what its consumer said, or did not say in time;
//! of what somebody had in hand when its connection was lost one by itself, and of several none.

use super::Promise;
use super::attempts::{HEARD_MS, HandOut, Hands};
use super::facts::Facts;
use crate::history::{Answer, Entry, Text};

pub(super) const WAITS: Promise = Promise {
    id: "I13",
    page: "delivery/acks.md",
    words: "again, after a delay: the one it names, of which 30 days count at most, or the subscription's back-off",
};
pub(super) const GIVES_UP: Promise = Promise {
    id: "I14",
    page: "delivery/acks.md",
    words: "After `--attempts` the event goes to the [dead-letter topic](dead-letters.md).",
};

/// Moments are whole milliseconds, of the broker's clock and of the run's.
const ROUNDED_MS: u64 = 2;

/// An event that comes again.
pub(super) struct Again<'a> {
    pub(super) hands: &'a Hands,
    /// Those who had it before.
    pub(super) before: &'a [HandOut],
    pub(super) entry: &'a Entry,
    /// Since which entry its consumer is attached.
    pub(super) since: usize,
}

impl Facts {
    /// How it was to be left alone for longer, if that is known.
    pub(super) fn comes_too_early(&self, again: &Again<'_>, deadline_ms: u64) -> Option<String> {
        again.before.iter().find_map(|of| {
            let (_, said_ms) = of.answer?;
            self.counts_before(of, again.entry, again.since)?;
            let is_early = again.entry.ms + ROUNDED_MS < said_ms + of.waits_ms;
            (of.is_in_time(deadline_ms) && is_early).then(|| {
                let waits_ms = of.waits_ms;
                format!("at {said_ms} ms was to wait for {waits_ms} ms")
            })
        })
    }

    /// Why it should not come any more, if that is known.
    pub(super) fn comes_no_more(&self, again: &Again<'_>, deadline_ms: u64) -> Option<String> {
        let mut failed = 0;
        for of in again.before {
            let is_same = of.since == Some(again.since);
            let is_known = self.counts_before(of, again.entry, again.since).is_some();
            if !is_known || !is_same && of.confirmed_at.is_none() {
                continue;
            }
            match of.answer {
                Some((Answer::Term, _)) if of.is_in_time(deadline_ms) => {
                    return Some("was refused".to_owned());
                }
                Some((Answer::Term | Answer::Nack, _)) => failed += 1,
                // Whoever has it anew did not answer in time.
                None if is_same => failed += 1,
                _ => {}
            }
        }
        let max = again.hands.attempts_max;
        (max > 0 && failed >= max).then(|| format!("has failed {failed} times"))
    }

    /// Somebody attached since then has lost its connection now, or its process has died.
    pub(super) fn is_cut(&mut self, who: &Text, subscription: &Text, since: usize, now_ms: u64) {
        let deadline_ms = self.deadline_ms(subscription);
        let troubles = &self.troubles;
        let Some(hands) = self.attempts.hands_mut(subscription) else {
            return;
        };
        let last = hands.events.values_mut().filter_map(|all| all.last_mut());
        let in_hand = last.filter(|of| {
            let is_theirs = of.who == *who && of.since == Some(since) && of.answer.is_none();
            let heard_ms = of.ms + HEARD_MS;
            let is_heard = heard_ms < now_ms && now_ms < of.ms + deadline_ms;
            is_theirs && is_heard && !of.may_be_void && troubles.is_well(who, of.ms, heard_ms)
        });
        let mut in_hand: Vec<&mut HandOut> = in_hand.collect();
        // While there are two whose deadlines are not over, none is alone.
        let mut ends_ms: Vec<u64> = in_hand.iter().map(|of| of.ms + deadline_ms).collect();
        ends_ms.sort_unstable();
        let Some(alone_ms) = ends_ms.len().checked_sub(2).map(|at| ends_ms[at]) else {
            return;
        };
        for of in &mut in_hand {
            of.sound_until_ms = Some(alone_ms.min(of.ms + deadline_ms));
        }
    }

    /// How many of these may have failed until then.
    pub(super) fn may_have_failed(&self, handed: &[HandOut], ms: u64) -> u64 {
        let ends = handed.iter().skip(1).map(|next| next.ms).chain([ms]);
        let may_fail = handed
            .iter()
            .zip(ends)
            .filter(|(of, end_ms)| match of.answer {
                Some((Answer::Nack | Answer::Term, _)) => true,
                // What was said too late, or lost, was not heard.
                Some((Answer::Ack | Answer::Extend, _)) => of.confirmed_at.is_none(),
                None => of.sound_until_ms.is_none_or(|until_ms| *end_ms >= until_ms),
            });
        may_fail.count() as u64
    }

    /// Whether an event may have been given up until then.
    pub(super) fn may_be_given_up(&self, subscription: &Text, n: u64, ms: u64) -> bool {
        let Some(hands) = self.attempts.hands(subscription) else {
            return false;
        };
        let mut all = hands.events.values();
        let handed = all.find(|all| all.iter().any(|of| of.n == n));
        let failed = handed.map_or(0, |handed| self.may_have_failed(handed, ms));
        hands.gives_up_after(failed, self.asked_at(n))
    }

    /// Whether a subscription may have given events up that nobody got.
    pub(super) fn may_give_up_unseen(&self, subscription: &Text) -> bool {
        let hands = self.attempts.hands(subscription);
        hands.is_some_and(|hands| hands.gives_up_after(0, 0))
    }
}

impl Hands {
    // Whether an event that was there with that entry may be given up, when so many attempts that somebody has seen may have failed.
    fn gives_up_after(&self, failed: u64, since: usize) -> bool {
        self.attempts_max > 0 && failed + self.unseen(since) >= self.attempts_max
    }
}

impl HandOut {
    // Whether the broker heard what was said of it before its deadline was over, if nothing was wrong.
    fn is_in_time(&self, deadline_ms: u64) -> bool {
        let said_ms = self.answer.map(|(_, ms)| ms + HEARD_MS);
        said_ms.is_some_and(|ms| ms < self.ms + deadline_ms)
    }
}
