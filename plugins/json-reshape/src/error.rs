//! Why a configuration was refused, and the path that every refusal names. Written out, since a derive macro would be
//! compiled once more for the guests, in each build of the broker.

use std::error::Error;
use std::fmt;

/// Why a configuration was refused. The text is meant for whoever wrote it.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not JSON.
    Syntax {
        /// What is wrong.
        what: &'static str,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
    },
    /// It is JSON, but says nothing that can be done.
    Invalid {
        /// Where: member names joined by dots, with indexes of arrays in brackets.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { what, line, column } => {
                write!(f, "not JSON: {what} at line {line}, column {column}")
            }
            Self::Invalid { path, reason } => write!(f, "at {path}: {reason}"),
        }
    }
}

impl Error for ConfigError {}

/// A place in the configuration, as a chain back to the top.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Top,
    Name(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(crate) fn name(&'a self, name: &'a str) -> Self {
        Self::Name(self, name)
    }

    pub(crate) fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    pub(crate) fn invalid(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            path: self.to_string(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => f.write_str("the top level"),
            Self::Name(Self::Top, name) => f.write_str(name),
            Self::Name(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
