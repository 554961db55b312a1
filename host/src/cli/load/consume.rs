//! Consumers, which ack each event and measure how long it took.

use super::latencies::Latencies;
use super::run::Run;

/// Receives the events of one subscription.
pub trait Receiver: Send {
    /// An event that was handed out.
    type Delivery: Send;

    /// The next event. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = anyhow::Result<Self::Delivery>> + Send;

    /// What this consumer makes of it.
    ///
    /// # Errors
    /// It is none of the run.
    fn look(&mut self, delivery: &Self::Delivery) -> anyhow::Result<Seen>;

    /// It is done with.
    fn ack(&mut self, delivery: Self::Delivery) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What a consumer makes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it is not even acked.
    Ignored,
    /// It came, and is acked.
    Unwanted,
    /// The same, and it counts.
    Wanted {
        /// When it was meant to be sent, in microseconds of the run's clock.
        sent_us: u64,
    },
}

/// Consumes until the run is done, and answers how long it took from the intended send to here, of wanted events that were sent
/// inside the window.
///
/// # Errors
/// The consumer ended, or got something that is none of the run.
pub async fn consume(receiver: &mut impl Receiver, run: &Run) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    let done = run.done();
    tokio::pin!(done);
    loop {
        let delivery = tokio::select! {
            biased;
            () = &mut done => return Ok(latencies),
            delivery = receiver.next() => delivery?,
        };
        match receiver.look(&delivery)? {
            Seen::Ignored => continue,
            Seen::Unwanted => {}
            Seen::Wanted { sent_us } => {
                if run.is_measured(sent_us) {
                    latencies.record(run.now_us().saturating_sub(sent_us));
                }
                run.add_wanted();
            }
        }
        receiver.ack(delivery).await?;
        run.add_received();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load::Phase;

    // Hands out what it holds, the last first, and then nothing.
    struct Held {
        seen: Vec<Seen>,
        acked: usize,
    }

    impl Receiver for Held {
        type Delivery = Seen;

        async fn next(&mut self) -> anyhow::Result<Seen> {
            match self.seen.pop() {
                Some(seen) => Ok(seen),
                None => std::future::pending().await,
            }
        }

        fn look(&mut self, delivery: &Seen) -> anyhow::Result<Seen> {
            Ok(*delivery)
        }

        async fn ack(&mut self, _: Seen) -> anyhow::Result<()> {
            self.acked += 1;
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_is_ignored_is_not_acked_and_what_is_unwanted_does_not_count() {
        let run = Run::new();
        run.enter(Phase::Measure);
        let sent_us = run.now_us();
        let mut held = Held {
            seen: vec![Seen::Wanted { sent_us }, Seen::Unwanted, Seen::Ignored],
            acked: 0,
        };
        let ended = async {
            while run.counts().received < 2 {
                tokio::task::yield_now().await;
            }
            run.enter(Phase::Done);
        };
        let (latencies, ()) = tokio::join!(consume(&mut held, &run), ended);
        assert_eq!(latencies.expect("consumed").count(), 1);
        assert_eq!(held.acked, 2);
        let counts = run.counts();
        assert_eq!((counts.received, counts.wanted), (2, 1));
    }
}
