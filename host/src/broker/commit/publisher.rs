//! The publishing side as a connection sees it: a stream's batches go in, their answers come out.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::inbox::{Inbox, LastCame};
use super::producer_streams::{ProducerStream, ProducerStreams};
use super::publish_reply::{Promise, PublishReplies};
use super::request::{Control, PublishItem};
use crate::broker::error::{PublishError, Unavailable};
use crate::domain::{EncodedEvents, Principal, TopicName};

/// Events of one batch, to be appended to one topic together and in order.
pub struct PublishRequest {
    /// Repeated in the reply.
    pub correlation: u64,
    /// Where to; created when the configuration allows it.
    pub topic: TopicName,
    /// Number of the first event; 0 for a publisher without a producer id.
    pub first_number: u64,
    /// The client has seen the answers for all numbers up to this.
    pub resolved_through: u64,
    /// The events, already checked.
    pub entries: EncodedEvents,
    /// What the batch takes in memory and in the journal, in bytes: as much as it costs its publisher of credit.
    pub cost: usize,
}

/// One publish stream. Dropping it ends it for its producer, too.
pub struct Publisher {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) streams: Arc<ProducerStreams>,
    pub(crate) stream: Option<Arc<ProducerStream>>,
    pub(crate) by: Principal,
    pub(crate) replies: PublishReplies,
    pub(crate) last_came: LastCame,
}

impl Publisher {
    /// Hands a batch to the committer. Waits while its queue is full, which is how publishers feel a full
    /// journal. The answer comes as a [`PublishReply`](super::publish_reply::PublishReply).
    ///
    /// # Errors
    ///
    /// Another stream of the producer took over, the batch is not numbered though the publisher has a producer
    /// id, or the broker is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before completion, the batch was not handed over.
    pub async fn submit(&self, request: PublishRequest) -> Result<(), PublishError> {
        self.check(&request)?;
        let room = self.inbox.publish_room(request.cost).await?;
        self.hand_over(request, room)
    }

    /// The same without waiting: the batch comes back when the queue has no room for it now.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn submit_now(
        &self,
        request: PublishRequest,
    ) -> Result<Option<PublishRequest>, PublishError> {
        self.check(&request)?;
        match self.inbox.publish_room_now(request.cost)? {
            Some(room) => self.hand_over(request, room).map(|()| None),
            None => Ok(Some(request)),
        }
    }

    fn check(&self, request: &PublishRequest) -> Result<(), PublishError> {
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        if stream.is_fenced() {
            return Err(PublishError::Fenced);
        }
        let last = request
            .first_number
            .checked_add(u64::from(request.entries.count()));
        if request.first_number == 0 || last.is_none() {
            return Err(PublishError::Invalid(
                "events of a publisher with a producer id are numbered from 1".into(),
            ));
        }
        Ok(())
    }

    fn hand_over(
        &self,
        request: PublishRequest,
        room: OwnedSemaphorePermit,
    ) -> Result<(), PublishError> {
        let item = PublishItem {
            topic: request.topic,
            cost: request.cost,
            promise: Promise::new(request.correlation, request.cost, self.replies.clone()),
            entries: request.entries,
            first_number: request.first_number,
            resolved_through: request.resolved_through,
            stream: self.stream.clone(),
            by: self.by.clone(),
            _room: room,
        };
        Ok(self.inbox.publish(item, &self.last_came)?)
    }
}

impl Publisher {
    // The highest number of this producer that is durable. Its older stream is fenced by now, but the group with that one's
    // last batches may still be under way: a group after it is waited for.
    pub(crate) async fn last_durable_number(&self) -> Result<u64, Unavailable> {
        self.inbox.ask(Control::ConfirmAcks).await?;
        let last = |stream: &Arc<ProducerStream>| {
            let producers = self.streams.producers();
            producers.last_number(stream.producer)
        };
        Ok(self.stream.as_ref().map_or(0, last))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            self.streams.close(stream);
        }
    }
}
