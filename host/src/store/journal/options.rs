//! How long the journal and its files may become, and what it takes from the machine.

use std::sync::Arc;

use crate::runtime::{Clock, Random, Threads};

/// How long the journal and its files may become, and what it takes from the machine beside the disk.
#[derive(Clone, Debug)]
pub(in crate::store) struct FileJournalOptions {
    /// A file is preallocated with this, and a new one begun when it is full.
    pub(in crate::store) file_bytes: u64,
    /// The journal is full beyond this.
    pub(in crate::store) publishable_bytes_max: u64,
    /// The journal is full with so many blocks, whatever their size.
    pub(in crate::store) blocks_max: usize,
    pub(in crate::store) clock: Clock,
    pub(in crate::store) random: Random,
    pub(in crate::store) threads: Arc<dyn Threads>,
}
