//! What the state costs per event.

use super::*;

/// Prints the cost per event; run it with `--ignored --nocapture` and `--release`.
#[test]
#[ignore = "prints times, checks nothing"]
fn throughput() {
    let total = 5_000_000u64;
    let wide = DeliveryPolicy::default();
    let print = |what: &str, events: u64, started: std::time::Instant| {
        println!(
            "{what}: {} ns per event",
            started.elapsed().as_nanos() / u128::from(events)
        );
    };

    for (batch, step) in [(256, 1), (32, 1), (1, 1), (256, 10)] {
        let mut state = SubscriptionState::new(wide.clone(), Position(1), usize::from(step > 1));
        state.attach(C);
        let mut out = Vec::new();
        let mut matched = Vec::new();
        let started = std::time::Instant::now();
        let mut at = 1;
        while at < total {
            let last = at + batch * step - 1;
            if step == 1 {
                state.observe(Position(last), [run(at, last)]);
            } else {
                matched.clear();
                matched.extend((at..=last).step_by(step as usize).map(Position));
                state.stage_result(0, Position(last), &matched);
            }
            out.clear();
            state.lease(C, 1_024, Millis(at / 1_000), &mut out);
            let ranges: Vec<_> = out
                .iter()
                .map(|lease| lease.position..=lease.position)
                .collect();
            let ranges = if step == 1 {
                vec![run(at, last)]
            } else {
                ranges
            };
            state.ack(C, &ranges);
            state.take_effects();
            at = last + 1;
        }
        assert_eq!(state.depth(), 0);
        print(
            &format!("match, lease, ack in batches of {batch}, every {step}th matches"),
            total / step,
            started,
        );
    }

    let count = 1_000_000u64;
    let mut state = SubscriptionState::new(
        DeliveryPolicy {
            in_flight_events_max: u32::MAX,
            ..wide
        },
        Position(1),
        0,
    );
    state.observe(Position(count), [run(1, count)]);
    state.attach(C);
    let mut out = Vec::new();
    state.lease(C, count as usize, Millis(0), &mut out);
    let started = std::time::Instant::now();
    for index in 0..count {
        let position = index * 7_919 % count + 1;
        state.ack(C, &[run(position, position)]);
        state.take_effects();
    }
    assert_eq!(state.depth(), 0);
    print(
        "acks of single events in random order, 1,000,000 in flight",
        count,
        started,
    );
}
