//! Lost connections: what may have caused them is tried alone, what is healthy is never given up for them, and others go on
//! meanwhile.

use super::*;

#[test]
fn cuts_with_a_full_prefetch_of_healthy_events_give_nothing_up() {
    // Whether the client says what it hands over or not, and however little it gets done in between.
    for says in [true, false] {
        let mut state = SubscriptionState::new(
            DeliveryPolicy {
                in_flight_events_max: 4_096,
                backoff_ms: vec![0],
                ..policy()
            },
            Position(1),
            0,
        );
        state.observe(Position(10_000), [run(1, 10_000)]);
        for round in 0..50 {
            state.attach(C);
            let leased = lease(&mut state, C, 4_096, round);
            let last = leased.len() as u64;
            assert!(last > 0, "round {round}");
            let unseen = run(leased[0].0 + last.div_ceil(2), u64::MAX - 1);
            let unseen = if says { vec![unseen] } else { vec![] };
            state.cut(C, &unseen, &[], says, Millis(round));
        }
        assert!(!state.has_given_up(), "says: {says}");
        assert_eq!(state.depth(), 10_000);
        // Then all goes well, and the window opens again.
        state.attach(C);
        let mut asked = 0;
        while state.depth() > 0 {
            let leased = lease(&mut state, C, 4_096, 1_000 + asked);
            for (position, _) in &leased {
                ack(&mut state, Some(C), &[run(*position, *position)]);
            }
            asked += 1;
            assert!(asked < 200, "{} are left", state.depth());
        }
    }
}

#[test]
fn a_poison_event_among_a_thousand_is_found_within_its_attempts() {
    for (says, poison) in [(true, 1), (true, 500), (false, 500), (false, 1_000)] {
        let mut state = SubscriptionState::new(
            DeliveryPolicy {
                in_flight_events_max: 4_096,
                ..policy()
            },
            Position(1),
            0,
        );
        state.observe(Position(1_000), [run(1, 1_000)]);
        let (mut now, mut cuts) = (0, 0);
        while !state.has_given_up() {
            state.attach(C);
            now += 1;
            loop {
                let leased = lease(&mut state, C, 4_096, now);
                let mut seen = leased.iter().map(|(position, _)| *position);
                let Some(first) = seen.clone().next() else {
                    now += 50;
                    state.tick(Millis(now), |_| None);
                    continue;
                };
                let fatal = seen.any(|position| position == poison);
                let before = if fatal { poison - 1 } else { u64::MAX - 1 };
                // The application acks one by one, and dies of the poison before anybody hears that it got it.
                ack(&mut state, Some(C), &[run(first.min(before), before)]);
                if fatal {
                    break;
                }
            }
            let alone = state.consumers[&C].held() == 1;
            let unseen = if says && !alone {
                vec![run(poison, u64::MAX - 1)]
            } else {
                vec![]
            };
            state.cut(C, &unseen, &[], says, Millis(now));
            cuts += 1;
        }
        assert!(cuts <= 4, "{cuts} cuts");
        let given_up = state.take_given_up(9);
        assert_eq!(given_up.len(), 1, "nobody else");
        assert_eq!(
            (
                given_up[0].position,
                given_up[0].attempts,
                &given_up[0].reason
            ),
            (Position(poison), 3, &GiveUpReason::ConsumersLost)
        );
    }
}

#[test]
fn what_the_application_cannot_have_seen_is_no_suspect() {
    let mut state = with_events(6);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 6, 0).len(), 6);
    // One it has said to have got, two more it may have got since.
    state.cut(C, &[run(2, 6)], &[run(4, 6)], true, Millis(0));
    state.attach(C);
    state.attach(D);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)], "suspects, one first");
    let sound = lease(&mut state, D, 9, 0);
    assert_eq!(sound, [(4, 1), (5, 1), (6, 1)], "nobody waits with these");
    ack(&mut state, Some(C), &[run(1, 1)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 1), (3, 1)]);
    // What is alone within reach has failed, however much waits behind it.
    let mut state = with_events(6);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 6, 0).len(), 6);
    state.cut(C, &[run(2, 6)], &[run(2, 6)], true, Millis(0));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0).len(), 5);
    assert_eq!(state.depth(), 6);
}

#[test]
fn what_the_application_never_saw_counts_nothing() {
    let mut state = with_events(2);
    for _ in 0..20 {
        state.attach(C);
        let leased = lease(&mut state, C, 1, 0);
        assert_eq!(leased, [(1, 1)]);
        state.cut(C, &[run(1, 1)], &[], true, Millis(0));
    }
    state.attach(C);
    assert_eq!(lease(&mut state, C, 1, 0), [(1, 1)]);
    // A client that never says so may have handed over everything.
    state.cut(C, &[], &[], false, Millis(0));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 1)], "1 waits for its turn");
    ack(&mut state, Some(C), &[run(2, 2)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)]);
}

#[test]
fn who_has_suspects_holds_nothing_else_and_others_go_on() {
    let mut state = with_events(20);
    state.attach(D);
    lease(&mut state, C, 5, 0);
    lease(&mut state, D, 2, 0);
    state.cut(C, &[], &[], false, Millis(0));
    // D is busy, so it gets what is new.
    assert_eq!(lease(&mut state, D, 2, 10), [(8, 1), (9, 1)]);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 20), [(1, 2)]);
    assert_eq!(lease(&mut state, C, 9, 20), [], "one at a time");
    assert_eq!(lease(&mut state, D, 1, 20), [(10, 1)]);
    ack(&mut state, Some(C), &[run(1, 1)]);
    assert_eq!(lease(&mut state, C, 9, 30), [(2, 2), (3, 2)]);
    ack(&mut state, Some(C), &[run(2, 3)]);
    assert_eq!(lease(&mut state, C, 9, 40), [(4, 2), (5, 2)]);
    assert_eq!(lease(&mut state, C, 9, 40), [], "nothing else");
    // Two were in hand, so none is guilty.
    state.cut(C, &[], &[], false, Millis(50));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 60), [(4, 3)]);
    // Alone: it waits for its back-off, which is none after the first, and lets others go first.
    state.cut(C, &[], &[], false, Millis(70));
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 80), [(5, 3)]);
    ack(&mut state, Some(C), &[run(5, 5)]);
    assert_eq!(lease(&mut state, C, 9, 90), [(4, 4)]);
    ack(&mut state, Some(C), &[run(4, 4)]);
    assert_eq!(lease(&mut state, C, 1, 90), [(11, 1)]);
    assert!(!state.is_testing());
}

#[test]
fn suspects_do_not_wait_for_a_consumer_that_never_comes_back() {
    let mut state = with_events(20);
    state.set_policy(DeliveryPolicy {
        ack_deadline_ms: 60_000,
        ..policy()
    });
    state.attach(D);
    lease(&mut state, C, 2, 0);
    lease(&mut state, D, 2, 0);
    state.cut(C, &[], &[], false, Millis(0));
    assert_eq!(lease(&mut state, D, 1, 10), [(5, 1)]);
    assert_eq!(state.next_wakeup(), Some(Millis(2_010)));
    assert!(!state.tick(Millis(2_009), |_| None));
    assert!(
        state.tick(Millis(2_010), |_| None),
        "whoever asks now gets nothing new"
    );
    assert_ne!(state.next_wakeup(), Some(Millis(2_010)), "said once");
    assert_eq!(lease(&mut state, D, 1, 2_010), []);
    ack(&mut state, Some(D), &[run(3, 5)]);
    assert_eq!(lease(&mut state, D, 9, 2_020), [(1, 2)]);
}

#[test]
fn suspects_do_not_wait_for_a_consumer_that_stands_still() {
    const E: ConsumerId = ConsumerId(3);
    let mut state = with_events(20);
    state.set_policy(DeliveryPolicy {
        ack_deadline_ms: 60_000,
        ..policy()
    });
    state.attach_saying(D);
    state.attach(E);
    lease(&mut state, C, 2, 0);
    lease(&mut state, D, 2, 0);
    lease(&mut state, E, 2, 0);
    state.cut(C, &[], &[], false, Millis(0));
    // D is to drain, and its application takes nothing of what it was sent.
    assert_eq!(lease(&mut state, D, 1, 10), [(7, 1)]);
    assert_eq!(lease(&mut state, D, 1, 2_010), []);
    state.extend(E, &[run(5, 6)], None, Millis(50_000));
    let unseen = |_| {
        Some(Unseen {
            sent: vec![run(3, 4), run(7, 7)],
            ..Unseen::default()
        })
    };
    assert!(state.tick(Millis(60_010), unseen));
    assert_eq!(lease(&mut state, D, 1, 60_010), [], "it has enough");
    // So somebody else drains, and tries them.
    assert_eq!(lease(&mut state, E, 1, 60_020), []);
    ack(&mut state, Some(E), &[run(5, 6)]);
    assert_eq!(lease(&mut state, E, 9, 60_030), [(1, 2)]);
}

#[test]
fn the_next_start_knows_who_is_suspect() {
    let mut state = with_events(9);
    lease(&mut state, C, 3, 0);
    state.cut(C, &[run(3, 3)], &[], true, Millis(0));
    let bytes = state.snapshot(0);
    let mut state = SubscriptionState::restore(&bytes, policy(), |_| Some(0)).expect("sound");
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2)], "alone");
    assert_eq!(state.snapshot(0), bytes, "who is in flight is not suspect");
    ack(&mut state, Some(C), &[run(1, 1)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(2, 2), (3, 1)]);
}

#[test]
fn a_suspect_that_is_given_up_is_handed_out_no_more() {
    let mut state = with_events(6);
    assert_eq!(lease(&mut state, C, 1, 0), [(1, 1)]);
    state.cut(C, &[], &[], false, Millis(0));
    state.attach(C);
    // 1 failed alone, so the others go first; then they are suspects that never failed.
    assert_eq!(lease(&mut state, C, 3, 0), [(2, 1), (3, 1), (4, 1)]);
    state.cut(C, &[], &[], false, Millis(0));
    let reason = GiveUpReason::Unreadable("lost".into());
    assert_eq!(state.give_up_pending(run(1, 3), &reason), 3);
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(4, 2)]);
    assert_eq!(ack(&mut state, Some(C), &[run(1, 4)]), [(4, 4)]);
    assert_eq!(lease(&mut state, C, 9, 0), [(5, 1), (6, 1)]);
    assert_eq!(ack(&mut state, Some(C), &[run(1, 6)]), [(5, 6)]);
    assert!(!state.is_testing() && !state.has_deliverable());
    assert_eq!(state.given_up(), 3);
    let restored = SubscriptionState::restore(&state.snapshot(0), policy(), |_| Some(0));
    assert_eq!(restored.expect("sound").given_up(), 3);
}
