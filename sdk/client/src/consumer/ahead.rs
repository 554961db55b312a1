//! How far a consumer hands deliveries over ahead of what it has said: so little that a broker whose client is killed knows nearly exactly
//! what its application may have had in hand, and so much that an application which takes many at a time waits for nothing. Pure.
//!
//! What the broker is told holds even if the next word is lost with the client: no word takes the application further than the one before
//! has said.

/// An application that takes one delivery after the other has so many more than the broker was told of.
const STEPS_MIN: u64 = 4;

/// One that takes thousands in 10 ms.
const STEPS_MAX: u64 = 512;

/// The next word allows twice as many steps at most, on top of those that this one allows.
const SAID_TIMES: u64 = 3;

/// So far a consumer may go, in deliveries of its stream.
#[derive(Debug)]
pub(super) struct Ahead {
    /// From one word to the next.
    steps: u64,
    allowed: u64,
    /// What the broker knows that it will not pass.
    said: u64,
    /// What was handed over at the last word.
    said_at: u64,
    is_wanted: bool,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            steps: STEPS_MIN,
            allowed: STEPS_MIN,
            said: Self::SAID_AT_FIRST,
            said_at: 0,
            is_wanted: false,
        }
    }
}

impl Ahead {
    /// What the broker is told when a stream opens.
    pub(super) const SAID_AT_FIRST: u64 = STEPS_MIN * SAID_TIMES;

    /// Whether delivery `number` may be handed over before the next word, which is wanted if not.
    pub(super) fn allows(&mut self, number: u64) -> bool {
        self.is_wanted |= number > self.allowed;
        number <= self.allowed
    }

    /// Delivery `number` is handed over. Returns whether the next word is wanted from now on, so that it is there before the application
    /// waits for it.
    pub(super) fn handed_over(&mut self, number: u64) -> bool {
        let is_soon = self.steps > STEPS_MIN && number + self.steps / 2 >= self.allowed;
        is_soon && !std::mem::replace(&mut self.is_wanted, true)
    }

    /// The application waits for the next word, or soon will.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// The next word, of `handed_over` deliveries; with it goes what this returns: so many there will be at most before the word after it.
    pub(super) fn say(&mut self, handed_over: u64) -> u64 {
        let took = handed_over.saturating_sub(self.said_at);
        if std::mem::take(&mut self.is_wanted) {
            self.steps = (2 * self.steps).min(STEPS_MAX);
        } else if took <= self.steps / 4 {
            self.steps = (self.steps / 2).max(STEPS_MIN);
        }
        self.said_at = handed_over;
        self.allowed = self.allowed.max(handed_over.saturating_add(self.steps));
        let said = handed_over.saturating_add(SAID_TIMES * self.steps);
        self.said = self.said.max(said);
        self.said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The application takes up to so many, and the client says so when that is wanted. Returns how many words that took.
    fn take(ahead: &mut Ahead, handed_over: &mut u64, count: u64, mut said: u64) -> (u64, u64) {
        let mut words = 0;
        for _ in 0..count {
            if !ahead.allows(*handed_over + 1) {
                assert!(ahead.is_wanted());
                said = ahead.say(*handed_over);
                words += 1;
                assert!(ahead.allows(*handed_over + 1), "one word is enough");
            }
            *handed_over += 1;
            ahead.handed_over(*handed_over);
        }
        (said, words)
    }

    #[test]
    fn who_takes_many_at_a_time_soon_waits_for_few_words() {
        let mut ahead = Ahead::default();
        let mut handed_over = 0;
        let (said, words) = take(&mut ahead, &mut handed_over, 10_000, Ahead::SAID_AT_FIRST);
        assert!(words < 10 + 10_000 / STEPS_MAX, "{words}");
        assert!(said <= handed_over + SAID_TIMES * STEPS_MAX, "{said}");
        // Then it becomes slow, and says so after each.
        let mut said = said;
        for _ in 0..2_000 {
            take(&mut ahead, &mut handed_over, 1, said);
            said = ahead.say(handed_over);
        }
        assert_eq!(said, handed_over + SAID_TIMES * STEPS_MIN);
    }

    #[test]
    fn nobody_goes_further_than_the_last_word_but_one_has_said() {
        let mut ahead = Ahead::default();
        let (mut handed_over, mut before, mut last) = (0, 0, Ahead::SAID_AT_FIRST);
        // As much as there may be, and now and then less.
        for round in 0..1_000 {
            let mut taken = 0;
            while ahead.allows(handed_over + 1) && (round % 7 > 2 || taken < round % 13) {
                handed_over += 1;
                taken += 1;
                ahead.handed_over(handed_over);
                assert!(
                    round == 0 || handed_over <= before,
                    "{round}: {handed_over}"
                );
            }
            (before, last) = (last, ahead.say(handed_over));
            assert!(last >= before, "it never falls");
        }
    }

    #[test]
    fn a_word_is_wanted_before_the_application_waits_for_it() {
        let mut ahead = Ahead::default();
        for number in 1..=STEPS_MIN {
            assert!(ahead.allows(number));
            assert!(!ahead.handed_over(number), "there is time enough");
        }
        assert!(!ahead.is_wanted());
        assert!(!ahead.allows(STEPS_MIN + 1));
        ahead.say(STEPS_MIN);
        let steps = 2 * STEPS_MIN;
        let wanted =
            (STEPS_MIN + 1..=STEPS_MIN + steps).filter(|number| ahead.handed_over(*number));
        assert_eq!(wanted.collect::<Vec<_>>(), [STEPS_MIN + steps / 2], "once");
    }
}
