//! Tests of what a change makes necessary: each effect by itself, and, for whatever may happen in a row, that those who do no more
//! than the effects say leave nobody waiting.

use std::collections::BTreeSet;

use super::*;

/// Consumers that wait, a timer and a writer of dead letters, who know nothing but the effects.
#[derive(Default)]
pub(super) struct Ritual {
    /// Was handed nothing and was not waked since.
    waiting: BTreeSet<ConsumerId>,
    armed: Option<Millis>,
    writer_called: bool,
}

pub(super) enum Did {
    Other,
    GotNothing(ConsumerId),
    Left(ConsumerId),
    Ticked,
    TookGivenUp,
    Restarted,
}

impl Ritual {
    pub(super) fn follow(&mut self, state: &mut SubscriptionState, did: Did, now: u64) {
        match did {
            Did::Ticked => self.armed = None,
            Did::GotNothing(consumer) => {
                self.waiting.insert(consumer);
            }
            Did::Left(consumer) => {
                self.waiting.remove(&consumer);
            }
            Did::TookGivenUp => self.writer_called &= state.has_given_up(),
            Did::Restarted => {
                *self = Self {
                    armed: state.next_wakeup(),
                    writer_called: state.has_given_up(),
                    ..Self::default()
                };
            }
            Did::Other => {}
        }
        let effects = state.take_effects();
        if effects.wakes {
            self.waiting.clear();
        }
        self.armed = self.armed.into_iter().chain(effects.deadline).min();
        self.writer_called |= effects.has_given_up;
        self.check(state, Millis(now));
    }

    fn check(&self, state: &SubscriptionState, now: Millis) {
        for consumer in &self.waiting {
            let mut got = Vec::new();
            state.clone().lease(*consumer, 1, now, &mut got);
            assert_eq!(got, [], "{consumer:?} waits for that");
        }
        if let Some(wakeup) = state.next_wakeup() {
            assert!(self.armed.is_some_and(|at| at <= wakeup), "{wakeup:?}");
        }
        assert!(self.writer_called || !state.has_given_up());
    }
}

#[test]
fn a_match_wakes_and_a_repetition_does_not() {
    let mut state = with_events(3);
    assert!(state.take_effects().wakes);
    state.observe(Position(3), [run(1, 3)]);
    assert_eq!(state.take_effects(), Effects::default(), "told once");
    lease(&mut state, C, 1, 0);
    state.observe(Position(4), [run(4, 4)]);
    assert!(state.take_effects().wakes, "others may look for more");
}

#[test]
fn what_is_leased_has_a_deadline_and_an_ack_is_written_down_without_waking_anybody() {
    let mut state = with_events(3);
    state.take_effects();
    lease(&mut state, C, 2, 50);
    let leased = state.take_effects();
    assert_eq!((leased.deadline, leased.wakes), (Some(Millis(150)), false));
    state.ack(C, &[run(1, 3)]);
    let effects = state.take_effects();
    assert_eq!(effects.acked, [run(1, 2)], "what it holds");
    assert_eq!((effects.wakes, effects.deadline), (false, None));
    state.finish(&[run(1, 9)]);
    let effects = state.take_effects();
    assert_eq!((effects.acked, effects.wakes), (vec![run(3, 3)], true));
}

#[test]
fn an_ack_that_makes_room_wakes_and_what_the_journal_says_is_not_written_again() {
    let mut state = with_events(20);
    lease(&mut state, C, 12, 0);
    state.take_effects();
    state.ack(C, &[run(1, 1)]);
    assert!(state.take_effects().wakes, "the window was full");
    state.is_acked(&[run(2, 2)]);
    let effects = state.take_effects();
    assert_eq!((effects.acked, effects.wakes), (vec![], true));
}

#[test]
fn what_comes_back_later_has_a_deadline_and_what_is_given_up_calls_its_writer() {
    let mut state = with_events(3);
    lease(&mut state, C, 3, 0);
    state.take_effects();
    state.nack(C, &[run(1, 1)], Some(70), Millis(10));
    let effects = state.take_effects();
    assert_eq!((effects.deadline, effects.wakes), (Some(Millis(80)), true));
    state.term(C, &[run(2, 2)], "broken");
    assert!(state.take_effects().has_given_up);
    let taken = state.take_given_up(9);
    assert_eq!(taken.len(), 1);
    assert!(!state.take_effects().has_given_up);
    state.give_up_failed(&run(2, 2));
    assert!(state.take_effects().has_given_up, "once more");
}

#[test]
fn whoever_is_handed_some_of_what_has_become_due_wakes_others_for_the_rest() {
    let mut state = with_events(2);
    lease(&mut state, C, 2, 0);
    state.nack(C, &[run(1, 2)], Some(40), Millis(0));
    state.take_effects();
    // Before the timer, which finds nothing due after it.
    assert_eq!(lease(&mut state, C, 1, 40), [(1, 2)]);
    assert!(state.take_effects().wakes);
    assert!(!state.tick(Millis(40), |_| None));
}

#[test]
fn when_time_passes_the_next_deadline_is_said_anew() {
    let mut state = with_events(3);
    lease(&mut state, C, 1, 0);
    lease(&mut state, C, 1, 30);
    assert_eq!(state.take_effects().deadline, Some(Millis(100)));
    state.tick(Millis(100), |_| None);
    let effects = state.take_effects();
    assert_eq!((effects.deadline, effects.wakes), (Some(Millis(130)), true));
}

#[test]
fn pausing_and_going_on_wakes_and_the_next_filters_say_that_they_judge() {
    let mut state = with_events(3);
    state.pause("so");
    assert!(state.take_effects().wakes);
    state.resume();
    assert!(state.take_effects().wakes);
    state.change_filters(1, Position(6), 1);
    let effects = state.take_effects();
    assert_eq!((effects.wakes, effects.took_over), (true, false));
    state.observe(Position(9), [run(4, 9)]);
    assert!(state.take_effects().took_over, "at the fence");
}

#[test]
fn a_limit_is_told_when_it_is_reached_and_when_it_is_left() {
    let mut state = with_events(3);
    state.given_up.keep_exact(1);
    lease(&mut state, C, 3, 0);
    state.take_effects();
    state.term(C, &[run(1, 3)], "broken");
    let reached = state.take_effects().strain.expect("it is reached");
    assert_eq!(Vec::from_iter(reached.names()), ["coarse_reasons"]);
    assert_eq!(state.take_effects().strain, None, "told once");
    state.is_acked(&[run(1, 3)]);
    assert_eq!(state.take_effects().strain, Some(Strain::default()));
}
