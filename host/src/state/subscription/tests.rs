//! Tests of the subscription's state, one file for each subject. Here is what all of them begin with: a policy, two consumers, and
//! calls that take and give plain numbers.

mod ack_deadlines;
mod against_model;
mod browsing;
mod crash_suspects;
mod effects;
mod filter_changes;
mod give_up;
mod leases;
mod model;
mod recovery;
mod retries;
mod snapshot;
mod throughput;

use super::*;
use crate::domain::Millis;

const C: ConsumerId = ConsumerId(1);
const D: ConsumerId = ConsumerId(2);

fn policy() -> DeliveryPolicy {
    DeliveryPolicy {
        ack_deadline_ms: 100,
        attempts_max: 3,
        backoff_ms: vec![0, 40],
        in_flight_events_max: 12,
        ..DeliveryPolicy::default()
    }
}

fn run(first: u64, last: u64) -> RangeInclusive<Position> {
    Position(first)..=Position(last)
}

fn lease(
    state: &mut SubscriptionState,
    consumer: ConsumerId,
    max: usize,
    now: u64,
) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    state.lease(consumer, max, Millis(now), &mut out);
    out.into_iter()
        .map(|lease| (lease.position.0, lease.attempt))
        .collect()
}

fn ack(
    state: &mut SubscriptionState,
    consumer: Option<ConsumerId>,
    ranges: &[RangeInclusive<Position>],
) -> Vec<(u64, u64)> {
    match consumer {
        Some(consumer) => drop(state.ack(consumer, ranges)),
        None => {
            state.finish(ranges);
            state.acked_before_match(ranges);
        }
    }
    let acked = std::mem::take(&mut state.effects.acked);
    acked.iter().map(bounds).collect()
}

/// Unfiltered, with `1..=count` matched and consumer `C` attached.
fn with_events(count: u64) -> SubscriptionState {
    let mut state = SubscriptionState::new(policy(), Position(1), 0);
    assert!(state.observe(Position(count), [run(1, count)]));
    state.attach(C);
    state
}
