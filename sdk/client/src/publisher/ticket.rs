//! What became of a batch, and the tickets that wait for it. One allocation per batch, not per event.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::PublishError;

/// An event that is as durable as its topic promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place in its topic.
    pub sequence: u64,
    /// The broker had it already, from before a reconnect; it was not appended again.
    pub duplicate: bool,
    /// No subscription and no retention keeps it: nobody will ever see it. Of a duplicate this is not known, and `false`.
    pub unkept: bool,
}

/// The broker's answer to a batch: of its first event, that is.
pub(super) type Outcome = Result<Published, PublishError>;

/// What becomes of one batch. Resolved once, by the driver.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// Set while `waiting` is locked, so that no ticket starts to wait for what is there already.
    outcome: OnceLock<Outcome>,
    waiting: Mutex<Waiting>,
}

/// One place for each ticket that was polled in vain. The first needs no memory of its own: most batches of those who publish one
/// event at a time have no other.
#[derive(Debug, Default)]
struct Waiting {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Waiting {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    /// A place for one more.
    fn add(&mut self, waker: Waker) -> usize {
        let place = self.len();
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.others.push(waker),
        }
        place
    }

    /// Whoever has `place` is woken by another one from now on.
    fn renew(&mut self, place: usize, waker: &Waker) {
        let kept = match place.checked_sub(1) {
            None => self.first.as_mut(),
            Some(other) => self.others.get_mut(other),
        };
        if let Some(kept) = kept {
            kept.clone_from(waker);
        }
    }

    fn wake(self) {
        self.first
            .into_iter()
            .chain(self.others)
            .for_each(Waker::wake);
    }
}

impl Fate {
    /// Says what became of the batch of `events` events. Returns true when it failed and there are events whose tickets nobody
    /// was waiting on.
    pub(super) fn resolve(&self, outcome: Outcome, events: usize) -> bool {
        let failed = outcome.is_err();
        let waiting = {
            let mut waiting = self.waiting();
            if self.outcome.set(outcome).is_err() {
                return false;
            }
            std::mem::take(&mut *waiting)
        };
        let unreported = failed && waiting.len() < events;
        waiting.wake();
        unreported
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves to what became of one event. Dropping it does not unpublish the event.
#[derive(Debug)]
#[must_use = "an event whose ticket is not awaited may fail unnoticed; await it, or call `flush` later"]
pub struct PublishTicket {
    fate: Arc<Fate>,
    /// The event's place in its batch.
    index: u64,
    /// Where its waker is kept, once it was polled.
    place: Option<usize>,
}

impl PublishTicket {
    pub(super) fn new(fate: Arc<Fate>, index: usize) -> Self {
        Self {
            fate,
            index: index as u64,
            place: None,
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let first = self.fate.outcome.get()?;
        Some(first.clone().map(|first| Published {
            sequence: first.sequence.saturating_add(self.index),
            ..first
        }))
    }
}

impl Future for PublishTicket {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let ticket = self.get_mut();
        if let Some(outcome) = ticket.outcome() {
            return Poll::Ready(outcome);
        }
        let mut waiting = ticket.fate.waiting();
        // Resolved between the look and the lock.
        if let Some(outcome) = ticket.outcome() {
            return Poll::Ready(outcome);
        }
        match ticket.place {
            Some(place) => waiting.renew(place, context.waker()),
            None => ticket.place = Some(waiting.add(context.waker().clone())),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const FIRST: Published = Published {
        sequence: 10,
        duplicate: false,
        unkept: true,
    };

    #[tokio::test]
    async fn sequences_count_on_from_the_first() {
        let fate = Arc::new(Fate::default());
        let mut second = PublishTicket::new(Arc::clone(&fate), 1);
        assert!((&mut second).now_or_never().is_none());
        assert!(!fate.resolve(Ok(FIRST), 2));
        assert_eq!(
            second.await.unwrap(),
            Published {
                sequence: 11,
                ..FIRST
            }
        );
    }

    #[tokio::test]
    async fn an_error_counts_as_reported_only_when_every_ticket_waits() {
        let error = PublishError::Protocol("x".into());
        let waited_for = Arc::new(Fate::default());
        let mut ticket = PublishTicket::new(Arc::clone(&waited_for), 0);
        assert!((&mut ticket).now_or_never().is_none());
        assert!((&mut ticket).now_or_never().is_none(), "polled twice");
        assert!(!waited_for.resolve(Err(error.clone()), 1));
        assert!(ticket.await.is_err());
        assert!(Fate::default().resolve(Err(error), 1));
    }
}
