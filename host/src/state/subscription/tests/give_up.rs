//! What is given up: who wants it at all, what is kept of the reason, and when it needs no dead letter any more.

use std::sync::Arc;

use super::*;
use crate::state::subscription::give_up_reason::REASON_BYTES_MAX;
use crate::state::subscription::reasons_by_position::GIVEN_UP_EXACT_MAX;

#[test]
fn a_failed_event_is_given_up_only_if_the_other_filters_want_it() {
    let mut state = SubscriptionState::new(policy(), Position(1), 2);
    state.attach(C);
    state.exclude(0, Position(1), "trap");
    state.exclude(0, Position(2), "trap");
    state.stage_result(0, Position(3), &[Position(3)]);
    assert!(state.stage_result(1, Position(3), &[Position(2), Position(3)]));
    assert_eq!(lease(&mut state, C, 9, 0), [(3, 1)]);
    let given_up = state.take_given_up(9);
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].position, Position(2));
    assert_eq!(given_up[0].attempts, 0);
}

#[test]
fn what_is_acked_needs_no_dead_letter() {
    let mut state = with_events(2);
    lease(&mut state, C, 9, 0);
    // However it came to be both: the ack counts.
    state.record_given_up(1, 1, &GiveUpReason::HopLimit);
    assert_eq!(ack(&mut state, Some(C), &[run(1, 2)]), [(1, 2)]);
    assert!(!state.has_given_up());
    assert_eq!((state.given_up(), state.depth()), (0, 0));
    let restored = SubscriptionState::restore(&state.snapshot(0), policy(), |_| Some(0));
    assert_eq!(restored.expect("sound").given_up(), 0);
}

#[test]
fn any_number_of_events_may_wait_for_their_dead_letter() {
    let exact = GIVEN_UP_EXACT_MAX as u64;
    let count = 2 * exact;
    let mut state = SubscriptionState::new(
        DeliveryPolicy {
            in_flight_events_max: u32::MAX,
            ..policy()
        },
        Position(1),
        1,
    );
    state.attach(C);
    for position in 1..=count {
        state.exclude(0, Position(position), "trap");
    }
    // Of these a filter failed on half of them, and one more is lost before anybody had it.
    state.stage_result(
        0,
        Position(count + 3),
        &[count + 1, count + 2, count + 3].map(Position),
    );
    assert_eq!(state.given_up(), count);
    let names = state.strain().names().collect::<Vec<_>>();
    assert_eq!(names, ["coarse_reasons"]);
    let lost = GiveUpReason::Unreadable("lost".into());
    assert_eq!(state.give_up_pending(run(count + 1, count + 1), &lost), 1);
    assert_eq!(lease(&mut state, C, 9, 0), [(count + 2, 1), (count + 3, 1)]);
    state.term(C, &[run(count + 2, count + 2)], "bad");
    assert_eq!(lease(&mut state, C, 9, 1_000_000), [], "given up for good");
    let bytes = state.snapshot(0);
    assert!(
        bytes.len() as u64 <= exact * 20,
        "{} for {count}",
        bytes.len()
    );
    let mut state = SubscriptionState::restore(&bytes, policy(), |_| Some(1)).expect("sound");
    assert_eq!(state.given_up(), count + 2);
    let mut taken = state.take_given_up(usize::MAX);
    assert_eq!(taken.len() as u64, count + 2);
    let last = taken.pop().map(|last| (last.attempts, last.reason));
    assert_eq!(last, Some((1, GiveUpReason::Terminated("bad".into()))));
    let last = taken.pop().map(|last| (last.attempts, last.reason));
    assert_eq!(last, Some((0, lost)));
    let trapped = GiveUpReason::FilterFailed("trap".into());
    assert!(taken.iter().all(|item| item.reason == trapped));
    ack(&mut state, None, &[run(1, count)]);
    assert_eq!((state.given_up(), state.depth()), (2, 3));
    ack(&mut state, None, &[run(1, count + 2)]);
    assert_eq!(state.strain(), Strain::default());
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut state = with_events(1);
    lease(&mut state, C, 1, 0);
    state.term(C, &[run(1, 1)], &"é".repeat(REASON_BYTES_MAX));
    let GiveUpReason::Terminated(reason) = &state.take_given_up(1)[0].reason else {
        panic!("terminated");
    };
    assert_eq!(reason.len(), REASON_BYTES_MAX);
}

#[test]
fn whoever_gives_up_no_more_of_a_reason_is_kept() {
    let mut state = with_events(2);
    let long: Arc<str> = "é".repeat(2 * REASON_BYTES_MAX).into();
    lease(&mut state, C, 1, 0);
    state.give_up(
        C,
        Position(1),
        &GiveUpReason::TransformRejected(long.clone()),
    );
    state.give_up_pending(run(2, 2), &GiveUpReason::Unreadable(long));
    let given_up = state.take_given_up(2);
    let of_kind = |index: usize| given_up[index].reason.to_string();
    for (said, kind) in [
        (of_kind(0), "refused by the transform: é"),
        (of_kind(1), "cannot be read: é"),
    ] {
        assert!(said.starts_with(kind), "{said}");
        assert!(
            said.len() <= kind.len() + REASON_BYTES_MAX,
            "{}",
            said.len()
        );
    }
}

#[test]
fn what_is_given_up_says_how_its_last_attempt_went() {
    let last_attempt = |change: &dyn Fn(&mut SubscriptionState)| {
        let mut state = with_events(1);
        state.set_policy(DeliveryPolicy {
            attempts_max: 1,
            ..policy()
        });
        assert_eq!(lease(&mut state, C, 1, 0), [(1, 1)]);
        change(&mut state);
        state.take_given_up(1)[0].reason.clone()
    };
    let nacked = |state: &mut SubscriptionState| {
        state.nack(C, &[run(1, 1)], None, Millis(0));
    };
    assert_eq!(last_attempt(&nacked), GiveUpReason::AttemptsExhausted);
    let late = |state: &mut SubscriptionState| {
        state.tick(Millis(100), |_| None);
    };
    assert_eq!(last_attempt(&late), GiveUpReason::DeadlineMissed);
    let large = |state: &mut SubscriptionState| {
        state.too_large(C, Position(1), "a frame of 9 bytes", Millis(0));
    };
    let reason = last_attempt(&large);
    assert_eq!(
        reason.to_string(),
        "too large for its consumers: a frame of 9 bytes"
    );
}
