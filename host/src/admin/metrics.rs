//! The admin API's own counters, and joining the texts of all parts into one page of metrics.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::auth::Policy;

/// What the admin API counts. Written by its middleware and listeners, read by `/metrics`.
#[derive(Debug, Default)]
pub(super) struct AdminMetrics {
    // Answers by the first digit of their status; index 0 counts statuses that do not exist.
    requests: [AtomicU64; 6],
    connections: AtomicU64,
    connections_evicted: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl AdminMetrics {
    pub(super) fn count_request(&self, status: u16) {
        let class = usize::from(status / 100);
        self.requests[if class < self.requests.len() {
            class
        } else {
            0
        }]
        .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_failed_handshake(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_evicted_connection(&self) {
        self.connections_evicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused_connection(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The counters, and the policy's, in the Prometheus text format.
    pub(super) fn render(&self, policy: &Policy) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let by_status: Vec<(String, u64)> = (1..self.requests.len())
            .map(|class| {
                (
                    format!("{{status=\"{class}xx\"}}"),
                    self.requests[class].load(Ordering::Relaxed),
                )
            })
            .collect();
        family(
            "tidegate_admin_requests_total",
            "counter",
            "Requests to the admin API by class of status.",
            &by_status,
        );
        family(
            "tidegate_admin_connections",
            "gauge",
            "Open connections to the admin API.",
            &[(String::new(), self.connections.load(Ordering::Relaxed))],
        );
        let mut count = |name: &str, help: &str, count: &AtomicU64| {
            let samples = [(String::new(), count.load(Ordering::Relaxed))];
            family(name, "counter", help, &samples);
        };
        count(
            "tidegate_admin_connections_evicted_total",
            "Connections to the admin API that were silent and made room for others.",
            &self.connections_evicted,
        );
        count(
            "tidegate_admin_connections_refused_total",
            "Connections to the admin API that were refused, since all others were at work.",
            &self.connections_refused,
        );
        count(
            "tidegate_admin_handshakes_failed_total",
            "TLS handshakes with the admin API that failed.",
            &self.handshakes_failed,
        );
        let denied = policy.denied_counts();
        family(
            "tidegate_denied_total",
            "counter",
            "Requests that no grant allowed, over QUIC and HTTP, by the right that was lacking.",
            &denied.map(|(right, count)| (format!("{{right=\"{}\"}}", right.key()), count)),
        );
        out
    }
}

/// Adds a part to the page, without the end mark that some encoders write.
pub(super) fn append(page: &mut String, part: &str) {
    for line in part.lines().filter(|line| *line != "# EOF") {
        page.push_str(line);
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_join_into_one_page() {
        let metrics = AdminMetrics::default();
        metrics.count_request(204);
        metrics.count_request(404);
        metrics.count_request(999);
        let mut page = String::new();
        append(&mut page, "a 1\n# EOF\n");
        append(&mut page, &metrics.render(&Policy::default()));
        assert!(
            page.starts_with("a 1\n# HELP tidegate_admin_requests_total"),
            "{page}"
        );
        assert!(page.contains("tidegate_admin_requests_total{status=\"2xx\"} 1\n"));
        assert!(page.contains("tidegate_denied_total{right=\"publish\"} 0\n"));
        assert!(!page.contains("EOF"));
    }
}
