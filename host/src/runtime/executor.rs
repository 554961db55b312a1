//! The one place from which tasks, threads and blocking work reach the machine, so that all of them could be driven by something else
//! than its threads. Nothing is watched over here and nothing is said: that is whoever starts something, mostly a
//! [`Spawner`](super::Spawner).

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;

use super::unfinished::Unfinished;

/// What is to run as a task of its own: every future passes through here on its way into a set of tasks.
pub(crate) fn strand<F: Future + Send + 'static>(task: F) -> F {
    task
}

/// Runs what may block on a thread for such work, and answers it. Dropping the answer does not stop the work.
///
/// # Errors
///
/// It panicked, or the runtime stops.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    Ok(spawn_blocking(work).await?)
}

/// Starts a thread.
///
/// # Errors
///
/// The system has no thread left; `run` was dropped.
pub(crate) fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<ThreadEnd> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(ThreadEnd)
}

/// Blocks the calling thread, which serves no tasks, until `future` is there. Its timers are those of `runtime`.
pub(crate) fn wait_on<F: Future>(runtime: &Handle, future: F) -> F::Output {
    runtime.block_on(future)
}

/// The end of a thread. The thread goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct ThreadEnd(JoinHandle<()>);

impl ThreadEnd {
    /// Blocks the calling thread until it has come.
    ///
    /// # Errors
    ///
    /// It panicked, with this.
    pub(crate) fn join(self) -> thread::Result<()> {
        self.0.join()
    }
}

/// Threads that run tasks apart from all others. Dropping it stops them without waiting, also from async code; what they have not
/// finished is dropped then.
#[derive(Debug)]
pub(crate) struct Workers {
    // Some until dropped.
    runtime: Option<Runtime>,
    handle: WorkersHandle,
}

impl Workers {
    /// Starts so many of them.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn start(name: &str, threads: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(threads).thread_name(name).build()?;
        Ok(Self {
            handle: WorkersHandle(runtime.handle().clone()),
            runtime: Some(runtime),
        })
    }

    /// To hand work to them.
    pub(crate) fn handle(&self) -> &WorkersHandle {
        &self.handle
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Hands work to [`Workers`], whom it may outlive. Clones are one.
#[derive(Clone, Debug)]
pub(crate) struct WorkersHandle(Handle);

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
        let task = self.0.spawn(strand(task));
        async { Ok(task.await?) }
    }

    /// The same for what may block, on a thread for such work.
    ///
    /// # Errors
    ///
    /// As for [`spawn`](Self::spawn).
    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Unfinished>> + Send {
        let work = self.0.spawn_blocking(work);
        async { Ok(work.await?) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_waits_for_a_thread_is_told_of_its_panic() {
        let sound = thread("sound", || {}).expect("a thread");
        sound.join().expect("no panic");
        let panics = thread("panics", || panic!("a fault")).expect("a thread");
        let panic = panics.join().expect_err("it panicked");
        assert_eq!(panic.downcast_ref(), Some(&"a fault"));
    }

    #[tokio::test]
    async fn blocking_work_tells_a_panic() {
        assert_eq!(blocking(|| 7).await.expect("done"), 7);
        let panicked = blocking(|| -> u32 { panic!("a fault") }).await;
        let why = panicked.expect_err("it panicked");
        assert!(matches!(why, Unfinished::Panicked(_)));
        assert_eq!(why.to_string(), "it panicked: a fault");
    }

    #[test]
    fn blocking_work_that_comes_after_the_end_is_no_panic() {
        let stopped = Builder::new_current_thread().build().expect("a runtime");
        let handle = stopped.handle().clone();
        stopped.shutdown_background();
        let _inside = handle.enter();
        let why = blocking(|| 7).now_or_never().expect("an answer at once");
        let why = why.expect_err("it was dropped");
        assert!(matches!(why, Unfinished::Stopped), "{why}");
    }

    #[tokio::test]
    async fn workers_finish_what_nobody_waits_for_and_tell_a_panic_from_their_end() {
        let workers = Workers::start("worker", 1).expect("threads");
        let (handle, (done, is_done)) = (workers.handle().clone(), mpsc::channel());
        drop(handle.spawn(async move { done.send(7) }));
        assert_eq!(handle.spawn(async { 8 }).await.expect("done"), 8);
        assert_eq!(is_done.try_recv(), Ok(7), "there is one thread");
        let panicked = handle.spawn(async { panic!("a fault") }).await;
        let why: Unfinished = panicked.map(|()| 0).expect_err("it panicked");
        assert!(matches!(why, Unfinished::Panicked(_)));
        let name = || thread::current().name().map(str::to_owned);
        let name = handle.blocking(name).await.expect("done");
        assert_eq!(name.as_deref(), Some("worker"));
        let unending = handle.spawn(std::future::pending::<()>());
        drop(workers);
        let why = unending.await.expect_err("they stop");
        assert!(matches!(why, Unfinished::Stopped), "{why}");
        let late = handle.spawn(async {}).await.expect_err("they have stopped");
        assert!(matches!(late, Unfinished::Stopped), "{late}");
    }
}
