//! The options of a store: how large it may become, and what it takes from the machine beside its disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::{Clock, MachineThreads, Random, Threads};

/// How large the store may become. Plain numbers; the configuration has the words about them.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// A journal file is preallocated with this and a new one begun when it is full. Default 64 MiB.
    pub journal_file_bytes: u64,
    /// The journal is full beyond this. Default 4 GiB.
    pub journal_bytes_max: u64,
    /// Of which publishes may not use this last part, so that acks and checkpoint marks always find room.
    /// Default 64 MiB.
    pub journal_reserve_bytes: u64,
    /// The journal is full beyond this number of blocks, whatever their size: each costs 64 bytes of memory.
    /// Default 1,048,576.
    pub journal_blocks_max: usize,
    /// sled databases open at a time, at least 2. Reading one may bring all of it into memory, so they cost
    /// up to this many times `generation_part_bytes`, twice. Default 2.
    pub generations_open_max: usize,
    /// A generation is split into sled databases of about this size. Default 16 MiB.
    pub generation_part_bytes: u64,
    /// Memory for blocks that were read from disk. Default 32 MiB.
    pub cache_bytes: u64,
    /// Start although committed data is damaged, and go on without it.
    pub accept_loss: bool,
    /// What could not be read is not tried again for this long, twice as long each time up to a minute. Default 1 s.
    pub unreadable_retry_min: Duration,
    /// What time it is.
    pub clock: Clock,
    /// Where salts come from.
    pub random: Random,
    /// Threads that look at the journal at a start and prepare its files. Without any, both take longer.
    pub threads: Arc<dyn Threads>,
    /// A file outside the store's folder that says that there is a store. With one, a store that is gone is told from one that
    /// never was.
    pub marker: Option<PathBuf>,
}

impl StoreOptions {
    /// Journal bytes beyond which publishes wait.
    #[must_use]
    pub fn publishable_bytes_max(&self) -> u64 {
        self.journal_bytes_max
            .saturating_sub(self.journal_reserve_bytes)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            journal_file_bytes: 64 * MIB,
            journal_bytes_max: 4096 * MIB,
            journal_reserve_bytes: 64 * MIB,
            journal_blocks_max: 1_048_576,
            generations_open_max: 2,
            generation_part_bytes: 16 * MIB,
            cache_bytes: 32 * MIB,
            accept_loss: false,
            unreadable_retry_min: Duration::from_secs(1),
            clock: Clock::start(),
            random: Random::of_system(),
            threads: Arc::new(MachineThreads),
            marker: None,
        }
    }
}
