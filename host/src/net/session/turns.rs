//! Whoever packs or unpacks much for one client lets others have their turns in between: nothing else on such a stream ever waits, as
//! long as its client has said enough. Plain events need none of this: for them there is no work without as many bytes on the wire.

/// So many bytes are packed or unpacked at a stretch, and one message beyond that: some 100 to 200 µs of work.
pub(super) const BYTES_OF_A_TURN: usize = 64 * 1024;

/// The turns of one stream's work.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Since others had theirs.
    bytes: usize,
}

impl Turns {
    /// So many bytes more were packed or unpacked; lets others have their turn when it is time for that.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub(super) async fn packed(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= BYTES_OF_A_TURN {
            self.bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}
