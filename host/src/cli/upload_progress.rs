//! How far an upload is: bytes that were sent, then compiling, which takes most of a minute for a large component. A bar on a
//! terminal; elsewhere a line about each of the two that takes more than two seconds.

use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{human_values, output};

/// What ends before needs no line.
const LINE_AFTER: Duration = Duration::from_secs(2);

/// Told while it lives.
pub(super) struct UploadProgress {
    sent: Arc<AtomicU64>,
    bar: ProgressBar,
    // Dropped to end the thread, which has nothing else to do.
    lines: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The component, counted as it is read to be sent.
pub(super) struct Counted<'a> {
    left: &'a [u8],
    sent: Arc<AtomicU64>,
    bar: ProgressBar,
}

impl UploadProgress {
    /// Of plugin `name`, of which so many bytes are to be sent.
    pub(super) fn new(name: &str, bytes: u64) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        if io::stderr().is_terminal() {
            return Self {
                sent,
                bar: bar(name, bytes),
                lines: None,
            };
        }
        let (end, ended) = mpsc::channel();
        let (name, counted) = (name.to_owned(), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let mut said = None;
            while ended.recv_timeout(LINE_AFTER) == Err(RecvTimeoutError::Timeout) {
                let sent = counted.load(Ordering::Relaxed);
                let phase = (sent == bytes, line(&name, sent, bytes));
                if said != Some(phase.0) {
                    output::note(&phase.1);
                    said = Some(phase.0);
                }
            }
        });
        Self {
            sent,
            bar: ProgressBar::hidden(),
            lines: Some((end, thread)),
        }
    }

    /// What is to be sent, to be read once.
    pub(super) fn counted<'a>(&self, component: &'a [u8]) -> Counted<'a> {
        Counted {
            left: component,
            sent: Arc::clone(&self.sent),
            bar: self.bar.clone(),
        }
    }
}

impl Drop for UploadProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some((end, thread)) = self.lines.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.left.read(buffer)?;
        self.sent.fetch_add(read as u64, Ordering::Relaxed);
        self.bar.inc(read as u64);
        if self.left.is_empty()
            && read > 0
            && let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}")
        {
            self.bar.set_style(style);
            self.bar.set_message("sent; the broker compiles it");
        }
        Ok(read)
    }
}

fn bar(name: &str, bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes).with_message(format!("uploading {name}"));
    let template = "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn line(name: &str, sent: u64, bytes: u64) -> String {
    let all = human_values::bytes(bytes);
    match sent == bytes {
        true => format!("waiting: all {all} of {name} are sent; the broker compiles it"),
        false => format!(
            "waiting: {} of {all} of {name} are sent",
            human_values::bytes(sent)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_counted_as_sent() {
        let component = vec![7; 3_000_000];
        let progress = UploadProgress::new("p", 3_000_000);
        let mut counted = progress.counted(&component);
        let mut some = vec![0; 1_000_000];
        counted.read_exact(&mut some).expect("there");
        let sent = || progress.sent.load(Ordering::Relaxed);
        assert!(
            line("p", sent(), 3_000_000).contains("976.6 KiB of 2.9 MiB"),
            "{}",
            sent()
        );
        let mut rest = Vec::new();
        counted.read_to_end(&mut rest).expect("there");
        assert_eq!(some.len() + rest.len(), component.len());
        assert!(line("p", sent(), 3_000_000).contains("compiles"));
    }
}
