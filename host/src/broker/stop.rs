//! The end of a broker, in steps that whoever runs one takes in turn: no publishes are taken any more, those that were are written or
//! refused, and then everything that its start has begun ends, the journal last. When to stop, and what else ends meanwhile, is
//! decided in `app`.

use std::time::Duration;

use super::handle::Broker;
use crate::locks;

/// How long publishes that were taken may wait for the disk once the broker stops: it mostly needs milliseconds.
const LATE_PUBLISHES: Duration = Duration::from_secs(1);

/// How long tasks may take to end before the journal is closed without them.
const TASKS_GRACE: Duration = Duration::from_secs(5);

impl Broker {
    /// Takes no publishes from now on, and compiles no plugin. The first step of a stop, while clients are still there to be told.
    pub fn close_publishes(&self) {
        self.0.inbox.close_publishes();
        self.0.plugins.loaded.stop_compiling();
    }

    /// Refuses the publishes that are not written within a second from now, once none are taken any more. Cancel-safe.
    pub async fn refuse_late_publishes(&self) {
        tokio::time::sleep(LATE_PUBLISHES).await;
        self.0.inbox.refuse_late_publishes();
    }

    /// Stops: publishes are refused, consumers, routes and lanes end, and what they said is written before the
    /// journal is closed; who does not end in time says it in vain. The caller bounds the time.
    pub async fn shutdown(&self) {
        let inner = self.0.clone();
        inner.inbox.close_publishes();
        inner.shutdown.cancel();
        if tokio::time::timeout(TASKS_GRACE, inner.spawner.ended())
            .await
            .is_err()
        {
            tracing::warn!(
                tasks = inner.spawner.running(),
                "tasks do not end; the journal is closed without what they may still say"
            );
        }
        inner.inbox.close();
        let threads = std::mem::take(&mut *locks::lock(&inner.threads));
        let joined = inner.spawner.blocking("shutdown", move || {
            for thread in threads {
                // A panic was caught and told of in it.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        inner.spawner.ended().await;
    }
}
