//! Whether what waits can be written now. While the disk has no room but its reserve, and while the journal is full and no
//! checkpoint makes room, publishes are refused instead of waiting for what may never come; acks, marks and changes go on. Found
//! out before a group is begun, so that a refusal changes nothing; and it ends by itself when there is room again.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

use super::{Committer, GROUP_BYTES_MAX, refuse};
use crate::domain::{Position, SubscriptionId};
use crate::store::{WriteError, WriteFailure};
use crate::tasks::BrokerError;
use crate::tasks::health::{Condition, Conditions};
use crate::tasks::hub::chain;
use crate::tasks::inbox::{Control, Outputs, PublishItem, Taken};

/// How often it is looked for room when there was none.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Bytes that an item takes in a group at most, beside its events, names and specification: notes, heads, and a topic that it
/// creates.
const ITEM_HEAD_BYTES: usize = 512;
/// Bytes of a range of acks at most.
const RANGE_BYTES: usize = 20;

/// Acks that were taken for a group.
pub(super) type Acks = HashMap<SubscriptionId, Vec<RangeInclusive<Position>>>;

/// What was said of room lately.
#[derive(Default)]
pub(super) struct Said {
    disk_full: bool,
    journal_full: bool,
    out_of_files: bool,
}

fn out_of_files() -> Condition {
    Condition::LimitReached("open files".into())
}

impl Committer {
    /// Why publishes cannot be taken now, if they cannot.
    pub(super) fn refusal(&mut self) -> Option<BrokerError> {
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
        said.disk_full || said.journal_full || said.out_of_files || self.parts.journal.is_full()
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
        let (outputs, others): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut taken.control)
            .into_iter()
            .partition(|item| matches!(item, Control::Outputs(_)));
        taken.control = others;
        refuse((outputs, VecDeque::new()), error);
        for outputs in self.held.drain(..) {
            let _ = outputs.done.send(Err(error.clone()));
        }
    }

    /// Makes sure that a group of all this can be written. Otherwise everything is answered, and the acks wait.
    ///
    /// # Errors
    ///
    /// The store failed for good.
    pub(super) fn make_room(
        &mut self,
        mut taken: Taken,
        acks: Acks,
    ) -> Result<Option<(Taken, Acks)>, WriteError> {
        let bytes = bytes_bound(&taken, &self.held, &acks);
        let Err(error) = self.parts.journal.make_room(bytes as u64) else {
            if std::mem::take(&mut self.said.out_of_files) {
                self.parts.conditions.clear(&out_of_files());
            }
            return Ok(Some((taken, acks)));
        };
        let control = std::mem::take(&mut taken.control);
        let publish = std::mem::take(&mut taken.publish).into();
        if error.failure() == WriteFailure::Final {
            refuse(
                (control, publish),
                &BrokerError::StoreUnavailable(chain(&error)),
            );
            return Err(error);
        }
        refuse((control, publish), &self.not_now(&error));
        for (subscription, ranges) in acks {
            self.parts.hub.ack_again(subscription, ranges);
        }
        Ok(None)
    }

    /// Says that something could not be written now, and what whoever wanted it is told.
    pub(super) fn not_now(&mut self, error: &WriteError) -> BrokerError {
        if self.refusal().is_some() {
            return disk_full();
        }
        self.said.out_of_files = true;
        let why = chain(error);
        self.parts.conditions.raise(out_of_files(), why.clone());
        BrokerError::Overloaded(format!("{why}; try again in a moment"))
    }
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

// Bytes that a group of all this takes at most.
fn bytes_bound(taken: &Taken, held: &VecDeque<Outputs>, acks: &Acks) -> usize {
    let publish = |item: &PublishItem| item.cost + ITEM_HEAD_BYTES + item.topic.as_str().len();
    let publish: usize = taken.publish.iter().map(publish).sum();
    let control: usize = taken.control.iter().map(control_bytes).sum();
    let held = held_bytes(held);
    let acks = acks.values();
    let acks: usize = acks
        .map(|ranges| ITEM_HEAD_BYTES + ranges.len() * RANGE_BYTES)
        .sum();
    ITEM_HEAD_BYTES + publish + control + held + acks
}

fn control_bytes(item: &Control) -> usize {
    let specification = match item {
        Control::Outputs(outputs) => return outputs_bytes(outputs),
        Control::CreateSubscription(spec, _) => json_bytes(spec),
        Control::UpdateSubscription(update, _) => json_bytes(&update.spec),
        Control::CreateTopic(spec, _) => json_bytes(spec),
        Control::AddPlugin(upload, _) => json_bytes(&upload.plugin),
        Control::DeletePlugin(versions, _) => {
            let bytes = |(name, _): &(String, u32)| name.len() + ITEM_HEAD_BYTES;
            versions.iter().map(bytes).sum()
        }
        // All versions of it are written again.
        Control::GivePlugin(..) => 64 << 10,
        Control::DeleteTopic(..)
        | Control::DeleteSubscription(..)
        | Control::ConfirmAcks(_)
        | Control::Mark(_) => 0,
    };
    ITEM_HEAD_BYTES + specification
}

fn json_bytes(specification: &impl Serialize) -> usize {
    serde_json::to_vec(specification).map_or(0, |text| text.len())
}

// Of those that one group takes: none after it is full, and it counts their events at least.
fn held_bytes(held: &VecDeque<Outputs>) -> usize {
    let (mut events, mut bytes) = (0, 0);
    for outputs in held {
        if events > GROUP_BYTES_MAX {
            break;
        }
        let lengths = outputs.events.iter().map(|one| one.event.len());
        events += lengths.sum::<usize>();
        bytes += outputs_bytes(outputs);
    }
    bytes
}

fn outputs_bytes(outputs: &Outputs) -> usize {
    let events = outputs.events.iter();
    let events: usize = events
        .map(|one| one.event.len() + one.topic.as_str().len() + ITEM_HEAD_BYTES)
        .sum();
    ITEM_HEAD_BYTES + events + outputs.acks.len() * RANGE_BYTES
}
