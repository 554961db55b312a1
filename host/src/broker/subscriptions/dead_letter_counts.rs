//! The count of a subscription's dead letters. It rises when they are written, and never falls.

/// What became of events that were given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeadLetterCounts {
    /// They have a dead letter.
    pub(crate) written: u64,
    /// They were the last of their letters.
    pub(crate) dropped: u64,
}
