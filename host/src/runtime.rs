//! What the broker needs of the machine beside disk and network: time, tasks and threads. Nothing here knows what they are for.

pub(crate) mod clock;
pub(crate) mod spawn;
pub(crate) mod thread_priority;

pub use spawn::{Spawner, TaskName, panicked_serving};
