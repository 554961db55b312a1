//! Published batches on their way into a group: whether a batch is fresh, a resend or refused, which topic it goes to, and what
//! the journal notes of its producer. A batch is one of these as a whole.

use std::sync::Arc;

use super::draft::Draft;
use super::group::check_item;
use super::journal_note::Note;
use super::producer_streams::Session;
use super::publish_reply::PublishOutcome;
use super::request::PublishItem;
use crate::broker::error::{NotFound, PublishError, Unavailable};
use crate::domain::{Durability, Principal, Sequence, TopicName};
use crate::state::Verdict;
use crate::state::catalog::Topic;

impl Draft {
    /// Appends a batch, or refuses it. It is answered with the group.
    pub(super) fn publish(&mut self, item: PublishItem) {
        let result = self.append_batch(&item);
        if let Some((stream, reply)) = item.promise.keep(result) {
            self.group.owed.reply(stream, reply);
        }
    }

    fn append_batch(&mut self, item: &PublishItem) -> Result<PublishOutcome, PublishError> {
        if let Some(session) = &item.session
            && let Some(first_sequence) = self.resent(session, item)?
        {
            return Ok(PublishOutcome {
                first_sequence,
                count: item.entries.count(),
                duplicate: true,
                unkept: false,
            });
        }
        check_item(item.cost).map_err(|error| PublishError::Invalid(error.to_string()))?;
        let topic = self.topic_for(&item.topic, &item.by)?;
        let unkept = !self.is_selected(&topic);
        let first_sequence = self.group.append(&topic, item.entries.clone());
        self.group.needs_sync |= topic.spec.durability == Durability::Sync;
        if let Some(session) = &item.session {
            self.note_batch(session, item, first_sequence);
        }
        Ok(PublishOutcome {
            first_sequence,
            count: item.entries.count(),
            duplicate: false,
            unkept,
        })
    }

    // The sequence that the batch got when it came the first time, if it is a resend.
    fn resent(
        &self,
        session: &Session,
        item: &PublishItem,
    ) -> Result<Option<Sequence>, PublishError> {
        if session.is_fenced() {
            return Err(PublishError::Fenced);
        }
        if session.is_refused() {
            let why =
                "a batch before this one was refused for now; send both again on a new stream";
            return Err(Unavailable::Overloaded(why.into()).into());
        }
        let (first, count) = (item.first_number, item.entries.count());
        let producers = self.sessions.producers();
        match producers.check(session.producer, session.epoch, first, count) {
            Verdict::Fresh => Ok(None),
            Verdict::Duplicate { first_sequence } => Ok(Some(first_sequence)),
            Verdict::Fenced => Err(PublishError::Fenced),
            Verdict::OutOfOrder { committed } => Err(PublishError::OutOfOrder {
                first,
                last: first + u64::from(count) - 1,
                committed,
            }),
        }
    }

    fn topic_for(&mut self, name: &TopicName, by: &Principal) -> Result<Arc<Topic>, PublishError> {
        if let Some(topic) = self.catalog.topics.get(name) {
            return Ok(topic.clone());
        }
        if !self.limits.auto_create {
            return Err(NotFound::Topic(name.clone()).into());
        }
        name.check_new()?;
        self.admit_topics(1, Some(by))?;
        Ok(self.create_implicit_topic(name, Some(by.clone())))
    }

    // What the producer has committed by this, in memory and in the group.
    fn note_batch(&mut self, session: &Arc<Session>, item: &PublishItem, first_sequence: Sequence) {
        let (group, count) = (&mut self.group, item.entries.count());
        let mut producers = self.sessions.producers();
        // It may have been forgotten while its stream was open.
        if producers.own(session.producer, session.owner) | session.tell_owner() {
            group.undo.told.push(session.clone());
            group.note(&Note::ProducerOwner {
                producer: session.producer,
                owner: session.owner,
            });
        }
        let last_number = producers.commit(
            session.producer,
            session.epoch,
            item.first_number,
            count,
            first_sequence,
            item.resolved_through,
        );
        drop(producers);
        group.undo.batches.push((session.clone(), last_number));
        group.note(&Note::Batch {
            producer: session.producer,
            epoch: session.epoch,
            first_number: item.first_number,
            count,
            first_sequence,
            resolved_through: item.resolved_through,
        });
    }
}
