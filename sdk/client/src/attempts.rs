//! Attempts to reach the broker. While nothing is heard of one, another is made beside it, since a fresh one asks at once where an
//! old one waits ever longer between its packets. One that was heard of is left alone, however long the path is or the broker keeps it
//! waiting, and those of which nothing was heard are given up: a broker that is busy is not to be asked twice. When one fails, the next
//! waits for the back-off. What comes of it, and which errors end it, is the supervisor's business.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, poll_fn};
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
/// loses nothing by a machine that is too busy to look whether there is an answer.
const PARTS: u32 = 20;

/// Makes attempts until one succeeds, or `ends` says of the error of one that no other can.
///
/// # Errors
/// That error.
///
/// # Cancel safety
/// May be dropped at any time; all attempts are given up then.
pub(crate) async fn reach<K: Connector>(
    dialer: &Dialer<K>,
    backoff: &mut Backoff,
    first_wait: Duration,
    mut ends: impl FnMut(&ConnectError) -> bool,
) -> Dialed<K::Connection> {
    let mut under_way = UnderWay::default();
    let mut waits = SILENT_BEFORE_NEXT.iter().cycle();
    let mut next_at = Instant::now() + first_wait;
    loop {
        let heard = Arc::clone(&under_way.heard);
        tokio::select! {
            biased;
            dialed = under_way.next() => match dialed {
                Ok(connected) => return Ok(connected),
                Err(error) if ends(&error) => return Err(error),
                Err(error) => {
                    if matches!(error, ConnectError::Busy { .. }) {
                        // Of the others it has not heard, or has no time for them either.
                        under_way.give_up_silent();
                    }
                    // If others go on, so does what is planned beside them.
                    if under_way.attempts.is_empty() {
                        next_at = Instant::now() + backoff.next_after_error(&error);
                    }
                }
            },
            () = heard.notified() => under_way.give_up_silent(),
            () = tokio::time::sleep_until(next_at) => {
                let wait = match under_way.were_heard_of() {
                    true => QUIET_BEFORE_NEXT,
                    false => {
                        under_way.begin(dialer);
                        waits.next().copied().unwrap_or(SILENT_MAX)
                    }
                };
                next_at = Instant::now() + wait;
            }
        }
    }
}

/// The attempts that are being made, each with its own progress.
struct UnderWay<'a, C: tidegate_wire::stream::Connection> {
    attempts: Vec<Attempt<'a, C>>,
    /// Told when something is heard of one of them for the first time.
    heard: Arc<Notify>,
}

struct Attempt<'a, C: tidegate_wire::stream::Connection> {
    answered: Answered,
    /// What was heard of it when that was looked at last.
    seen: u64,
    dialing: BoxFuture<'a, Dialed<C>>,
}

impl<C: tidegate_wire::stream::Connection> Default for UnderWay<'_, C> {
    fn default() -> Self {
        Self {
            attempts: Vec::new(),
            heard: Arc::default(),
        }
    }
}

impl<'a, C: tidegate_wire::stream::Connection> UnderWay<'a, C> {
    fn begin<K: Connector<Connection = C>>(&mut self, dialer: &'a Dialer<K>) {
        let answered = Answered::telling(Arc::clone(&self.heard));
        self.attempts.push(Attempt {
            dialing: attempt(dialer, answered.clone()).boxed(),
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

async fn attempt<K: Connector>(dialer: &Dialer<K>, answered: Answered) -> Dialed<K::Connection> {
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
        dialed = dialer.dial(&answered) => dialed,
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
