//! The task behind a publisher. It owns the stream and every batch that has a number: it numbers them, sends them
//! within the broker's credit, resolves them as answers come, and sends them again, in order and with the same
//! numbers, on the stream after this one. Nobody else touches any of that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_wire::compact::Packer;
use tidegate_wire::frame::decode;
use tidegate_wire::pb::{self, publish_opened, publish_reply, stream_open};
use tidegate_wire::stream::{Connection, SendError};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::path_bounds::answers_per_look;
use super::shared::Shared;
use super::stream::{Numbers, PublishStream};
use super::ticket::{Outcome, Published};
use super::unanswered_batches::Outstanding;
use crate::backoff::Backoff;
use crate::error::{ErrorCode, PublishError, Refusal, StreamError};
use crate::frames::{FrameStream, Moved};
use crate::link::Link;
use crate::options::PublisherOptions;

/// What publishers are told while there is no connection.
const LOST: &str = "the connection to the broker is lost; connecting again";

/// Why a stream is over.
enum End {
    /// No publisher is left and everything is resolved.
    Finished,
    /// Another stream may go on; wait that long first, when the broker says so.
    Retry(Option<Duration>),
    /// Everything is answered, and another stream goes on over another connection.
    Moved,
    /// So it does at once, and sends what is not answered again.
    Left,
    /// Nothing can be published any more.
    Fatal(PublishError),
}

/// What can happen to a stream.
enum Event {
    Frame(Result<Option<Bytes>, StreamError>),
    Written(Result<(), SendError>),
    /// A publisher did something, or it is time to look at the batches.
    Woken,
    /// There is another connection.
    Moves,
}

pub(super) struct Driver<C: Connection> {
    link: Arc<Link<C>>,
    shared: Arc<Shared>,
    /// Empty when the broker is not to recognise what is sent again.
    producer_id: Bytes,
    epoch: u32,
    linger: Duration,
    delivery_timeout: Option<Duration>,
    /// Room for what is outstanding grows to the broker's credit.
    room_grows: bool,
    /// Told about the first opening.
    opened: Option<oneshot::Sender<Result<(), PublishError>>>,
    outstanding: Outstanding,
    backoff: Backoff,
    /// As publishers are told.
    obstacle: Option<String>,
    /// How often answers came since the path was looked at, and how often they come until it is looked at again.
    answers_since_look: u32,
    answers_per_look: u32,
}

impl<C: Connection> Driver<C> {
    pub(super) fn new(
        link: Arc<Link<C>>,
        shared: Arc<Shared>,
        options: &PublisherOptions,
        opened: oneshot::Sender<Result<(), PublishError>>,
    ) -> Self {
        let producer_id = match options.idempotent {
            true => {
                let id = options.producer_id.unwrap_or_else(|| link.random().id());
                Bytes::copy_from_slice(&id)
            }
            false => Bytes::new(),
        };
        Self {
            backoff: link.backoff(),
            link,
            shared,
            producer_id,
            epoch: options.epoch,
            linger: options.linger,
            delivery_timeout: options.delivery_timeout,
            room_grows: options.outstanding_bytes_max == 0,
            opened: Some(opened),
            outstanding: Outstanding::new(),
            obstacle: None,
            answers_since_look: 0,
            answers_per_look: 1,
        }
    }

    pub(super) async fn run(mut self) {
        let error = loop {
            let end = match self.open().await {
                Ok(mut stream) => {
                    let end = self.drive(&mut stream).await;
                    match end {
                        // The stream is whole; should the connection be gone, nothing is lost any more.
                        End::Finished | End::Moved => stream.frames.finish(),
                        End::Left | End::Retry(_) | End::Fatal(_) => stream.frames.abandon(),
                    }
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Finished => return,
                End::Fatal(error) => break error,
                End::Moved | End::Left => {}
                End::Retry(wait) => {
                    if self.obstacle.is_none() {
                        self.set_obstacle(Some(LOST.to_owned()));
                    }
                    let wait = wait.unwrap_or_else(|| self.backoff.next());
                    let link = Arc::clone(&self.link);
                    if self.expiring(link.pause(wait)).await.is_none() {
                        return;
                    }
                }
            }
        };
        self.fail_all(error);
    }

    async fn open(&mut self) -> Result<PublishStream<C>, End> {
        let link = Arc::clone(&self.link);
        let established = self.expiring(link.established()).await;
        let established = established
            .ok_or(End::Finished)?
            .map_err(|error| End::Fatal(PublishError::Connection(error)))?;
        let open = pb::PublishOpen {
            producer_id: self.producer_id.clone(),
            epoch: self.epoch,
            counts_costs: true,
        };
        let runs = established.streams.token();
        let opening = async {
            let kind = stream_open::Kind::Publish(open);
            let mut frames = FrameStream::open(&established.connection, kind).await?;
            let frame = frames.next().await?;
            Ok::<_, StreamError>((frames, frame))
        };
        let opened = self.expiring(opening).await.ok_or(End::Finished)?;
        let (frames, frame) = opened.map_err(lost)?;
        let frame = frame.ok_or(End::Retry(None))?;
        let reply: pb::PublishOpened = decode(frame).map_err(|error| lost(error.into()))?;
        match reply.result {
            Some(publish_opened::Result::Ready(ready)) => {
                let packer = established
                    .takes_compact
                    .then(|| Packer::new(link.compression));
                let stream = PublishStream::new(established, runs, frames, &ready, packer);
                self.begin(&stream, &ready);
                Ok(stream)
            }
            Some(publish_opened::Result::Error(error)) => Err(self.refused_open(error.into())),
            None => Err(End::Fatal(PublishError::Protocol(
                "the answer to a publish open is empty".into(),
            ))),
        }
    }

    fn begin(&mut self, stream: &PublishStream<C>, ready: &pb::PublishReady) {
        if self.opened.is_some() {
            self.outstanding.go_on_after(ready.last_number);
        }
        if self.obstacle.as_deref() == Some(LOST) {
            self.set_obstacle(None);
        }
        // Known since the handshake, and needed before the first answer: all the room there is may be filled until then.
        self.look_at_path(stream);
        let mut state = self.shared.state();
        state.gatherer.set_credit(stream.credit_bytes());
        if self.room_grows {
            state.room.widen(stream.credit_bytes());
        }
        drop(state);
        // Whoever hears of it may publish at once, and would fill a batch as large as on no path at all if this were said before.
        if let Some(opened) = self.opened.take() {
            // Nobody may be waiting any more; the publisher is gone then, which is noticed elsewhere.
            let _ = opened.send(Ok(()));
        }
    }

    /// The first refusal to open goes to whoever opens the publisher; later ones are retried when that can help.
    fn refused_open(&mut self, refusal: Refusal) -> End {
        if refusal.retryable && self.opened.is_none() {
            debug!(%refusal, "the broker does not open the publish stream now; trying again");
            self.set_obstacle(Some(refusal.to_string()));
            return End::Retry(refusal.retry_after);
        }
        End::Fatal(PublishError::Refused(refusal))
    }

    async fn drive(&mut self, stream: &mut PublishStream<C>) -> End {
        loop {
            if self.stage(stream) {
                stream.write_staged();
            }
            if stream.frames.queue().is_empty() && self.is_finished() {
                return End::Finished;
            }
            let event = self.next_event(stream).await;
            if let Err(end) = self.apply(stream, event) {
                return end;
            }
            self.expire();
            if stream.has_moved() {
                return End::Moved;
            }
            if stream.is_drained() {
                return End::Retry(stream.retry_wait());
            }
        }
    }

    /// Waits for the first thing to happen. Dropping what did not happen loses nothing.
    async fn next_event(&self, stream: &mut PublishStream<C>) -> Event {
        let timer = self.next_timer(stream);
        let moves = !stream.is_draining();
        tokio::select! {
            biased;
            moved = stream.frames.moved() => match moved {
                Moved::Frame(frame) => Event::Frame(frame),
                Moved::Written(written) => Event::Written(written),
            },
            () = self.shared.wake.notified() => Event::Woken,
            () = until(timer) => Event::Woken,
            () = stream.established.moves.cancelled(), if moves => Event::Moves,
        }
    }

    fn apply(&mut self, stream: &mut PublishStream<C>, event: Event) -> Result<(), End> {
        match event {
            Event::Frame(Ok(Some(frame))) => self.apply_frames(stream, frame),
            Event::Frame(Ok(None)) => Err(End::Retry(stream.retry_wait())),
            Event::Frame(Err(error)) => Err(lost(error)),
            Event::Written(written) => {
                stream.written(&written);
                Ok(())
            }
            // A connection on which the broker says goodbye is no worse than the other. One on which packets count as lost takes seconds for
            // what waits there, and what comes to the broker twice is known by its numbers, if it has any.
            Event::Moves if stream.is_worse() && !self.producer_id.is_empty() => Err(End::Left),
            Event::Moves => {
                stream.begin_to_move();
                Ok(())
            }
            Event::Woken => Ok(()),
        }
    }

    /// Hands batches to the stream while credit lasts: first those sent on an earlier stream, then new ones. Returns whether that
    /// was all that may go out now, so that nothing is gained by looking again once it is written.
    fn stage(&mut self, stream: &mut PublishStream<C>) -> bool {
        while let Some(correlation) = stream.next(self.outstanding.correlations().start) {
            let is_new = correlation >= self.outstanding.correlations().end;
            if is_new && !self.take_batch(stream.credit_left()) {
                return true;
            }
            if let Some(batch) = self.outstanding.get(correlation) {
                if batch.cost > stream.credit_left() {
                    return true;
                }
                let numbers = self.numbers(batch.first_number);
                stream.stage(correlation, batch, numbers);
            }
            stream.sent(correlation);
        }
        false
    }

    /// What a batch says of numbers whose first event has the number `first`.
    fn numbers(&self, first: u64) -> Numbers {
        if self.producer_id.is_empty() {
            return Numbers::default();
        }
        Numbers {
            first,
            resolved_through: self.outstanding.resolved_through(),
        }
    }

    /// Gives the next gathered batch its number. False when there is none to send now.
    fn take_batch(&mut self, credit_left: usize) -> bool {
        let taken = {
            let mut state = self.shared.state();
            let gatherer = &mut state.gatherer;
            gatherer.take(credit_left, self.linger, Instant::now)
        };
        let Some(gathered) = taken else { return false };
        self.outstanding.push(gathered);
        true
    }

    fn look_at_path(&mut self, stream: &PublishStream<C>) {
        let (round_trip, send_window) = (stream.round_trip(), stream.send_window());
        (self.answers_since_look, self.answers_per_look) = (0, answers_per_look(round_trip));
        let mut state = self.shared.state();
        state.gatherer.set_path(round_trip, send_window);
    }

    /// Applies `frame` and all further answers that are here already.
    fn apply_frames(&mut self, stream: &mut PublishStream<C>, frame: Bytes) -> Result<(), End> {
        self.answers_since_look += 1;
        if self.answers_since_look >= self.answers_per_look {
            self.look_at_path(stream);
        }
        let mut next = Some(frame);
        while let Some(frame) = next {
            let reply: pb::PublishReply = decode(frame).map_err(|error| lost(error.into()))?;
            self.answered(stream, reply)?;
            next = stream.frames.buffered().map_err(lost)?;
        }
        Ok(())
    }

    fn answered(
        &mut self,
        stream: &mut PublishStream<C>,
        reply: pb::PublishReply,
    ) -> Result<(), End> {
        let known = stream.answered(reply.correlation);
        match reply.result {
            Some(publish_reply::Result::Ack(ack)) => {
                self.backoff.reset();
                if self.obstacle.is_some() {
                    self.set_obstacle(None);
                }
                let first = Published {
                    sequence: ack.first_sequence,
                    duplicate: ack.duplicate,
                    unkept: ack.unkept,
                };
                self.resolve(reply.correlation, Ok(first));
                Ok(())
            }
            Some(publish_reply::Result::Error(error)) => {
                self.refused(stream, reply.correlation, known, error.into())
            }
            None => {
                let error = PublishError::Protocol("the answer to a batch is empty".into());
                self.resolve(reply.correlation, Err(error));
                Ok(())
            }
        }
    }

    /// A batch was refused, or the whole stream when the batch is not `known`.
    fn refused(
        &mut self,
        stream: &mut PublishStream<C>,
        correlation: u64,
        known: bool,
        refusal: Refusal,
    ) -> Result<(), End> {
        if refusal.code == ErrorCode::ProducerFenced || (!known && !refusal.retryable) {
            return Err(End::Fatal(PublishError::Refused(refusal)));
        }
        if refusal.retryable {
            debug!(%refusal, "a batch is refused for now; sending it again later");
            self.set_obstacle(Some(refusal.to_string()));
            stream.drain(refusal.retry_after);
        } else {
            self.resolve(correlation, Err(PublishError::Refused(refusal)));
        }
        Ok(())
    }

    fn set_obstacle(&mut self, obstacle: Option<String>) {
        if self.obstacle != obstacle {
            self.shared.state().obstacle.clone_from(&obstacle);
            self.obstacle = obstacle;
        }
    }

    /// Resolves the batch of `correlation`, unless it is resolved already.
    fn resolve(&mut self, correlation: u64, outcome: Outcome) {
        let Some(batch) = self.outstanding.resolve(correlation) else {
            return;
        };
        let error = outcome.as_ref().err().cloned();
        let unreported = batch.fate.resolve(outcome, batch.events);
        self.shared
            .give_back(batch.events, batch.admitted_bytes, |state| {
                state.gatherer.resolved(batch.topic_at, batch.order);
                if let (true, Some(error)) = (unreported, error) {
                    state.unreported.get_or_insert(error);
                }
            });
        self.shared.progress.notify_waiters();
    }

    /// No publisher is left, and everything is resolved.
    fn is_finished(&self) -> bool {
        if !self.outstanding.is_empty() {
            return false;
        }
        let state = self.shared.state();
        state.finishing && state.gatherer.is_empty()
    }

    /// Does `work`, failing meanwhile what passes its delivery timeout. `None` when there is nothing left to work for.
    async fn expiring<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            if self.is_finished() {
                return None;
            }
            let timer = self.next_expiry();
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                // A batch was begun, so there may be an earlier timer now; or the last publisher is gone.
                () = self.shared.wake.notified() => {}
                () = until(timer) => {}
            }
            self.expire();
        }
    }

    /// Fails what has been unanswered for the delivery timeout.
    fn expire(&mut self) {
        let Some(after) = self.delivery_timeout else {
            return;
        };
        let now = Instant::now();
        let Some(deadline) = now.checked_sub(after) else {
            return;
        };
        let error = PublishError::TimedOut { after };
        for correlation in self.outstanding.begun_until(deadline) {
            self.resolve(correlation, Err(error.clone()));
        }
        let expired = self.shared.state().gatherer.expire(deadline);
        for batch in expired {
            let unreported = batch.fate.resolve(Err(error.clone()), batch.events);
            self.shared
                .give_back(batch.events, batch.admitted_bytes, |state| {
                    if unreported {
                        state.unreported.get_or_insert_with(|| error.clone());
                    }
                });
            self.shared.progress.notify_waiters();
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let after = self.delivery_timeout?;
        let gathered = self.shared.state().gatherer.oldest();
        let oldest = self
            .outstanding
            .oldest()
            .into_iter()
            .chain(gathered)
            .min()?;
        Some(oldest + after)
    }

    fn next_timer(&self, stream: &PublishStream<C>) -> Option<Instant> {
        let linger = match self.linger.is_zero() {
            true => None,
            false => self.shared.state().gatherer.next_linger(self.linger),
        };
        // A batch whose linger is over waits for credit, not for the clock.
        let linger = linger.filter(|at| *at > Instant::now());
        [linger, stream.drain_deadline(), self.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    fn fail_all(&mut self, error: PublishError) {
        if let Some(opened) = self.opened.take() {
            // Nobody may be waiting any more.
            let _ = opened.send(Err(error.clone()));
        }
        for correlation in self.outstanding.correlations() {
            self.resolve(correlation, Err(error.clone()));
        }
        self.shared.close(&error);
    }
}

/// Comes at that time, if there is one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The stream is over; what came was no protocol, or nothing came.
fn lost(error: StreamError) -> End {
    match error {
        StreamError::Frame(error) => End::Fatal(PublishError::Protocol(error.to_string())),
        lost => {
            debug!(reason = %lost, "the publish stream is lost");
            End::Retry(None)
        }
    }
}
