//! What the bench says at its end, for people and for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::cli::load::Latencies;
use crate::cli::process_usage::ProcessUsage;

/// What came in the measured window, and how long it took.
#[derive(Debug)]
pub(super) struct Figures {
    /// Answers or deliveries that came inside the window.
    pub(super) count: u64,
    /// From the (intended) send to them, of events sent inside the window.
    pub(super) latencies: Latencies,
}

/// The result of one run.
pub(super) struct BenchReport {
    /// Name of the workload.
    pub(super) workload: &'static str,
    /// Bytes of a payload.
    pub(super) size: usize,
    /// Publishers.
    pub(super) publishers: usize,
    /// Subscriptions.
    pub(super) subscriptions: usize,
    /// Length of the measured window.
    pub(super) window: Duration,
    /// Answers to publishers.
    pub(super) acks: Figures,
    /// Deliveries to consumers; None where the workload has no consumers.
    pub(super) deliveries: Option<Figures>,
    /// What the broker used inside the window; None for one that was not started here.
    pub(super) broker: Option<ProcessUsage>,
    /// Deliveries that were due and did not come.
    pub(super) missing: u64,
}

impl BenchReport {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_header([
                "",
                "events",
                "events/s",
                "MB/s",
                "p50 µs",
                "p90 µs",
                "p99 µs",
                "p99.9 µs",
                "max µs",
            ]);
        table.add_row(self.row("published", &self.acks));
        if let Some(deliveries) = &self.deliveries {
            table.add_row(self.row("delivered", deliveries));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!(
            "{}: {} byte events, {} publishers, {} subscriptions, {:.1} s\n{table}",
            self.workload,
            self.size,
            self.publishers,
            self.subscriptions,
            self.window.as_secs_f64()
        );
        if let Some(usage) = &self.broker {
            text += &format!(
                "\nbroker: {:.2} s CPU ({:.2} µs per published event), at most {} MiB resident",
                usage.cpu.as_secs_f64(),
                self.cpu_us_per_event(usage),
                usage.resident_bytes_max >> 20
            );
        }
        if self.missing > 0 {
            text += &format!("\n{} deliveries did not come", self.missing);
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let figures = |figures: &Figures| {
            json!({
                "events": figures.count,
                "events_per_second": self.per_second(figures),
                "bytes_per_second": self.per_second(figures) * self.size as f64,
                "latency_us": latencies(&figures.latencies),
            })
        };
        json!({
            "workload": self.workload,
            "size_bytes": self.size,
            "publishers": self.publishers,
            "subscriptions": self.subscriptions,
            "window_ms": self.window.as_millis() as u64,
            "published": figures(&self.acks),
            "delivered": self.deliveries.as_ref().map(figures),
            "missing": self.missing,
            "broker": self.broker.as_ref().map(|usage| json!({
                "cpu_ms": usage.cpu.as_millis() as u64,
                "cpu_us_per_event": self.cpu_us_per_event(usage),
                "resident_bytes_max": usage.resident_bytes_max,
            })),
        })
    }

    fn row(&self, what: &str, figures: &Figures) -> Vec<String> {
        let rate = self.per_second(figures);
        let quantile = |part| figures.latencies.quantile_us(part).to_string();
        vec![
            what.to_owned(),
            figures.count.to_string(),
            format!("{rate:.0}"),
            format!("{:.1}", rate * self.size as f64 / 1e6),
            quantile(0.5),
            quantile(0.9),
            quantile(0.99),
            quantile(0.999),
            figures.latencies.max_us().to_string(),
        ]
    }

    fn per_second(&self, figures: &Figures) -> f64 {
        figures.count as f64 / self.window.as_secs_f64().max(f64::EPSILON)
    }

    fn cpu_us_per_event(&self, usage: &ProcessUsage) -> f64 {
        usage.cpu.as_secs_f64() * 1e6 / self.acks.count.max(1) as f64
    }
}

fn latencies(latencies: &Latencies) -> Value {
    json!({
        "p50": latencies.quantile_us(0.5),
        "p90": latencies.quantile_us(0.9),
        "p99": latencies.quantile_us(0.99),
        "p999": latencies.quantile_us(0.999),
        "max": latencies.max_us(),
        "count": latencies.count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second_of_the_window() {
        let acks = Figures {
            count: 1_000,
            latencies: Latencies::new(),
        };
        let report = BenchReport {
            workload: "publish",
            size: 100,
            publishers: 1,
            subscriptions: 1,
            window: Duration::from_secs(2),
            acks,
            deliveries: None,
            broker: Some(ProcessUsage {
                cpu: Duration::from_millis(10),
                resident_bytes_max: 64 << 20,
            }),
            missing: 0,
        };
        let json = report.json();
        assert_eq!(json["published"]["events_per_second"], 500.0);
        assert_eq!(json["published"]["bytes_per_second"], 50_000.0);
        assert_eq!(json["broker"]["cpu_us_per_event"], 10.0);
        assert!(report.table().contains("64 MiB"));
    }
}
