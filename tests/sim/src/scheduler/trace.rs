//! What a run did, a line for each step: the last of them, all of them if asked for, and a digest of all by which two runs are compared.
//! Moments are those of virtual time, and nothing is told by an address.

use std::collections::VecDeque;

use super::choice::{mix, text};

/// Lines that are kept in any case.
const LAST: usize = 50;

/// A trace that grows.
#[derive(Debug, Default)]
pub(super) struct Trace {
    digest: u64,
    last: VecDeque<String>,
    all: Option<String>,
}

impl Trace {
    pub(super) fn new(is_whole: bool) -> Self {
        Self {
            all: is_whole.then(String::new),
            ..Self::default()
        }
    }

    pub(super) fn line(&mut self, line: String) {
        self.digest = mix(&[self.digest, text(&line)]);
        if let Some(all) = &mut self.all {
            all.push_str(&line);
            all.push('\n');
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    pub(super) fn ended(self) -> Traced {
        Traced {
            digest: self.digest,
            last: self.last.into(),
            all: self.all,
        }
    }
}

/// The trace of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The same for two runs that made the same steps.
    pub digest: u64,
    /// The last lines.
    pub last: Vec<String>,
    /// All lines, if they were asked for.
    pub all: Option<String>,
}
