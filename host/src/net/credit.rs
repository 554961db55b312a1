//! Credit, both ways: what a publisher may have outstanding, what a consumer lets the broker send, and the
//! budget that publish credit is granted from. Plain accounting behind small locks; nobody waits in here
//! except for a consumer's credit to become positive.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_wire::pb::{self, ErrorCode};
use tokio::sync::Notify;

/// Credit beyond these is cut off. It would be no limit any more, and the sums stay far from overflow.
const EVENTS_MAX: i64 = 1 << 32;
const BYTES_MAX: i64 = 1 << 40;

/// Publish credit over all streams of the broker.
#[derive(Debug)]
pub(super) struct CreditBudget {
    total: usize,
    granted: Mutex<usize>,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Grant {
    budget: Arc<CreditBudget>,
    bytes: usize,
}

impl CreditBudget {
    pub(super) fn new(total: usize) -> Self {
        Self {
            total,
            granted: Mutex::new(0),
        }
    }

    /// What a new stream gets: `wanted`, but no more than a quarter of what is left, so that a few streams
    /// never take everything; and at least `floor`, without which it could not send at all.
    pub(super) fn grant(self: &Arc<Self>, wanted: usize, floor: usize) -> Grant {
        let mut granted = lock(&self.granted);
        let left = self.total.saturating_sub(*granted);
        let bytes = wanted.min(left / 4).max(floor);
        *granted = granted.saturating_add(bytes);
        Grant {
            budget: Arc::clone(self),
            bytes,
        }
    }
}

impl Grant {
    /// Bytes of credit.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut granted = lock(&self.budget.granted);
        *granted = granted.saturating_sub(self.bytes);
    }
}

/// What a publish stream has outstanding: batches read and not yet answered.
#[derive(Debug)]
pub(super) struct PublishCredit {
    bytes_max: usize,
    batches_max: usize,
    bytes: usize,
    batches: usize,
}

impl PublishCredit {
    pub(super) fn new(bytes_max: usize, batches_max: usize) -> Self {
        Self {
            bytes_max,
            batches_max,
            bytes: 0,
            batches: 0,
        }
    }

    /// Takes credit for a batch. One batch may always be outstanding, however large.
    ///
    /// # Errors
    ///
    /// The client sends more than it may.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), pb::Error> {
        let (batches, bytes) = (self.batches + 1, self.bytes.saturating_add(bytes));
        if batches > 1 && (batches > self.batches_max || bytes > self.bytes_max) {
            let message = format!(
                "{batches} batches with {bytes} bytes of events are outstanding, but the credit is {} batches and {} bytes; wait for answers",
                self.batches_max, self.bytes_max,
            );
            return Err(pb::Error::new(ErrorCode::FlowControl, message));
        }
        (self.batches, self.bytes) = (batches, bytes);
        Ok(())
    }

    /// Gives the credit of an answered batch back. Called before the answer is sent, since the client may
    /// use it again as soon as it reads that.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.batches = self.batches.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// What a consumer lets the broker send.
///
/// The last delivery may take more bytes than are left, so the balance may be below zero; what the client
/// grants later fills that first.
#[derive(Debug)]
pub(super) struct ConsumerCredit {
    balance: Mutex<Balance>,
    grown: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Balance {
    events: i64,
    bytes: i64,
}

impl ConsumerCredit {
    pub(super) fn new(events: u64, bytes: u64) -> Self {
        let balance = Balance {
            events: capped(events, EVENTS_MAX),
            bytes: capped(bytes, BYTES_MAX),
        };
        Self {
            balance: Mutex::new(balance),
            grown: Notify::new(),
        }
    }

    /// Adds to what is left.
    pub(super) fn grow(&self, events: u64, bytes: u64) {
        let mut balance = lock(&self.balance);
        balance.events = (balance.events + capped(events, EVENTS_MAX)).min(EVENTS_MAX);
        balance.bytes = (balance.bytes + capped(bytes, BYTES_MAX)).min(BYTES_MAX);
        drop(balance);
        self.grown.notify_one();
    }

    /// Takes credit for deliveries.
    pub(super) fn spend(&self, events: u64, bytes: usize) {
        let mut balance = lock(&self.balance);
        balance.events -= capped(events, EVENTS_MAX);
        balance.bytes -= capped(bytes as u64, BYTES_MAX);
    }

    /// Events and bytes that may be sent, at most as many as given; waits until both are above zero. For one
    /// waiter.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: nothing is taken.
    pub(super) async fn available(&self, events_max: usize, bytes_max: usize) -> (usize, usize) {
        loop {
            let Balance { events, bytes } = *lock(&self.balance);
            if events > 0 && bytes > 0 {
                let at_most = |left: i64, max: usize| usize::try_from(left).unwrap_or(max).min(max);
                return (at_most(events, events_max), at_most(bytes, bytes_max));
            }
            // A grant between the look and the wait leaves a permit, so it is not missed.
            self.grown.notified().await;
        }
    }
}

fn capped(value: u64, max: i64) -> i64 {
    i64::try_from(value).unwrap_or(max).min(max)
}

// A panic while one of these locks is held cannot leave a sum half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn publish_credit_obeyed_and_violated() {
        let mut credit = PublishCredit::new(100, 2);
        assert!(credit.take(60).is_ok());
        assert!(credit.take(40).is_ok());
        let error = credit.take(0).expect_err("third batch");
        assert_eq!(error.code(), ErrorCode::FlowControl);
        credit.give_back(40);
        assert_eq!(
            credit.take(41).expect_err("byte too many").code(),
            ErrorCode::FlowControl
        );
        assert!(credit.take(40).is_ok());
    }

    #[test]
    fn one_batch_may_always_be_outstanding() {
        let mut credit = PublishCredit::new(10, 0);
        assert!(credit.take(1_000).is_ok());
        assert!(credit.take(1).is_err());
        credit.give_back(1_000);
        assert!(credit.take(1_000).is_ok());
    }

    #[test]
    fn the_budget_shrinks_to_the_floor_and_recovers() {
        let budget = Arc::new(CreditBudget::new(1_000));
        let first = budget.grant(200, 10);
        let second = budget.grant(200, 10);
        let third = budget.grant(200, 10);
        assert_eq!(
            (first.bytes(), second.bytes(), third.bytes()),
            (200, 200, 150)
        );
        let many: Vec<Grant> = (0..100).map(|_| budget.grant(200, 10)).collect();
        assert!(many.iter().all(|grant| grant.bytes() >= 10));
        assert_eq!(many.last().map(Grant::bytes), Some(10));
        drop((first, second, third, many));
        assert_eq!(budget.grant(200, 10).bytes(), 200);
    }

    fn check(credit: &ConsumerCredit, expected: Option<(usize, usize)>) {
        assert_eq!(credit.available(100, 1_000).now_or_never(), expected);
    }

    #[test]
    fn an_overdrawn_consumer_pays_back_first() {
        let credit = ConsumerCredit::new(2, 50);
        check(&credit, Some((2, 50)));
        credit.spend(1, 80);
        check(&credit, None);
        credit.grow(0, 30);
        check(&credit, None);
        credit.grow(0, 1);
        check(&credit, Some((1, 1)));
        credit.spend(1, 0);
        check(&credit, None);
    }

    #[test]
    fn absurd_credit_is_cut_off() {
        let credit = ConsumerCredit::new(u64::MAX, u64::MAX);
        for _ in 0..100 {
            credit.grow(u64::MAX, u64::MAX);
        }
        check(&credit, Some((100, 1_000)));
    }
}
