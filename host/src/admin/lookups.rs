//! Looks at the broker that may take a while or read the disk: on threads that serve nobody else, and only so many at a time, so that
//! whoever asks for much keeps nobody from events. What is looked at is not known here.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error_response::ErrorResponse;
use super::request::away;
use crate::runtime::spawn::Spawner;

/// Looks at the broker that run at a time, and those for metrics beside them. Each has a thread for itself, and there are
/// others who need one to read events.
const LOOKUPS_MAX: usize = 4;
const METRICS_LOOKUPS_MAX: usize = 1;

/// How many look at the broker at the same time.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    lists: Arc<Semaphore>,
    metrics: Arc<Semaphore>,
    spawner: Spawner,
}

impl Lookups {
    pub(super) fn new(spawner: Spawner) -> Self {
        Self {
            lists: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            metrics: Arc::new(Semaphore::new(METRICS_LOOKUPS_MAX)),
            spawner,
        }
    }

    /// Looks at something that may take a while or have to read the disk, away from the threads that serve everybody.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorResponse> {
        self.one_of(&self.lists, look).await
    }

    /// The same for the page of metrics, which waits for other such pages only.
    pub(super) async fn look_for_metrics<T: Send + 'static>(
        &self,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorResponse> {
        self.one_of(&self.metrics, look).await
    }

    // The permit goes with the work, which goes on when its caller goes away.
    async fn one_of<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ErrorResponse> {
        let permit = Arc::clone(permits).acquire_owned().await;
        away(&self.spawner, move || {
            let _permit = permit;
            look()
        })
        .await
    }
}
