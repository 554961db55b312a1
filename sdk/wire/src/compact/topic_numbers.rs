//! The numbers of topics in one direction of a stream: those that a sender gives, and those that a reader was told.

use super::unpacker::CompactError;
use crate::limits::{TOPIC_BYTES_MAX, TOPIC_NUMBERS_MAX};

/// The sender's: when there are too many topics, the one that was used longest ago loses its number.
#[derive(Debug, Default)]
pub(super) struct GivenNumbers {
    /// The one that was used last comes first.
    recent: Vec<(Box<str>, u32)>,
}

impl GivenNumbers {
    /// The number of `topic`, and whether the reader knows it; 0 for what is no name of a topic.
    pub(super) fn number(&mut self, topic: &str) -> (u32, bool) {
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
            return (0, false);
        }
        if let Some(place) = self.recent.iter().position(|(name, _)| &**name == topic) {
            self.recent[..=place].rotate_right(1);
            return (self.recent[0].1, true);
        }
        let number = match self.recent.len() < TOPIC_NUMBERS_MAX {
            true => self.recent.len() as u32 + 1,
            false => self.recent.pop().map_or(1, |(_, number)| number),
        };
        self.recent.insert(0, (topic.into(), number));
        (number, false)
    }
}

/// The reader's.
#[derive(Debug, Default)]
pub(super) struct ToldNumbers {
    /// By number, from 1 on; empty where there is none.
    names: Vec<Box<str>>,
}

impl ToldNumbers {
    /// Completes a head that says `topic` and `number`.
    ///
    /// # Errors
    /// The number is none, or stands for nothing.
    pub(super) fn resolve(&mut self, topic: &mut String, number: u32) -> Result<(), CompactError> {
        let Some(place) = number.checked_sub(1) else {
            return Ok(());
        };
        let place = place as usize;
        if place >= TOPIC_NUMBERS_MAX {
            return Err(CompactError::NumberTooHigh { number });
        }
        if topic.is_empty() {
            let name = self.names.get(place).filter(|name| !name.is_empty());
            topic.push_str(name.ok_or(CompactError::UnknownNumber { number })?);
            return Ok(());
        }
        if topic.len() > TOPIC_BYTES_MAX {
            let bytes = topic.len();
            return Err(CompactError::TopicTooLong { bytes });
        }
        if self.names.len() <= place {
            self.names.resize(place + 1, Box::default());
        }
        self.names[place] = topic.as_str().into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_that_was_used_longest_ago_loses_its_number() {
        let mut given = GivenNumbers::default();
        let name = |index: u32| format!("t.{index}");
        let max = TOPIC_NUMBERS_MAX as u32;
        for index in 1..=max {
            assert_eq!(given.number(&name(index)), (index, false));
        }
        assert_eq!(given.number(&name(1)), (1, true));
        assert_eq!(given.number("another"), (2, false));
        assert_eq!(given.number(&name(1)), (1, true));
        assert_eq!(given.number(&name(2)), (3, false));
        assert_eq!(given.number(""), (0, false));
        assert_eq!(given.number(&"t".repeat(TOPIC_BYTES_MAX + 1)), (0, false));
    }

    #[test]
    fn a_number_stands_for_what_it_was_told_last() {
        let mut told = ToldNumbers::default();
        let mut check = |topic: &str, number, expected: Result<&str, CompactError>| {
            let mut found = topic.to_owned();
            let resolved = told.resolve(&mut found, number).map(|()| found.as_str());
            assert_eq!(resolved, expected, "{topic} {number}");
        };
        check("a", 0, Ok("a"));
        check("", 0, Ok(""));
        check("", 1, Err(CompactError::UnknownNumber { number: 1 }));
        check("a", 7, Ok("a"));
        check("", 7, Ok("a"));
        check("", 6, Err(CompactError::UnknownNumber { number: 6 }));
        check("b", 7, Ok("b"));
        check("", 7, Ok("b"));
        check("c", 64, Ok("c"));
        check("", 64, Ok("c"));
        check("c", 65, Err(CompactError::NumberTooHigh { number: 65 }));
        let number = u32::MAX;
        check("", number, Err(CompactError::NumberTooHigh { number }));
        let (long, bytes) = ("t".repeat(TOPIC_BYTES_MAX + 1), TOPIC_BYTES_MAX + 1);
        check(&long, 1, Err(CompactError::TopicTooLong { bytes }));
    }
}
