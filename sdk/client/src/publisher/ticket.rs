//! What became of a batch, and the tickets that wait for it. One allocation per batch, not per event.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::PublishError;

/// An event that is as durable as its topic promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place in its topic.
    pub sequence: u64,
    /// The broker had it already, from before a reconnect; it was not appended again.
    pub duplicate: bool,
    /// No subscription and no retention keeps it: nobody will ever see it.
    pub unkept: bool,
}

/// The broker's answer to a batch: of its first event, that is.
pub(super) type Outcome = Result<Published, PublishError>;

/// What becomes of one batch. Resolved once, by the driver.
#[derive(Debug, Default)]
pub(super) struct Fate {
    state: Mutex<FateState>,
}

#[derive(Debug, Default)]
struct FateState {
    outcome: Option<Outcome>,
    events: usize,
    /// One slot per ticket that was polled.
    wakers: Vec<Waker>,
}

impl Fate {
    /// One more event has joined the batch.
    pub(super) fn joined(&self, events: usize) {
        self.lock().events = events;
    }

    /// Says what became of the batch. Returns true when it failed and there are events whose tickets nobody was
    /// waiting on.
    pub(super) fn resolve(&self, outcome: Outcome) -> bool {
        let (wakers, unreported) = {
            let mut state = self.lock();
            if state.outcome.is_some() {
                return false;
            }
            let unreported = outcome.is_err() && state.wakers.len() < state.events;
            state.outcome = Some(outcome);
            (std::mem::take(&mut state.wakers), unreported)
        };
        wakers.into_iter().for_each(Waker::wake);
        unreported
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    slot: Option<usize>,
}

impl PublishTicket {
    pub(super) fn new(fate: Arc<Fate>, index: usize) -> Self {
        Self {
            fate,
            index: index as u64,
            slot: None,
        }
    }
}

impl Future for PublishTicket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let fate = Arc::clone(&self.fate);
        let mut state = fate.lock();
        if let Some(outcome) = &state.outcome {
            let index = self.index;
            return Poll::Ready(outcome.clone().map(|first| Published {
                sequence: first.sequence.saturating_add(index),
                ..first
            }));
        }
        match self.slot {
            Some(slot) => state.wakers[slot].clone_from(context.waker()),
            None => {
                self.slot = Some(state.wakers.len());
                state.wakers.push(context.waker().clone());
            }
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

    fn fate(events: usize) -> Arc<Fate> {
        let fate = Arc::new(Fate::default());
        fate.joined(events);
        fate
    }

    #[tokio::test]
    async fn sequences_count_on_from_the_first() {
        let fate = fate(2);
        let mut second = PublishTicket::new(Arc::clone(&fate), 1);
        assert!((&mut second).now_or_never().is_none());
        assert!(!fate.resolve(Ok(FIRST)));
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
        let waited_for = fate(1);
        let mut ticket = PublishTicket::new(Arc::clone(&waited_for), 0);
        assert!((&mut ticket).now_or_never().is_none());
        assert!((&mut ticket).now_or_never().is_none(), "polled twice");
        assert!(!waited_for.resolve(Err(error.clone())));
        assert!(ticket.await.is_err());
        assert!(fate(1).resolve(Err(error)));
    }
}
