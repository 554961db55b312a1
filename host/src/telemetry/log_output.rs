//! Standard output and standard error as a broker writes to them. Lines wait in a bounded queue that a thread of its own
//! empties, so whoever has something to say never waits for whoever reads it: a pipe that nobody reads, a terminal that was
//! stopped, a full disk. What does not fit is dropped and counted. What a line says, and how, is decided elsewhere.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::metrics_registry::{Family, Kind};
use crate::locks::{Signal, lock};

/// Bytes of lines that wait. As much again may be under way to whoever reads: some ten thousand lines in all.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// A descriptor that we share with others may have been made non-blocking by one of them; how soon a full one is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// How long nothing is tried after a write that failed, at first and at most: a full disk has room again at some time, and
/// lines wait meanwhile as they do for a reader.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

static STDERR: OnceLock<Option<Lines>> = OnceLock::new();
static STDOUT: OnceLock<Option<Lines>> = OnceLock::new();

/// Lines on their way to one descriptor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    // Tells the writer that something waits.
    filled: Signal,
    // Tells who waits for the end of a queue.
    emptied: Signal,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    // The writer has taken lines and is not through with them.
    writing: bool,
    // The last write failed, so there is nothing to wait for.
    failing: bool,
    // Dropped since that was last said.
    unsaid: u64,
    // What the writer has to say of that.
    own: Vec<u8>,
    writer: Option<ThreadId>,
}

/// The lines of standard error, which start with the first call. `None` when no thread could be had for them.
pub fn stderr() -> Option<&'static Lines> {
    let start = || {
        let out = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
        Lines::start("stderr", out, say_dropped).ok()
    };
    STDERR.get_or_init(start).as_ref()
}

/// The lines of standard output, likewise.
pub fn stdout() -> Option<&'static Lines> {
    let start = || {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned().ok()?);
        Lines::start("stdout", out, |_| {}).ok()
    };
    STDOUT.get_or_init(start).as_ref()
}

/// Waits until everything that was said is written, as long as somebody reads it and for at most `longest`: before the
/// process ends.
pub fn flush(longest: Duration) {
    let until = Instant::now() + longest;
    for lines in [&STDERR, &STDOUT] {
        if let Some(Some(lines)) = lines.get() {
            lines.flush(until);
        }
    }
}

/// Lines that were dropped, for the page of metrics.
#[must_use]
pub fn families() -> Vec<Family> {
    let dropped = STDERR.get().and_then(Option::as_ref);
    let dropped = dropped.map_or(0, Lines::dropped);
    vec![Family::single(
        "log_lines_dropped",
        "Log lines that were dropped, since nobody read standard error or it took no more",
        Kind::Counter,
        dropped as f64,
    )]
}

// Through the log, so that it looks as the other lines do. As an error, since whoever reads no lesser ones misses errors too.
fn say_dropped(lines: u64) {
    tracing::error!(
        lines,
        "log lines were dropped, since nobody read standard error or it took no more"
    );
}

impl Lines {
    /// Lines that go to `out`, written by a thread called `name`. When lines are written again after some were dropped, that
    /// thread calls `say_dropped`, which may push a line. That one is never counted as dropped.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    fn start(
        name: &str,
        out: impl Write + Send + 'static,
        say_dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let lines = Self(Arc::default());
        let writer = lines.clone();
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(move || writer.write_all(out, say_dropped))?;
        Ok(lines)
    }

    /// Takes one line, its end included, or several. Never waits; dropped when the queue has no room for it.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.writer == Some(thread::current().id()) {
            queue.own.extend_from_slice(line);
            return;
        }
        if queue.waiting.len() + line.len() > WAITING_BYTES_MAX {
            let count = lines_in(line);
            queue.unsaid += count;
            self.0.dropped.fetch_add(count, Ordering::Relaxed);
            return;
        }
        queue.waiting.extend_from_slice(line);
        drop(queue);
        self.0.filled.notify_one();
    }

    /// Lines dropped since the start.
    fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn flush(&self, until: Instant) {
        let mut queue = self.lock();
        while (!queue.waiting.is_empty() || queue.writing) && !queue.failing {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || queue.writer == Some(thread::current().id()) {
                return;
            }
            let emptied = &self.0.emptied;
            queue = emptied.wait_timeout(&self.0.queue, queue, left);
        }
    }

    // Until the process ends.
    fn write_all(&self, mut out: impl Write, say_dropped: impl Fn(u64)) {
        let mut taken = Vec::new();
        let mut pause = PAUSE;
        self.lock().writer = Some(thread::current().id());
        loop {
            self.take(&mut taken);
            let written = write(&mut out, &taken);
            if let Err(unwritten) = written {
                // Nobody can read it any more, or a disk is full; what comes next may have more luck.
                let count = lines_in(&taken[unwritten..]);
                self.lock().unsaid += count;
                self.0.dropped.fetch_add(count, Ordering::Relaxed);
            }
            taken.clear();
            // What was dropped is said once there is hope that it arrives.
            if written.is_ok() && self.say_unsaid(&mut out, &say_dropped) {
                pause = PAUSE;
                continue;
            }
            {
                let mut queue = self.lock();
                queue.failing = true;
                self.0.emptied.notify_all();
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    // Answers whether that was written, if there was anything to say.
    fn say_unsaid(&self, out: &mut impl Write, say_dropped: &impl Fn(u64)) -> bool {
        let unsaid = std::mem::take(&mut self.lock().unsaid);
        if unsaid == 0 {
            return true;
        }
        say_dropped(unsaid);
        let own = std::mem::take(&mut self.lock().own);
        let written = write(out, &own).is_ok();
        if !written {
            self.lock().unsaid += unsaid;
        }
        written
    }

    // Waits for lines.
    fn take(&self, taken: &mut Vec<u8>) {
        let mut queue = self.lock();
        queue.writing = false;
        while queue.waiting.is_empty() {
            self.0.emptied.notify_all();
            queue = self.0.filled.wait(&self.0.queue, queue);
        }
        std::mem::swap(&mut queue.waiting, taken);
        queue.writing = true;
        queue.failing = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.0.queue)
    }
}

/// A place for log lines: each `write` is one line.
#[derive(Clone, Copy, Debug)]
pub struct LineWriter(pub &'static Lines);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// Everything, or how much was written before it went wrong.
fn write(out: &mut impl Write, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

fn lines_in(bytes: &[u8]) -> u64 {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    // The rest of a line that was cut, or a line without an end.
    let cut = bytes.last().is_some_and(|last| *last != b'\n');
    (ends + usize::from(cut)) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    // A reader that takes what is written only as far as it is allowed to, piece by piece.
    struct Gate {
        allowed: mpsc::Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Once nobody allows anything any more, everything is read.
            let _ = self.allowed.recv();
            let piece = &bytes[..bytes.len().min(64 * 1024)];
            self.read.lock().expect("not poisoned").extend(piece);
            Ok(piece.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Lines, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (allow, allowed) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        let gate = Gate {
            allowed,
            read: read.clone(),
        };
        let own: Arc<OnceLock<Lines>> = Arc::default();
        let said = own.clone();
        let lines = Lines::start("gated", gate, move |dropped| {
            let lines = said.get().expect("set before anything is dropped");
            lines.push(format!("dropped {dropped}\n").as_bytes());
        });
        let lines = lines.expect("a thread");
        own.set(lines.clone()).expect("set once");
        (lines, allow, read)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_dropped_is_said_when_there_is_room() {
        let (lines, allow, read) = gated();
        let line = [&[b'x'; 1_023][..], b"\n"].concat();
        // Nothing is read, so at most two queues are taken: the one that waits, and the one that is under way.
        let pushed = 3 * WAITING_BYTES_MAX as u64 / 1_024;
        (0..pushed).for_each(|_| lines.push(&line));
        let dropped = lines.dropped();
        assert!(
            (pushed / 3..=2 * pushed / 3).contains(&dropped),
            "{dropped}"
        );

        drop(allow);
        lines.flush(soon());
        lines.push(b"after\n");
        lines.flush(soon());
        let text = String::from_utf8(read.lock().expect("not poisoned").clone()).expect("text");
        assert_eq!(text.matches("xxx\n").count() as u64, pushed - dropped);
        let said: u64 = text
            .lines()
            .filter_map(|line| line.strip_prefix("dropped ")?.parse::<u64>().ok())
            .sum();
        assert_eq!(said, dropped, "every dropped line is told of once");
        assert!(text.ends_with("after\n"), "what comes later is written");
    }

    #[test]
    fn the_end_waits_for_a_reader_but_not_for_ever() {
        let (lines, allow, read) = gated();
        lines.push(b"last words\n");
        lines.flush(Instant::now() + Duration::from_millis(10));
        assert!(read.lock().expect("not poisoned").is_empty());
        drop(allow);
        lines.flush(soon());
        assert_eq!(&*read.lock().expect("not poisoned"), b"last words\n");
    }

    #[test]
    fn a_descriptor_that_fails_costs_the_lines_that_it_was_given_only() {
        struct Full(u32, mpsc::Sender<Vec<u8>>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => Err(io::ErrorKind::StorageFull.into()),
                    2 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => {
                        self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
                        Ok(bytes.len())
                    }
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (written, read) = mpsc::channel();
        let lines = Lines::start("full", Full(0, written), |_| {}).expect("a thread");
        lines.push(b"a\nb\n");
        lines.flush(soon());
        assert_eq!(lines.dropped(), 2);
        lines.push(b"c\n");
        assert_eq!(read.recv().expect("written"), b"c\n");
        assert_eq!(lines.dropped(), 2);
    }

    #[test]
    fn what_is_said_of_dropped_lines_waits_until_it_arrives_and_counts_for_nothing() {
        // Takes nothing while it is full, and counts what it is asked to take.
        #[derive(Clone, Default)]
        struct Disk(Arc<Mutex<(bool, u64, Vec<u8>)>>);
        impl Write for Disk {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut disk = self.0.lock().expect("not poisoned");
                disk.1 += 1;
                if disk.0 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                disk.2.extend(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let disk = Disk::default();
        disk.0.lock().expect("not poisoned").0 = true;
        let own: Arc<OnceLock<Lines>> = Arc::default();
        let said = own.clone();
        let lines = Lines::start("disk", disk.clone(), move |dropped| {
            let lines = said.get().expect("set before anything is dropped");
            lines.push(format!("dropped {dropped}\n").as_bytes());
        });
        let lines = lines.expect("a thread");
        own.set(lines.clone()).expect("set once");
        // Each is tried, and none makes another.
        for line in 1..=3 {
            lines.push(b"lost\n");
            while lines.dropped() < line {
                thread::yield_now();
            }
        }
        let tries = disk.0.lock().expect("not poisoned").1;
        assert!(tries <= 3, "{tries}");
        // Nothing to wait for at the end either.
        lines.flush(soon());
        disk.0.lock().expect("not poisoned").0 = false;
        lines.push(b"kept\n");
        let text = || disk.0.lock().expect("not poisoned").2.clone();
        while !text().ends_with(b"dropped 3\n") {
            thread::yield_now();
        }
        assert_eq!(text(), b"kept\ndropped 3\n");
        assert_eq!(lines.dropped(), 3);
    }

    #[test]
    fn lines_are_counted_with_the_one_that_was_cut() {
        let check = |text: &str, lines: u64| assert_eq!(lines_in(text.as_bytes()), lines, "{text}");
        check("", 0);
        check("a", 1);
        check("a\n", 1);
        check("a\nb", 2);
    }
}
