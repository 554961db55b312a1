//! What the broker counts. Counters are bumped where things happen; gauges that follow from state (depth, age,
//! journal size) are read when somebody asks, so they cannot drift.

use std::fmt::Write as _;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters of the running broker.
pub(crate) struct Metrics {
    registry: Registry,
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
    group_events: Histogram,
    sync_seconds: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tidegate");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
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
        let group_events = Histogram::new(exponential_buckets(1.0, 4.0, 9));
        registry.register(
            "group_events",
            "Events per committed group",
            group_events.clone(),
        );
        let sync_seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 14));
        registry.register_with_unit(
            "sync",
            "Time of one journal sync",
            Unit::Seconds,
            sync_seconds.clone(),
        );
        Self {
            registry,
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

    pub(crate) fn orphaned(&self, events: u64) {
        self.orphaned_events.inc_by(events);
    }

    /// The counters, and `gauges` read just now, in the Prometheus text format.
    pub(crate) fn render(&self, gauges: &[GaugeFamily]) -> String {
        let mut text = String::new();
        for family in gauges {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "# HELP {} {}.", family.name, family.help);
            let _ = writeln!(text, "# TYPE {} {}", family.name, family.kind);
            for (labels, value) in &family.samples {
                let _ = write!(text, "{}{}", family.name, family.suffix());
                for (index, (label, value)) in labels.iter().enumerate() {
                    let open = if index == 0 { '{' } else { ',' };
                    let _ = write!(text, "{open}{label}=\"{}\"", escaped(value));
                }
                let close = if labels.is_empty() { "" } else { "}" };
                let _ = writeln!(text, "{close} {value}");
            }
        }
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Samples of one name, read from state when somebody asks.
pub(crate) struct GaugeFamily {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// `gauge` or `counter`.
    pub(crate) kind: &'static str,
    pub(crate) samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl GaugeFamily {
    fn suffix(&self) -> &'static str {
        if self.kind == "counter" { "_total" } else { "" }
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_counters_and_gauges_and_one_end() {
        let metrics = Metrics::new();
        metrics.committed(3, 300);
        metrics.synced(Duration::from_micros(200));
        let text = metrics.render(&[GaugeFamily {
            name: "tidegate_depth",
            help: "Pending events",
            kind: "gauge",
            samples: vec![(vec![("subscription", "a\"b".into())], 2.0)],
        }]);
        assert!(text.contains("tidegate_published_events_total 3"), "{text}");
        assert!(
            text.contains("tidegate_depth{subscription=\"a\\\"b\"} 2"),
            "{text}"
        );
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
