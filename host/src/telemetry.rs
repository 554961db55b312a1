//! What operators learn of the running broker: what it counts, what is wrong with it, and log lines that never stand in its way.
//! Nothing here decides anything, and nothing here knows what it is that is counted.

pub(crate) mod errors;
pub(crate) mod health;
pub mod lines;
pub(crate) mod log_limit;
pub mod metrics;

pub use health::{Condition, Conditions, Raised};
pub use metrics::{Family, Metrics};
