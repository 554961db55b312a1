//! Work that was started beside its caller and has no answer, in words.

use std::any::Any;

use tokio::task::JoinError;

/// Why it has none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfinished {
    /// It panicked, with this.
    #[error("{}", panicked(&**.0))]
    Panicked(Box<dyn Any + Send>),
    /// Whoever runs such work stops, and has dropped it.
    #[error("it was dropped, since what it ran on stops")]
    Stopped,
}

impl From<JoinError> for Unfinished {
    fn from(error: JoinError) -> Self {
        error.try_into_panic().map_or(Self::Stopped, Self::Panicked)
    }
}

/// What a panic says, in words.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    match text {
        Some(text) => format!("it panicked: {text}"),
        None => "it panicked".to_owned(),
    }
}
