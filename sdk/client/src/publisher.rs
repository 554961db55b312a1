//! Publishing. A [`Publisher`] encodes events into batches as they are sent; one driver task owns the stream, sends
//! the batches within the broker's credit, keeps them until they are answered, and sends them again after a loss.
//!
//! - `gather`: the batches being filled, per topic. Pure.
//! - `ticket`: what became of a batch, and the tickets that wait for it.
//! - `driver`: the task.

mod driver;
mod gather;
mod ticket;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_wire::event::EventCheckError;
use tidegate_wire::limits::{ENVELOPE_BYTES_MAX, TOPIC_BYTES_MAX};
use tidegate_wire::{Limits, pb};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::time::Instant;

use self::driver::Driver;
use self::gather::Gatherer;
pub use self::ticket::{PublishTicket, Published};
use crate::client::ClientHandle;
use crate::error::{ConnectError, PublishError};
use crate::event::Event;
use crate::options::PublisherOptions;

/// Events that a sender queues at most before it yields. Fewer cut batches short.
const SENDS_PER_TURN: usize = 512;

/// Publishes events. Cheap to clone, and safe to use from many tasks at once. Events of one topic sent by one task
/// keep their order.
///
/// When the last clone is dropped, what was sent is still published in the background, for as long as the program
/// runs; call [`flush`](Publisher::flush) to know.
#[derive(Clone, Debug)]
pub struct Publisher {
    handle: Arc<Handle>,
}

impl Publisher {
    pub(crate) async fn open(
        client: Arc<ClientHandle>,
        options: PublisherOptions,
    ) -> Result<Self, PublishError> {
        let session = client.session().await.map_err(PublishError::Connection)?;
        let shared = Arc::new(Shared::new(&options, session.limits));
        let (opened_sender, opened) = oneshot::channel();
        let driver = Driver::new(client, Arc::clone(&shared), &options, opened_sender);
        let publisher = Self {
            handle: Arc::new(Handle { shared }),
        };
        tokio::spawn(driver.run());
        let closed = || PublishError::Connection(Arc::new(ConnectError::Closed));
        opened.await.unwrap_or_else(|_| Err(closed()))?;
        Ok(publisher)
    }

    /// Queues `event` for `topic` and returns a ticket for its fate. Waits while as much is outstanding as the
    /// options allow. Dropping the ticket does not unpublish the event.
    ///
    /// # Errors
    /// When the event or the topic's name is beyond the limits, or the publisher has ended.
    ///
    /// # Cancel safety
    /// When the future is dropped before it is ready, the event was not queued.
    pub async fn send(&self, topic: &str, event: Event) -> Result<PublishTicket, PublishError> {
        let shared = &self.handle.shared;
        let (event, size) = shared.check(topic, event)?;
        let permits = shared.admit(size).await?;
        let ticket = shared.push(topic, event, size)?;
        permits.into_iter().for_each(SemaphorePermit::forget);
        Ok(ticket)
    }

    /// Publishes `event` to `topic` and waits until it is as durable as the topic promises. For many events,
    /// [`send`](Self::send) them and wait for their tickets: they share batches then.
    ///
    /// # Errors
    /// Why it was not published: see [`PublishError`].
    ///
    /// # Cancel safety
    /// When the future is dropped before it is ready, the event may be published or not.
    pub async fn publish(&self, topic: &str, event: Event) -> Result<Published, PublishError> {
        self.send(topic, event).await?.await
    }

    /// Waits until everything sent so far is answered, without the linger.
    ///
    /// # Errors
    /// The first error since the last flush of an event whose ticket nobody was waiting on.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let shared = &self.handle.shared;
        let target = {
            let mut state = shared.state();
            state.gatherer.release();
            state.gatherer.next_order()
        };
        shared.wake.notify_one();
        loop {
            let progress = shared.progress.notified();
            tokio::pin!(progress);
            // Registered before looking, so that no answer in between is missed.
            progress.as_mut().enable();
            {
                let mut state = shared.state();
                if state.gatherer.all_resolved_before(target) {
                    return match state.unreported.take() {
                        Some(error) => Err(error),
                        None => Ok(()),
                    };
                }
            }
            progress.await;
        }
    }
}

/// Ends the driver when the last publisher is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().finishing = true;
        self.shared.wake.notify_one();
    }
}

/// What publishers and their driver share.
struct Shared {
    state: Mutex<State>,
    /// Something for the driver to look at: a batch was begun, or the last publisher is gone.
    wake: Notify,
    /// A batch was resolved.
    progress: Notify,
    /// Room for outstanding bytes and events. Taken by senders, given back by the driver.
    bytes: Semaphore,
    events: Semaphore,
    bytes_max: usize,
    limits: Limits,
    /// How many were sent, so that a sender yields every so often.
    sends: AtomicUsize,
}

/// What is changed under the lock, each time for well under a microsecond.
struct State {
    gatherer: Gatherer,
    /// No publisher is left; the driver ends when everything is resolved.
    finishing: bool,
    /// Set once: why nothing can be published any more.
    closed: Option<PublishError>,
    /// First error since the last flush that no ticket was waiting for.
    unreported: Option<PublishError>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("bytes_free", &self.bytes.available_permits())
            .field("events_free", &self.events.available_permits())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(options: &PublisherOptions, limits: Limits) -> Self {
        // A semaphore is asked for at most a u32 at once.
        let bytes_max = options.outstanding_bytes_max.clamp(1, u32::MAX as usize);
        let events_max = options
            .outstanding_events_max
            .clamp(1, Semaphore::MAX_PERMITS);
        let frame_room = limits.frame_bytes_max.saturating_sub(ENVELOPE_BYTES_MAX);
        let gatherer = Gatherer::new(
            options.batch_bytes_max.min(frame_room),
            limits.batch_events_max,
        );
        Self {
            state: Mutex::new(State {
                gatherer,
                finishing: false,
                closed: None,
                unreported: None,
            }),
            wake: Notify::new(),
            progress: Notify::new(),
            bytes: Semaphore::new(bytes_max),
            events: Semaphore::new(events_max),
            bytes_max,
            limits,
            sends: AtomicUsize::new(1),
        }
    }

    /// A panic elsewhere while the lock was held leaves the state usable: it is only moved in whole steps.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what can be checked here, so that one bad event does not cost a whole batch. Returns the event as it
    /// is encoded, and its size.
    fn check(&self, topic: &str, event: Event) -> Result<(pb::Event, usize), PublishError> {
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
            return Err(PublishError::TopicName {
                length: topic.len(),
            });
        }
        event.check_headers(&self.limits)?;
        let event = pb::Event::from(event);
        let size = prost::Message::encoded_len(&event);
        let max = self.limits.event_bytes_max;
        if size > max {
            return Err(EventCheckError::TooLarge { size, max }.into());
        }
        Ok((event, size))
    }

    /// Waits for room for one event of `size` bytes.
    async fn admit(&self, size: usize) -> Result<[SemaphorePermit<'_>; 2], PublishError> {
        // Room that is there is taken without waiting, so without this a sender in a loop might never let others run, the
        // driver among them.
        let sends = self.sends.fetch_add(1, Ordering::Relaxed);
        if sends.is_multiple_of(SENDS_PER_TURN) {
            tokio::task::yield_now().await;
        }
        Ok([
            self.take(&self.events, 1).await?,
            self.take(&self.bytes, self.bytes_taken(size)).await?,
        ])
    }

    /// Most of the time there is room, and asking for it costs much less than waiting for it.
    async fn take<'a>(
        &self,
        room: &'a Semaphore,
        permits: u32,
    ) -> Result<SemaphorePermit<'a>, PublishError> {
        if let Ok(taken) = room.try_acquire_many(permits) {
            return Ok(taken);
        }
        let taken = room.acquire_many(permits).await;
        taken.map_err(|_| self.closed_error())
    }

    /// How much of the room for bytes an event of `size` takes: never more than there is in all.
    fn bytes_taken(&self, size: usize) -> u32 {
        // `bytes_max` is within a u32.
        size.clamp(1, self.bytes_max) as u32
    }

    fn push(
        &self,
        topic: &str,
        event: pb::Event,
        size: usize,
    ) -> Result<PublishTicket, PublishError> {
        let admitted = self.bytes_taken(size) as usize;
        let pushed = {
            let mut state = self.state();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            state
                .gatherer
                .push(topic, event, size, admitted, Instant::now)
        };
        if pushed.wake {
            self.wake.notify_one();
        }
        Ok(PublishTicket::new(pushed.fate, pushed.index))
    }

    /// Gives the room of a resolved batch to whoever waits.
    fn give_back(&self, events: usize, bytes: usize) {
        self.events.add_permits(events);
        self.bytes.add_permits(bytes);
    }

    fn closed_error(&self) -> PublishError {
        let state = self.state();
        let closed = || PublishError::Connection(Arc::new(ConnectError::Closed));
        state.closed.clone().unwrap_or_else(closed)
    }

    /// Resolves everything that is still being gathered, and refuses whatever comes later, with `error`.
    fn close(&self, error: &PublishError) {
        let gathered = {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| error.clone());
            state.gatherer.clear()
        };
        self.events.close();
        self.bytes.close();
        let mut unreported = false;
        for batch in gathered {
            unreported |= batch.fate.resolve(Err(error.clone()), batch.events);
        }
        if unreported {
            self.state().unreported.get_or_insert_with(|| error.clone());
        }
        self.progress.notify_waiters();
    }
}
