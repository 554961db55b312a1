//! The folders of an open store, and whether they are still where they were when it was opened. An operator can rename, delete or
//! replace them under a running broker, and a path then leads nowhere, or to the files of another one. So whatever the store does by
//! path goes through [`HeldFileSystem`], which looks first; what is open already is not asked for. Nothing here repairs anything
//! but the lock file: a folder that is back is used again by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{File, FileSystem, Hold};
use crate::locks::lock;

/// The folders of one store, kept open.
pub struct Folders {
    fs: Arc<dyn FileSystem>,
    held: Vec<(PathBuf, Box<dyn Hold>)>,
    /// Kept beside `why`, so that asking costs a load.
    lost: AtomicBool,
    why: Mutex<Option<String>>,
}

/// A path does not lead any more to what was opened.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Displaced(String);

impl Folders {
    /// Keeps the folders `within` the store in `dir` open, and its lock, which keeps that folder itself open.
    ///
    /// # Errors
    ///
    /// One of them cannot be opened, or the store's is not where it was locked any more.
    pub(super) fn open(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        lock: Box<dyn Hold>,
        within: &[PathBuf],
    ) -> io::Result<Arc<Self>> {
        let mut held = vec![(dir.to_owned(), lock)];
        for folder in within {
            held.push((folder.clone(), fs.hold(folder)?));
        }
        let folders = Self {
            fs,
            held,
            lost: AtomicBool::new(false),
            why: Mutex::default(),
        };
        folders.check()?;
        Ok(Arc::new(folders))
    }

    /// Looks at all of them, and remembers what it found.
    ///
    /// # Errors
    ///
    /// One is not there, or another one is in its place ([`is_displaced`] says so), or that cannot be told.
    pub(super) fn check(&self) -> io::Result<()> {
        for (path, hold) in &self.held {
            let Some(how) = hold.displaced()? else {
                continue;
            };
            let why = format!(
                "{} {how}. Put the folder back where it was, or stop the broker and start it on the right one; until then nothing is \
                 written",
                path.display()
            );
            if !self.is_lost() {
                reached!(FolderLost);
            }
            self.remember(Some(why.clone()));
            return Err(io::Error::other(Displaced(why)));
        }
        if self.is_lost() && !planted!(LostFolderStays) {
            reached!(FolderBack);
            self.remember(None);
        }
        Ok(())
    }

    /// Looks again, and answers why nothing can be written, if that is so. Blocks on the disk.
    #[must_use]
    pub fn look(&self) -> Option<String> {
        if let Err(error) = self.check()
            && !is_displaced(&error)
        {
            tracing::debug!(%error, "it cannot be told whether the store's folders are in place");
        }
        self.lost()
    }

    /// Why nothing can be written, as far as is known. Does not ask the disk.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.is_lost().then(|| self.why().clone()).flatten()
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn remember(&self, why: Option<String>) {
        let mut known = self.why();
        self.lost.store(why.is_some(), Ordering::Release);
        *known = why;
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        lock(&self.why)
    }
}

/// Whether something was not done because a path does not lead any more to what was opened.
pub(super) fn is_displaced(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|source| source.is::<Displaced>())
}

/// The file system of an open store: it does nothing by path while a folder of the store is not in place.
pub(super) struct HeldFileSystem(pub(super) Arc<Folders>);

impl HeldFileSystem {
    fn checked(&self) -> io::Result<&dyn FileSystem> {
        self.0.check()?;
        Ok(&*self.0.fs)
    }
}

impl FileSystem for HeldFileSystem {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.checked()?.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.checked()?.list(path)
    }
    fn is_dir(&self, path: &Path) -> bool {
        self.0.fs.is_dir(path)
    }
    fn is_symlink(&self, path: &Path) -> bool {
        self.0.fs.is_symlink(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.checked()?.open(path)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.checked()?.create(path)
    }
    // What has a name now may have got it in a folder that was put there meanwhile, so nobody may rely on it then.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.checked()?.rename(from, to)?;
        self.0.check()
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.checked()?.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.checked()?.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.checked()?.sync_dir(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.checked()?.free_bytes(path)
    }
    fn hold(&self, path: &Path) -> io::Result<Box<dyn Hold>> {
        self.checked()?.hold(path)
    }
    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        self.checked()?.lock(dir)
    }
}
