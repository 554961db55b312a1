//! Starting what runs beside its caller, so that nothing ends unseen: an end that nobody asked for is an error in the log, a condition
//! in `/readyz`, and a word to those who wait. Who starts something without this looks at its end by itself: the plugin service, the
//! helpers of the store, what writes the log. What a task does, and how it is told to stop, is its own business.

use std::any::Any;
use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::executor::{self, ThreadEnd, strand};
use super::unfinished::{Unfinished, panicked};
use crate::telemetry::conditions::{Condition, Conditions};

/// What a task is called, in the log and in `/readyz`.
pub type TaskName = Cow<'static, str>;

const RESTART: &str = "restart the broker";
const RESUME: &str = "what it served is paused, resume it to try again";

/// Starts tasks and threads, and sees how they end. Clones are one.
#[derive(Clone, Debug)]
pub struct Spawner {
    conditions: Conditions,
    // Once it is cancelled, tasks may end.
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Spawner {
    /// What is started may end once `shutdown` is cancelled.
    #[must_use]
    pub fn new(conditions: Conditions, shutdown: CancellationToken) -> Self {
        Self {
            conditions,
            shutdown,
            tasks: TaskTracker::new(),
        }
    }

    /// One for a part of the broker that ends, and is waited for, by itself.
    #[must_use]
    pub fn apart(&self, shutdown: CancellationToken) -> Self {
        Self::new(self.conditions.clone(), shutdown)
    }

    /// Starts a task that runs until the shutdown. Any other end makes the broker unready until a restart.
    pub fn lasting(
        &self,
        name: impl Into<TaskName>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let (this, name) = (self.clone(), name.into());
        self.start(Box::pin(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if let Some(why) = this.unasked_end(ended) {
                this.died(name, &why, RESTART);
            }
        }));
    }

    /// Starts a task that may end when it is done. A panic makes the broker unready until a restart, and `died` is told why,
    /// so that it can answer those who wait for the task.
    pub fn passing(
        &self,
        name: impl Into<TaskName>,
        task: impl Future<Output = ()> + Send + 'static,
        died: impl FnOnce(&str) + Send + 'static,
    ) {
        self.pass(name.into(), RESTART, task, died);
    }

    /// Like [`passing`](Self::passing), for a task whose `died` pauses what it serves, and that is started anew when somebody
    /// resumes that. The broker is ready again from then on: this forgets the death of an earlier one of the name.
    pub fn resumable(
        &self,
        name: impl Into<TaskName>,
        task: impl Future<Output = ()> + Send + 'static,
        died: impl FnOnce(&str) + Send + 'static,
    ) {
        let name = name.into();
        self.conditions.clear(&Condition::TaskDied(name.clone()));
        self.pass(name, RESUME, task, died);
    }

    fn pass(
        &self,
        name: TaskName,
        remedy: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        died: impl FnOnce(&str) + Send + 'static,
    ) {
        let this = self.clone();
        self.start(Box::pin(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                let why = panicked(&*panic);
                // Before anybody is told, who may start it anew.
                this.died(name, &why, remedy);
                died(&why);
            }
        }));
    }

    /// Starts a task that serves one connection, request or call, and answers what it ended with; `None` after a panic, which
    /// concerns nobody else, so it is only counted. Dropping the answer does not stop the task.
    pub fn serving<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = Option<T>> + Send + use<T, F> {
        let conditions = self.conditions.clone();
        let (answer, answered) = oneshot::channel();
        self.start(Box::pin(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                // Who asked may have gone.
                Ok(ended) => drop(answer.send(ended)),
                Err(panic) => panicked_serving(&conditions, name, &panicked(&*panic)),
            }
        }));
        async { answered.await.ok() }
    }

    /// Runs what may block on a thread for such work, and answers it. A panic concerns nobody else, so it is only counted, and is the
    /// error. Dropping the answer does not stop the work.
    ///
    /// # Errors
    ///
    /// It panicked, or the runtime ends.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        executor::blocking(work).await.map_err(|unfinished| {
            let why = unfinished.to_string();
            if let Unfinished::Panicked(_) = unfinished {
                panicked_serving(&self.conditions, name, &why);
            }
            why
        })
    }

    /// Starts a thread that runs until the shutdown. Any other end makes the broker unready until a restart.
    ///
    /// # Errors
    ///
    /// The system has no thread left.
    pub(crate) fn thread(
        &self,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<ThreadEnd> {
        let this = self.clone();
        executor::thread(name, move || {
            let ended = catch_unwind(AssertUnwindSafe(run));
            if let Some(why) = this.unasked_end(ended) {
                this.died(name.into(), &why, RESTART);
            }
        })
    }

    /// Where what is wrong is said.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Tasks that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tasks.len()
    }

    /// Completes when everything that was started as a task has ended, and nothing more is expected to be. Cancel-safe.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    // Boxed, since the runtime's hundred functions that handle a task are compiled for each type of one.
    fn start(&self, task: BoxFuture<'static, ()>) {
        self.tasks.spawn(strand(task));
    }

    fn unasked_end(&self, ended: Result<(), Box<dyn Any + Send>>) -> Option<String> {
        match ended {
            Err(panic) => Some(panicked(&*panic)),
            Ok(()) if self.shutdown.is_cancelled() => None,
            Ok(()) => Some("it ended although nobody had asked it to".to_owned()),
        }
    }

    fn died(&self, name: TaskName, why: &str, remedy: &str) {
        let why = format!("{why}; {remedy}");
        self.conditions.raise(Condition::TaskDied(name), why);
    }
}

/// Says that something which serves one connection, request or call panicked. That is over with it, so it is counted and no condition.
pub fn panicked_serving(conditions: &Conditions, name: &'static str, why: &str) {
    tracing::error!(
        task = name,
        reason = why,
        "a task ended by a fault of its own; nothing else was touched"
    );
    conditions.count_panic(name.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawner() -> (Spawner, CancellationToken) {
        let shutdown = CancellationToken::new();
        (
            Spawner::new(Conditions::default(), shutdown.clone()),
            shutdown,
        )
    }

    fn kinds(spawner: &Spawner) -> Vec<(&'static str, String)> {
        let all = spawner.conditions().all();
        all.iter()
            .map(|raised| {
                let subject = raised.condition.subject().unwrap_or_default();
                (raised.condition.kind(), subject.to_owned())
            })
            .collect()
    }

    #[tokio::test]
    async fn an_end_that_nobody_asked_for_makes_the_broker_unready() {
        let (spawner, _) = spawner();
        spawner.lasting("panics", async { panic!("a fault") });
        spawner.lasting("returns", async {});
        spawner.ended().await;
        let died = |name: &str| ("task_died", name.to_owned());
        assert_eq!(kinds(&spawner), [died("panics"), died("returns")]);
        assert!(!spawner.conditions().is_ready());
        let why = spawner
            .conditions()
            .reason(&Condition::TaskDied("panics".into()));
        assert!(why.is_some_and(|why| why.contains("a fault")));
    }

    #[tokio::test]
    async fn an_end_at_the_shutdown_is_none() {
        let (spawner, shutdown) = spawner();
        let until = shutdown.clone();
        spawner.lasting("task", async move { until.cancelled().await });
        let (until, runtime) = (shutdown.clone(), tokio::runtime::Handle::current());
        let thread = spawner
            .thread("thread", move || runtime.block_on(until.cancelled()))
            .expect("a thread");
        assert!(spawner.conditions().is_ready());
        shutdown.cancel();
        spawner.ended().await;
        tokio::task::spawn_blocking(|| thread.join())
            .await
            .expect("joined")
            .expect("no panic");
        assert_eq!(kinds(&spawner), []);
    }

    #[tokio::test]
    async fn a_thread_that_panics_is_seen() {
        let (spawner, _) = spawner();
        let thread = spawner.thread("thread", || panic!("a fault"));
        thread.expect("a thread").join().expect("caught");
        assert_eq!(kinds(&spawner), [("task_died", "thread".to_owned())]);
    }

    #[tokio::test]
    async fn who_waits_for_a_task_is_told_of_its_death_and_its_end_is_fine() {
        let (spawner, _) = spawner();
        let (told, hears) = tokio::sync::oneshot::channel();
        spawner.passing("ends", async {}, |_| panic!("it did not die"));
        spawner.passing("panics", async { panic!("a fault") }, |why| {
            let _ = told.send(why.to_owned());
        });
        assert!(hears.await.expect("told").contains("a fault"));
        assert_eq!(kinds(&spawner), [("task_died", "panics".to_owned())]);
    }

    #[tokio::test]
    async fn what_is_started_anew_is_dead_no_more() {
        let (spawner, _) = spawner();
        spawner.resumable("lane", async { panic!("a fault") }, |_| {});
        spawner.resumable("another", async { panic!("a fault") }, |_| {});
        spawner.ended().await;
        let lane = Condition::TaskDied("lane".into());
        let why = spawner.conditions().reason(&lane);
        assert!(why.is_some_and(|why| why.contains("resume")));
        spawner.resumable("lane", async {}, |_| panic!("it did not die"));
        assert_eq!(kinds(&spawner), [("task_died", "another".to_owned())]);
        spawner.resumable("another", async {}, |_| panic!("it did not die"));
        assert!(spawner.conditions().is_ready());
        spawner.ended().await;
    }

    #[tokio::test]
    async fn what_serves_one_caller_is_counted_and_over() {
        let (spawner, _) = spawner();
        assert_eq!(spawner.serving("call", async { 7 }).await, Some(7));
        let panicking = spawner.serving("call", async { panic!("a fault") });
        assert_eq!(panicking.await, None::<()>);
        assert_eq!(kinds(&spawner), []);
        let panics = vec![crate::telemetry::conditions::panics(spawner.conditions())];
        let text = crate::telemetry::metrics_registry::Metrics::default().page(panics);
        let line = "tidegate_task_panics_total{task=\"call\"} 1\n";
        assert!(text.contains(line), "{text}");
    }
}
