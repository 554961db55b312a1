//! What a simulated library has in place of its own executor, beside what that shares with the real one.

#[path = "../seams/executor.rs"]
pub(crate) mod executor;
#[path = "../../../host/src/runtime/unfinished.rs"]
pub(crate) mod unfinished;
