//! The task behind a publisher. It owns the stream and every batch that has a number: it numbers them, sends them
//! within the broker's credit, resolves them as answers come, and sends them again, in order and with the same
//! numbers, on the stream after this one. Nobody else touches any of that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::VarInt;
use rustc_hash::FxHashMap;
use tidegate_wire::batch::push_batch_head;
use tidegate_wire::frame::decode;
use tidegate_wire::pb::{self, publish_opened, publish_reply, stream_open};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::Shared;
use super::gather::Gathered;
use super::ticket::{Fate, Outcome, Published};
use crate::backoff::Backoff;
use crate::client::ClientHandle;
use crate::error::{ErrorCode, PublishError, Refusal, StreamError};
use crate::options::PublisherOptions;
use crate::transport::FrameSource;

/// Bytes handed to the stream ahead of what it takes. More would only make batches smaller than they need to be,
/// for what waits in the gatherer can still grow.
const STAGED_BYTES_MAX: usize = 512 * 1024;

/// A batch up to this long is copied behind its head; a longer one is handed on where it lies.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// Copied batches and heads are handed on in pieces of about this many bytes.
const PIECE_BYTES: usize = 32 * 1024;

/// How long the answers still under way are awaited after a refusal that ends the stream.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A batch with a number, kept until it is resolved.
struct Batch {
    topic: Arc<str>,
    first_number: u64,
    events: usize,
    cost: usize,
    admitted_bytes: usize,
    body: Bytes,
    fate: Arc<Fate>,
    begun: Instant,
    order: u64,
    resolved: bool,
}

/// One life of the publish stream.
struct Stream {
    connection: quinn::Connection,
    send: quinn::SendStream,
    source: FrameSource,
    credit_bytes: usize,
    credit_batches: usize,
    /// What each batch sent and not answered costs of the credit, by correlation.
    unanswered: FxHashMap<u64, usize>,
    unanswered_cost: usize,
    /// Correlation of the next batch to send.
    next_unsent: u64,
    staged: VecDeque<Bytes>,
    staged_bytes: usize,
    /// The head being written; its topic's memory serves the next one.
    head: pb::PublishBatch,
    /// Heads and short batches on their way to `staged`, so that a thousand of them are a few pieces for QUIC.
    pending: BytesMut,
    /// The broker has refused with this wait before a retry, and will end the stream.
    draining: Option<(Option<Duration>, Instant)>,
}

/// What publishers are told while there is no connection.
const LOST: &str = "the connection to the broker is lost; connecting again";

/// Why a stream is over.
enum End {
    /// No publisher is left and everything is resolved.
    Finished,
    /// Another stream may go on; wait that long first, when the broker says so.
    Retry(Option<Duration>),
    /// Nothing can be published any more.
    Fatal(PublishError),
}

/// What woke the driver.
enum Woken {
    Frame(Result<Option<Bytes>, StreamError>),
    Written(Result<quinn::Written, quinn::WriteError>),
    Other,
}

pub(super) struct Driver {
    client: Arc<ClientHandle>,
    shared: Arc<Shared>,
    producer_id: Bytes,
    epoch: u32,
    linger: Duration,
    delivery_timeout: Option<Duration>,
    /// Told about the first opening.
    opened: Option<oneshot::Sender<Result<(), PublishError>>>,
    /// Batches by correlation: the first has `front`, the others count on. Resolved ones leave from the front.
    batches: VecDeque<Batch>,
    front: u64,
    next_number: u64,
    backoff: Backoff,
    /// As publishers are told.
    obstacle: Option<String>,
}

impl Driver {
    pub(super) fn new(
        client: Arc<ClientHandle>,
        shared: Arc<Shared>,
        options: &PublisherOptions,
        opened: oneshot::Sender<Result<(), PublishError>>,
    ) -> Self {
        let producer_id = match options.idempotent {
            true => Bytes::copy_from_slice(&options.producer_id.unwrap_or_else(rand::random)),
            false => Bytes::new(),
        };
        Self {
            backoff: client.backoff(),
            client,
            shared,
            producer_id,
            epoch: options.epoch,
            linger: options.linger,
            delivery_timeout: options.delivery_timeout,
            opened: Some(opened),
            batches: VecDeque::new(),
            front: 1,
            next_number: 1,
            obstacle: None,
        }
    }

    pub(super) async fn run(mut self) {
        let error = loop {
            let end = match self.open().await {
                Ok(mut stream) => {
                    let end = self.drive(&mut stream).await;
                    if !matches!(end, End::Finished) {
                        stream.abandon();
                    }
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Finished => return,
                End::Fatal(error) => break error,
                End::Retry(wait) => {
                    if self.obstacle.is_none() {
                        self.set_obstacle(Some(LOST.to_owned()));
                    }
                    let wait = wait.unwrap_or_else(|| self.backoff.next());
                    let client = Arc::clone(&self.client);
                    if self.expiring(client.pause(wait)).await.is_none() {
                        return;
                    }
                }
            }
        };
        self.fail_all(error);
    }

    async fn open(&mut self) -> Result<Stream, End> {
        let client = Arc::clone(&self.client);
        let session = self.expiring(client.session()).await.ok_or(End::Finished)?;
        let session = session.map_err(|error| End::Fatal(PublishError::Connection(error)))?;
        let open = pb::PublishOpen {
            producer_id: self.producer_id.clone(),
            epoch: self.epoch,
            counts_costs: true,
        };
        let opening = async {
            let (send, mut source) = session.open(stream_open::Kind::Publish(open)).await?;
            let frame = source.next().await?;
            Ok::<_, StreamError>((send, source, frame))
        };
        let opened = self.expiring(opening).await.ok_or(End::Finished)?;
        let (send, source, frame) = opened.map_err(lost)?;
        let frame = frame.ok_or(End::Retry(None))?;
        let reply: pb::PublishOpened = decode(frame).map_err(|error| lost(error.into()))?;
        match reply.result {
            Some(publish_opened::Result::Ready(ready)) => {
                Ok(self.begin(session.connection.clone(), send, source, ready))
            }
            Some(publish_opened::Result::Error(error)) => Err(self.refused_open(error.into())),
            None => Err(End::Fatal(PublishError::Protocol(
                "the answer to a publish open is empty".into(),
            ))),
        }
    }

    fn begin(
        &mut self,
        connection: quinn::Connection,
        send: quinn::SendStream,
        source: FrameSource,
        ready: pb::PublishReady,
    ) -> Stream {
        if let Some(opened) = self.opened.take() {
            // The broker knows this producer from an earlier life: go on after it.
            self.next_number = self.next_number.max(ready.last_number.saturating_add(1));
            // Nobody may be waiting any more; the publisher is gone then, which is noticed elsewhere.
            let _ = opened.send(Ok(()));
        }
        if self.obstacle.as_deref() == Some(LOST) {
            self.set_obstacle(None);
        }
        let credit_bytes = usize::try_from(ready.credit_bytes).unwrap_or(usize::MAX);
        self.shared.state().gatherer.set_credit(credit_bytes);
        Stream {
            connection,
            send,
            source,
            credit_bytes,
            // None at all would stop everything for ever.
            credit_batches: ready.credit_batches.max(1) as usize,
            unanswered: FxHashMap::default(),
            unanswered_cost: 0,
            next_unsent: self.front,
            staged: VecDeque::new(),
            staged_bytes: 0,
            head: pb::PublishBatch::default(),
            pending: BytesMut::new(),
            draining: None,
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

    async fn drive(&mut self, stream: &mut Stream) -> End {
        loop {
            self.stage(stream);
            if stream.staged.is_empty() && self.is_finished() {
                // The stream is whole; should the connection be gone, nothing is lost any more.
                let _ = stream.send.finish();
                return End::Finished;
            }
            match self.wait(stream).await {
                Woken::Frame(Ok(Some(frame))) => {
                    if let Err(end) = self.apply_all(stream, frame) {
                        return end;
                    }
                }
                Woken::Frame(Ok(None)) => {
                    return End::Retry(stream.draining.and_then(|(wait, _)| wait));
                }
                Woken::Frame(Err(error)) => return lost(error),
                Woken::Written(Ok(written)) => stream.written(&written),
                // The reading side tells why, or goes on with what is still to come.
                Woken::Written(Err(_)) => stream.drain(None),
                Woken::Other => {}
            }
            self.expire();
            if let Some((wait, deadline)) = stream.draining
                && (stream.unanswered.is_empty() || Instant::now() >= deadline)
            {
                return End::Retry(wait);
            }
        }
    }

    /// Waits for the first thing to happen. Dropping what did not happen loses nothing.
    async fn wait(&self, stream: &mut Stream) -> Woken {
        let timer = self.next_timer(stream);
        tokio::select! {
            frame = stream.source.next() => Woken::Frame(frame),
            written = stream.send.write_chunks(stream.staged.make_contiguous()), if !stream.staged.is_empty() => {
                Woken::Written(written)
            }
            () = self.shared.wake.notified() => Woken::Other,
            () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Woken::Other,
        }
    }

    /// Hands batches to the stream while credit lasts: first those sent on an earlier stream, then new ones.
    fn stage(&mut self, stream: &mut Stream) {
        while stream.draining.is_none()
            && stream.staged_bytes < STAGED_BYTES_MAX
            && stream.unanswered.len() < stream.credit_batches
        {
            let index = (stream.next_unsent.max(self.front) - self.front) as usize;
            if index >= self.batches.len() && !self.take_batch(stream.credit_left()) {
                break;
            }
            let batch = &self.batches[index];
            let correlation = self.front + index as u64;
            if !batch.resolved {
                if batch.cost > stream.credit_left() {
                    break;
                }
                let (first_number, resolved_through) = self.numbers(batch);
                stream.stage(correlation, batch, first_number, resolved_through);
            }
            stream.next_unsent = correlation + 1;
        }
        stream.stage_pending();
    }

    /// What `PublishBatch` says of the batch's first number and of what is resolved.
    fn numbers(&self, batch: &Batch) -> (u64, u64) {
        if self.producer_id.is_empty() {
            return (0, 0);
        }
        let oldest = self.batches.front();
        let oldest = oldest.map_or(self.next_number, |oldest| oldest.first_number);
        (batch.first_number, oldest - 1)
    }

    /// Gives the next gathered batch its number. False when there is none to send now.
    fn take_batch(&mut self, credit_left: usize) -> bool {
        let taken = self
            .shared
            .state()
            .gatherer
            .take(credit_left, self.linger, Instant::now());
        let Some(gathered) = taken else { return false };
        let cost = gathered.cost();
        let Gathered {
            topic,
            body,
            events,
            admitted_bytes,
            fate,
            begun,
            order,
            ..
        } = gathered;
        self.batches.push_back(Batch {
            topic,
            first_number: self.next_number,
            events,
            cost,
            admitted_bytes,
            body: body.freeze(),
            fate,
            begun,
            order,
            resolved: false,
        });
        self.next_number = self.next_number.saturating_add(events as u64);
        true
    }

    /// Applies `frame` and all further answers that are here already.
    fn apply_all(&mut self, stream: &mut Stream, frame: Bytes) -> Result<(), End> {
        let round_trip = stream.connection.rtt();
        self.shared.state().gatherer.set_round_trip(round_trip);
        let mut next = Some(frame);
        while let Some(frame) = next {
            let reply: pb::PublishReply = decode(frame).map_err(|error| lost(error.into()))?;
            self.apply(stream, reply)?;
            next = stream.source.buffered().map_err(lost)?;
        }
        Ok(())
    }

    fn apply(&mut self, stream: &mut Stream, reply: pb::PublishReply) -> Result<(), End> {
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
        stream: &mut Stream,
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
        let index = correlation
            .checked_sub(self.front)
            .and_then(|index| usize::try_from(index).ok());
        let Some(batch) = index.and_then(|index| self.batches.get_mut(index)) else {
            return;
        };
        if std::mem::replace(&mut batch.resolved, true) {
            return;
        }
        batch.body = Bytes::new();
        let error = outcome.as_ref().err().cloned();
        let unreported = batch.fate.resolve(outcome, batch.events);
        self.shared.give_back(batch.events, batch.admitted_bytes);
        {
            let mut state = self.shared.state();
            state.gatherer.resolved(&batch.topic, batch.order);
            if let (true, Some(error)) = (unreported, error) {
                state.unreported.get_or_insert(error);
            }
        }
        self.shared.progress.notify_waiters();
        while self.batches.front().is_some_and(|batch| batch.resolved) {
            self.batches.pop_front();
            self.front += 1;
        }
    }

    /// No publisher is left, and everything is resolved.
    fn is_finished(&self) -> bool {
        if !self.batches.is_empty() {
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
                done = &mut work => return Some(done),
                () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
                // A batch was begun, so there may be an earlier timer now; or the last publisher is gone.
                () = self.shared.wake.notified() => {}
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
        let overdue = |(index, batch): (usize, &Batch)| {
            (!batch.resolved && batch.begun <= deadline).then_some(self.front + index as u64)
        };
        let overdue: Vec<u64> = self
            .batches
            .iter()
            .enumerate()
            .filter_map(overdue)
            .collect();
        for correlation in overdue {
            self.resolve(correlation, Err(error.clone()));
        }
        let expired = self.shared.state().gatherer.expire(deadline);
        for batch in expired {
            if batch.fate.resolve(Err(error.clone()), batch.events) {
                self.shared
                    .state()
                    .unreported
                    .get_or_insert_with(|| error.clone());
            }
            self.shared.give_back(batch.events, batch.admitted_bytes);
            self.shared.progress.notify_waiters();
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        let after = self.delivery_timeout?;
        let sent = self
            .batches
            .iter()
            .filter(|batch| !batch.resolved)
            .map(|batch| batch.begun);
        let oldest = sent.chain(self.shared.state().gatherer.oldest()).min()?;
        Some(oldest + after)
    }

    fn next_timer(&self, stream: &Stream) -> Option<Instant> {
        let linger = match self.linger.is_zero() {
            true => None,
            false => self.shared.state().gatherer.next_linger(self.linger),
        };
        // A batch whose linger is over waits for credit, not for the clock.
        let linger = linger.filter(|at| *at > Instant::now());
        let draining = stream.draining.map(|(_, deadline)| deadline);
        [linger, draining, self.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    fn fail_all(&mut self, error: PublishError) {
        if let Some(opened) = self.opened.take() {
            // Nobody may be waiting any more.
            let _ = opened.send(Err(error.clone()));
        }
        for correlation in self.front..self.front + self.batches.len() as u64 {
            self.resolve(correlation, Err(error.clone()));
        }
        self.shared.close(&error);
    }
}

impl Stream {
    fn credit_left(&self) -> usize {
        match self.unanswered.is_empty() {
            // A batch above all credit is the broker's to refuse.
            true => usize::MAX,
            false => self.credit_bytes.saturating_sub(self.unanswered_cost),
        }
    }

    fn stage(&mut self, correlation: u64, batch: &Batch, first_number: u64, resolved_through: u64) {
        self.unanswered.insert(correlation, batch.cost);
        self.unanswered_cost += batch.cost;
        let head = &mut self.head;
        head.correlation = correlation;
        head.topic.clear();
        head.topic.push_str(&batch.topic);
        head.first_number = first_number;
        head.resolved_through = resolved_through;
        let before = self.pending.len();
        push_batch_head(head, batch.body.len(), &mut self.pending);
        self.staged_bytes += self.pending.len() - before + batch.body.len();
        if batch.body.len() <= COPIED_BYTES_MAX {
            self.pending.extend_from_slice(&batch.body);
            if self.pending.len() >= PIECE_BYTES {
                self.stage_pending();
            }
        } else {
            self.stage_pending();
            self.staged.push_back(batch.body.clone());
        }
    }

    fn stage_pending(&mut self) {
        if !self.pending.is_empty() {
            self.staged.push_back(self.pending.split().freeze());
        }
    }

    fn written(&mut self, written: &quinn::Written) {
        self.staged.drain(..written.chunks);
        self.staged_bytes -= written.bytes;
    }

    /// The broker has answered `correlation`. False when it was not sent on this stream.
    fn answered(&mut self, correlation: u64) -> bool {
        let Some(cost) = self.unanswered.remove(&correlation) else {
            return false;
        };
        self.unanswered_cost -= cost;
        true
    }

    /// Ends the stream at once. Without the reset, a batch that was cut off would look complete.
    fn abandon(&mut self) {
        // Fails only when the stream is over already.
        let _ = self.send.reset(VarInt::from_u32(0));
        self.source.stop();
    }

    /// Sends nothing more, and waits only for the answers still under way.
    fn drain(&mut self, wait: Option<Duration>) {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        self.staged.clear();
        self.staged_bytes = 0;
        self.draining.get_or_insert((wait, deadline));
    }
}

/// The stream is over; what came was no protocol, or nothing came.
fn lost(error: StreamError) -> End {
    match error {
        StreamError::Lost(reason) => {
            debug!(reason, "the publish stream is lost");
            End::Retry(None)
        }
        StreamError::Frame(error) => End::Fatal(PublishError::Protocol(error.to_string())),
    }
}
