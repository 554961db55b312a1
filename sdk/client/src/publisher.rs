//! Publishing. A [`Publisher`] encodes events into batches as they are sent; one driver task owns the stream, sends
//! the batches within the broker's credit, keeps them until they are answered, and sends them again after a loss.
//!
//! - `gather`: the batches being filled, per topic. Pure.
//! - `room`: how much may be outstanding. Pure.
//! - `ticket`: what became of a batch, and the tickets that wait for it.
//! - `driver`: the task.

mod driver;
mod gather;
mod room;
mod ticket;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_wire::event::EventCheckError;
use tidegate_wire::limits::{ENVELOPE_BYTES_MAX, TOPIC_BYTES_MAX};
use tidegate_wire::{Limits, pb};
use tokio::sync::{Mutex as AsyncMutex, Notify, oneshot};
use tokio::time::Instant;

use self::driver::Driver;
use self::gather::{Gatherer, Pushed};
use self::room::Room;
pub use self::ticket::{PublishTicket, Published};
use crate::client::ClientHandle;
use crate::error::{ConnectError, PublishError};
use crate::event::Event;
use crate::options::PublisherOptions;

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
        let mut event = shared.check(topic, event)?;
        match shared.push(Room::take_in_passing, topic, &mut event)? {
            Some(ticket) => Ok(ticket),
            None => shared.push_in_turn(topic, event).await,
        }
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

    /// Why what was sent is not answered at present, in words for people: what the broker says while it refuses for now, or
    /// that the connection is lost. It is sent again until then. `None` while nothing is in the way.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        self.handle.shared.state().obstacle.clone()
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
    /// Room was given back, for the sender whose turn it is.
    given_back: Notify,
    /// Held by the sender whose turn it is; those after it wait for it, in order.
    turn: AsyncMutex<()>,
    limits: Limits,
}

/// An event that may be sent, as it is encoded.
struct Checked {
    event: pb::Event,
    /// Bytes of it encoded.
    size: usize,
}

/// What is changed under the lock, each time for well under a microsecond.
struct State {
    gatherer: Gatherer,
    room: Room,
    /// No publisher is left; the driver ends when everything is resolved.
    finishing: bool,
    /// Set once: why nothing can be published any more.
    closed: Option<PublishError>,
    /// First error since the last flush that no ticket was waiting for.
    unreported: Option<PublishError>,
    /// Why nothing is answered at present.
    obstacle: Option<String>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("room", &self.state().room)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(options: &PublisherOptions, limits: Limits) -> Self {
        let frame_room = limits.frame_bytes_max.saturating_sub(ENVELOPE_BYTES_MAX);
        let gatherer = Gatherer::new(
            options.batch_bytes_max.min(frame_room),
            limits.batch_events_max,
        );
        Self {
            state: Mutex::new(State {
                gatherer,
                room: Room::new(
                    options.outstanding_events_max,
                    options.outstanding_bytes_max,
                ),
                finishing: false,
                closed: None,
                unreported: None,
                obstacle: None,
            }),
            wake: Notify::new(),
            progress: Notify::new(),
            given_back: Notify::new(),
            turn: AsyncMutex::new(()),
            limits,
        }
    }

    /// A panic elsewhere while the lock was held leaves the state usable: it is only moved in whole steps.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks what can be checked here, so that one bad event does not cost a whole batch.
    fn check(&self, topic: &str, event: Event) -> Result<Checked, PublishError> {
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
        Ok(Checked { event, size })
    }

    /// Puts an event into its batch, if `take` finds room for it.
    fn push(
        &self,
        take: impl FnOnce(&mut Room, usize) -> Option<usize>,
        topic: &str,
        Checked { event, size }: &mut Checked,
    ) -> Result<Option<PublishTicket>, PublishError> {
        let Pushed { fate, index, wake } = {
            let mut state = self.state();
            if let Some(error) = &state.closed {
                return Err(error.clone());
            }
            let Some(bytes) = take(&mut state.room, *size) else {
                return Ok(None);
            };
            state
                .gatherer
                .push(topic, event, *size, bytes, Instant::now)
        };
        if wake {
            self.wake.notify_one();
        }
        Ok(Some(PublishTicket::new(fate, index)))
    }

    /// The same behind everybody who waits already, as soon as there is room.
    async fn push_in_turn(
        &self,
        topic: &str,
        mut event: Checked,
    ) -> Result<PublishTicket, PublishError> {
        let waiting = Waiting::begin(self);
        if waiting.yields {
            tokio::task::yield_now().await;
        }
        let _turn = self.turn.lock().await;
        loop {
            if let Some(ticket) = self.push(Room::take, topic, &mut event)? {
                return Ok(ticket);
            }
            // Only the one whose turn it is waits here, and what is given back meanwhile is remembered.
            self.given_back.notified().await;
        }
    }

    /// Gives the room of a resolved batch to whoever waits.
    fn give_back(&self, events: usize, bytes: usize) {
        if self.state().room.give_back(events, bytes) {
            self.given_back.notify_one();
        }
    }

    /// Resolves everything that is still being gathered, and refuses whatever comes later, with `error`.
    fn close(&self, error: &PublishError) {
        let gathered = {
            let mut state = self.state();
            state.closed.get_or_insert_with(|| error.clone());
            state.gatherer.clear()
        };
        // Whoever waits finds it closed, one after the other.
        self.given_back.notify_one();
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

/// A sender that waits, for as long as this lives: it may be given up.
struct Waiting<'a> {
    shared: &'a Shared,
    /// It should let others run first.
    yields: bool,
}

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let yields = shared.state().room.wait();
        Self { shared, yields }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.state().room.waited();
    }
}
