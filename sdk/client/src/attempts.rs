//! Attempts to reach the broker. While nothing is heard of one, another is made beside it, since a fresh one asks at once where an
//! old one waits ever longer between its packets. One that was heard of is left alone, however long the path is or the broker keeps it
//! waiting, and those of which nothing was heard are given up: a broker that is busy is not to be asked twice. When one fails, the next
//! waits for the back-off. What comes of it, and which errors end it, is the supervisor's business.

use std::iter::Cycle;
use std::pin::Pin;
use std::slice::Iter;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, poll_fn};
use tidegate_wire::stream::Connection;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::dial::{Dialed, Dialer};
use crate::error::ConnectError;
use crate::transport::{Answered, Connector};

/// How long nothing is heard of an attempt before another is made beside it, in turn: soon at first, for a broker that comes up a
/// moment later; then seldom, for one that is gone.
const SILENT_BEFORE_NEXT: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The same for one that was heard of before: longer than a busy broker keeps anybody waiting, so that this is a broker that has gone.
const QUIET_BEFORE_NEXT: Duration = Duration::from_secs(6);

/// An attempt of which nothing was heard for so long is given up: others have been made meanwhile.
const SILENT_MAX: Duration = Duration::from_secs(7);

/// An attempt that was heard of has so long in all: a handshake takes three round trips, and more where packets are lost, and a busy
/// broker begins it up to four seconds late.
const ANSWERED_MAX: Duration = Duration::from_secs(20);

/// In how many parts an attempt's time is waited for. One that is over too late counts no more than the others, so that an attempt
/// loses nothing by a machine that is too busy to look whether there is an answer. The broker's limits are made the same way, in
/// `host/src/runtime/patience.rs`, which is the original.
const PARTS: u32 = 20;

/// Attempts at one connection, which go on until one succeeds or nobody wants it any more. Dropping this gives all of them up.
pub(crate) struct Attempts<K: Connector> {
    dialer: Arc<Dialer<K>>,
    /// What those expect of the path that are begun from now on.
    pub(crate) expects_reordering: bool,
    under_way: UnderWay<K::Connection>,
    waits: Cycle<Iter<'static, Duration>>,
    next_at: Instant,
    /// The broker has said that it is not to be asked before.
    was_told: bool,
}

impl<K: Connector> Attempts<K> {
    /// The first is made after `first_wait`.
    pub(crate) fn new(
        dialer: &Arc<Dialer<K>>,
        first_wait: Duration,
        expects_reordering: bool,
    ) -> Self {
        Self {
            dialer: Arc::clone(dialer),
            expects_reordering,
            under_way: UnderWay::default(),
            waits: SILENT_BEFORE_NEXT.iter().cycle(),
            next_at: Instant::now() + first_wait,
            was_told: false,
        }
    }

    /// They are needed more than before: if none is under way, the next is made after `wait` at the latest, unless the broker said when.
    pub(crate) fn hurry(&mut self, wait: impl FnOnce() -> Duration) {
        if self.under_way.attempts.is_empty() && !self.was_told {
            self.next_at = self.next_at.min(Instant::now() + wait());
        }
    }

    /// What comes of the next one that is done. After an error there are others, if this is called again.
    ///
    /// # Errors
    /// Why it failed.
    ///
    /// # Cancel safety
    /// Cancel-safe: all goes on where it was.
    pub(crate) async fn next(&mut self, backoff: &mut Backoff) -> Dialed<K::Connection> {
        loop {
            let heard = Arc::clone(&self.under_way.heard);
            tokio::select! {
                biased;
                dialed = self.under_way.next() => {
                    if let Err(error) = &dialed {
                        self.plan_after(error, backoff);
                    }
                    return dialed;
                }
                () = heard.notified() => self.under_way.give_up_silent(),
                () = tokio::time::sleep_until(self.next_at) => self.begin(),
            }
        }
    }

    fn plan_after(&mut self, error: &ConnectError, backoff: &mut Backoff) {
        if matches!(error, ConnectError::Busy { .. }) {
            // Of the others it has not heard, or has no time for them either.
            self.under_way.give_up_silent();
        }
        // If others go on, so does what is planned beside them.
        if self.under_way.attempts.is_empty() {
            self.next_at = Instant::now() + backoff.next_after_error(error);
            self.was_told = error.retry_after().is_some();
        }
    }

    fn begin(&mut self) {
        let wait = match self.under_way.were_heard_of() {
            true => QUIET_BEFORE_NEXT,
            false => {
                self.under_way.begin(&self.dialer, self.expects_reordering);
                self.waits.next().copied().unwrap_or(SILENT_MAX)
            }
        };
        self.next_at = Instant::now() + wait;
    }
}

/// The attempts that are being made, each with its own progress.
struct UnderWay<C: Connection> {
    attempts: Vec<Attempt<C>>,
    /// Told when something is heard of one of them for the first time.
    heard: Arc<Notify>,
}

struct Attempt<C: Connection> {
    answered: Answered,
    /// What was heard of it when that was looked at last.
    seen: u64,
    dialing: BoxFuture<'static, Dialed<C>>,
}

impl<C: Connection> Default for UnderWay<C> {
    fn default() -> Self {
        Self {
            attempts: Vec::new(),
            heard: Arc::default(),
        }
    }
}

impl<C: Connection> UnderWay<C> {
    fn begin<K: Connector<Connection = C>>(
        &mut self,
        dialer: &Arc<Dialer<K>>,
        expects_reordering: bool,
    ) {
        let answered = Answered::telling(Arc::clone(&self.heard));
        let dialing = attempt(Arc::clone(dialer), answered.clone(), expects_reordering);
        self.attempts.push(Attempt {
            dialing: dialing.boxed(),
            answered,
            seen: 0,
        });
    }

    // What the first comes to that is done. Never, while there is none. Cancel-safe.
    async fn next(&mut self) -> Dialed<C> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Dialed<C>> {
        for index in 0..self.attempts.len() {
            let dialing = Pin::new(&mut self.attempts[index].dialing);
            if let Poll::Ready(dialed) = dialing.poll(context) {
                self.attempts.remove(index);
                return Poll::Ready(dialed);
            }
        }
        Poll::Pending
    }

    // Gives up all of which nothing was heard.
    fn give_up_silent(&mut self) {
        self.attempts.retain(|one| one.answered.heard() > 0);
    }

    // Whether anything was heard of one of them since this was asked last.
    fn were_heard_of(&mut self) -> bool {
        let mut any = false;
        for one in &mut self.attempts {
            let heard = one.answered.heard();
            any |= heard > one.seen;
            one.seen = heard;
        }
        any
    }
}

async fn attempt<K: Connector>(
    dialer: Arc<Dialer<K>>,
    answered: Answered,
    expects_reordering: bool,
) -> Dialed<K::Connection> {
    let out_of_time = async {
        wait(SILENT_MAX).await;
        if answered.heard() == 0 {
            return SILENT_MAX;
        }
        wait(ANSWERED_MAX.saturating_sub(SILENT_MAX)).await;
        ANSWERED_MAX
    };
    tokio::select! {
        biased;
        dialed = dialer.dial(&answered, expects_reordering) => dialed,
        waited = out_of_time => Err(ConnectError::TimedOut {
            addr: dialer.options.addr.clone(),
            waited,
            source: None,
        }),
    }
}

async fn wait(time: Duration) {
    for _ in 0..PARTS {
        tokio::time::sleep(time / PARTS).await;
    }
}
