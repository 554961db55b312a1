//! Publishing. A [`Publisher`] encodes events into batches as they are sent; one driver task owns the stream, sends
//! the batches within the broker's credit, keeps them until they are answered, and sends them again after a loss.
//!
//! - `open_batches`: the batches being filled, per topic. Pure.
//! - `outstanding_limit`: how much may be outstanding. Pure.
//! - `ticket`: what became of a batch, and the tickets that wait for it.
//! - `shared`: what publishers and the driver share: all of these, and who waits.
//! - `unanswered_batches`: the batches that have a number and no answer. Pure.
//! - `window`: what has numbers that count on, while it is there. Pure.
//! - `stream`: one stream, until it is lost: what was sent on it, within which credit.
//! - `driver`: the task, which opens one stream after the other.

mod driver;
mod open_batches;
mod outstanding_limit;
pub(crate) mod path_bounds;
mod shared;
mod stream;
mod ticket;
mod unanswered_batches;
mod window;

use std::sync::Arc;

use tidegate_wire::stream::Connection;
use tokio::sync::oneshot;

use self::driver::Driver;
use self::outstanding_limit::Room;
use self::shared::Shared;
pub use self::ticket::{PublishTicket, Published};
use crate::error::{ConnectError, PublishError};
use crate::event::Event;
use crate::link::Link;
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
    pub(crate) async fn open<C: Connection>(
        link: Arc<Link<C>>,
        options: PublisherOptions,
    ) -> Result<Self, PublishError> {
        let established = link.established().await;
        let limits = established.map_err(PublishError::Connection)?.limits;
        let shared = Arc::new(Shared::new(&options, limits));
        let (opened_sender, opened) = oneshot::channel();
        let spawner = link.spawner.clone();
        let driver = Driver::new(link, Arc::clone(&shared), &options, opened_sender);
        let publisher = Self {
            handle: Arc::new(Handle { shared }),
        };
        spawner.spawn(driver.run());
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

    /// Bytes that an event may have with the broker that this publisher was opened on, as the protocol encodes it: payload, headers
    /// and key.
    #[must_use]
    pub fn event_bytes_max(&self) -> usize {
        self.handle.shared.event_bytes_max()
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
