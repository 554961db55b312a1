//! A file system whose calls fail when a test says so.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::{File, FileSystem, Hold, RealFileSystem};

/// What a call of the file system does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
    Allocate,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It answers with an error of this kind.
    Error(io::ErrorKind),
    /// It panics, as a bug of ours would.
    Panic,
    /// The process has no file descriptor left.
    OutOfFiles,
    /// Allocations beyond this find the disk full.
    Limit(u64),
}

type Planned = Arc<Mutex<Option<(Operation, &'static str, Fault)>>>;

/// Fails operations of one kind on paths that contain a text, for as long as it is told to.
#[derive(Clone, Default)]
pub(crate) struct FaultyFileSystem {
    fault: Planned,
}

struct FaultyFile {
    file: Arc<dyn File>,
    path: PathBuf,
    fault: Planned,
}

impl FaultyFileSystem {
    /// From now on such operations fail with an error that says nothing.
    pub(crate) fn fail(&self, operation: Operation, path: &'static str) {
        self.fail_with(operation, path, Fault::Error(io::ErrorKind::Other));
    }

    /// From now on such operations fail like this.
    pub(crate) fn fail_with(&self, operation: Operation, path: &'static str, fault: Fault) {
        *self.fault.lock().expect("lock") = Some((operation, path, fault));
    }

    /// From now on there is room for files of at most so many bytes.
    pub(crate) fn limit_allocations(&self, bytes: u64) {
        self.fail_with(Operation::Allocate, "", Fault::Limit(bytes));
    }

    /// From now on none fails.
    pub(crate) fn heal(&self) {
        *self.fault.lock().expect("lock") = None;
    }

    fn wrap(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FaultyFile {
            file,
            path: path.to_owned(),
            fault: self.fault.clone(),
        })
    }

    fn check(&self, operation: Operation, path: &Path) -> io::Result<()> {
        check_fault(&self.fault, operation, path)
    }
}

fn check_fault(
    fault: &Mutex<Option<(Operation, &'static str, Fault)>>,
    operation: Operation,
    path: &Path,
) -> io::Result<()> {
    let planned = *fault.lock().expect("lock");
    match planned {
        Some((failing, text, fault)) if failing == operation && is_meant(path, text) => match fault
        {
            Fault::Error(kind) => Err(io::Error::new(kind, "injected")),
            Fault::Panic => panic!("injected"),
            Fault::OutOfFiles => Err(rustix::io::Errno::MFILE.into()),
            Fault::Limit(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

// `=name` means exactly the file or folder of that name.
fn is_meant(path: &Path, text: &str) -> bool {
    match text.strip_prefix('=') {
        Some(name) => path.file_name().is_some_and(|file| file == name),
        None => path.to_string_lossy().contains(text),
    }
}

impl FileSystem for FaultyFileSystem {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealFileSystem.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(path, RealFileSystem.open(path)?))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.check(Operation::Create, path)?;
        Ok(self.wrap(path, RealFileSystem.create(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Operation::Rename, to)?;
        RealFileSystem.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::Remove, path)?;
        RealFileSystem.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::Remove, path)?;
        RealFileSystem.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.check(Operation::SyncDir, path)?;
        RealFileSystem.sync_dir(path)
    }
    fn hold(&self, path: &Path) -> io::Result<Box<dyn Hold>> {
        RealFileSystem.hold(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        RealFileSystem.lock(path)
    }
}

impl File for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        check_fault(&self.fault, Operation::Read, &self.path)?;
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = check_fault(&self.fault, Operation::Write, &self.path) {
            // As a full disk does: a part arrives.
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_at(bytes, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        if let Some((_, _, Fault::Limit(bytes))) = *self.fault.lock().expect("lock")
            && length > bytes
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        check_fault(&self.fault, Operation::Allocate, &self.path)?;
        self.file.allocate(length)
    }
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }
    fn sync(&self) -> io::Result<()> {
        check_fault(&self.fault, Operation::Sync, &self.path)?;
        self.file.sync()
    }
}
