//! Work that the system may never come back from, such as reading a file of a network that is gone. It has a thread of its own that
//! nobody waits for, not even the end of the program, while one of those for blocking work would be.

use std::time::Duration;

use tokio::sync::oneshot;

use super::executor;

/// Runs `work` on such a thread and answers it. Dropping the answer does not stop the work.
///
/// # Errors
///
/// It panicked, or the system has no thread left.
pub(crate) async fn unwaited<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, answer) = oneshot::channel();
    // Who asked may have gone.
    let started = executor::thread(name, move || drop(done.send(work())));
    started.map_err(|error| format!("no thread can be started for it: {error}"))?;
    answer
        .await
        .map_err(|_| format!("the thread `{name}` ended by a fault of its own"))
}

/// The same for as long as `time`.
///
/// # Errors
///
/// As [`unwaited`], or it took longer.
pub(crate) async fn unwaited_for<T: Send + 'static>(
    time: Duration,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let done = tokio::time::timeout(time, unwaited(name, work)).await;
    done.unwrap_or_else(|_| {
        Err(format!(
            "it has taken {time:?} and is not done; see to the disk or the network that the files are on"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_given_up_and_what_panics_is_told() {
        assert_eq!(unwaited("test", || 7).await, Ok(7));
        let panicked = unwaited("test", || panic!("a fault")).await;
        let why = panicked.expect_err("it panicked");
        assert!(why.contains("`test`"), "{why}");
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let hanging = unwaited_for(Duration::from_secs(5), "test", move || hangs.recv().is_ok());
        let why = hanging.await.expect_err("it hangs");
        assert!(why.contains("5s"), "{why}");
        drop(release);
    }
}
