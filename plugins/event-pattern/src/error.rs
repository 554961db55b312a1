//! Why a pattern was refused. Written out, since a derive macro would be compiled once more for the guests, in each
//! build of the broker.

use std::error::Error;
use std::fmt;

/// Why a pattern was refused. The text is meant for whoever wrote the pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// It is not JSON.
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
    },
    /// It is JSON, but no pattern.
    Invalid {
        /// Where: member names joined by dots, with indexes of arrays in brackets.
        path: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// Its `$or`s multiply to too many combinations.
    TooManyCombinations {
        /// How many there are.
        combinations: usize,
        /// How many there may be.
        max: usize,
    },
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { what, line, column } => {
                write!(f, "not JSON: {what} at line {line}, column {column}")
            }
            Self::Invalid {
                path,
                line,
                column,
                reason,
            } => write!(f, "at {path} (line {line}, column {column}): {reason}"),
            Self::TooManyCombinations { combinations, max } => write!(
                f,
                "the $or alternatives multiply to {combinations} combinations, and {max} are allowed; \
                 split the pattern over several subscriptions"
            ),
        }
    }
}

impl Error for PatternError {}
