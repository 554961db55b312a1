//! What threads tell the kernel about how they share cores, with the names of `host/src/runtime/thread_priority.rs`: nothing, since all
//! of them are one.

/// Lets others go first.
pub(crate) fn give_way() {}

/// Lets everybody go first.
pub(crate) fn give_way_to_all() {}

/// Asks for short slices of time.
pub(crate) fn take_short_turns() {}
