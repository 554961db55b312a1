//! Publishers: in a closed loop, with so many events unanswered at all times, or at a fixed rate.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::Context;
use futures_util::FutureExt;

use super::latencies::Latencies;
use super::pace::{Rate, pace};
use super::run::Run;

/// Events that a publisher at a fixed rate may have unanswered: so many that it never waits.
pub const PACED_OUTSTANDING: usize = 1 << 16;

/// Sends events to a broker, which answers each sender in the order in which it sent.
pub trait Sender: Send {
    /// Resolves when the broker has answered for an event. May be polled in between and left alone again.
    type Ticket: Future<Output = anyhow::Result<()>> + Unpin + Send;

    /// Whether the time until each answer is measured in a closed loop too. It takes a look at the clock for each event instead
    /// of one for each burst.
    const TIMES_EACH: bool;

    /// Sends event `number`, which is meant to be sent at `sent_us` microseconds of the run's clock.
    fn send(
        &mut self,
        number: u64,
        sent_us: u64,
    ) -> impl Future<Output = anyhow::Result<Self::Ticket>> + Send;
}

/// Which events a publisher sends.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Number of the first.
    pub first: u64,
    /// How many; fewer when the run drains before.
    pub max: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            first: 0,
            max: u64::MAX,
        }
    }
}

/// What a publisher did. All of it was answered.
#[derive(Debug)]
pub struct Published {
    /// Events.
    pub events: u64,
    /// From the (intended) send to the answer, of events sent inside the window.
    pub latencies: Latencies,
}

/// Publishes with `outstanding` events unanswered at all times, until the run drains or all `numbers` are sent.
///
/// # Errors
/// An event could not be sent, or was not answered well.
pub async fn publish<S: Sender>(
    sender: &mut S,
    run: &Run,
    numbers: Numbers,
    outstanding: usize,
) -> anyhow::Result<Published> {
    let mut unanswered = Unanswered::new();
    let mut sent = 0;
    while sent < numbers.max && run.is_publishing() {
        let mut now = run.now_us();
        while unanswered.tickets.len() < outstanding && sent < numbers.max {
            if S::TIMES_EACH {
                now = run.now_us();
            }
            let ticket = sender.send(numbers.first + sent, now).await?;
            unanswered.tickets.push_back((now, ticket));
            sent += 1;
        }
        unanswered.settle(run, S::TIMES_EACH).await?;
    }
    while !unanswered.tickets.is_empty() {
        unanswered.settle(run, S::TIMES_EACH).await?;
    }
    Ok(Published {
        events: sent,
        latencies: unanswered.latencies,
    })
}

/// Publishes at `rate` until the run drains. Latency counts from the moment an event was meant to be sent, so a stall is charged
/// to every event that it delays, sent or not.
///
/// # Errors
/// An event could not be sent, or was not answered well.
pub async fn publish_at_rate<S: Sender>(
    sender: &mut S,
    run: &Arc<Run>,
    rate: Rate,
) -> anyhow::Result<Published> {
    let mut due = pace(Arc::clone(run), rate);
    let mut unanswered = Unanswered::new();
    let mut sent = 0;
    loop {
        tokio::select! {
            intended = due.recv() => {
                let Some(sent_us) = intended else { break };
                run.wait_awake(sent_us).await;
                let ticket = sender.send(sent, sent_us).await?;
                unanswered.tickets.push_back((sent_us, ticket));
                sent += 1;
            }
            settled = unanswered.settle(run, true), if !unanswered.tickets.is_empty() => settled?,
        }
    }
    while !unanswered.tickets.is_empty() {
        unanswered.settle(run, true).await?;
    }
    Ok(Published {
        events: sent,
        latencies: unanswered.latencies,
    })
}

/// Events that were sent and not answered yet, the oldest first, and how long answers took.
struct Unanswered<T> {
    /// When each was meant to be sent.
    tickets: VecDeque<(u64, T)>,
    latencies: Latencies,
}

impl<T: Future<Output = anyhow::Result<()>> + Unpin> Unanswered<T> {
    fn new() -> Self {
        Self {
            tickets: VecDeque::new(),
            latencies: Latencies::new(),
        }
    }

    // Waits for the oldest answer, and takes those after it that are there already. Brokers answer in order, so waiting for the
    // oldest is all it takes. Cancel-safe: nothing is taken before the oldest is there, and nothing waited for after that.
    async fn settle(&mut self, run: &Run, is_timed: bool) -> anyhow::Result<()> {
        let Some((_, oldest)) = self.tickets.front_mut() else {
            return Ok(());
        };
        let mut answer = Some(oldest.await);
        let now = run.now_us();
        let mut settled = 0;
        while let Some(there) = answer {
            there.context("publishing")?;
            settled += 1;
            if let Some((sent_us, _)) = self.tickets.pop_front()
                && is_timed
                && run.is_measured(sent_us)
            {
                self.latencies.record(now.saturating_sub(sent_us));
            }
            let next = self.tickets.front_mut();
            answer = next.and_then(|(_, ticket)| ticket.now_or_never());
        }
        run.add_answered(settled);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::Ready;

    use super::*;
    use crate::cli::load::Phase;

    // Answers at once, and says when the run is to drain.
    struct Echo {
        run: Arc<Run>,
        sent: Vec<u64>,
        drain_at: u64,
    }

    impl Sender for Echo {
        type Ticket = Ready<anyhow::Result<()>>;
        const TIMES_EACH: bool = true;

        async fn send(&mut self, number: u64, _: u64) -> anyhow::Result<Self::Ticket> {
            self.sent.push(number);
            if number == self.drain_at {
                self.run.enter(Phase::Drain);
            }
            Ok(std::future::ready(match number {
                13 => Err(anyhow::anyhow!("refused")),
                _ => Ok(()),
            }))
        }
    }

    fn echo(drain_at: u64) -> Echo {
        Echo {
            run: Run::new(),
            sent: Vec::new(),
            drain_at,
        }
    }

    #[tokio::test]
    async fn every_number_is_sent_once_and_answered() {
        let mut sender = echo(u64::MAX);
        let run = Arc::clone(&sender.run);
        run.enter(Phase::Measure);
        let numbers = Numbers { first: 20, max: 10 };
        let published = publish(&mut sender, &run, numbers, 3).await.expect("sent");
        assert_eq!(sender.sent, (20..30).collect::<Vec<_>>());
        assert_eq!((published.events, run.counts().answered), (10, 10));
        assert_eq!(published.latencies.count(), 10);
    }

    #[tokio::test]
    async fn a_run_that_drains_ends_a_publisher_with_all_it_sent_answered() {
        let mut sender = echo(7);
        let run = Arc::clone(&sender.run);
        let published = publish(&mut sender, &run, Numbers::default(), 4).await;
        let events = published.expect("sent").events;
        assert!((8..12).contains(&events), "{events}");
        assert_eq!(run.counts().answered, events);

        let mut sender = echo(3);
        let run = Arc::clone(&sender.run);
        run.enter(Phase::Measure);
        let rate = Rate {
            per_second: 1_000,
            publishers: 1,
        };
        let published = publish_at_rate(&mut sender, &run, rate)
            .await
            .expect("sent");
        assert!(published.events >= 4);
        assert_eq!(run.counts().answered, published.events);
    }

    #[tokio::test]
    async fn a_refusal_ends_a_publisher() {
        let mut sender = echo(u64::MAX);
        let run = Arc::clone(&sender.run);
        let ended = publish(&mut sender, &run, Numbers::default(), 2).await;
        let error = format!("{:#}", ended.expect_err("13 is refused"));
        assert_eq!(error, "publishing: refused");
    }
}
