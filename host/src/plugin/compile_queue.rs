//! The queue of compilations: one component at a time, watched by a thread that everybody else goes before, and no longer than
//! somebody waits for it. Whoever gives up, or runs out of time, has it stopped; the next begins once it is gone.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::Span;

use super::checked_component::CheckedComponent;
use super::compiler::Stop;
use super::error::LoadError;
use super::limits::CompileLimits;
use super::shared::Shared;
use crate::domain::Digest;
use crate::locks::lock;
use crate::runtime::{executor, thread_priority};

/// What is held as long as a compilation runs.
pub(super) type HeldMeanwhile = Box<dyn Any + Send>;

/// Has components compiled, one after the other.
pub(super) struct CompileQueue {
    // Compiling uses every core by itself, and as much memory as one may take.
    turn: Arc<Semaphore>,
    // What is being compiled, if anything is.
    running: Mutex<Weak<Stop>>,
}

impl CompileQueue {
    pub(super) fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            running: Mutex::default(),
        }
    }

    /// Stops what is being compiled, and lets nothing begin any more. Whoever waits is told.
    pub(super) fn stop(&self) {
        self.turn.close();
        let running = lock(&self.running).upgrade();
        if let Some(running) = running {
            running.stop();
        }
    }

    /// Compiles and checks the component `bytes`, unless `known` says that this was done while it waited for its turn, and keeps
    /// the compiled form on disk. Waits for its turn for as long as it may take then. What the log says of it, it says in the span
    /// of the caller.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, compiling is stopped.
    pub(super) async fn compile(
        &self,
        shared: &Arc<Shared>,
        digest: Digest,
        bytes: Bytes,
        limits: CompileLimits,
        held: HeldMeanwhile,
        known: impl FnOnce() -> Option<Arc<CheckedComponent>>,
    ) -> Result<Arc<CheckedComponent>, LoadError> {
        let turn = Arc::clone(&self.turn).acquire_owned();
        let turn = tokio::time::timeout(limits.time, turn).await;
        let turn = turn.map_err(|_| LoadError::Busy)?;
        let turn = turn.map_err(|_| LoadError::Stopped)?;
        if let Some(known) = known() {
            return Ok(known);
        }
        let (done, compiled) = oneshot::channel();
        let waiting = StopOnDrop::default();
        *lock(&self.running) = Arc::downgrade(&waiting.0);
        // Whoever stops all of them has seen this one, or is seen here.
        if self.turn.is_closed() {
            return Err(LoadError::Stopped);
        }
        let work = Compilation {
            shared: Arc::clone(shared),
            digest,
            bytes,
            limits,
            stop: Arc::clone(&waiting.0),
            done,
            span: Span::current(),
            _held: (held, turn),
        };
        let run = move || work.span.clone().in_scope(|| work.run());
        executor::thread("compile", run).map_err(LoadError::not_started)?;
        match tokio::time::timeout(limits.time, compiled).await {
            Ok(Ok(compiled)) => compiled,
            // It panicked, and the log says so.
            Ok(Err(_)) => Err(LoadError::CompilerFailed),
            Err(_) => Err(LoadError::CompileTimeout(limits.time)),
        }
    }
}

#[derive(Default)]
struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Compilation {
    shared: Arc<Shared>,
    digest: Digest,
    bytes: Bytes,
    limits: CompileLimits,
    stop: Arc<Stop>,
    done: oneshot::Sender<Result<Arc<CheckedComponent>, LoadError>>,
    span: Span,
    _held: (HeldMeanwhile, OwnedSemaphorePermit),
}

impl Compilation {
    fn run(self) {
        thread_priority::give_way_to_all();
        let compiled = catch_unwind(AssertUnwindSafe(|| {
            let Self { shared, digest, .. } = &self;
            CheckedComponent::load(shared, *digest, &self.bytes, self.limits, &self.stop)
        }));
        match compiled {
            // Whoever waits no longer does without.
            Ok(compiled) => drop(self.done.send(compiled.map(Arc::new))),
            Err(_) => tracing::error!("compiling a plugin panicked"),
        }
    }
}
