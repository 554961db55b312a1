//! Waiting for states instead of for time. A timeout here never decides what a test means; it only ends a test
//! that would hang.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a test waits for something that must come. Generous, since machines that run tests are busy.
pub const WAIT: Duration = Duration::from_secs(60);

/// Pause between two looks at a state.
const POLL: Duration = Duration::from_millis(20);

/// Awaits `future`, which must complete within [`WAIT`]; `what` names it in the failure.
///
/// # Errors
/// It did not complete in time, or failed itself.
pub async fn within<T>(
    what: impl Display,
    future: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(WAIT, future).await {
        Ok(result) => result.with_context(|| what.to_string()),
        Err(_) => bail!("waited {WAIT:?} in vain for {what}"),
    }
}

/// Calls `look` until it returns a value.
///
/// # Errors
/// `look` failed, or returned none within [`WAIT`].
pub async fn wait_for<T, F>(what: impl Display, mut look: F) -> anyhow::Result<T>
where
    F: AsyncFnMut() -> anyhow::Result<Option<T>>,
{
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(value) = look().await.with_context(|| what.to_string())? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {WAIT:?} in vain for {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}
