//! One end of a connection. Whoever waits for something of it waits for the moment at which that arrives, and looks again whenever that
//! may have changed.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidegate_wire::stream::{Connection, ConnectionEnd, Traffic};
use tokio::time::{Instant, Sleep, sleep_until};

use super::state::{Pipe, State};
use super::stream::{Opening, SimReceive, SimSend};
use super::way::{Direction, LinkShape, NEVER};
use super::{BROKER, CLIENT, Outage};

/// One end of a connection over a simulated network.
#[derive(Clone)]
pub struct SimConnection {
    handle: Arc<Handle>,
}

pub(super) type Stream = (SimSend, SimReceive);

/// The two ends of a new connection: the client's, which tells of the streams that it opens, and the broker's; and what is between them.
pub(super) fn pair(
    shape: LinkShape,
    seed: u64,
    opening: Option<Opening>,
) -> (SimConnection, SimConnection, Arc<Shared>) {
    let state = State::new(shape, seed, Instant::now());
    let shared = Arc::new(Shared(Mutex::new(state)));
    let end = |side, opening| SimConnection {
        handle: Arc::new(Handle {
            shared: Arc::clone(&shared),
            side,
            opening,
        }),
    };
    (end(CLIENT, opening), end(BROKER, None), shared)
}

/// What a look came to.
pub(super) enum Look<T> {
    /// It is there.
    Ready(T),
    /// It is not, and will be then, if nothing else happens before.
    At(Option<Instant>),
}

/// Looks at a connection until there is what is wanted. Nothing is changed by a look that has not found it.
pub(super) async fn wait<T>(
    handle: &Handle,
    mut look: impl FnMut(&mut State, Instant, &Context<'_>, &mut Vec<Waker>) -> Look<T>,
) -> T {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|context| {
        loop {
            let now = Instant::now();
            let looked = handle.shared.change(|state, wake| {
                let looked = look(state, now, context, wake);
                (looked, state.end_of(handle.side).map(|(at, _)| at))
            });
            let until = match looked {
                (Look::Ready(found), _) => return Poll::Ready(found),
                (Look::At(at), end) => at.into_iter().chain(end.filter(|end| *end > now)).min(),
            };
            let Some(until) = until.filter(|until| *until < now + NEVER / 2) else {
                timer = None;
                return Poll::Pending;
            };
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            timer.as_mut().reset(until);
            if Future::poll(timer.as_mut(), context).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

impl SimConnection {
    fn look<T>(&self, look: impl FnOnce(usize, &mut State, &mut Vec<Waker>) -> T) -> T {
        let Handle { shared, side, .. } = &*self.handle;
        shared.change(|state, wake| look(*side, state, wake))
    }

    fn stream(&self, outward: u64, inward: u64) -> Stream {
        let half = |pipe| Half {
            handle: Arc::clone(&self.handle),
            pipe,
        };
        (SimSend::new(half(outward)), SimReceive(half(inward)))
    }
}

impl Connection for SimConnection {
    type Send = SimSend;
    type Receive = SimReceive;

    async fn open(&self) -> Result<Stream, ConnectionEnd> {
        let side = self.handle.side;
        let opened = wait(&self.handle, |state, now, context, wake| {
            if let Err(end) = state.check(side, now) {
                return Look::Ready(Err(end));
            }
            let waiting_max = state.shape.streams_waiting_max.max(1);
            if state.sides[1 - side].opened.len() >= waiting_max {
                state.sides[side].waiting.add(context);
                return Look::At(None);
            }
            let outward = 2 * state.streams;
            state.streams += 1;
            let at = state.tells(side, now);
            let theirs = &mut state.sides[1 - side];
            let at = theirs.opened.back().map_or(at, |(last, _)| at.max(*last));
            theirs.opened.push_back((at, outward));
            theirs.waiting.wake(wake);
            state.pipes.insert(outward, Pipe::new(side));
            state.pipes.insert(outward + 1, Pipe::new(1 - side));
            Look::Ready(Ok(outward))
        });
        opened
            .await
            .map(|outward| self.stream(outward, outward + 1))
    }

    async fn accept(&self) -> Result<Stream, ConnectionEnd> {
        let side = self.handle.side;
        let accepted = wait(&self.handle, |state, now, context, wake| {
            if let Err(end) = state.check(side, now) {
                return Look::Ready(Err(end));
            }
            match state.sides[side].opened.front() {
                Some((at, inward)) if *at <= now => {
                    let inward = *inward;
                    state.sides[side].opened.pop_front();
                    state.sides[1 - side].waiting.wake(wake);
                    Look::Ready(Ok(inward))
                }
                first => {
                    let at = first.map(|(at, _)| *at);
                    state.sides[side].waiting.add(context);
                    Look::At(at)
                }
            }
        });
        accepted.await.map(|inward| self.stream(inward + 1, inward))
    }

    fn close(&self, code: u32, reason: &str) {
        let Handle { shared, side, .. } = &*self.handle;
        shared.close(*side, code, reason);
    }

    async fn closed(&self) -> ConnectionEnd {
        let side = self.handle.side;
        wait(&self.handle, |state, now, context, _| {
            match state.check(side, now) {
                Err(end) => Look::Ready(end),
                Ok(()) => {
                    state.sides[side].waiting.add(context);
                    Look::At(None)
                }
            }
        })
        .await
    }

    fn end(&self) -> Option<ConnectionEnd> {
        self.look(|side, state, _| state.check(side, Instant::now()).err())
    }

    fn round_trip(&self) -> Duration {
        self.look(|side, state, _| state.ways[side].round_trip())
    }

    fn traffic(&self) -> Traffic {
        self.look(|side, state, _| state.traffic(side, Instant::now()))
    }

    fn send_window(&self) -> usize {
        self.look(|_, state, _| state.shape.stream_bytes_max)
    }

    fn set_receive_window(&self, bytes: usize) {
        self.look(|side, state, wake| {
            if bytes > state.sides[side].window {
                state.tells(side, Instant::now());
            }
            state.sides[side].window = bytes;
            state.wake_all(wake);
        });
    }
}

impl fmt::Debug for SimConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimConnection")
            .field("side", &self.handle.side)
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

/// What both halves of a stream are at one end.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) handle: Arc<Handle>,
    pub(super) pipe: u64,
}

impl Half {
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut State, Instant, &mut Vec<Waker>) -> T,
    ) -> T {
        let shared = &self.handle.shared;
        shared.change(|state, wake| change(state, Instant::now(), wake))
    }

    /// The half is gone; its pipe goes with the other half.
    pub(super) fn leave(&self) {
        self.change(|state, _, _| {
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
pub(super) struct Handle {
    shared: Arc<Shared>,
    pub(super) side: usize,
    pub(super) opening: Option<Opening>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(self.side, 0, "");
    }
}

/// What is between the ends. Whoever fails connections holds it, too, which keeps none of them open.
pub(super) struct Shared(Mutex<State>);

impl Shared {
    /// Changes the state under its lock, and wakes whom the change names when the lock is free again.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Waker>) -> T) -> T {
        let mut wake = Vec::new();
        let changed = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut state, &mut wake)
        };
        wake.into_iter().for_each(Waker::wake);
        changed
    }

    /// Ends it at `side` now, and at the other one when it hears of that.
    pub(super) fn close(&self, side: usize, code: u32, reason: &str) {
        self.change(|state, wake| {
            let now = Instant::now();
            if state.check(side, now).is_err() {
                return;
            }
            let theirs = ConnectionEnd::Peer {
                code,
                reason: reason.to_owned(),
            };
            let heard = state.tells(side, now);
            state.end(side, now, ConnectionEnd::Here, wake);
            state.end(1 - side, heard, theirs, wake);
        });
    }

    pub(super) fn cut(&self) {
        self.change(|state, wake| {
            let now = Instant::now();
            for side in [CLIENT, BROKER] {
                state.end(side, now, ConnectionEnd::TimedOut, wake);
            }
        });
    }

    pub(super) fn cut_after(&self, direction: Direction, bytes: u64) {
        self.change(|state, _| {
            let way = &mut state.ways[direction.from()];
            way.cut_after = Some(way.bytes + bytes);
        });
    }

    pub(super) fn is_to_be_cut(&self) -> bool {
        self.change(|state, _| {
            let mut ways = state.ways.iter();
            ways.any(|way| {
                way.cut_after
                    .is_some_and(|after| !way.is_lost && way.bytes < after)
            })
        })
    }

    pub(super) fn begin_outage(&self, side: usize, outage: Outage) {
        self.change(|state, wake| state.begin_outage(side, outage, wake));
    }

    pub(super) fn slow(&self, factor: u32) {
        self.change(|state, _| state.ways.iter_mut().for_each(|way| way.slow = factor));
    }

    pub(super) fn heal(&self) {
        self.change(|state, wake| {
            for side in [CLIENT, BROKER] {
                state.end_outage(side, Instant::now(), wake);
                let way = &mut state.ways[side];
                way.slow = 1;
                // What was cut off stays so.
                way.cut_after = way.cut_after.filter(|after| *after <= way.bytes);
            }
        });
    }

    pub(super) fn vanish(&self, side: usize) {
        self.change(|state, wake| state.vanish(side, Instant::now(), wake));
    }

    /// The broker that has vanished is back, and knows nothing of the connection: it says so when it hears of the client.
    pub(super) fn reset_if_vanished(&self) {
        self.change(|state, wake| {
            if state.sides[BROKER].has_vanished {
                let after = Duration::from_millis(1) + state.ways[CLIENT].round_trip();
                let more = state.ways[CLIENT].draw("reset", Duration::from_secs(1));
                let reset = ConnectionEnd::Failed("reset by peer".to_owned());
                state.end(CLIENT, Instant::now() + after + more, reset, wake);
            }
        });
    }

    /// Whether it has ended at both sides.
    pub(super) fn is_over(&self) -> bool {
        let now = Instant::now();
        self.change(|state, _| (0..2).all(|side| state.check(side, now).is_err()))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}
