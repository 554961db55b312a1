//! The reserve: disk space that is kept for when there is no other. One part is a journal file, for acks and marks, and the other is
//! room for a checkpoint to be made in; both are really allocated. Publishes are refused from the moment that the disk has no room
//! but this, until all of it is there again; what was taken of it is made up for by whoever looks for room. Nothing in it is ever
//! read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::file_names;
use crate::disk::{DIRECT_BYTES, File, FileSystem, is_full};
use crate::locks::lock;

/// This part of its journal file, one in so many, stays for acks and marks; outputs of routes and dead letters may have the rest.
pub(super) const KEPT_FOR_ACKS: u64 = 4;

/// The reserve of one store. Shared by the journal's writer and the checkpoints.
pub(super) struct Reserve {
    journal_path: PathBuf,
    checkpoint_path: PathBuf,
    journal_bytes: u64,
    /// The room for a checkpoint is not less than this, however small the newest state.
    checkpoint_bytes_min: u64,
    parts: Mutex<Parts>,
    short: AtomicBool,
}

#[derive(Default)]
struct Parts {
    journal: Option<Arc<dyn File>>,
    /// Bytes that are allocated for a checkpoint.
    checkpoint_bytes: u64,
    checkpoint_bytes_wanted: u64,
}

impl Reserve {
    /// Nothing is allocated before [`replenish`](Self::replenish), and what an earlier run had is given back.
    pub(super) fn new(
        fs: &dyn FileSystem,
        dir: &Path,
        journal_bytes: u64,
        checkpoint_bytes_min: u64,
    ) -> Self {
        let reserve = Self {
            journal_path: file_names::reserved_file(dir),
            checkpoint_path: file_names::checkpoint_reserve(dir),
            journal_bytes: journal_bytes.next_multiple_of(DIRECT_BYTES as u64),
            checkpoint_bytes_min,
            parts: Mutex::new(Parts {
                checkpoint_bytes_wanted: checkpoint_bytes_min,
                ..Parts::default()
            }),
            short: AtomicBool::new(false),
        };
        for path in [&reserve.journal_path, &reserve.checkpoint_path] {
            // Mostly there is none. One that cannot be removed is emptied when it is made anew.
            let _ = fs.remove(path);
        }
        reserve
    }

    /// Whether the disk has no room but what is left of this.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// The disk was found full.
    pub(super) fn set_short(&self) {
        self.short.store(true, Ordering::Release);
    }

    /// From now on the room for a checkpoint is twice this: as much as a state and the next one take.
    pub(super) fn set_state_bytes(&self, bytes: u64) {
        let wanted = bytes.saturating_mul(2).max(self.checkpoint_bytes_min);
        self.lock().checkpoint_bytes_wanted = wanted;
    }

    /// Allocates what is missing, or more than is wanted any more.
    ///
    /// # Errors
    ///
    /// There is no room for it, and the store is short of it from now on; or the disk fails, which says nothing about room.
    pub(super) fn replenish(&self, fs: &dyn FileSystem) -> io::Result<()> {
        let made = self.make_up(fs);
        match &made {
            Ok(()) => self.short.store(false, Ordering::Release),
            Err(error) if is_full(error) => self.set_short(),
            Err(_) => {}
        }
        made
    }

    fn make_up(&self, fs: &dyn FileSystem) -> io::Result<()> {
        let (journal_missing, has, wanted) = {
            let parts = self.lock();
            let missing = parts.journal.is_none();
            (
                missing,
                parts.checkpoint_bytes,
                parts.checkpoint_bytes_wanted,
            )
        };
        // The checkpoint's part first: only a checkpoint makes room, while acks and marks make do with less than a journal file.
        // Not under the lock, which the journal's writer takes.
        if has != wanted {
            // What there is does not outlive an attempt that fails, and stays until then.
            self.lock().checkpoint_bytes = 0;
            allocated(fs, &self.checkpoint_path, wanted)?;
            self.lock().checkpoint_bytes = wanted;
        }
        if journal_missing {
            let file = allocated(fs, &self.journal_path, self.journal_bytes)?;
            self.lock().journal = Some(file);
        }
        Ok(())
    }

    /// Bytes that [`take_journal`](Self::take_journal) would give.
    pub(super) fn journal_part(&self) -> u64 {
        match self.lock().journal {
            Some(_) => self.journal_bytes,
            None => 0,
        }
    }

    /// The journal's part, which is the caller's from now on and lies at `to`, and how long it is. Nothing is left under the
    /// reserve's own name, where the next part may be made at any moment.
    pub(super) fn take_journal(
        &self,
        fs: &dyn FileSystem,
        to: &Path,
    ) -> Option<(Arc<dyn File>, u64)> {
        let mut parts = self.lock();
        let file = parts.journal.take()?;
        if fs.rename(&self.journal_path, to).is_err() {
            let _ = fs.remove(&self.journal_path);
            return None;
        }
        Some((file, self.journal_bytes))
    }

    /// Gives the checkpoint's part back to the disk. Answers whether there was any.
    pub(super) fn release_checkpoint(&self, fs: &dyn FileSystem) -> bool {
        if std::mem::take(&mut self.lock().checkpoint_bytes) == 0 {
            return false;
        }
        self.set_short();
        fs.remove(&self.checkpoint_path).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        lock(&self.parts)
    }
}

// A file that has so much of the disk, durably, or none: whoever starts after a power cut, on a disk that is full then, needs it.
fn allocated(fs: &dyn FileSystem, path: &Path, bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = match fs.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(path)?,
        other => other?,
    };
    let filled = fill(fs, &*file, path, bytes);
    if filled.is_err() {
        // What it got of the disk is for others.
        let _ = fs.remove(path);
    }
    filled.map(|()| file)
}

fn fill(fs: &dyn FileSystem, file: &dyn File, path: &Path, bytes: u64) -> io::Result<()> {
    file.set_length(bytes)?;
    file.allocate(bytes)?;
    file.sync()?;
    path.parent().map_or(Ok(()), |folder| fs.sync_dir(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealFileSystem;
    use crate::store::tests::faulty_disk::{Fault, FaultyFileSystem, Operation};

    fn length(path: &Path) -> Option<u64> {
        path.metadata().ok().map(|metadata| metadata.len())
    }

    fn reserve(fs: &dyn FileSystem) -> (tempfile::TempDir, Reserve) {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(file_names::journal(dir.path())).expect("a folder");
        let reserve = Reserve::new(fs, dir.path(), 8_192, 4_096);
        (dir, reserve)
    }

    #[test]
    fn both_parts_are_allocated_and_made_up_for_when_taken() {
        let (_dir, reserve) = reserve(&RealFileSystem);
        let lengths = || {
            (
                length(&reserve.journal_path),
                length(&reserve.checkpoint_path),
            )
        };
        reserve.replenish(&RealFileSystem).expect("room");
        assert_eq!(lengths(), (Some(8_192), Some(4_096)));
        let taken = reserve.journal_path.with_file_name("taken");
        let (_, bytes) = reserve
            .take_journal(&RealFileSystem, &taken)
            .expect("there");
        assert_eq!(bytes, 8_192);
        assert!(reserve.take_journal(&RealFileSystem, &taken).is_none());
        // It is the caller's before it has its final name, too: making the next one leaves it alone.
        reserve.replenish(&RealFileSystem).expect("room");
        assert_eq!(length(&taken), Some(8_192));
        let again = reserve.take_journal(&RealFileSystem, &taken);
        assert!(again.is_some(), "the next one");
        std::fs::remove_file(taken).expect("the caller's");
        assert!(reserve.release_checkpoint(&RealFileSystem) && reserve.is_short());
        assert!(!reserve.release_checkpoint(&RealFileSystem));
        assert_eq!(lengths(), (None, None));
        reserve.replenish(&RealFileSystem).expect("room");
        assert_eq!(lengths(), (Some(8_192), Some(4_096)));
        assert!(!reserve.is_short());
        for (state, wanted) in [(5_000, 10_000), (2_000, 4_096)] {
            reserve.set_state_bytes(state);
            reserve.replenish(&RealFileSystem).expect("room");
            assert_eq!(lengths().1, Some(wanted));
        }
    }

    #[test]
    fn a_part_that_could_not_grow_is_not_there() {
        let fs = FaultyFileSystem::default();
        let (_dir, reserve) = reserve(&fs);
        reserve.replenish(&fs).expect("room");
        reserve.set_state_bytes(5_000);
        let full = Fault::Error(io::ErrorKind::StorageFull);
        fs.fail_with(Operation::Allocate, "=reserve", full);
        reserve.replenish(&fs).expect_err("injected");
        fs.heal();
        reserve.set_state_bytes(0);
        reserve.replenish(&fs).expect("room");
        assert_eq!(length(&reserve.checkpoint_path), Some(4_096));
    }

    // A power cut takes what was not synced, and the next start may find that others have its room.
    #[test]
    fn a_part_that_is_not_durable_is_not_there() {
        for (operation, path) in [
            (Operation::Sync, "=reserve"),
            (Operation::Sync, "=reserve.new"),
            (Operation::SyncDir, "=journal"),
        ] {
            let fs = FaultyFileSystem::default();
            let (_dir, reserve) = reserve(&fs);
            fs.fail(operation, path);
            reserve.replenish(&fs).expect_err("injected");
            assert_eq!(reserve.journal_part(), 0, "{operation:?} of {path}");
            assert_eq!(length(&reserve.journal_path), None);
            let checkpoint = (path != "=reserve").then_some(4_096);
            assert_eq!(length(&reserve.checkpoint_path), checkpoint);
            fs.heal();
            reserve.replenish(&fs).expect("room");
            assert_eq!(reserve.journal_part(), 8_192);
        }
    }

    #[test]
    fn it_is_short_from_a_full_disk_on_until_all_of_it_is_there() {
        let fs = FaultyFileSystem::default();
        let (_dir, reserve) = reserve(&fs);
        let full = Fault::Error(io::ErrorKind::StorageFull);
        fs.fail_with(Operation::Allocate, "=reserve.new", full);
        reserve.replenish(&fs).expect_err("injected");
        assert!(reserve.is_short());
        assert_eq!(length(&reserve.journal_path), None, "nothing half made");
        let kept = length(&reserve.checkpoint_path);
        assert_eq!(kept, Some(4_096), "what makes room is there first");
        assert_eq!(reserve.journal_part(), 0);
        fs.heal();
        reserve.replenish(&fs).expect("room");
        assert!(!reserve.is_short());
        // What fails otherwise says nothing about room.
        reserve.release_checkpoint(&fs);
        reserve.replenish(&fs).expect("room");
        reserve.set_state_bytes(1 << 20);
        fs.fail(Operation::Sync, "=reserve");
        reserve.replenish(&fs).expect_err("injected");
        assert!(!reserve.is_short());
    }
}
