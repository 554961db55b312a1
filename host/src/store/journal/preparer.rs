//! The journal file after the present one, filled with zeros ahead of time. Syncing what is written into a file that was
//! only reserved makes the file system write down as well that those blocks are in use now, which costs about half as much
//! again as syncing blocks that have been written before. So where syncs matter more than bytes, a thread of its own
//! writes the next file once with zeros. It never touches a file that has a name in the journal, and whatever goes wrong
//! with it costs speed and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::store::fs::{DIRECT_BYTES, File, FileSystem};
use crate::store::layout;

/// Syncs in a file before the next one is prepared: a broker that hardly writes needs no second file.
const SYNCS_MIN: u32 = 256;
/// Bytes per second above which nothing is prepared: the disk is busy then, and every byte would be written twice.
const BUSY_BYTES_PER_SECOND: u64 = 16 << 20;
/// The zeros are written in steps of this, each synced, with a pause between them, so that a sync of the journal meanwhile
/// waits for little.
const STEP_BYTES: usize = 128 << 10;
const PAUSE: Duration = Duration::from_millis(3);
/// Beside a file that was prepared itself, this many bytes are prepared for each byte written to it: the next file is ready
/// when the present one is half full, and until then the disk is left alone as far as can be.
const LEAD: u64 = 2;

pub(super) struct Preparer {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    bytes: u64,
    state: State,
    // Of the present journal file.
    begun: Instant,
    syncs: u32,
    // What its thread died of, until somebody asks.
    died: Option<String>,
}

enum State {
    Idle,
    Running {
        thread: JoinHandle<io::Result<Arc<dyn File>>>,
        order: Arc<Order>,
    },
    Ready(Arc<dyn File>),
}

// What the thread is told while it runs.
struct Order {
    // It goes on until this many bytes are filled, and then waits to be unparked.
    until: AtomicU64,
    stop: AtomicBool,
}

impl Preparer {
    /// Prepares files of `bytes` for the journal in `dir`, once it is asked to.
    pub(super) fn new(fs: Arc<dyn FileSystem>, dir: &Path, bytes: u64) -> Self {
        Self {
            fs,
            path: layout::prepared_file(dir),
            bytes,
            state: State::Idle,
            begun: Instant::now(),
            syncs: 0,
            died: None,
        }
    }

    /// Length of the files it prepares.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The journal was synced, with `written` bytes in its present file, which was prepared itself or not. Starts to prepare
    /// the next one if that is worth it.
    pub(super) fn synced(&mut self, written: u64, is_prepared: bool) {
        self.syncs += 1;
        // Out of a file that was not prepared the journal moves as soon as it can.
        let until = match is_prepared {
            true => LEAD * written,
            false => u64::MAX,
        };
        match &self.state {
            State::Idle if self.syncs.is_multiple_of(SYNCS_MIN) => {
                let seconds = self.begun.elapsed().as_secs_f64();
                if (written as f64) < seconds * BUSY_BYTES_PER_SECOND as f64 {
                    self.start(until);
                }
            }
            State::Running { thread, order } => {
                let steps = |bytes| bytes / STEP_BYTES as u64;
                if steps(order.until.swap(until, Ordering::Relaxed)) != steps(until) {
                    thread.thread().unpark();
                }
            }
            State::Idle | State::Ready(_) => {}
        }
    }

    /// That its thread has panicked since the last call, if it has. The next one is started all the same.
    pub(super) fn take_death(&mut self) -> Option<String> {
        self.died.take()
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

    fn start(&mut self, until: u64) {
        let (fs, path, bytes) = (self.fs.clone(), self.path.clone(), self.bytes);
        let order = Arc::new(Order {
            until: AtomicU64::new(until),
            stop: AtomicBool::new(false),
        });
        let given = order.clone();
        let thread = std::thread::Builder::new()
            .name("journal-preparer".into())
            .spawn(move || fill(&*fs, &path, bytes, &given));
        if let Ok(thread) = thread {
            self.state = State::Running { thread, order };
        }
    }

    // Waits for the thread, if there is one. What it could not finish is tried again later.
    fn settle(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Idle) {
            State::Running { thread, .. } => match thread.join() {
                Ok(Ok(file)) => State::Ready(file),
                Ok(Err(_)) => State::Idle,
                Err(_) => {
                    self.died = Some("it panicked while it prepared a file".to_owned());
                    State::Idle
                }
            },
            settled => settled,
        };
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let State::Running { thread, order } = &self.state {
            order.stop.store(true, Ordering::Relaxed);
            thread.thread().unpark();
        }
        self.settle();
        if matches!(self.state, State::Ready(_)) {
            // Removed at the next start otherwise.
            let _ = self.fs.remove(&self.path);
        }
    }
}

fn fill(fs: &dyn FileSystem, path: &Path, bytes: u64, order: &Order) -> io::Result<Arc<dyn File>> {
    let filled = fill_file(fs, path, bytes, order);
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
    order: &Order,
) -> io::Result<Arc<dyn File>> {
    let file = fs.create(path)?;
    // Fails now rather than half-way when the disk is full.
    file.allocate(bytes)?;
    // More than needed, so that it has an address that can be written from directly.
    let zeros = vec![0; STEP_BYTES + DIRECT_BYTES];
    let zeros = &zeros[zeros.as_ptr().align_offset(DIRECT_BYTES) % DIRECT_BYTES..];
    let mut at = 0;
    while at < bytes {
        // Parking ends early now and then, and at once if it was unparked before.
        while at >= order.until.load(Ordering::Relaxed) && !order.stop.load(Ordering::Relaxed) {
            std::thread::park();
        }
        if order.stop.load(Ordering::Relaxed) {
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
        std::fs::create_dir_all(layout::journal(dir)).expect("folder");
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
            preparer.synced(0, false);
        }
        assert!(!preparer.is_ready() && matches!(preparer.state, State::Idle));
        preparer.synced(0, false);
        wait_ready(&mut preparer);
        let (file, path) = preparer.take().expect("ready");
        let content = std::fs::read(path).expect("there");
        assert_eq!(file.length().expect("length"), bytes);
        assert!(content.len() as u64 == bytes && content.iter().all(|byte| *byte == 0));
        assert!(preparer.take().is_none());
    }

    #[test]
    fn beside_a_prepared_file_it_keeps_pace_with_what_is_written() {
        let dir = tempfile::tempdir().expect("folder");
        let step = STEP_BYTES as u64;
        let mut preparer = preparer(dir.path(), 4 * step);
        for _ in 0..SYNCS_MIN {
            preparer.synced(0, true);
        }
        let State::Running { thread, order } = &preparer.state else {
            panic!("it was not started");
        };
        assert_eq!(order.until.load(Ordering::Relaxed), 0);
        assert!(!thread.is_finished());
        preparer.synced(step, true);
        assert!(!preparer.is_ready(), "half of it has no reason yet");
        preparer.synced(2 * step, true);
        wait_ready(&mut preparer);
    }

    #[test]
    fn a_busy_journal_gets_none() {
        let dir = tempfile::tempdir().expect("folder");
        let mut preparer = preparer(dir.path(), 10);
        for _ in 0..2 * SYNCS_MIN {
            preparer.synced(u64::MAX, false);
        }
        assert!(matches!(preparer.state, State::Idle));
    }

    #[test]
    fn what_is_not_used_is_removed() {
        let dir = tempfile::tempdir().expect("folder");
        for wait in [true, false] {
            let mut preparer = preparer(dir.path(), 512 * STEP_BYTES as u64);
            preparer.bytes = if wait { 10 } else { preparer.bytes };
            preparer.start(if wait { u64::MAX } else { 0 });
            if wait {
                wait_ready(&mut preparer);
            }
            let path = preparer.path.clone();
            drop(preparer);
            assert!(!path.exists(), "{wait}");
        }
    }
}
