//! Who is handed what: within the limit of what is in flight, retries beside what is new, and answered only by who holds it.

use std::collections::BTreeSet;

use super::*;

#[test]
fn nobody_acks_what_another_holds() {
    let mut state = with_events(4);
    state.attach(D);
    assert_eq!(lease(&mut state, C, 2, 0), [(1, 1), (2, 1)]);
    assert_eq!(lease(&mut state, D, 9, 0), [(3, 1), (4, 1)]);
    assert_eq!(ack(&mut state, Some(C), &[run(0, u64::MAX)]), [(1, 2)]);
    assert_eq!(ack(&mut state, Some(C), &[run(0, u64::MAX)]), []);
    assert_eq!(
        ack(&mut state, Some(D), &[run(4, 4), run(3, 3), run(9, 2)]),
        [(4, 4), (3, 3)]
    );
    assert_eq!(state.depth(), 0);
}

#[test]
fn in_flight_stays_within_the_limit() {
    let mut state = with_events(100);
    assert_eq!(lease(&mut state, C, 100, 0).len(), 12);
    assert!(!state.has_deliverable());
    ack(&mut state, Some(C), &[run(3, 5)]);
    assert_eq!(lease(&mut state, C, 100, 0), [(13, 1), (14, 1), (15, 1)]);
}

#[test]
fn what_was_not_sent_does_not_count() {
    let mut state = with_events(4);
    lease(&mut state, C, 4, 0);
    state.give_back(C, [3, 4].map(Position));
    assert_eq!(lease(&mut state, C, 9, 0), [(3, 1), (4, 1)]);
    assert_eq!(state.redelivered(), 0);
}

#[test]
fn what_misses_its_deadline_does_not_keep_the_new_from_coming() {
    let policy = DeliveryPolicy {
        attempts_max: 0,
        backoff_ms: vec![0],
        in_flight_events_max: 2,
        ..policy()
    };
    let mut state = SubscriptionState::new(policy, Position(1), 0);
    state.observe(Position(2), [run(1, 2)]);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 1), (2, 1)]);
    state.observe(Position(4), [run(3, 4)]);
    assert_eq!(lease(&mut state, C, 9, 50), []);
    state.tick(Millis(100), |_| None);
    assert_eq!(lease(&mut state, C, 9, 100), [(1, 2), (3, 1)]);
    // What is new never has to wait longer than until the next is answered or misses its deadline.
    ack(&mut state, Some(C), &[run(3, 3)]);
    assert_eq!(lease(&mut state, C, 9, 110), [(4, 1)]);
    ack(&mut state, Some(C), &[run(4, 4)]);
    assert_eq!(lease(&mut state, C, 9, 120), [(2, 2)], "nothing is new");
}

#[test]
fn whoever_nacks_everything_still_gets_something_new() {
    for window in [1, 2, 3, 12] {
        let policy = DeliveryPolicy {
            attempts_max: 0,
            in_flight_events_max: window,
            ..policy()
        };
        let mut state = SubscriptionState::new(policy, Position(1), 0);
        state.observe(Position(1_000), [run(1, 1_000)]);
        state.attach(C);
        let mut seen = BTreeSet::new();
        for _ in 0..400 {
            for (position, _) in lease(&mut state, C, 1, 0) {
                seen.insert(position);
                state.nack(C, &[run(position, position)], Some(0), Millis(0));
            }
        }
        assert!(seen.len() >= 99, "{} of 400 with {window}", seen.len());
        assert!(state.redelivered() > 200, "and what failed is not left out");
    }
}

#[test]
fn nobody_takes_over_what_is_paused() {
    let mut state = with_events(4);
    state.attach(D);
    lease(&mut state, C, 2, 0);
    assert_eq!(state.successors().collect::<Vec<_>>(), [C, D]);
    state.pause("stop");
    assert_eq!(state.successors().count(), 0);
}
