//! The errors of the store, one type per operation, each in the shape of what whoever asked for it can do now.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fs::is_full;
use super::loss::Loss;
use crate::domain::{CommitNumber, Position};

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its lock is held.
    #[error("another broker is running on {}; stop it first, or choose another data directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Committed data is damaged. Nothing was changed.
    #[error(
        "committed data is damaged: {}; restore the data directory from a copy, or start with the loss accepted to \
         go on without it (what is damaged is kept in the folder `lost` of the store)",
        list(losses)
    )]
    Corrupt {
        /// What is gone.
        losses: Vec<Loss>,
    },
    /// Something is of a format that this version does not know. Nothing was changed.
    #[error(
        "{} is of another format ({found}), so another version of Tidegate wrote it; start that one. Nothing was changed",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What it says that is not known.
        found: String,
    },
    /// The system does not let a database or a file be read. That is no damage: what was not read may be sound.
    #[error(
        "cannot read {}; this is a failure of the system and not damage to data, so nothing was given up: start again \
         once it is over",
        path.display()
    )]
    Read {
        /// Its file or folder.
        path: PathBuf,
        /// What was said.
        #[source]
        source: ReadError,
    },
    /// The operating system reports a failure. That is no damage: what was not read may be sound.
    #[error(
        "cannot {doing} {}; this is a failure of the system and not damage to data, so nothing was given up: start again \
         once it is over",
        path.display()
    )]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The failure.
        #[source]
        source: io::Error,
    },
}

/// Why a group was not appended or made durable: what whoever wanted it can do, with the cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// Nothing: it can never be written. Nothing of it is there, and the journal stays usable.
    #[error(transparent)]
    Refused(#[from] WriteRefusal),
    /// Try the same again later. Nothing of it is there, and the journal stays usable.
    #[error(transparent)]
    Retry(#[from] WriteDelay),
    /// Start anew: nothing more is written until then. What was not synced may be there or not.
    #[error(transparent)]
    Final(#[from] JournalFailure),
}

/// Why a group can never be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefusal {
    /// It is longer than a group may be.
    #[error("a group may have at most {bytes_max} bytes")]
    TooLong {
        /// Of the largest one.
        bytes_max: u64,
    },
    /// A block does not lie after the one before it, or has no events.
    #[error("block at position {0} does not lie after what was appended before")]
    Order(Position),
}

/// Why nothing can be written for now: there is no room, or no file descriptor, for a journal file or what is to be written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the journal file {} cannot be written for now", path.display())]
pub struct WriteDelay {
    /// The journal file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: Arc<io::Error>,
}

/// Why nothing more is written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalFailure {
    /// The disk failed now.
    #[error("writing {} failed", path.display())]
    Now {
        /// The journal file.
        path: PathBuf,
        /// The failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk failed earlier. What it holds beyond the last good sync is not known, so nothing is written
    /// any more; restart the broker once the disk is in order.
    #[error("writing {} failed earlier, so nothing more is written until a restart", path.display())]
    Earlier {
        /// The journal file.
        path: PathBuf,
        /// The first failure.
        #[source]
        source: Arc<io::Error>,
    },
}

impl WriteDelay {
    /// Whether there was no room for it on the disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Why a block or group cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system reports a failed read.
    #[error("reading {} failed", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// What was read is not what was written.
    #[error("{what} in {} is damaged", path.display())]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// Which part of it.
        what: String,
    },
    /// A block of the journal is not what was written.
    #[error("the block at byte {offset} of {} is damaged; a start that accepts the loss gives up its events and names them", path.display())]
    DamagedBlock {
        /// The journal file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// Events of these positions cannot be read, as was found before.
    #[error(
        "positions {first} to {last} in {} cannot be read; if it is damage, it can be given up",
        path.display()
    )]
    Unreadable {
        /// The file or database.
        path: PathBuf,
        /// The first one.
        first: Position,
        /// The last one.
        last: Position,
        /// What was said.
        #[source]
        source: Arc<ReadError>,
    },
    /// A database of a generation cannot be opened or read.
    #[error("the database {} does not answer", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: Arc<DatabaseError>,
    },
}

/// What a database says when it fails.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The operating system failed under it.
    #[error("IO error: {0}")]
    Io(io::Error),
    /// It is not as it should be.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

/// Why a generation was not written or deleted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The mark lies beyond the journal or before the previous one.
    #[error("a mark at {mark} is not between the last one, {last}, and the next group, {next}")]
    Mark {
        /// The mark that was given.
        mark: CommitNumber,
        /// The newest generation's.
        last: CommitNumber,
        /// Number of the next group.
        next: CommitNumber,
    },
    /// Blocks must come in rising order of position.
    #[error("the block at position {0} does not lie after the one before it")]
    Order(Position),
    /// A block or the state has a part of more than 4 GiB.
    #[error("a value is too long")]
    TooLong,
    /// A block that should move cannot be read.
    #[error("cannot read what should move into the generation")]
    Read(#[from] ReadError),
    /// The generation did not read back as it was written. It was removed; the journal is untouched.
    #[error("the new generation did not read back as written")]
    Verify(#[source] ReadError),
    /// A database failed. The generation was removed; the journal is untouched.
    #[error("writing the generation failed")]
    Database(#[source] DatabaseError),
    /// The disk failed before the generation was complete. It was removed; the journal is untouched.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The manifest could not be replaced. It is written anew before anything else is done; the journal is untouched.
    #[error("the manifest could not be replaced")]
    Manifest(#[source] io::Error),
    /// The two newest generations hold the state a start needs.
    #[error("generation {0} is one of the two newest and is kept for its state")]
    Kept(u64),
    /// There is no such generation.
    #[error("there is no generation {0}")]
    Unknown(u64),
}

impl CheckpointError {
    /// Whether there was no room for it. It may fit once less has to be kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let source: &io::Error = match self {
            Self::Database(DatabaseError::Io(source)) | Self::Io { source, .. } => source,
            Self::Manifest(source) => source,
            Self::Verify(ReadError::Database { source, .. }) => match &**source {
                DatabaseError::Io(source) => source,
                _ => return false,
            },
            Self::Verify(ReadError::Io { source, .. }) => source,
            _ => return false,
        };
        is_full(source)
    }
}

impl OpenError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

impl ReadError {
    /// Whether what is on disk is not what was written, and not the system that fails, which may pass. A file that is too short or
    /// not there is damage. sled copies errors without their numbers, so only their kinds tell.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
        let source: &io::Error = match self {
            Self::Damaged { .. } | Self::DamagedBlock { .. } => return true,
            Self::Unreadable { source, .. } => return source.is_damage(),
            Self::Io { source, .. } => source,
            Self::Database { source, .. } => match &**source {
                DatabaseError::Io(source) => source,
                _ => return true,
            },
        };
        matches!(
            source.kind(),
            InvalidData | InvalidInput | NotFound | UnexpectedEof
        )
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            path,
            source: Arc::new(source),
        }
    }

    pub(super) fn database<E: Into<DatabaseError>>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Database {
            path,
            source: Arc::new(source.into()),
        }
    }

    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

impl CheckpointError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

fn list(losses: &[Loss]) -> String {
    losses
        .iter()
        .map(Loss::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
