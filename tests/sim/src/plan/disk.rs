//! What a plan says of the disk: what it is like, and what goes wrong with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::disk::{Operation, Shape};

/// What the disk is like. A plan that says nothing of it has the plainest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskShape {
    /// Bytes that are written as a whole or not at all.
    pub sector: u64,
    /// Longest time that an operation takes; a sync takes up to eight times that.
    pub latency_us: u64,
    /// Whether what was being written when the power went may never be read again.
    pub tears: bool,
}

impl Default for DiskShape {
    fn default() -> Self {
        Self {
            sector: 512,
            latency_us: 0,
            tears: false,
        }
    }
}

impl DiskShape {
    /// What the disk goes by.
    #[must_use]
    pub fn shape(&self, seed: u64, room: u64) -> Shape {
        Shape {
            room,
            sector: usize::try_from(self.sector).unwrap_or(512),
            latency_max: Duration::from_micros(self.latency_us),
            tears: self.tears,
            ..Shape::of(seed)
        }
    }
}

/// What goes wrong with a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFault {
    /// Others fill it. Then there is room again.
    Full {
        /// What they leave.
        left_bytes: u64,
        /// How long.
        lasts_ms: u64,
    },
    /// It reports errors.
    Errors {
        /// At what.
        on: Strikes,
        /// Only on paths that have this in them.
        path: String,
        /// So often at most.
        times: u32,
        /// And so long at most.
        lasts_ms: u64,
    },
    /// The system lets nobody open a file.
    NoFiles {
        /// How long.
        lasts_ms: u64,
    },
    /// Syncs take long.
    SlowSyncs {
        /// Up to this.
        up_to_ms: u64,
        /// How long.
        lasts_ms: u64,
    },
    /// Somebody gives a folder of the store another name, and its own again.
    Moved {
        /// Which.
        folder: String,
        /// How long.
        lasts_ms: u64,
    },
}

/// What a disk reports errors at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strikes {
    /// Opening a file that is there.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Syncing a file.
    Sync,
    /// Syncing a folder.
    SyncFolder,
    /// Giving a file another name, or removing it.
    Name,
}

impl DiskFault {
    /// How long it lasts at most.
    #[must_use]
    pub fn lasts_ms(&self) -> u64 {
        match self {
            Self::Full { lasts_ms, .. }
            | Self::Errors { lasts_ms, .. }
            | Self::NoFiles { lasts_ms }
            | Self::SlowSyncs { lasts_ms, .. }
            | Self::Moved { lasts_ms, .. } => *lasts_ms,
        }
    }
}

impl Strikes {
    /// As the disk calls it.
    #[must_use]
    pub fn operation(self) -> Operation {
        match self {
            Self::Open => Operation::Open,
            Self::Read => Operation::Read,
            Self::Write => Operation::Write,
            Self::Sync => Operation::Sync,
            Self::SyncFolder => Operation::SyncFolder,
            Self::Name => Operation::Name,
        }
    }
}
