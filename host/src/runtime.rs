//! What the broker needs of the machine beside disk and network: time, chance, tasks and threads. Whoever makes a broker hands
//! clock and chance in. Nothing here knows what they are for.

pub(crate) mod blocking_threads;
pub(crate) mod clock;
#[cfg_attr(feature = "simulation", path = "../../tests/sim/seams/executor.rs")]
pub(crate) mod executor;
pub(crate) mod patience;
pub(crate) mod random;
pub(crate) mod spawn;
pub(crate) mod task_set;
#[cfg_attr(
    feature = "simulation",
    path = "../../tests/sim/seams/thread_priority.rs"
)]
pub(crate) mod thread_priority;
pub(crate) mod unfinished;
pub(crate) mod unwaited;

pub use blocking_threads::{MachineThreads, Threads};
pub use clock::Clock;
pub use random::Random;
pub use spawn::{Spawner, TaskName, panicked_serving};
