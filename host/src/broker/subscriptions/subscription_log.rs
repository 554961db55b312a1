//! What lately went wrong with a subscription or route, for whoever it belongs to: failures of its filters and transforms, and events
//! that were given up. The broker's own log is the operator's. A few lines of bounded length for each subscription, in memory only; a new one pushes the oldest out.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::domain::{LogLine, Millis};
use crate::locks::lock;

/// Lines of one subscription. As the log, it is told of each kind of thing once a second at most.
const LINES_MAX: usize = 32;
/// Bytes of a line; with the above, 32 KiB for a subscription of which much is said, and nothing for the others.
const LINE_BYTES_MAX: usize = 1024;

/// The lines of one subscription.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionLog(Mutex<VecDeque<LogLine>>);

impl SubscriptionLog {
    /// Adds a line, cut where it is too long.
    pub(crate) fn push(&self, time: Millis, mut text: String) {
        let mut end = text.len().min(LINE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let mut lines = lock(&self.0);
        if lines.len() >= LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(LogLine { time, text });
    }

    /// All lines, the oldest first.
    pub(crate) fn lines(&self) -> Vec<LogLine> {
        let lines = lock(&self.0);
        lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_none_is_long() {
        let log = SubscriptionLog::default();
        for number in 0..LINES_MAX as u64 + 2 {
            log.push(Millis(number), "ü".repeat(LINE_BYTES_MAX));
        }
        let lines = log.lines();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[0].time, Millis(2));
        assert!(lines.iter().all(|line| line.text.len() <= LINE_BYTES_MAX));
    }
}
