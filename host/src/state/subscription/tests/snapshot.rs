//! The state as bytes: nothing is lost on the way, what earlier versions wrote comes back, and damage is said or does no harm.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Something in every field.
fn rich_state() -> SubscriptionState {
    let mut state = SubscriptionState::new(policy(), Position(2), 2);
    state.given_up.keep_exact(1);
    state.failed.keep_exact(1);
    state.attach(C);
    state.exclude(0, Position(20), "trap");
    state.exclude(0, Position(54), "trap");
    state.exclude(0, Position(55), "trap");
    let even: Vec<Position> = (1..=60)
        .filter(|position| position % 2 == 0)
        .map(Position)
        .collect();
    state.stage_result(0, Position(60), &even);
    state.stage_result(1, Position(50), &even);
    lease(&mut state, C, 8, 0);
    state.nack(C, &[run(1, 4)], Some(1_000), Millis(0));
    state.nack(C, &[run(5, 8)], Some(0), Millis(0));
    state.term(C, &[run(10, 10)], "bad");
    lease(&mut state, C, 3, 0);
    state.cut(C, &[], &[], false, Millis(0));
    ack(&mut state, None, &[run(30, 32), run(56, 58)]);
    state.pause("stop");
    // Of what is not decided.
    let mut is_back = |first, more, next| {
        let back = CameBack {
            first,
            more,
            failed: 1,
            handed: 2,
            suspect: true,
            next,
        };
        state.is_back(&back, Millis(0));
    };
    is_back(62, 2, Next::At(Millis(2_000)));
    is_back(66, 0, Next::Ready);
    is_back(68, 1, Next::GivenUp(GiveUpReason::Terminated("bad".into())));
    state
}

#[test]
fn a_snapshot_says_what_is_wrong_with_it() {
    let bytes = rich_state().snapshot(0);
    let check = |bytes: &[u8], stages: usize, expected: &str| {
        let error =
            SubscriptionState::restore(bytes, policy(), |_| Some(stages)).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&[], 2, "empty");
    check(&[9], 2, "version 9");
    check(&[1], 2, "damaged");
    check(&bytes, 1, "2 filters, not 1");
    check(&[&bytes[..], &[0]].concat(), 2, "bytes follow");
    assert_eq!(bytes[0], 5, "the newest form");
    let restored = SubscriptionState::restore(&bytes, policy(), |_| Some(2)).expect("sound");
    assert_eq!(restored.paused(), Some("stop"));
    let ahead: Vec<_> = restored.ahead.events.iter().collect();
    let dues: Vec<_> = ahead
        .iter()
        .map(|(first, last, known)| (*first, *last, known.due))
        .collect();
    let due = Some(Millis(2_000));
    assert_eq!(dues, [(62, 64, due), (66, 66, None), (68, 69, None)]);
    let given_up = restored.ahead.given_up.all().ranges(0, u64::MAX);
    assert_eq!(Vec::from_iter(given_up), [(68, 69)]);
    assert_eq!(restored.snapshot(0), bytes, "nothing is lost on the way");
}

/// As earlier versions could write it: 1 was in somebody's hands while it was delayed, and terminated there, 2 is acked, 3 was
/// delayed before anybody had it.
#[test]
fn states_with_events_in_two_places_come_back() {
    let lost = GiveUpReason::Terminated("bad".into());
    let stored = (
        1u64,
        4u64,
        Vec::<u64>::new(),
        2u64,
        Vec::<(u64, u64, u32)>::new(),
        vec![(1u64, 1u64, Millis(60_000)), (3, 3, Millis(60_000))],
        vec![(1u64, 2u32, lost.clone()), (2, 1, lost)],
        Vec::<(u64, GiveUpReason)>::new(),
        None::<Arc<str>>,
    );
    let mut bytes = postcard::to_extend(&stored, vec![1]).expect("plain");
    let mut pending = PositionSet::default();
    pending.insert_range(1, 1);
    pending.insert_range(3, 4);
    pending.write(&mut bytes).expect("a Vec takes all");
    PositionSet::default()
        .write(&mut bytes)
        .expect("a Vec takes all");
    let mut state =
        SubscriptionState::restore(&bytes, policy(), |_| Some(0)).expect("to be started from");
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(3, 1), (4, 1)]);
    assert_eq!(lease(&mut state, C, 9, 90_000), []);
    let taken = state.take_given_up(9);
    assert_eq!(taken.len(), 1);
    assert_eq!((taken[0].position, taken[0].attempts), (Position(1), 2));
    assert_eq!(ack(&mut state, None, &[run(1, 4)]), [(1, 1), (3, 4)]);
}

#[test]
fn a_state_of_the_version_before_comes_back() {
    // Written by it: 1 to 3 pending, 1 tried once and ready, 2 twice and due at 140.
    let stored = (
        1u64,
        3u64,
        Vec::<u64>::new(),
        3u64,
        vec![(1u64, 1u64, 1u32), (2, 2, 2)],
        vec![(2u64, 2u64, Millis(140))],
        Vec::<(u64, u32, GiveUpReason)>::new(),
        Vec::<(u64, GiveUpReason)>::new(),
        None::<Arc<str>>,
    );
    let mut bytes = postcard::to_extend(&stored, vec![1]).expect("plain");
    let mut pending = PositionSet::default();
    pending.insert_range(1, 3);
    pending.write(&mut bytes).expect("a Vec takes all");
    PositionSet::default()
        .write(&mut bytes)
        .expect("a Vec takes all");
    let mut state = SubscriptionState::restore(&bytes, policy(), |_| Some(0)).expect("sound");
    state.attach(C);
    assert_eq!(lease(&mut state, C, 9, 0), [(1, 2), (3, 1)]);
    assert_eq!(lease(&mut state, C, 9, 140), [(2, 3)]);
    state.nack(C, &[run(2, 2)], None, Millis(150));
    assert_eq!(state.take_given_up(9)[0].attempts, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn damaged_snapshots_of_changed_filters_are_errors_or_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut state = rich_state();
        state.change_filters(1, Position(61), 1);
        state.change_filters(2, Position(70), 3);
        let mut bytes = state.snapshot(0);
        let at = at.index(bytes.len());
        prop_assert!(SubscriptionState::restore(&bytes[..at], policy(), |_| None).is_err());
        bytes[at] = byte;
        if let Ok(mut state) = SubscriptionState::restore(&bytes, policy(), |_| None) {
            for stage in 0..4 {
                state.stage_result(stage, Position(80), &[Position(65), Position(75)]);
            }
            state.change_filters(9, Position(90), 0);
            state.observe(Position(100), [run(1, 100)]);
        }
    }

    #[test]
    fn damaged_snapshots_are_errors_or_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = rich_state().snapshot(0);
        let at = at.index(bytes.len());
        prop_assert!(SubscriptionState::restore(&bytes[..at], policy(), |_| Some(2)).is_err());
        bytes[at] = byte;
        if let Ok(mut state) = SubscriptionState::restore(&bytes, policy(), |_| Some(2)) {
            state.attach(C);
            let leased = lease(&mut state, C, 1_000, 5_000);
            prop_assert!(leased.len() <= state.depth() as usize);
            state.tick(Millis(1_000_000), |_| None);
            state.take_given_up(1_000);
            ack(&mut state, None, &[run(0, 1_000)]);
        }
    }
}

/// The journal may say less than a state does of what was given up, should that note not have been synced.
#[test]
fn what_was_given_up_ahead_is_not_taken_back_by_what_was_said_before() {
    let mut state = SubscriptionState::new(policy(), Position(1), 1);
    let back = |next| CameBack {
        first: 5,
        more: 0,
        failed: 1,
        handed: 1,
        suspect: false,
        next,
    };
    let bad = GiveUpReason::Terminated("bad".into());
    state.is_back(&back(Next::GivenUp(bad)), Millis(0));
    state.is_back(&back(Next::Ready), Millis(0));
    assert!(state.ahead.given_up.all().contains(5));
    let all: Vec<Position> = (1..=5).map(Position).collect();
    state.stage_result(0, Position(5), &all);
    assert!(state.has_given_up());
}
