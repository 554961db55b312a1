//! What a consumer, its deliveries and its driver share: what the application said and took, until the driver tells the broker, and
//! how the stream fares. No task and no stream here.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tokio::sync::{Notify, oneshot};

use super::unsent_answers::Answers;
use crate::error::SubscribeError;

/// Whether acks are durable.
pub(super) type Confirmation = Result<(), SubscribeError>;

/// Somebody who waits for a confirmation.
pub(super) type Waiter = oneshot::Sender<Confirmation>;

/// What a consumer, its deliveries and its driver share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something for the driver to send, or the consumer is gone.
    pub(super) wake: Notify,
}

/// Whether the application may get a delivery.
pub(super) enum HandOver {
    Now,
    /// The broker has to hear of it first.
    NotHeard,
    /// Its stream is over.
    Stale,
}

/// What is changed under the lock, each time for well under a microsecond.
#[derive(Default)]
pub(super) struct State {
    pub(super) answers: Answers,
    /// Why nothing comes at present.
    pub(super) obstacle: Option<String>,
    /// Counts the streams; answers to what an earlier one delivered are dropped.
    pub(super) generation: u64,
    /// The subscription wants no answers.
    pub(super) answers_unwanted: bool,
    /// Credit to grant: events and bytes.
    pub(super) taken_events: u64,
    pub(super) taken_bytes: u64,
    /// Whoever waits for confirmation of all acks so far.
    pub(super) confirms: Vec<Waiter>,
    /// There are acks that were not confirmed.
    pub(super) unconfirmed: bool,
    /// Unconfirmed acks went down with a connection, and nobody was told.
    pub(super) acks_lost: bool,
    /// Deliveries of the present stream that the application has got.
    pub(super) handed_over: u64,
    /// The driver wants to be woken when that rises.
    pub(super) tell: bool,
    /// The application waits until the broker has heard that so many are handed over.
    pub(super) ask: Option<u64>,
    /// So many the broker has heard of.
    pub(super) heard: u64,
    pub(super) asker: Option<Waker>,
    /// The consumer is gone; the driver ends.
    pub(super) detached: bool,
    /// It went down with a panic, and perhaps because of what it had in hand.
    pub(super) failed: bool,
    /// The driver has ended, and why.
    pub(super) ended: Option<SubscribeError>,
}

impl State {
    /// Asks for confirmation; `None` when there is nothing to confirm.
    pub(super) fn confirm(
        &mut self,
    ) -> Result<Option<oneshot::Receiver<Confirmation>>, SubscribeError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        if std::mem::take(&mut self.acks_lost) {
            return Err(SubscribeError::AcksLost);
        }
        if !self.unconfirmed {
            return Ok(None);
        }
        let (sender, receiver) = oneshot::channel();
        self.confirms.push(sender);
        Ok(Some(receiver))
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        formatter
            .debug_struct("Shared")
            .field("generation", &state.generation)
            .field("detached", &state.detached)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A panic elsewhere while the lock was held leaves the state usable: it is only moved in whole steps.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an answer to what the stream of `generation` delivered, or the one there is now.
    pub(super) fn answer(&self, generation: Option<u64>, record: impl FnOnce(&mut Answers)) {
        let wake = {
            let mut state = self.state();
            if state.answers_unwanted || state.ended.is_some() || state.detached {
                return;
            }
            if generation.is_some_and(|generation| generation != state.generation) {
                state.acks_lost = true;
                return;
            }
            let wake = state.answers.is_empty();
            record(&mut state.answers);
            state.unconfirmed = true;
            wake
        };
        if wake {
            self.wake.notify_one();
        }
    }

    /// The application is about to get a delivery of the stream of `generation`. One that the broker must hear of first,
    /// and has not, wakes `context` once it has.
    pub(super) fn hand_over(
        &self,
        generation: u64,
        hear_first: Option<u64>,
        context: &Context<'_>,
    ) -> HandOver {
        let mut state = self.state();
        if state.generation != generation {
            return HandOver::Stale;
        }
        if let Some(deliveries) = hear_first.filter(|deliveries| *deliveries > state.heard) {
            state.ask = Some(deliveries);
            state.asker = Some(context.waker().clone());
            drop(state);
            self.wake.notify_one();
            return HandOver::NotHeard;
        }
        state.handed_over += 1;
        if std::mem::take(&mut state.tell) {
            drop(state);
            self.wake.notify_one();
        }
        HandOver::Now
    }

    pub(super) fn detach(&self) {
        self.state().detached = true;
        self.wake.notify_one();
    }
}
