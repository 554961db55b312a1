//! Consuming. A [`Consumer`] hands out deliveries; one driver task owns the stream, reads it as fast as the broker
//! sends within the credit, and sends back credit, acks and the like.
//!
//! - `delivery`: what an application gets, and how it answers.
//! - `answers`: answers on their way to the broker, joined into ranges. Pure.
//! - `driver`: the task.

mod answers;
mod delivery;
mod driver;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use tidegate_wire::limits::FRAME_BYTES_MAX;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::answers::Answers;
pub use self::delivery::Delivery;
use self::delivery::Handout;
use self::driver::Driver;
use crate::client::ClientHandle;
use crate::error::{ConnectError, SubscribeError};
use crate::options::ConsumerOptions;

/// A live consumer of a durable subscription: an async stream of deliveries. Several consumers of one subscription
/// share its events.
///
/// After a lost connection it attaches again by itself. What it held then is no longer its own: deliveries not yet
/// taken are discarded, acks for those taken are dropped, and the broker delivers all of them again, to this
/// consumer or another: to one at a time that holds nothing else, since one of them may be what brought this one down.
/// It says how far it has handed deliveries out, so that what was never taken counts nothing.
///
/// It ends (yields `None`) after an error that reconnecting cannot mend. Dropping it, or [`close`](Self::close),
/// gives its unacknowledged events back to the broker at once, and nothing counts as an attempt; unless it is dropped by
/// a panic, which is taken as a lost connection is.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    handouts: mpsc::UnboundedReceiver<Result<Handout, SubscribeError>>,
    current: Option<Handout>,
    credit: Credit,
    /// Cancelled when the driver has ended.
    ended: CancellationToken,
}

impl Consumer {
    pub(crate) async fn open(
        client: Arc<ClientHandle>,
        subscription: &str,
        options: ConsumerOptions,
        look: bool,
    ) -> Result<Self, SubscribeError> {
        let shared = Arc::new(Shared::default());
        // Not bounded by itself, but by the credit, which the driver watches.
        let (sender, handouts) = mpsc::unbounded_channel();
        let (opened_sender, opened) = oneshot::channel();
        let credit = Credit::new(&options);
        let driver = Driver::new(
            client,
            Arc::clone(&shared),
            subscription,
            look,
            &credit,
            sender,
            opened_sender,
        );
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let consumer = Self {
            shared,
            handouts,
            current: None,
            credit,
            ended,
        };
        tokio::spawn(async move {
            driver.run().await;
            drop(guard);
        });
        let closed = || SubscribeError::Connection(Arc::new(ConnectError::Closed));
        opened.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(consumer)
    }

    /// The next delivery; `None` when the consumer has ended. After an error, whether more follows is seen by
    /// calling this again.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Delivery, SubscribeError>> {
        std::future::poll_fn(|context| self.poll_delivery(context)).await
    }

    /// A handle that answers deliveries by their positions, from anywhere.
    #[must_use]
    pub fn acker(&self) -> Acker {
        Acker {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Waits until the broker confirms that all acks made so far are durable.
    ///
    /// # Errors
    /// [`SubscribeError::AcksLost`] when the connection was lost since the last confirmation with acks unconfirmed;
    /// or why the consumer has ended.
    pub async fn flush_acks(&self) -> Result<(), SubscribeError> {
        let confirmed = self.shared.state().confirm()?;
        let Some(confirmed) = confirmed else {
            return Ok(());
        };
        self.shared.wake.notify_one();
        confirmed.await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// Why nothing can come at present, in words for people: what the broker says while it does not take this consumer for now,
    /// or that the connection is lost. `None` while nothing is in the way, whether there are events or not.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        self.shared.state().obstacle.clone()
    }

    /// Sends what was acknowledged, gives the rest back to the broker, and waits until that is said; at most a
    /// second.
    pub async fn close(self) {
        self.shared.detach();
        self.ended.cancelled().await;
    }

    fn poll_delivery(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, SubscribeError>>> {
        loop {
            match self.take_current(context) {
                Poll::Ready(Some(delivery)) => return Poll::Ready(Some(delivery)),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
            match self.handouts.poll_recv(context) {
                Poll::Ready(Some(Ok(handout))) => self.current = Some(handout),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    self.credit.give_back_when_idle(&self.shared);
                    return Poll::Pending;
                }
            }
        }
    }

    /// The next delivery of the frame at hand, if there is one.
    fn take_current(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Delivery, SubscribeError>>> {
        let Some(handout) = self.current.as_mut() else {
            return Poll::Ready(None);
        };
        if handout.is_empty() {
            self.current = None;
            return Poll::Ready(None);
        }
        let generation = handout.generation;
        if handout.discard_when_stale {
            match self
                .shared
                .hand_over(generation, handout.hear_first, context)
            {
                HandOver::Now => {}
                HandOver::NotHeard => return Poll::Pending,
                HandOver::Stale => {
                    self.current = None;
                    return Poll::Ready(None);
                }
            }
        }
        let Some((delivery, bytes)) = handout.next(&self.shared) else {
            return Poll::Ready(None);
        };
        self.credit.taken(generation, bytes, &self.shared);
        Poll::Ready(Some(delivery))
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, SubscribeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.state().failed = true;
        }
        self.shared.detach();
    }
}

/// Answers deliveries by position, from other tasks. Cheap to clone. Once its consumer is gone or has lost its
/// connection, positions from before mean nothing to the broker any more, and are ignored.
#[derive(Clone, Debug)]
pub struct Acker {
    shared: Arc<Shared>,
}

impl Acker {
    /// The event at `position` is done with.
    pub fn ack(&self, position: u64) {
        self.shared.answer(None, |answers| answers.ack(position));
    }

    /// The event at `position` could not be handled now: deliver it again, after `delay` or, without one, when the
    /// subscription's back-off says.
    pub fn nack(&self, position: u64, delay: Option<Duration>) {
        self.shared
            .answer(None, |answers| answers.nack(position, delay));
    }

    /// The event at `position` can never be handled: to the dead-letter topic with it, and `reason`.
    pub fn term(&self, position: u64, reason: &str) {
        self.shared
            .answer(None, |answers| answers.term(position, reason));
    }

    /// Still at work on the event at `position`: its ack deadline starts anew.
    pub fn extend(&self, position: u64) {
        self.shared.answer(None, |answers| answers.extend(position));
    }
}

/// What a consumer, its deliveries and its driver share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something for the driver to send, or the consumer is gone.
    wake: Notify,
}

/// Whether the application may get a delivery.
enum HandOver {
    Now,
    /// The broker has to hear of it first.
    NotHeard,
    /// Its stream is over.
    Stale,
}

/// What is changed under the lock, each time for well under a microsecond.
#[derive(Default)]
struct State {
    answers: Answers,
    /// Why nothing comes at present.
    obstacle: Option<String>,
    /// Counts the streams; answers to what an earlier one delivered are dropped.
    generation: u64,
    /// The subscription wants no answers.
    answers_unwanted: bool,
    /// Credit to grant: events and bytes.
    taken_events: u64,
    taken_bytes: u64,
    /// Whoever waits for confirmation of all acks so far.
    confirms: Vec<oneshot::Sender<Result<(), SubscribeError>>>,
    /// There are acks that were not confirmed.
    unconfirmed: bool,
    /// Unconfirmed acks went down with a connection, and nobody was told.
    acks_lost: bool,
    /// Deliveries of the present stream that the application has got.
    handed_over: u64,
    /// The driver wants to be woken when that rises.
    tell: bool,
    /// The application waits until the broker has heard that so many are handed over.
    ask: Option<u64>,
    /// So many the broker has heard of.
    heard: u64,
    asker: Option<Waker>,
    /// The consumer is gone; the driver ends.
    detached: bool,
    /// It went down with a panic, and perhaps because of what it had in hand.
    failed: bool,
    /// The driver has ended, and why.
    ended: Option<SubscribeError>,
}

impl State {
    /// Asks for confirmation; `None` when there is nothing to confirm.
    fn confirm(
        &mut self,
    ) -> Result<Option<oneshot::Receiver<Result<(), SubscribeError>>>, SubscribeError> {
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an answer to what the stream of `generation` delivered, or the one there is now.
    fn answer(&self, generation: Option<u64>, record: impl FnOnce(&mut Answers)) {
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
    fn hand_over(
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

    fn detach(&self) {
        self.state().detached = true;
        self.wake.notify_one();
    }
}

/// The consumer's side of credit: what the application took, given back in pieces.
#[derive(Clone, Debug)]
struct Credit {
    events: u64,
    bytes: u64,
    taken_events: u64,
    taken_bytes: u64,
    /// The stream that delivered what was taken.
    generation: u64,
    /// So little credit that the broker could be waiting for each bit of it.
    scarce: bool,
}

impl Credit {
    fn new(options: &ConsumerOptions) -> Self {
        let (events, bytes) = (options.credit_events.max(1), options.credit_bytes.max(1));
        Self {
            events,
            bytes,
            taken_events: 0,
            taken_bytes: 0,
            generation: 0,
            scarce: bytes < 2 * FRAME_BYTES_MAX as u64,
        }
    }

    /// The application took a delivery of `bytes`. Half of the credit is given back at once: rarely enough to be
    /// cheap, and early enough that the broker never runs dry.
    fn taken(&mut self, generation: u64, bytes: u64, shared: &Shared) {
        if generation != self.generation {
            // A new stream started with its own full credit.
            (self.generation, self.taken_events, self.taken_bytes) = (generation, 0, 0);
        }
        self.taken_events += 1;
        self.taken_bytes += bytes;
        if self.taken_events * 2 >= self.events || self.taken_bytes * 2 >= self.bytes {
            self.give_back(shared);
        }
    }

    fn give_back_when_idle(&mut self, shared: &Shared) {
        if self.scarce && self.taken_events > 0 {
            self.give_back(shared);
        }
    }

    fn give_back(&mut self, shared: &Shared) {
        {
            let mut state = shared.state();
            if state.generation == self.generation {
                state.taken_events += self.taken_events;
                state.taken_bytes += self.taken_bytes;
            }
        }
        (self.taken_events, self.taken_bytes) = (0, 0);
        shared.wake.notify_one();
    }
}
