//! Answers on their way to the broker: joined into ranges as they come, so that a thousand acks in a row are one
//! small message. Pure: no task, no stream.

use std::ops::RangeInclusive;
use std::time::Duration;

use tidegate_wire::limits::REASON_BYTES_MAX;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, ConsumerCommand};
use tidegate_wire::positions::encode_positions;

/// Ranges in one command: at most 20 bytes each, so 80 KiB, well within a frame.
const COMMAND_RANGES_MAX: usize = 4096;

/// What the application said since the last time it was sent.
#[derive(Debug, Default)]
pub(super) struct Answers {
    acks: Ranges,
    /// By duration.
    extends: Vec<(Option<u64>, Ranges)>,
    /// By delay; an application uses few different ones at a time.
    nacks: Vec<(Option<u64>, Ranges)>,
    /// By reason.
    terms: Vec<(String, Ranges)>,
}

impl Answers {
    pub(super) fn ack(&mut self, position: u64) {
        self.acks.push(position);
    }

    pub(super) fn extend(&mut self, position: u64, extend_for: Option<Duration>) {
        let extend_for_ms = extend_for.map(millis);
        match self.extends.last_mut() {
            Some((found, ranges)) if *found == extend_for_ms => ranges.push(position),
            _ => self.extends.push((extend_for_ms, Ranges::of(position))),
        }
    }

    pub(super) fn nack(&mut self, position: u64, delay: Option<Duration>) {
        let delay_ms = delay.map(millis);
        match self.nacks.last_mut() {
            Some((found, ranges)) if *found == delay_ms => ranges.push(position),
            _ => self.nacks.push((delay_ms, Ranges::of(position))),
        }
    }

    pub(super) fn term(&mut self, position: u64, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        match self.terms.last_mut() {
            Some((found, ranges)) if found == reason => ranges.push(position),
            _ => self.terms.push((reason.to_owned(), Ranges::of(position))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.acks.0.is_empty()
            && self.extends.is_empty()
            && self.nacks.is_empty()
            && self.terms.is_empty()
    }

    /// The answers as commands. With a `confirm` that is not 0, the last ack asks the broker to confirm it and all
    /// before it.
    pub(super) fn into_commands(self, confirm: u64) -> Vec<ConsumerCommand> {
        let mut commands = Vec::new();
        for (extend_for_ms, ranges) in self.extends {
            for positions in ranges.chunks() {
                commands.push(Command::Extend(pb::Extend {
                    positions,
                    extend_for_ms,
                }));
            }
        }
        for (delay_ms, ranges) in self.nacks {
            for positions in ranges.chunks() {
                commands.push(Command::Nack(pb::Nack {
                    positions,
                    delay_ms,
                }));
            }
        }
        for (reason, ranges) in self.terms {
            for positions in ranges.chunks() {
                commands.push(Command::Term(pb::Term {
                    positions,
                    reason: reason.clone(),
                }));
            }
        }
        for positions in self.acks.chunks() {
            commands.push(Command::Ack(pb::Ack {
                positions,
                confirm: 0,
            }));
        }
        if confirm != 0 {
            match commands.last_mut() {
                Some(Command::Ack(ack)) => ack.confirm = confirm,
                _ => commands.push(Command::Ack(pb::Ack {
                    positions: Some(pb::Positions::default()),
                    confirm,
                })),
            }
        }
        let command = |command| ConsumerCommand {
            command: Some(command),
        };
        commands.into_iter().map(command).collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Positions in the order in which they were named, neighbours joined.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<RangeInclusive<u64>>);

impl Ranges {
    /// What of `all`, which are ascending and disjoint, is not among them.
    pub(super) fn gaps(mut self, all: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
        self.0.sort_unstable_by_key(|range| *range.start());
        let mut gaps = Vec::new();
        let mut ranges = self.0.iter().peekable();
        for within in all {
            let mut next = Some(*within.start());
            while let Some(range) = ranges.peek()
                && range.start() <= within.end()
                && let Some(at) = next
            {
                if at < *range.start() {
                    gaps.push(at..=*range.start() - 1);
                }
                next = range.end().checked_add(1).map(|end| end.max(at));
                if range.end() > within.end() {
                    // The next of all may begin in it too.
                    break;
                }
                ranges.next();
            }
            let rest = next.filter(|at| at <= within.end());
            gaps.extend(rest.map(|at| at..=*within.end()));
        }
        gaps
    }

    fn of(position: u64) -> Self {
        Self(vec![position..=position])
    }

    pub(super) fn push(&mut self, position: u64) {
        if let Some(last) = self.0.last_mut()
            && last.end().checked_add(1) == Some(position)
        {
            *last = *last.start()..=position;
            return;
        }
        self.0.push(position..=position);
    }

    /// The positions in as many messages as they need.
    pub(super) fn chunks(mut self) -> Vec<Option<pb::Positions>> {
        // Sorted before they are cut, so that neighbours meet in one message.
        self.0.sort_unstable_by_key(|range| *range.start());
        let chunk = |ranges: &[RangeInclusive<u64>]| Some(encode_positions(ranges.iter().cloned()));
        self.0.chunks(COMMAND_RANGES_MAX).map(chunk).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: Answers, confirm: u64, expected: Vec<Command>) {
        let found: Vec<_> = answers
            .into_commands(confirm)
            .into_iter()
            .map(|command| command.command.unwrap())
            .collect();
        assert_eq!(found, expected);
    }

    fn ack(first: &[u64], more: &[u64], confirm: u64) -> Command {
        let positions = Some(pb::Positions {
            first: first.to_vec(),
            more: more.to_vec(),
        });
        Command::Ack(pb::Ack { positions, confirm })
    }

    #[test]
    fn acks_in_any_order_become_ranges() {
        let mut answers = Answers::default();
        assert!(answers.is_empty());
        for position in [7, 8, 12, 9, 3] {
            answers.ack(position);
        }
        assert!(!answers.is_empty());
        check(answers, 0, vec![ack(&[3, 4, 3], &[0, 2, 0], 0)]);
    }

    #[test]
    fn what_is_not_among_them_is_left() {
        let mut ranges = Ranges::default();
        for position in [7, 4, 5, 4] {
            ranges.push(position);
        }
        assert_eq!(ranges.gaps(&[4..=9]), [6..=6, 8..=9]);
        assert_eq!(Ranges::of(u64::MAX).gaps(&[u64::MAX..=u64::MAX]), []);
        assert_eq!(Ranges::of(5).gaps(&[5..=5]), []);
        assert_eq!(Ranges::default().gaps(&[3..=4, 9..=9]), [3..=4, 9..=9]);
        let mut ranges = Ranges::of(2);
        for position in [5, 6, 7, 12, 12] {
            ranges.push(position);
        }
        let all = [1..=2, 4..=5, 6..=6, 7..=9, 12..=13];
        assert_eq!(ranges.gaps(&all), [1..=1, 4..=4, 8..=9, 13..=13]);
    }

    #[test]
    fn a_confirmation_is_asked_of_the_last_ack() {
        check(Answers::default(), 5, vec![ack(&[], &[], 5)]);
        let mut answers = Answers::default();
        for position in (0..=COMMAND_RANGES_MAX as u64).map(|n| 2 * n) {
            answers.ack(position);
        }
        let commands = answers.into_commands(9);
        let confirms: Vec<_> = commands
            .iter()
            .map(|command| match &command.command {
                Some(Command::Ack(ack)) => ack.confirm,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(confirms, [0, 9]);
    }

    #[test]
    fn nacks_and_terms_keep_their_words() {
        let mut answers = Answers::default();
        let second = Some(Duration::from_secs(1));
        answers.nack(1, second);
        answers.nack(2, second);
        answers.nack(3, None);
        answers.term(4, "é".repeat(REASON_BYTES_MAX).as_str());
        answers.extend(5, None);
        answers.extend(6, second);
        let positions = |first: u64, more: u64| {
            Some(pb::Positions {
                first: vec![first],
                more: vec![more],
            })
        };
        check(
            answers,
            0,
            vec![
                Command::Extend(pb::Extend {
                    positions: positions(5, 0),
                    extend_for_ms: None,
                }),
                Command::Extend(pb::Extend {
                    positions: positions(6, 0),
                    extend_for_ms: Some(1000),
                }),
                Command::Nack(pb::Nack {
                    positions: positions(1, 1),
                    delay_ms: Some(1000),
                }),
                Command::Nack(pb::Nack {
                    positions: positions(3, 0),
                    delay_ms: None,
                }),
                Command::Term(pb::Term {
                    positions: positions(4, 0),
                    reason: "é".repeat(REASON_BYTES_MAX / 2),
                }),
            ],
        );
    }
}
