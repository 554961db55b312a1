//! `--timeout`: how long a command waits for what it is there for. It ends with an error then, and an exit code of its own.

use std::time::Duration;

/// Exit code when it is over, as that of `timeout`.
pub(super) const EXIT_CODE: u8 = 124;

/// How long, if not for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimit(Option<Duration>);

/// It was over.
#[derive(Debug, thiserror::Error)]
#[error("{what} within {limit:?}{}", why.as_ref().map_or_else(String::new, |why| format!(": {why}")))]
pub(super) struct TimeIsOver {
    what: String,
    limit: Duration,
    why: Option<String>,
}

impl TimeIsOver {
    /// `what` did not happen. The reason is another error below this one.
    pub(super) fn new(what: &str, limit: Duration) -> Self {
        Self {
            what: what.to_owned(),
            limit,
            why: None,
        }
    }
}

impl TimeLimit {
    /// Of a flag, in milliseconds.
    pub(super) fn new(ms: Option<u64>) -> Self {
        Self(ms.map(Duration::from_millis))
    }

    /// This long.
    pub(super) fn after(limit: Duration) -> Self {
        Self(Some(limit))
    }

    pub(super) fn get(self) -> Option<Duration> {
        self.0
    }

    /// Refuses to go on after `waited`. `what` did not happen, and `why` if that is known.
    pub(super) fn check(
        self,
        waited: Duration,
        what: &str,
        why: Option<&str>,
    ) -> Result<(), TimeIsOver> {
        match self.0 {
            Some(limit) if waited >= limit => Err(TimeIsOver {
                what: what.to_owned(),
                limit,
                why: why.map(str::to_owned),
            }),
            _ => Ok(()),
        }
    }

    /// What `work` gives, if that does not take too long; else `what` is the matter.
    pub(super) async fn of<T>(
        self,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, TimeIsOver> {
        let Some(limit) = self.0 else {
            return Ok(work.await);
        };
        let done = tokio::time::timeout(limit, work).await;
        done.map_err(|_| TimeIsOver::new(what, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_said_with_its_reason() {
        let second = Duration::from_secs(1);
        let limit = TimeLimit::new(Some(1_000));
        assert!(limit.check(second / 2, "nothing came", None).is_ok());
        let over = limit.check(second, "nothing came", Some("it is paused"));
        let over = over.expect_err("over").to_string();
        assert_eq!(over, "nothing came within 1s: it is paused");
        assert_eq!(limit.of("x", async { 7 }).await.expect("in time"), 7);
        let never = std::future::pending::<()>();
        let over = limit.of("it is not there", never).await.expect_err("over");
        assert_eq!(over.to_string(), "it is not there within 1s");
        assert!(TimeLimit::new(None).check(second * 100, "x", None).is_ok());
    }
}
