//! The tasks of a run, from its warm-up to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use tokio::task::JoinSet;

use super::run::{Phase, Run};

/// The publishers and consumers of a run, each a task that hands something back at its end. Dropping it ends them.
pub struct Clients<P, C> {
    run: Arc<Run>,
    publishers: JoinSet<anyhow::Result<P>>,
    consumers: JoinSet<anyhow::Result<C>>,
}

impl<P: Send + 'static, C: Send + 'static> Clients<P, C> {
    /// No clients yet.
    #[must_use]
    pub fn new(run: Arc<Run>) -> Self {
        Self {
            run,
            publishers: JoinSet::new(),
            consumers: JoinSet::new(),
        }
    }

    /// Starts a publisher, which ends once the run drains.
    pub fn start_publisher(
        &mut self,
        task: impl Future<Output = anyhow::Result<P>> + Send + 'static,
    ) {
        self.publishers.spawn(task);
    }

    /// Starts a consumer, which ends once the run is done.
    pub fn start_consumer(
        &mut self,
        task: impl Future<Output = anyhow::Result<C>> + Send + 'static,
    ) {
        self.consumers.spawn(task);
    }

    /// Lets the load run for `time`.
    ///
    /// # Errors
    /// A client failed or ended; it is not waited for the rest of the time then.
    pub async fn run_for(&mut self, time: Duration) -> anyhow::Result<()> {
        let failed = tokio::select! {
            () = tokio::time::sleep(time) => return Ok(()),
            Some(ended) = self.publishers.join_next() => ended?.err(),
            Some(ended) = self.consumers.join_next() => ended?.err(),
        };
        match failed {
            Some(error) => Err(error),
            None => bail!("a client ended before its time"),
        }
    }

    /// Lets the run drain, and waits until all publishers have their answers.
    ///
    /// # Errors
    /// One of them failed.
    pub async fn stop_publishing(&mut self) -> anyhow::Result<Vec<P>> {
        self.run.enter(Phase::Drain);
        all_of(&mut self.publishers).await
    }

    /// Ends the run, and waits for all consumers.
    ///
    /// # Errors
    /// One of them failed.
    pub async fn stop(mut self) -> anyhow::Result<Vec<C>> {
        self.run.enter(Phase::Done);
        all_of(&mut self.consumers).await
    }
}

async fn all_of<T: 'static>(tasks: &mut JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_ends_early_ends_the_run() {
        let check = async |ended: anyhow::Result<u8>, expected: &str| {
            let mut clients = Clients::<u8, u8>::new(Run::new());
            clients.start_publisher(std::future::pending());
            clients.start_consumer(async { ended });
            let error = clients.run_for(Duration::from_secs(1)).await;
            let error = error.expect_err("it ended early");
            assert_eq!(error.to_string(), expected);
        };
        check(Ok(1), "a client ended before its time").await;
        check(Err(anyhow::anyhow!("refused")), "refused").await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_clients_hand_back_is_collected() {
        let run = Run::new();
        let mut clients = Clients::new(Arc::clone(&run));
        let publishing = Arc::clone(&run);
        clients.start_publisher(async move {
            while publishing.is_publishing() {
                tokio::task::yield_now().await;
            }
            Ok("published")
        });
        clients.start_consumer(async move {
            run.done().await;
            Ok("consumed")
        });
        clients.run_for(Duration::ZERO).await.expect("both run");
        let published = clients.stop_publishing().await.expect("it ends");
        let consumed = clients.stop().await.expect("it ends");
        assert_eq!((published, consumed), (vec!["published"], vec!["consumed"]));
    }
}
