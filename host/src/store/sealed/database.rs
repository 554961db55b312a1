//! One sled database, as far as it can be trusted: what sled does when a disk fails or holds damage stays in here. sled
//! panics on some of it, most of all while a database is closed (it syncs then, and unwraps the answer), so nothing of
//! sled's runs, and nothing of it ends, but where a panic is caught. The only file that knows sled; what is in a
//! database is [`super::generation`]'s business.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::generation_files::{self, DATABASE};
use crate::disk::FileSystem;
use crate::runtime::{MachineThreads, Threads as _};
use crate::store::error::{DatabaseError, ReadError};

// Pages above a quarter of a segment become files of their own; a value of 64 KiB must not.
const SEGMENT_BYTES: usize = 2 << 20;
/// What a database takes of the disk with next to nothing in it: a segment, and what sled keeps beside.
pub(super) const EMPTY_BYTES: u64 = (SEGMENT_BYTES + (64 << 10)) as u64;
const CACHE_BYTES: u64 = 16 << 20;
// After so many bytes of values it is waited for that they are written. sled writes several segments at the same time, and
// what the journal wants to write meanwhile stands behind all of them.
const BURST_BYTES: usize = 1 << 20;
// How often, and how far apart, an open that finds the file lock taken is tried again: a database that was just closed can hold it
// for a moment, by the machine's time and not by any other.
const OPEN_ATTEMPTS: u32 = 1000;
const OPEN_PAUSE: Duration = Duration::from_millis(5);

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread would be caught and told as what is wrong with a database, as things are now. Whoever
/// reports panics has nothing to say about those.
#[must_use]
pub fn is_panic_expected() -> bool {
    // A thread that is ending has no database open.
    IS_GUARDED.try_with(Cell::get).unwrap_or(false)
}

/// An open database. It closes when it is dropped, which never panics; [`close`](Self::close) also says how that went.
pub(super) struct Database {
    /// Only closing takes it out.
    inner: Option<sled::Db>,
    path: PathBuf,
}

/// A key or a value, as it is read.
pub(super) type Value = sled::IVec;

/// Keys with their values, rising.
pub(super) struct Values<'a> {
    values: sled::Iter,
    path: &'a Path,
    // The iterator holds the database open, and must not be what closes it.
    database: PhantomData<&'a Database>,
}

impl Database {
    /// A new, empty one. Its folder and what is in it are made by sled, past `_fs`.
    pub(super) fn create(_fs: &dyn FileSystem, path: &Path) -> Result<Self, DatabaseError> {
        let inner = written(path, || config(path).create_new(true).open())?;
        Ok(Self::new(inner, path))
    }

    /// One that was sealed.
    pub(super) fn open(fs: &dyn FileSystem, path: &Path) -> Result<Self, ReadError> {
        // sled would begin an empty one.
        match fs.open(&path.join(DATABASE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::damaged(
                    path,
                    format!("the database, whose file `{DATABASE}` is missing,"),
                ));
            }
            other => other.map_err(ReadError::io(path))?,
        };
        remove_unfinished_snapshots(fs, path).map_err(ReadError::io(path))?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let opened = guarded(path, || Ok(config(path).open()))?;
            match opened {
                Err(error) if is_locked(&error) && attempts < OPEN_ATTEMPTS => {
                    // By sled's threads, for which no others stand.
                    MachineThreads.rest(OPEN_PAUSE);
                }
                other => {
                    let inner = other.map_err(ReadError::database(path))?;
                    return Ok(Self::new(inner, path));
                }
            }
        }
    }

    fn new(inner: sled::Db, path: &Path) -> Self {
        Self {
            inner: Some(inner),
            path: path.to_owned(),
        }
    }

    /// Reads from the first key that is not below `from` on.
    pub(super) fn read<T>(
        &self,
        from: &[u8],
        read: impl FnOnce(&mut Values<'_>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let Some(inner) = &self.inner else {
            return Err(ReadError::damaged(&self.path, "a database that is closed"));
        };
        guarded(&self.path, || {
            read(&mut Values {
                values: inner.range(from..),
                path: &self.path,
                database: PhantomData,
            })
        })
    }

    /// Puts these keys in, with their values: first every key with an empty value, which splits the tree's pages while they are
    /// small, then the values, each of which is then written about once. Inserting values at once writes every one about four
    /// times, and the file becomes more than twice as long.
    pub(super) fn insert_all(
        &self,
        batch: Vec<(impl AsRef<[u8]>, Vec<u8>)>,
    ) -> Result<(), DatabaseError> {
        let inserted = self.write(|tree| {
            for (key, _) in &batch {
                tree.insert(key, &[])?;
            }
            let mut unwritten = 0;
            for (key, value) in batch {
                unwritten += value.len();
                tree.insert(key, value)?;
                if unwritten >= BURST_BYTES {
                    tree.flush()?;
                    unwritten = 0;
                }
            }
            Ok(())
        });
        Ok(inserted?)
    }

    /// Hands everything to the operating system. Not yet durable.
    pub(super) fn flush(&self) -> Result<(), DatabaseError> {
        Ok(self.write(|tree| tree.flush().map(|_| ()))?)
    }

    fn write(
        &self,
        write: impl FnOnce(&sled::Tree) -> Result<(), sled::Error>,
    ) -> Result<(), sled::Error> {
        let Some(inner) = &self.inner else {
            return Err(sled::Error::Io(io::ErrorKind::NotConnected.into()));
        };
        written(&self.path, || write(inner))
    }

    /// Closes it. An error means that some of what was written may not be there, even if a later sync goes well.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(inner) = self.inner.take() else {
            return Ok(());
        };
        let closed = caught(|| {
            drop(inner);
            #[cfg(test)]
            failing::check(&self.path);
        });
        closed.map_err(|panic| {
            panic
                .system
                .unwrap_or_else(|| io::Error::other(format!("sled panicked: {}", panic.text)))
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(path = %self.path.display(), %error, "a database was not closed as it should be");
        }
    }
}

impl Values<'_> {
    /// The next key with its value.
    pub(super) fn next(&mut self) -> Result<Option<(Value, Value)>, ReadError> {
        let next = self.values.next().transpose();
        next.map_err(ReadError::database(self.path))
    }
}

pub(super) fn config(path: &Path) -> sled::Config {
    sled::Config::new()
        .path(path)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None)
}

pub(super) fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

fn remove_unfinished_snapshots(fs: &dyn FileSystem, path: &Path) -> io::Result<()> {
    let entries = fs.list(path)?.into_iter();
    let mut unfinished = entries.filter(|path| generation_files::is_unfinished_snapshot(path));
    unfinished.try_for_each(|path| fs.remove(&path))
}

impl From<sled::Error> for DatabaseError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io(error),
            other => Self::Other(Box::new(other)),
        }
    }
}

/// A panic of sled's.
struct Panic {
    text: String,
    /// The failure of the system that it was about.
    system: Option<io::Error>,
}

fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Panic> {
    let before = IS_GUARDED.replace(true);
    let ended = catch_unwind(AssertUnwindSafe(run));
    IS_GUARDED.set(before);
    ended.map_err(|payload| {
        let text = text_of(&*payload);
        let system = system_error(&text);
        Panic { text, system }
    })
}

// What a disk says must not end the broker. A failure of the system is no damage.
fn guarded<T>(path: &Path, run: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
    caught(run).unwrap_or_else(|panic| {
        Err(match panic.system {
            Some(system) => ReadError::io(path)(system),
            None => ReadError::damaged(
                path,
                format!("the database (sled panicked: {})", panic.text),
            ),
        })
    })
}

fn written<T>(path: &Path, run: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, sled::Error> {
    caught(run).unwrap_or_else(|panic| {
        let panicked = || {
            let what = format!("writing {} panicked: {}", path.display(), panic.text);
            io::Error::other(what)
        };
        Err(sled::Error::Io(panic.system.unwrap_or_else(panicked)))
    })
}

fn text_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("without a text").to_owned()
}

// sled unwraps errors of the system, and what it panics with names them as they are printed for debugging.
fn system_error(text: &str) -> Option<io::Error> {
    let (_, code) = text.split_once("Os { code: ")?;
    let (code, _) = code.split_once(',')?;
    code.parse().ok().map(io::Error::from_raw_os_error)
}

/// Databases whose closing fails as on a disk whose syncs do.
#[cfg(test)]
pub(crate) mod failing {
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    static WITHIN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    /// Of all databases within a folder, until it is dropped.
    pub(crate) struct Failing(PathBuf);

    /// From now on.
    pub(crate) fn closing(within: &Path) -> Failing {
        WITHIN.lock().expect("lock").push(within.to_owned());
        Failing(within.to_owned())
    }

    impl Drop for Failing {
        fn drop(&mut self) {
            WITHIN.lock().expect("lock").retain(|path| *path != self.0);
        }
    }

    /// A page is torn, say.
    pub(crate) fn panic_of_sled() {
        let torn = super::caught(|| panic!("a page is torn"));
        assert!(torn.is_err());
    }

    /// What a sync answers then.
    pub(super) fn failed(errno: rustix::io::Errno) -> io::Result<()> {
        Err(errno.into())
    }

    pub(super) fn check(path: &Path) {
        let fails = WITHIN
            .lock()
            .expect("lock")
            .iter()
            .any(|within| path.starts_with(within));
        if fails {
            // As sled does.
            failed(rustix::io::Errno::IO).expect("a sync");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::disk::RealFileSystem;
    use crate::store::error::SystemFailure;

    #[test]
    fn a_panic_about_a_failure_of_the_system_is_told_as_that_and_any_other_as_damage() {
        assert!(!is_panic_expected());
        let failed = guarded::<()>(Path::new("part"), || {
            assert!(is_panic_expected());
            failing::failed(rustix::io::Errno::NOSPC).expect("a sync");
            Ok(())
        });
        assert!(!is_panic_expected());
        let Err(ReadError::System(SystemFailure::File { source, .. })) = &failed else {
            panic!("{failed:?}");
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        let failed = guarded::<()>(Path::new("part"), || panic!("a page is {}", "torn"));
        let Err(error) = failed else {
            panic!("an error");
        };
        assert!(error.is_damage());
        assert!(error.to_string().contains("a page is torn"), "{error}");
    }

    #[test]
    fn a_database_whose_closing_fails_says_so_and_can_be_opened_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("part");
        let database = Database::create(&RealFileSystem, &path).expect("create");
        let insert = |tree: &sled::Tree| tree.insert(b"key", b"value").map(|_| ());
        database.write(insert).expect("write");
        database
            .write(|tree| tree.flush().map(|_| ()))
            .expect("flush");
        let failing = failing::closing(dir.path());
        let error = database.close().expect_err("closing fails");
        assert_eq!(error.raw_os_error(), Some(5));
        // Nor does dropping one panic, not even on the way out of something else that does.
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _open = Database::open(&RealFileSystem, &path).expect("open");
            panic!("something else");
        }));
        assert!(unwound.is_err());
        drop(failing);
        let database = Database::open(&RealFileSystem, &path).expect("open");
        let first = database.read(b"", |values| values.next()).expect("read");
        assert_eq!(first.expect("a value").1, b"value");
        database.close().expect("closed");
    }
}
