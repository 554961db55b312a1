//! What the broker counts, bumped where things happen.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use crate::telemetry::metrics_registry::Metrics;

/// Counters of the running broker.
pub(crate) struct Counters {
    published_events: Counter,
    published_bytes: Counter,
    delivered_events: Counter,
    delivered_bytes: Counter,
    dead_letters: Counter,
    dead_letters_dropped: Counter,
    checkpoints: Counter,
    missing_events: Counter,
    unreadable_events: Counter,
    orphaned_events: Counter,
    late_answers: Counter,
    group_events: Histogram,
    sync_seconds: Histogram,
}

impl Counters {
    /// Counters that `metrics` shows.
    pub(crate) fn registered(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.counter(name, help);
        let published_events = counter(
            "published_events",
            "Events appended to topics, route outputs and dead letters included",
        );
        let published_bytes = counter(
            "published_bytes",
            "Bytes of appended events as encoded by their publishers",
        );
        let delivered_events = counter(
            "delivered_events",
            "Events handed to consumers, redeliveries included",
        );
        let delivered_bytes = counter("delivered_bytes", "Bytes of events handed to consumers");
        let dead_letters = counter(
            "dead_letters",
            "Events given up and appended to dead-letter topics",
        );
        let dead_letters_dropped = counter(
            "dead_letters_dropped",
            "Dead letters that were given up a second time, and dropped",
        );
        let checkpoints = counter("checkpoints", "Generations written");
        let missing_events = counter(
            "missing_events",
            "Events that were pending but no longer existed when they were to be delivered: their topic was deleted, or a loss was accepted",
        );
        let unreadable_events = counter(
            "unreadable_events",
            "Events that the store could not read when they were to be delivered or judged; each attempt at a delivery counts, and for filters and catching up once where they stand. They stay pending",
        );
        let orphaned_events = counter(
            "orphaned_events",
            "Events found at start whose topic is not known any more, since a loss that was accepted took its creation; nobody gets them",
        );
        let late_answers = counter(
            "late_answers",
            "Events that a consumer acked, nacked, gave up or extended when it did not hold them any more, mostly since their ack deadline had passed; the answers changed nothing, and the consumer was told",
        );
        let group_events = metrics.histogram(
            "group_events",
            "Events per committed group",
            None,
            exponential_buckets(1.0, 4.0, 9),
        );
        let sync_seconds = metrics.histogram(
            "sync",
            "Time of one journal sync",
            Some(Unit::Seconds),
            exponential_buckets(0.000_05, 2.0, 14),
        );
        Self {
            published_events,
            published_bytes,
            delivered_events,
            delivered_bytes,
            dead_letters,
            dead_letters_dropped,
            checkpoints,
            missing_events,
            unreadable_events,
            orphaned_events,
            late_answers,
            group_events,
            sync_seconds,
        }
    }

    pub(crate) fn committed(&self, events: u64, bytes: u64) {
        self.published_events.inc_by(events);
        self.published_bytes.inc_by(bytes);
        self.group_events.observe(events as f64);
    }

    pub(crate) fn synced(&self, time: Duration) {
        self.sync_seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn delivered(&self, events: u64, bytes: u64) {
        self.delivered_events.inc_by(events);
        self.delivered_bytes.inc_by(bytes);
    }

    pub(crate) fn dead_lettered(&self, events: u64) {
        self.dead_letters.inc_by(events);
    }

    pub(crate) fn letters_dropped(&self, events: u64) {
        self.dead_letters_dropped.inc_by(events);
    }

    pub(crate) fn checkpointed(&self) {
        self.checkpoints.inc();
    }

    pub(crate) fn missing(&self, events: u64) {
        self.missing_events.inc_by(events);
    }

    pub(crate) fn unreadable(&self, events: u64) {
        self.unreadable_events.inc_by(events);
    }

    pub(crate) fn late_answers(&self, events: u64) {
        // No client, whatever it names, makes the counter go round.
        self.late_answers.inc_by(events.min(u32::MAX.into()));
    }

    pub(crate) fn orphaned(&self, events: u64) {
        self.orphaned_events.inc_by(events);
    }
}
