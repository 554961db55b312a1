//! What is durable: the journal of committed groups, the sealed generations of what outlived it, and the
//! manifest that names them. The store numbers groups and finds blocks by position; what the notes of a group
//! and the state of a checkpoint mean is the caller's business. Everything here blocks its thread.
//!
//! Three parts with one owner each: [`JournalWriter`] appends (the committer), [`Checkpoints`] moves blocks
//! into generations and releases the journal (the checkpointer), [`StoreReader`] reads (anybody).
//!
//! `journal` and `sealed` are rooms that do not know each other. `recovery` opens both, `reader` reads from both, and
//! `checkpoint` moves blocks from the one to the other; the rest is what both stand on.

mod block;
mod cache;
mod checkpoint;
mod error;
mod folders;
mod fs;
mod journal;
mod layout;
mod little_endian;
mod loss;
mod lost;
mod marker;
mod pace;
mod reader;
mod recovery;
mod reserve;
mod sealed;
#[cfg(test)]
pub(crate) mod tests;
mod trouble;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::runtime::{Clock, MachineThreads, Random, Threads};

pub use checkpoint::Checkpoints;
pub use error::{
    CheckpointError, CheckpointFailure, CheckpointRefusal, Damage, DatabaseError, JournalFailure,
    OpenError, ReadError, SystemFailure, WriteDelay, WriteError, WriteRefusal,
};
pub use folders::Folders;
pub use fs::{DIRECT_BYTES, File, FileSystem, Hold, RealFileSystem, Unmoved, replace};
pub use journal::{
    BlockMeta, JournalSegment, JournalSize, JournalUsage, JournalWriter, RECORD_BYTES_MAX, Replay,
    Replayed, ReplayedGroup,
};
pub use loss::{Loss, LostRange};
pub use reader::{StoreReader, StoreUsage};
pub use recovery::Examined;
pub use sealed::{GenerationInfo, STATES_KEPT, is_panic_expected};
pub use trouble::Unreadable;

#[cfg(test)]
pub(crate) use sealed::failing;

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

/// An open store, in its parts.
pub struct Opened {
    /// Appends groups. One owner.
    pub journal: Box<dyn JournalWriter>,
    /// Reads blocks. Clone it freely.
    pub reader: StoreReader,
    /// Writes generations. One owner.
    pub checkpoints: Checkpoints,
    /// What the newest complete generation kept as state, in the order it was given; empty at a first start.
    pub state: Vec<(Bytes, Bytes)>,
    /// The groups after that state, in order.
    pub replay: Replay,
    /// Whether the journal was closed before and nothing is missing, so that nothing can have been cut off.
    pub clean: bool,
    /// Damage that was accepted at this start.
    pub losses: Vec<Loss>,
}

/// Looks at the store in `dir` and takes its lock, which lasts until the last of what comes of it is dropped. Changes
/// nothing on disk; [`Examined::begin`] does.
///
/// Reads the whole journal once to check it, but for the events after a clean end.
///
/// # Errors
///
/// Somebody else has the store open, something in it is of another version's format, or the disk fails. Damage to
/// committed data is not an error yet: see [`Examined::losses`].
pub fn examine(
    dir: &Path,
    options: StoreOptions,
    fs: Arc<dyn FileSystem>,
) -> Result<Examined, OpenError> {
    recovery::examine(dir, options, fs)
}

/// Opens the store in `dir`, creating it if need be: [`examine`] and [`Examined::begin`] in one.
///
/// A torn end, which a power cut leaves, is cut off; it was never acknowledged.
///
/// # Errors
///
/// Those of both; committed data is damaged and `accept_loss` is not set (nothing is changed on disk then).
pub fn open(
    dir: &Path,
    options: StoreOptions,
    fs: Arc<dyn FileSystem>,
) -> Result<Opened, OpenError> {
    examine(dir, options, fs)?.begin()
}
