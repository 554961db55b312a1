//! Why a broker does not start.

use crate::broker::checkpoint::recovery::RecoveryError;
use crate::store::{CheckpointError, OpenError, WriteError};

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(OpenError),
    /// What is damaged in generations cannot be given up.
    #[error("cannot give up what is damaged in generations")]
    GiveUp(#[source] CheckpointError),
    /// What is on disk cannot be made a state of.
    #[error("recovery failed")]
    Recovery(#[source] RecoveryError),
    /// The numbers that are skipped after an unclean end cannot be written down.
    #[error("the journal cannot be written")]
    Reserve(#[source] WriteError),
    /// A plugin's file cannot be read or written.
    #[error("the plugin directory cannot be used")]
    PluginFiles(#[source] std::io::Error),
    /// The runtime ends.
    #[error("opening the store was interrupted")]
    Interrupted,
    /// A fault of the broker's own while the store was opened.
    #[error("opening the store failed by a fault of the broker's own: {0}")]
    Fault(String),
    /// A thread cannot be started.
    #[error("a thread cannot be started")]
    Thread(#[source] std::io::Error),
    /// A plugin that comes with the binary does not load.
    #[error("the bundled plugin `{name}` does not load: {why}")]
    Bundled {
        /// Its name.
        name: &'static str,
        /// Why.
        why: String,
    },
}
