//! Deadlines of what an application has not got yet, and of what the broker itself is at work on.

use super::model::{self, Place};
use super::*;
use crate::state::subscription::ack_deadlines::EXTENSION_MS_MAX;
use crate::state::subscription::retries::attempt_counts::Tried;

/// What is unseen of 1 to `last`.
fn after(seen: u64, last: u64) -> impl Fn(ConsumerId) -> Option<Unseen> {
    move |_| {
        Some(Unseen {
            sent: vec![run(seen + 1, last)],
            ..Unseen::default()
        })
    }
}

fn slow() -> SubscriptionState {
    let policy = DeliveryPolicy {
        ack_deadline_ms: 5_000,
        attempts_max: 1,
        ..policy()
    };
    let mut state = SubscriptionState::new(policy, Position(1), 0);
    state.observe(Position(20), [run(1, 20)]);
    state.attach_saying(C);
    state
}

#[test]
fn a_slow_application_loses_nothing_that_it_has_not_got() {
    let mut state = slow();
    assert_eq!(lease(&mut state, C, 12, 0).len(), 12);
    // It needs a deadline for each nearly, and the last of them is handed over after eleven.
    for event in 1..=12 {
        let now = event * 4_900;
        state.take_effects();
        state.handed_over(C, &[run(event, event)], Millis(now - 4_800));
        assert_eq!(state.take_effects().deadline, Some(Millis(now + 200)));
        state.tick(Millis(now), after(event, 12));
        assert_eq!(
            ack(&mut state, Some(C), &[run(event, event)]),
            [(event, event)]
        );
    }
    assert!(!state.has_given_up());
    // What it does have in hand misses its deadline.
    assert_eq!(lease(&mut state, C, 2, 60_000), [(13, 1), (14, 1)]);
    state.handed_over(C, &[run(13, 13)], Millis(60_000));
    state.tick(Millis(65_000), after(13, 14));
    let given_up = state.take_given_up(9);
    assert_eq!(given_up.len(), 1);
    assert_eq!(
        (given_up[0].position, given_up[0].attempts),
        (Position(13), 1)
    );
}

#[test]
fn what_an_application_that_stands_still_has_not_got_goes_to_another_and_counts_nothing() {
    let mut state = slow();
    assert_eq!(lease(&mut state, C, 6, 0).len(), 6);
    state.handed_over(C, &[run(1, 1)], Millis(100));
    assert!(!state.tick(Millis(5_000), after(1, 6)), "a moment later");
    assert_eq!(state.next_wakeup(), Some(Millis(5_100)));
    assert!(state.tick(Millis(5_100), after(1, 6)));
    assert_eq!((state.given_up(), state.in_flight()), (1, 0));
    assert_eq!(lease(&mut state, C, 9, 5_100), [], "it has enough");
    assert_eq!(state.stalled(), 1);
    assert!(state.is_testing(), "whatever it answers may let it go on");
    state.attach(D);
    let again: Vec<_> = (2..=6).map(|position| (position, 1)).collect();
    assert_eq!(lease(&mut state, D, 5, 5_100), again);
    // It goes on with what it has, and gets more then.
    state.take_effects();
    state.handed_over(C, &[run(2, 2)], Millis(9_000));
    let effects = state.take_effects();
    assert_eq!((effects.deadline, effects.wakes), (None, true));
    assert_eq!(state.stalled(), 0);
    assert_eq!(lease(&mut state, C, 1, 9_000), [(7, 1)]);
}

#[test]
fn what_a_client_gives_back_goes_to_another_until_its_application_goes_on() {
    let mut state = slow();
    assert_eq!(lease(&mut state, C, 3, 0).len(), 3);
    state.handed_over(C, &[run(1, 1)], Millis(100));
    state.take_back(C, &[run(2, 3)]);
    let effects = state.take_effects();
    assert_eq!((effects.wakes, effects.stalled), (true, 1));
    assert_eq!(lease(&mut state, C, 9, 200), [], "it had them");
    state.attach(D);
    assert_eq!(lease(&mut state, D, 2, 200), [(2, 1), (3, 1)]);
    state.goes_on(C);
    assert!(state.take_effects().wakes);
    assert_eq!(lease(&mut state, C, 1, 300), [(4, 1)]);
    // So it does with an answer, or what it hands over.
    state.take_back(C, &[run(4, 4)]);
    assert_eq!(lease(&mut state, C, 1, 400), []);
    ack(&mut state, Some(C), &[run(1, 1)]);
    assert_eq!(lease(&mut state, C, 1, 400), [(4, 1)]);
    state.take_back(C, &[run(4, 4)]);
    // And nothing is left of it when it goes.
    state.detach(C, &[]);
    assert_eq!(state.stalled(), 0);
}

#[test]
fn a_client_has_time_to_say_what_it_hands_over() {
    let policy = DeliveryPolicy {
        ack_deadline_ms: 1,
        attempts_max: 1,
        ..policy()
    };
    let mut state = SubscriptionState::new(policy, Position(1), 0);
    state.observe(Position(2), [run(1, 2)]);
    state.attach_saying(C);
    lease(&mut state, C, 2, 0);
    assert_eq!(state.next_wakeup(), Some(Millis(2_000)));
    state.handed_over(C, &[run(1, 1)], Millis(10));
    assert!(state.tick(Millis(11), after(1, 2)));
    assert_eq!((state.given_up(), state.in_flight()), (1, 1));
    // Of one that never says so, everything is taken to be in hand but what was not even sent.
    state.attach(D);
    state.detach(C, &[]);
    assert_eq!(lease(&mut state, D, 2, 20), [(2, 2)]);
    let unsent = |_| {
        Some(Unseen {
            unsent: vec![run(2, 2)],
            ..Unseen::default()
        })
    };
    assert!(state.tick(Millis(21), unsent));
    assert_eq!(lease(&mut state, D, 2, 22), [(2, 2)]);
    assert!(state.tick(Millis(23), |_| Some(Unseen::default())));
    assert_eq!(state.given_up(), 2);
}

#[test]
fn what_the_broker_is_at_work_on_is_late_for_no_fault_of_its_own() {
    let mut state = with_events(3);
    lease(&mut state, C, 2, 0);
    let at_work = |_| {
        Some(Unseen {
            at_work: vec![run(1, 1)],
            ..Unseen::default()
        })
    };
    for round in 1..=9 {
        state.tick(Millis(round * 2_000), at_work);
    }
    let holds = |state: &SubscriptionState| model::place(state, 1).expect("pending");
    assert_eq!(holds(&state).0, Place::InFlight(C, 20_000));
    assert_eq!(holds(&state).1, Tried::default());
    assert_eq!(ack(&mut state, Some(C), &[run(1, 2)]), [(1, 1)]);
    // A route answers by itself, however long its outputs wait.
    state.attach(D);
    state.attach_untimed(D);
    assert_eq!(lease(&mut state, D, 1, 20_000), [(2, 2)]);
    state.tick(Millis(1 << 40), |_| None);
    assert_eq!(ack(&mut state, Some(D), &[run(2, 2)]), [(2, 2)]);
    assert!(!state.has_given_up());
}

#[test]
fn what_the_broker_is_at_work_on_is_looked_at_seldom_however_short_the_deadline_is() {
    for says in [true, false] {
        let policy = DeliveryPolicy {
            ack_deadline_ms: 1,
            attempts_max: 1,
            ..policy()
        };
        let mut state = SubscriptionState::new(policy, Position(1), 0);
        state.observe(Position(2), [run(1, 2)]);
        state.attach(C);
        if says {
            state.attach_saying(C);
        }
        lease(&mut state, C, 2, 0);
        let at_work = |_| {
            Some(Unseen {
                at_work: vec![run(1, 2)],
                ..Unseen::default()
            })
        };
        for now in [2_000, 4_000, 6_000].map(Millis) {
            assert!(!state.tick(now, at_work));
            assert_eq!(state.next_wakeup(), Some(now.plus(2_000)), "{says}");
        }
        assert_eq!((state.in_flight(), state.given_up()), (2, 0));
    }
}

#[test]
fn an_extension_lasts_as_long_as_it_says_and_no_longer_than_a_day() {
    let deadline = |extend_for_ms| {
        let mut state = with_events(1);
        assert_eq!(lease(&mut state, C, 1, 0), [(1, 1)]);
        let late = state.extend(C, &[run(1, 2)], extend_for_ms, Millis(50));
        assert_eq!(late, [run(2, 2)], "it does not hold that");
        (0..)
            .map(|step| step * 50)
            .take(4)
            .chain([5_050, 50 + EXTENSION_MS_MAX])
            .find(|now| state.tick(Millis(*now), |_| None))
    };
    assert_eq!(deadline(None), Some(150), "as the policy says");
    assert_eq!(deadline(Some(5_000)), Some(5_050));
    assert_eq!(deadline(Some(0)), Some(50), "given back in effect");
    assert_eq!(deadline(Some(u64::MAX)), Some(50 + EXTENSION_MS_MAX));
}

#[test]
fn who_answers_too_late_is_told_so_and_changes_nothing() {
    let mut state = with_events(3);
    assert_eq!(lease(&mut state, C, 3, 0).len(), 3);
    assert!(state.ack(C, &[run(1, 1)]).is_empty(), "in time");
    state.tick(Millis(100), |_| None);
    state.attach(D);
    assert_eq!(lease(&mut state, D, 1, 100), [(2, 2)]);
    let now = Millis(100);
    assert_eq!(state.ack(C, &[run(2, 2)]), [run(2, 2)]);
    assert_eq!(state.nack(C, &[run(2, 3)], None, now), [run(2, 3)]);
    assert_eq!(state.term(C, &[run(2, 2)], "late"), [run(2, 2)]);
    assert_eq!(state.extend(C, &[run(2, 2)], None, now), [run(2, 2)]);
    assert_eq!((state.depth(), state.in_flight()), (2, 1));
    assert!(state.ack(D, &[run(2, 2)]).is_empty(), "its own");
}
