//! What guests write to standard output and standard error, on its way to the broker's log: cut into lines,
//! each of bounded length, and bounded in number per second and plugin.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::counters::Counters;
use crate::domain::is_plain;
use crate::locks::lock;

const LINE_BYTES_MAX: usize = 1024;
// What is remembered of a call's standard error, to explain a trap.
const LAST_WORDS_BYTES_MAX: usize = 512;
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
    rate: Mutex<LineRate>,
}

struct LineRate {
    start: Instant,
    lines: u32,
    left_out: u64,
}

/// The unfinished lines of one instance.
pub(super) struct GuestOutput {
    log: Arc<OutputLog>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    last_words: VecDeque<String>,
    last_words_bytes: usize,
}

impl OutputLog {
    pub(super) fn new(counters: &Arc<Counters>) -> Arc<Self> {
        let rate = LineRate {
            start: Instant::now(),
            lines: 0,
            left_out: 0,
        };
        Arc::new(Self {
            counters: Arc::clone(counters),
            rate: Mutex::new(rate),
        })
    }

    fn line(&self, stream: Stream, line: &str) {
        let admitted = lock(&self.rate).admit();
        let Some(left_out) = admitted else {
            return;
        };
        let plugin = self.counters.label();
        if left_out > 0 {
            tracing::info!(target: "tidegate::plugin_output", %plugin, left_out, "lines were left out");
        }
        tracing::info!(target: "tidegate::plugin_output", %plugin, ?stream, "{line}");
    }
}

impl LineRate {
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
            last_words: VecDeque::new(),
            last_words_bytes: 0,
        }
    }

    /// A new call begins: what earlier ones wrote explains nothing any more.
    pub(super) fn begin_call(&mut self) {
        self.last_words.clear();
        self.last_words_bytes = 0;
    }

    /// Takes a byte. A line goes to the log at its end, or when it is too long.
    pub(super) fn push(&mut self, stream: Stream, byte: u8) {
        let line = self.buffer(stream);
        if byte != b'\n' {
            line.push(byte);
        }
        if byte == b'\n' || line.len() >= LINE_BYTES_MAX {
            self.end_line(stream);
        }
    }

    /// Sends unfinished lines to the log.
    pub(super) fn flush(&mut self) {
        self.end_line(Stream::Stdout);
        self.end_line(Stream::Stderr);
    }

    /// The last lines that this call wrote to standard error, of a bounded length: the message of a panic, with luck.
    pub(super) fn last_words(&self) -> String {
        let lines: Vec<&str> = self.last_words.iter().map(String::as_str).collect();
        lines.join(" ")
    }

    // The last lines are those that explain a fault.
    fn remember(&mut self, mut line: String) {
        line.truncate(line.floor_char_boundary(LAST_WORDS_BYTES_MAX));
        self.last_words_bytes += line.len();
        self.last_words.push_back(line);
        while self.last_words_bytes > LAST_WORDS_BYTES_MAX
            && let Some(first) = self.last_words.pop_front()
        {
            self.last_words_bytes -= first.len();
        }
    }

    fn buffer(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn end_line(&mut self, stream: Stream) {
        let bytes = std::mem::take(self.buffer(stream));
        let line = readable(&bytes);
        if line.trim().is_empty() {
            return;
        }
        // What Rust adds to every panic, and nobody can follow: a plugin has no environment.
        if line.starts_with("note: run with `RUST_BACKTRACE=") {
            return;
        }
        self.log.line(stream, &line);
        if stream == Stream::Stderr {
            self.remember(line);
        }
    }
}

/// Text that cannot play tricks with a terminal.
pub(super) fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.replace(|c| !is_plain(c), " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_remembered_and_no_more_than_may_be() {
        let mut output = GuestOutput::new(&OutputLog::new(&Arc::default()));
        let mut write = |text: &str| {
            text.bytes()
                .for_each(|byte| output.push(Stream::Stderr, byte));
            output.last_words()
        };
        assert_eq!(write("one\n\u{1b}[2Jtwo\u{202e}\nthr"), "one  [2Jtwo ");
        let many: String = (0..1_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        let words = write(&many);
        assert!(words.ends_with("line 998 line 999") && words.len() <= 2 * LAST_WORDS_BYTES_MAX);
        let long = write(&format!("{}\n", "é".repeat(LINE_BYTES_MAX / 2 - 1)));
        assert_eq!(long, "é".repeat(LAST_WORDS_BYTES_MAX / 2));
        output.begin_call();
        assert_eq!(output.last_words(), "");
    }
}
