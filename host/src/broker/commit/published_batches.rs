//! Published batches on their way into a group: whether a batch is fresh, a resend or refused, which topic it goes to, and what
//! the journal notes of its producer. A batch is one of these as a whole.

use std::sync::Arc;

use super::draft::Draft;
use super::group::check_item;
use super::journal_note::Note;
use super::producer_streams::ProducerStream;
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
        if let Some(stream) = &item.stream
            && let Some(first_sequence) = self.resent(stream, item)?
        {
            return Ok(PublishOutcome {
                first_sequence,
                count: item.entries.count(),
                duplicate: true,
                unkept: false,
            });
        }
        check_item(item.cost).map_err(|error| PublishError::Invalid(error.to_string()))?;
        let is_refused =
            planted!(RefusedWithItsTopic) && !self.catalog.topics.contains_key(&item.topic);
        let topic = self.topic_for(&item.topic, &item.by)?;
        let unkept = !self.is_selected(&topic);
        let first_sequence = self.group.append(&topic, item.entries.clone());
        self.group.needs_sync |= topic.spec.durability == Durability::Sync;
        if let Some(stream) = &item.stream {
            self.note_batch(stream, item, first_sequence);
        }
        if is_refused {
            return Err(NotFound::Topic(item.topic.clone()).into());
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
        stream: &ProducerStream,
        item: &PublishItem,
    ) -> Result<Option<Sequence>, PublishError> {
        if stream.is_fenced() {
            return Err(PublishError::Fenced);
        }
        if stream.is_refused() {
            let why =
                "a batch before this one was refused for now; send both again on a new stream";
            return Err(Unavailable::Overloaded(why.into()).into());
        }
        let (first, count) = (item.first_number, item.entries.count());
        let producers = self.streams.producers();
        match producers.check(stream.producer, stream.epoch, first, count) {
            Verdict::Fresh => Ok(None),
            Verdict::Duplicate { first_sequence } if planted!(ResendAnsweredWrong) => {
                Ok(Some(Sequence(first_sequence.0 + 1)))
            }
            Verdict::Duplicate { first_sequence } => {
                reached!(BatchResent);
                Ok(Some(first_sequence))
            }
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
        let now = self.group.time();
        let after_ms = self.limits.recreate_after_ms;
        let deleted = self.catalog.deleted_topics.deleted_ms_ago(name, now);
        if let Some(ago_ms) = deleted.filter(|ago_ms| *ago_ms < after_ms) {
            return Err(NotFound::DeletedTopic {
                name: name.clone(),
                seconds: ago_ms / 1_000,
                left: (after_ms - ago_ms).div_ceil(1_000),
            }
            .into());
        }
        name.check_new()?;
        self.admit_topics(1, Some(by))?;
        Ok(self.create_implicit_topic(name, Some(by.clone())))
    }

    // What the producer has committed by this, in memory and in the group.
    fn note_batch(
        &mut self,
        stream: &Arc<ProducerStream>,
        item: &PublishItem,
        first_sequence: Sequence,
    ) {
        let (group, count) = (&mut self.group, item.entries.count());
        let mut producers = self.streams.producers();
        // It may have been forgotten while its stream was open.
        if producers.own(stream.producer, stream.owner) | stream.tell_owner() {
            group.undo.told.push(stream.clone());
            group.note(&Note::ProducerOwner {
                producer: stream.producer,
                owner: stream.owner,
            });
        }
        let last_number = producers.commit(
            stream.producer,
            stream.epoch,
            item.first_number,
            count,
            first_sequence,
            item.resolved_through,
        );
        drop(producers);
        group.undo.batches.push((stream.clone(), last_number));
        group.note(&Note::Batch {
            producer: stream.producer,
            epoch: stream.epoch,
            first_number: item.first_number,
            count,
            first_sequence,
            resolved_through: item.resolved_through,
        });
    }
}
