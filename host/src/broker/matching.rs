//! How it is found out which subscriptions an event is for: lanes call the filters, the router shows the log to subscriptions
//! without any, and the supervisor gives every subscription what feeds it. What becomes of an event after that is not known here.

mod catch_up;
pub(super) mod isolation_lanes;
pub(super) mod lane;
pub(super) mod lanes;
pub(super) mod subscription_supervisor;
pub(super) mod unfiltered_router;
