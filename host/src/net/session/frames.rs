//! Frames on a stream, whichever transport it belongs to: reading messages one by one and writing them in bursts. Both halves may be
//! cancelled at any await without losing or tearing a frame, which is what lets a stream's futures be raced. A message that has
//! begun must end in time, and a large one waits for room before it is read; whether there is a right to send it is not known here.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tidegate_wire::frame::{FrameReader, decode};
use tidegate_wire::frame_queue::FrameQueue;
use tidegate_wire::pb;
use tidegate_wire::stream::{ReceiveError, ReceiveHalf, SendHalf};
use tokio::time::{Instant, timeout, timeout_at};

use super::error_codes::{StreamEnd, overloaded};
use super::memory_account::{MemoryAccount, Room};
use crate::broker::SHARED_BYTES_MIN;
use crate::net::counters::NetCounters;

/// Time to bring the last words of a stream to the client before it is given up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much of a message that has not come whole is kept without asking for room, when nothing else says so: a command of a
/// consumer has at most 80 KiB when our client sends it, and mostly a few bytes.
const FREE_BYTES: usize = 16 * 1024;
/// The same before it is known what a stream is to be. The largest first message has 200 bytes.
const FREE_FIRST_BYTES: usize = 1024;

/// The receiving half of a stream.
pub(super) struct FrameRecv<R> {
    recv: R,
    buffer: BytesMut,
    reader: FrameReader,
    stats: Arc<NetCounters>,
    account: Arc<MemoryAccount>,
    frame_timeout: Duration,
    /// Longer messages need room.
    free_bytes: usize,
    /// That of the message that is coming, if it is one of those.
    room: Option<Room>,
    /// When the message that is coming began to.
    begun: Option<Instant>,
    reset: Option<u32>,
}

impl<R: ReceiveHalf> FrameRecv<R> {
    /// Reads first messages, of at most `frame_bytes_max` bytes. Each message must be there `frame_timeout` after its first
    /// byte, and takes room of `account` when it is large.
    pub(super) fn new(
        recv: R,
        frame_bytes_max: usize,
        frame_timeout: Duration,
        account: Arc<MemoryAccount>,
        stats: Arc<NetCounters>,
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

    /// The code with which the client has reset the stream.
    pub(super) fn reset_code(&self) -> Option<u32> {
        self.reset
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
        let deadline = (!self.buffer.is_empty()).then(|| self.deadline());
        let received = self.recv.receive(&mut self.buffer);
        let received = match deadline {
            None => received.await,
            Some(deadline) => match timeout_at(deadline, received).await {
                Ok(received) => received,
                Err(_) => return Err(self.too_slow()),
            },
        };
        match received {
            Ok(bytes) => {
                self.stats.read(bytes);
                Ok(bytes > 0)
            }
            Err(error) => {
                if let ReceiveError::Reset(code) = error {
                    self.reset = Some(code);
                }
                Err(StreamEnd::Lost)
            }
        }
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
pub(super) struct FrameSend<S> {
    send: S,
    queue: FrameQueue,
    stats: Arc<NetCounters>,
    has_waited: bool,
}

impl<S: SendHalf> FrameSend<S> {
    /// Writes frames to `send`.
    pub(super) fn new(send: S, stats: Arc<NetCounters>) -> Self {
        Self {
            send,
            queue: FrameQueue::new(SHARED_BYTES_MIN, usize::MAX),
            stats,
            has_waited: false,
        }
    }

    /// Encodes a message. Nothing is sent before [`flush`](Self::flush).
    pub(super) fn push<M: Message>(&mut self, message: &M) {
        self.queue.push(message);
    }

    /// Appends a delivery whose events are `entries`, one list after the other. Long ones are sent as they are, without
    /// a copy.
    pub(super) fn push_deliver(&mut self, head: &pb::Deliver, entries: &[Bytes]) {
        self.queue.push_deliver(head, entries);
    }

    /// Hands everything that was pushed to the transport. Waits while the client does not read.
    ///
    /// # Errors
    ///
    /// [`StreamEnd::Lost`] when the client stopped the stream or the connection is gone.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: the next call goes on at the byte where this one was.
    pub(super) async fn flush(&mut self) -> Result<(), StreamEnd> {
        let Self {
            send,
            queue,
            stats,
            has_waited,
        } = self;
        while !queue.is_empty() {
            let mut sending = pin!(queue.send(send));
            let sent = poll_fn(|context| {
                let polled = sending.as_mut().poll(context);
                *has_waited |= polled.is_pending();
                polled
            });
            stats.wrote(sent.await.map_err(|_| StreamEnd::Lost)?);
        }
        Ok(())
    }

    /// Whether the transport took no more for a while, since this was asked last.
    pub(super) fn take_waited(&mut self) -> bool {
        std::mem::take(&mut self.has_waited)
    }

    /// Ends the direction at once; of what was not read yet, nothing may be.
    pub(super) fn reset(&mut self) {
        self.send.reset(0);
    }

    /// Sends what is left, finishes the stream and waits until the client has all of it, but for no more
    /// than two seconds: a client that does not read is not waited for.
    pub(super) async fn finish(mut self) {
        let last_words = async {
            if self.flush().await.is_err() {
                return false;
            }
            self.send.finish();
            // Either outcome means that there is nothing more to wait for.
            let _ = self.send.drained().await;
            true
        };
        if timeout(LAST_WORDS, last_words).await != Ok(true) {
            self.send.reset(0);
        }
    }
}
