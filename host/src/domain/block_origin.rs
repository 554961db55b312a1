//! Where the events of a block come from: publishers and routes, or the broker itself, which writes a dead letter because a
//! subscription gave an event up. Every block carries it in its head, so that whoever finds events for subscriptions knows it
//! without reading them. Nothing here looks at an event: headers are a publisher's to forge, this mark is not.

/// What the events of a block are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockOrigin {
    /// Published, or a route's output; also a dead letter of a broker that did not mark them yet.
    #[default]
    Ordinary,
    /// Dead letters: ordinary events that were given up.
    Letter,
    /// Dead letters that were given up themselves. There is nothing after them.
    LastLetter,
}

impl BlockOrigin {
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
        let next = |mark: Option<BlockOrigin>| mark.and_then(BlockOrigin::when_given_up);
        let marks = std::iter::successors(Some(BlockOrigin::default()), |mark| next(Some(*mark)));
        let marks: Vec<_> = marks.collect();
        assert_eq!(
            marks,
            [
                BlockOrigin::Ordinary,
                BlockOrigin::Letter,
                BlockOrigin::LastLetter
            ]
        );
        for mark in marks {
            assert_eq!(BlockOrigin::from_code(mark.code()), mark);
            assert_eq!(mark.is_letter(), mark.code() > 0);
        }
        assert!(BlockOrigin::from_code(7).when_given_up().is_none());
    }
}
