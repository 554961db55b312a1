//! Delivery rate: how many bytes a second a path has lately brought to the peer, measured with every batch of acknowledgements
//! between two of its packets. The method is that of the IETF's draft on BBR (draft-ietf-ccwg-bbr, "Delivery Rate Samples"): bytes
//! acknowledged since a packet was sent, over the longer of the time in which they were sent and that in which they were
//! acknowledged. What follows from a rate is not decided here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Departures remembered at most. Each is a system call's worth of packets; a path with more of them under way gives samples from
/// the newest of them.
const DEPARTURES_MAX: usize = 8_192;

/// What was known when packets left.
#[derive(Clone, Copy, Debug)]
struct Departure {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the newest packet left that had been acknowledged by then.
    acked_departed_at: Instant,
    application_limited: bool,
}

/// What a batch of acknowledgements says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Bytes a second.
    pub(super) rate: f64,
    /// The sender had nothing more to send, so that the path may be able to do more.
    pub(super) application_limited: bool,
    /// A round trip is over: what is acknowledged now left after the last round began.
    pub(super) round_over: bool,
}

/// Measures one path. A copy is for another path, or to be looked at: what has left on this one is of no use there, and may be much.
#[derive(Debug, Default)]
pub(super) struct DeliveryRate {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Option<Instant>,
    acked_departed_at: Option<Instant>,
    application_limited: bool,
    newest_acked: Option<Departure>,
    round_ends_at: u64,
}

impl Clone for DeliveryRate {
    fn clone(&self) -> Self {
        Self {
            departures: VecDeque::new(),
            ..*self
        }
    }
}

impl DeliveryRate {
    /// Packets leave.
    pub(super) fn on_sent(&mut self, now: Instant) {
        if self.departures.back().is_some_and(|last| last.at == now) {
            return;
        }
        if self.departures.is_empty() {
            // Nothing is under way, so time begins now.
            self.delivered_at = Some(now);
            self.acked_departed_at = Some(now);
        }
        if self.departures.len() == DEPARTURES_MAX {
            self.departures.pop_front();
        }
        self.departures.push_back(Departure {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at.unwrap_or(now),
            acked_departed_at: self.acked_departed_at.unwrap_or(now),
            application_limited: self.application_limited,
        });
    }

    /// A packet that left at `sent` has arrived.
    pub(super) fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = Some(now);
        let found = self.departures.binary_search_by(|one| one.at.cmp(&sent));
        if let Some(departure) = found.ok().and_then(|found| self.departures.get(found))
            && self.newest_acked.is_none_or(|one| one.at <= departure.at)
        {
            self.newest_acked = Some(*departure);
        }
    }

    /// All packets of a batch of acknowledgements have been told. `None` if nothing can be learnt of them.
    pub(super) fn on_acks_end(
        &mut self,
        now: Instant,
        application_limited: bool,
        remember: Duration,
    ) -> Option<Sample> {
        self.application_limited = application_limited;
        let newest = self.newest_acked.take()?;
        self.acked_departed_at = Some(newest.at);
        let acking = now.saturating_duration_since(newest.delivered_at);
        let sending = newest
            .at
            .saturating_duration_since(newest.acked_departed_at);
        let round_over = newest.delivered >= self.round_ends_at;
        if round_over {
            self.round_ends_at = self.delivered;
        }
        let old = |one: &Departure| now.saturating_duration_since(one.at) > remember;
        while self.departures.front().is_some_and(old) {
            self.departures.pop_front();
        }
        let seconds = acking.max(sending).as_secs_f64();
        let bytes = self.delivered - newest.delivered;
        Some(Sample {
            rate: if seconds > 0.0 {
                bytes as f64 / seconds
            } else {
                0.0
            },
            application_limited: newest.application_limited,
            round_over,
        })
    }

    /// Bytes that have arrived since the connection began.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_nothing_of_what_is_under_way_and_measures_what_leaves_from_then_on() {
        let begun = Instant::now();
        let after = |ms| begun + Duration::from_millis(ms);
        let mut rate = DeliveryRate::default();
        for ms in 0..100 {
            rate.on_sent(after(ms));
        }
        let mut copy = rate.clone();
        assert_eq!(
            (rate.departures.len(), copy.departures.capacity()),
            (100, 0)
        );
        // An answer to what left before says nothing to it.
        copy.on_ack(after(100), begun, 1_000);
        let remember = Duration::from_secs(1);
        assert!(copy.on_acks_end(after(100), false, remember).is_none());
        copy.on_sent(after(200));
        copy.on_ack(after(300), after(200), 5_000);
        let sample = copy.on_acks_end(after(300), false, remember);
        assert_eq!(sample.expect("a sample").rate, 50_000.0);
    }
}
