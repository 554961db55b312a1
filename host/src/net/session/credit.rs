//! Credit, both ways: what a publisher may have outstanding, and what a consumer lets the broker send. What publish credit is
//! granted from is in `memory_account`. Plain accounting behind small locks; nobody waits in here
//! except for a consumer's credit to become positive.

use std::sync::Mutex;

use tidegate_wire::credit::{BATCH_COST_BYTES, batch_cost};
use tidegate_wire::limits::Limits;
use tidegate_wire::pb::{self, ErrorCode};
use tokio::sync::Notify;

use super::memory_account::Room;
use crate::locks::lock;

/// Credit beyond these is cut off. It would be no limit any more, and the sums stay far from overflow.
const EVENTS_MAX: i64 = 1 << 32;
const BYTES_MAX: i64 = 1 << 40;

/// What every publish stream is granted, however many there are: as much as 32 batches cost that have almost nothing in them.
/// With the default limits, 10,000 streams hold 320 MiB like that, if all use it, and 120 MiB beside it of what is remembered of them.
pub(super) const STREAM_FLOOR_BYTES: usize = 32 * 1024;

/// What a publish stream has outstanding: batches read and not yet answered, and what they cost.
#[derive(Debug)]
pub(super) struct PublishCredit {
    cost_max: usize,
    batches_max: usize,
    cost: usize,
    batches: usize,
    /// For the one batch that is larger than all credit.
    large: Option<Room>,
}

impl PublishCredit {
    pub(super) fn new(cost_max: usize, batches_max: usize) -> Self {
        Self {
            cost_max,
            batches_max,
            cost: 0,
            batches: 0,
            large: None,
        }
    }

    /// A batch is coming whose frame has so many bytes, which is less than it will cost. Answers how much room it needs beyond
    /// all credit and the room that is held: something only when nothing else is outstanding.
    ///
    /// # Errors
    ///
    /// The client sends more than it may. That is found out before the frame is read.
    pub(super) fn announce(&self, frame_bytes: usize) -> Result<usize, pb::Error> {
        self.check(frame_bytes)?;
        Ok(match self.large {
            Some(_) => 0,
            None => (frame_bytes + BATCH_COST_BYTES).saturating_sub(self.cost_max),
        })
    }

    /// A packed batch has come whose events have so many bytes once they are unpacked, which is less than it will cost.
    ///
    /// # Errors
    ///
    /// The client sends more than it may. Beyond all credit it may send one that is not packed only: that waits for room before it is
    /// read, while this one is here already.
    pub(super) fn announce_packed(&self, bytes: usize) -> Result<(), pb::Error> {
        self.check(bytes)?;
        if bytes.saturating_add(BATCH_COST_BYTES) <= self.cost_max {
            return Ok(());
        }
        let message = format!(
            "a batch of {bytes} bytes is packed, which costs more than all credit, which is {} bytes; send it unpacked",
            self.cost_max,
        );
        Err(pb::Error::new(ErrorCode::FlowControl, message))
    }

    /// Takes credit for a batch. One batch may always be outstanding, however large.
    ///
    /// # Errors
    ///
    /// The client sends more than it may.
    pub(super) fn take(&mut self, cost: usize) -> Result<(), pb::Error> {
        self.check(cost)?;
        self.batches += 1;
        self.cost = self.cost.saturating_add(cost);
        Ok(())
    }

    fn check(&self, more: usize) -> Result<(), pb::Error> {
        let (batches, cost) = (self.batches + 1, self.cost.saturating_add(more));
        if batches == 1 || (batches <= self.batches_max && cost <= self.cost_max) {
            return Ok(());
        }
        let message = format!(
            "{batches} batches that cost {cost} bytes are outstanding, but the credit is {} batches and {} bytes; wait for answers",
            self.batches_max, self.cost_max,
        );
        Err(pb::Error::new(ErrorCode::FlowControl, message))
    }

    /// Keeps room until nothing is outstanding.
    pub(super) fn hold(&mut self, room: Room) {
        self.large = Some(room);
    }

    /// Gives the credit of an answered batch back. Called before the answer is sent, since the client may
    /// use it again as soon as it reads that.
    pub(super) fn give_back(&mut self, cost: usize) {
        self.batches = self.batches.saturating_sub(1);
        if !planted!(CreditKept) {
            self.cost = self.cost.saturating_sub(cost);
        }
        if self.batches == 0 {
            self.large = None;
        }
    }
}

/// What is announced to a client that counts the bytes of events only: so much that whatever it sends within that costs no more
/// than `cost_max`. Half for the bytes of events, and as many batches as fit into the other half when they are full of events.
pub(super) fn for_event_bytes(cost_max: usize, batches_max: u32, limits: &Limits) -> (usize, u32) {
    let half = cost_max / 2;
    let batches = half / batch_cost(limits.batch_events_max, 0);
    let batches = u32::try_from(batches).unwrap_or(u32::MAX);
    (half, batches.clamp(1, batches_max.max(1)))
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

    /// Whether something may be sent.
    pub(super) fn is_there(&self) -> bool {
        let Balance { events, bytes } = *lock(&self.balance);
        events > 0 && bytes > 0
    }

    /// Adds to what is left.
    pub(super) fn grow(&self, events: u64, bytes: u64) {
        let mut balance = lock(&self.balance);
        balance.events = (balance.events + capped(events, EVENTS_MAX)).min(EVENTS_MAX);
        balance.bytes = (balance.bytes + capped(bytes, BYTES_MAX)).min(BYTES_MAX);
        drop(balance);
        if !planted!(CreditUntold) {
            self.grown.notify_one();
        }
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::net::session::memory_account::{MemoryAccount, Share};

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
    fn what_is_announced_beyond_the_credit_is_refused_before_it_comes() {
        let mut credit = PublishCredit::new(100, 10);
        assert!(
            credit.announce(1_000).is_ok(),
            "nothing else is outstanding"
        );
        credit.take(60).expect("within the credit");
        assert!(credit.announce(40).is_ok());
        let error = credit.announce(41).expect_err("a byte too many");
        assert_eq!(error.code(), ErrorCode::FlowControl);
    }

    #[test]
    fn a_packed_batch_has_to_fit_into_the_credit() {
        let mut credit = PublishCredit::new(10_000, 10);
        let fits = 10_000 - BATCH_COST_BYTES;
        assert!(credit.announce_packed(fits).is_ok());
        for bytes in [fits + 1, usize::MAX] {
            let error = credit.announce_packed(bytes).expect_err("a byte too many");
            assert_eq!(error.code(), ErrorCode::FlowControl);
        }
        credit.take(6_000).expect("within the credit");
        assert!(credit.announce_packed(4_000).is_ok());
        assert!(credit.announce_packed(4_001).is_err());
    }

    #[test]
    fn a_batch_above_all_credit_needs_room_until_it_is_answered() {
        let share = Share {
            streams: 1,
            credit_bytes: 0,
            large_bytes: 1 << 20,
            sent_bytes: 0,
        };
        let account = MemoryAccount::of_all(share);
        let mut credit = PublishCredit::new(10_000, 10);
        let lacking = |credit: &PublishCredit, cost| {
            credit
                .announce(cost - BATCH_COST_BYTES)
                .expect("the only one")
        };
        assert_eq!(lacking(&credit, 10_000), 0);
        assert_eq!(lacking(&credit, 20_000), 10_000);
        let room = account.room(1 << 20).now_or_never().expect("room");
        credit.hold(room);
        assert_eq!(lacking(&credit, 1 << 30), 0);
        credit.take(20_000).expect("the only one");
        assert!(account.room(1).now_or_never().is_none());
        credit.give_back(20_000);
        assert!(account.room(1).now_or_never().is_some());
        assert_eq!(lacking(&credit, 20_000), 10_000);
    }

    // Whoever counts the bytes of events only, and keeps to what was announced, is never refused.
    #[test]
    fn honest_clients_that_do_not_count_costs_stay_within_the_credit() {
        let limits = Limits::default();
        for cost_max in [STREAM_FLOOR_BYTES, 100_000, 1 << 20, 8 << 20] {
            let (bytes, batches) = for_event_bytes(cost_max, 256, &limits);
            for event_bytes in [0, 1, 100, 256, 1_000, 100_000] {
                let mut credit = PublishCredit::new(cost_max, batches as usize);
                let events = limits
                    .batch_events_max
                    .min(bytes / event_bytes.max(1))
                    .max(1);
                let (mut outstanding, mut sent) = (0, 0);
                while sent < batches && (sent == 0 || outstanding + events * event_bytes <= bytes) {
                    outstanding += events * event_bytes;
                    sent += 1;
                    let cost = batch_cost(events, events * event_bytes);
                    let taken = credit.take(cost);
                    assert!(
                        taken.is_ok(),
                        "{sent} of {events} of {event_bytes}: {taken:?}"
                    );
                }
            }
        }
        assert_eq!(for_event_bytes(8 << 20, 256, &limits), (4 << 20, 63));
        assert_eq!(for_event_bytes(8 << 20, 2, &limits).1, 2);
        assert_eq!(for_event_bytes(STREAM_FLOOR_BYTES, 256, &limits).1, 1);
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
