//! What the broker needs of the machine beside disk and network: time, chance, tasks and threads. Whoever makes a broker hands
//! clock and chance in. Nothing here knows what they are for.

pub(crate) mod clock;
pub(crate) mod random;
pub(crate) mod spawn;
pub(crate) mod task_set;
pub(crate) mod thread_priority;
pub(crate) mod threads;

pub use clock::Clock;
pub use random::Random;
pub use spawn::{Spawner, TaskName, panicked_serving};
pub use threads::{MachineThreads, Threads};
