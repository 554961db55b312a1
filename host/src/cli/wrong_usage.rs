//! Wrong usage that only shows once arguments, variables and contexts are put together. It ends a command with an exit code of its own,
//! which is that of whatever one argument says wrong by itself: such a one is refused where the line is parsed, and never comes here.
//! What is well said, and is not there or not allowed, is no wrong usage.

/// Exit code, as that of the parser.
pub(super) const EXIT_CODE: u8 = 2;

/// What was said cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct WrongUsage(String);

/// Ends a function with this error, in the words of a format string.
macro_rules! wrong_usage {
    ($($words:tt)+) => {
        return Err($crate::cli::wrong_usage::WrongUsage::new(format!($($words)+)).into())
    };
}

pub(super) use wrong_usage;

impl WrongUsage {
    pub(super) fn new(said: String) -> Self {
        Self(said)
    }
}
