//! What is durable: the journal of committed groups, the sealed generations of what outlived it, and the
//! manifest that names them. The store numbers groups and finds blocks by position; what the notes of a group
//! and the state of a checkpoint mean is the caller's business. Everything here blocks its thread.
//!
//! Three parts with one owner each: [`JournalWriter`] appends (the committer), [`Checkpoints`] moves blocks
//! into generations and releases the journal (the checkpointer), [`StoreReader`] reads (anybody).
//!
//! `journal` and `sealed` are rooms that do not know each other. `startup` opens both, `reader` reads from both, and
//! `checkpoint` moves blocks from the one to the other; the rest is what both stand on.

mod block_cache;
mod block_format;
mod checkpoint;
mod checkpoint_pace;
mod disk_reserve;
mod error;
mod existence_marker;
mod file_names;
mod folders;
mod journal;
mod little_endian;
mod loss;
mod lost_folder;
mod options;
mod reader;
mod sealed;
mod startup;
#[cfg(test)]
pub(crate) mod tests;
mod unreadable_events;

pub use checkpoint::Checkpoints;
pub use error::{
    CheckpointError, CheckpointFailure, CheckpointRefusal, Damage, DatabaseError, JournalFailure,
    OpenError, ReadError, SystemFailure, WriteDelay, WriteError, WriteRefusal,
};
pub use folders::Folders;
pub use journal::{
    BlockMeta, JournalSegment, JournalSize, JournalUsage, JournalWriter, RECORD_BYTES_MAX, Replay,
    Replayed, ReplayedGroup,
};
pub use loss::{Loss, LostRange};
pub use options::StoreOptions;
pub use reader::{StoreReader, StoreUsage};
pub use sealed::{GenerationInfo, STATES_KEPT, is_panic_expected};
pub use startup::{Examined, Opened, examine, open};
pub use unreadable_events::Unreadable;

#[cfg(test)]
pub(crate) use sealed::failing;
