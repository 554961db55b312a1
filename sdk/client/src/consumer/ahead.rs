//! How far a consumer hands deliveries over ahead of what it has said: so little that a broker whose client is killed knows nearly exactly
//! what its application may have had in hand, and so much that an application which takes many at a time waits for nothing. Pure.
//!
//! With each word the application may go some steps further: twice what it takes until the next one is said by itself. The broker is told
//! of two such steps more, so that the last word may be lost with the client; or of what is taken in two round trips, where that is more:
//! so long it may be until a word is heard that was lost once and sent again. When the application takes more and more, when words are
//! lost in a row or the path is out, the broker knows too little until it has heard the latest.

use std::time::Duration;

/// What the application got is told after this long, if nothing was said in the meantime: seldom enough to cost nothing,
/// and soon enough that the broker mostly knows what a process had in hand when it was killed.
pub(super) const TELL_AFTER: Duration = Duration::from_millis(10);

/// An application that takes one delivery after the other has so many more than the broker was told of.
const STEPS_MIN: u64 = 4;

/// So far a consumer may go, in deliveries of its stream.
#[derive(Debug)]
pub(super) struct Ahead {
    /// From one word to the next. 0 where nobody is to know how far it goes.
    steps: u64,
    allowed: u64,
    /// What was handed over when a word was due last.
    due_at: u64,
    is_wanted: bool,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            steps: STEPS_MIN,
            allowed: STEPS_MIN,
            due_at: 0,
            is_wanted: false,
        }
    }
}

impl Ahead {
    /// Of a consumer that holds nothing.
    pub(super) fn unbounded() -> Self {
        Self {
            steps: 0,
            allowed: u64::MAX,
            ..Self::default()
        }
    }

    /// Whether delivery `number` may be handed over before the next word, which is wanted if not.
    pub(super) fn may_hand_over(&mut self, number: u64) -> bool {
        self.is_wanted |= number > self.allowed;
        number <= self.allowed
    }

    /// Delivery `number` is handed over. Returns whether the next word is wanted from now on, so that it is there before the application
    /// waits for it.
    pub(super) fn handed_over(&mut self, number: u64) -> bool {
        let is_soon =
            self.steps > STEPS_MIN && number.saturating_add(self.steps / 2) >= self.allowed;
        is_soon && !std::mem::replace(&mut self.is_wanted, true)
    }

    /// The application waits for the next word, or soon will.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// The next word, of `handed_over` deliveries, which `is_due` or goes with something else. Returns what it says beside them: so many
    /// there will be at most before the word after it; 0 for nothing.
    pub(super) fn say(&mut self, handed_over: u64, is_due: bool, round_trip: Duration) -> u64 {
        let is_wanted = std::mem::take(&mut self.is_wanted);
        if self.steps == 0 {
            return 0;
        }
        let took = handed_over.saturating_sub(self.due_at);
        // Where more was passed over than it might go, a word is wanted however little the application takes.
        let takes_much = is_wanted && handed_over <= self.allowed;
        if takes_much || is_due && took > self.steps / 2 {
            self.steps = self.steps.saturating_mul(2);
        } else if is_due && took <= self.steps / 8 {
            self.steps = (self.steps / 2).max(STEPS_MIN);
        }
        if is_due {
            self.due_at = handed_over;
        }
        self.allowed = handed_over.saturating_add(self.steps);
        self.bound(handed_over, round_trip)
    }

    /// So many count among those handed over from now on that the application never gets. It goes no further for that: the next word lets
    /// it.
    pub(super) fn pass_over(&mut self, deliveries: u64) {
        self.due_at = self.due_at.saturating_add(deliveries);
    }

    /// What is said at the beginning, and when deliveries were passed over.
    pub(super) fn bound(&self, handed_over: u64, round_trip: Duration) -> u64 {
        if self.steps == 0 {
            return 0;
        }
        let round_trips = (2 * round_trip.as_micros()).div_ceil(TELL_AFTER.as_micros());
        let round_trips = u64::try_from(round_trips).unwrap_or(u64::MAX);
        // The next word allows twice as many steps at most.
        let beyond = (2 * self.steps).max((self.steps / 2).saturating_mul(round_trips));
        handed_over.max(self.allowed).saturating_add(beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::from_micros(100);
    const FAR: Duration = Duration::from_millis(200);

    // The application takes so many, and the client says so when that is wanted. Returns what was said last, and how many words that took.
    fn take(ahead: &mut Ahead, handed_over: &mut u64, count: u64) -> (u64, u64) {
        let (mut said, mut words) = (0, 0);
        for _ in 0..count {
            if !ahead.may_hand_over(*handed_over + 1) {
                assert!(ahead.is_wanted());
                said = ahead.say(*handed_over, false, NEAR);
                words += 1;
                assert!(ahead.may_hand_over(*handed_over + 1), "one word is enough");
            }
            *handed_over += 1;
            ahead.handed_over(*handed_over);
        }
        (said, words)
    }

    #[test]
    fn it_is_a_dozen_for_who_takes_one_after_the_other_and_some_more_far_away() {
        assert_eq!(Ahead::default().bound(0, NEAR), 12);
        assert_eq!(Ahead::default().bound(0, FAR), 84);
        let mut ahead = Ahead::default();
        for handed_over in 1..100 {
            assert!(ahead.may_hand_over(handed_over));
            assert!(!ahead.handed_over(handed_over));
            assert_eq!(ahead.say(handed_over, true, NEAR), handed_over + 12);
        }
    }

    #[test]
    fn who_takes_many_at_a_time_waits_for_few_words_and_is_known_exactly_again_when_it_takes_few() {
        let mut ahead = Ahead::default();
        let mut handed_over = 0;
        let (said, words) = take(&mut ahead, &mut handed_over, 1_000_000);
        assert!(words < 20, "{words}");
        assert!(said <= 4 * handed_over, "{said}");
        for _ in 0..30 {
            take(&mut ahead, &mut handed_over, 1);
            ahead.say(handed_over, true, NEAR);
        }
        assert_eq!(ahead.say(handed_over, true, NEAR), handed_over + 12);
    }

    #[test]
    fn at_a_steady_pace_words_are_said_when_they_are_due_whatever_is_said_meanwhile() {
        for taken in [1, 7, 100, 4_000] {
            let mut ahead = Ahead::default();
            let mut handed_over = 0;
            let mut wanted = 0;
            for round in 0..100 {
                for piece in 0..taken {
                    assert!(ahead.may_hand_over(handed_over + 1) || round < 20);
                    if ahead.is_wanted() {
                        wanted += 1;
                        ahead.say(handed_over, false, NEAR);
                    }
                    handed_over += 1;
                    ahead.handed_over(handed_over);
                    // Credit.
                    if piece % 1_000 == 0 {
                        ahead.say(handed_over, false, NEAR);
                    }
                }
                ahead.say(handed_over, true, NEAR);
                if round == 20 {
                    wanted = 0;
                }
            }
            assert_eq!(wanted, 0, "{taken}");
            assert!(ahead.steps <= 8 * taken.max(1), "{taken}: {}", ahead.steps);
        }
    }

    #[test]
    fn nobody_goes_further_than_the_last_word_but_one_has_said() {
        let mut ahead = Ahead::default();
        let mut handed_over = 0;
        let (mut before, mut last) = (0, ahead.bound(0, NEAR));
        // As much as there may be, and now and then less, or something is passed over.
        for round in 0..1_000 {
            let mut taken = 0;
            let takes_all = round % 7 > 2 && ahead.steps < 4_096;
            while ahead.may_hand_over(handed_over + 1) && (takes_all || taken < round % 13) {
                handed_over += 1;
                taken += 1;
                ahead.handed_over(handed_over);
                assert!(
                    round == 0 || handed_over <= before,
                    "{round}: {handed_over}"
                );
            }
            let said = if round % 11 == 5 {
                handed_over += 5_000;
                ahead.pass_over(5_000);
                ahead.bound(handed_over, NEAR)
            } else {
                ahead.say(handed_over, round % 3 == 0, NEAR)
            };
            (before, last) = (last, said);
        }
    }

    #[test]
    fn what_is_passed_over_is_not_taken() {
        let mut ahead = Ahead::default();
        let mut handed_over = 0;
        // One is taken now and then, and many are given back in between.
        for round in 0..100 {
            take(&mut ahead, &mut handed_over, 1);
            handed_over += 4_096;
            ahead.pass_over(4_096);
            ahead.bound(handed_over, NEAR);
            assert!(
                !ahead.may_hand_over(handed_over + 1),
                "the word comes first"
            );
            let said = ahead.say(handed_over, round % 2 == 0, NEAR);
            assert_eq!(said, handed_over + 12);
        }
    }

    #[test]
    fn at_a_steady_pace_a_word_that_is_lost_once_and_sent_again_is_heard_in_time() {
        // So many in 10 ms, over a path on which a word takes 100 ms, and 350 ms when it is lost at first.
        for taken in [1, 30, 1_000] {
            let mut ahead = Ahead::default();
            let (mut handed_over, mut said) = (0, Vec::new());
            for word in 0_usize..400 {
                for _ in 0..taken {
                    if !ahead.may_hand_over(handed_over + 1) {
                        ahead.say(handed_over, false, FAR);
                    }
                    handed_over += 1;
                    ahead.handed_over(handed_over);
                }
                // In order: nothing is heard meanwhile of what was said after it.
                let heard = word.checked_sub(35).map_or(u64::MAX, |heard| said[heard]);
                assert!(word < 100 || handed_over <= heard, "{taken}: {word}");
                said.push(ahead.say(handed_over, true, FAR));
            }
        }
    }

    #[test]
    fn a_word_is_wanted_before_the_application_waits_for_it() {
        let mut ahead = Ahead::default();
        for number in 1..=STEPS_MIN {
            assert!(ahead.may_hand_over(number));
            assert!(!ahead.handed_over(number), "there is time enough");
        }
        assert!(!ahead.is_wanted());
        assert!(!ahead.may_hand_over(STEPS_MIN + 1));
        ahead.say(STEPS_MIN, false, NEAR);
        let steps = 2 * STEPS_MIN;
        let wanted =
            (STEPS_MIN + 1..=STEPS_MIN + steps).filter(|number| ahead.handed_over(*number));
        assert_eq!(wanted.collect::<Vec<_>>(), [STEPS_MIN + steps / 2], "once");
    }

    #[test]
    fn who_holds_nothing_says_nothing_of_it() {
        let mut ahead = Ahead::unbounded();
        assert_eq!(ahead.bound(0, NEAR), 0);
        for handed_over in 1..10_000 {
            assert!(ahead.may_hand_over(handed_over));
            assert!(!ahead.handed_over(handed_over));
        }
        assert_eq!(ahead.say(9_999, true, NEAR), 0);
        assert!(ahead.may_hand_over(u64::MAX));
    }
}
