//! A set of tasks with one owner, each of which serves a part of what its owner does. The owner hears how they end, and dropping the
//! set ends them all. A panic in one ends that one only; it is counted, like that of any task that serves somebody.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;

use super::executor::strand;
use super::spawn::{Spawner, panicked_serving};
use super::unfinished::panicked;
use crate::telemetry::conditions::Conditions;

/// The tasks.
#[derive(Debug)]
pub(crate) struct TaskSet<T> {
    name: &'static str,
    conditions: Conditions,
    tasks: JoinSet<Option<T>>,
}

impl<T: Send + 'static> TaskSet<T> {
    /// A set for tasks called `name`. What becomes of them is said where `spawner` says it.
    pub(crate) fn new(spawner: &Spawner, name: &'static str) -> Self {
        Self {
            name,
            conditions: spawner.conditions().clone(),
            tasks: JoinSet::new(),
        }
    }

    /// Starts a task.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = T> + Send + 'static) {
        let (conditions, name) = (self.conditions.clone(), self.name);
        let task = async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            ended
                .map_err(|panic| panicked_serving(&conditions, name, &panicked(&*panic)))
                .ok()
        };
        self.tasks.spawn(strand(task.boxed()));
    }

    /// Tasks that run, or whose end was not heard of yet.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the end of one of them, and says what it ended with: nothing when it panicked. `None` at once when there are none.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: no end is missed.
    pub(crate) async fn next(&mut self) -> Option<Option<T>> {
        // Nobody else ends them before this is gone.
        Some(self.tasks.join_next().await?.ok().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;

    fn set<T: Send + 'static>() -> (TaskSet<T>, Conditions) {
        let conditions = Conditions::default();
        let spawner = Spawner::new(conditions.clone(), CancellationToken::new());
        (TaskSet::new(&spawner, "part"), conditions)
    }

    #[tokio::test]
    async fn the_owner_hears_of_every_end_and_of_a_panic_as_nothing() {
        let (mut set, conditions) = set();
        assert_eq!(set.next().await, None);
        set.spawn(async { 7 });
        set.spawn(async { panic!("a fault") });
        assert_eq!(set.len(), 2);
        let mut ends = [set.next().await, set.next().await];
        ends.sort();
        assert_eq!(ends, [Some(None), Some(Some(7))]);
        assert!(set.is_empty());
        assert!(conditions.is_ready(), "it concerns nobody else");
        let panics = vec![crate::telemetry::conditions::panics(&conditions)];
        let text = crate::telemetry::metrics_registry::Metrics::default().page(panics);
        let line = "tidegate_task_panics_total{task=\"part\"} 1\n";
        assert!(text.contains(line), "{text}");
    }

    #[tokio::test]
    async fn dropping_the_set_ends_its_tasks() {
        let (mut set, _) = set();
        let held = Arc::new(());
        let theirs = held.clone();
        set.spawn(async move {
            std::future::pending::<()>().await;
            drop(theirs);
        });
        tokio::task::yield_now().await;
        drop(set);
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
