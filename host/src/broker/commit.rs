//! How events and changes become durable and visible: what waits in the inbox is taken as one group, written, synced, and only
//! then shown to anybody. Nothing here waits for whoever reads what was written.

mod changes;
pub(super) mod checkpoint_due;
pub(super) mod committer;
mod disk_space;
pub(super) mod draft;
mod group;
pub(super) mod inbox;
pub(super) mod journal_note;
mod outputs;
pub(super) mod producer_streams;
pub(super) mod publish_reply;
mod published_batches;
pub(super) mod publisher;
pub(super) mod request;
mod rollback;
#[cfg(test)]
pub(super) mod tests;
mod waiting_acks;
mod waiting_returns;
