//! What is kept of the broker beyond the journal: the state that a checkpoint writes beside the events that somebody still needs,
//! and how a start makes a broker at rest of it again. Nothing here decides who gets an event.

pub(super) mod checkpointer;
mod reclaim;
pub(super) mod recovery;
pub(super) mod saved_state;
mod still_needed;
#[cfg(test)]
mod tests;
