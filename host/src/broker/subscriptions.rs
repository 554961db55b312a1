//! The live subscriptions: each with its state behind a short lock, found by name, fed with positions, and waked when a deadline
//! comes. What an event says is not known here.

pub(super) mod given_up;
pub(super) mod live;
pub(super) mod plugin_log;
pub(super) mod registry;
