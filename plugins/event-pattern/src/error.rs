//! Why a pattern was refused.

/// Why a pattern was refused. The text is meant for whoever wrote the pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is not JSON.
    #[error("not JSON: {what} at line {line}, column {column}")]
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1.
        column: usize,
    },
    /// It is JSON, but no pattern.
    #[error("at {path}: {reason}")]
    Invalid {
        /// Where: member names joined by dots, with indexes of arrays in brackets.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Its `$or`s multiply to too many combinations.
    #[error(
        "the $or alternatives multiply to {combinations} combinations, and {max} are allowed; \
         split the pattern over several subscriptions"
    )]
    TooManyCombinations {
        /// How many there are.
        combinations: usize,
        /// How many there may be.
        max: usize,
    },
}
