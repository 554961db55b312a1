//! Consuming. A [`Consumer`] hands out deliveries; one driver task owns the stream, reads it as fast as the broker
//! sends within the credit, and sends back credit, acks and the like.
//!
//! - `delivery`: what an application gets, and how it answers.
//! - `acker`: answers from elsewhere, by position.
//! - `buffer`: what came and waits for the application. Pure.
//! - `extensions`: what was extended, of what is in hand. Pure.
//! - `in_hand`: what the application has got, has not answered, and still holds. Pure.
//! - `not_held`: what was answered too late. Pure.
//! - `unsent_answers`: answers on their way to the broker, joined into ranges. Pure.
//! - `ahead`: how far the application may go before the broker is told. Pure.
//! - `credit`: what the application took, given back in pieces.
//! - `wanted`: how much it takes in all. Pure.
//! - `shared`: what all of these and the driver share.
//! - `renewal`: how ack deadlines of what waits are kept from passing.
//! - `stream`: one stream, until it is lost: what the broker was told and asked on it.
//! - `driver`: the task, which opens one stream after the other.

mod acker;
mod ahead;
mod buffer;
mod come_again;
mod credit;
mod delivery;
mod driver;
mod extensions;
mod in_hand;
mod not_held;
mod renewal;
mod shared;
mod stream;
mod unsent_answers;
mod wanted;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tidegate_wire::stream::Connection;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::acker::Acker;
use self::credit::Credit;
pub use self::delivery::Delivery;
use self::driver::Driver;
use self::shared::{Next, Shared};
use self::wanted::Wanted;
use crate::error::{ConnectError, SubscribeError};
use crate::link::Link;
use crate::options::ConsumerOptions;

/// What the application is told while it has to answer before anything more comes.
const MOVES: &str = "the consumer goes on over another connection once what it has handed out is answered, or its ack deadlines have passed";

/// A live consumer of a durable subscription: an async stream of deliveries. Several consumers of one subscription
/// share its events.
///
/// After a lost connection it attaches again by itself. What it held then is no longer its own: deliveries not yet
/// taken are discarded, acks for those taken are dropped, and the broker delivers all of them again, to this
/// consumer or another: to one at a time that holds nothing else, since one of them may be what brought this one down.
/// It says how far it has handed deliveries out, so that what was never taken counts nothing.
///
/// When there is a better connection than the one it is on, it moves: nothing new is handed out until what the application has in hand is
/// answered, or its ack deadlines, and extended ones, have passed; what was handed out longer ago than that is waited for no more. What takes
/// longer than 30 s is waited for too, but new deliveries are handed out meanwhile. It moves as well when the broker says goodbye, which takes
/// answers for as long as it says then (5 s by default): what is answered later comes again, and its answer is lost as after a lost connection.
///
/// It ends (yields `None`) after an error that reconnecting cannot mend. Dropping it, or [`close`](Self::close),
/// gives its unacknowledged events back to the broker at once, and nothing counts as an attempt; unless it is dropped by
/// a panic, which is taken as a lost connection is.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    credit: Credit,
    /// When the ack deadline passes of what is handed out about now; found anew now and then.
    expires_ms: u64,
    /// Cancelled when the driver has ended.
    ended: CancellationToken,
}

impl Consumer {
    pub(crate) async fn open<C: Connection>(
        link: Arc<Link<C>>,
        subscription: String,
        options: ConsumerOptions,
        look: bool,
    ) -> Result<Self, SubscribeError> {
        let shared = Arc::new(Shared::new());
        let (opened_sender, opened) = oneshot::channel();
        let credit = Credit::new(&options);
        shared.state().wanted = Wanted::new(options.events_max);
        let spawner = link.spawner.clone();
        let driver = Driver::new(
            link,
            Arc::clone(&shared),
            subscription,
            look,
            credit.clone(),
            opened_sender,
        );
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let consumer = Self {
            shared,
            credit,
            expires_ms: u64::MAX,
            ended,
        };
        let closes = ClosedOnDrop(Arc::clone(&consumer.shared));
        spawner.spawn(async move {
            driver.run().await;
            drop((closes, guard));
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

    /// A handle that answers deliveries by their positions, from anywhere. Make it before the first of them is taken: of what was handed out
    /// before it is not known, when the consumer moves, that it was answered by its position.
    #[must_use]
    pub fn acker(&self) -> Acker {
        Acker::new(Arc::clone(&self.shared))
    }

    /// Waits until the broker confirms that all acks made so far are durable.
    ///
    /// # Errors
    /// [`SubscribeError::AcksLost`] when the connection was lost since the last confirmation with acks unconfirmed, which is told at once:
    /// whether the acks since then are durable, the next call says; [`SubscribeError::NotHeld`] when some of what was answered was too
    /// late, all else being durable; or why the consumer has ended.
    pub async fn flush_acks(&self) -> Result<(), SubscribeError> {
        let confirmed = self.shared.state().confirm()?;
        let Some(confirmed) = confirmed else {
            return Ok(());
        };
        self.shared.wake.notify_one();
        confirmed.await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// Why nothing can come at present, in words for people: what the broker says while it does not take this consumer for now,
    /// or that the connection is lost, or that the subscription is paused and why, or that it waits for answers before it moves. `None` while nothing is in the way, whether there are events or not.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let state = self.shared.state();
        let moves = || state.moves.then(|| MOVES.to_owned());
        state.obstacle.clone().or_else(moves)
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
        match self.shared.next(context) {
            Next::Delivery {
                encoded,
                number,
                late,
                ack_deadline_ms,
            } => {
                if late {
                    let now = Instant::now();
                    self.expires_ms = self.shared.expires_after(now, ack_deadline_ms);
                }
                self.credit
                    .taken(encoded.generation, encoded.bytes(), &self.shared);
                Poll::Ready(Some(encoded.decode(&self.shared, number, self.expires_ms)))
            }
            Next::Failed(error) => Poll::Ready(Some(Err(error))),
            Next::Ended => Poll::Ready(None),
            Next::NotHeard => Poll::Pending,
            Next::Wait => {
                self.credit.give_back_when_idle(&self.shared);
                Poll::Pending
            }
        }
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, SubscribeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(context)
    }
}

/// Ends what the application waits for, also when the driver's task ends with its runtime.
struct ClosedOnDrop(Arc<Shared>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        self.0.close(None);
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
