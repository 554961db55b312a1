//! Patience with a peer: a time limit that counts only time in which this process runs. On a machine that is too busy, or that stood
//! still, an answer may have come long ago and wait to be read; that is not held against whoever sent it. The client's attempts to
//! connect are limited the same way (`sdk/client/src/attempts.rs`).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

/// A limit is waited for in so many parts. One that is over too late counts no more than the others: so a standstill counts as one
/// part at most, and where everything takes twice as long as it should, so does the limit.
const PARTS: u32 = 20;

/// What is left of a time limit.
#[derive(Debug)]
pub(crate) struct Patience {
    part: Duration,
    left: u32,
}

/// It did not come within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfPatience;

impl Patience {
    /// A limit that begins when something is waited for.
    pub(crate) fn new(within: Duration) -> Self {
        Self {
            part: within / PARTS,
            left: PARTS,
        }
    }

    /// Waits for `work` within what is left of the limit. What is ready is taken, however late it is.
    ///
    /// # Errors
    ///
    /// It did not come.
    ///
    /// # Cancel safety
    ///
    /// As `work`. The part that had begun is not counted.
    pub(crate) async fn wait<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, OutOfPatience> {
        let mut work = pin!(work);
        while self.left > 0 {
            tokio::select! {
                biased;
                done = work.as_mut() => return Ok(done),
                () = sleep(self.part) => self.left -= 1,
            }
        }
        Err(OutOfPatience)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_as_long_as_it_says_over_all_that_is_waited_for() {
        let begun = Instant::now();
        let mut patience = Patience::new(LIMIT);
        let first = sleep(LIMIT * 2 / 5);
        assert_eq!(patience.wait(first).await, Ok(()));
        assert_eq!(patience.wait(pending::<()>()).await, Err(OutOfPatience));
        assert!(begun.elapsed() >= LIMIT && begun.elapsed() <= LIMIT * 11 / 10);
        assert_eq!(patience.wait(pending::<()>()).await, Err(OutOfPatience));
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_ran_is_not_held_against_the_peer() {
        let mut patience = Patience::new(LIMIT);
        let waiting = async {
            // As after a standstill: the clock has gone on, and nobody was asked.
            tokio::time::advance(10 * LIMIT).await;
            sleep(LIMIT / 2).await;
        };
        assert_eq!(patience.wait(waiting).await, Ok(()));
    }
}
