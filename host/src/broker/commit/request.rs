//! What the committer is asked for: batches to append, changes of what exists, outputs of subscriptions, confirmation of acks,
//! and marks for checkpoints. Each carries where its answer goes. How they wait is the inbox's business.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::producer_streams::ProducerStream;
use super::publish_reply::Promise;
use crate::broker::error::{ChangeError, OutputError, Unavailable};
use crate::broker::subscriptions::dead_letter_counts::DeadLetterCounts;
use crate::domain::{
    BlockOrigin, CommitNumber, EncodedEvents, Millis, Name, NewTopic, Owner, PluginInfo, Position,
    Principal, SubscriptionId, SubscriptionSpec, TopicId, TopicName,
};
use crate::state::catalog::Catalog;

/// Where the answer to a request goes. It has the request's room in the inbox, which is free once whoever owes the answer is done
/// with it: what nobody waits for any more takes its room all the same.
pub(crate) struct Reply<T, E = Unavailable> {
    to: oneshot::Sender<Result<T, E>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl<T, E> Reply<T, E> {
    /// To whoever has the other end, for a request that takes this room.
    pub(super) fn new(
        to: oneshot::Sender<Result<T, E>>,
        room: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { to, _room: room }
    }

    /// Answers.
    ///
    /// # Errors
    ///
    /// Nobody waits any more.
    pub(crate) fn send(self, answer: Result<T, E>) -> Result<(), Result<T, E>> {
        self.to.send(answer)
    }
}

/// A batch on its way.
pub(crate) struct PublishItem {
    pub(crate) topic: TopicName,
    pub(crate) entries: EncodedEvents,
    /// What it takes here and in the journal, in bytes. Never 0, however little is in it.
    pub(crate) cost: usize,
    pub(crate) first_number: u64,
    pub(crate) resolved_through: u64,
    pub(crate) stream: Option<Arc<ProducerStream>>,
    /// Who publishes it, and makes the topic when there is none.
    pub(crate) by: Principal,
    pub(crate) promise: Promise,
    pub(crate) _room: OwnedSemaphorePermit,
}

impl PublishItem {
    /// Bytes of its events, heads included.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes().len()
    }

    /// Refuses it once nothing more is taken of any stream. Its stream may have others in the committer's hands, which were before
    /// it and are still answered for themselves.
    pub(super) fn refuse_at_end(self, error: &Unavailable) {
        self.promise.refuse(error.clone().into());
    }

    /// Refuses it, and what its stream sends after it.
    pub(super) fn refuse(self, error: &Unavailable) {
        if let Some(stream) = &self.stream {
            stream.refuse_from_here();
        }
        self.promise.refuse(error.clone().into());
    }
}

/// Anything else the committer writes.
pub(crate) enum Control {
    /// A change of what exists.
    Change(ChangeRequest),
    /// Outputs of a subscription (a route's results, dead letters) and the positions they are done with: atomic.
    Outputs(Outputs),
    /// Answered once every ack taken before it is on disk.
    ConfirmAcks(Reply<()>),
    /// Starts a new journal file and answers what a checkpoint needs to know of this moment.
    Mark(Reply<Mark>),
}

impl Control {
    /// Refuses it.
    pub(super) fn refuse(self, error: &Unavailable) {
        match self {
            Self::Change(request) => request.refuse(error),
            Self::Outputs(outputs) => outputs.refuse(error.clone()),
            Self::ConfirmAcks(reply) => drop(reply.send(Err(error.clone()))),
            Self::Mark(reply) => drop(reply.send(Err(error.clone()))),
        }
    }
}

/// A change of topics, subscriptions or plugins that somebody asks for.
pub(crate) enum ChangeRequest {
    CreateTopic(NewTopic, Reply<(), ChangeError>),
    /// Which one, and what it is called.
    DeleteTopic(TopicId, TopicName, Reply<(), ChangeError>),
    CreateSubscription(SubscriptionSpec, Reply<SubscriptionId, ChangeError>),
    UpdateSubscription(Update, Reply<(), ChangeError>),
    /// Which one, what it is called, and why it is to stand still; it goes on without a reason.
    Pause(SubscriptionId, Name, Option<String>, Reply<(), ChangeError>),
    /// Which one, and what it is called.
    DeleteSubscription(SubscriptionId, Name, Reply<(), ChangeError>),
    AddPlugin(Upload, Reply<PluginInfo, ChangeError>),
    /// Gives all versions of a name to an owner.
    GivePlugin(String, Owner, Reply<(), ChangeError>),
    DeletePlugin(Deletion, Reply<(), ChangeError>),
}

impl ChangeRequest {
    fn refuse(self, error: &Unavailable) {
        match self {
            Self::CreateTopic(_, reply)
            | Self::DeleteTopic(_, _, reply)
            | Self::UpdateSubscription(_, reply)
            | Self::DeleteSubscription(_, _, reply)
            | Self::Pause(_, _, _, reply)
            | Self::DeletePlugin(_, reply)
            | Self::GivePlugin(_, _, reply) => drop(reply.send(Err(error.clone().into()))),
            Self::CreateSubscription(_, reply) => drop(reply.send(Err(error.clone().into()))),
            Self::AddPlugin(_, reply) => drop(reply.send(Err(error.clone().into()))),
        }
    }
}

/// A plugin to be recorded.
pub(crate) struct Upload {
    pub(crate) plugin: PluginInfo,
    /// Under this name whoever it belongs to.
    pub(crate) any_name: bool,
}

/// Versions of plugins that are to go.
pub(crate) struct Deletion {
    pub(crate) versions: Vec<(String, u32)>,
    /// The name that goes with them, and may be anybody's then.
    pub(crate) free_name: Option<String>,
}

/// What a subscription is to be changed to.
pub(crate) struct Update {
    pub(crate) id: SubscriptionId,
    /// The revision it was made from. Somebody else's change in between is not overwritten unseen.
    pub(crate) from_revision: u32,
    pub(crate) spec: SubscriptionSpec,
}

/// Events a subscription appends, and the positions that are done with by that, in one group or not at all.
pub(crate) struct Outputs {
    pub(crate) subscription: SubscriptionId,
    pub(crate) acks: Vec<RangeInclusive<Position>>,
    pub(crate) events: Vec<Appended>,
    /// How many of the events are dead letters, and how many events get none. Told of the subscription once they are written.
    pub(crate) letters: DeadLetterCounts,
    pub(crate) done: Reply<(), OutputError>,
}

impl Outputs {
    /// Refuses them.
    pub(super) fn refuse(self, error: impl Into<OutputError>) {
        // Whoever made them may have ended.
        let _ = self.done.send(Err(error.into()));
    }
}

/// An event that the broker itself appends.
pub(crate) struct Appended {
    pub(crate) topic: TopicName,
    pub(crate) mark: BlockOrigin,
    pub(crate) event: Bytes,
}

/// The broker's state at a group boundary.
pub(crate) struct Mark {
    /// First group after the mark.
    pub(crate) group: CommitNumber,
    /// First position after the mark.
    pub(crate) end: Position,
    pub(crate) catalog: Catalog,
    pub(crate) producers: Vec<u8>,
    /// When it was made, on the wall: no earlier than the groups before it, and no later than those after it.
    pub(crate) at: Millis,
    /// By how many milliseconds the wall was ahead of the clock of moments then.
    pub(crate) wall_ahead_ms: i64,
}
