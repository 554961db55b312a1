//! The errors of the store, one type per operation, each in the shape of what whoever asked for it can do now.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::loss::Loss;
use crate::disk::is_full;
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
         once it is over{}",
        path.display(),
        if_never_over("read")
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
         once it is over{}",
        path.display(),
        if_never_over(doing)
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

/// Why nothing can be written for now: there is no room, or no file descriptor, for a journal file or what is to be written, or its folder
/// was away.
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

impl JournalFailure {
    /// Why the journal of the file at `path` could not be closed. Whoever closes it cannot try again later.
    pub(super) fn closing(error: WriteError, path: &Path) -> Self {
        match error {
            WriteError::Final(failure) => failure,
            WriteError::Retry(WriteDelay { path, source }) => Self::Now { path, source },
            WriteError::Refused(refusal) => Self::Now {
                path: path.to_owned(),
                source: Arc::new(io::Error::other(refusal)),
            },
        }
    }
}

impl WriteDelay {
    /// Whether there was no room for it on the disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }

    /// Whether the folder was not there when it was asked for.
    #[must_use]
    pub fn is_of_a_folder(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Why a block or group cannot be read: what whoever needs it can do, with the cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Restore it from a copy, or give it up: what is on disk is not what was written, and that does not pass.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Try again: the system fails, which may pass and says nothing of what was written.
    #[error(transparent)]
    System(#[from] SystemFailure),
    /// Events of these positions cannot be read, as was found before. They share the cause, and are tried again by themselves; what
    /// can be done is what can be done about that.
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
}

/// What is not what was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Damage {
    /// A part of a file or folder.
    #[error("{what} in {} is damaged", path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// Which part of it.
        what: String,
    },
    /// A block of the journal.
    #[error(
        "the block at byte {offset} of {} is damaged; a start that accepts the loss gives up its events and names them",
        path.display()
    )]
    Block {
        /// The journal file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// A file that is too short, or not there.
    #[error("reading {} failed", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said of it.
        #[source]
        source: Arc<io::Error>,
    },
    /// A database of a generation.
    #[error("the database {} does not answer", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        #[source]
        source: Arc<DatabaseError>,
    },
}

/// How the system fails where something is to be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SystemFailure {
    /// A file or folder.
    #[error("reading {} failed", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// A database of a generation.
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

/// Why a generation was not written or deleted: what whoever wanted it can do, with the cause. The journal is untouched, and so are
/// the other generations.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Nothing: asked for again, it is refused again.
    #[error(transparent)]
    Refused(#[from] CheckpointRefusal),
    /// Find room for it on the disk, or keep less.
    #[error(transparent)]
    NoRoom(CheckpointFailure),
    /// Try the same again later.
    #[error(transparent)]
    Retry(CheckpointFailure),
    /// [Asked for](crate::store::Checkpoints::give_up_when).
    #[error("it was given up, as was asked for")]
    GivenUp,
}

/// What cannot be done to generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointRefusal {
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
    /// The two newest generations hold the state a start needs.
    #[error("generation {0} is one of the two newest and is kept for its state")]
    Kept(u64),
    /// There is no such generation.
    #[error("there is no generation {0}")]
    Unknown(u64),
}

/// What has failed before a generation was complete. It was removed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFailure {
    /// A block that should move cannot be read.
    #[error("cannot read what should move into the generation")]
    Read(#[source] ReadError),
    /// The generation did not read back as it was written.
    #[error("the new generation did not read back as written")]
    Verify(#[source] ReadError),
    /// A database could not be written.
    #[error("writing the generation failed")]
    Database(#[source] DatabaseError),
    /// The disk failed.
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
    /// The manifest could not be replaced. It is written anew before anything else is done.
    #[error("the manifest could not be replaced")]
    Manifest(#[source] io::Error),
}

// What helps where waiting does not. Of what is written nothing is there yet that somebody could save.
fn if_never_over(doing: &str) -> &'static str {
    match doing {
        "read" => {
            ". If the disk never reads it again, keep the file, put a copy of it in its place that has zeros where it cannot be \
             read, and start again: \"What the disk never reads again\" in the book's page on disks says how"
        }
        _ => "",
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
    /// Whether what is on disk is not what was written, and not the system that fails, which may pass.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::System(_) => false,
            Self::Unreadable { source, .. } => source.is_damage(),
        }
    }

    /// That `what`, a part of the file or folder at `path`, is not what was written.
    #[must_use]
    pub fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged(Damage::Content {
            path: path.to_owned(),
            what: what.into(),
        })
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let (is_damage, source) = (tells_damage(&source), Arc::new(source));
            match is_damage {
                true => Damage::File { path, source }.into(),
                false => SystemFailure::File { path, source }.into(),
            }
        }
    }

    pub(super) fn database<E: Into<DatabaseError>>(path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| {
            let source = Arc::new(source.into());
            match &*source {
                DatabaseError::Io(error) if !tells_damage(error) => {
                    SystemFailure::Database { path, source }.into()
                }
                _ => Damage::Database { path, source }.into(),
            }
        }
    }

    // What the system said, when it failed.
    fn system(&self) -> Option<&io::Error> {
        match self {
            Self::System(SystemFailure::File { source, .. }) => Some(source),
            Self::System(SystemFailure::Database { source, .. }) => match &**source {
                DatabaseError::Io(source) => Some(source),
                DatabaseError::Other(_) => None,
            },
            Self::Damaged(_) | Self::Unreadable { .. } => None,
        }
    }
}

// A file that is too short or not there is damage. sled copies errors without their numbers, so only their kinds tell.
fn tells_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(
        error.kind(),
        InvalidData | InvalidInput | NotFound | UnexpectedEof
    )
}

impl From<CheckpointFailure> for CheckpointError {
    fn from(failure: CheckpointFailure) -> Self {
        match failure.system().is_some_and(is_full) {
            true => Self::NoRoom(failure),
            false => Self::Retry(failure),
        }
    }
}

impl CheckpointError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let failure = CheckpointFailure::Io {
                doing,
                path,
                source,
            };
            failure.into()
        }
    }
}

impl CheckpointFailure {
    // What the system said of what was written.
    fn system(&self) -> Option<&io::Error> {
        match self {
            Self::Database(DatabaseError::Io(source)) | Self::Io { source, .. } => Some(source),
            Self::Manifest(source) => Some(source),
            Self::Verify(error) => error.system(),
            Self::Read(_) | Self::Database(DatabaseError::Other(_)) => None,
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
