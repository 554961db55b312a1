//! What publishers and their driver share: the batches being filled and the room for them, behind one short lock, and how those who
//! wait are told. No task and no stream here.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_wire::event::EventCheckError;
use tidegate_wire::limits::{ENVELOPE_BYTES_MAX, TOPIC_BYTES_MAX};
use tidegate_wire::{Limits, pb};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;

use super::open_batches::{Gatherer, Pushed};
use super::outstanding_limit::Room;
use super::ticket::PublishTicket;
use crate::error::PublishError;
use crate::event::Event;
use crate::options::{OUTSTANDING_BYTES, PublisherOptions};

/// What publishers and their driver share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something for the driver to look at: a batch was begun, or the last publisher is gone.
    pub(super) wake: Notify,
    /// A batch was resolved.
    pub(super) progress: Notify,
    /// Room was given back, for the sender whose turn it is.
    given_back: Notify,
    /// Held by the sender whose turn it is; those after it wait for it, in order.
    turn: AsyncMutex<()>,
    limits: Limits,
}

/// An event that may be sent, as it is encoded.
pub(super) struct Checked {
    event: pb::Event,
    /// Bytes of it encoded.
    size: usize,
}

/// What is changed under the lock, each time for well under a microsecond.
pub(super) struct State {
    pub(super) gatherer: Gatherer,
    pub(super) room: Room,
    /// No publisher is left; the driver ends when everything is resolved.
    pub(super) finishing: bool,
    /// Set once: why nothing can be published any more.
    pub(super) closed: Option<PublishError>,
    /// First error since the last flush that no ticket was waiting for.
    pub(super) unreported: Option<PublishError>,
    /// Why nothing is answered at present.
    pub(super) obstacle: Option<String>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("room", &self.state().room)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(options: &PublisherOptions, limits: Limits) -> Self {
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
                    match options.outstanding_bytes_max {
                        0 => OUTSTANDING_BYTES,
                        given => given,
                    },
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
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn event_bytes_max(&self) -> usize {
        self.limits.event_bytes_max
    }

    /// Checks what can be checked here, so that one bad event does not cost a whole batch.
    pub(super) fn check(&self, topic: &str, event: Event) -> Result<Checked, PublishError> {
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
    pub(super) fn push(
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
    pub(super) async fn push_in_turn(
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

    /// Gives the room of a resolved batch to whoever waits, and does in the same turn what else its end changes.
    pub(super) fn give_back(&self, events: usize, bytes: usize, change: impl FnOnce(&mut State)) {
        let is_awaited = {
            let mut state = self.state();
            change(&mut state);
            state.room.give_back(events, bytes)
        };
        if is_awaited {
            self.given_back.notify_one();
        }
    }

    /// Resolves everything that is still being gathered, and refuses whatever comes later, with `error`.
    pub(super) fn close(&self, error: &PublishError) {
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
