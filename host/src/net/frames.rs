//! Frames on a QUIC stream: reading messages one by one and writing them in bursts. Both halves may be
//! cancelled at any await without losing or tearing a frame, which is what lets a stream's futures be raced. A message that has
//! begun must end in time, and a large one waits for room before it is read; whether there is a right to send it is not known here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use quinn::{RecvStream, SendStream};
use tidegate_wire::batch::push_deliver_head;
use tidegate_wire::frame::{FrameReader, decode, encode_frame};
use tidegate_wire::pb;
use tokio::time::{Instant, timeout_at};

use super::account::{Account, Room};
use super::refusal::{StreamEnd, overloaded};
use super::stats::NetStats;
use crate::broker::SHARED_BYTES_MIN;

/// Segments taken from quinn at once: a datagram each, so one lock for about 100 KiB at the largest MTU.
const SEGMENTS: usize = 16;

/// Time to bring the last words of a stream to the client before it is given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much of a message that has not come whole is kept without asking for room, when nothing else says so: a command of a
/// consumer has at most 80 KiB when our client sends it, and mostly a few bytes.
const FREE_BYTES: usize = 16 * 1024;
/// The same before it is known what a stream is to be. The largest first message has 200 bytes.
const FREE_FIRST_BYTES: usize = 1024;

/// The receiving half of a stream.
pub(super) struct FrameRecv {
    recv: RecvStream,
    buffer: BytesMut,
    reader: FrameReader,
    stats: Arc<NetStats>,
    account: Arc<Account>,
    frame_timeout: Duration,
    /// Longer messages need room.
    free_bytes: usize,
    /// That of the message that is coming, if it is one of those.
    room: Option<Room>,
    /// When the message that is coming began to.
    begun: Option<Instant>,
    reset: Option<u64>,
}

impl FrameRecv {
    /// The code with which the client has reset the stream.
    pub(super) fn reset_code(&self) -> Option<u64> {
        self.reset
    }

    /// Reads first messages, of at most `frame_bytes_max` bytes. Each message must be there `frame_timeout` after its first
    /// byte, and takes room of `account` when it is large.
    pub(super) fn new(
        recv: RecvStream,
        frame_bytes_max: usize,
        frame_timeout: Duration,
        account: Arc<Account>,
        stats: Arc<NetStats>,
    ) -> Self {
        Self {
            recv,
            buffer: BytesMut::new(),
            reader: FrameReader::new(frame_bytes_max),
            stats,
            account,
            frame_timeout,
            free_bytes: FREE_FIRST_BYTES,
            room: None,
            begun: None,
            reset: None,
        }
    }

    /// From now on frames may be this large.
    pub(super) fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.reader = FrameReader::new(frame_bytes_max);
        self.free_bytes = FREE_BYTES;
    }

    /// From now on the caller sees to it that there is room for messages, which it learns of by [`announced`](Self::announced).
    pub(super) fn leave_room_to_caller(&mut self) {
        self.free_bytes = usize::MAX;
    }

    /// Waits until the length of the next message is known, prefix included, and returns it; `None` when the client has
    /// finished the stream. The message itself is read by [`next_frame`](Self::next_frame).
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub(super) async fn announced(&mut self) -> Result<Option<usize>, StreamEnd> {
        loop {
            if let Some(length) = self.reader.announced(&self.buffer)? {
                return Ok(Some(length));
            }
            if !self.fill().await? {
                return self.at_end();
            }
        }
    }

    /// When the message that is coming must be there. The clock starts the first time that it is waited for.
    pub(super) fn deadline(&mut self) -> Instant {
        *self.begun.get_or_insert_with(Instant::now) + self.frame_timeout
    }

    /// The next message, or `None` when the client has finished the stream.
    ///
    /// # Errors
    ///
    /// [`StreamEnd::Violation`] when the bytes are no such message, are too many, or end inside one;
    /// [`StreamEnd::Refused`] when it does not come whole in time, or there is no room for it for as long;
    /// [`StreamEnd::Lost`] when the stream was reset.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: what was read stays in the buffer.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, StreamEnd> {
        match self.next_frame().await? {
            Some(frame) => Ok(Some(decode(frame)?)),
            None => Ok(None),
        }
    }

    /// Like [`next`](Self::next), but leaves reading the message to the caller.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub(super) async fn next_frame(&mut self) -> Result<Option<Bytes>, StreamEnd> {
        loop {
            let Some(length) = self.announced().await? else {
                return Ok(None);
            };
            if length > self.free_bytes && length > self.buffer.len() && self.room.is_none() {
                self.wait_for_room(length).await?;
            }
            if let Some(frame) = self.reader.next_frame(&mut self.buffer)? {
                self.room = None;
                self.begun = None;
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return self.at_end();
            }
        }
    }

    async fn wait_for_room(&mut self, length: usize) -> Result<(), StreamEnd> {
        let deadline = self.deadline();
        let room = self.account.room(length);
        let room = timeout_at(deadline, room)
            .await
            .map_err(|_| no_room(length))?;
        self.room = Some(room);
        Ok(())
    }

    // Whether there was more. What has begun to come is awaited until its deadline, and nothing at all for ever.
    async fn fill(&mut self) -> Result<bool, StreamEnd> {
        let mut segments: [Bytes; SEGMENTS] = Default::default();
        let deadline = (!self.buffer.is_empty()).then(|| self.deadline());
        let read = self.recv.read_chunks(&mut segments);
        let read = match deadline {
            None => read.await,
            Some(deadline) => timeout_at(deadline, read)
                .await
                .map_err(|_| self.too_slow())?,
        };
        let read = read.map_err(|error| {
            if let quinn::ReadError::Reset(code) = error {
                self.reset = Some(code.into_inner());
            }
            StreamEnd::Lost
        })?;
        let Some(count) = read else {
            return Ok(false);
        };
        let before = self.buffer.len();
        for segment in segments.iter().take(count) {
            self.buffer.extend_from_slice(segment);
        }
        self.stats.read(self.buffer.len() - before);
        Ok(true)
    }

    fn too_slow(&self) -> StreamEnd {
        let (came, after) = (self.buffer.len(), self.frame_timeout);
        StreamEnd::Refused(overloaded(format!(
            "only {came} bytes of a message came within {after:?} (limits.frame_timeout_ms); send smaller messages over a slow link"
        )))
    }

    fn at_end<M>(&self) -> Result<Option<M>, StreamEnd> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let left = self.buffer.len();
        Err(StreamEnd::malformed(format!(
            "the stream ends inside a message, {left} bytes into it"
        )))
    }
}

/// There was no room for a message of this length in time.
pub(super) fn no_room(length: usize) -> StreamEnd {
    StreamEnd::Refused(overloaded(format!(
        "there is no room for a message of {length} bytes beside the others that are under way; send fewer large messages at a time, or try again later"
    )))
}

/// The sending half of a stream.
pub(super) struct FrameSend {
    send: SendStream,
    /// Encoded and not yet in the queue.
    waiting: BytesMut,
    /// On its way, in order; kept here so that a cancelled write knows where it was.
    queue: VecDeque<Bytes>,
    stats: Arc<NetStats>,
}

impl FrameSend {
    /// Writes frames to `send`.
    pub(super) fn new(send: SendStream, stats: Arc<NetStats>) -> Self {
        Self {
            send,
            waiting: BytesMut::new(),
            queue: VecDeque::new(),
            stats,
        }
    }

    /// Encodes a message. Nothing is sent before [`flush`](Self::flush).
    pub(super) fn push<M: Message>(&mut self, message: &M) {
        encode_frame(message, &mut self.waiting);
    }

    /// Appends a delivery whose events are `entries`, one list after the other. Long ones are sent as they are, without
    /// a copy.
    pub(super) fn push_deliver(&mut self, head: &pb::Deliver, entries: &[Bytes]) {
        let length = entries.iter().map(Bytes::len).sum();
        push_deliver_head(head, length, &mut self.waiting);
        for part in entries {
            if part.len() < SHARED_BYTES_MIN {
                self.waiting.extend_from_slice(part);
            } else {
                self.queue_waiting();
                self.queue.push_back(part.clone());
            }
        }
    }

    /// Hands everything that was pushed to quinn. Waits while the client does not read.
    ///
    /// # Errors
    ///
    /// [`StreamEnd::Lost`] when the client stopped the stream or the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: the next call goes on at the byte where this one was.
    pub(super) async fn flush(&mut self) -> Result<(), StreamEnd> {
        self.queue_waiting();
        while !self.queue.is_empty() {
            let written = self
                .send
                .write_chunks(self.queue.make_contiguous())
                .await
                .map_err(|_| StreamEnd::Lost)?;
            self.stats.wrote(written.bytes);
            self.queue.drain(..written.chunks);
        }
        Ok(())
    }

    fn queue_waiting(&mut self) {
        if !self.waiting.is_empty() {
            self.queue.push_back(self.waiting.split().freeze());
        }
    }

    /// Sends what is left, finishes the stream and waits until the client has all of it, but for no more
    /// than two seconds: a client that does not read is not waited for.
    pub(super) async fn finish(mut self) {
        let last_words = async {
            if self.flush().await.is_ok() && self.send.finish().is_ok() {
                // Either outcome means that there is nothing more to wait for.
                let _ = self.send.stopped().await;
                return true;
            }
            false
        };
        if tokio::time::timeout(LAST_WORDS, last_words).await != Ok(true) {
            // Already gone is as good.
            let _ = self.send.reset(0u32.into());
        }
    }
}
