//! The machine's own file system, with locks on folders and writes past the page cache.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};

use super::{File, FileSystem, Hold, read_whole};
use crate::locks::lock;

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFileSystem;

struct RealFile {
    file: fs::File,
    /// The same file, for writes past the page cache: what the journal writes is not read again soon, and filling pages with
    /// it costs several times what the write itself does. `None` where the file system cannot, and once the file is finished,
    /// so that a long journal does not take twice as many descriptors.
    direct: Mutex<Option<fs::File>>,
}

/// Creates a folder and all above it, which only their owner may look into; fine if it exists, and then it stays as it is.
///
/// # Errors
///
/// The operating system refuses.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl FileSystem for RealFileSystem {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            created => created,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let direct = Mutex::new(None);
        Ok(Arc::new(RealFile { file, direct }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        read_whole(path, u64::MAX)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        create(path, 0o666)
    }

    fn create_private(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        create(path, 0o600)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn hold(&self, path: &Path) -> io::Result<Box<dyn Hold>> {
        Ok(Box::new(HeldFolder::open(path)?))
    }

    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        let folder = HeldFolder::open(dir)?;
        if !folder.try_lock()? {
            return Ok(None);
        }
        let path = dir.join("lock");
        let Some(file) = lock_file(&path)? else {
            return Ok(None);
        };
        Ok(Some(Box::new(HeldLock {
            folder,
            path,
            file: Mutex::new(file),
        })))
    }
}

/// Takes a file or folder from everybody but its owner. Returns whether others had it; what a link leads to is not touched.
///
/// # Errors
///
/// It is not there, or somebody else's.
pub fn close_to_others(path: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(path)?;
    let mode = metadata.permissions().mode();
    if metadata.is_symlink() || mode & 0o077 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, Permissions::from_mode(mode & !0o077))?;
    Ok(true)
}

// What the process may not give away anyway is taken off `mode`.
fn create(path: &Path, mode: u32) -> io::Result<Arc<dyn File>> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)?;
    let flags = OFlags::DIRECT.bits().cast_signed();
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(flags)
        .open(path);
    Ok(Arc::new(RealFile {
        file,
        direct: Mutex::new(direct.ok()),
    }))
}

/// A folder that is open, so that nothing else gets its number as long as this lives.
struct HeldFolder {
    path: PathBuf,
    handle: fs::File,
    identity: (u64, u64),
}

/// The lock of a folder: on the folder itself, which nobody can take away without it, and on a file in it, which is all that
/// brokers before this one look at.
struct HeldLock {
    folder: HeldFolder,
    path: PathBuf,
    file: Mutex<fs::File>,
}

impl HeldFolder {
    fn open(path: &Path) -> io::Result<Self> {
        let handle = fs::File::open(path)?;
        let identity = identity(&handle.metadata()?);
        Ok(Self {
            path: path.to_owned(),
            handle,
            identity,
        })
    }

    // Where a folder cannot be locked, as on some network file systems, the file in it has to do.
    fn try_lock(&self) -> io::Result<bool> {
        use rustix::io::Errno;
        match rustix::fs::flock(&self.handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(
                error @ (Errno::BADF
                | Errno::INVAL
                | Errno::ISDIR
                | Errno::NOLCK
                | Errno::NOSYS
                | Errno::OPNOTSUPP),
            ) => {
                tracing::debug!(path = %self.path.display(), %error, "the folder itself cannot be locked");
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Hold for HeldFolder {
    fn displaced(&self) -> io::Result<Option<&'static str>> {
        Ok(match identity_at(&self.path)? {
            None => {
                Some("is not there any more: it was renamed or deleted under the running broker")
            }
            Some(found) if found != self.identity => {
                Some("is another folder than the one that this broker opened")
            }
            Some(_) => None,
        })
    }
}

impl Hold for HeldLock {
    // A lock file that somebody removed is made again, since a broker of before would begin on the folder otherwise.
    fn displaced(&self) -> io::Result<Option<&'static str>> {
        let displaced = self.folder.displaced()?;
        if displaced.is_some() {
            return Ok(displaced);
        }
        let mut file = lock(&self.file);
        if identity_at(&self.path)? == Some(identity(&file.metadata()?)) {
            return Ok(None);
        }
        let Some(again) = lock_file(&self.path)? else {
            return Ok(Some(
                "is locked by another broker, since its file `lock` was removed or replaced",
            ));
        };
        tracing::warn!(path = %self.path.display(), "the lock file was removed or replaced; it is made again");
        *file = again;
        Ok(None)
    }
}

// The lock file, made if need be, and locked; `None` when somebody else has it.
fn lock_file(path: &Path) -> io::Result<Option<fs::File>> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
        Err(error) => Err(error.into()),
    }
}

// What tells a file or folder from all others, as long as it is open.
fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

// What a path leads to, if anything.
fn identity_at(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(identity(&metadata))),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl RealFile {
    fn direct(&self) -> MutexGuard<'_, Option<fs::File>> {
        lock(&self.direct)
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = &*self.direct() {
            let written = direct.write_all_at(bytes, offset);
            // Refused as a request: this file system wants it laid out differently.
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
            if !written.as_ref().is_err_and(refused) {
                return written;
            }
        }
        self.write_at(bytes, offset)
    }

    fn finished(&self) {
        *self.direct() = None;
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve. The file is then sparse, and a full disk shows here only if it is full already.
            Err(error) if error == rustix::io::Errno::OPNOTSUPP => {
                let missing = length.saturating_sub(self.length()?);
                let disk = rustix::fs::fstatvfs(&self.file)?;
                if disk.f_bavail.saturating_mul(disk.f_frsize) < missing {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.file.set_len(length)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        Ok(identity_at(path)? == Some(identity(&self.file.metadata()?)))
    }

    fn forget(&self) {
        // Only advice: nothing depends on it.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DIRECT_BYTES;

    // Where direct writes are not supported this shows at least that the other way is taken.
    #[test]
    fn direct_and_other_writes_to_one_file_are_read_back() {
        let dir = tempfile::tempdir().expect("folder");
        let file = RealFileSystem.create(&dir.path().join("f")).expect("file");
        let memory = vec![7; 3 * DIRECT_BYTES];
        let start = memory.as_ptr().align_offset(DIRECT_BYTES);
        let block = &memory[start..start + DIRECT_BYTES];
        let mut expected = vec![0; 3 * DIRECT_BYTES];
        for (bytes, offset) in [
            (&b"other"[..], 10),
            (block, DIRECT_BYTES),
            (&b"other"[..], DIRECT_BYTES + 1),
            (block, 0),
            (&block[..100], 2 * DIRECT_BYTES - 50),
            (block, 2 * DIRECT_BYTES),
        ] {
            let written = match bytes.len() == DIRECT_BYTES {
                true => file.write_blocks_at(bytes, offset as u64),
                false => file.write_at(bytes, offset as u64),
            };
            written.expect("written");
            expected[offset..offset + bytes.len()].copy_from_slice(bytes);
            let mut found = vec![0; expected.len()];
            let length = file.read_at(&mut found, 0).expect("read");
            assert_eq!(
                found[..length],
                expected[..length],
                "after the write at {offset}"
            );
        }
    }
}
