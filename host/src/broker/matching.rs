//! How it is found out which subscriptions an event is for: lanes call the filters, the router shows the log to subscriptions
//! without any, and the supervisor gives every subscription what feeds it. What becomes of an event after that is not known here.

mod cohort;
mod command;
pub(super) mod lane;
pub(super) mod lanes;
pub(super) mod router;
pub(super) mod supervisor;
mod verdicts;
pub(super) mod wards;
