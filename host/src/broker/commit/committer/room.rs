//! Whether what waits can be written now. While the disk has no room but its reserve, while the journal is full and no checkpoint
//! makes room, and while the store is not where it was opened, publishes are refused instead of waiting for what may never come.
//! Acks, marks and changes go on where there is room, and so do outputs of routes and dead letters, with which an event is done, as
//! far as most of the reserve's journal file goes. A group that cannot be written all the same is taken back (`undo.rs`), so that
//! a refusal changes nothing; and it ends by itself.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{BLOCK_HEAD_BYTES, Committer, ENTRY_HEAD_BYTES, Group, refuse};
use crate::broker::commit::inbox::{Appended, Control, Outputs, Taken};
use crate::broker::error::BrokerError;
use crate::domain::{Position, SubscriptionId};
use crate::store::{JournalWriter, WriteError};
use crate::telemetry::errors::with_causes;
use crate::telemetry::health::{Condition, Conditions};

/// How often it is looked for room when there was none.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Acks that were taken for a group.
pub(super) type Acks = HashMap<SubscriptionId, Vec<RangeInclusive<Position>>>;

/// What was said of room lately.
#[derive(Default)]
pub(super) struct AnnouncedRefusal {
    disk_full: bool,
    journal_full: bool,
    out_of_files: bool,
}

impl AnnouncedRefusal {
    /// Whether files had run out when it was last looked, so that it has to be looked again though nothing is to be written.
    pub(super) fn looks_for_files(&self) -> bool {
        self.out_of_files
    }
}

impl Committer {
    /// Why publishes cannot be taken now, if they cannot.
    pub(super) fn refusal(&mut self) -> Option<BrokerError> {
        if let Some(why) = self.parts.journal.displaced() {
            return Some(BrokerError::Overloaded(why));
        }
        let conditions = &self.parts.conditions;
        let short = self.parts.journal.is_short();
        if short != self.said.disk_full {
            self.said.disk_full = short;
            match short {
                true => {
                    let why = "the disk has no room but what is kept to drain and to ack with; publishes are refused until there is more, or enough was acked";
                    conditions.raise(Condition::DiskFull, why);
                }
                false => conditions.clear(&Condition::DiskFull),
            }
        }
        let stuck = match self.parts.journal.is_full() {
            true => no_checkpoint(conditions),
            false => None,
        };
        if let Some(why) = &stuck {
            self.said.journal_full = true;
            let why = format!("the journal is full, and no checkpoint makes room: {why}");
            conditions.raise(Condition::JournalFull, why);
        } else if std::mem::take(&mut self.said.journal_full) {
            conditions.clear(&Condition::JournalFull);
        }
        if short {
            return Some(disk_full());
        }
        stuck.map(|why| {
            BrokerError::Overloaded(format!(
                "the journal is full, and no checkpoint makes room: {why}; try again later"
            ))
        })
    }

    /// Whether it has to look for room again by itself.
    pub(super) fn waits_for_room(&self) -> bool {
        let said = &self.said;
        let journal = &self.parts.journal;
        said.disk_full
            || said.journal_full
            || said.out_of_files
            || journal.is_full()
            || journal.displaced().is_some()
    }

    /// Answers what cannot be taken now.
    pub(super) fn refuse_for_now(&mut self, taken: &mut Taken, error: &BrokerError) {
        refuse(
            (VecDeque::new(), std::mem::take(&mut taken.publish).into()),
            error,
        );
        if !self.said.disk_full {
            // Outputs wait in the committer as they always do.
            return;
        }
        let mut spare = self.parts.journal.spare_bytes();
        let mut has_room = |outputs: &Outputs| {
            let left = spare.checked_sub(record_bytes(outputs));
            spare = left.unwrap_or(spare);
            left.is_some()
        };
        // What has waited longest goes first.
        let (held, refused): (VecDeque<_>, VecDeque<_>) =
            self.held.drain(..).partition(&mut has_room);
        self.held = held;
        for outputs in refused {
            let _ = outputs.done.send(Err(error.clone()));
        }
        let (others, outputs): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut taken.control)
            .into_iter()
            .partition(|item| match item {
                Control::Outputs(outputs) => has_room(outputs),
                _ => true,
            });
        taken.control = others;
        refuse((outputs, VecDeque::new()), error);
    }

    /// Makes sure that a group can be written as a whole, before anything of it is.
    ///
    /// # Errors
    ///
    /// It cannot be now, or the store failed for good.
    pub(super) fn make_room(&mut self, group: &Group) -> Result<(), WriteError> {
        let mut bytes = JournalWriter::group_bytes(&group.notes, &group.blocks)?;
        for notes in &group.before {
            bytes += JournalWriter::group_bytes(notes, &[])?;
        }
        self.parts.journal.make_room(bytes)?;
        if std::mem::take(&mut self.said.out_of_files) {
            self.parts.conditions.clear(&Condition::OutOfFiles);
        }
        Ok(())
    }

    /// Says that something could not be written now, and what whoever wanted it is told.
    pub(super) fn not_now(&mut self, error: &WriteError) -> BrokerError {
        if let Some(why) = self.parts.journal.displaced() {
            return BrokerError::Overloaded(why);
        }
        if error.is_full() {
            // Says so in the conditions, unless there is room again by now.
            let _ = self.refusal();
            return disk_full();
        }
        self.said.out_of_files = true;
        let why = with_causes(error);
        self.parts
            .conditions
            .raise(Condition::OutOfFiles, why.clone());
        BrokerError::Overloaded(format!("{why}; try again in a moment"))
    }
}

// What they take in a record at most, each in a block of its own.
fn record_bytes(outputs: &Outputs) -> u64 {
    let event = |event: &Appended| event.event.len() + ENTRY_HEAD_BYTES + BLOCK_HEAD_BYTES;
    let notes = outputs.acks.len() * 2 * size_of::<Position>();
    (outputs.events.iter().map(event).sum::<usize>() + notes) as u64
}

fn disk_full() -> BrokerError {
    BrokerError::Overloaded(
        "the broker's disk is full; what is there is still delivered and acked, and publishes are taken again once there is room".into(),
    )
}

// Why no checkpoint makes room, if none does.
fn no_checkpoint(conditions: &Conditions) -> Option<String> {
    let died = |task: &'static str| {
        let why = conditions.reason(&Condition::TaskDied(task.into()))?;
        Some(format!("the {task}: {why}"))
    };
    let fails = || conditions.reason(&Condition::CheckpointFails);
    died("router")
        .or_else(|| died("checkpointer"))
        .or_else(fails)
}
