//! What the broker itself wrote because a subscription gave an event up, told apart from what publishers and routes wrote.
//! Every block carries such a mark in its head, so that whoever finds events for subscriptions knows it without reading
//! them. Nothing here looks at an event: headers are a publisher's to forge, the mark is not.

/// What the events of a block are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeadLetterMark {
    /// Published, or a route's output; also a dead letter of a broker that did not mark them yet.
    #[default]
    Ordinary,
    /// Dead letters: ordinary events that were given up.
    Letter,
    /// Dead letters that were given up themselves. There is nothing after them.
    LastLetter,
}

impl DeadLetterMark {
    /// Whether these are dead letters.
    #[must_use]
    pub fn is_letter(self) -> bool {
        self != Self::Ordinary
    }

    /// The mark of the letter that an event with this one becomes when it is given up; `None` when it is dropped instead, which
    /// ends every circle of subscriptions that give up each other's letters.
    #[must_use]
    pub fn when_given_up(self) -> Option<Self> {
        match self {
            Self::Ordinary => Some(Self::Letter),
            Self::Letter => Some(Self::LastLetter),
            Self::LastLetter => None,
        }
    }

    /// As a block's head keeps it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ordinary => 0,
            Self::Letter => 1,
            Self::LastLetter => 2,
        }
    }

    /// What a block's head says. Codes that are not given yet count as the last letter: such a block is one all the more.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Ordinary,
            1 => Self::Letter,
            _ => Self::LastLetter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_becomes_a_letter_twice_and_no_more() {
        let next = |mark: Option<DeadLetterMark>| mark.and_then(DeadLetterMark::when_given_up);
        let marks =
            std::iter::successors(Some(DeadLetterMark::default()), |mark| next(Some(*mark)));
        let marks: Vec<_> = marks.collect();
        assert_eq!(
            marks,
            [
                DeadLetterMark::Ordinary,
                DeadLetterMark::Letter,
                DeadLetterMark::LastLetter
            ]
        );
        for mark in marks {
            assert_eq!(DeadLetterMark::from_code(mark.code()), mark);
            assert_eq!(mark.is_letter(), mark.code() > 0);
        }
        assert!(DeadLetterMark::from_code(7).when_given_up().is_none());
    }
}
