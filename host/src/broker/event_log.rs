//! The log as readers see it, by position: a bounded tail in memory and the store behind it. Nothing here writes.

pub(super) mod tail;
pub(super) mod unreadable_conditions;
