//! The one registry of metrics: whoever counts something registers it here once, and whoever asks gets one page of everything.
//! What follows from state (depth, age, the journal's size) is read at that moment, so that it cannot drift. What there is to count
//! is not known here.

use std::fmt::Error;
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::locks::lock;

/// What all names begin with.
const PREFIX: &str = "tidegate";
/// The media type of [`Metrics::page`].
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// That of [`plain`].
pub const PLAIN_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The registry. Clones are one.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Default for Metrics {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix(PREFIX))))
    }
}

impl Metrics {
    /// A counter called `tidegate_{name}_total`.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        lock(&self.0).register(name, help, counter.clone());
        counter
    }

    /// A histogram called `tidegate_{name}`, with its unit if it has one, and these upper bounds.
    #[must_use]
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        bounds: impl Iterator<Item = f64>,
    ) -> Histogram {
        let histogram = Histogram::new(bounds);
        match unit {
            None => lock(&self.0).register(name, help, histogram.clone()),
            Some(unit) => lock(&self.0).register_with_unit(name, help, unit, histogram.clone()),
        }
        histogram
    }

    /// Asks `read` whenever somebody asks for the page. It must not block.
    pub fn read(&self, read: impl Fn() -> Vec<Family> + Send + Sync + 'static) {
        lock(&self.0).register_collector(Box::new(Read(read)));
    }

    /// Everything that is registered, and `more` that was read just now, in the OpenMetrics text format.
    #[must_use]
    pub fn page(&self, more: Vec<Family>) -> String {
        let mut read = Registry::with_prefix(PREFIX);
        read.register_collector(Box::new(Read(move || more.clone())));
        let mut page = String::new();
        // Writing into a string cannot fail.
        let _ = encode_registry(&mut page, &read);
        let _ = encode_registry(&mut page, &lock(&self.0));
        let _ = encode_eof(&mut page);
        page
    }
}

/// A page in the text format of Prometheus 0.0.4, which every scraper reads: there, counters are called with their ending.
#[must_use]
pub fn plain(page: &str) -> String {
    let counters: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut plain = String::with_capacity(page.len());
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => continue,
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                plain.push_str(&format!("# {kind} {name}_total {rest}"));
            }
            _ => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

/// What the samples of a name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that rises and falls.
    Gauge,
    /// A number that only rises while the process lives. Its name gets the ending `_total`.
    Counter,
}

/// All samples of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without the prefix `tidegate_`, and without an ending.
    pub name: &'static str,
    /// For people, without a full stop.
    pub help: &'static str,
    /// What they are.
    pub kind: Kind,
    /// Labels and values.
    pub samples: Vec<(Labels, f64)>,
}

/// Names and values of labels. Bounded: they come from a few words, or from what is bounded itself.
pub type Labels = Vec<(&'static str, String)>;

impl Family {
    /// A name with a single sample and no labels.
    #[must_use]
    pub fn single(name: &'static str, help: &'static str, kind: Kind, value: f64) -> Self {
        Self {
            name,
            help,
            kind,
            samples: vec![(Labels::new(), value)],
        }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let kind = match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        let help = format!("{}.", self.help);
        let mut encoder = encoder.encode_descriptor(self.name, &help, None, kind)?;
        for (labels, value) in &self.samples {
            match labels.is_empty() {
                true => self.encode_value(&mut encoder, *value)?,
                false => {
                    let labels = escaped(labels);
                    self.encode_value(&mut encoder.encode_family(&labels)?, *value)?;
                }
            }
        }
        Ok(())
    }

    // Whole numbers as such.
    fn encode_value(&self, encoder: &mut MetricEncoder<'_>, value: f64) -> Result<(), Error> {
        let whole = value as i64;
        let is_whole = whole as f64 == value;
        match (self.kind, is_whole) {
            (Kind::Gauge, true) => encoder.encode_gauge(&whole),
            (Kind::Gauge, false) => encoder.encode_gauge(&value),
            (Kind::Counter, true) => {
                encoder.encode_counter::<NoLabelSet, u64, f64>(&whole.unsigned_abs(), None)
            }
            (Kind::Counter, false) => encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None),
        }
    }
}

// The encoder writes values as they are.
fn escaped(labels: &Labels) -> Labels {
    let escape = |value: &str| {
        value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    labels
        .iter()
        .map(|(name, value)| (*name, escape(value)))
        .collect()
}

struct Read<F>(F);

impl<F> std::fmt::Debug for Read<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Read")
    }
}

impl<F: Fn() -> Vec<Family> + Send + Sync + 'static> Collector for Read<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        (self.0)()
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        let metrics = Metrics::default();
        metrics.counter("published_events", "Events").inc_by(3);
        metrics.read(|| vec![Family::single("open", "Open", Kind::Gauge, 4.0)]);
        let bounds = [0.5, 1.0].into_iter();
        metrics
            .histogram("sync", "Time", Some(Unit::Seconds), bounds)
            .observe(0.25);
        let depth = Family {
            name: "depth",
            help: "Pending events",
            kind: Kind::Gauge,
            samples: vec![(vec![("subscription", "a\"b".into())], 2.0)],
        };
        let busy = Family::single("busy_seconds", "Time", Kind::Counter, 1.5);
        metrics.page(vec![depth, busy])
    }

    #[test]
    fn a_page_has_everything_once_and_one_end() {
        let page = page();
        for line in [
            "# TYPE tidegate_published_events counter",
            "tidegate_published_events_total 3",
            "# HELP tidegate_open Open.",
            "tidegate_open 4",
            "tidegate_depth{subscription=\"a\\\"b\"} 2",
            "tidegate_busy_seconds_total 1.5",
            "tidegate_sync_seconds_count 1",
        ] {
            assert_eq!(
                page.lines().filter(|found| *found == line).count(),
                1,
                "{line} in {page}"
            );
        }
        assert!(page.ends_with("# EOF\n"));
        assert_eq!(page.matches("EOF").count(), 1);
    }

    #[test]
    fn the_plain_format_calls_counters_by_their_samples_name() {
        let plain = plain(&page());
        assert!(plain.contains(
            "# TYPE tidegate_published_events_total counter\ntidegate_published_events_total 3\n"
        ));
        assert!(plain.contains("# HELP tidegate_busy_seconds_total Time.\n"));
        assert!(plain.contains("# TYPE tidegate_open gauge\n"));
        assert!(plain.contains("# TYPE tidegate_sync_seconds histogram\n"));
        assert!(!plain.contains("# EOF") && !plain.contains("# UNIT"));
    }
}
