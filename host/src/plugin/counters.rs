//! Counters of one plugin, written by the guests' threads and read by metrics, and what people call it. No history.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::domain::Digest;
use crate::locks::lock;

/// How long a plugin counts as at work after a call. Whoever has events all the time makes a call every few milliseconds.
const AT_WORK_TICKS: u64 = 100;

/// How a plugin fared since the broker started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginStats {
    /// What it is called, `name@version`: by the broker, or else as it was used first. Empty as long as nobody has said.
    pub label: String,
    /// Its bytes.
    pub digest: Digest,
    /// Calls of `evaluate` or `apply`, the search for who fails included.
    pub calls: u64,
    /// Events in those calls.
    pub events: u64,
    /// Nanoseconds that guests of it ran or were being fed.
    pub busy_ns: u64,
    /// Calls that trapped or answered nonsense.
    pub traps: u64,
    /// Calls that ran longer than they may.
    pub timeouts: u64,
    /// Configurations that failed, the guest's own refusals included.
    pub configure_failures: u64,
    /// Live instances.
    pub instances: u64,
    /// Rules that live in an instance of their own because they failed.
    pub quarantined: u64,
    /// Groups and transformers that are left alone for a while because they kept failing.
    pub paused: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) label: Mutex<String>,
    pub(super) calls: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) busy_ns: AtomicU64,
    pub(super) traps: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) configure_failures: AtomicU64,
    pub(super) instances: AtomicU64,
    pub(super) quarantined: AtomicU64,
    pub(super) paused: AtomicU64,
    // Tick of the epoch after which it no longer counts as at work.
    at_work_until: AtomicU64,
}

impl Counters {
    pub(super) fn label(&self) -> String {
        lock(&self.label).clone()
    }

    pub(super) fn set_label(&self, label: &str) {
        label.clone_into(&mut lock(&self.label));
    }

    pub(super) fn set_first_label(&self, label: &str) {
        let mut known = lock(&self.label);
        if known.is_empty() {
            label.clone_into(&mut known);
        }
    }

    /// It is at work at this tick, and counts as such for some time after it.
    pub(super) fn at_work(&self, tick: u64) {
        self.at_work_until
            .store(tick + AT_WORK_TICKS, Ordering::Relaxed);
    }

    /// Whether it was at work at this tick or shortly before.
    pub(super) fn is_at_work(&self, tick: u64) -> bool {
        tick < self.at_work_until.load(Ordering::Relaxed)
    }

    pub(super) fn ran(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, digest: Digest) -> PluginStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PluginStats {
            label: self.label(),
            digest,
            calls: read(&self.calls),
            events: read(&self.events),
            busy_ns: read(&self.busy_ns),
            traps: read(&self.traps),
            timeouts: read(&self.timeouts),
            configure_failures: read(&self.configure_failures),
            instances: read(&self.instances),
            quarantined: read(&self.quarantined),
            paused: read(&self.paused),
        }
    }
}

/// Counts one more of something for as long as it lives.
pub(super) struct Gauge {
    counters: Arc<Counters>,
    field: fn(&Counters) -> &AtomicU64,
}

impl Gauge {
    pub(super) fn new(counters: &Arc<Counters>, field: fn(&Counters) -> &AtomicU64) -> Self {
        field(counters).fetch_add(1, Ordering::Relaxed);
        Self {
            counters: Arc::clone(counters),
            field,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.field)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}
