//! The disk space for groups: whether what waits can be written now. While the disk has no room but its reserve, while the journal is full and no checkpoint
//! makes room, and while the store is not where it was opened, publishes are refused instead of waiting for what may never come.
//! Acks, marks and changes go on where there is room, and so do outputs of routes and dead letters, with which an event is done, as
//! far as most of the reserve's journal file goes. A refusal ends by itself.

use std::time::Duration;

use super::group::{BLOCK_HEAD_BYTES, ENTRY_HEAD_BYTES, OpenGroup};
use super::request::{Appended, Outputs};
use crate::broker::error::Unavailable;
use crate::broker::task_names::{CHECKPOINTER, ROUTER};
use crate::domain::Position;
use crate::store::{JournalWriter, WriteDelay, WriteError};
use crate::telemetry::conditions::{Condition, Conditions};
use crate::telemetry::error_line::with_causes;

/// How often it is looked for room when there was none.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is known of the room for groups, and what was said of it lately.
pub(super) struct DiskSpace {
    conditions: Conditions,
    disk_full: bool,
    journal_full: bool,
    is_delayed: bool,
}

impl DiskSpace {
    /// What is wrong is said in `conditions`.
    pub(super) fn new(conditions: Conditions) -> Self {
        Self {
            conditions,
            disk_full: false,
            journal_full: false,
            is_delayed: false,
        }
    }

    /// Whether files had run out, or the folder was away, when it was last tried, so that it has to be tried again though nothing is to be
    /// written.
    pub(super) fn is_delayed(&self) -> bool {
        self.is_delayed
    }

    /// Whether the disk had no room but its reserve when it was last looked.
    pub(super) fn is_disk_full(&self) -> bool {
        self.disk_full
    }

    /// Why publishes cannot be taken now, if they cannot.
    pub(super) fn refusal(&mut self, journal: &dyn JournalWriter) -> Option<Unavailable> {
        if let Some(why) = journal.displaced() {
            return Some(Unavailable::Overloaded(why));
        }
        let conditions = &self.conditions;
        let short = journal.is_short();
        if short != self.disk_full {
            self.disk_full = short;
            match short {
                true => {
                    let why = "the disk has no room but what is kept to drain and to ack with; publishes are refused until there is more, or enough was acked";
                    reached!(DiskFull);
                    conditions.raise(Condition::DiskFull, why);
                }
                false => {
                    reached!(GoesOnAfterFullDisk);
                    conditions.clear(&Condition::DiskFull);
                }
            }
        }
        let stuck = match journal.usage().is_full {
            true => no_checkpoint(conditions),
            false => None,
        };
        if let Some(why) = &stuck {
            reached!(JournalFull);
            self.journal_full = true;
            let why = format!("the journal is full, and no checkpoint makes room: {why}");
            conditions.raise(Condition::JournalFull, why);
        } else if std::mem::take(&mut self.journal_full) {
            conditions.clear(&Condition::JournalFull);
        }
        if short {
            return Some(disk_full());
        }
        stuck.map(|why| {
            Unavailable::Overloaded(format!(
                "the journal is full, and no checkpoint makes room: {why}; try again later"
            ))
        })
    }

    /// Whether it has to look for room again by itself.
    pub(super) fn is_awaited(&self, journal: &dyn JournalWriter) -> bool {
        self.disk_full
            || self.journal_full
            || self.is_delayed
            || journal.usage().is_full
            || journal.displaced().is_some()
    }

    /// Makes sure that a group can be written as a whole, before anything of it is.
    ///
    /// # Errors
    ///
    /// It cannot be now, or the store failed for good.
    pub(super) fn make(
        &mut self,
        journal: &mut dyn JournalWriter,
        group: &OpenGroup,
    ) -> Result<(), WriteError> {
        let mut bytes = journal.group_bytes(&group.notes, &group.blocks)?;
        for notes in &group.before {
            bytes += journal.group_bytes(notes, &[])?;
        }
        journal.make_room(bytes)?;
        if std::mem::take(&mut self.is_delayed) {
            self.conditions.clear(&Condition::OutOfFiles);
        }
        Ok(())
    }

    /// Says that something could not be written now, and what whoever wanted it is told.
    pub(super) fn not_now(
        &mut self,
        journal: &dyn JournalWriter,
        delay: &WriteDelay,
    ) -> Unavailable {
        if let Some(why) = journal.displaced() {
            return Unavailable::Overloaded(why);
        }
        if delay.is_full() {
            // Says so in the conditions, unless there is room again by now.
            let _ = self.refusal(journal);
            return disk_full();
        }
        self.is_delayed = true;
        let why = with_causes(delay);
        // A folder that was away is told by who looks after it, unless it is back by now.
        if !delay.is_of_a_folder() {
            reached!(OutOfFiles);
            self.conditions.raise(Condition::OutOfFiles, why.clone());
        }
        Unavailable::Overloaded(format!("{why}; try again in a moment"))
    }
}

/// What they take in a record at most, each in a block of its own.
pub(super) fn record_bytes(outputs: &Outputs) -> u64 {
    let event = |event: &Appended| event.event.len() + ENTRY_HEAD_BYTES + BLOCK_HEAD_BYTES;
    let notes = outputs.acks.len() * 2 * size_of::<Position>();
    (outputs.events.iter().map(event).sum::<usize>() + notes) as u64
}

fn disk_full() -> Unavailable {
    Unavailable::Overloaded(
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
    died(ROUTER).or_else(|| died(CHECKPOINTER)).or_else(fails)
}
