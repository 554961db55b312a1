//! Frames on their way out, in order, as a sending half takes them: short bodies are copied behind their heads, long ones are handed on
//! where they lie. When something is sent, and what, is not known here.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::batch::{push_batch_head, push_deliver_head};
use crate::frame::encode_frame;
use crate::pb;
use crate::stream::{SendError, SendHalf};

/// A queue of frames. What was sent of it in part stays in front with its rest, so a cancelled write goes on at the byte where it was.
#[derive(Debug)]
pub struct FrameQueue {
    /// The end of the queue, which may still grow.
    pending: BytesMut,
    /// All before it.
    chunks: VecDeque<Bytes>,
    /// Bytes of both.
    bytes: usize,
    shared_bytes_min: usize,
    piece_bytes_max: usize,
}

impl FrameQueue {
    /// An empty one. Bodies of at least `shared_bytes_min` bytes are not copied; what is copied is handed on in pieces of about
    /// `piece_bytes_max`.
    #[must_use]
    pub fn new(shared_bytes_min: usize, piece_bytes_max: usize) -> Self {
        Self {
            pending: BytesMut::new(),
            chunks: VecDeque::new(),
            bytes: 0,
            shared_bytes_min,
            piece_bytes_max,
        }
    }

    /// Appends a message.
    pub fn push<M: Message>(&mut self, message: &M) {
        let before = self.pending.len();
        encode_frame(message, &mut self.pending);
        self.bytes += self.pending.len() - before;
    }

    /// Appends a batch whose events are `body`.
    pub fn push_batch(&mut self, head: &pb::PublishBatch, body: &Bytes) {
        let before = self.pending.len();
        push_batch_head(head, body.len(), &mut self.pending);
        self.bytes += self.pending.len() - before;
        self.push_body(body);
    }

    /// Appends a delivery whose events are `entries`, one list after the other.
    pub fn push_deliver(&mut self, head: &pb::Deliver, entries: &[Bytes]) {
        let length = entries.iter().map(Bytes::len).sum();
        let before = self.pending.len();
        push_deliver_head(head, length, &mut self.pending);
        self.bytes += self.pending.len() - before;
        for part in entries {
            self.push_body(part);
        }
    }

    fn push_body(&mut self, body: &Bytes) {
        self.bytes += body.len();
        if body.len() >= self.shared_bytes_min {
            self.close_piece();
            self.chunks.push_back(body.clone());
            return;
        }
        self.pending.extend_from_slice(body);
        if self.pending.len() >= self.piece_bytes_max {
            self.close_piece();
        }
    }

    fn close_piece(&mut self) {
        if !self.pending.is_empty() {
            self.chunks.push_back(self.pending.split().freeze());
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Throws everything away, also the rest of a message that was sent in part.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.chunks.clear();
        self.bytes = 0;
    }

    /// Sends as much as `half` takes, waits until that is something, and returns how many bytes it was. 0 at once when there is nothing.
    ///
    /// # Errors
    /// The direction is over: see [`SendError`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn send(&mut self, half: &mut impl SendHalf) -> Result<usize, SendError> {
        self.close_piece();
        let sent = half.send(&mut self.chunks).await?;
        self.bytes -= sent;
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED_BYTES_MIN: usize = 4 * 1024;

    fn body(bytes: usize) -> Bytes {
        vec![7; bytes].into()
    }

    fn check(queue: &mut FrameQueue, body: &Bytes) {
        queue.close_piece();
        assert_eq!(queue.chunks.len(), 2, "heads together, then the body");
        assert_eq!(queue.chunks[1].as_ptr(), body.as_ptr());
        let bytes: usize = queue.chunks.iter().map(Bytes::len).sum();
        assert_eq!(queue.bytes(), bytes);
        queue.clear();
        assert!(queue.is_empty());
    }

    #[test]
    fn short_bodies_share_pieces_and_long_ones_lie_where_they_are() {
        let long = body(SHARED_BYTES_MIN);
        let mut queue = FrameQueue::new(SHARED_BYTES_MIN, usize::MAX);
        for bytes in [10, SHARED_BYTES_MIN - 1] {
            queue.push_batch(&pb::PublishBatch::default(), &body(bytes));
        }
        queue.push_batch(&pb::PublishBatch::default(), &long);
        check(&mut queue, &long);
        queue.push(&pb::StreamOpen::default());
        queue.push_deliver(&pb::Deliver::default(), &[body(10), body(20), long.clone()]);
        check(&mut queue, &long);
    }

    #[test]
    fn what_is_copied_ends_in_pieces() {
        let mut queue = FrameQueue::new(usize::MAX, 100);
        for _ in 0..10 {
            queue.push_batch(&pb::PublishBatch::default(), &body(60));
        }
        queue.close_piece();
        assert_eq!(queue.chunks.len(), 5);
    }
}
