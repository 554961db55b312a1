//! What both ends remember of one direction of a stream: the last bytes of events that were to be remembered. It costs nothing before
//! there are any.

use crate::limits::REMEMBERED_BYTES_MAX;

#[derive(Debug, Default)]
pub(super) struct History(Vec<u8>);

impl History {
    /// The dictionary for the next batch.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Puts `bytes` at the end; what is too much goes from the front.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(REMEMBERED_BYTES_MAX)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(REMEMBERED_BYTES_MAX);
        self.0.drain(..excess);
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // Twice as much each time, but never more than is kept.
            let wanted = needed.max(2 * self.0.capacity()).min(REMEMBERED_BYTES_MAX);
            self.0.reserve_exact(wanted - self.0.len());
        }
        self.0.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_stay() {
        let mut history = History::default();
        let mut all = Vec::new();
        for step in 0..200_usize {
            let bytes = vec![step as u8; step * 7 % 301];
            history.push(&bytes);
            all.extend(bytes);
            let kept = &all[all.len().saturating_sub(REMEMBERED_BYTES_MAX)..];
            assert_eq!(history.bytes(), kept);
            assert!(history.0.capacity() <= REMEMBERED_BYTES_MAX);
        }
        history.push(&vec![7; 3 * REMEMBERED_BYTES_MAX]);
        assert_eq!(history.bytes(), vec![7; REMEMBERED_BYTES_MAX]);
    }
}
