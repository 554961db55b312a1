//! Taking back a group that could not be written: what was decided for it in memory, and has not been shown to anybody yet, becomes
//! what it was, and whoever is in the group is refused. Nothing here touches the disk, and nothing of what is durable changes.

use std::sync::{Arc, PoisonError};

use super::room::Acks;
use super::{Committer, Group, NOTES_KEPT_BYTES, TOPICS_KEPT};
use crate::broker::commit::producers::{Session, Sessions};
use crate::broker::error::BrokerError;
use crate::state::catalog::Change;
use crate::store::{WriteError, WriteFailure};
use crate::telemetry::errors::with_causes;

/// Batches of a group that the memory for the next one has room for.
const BATCHES_KEPT: usize = 4_096;

/// What a group changes of producers before it is written.
#[derive(Default)]
pub(super) struct Undo {
    /// Whose batches are in it, in order, each with the highest number that its producer had committed before.
    pub(super) batches: Vec<(Arc<Session>, u64)>,
    /// Sessions whose owner is written down in the group.
    pub(super) told: Vec<Arc<Session>>,
}

impl Undo {
    fn of_producers(&self, sessions: &Sessions) {
        let mut producers = sessions.producers();
        for (session, last_number) in self.batches.iter().rev() {
            producers.take_back(session.producer, *last_number);
            session.refuse_from_here();
        }
        drop(producers);
        for session in &self.told {
            session.forget_owner_told();
        }
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.batches.shrink_to(BATCHES_KEPT);
        self.told.clear();
    }
}

impl Committer {
    /// Refuses everybody in a group of which nothing was written but acks, and takes back what was decided for it. The acks wait
    /// for the next group.
    ///
    /// # Errors
    ///
    /// The store failed for good: what is in memory counts no more.
    pub(super) fn take_back(
        &mut self,
        mut group: Group,
        acks: Acks,
        error: WriteError,
    ) -> Result<BrokerError, WriteError> {
        let refusal = match error.failure() {
            WriteFailure::Final => {
                let refusal = BrokerError::StoreUnavailable(with_causes(&error));
                group.owed.refuse(&refusal);
                return Err(error);
            }
            WriteFailure::Retry => self.not_now(&error),
            // No batch and no change is so long by itself, and none is too late for its place.
            WriteFailure::Refused => {
                let why = with_causes(&error);
                tracing::error!(error = %why, "a group was refused by the journal");
                BrokerError::Internal(why)
            }
        };
        group.undo.of_producers(&self.parts.sessions);
        self.take_back_changes(&group.changes);
        group.owed.refuse(&refusal);
        for (subscription, ranges) in acks {
            self.parts.registry.ack_again(subscription, ranges);
        }
        self.keep_memory(group);
        Ok(refusal)
    }

    // What others see of the catalog is what is durable.
    fn take_back_changes(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let shared = &self.parts.shared;
        self.parts.catalog = shared
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // An id that was meant for one topic may be another's.
        self.kept.clear();
        for change in changes {
            if let Change::UpdateSubscription {
                id,
                revision,
                fence: Some(_),
                ..
            } = change
                && let Some(live) = self.parts.registry.by_id(*id)
            {
                self.parts.registry.thaw(&live, *revision);
            }
        }
    }

    /// What a group leaves behind is a place for the next one.
    pub(super) fn keep_memory(&mut self, group: Group) {
        let Group {
            mut topics,
            mut notes,
            mut undo,
            ..
        } = group;
        topics.clear();
        topics.shrink_to(TOPICS_KEPT);
        self.topics = topics;
        notes.clear();
        notes.shrink_to(NOTES_KEPT_BYTES);
        self.notes = notes;
        undo.clear();
        self.undo = undo;
    }
}
