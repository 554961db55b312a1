//! The filling with zeros: its thread, the preparer, fills the journal file after the present one with zeros, ahead of time. Syncing what is written into a file that
//! was only reserved makes the file system write down as well that those blocks are in use now, which costs about half as much
//! again as syncing blocks that have been written before. So where syncs matter more than bytes, a thread of its own
//! writes the next file once with zeros. It never touches a file that has a name in the journal, and whatever goes wrong
//! with it costs speed and nothing else.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::options::FileJournalOptions;
use crate::disk::{DIRECT_BYTES, File, FileSystem};
use crate::locks::{Signal, lock};
use crate::runtime::{Clock, Threads};
use crate::store::file_names;

/// Syncs in a file before the next one is prepared: a broker that hardly writes needs no second file.
const SYNCS_MIN: u32 = 256;
/// Bytes per second above which nothing is prepared: the disk is busy then, and every byte would be written twice.
const BUSY_BYTES_PER_SECOND: u64 = 16 << 20;
/// The zeros are written in steps of this, each synced, with a pause between them, so that a sync of the journal meanwhile
/// waits for little: half a millisecond at 1 GB/s. Shorter steps cost more processor time, which is mostly that of the sync.
const STEP_BYTES: usize = 512 << 10;
const PAUSE: Duration = Duration::from_millis(12);
/// Beside a file that was prepared itself, this many bytes are prepared for each byte written to it: the next file is ready
/// when the present one is half full, and until then the disk is left alone as far as can be.
const LEAD: u64 = 2;

/// Prepares the next file of one journal.
pub(super) struct Preparer {
    fs: Arc<dyn FileSystem>,
    clock: Clock,
    threads: Arc<dyn Threads>,
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
    /// A thread fills the file.
    Running(Arc<Filling>),
    Ready(Arc<dyn File>),
}

/// What the thread that fills a file is told, and what it answers.
struct Filling {
    order: Mutex<Order>,
    changed: Signal,
}

struct Order {
    /// It goes on until this many bytes are filled, and then waits.
    until: u64,
    stop: bool,
    ended: Option<Ended>,
}

enum Ended {
    Filled(Arc<dyn File>),
    /// It could not be filled, which is tried again later, or was stopped.
    Failed,
    Panicked,
}

impl Preparer {
    /// Prepares files of `bytes` for the journal in `dir`, once it is asked to.
    pub(super) fn new(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        bytes: u64,
        options: &FileJournalOptions,
    ) -> Self {
        Self {
            fs,
            path: file_names::prepared_file(dir),
            bytes,
            state: State::Idle,
            begun: options.clock.instant(),
            clock: options.clock.clone(),
            threads: options.threads.clone(),
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
                let seconds = (self.clock.instant() - self.begun).as_secs_f64();
                if (written as f64) < seconds * BUSY_BYTES_PER_SECOND as f64 {
                    self.start(until);
                }
            }
            State::Running(filling) => filling.go_on_until(until),
            State::Idle | State::Ready(_) => {}
        }
    }

    /// That its thread has panicked since the last call, if it has. The next one is started all the same.
    pub(super) fn take_death(&mut self) -> Option<String> {
        self.died.take()
    }

    /// Whether [`take`](Self::take) has a file.
    pub(super) fn is_ready(&mut self) -> bool {
        if let State::Running(filling) = &self.state
            && let Some(ended) = filling.take_end()
        {
            self.ended(ended);
        }
        matches!(self.state, State::Ready(_))
    }

    /// A new journal file begins: the prepared one, which is the caller's from now on, and where it lies, if there is one.
    pub(super) fn take(&mut self) -> Option<(Arc<dyn File>, PathBuf)> {
        self.begun = self.clock.instant();
        self.syncs = 0;
        if !self.is_ready() {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Ready(file) => Some((file, self.path.clone())),
            State::Idle | State::Running(_) => None,
        }
    }

    fn start(&mut self, until: u64) {
        let filling = Arc::new(Filling {
            order: Mutex::new(Order {
                until,
                stop: false,
                ended: None,
            }),
            changed: Signal::new(),
        });
        let (fs, threads) = (self.fs.clone(), self.threads.clone());
        let (path, bytes, end) = (self.path.clone(), self.bytes, EndOf(filling.clone()));
        let run = move || {
            let filled = fill(&*fs, &*threads, &path, bytes, &end.0);
            end.0.end(filled.map_or(Ended::Failed, Ended::Filled));
        };
        let started = self.threads.start("journal-preparer", Box::new(run));
        if started.is_ok() {
            self.state = State::Running(filling);
        }
    }

    fn ended(&mut self, ended: Ended) {
        self.state = match ended {
            Ended::Filled(file) => State::Ready(file),
            Ended::Failed => State::Idle,
            Ended::Panicked => {
                self.died = Some("it panicked while it prepared a file".to_owned());
                State::Idle
            }
        };
    }

    // Waits for the thread, if there is one.
    fn settle(&mut self) {
        if let State::Running(filling) = &self.state {
            let ended = filling.wait_for_end();
            self.ended(ended);
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let State::Running(filling) = &self.state {
            filling.stop();
        }
        self.settle();
        if matches!(self.state, State::Ready(_)) {
            // Removed at the next start otherwise.
            let _ = self.fs.remove(&self.path);
        }
    }
}

impl Filling {
    fn go_on_until(&self, until: u64) {
        let steps = |bytes| bytes / STEP_BYTES as u64;
        let mut order = lock(&self.order);
        if steps(std::mem::replace(&mut order.until, until)) != steps(until) {
            self.changed.notify_all();
        }
    }

    fn stop(&self) {
        lock(&self.order).stop = true;
        self.changed.notify_all();
    }

    // Only what ended first counts.
    fn end(&self, ended: Ended) {
        lock(&self.order).ended.get_or_insert(ended);
        self.changed.notify_all();
    }

    fn take_end(&self) -> Option<Ended> {
        lock(&self.order).ended.take()
    }

    fn wait_for_end(&self) -> Ended {
        let mut order = lock(&self.order);
        loop {
            match order.ended.take() {
                Some(ended) => return ended,
                None => order = self.changed.wait(&self.order, order),
            }
        }
    }

    // Waits until more than `at` bytes are asked for. Answers whether it is to go on at all.
    fn goes_on_at(&self, at: u64) -> bool {
        let mut order = lock(&self.order);
        while at >= order.until && !order.stop {
            order = self.changed.wait(&self.order, order);
        }
        !order.stop
    }
}

/// Held by the thread. Should that end without having said how, it has panicked, or was never run.
struct EndOf(Arc<Filling>);

impl Drop for EndOf {
    fn drop(&mut self) {
        self.0.end(Ended::Panicked);
    }
}

fn fill(
    fs: &dyn FileSystem,
    threads: &dyn Threads,
    path: &Path,
    bytes: u64,
    filling: &Filling,
) -> io::Result<Arc<dyn File>> {
    let filled = fill_file(fs, threads, path, bytes, filling);
    if filled.is_err() {
        // Nobody will use it.
        let _ = fs.remove(path);
    }
    filled
}

fn fill_file(
    fs: &dyn FileSystem,
    threads: &dyn Threads,
    path: &Path,
    bytes: u64,
    filling: &Filling,
) -> io::Result<Arc<dyn File>> {
    let file = fs.create(path)?;
    // Fails now rather than half-way when the disk is full.
    file.allocate(bytes)?;
    // More than needed, so that it has an address that can be written from directly.
    let zeros = vec![0; STEP_BYTES + DIRECT_BYTES];
    let zeros = &zeros[zeros.as_ptr().align_offset(DIRECT_BYTES) % DIRECT_BYTES..];
    let mut at = 0;
    while at < bytes {
        if !filling.goes_on_at(at) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let step = (bytes - at).min(STEP_BYTES as u64);
        file.write_blocks_at(&zeros[..step as usize], at)?;
        file.sync()?;
        at += step;
        threads.rest(PAUSE);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealFileSystem;
    use crate::domain::Millis;
    use crate::runtime::{MachineThreads, Random};

    /// Threads that never rest.
    #[derive(Debug)]
    struct Restless;

    impl Threads for Restless {
        fn start(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
            MachineThreads.start(name, run)
        }

        fn rest(&self, _: Duration) {}
    }

    /// Threads that cannot be started, or else end before they have begun.
    #[derive(Debug)]
    struct Short {
        is_started: bool,
    }

    impl Threads for Short {
        fn start(&self, _: &'static str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
            drop(run);
            match self.is_started {
                true => Ok(()),
                false => Err(io::ErrorKind::OutOfMemory.into()),
            }
        }

        fn rest(&self, _: Duration) {}
    }

    fn preparer_with(threads: Arc<dyn Threads>, dir: &Path, bytes: u64) -> Preparer {
        std::fs::create_dir_all(file_names::journal(dir)).expect("folder");
        let options = FileJournalOptions {
            file_bytes: bytes,
            publishable_bytes_max: u64::MAX,
            blocks_max: usize::MAX,
            clock: Clock::standing_at(Millis(0)),
            random: Random::seeded(0),
            threads,
        };
        let preparer = Preparer::new(Arc::new(RealFileSystem), dir, bytes, &options);
        options.clock.advance(Duration::from_secs(1));
        preparer
    }

    fn preparer(dir: &Path, bytes: u64) -> Preparer {
        preparer_with(Arc::new(Restless), dir, bytes)
    }

    fn wait_ready(preparer: &mut Preparer) {
        preparer.settle();
        assert!(preparer.is_ready(), "it gave up");
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
        let State::Running(filling) = &preparer.state else {
            panic!("it was not started");
        };
        assert_eq!(lock(&filling.order).until, 0);
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
    fn without_threads_there_is_none_and_that_one_has_died_is_told() {
        let dir = tempfile::tempdir().expect("folder");
        for is_started in [false, true] {
            let mut preparer = preparer_with(Arc::new(Short { is_started }), dir.path(), 10);
            preparer.start(u64::MAX);
            assert!(!preparer.is_ready());
            assert_eq!(preparer.take_death().is_some(), is_started);
            assert!(preparer.take_death().is_none());
        }
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
