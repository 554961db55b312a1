//! A store whose journal is in memory, for tests of whoever uses one: what is committed, when something fails, and what a crash
//! leaves is the test's to say. Generations are real ones, in a temporary folder; without a checkpoint there are none.

use std::sync::Arc;

use tempfile::TempDir;

use super::harness::folder;
use crate::disk::{FileSystem, RealFileSystem, Unmoved};
use crate::runtime::MachineThreads;
use crate::store::disk_reserve::Reserve;
use crate::store::folders::{Folders, HeldFileSystem};
use crate::store::sealed;
use crate::store::startup::Surroundings;
use crate::store::{Opened, StoreOptions, file_names};

pub(crate) use crate::store::journal::memory_journal::{Call, Fault, MemoryJournal};

/// The store, as a test holds it.
pub(crate) struct MemoryStore {
    pub(crate) journal: MemoryJournal,
    options: StoreOptions,
    dir: TempDir,
}

impl MemoryStore {
    /// A new one.
    pub(crate) fn new() -> Self {
        let dir = folder();
        for folder in [
            file_names::journal(dir.path()),
            file_names::generations(dir.path()),
        ] {
            RealFileSystem.create_dir(&folder).expect("a folder");
        }
        Self {
            journal: MemoryJournal::default(),
            options: StoreOptions {
                generation_part_bytes: 256 * 1024,
                ..StoreOptions::default()
            },
            dir,
        }
    }

    /// Opens it, for the first time or after what was opened before is gone.
    pub(crate) fn open(&self) -> Opened {
        let (dir, fs) = (self.dir.path(), Arc::new(RealFileSystem));
        let folders = Folders::open(fs.clone(), dir, Box::new(Unmoved), &[]);
        let folders = folders.expect("the folder is there");
        let found = sealed::examine(&*fs, &MachineThreads, dir).expect("sound generations");
        let parts = self.options.generation_part_bytes;
        let reserve = Reserve::new(&*fs, dir, 0, sealed::reserve_bytes_min(parts));
        let surroundings = Surroundings {
            fs: Arc::new(HeldFileSystem(folders.clone())),
            dir: dir.to_owned(),
            folders,
            reserve: Arc::new(reserve),
            options: self.options.clone(),
        };
        let (reader, checkpoints) = surroundings.join(self.journal.reader(), &found);
        Opened {
            journal: self.journal.writer(),
            reader,
            checkpoints,
            replay: self.journal.replay(found.mark()),
            clean: self.journal.is_closed() || self.journal.groups().is_empty(),
            state: found.into_state(),
            losses: Vec::new(),
        }
    }

    /// What a crash now leaves, once what was opened is gone.
    pub(crate) fn after_crash(self) -> Self {
        Self {
            journal: self.journal.after_crash(),
            ..self
        }
    }
}
