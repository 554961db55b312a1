//! How it is found out which subscriptions an event is for: lanes call the filters, and the supervisor gives every
//! subscription what feeds it. What becomes of an event after that is not known here.

pub(super) mod lanes;
pub(super) mod supervisor;
pub(super) mod wards;
