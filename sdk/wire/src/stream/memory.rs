//! Connections within a process: two ends that hand each other bytes through bounded buffers, without a socket, a clock or a task.
//! Whoever polls first goes first, so in one thread a run is repeated exactly. For tests and simulations; the ends behave like the
//! worst network that a transport may be: whatever was not read when a stream is reset or its connection ends is lost.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::{Connection, ConnectionEnd, ReceiveError, ReceiveHalf, SendError, SendHalf, Traffic};

/// Bytes read at once when the reader's buffer has no room for more.
const READ_BYTES: usize = 64 * 1024;

/// How much the buffers of a [`pair`] hold.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Bytes that one direction of a stream holds before its sender waits. Default 64 KiB. At least 1; small numbers tear
    /// everything into small pieces.
    pub stream_bytes_max: usize,
    /// Streams that one side may have opened and the other not accepted. Default 100. At least 1.
    pub streams_waiting_max: usize,
    /// What [`Connection::round_trip`] says on both sides. Default 0; nothing is delayed in any case.
    pub round_trip: Duration,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            stream_bytes_max: 64 * 1024,
            streams_waiting_max: 100,
            round_trip: Duration::ZERO,
        }
    }
}

/// The two ends of a new connection. Both may have the other send as much as the streams' buffers hold, until they set a receive
/// window.
#[must_use]
pub fn pair(options: MemoryOptions) -> (MemoryConnection, MemoryConnection) {
    let shared = Arc::new(Shared {
        options,
        state: Mutex::default(),
    });
    let end = |side| MemoryConnection {
        handle: Arc::new(Handle {
            shared: Arc::clone(&shared),
            side,
        }),
    };
    (end(0), end(1))
}

/// One end of a connection within a process.
#[derive(Clone)]
pub struct MemoryConnection {
    handle: Arc<Handle>,
}

impl MemoryConnection {
    /// Ends the connection as if the cable were cut: both ends find that it has timed out.
    pub fn cut(&self) {
        let shared = &self.handle.shared;
        shared.change(|state, wake| {
            state.end([ConnectionEnd::TimedOut, ConnectionEnd::TimedOut], wake);
        });
    }

    /// Whether neither end hears anything of the other, not even that something has arrived: what [`Connection::traffic`] says then. Bytes
    /// go on as before, as those do that come after an outage; that they have arrived is heard once it is over.
    pub fn set_silent(&self, is_silent: bool) {
        let shared = &self.handle.shared;
        shared.change(|state, _| {
            state.is_silent = is_silent;
            if !is_silent && std::mem::take(&mut state.is_unanswered) {
                state.answered();
            }
        });
    }

    fn poll_open(&self, context: &Context<'_>) -> Poll<Result<Stream, ConnectionEnd>> {
        let Handle { shared, side } = &*self.handle;
        let waiting_max = shared.options.streams_waiting_max.max(1);
        shared.change(|state, wake| {
            state.check(*side)?;
            let other = &mut state.sides[1 - side];
            if other.opened.len() >= waiting_max {
                other.opening.add(context);
                return Poll::Pending;
            }
            let outward = 2 * state.streams;
            state.streams += 1;
            other.opened.push_back(outward);
            wake.append(&mut other.accepting.0);
            state.pipes.insert(outward, Pipe::new(1 - side));
            state.pipes.insert(outward + 1, Pipe::new(*side));
            Poll::Ready(Ok(self.stream(outward, outward + 1)))
        })
    }

    fn poll_accept(&self, context: &Context<'_>) -> Poll<Result<Stream, ConnectionEnd>> {
        let Handle { shared, side } = &*self.handle;
        shared.change(|state, wake| {
            state.check(*side)?;
            let ours = &mut state.sides[*side];
            let Some(inward) = ours.opened.pop_front() else {
                ours.accepting.add(context);
                return Poll::Pending;
            };
            wake.append(&mut ours.opening.0);
            Poll::Ready(Ok(self.stream(inward + 1, inward)))
        })
    }

    fn stream(&self, outward: u64, inward: u64) -> Stream {
        let half = |pipe| Half {
            handle: Arc::clone(&self.handle),
            pipe,
        };
        (MemorySend(half(outward)), MemoryReceive(half(inward)))
    }
}

type Stream = (MemorySend, MemoryReceive);

impl Connection for MemoryConnection {
    type Send = MemorySend;
    type Receive = MemoryReceive;

    async fn open(&self) -> Result<Stream, ConnectionEnd> {
        poll_fn(|context| self.poll_open(context)).await
    }

    async fn accept(&self) -> Result<Stream, ConnectionEnd> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn close(&self, code: u32, reason: &str) {
        self.handle.close(code, reason);
    }

    async fn closed(&self) -> ConnectionEnd {
        let Handle { shared, side } = &*self.handle;
        let poll = |context: &mut Context<'_>| {
            shared.change(|state, _| match state.check(*side) {
                Err(end) => Poll::Ready(end),
                Ok(()) => {
                    state.sides[*side].closing.add(context);
                    Poll::Pending
                }
            })
        };
        poll_fn(poll).await
    }

    fn end(&self) -> Option<ConnectionEnd> {
        let Handle { shared, side } = &*self.handle;
        shared.change(|state, _| state.check(*side).err())
    }

    fn round_trip(&self) -> Duration {
        self.handle.shared.options.round_trip
    }

    fn traffic(&self) -> Traffic {
        let Handle { shared, side } = &*self.handle;
        shared.change(|state, _| state.sides[*side].traffic)
    }

    fn send_window(&self) -> usize {
        self.handle.shared.options.stream_bytes_max
    }

    fn set_receive_window(&self, bytes: usize) {
        let Handle { shared, side } = &*self.handle;
        shared.change(|state, wake| {
            let is_more = bytes > state.sides[*side].window;
            if is_more {
                state.exchanged(*side);
            }
            let ours = &mut state.sides[*side];
            ours.window = bytes;
            wake.append(&mut ours.held_back.0);
        });
    }
}

impl fmt::Debug for MemoryConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryConnection")
            .field("side", &self.handle.side)
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

/// The sending half of a stream within a process.
#[derive(Debug)]
pub struct MemorySend(Half);

impl MemorySend {
    fn poll_send(
        &mut self,
        context: &Context<'_>,
        queue: &mut VecDeque<Bytes>,
    ) -> Poll<Result<usize, SendError>> {
        while queue.front().is_some_and(Bytes::is_empty) {
            queue.pop_front();
        }
        if queue.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let stream_bytes_max = self.0.handle.shared.options.stream_bytes_max.max(1);
        self.0.change(|side, state, wake| {
            let pipe = state.pipe(self.0.pipe);
            if pipe.tail != Tail::Open {
                return Poll::Ready(Err(SendError::Ended));
            }
            let (reader, held) = (pipe.reader, pipe.bytes);
            let stopped = pipe.stopped;
            state.check(side)?;
            if let Some(code) = stopped {
                return Poll::Ready(Err(SendError::Stopped(code)));
            }
            let theirs = &mut state.sides[reader];
            let window = theirs.window.saturating_sub(theirs.unread);
            let room = stream_bytes_max.saturating_sub(held).min(window);
            if room == 0 {
                if window == 0 {
                    theirs.held_back.add(context);
                }
                state.pipe(self.0.pipe).sender = Some(context.waker().clone());
                return Poll::Pending;
            }
            let pipe = state.pipe(self.0.pipe);
            let taken = take(queue, room, |chunk| pipe.chunks.push_back(chunk));
            pipe.bytes += taken;
            wake.extend(pipe.receiver.take());
            state.sides[reader].unread += taken;
            state.exchanged(side);
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_drained(&mut self, context: &Context<'_>) -> Poll<Result<(), SendError>> {
        self.0.change(|side, state, _| {
            let pipe = state.pipe(self.0.pipe);
            match (pipe.tail, pipe.stopped) {
                (Tail::Finished, _) if pipe.tail_seen => return Poll::Ready(Ok(())),
                (Tail::Reset(_), _) => return Poll::Ready(Err(SendError::Ended)),
                (_, Some(code)) => return Poll::Ready(Err(SendError::Stopped(code))),
                (Tail::Open | Tail::Finished, None) => {}
            }
            state.check(side)?;
            state.pipe(self.0.pipe).sender = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

impl SendHalf for MemorySend {
    async fn send(&mut self, queue: &mut VecDeque<Bytes>) -> Result<usize, SendError> {
        poll_fn(|context| self.poll_send(context, queue)).await
    }

    fn finish(&mut self) {
        self.0.change(|_, state, wake| {
            let pipe = state.pipe(self.0.pipe);
            if pipe.tail == Tail::Open {
                pipe.tail = Tail::Finished;
                wake.extend(pipe.receiver.take());
            }
        });
    }

    fn reset(&mut self, code: u32) {
        self.0.change(|_, state, wake| {
            let pipe = state.pipe(self.0.pipe);
            let over = matches!(pipe.tail, Tail::Reset(_)) || pipe.tail_seen;
            if over || pipe.stopped.is_some() {
                return;
            }
            pipe.tail = Tail::Reset(code);
            wake.extend(pipe.receiver.take());
            state.discard(self.0.pipe, wake);
        });
    }

    async fn drained(&mut self) -> Result<(), SendError> {
        poll_fn(|context| self.poll_drained(context)).await
    }
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        self.finish();
        self.0.leave();
    }
}

/// The receiving half of a stream within a process.
#[derive(Debug)]
pub struct MemoryReceive(Half);

impl MemoryReceive {
    fn poll_receive(
        &mut self,
        context: &Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<Result<usize, ReceiveError>> {
        self.0.change(|side, state, wake| {
            let pipe = state.pipe(self.0.pipe);
            if pipe.stopped.is_some() {
                return Poll::Ready(Err(ReceiveError::Stopped));
            }
            if !pipe.tail_seen {
                state.check(side)?;
            }
            let pipe = state.pipe(self.0.pipe);
            if pipe.bytes > 0 {
                let room = READ_BYTES.max(buffer.capacity() - buffer.len());
                let taken = take(&mut pipe.chunks, room, |chunk| {
                    buffer.extend_from_slice(&chunk);
                });
                pipe.bytes -= taken;
                wake.extend(pipe.sender.take());
                state.sides[side].read(taken, wake);
                return Poll::Ready(Ok(taken));
            }
            match pipe.tail {
                Tail::Open => {
                    pipe.receiver = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Tail::Finished | Tail::Reset(_) => pipe.tail_seen = true,
            }
            wake.extend(pipe.sender.take());
            Poll::Ready(match pipe.tail {
                Tail::Reset(code) => Err(ReceiveError::Reset(code)),
                Tail::Open | Tail::Finished => Ok(0),
            })
        })
    }
}

impl ReceiveHalf for MemoryReceive {
    async fn receive(&mut self, buffer: &mut BytesMut) -> Result<usize, ReceiveError> {
        poll_fn(|context| self.poll_receive(context, buffer)).await
    }

    fn stop(&mut self, code: u32) {
        self.0.change(|_, state, wake| {
            let pipe = state.pipe(self.0.pipe);
            if pipe.tail_seen || pipe.stopped.is_some() {
                return;
            }
            pipe.stopped = Some(code);
            wake.extend(pipe.sender.take());
            state.discard(self.0.pipe, wake);
        });
    }
}

impl Drop for MemoryReceive {
    fn drop(&mut self) {
        self.stop(0);
        self.0.leave();
    }
}

/// What both halves of a stream are at one end.
#[derive(Debug)]
struct Half {
    handle: Arc<Handle>,
    pipe: u64,
}

impl Half {
    fn change<T>(&self, change: impl FnOnce(usize, &mut State, &mut Vec<Waker>) -> T) -> T {
        let Handle { shared, side } = &*self.handle;
        shared.change(|state, wake| change(*side, state, wake))
    }

    /// The half is gone; its pipe goes with the other half.
    fn leave(&self) {
        self.change(|_, state, _| {
            let pipe = state.pipe(self.pipe);
            pipe.halves -= 1;
            if pipe.halves == 0 {
                state.pipes.remove(&self.pipe);
            }
        });
    }
}

/// What all handles and halves at one end share. Closes the connection with the last of them.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    side: usize,
}

impl Handle {
    fn close(&self, code: u32, reason: &str) {
        let theirs = ConnectionEnd::Peer {
            code,
            reason: reason.to_owned(),
        };
        let ends = match self.side {
            0 => [ConnectionEnd::Here, theirs],
            _ => [theirs, ConnectionEnd::Here],
        };
        self.shared.change(|state, wake| state.end(ends, wake));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close(0, "");
    }
}

struct Shared {
    options: MemoryOptions,
    state: Mutex<State>,
}

impl Shared {
    /// Changes the state under its lock, and wakes whom the change names when the lock is free again.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Waker>) -> T) -> T {
        let mut wake = Vec::new();
        let changed = {
            // A panic elsewhere leaves the state usable: it is only moved in whole steps.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state, &mut wake)
        };
        wake.into_iter().for_each(Waker::wake);
        changed
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Both ends of the connection and everything between them.
#[derive(Default)]
struct State {
    /// How the connection ended, as each side sees it.
    ended: Option<[ConnectionEnd; 2]>,
    /// Streams opened so far.
    streams: u64,
    /// One for each direction of each stream of which a half exists, or will once it is accepted. The one out of the side that
    /// opened the stream has an even number, the other the next.
    pipes: BTreeMap<u64, Pipe>,
    sides: [Side; 2],
    /// Nothing is heard at either end.
    is_silent: bool,
    /// Something was said meanwhile.
    is_unanswered: bool,
}

impl State {
    fn check(&self, side: usize) -> Result<(), ConnectionEnd> {
        match &self.ended {
            None => Ok(()),
            Some(ends) => Err(ends[side].clone()),
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "a pipe stays until both of its halves are gone, and only they know its number"
    )]
    fn pipe(&mut self, pipe: u64) -> &mut Pipe {
        self.pipes
            .get_mut(&pipe)
            .expect("one of its halves exists, so it does too")
    }

    /// `side` has told the other something, which has answered at once.
    fn exchanged(&mut self, side: usize) {
        self.sides[side].traffic.asked += 1;
        match self.is_silent {
            true => self.is_unanswered = true,
            false => self.answered(),
        }
    }

    fn answered(&mut self) {
        for side in &mut self.sides {
            side.traffic.heard += 1;
        }
    }

    /// Throws away what was sent through `pipe` and not read.
    fn discard(&mut self, pipe: u64, wake: &mut Vec<Waker>) {
        let pipe = self.pipe(pipe);
        let (reader, bytes) = (pipe.reader, std::mem::take(&mut pipe.bytes));
        pipe.chunks.clear();
        self.sides[reader].read(bytes, wake);
    }

    /// The first end counts.
    fn end(&mut self, ends: [ConnectionEnd; 2], wake: &mut Vec<Waker>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(ends);
        for side in &mut self.sides {
            for waiting in [
                &mut side.closing,
                &mut side.accepting,
                &mut side.opening,
                &mut side.held_back,
            ] {
                wake.append(&mut waiting.0);
            }
        }
        for pipe in self.pipes.values_mut() {
            pipe.chunks.clear();
            pipe.bytes = 0;
            wake.extend(pipe.receiver.take());
            wake.extend(pipe.sender.take());
        }
    }
}

/// One end of the connection.
struct Side {
    /// Streams that the other side opened and this one has not accepted: the pipes inward.
    opened: VecDeque<u64>,
    /// Bytes that the other side may have sent in all, and those of them that were not read.
    window: usize,
    unread: usize,
    traffic: Traffic,
    accepting: Waiting,
    /// Those of the other side who wait until fewer streams are to be accepted here.
    opening: Waiting,
    /// Those of the other side who wait for the window.
    held_back: Waiting,
    closing: Waiting,
}

impl Default for Side {
    fn default() -> Self {
        Self {
            opened: VecDeque::new(),
            window: usize::MAX,
            unread: 0,
            traffic: Traffic::default(),
            accepting: Waiting::default(),
            opening: Waiting::default(),
            held_back: Waiting::default(),
            closing: Waiting::default(),
        }
    }
}

impl Side {
    fn read(&mut self, bytes: usize, wake: &mut Vec<Waker>) {
        self.unread -= bytes;
        wake.append(&mut self.held_back.0);
    }
}

/// Tasks that wait for the same thing, those first who came first.
#[derive(Default)]
struct Waiting(Vec<Waker>);

impl Waiting {
    fn add(&mut self, context: &Context<'_>) {
        let waker = context.waker();
        if !self.0.iter().any(|waiting| waiting.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }
}

/// One direction of a stream.
struct Pipe {
    /// The side that reads.
    reader: usize,
    /// Sent and not read. Never empty ones.
    chunks: VecDeque<Bytes>,
    bytes: usize,
    tail: Tail,
    /// The reader has seen how it ends.
    tail_seen: bool,
    /// The reader reads no more, and said so with this code.
    stopped: Option<u32>,
    /// Who waits for room, or until everything is read.
    sender: Option<Waker>,
    receiver: Option<Waker>,
    /// How many of its two halves exist, or will once the stream is accepted.
    halves: u8,
}

impl Pipe {
    fn new(reader: usize) -> Self {
        Self {
            reader,
            chunks: VecDeque::new(),
            bytes: 0,
            tail: Tail::Open,
            tail_seen: false,
            stopped: None,
            sender: None,
            receiver: None,
            halves: 2,
        }
    }
}

/// What follows the bytes that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    Open,
    Finished,
    Reset(u32),
}

/// Moves up to `room` bytes from the front of `queue` to `to`, and says how many.
fn take(queue: &mut VecDeque<Bytes>, room: usize, mut to: impl FnMut(Bytes)) -> usize {
    let mut taken = 0;
    while let Some(front) = queue.front_mut() {
        let left = room - taken;
        if front.len() > left {
            if left > 0 {
                to(front.split_to(left));
            }
            return room;
        }
        taken += front.len();
        if let Some(chunk) = queue.pop_front()
            && chunk.has_remaining()
        {
            to(chunk);
        }
    }
    taken
}

#[cfg(test)]
mod tests;
