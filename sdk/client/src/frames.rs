//! Frames on a stream: messages one by one out of its receiving half, and a queue of them into its sending half. The one place
//! where this client reads and writes; which stream it is, and over which transport, is not known here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use tidegate_wire::frame::FrameReader;
use tidegate_wire::frame_queue::FrameQueue;
use tidegate_wire::limits::{FRAME_BYTES_MAX, OPEN_FRAME_BYTES_MAX};
use tidegate_wire::pb::{self, stream_open};
use tidegate_wire::stream::{Connection, ReceiveHalf, SendError, SendHalf};

use crate::error::StreamError;

/// A body of at least so many bytes is handed on where it lies; a shorter one is copied behind its head.
const SHARED_BYTES_MIN: usize = 4 * 1024 + 1;

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

pub(crate) fn new_queue() -> FrameQueue {
    FrameQueue::new(SHARED_BYTES_MIN, PIECE_BYTES)
}

impl<C: Connection> FrameStream<C> {
    /// Opens a stream that says what it is with `kind`.
    ///
    /// # Errors
    /// When the connection ends, or the broker wants no such stream.
    pub(crate) async fn open(connection: &C, kind: stream_open::Kind) -> Result<Self, StreamError> {
        let (mut send, receive) = connection.open().await?;
        let mut queue = new_queue();
        queue.push(&pb::StreamOpen { kind: Some(kind) });
        debug_assert!(queue.bytes() <= OPEN_FRAME_BYTES_MAX);
        while !queue.is_empty() {
            queue.send(&mut send).await?;
        }
        Ok(Self {
            send,
            queue,
            source: FrameSource::new(receive),
            writes_first: false,
        })
    }

    /// Accepts frames of at most so many bytes from here on; before, as many as the protocol says without a hello.
    pub(crate) fn set_frame_bytes_max(&mut self, bytes: usize) {
        self.source.reader = FrameReader::new(bytes);
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
        let (write, read) = (self.queue.send(&mut self.send), self.source.next());
        if self.writes_first {
            tokio::select! {
                biased;
                written = write, if writing => Moved::Written(written.map(drop)),
                frame = read => Moved::Frame(frame),
            }
        } else {
            tokio::select! {
                biased;
                frame = read => Moved::Frame(frame),
                written = write, if writing => Moved::Written(written.map(drop)),
            }
        }
    }

    /// Sends some of the queue if the stream takes it at once. `None` when it does not, or nothing waits.
    pub(crate) fn write_now(&mut self) -> Option<Result<(), SendError>> {
        if self.queue.is_empty() {
            return None;
        }
        // Nobody is woken by this look. Whoever waits for more to be sent looks again before.
        let written = self.queue.send(&mut self.send).now_or_never()?;
        Some(written.map(drop))
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

    /// The next frame of those with which a broker that takes nothing more ends the stream: most likely why. `None` when it finishes, or
    /// says nothing more within that time.
    ///
    /// # Errors
    /// As of [`Self::next`].
    pub(crate) async fn last_words(
        &mut self,
        within: Duration,
    ) -> Result<Option<Bytes>, StreamError> {
        let next = tokio::time::timeout(within, self.next()).await;
        next.unwrap_or(Ok(None))
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

    #[tokio::test]
    async fn frames_survive_a_stream_that_tears_them_and_readers_who_give_up() {
        let (here, there) = pair(MemoryOptions {
            stream_bytes_max: 3,
            ..MemoryOptions::default()
        });
        let ((mut send, _), (_, receive)) =
            tokio::try_join!(here.open(), there.accept()).expect("alive");
        let mut queue = new_queue();
        let batches = (1..20).map(|n| batch(n, 7 * n as usize));
        let batches: Vec<_> = batches.collect();
        for (head, body) in &batches {
            queue.push_batch(head, body);
        }
        let writing = async {
            while !queue.is_empty() {
                queue.send(&mut send).await.expect("alive");
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
