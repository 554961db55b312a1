//! Where tasks, threads and blocking work of the simulated library begin, with the names of `host/src/runtime/executor.rs`: each is a
//! strand. Whether it was a task or a thread makes no difference to what can run between two of its steps.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::Handle;

use super::unfinished::Unfinished;
use crate::simulation::{self, End, Handed, StrandId};

/// Runs a task as a strand, whoever polls it; with that it is dropped.
pub(crate) fn strand<F>(task: F) -> Handed<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    simulation::start("task", task)
}

/// Runs what may block as a strand, and answers it. Dropping the answer does not stop the work.
///
/// # Errors
///
/// It panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    let work = simulation::start_blocking("blocking", work);
    work.ended().await.map_err(unfinished)
}

/// Starts a thread.
///
/// # Errors
///
/// None.
pub(crate) fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<ThreadEnd> {
    Ok(ThreadEnd(simulation::start_blocking(name, run)))
}

/// Blocks the calling thread until `future` is there.
pub(crate) fn wait_on<F: Future>(_runtime: &Handle, future: F) -> F::Output {
    simulation::wait_on(future)
}

/// The end of a thread. The thread goes on when this is dropped.
pub(crate) struct ThreadEnd(Handed<()>);

impl ThreadEnd {
    /// Blocks the calling thread until it has come.
    ///
    /// # Errors
    ///
    /// It panicked, with this.
    pub(crate) fn join(self) -> thread::Result<()> {
        match simulation::wait_on(self.0.ended()) {
            Err(End::Panicked(panic)) => Err(panic),
            Ok(()) | Err(End::Dropped) => Ok(()),
        }
    }
}

/// Whose tasks run apart from all others elsewhere. Dropping it drops them.
#[derive(Debug)]
pub(crate) struct Workers(WorkersHandle);

impl Workers {
    /// Starts none: each task is a strand of its own.
    ///
    /// # Errors
    ///
    /// None.
    pub(crate) fn start(_name: &str, _threads: usize) -> io::Result<Self> {
        Ok(Self(WorkersHandle::default()))
    }

    /// To hand work to them.
    pub(crate) fn handle(&self) -> &WorkersHandle {
        &self.0
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let tasks = self.0.tasks().take();
        if let Some(conductor) = simulation::conductor() {
            let tasks = tasks.into_iter().flatten();
            tasks.for_each(|task| conductor.abandon(task));
        }
    }
}

/// Hands work to [`Workers`], whom it may outlive. Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct WorkersHandle(
    // What was started, also what has ended since; `None` once there are no workers.
    Arc<Mutex<Option<Vec<StrandId>>>>,
);

impl Default for WorkersHandle {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl WorkersHandle {
    /// Starts a task, now, and answers what it ended with. Dropping the answer does not stop the task.
    ///
    /// # Errors
    ///
    /// It panicked, or the workers stop.
    pub(crate) fn spawn<F: Future<Output: Send> + Send + 'static>(
        &self,
        task: F,
    ) -> impl Future<Output = Result<F::Output, Unfinished>> + Send + use<F> {
        self.started(|| strand(task))
    }

    /// The same for what may block.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn).
    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Unfinished>> + Send {
        self.started(|| simulation::start_blocking("blocking", work))
    }

    fn started<T: Send + 'static, S: FnOnce() -> Handed<T>>(
        &self,
        start: S,
    ) -> impl Future<Output = Result<T, Unfinished>> + Send + use<T, S> {
        let task = self.tasks().as_mut().map(|tasks| {
            let task = start().detached();
            tasks.push(task.strand());
            task
        });
        async {
            match task {
                Some(task) => task.ended().await.map_err(unfinished),
                None => Err(Unfinished::Stopped),
            }
        }
    }

    // Never across a suspension.
    fn tasks(&self) -> MutexGuard<'_, Option<Vec<StrandId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unfinished(end: End) -> Unfinished {
    match end {
        End::Panicked(panic) => Unfinished::Panicked(panic),
        End::Dropped => Unfinished::Stopped,
    }
}
