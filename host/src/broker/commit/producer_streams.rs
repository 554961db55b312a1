//! Open publish streams by producer. A new stream of a producer fences the one before it, so that batches of a
//! connection that was given up cannot be committed between those of its successor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::broker::error::PublishError;
use crate::domain::{PrincipalDigest, ProducerId};
use crate::locks::lock;
use crate::state::{OpenError, Producers};

/// One publish stream of a producer that wants resends recognised.
pub(crate) struct ProducerStream {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: u32,
    /// Whose the producer is.
    pub(crate) owner: PrincipalDigest,
    // The journal has been told whose the producer is.
    owner_told: AtomicBool,
    fenced: AtomicBool,
    // A batch of it was refused that may succeed later.
    refused: AtomicBool,
}

impl ProducerStream {
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// A batch of this stream was refused for now. Those that wait behind it must not overtake it, or it would look like a resend of
    /// what never was: they are refused as well, and the client sends all of them again on a new stream. Called by the committer.
    pub(crate) fn refuse_from_here(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the owner is still to be written down, which the caller then does. Called by the committer.
    pub(crate) fn tell_owner(&self) -> bool {
        !self.owner_told.swap(true, Ordering::Relaxed)
    }

    /// What [`tell_owner`](Self::tell_owner) asked for could not be written.
    pub(crate) fn forget_owner_told(&self) {
        self.owner_told.store(false, Ordering::Relaxed);
    }
}

/// What is known of producers. The committer judges and records batches; publishers open and close their streams.
pub(crate) struct ProducerStreams {
    producers: Mutex<Producers>,
    open: Mutex<HashMap<ProducerId, Arc<ProducerStream>>>,
}

impl ProducerStreams {
    pub(crate) fn new(producers: Producers) -> Arc<Self> {
        Arc::new(Self {
            producers: Mutex::new(producers),
            open: Mutex::default(),
        })
    }

    /// What [`open`](Self::open) would answer, while nothing is changed and nobody fenced.
    pub(crate) fn may_open(
        &self,
        producer: ProducerId,
        epoch: u32,
        owner: PrincipalDigest,
    ) -> Result<u64, PublishError> {
        let producers = self.producers();
        producers.may_open(producer, epoch, owner).map_err(refused)
    }

    /// Opens a stream of a producer of `owner`, fencing an older one, and answers the highest number committed for the producer.
    pub(crate) fn open(
        &self,
        producer: ProducerId,
        epoch: u32,
        owner: PrincipalDigest,
    ) -> Result<(Arc<ProducerStream>, u64), PublishError> {
        let mut open = lock(&self.open);
        let last_number = self.producers().open(producer, epoch, owner);
        let last_number = last_number.map_err(refused)?;
        let stream = Arc::new(ProducerStream {
            producer,
            epoch,
            owner,
            owner_told: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        });
        if let Some(older) = open.insert(producer, stream.clone()) {
            older.fenced.store(true, Ordering::Release);
        }
        Ok((stream, last_number))
    }

    /// Ends a stream.
    pub(crate) fn close(&self, stream: &Arc<ProducerStream>) {
        let mut open = lock(&self.open);
        if open
            .get(&stream.producer)
            .is_some_and(|current| Arc::ptr_eq(current, stream))
        {
            open.remove(&stream.producer);
            self.producers().close(stream.producer);
        }
    }

    pub(crate) fn producers(&self) -> MutexGuard<'_, Producers> {
        lock(&self.producers)
    }
}

fn refused(error: OpenError) -> PublishError {
    match error {
        OpenError::Fenced { .. } => PublishError::Fenced,
        OpenError::NotYours => PublishError::NotYours,
    }
}
