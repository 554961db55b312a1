//! The disk as the broker sees it: a file system, small enough that tests can put faults and power cuts under it, and files that
//! appear whole. The journal and the manifest of the store go through it entirely. sled opens its own files, so of a generation
//! only the steps around it (sync, removal) do. Nothing here knows what is in a file.

mod atomic_write;
mod real;
mod whole_file;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use atomic_write::{Access, give_name, replace};
pub use real::{RealFileSystem, close_to_others, create_dir_all};
pub use whole_file::{PEM_BYTES_MAX, read_up_to, read_whole, read_whole_text, text};

/// What is written with [`File::write_blocks_at`] has an offset, a length and an address in memory that are multiples of
/// this.
pub const DIRECT_BYTES: usize = 4096;
// What is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A file system. Every call blocks.
pub trait FileSystem: Send + Sync {
    /// Creates a folder, which only its owner may look into; fine if it exists, and then it stays as it is. Never the folder above, so
    /// that nothing begins where one was moved away.
    ///
    /// # Errors
    ///
    /// The folder above is not there, or the operating system refuses.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Paths of everything in a folder, in no order.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Whether a path leads to a folder.
    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    /// Whether what lies at a path only leads elsewhere.
    fn is_symlink(&self, path: &Path) -> bool {
        path.is_symlink()
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// It does not exist or cannot be opened.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Creates an empty file for reading and writing, or empties the one that exists.
    ///
    /// # Errors
    ///
    /// It cannot be created.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// The same, for a file that nobody but its owner may read or write if it is made by this.
    ///
    /// # Errors
    ///
    /// It cannot be created.
    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.create(path)
    }

    /// All of a file, which need not be one that may be written.
    ///
    /// # Errors
    ///
    /// It does not exist or cannot be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Renames a file, replacing what has the new name. Durable once the folder is synced.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder; fine if it does not exist.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    ///
    /// The sync failed; the caller must not rely on the names.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes of the disk under a folder that may still be used.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let _ = path;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Keeps a folder open, so that it can be told whether its path still leads to it.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    fn hold(&self, path: &Path) -> io::Result<Box<dyn Hold>> {
        let _ = path;
        Ok(Box::new(Unmoved))
    }

    /// Takes the exclusive lock of a folder for as long as the returned value lives, and keeps the folder open; `None` when
    /// somebody else has the lock.
    ///
    /// # Errors
    ///
    /// The folder, or the lock file in it, cannot be opened.
    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Hold>>>;
}

/// A folder, or a lock, that is kept open.
pub trait Hold: Send + Sync {
    /// What became of it, when its path does not lead to it any more: what is said of the path. Otherwise `None`.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn displaced(&self) -> io::Result<Option<&'static str>>;
}

/// What nobody can move.
pub struct Unmoved;

impl Hold for Unmoved {
    fn displaced(&self) -> io::Result<Option<&'static str>> {
        Ok(None)
    }
}

/// An open file. Every call blocks.
pub trait File: Send + Sync {
    /// Reads until `buffer` is full or the file ends; answers how much was read.
    ///
    /// # Errors
    ///
    /// The operating system reports a failed read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// Some of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`, which are whole blocks of [`DIRECT_BYTES`], past the page cache where the file system can. They
    /// are not durable before [`sync`](Self::sync) for that.
    ///
    /// # Errors
    ///
    /// Some of it may have been written.
    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }

    /// Says that nothing more will be written.
    fn finished(&self) {}

    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    fn length(&self) -> io::Result<u64>;

    /// Cuts or extends the file (with zeros).
    ///
    /// # Errors
    ///
    /// The operating system refuses.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Reserves disk space up to `length`, so that writing there changes no metadata of the file. What was
    /// not written reads as zeros.
    ///
    /// # Errors
    ///
    /// The disk is full.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Makes the content durable, with what is needed to read it back.
    ///
    /// # Errors
    ///
    /// The sync failed. What was written since the last one may be lost even if a later sync succeeds.
    fn sync(&self) -> io::Result<()>;

    /// Whether a path leads to this very file.
    ///
    /// # Errors
    ///
    /// It cannot be told.
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(true)
    }

    /// Says that nobody will read the content soon, so that the memory it takes in the page cache can serve others.
    fn forget(&self) {}
}

/// Copies a range of a file to a place in another.
///
/// # Errors
///
/// One cannot be read or written; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof): it ends within the range.
pub fn copy(from: &dyn File, range: Range<u64>, to: &dyn File, at: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = range.start;
    while done < range.end {
        let wanted = (range.end - done).min(COPY_BYTES as u64) as usize;
        let read = from.read_at(&mut buffer[..wanted], done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(&buffer[..read], at + (done - range.start))?;
        done += read as u64;
    }
    Ok(())
}

/// Whether the disk has no room, or whoever the broker runs as may have no more of it.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether the process or the system has no file descriptor left. That is no fault of a disk.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}
