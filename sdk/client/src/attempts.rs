//! Attempts to reach the broker. While nothing is heard of one, another is made beside it, since a fresh one asks at once where an
//! old one waits ever longer between its packets; one that was answered is left alone, however long the path is. When one fails, the
//! next waits for the back-off. What comes of it, and which errors end it, is the supervisor's business.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
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

/// An attempt of which nothing was heard for so long is given up: others have been made meanwhile.
const SILENT_MAX: Duration = Duration::from_secs(7);

/// An attempt that was answered has so long in all: a handshake takes three round trips, and more where packets are lost.
const ANSWERED_MAX: Duration = Duration::from_secs(20);

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
    let mut attempts = FuturesUnordered::new();
    // Of those under way, whether they were answered.
    let mut answers: Vec<Answered> = Vec::new();
    let mut waits = SILENT_BEFORE_NEXT.iter().cycle();
    let mut next_at = Instant::now() + first_wait;
    loop {
        tokio::select! {
            biased;
            Some((answered, dialed)) = attempts.next() => {
                let answered: Answered = answered;
                answers.retain(|one| !one.is(&answered));
                match dialed {
                    Ok(connected) => return Ok(connected),
                    Err(error) if ends(&error) => return Err(error),
                    Err(error) if attempts.is_empty() => {
                        let wait = backoff.next_after(error.retry_after());
                        next_at = Instant::now() + wait;
                    }
                    // Others go on, and what is planned beside them too.
                    Err(_) => {}
                }
            }
            () = tokio::time::sleep_until(next_at) => {
                let wait = waits.next().copied().unwrap_or(SILENT_MAX);
                next_at = Instant::now() + wait;
                if answers.iter().any(Answered::is_answered) {
                    continue;
                }
                let answered = Answered::default();
                answers.push(answered.clone());
                attempts.push(attempt(dialer, answered));
            }
        }
    }
}

async fn attempt<K: Connector>(
    dialer: &Dialer<K>,
    answered: Answered,
) -> (Answered, Dialed<K::Connection>) {
    let out_of_time = async {
        tokio::time::sleep(SILENT_MAX).await;
        if !answered.is_answered() {
            return SILENT_MAX;
        }
        tokio::time::sleep(ANSWERED_MAX.saturating_sub(SILENT_MAX)).await;
        ANSWERED_MAX
    };
    let dialed = tokio::select! {
        biased;
        dialed = dialer.dial(&answered) => dialed,
        waited = out_of_time => Err(ConnectError::TimedOut {
            addr: dialer.options.addr.clone(),
            waited,
            source: None,
        }),
    };
    (answered, dialed)
}
