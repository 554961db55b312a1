//! The names of the tasks and threads whose death others ask for. A task that nobody asks for is named where it is started.

pub(super) const COMMITTER: &str = "committer";
pub(super) const CHECKPOINTER: &str = "checkpointer";
pub(super) const ROUTER: &str = "router";
