//! The publishing side as a connection sees it: a stream's batches go in, their answers come out.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::inbox::{Control, Inbox, PublishItem};
use super::producers::{Session, Sessions};
use crate::broker::error::BrokerError;
use crate::domain::{Entries, Principal, Sequence, TopicName};

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
    pub entries: Entries,
    /// What the batch takes in memory and in the journal, in bytes: as much as it costs its publisher of credit.
    pub cost: usize,
}

/// Answer to a [`PublishRequest`].
pub struct PublishReply {
    /// As in the request.
    pub correlation: u64,
    /// As in the request.
    pub cost: usize,
    /// What became of it.
    pub result: Result<PublishOutcome, BrokerError>,
}

/// Where the replies to a stream's requests go: those that became known together in one message.
pub type PublishReplies = mpsc::UnboundedSender<Vec<PublishReply>>;

/// The batch is as durable as its topic promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOutcome {
    /// Sequence of its first event.
    pub first_sequence: Sequence,
    /// How many events.
    pub count: u32,
    /// It was committed before; nothing was appended again.
    pub duplicate: bool,
    /// No subscription and no retention keeps it.
    pub unkept: bool,
}

/// The duty to answer one batch. Whoever drops it without an answer has died with it, and its publisher is told so.
pub(crate) struct Promise {
    correlation: u64,
    cost: usize,
    // Taken when it is kept.
    replies: Option<PublishReplies>,
}

impl Promise {
    #[cfg(test)]
    pub(crate) fn of(correlation: u64, replies: PublishReplies) -> Self {
        Self {
            correlation,
            cost: 0,
            replies: Some(replies),
        }
    }

    #[cfg(test)]
    pub(crate) fn correlation(&self) -> u64 {
        self.correlation
    }

    /// The answer, and where it goes to.
    pub(crate) fn keep(
        mut self,
        result: Result<PublishOutcome, BrokerError>,
    ) -> Option<(PublishReplies, PublishReply)> {
        let reply = self.reply(result);
        self.replies.take().map(|replies| (replies, reply))
    }

    /// Answers it alone.
    pub(crate) fn refuse(self, error: BrokerError) {
        if let Some((replies, reply)) = self.keep(Err(error)) {
            // The stream may be gone.
            let _ = replies.send(vec![reply]);
        }
    }

    fn reply(&self, result: Result<PublishOutcome, BrokerError>) -> PublishReply {
        PublishReply {
            correlation: self.correlation,
            cost: self.cost,
            result,
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(replies) = self.replies.take() {
            let _ = replies.send(vec![self.reply(Err(BrokerError::committer_died()))]);
        }
    }
}

/// One publish stream. Dropping it ends its producer's session.
pub struct Publisher {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) by: Principal,
    pub(crate) replies: PublishReplies,
}

impl Publisher {
    /// Hands a batch to the committer. Waits while its queue is full, which is how publishers feel a full
    /// journal. The answer comes as a [`PublishReply`].
    ///
    /// # Errors
    ///
    /// Another stream of the producer took over, the batch is not numbered though the publisher has a producer
    /// id, or the broker is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before completion, the batch was not handed over.
    pub async fn submit(&self, request: PublishRequest) -> Result<(), BrokerError> {
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
    ) -> Result<Option<PublishRequest>, BrokerError> {
        self.check(&request)?;
        match self.inbox.publish_room_now(request.cost)? {
            Some(room) => self.hand_over(request, room).map(|()| None),
            None => Ok(Some(request)),
        }
    }

    fn check(&self, request: &PublishRequest) -> Result<(), BrokerError> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        if session.is_fenced() {
            return Err(BrokerError::Fenced);
        }
        let last = request
            .first_number
            .checked_add(u64::from(request.entries.count()));
        if request.first_number == 0 || last.is_none() {
            return Err(BrokerError::Invalid(
                "events of a publisher with a producer id are numbered from 1".into(),
            ));
        }
        Ok(())
    }

    fn hand_over(
        &self,
        request: PublishRequest,
        room: OwnedSemaphorePermit,
    ) -> Result<(), BrokerError> {
        self.inbox.publish(PublishItem {
            topic: request.topic,
            cost: request.cost,
            promise: Promise {
                correlation: request.correlation,
                cost: request.cost,
                replies: Some(self.replies.clone()),
            },
            entries: request.entries,
            first_number: request.first_number,
            resolved_through: request.resolved_through,
            session: self.session.clone(),
            by: self.by.clone(),
            _room: room,
        })
    }
}

impl Publisher {
    // The highest number of this producer that is durable. Its older stream is fenced by now, but the group with that one's
    // last batches may still be under way: a group after it is waited for.
    pub(crate) async fn settle(&self) -> Result<u64, BrokerError> {
        self.inbox.ask(Control::ConfirmAcks).await?;
        let last = |session: &Arc<Session>| {
            let producers = self.sessions.producers();
            producers.last_number(session.producer)
        };
        Ok(self.session.as_ref().map_or(0, last))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.sessions.close(session);
        }
    }
}
