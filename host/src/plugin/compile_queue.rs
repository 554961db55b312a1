//! The queue of compilations: one component at a time, on a thread of its own that everybody else goes before, and no longer than somebody waits
//! for it. A compilation cannot be stopped, so one that takes longer goes on; what it was given to hold is held until then, and
//! its result is kept, of the last one only, for whoever uploads the same bytes again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tracing::Span;

use super::checked_component::{CheckedComponent, Shared};
use super::error::LoadError;
use crate::domain::Digest;
use crate::locks::lock;

/// How far a compilation steps back when cores are short: about a tenth of the share of everybody else. The threads that it
/// shares its work with are started by it, and inherit that.
const NICE: i32 = 10;

/// What is held as long as a compilation runs, however long that is.
pub(super) type HeldMeanwhile = Box<dyn Any + Send>;

/// Compiles components, one after the other.
pub(super) struct CompileQueue {
    // Compiling uses every core by itself.
    turn: Semaphore,
    late: Arc<Mutex<Option<Arc<CheckedComponent>>>>,
}

impl CompileQueue {
    pub(super) fn new() -> Self {
        Self {
            turn: Semaphore::new(1),
            late: Arc::default(),
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
    /// Dropped before completion, compiling goes on, see above.
    pub(super) async fn compile(
        &self,
        shared: &Arc<Shared>,
        digest: Digest,
        bytes: Bytes,
        limit: Duration,
        held: HeldMeanwhile,
        known: impl FnOnce() -> Option<Arc<CheckedComponent>>,
    ) -> Result<Arc<CheckedComponent>, LoadError> {
        let turn = tokio::time::timeout(limit, self.turn.acquire());
        let turn = turn.await.map_err(|_| LoadError::Busy)?;
        let _turn = turn.map_err(|_| LoadError::Stopped)?;
        if let Some(known) = known() {
            return Ok(known);
        }
        let late = lock(&self.late).take_if(|late| late.digest == digest);
        let (done, compiled) = oneshot::channel();
        let work = Compilation {
            shared: Arc::clone(shared),
            digest,
            bytes,
            late,
            kept: Arc::clone(&self.late),
            done,
            span: Span::current(),
            _held: held,
        };
        let thread = std::thread::Builder::new().name("compile".into());
        thread
            .spawn(move || work.span.clone().in_scope(|| work.run()))
            .map_err(|error| LoadError::Thread(Arc::new(error)))?;
        match tokio::time::timeout(limit, compiled).await {
            Ok(Ok(compiled)) => compiled,
            // It panicked, and the log says so.
            Ok(Err(_)) => Err(LoadError::Panicked),
            Err(_) => Err(LoadError::CompileTimeout(limit)),
        }
    }
}

struct Compilation {
    shared: Arc<Shared>,
    digest: Digest,
    bytes: Bytes,
    late: Option<Arc<CheckedComponent>>,
    kept: Arc<Mutex<Option<Arc<CheckedComponent>>>>,
    done: oneshot::Sender<Result<Arc<CheckedComponent>, LoadError>>,
    span: Span,
    _held: HeldMeanwhile,
}

impl Compilation {
    fn run(self) {
        // On Linux this is about the calling thread alone. Refused, it costs speed of others and nothing else.
        let _ = rustix::process::setpriority_process(None, NICE);
        let done = self.done;
        let compiled = catch_unwind(AssertUnwindSafe(|| match self.late {
            Some(late) => Ok(late),
            None => CheckedComponent::compile(&self.shared, self.digest, &self.bytes).map(Arc::new),
        }));
        let Ok(compiled) = compiled else {
            tracing::error!("compiling a plugin panicked");
            return;
        };
        if let Ok(loaded) = &compiled
            && !done.is_closed()
        {
            loaded.keep_compiled();
        }
        if let Err(Ok(late)) = done.send(compiled) {
            tracing::info!(
                "a plugin is compiled that nobody waits for any more; uploading it again takes it"
            );
            *lock(&self.kept) = Some(late);
        }
    }
}
