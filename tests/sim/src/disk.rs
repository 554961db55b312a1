//! A simulated disk. It outlives the lives of a broker: each life sees it through a [`DiskLife`], which answers nothing any more once
//! that life has ended. What the next life finds was drawn by the seed from all that a real disk may have kept. Operations take virtual
//! time, and other strands run before and after each.
//!
//! The calls are those of the host's trait for file systems, with what it promises.

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

use crate::simulation::{Point, conductor};
use content::Change;
use platter::Platter;

pub use faults::{Failing, Fault, Operation, Shape};
pub use survival::End;

/// Offset, length and address of what is written by whole blocks are multiples of this.
pub const BLOCK_BYTES: usize = 4096;

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

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.platter().operations
    }

    /// Lets operations fail.
    pub fn inject(&self, fault: Fault) {
        self.platter().faults.push(fault);
    }

    /// Ends all faults, and slowness.
    pub fn heal(&self) {
        let mut platter = self.platter();
        platter.faults.clear();
        platter.slow = 1;
    }

    /// Lets operations take so many times as long.
    pub fn slow(&self, factor: u32) {
        self.platter().slow = factor;
    }

    /// How much fits on it from now on; less than is there means that nothing more does.
    pub fn set_room(&self, bytes: u64) {
        self.platter().room = bytes;
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

impl DiskLife {
    /// Creates a folder and its parents; fine if it exists.
    ///
    /// # Errors
    ///
    /// Something else has the name, the disk fails, or this life has ended; so for all others.
    pub fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Folder, path, |platter| platter.create_dir(path))
    }

    /// Paths of everything in a folder, in an order that the seed draws.
    ///
    /// # Errors
    ///
    /// There is no such folder.
    pub fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.operate(Operation::Folder, path, |platter| platter.list(path))
    }

    /// Whether a path leads to a folder.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.disk.platter().is_dir(path)
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// It does not exist.
    pub fn open(&self, path: &Path) -> io::Result<SimFile> {
        let node = self.operate(Operation::Open, path, |platter| platter.open(path))?;
        Ok(self.file(node, path))
    }

    /// Creates an empty file, or empties the one that exists.
    ///
    /// # Errors
    ///
    /// There is no such folder.
    pub fn create(&self, path: &Path) -> io::Result<SimFile> {
        let node = self.operate(Operation::Create, path, |platter| platter.create(path))?;
        Ok(self.file(node, path))
    }

    /// All of a file.
    ///
    /// # Errors
    ///
    /// It does not exist, or cannot be read.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Renames a file, replacing what has the new name.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(Operation::Name, from, |platter| platter.rename(from, to))
    }

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Name, path, |platter| platter.remove(path))
    }

    /// Removes an empty folder; fine if it does not exist.
    ///
    /// # Errors
    ///
    /// It is not empty.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::Folder, path, |platter| platter.remove_dir(path))
    }

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    ///
    /// There is no such folder.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(Operation::SyncFolder, path, |platter| {
            platter.sync_dir(path)
        })
    }

    /// Bytes that may still be used.
    ///
    /// # Errors
    ///
    /// There is no such folder.
    pub fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.operate(Operation::Hold, path, |platter| platter.free_bytes(path))
    }

    /// Keeps a folder open, so that it can be told whether its path still leads to it.
    ///
    /// # Errors
    ///
    /// There is no such folder.
    pub fn hold(&self, path: &Path) -> io::Result<SimHold> {
        let folder = self.operate(Operation::Hold, path, |platter| platter.folder(path))?;
        Ok(self.held(path, folder, false))
    }

    /// Takes the lock of a folder; `None` when somebody has it.
    ///
    /// # Errors
    ///
    /// There is no such folder.
    pub fn lock(&self, path: &Path) -> io::Result<Option<SimHold>> {
        let locked = self.operate(Operation::Hold, path, |platter| platter.lock(path))?;
        Ok(locked.map(|folder| self.held(path, folder, true)))
    }

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
            match platter.strikes(on, path, writes) {
                Some(error) => Err(error),
                None => run(&mut platter),
            }
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
pub struct SimFile {
    life: DiskLife,
    node: u64,
    path: PathBuf,
}

impl SimFile {
    /// Reads until `buffer` is full or the file ends; answers how much was read.
    ///
    /// # Errors
    ///
    /// The disk fails, or this life has ended; so for all others.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (node, at) = (self.node, as_place(offset)?);
        self.operate(Operation::Read, |platter| platter.read_at(node, buffer, at))
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// Some of it may have been written.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (at, bytes) = (as_place(offset)?, bytes.to_vec());
        let (life, node) = (&self.life, self.node);
        let change = Change::Write { at, bytes };
        let writes = Some((node, &change));
        life.operate_with(Operation::Write, &self.path, writes, |platter| {
            platter.write(node, change.clone())
        })
    }

    /// Writes all of `bytes`, which are whole blocks.
    ///
    /// # Errors
    ///
    /// Some of it may have been written.
    ///
    /// # Panics
    ///
    /// They are no whole blocks, or not at the place of one.
    pub fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_whole = |number: usize| number.is_multiple_of(BLOCK_BYTES);
        let is_block = is_whole(bytes.len()) && is_whole(as_place(offset)?);
        let lies_well = bytes.as_ptr().align_offset(BLOCK_BYTES) == 0;
        assert!(is_block && lies_well, "{}: no blocks", self.path.display());
        self.write_at(bytes, offset)
    }

    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// As for all.
    pub fn length(&self) -> io::Result<u64> {
        let node = self.node;
        self.operate(Operation::Read, |platter| Ok(platter.length(node)))
    }

    /// Cuts or extends the file, with zeros.
    ///
    /// # Errors
    ///
    /// As for all.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        let (node, length) = (self.node, as_place(length)?);
        self.operate(Operation::Size, |platter| {
            platter.set_length(node, length);
            Ok(())
        })
    }

    /// Takes room up to `length`, to which the file grows.
    ///
    /// # Errors
    ///
    /// The disk is full; some may have been taken.
    pub fn allocate(&self, length: u64) -> io::Result<()> {
        let (node, length) = (self.node, as_place(length)?);
        self.operate(Operation::Size, |platter| platter.allocate(node, length))
    }

    /// Makes the content durable.
    ///
    /// # Errors
    ///
    /// What was written since the last sync may be lost, even if a later one succeeds.
    pub fn sync(&self) -> io::Result<()> {
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

    /// Whether a path leads to this very file.
    ///
    /// # Errors
    ///
    /// As for all.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        let node = self.node;
        self.operate(Operation::Hold, |platter| Ok(platter.is_at(node, path)))
    }

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
pub struct SimHold {
    life: DiskLife,
    path: PathBuf,
    folder: u64,
    is_lock: bool,
}

impl SimHold {
    /// What became of the folder, when its path does not lead to it any more.
    ///
    /// # Errors
    ///
    /// The disk fails, or this life has ended.
    pub fn displaced(&self) -> io::Result<Option<&'static str>> {
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
