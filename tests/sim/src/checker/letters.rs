//! Dead letters: one for each event that is given up, with its payload and what happened to it, and none for what has not failed so often by
//! itself, or was not refused. What a letter says of itself is compared with what those who had the event said of it.

use std::collections::{BTreeMap, BTreeSet};

use super::attempts::HandOut;
use super::catalog::News;
use super::facts::Facts;
use super::filters::BLAMED;
use super::given_up::GIVES_UP;
use super::{Found, Group, Promise};
use crate::history::{Answer, Cause, Durability, Entry, Text, What};

pub(super) const GOES_THERE: Promise = Promise {
    id: "I14",
    page: "delivery/dead-letters.md",
    words: "An event that a subscription gives up goes to its dead-letter topic, `dead.SUBSCRIPTION` unless",
};
pub(super) const SAYS_WHY: Promise = Promise {
    id: "I14",
    page: "delivery/dead-letters.md",
    words: "The letter says in its headers what happened:",
};
pub(super) const LETTER_ONCE: Promise = Promise {
    id: "I16",
    page: "ARCHITECTURE.md",
    words: "Nothing is given up more than twice, or handed out after",
};
pub(super) const DOES_NOT_PAY: Promise = Promise {
    id: "I13",
    page: "delivery.md",
    words: "with the reason; those beside it do not pay",
};

/// Who gave it up, and its topic and sequence there.
type Key = (Text, Text, u64);

#[derive(Default)]
pub(super) struct Letters {
    /// Where each letter is.
    written: BTreeMap<Key, u64>,
    positions: BTreeMap<u64, Key>,
    /// Letters that each subscription got.
    got: BTreeMap<Text, BTreeSet<Key>>,
    drained: BTreeSet<Text>,
    /// Topics and subscriptions that once were deleted.
    gone: BTreeSet<Text>,
    /// When the power went last.
    power_ms: Option<u64>,
}

/// A letter as it was got.
struct Letter<'a> {
    keeper: &'a Text,
    topic: &'a Text,
    position: u64,
    n: u64,
    hash: u64,
    key: Key,
    attempts: u64,
    why: &'a str,
}

impl Group for Letters {
    // What was made of events may be among what is lost, and is made again where the state is.
    fn judges(&self, facts: &Facts) -> bool {
        !facts.losses.is_accepted()
    }

    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        match &entry.what {
            What::Letter {
                subscription,
                topic,
                position,
                n,
                hash,
                of,
                from,
                was,
                attempts,
                why,
                ..
            } => {
                let letter = Letter {
                    keeper: subscription,
                    topic,
                    position: *position,
                    n: *n,
                    hash: *hash,
                    key: (of.clone(), from.clone(), *was),
                    attempts: *attempts,
                    why,
                };
                self.came(&letter, entry.ms, facts, found);
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
            if let News::TopicGone(name) | News::SubscriptionGone(name) = news {
                self.gone.insert(name.clone());
            }
        }
    }
}

impl Letters {
    fn came(&mut self, letter: &Letter<'_>, ms: u64, facts: &Facts, found: &mut Found) {
        let (of, from, was) = &letter.key;
        let told = format!("the letter of {was} of {} by {}", &**from, &**of);
        if *letter.topic != dead(of) {
            let says = format!("{told} is in {}", &**letter.topic);
            found.breaks(&GOES_THERE, says);
        }
        match facts.events.get(&letter.n) {
            Some(event) if event.hash == letter.hash => {}
            _ => found.breaks(&GOES_THERE, format!("{told} holds something else")),
        }
        // One that had the name before may have given it up, too.
        let written = self.written.entry(letter.key.clone());
        let at = *written.or_insert(letter.position);
        if at != letter.position && !self.gone.contains(of) {
            let says = format!("{told} is at {at} and at {}", letter.position);
            found.breaks(&LETTER_ONCE, says);
        }
        let key = self.positions.entry(letter.position);
        if *key.or_insert(letter.key.clone()) != letter.key {
            let says = format!("{told} is where another one is");
            found.breaks(&LETTER_ONCE, says);
        }
        let got = self.got.entry(letter.keeper.clone()).or_default();
        // What it says was looked at when it came first.
        if got.insert(letter.key.clone()) && at == letter.position {
            self.says_why(&told, letter, ms, facts, found);
        }
    }

    fn says_why(&self, told: &str, letter: &Letter<'_>, ms: u64, facts: &Facts, found: &mut Found) {
        let (of, from, was) = &letter.key;
        // It may be of one that had the name before.
        let hands = facts.attempts.hands(of);
        let Some(hands) = hands.filter(|_| !self.gone.contains(of)) else {
            return;
        };
        let handed = facts.attempts.handed_out(of, from, *was);
        let failed = facts.may_have_failed(handed, ms);
        let attempts = letter.attempts;
        if attempts > failed + hands.unseen(facts.asked_at(letter.n)) {
            let says =
                format!("{told} counts {attempts} attempts, of which {failed} may have failed");
            found.breaks(&DOES_NOT_PAY, says);
        }
        let is_tried = ["handed out as often", "tried as often"];
        if is_tried.iter().any(|why| letter.why.starts_with(why)) {
            let max = hands.attempts_max;
            if max == 0 || attempts != max {
                let says = format!("{told} counts {attempts} attempts of {max}");
                found.breaks(&GIVES_UP, says);
            }
        } else if letter.why.starts_with("refused by the consumer: ") {
            let is_refused = |of: &HandOut| matches!(of.answer, Some((Answer::Term, _)));
            if !handed.iter().any(is_refused) || attempts == 0 {
                let says = format!("{told} says {}, and nobody did", letter.why);
                found.breaks(&SAYS_WHY, says);
            }
        } else if letter.why.starts_with("filter failed: ") {
            if !facts.filters.is_guilty(of, from, letter.n) || attempts > 0 {
                let says = format!("{told} says {}, and none does alone", letter.why);
                found.breaks(&BLAMED, says);
            }
        } else {
            let says = format!("{told} says {}", letter.why);
            found.breaks(&SAYS_WHY, says);
        }
    }

    // What was handed out, never acked, and is not there any more was given up: whoever keeps letters has got one.
    fn over(&self, facts: &Facts, found: &mut Found) {
        for (keeper, kept) in &facts.subscriptions {
            let Some(of) = kept.topic.strip_prefix("dead.").map(Text::from) else {
                continue;
            };
            let is_whole = self.drained.contains(keeper) && self.drained.contains(&of);
            if !kept.is_sure || !is_whole || self.gone.contains(&kept.topic) {
                continue;
            }
            let got = self.got.get(keeper);
            for ((topic, sequence), handed) in facts.attempts.all_of(&of) {
                let owed = self.is_owed(topic, handed, kept.sure_since, facts);
                let key = (of.clone(), topic.clone(), *sequence);
                if owed && !got.is_some_and(|got| got.contains(&key)) {
                    let says = format!(
                        "{} gave {sequence} of {} up, and {} never got its letter",
                        &*of, &**topic, &**keeper
                    );
                    found.breaks(&GOES_THERE, says);
                }
            }
        }
    }

    fn is_owed(&self, topic: &Text, handed: &[HandOut], since: usize, facts: &Facts) -> bool {
        let Some((first, last)) = handed.first().zip(handed.last()) else {
            return false;
        };
        let may_be_done = handed
            .iter()
            .any(|of| matches!(of.answer, Some((Answer::Ack, _))) || of.since.is_none());
        let durability = facts.topics.get(topic).map(|topic| topic.durability);
        let may_be_lost =
            durability != Some(Durability::Sync) && self.power_ms.is_some_and(|ms| ms >= first.ms);
        let is_gone = facts.may_have_gone(first.n) || self.gone.contains(topic);
        // The last of an event's letters is dropped.
        first.at > since && !may_be_done && !may_be_lost && !is_gone && last.level < 2
    }
}

fn dead(subscription: &Text) -> Text {
    format!("dead.{}", &**subscription).into()
}
