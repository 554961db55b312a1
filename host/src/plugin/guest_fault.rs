//! What can go wrong in a guest, as all who call one see it. Whose fault it was is not decided here.

use super::instance_budget::Exhausted;

// Longest message of a guest that is passed on.
const MESSAGE_BYTES_MAX: usize = 2048;

/// What went wrong in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// It trapped, used up its memory or its stack, or called what it may not.
    Trap,
    /// It ran longer than it may.
    Timeout,
    /// Its answer makes no sense.
    Nonsense,
    /// No fault of the guest: no instance is to be had, or no more memory for it, since others have them.
    Busy,
}

/// A call that failed. The instance is of no use any more.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) reason: String,
}

impl Fault {
    pub(super) fn nonsense(reason: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Nonsense,
            reason: reason.into(),
        }
    }

    pub(super) fn busy(reason: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Busy,
            reason: reason.into(),
        }
    }
}

impl From<Exhausted> for Fault {
    fn from(exhausted: Exhausted) -> Self {
        Self::busy(exhausted.to_string())
    }
}

/// A guest's message, cut to a bounded length.
pub(super) fn clip(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
        message.truncate(end);
        message.push('…');
    }
    message
}
