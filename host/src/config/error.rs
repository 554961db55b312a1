//! Why a configuration is refused, with the place in the file and what to do about it, and what its reader is warned of.

use std::fmt;
use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No TOML, or a value of the wrong type; the message has line, column and the line itself.
    #[error("{origin}: {}", error.to_string().trim_end())]
    Toml {
        /// Where the text comes from.
        origin: String,
        /// What the parser says. Not the source, since a chain would show the same lines twice.
        error: toml::de::Error,
    },
    /// Unknown keys, or values that are out of bounds or do not fit together.
    #[error("{}", list(origin, problems))]
    Invalid {
        /// Where the text comes from.
        origin: String,
        /// All of them, never empty.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line and column, from 1; `None` for a key that is not in the text.
    pub at: Option<(usize, usize)>,
    /// The key with its sections: `store.journal_bytes_max`.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// What is allowed but probably not meant. Whoever starts a broker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Nobody may do anything.
    #[error(
        "no grants: nobody may do anything, not even over the local admin port. Add [[policy.grants]]"
    )]
    NoGrants,
    /// Who comes without a certificate may do nothing.
    #[error("listen.anonymous is open, but no grant names `anonymous`")]
    AnonymousWithoutGrant,
    /// There is no admin API.
    #[error(
        "neither listen.admin nor listen.admin_tls is set: subscriptions and plugins cannot be managed"
    )]
    NoAdmin,
}

impl ConfigError {
    pub(super) fn unless_empty(origin: &str, problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self::Invalid {
            origin: origin.to_owned(),
            problems,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => {
                write!(
                    f,
                    "line {line}, column {column}: `{}`: {}",
                    self.key, self.message
                )
            }
            None => write!(f, "`{}`: {}", self.key, self.message),
        }
    }
}

fn list(origin: &str, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{origin}: {problem}"))
        .collect();
    lines.join("\n")
}

/// Line and column, from 1, of the byte at `offset`.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}
