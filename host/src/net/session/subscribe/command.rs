//! Commands of a consumer, parsed as they come in: from here on positions are ranges of [`Position`], and reasons are short.

use std::ops::RangeInclusive;

use tidegate_wire::limits::{POSITION_RANGES_MAX, REASON_BYTES_MAX};
use tidegate_wire::pb::{self, consumer_command};
use tidegate_wire::positions::decode_positions;

use super::super::error_codes::StreamEnd;
use crate::domain::Position;

/// A client's command, parsed.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Credit {
        events: u64,
        bytes: u64,
        /// Deliveries of the stream; 0 says nothing.
        handed_over: u64,
        /// The same.
        handed_over_max: u64,
        confirm: bool,
    },
    Ack {
        positions: Vec<RangeInclusive<Position>>,
        confirm: u64,
    },
    Nack {
        positions: Vec<RangeInclusive<Position>>,
        delay_ms: Option<u64>,
    },
    Term {
        positions: Vec<RangeInclusive<Position>>,
        reason: String,
    },
    Extend {
        positions: Vec<RangeInclusive<Position>>,
        extend_for_ms: Option<u64>,
    },
    GiveBack {
        positions: Vec<RangeInclusive<Position>>,
    },
}

impl TryFrom<pb::ConsumerCommand> for Command {
    type Error = StreamEnd;

    fn try_from(command: pb::ConsumerCommand) -> Result<Self, StreamEnd> {
        use consumer_command::Command as Wire;
        let command = command.command.ok_or_else(|| {
            StreamEnd::malformed("a consumer command of a kind this version does not know")
        })?;
        Ok(match command {
            Wire::Credit(credit) => Self::Credit {
                events: credit.events,
                bytes: credit.bytes,
                handed_over: credit.handed_over,
                handed_over_max: credit.handed_over_max,
                confirm: credit.confirm_handed_over,
            },
            Wire::Ack(ack) => Self::Ack {
                positions: ranges(ack.positions)?,
                confirm: ack.confirm,
            },
            Wire::Nack(nack) => Self::Nack {
                positions: ranges(nack.positions)?,
                delay_ms: nack.delay_ms,
            },
            Wire::Term(term) => Self::Term {
                positions: ranges(term.positions)?,
                reason: shortened(term.reason),
            },
            Wire::Extend(extend) => Self::Extend {
                positions: ranges(extend.positions)?,
                extend_for_ms: extend.extend_for_ms,
            },
            Wire::GiveBack(back) => Self::GiveBack {
                positions: ranges(back.positions)?,
            },
        })
    }
}

fn ranges(positions: Option<pb::Positions>) -> Result<Vec<RangeInclusive<Position>>, StreamEnd> {
    let ranges = decode_positions(&positions.unwrap_or_default(), POSITION_RANGES_MAX)?;
    let typed = |range: RangeInclusive<u64>| Position(*range.start())..=Position(*range.end());
    Ok(ranges.into_iter().map(typed).collect())
}

// A long reason is cut rather than refused: refusing it would only bring the same event and reason again.
fn shortened(mut reason: String) -> String {
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    reason.truncate(end);
    reason
}

#[cfg(test)]
mod tests {
    use tidegate_wire::pb::ErrorCode;

    use super::*;

    fn check(command: Option<consumer_command::Command>, expected: Result<Command, ErrorCode>) {
        let found = Command::try_from(pb::ConsumerCommand { command });
        let found = found.map_err(|end| match end {
            StreamEnd::Violation(error) => error.code(),
            other => panic!("not a violation: {other:?}"),
        });
        assert_eq!(found, expected);
    }

    fn positions(first: &[u64], more: &[u64]) -> Option<pb::Positions> {
        Some(pb::Positions {
            first: first.to_vec(),
            more: more.to_vec(),
        })
    }

    #[test]
    fn commands_are_parsed_at_the_door() {
        use consumer_command::Command as Wire;
        let seven_to_nine = vec![Position(7)..=Position(9)];
        check(
            Some(Wire::Ack(pb::Ack {
                positions: positions(&[7], &[2]),
                confirm: 4,
            })),
            Ok(Command::Ack {
                positions: seven_to_nine.clone(),
                confirm: 4,
            }),
        );
        check(
            Some(Wire::Nack(pb::Nack {
                positions: positions(&[7], &[2]),
                delay_ms: Some(0),
            })),
            Ok(Command::Nack {
                positions: seven_to_nine,
                delay_ms: Some(0),
            }),
        );
        check(
            Some(Wire::Extend(pb::Extend {
                positions: None,
                extend_for_ms: Some(7),
            })),
            Ok(Command::Extend {
                positions: vec![],
                extend_for_ms: Some(7),
            }),
        );
        check(
            Some(Wire::GiveBack(pb::GiveBack {
                positions: positions(&[7], &[2]),
            })),
            Ok(Command::GiveBack {
                positions: vec![Position(7)..=Position(9)],
            }),
        );
        check(None, Err(ErrorCode::Malformed));
        check(
            Some(Wire::Ack(pb::Ack {
                positions: positions(&[7], &[]),
                confirm: 0,
            })),
            Err(ErrorCode::Malformed),
        );
        let many = vec![1; POSITION_RANGES_MAX + 1];
        check(
            Some(Wire::Extend(pb::Extend {
                positions: positions(&many, &many),
                extend_for_ms: None,
            })),
            Err(ErrorCode::TooLarge),
        );
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let cut = shortened("é".repeat(REASON_BYTES_MAX));
        assert_eq!(cut.len(), REASON_BYTES_MAX);
        assert_eq!(shortened(format!("a{cut}")).len(), REASON_BYTES_MAX - 1);
        assert_eq!(shortened("short".into()), "short");
    }
}
