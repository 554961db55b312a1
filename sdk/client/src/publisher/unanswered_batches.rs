//! The batches that have a number and no answer, in the order in which they go out: on the stream there is, and again on the next
//! one. Pure: no task, no clock, no stream.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::open_batches::Gathered;
use super::ticket::Fate;
use super::window::Window;

/// A batch with a number, kept until it is resolved.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) topic: Arc<str>,
    /// Where the gatherer has its topic.
    pub(super) topic_at: usize,
    /// The number of its first event.
    pub(super) first_number: u64,
    pub(super) events: usize,
    /// What it costs of a stream's credit.
    pub(super) cost: usize,
    /// Room taken by its events, to be given back.
    pub(super) admitted_bytes: usize,
    /// The events, as `PublishBatch.events`.
    pub(super) body: Bytes,
    pub(super) fate: Arc<Fate>,
    pub(super) begun: Instant,
    pub(super) order: u64,
}

/// Those that are not resolved. Their correlations count on from batch to batch, over all streams.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// By correlation.
    batches: Window<Batch>,
    next_number: u64,
}

impl Outstanding {
    pub(super) fn new() -> Self {
        Self {
            batches: Window::new(1),
            next_number: 1,
        }
    }

    /// The broker knows this producer from an earlier life: numbers go on after `last_number`.
    pub(super) fn go_on_after(&mut self, last_number: u64) {
        self.next_number = self.next_number.max(last_number.saturating_add(1));
    }

    /// Gives `gathered` a number.
    pub(super) fn push(&mut self, gathered: Gathered) {
        let cost = gathered.cost();
        let Gathered {
            topic,
            topic_at,
            body,
            events,
            admitted_bytes,
            fate,
            begun,
            order,
            ..
        } = gathered;
        self.batches.push(Batch {
            topic,
            topic_at,
            first_number: self.next_number,
            events,
            cost,
            admitted_bytes,
            body: body.freeze(),
            fate,
            begun,
            order,
        });
        self.next_number = self.next_number.saturating_add(events as u64);
    }

    /// The batch of `correlation`, unless it is resolved.
    pub(super) fn get(&self, correlation: u64) -> Option<&Batch> {
        self.batches.get(correlation)
    }

    /// Takes the batch of `correlation` out, unless it is resolved already.
    pub(super) fn resolve(&mut self, correlation: u64) -> Option<Batch> {
        self.batches.take(correlation)
    }

    /// Correlations that were given out: the first of a batch that is not resolved, and the next one.
    pub(super) fn correlations(&self) -> std::ops::Range<u64> {
        self.batches.numbers()
    }

    /// Every event up to this number is resolved.
    pub(super) fn resolved_through(&self) -> u64 {
        let oldest = self.batches.first();
        oldest.map_or(self.next_number, |oldest| oldest.first_number) - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// When the oldest batch was begun.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.batches.iter().map(|batch| batch.begun).min()
    }

    /// Correlations of the batches begun until `deadline`.
    pub(super) fn begun_until(&self, deadline: Instant) -> Vec<u64> {
        let overdue = |correlation: &u64| {
            self.get(*correlation)
                .is_some_and(|batch| batch.begun <= deadline)
        };
        self.correlations().filter(overdue).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_wire::pb;

    use super::super::open_batches::Gatherer;
    use super::*;

    /// One batch for each of `events`, of so many events.
    fn outstanding(events: &[usize]) -> Outstanding {
        let mut outstanding = Outstanding::new();
        let mut gatherer = Gatherer::new(1 << 20, 1 << 10);
        for events in events {
            for _ in 0..*events {
                gatherer.push("a", &mut pb::Event::default(), 0, 1, Instant::now);
            }
            let batch = gatherer.take(usize::MAX, Duration::ZERO, Instant::now);
            outstanding.push(batch.expect("events were pushed"));
        }
        outstanding
    }

    #[test]
    fn numbers_count_events_and_correlations_count_batches() {
        let outstanding = outstanding(&[3, 1, 2]);
        let numbers = outstanding.correlations().map(|correlation| {
            let batch = outstanding.get(correlation).expect("none is resolved");
            (correlation, batch.first_number, batch.events)
        });
        assert_eq!(
            numbers.collect::<Vec<_>>(),
            [(1, 1, 3), (2, 4, 1), (3, 5, 2)]
        );
        assert!(outstanding.get(0).is_none() && outstanding.get(4).is_none());
    }

    #[test]
    fn what_is_resolved_out_of_turn_counts_once_its_turn_comes() {
        let mut outstanding = outstanding(&[3, 1, 2]);
        assert_eq!(outstanding.resolve(2).expect("is there").events, 1);
        assert!(outstanding.resolve(2).is_none(), "only once");
        assert_eq!(outstanding.resolved_through(), 0);
        outstanding.resolve(1).expect("is there");
        assert_eq!(outstanding.resolved_through(), 4);
        assert_eq!(outstanding.correlations(), 3..4);
        outstanding.resolve(3).expect("is there");
        assert_eq!(
            (outstanding.resolved_through(), outstanding.is_empty()),
            (6, true)
        );
    }

    #[test]
    fn a_producer_goes_on_after_its_earlier_life() {
        let mut outstanding = Outstanding::new();
        outstanding.go_on_after(41);
        assert_eq!(outstanding.resolved_through(), 41);
        outstanding.go_on_after(7);
        assert_eq!(outstanding.resolved_through(), 41);
    }
}
