//! Both ends of a connection and everything between them. What was sent has a moment at which it arrives; whoever looks sees what has
//! arrived by then. So nothing here happens by itself: moments are only compared.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use tidegate_wire::stream::{ConnectionEnd, Traffic};
use tokio::time::Instant;

use super::Outage;
use super::way::{LinkShape, NEVER, Way};

/// Bytes that a message without content takes.
const SMALL_BYTES: usize = 50;

pub(super) struct State {
    pub(super) shape: LinkShape,
    pub(super) sides: [Side; 2],
    /// By the side that sends.
    pub(super) ways: [Way; 2],
    /// Streams opened so far.
    pub(super) streams: u64,
    /// One for each direction of each stream of which a half exists, or will once it is accepted. The one out of the side that
    /// opened the stream has an even number, the other the next.
    pub(super) pipes: BTreeMap<u64, Pipe>,
    /// Up to when both sides have let themselves be heard.
    pinged_at: Instant,
}

/// One end.
pub(super) struct Side {
    /// Streams that the other side opened, and when this one hears of it: the pipes inward.
    pub(super) opened: VecDeque<(Instant, u64)>,
    /// Bytes that the other side may have sent in all.
    pub(super) window: usize,
    /// Those that it has sent, without those that it knows to be read.
    pub(super) used: usize,
    /// Bytes that were read, and when the other side knows.
    pub(super) returns: VecDeque<(Instant, usize)>,
    traffic: Traffic,
    /// When something is heard.
    hears: BTreeMap<Instant, u64>,
    /// When and how the connection ends here.
    pub(super) end: Option<(Instant, ConnectionEnd)>,
    /// Its process is gone.
    pub(super) has_vanished: bool,
    pub(super) waiting: Waiting,
}

/// One direction of a stream.
pub(super) struct Pipe {
    /// The side that sends.
    pub(super) writer: usize,
    /// Sent and not read, and when they arrive. Never empty ones.
    pub(super) pieces: VecDeque<(Instant, Bytes)>,
    /// Bytes for which the sender has no room, as far as it knows.
    pub(super) held: usize,
    /// Bytes that were read, and when the sender knows.
    pub(super) returns: VecDeque<(Instant, usize)>,
    /// When the last piece arrives.
    pub(super) last_at: Option<Instant>,
    pub(super) tail: Tail,
    /// The reader has seen how it ends; when the sender knows.
    pub(super) seen: Option<Instant>,
    /// The reader reads no more, and said so with this code; when the sender knows.
    pub(super) stopped: Option<(Instant, u32)>,
    pub(super) sender: Option<Waker>,
    pub(super) receiver: Option<Waker>,
    /// How many of its two halves exist, or will once the stream is accepted.
    pub(super) halves: u8,
}

/// What follows the bytes that were sent, and when the reader learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    Open,
    Finished(Instant),
    Reset(Instant, u32),
}

/// Tasks that wait for something of a side that is not one stream's.
#[derive(Default)]
pub(super) struct Waiting(Vec<Waker>);

impl Waiting {
    pub(super) fn add(&mut self, context: &Context<'_>) {
        let waker = context.waker();
        if !self.0.iter().any(|waiting| waiting.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }

    pub(super) fn wake(&mut self, wake: &mut Vec<Waker>) {
        wake.append(&mut self.0);
    }
}

impl State {
    pub(super) fn new(shape: LinkShape, seed: u64, now: Instant) -> Self {
        let side = || Side {
            opened: VecDeque::new(),
            window: usize::MAX,
            used: 0,
            returns: VecDeque::new(),
            traffic: Traffic::default(),
            hears: BTreeMap::new(),
            end: None,
            has_vanished: false,
            waiting: Waiting::default(),
        };
        Self {
            shape,
            sides: [side(), side()],
            ways: [Way::new(shape, seed), Way::new(shape, seed ^ 1)],
            streams: 0,
            pipes: BTreeMap::new(),
            pinged_at: now,
        }
    }

    pub(super) fn pipe(&mut self, pipe: u64) -> &mut Pipe {
        self.pipes
            .get_mut(&pipe)
            .expect("a pipe stays until both of its halves are gone, and only they know its number")
    }

    /// When a message without content that `side` sends now arrives. It is heard, and that it was heard is, too.
    pub(super) fn tells(&mut self, side: usize, now: Instant) -> Instant {
        self.sends(side, SMALL_BYTES, now)
    }

    /// When so many bytes arrive.
    pub(super) fn sends(&mut self, side: usize, bytes: usize, now: Instant) -> Instant {
        let at = self.ways[side].arrival(now, bytes);
        self.sides[side].traffic.asked += 1;
        *self.sides[1 - side].hears.entry(at).or_default() += 1;
        let answered = self.ways[1 - side].arrival(at, 0);
        *self.sides[side].hears.entry(answered).or_default() += 1;
        at
    }

    /// How the connection ends at a side, and when, as far as it is decided.
    pub(super) fn end_of(&self, side: usize) -> Option<(Instant, ConnectionEnd)> {
        let idle = self.shape.idle_timeout;
        // Who is not heard any more hears nothing soon either.
        let after_the_other = self.silent_end(1 - side).map(|at| at + idle);
        let silent = self.silent_end(side).into_iter().chain(after_the_other);
        let silent = silent.min().map(|at| (at, ConnectionEnd::TimedOut));
        let told = self.sides[side].end.clone();
        silent.into_iter().chain(told).min_by_key(|(at, _)| *at)
    }

    fn silent_end(&self, side: usize) -> Option<Instant> {
        let outage = self.ways[1 - side].outage?;
        let at = outage.from + self.shape.idle_timeout;
        (outage.until > at).then_some(at)
    }

    /// Whether the connection has not ended at a side.
    pub(super) fn check(&self, side: usize, now: Instant) -> Result<(), ConnectionEnd> {
        match self.end_of(side) {
            Some((at, end)) if at <= now => Err(end),
            _ => Ok(()),
        }
    }

    /// The connection ends at a side, unless it does before. Whoever waits there looks again.
    pub(super) fn end(
        &mut self,
        side: usize,
        at: Instant,
        end: ConnectionEnd,
        wake: &mut Vec<Waker>,
    ) {
        // Whatever an outage would make of it: that may be over before.
        let told = self.sides[side].end.as_ref();
        if told.is_none_or(|(before, _)| *before > at) {
            self.sides[side].end = Some((at, end));
        }
        self.wake_all(wake);
    }

    /// Whoever waits, waits for another moment now.
    pub(super) fn wake_all(&mut self, wake: &mut Vec<Waker>) {
        for side in &mut self.sides {
            side.waiting.wake(wake);
        }
        for pipe in self.pipes.values_mut() {
            wake.extend(pipe.receiver.take());
            wake.extend(pipe.sender.take());
        }
    }

    /// The reader of a pipe has read so many bytes, or throws them away.
    pub(super) fn has_read(
        &mut self,
        pipe: u64,
        bytes: usize,
        now: Instant,
        wake: &mut Vec<Waker>,
    ) {
        let reader = 1 - self.pipe(pipe).writer;
        if bytes > 0 {
            let told = self.tells(reader, now);
            let pipe = self.pipe(pipe);
            pipe.returns.push_back((told, bytes));
            wake.extend(pipe.sender.take());
            self.sides[reader].returns.push_back((told, bytes));
            self.sides[1 - reader].waiting.wake(wake);
        }
    }

    /// Throws away what was sent through a pipe and not read.
    pub(super) fn discard(&mut self, pipe: u64, now: Instant, wake: &mut Vec<Waker>) {
        let pieces = std::mem::take(&mut self.pipe(pipe).pieces);
        let bytes = pieces.iter().map(|(_, piece)| piece.len()).sum();
        self.has_read(pipe, bytes, now, wake);
    }

    /// Room for bytes out of a pipe, as far as its sender knows; and when it knows more.
    pub(super) fn room(&mut self, pipe: u64, now: Instant) -> (usize, Option<Instant>) {
        let stream_bytes_max = self.shape.stream_bytes_max.max(1);
        let of = self.pipe(pipe);
        let returned = arrived(&mut of.returns, now);
        of.held -= returned.into_iter().sum::<usize>();
        let (reader, of_stream) = (1 - of.writer, stream_bytes_max.saturating_sub(of.held));
        let next = of.returns.front().map(|(at, _)| *at);
        let side = &mut self.sides[reader];
        let returned = arrived(&mut side.returns, now);
        side.used -= returned.into_iter().sum::<usize>();
        let of_all = side.window.saturating_sub(side.used);
        let next_of_all = side.returns.front().map(|(at, _)| *at);
        let next = next.into_iter().chain(next_of_all).min();
        (of_stream.min(of_all), next)
    }

    pub(super) fn traffic(&mut self, side: usize, now: Instant) -> Traffic {
        self.ping(now);
        let ours = &mut self.sides[side];
        let later = ours.hears.split_off(&(now + Duration::from_nanos(1)));
        let heard = std::mem::replace(&mut ours.hears, later);
        ours.traffic.heard += heard.values().sum::<u64>();
        ours.traffic
    }

    // Both sides have let themselves be heard now and then, and will have been heard if nothing hindered it.
    fn ping(&mut self, now: Instant) {
        let every = self.shape.keep_alive.max(Duration::from_millis(1));
        while self.pinged_at + every <= now {
            self.pinged_at += every;
            let at = self.pinged_at;
            for side in 0..2 {
                self.sides[side].traffic.asked += 1;
                let way = &self.ways[1 - side];
                let hindered = way.outage.is_some_and(|outage| outage.is_at(at)) || way.is_lost;
                self.sides[side].traffic.heard += u64::from(!hindered);
            }
        }
    }

    /// Nothing that `side` sends arrives for a while.
    pub(super) fn begin_outage(&mut self, side: usize, outage: Outage, wake: &mut Vec<Waker>) {
        self.end_outage(side, outage.from, wake);
        self.ways[side].outage = Some(outage);
        let lasts = outage.until - outage.from;
        self.each_moment(side, |at| {
            if *at > outage.from {
                *at += lasts;
            }
        });
        self.wake_all(wake);
    }

    /// What `side` sends arrives again, and what was held back does so soon.
    pub(super) fn end_outage(&mut self, side: usize, now: Instant, wake: &mut Vec<Waker>) {
        self.ping(now);
        // What has ended by now stays so, and who is not heard any more does not come back.
        for side in 0..2 {
            let is_decided =
                |at| at <= now || self.silent_end(1 - side).is_some_and(|at| at <= now);
            if let Some((at, end)) = self.end_of(side).filter(|(at, _)| is_decided(*at)) {
                self.sides[side].end = Some((at, end));
            }
        }
        let Some(outage) = self.ways[side].outage.take() else {
            return;
        };
        if outage.until > now {
            let earlier = outage.until - now;
            self.each_moment(side, |at| {
                if *at >= outage.until && *at < now + NEVER / 2 {
                    *at -= earlier;
                }
            });
        }
        self.wake_all(wake);
    }

    // All at which something arrives that `side` has sent.
    fn each_moment(&mut self, side: usize, mut change: impl FnMut(&mut Instant)) {
        for pipe in self.pipes.values_mut() {
            if pipe.writer == side {
                pipe.pieces.iter_mut().for_each(|(at, _)| change(at));
                pipe.last_at.iter_mut().for_each(&mut change);
                match &mut pipe.tail {
                    Tail::Open => {}
                    Tail::Finished(at) | Tail::Reset(at, _) => change(at),
                }
            } else {
                pipe.returns.iter_mut().for_each(|(at, _)| change(at));
                pipe.seen.iter_mut().for_each(&mut change);
                pipe.stopped.iter_mut().for_each(|(at, _)| change(at));
            }
        }
        let [ours, theirs] = match side {
            0 => [0, 1],
            _ => [1, 0],
        };
        let returns = &mut self.sides[ours].returns;
        returns.iter_mut().for_each(|(at, _)| change(at));
        let theirs = &mut self.sides[theirs];
        theirs.opened.iter_mut().for_each(|(at, _)| change(at));
        if let Some((at, ConnectionEnd::Peer { .. })) = &mut theirs.end {
            change(at);
        }
        let hears = std::mem::take(&mut theirs.hears);
        for (mut at, times) in hears {
            change(&mut at);
            *theirs.hears.entry(at).or_default() += times;
        }
    }

    /// The process of a side is gone: it hears and says nothing more, and the other one notices when it has heard nothing for long.
    pub(super) fn vanish(&mut self, side: usize, now: Instant, wake: &mut Vec<Waker>) {
        if self.check(side, now).is_ok() {
            let idle = self.shape.idle_timeout;
            self.ways[side].is_lost = true;
            self.sides[side].has_vanished = true;
            self.sides[side].end = Some((now, ConnectionEnd::TimedOut));
            self.end(1 - side, now + idle, ConnectionEnd::TimedOut, wake);
        }
    }

    /// Counts bytes of a stream that a side sends: how many of them arrive, and whether the connection is cut after those.
    pub(super) fn count(&mut self, side: usize, bytes: usize) -> (usize, bool) {
        let way = &mut self.ways[side];
        let left = way.cut_after.map(|limit| limit.saturating_sub(way.bytes));
        way.bytes += bytes as u64;
        match left.and_then(|left| usize::try_from(left).ok()) {
            Some(left) if left <= bytes => (left, !way.is_lost),
            _ => (bytes, false),
        }
    }
}

impl Pipe {
    pub(super) fn new(writer: usize) -> Self {
        Self {
            writer,
            pieces: VecDeque::new(),
            held: 0,
            returns: VecDeque::new(),
            last_at: None,
            tail: Tail::Open,
            seen: None,
            stopped: None,
            sender: None,
            receiver: None,
            halves: 2,
        }
    }

    /// When what is sent now arrives, if it may not overtake what was sent before.
    pub(super) fn in_order(&mut self, at: Instant) -> Instant {
        let at = self.last_at.map_or(at, |last| last.max(at));
        self.last_at = Some(at);
        at
    }
}

/// Takes off a queue what has arrived.
pub(super) fn arrived<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Vec<T> {
    let mut taken = Vec::new();
    while queue.front().is_some_and(|(at, _)| *at <= now) {
        taken.extend(queue.pop_front().map(|(_, of)| of));
    }
    taken
}
