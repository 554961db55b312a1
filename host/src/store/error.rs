//! What can go wrong in the store, one type per operation, and the loss that an operator may have to accept.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reserve::is_full;
use crate::domain::{CommitNumber, Position, Sequence, TopicId};

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
        "committed data is damaged: {}; restore the data directory from a copy, or start with --accept-loss to \
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

/// Why a group was not appended or made durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk failed now. Nothing more can be written until the broker is restarted.
    #[error("writing {} failed", path.display())]
    Io {
        /// The journal file.
        path: PathBuf,
        /// The failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk failed earlier. What it holds beyond the last good sync is not known, so nothing is written
    /// any more; restart the broker once the disk is in order.
    #[error("writing {} failed earlier, so nothing more is written until a restart", path.display())]
    Poisoned {
        /// The journal file.
        path: PathBuf,
        /// The first failure.
        #[source]
        source: Arc<io::Error>,
    },
    /// There is no room, or no file descriptor, for a journal file or what is to be written. Nothing of it is there; the writer
    /// stays usable, and the same may work later.
    #[error("the journal file {} cannot be written for now", path.display())]
    Later {
        /// The journal file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The group is longer than a record may be. Nothing was written; the writer stays usable.
    #[error("a group may have at most {} bytes", super::record::RECORD_BYTES_MAX)]
    TooLong,
    /// A block does not lie after the one before it. Nothing was written; the writer stays usable.
    #[error("block at position {0} does not lie after what was appended before")]
    Order(Position),
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
    #[error("the block at byte {offset} of {} is damaged; a start with --accept-loss gives up its events and names them", path.display())]
    DamagedBlock {
        /// The journal file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// Events of these positions cannot be read, as was found before.
    #[error(
        "positions {first} to {last} in {} cannot be read; if it is damage, it can be given up (`tidegate loss accept`, or a \
         start with --accept-loss)",
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
    /// sled cannot open or read a generation.
    #[error("the database {} does not answer", path.display())]
    Database {
        /// Its folder.
        path: PathBuf,
        /// What sled said.
        #[source]
        source: Arc<sled::Error>,
    },
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
    /// sled failed. The generation was removed; the journal is untouched.
    #[error("writing the generation failed")]
    Database(#[source] sled::Error),
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

/// Committed data that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The damaged file or folder.
    pub path: PathBuf,
    /// What is wrong with it, where that is not plain damage to its content.
    pub why: Option<String>,
    /// Where a copy was kept; only when the loss was accepted and there was something to copy.
    pub kept_aside: Option<PathBuf>,
    /// First and last group concerned; the last is unknown when the end of the journal itself is gone.
    pub groups: Option<(CommitNumber, Option<CommitNumber>)>,
    /// First and last position concerned, where known.
    pub positions: Option<(Position, Position)>,
    /// Events concerned, as far as they can be named.
    pub ranges: Vec<LostRange>,
    /// Names of the topics of these events, as far as whoever knows them has said.
    pub topics: BTreeMap<TopicId, String>,
    /// Whether notes (acks, catalog changes) of these groups are gone too.
    pub notes: bool,
}

impl Loss {
    /// Says what the topics are called whose events are lost.
    pub fn name_topics(&mut self, name: impl Fn(TopicId) -> Option<String>) {
        let named = self.ranges.iter();
        let named = named.filter_map(|range| Some((range.topic, name(range.topic)?)));
        self.topics.extend(named);
    }
}

/// Consecutive events of one topic that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// Their topic.
    pub topic: TopicId,
    /// The first one.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(why) = &self.why {
            let more = self.groups.is_some() || self.positions.is_some();
            write!(f, " {why}{}", if more { ";" } else { "" })?;
        }
        match self.groups {
            Some((first, Some(last))) => {
                write!(f, " groups {first} to {last} ({})", count(first.0, last.0))?;
            }
            Some((first, None)) => write!(f, " groups from {first} on (nobody knows how many)")?,
            None => {}
        }
        match self.positions {
            // Not every position is that of an event which was still there.
            Some((first, last)) => {
                let events = count(first.0, last.0);
                write!(f, " positions {first} to {last} (at most {events} events)")?;
            }
            None if self.groups.is_some() && self.ranges.is_empty() => {
                f.write_str(" with a number of events that nobody knows")?;
            }
            None => {}
        }
        for range in self.ranges.iter().take(8) {
            let LostRange { topic, first, last } = range;
            match self.topics.get(topic) {
                Some(name) => write!(f, ", topic `{name}`")?,
                None => write!(f, ", topic number {topic}, whose name is not known,")?,
            }
            let events = count(first.0, last.0);
            write!(f, " sequences {first} to {last} ({events} events)")?;
        }
        if self.ranges.len() > 8 {
            write!(f, " and {} more ranges", self.ranges.len() - 8)?;
        }
        if self.notes && self.groups.is_some() {
            f.write_str(", with the acks and changes committed there")?;
        }
        if let Some(kept) = &self.kept_aside {
            write!(f, " (kept as {})", kept.display())?;
        }
        Ok(())
    }
}

fn count(first: u64, last: u64) -> u64 {
    last.saturating_sub(first).saturating_add(1)
}

fn list(losses: &[Loss]) -> String {
    losses
        .iter()
        .map(Loss::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What whoever wanted to write can do about a [`WriteError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFailure {
    /// Nothing: it can never be written. The writer stays usable.
    Refused,
    /// Try it again later. Nothing was written, and the writer stays usable.
    Retry,
    /// Nothing is written any more until a restart.
    Final,
}

impl WriteError {
    /// What can be done about it.
    #[must_use]
    pub fn failure(&self) -> WriteFailure {
        match self {
            Self::TooLong | Self::Order(_) => WriteFailure::Refused,
            Self::Later { .. } => WriteFailure::Retry,
            Self::Io { .. } | Self::Poisoned { .. } => WriteFailure::Final,
        }
    }

    /// Whether there was no room for it on the disk.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. }
            | Self::Poisoned { source, .. }
            | Self::Later { source, .. } => is_full(source),
            Self::TooLong | Self::Order(_) => false,
        }
    }
}

impl CheckpointError {
    /// Whether there was no room for it. It may fit once less has to be kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let source: &io::Error = match self {
            Self::Database(sled::Error::Io(source)) | Self::Io { source, .. } => source,
            Self::Manifest(source) => source,
            Self::Verify(ReadError::Database { source, .. }) => match &**source {
                sled::Error::Io(source) => source,
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
                sled::Error::Io(source) => source,
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

    pub(super) fn database(path: &Path) -> impl FnOnce(sled::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Database {
            path,
            source: Arc::new(source),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::survey::empty_loss;

    #[test]
    fn a_loss_is_told_with_names_and_counts_or_that_nobody_knows_them() {
        let path = Path::new("journal/7.log");
        let range = |topic, first, last| LostRange {
            topic: TopicId(topic),
            first: Sequence(first),
            last: Sequence(last),
        };
        let mut loss = Loss {
            groups: Some((CommitNumber(7), Some(CommitNumber(9)))),
            positions: Some((Position(20), Position(24))),
            ranges: vec![range(4, 11, 13), range(5, 1, 2)],
            ..empty_loss(path)
        };
        loss.name_topics(|topic| (topic == TopicId(4)).then(|| "orders.new".to_owned()));
        assert_eq!(
            loss.to_string(),
            "journal/7.log: groups 7 to 9 (3) positions 20 to 24 (at most 5 events), topic `orders.new` sequences 11 to 13 \
             (3 events), topic number 5, whose name is not known, sequences 1 to 2 (2 events), with the acks and changes \
             committed there"
        );
        let open = Loss {
            groups: Some((CommitNumber(7), None)),
            ..empty_loss(path)
        };
        assert_eq!(
            open.to_string(),
            "journal/7.log: groups from 7 on (nobody knows how many) with a number of events that nobody knows, with the acks \
             and changes committed there"
        );
        let state = Loss {
            why: Some("missing".to_owned()),
            ..empty_loss(Path::new("state"))
        };
        assert_eq!(state.to_string(), "state: missing");
    }
}
