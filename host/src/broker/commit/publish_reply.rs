//! The answer to a published batch, and the duty to give it: every batch is answered exactly once, whatever becomes of the
//! committer that has it. What the answer is, is decided elsewhere.

use tokio::sync::mpsc;

use crate::broker::error::{PublishError, Unavailable};
use crate::domain::Sequence;

/// Answer to a [`PublishRequest`](super::publisher::PublishRequest).
pub struct PublishReply {
    /// As in the request.
    pub correlation: u64,
    /// As in the request.
    pub cost: usize,
    /// What became of it.
    pub result: Result<PublishOutcome, PublishError>,
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
    /// No subscription and no retention keeps it. Of one that was committed before this is not known, and `false`.
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
    /// `correlation` and `cost` are repeated in the answer, which goes to `replies`.
    pub(super) fn new(correlation: u64, cost: usize, replies: PublishReplies) -> Self {
        Self {
            correlation,
            cost,
            replies: Some(replies),
        }
    }

    #[cfg(test)]
    pub(super) fn correlation(&self) -> u64 {
        self.correlation
    }

    /// The answer, and where it goes to.
    pub(super) fn keep(
        mut self,
        result: Result<PublishOutcome, PublishError>,
    ) -> Option<(PublishReplies, PublishReply)> {
        let reply = self.reply(result);
        self.replies.take().map(|replies| (replies, reply))
    }

    /// Answers it alone.
    pub(super) fn refuse(self, error: PublishError) {
        if let Some((replies, reply)) = self.keep(Err(error)) {
            // The stream may be gone.
            let _ = replies.send(vec![reply]);
        }
    }

    fn reply(&self, result: Result<PublishOutcome, PublishError>) -> PublishReply {
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
            let _ = replies.send(vec![self.reply(Err(Unavailable::committer_died().into()))]);
        }
    }
}
