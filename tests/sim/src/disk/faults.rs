//! What a disk may do wrong while it runs, and how long it takes for what it does.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::history::{Blow, words};

words! {
    /// What is asked of a disk.
    Operation {
        /// A file is opened that is there.
        Open "open",
        /// A file is made, or emptied.
        Create "create",
        /// A folder is made, listed or removed.
        Folder "folder",
        /// Bytes or the length are read.
        Read "read",
        /// Bytes are written.
        Write "write",
        /// Room is taken, or the length changed.
        Size "size",
        /// A file is synced.
        Sync "sync",
        /// A folder is synced.
        SyncFolder "sync-folder",
        /// A file gets another name, or loses its own.
        Name "name",
        /// A folder is held or locked.
        Hold "hold",
    }
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The disk reports an error. Of a write some may be done, of a sync nobody knows.
    Io,
    /// There is no file descriptor left.
    NoFiles,
}

impl Failing {
    pub(super) fn blow(self) -> Blow {
        match self {
            Self::Io => Blow::Io,
            Self::NoFiles => Blow::NoFiles,
        }
    }

    pub(super) fn error(self) -> io::Error {
        // As Linux numbers them: EIO and EMFILE.
        io::Error::from_raw_os_error(match self {
            Self::Io => 5,
            Self::NoFiles => 24,
        })
    }
}

/// Operations that fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which.
    pub on: Operation,
    /// Only on paths that have this in them.
    pub path_has: String,
    /// How often; then the disk is well again.
    pub times: u32,
    /// How.
    pub failing: Failing,
}

impl Fault {
    pub(super) fn strikes_now(&mut self, on: Operation, path: &Path) -> bool {
        let is_it = self.on == on && path.to_string_lossy().contains(&self.path_has);
        if !is_it || self.times == 0 {
            return false;
        }
        self.times -= 1;
        true
    }
}

/// What a disk is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What is drawn about it follows from this.
    pub seed: u64,
    /// Bytes that fit on it.
    pub room: u64,
    /// Bytes that are written as a whole or not at all: 512 or 4,096.
    pub sector: usize,
    /// Whether what was being written when the power went may be unreadable afterwards.
    pub tears: bool,
    /// Longest time that an operation takes; a sync takes up to eight times that.
    pub latency_max: Duration,
}

impl Shape {
    /// A small one, at once.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            room: 8 << 20,
            sector: 512,
            tears: false,
            latency_max: Duration::ZERO,
        }
    }
}
