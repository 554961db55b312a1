//! The halves of a stream: bytes go in at one end, and come out at the other in order, each piece when it has arrived.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidegate_wire::stream::{ConnectionEnd, ReceiveError, ReceiveHalf, SendError, SendHalf};
use tokio::time::Instant;

use super::connection::{Half, Look, wait};
use super::state::{State, Tail};
use super::{BROKER, CLIENT};

/// Bytes read at once when the reader's buffer has no room for more.
const READ_BYTES: usize = 64 * 1024;
/// How long after its last byte a connection is cut at most.
const CUT_AFTER: Duration = Duration::from_millis(20);

type Tells = dyn Fn(&[u8]) + Send + Sync;

/// Hears what a client says first on each stream that it opens.
#[derive(Clone)]
pub(super) struct Opening(Arc<Tells>);

impl Opening {
    pub(super) fn new(tells: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tells))
    }

    fn hear(&self, queue: &VecDeque<Bytes>) {
        let first: Vec<u8> = queue.iter().flatten().copied().collect();
        (self.0)(&first);
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Opening").finish_non_exhaustive()
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct SimSend {
    half: Half,
    /// Something was handed to it.
    has_begun: bool,
}

impl SimSend {
    pub(super) fn new(half: Half) -> Self {
        Self {
            half,
            has_begun: false,
        }
    }
}

impl SendHalf for SimSend {
    async fn send(&mut self, queue: &mut VecDeque<Bytes>) -> Result<usize, SendError> {
        while queue.front().is_some_and(Bytes::is_empty) {
            queue.pop_front();
        }
        if queue.is_empty() {
            return Ok(0);
        }
        // The other end knows of the stream only after this.
        if !std::mem::replace(&mut self.has_begun, true)
            && let Some(opening) = &self.half.handle.opening
        {
            opening.hear(queue);
        }
        let (side, pipe) = (self.half.handle.side, self.half.pipe);
        wait(&self.half.handle, |state, now, context, wake| {
            if let Err(error) = may_send(state, pipe, side, now) {
                return Look::Ready(Err(error));
            }
            let (room, next) = state.room(pipe, now);
            if room == 0 {
                state.sides[side].waiting.add(context);
                let stop = state.pipe(pipe).stopped.map(|(at, _)| at);
                state.pipe(pipe).sender = Some(context.waker().clone());
                return Look::At(next.into_iter().chain(stop).min());
            }
            let taken = take(queue, room, state.shape.piece_bytes_max);
            let bytes = taken.iter().map(Bytes::len).sum();
            let (arriving, is_cut) = state.count(side, bytes);
            put(state, pipe, taken, arriving, now);
            state.pipe(pipe).held += bytes;
            state.sides[1 - side].used += bytes;
            wake.extend(state.pipe(pipe).receiver.take());
            // What comes after its reader has gone is thrown away there, and fills no window.
            if state.pipe(pipe).stopped.is_some() {
                state.discard(pipe, now, wake);
            }
            if is_cut {
                cut(state, pipe, side, now, wake);
            }
            Look::Ready(Ok(bytes))
        })
        .await
    }

    fn finish(&mut self) {
        let (side, pipe) = (self.half.handle.side, self.half.pipe);
        self.half.change(|state, now, wake| {
            if state.pipe(pipe).tail == Tail::Open {
                let at = state.tells(side, now);
                let pipe = state.pipe(pipe);
                pipe.tail = Tail::Finished(pipe.in_order(at));
                wake.extend(pipe.receiver.take());
            }
        });
    }

    fn reset(&mut self, code: u32) {
        let (side, pipe) = (self.half.handle.side, self.half.pipe);
        self.half.change(|state, now, wake| {
            let of = state.pipe(pipe);
            let has_all = of.seen.is_some_and(|at| at <= now);
            let was_stopped = of.stopped.is_some_and(|(at, _)| at <= now);
            if matches!(of.tail, Tail::Reset(..)) || has_all || was_stopped {
                return;
            }
            let at = state.tells(side, now);
            let of = state.pipe(pipe);
            of.tail = Tail::Reset(at, code);
            wake.extend(of.receiver.take());
        });
    }

    async fn drained(&mut self) -> Result<(), SendError> {
        let (side, pipe) = (self.half.handle.side, self.half.pipe);
        wait(&self.half.handle, |state, now, context, _| {
            let of = state.pipe(pipe);
            let known = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if matches!(of.tail, Tail::Finished(_)) && known(of.seen) {
                return Look::Ready(Ok(()));
            }
            if matches!(of.tail, Tail::Reset(..)) {
                return Look::Ready(Err(SendError::Ended));
            }
            if let Some((at, code)) = of.stopped
                && at <= now
            {
                return Look::Ready(Err(SendError::Stopped(code)));
            }
            let next = of
                .seen
                .into_iter()
                .chain(of.stopped.map(|(at, _)| at))
                .min();
            of.sender = Some(context.waker().clone());
            match state.check(side, now) {
                Err(end) => Look::Ready(Err(end.into())),
                Ok(()) => Look::At(next),
            }
        })
        .await
    }
}

impl Drop for SimSend {
    fn drop(&mut self) {
        self.finish();
        self.half.leave();
    }
}

fn may_send(state: &mut State, pipe: u64, side: usize, now: Instant) -> Result<(), SendError> {
    if state.pipe(pipe).tail != Tail::Open {
        return Err(SendError::Ended);
    }
    state.check(side, now)?;
    match state.pipe(pipe).stopped {
        Some((at, code)) if at <= now => Err(SendError::Stopped(code)),
        _ => Ok(()),
    }
}

/// Up to `room` bytes from the front of `queue`, in pieces.
fn take(queue: &mut VecDeque<Bytes>, room: usize, piece_bytes_max: usize) -> Vec<Bytes> {
    let (mut left, mut taken) = (room, Vec::new());
    while left > 0
        && let Some(front) = queue.front_mut()
    {
        let piece = front.split_to(front.len().min(left).min(piece_bytes_max.max(1)));
        if front.is_empty() {
            queue.pop_front();
        }
        left -= piece.len();
        taken.extend(Some(piece).filter(|piece| !piece.is_empty()));
    }
    taken
}

// Of the pieces, only so many bytes will ever arrive.
fn put(state: &mut State, pipe: u64, pieces: Vec<Bytes>, mut arriving: usize, now: Instant) {
    let writer = state.pipe(pipe).writer;
    for mut piece in pieces {
        piece.truncate(arriving);
        arriving -= piece.len();
        if !piece.is_empty() {
            let at = state.sends(writer, piece.len(), now);
            let of = state.pipe(pipe);
            let at = of.in_order(at);
            of.pieces.push_back((at, piece));
        }
    }
}

// Nothing more arrives, and both sides find that out a little later, or at once.
fn cut(state: &mut State, pipe: u64, side: usize, now: Instant, wake: &mut Vec<std::task::Waker>) {
    let last = state.pipe(pipe).last_at.unwrap_or(now);
    let at = last + state.ways[side].draw("cut", CUT_AFTER);
    state.ways[side].is_lost = true;
    for side in [CLIENT, BROKER] {
        state.end(side, at, ConnectionEnd::TimedOut, wake);
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct SimReceive(pub(super) Half);

impl ReceiveHalf for SimReceive {
    async fn receive(&mut self, buffer: &mut BytesMut) -> Result<usize, ReceiveError> {
        let (side, pipe) = (self.0.handle.side, self.0.pipe);
        wait(&self.0.handle, |state, now, context, wake| {
            let of = state.pipe(pipe);
            if of.stopped.is_some() {
                return Look::Ready(Err(ReceiveError::Stopped));
            }
            if of.seen.is_none()
                && let Err(end) = state.check(side, now)
            {
                return Look::Ready(Err(end.into()));
            }
            let of = state.pipe(pipe);
            if let Tail::Reset(at, code) = of.tail
                && at <= now
            {
                if of.seen.is_none() {
                    state.discard(pipe, now, wake);
                    see(state, pipe, side, now, wake);
                }
                return Look::Ready(Err(ReceiveError::Reset(code)));
            }
            let room = READ_BYTES.max(buffer.capacity() - buffer.len());
            let read = read(&mut of.pieces, room, now, buffer);
            if read > 0 {
                state.has_read(pipe, read, now, wake);
                return Look::Ready(Ok(read));
            }
            if let Tail::Finished(at) = of.tail
                && at <= now
                && of.pieces.is_empty()
            {
                if of.seen.is_none() {
                    see(state, pipe, side, now, wake);
                }
                return Look::Ready(Ok(0));
            }
            of.receiver = Some(context.waker().clone());
            let piece = of.pieces.front().map(|(at, _)| *at);
            let tail = match of.tail {
                Tail::Open => None,
                Tail::Finished(at) | Tail::Reset(at, _) => Some(at),
            };
            Look::At(piece.into_iter().chain(tail).min())
        })
        .await
    }

    fn stop(&mut self, code: u32) {
        let (side, pipe) = (self.0.handle.side, self.0.pipe);
        self.0.change(|state, now, wake| {
            let of = state.pipe(pipe);
            if of.seen.is_some() || of.stopped.is_some() {
                return;
            }
            let at = state.tells(side, now);
            state.pipe(pipe).stopped = Some((at, code));
            wake.extend(state.pipe(pipe).sender.take());
            state.discard(pipe, now, wake);
        });
    }
}

impl Drop for SimReceive {
    fn drop(&mut self) {
        self.stop(0);
        self.0.leave();
    }
}

// The reader has seen the end.
fn see(state: &mut State, pipe: u64, side: usize, now: Instant, wake: &mut Vec<std::task::Waker>) {
    let told = state.tells(side, now);
    let of = state.pipe(pipe);
    of.seen = Some(told);
    wake.extend(of.sender.take());
}

/// Reads what has arrived, up to `room` bytes.
fn read(
    pieces: &mut VecDeque<(Instant, Bytes)>,
    room: usize,
    now: Instant,
    buffer: &mut BytesMut,
) -> usize {
    let mut taken = 0;
    while let Some((at, piece)) = pieces.front_mut()
        && *at <= now
        && taken < room
    {
        let part = piece.split_to(piece.len().min(room - taken));
        taken += part.len();
        buffer.extend_from_slice(&part);
        if piece.is_empty() {
            pieces.pop_front();
        }
    }
    taken
}
