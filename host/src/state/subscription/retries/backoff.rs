//! The back-off: how long an event that failed is left alone before its next attempt. It takes the subscription's own steps, whose
//! default is in `domain/delivery_policy.rs`. Without jitter, since it is the broker that
//! hands out what is due, as far as consumers have room, and nobody who comes. When an attempt is due, rounded so that there are few
//! moments, is in `due_times`.

use crate::domain::{DELAY_MS_MAX, DeliveryPolicy};

/// Milliseconds to wait after `failures`, counted from 1. The last step repeats; none is longer than may be said, whatever an older
/// broker took.
pub(in crate::state::subscription) fn step_ms(policy: &DeliveryPolicy, failures: u32) -> u64 {
    let index = (failures.max(1) - 1) as usize;
    let steps = &policy.backoff_ms;
    let step = steps.get(index).or(steps.last()).copied().unwrap_or(0);
    step.min(DELAY_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_repeats_its_last_step() {
        let check = |steps: &[u64], expected: [u64; 5]| {
            let policy = DeliveryPolicy {
                backoff_ms: steps.to_vec(),
                ..DeliveryPolicy::default()
            };
            let waits = [1, 2, 3, 4, 5].map(|failures| step_ms(&policy, failures));
            assert_eq!(waits, expected);
        };
        check(
            &DeliveryPolicy::default().backoff_ms,
            [1_000, 5_000, 30_000, 30_000, 30_000],
        );
        check(&[], [0; 5]);
        check(
            &[1, u64::MAX],
            [1, DELAY_MS_MAX, DELAY_MS_MAX, DELAY_MS_MAX, DELAY_MS_MAX],
        );
    }
}
