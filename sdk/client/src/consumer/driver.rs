//! The task behind a consumer. It opens the stream, reads deliveries into the consumer's queue, sends credit and answers, and
//! attaches again after a loss. It always reads, so that nothing on the connection waits for it.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tidegate_wire::compact::{Compression, Unpacker};
use tidegate_wire::frame::decode;
use tidegate_wire::limits::NOT_HELD_RANGES_MAX;
use tidegate_wire::pb::{self, broker_to_consumer, stream_open, subscribe_opened};
use tidegate_wire::positions::decode_positions;
use tidegate_wire::stream::{Connection, SendError};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::ahead::Ahead;
use super::credit::Credit;
use super::delivery::Handout;
use super::renewal::Renewal;
use super::shared::Shared;
use super::stream::ConsumerStream;
use crate::backoff::Backoff;
use crate::error::{Refusal, StreamError, SubscribeError};
use crate::frames::{FrameStream, Moved};
use crate::hello::Established;
use crate::link::Link;

/// How long the last words to the broker may take when the consumer is gone.
const DETACH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it may take to send the last answers of a stream that moves after the broker's goodbye, and to hear that they are confirmed.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(6);

/// How long nothing at all may happen meanwhile on a stream that moves from a connection that works: longer than the broker waits for its
/// disk. It need not be short, since silence of the whole connection is seen elsewhere.
const MOVE_SILENCE: Duration = Duration::from_secs(30);

/// What the application is told while there is no connection.
const LOST: &str = "the connection to the broker is lost; connecting again";

/// Why a stream is over.
enum End {
    /// The consumer is gone.
    Detached,
    /// Another stream may go on; wait that long first, when the broker says so.
    Retry(Option<Duration>),
    /// Another stream goes on over another connection.
    Moved,
    /// There will be no more deliveries.
    Fatal(SubscribeError),
}

/// What can happen to a stream.
enum Event {
    Frame(Result<Option<Bytes>, StreamError>),
    Written(Result<(), SendError>),
    /// The application did something, or it is time to tell the broker.
    Woken,
    /// There is another connection.
    Moves,
}

pub(super) struct Driver<C: Connection> {
    link: Arc<Link<C>>,
    shared: Arc<Shared>,
    subscription: String,
    look: bool,
    /// What the broker has on each stream at first.
    credit: Credit,
    /// Told about the first opening.
    opened: Option<oneshot::Sender<Result<(), SubscribeError>>>,
    backoff: Backoff,
    /// The broker has said itself why the stream ends.
    was_refused: bool,
}

impl<C: Connection> Driver<C> {
    pub(super) fn new(
        link: Arc<Link<C>>,
        shared: Arc<Shared>,
        subscription: String,
        look: bool,
        credit: Credit,
        opened: oneshot::Sender<Result<(), SubscribeError>>,
    ) -> Self {
        Self {
            backoff: link.backoff(),
            link,
            shared,
            subscription,
            look,
            credit,
            opened: Some(opened),
            was_refused: false,
        }
    }

    pub(super) async fn run(mut self) {
        let end = loop {
            let end = match self.open().await {
                Ok(mut stream) => {
                    let end = self.drive(&mut stream).await;
                    if matches!(end, End::Detached) {
                        self.say_goodbye(&mut stream).await;
                    }
                    stream.frames.abandon();
                    let has_another = stream.established.moves.is_cancelled();
                    self.lose(stream);
                    match end {
                        // The broker has ended it first, and there is another connection already.
                        End::Retry(None) if has_another => End::Moved,
                        end => end,
                    }
                }
                Err(end) => end,
            };
            match end {
                End::Detached => break SubscribeError::Closed,
                End::Moved => self.was_refused = false,
                End::Fatal(error) => break self.report(error),
                End::Retry(wait) => {
                    if !std::mem::take(&mut self.was_refused) {
                        self.shared.state().obstacle = Some(LOST.to_owned());
                    }
                    let wait = wait.unwrap_or_else(|| self.backoff.next());
                    if self.while_attached(self.link.pause(wait)).await.is_none() {
                        break SubscribeError::Closed;
                    }
                }
            }
        };
        let confirms = {
            let mut state = self.shared.state();
            state.ended = Some(end.clone());
            std::mem::take(&mut state.confirms)
        };
        for waiter in confirms {
            // Nobody may be waiting any more.
            let _ = waiter.send(Err(end.clone()));
        }
        self.shared.close(None);
    }

    async fn open(&mut self) -> Result<ConsumerStream<C>, End> {
        let established = self.while_attached(self.link.established()).await;
        let established = established
            .ok_or(End::Detached)?
            .map_err(|error| End::Fatal(SubscribeError::Connection(error)))?;
        let mut credit = self.credit.clone();
        let handed_over_max = {
            let mut state = self.shared.state();
            credit.events = state.wanted.begin(credit.events);
            if self.look {
                state.ahead = Ahead::unbounded();
            }
            let round_trip = established.connection.round_trip();
            state.ahead.bound(state.handed_over, round_trip)
        };
        let open = pb::SubscribeOpen {
            subscription: self.subscription.clone(),
            credit_events: credit.events,
            credit_bytes: credit.bytes,
            says_handed_over: true,
            look: self.look,
            tell_not_held: true,
            takes_compact: self.link.compression != Compression::Off,
            handed_over_max,
        };
        let runs = established.streams.token();
        let opening = async {
            let kind = stream_open::Kind::Subscribe(open);
            let mut frames = FrameStream::open(&established.connection, kind).await?;
            frames.set_frame_bytes_max(self.link.frame_bytes_max);
            let frame = frames.next().await?;
            Ok::<_, StreamError>((frames, frame))
        };
        let opened = self.while_attached(opening).await.ok_or(End::Detached)?;
        let (frames, frame) = opened.map_err(lost)?;
        let frame = frame.ok_or(End::Retry(None))?;
        let reply: pb::SubscribeOpened = decode(frame).map_err(|error| lost(error.into()))?;
        match reply.result {
            Some(subscribe_opened::Result::Ready(ready)) => {
                Ok(self.begin(established, runs, frames, &ready, &credit))
            }
            Some(subscribe_opened::Result::Error(error)) => Err(self.refused(error.into())),
            None => Err(End::Fatal(SubscribeError::Protocol(
                "the answer to a subscribe open is empty".into(),
            ))),
        }
    }

    fn begin(
        &mut self,
        established: Arc<Established<C>>,
        runs: TaskTrackerToken,
        frames: FrameStream<C>,
        ready: &pb::SubscribeReady,
        credit: &Credit,
    ) -> ConsumerStream<C> {
        let answers_unwanted = ready.ack_deadline_ms == 0;
        {
            let mut state = self.shared.state();
            state.answers_unwanted = answers_unwanted;
            state.ack_deadline_ms = ready.ack_deadline_ms;
            state.obstacle = None;
        }
        if let Some(opened) = self.opened.take() {
            // Nobody may be waiting any more; the consumer is gone then, which is noticed elsewhere.
            let _ = opened.send(Ok(()));
        }
        let renewal =
            (!answers_unwanted && !self.look).then(|| Renewal::new(ready, self.link.buffered_max));
        let unpacker = Unpacker::new(self.link.frame_bytes_max);
        ConsumerStream::new(
            established,
            runs,
            frames,
            unpacker,
            credit,
            answers_unwanted,
            renewal,
        )
    }

    /// The first refusal to open goes to whoever opens the consumer; later ones are retried when that can help.
    fn refused(&mut self, refusal: Refusal) -> End {
        if refusal.retryable && self.opened.is_none() {
            debug!(%refusal, "the broker ends the consumer for now; attaching again");
            self.was_refused = true;
            self.shared.state().obstacle = Some(refusal.to_string());
            return End::Retry(refusal.retry_after);
        }
        End::Fatal(SubscribeError::Refused(refusal))
    }

    async fn drive(&mut self, stream: &mut ConsumerStream<C>) -> End {
        loop {
            if stream.is_silent() && stream.gather(&self.shared) {
                return End::Detached;
            }
            if stream.leaves(&self.shared) {
                return self.leave(stream).await;
            }
            let event = self.next_event(stream).await;
            if let Err(end) = self.apply(stream, event).await {
                return end;
            }
            let detached = {
                let state = self.shared.state();
                stream.note_handed_over(&state);
                state.detached
            };
            if detached && stream.is_silent() && stream.gather(&self.shared) {
                return End::Detached;
            }
        }
    }

    /// Waits for the first thing to happen. Dropping what did not happen loses nothing.
    async fn next_event(&self, stream: &mut ConsumerStream<C>) -> Event {
        let timer = stream.timer();
        // One that only looks would be shown everything again.
        let moves = !self.look && !stream.moves();
        // Until then it concerns nobody, or is known when it begins to move.
        let awaits_goodbye = stream.moves() && !stream.established.goodbye.initialized();
        tokio::select! {
            biased;
            moved = stream.frames.moved() => match moved {
                Moved::Frame(frame) => Event::Frame(frame),
                Moved::Written(written) => Event::Written(written),
            },
            () = self.shared.wake.notified() => Event::Woken,
            () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Event::Woken,
            () = stream.established.moves.cancelled(), if moves => Event::Moves,
            _ = stream.established.goodbye.wait(), if awaits_goodbye => Event::Woken,
        }
    }

    async fn apply(&mut self, stream: &mut ConsumerStream<C>, event: Event) -> Result<(), End> {
        match event {
            Event::Frame(Ok(Some(frame))) => self.apply_frames(stream, frame),
            Event::Frame(Ok(None)) => Err(End::Retry(None)),
            Event::Frame(Err(error)) => Err(lost(error)),
            Event::Written(Err(error)) => {
                debug!(%error, "the broker takes no more commands");
                Err(self.last_words(stream).await)
            }
            Event::Moves => {
                stream.begin_to_move(&self.shared);
                Ok(())
            }
            Event::Written(Ok(())) | Event::Woken => Ok(()),
        }
    }

    /// Reads what the broker still says on a stream that moves: that it has the last answers. Then says that nothing more comes.
    async fn leave(&mut self, stream: &mut ConsumerStream<C>) -> End {
        let mut finished = false;
        let begun = Instant::now();
        let mut last_moved = begun;
        loop {
            let (detached, failed) = {
                let state = self.shared.state();
                (state.detached, state.failed)
            };
            // A broker waits for its disk only as long as the stream is open; after that, for some seconds.
            let is_over = detached || !stream.awaits_confirmation();
            if !finished {
                stream.give_back(&self.shared);
            }
            if !finished && stream.is_silent() && is_over {
                stream.frames.finish();
                finished = true;
            }
            // One that failed takes nothing back; of another, the last answers still go out.
            if detached && (finished || failed) {
                return End::Detached;
            }
            let goodbye = stream.established.goodbye.get();
            let until = goodbye.map_or(last_moved + MOVE_SILENCE, |goodbye| {
                begun.max(goodbye.came_at) + GOODBYE_TIMEOUT
            });
            let event = tokio::select! {
                biased;
                () = self.shared.wake.notified() => Event::Woken,
                _ = stream.established.goodbye.wait(), if goodbye.is_none() => Event::Woken,
                moved = stream.frames.moved() => match moved {
                    Moved::Frame(Ok(None)) => return End::Moved,
                    Moved::Frame(frame) => Event::Frame(frame),
                    Moved::Written(written) => Event::Written(written),
                },
                () = tokio::time::sleep_until(until) => return End::Moved,
            };
            if !matches!(event, Event::Woken) {
                last_moved = Instant::now();
            }
            if let Err(end) = self.apply(stream, event).await {
                return end;
            }
        }
    }

    /// Reads what the broker still says after it stopped listening: most likely why.
    async fn last_words(&mut self, stream: &mut ConsumerStream<C>) -> End {
        loop {
            match stream.frames.last_words(DETACH_TIMEOUT).await {
                Ok(Some(frame)) => {
                    if let Err(end) = self.apply_frames(stream, frame) {
                        return end;
                    }
                }
                Ok(None) => return End::Retry(None),
                Err(error) => return lost(error),
            }
        }
    }

    /// Applies `frame` and all further ones that are here already.
    fn apply_frames(&mut self, stream: &mut ConsumerStream<C>, frame: Bytes) -> Result<(), End> {
        let mut next = Some(frame);
        while let Some(frame) = next {
            let message: pb::BrokerToConsumer =
                decode(frame).map_err(|error| lost(error.into()))?;
            match message.message {
                Some(broker_to_consumer::Message::Deliver(deliver)) => {
                    self.deliver(stream, deliver)?
                }
                Some(broker_to_consumer::Message::Confirmed(confirmed)) => {
                    self.note_not_held(stream, &confirmed)?;
                    stream.confirmed(&confirmed.confirm, &self.shared);
                }
                Some(broker_to_consumer::Message::HandedOver(heard)) => {
                    let waits = {
                        let mut state = self.shared.state();
                        state.heard = state.heard.max(heard.deliveries);
                        state.waits_for_heard.take()
                    };
                    waits.into_iter().for_each(Waker::wake);
                }
                Some(broker_to_consumer::Message::Paused(pb::Paused { reason })) => {
                    let why = reason.map(|reason| format!("the subscription is paused: {reason}"));
                    self.shared.state().obstacle = why;
                }
                Some(broker_to_consumer::Message::Error(error)) => {
                    return Err(self.refused(error.into()));
                }
                // A kind of message from a later version.
                None => {}
            }
            next = stream.frames.buffered().map_err(lost)?;
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        stream: &mut ConsumerStream<C>,
        mut deliver: pb::Deliver,
    ) -> Result<(), End> {
        self.backoff.reset();
        let unpacked = stream.unpacker.unpack_deliver(&mut deliver);
        unpacked.map_err(|error| End::Fatal(SubscribeError::Protocol(error.to_string())))?;
        let generation = self.shared.state().generation;
        let suspect = deliver.suspect;
        let mut handout =
            Handout::new(deliver, generation, !stream.answers_unwanted).map_err(End::Fatal)?;
        let (events, bytes) = handout.cost();
        let delivered = stream.deliver(events, bytes, &self.shared);
        let delivered = delivered.map_err(End::Fatal)?;
        handout.hear_first = suspect.then_some(delivered);
        self.shared.fill(|state| {
            for (position, number) in handout.come_again(delivered) {
                state.come_again.add(position, number);
            }
            state.buffer.push(handout, Instant::now());
        });
        Ok(())
    }

    /// What the broker says that this consumer answered too late. What of it waits for the application is passed over; the
    /// application is told of the rest.
    fn note_not_held(
        &self,
        stream: &ConsumerStream<C>,
        confirmed: &pb::Confirmed,
    ) -> Result<(), End> {
        let Some(positions) = &confirmed.not_held else {
            return Ok(());
        };
        let ranges = decode_positions(positions, NOT_HELD_RANGES_MAX)
            .map_err(|error| End::Fatal(SubscribeError::Protocol(error.to_string())))?;
        let mut state = self.shared.state();
        for range in &ranges {
            state.in_hand.not_held(range);
        }
        for left in state.buffer.void(&ranges) {
            state.not_held.add(left, stream.delivered());
        }
        if confirmed.not_held_is_cut {
            state.not_held.add_more();
        }
        Ok(())
    }

    /// The consumer is gone. One that failed says so; another has said what it had to say, and waits until the broker has heard
    /// it, not for long. Deliveries that cross this are given to others.
    async fn say_goodbye(&self, stream: &mut ConsumerStream<C>) {
        if self.shared.state().failed {
            stream.frames.reset(tidegate_wire::APPLICATION_FAILED);
            return;
        }
        stream.frames.finish();
        let _ = tokio::time::timeout(DETACH_TIMEOUT, stream.frames.drained()).await;
    }

    /// What `stream` delivered is no longer ours. Tells whoever waits for confirmation.
    fn lose(&self, stream: ConsumerStream<C>) {
        let asked: Vec<_> = stream.into_waiters().collect();
        let (waiting, told) = {
            let mut state = self.shared.state();
            state.lose_stream();
            let mut waiting = std::mem::take(&mut state.confirms);
            waiting.extend(asked);
            let lost = state.lose_unconfirmed();
            // One who waits is told now; otherwise the next who asks.
            state.acks_lost |= lost && waiting.is_empty();
            let lost = lost.then_some(SubscribeError::AcksLost);
            (waiting, lost.map_or(Ok(()), Err))
        };
        for waiter in waiting {
            let _ = waiter.send(told.clone());
        }
    }

    /// Passes a fatal error to the opener, or to the application.
    fn report(&mut self, error: SubscribeError) -> SubscribeError {
        match self.opened.take() {
            Some(opened) => drop(opened.send(Err(error.clone()))),
            None => self.shared.close(Some(error.clone())),
        }
        error
    }

    /// Does `work`, unless the consumer goes first.
    async fn while_attached<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            if self.shared.state().detached {
                return None;
            }
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = self.shared.wake.notified() => {}
            }
        }
    }
}

/// The stream is over; what came was no protocol, or nothing came.
fn lost(error: StreamError) -> End {
    match error {
        StreamError::Frame(error) => End::Fatal(SubscribeError::Protocol(error.to_string())),
        lost => {
            debug!(reason = %lost, "the consumer's stream is lost");
            End::Retry(None)
        }
    }
}
