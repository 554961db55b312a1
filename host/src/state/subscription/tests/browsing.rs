//! Consumers that only look: they are shown everything and change nothing.

use super::*;

#[test]
fn looking_costs_nothing() {
    for window in [1, 2, 12] {
        let mut state = SubscriptionState::new(
            DeliveryPolicy {
                in_flight_events_max: window,
                ..policy()
            },
            Position(1),
            0,
        );
        state.observe(Position(20), [run(1, 20)]);
        state.attach_to_look(D);
        let all: Vec<_> = (1..=20).map(|position| (position, 1)).collect();
        assert_eq!(lease(&mut state, D, 15, 0), all[..15]);
        assert_eq!(lease(&mut state, D, 99, 0), all[15..], "each once");
        assert_eq!(lease(&mut state, D, 99, 0), []);
        assert_eq!((state.in_flight(), state.next_wakeup()), (0, None));
        // Whatever is said of what was shown, nobody holds it.
        assert_eq!(ack(&mut state, Some(D), &[run(1, 20)]), []);
        state.nack(D, &[run(1, 20)], Some(9_000), Millis(0));
        state.term(D, &[run(1, 20)], "bad");
        state.extend(D, &[run(1, 20)], None, Millis(0));
        state.attach(C);
        let window = u64::from(window) as usize;
        assert_eq!(lease(&mut state, C, 99, 0), all[..window]);
        state.cut(D, &[], &[], false, Millis(0));
        assert!(!state.is_testing() && !state.has_given_up());
        assert_eq!((state.redelivered(), state.depth()), (0, 20));
        // What others hold is shown as well, and what was not sent again.
        state.attach_to_look(D);
        assert_eq!(lease(&mut state, D, 3, 0), all[..3]);
        state.give_back(D, [2, 3].map(Position));
        assert_eq!(lease(&mut state, D, 2, 0), all[1..3]);
        state.detach(D, &[run(2, 3)]);
        assert_eq!(
            ack(&mut state, Some(C), &[run(1, 20)]),
            [(1, window as u64)]
        );
    }
}

#[test]
fn who_looks_does_not_keep_suspects_from_those_who_try_them() {
    let mut state = with_events(3);
    lease(&mut state, C, 2, 0);
    state.cut(C, &[], &[], false, Millis(0));
    state.attach_to_look(D);
    assert_eq!(lease(&mut state, D, 9, 0), [(1, 2), (2, 2), (3, 1)]);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)], "alone");
}
