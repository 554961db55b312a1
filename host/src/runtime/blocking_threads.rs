//! Threads for work that blocks and has an end, beside tasks, and the rests that such work takes. Whoever needs some is handed them,
//! so that a run which must be repeatable can go without: it is slower then, and that is all. Threads that run until the shutdown
//! are [`Spawner`](super::Spawner)'s.

use std::fmt::Debug;
use std::io;
use std::thread;
use std::time::Duration;

use super::executor;

/// Starts threads, and rests on the one that calls it.
pub trait Threads: Debug + Send + Sync {
    /// Runs `run` on a thread of its own. It has to see to it itself that somebody learns of its end, and of its panic.
    ///
    /// # Errors
    ///
    /// There is no thread to be had; `run` was dropped.
    fn start(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> io::Result<()>;

    /// Blocks the calling thread for so long.
    fn rest(&self, time: Duration);
}

/// Those of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineThreads;

impl Threads for MachineThreads {
    fn start(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        executor::thread(name, run).map(drop)
    }

    fn rest(&self, time: Duration) {
        thread::sleep(time);
    }
}
