//! The numbers of topics in one direction of a stream: those that a sender gives, and those that a reader was told.

use super::unpacker::CompactError;
use crate::limits::{TOPIC_BYTES_MAX, TOPIC_NUMBERS_BYTES_MAX, TOPIC_NUMBERS_MAX};

/// The sender's: when there are too many topics, or their names are too long, the one that was used longest ago loses its number.
#[derive(Debug, Default)]
pub(super) struct GivenNumbers {
    /// The one that was used last comes first.
    recent: Vec<(Box<str>, u32)>,
    /// Of all their names.
    bytes: usize,
}

impl GivenNumbers {
    /// The number of `topic`, and whether the reader knows it; 0 for what is no name of a topic, and for a name in whose place none as
    /// long can be forgotten.
    pub(super) fn number(&mut self, topic: &str) -> (u32, bool) {
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
            return (0, false);
        }
        if let Some(place) = self.recent.iter().position(|(name, _)| &**name == topic) {
            self.recent[..=place].rotate_right(1);
            return (self.recent[0].1, true);
        }
        let Some(number) = self.free_number(topic.len()) else {
            return (0, false);
        };
        self.bytes += topic.len();
        self.recent.insert(0, (topic.into(), number));
        (number, false)
    }

    // One that stands for nothing yet, or is taken from the topic that was used longest ago of those whose names make enough room.
    fn free_number(&mut self, bytes: usize) -> Option<u32> {
        let all = self.bytes + bytes;
        if self.recent.len() < TOPIC_NUMBERS_MAX && all <= TOPIC_NUMBERS_BYTES_MAX {
            return Some(self.recent.len() as u32 + 1);
        }
        let makes_room = |(name, _): &(Box<str>, u32)| all - name.len() <= TOPIC_NUMBERS_BYTES_MAX;
        let place = self.recent.iter().rposition(makes_room)?;
        let (name, number) = self.recent.remove(place);
        self.bytes -= name.len();
        Some(number)
    }
}

/// The reader's.
#[derive(Debug, Default)]
pub(super) struct ToldNumbers {
    /// By number, from 1 on; empty where there is none.
    names: Vec<Box<str>>,
    /// Of all of them.
    bytes: usize,
}

impl ToldNumbers {
    /// Completes a head that says `topic` and `number`.
    ///
    /// # Errors
    /// The number is none, or stands for nothing, or all names together are too long.
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
        let before = self.names.get(place).map_or(0, |name| name.len());
        let bytes = self.bytes - before + topic.len();
        if bytes > TOPIC_NUMBERS_BYTES_MAX {
            return Err(CompactError::NamesTooLong { bytes });
        }
        self.bytes = bytes;
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
        // Beside "b" and "c".
        for number in 1..=6 {
            let long = "t".repeat(TOPIC_BYTES_MAX);
            check(&long, number, Ok(&long));
        }
        let rest = "r".repeat(TOPIC_BYTES_MAX);
        check(&rest, 8, Ok(&rest));
        let (much, bytes) = ("m".repeat(TOPIC_BYTES_MAX), 8 * TOPIC_BYTES_MAX + 2);
        check(&much[..9], 9, Ok(&much[..9]));
        let bytes = bytes + 9;
        check(&much, 10, Err(CompactError::NamesTooLong { bytes }));
        check(&much, 8, Ok(&much));
    }

    #[test]
    fn a_sender_names_no_more_than_its_reader_keeps() {
        let (mut given, mut told) = (GivenNumbers::default(), ToldNumbers::default());
        let mut check = |topic: &str| {
            let (number, known) = given.number(topic);
            let mut said = match known {
                true => String::new(),
                false => topic.to_owned(),
            };
            told.resolve(&mut said, number)
                .expect("what a reader keeps");
            assert_eq!(said, topic);
            (number, known)
        };
        let name = |index: usize, bytes: usize| format!("{index:0bytes$}");
        // Eight of 255 bytes, and then each takes the place of the oldest that is as long.
        for index in 0..20 {
            let number = 1 + index as u32 % 8;
            assert_eq!(check(&name(index, TOPIC_BYTES_MAX)), (number, false));
        }
        // One of 8 bytes is beside them, for which none has to go that comes later.
        assert_eq!(check(&name(1, 8)), (9, false));
        assert_eq!(check(&name(20, TOPIC_BYTES_MAX)), (5, false));
        assert_eq!(check(&name(1, 8)), (9, true));
        // Of many short ones none makes room for a long one.
        let mut short = GivenNumbers::default();
        for index in 0..TOPIC_NUMBERS_MAX {
            assert!(!short.number(&name(index, 32)).1);
        }
        assert_eq!(short.number(&name(0, TOPIC_BYTES_MAX)), (0, false));
        assert_eq!(short.number(&name(70, 32)), (1, false));
        for index in 0..500 {
            check(&name(index % 97, 1 + index * 31 % TOPIC_BYTES_MAX));
        }
    }
}
