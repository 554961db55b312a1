//! What is durable: the journal of committed groups, the sealed generations of what outlived it, and the
//! manifest that names them. The store numbers groups and finds blocks by position; what the notes of a group
//! and the state of a checkpoint mean is the caller's business. Everything here blocks its thread.
//!
//! Three parts with one owner each: [`JournalWriter`] appends (the committer), [`Checkpoints`] moves blocks
//! into generations and releases the journal (the checkpointer), [`StoreReader`] reads (anybody).

mod accept;
mod checkpoint;
mod database;
mod error;
mod folders;
mod fs;
mod generation;
mod index;
mod journal;
mod manifest;
mod marker;
mod mend;
mod pace;
mod pool;
mod preparer;
mod reader;
mod record;
mod recovery;
mod repair;
mod replay;
mod reserve;
mod scan;
mod sealed;
mod staging;
mod survey;
#[cfg(test)]
pub(crate) mod tests;
mod tree;
mod trouble;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;

pub use checkpoint::Checkpoints;
pub use database::is_panic_expected;
pub use error::{CheckpointError, Loss, LostRange, OpenError, ReadError, WriteError, WriteFailure};
pub use folders::Folders;
pub use fs::{DIRECT_BYTES, File, FileSystem, Hold, RealFileSystem, Unmoved};
pub use index::{BlockMeta, JournalSegment};
pub use journal::JournalWriter;
pub use manifest::GenerationInfo;
pub use reader::{StoreReader, Usage};
pub use record::RECORD_BYTES_MAX;
pub use recovery::Examined;
pub use replay::{Group, Replay, Replayed};
pub use sealed::STATES_KEPT;
pub use trouble::Unreadable;

#[cfg(test)]
pub(crate) use database::failing;

use generation::Generation;
use index::Index;
use pool::Pool;
use reserve::Reserve;

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
            marker: None,
        }
    }
}

/// An open store, in its parts.
pub struct Opened {
    /// Appends groups. One owner.
    pub journal: JournalWriter,
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

// What the three parts share. Whoever needs index and generations takes them in this order and never both at
// once, so that a block that moves from one to the other is always found in one of them.
struct Shared {
    // Does nothing by path while the store is not in place.
    fs: Arc<dyn FileSystem>,
    // With the store's lock.
    folders: Arc<Folders>,
    dir: PathBuf,
    options: StoreOptions,
    index: RwLock<Index>,
    generations: RwLock<Arc<Vec<Arc<Generation>>>>,
    pool: Pool,
    cache: reader::BlockCache,
    troubles: trouble::Troubles,
    reserve: Reserve,
    // Figures of the journal including what readers cannot see yet.
    journal_bytes: AtomicU64,
    journal_blocks: AtomicUsize,
    next_number: AtomicU64,
    // No generation had this number or a higher one before.
    generation_id_min: u64,
}

impl Shared {
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn generations(&self) -> Arc<Vec<Arc<Generation>>> {
        self.generations
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_generations(&self, generations: Vec<Arc<Generation>>) {
        *self
            .generations
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(generations);
    }

    fn journal_bytes(&self) -> u64 {
        self.journal_bytes.load(Ordering::Relaxed)
    }

    fn journal_blocks(&self) -> usize {
        self.journal_blocks.load(Ordering::Relaxed)
    }
}

fn journal_dir(dir: &Path) -> PathBuf {
    dir.join("journal")
}

fn generations_dir(dir: &Path) -> PathBuf {
    dir.join("generations")
}
