//! Damage, and losses that an operator accepts: a start that finds some says what is lost, and goes on without that once it was
//! accepted; what was told is lost at most. What was told is read as an operator reads it, in the words of the refusal, and of the log
//! of the start that goes on.
//!
//! Where acks and changes are lost, too, or nobody knows which events, what is left may be anything but other events, and numbers that
//! were given: from then on only that is judged.

use super::facts::{Event, Facts};
use super::{Found, Group, Promise};
use crate::history::{Entry, Text, What};
use crate::plan::Fault;

pub(super) const DAMAGE_TOLD: Promise = Promise {
    id: "I21",
    page: "operate/disks.md",
    words: "| damage to data that was durable | stops the start, which names what is lost and needs `tidegate serve --accept-loss` |",
};
pub(super) const AT_MOST: Promise = Promise {
    id: "I12",
    page: "operate/disks.md",
    words: "Only stretches that do not read are given up, and a copy of the damaged file is kept.",
};
pub(super) const GOES_ON: Promise = Promise {
    id: "I21",
    page: "operate/disks.md",
    words: "| a restart with `--accept-loss` | the same for everything that is damaged, the journal included |",
};

/// What the refusal of a damaged store says, beside the losses.
pub(crate) const MAY_BE_ACCEPTED: &str = "start with the loss accepted";
/// Words of a loss after which it is not known what else is gone.
const BLURS: [&str; 4] = [
    "with the acks and changes committed there",
    "nobody knows",
    "whose name is not known",
    " more ranges",
];

/// What was told of losses.
#[derive(Default)]
pub(super) struct Losses {
    /// Something rotted.
    is_rotten: bool,
    /// A loss was accepted once.
    is_accepted: bool,
    /// It is not known what else is gone.
    is_blurred: bool,
    /// What the last start said that was refused.
    refusal: Text,
    /// Sequences of topics that are lost, and positions.
    sequences: Vec<(String, u64, u64)>,
    positions: Vec<(u64, u64)>,
}

impl Losses {
    pub(super) fn see(&mut self, entry: &Entry) {
        match &entry.what {
            What::Troubled {
                what: Fault::Rot(_),
                ..
            } => self.is_rotten = true,
            What::Refuses { why, .. } if why.contains(MAY_BE_ACCEPTED) => {
                self.refusal = why.clone();
            }
            What::Accepts { .. } => {
                self.is_accepted = true;
                self.hear(&self.refusal.clone());
            }
            What::Loses { what } => {
                self.is_accepted = true;
                self.hear(what);
            }
            _ => {}
        }
    }

    fn hear(&mut self, told: &str) {
        self.is_blurred |= BLURS.iter().any(|blurs| told.contains(blurs));
        for told in told.split("topic `").skip(1) {
            if let Some((topic, rest)) = told.split_once('`')
                && let Some((first, last)) = range(rest.strip_prefix(" sequences "))
            {
                self.sequences.push((topic.to_owned(), first, last));
            }
        }
        // Where topics are told it is known more exactly.
        let by_position = told.split(" positions ").skip(1);
        for told in by_position.filter(|told| !told.contains(" sequences ")) {
            self.positions.extend(range(Some(told)));
        }
    }

    /// Whether something rotted.
    pub(super) fn is_rotten(&self) -> bool {
        self.is_rotten
    }

    /// Whether a loss was accepted once.
    pub(super) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    /// Whether it is not known what else is gone.
    pub(super) fn is_blurred(&self) -> bool {
        self.is_blurred
    }

    /// Whether an event may be one of those that are lost.
    pub(super) fn may_have(&self, event: &Event, facts: &Facts) -> bool {
        let of_topic = |lost: &&(String, u64, u64)| *lost.0 == *event.topic;
        let is_told = |sequence: u64| {
            let mut lost = self.sequences.iter().filter(of_topic);
            lost.any(|(_, first, last)| (*first..=*last).contains(&sequence))
        };
        if event.sequence.is_some_and(is_told) {
            return true;
        }
        if self.positions.is_empty() {
            return false;
        }
        let (first, last) = places(event, facts);
        let mut lost = self.positions.iter();
        lost.any(|(lost_first, lost_last)| *lost_first <= last && first <= *lost_last)
    }

    /// The promise that is broken where an event is gone: of damage it is another than of everything else.
    pub(super) fn of_what_is_gone(&self, otherwise: &'static Promise) -> &'static Promise {
        match (self.is_rotten, self.is_accepted) {
            (false, _) => otherwise,
            (true, false) => &DAMAGE_TOLD,
            (true, true) => &AT_MOST,
        }
    }
}

// Two numbers with ` to ` between them, at the beginning of a text.
fn range(text: Option<&str>) -> Option<(u64, u64)> {
    let (first, rest) = text?.split_once(" to ")?;
    let end = rest.find(|char: char| !char.is_ascii_digit());
    let last = &rest[..end.unwrap_or(rest.len())];
    Some((first.parse().ok()?, last.parse().ok()?))
}

// Where an event may lie: at the position that it was seen at, or between those of its topic that were seen before and after it.
fn places(event: &Event, facts: &Facts) -> (u64, u64) {
    if let Some(position) = event.position {
        return (position, position);
    }
    let Some(sequence) = event.sequence else {
        return (0, u64::MAX);
    };
    let others = facts.events.values();
    let others = others.filter(|other| other.topic == event.topic);
    let (mut first, mut last) = (0, u64::MAX);
    for other in others {
        match (other.sequence, other.position) {
            (Some(of), Some(at)) if of < sequence => first = first.max(at.saturating_add(1)),
            (Some(of), Some(at)) if of > sequence => last = last.min(at.saturating_sub(1)),
            _ => {}
        }
    }
    (first, last)
}

/// Starts on what was accepted.
#[derive(Default)]
pub(super) struct Accepted {
    /// The life that starts with a loss that was accepted.
    starts: bool,
    /// What the last start said that was refused.
    refusal: Text,
    /// The life before it had closed the journal, so that a start believes what is in it until somebody reads it.
    was_stopped: bool,
    /// Something has rotted since that start was refused.
    rots_since: bool,
}

impl Group for Accepted {
    fn see(&mut self, entry: &Entry, _: &Facts, found: &mut Found) {
        match &entry.what {
            What::Stopped { .. } => self.was_stopped = true,
            What::Crashed { .. } => (self.was_stopped, self.starts) = (false, false),
            What::Accepts { .. } => self.starts = true,
            What::Serves { .. } => (self.was_stopped, self.starts) = (false, false),
            What::Refuses { life, why } if why.contains(MAY_BE_ACCEPTED) => {
                if std::mem::take(&mut self.starts) {
                    let says = format!("life {life} asks for what was accepted: {}", &**why);
                    found.breaks(&GOES_ON, says);
                }
                (self.refusal, self.rots_since) = (why.clone(), false);
            }
            What::Troubled {
                what: Fault::Rot(_),
                ..
            } => self.rots_since = true,
            // A database is read by who accepts its loss, and not by a start.
            What::Loses { what } if self.starts && !what.contains("/part-") => {
                let named = what.split(" (kept as ").next().unwrap_or_default();
                let is_known = self.was_stopped || self.rots_since || self.refusal.contains(named);
                if !is_known {
                    let says = format!("nobody was asked for {named}");
                    found.breaks(&DAMAGE_TOLD, says);
                }
            }
            _ => {}
        }
    }

    fn judges_after_a_loss(&self) -> bool {
        true
    }
}
