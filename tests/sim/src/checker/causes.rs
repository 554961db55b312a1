//! What the broker may say that is wrong with it, of what went wrong: each condition has causes of its own, on the paths that it is about,
//! and not long before.

use std::path::Path;

use crate::disk::Operation;
use crate::history::{Blow, Entry, Text, What};
use crate::plan::Fault;
use crate::plan::disk::DiskFault;

/// How long after its cause a condition may be noticed: by whoever writes or reads next, or looks after the folders, on a slow disk.
const SOON_MS: u64 = 15_000;

/// What went wrong with the disk in a life.
#[derive(Default)]
pub(super) struct Causes {
    blows: Vec<(u64, Operation, Blow, Text)>,
    /// Something rotted, in this life or before.
    is_rotten: bool,
    /// Folders that were away, and until when.
    moved: Vec<u64>,
}

impl Causes {
    pub(super) fn see(&mut self, entry: &Entry) {
        match &entry.what {
            What::Struck { on, by, path } => {
                self.blows.push((entry.ms, *on, *by, path.clone()));
            }
            What::Troubled {
                what: Fault::Disk(DiskFault::Moved { .. }),
                until_ms,
            } => self.moved.push(*until_ms),
            What::Troubled {
                what: Fault::Rot(_),
                ..
            } => self.is_rotten = true,
            // Nothing that a life before it met with, and all folders are back. What is damaged stays so.
            What::Starts { .. } => {
                *self = Self {
                    is_rotten: self.is_rotten,
                    ..Self::default()
                }
            }
            _ => {}
        }
    }

    /// Whether any of it is the cause of a condition that begins to hold now. `checkpoint_fails` does too, or does not.
    pub(super) fn explain(&self, condition: &str, now_ms: u64, checkpoint_fails: bool) -> bool {
        let is_recent = |ms: u64| now_ms <= ms.saturating_add(SOON_MS);
        let was_moved = || self.moved.iter().any(|until_ms| is_recent(*until_ms));
        let struck = |is_it: &dyn Fn(Operation, Blow, &Path) -> bool| {
            let mut recent = self.blows.iter().filter(|(ms, ..)| is_recent(*ms));
            recent.any(|(_, on, by, path)| is_it(*on, *by, Path::new(&**path)))
        };
        match condition {
            // Only a failed write or sync ends writing, and only one of the journal.
            "store_failed" => {
                struck(&|on, by, path| by == Blow::Io && is_write(on) && is_of(path, "journal"))
            }
            "checkpoint_fails" => self.is_rotten || was_moved() || struck(&|_, _, _| true),
            // It makes no room while checkpoints fail.
            "journal_full" => checkpoint_fails,
            "disk_full" => struck(&|_, by, _| by == Blow::NoRoom),
            "out_of_files" => struck(&|_, by, _| by == Blow::NoFiles),
            "plugin_broken" => struck(&|on, _, path| !is_write(on) && is_of(path, "plugins")),
            "unreadable" => self.is_rotten || was_moved() || struck(&|on, _, _| !is_write(on)),
            "folder_lost" | "journal_file_lost" => was_moved(),
            _ => false,
        }
    }
}

/// Whether it is one that changes what is there.
pub(super) fn is_write(on: Operation) -> bool {
    !matches!(
        on,
        Operation::Open | Operation::Read | Operation::Folder | Operation::Hold
    )
}

/// Whether a path has this folder in it.
pub(super) fn is_of(path: &Path, folder: &str) -> bool {
    path.iter().any(|part| part == folder)
}
