//! What was published and what came out, per event and interest: the demo's proof. Publishers, consumers and the
//! progress display share one ledger through atomics; it knows nothing of the broker.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cli::load::Latencies;
use crate::locks::lock;

/// Everything known about the events of one run. Counters are statistics and verdicts are read after all tasks
/// have ended, so relaxed ordering is enough throughout.
pub(super) struct Ledger {
    started: Instant,
    events: Vec<EventRecord>,
    interests: Vec<InterestRecord>,
    acked: AtomicU64,
    duplicates: AtomicU64,
}

/// One published event.
struct EventRecord {
    /// Microseconds after the start at which it was handed to the client.
    sent_us: AtomicU64,
    /// The broker said that it is durable.
    acked: AtomicBool,
    /// Bit i: interest i should get it, by native recomputation.
    expected: AtomicU8,
}

/// One interest: a subscription, and all its consumers together.
struct InterestRecord {
    /// How often each event came, by event number; stops at 255.
    arrivals: Vec<AtomicU8>,
    /// Sequence at which each event came first, by event number; 0 before that.
    sequences: Vec<AtomicU64>,
    doubled: AtomicU64,
    strays: AtomicU64,
    matched: AtomicU64,
    distinct: AtomicU64,
    deliveries: AtomicU64,
    latencies: Mutex<Latencies>,
    first_us: AtomicU64,
    last_us: AtomicU64,
}

/// How one interest fared.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Account {
    /// Acked events that should have come.
    pub(super) matched: u64,
    /// Different events that came.
    pub(super) delivered: u64,
    /// Deliveries beyond the first of an event.
    pub(super) redelivered: u64,
    /// Acked events that should have come and did not.
    pub(super) lost: u64,
    /// Events that came and should not have.
    pub(super) unexpected: u64,
    /// Deliveries of an event at another place of the topic than before: it was appended twice.
    pub(super) doubled: u64,
    /// Median time from the publisher's send to the first delivery, in microseconds.
    pub(super) latency_p50_us: u64,
    /// 99th percentile of the same.
    pub(super) latency_p99_us: u64,
    /// Different events per second between the first and the last delivery.
    pub(super) events_per_second: f64,
}

impl Ledger {
    /// A ledger for `events` events and `interests` (at most 8) interests.
    pub(super) fn new(events: u64, interests: usize) -> Self {
        assert!(
            interests <= 8,
            "the verdicts of an event are the bits of one byte"
        );
        let interest = |_| InterestRecord {
            arrivals: (0..events).map(|_| AtomicU8::new(0)).collect(),
            sequences: (0..events).map(|_| AtomicU64::new(0)).collect(),
            doubled: AtomicU64::new(0),
            strays: AtomicU64::new(0),
            matched: AtomicU64::new(0),
            distinct: AtomicU64::new(0),
            deliveries: AtomicU64::new(0),
            latencies: Mutex::new(Latencies::new()),
            first_us: AtomicU64::new(u64::MAX),
            last_us: AtomicU64::new(0),
        };
        let event = |_| EventRecord {
            sent_us: AtomicU64::new(0),
            acked: AtomicBool::new(false),
            expected: AtomicU8::new(0),
        };
        Self {
            started: Instant::now(),
            events: (0..events).map(event).collect(),
            interests: (0..interests).map(interest).collect(),
            acked: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
        }
    }

    /// Event `number` is about to be sent; bit i of `expected` says that interest i should get it.
    pub(super) fn sending(&self, number: u64, expected: u8) {
        let Some(event) = self.events.get(number as usize) else {
            return;
        };
        event.sent_us.store(self.now_us(), Ordering::Relaxed);
        event.expected.store(expected, Ordering::Relaxed);
        for (index, interest) in self.interests.iter().enumerate() {
            if expected & (1 << index) != 0 {
                interest.matched.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The broker answered for event `number`.
    pub(super) fn acked(&self, number: u64, duplicate: bool) {
        if let Some(event) = self.events.get(number as usize)
            && !event.acked.swap(true, Ordering::Relaxed)
        {
            self.acked.fetch_add(1, Ordering::Relaxed);
            self.duplicates
                .fetch_add(u64::from(duplicate), Ordering::Relaxed);
        }
    }

    /// Event `number` came to `interest`, at `sequence` of its topic.
    pub(super) fn delivered(&self, interest: usize, number: u64, sequence: u64) {
        let record = &self.interests[interest];
        record.deliveries.fetch_add(1, Ordering::Relaxed);
        let number = number as usize;
        let Some(event) = self.events.get(number) else {
            record.strays.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let first = record.sequences[number].compare_exchange(
            0,
            sequence,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if first.is_err_and(|first| first != sequence) {
            record.doubled.fetch_add(1, Ordering::Relaxed);
        }
        let before = record.arrivals[number]
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_add(1))
            })
            .unwrap_or_default();
        if before > 0 {
            return;
        }
        record.distinct.fetch_add(1, Ordering::Relaxed);
        let now = self.now_us();
        record.first_us.fetch_min(now, Ordering::Relaxed);
        record.last_us.fetch_max(now, Ordering::Relaxed);
        let latency = now.saturating_sub(event.sent_us.load(Ordering::Relaxed));
        lock(&record.latencies).record(latency);
    }

    /// Events the broker has answered for.
    pub(super) fn acked_count(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Answers that said that the event had been committed before: resends after the crash.
    pub(super) fn duplicate_count(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Events that `interest` should get of those sent so far, and how many different ones have come.
    pub(super) fn progress(&self, interest: usize) -> (u64, u64) {
        let record = &self.interests[interest];
        (
            record.matched.load(Ordering::Relaxed),
            record.distinct.load(Ordering::Relaxed),
        )
    }

    /// All deliveries to all interests so far.
    pub(super) fn deliveries(&self) -> u64 {
        let each = self.interests.iter();
        each.map(|record| record.deliveries.load(Ordering::Relaxed))
            .sum()
    }

    /// Whether every acked event has come wherever it should.
    pub(super) fn is_complete(&self) -> bool {
        self.interests.iter().enumerate().all(|(index, record)| {
            self.events
                .iter()
                .zip(&record.arrivals)
                .all(|(event, arrivals)| {
                    !event.is_due(index) || arrivals.load(Ordering::Relaxed) > 0
                })
        })
    }

    /// How `interest` fared.
    pub(super) fn account(&self, interest: usize) -> Account {
        let record = &self.interests[interest];
        let strays = record.strays.load(Ordering::Relaxed);
        let (mut matched, mut lost, mut unexpected) = (0, 0, strays);
        for (event, arrivals) in self.events.iter().zip(&record.arrivals) {
            let came = arrivals.load(Ordering::Relaxed) > 0;
            matched += u64::from(event.is_due(interest));
            lost += u64::from(event.is_due(interest) && !came);
            unexpected += u64::from(came && !event.is_expected(interest));
        }
        let delivered = record.distinct.load(Ordering::Relaxed);
        let deliveries = record.deliveries.load(Ordering::Relaxed);
        let span_us = record
            .last_us
            .load(Ordering::Relaxed)
            .saturating_sub(record.first_us.load(Ordering::Relaxed));
        let quantile = |part| lock(&record.latencies).quantile_us(part);
        Account {
            matched,
            delivered,
            redelivered: deliveries.saturating_sub(delivered + strays),
            lost,
            unexpected,
            doubled: record.doubled.load(Ordering::Relaxed),
            latency_p50_us: quantile(0.5),
            latency_p99_us: quantile(0.99),
            events_per_second: delivered as f64
                / Duration::from_micros(span_us.max(1)).as_secs_f64(),
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

impl EventRecord {
    fn is_expected(&self, interest: usize) -> bool {
        self.expected.load(Ordering::Relaxed) & (1 << interest) != 0
    }

    fn is_due(&self, interest: usize) -> bool {
        self.is_expected(interest) && self.acked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_repeats_and_wrong_verdicts_are_told_apart() {
        let ledger = Ledger::new(4, 2);
        for number in 0..4 {
            ledger.sending(number, 0b01);
        }
        for number in 0..3 {
            ledger.acked(number, number == 2);
        }
        ledger.delivered(0, 0, 1);
        ledger.delivered(0, 0, 1);
        ledger.delivered(0, 1, 2);
        ledger.delivered(1, 1, 2);
        assert!(!ledger.is_complete());
        let first = ledger.account(0);
        assert_eq!(
            (first.matched, first.delivered, first.redelivered),
            (3, 2, 1)
        );
        assert_eq!((first.lost, first.unexpected), (1, 0));
        let second = ledger.account(1);
        assert_eq!((second.matched, second.lost, second.unexpected), (0, 0, 1));
        assert_eq!((ledger.acked_count(), ledger.duplicate_count()), (3, 1));
        ledger.delivered(0, 2, 3);
        assert!(
            ledger.is_complete(),
            "event 3 was never acked, so nothing is due for it"
        );
    }

    #[test]
    fn an_event_at_two_places_was_doubled() {
        let ledger = Ledger::new(1, 1);
        ledger.sending(0, 1);
        ledger.delivered(0, 0, 7);
        ledger.delivered(0, 0, 7);
        assert_eq!(ledger.account(0).doubled, 0);
        ledger.delivered(0, 0, 8);
        assert_eq!(ledger.account(0).doubled, 1);
    }

    #[test]
    fn a_number_nobody_published_is_unexpected() {
        let ledger = Ledger::new(1, 1);
        ledger.delivered(0, 99, 1);
        let account = ledger.account(0);
        assert_eq!((account.unexpected, account.redelivered), (1, 0));
    }
}
