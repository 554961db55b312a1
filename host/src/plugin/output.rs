//! What guests write to standard output and standard error, on its way to the broker's log: cut into lines,
//! each of bounded length, and bounded in number per second and plugin.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::stats::Counters;

const LINE_BYTES_MAX: usize = 1024;
// Lines of one plugin per second; what is more is counted and left out.
const LINES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The log of one plugin, shared by its instances.
pub(super) struct OutputLog {
    counters: Arc<Counters>,
    window: Mutex<Window>,
}

struct Window {
    start: Instant,
    lines: u32,
    left_out: u64,
}

/// The unfinished lines of one instance.
pub(super) struct GuestOutput {
    log: Arc<OutputLog>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl OutputLog {
    pub(super) fn new(counters: &Arc<Counters>) -> Arc<Self> {
        let window = Window {
            start: Instant::now(),
            lines: 0,
            left_out: 0,
        };
        Arc::new(Self {
            counters: Arc::clone(counters),
            window: Mutex::new(window),
        })
    }

    fn line(&self, stream: Stream, line: &[u8]) {
        let Some(left_out) = self
            .window
            .lock()
            .ok()
            .and_then(|mut window| window.admit())
        else {
            return;
        };
        let plugin = self.counters.label();
        if left_out > 0 {
            tracing::info!(target: "tidegate::plugin_output", plugin, left_out, "lines were left out");
        }
        let line = String::from_utf8_lossy(line);
        tracing::info!(target: "tidegate::plugin_output", plugin, ?stream, "{}", line.escape_debug());
    }
}

impl Window {
    // How many lines were left out before this one, or None: leave it out.
    fn admit(&mut self) -> Option<u64> {
        if self.start.elapsed() >= WINDOW {
            self.start = Instant::now();
            self.lines = 0;
        }
        if self.lines >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl GuestOutput {
    pub(super) fn new(log: &Arc<OutputLog>) -> Self {
        Self {
            log: Arc::clone(log),
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Takes a byte. A line goes to the log at its end, or when it is too long.
    pub(super) fn push(&mut self, stream: Stream, byte: u8) {
        let line = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if byte != b'\n' {
            line.push(byte);
        }
        if byte == b'\n' || line.len() >= LINE_BYTES_MAX {
            self.log.line(stream, line);
            line.clear();
        }
    }

    /// Sends unfinished lines to the log.
    pub(super) fn flush(&mut self) {
        for (stream, line) in [
            (Stream::Stdout, &mut self.stdout),
            (Stream::Stderr, &mut self.stderr),
        ] {
            if !line.is_empty() {
                self.log.line(stream, line);
                line.clear();
            }
        }
    }
}
