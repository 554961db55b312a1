//! The admin API's own counters.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::auth::Policy;
use crate::telemetry::metrics_registry::{Family, Kind};

/// What the admin API counts. Written by its middleware and listeners, read by `/metrics`.
#[derive(Debug, Default)]
pub(super) struct AdminCounters {
    // Answers by the first digit of their status; index 0 counts statuses that do not exist.
    requests: [AtomicU64; 6],
    connections: AtomicU64,
    connections_evicted: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl AdminCounters {
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

    /// The counters, and the policy's, for the page of metrics.
    pub(super) fn families(&self, policy: &Policy) -> Vec<Family> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        let counter = |name, help, value| Family::single(name, help, Kind::Counter, count(value));
        let by_status = (1..).zip(&self.requests[1..]);
        let denied = policy.denied_counts();
        vec![
            Family {
                name: "admin_requests",
                help: "Requests to the admin API by class of status",
                kind: Kind::Counter,
                samples: by_status
                    .map(|(class, requests)| {
                        (vec![("status", format!("{class}xx"))], count(requests))
                    })
                    .collect(),
            },
            Family::single(
                "admin_connections",
                "Open connections to the admin API",
                Kind::Gauge,
                count(&self.connections),
            ),
            counter(
                "admin_connections_evicted",
                "Connections to the admin API that were silent and made room for others",
                &self.connections_evicted,
            ),
            counter(
                "admin_connections_refused",
                "Connections to the admin API that were refused, since all others were at work",
                &self.connections_refused,
            ),
            counter(
                "admin_handshakes_failed",
                "TLS handshakes with the admin API that failed",
                &self.handshakes_failed,
            ),
            Family {
                name: "denied",
                help: "Requests that no grant allowed, over QUIC and HTTP, by the right that was lacking",
                kind: Kind::Counter,
                samples: denied
                    .iter()
                    .map(|(right, count)| (vec![("right", right.key().to_owned())], *count as f64))
                    .collect(),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn requests_are_counted_by_class() {
        let counted = AdminCounters::default();
        counted.count_request(204);
        counted.count_request(404);
        counted.count_request(999);
        let page = Metrics::default().page(counted.families(&Policy::default()));
        for line in [
            "tidegate_admin_requests_total{status=\"2xx\"} 1\n",
            "tidegate_admin_requests_total{status=\"5xx\"} 0\n",
            "tidegate_denied_total{right=\"publish\"} 0\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }
}
