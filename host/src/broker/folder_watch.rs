//! The folder watch: a timer that looks whether the store is still where it was opened, so that a folder which an operator renamed, deleted or
//! replaced under the running broker is noticed before anybody relies on it. What follows from it is the committer's and the
//! checkpointer's business, who ask the store; here it is only said.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::commit::inbox::Inbox;
use crate::runtime::spawn::Spawner;
use crate::store::Folders;
use crate::telemetry::conditions::Condition;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until shutdown.
pub(crate) async fn watch(
    folders: Arc<Folders>,
    spawner: Spawner,
    inbox: Arc<Inbox>,
    shutdown: CancellationToken,
) {
    let conditions = spawner.conditions();
    let mut was_lost = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let folders = folders.clone();
        // A file system that does not answer holds up this task and nothing else.
        let looked = spawner.blocking("folder watch", move || folders.look());
        let Ok(lost) = looked.await else {
            continue;
        };
        let is_lost = lost.is_some();
        if let Some(why) = lost {
            conditions.raise(Condition::FolderLost, why);
        } else if was_lost {
            conditions.clear(&Condition::FolderLost);
            // Acks have been waiting.
            inbox.wake();
        }
        was_lost = is_lost;
    }
}
