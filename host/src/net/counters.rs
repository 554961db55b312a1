//! Counters of the network side, for the metrics page. Only counted here, never decided upon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_wire::pb::ErrorCode;

use crate::telemetry::metrics_registry::{Family, Kind};

/// One more than the highest error code.
const CODES: usize = ErrorCode::Internal as usize + 1;

/// Counters that all connections share.
#[derive(Debug, Default)]
pub struct NetCounters {
    handshakes_open: AtomicU64,
    handshakes_waiting: AtomicU64,
    handshakes_begun: AtomicU64,
    handshakes_refused: AtomicU64,
    connections_open: AtomicU64,
    connections_total: AtomicU64,
    connections_refused: AtomicU64,
    addresses_changed: AtomicU64,
    handshake_failures: AtomicU64,
    handshakes_given_up: AtomicU64,
    attempts_withdrawn: AtomicU64,
    publish_streams_open: AtomicU64,
    subscribe_streams_open: AtomicU64,
    measure_streams_open: AtomicU64,
    link_tests: AtomicU64,
    link_test_bytes: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    packed_in: AtomicU64,
    unpacked_in: AtomicU64,
    packed_out: AtomicU64,
    unpacked_out: AtomicU64,
    refusals: [AtomicU64; CODES],
}

/// [`NetCounters`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetCounts {
    /// Handshakes under way.
    pub handshakes_open: u64,
    /// Attempts that wait for the broker to have time for their handshake.
    pub handshakes_waiting: u64,
    /// Handshakes that were begun, since the start.
    pub handshakes_begun: u64,
    /// Attempts turned away because the broker had no time for their handshake, since the start. They count among
    /// [`connections_refused`](Self::connections_refused) too.
    pub handshakes_refused: u64,
    /// Connections past their handshake and not yet closed.
    pub connections_open: u64,
    /// Connections that finished their handshake, since the start.
    pub connections_total: u64,
    /// Attempts turned away because of a limit, since the start.
    pub connections_refused: u64,
    /// Times that the client of an open connection was found at another address, since the start.
    pub addresses_changed: u64,
    /// Handshakes that failed (no certificate, one of a foreign CA, an expired one, a deadline) and
    /// certificates that name nobody, since the start.
    pub handshake_failures: u64,
    /// Of those that failed: they had stalled for longest when there were too many, since the start.
    pub handshakes_given_up: u64,
    /// Attempts to connect that their clients ended before their hello was answered, mostly since another was faster, since the start.
    /// None of them counts as failed.
    pub attempts_withdrawn: u64,
    /// Publish streams being served.
    pub publish_streams_open: u64,
    /// Consumers attached.
    pub subscribe_streams_open: u64,
    /// Measure streams being served.
    pub measure_streams_open: u64,
    /// Tests of connections that began, since the start.
    pub link_tests: u64,
    /// Bytes of payload that they carried, both ways.
    pub link_test_bytes: u64,
    /// Bytes read from streams, since the start.
    pub bytes_in: u64,
    /// Bytes written to streams, since the start.
    pub bytes_out: u64,
    /// Bytes of packed events that were read from publish streams, since the start.
    pub packed_in: u64,
    /// Bytes of these events once they were unpacked.
    pub unpacked_in: u64,
    /// Bytes of packed events that were written to subscribe streams, since the start.
    pub packed_out: u64,
    /// Bytes of these events before they were packed.
    pub unpacked_out: u64,
    /// Typed refusals since the start, by code in words.
    pub refusals: Vec<(&'static str, u64)>,
}

impl NetCounts {
    // What becomes of attempts that were begun, and of clients' addresses.
    fn clients(&self) -> [Family; 3] {
        [
            (
                "handshakes_given_up",
                "QUIC handshakes that stalled and gave way when there were too many",
                self.handshakes_given_up,
            ),
            (
                "attempts_withdrawn",
                "QUIC connection attempts that their clients gave up, mostly since another was faster",
                self.attempts_withdrawn,
            ),
            (
                "client_addresses_changed",
                "Times that the client of an open connection was found at another address",
                self.addresses_changed,
            ),
        ]
        .map(|(name, help, value)| Family::single(name, help, Kind::Counter, value as f64))
    }

    // What compression saves, each way.
    fn compression(&self) -> [Family; 4] {
        [
            (
                "packed_received_bytes",
                "Bytes of packed events read from publish streams",
                self.packed_in,
            ),
            (
                "unpacked_received_bytes",
                "Bytes of these events once they were unpacked",
                self.unpacked_in,
            ),
            (
                "packed_sent_bytes",
                "Bytes of packed events written to subscribe streams",
                self.packed_out,
            ),
            (
                "unpacked_sent_bytes",
                "Bytes of these events before they were packed",
                self.unpacked_out,
            ),
        ]
        .map(|(name, help, value)| Family::single(name, help, Kind::Counter, value as f64))
    }
}

/// Counts one thing as open for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenGuard {
    stats: Arc<NetCounters>,
    counter: fn(&NetCounters) -> &AtomicU64,
}

impl OpenGuard {
    fn new(stats: &Arc<NetCounters>, counter: fn(&NetCounters) -> &AtomicU64) -> Self {
        counter(stats).fetch_add(1, Ordering::Relaxed);
        Self {
            stats: Arc::clone(stats),
            counter,
        }
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        (self.counter)(&self.stats).fetch_sub(1, Ordering::Relaxed);
    }
}

impl NetCounters {
    /// The counters, for the page of metrics.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let counts = self.counts();
        let gauge = |name, help, value| Family::single(name, help, Kind::Gauge, value as f64);
        let counter = |name, help, value| Family::single(name, help, Kind::Counter, value as f64);
        let refusals = counts.refusals.iter();
        let refusals = Family {
            name: "refusals",
            help: "Requests refused with a typed error",
            kind: Kind::Counter,
            samples: refusals
                .map(|(code, count)| (vec![("code", (*code).to_owned())], *count as f64))
                .collect(),
        };
        vec![
            gauge(
                "connections_open",
                "Open QUIC connections",
                counts.connections_open,
            ),
            gauge(
                "handshakes_open",
                "QUIC handshakes under way",
                counts.handshakes_open,
            ),
            gauge(
                "handshakes_waiting",
                "QUIC connection attempts that wait until there is time for their handshake",
                counts.handshakes_waiting,
            ),
            counter(
                "handshakes_begun",
                "QUIC handshakes that were begun",
                counts.handshakes_begun,
            ),
            counter(
                "handshakes_refused",
                "QUIC connection attempts turned away since there was no time for their handshake",
                counts.handshakes_refused,
            ),
            counter(
                "connections",
                "QUIC connections that finished their handshake",
                counts.connections_total,
            ),
            counter(
                "connections_refused",
                "QUIC connections turned away by a limit",
                counts.connections_refused,
            ),
            counter(
                "handshake_failures",
                "QUIC handshakes that failed",
                counts.handshake_failures,
            ),
            gauge(
                "publish_streams_open",
                "Publish streams being served",
                counts.publish_streams_open,
            ),
            gauge(
                "subscribe_streams_open",
                "Consumers attached",
                counts.subscribe_streams_open,
            ),
            gauge(
                "measure_streams_open",
                "Measure streams being served",
                counts.measure_streams_open,
            ),
            counter(
                "link_tests",
                "Tests of connections that began",
                counts.link_tests,
            ),
            counter(
                "link_test_bytes",
                "Bytes that tests of connections carried, both ways",
                counts.link_test_bytes,
            ),
            counter(
                "network_received_bytes",
                "Bytes read from QUIC streams",
                counts.bytes_in,
            ),
            counter(
                "network_sent_bytes",
                "Bytes written to QUIC streams",
                counts.bytes_out,
            ),
            refusals,
        ]
        .into_iter()
        .chain(counts.clients())
        .chain(counts.compression())
        .collect()
    }

    /// The counters as they stand.
    #[must_use]
    pub fn counts(&self) -> NetCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refusals = self
            .refusals
            .iter()
            .enumerate()
            .skip(1)
            .filter_map(|(code, count)| {
                let code = ErrorCode::try_from(i32::try_from(code).ok()?).ok()?;
                Some((code.words(), load(count)))
            })
            .collect();
        NetCounts {
            handshakes_open: load(&self.handshakes_open),
            handshakes_waiting: load(&self.handshakes_waiting),
            handshakes_begun: load(&self.handshakes_begun),
            handshakes_refused: load(&self.handshakes_refused),
            connections_open: load(&self.connections_open),
            connections_total: load(&self.connections_total),
            connections_refused: load(&self.connections_refused),
            addresses_changed: load(&self.addresses_changed),
            handshake_failures: load(&self.handshake_failures),
            handshakes_given_up: load(&self.handshakes_given_up),
            attempts_withdrawn: load(&self.attempts_withdrawn),
            publish_streams_open: load(&self.publish_streams_open),
            subscribe_streams_open: load(&self.subscribe_streams_open),
            measure_streams_open: load(&self.measure_streams_open),
            link_tests: load(&self.link_tests),
            link_test_bytes: load(&self.link_test_bytes),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            packed_in: load(&self.packed_in),
            unpacked_in: load(&self.unpacked_in),
            packed_out: load(&self.packed_out),
            unpacked_out: load(&self.unpacked_out),
            refusals,
        }
    }

    pub(super) fn handshake(self: &Arc<Self>) -> OpenGuard {
        self.handshakes_begun.fetch_add(1, Ordering::Relaxed);
        OpenGuard::new(self, |stats| &stats.handshakes_open)
    }

    /// So many attempts wait by now. Only one says so.
    pub(super) fn handshakes_waiting(&self, count: usize) {
        self.handshakes_waiting
            .store(count as u64, Ordering::Relaxed);
    }

    pub(super) fn handshake_refused(&self) {
        self.handshakes_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection(self: &Arc<Self>) -> OpenGuard {
        self.connections_total.fetch_add(1, Ordering::Relaxed);
        OpenGuard::new(self, |stats| &stats.connections_open)
    }

    pub(super) fn publish_stream(self: &Arc<Self>) -> OpenGuard {
        OpenGuard::new(self, |stats| &stats.publish_streams_open)
    }

    pub(super) fn subscribe_stream(self: &Arc<Self>) -> OpenGuard {
        OpenGuard::new(self, |stats| &stats.subscribe_streams_open)
    }

    pub(super) fn measure_stream(self: &Arc<Self>) -> OpenGuard {
        OpenGuard::new(self, |stats| &stats.measure_streams_open)
    }

    pub(super) fn link_test(&self) {
        self.link_tests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn link_test_carried(&self, bytes: u64) {
        self.link_test_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handshake that came to nothing, because it had to give way or otherwise.
    pub(super) fn handshake_failed(&self, gave_way: bool) {
        self.handshake_failures.fetch_add(1, Ordering::Relaxed);
        if gave_way {
            self.handshakes_given_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts that a client was found at another address.
    pub(super) fn address_changed(&self) {
        self.addresses_changed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an attempt that its client has ended.
    pub(super) fn attempt_withdrawn(&self) {
        self.attempts_withdrawn.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts events that came packed.
    pub(super) fn unpacked(&self, packed: usize, unpacked: usize) {
        self.packed_in.fetch_add(packed as u64, Ordering::Relaxed);
        self.unpacked_in
            .fetch_add(unpacked as u64, Ordering::Relaxed);
    }

    /// Counts events that go packed.
    pub(super) fn packed(&self, packed: usize, unpacked: u64) {
        self.packed_out.fetch_add(packed as u64, Ordering::Relaxed);
        self.unpacked_out.fetch_add(unpacked, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, code: ErrorCode) {
        // An ErrorCode is one of the variants that CODES was counted from.
        if let Some(counter) = self.refusals.get(code as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_counted_down_again() {
        let stats = Arc::new(NetCounters::default());
        {
            let _first = stats.connection();
            let _second = stats.connection();
            assert_eq!(stats.counts().connections_open, 2);
        }
        stats.refused(ErrorCode::Internal);
        let counts = stats.counts();
        assert_eq!((counts.connections_open, counts.connections_total), (0, 2));
        assert_eq!(counts.refusals.last(), Some(&("internal fault", 1)));
        assert_eq!(counts.refusals.len(), CODES - 1);
    }
}
