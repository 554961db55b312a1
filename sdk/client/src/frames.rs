//! Frames on a stream: messages one by one out of its receiving half, and a queue of them into its sending half. The one place
//! where this client reads and writes; which stream it is, and over which transport, is not known here.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tidegate_wire::batch::push_batch_head;
use tidegate_wire::frame::{FrameReader, encode_frame};
use tidegate_wire::limits::{FRAME_BYTES_MAX, OPEN_FRAME_BYTES_MAX};
use tidegate_wire::pb::{self, stream_open};
use tidegate_wire::stream::{Connection, ReceiveHalf, SendError, SendHalf};

use crate::error::StreamError;

/// A body up to this long is copied behind its head; a longer one is handed on where it lies.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// What is copied is handed on in pieces of about this many bytes, so that a thousand short messages are a few pieces for the
/// transport.
const PIECE_BYTES: usize = 32 * 1024;

/// Room made for reading at once.
const READ_BYTES: usize = 64 * 1024;

/// A stream of frames, in both directions.
pub(crate) struct FrameStream<C: Connection> {
    send: C::Send,
    queue: FrameQueue,
    source: FrameSource<C::Receive>,
    /// Which direction comes first when both could go on: the other one each time, so that neither waits for long.
    writes_first: bool,
}

/// What happened on a stream.
pub(crate) enum Moved {
    /// A frame came; or the end of them.
    Frame(Result<Option<Bytes>, StreamError>),
    /// Some of the queue was sent.
    Written(Result<(), SendError>),
}

impl<C: Connection> FrameStream<C> {
    /// Opens a stream that says what it is with `kind`.
    ///
    /// # Errors
    /// When the connection ends, or the broker wants no such stream.
    pub(crate) async fn open(connection: &C, kind: stream_open::Kind) -> Result<Self, StreamError> {
        let (mut send, receive) = connection.open().await?;
        let mut queue = FrameQueue::default();
        queue.push(&pb::StreamOpen { kind: Some(kind) });
        debug_assert!(queue.bytes() <= OPEN_FRAME_BYTES_MAX);
        while !queue.is_empty() {
            queue.write(&mut send).await?;
        }
        Ok(Self {
            send,
            queue,
            source: FrameSource::new(receive),
            writes_first: false,
        })
    }

    /// What is waiting to be sent.
    pub(crate) fn queue(&mut self) -> &mut FrameQueue {
        &mut self.queue
    }

    /// Waits until a frame has come or some of the queue was sent.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn moved(&mut self) -> Moved {
        self.writes_first = !self.writes_first;
        let writing = !self.queue.is_empty();
        let (write, read) = (self.queue.write(&mut self.send), self.source.next());
        if self.writes_first {
            tokio::select! {
                biased;
                written = write, if writing => Moved::Written(written),
                frame = read => Moved::Frame(frame),
            }
        } else {
            tokio::select! {
                biased;
                frame = read => Moved::Frame(frame),
                written = write, if writing => Moved::Written(written),
            }
        }
    }

    /// The next frame; `None` when the broker has finished the stream.
    ///
    /// # Errors
    /// When the stream was lost, or what came is no frame.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.source.next().await
    }

    /// The next frame that is here already.
    ///
    /// # Errors
    /// When what came is no frame.
    pub(crate) fn buffered(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.source.buffered()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&mut self) {
        self.send.finish();
    }

    /// Waits until the broker has all that was sent, or no more comes from it; what comes is thrown away meanwhile.
    pub(crate) async fn drained(&mut self) {
        let heard = self.send.drained();
        tokio::pin!(heard);
        loop {
            tokio::select! {
                biased;
                // Either outcome means that there is nothing more to wait for.
                _ = &mut heard => return,
                frame = self.source.next() => if !matches!(frame, Ok(Some(_))) { return },
            }
        }
    }

    /// Ends what is sent at once, with a code. Without that, a message that was cut off would look like the last one.
    pub(crate) fn reset(&mut self, code: u32) {
        self.send.reset(code);
    }

    /// Ends the stream at once, in both directions. A side that was finished and heard is not touched.
    pub(crate) fn abandon(&mut self) {
        self.send.reset(0);
        self.source.receive.stop(0);
    }
}

/// Frames on their way out, in order.
#[derive(Debug, Default)]
pub(crate) struct FrameQueue {
    /// The end of the queue, which may still grow.
    pending: BytesMut,
    /// All before it.
    chunks: VecDeque<Bytes>,
    /// Bytes of both.
    bytes: usize,
}

impl FrameQueue {
    /// Appends a message.
    pub(crate) fn push<M: Message>(&mut self, message: &M) {
        let before = self.pending.len();
        encode_frame(message, &mut self.pending);
        self.bytes += self.pending.len() - before;
    }

    /// Appends a batch whose events are `body`. A long one is not copied.
    pub(crate) fn push_batch(&mut self, head: &pb::PublishBatch, body: &Bytes) {
        let before = self.pending.len();
        push_batch_head(head, body.len(), &mut self.pending);
        self.bytes += self.pending.len() - before + body.len();
        if body.len() <= COPIED_BYTES_MAX {
            self.pending.extend_from_slice(body);
            if self.pending.len() >= PIECE_BYTES {
                self.close_piece();
            }
        } else {
            self.close_piece();
            self.chunks.push_back(body.clone());
        }
    }

    /// Bytes in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Throws everything away, also the rest of a message that was sent in part.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends as much as `send` takes, and waits until that is something.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn write(&mut self, send: &mut impl SendHalf) -> Result<(), SendError> {
        self.close_piece();
        self.bytes -= send.send(&mut self.chunks).await?;
        Ok(())
    }

    fn close_piece(&mut self) {
        if !self.pending.is_empty() {
            self.chunks.push_back(self.pending.split().freeze());
        }
    }
}

/// The frames that come on a stream.
pub(crate) struct FrameSource<R> {
    receive: R,
    reader: FrameReader,
    buffer: BytesMut,
}

impl<R: ReceiveHalf> FrameSource<R> {
    pub(crate) fn new(receive: R) -> Self {
        Self {
            receive,
            reader: FrameReader::new(FRAME_BYTES_MAX),
            buffer: BytesMut::new(),
        }
    }

    /// The next frame; `None` when the stream has ended.
    ///
    /// # Errors
    /// When the stream was lost, or what came is no frame.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4 {
                self.buffer.reserve(READ_BYTES);
            }
            if self.receive.receive(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn buffered(&mut self) -> Result<Option<Bytes>, StreamError> {
        Ok(self.reader.next_frame(&mut self.buffer)?)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::frame::decode;
    use tidegate_wire::stream::memory::{MemoryOptions, pair};

    use super::*;

    fn batch(correlation: u64, body_bytes: usize) -> (pb::PublishBatch, Bytes) {
        let head = pb::PublishBatch {
            correlation,
            topic: "a".to_owned(),
            ..Default::default()
        };
        let mut event = pb::Event {
            payload: vec![correlation as u8; body_bytes].into(),
            ..Default::default()
        };
        let mut body = BytesMut::new();
        tidegate_wire::batch::push_event(&mut body, &mut event);
        (head, body.freeze())
    }

    #[test]
    fn short_batches_share_pieces_and_long_ones_lie_where_they_are() {
        let mut queue = FrameQueue::default();
        for correlation in 0..10 {
            let (head, body) = batch(correlation, 10);
            queue.push_batch(&head, &body);
        }
        let (head, long) = batch(10, COPIED_BYTES_MAX);
        queue.push_batch(&head, &long);
        queue.close_piece();
        assert_eq!(queue.chunks.len(), 2, "heads together, then the body");
        assert_eq!(queue.chunks[1].as_ptr(), long.as_ptr());
        let bytes: usize = queue.chunks.iter().map(Bytes::len).sum();
        assert_eq!(queue.bytes(), bytes);
        queue.clear();
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn frames_survive_a_stream_that_tears_them_and_readers_who_give_up() {
        let (here, there) = pair(MemoryOptions {
            stream_bytes_max: 3,
            ..MemoryOptions::default()
        });
        let ((mut send, _), (_, receive)) =
            tokio::try_join!(here.open(), there.accept()).expect("alive");
        let mut queue = FrameQueue::default();
        let batches = (1..20).map(|n| batch(n, 7 * n as usize));
        let batches: Vec<_> = batches.collect();
        for (head, body) in &batches {
            queue.push_batch(head, body);
        }
        let writing = async {
            while !queue.is_empty() {
                queue.write(&mut send).await.expect("alive");
            }
            send.finish();
        };
        let reading = async {
            let mut source = FrameSource::new(receive);
            let mut found = Vec::new();
            loop {
                let given_up = async {
                    tokio::task::yield_now().await;
                };
                tokio::select! {
                    biased;
                    frame = source.next() => match frame.expect("frames") {
                        Some(frame) => found.push(decode::<pb::PublishBatch>(frame).expect("a batch")),
                        None => return found,
                    },
                    () = given_up => {}
                }
            }
        };
        let ((), found) = tokio::join!(writing, reading);
        let correlations: Vec<u64> = found.iter().map(|batch| batch.correlation).collect();
        assert_eq!(correlations, (1..20).collect::<Vec<u64>>());
        let lengths: Vec<usize> = found.iter().map(|batch| batch.events[0].len()).collect();
        assert!(lengths.is_sorted(), "{lengths:?}");
    }
}
