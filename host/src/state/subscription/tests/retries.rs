//! What came back to be tried again: when, how often, and however much of it there is.

use super::*;

#[test]
fn back_off_grows_until_the_event_is_given_up() {
    let mut state = with_events(1);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 1)]);
    assert_eq!(state.next_wakeup(), Some(Millis(100)));
    assert!(!state.tick(Millis(99), |_| None));
    assert!(
        state.tick(Millis(100), |_| None),
        "deadline passed, no back-off after the first attempt"
    );
    assert_eq!(lease(&mut state, C, 9, 100), [(1, 2)]);
    state.nack(C, &[run(1, 1)], None, Millis(110));
    assert_eq!(state.next_wakeup(), Some(Millis(150)));
    assert_eq!(lease(&mut state, C, 9, 149), []);
    assert_eq!(lease(&mut state, C, 9, 150), [(1, 3)]);
    state.nack(C, &[run(1, 1)], Some(0), Millis(150));
    assert!(!state.has_deliverable());
    assert_eq!(
        state.take_given_up(9),
        [GivenUp {
            position: Position(1),
            attempts: 3,
            reason: GiveUpReason::AttemptsExhausted
        }]
    );
    assert_eq!(state.depth(), 1, "kept until its dead letter is durable");
    assert_eq!(ack(&mut state, None, &[run(1, 1)]), [(1, 1)]);
    assert_eq!((state.depth(), state.redelivered()), (0, 2));
}

#[test]
fn a_consumer_that_comes_and_goes_exhausts_nothing() {
    let mut state = with_events(2);
    for attempt in 1..=5 {
        state.attach(C);
        assert_eq!(lease(&mut state, C, 9, 0), [(1, attempt), (2, attempt)]);
        state.detach(C, &[]);
    }
    assert!(!state.has_given_up());
    state.attach(D);
    assert_eq!(lease(&mut state, D, 1, 0), [(1, 6)]);
}

#[test]
fn any_number_of_events_may_wait_for_another_attempt() {
    let count = 600_000;
    let endless = DeliveryPolicy {
        attempts_max: 0,
        in_flight_events_max: 1_000,
        ..policy()
    };
    let mut state = SubscriptionState::new(endless.clone(), Position(1), 0);
    state.observe(Position(count), [run(1, count)]);
    state.attach(C);
    let mut now = 0;
    loop {
        let leased = lease(&mut state, C, 1_000, now);
        if leased.is_empty() {
            break;
        }
        for (position, _) in leased {
            match position % 2 {
                // Every one with a delay of its own, so that nothing joins.
                0 => drop(state.nack(
                    C,
                    &[run(position, position)],
                    Some(3_600_000 + position % 997),
                    Millis(now),
                )),
                _ => drop(ack(&mut state, Some(C), &[run(position, position)])),
            }
        }
        now += 1;
    }
    assert_eq!(state.depth(), count / 2);
    assert!(state.delayed.0.classes() < 10, "{now} moments are few");
    let bytes = state.snapshot(0).len() as u64;
    assert!(bytes < count / 2 * 5, "{bytes} bytes, 5 for each");
    state.observe(Position(count + 1), [run(count + 1, count + 1)]);
    assert_eq!(lease(&mut state, C, 10, now), [(count + 1, 1)]);
    let back = SubscriptionState::restore(&state.snapshot(0), endless, |_| None).expect("sound");
    assert_eq!((&back.tries, &back.delayed), (&state.tries, &state.delayed));
    assert!(state.tick(Millis(3_620_000), |_| None));
    assert_eq!(lease(&mut state, C, 1, now), [(2, 2)]);
}

#[test]
fn delays_become_coarse_instead_of_standing_still() {
    let mut state = SubscriptionState::new(
        DeliveryPolicy {
            attempts_max: 0,
            in_flight_events_max: u32::MAX,
            ..policy()
        },
        Position(1),
        0,
    );
    let count = 5_000_000;
    state.observe(Position(count), [run(1, count)]);
    state.attach(C);
    lease(&mut state, C, count as usize, 0);
    let due = |state: &SubscriptionState, position| {
        let (_, _, due) = state.delayed.0.overlapping(position, position)[0];
        due.0
    };
    state.nack(C, &[run(1, 1)], Some(511), Millis(0));
    state.nack(C, &[run(2, 2)], Some(10_001), Millis(0));
    assert_eq!((due(&state, 1), due(&state, 2)), (511, 10_016));
    state.nack(C, &[run(3, count - 1)], Some(60_000), Millis(0));
    let names = |state: &SubscriptionState| state.strain().names().collect::<Vec<_>>();
    assert_eq!(names(&state), ["coarse_delays"]);
    state.nack(C, &[run(count, count)], Some(60_000), Millis(7));
    assert_eq!(due(&state, count), 65_536, "later, and never sooner");
    ack(&mut state, None, &[run(3, count)]);
    assert!(names(&state).is_empty());
    state.observe(Position(count + 1), [run(count + 1, count + 1)]);
    lease(&mut state, C, 1, 0);
    state.nack(C, &[run(count + 1, count + 1)], Some(u64::MAX), Millis(9));
    let longest = (2_592_000_000, 2_592_079_872);
    assert_eq!(
        (crate::domain::DELAY_MS_MAX, due(&state, count + 1)),
        longest,
        "no more"
    );
}
