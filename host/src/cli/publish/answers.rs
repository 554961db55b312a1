//! Answers to what was sent: taken in order and as they come, whatever else is waited for, so that it is known for how long none has
//! come of those that are due; and how long those are waited for that are due at the end. Which events these are, and where they go,
//! is not known here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_client::{PublishError, Published};
use tokio::time::Instant;

use super::totals::Totals;

/// Tickets not looked at yet; the client's own bound on outstanding bytes is what slows us down.
const TICKETS_MAX: usize = 16_384;

/// How long an interrupted command waits for answers to what it has sent, while the broker answers.
const INTERRUPTED_PATIENCE: Duration = Duration::from_secs(2);

/// What waits for its answer, and what the others said.
pub(super) struct Answers<T> {
    tickets: VecDeque<T>,
    flow: Arc<Flow>,
    pub(super) totals: Totals,
}

/// How far it is.
#[derive(Default)]
struct Flow {
    sent: AtomicU64,
    answered: AtomicU64,
}

/// For how long no answer has come although some are due.
pub(super) struct Unanswered {
    flow: Arc<Flow>,
    answered: u64,
    since: Instant,
}

/// How long answers that are due at the end are waited for: as long as it takes, unless somebody has interrupted the command, and
/// then not at all where something is in their way.
pub(super) fn patience(interrupted: bool, is_hindered: impl FnOnce() -> bool) -> Duration {
    match interrupted {
        true if is_hindered() => Duration::ZERO,
        true => INTERRUPTED_PATIENCE,
        false => Duration::MAX,
    }
}

impl<T: Future<Output = Result<Published, PublishError>> + Unpin> Answers<T> {
    pub(super) fn new(totals: Totals) -> Self {
        Self {
            tickets: VecDeque::new(),
            flow: Arc::default(),
            totals,
        }
    }

    /// How many are due.
    pub(super) fn due(&self) -> usize {
        self.tickets.len()
    }

    /// To be asked now and then.
    pub(super) fn unanswered(&self) -> Unanswered {
        Unanswered {
            flow: Arc::clone(&self.flow),
            answered: 0,
            since: Instant::now(),
        }
    }

    /// Another is due. Waits for the first when too many are.
    pub(super) async fn push(&mut self, ticket: T) -> Result<(), PublishError> {
        self.tickets.push_back(ticket);
        self.flow.sent.fetch_add(1, Ordering::Relaxed);
        match self.tickets.len() >= TICKETS_MAX {
            true => self.one().await,
            false => Ok(()),
        }
    }

    /// What comes of `work`; takes the answers that come before it.
    pub(super) async fn while_waiting<R>(
        &mut self,
        work: impl Future<Output = R>,
    ) -> Result<R, PublishError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                answered = self.one(), if !self.tickets.is_empty() => answered?,
            }
        }
    }

    /// Waits for all that are due.
    pub(super) async fn all(&mut self) -> Result<(), PublishError> {
        while !self.tickets.is_empty() {
            self.one().await?;
        }
        Ok(())
    }

    // Cancel-safe: a ticket leaves the queue with its answer.
    async fn one(&mut self) -> Result<(), PublishError> {
        if let Some(ticket) = self.tickets.front_mut() {
            let answer = ticket.await;
            self.tickets.pop_front();
            self.flow.answered.fetch_add(1, Ordering::Relaxed);
            self.totals.add(answer?);
        }
        Ok(())
    }
}

impl Unanswered {
    /// How long, as far as was seen when it was asked before.
    pub(super) fn lasts(&mut self) -> Duration {
        let answered = self.flow.answered.load(Ordering::Relaxed);
        if answered != self.answered || answered == self.flow.sent.load(Ordering::Relaxed) {
            (self.answered, self.since) = (answered, Instant::now());
        }
        self.since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use tokio::time::sleep;

    use super::*;

    const ANSWERED_AFTER: Duration = Duration::from_millis(300);
    const LOOK_EVERY: Duration = Duration::from_millis(250);

    type Ticket = Pin<Box<dyn Future<Output = Result<Published, PublishError>>>>;

    fn answers() -> Answers<Ticket> {
        Answers::new(Totals::default())
    }

    fn answered_soon(sequence: u64) -> Ticket {
        let answer = tokio::spawn(async move {
            sleep(ANSWERED_AFTER).await;
            Ok(Published {
                sequence,
                duplicate: false,
                unkept: false,
            })
        });
        Box::pin(async move { answer.await.expect("it does not panic") })
    }

    // The longest that was seen while `work` went on.
    async fn longest(mut unanswered: Unanswered, work: impl Future<Output = ()>) -> Duration {
        let mut work = std::pin::pin!(work);
        let mut longest = Duration::ZERO;
        loop {
            longest = longest.max(unanswered.lasts());
            tokio::select! {
                () = &mut work => return longest,
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_answered_is_not_due_however_slowly_more_comes() {
        let mut answers = answers();
        let unanswered = answers.unanswered();
        let slow_input = async {
            for number in 1..=10 {
                let line = answers.while_waiting(sleep(Duration::from_secs(1)));
                line.await.expect("answered");
                answers.push(answered_soon(number)).await.expect("room");
            }
            // Nobody types anything any more.
            let line = answers.while_waiting(sleep(Duration::from_secs(60)));
            line.await.expect("answered");
        };
        let longest = longest(unanswered, slow_input).await;
        assert!(longest <= ANSWERED_AFTER + LOOK_EVERY, "{longest:?}");
        assert_eq!((answers.due(), answers.totals.events), (0, 10));
        assert_eq!(answers.totals.last_sequence, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_is_due_from_when_it_was_sent() {
        let mut answers = answers();
        let unanswered = answers.unanswered();
        let silent_broker = async {
            let line = answers.while_waiting(sleep(Duration::from_secs(60)));
            line.await.expect("nothing is due");
            let never = Box::pin(std::future::pending());
            answers.push(never).await.expect("room");
            let line = answers.while_waiting(sleep(Duration::from_secs(5)));
            line.await.expect("nothing comes");
        };
        let longest = longest(unanswered, silent_broker).await;
        let seconds = Duration::from_secs(5);
        assert!(longest + 2 * LOOK_EVERY >= seconds, "{longest:?}");
        assert!(longest <= seconds + LOOK_EVERY, "{longest:?}");
        assert_eq!(answers.due(), 1);
    }

    #[test]
    fn who_interrupts_waits_a_little_and_not_at_all_for_what_cannot_come() {
        assert_eq!(patience(false, || true), Duration::MAX);
        assert_eq!(patience(true, || false), INTERRUPTED_PATIENCE);
        assert_eq!(patience(true, || true), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_what_is_waited_for() {
        let mut answers = answers();
        let refused = async { Err(PublishError::Protocol("no".to_owned())) };
        answers.push(Box::pin(refused)).await.expect("room");
        let line = answers.while_waiting(std::future::pending::<()>()).await;
        assert!(matches!(line, Err(PublishError::Protocol(_))), "{line:?}");
    }
}
