//! The journal file after the present one, filled with zeros ahead of time. Syncing what is written into a file that was
//! only reserved makes the file system write down as well that those blocks are in use now, which costs about half as much
//! again as syncing blocks that have been written before. So where syncs matter more than bytes, a thread of its own
//! writes the next file once with zeros. It never touches a file that has a name in the journal, and whatever goes wrong
//! with it costs speed and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::fs::{DIRECT_BYTES, File, FileSystem};
use super::journal::ASIDE;
use super::journal_dir;

/// Syncs in a file before the next one is prepared: a broker that hardly writes needs no second file.
const SYNCS_MIN: u32 = 256;
/// Bytes per second above which nothing is prepared: the disk is busy then, and every byte would be written twice.
const BUSY_BYTES_PER_SECOND: u64 = 16 << 20;
/// The zeros are written in steps of this, each synced, with a pause between them, so that a sync of the journal meanwhile
/// waits for little.
const STEP_BYTES: usize = 128 << 10;
const PAUSE: Duration = Duration::from_millis(3);

pub(super) struct Preparer {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    bytes: u64,
    state: State,
    // Of the present journal file.
    begun: Instant,
    syncs: u32,
}

enum State {
    Idle,
    Running {
        thread: JoinHandle<io::Result<Arc<dyn File>>>,
        stop: Arc<AtomicBool>,
    },
    Ready(Arc<dyn File>),
}

impl Preparer {
    /// Prepares files of `bytes` for the journal in `dir`, once it is asked to.
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: &Path, bytes: u64) -> Self {
        Self {
            fs,
            path: journal_dir(dir).join("prepared").with_extension(ASIDE),
            bytes,
            state: State::Idle,
            begun: Instant::now(),
            syncs: 0,
        }
    }

    /// Length of the files it prepares.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The journal was synced, with `written` bytes in its present file. Starts to prepare the next one if that is worth it.
    pub(super) fn synced(&mut self, written: u64) {
        self.syncs += 1;
        if !self.syncs.is_multiple_of(SYNCS_MIN) || !matches!(self.state, State::Idle) {
            return;
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        if (written as f64) < seconds * BUSY_BYTES_PER_SECOND as f64 {
            self.start();
        }
    }

    /// Whether [`take`](Self::take) has a file.
    pub(super) fn is_ready(&mut self) -> bool {
        if let State::Running { thread, .. } = &self.state
            && thread.is_finished()
        {
            self.settle();
        }
        matches!(self.state, State::Ready(_))
    }

    /// A new journal file begins: the prepared one, which is the caller's from now on, and where it lies, if there is one.
    pub(super) fn take(&mut self) -> Option<(Arc<dyn File>, PathBuf)> {
        self.begun = Instant::now();
        self.syncs = 0;
        if !self.is_ready() {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Ready(file) => Some((file, self.path.clone())),
            State::Idle | State::Running { .. } => None,
        }
    }

    fn start(&mut self) {
        let (fs, path, bytes) = (self.fs.clone(), self.path.clone(), self.bytes);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("journal-preparer".into())
            .spawn(move || fill(&*fs, &path, bytes, &stopped));
        if let Ok(thread) = thread {
            self.state = State::Running { thread, stop };
        }
    }

    // Waits for the thread, if there is one. What it could not finish is tried again later.
    fn settle(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Running { thread, .. } => match thread.join() {
                Ok(Ok(file)) => State::Ready(file),
                Ok(Err(_)) | Err(_) => State::Idle,
            },
            settled => settled,
        };
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let State::Running { stop, .. } = &self.state {
            stop.store(true, Ordering::Relaxed);
        }
        self.settle();
        if matches!(self.state, State::Ready(_)) {
            // Removed at the next start otherwise.
            let _ = self.fs.remove(&self.path);
        }
    }
}

fn fill(
    fs: &dyn FileSystem,
    path: &Path,
    bytes: u64,
    stop: &AtomicBool,
) -> io::Result<Arc<dyn File>> {
    let filled = fill_file(fs, path, bytes, stop);
    if filled.is_err() {
        // Nobody will use it.
        let _ = fs.remove(path);
    }
    filled
}

fn fill_file(
    fs: &dyn FileSystem,
    path: &Path,
    bytes: u64,
    stop: &AtomicBool,
) -> io::Result<Arc<dyn File>> {
    let file = fs.create(path)?;
    // Fails now rather than half-way when the disk is full.
    file.allocate(bytes)?;
    // More than needed, so that it has an address that can be written from directly.
    let zeros = vec![0; STEP_BYTES + DIRECT_BYTES];
    let zeros = &zeros[zeros.as_ptr().align_offset(DIRECT_BYTES) % DIRECT_BYTES..];
    let mut at = 0;
    while at < bytes {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let step = (bytes - at).min(STEP_BYTES as u64);
        file.write_blocks_at(&zeros[..step as usize], at)?;
        file.sync()?;
        at += step;
        std::thread::sleep(PAUSE);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RealFileSystem;

    fn preparer(dir: &Path, bytes: u64) -> Preparer {
        std::fs::create_dir_all(journal_dir(dir)).expect("folder");
        Preparer::new(Arc::new(RealFileSystem), dir, bytes)
    }

    fn wait_ready(preparer: &mut Preparer) {
        while !preparer.is_ready() {
            assert!(
                matches!(preparer.state, State::Running { .. }),
                "it gave up"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_journal_that_syncs_often_and_writes_little_gets_a_file_of_zeros() {
        let dir = tempfile::tempdir().expect("folder");
        let bytes = STEP_BYTES as u64 + 10;
        let mut preparer = preparer(dir.path(), bytes);
        for _ in 1..SYNCS_MIN {
            preparer.synced(0);
        }
        assert!(!preparer.is_ready() && matches!(preparer.state, State::Idle));
        preparer.synced(0);
        wait_ready(&mut preparer);
        let (file, path) = preparer.take().expect("ready");
        let content = std::fs::read(path).expect("there");
        assert_eq!(file.length().expect("length"), bytes);
        assert!(content.len() as u64 == bytes && content.iter().all(|byte| *byte == 0));
        assert!(preparer.take().is_none());
    }

    #[test]
    fn a_busy_journal_gets_none() {
        let dir = tempfile::tempdir().expect("folder");
        let mut preparer = preparer(dir.path(), 10);
        for _ in 0..2 * SYNCS_MIN {
            preparer.synced(u64::MAX);
        }
        assert!(matches!(preparer.state, State::Idle));
    }

    #[test]
    fn what_is_not_used_is_removed() {
        let dir = tempfile::tempdir().expect("folder");
        for wait in [true, false] {
            let mut preparer = preparer(dir.path(), 512 * STEP_BYTES as u64);
            preparer.bytes = if wait { 10 } else { preparer.bytes };
            preparer.start();
            if wait {
                wait_ready(&mut preparer);
            }
            let path = preparer.path.clone();
            drop(preparer);
            assert!(!path.exists(), "{wait}");
        }
    }
}
