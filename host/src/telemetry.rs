//! What operators learn of the running broker: what it counts, what is wrong with it, and log lines that never stand in its way.
//! Nothing here decides anything but which of what is wrong makes the broker unready (`conditions`), and nothing here knows what it is
//! that is counted.

pub(crate) mod conditions;
pub(crate) mod error_line;
pub(crate) mod log_limit;
pub mod log_output;
pub mod metrics_registry;

pub use conditions::{Condition, Conditions, Raised};
pub use metrics_registry::{Family, Metrics};
