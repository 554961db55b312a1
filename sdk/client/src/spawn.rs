//! The one place where this client starts tasks: its supervisor, one for each connection that this keeps or closes beside the one there is,
//! and a driver for each publisher and consumer. They run where the caller's runtime runs them, or where the options say, and take the time
//! from its clock.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who runs the tasks. Clones are one.
#[derive(Clone, Default)]
pub(crate) struct Spawner(Option<Arc<dyn Fn(Task) + Send + Sync>>);

impl Spawner {
    /// Hands every task to `spawn`.
    pub(crate) fn by(spawn: impl Fn(Task) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(spawn)))
    }

    /// Starts `task`. It ends by itself, when whoever uses it is gone.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.0 {
            Some(spawn) => spawn(Box::pin(task)),
            None => drop(tokio::spawn(task)),
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match &self.0 {
            Some(_) => "Spawner(the program's)",
            None => "Spawner(the runtime's)",
        };
        formatter.write_str(who)
    }
}
