//! A publish stream, from its first message to its end. Three futures of one task share it: one reads batches, checks them
//! and hands them to the broker (it always reads, so that a client that exceeds its credit is caught at once and the
//! connection's other streams never wait for this one), one does so with those for which the broker had no room, one writes
//! the answers. What a batch must be to get in is in `batch_check`. Numbering, de-duplication and durability are the broker's.

use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tidegate_wire::batch::ReceivedBatch;
use tidegate_wire::compact::Unpacker;
use tidegate_wire::limits::PRODUCER_ID_BYTES;
use tidegate_wire::pb::{self, ErrorCode, publish_opened, publish_reply};
use tidegate_wire::stream::Connection;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::batch_check::{BatchCheck, Unfit};
use super::credit::{PublishCredit, STREAM_FLOOR_BYTES, for_event_bytes};
use super::error_codes::{StreamEnd, from_broker, from_denied, invalid, overloaded, shutting_down};
use super::frames::{FrameRecv, FrameSend, no_room};
use super::memory_account::CreditGrant;
use super::options::WantedCredit;
use super::peer::{Peer, tell_apart};
use super::turns::Turns;
use crate::auth::authorize;
use crate::broker::{PublishError, PublishReplies, PublishReply, PublishRequest, Publisher};
use crate::domain::ProducerId;
use crate::locks::lock;

mod batch_check;

/// Time for answers to what was submitted, once a stream is to end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Serves a publish stream until it ends; says what is to be told of that on the connection.
pub(super) async fn serve<C: Connection>(
    peer: &Peer<C>,
    span: &Span,
    open: &pb::PublishOpen,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> Result<(), StreamEnd> {
    let refuse = |send: &mut FrameSend<C::Send>, error: pb::Error| {
        send.push(&answer_open(publish_opened::Result::Error(error.clone())));
        Err(StreamEnd::Refused(error))
    };
    let options = &peer.service.options;
    let wanted = options.publish_credit(peer.round_trip());
    let granted = match grant(peer, wanted) {
        Ok(granted) => granted,
        Err(error) => return refuse(send, error),
    };
    let _counted = peer.stats().publish_stream();
    let (replies, answered) = mpsc::unbounded_channel();
    let opened = open_publisher(peer, span, open, replies).await;
    let (publisher, last_number, idempotent) = match opened {
        Ok(opened) => opened,
        Err(error) => return refuse(send, error),
    };
    let cost_max = granted.bytes();
    let (credit_bytes, credit_batches) = match open.counts_costs {
        true => (cost_max, wanted.batches),
        false => for_event_bytes(cost_max, wanted.batches, &options.limits),
    };
    // So much may be under way; before it is said, so that the client never runs into the window.
    let _window = peer.window.widen(cost_max);
    send.push(&answer_open(publish_opened::Result::Ready(
        pb::PublishReady {
            credit_bytes: credit_bytes as u64,
            credit_batches,
            last_number,
        },
    )));
    let stream = PublishStream::new(peer, span, cost_max, credit_batches);
    let ended = stream
        .run(publisher, idempotent, recv, send, answered)
        .await;
    if let Some(error) = ended.as_ref().err().and_then(StreamEnd::error) {
        // No batch has correlation 0 on this stream's behalf: it is about the stream itself.
        send.push(&refuse_batch(0, error.clone()));
    }
    ended
}

fn answer_open(result: publish_opened::Result) -> pb::PublishOpened {
    pb::PublishOpened {
        result: Some(result),
    }
}

// Whether the client may publish at all, before anything is done for it; then what it may have outstanding.
fn grant<C: Connection>(peer: &Peer<C>, wanted: WantedCredit) -> Result<CreditGrant, pb::Error> {
    authorize::publish_anything(peer.policy(), &peer.principal)
        .map_err(|denied| from_denied(&denied))?;
    let floor = STREAM_FLOOR_BYTES.min(wanted.bytes);
    let granted = peer.account.grant(wanted.bytes, wanted.times, floor);
    granted.ok_or_else(|| {
        overloaded(
            "too many publish streams are open, by you or by all clients together; close some, or try again later",
        )
    })
}

async fn open_publisher<C: Connection>(
    peer: &Peer<C>,
    span: &Span,
    open: &pb::PublishOpen,
    replies: PublishReplies,
) -> Result<(Publisher, u64, bool), pb::Error> {
    let producer = producer(open)?;
    if let Some((id, _)) = producer {
        tell_apart(span, "producer", &id.to_string());
    }
    let broker = peer.broker().map_err(|error| from_broker(&error))?;
    let opened = tokio::select! {
        biased;
        opened = broker.publisher(&peer.principal, producer, replies) => opened,
        // It may wait for the disk, and what it is opened for is not taken any more.
        () = peer.service.shutdown.cancelled() => return Err(shutting_down()),
    };
    let (publisher, last_number) = opened.map_err(|error| from_broker(&error))?;
    Ok((publisher, last_number, producer.is_some()))
}

fn producer(open: &pb::PublishOpen) -> Result<Option<(ProducerId, u32)>, pb::Error> {
    if open.producer_id.is_empty() {
        return Ok(None);
    }
    let id = <[u8; PRODUCER_ID_BYTES]>::try_from(&open.producer_id[..]).map_err(|_| {
        invalid(format!(
            "producer_id has {} bytes; give {PRODUCER_ID_BYTES}, or none for a publisher that never resends",
            open.producer_id.len(),
        ))
    })?;
    Ok(Some((ProducerId(u128::from_be_bytes(id)), open.epoch)))
}

/// A publish stream that is open: what its futures share.
struct PublishStream<'a, C> {
    peer: &'a Peer<C>,
    span: &'a Span,
    credit: Mutex<PublishCredit>,
    batches_max: usize,
    /// Batches that wait for the broker's room. Those after them wait behind them.
    queued: AtomicUsize,
    /// Batches the broker has and did not answer yet.
    submitted: AtomicUsize,
    /// Nothing more will be submitted.
    complete: AtomicBool,
    /// Told whenever `submitted` or `complete` changes.
    progress: Notify,
    /// The stream is to end: no further batch is read or submitted. The broker's shutdown cancels it too.
    stop: CancellationToken,
    /// What its principal lacks since the policy was read again, so that the stream ends.
    denied: Mutex<Option<pb::Error>>,
}

impl<'a, C: Connection> PublishStream<'a, C> {
    fn new(peer: &'a Peer<C>, span: &'a Span, cost_max: usize, batches_max: u32) -> Self {
        let batches_max = batches_max.max(1) as usize;
        Self {
            peer,
            span,
            credit: Mutex::new(PublishCredit::new(cost_max, batches_max)),
            batches_max,
            queued: AtomicUsize::new(0),
            submitted: AtomicUsize::new(0),
            complete: AtomicBool::new(false),
            progress: Notify::new(),
            stop: peer.service.shutdown.child_token(),
            denied: Mutex::default(),
        }
    }

    async fn run(
        &self,
        publisher: Publisher,
        idempotent: bool,
        recv: &mut FrameRecv<C::Receive>,
        send: &mut FrameSend<C::Send>,
        answered: mpsc::UnboundedReceiver<Vec<PublishReply>>,
    ) -> Result<(), StreamEnd> {
        // Credit bounds what is in both queues, so neither is ever full.
        let (admitted_in, admitted) = mpsc::channel(self.batches_max);
        let (refused_in, refused) = mpsc::channel(2 * self.batches_max);
        let read = self.read(
            &publisher,
            idempotent,
            recv,
            admitted_in,
            refused_in.clone(),
        );
        let submit = self.submit_queued(&publisher, admitted, refused_in);
        let write = self.write(send, answered, refused);
        // Each is looked at only when it was woken itself: with many connections, what the others would look at is in no cache.
        let futures: [BoxFuture<'_, Result<(), StreamEnd>>; 4] = [
            Box::pin(read),
            Box::pin(submit),
            Box::pin(write),
            Box::pin(self.watch_rights()),
        ];
        let mut running = FuturesUnordered::from_iter(futures);
        // The last one never ends.
        for _ in 0..3 {
            if let Some(ended) = running.next().await {
                ended?;
            }
        }
        match lock(&self.denied).take() {
            Some(error) => Err(StreamEnd::Refused(error)),
            None => Ok(()),
        }
    }

    // Ends the stream once its principal may publish nothing at all any more. What the broker has is answered first.
    async fn watch_rights(&self) -> Result<(), StreamEnd> {
        let policy = self.peer.policy();
        let mut news = policy.watch();
        loop {
            let may = authorize::publish_anything(policy, &self.peer.principal);
            if let Err(denied) = may {
                let mut ours = lock(&self.denied);
                *ours = Some(from_denied(&denied));
                drop(ours);
                self.stop.cancel();
                break;
            }
            if news.changed().await.is_err() {
                break;
            }
        }
        std::future::pending().await
    }

    // Reads and checks batches until the client finishes or the stream is to end.
    async fn read(
        &self,
        publisher: &Publisher,
        idempotent: bool,
        recv: &mut FrameRecv<C::Receive>,
        admitted: mpsc::Sender<PublishRequest>,
        refused: mpsc::Sender<pb::PublishReply>,
    ) -> Result<(), StreamEnd> {
        let limits = self.peer.service.options.limits;
        let (policy, who) = (self.peer.policy(), &self.peer.principal);
        let mut gate = BatchCheck::new(policy, who, limits, idempotent);
        let mut unpacker = Unpacker::new(limits.frame_bytes_max);
        let mut turns = Turns::default();
        let mut stopped = pin!(self.stop.cancelled());
        recv.leave_room_to_caller();
        loop {
            let frame = tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                frame = self.next_frame(recv) => frame?,
            };
            let Some(frame) = frame else {
                return Ok(());
            };
            let head = ReceivedBatch::decode(frame)?;
            let correlation = head.correlation;
            let taken = match self
                .admit(head, &mut gate, &mut unpacker, &mut turns)
                .await?
            {
                Ok(request) => self.submit_now(publisher, request),
                Err(Unfit { topic, error }) => {
                    self.peer.log_refusal_of(self.span, Some(&topic), &error);
                    Err(error)
                }
            };
            let sent = match taken {
                Ok(None) => true,
                Ok(Some(request)) => {
                    self.queued.fetch_add(1, Ordering::Relaxed);
                    admitted.try_send(request).is_ok()
                }
                Err(error) => refused.try_send(refuse_batch(correlation, error)).is_ok(),
            };
            // The one with room for refusals only fills when the client does not read its answers.
            if !sent && !self.stop.is_cancelled() {
                let message = "too many answers are unread on this stream; read them";
                return Err(StreamEnd::Refused(pb::Error::new(
                    ErrorCode::FlowControl,
                    message,
                )));
            }
        }
    }

    // The next batch, for which there is room before it is read: within the credit, or beside it when it is the only one.
    async fn next_frame(
        &self,
        recv: &mut FrameRecv<C::Receive>,
    ) -> Result<Option<Bytes>, StreamEnd> {
        let Some(length) = recv.announced().await? else {
            return Ok(None);
        };
        let lacking = self
            .with_credit(|credit| credit.announce(length))
            .map_err(StreamEnd::Refused)?;
        if lacking > 0 {
            let room = timeout_at(recv.deadline(), self.peer.account.room(lacking)).await;
            let room = room.map_err(|_| no_room(length))?;
            self.with_credit(|credit| credit.hold(room));
        }
        recv.next_frame().await
    }

    // Lets a batch in, which has credit of its own from then on. Of one whose topic is not the client's nothing is unpacked or looked at,
    // unless what comes after it cannot be read without it, which is little. What is packed is unpacked once there is credit for it.
    async fn admit(
        &self,
        mut head: ReceivedBatch,
        gate: &mut BatchCheck<'_>,
        unpacker: &mut Unpacker,
        turns: &mut Turns,
    ) -> Result<Result<PublishRequest, Unfit>, StreamEnd> {
        let unpacked_bytes = unpacker.resolve(&mut head)?;
        if let Some(bytes) = unpacked_bytes {
            self.with_credit(|credit| credit.announce_packed(bytes))
                .map_err(StreamEnd::Refused)?;
        }
        let topic = gate.topic(&head.topic);
        if topic.is_ok() || head.remember {
            let packed_bytes = head.packed.len();
            unpacker.unpack_batch(&mut head)?;
            if let Some(bytes) = unpacked_bytes {
                self.peer.stats().unpacked(packed_bytes, bytes);
                turns.packed(bytes).await;
            }
        }
        let topic = match topic {
            Ok(topic) => topic,
            Err(error) => {
                let topic = head.topic;
                return Ok(Err(Unfit { topic, error }));
            }
        };
        let batch = match gate.batch(topic, head)? {
            Ok(batch) => batch,
            Err(unfit) => return Ok(Err(unfit)),
        };
        let cost = batch.cost();
        self.with_credit(|credit| credit.take(cost))
            .map_err(StreamEnd::Refused)?;
        let admitted = gate.admit(batch);
        if admitted.is_err() {
            self.with_credit(|credit| credit.give_back(cost));
        }
        Ok(admitted)
    }

    // Hands a batch to the broker, or gives it back when it has to wait for room.
    fn submit_now(
        &self,
        publisher: &Publisher,
        request: PublishRequest,
    ) -> Result<Option<PublishRequest>, pb::Error> {
        if self.queued.load(Ordering::Relaxed) > 0 {
            return Ok(Some(request));
        }
        let cost = request.cost;
        let submitted = publisher.submit_now(request);
        if let Ok(None) = submitted {
            self.submitted.fetch_add(1, Ordering::Relaxed);
        }
        submitted.map_err(|error| self.refusal(&error, cost))
    }

    // Hands batches to the broker as it has room for them, one after the other, which keeps their order.
    async fn submit_queued(
        &self,
        publisher: &Publisher,
        mut admitted: mpsc::Receiver<PublishRequest>,
        refused: mpsc::Sender<pb::PublishReply>,
    ) -> Result<(), StreamEnd> {
        let mut stopped = pin!(self.stop.cancelled());
        loop {
            let request = tokio::select! {
                biased;
                () = &mut stopped => break,
                request = admitted.recv() => request,
            };
            let Some(request) = request else {
                break;
            };
            let (correlation, cost) = (request.correlation, request.cost);
            let submitted = publisher.submit(request).await;
            self.queued.fetch_sub(1, Ordering::Relaxed);
            match submitted {
                Ok(()) => {
                    self.submitted.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let error = self.refusal(&error, cost);
                    // The queue has room for every batch that credit allows.
                    let _ = refused.try_send(refuse_batch(correlation, error));
                }
            }
        }
        self.complete.store(true, Ordering::Relaxed);
        self.progress.notify_one();
        Ok(())
    }

    // Writes answers, all that are there in one go, until the last one.
    async fn write(
        &self,
        send: &mut FrameSend<C::Send>,
        mut answered: mpsc::UnboundedReceiver<Vec<PublishReply>>,
        mut refused: mpsc::Receiver<pb::PublishReply>,
    ) -> Result<(), StreamEnd> {
        send.flush().await?;
        let mut last = false;
        while !last {
            // The end comes last, so that whatever was answered before is written.
            tokio::select! {
                biased;
                Some(replies) = answered.recv() => self.push_answers(replies, send),
                Some(reply) = refused.recv() => send.push(&reply),
                () = self.all_answered() => last = true,
            }
            while let Ok(replies) = answered.try_recv() {
                self.push_answers(replies, send);
            }
            while let Ok(reply) = refused.try_recv() {
                send.push(&reply);
            }
            send.flush().await?;
        }
        Ok(())
    }

    fn push_answers(&self, replies: Vec<PublishReply>, send: &mut FrameSend<C::Send>) {
        self.submitted.fetch_sub(replies.len(), Ordering::Relaxed);
        self.progress.notify_one();
        for reply in replies {
            send.push(&self.answer(reply));
        }
    }

    fn answer(&self, reply: PublishReply) -> pb::PublishReply {
        match reply.result {
            Ok(outcome) => {
                self.with_credit(|credit| credit.give_back(reply.cost));
                let ack = pb::PublishAck {
                    first_sequence: outcome.first_sequence.0,
                    count: outcome.count,
                    duplicate: outcome.duplicate,
                    unkept: outcome.unkept,
                };
                let result = Some(publish_reply::Result::Ack(ack));
                pb::PublishReply {
                    correlation: reply.correlation,
                    result,
                }
            }
            Err(error) => refuse_batch(reply.correlation, self.refusal(&error, reply.cost)),
        }
    }

    // What a refusal by the broker means for the stream. A batch that may succeed later must not be overtaken
    // by the ones after it, or their numbers would make it look like a resend: the stream ends, and the
    // client sends all of them again on a new one. A fenced producer has nothing more to say here.
    fn refusal(&self, error: &PublishError, cost: usize) -> pb::Error {
        self.with_credit(|credit| credit.give_back(cost));
        let refusal = from_broker(error);
        if refusal.retryable || matches!(error, PublishError::Fenced) {
            self.stop.cancel();
        }
        self.peer.log_refusal(self.span, &refusal);
        refusal
    }

    // Completes when nothing more will be submitted and the broker has answered everything, or when it has
    // had long enough for that.
    async fn all_answered(&self) {
        let answered = async {
            while !self.complete.load(Ordering::Relaxed)
                || self.submitted.load(Ordering::Relaxed) > 0
            {
                // A change between the look and the wait leaves a permit.
                self.progress.notified().await;
            }
        };
        let overdue = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWERS).await;
        };
        tokio::select! {
            biased;
            () = answered => {}
            () = overdue => {}
        }
    }

    fn with_credit<T>(&self, change: impl FnOnce(&mut PublishCredit) -> T) -> T {
        change(&mut lock(&self.credit))
    }
}

fn refuse_batch(correlation: u64, error: pb::Error) -> pb::PublishReply {
    pb::PublishReply {
        correlation,
        result: Some(publish_reply::Result::Error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_id_has_sixteen_bytes_or_none() {
        let open = |length: usize| pb::PublishOpen {
            producer_id: vec![1; length].into(),
            epoch: 3,
            counts_costs: true,
        };
        assert_eq!(producer(&open(0)), Ok(None));
        let id = ProducerId(u128::from_be_bytes([1; 16]));
        assert_eq!(producer(&open(16)), Ok(Some((id, 3))));
        let refused = producer(&open(15)).map_err(|error| error.code());
        assert_eq!(refused, Err(ErrorCode::InvalidArgument));
    }
}
