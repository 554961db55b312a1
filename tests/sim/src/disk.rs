//! A simulated disk. It outlives the lives of a broker: each life sees it through a [`DiskLife`], which answers nothing any more once
//! that life has ended. What the next life finds was drawn by the seed from all that a real disk may have kept. Operations take virtual
//! time, and other strands run before and after each.
//!
//! It is a file system as the broker wants one, and keeps no more than that promises.

mod content;
mod faults;
mod names;
mod platter;
mod survival;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_simulated::disk::{DIRECT_BYTES, File, FileSystem, Hold};

use crate::history::Blow;
use crate::simulation::{Point, conductor};
use content::Change;
use platter::Platter;

pub use faults::{Failing, Fault, Operation, Shape};
pub use platter::Struck;
pub use survival::End;

/// A disk. Clones are one.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Platter>>);

impl SimDisk {
    /// An empty one.
    pub fn new(shape: Shape) -> Self {
        Self(Arc::new(Mutex::new(Platter::new(shape))))
    }

    /// What the life of a broker that begins now sees of it.
    pub fn life(&self) -> DiskLife {
        let life = self.platter().life();
        DiskLife {
            disk: self.clone(),
            life,
        }
    }

    /// Ends the life that there is, if it has not ended. Its locks are free then, and what is found from now on is what the next life
    /// finds.
    pub fn end(&self, how: End) {
        self.platter().end(how);
    }

    /// Ends the life so in the middle of the operation with this number, counted from 1 over all lives.
    pub fn end_at(&self, operation: u64, how: End) {
        self.platter().ends_at = Some((operation, how));
    }

    /// Whether no life goes on: the one there was has ended.
    pub fn is_off(&self) -> bool {
        self.platter().has_ended
    }

    /// Whether the last life ended in the middle of an operation, as [`end_at`](Self::end_at) said.
    pub fn has_gone(&self) -> bool {
        self.platter().has_gone
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.platter().operations
    }

    /// Lets operations fail. The answer is what [`lift`](Self::lift) ends it by.
    pub fn inject(&self, fault: Fault) -> u64 {
        self.platter().inject(fault)
    }

    /// Ends something that goes wrong, and nothing else of its kind.
    pub fn lift(&self, number: u64) {
        self.platter().lift(number);
    }

    /// Operations that failed by plan since this was asked last: of several that are alike, one.
    pub fn take_struck(&self) -> Vec<Struck> {
        self.platter().take_struck()
    }

    /// Ends all faults, slowness and want of room.
    pub fn heal(&self) {
        self.platter().heal();
    }

    /// Others take all the room but this, until that is [lifted](Self::lift).
    pub fn leave_room(&self, bytes: u64) -> u64 {
        self.platter().leave_room(bytes)
    }

    /// Lets syncs take up to this, until that is [lifted](Self::lift).
    pub fn slow_syncs(&self, up_to: Duration) -> u64 {
        self.platter().slow_syncs(up_to)
    }

    /// Gives a folder another name, with all that is in it, until that is [lifted](Self::lift). `None` if it is not there.
    pub fn move_away(&self, folder: &Path) -> Option<u64> {
        self.platter().move_away(folder)
    }

    /// Gives all folders that were [moved away](Self::move_away) their names again.
    pub fn move_back(&self) {
        self.platter().move_back();
    }

    /// Files that have sectors that cannot be read.
    pub fn unreadable(&self) -> Vec<PathBuf> {
        self.platter().unreadable()
    }

    /// Copies each file that has sectors that cannot be read, with zeros in their place, and puts the copy in its place, as somebody does
    /// who cannot wait for them. Which files those are.
    pub fn rescue(&self) -> Vec<PathBuf> {
        self.platter().rescue()
    }

    /// Lets operations take so many times as long.
    pub fn slow(&self, factor: u32) {
        self.platter().slow = factor;
    }

    /// How much fits on it from now on; less than is there means that nothing more does.
    pub fn set_room(&self, bytes: u64) {
        self.platter().set_room(bytes);
    }

    /// Changes a byte of a file where it lies. Whether there was one.
    pub fn rot(&self, path: &Path, at: usize, flip: u8) -> bool {
        self.platter().rot(path, at, flip)
    }

    /// Gives a folder another name, with all that is in it, as an operator may beside the broker. Whether it was there.
    pub fn move_folder(&self, from: &Path, to: &Path) -> bool {
        self.platter().move_folder(from, to)
    }

    /// All that is on it: folders without, files with their content.
    pub fn image(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        self.platter().image()
    }

    // Never held across a suspension.
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one life of a broker sees of a disk.
#[derive(Clone)]
pub struct DiskLife {
    disk: SimDisk,
    life: u64,
}

impl FileSystem for DiskLife {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Folder, path, |platter| platter.create_dir(path))
    }

    // In an order that the seed draws.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.operate(Operation::Folder, path, |platter| platter.list(path))
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.disk.platter().is_dir(path)
    }

    fn is_symlink(&self, _path: &Path) -> bool {
        false
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let node = self.operate(Operation::Open, path, |platter| platter.open(path))?;
        Ok(Arc::new(self.file(node, path)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let node = self.operate(Operation::Create, path, |platter| platter.create(path))?;
        Ok(Arc::new(self.file(node, path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(Operation::Name, from, |platter| platter.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Name, path, |platter| platter.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Folder, path, |platter| platter.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::SyncFolder, path, |platter| {
            platter.sync_dir(path)
        })
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.operate(Operation::Hold, path, |platter| platter.free_bytes(path))
    }

    fn hold(&self, path: &Path) -> io::Result<Box<dyn Hold>> {
        let folder = self.operate(Operation::Hold, path, |platter| platter.folder(path))?;
        Ok(Box::new(self.held(path, folder, false)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        let locked = self.operate(Operation::Hold, path, |platter| platter.lock(path))?;
        let hold = |folder| -> Box<dyn Hold> { Box::new(self.held(path, folder, true)) };
        Ok(locked.map(hold))
    }
}

impl DiskLife {
    fn held(&self, path: &Path, folder: u64, is_lock: bool) -> SimHold {
        SimHold {
            life: self.clone(),
            path: path.to_owned(),
            folder,
            is_lock,
        }
    }

    fn file(&self, node: u64, path: &Path) -> SimFile {
        SimFile {
            life: self.clone(),
            node,
            path: path.to_owned(),
        }
    }

    // Others run before it and after it; the life may end at either.
    fn operate<T>(
        &self,
        on: Operation,
        path: &Path,
        run: impl FnOnce(&mut Platter) -> io::Result<T>,
    ) -> io::Result<T> {
        self.operate_with(on, path, None, run)
    }

    fn operate_with<T>(
        &self,
        on: Operation,
        path: &Path,
        writes: Option<(u64, &Change)>,
        run: impl FnOnce(&mut Platter) -> io::Result<T>,
    ) -> io::Result<T> {
        let begun = self.disk.platter().begin(self.life, on, writes)?;
        rest(begun.time / 2);
        let result = {
            let mut platter = self.disk.platter();
            platter.goes_on(self.life)?;
            platter.writing.remove(&begun.number);
            let result = match platter.strikes(on, path, writes) {
                Some(error) => Err(error),
                None => run(&mut platter),
            };
            if matches!(&result, Err(error) if error.kind() == io::ErrorKind::StorageFull) {
                platter.note_struck(on, Blow::NoRoom, path);
            }
            result
        };
        rest(begun.time - begun.time / 2);
        // Whoever is not there any more hears nothing.
        self.disk.platter().goes_on(self.life)?;
        result
    }
}

fn rest(time: Duration) {
    if let Some(conductor) = conductor() {
        conductor.pause(Point::Rest(time));
    }
}

/// An open file.
struct SimFile {
    life: DiskLife,
    node: u64,
    path: PathBuf,
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (node, at) = (self.node, as_place(offset)?);
        self.operate(Operation::Read, |platter| platter.read_at(node, buffer, at))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (at, bytes) = (as_place(offset)?, bytes.to_vec());
        let (life, node) = (&self.life, self.node);
        let change = Change::Write { at, bytes };
        let writes = Some((node, &change));
        life.operate_with(Operation::Write, &self.path, writes, |platter| {
            platter.write(node, change.clone())
        })
    }

    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_whole = |number: usize| number.is_multiple_of(DIRECT_BYTES);
        let is_block = is_whole(bytes.len()) && is_whole(as_place(offset)?);
        let lies_well = bytes.as_ptr().align_offset(DIRECT_BYTES) == 0;
        assert!(is_block && lies_well, "{}: no blocks", self.path.display());
        self.write_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        let node = self.node;
        self.operate(Operation::Read, |platter| Ok(platter.length(node)))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let (node, length) = (self.node, as_place(length)?);
        self.operate(Operation::Size, |platter| {
            platter.set_length(node, length);
            Ok(())
        })
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let (node, length) = (self.node, as_place(length)?);
        self.operate(Operation::Size, |platter| platter.allocate(node, length))
    }

    fn sync(&self) -> io::Result<()> {
        let node = self.node;
        let writes = None;
        let synced = self
            .life
            .operate_with(Operation::Sync, &self.path, writes, |platter| {
                platter.sync(node);
                Ok(())
            });
        if synced.is_err() {
            self.life.disk.platter().fail_sync(self.life.life, node);
        }
        synced
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let node = self.node;
        self.operate(Operation::Hold, |platter| Ok(platter.is_at(node, path)))
    }
}

impl SimFile {
    fn operate<T>(
        &self,
        on: Operation,
        run: impl FnOnce(&mut Platter) -> io::Result<T>,
    ) -> io::Result<T> {
        self.life.operate(on, &self.path, run)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.life.disk.platter().close(self.life.life, self.node);
    }
}

/// A folder, or its lock, that is kept open.
struct SimHold {
    life: DiskLife,
    path: PathBuf,
    folder: u64,
    is_lock: bool,
}

impl Hold for SimHold {
    fn displaced(&self) -> io::Result<Option<&'static str>> {
        let (path, folder) = (&self.path, self.folder);
        self.life.operate(Operation::Hold, path, |platter| {
            Ok(platter.displaced(path, folder))
        })
    }
}

impl Drop for SimHold {
    fn drop(&mut self) {
        if self.is_lock {
            self.life.disk.platter().unlock(self.life.life, self.folder);
        }
    }
}

fn as_place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}
