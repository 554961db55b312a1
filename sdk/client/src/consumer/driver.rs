//! The task behind a consumer. It owns the stream: reads deliveries into the consumer's queue, sends credit and
//! answers, and attaches again after a loss. It always reads, so that nothing on the connection waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::VarInt;
use tidegate_wire::frame::{decode, encode_frame};
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, broker_to_consumer, stream_open, subscribe_opened};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::delivery::Handout;
use super::{Credit, Shared};
use crate::backoff::Backoff;
use crate::client::ClientHandle;
use crate::error::{Refusal, StreamError, SubscribeError};
use crate::transport::FrameSource;

/// What the application got is told after this long, if nothing was said in the meantime: seldom enough to cost nothing,
/// and soon enough that the broker mostly knows what a process had in hand when it was killed.
const TELL_AFTER: Duration = Duration::from_millis(10);

/// The reset code that says: the application failed with what it had in hand.
const APPLICATION_FAILED: VarInt = VarInt::from_u32(1);

/// How long the last words to the broker may take when the consumer is gone.
const DETACH_TIMEOUT: Duration = Duration::from_secs(1);

/// One life of the consumer's stream.
struct Stream {
    send: quinn::SendStream,
    source: FrameSource,
    /// Commands that the stream has not taken yet.
    outgoing: Bytes,
    /// Credit the broker has left.
    credit_events: i64,
    credit_bytes: i64,
    /// Asked to confirm and not confirmed: the number, and who waits.
    confirms: VecDeque<(u64, Vec<Waiter>)>,
    next_confirm: u64,
    /// The stream wants no answers.
    answers_unwanted: bool,
    /// Deliveries that came, and those of them of which the broker was told that the application has got them.
    delivered: u64,
    told: u64,
    /// When to tell the broker of more.
    tell_at: Option<Instant>,
}

type Waiter = oneshot::Sender<Result<(), SubscribeError>>;

/// Why a stream is over.
enum End {
    /// The consumer is gone.
    Detached,
    /// Another stream may go on; wait that long first, when the broker says so.
    Retry(Option<Duration>),
    /// There will be no more deliveries.
    Fatal(SubscribeError),
}

/// What woke the driver.
enum Woken {
    Frame(Result<Option<Bytes>, StreamError>),
    Written(Result<(), quinn::WriteError>),
    Other,
}

/// What the application is told while there is no connection.
const LOST: &str = "the connection to the broker is lost; connecting again";

pub(super) struct Driver {
    client: Arc<ClientHandle>,
    shared: Arc<Shared>,
    subscription: String,
    look: bool,
    credit_events: u64,
    credit_bytes: u64,
    handouts: mpsc::UnboundedSender<Result<Handout, SubscribeError>>,
    /// Told about the first opening.
    opened: Option<oneshot::Sender<Result<(), SubscribeError>>>,
    backoff: Backoff,
    /// The broker has said itself why the stream ends.
    was_refused: bool,
}

impl Driver {
    pub(super) fn new(
        client: Arc<ClientHandle>,
        shared: Arc<Shared>,
        subscription: &str,
        look: bool,
        credit: &Credit,
        handouts: mpsc::UnboundedSender<Result<Handout, SubscribeError>>,
        opened: oneshot::Sender<Result<(), SubscribeError>>,
    ) -> Self {
        Self {
            backoff: client.backoff(),
            client,
            shared,
            subscription: subscription.to_owned(),
            look,
            credit_events: credit.events,
            credit_bytes: credit.bytes,
            handouts,
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
                        if self.shared.state().failed {
                            // Fails only when the stream is over already.
                            let _ = stream.send.reset(APPLICATION_FAILED);
                        } else {
                            self.say_goodbye(&mut stream).await;
                        }
                    }
                    stream.abandon();
                    self.lose(stream);
                    end
                }
                Err(end) => end,
            };
            match end {
                End::Detached => break SubscribeError::Closed,
                End::Fatal(error) => break self.report(error),
                End::Retry(wait) => {
                    if !std::mem::take(&mut self.was_refused) {
                        self.shared.state().obstacle = Some(LOST.to_owned());
                    }
                    let wait = wait.unwrap_or_else(|| self.backoff.next());
                    if self.while_attached(self.client.pause(wait)).await.is_none() {
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
    }

    async fn open(&mut self) -> Result<Stream, End> {
        let session = self
            .while_attached(self.client.session())
            .await
            .ok_or(End::Detached)?;
        let session = session.map_err(|error| End::Fatal(SubscribeError::Connection(error)))?;
        let open = pb::SubscribeOpen {
            subscription: self.subscription.clone(),
            credit_events: self.credit_events,
            credit_bytes: self.credit_bytes,
            says_handed_over: true,
            look: self.look,
        };
        let opening = async {
            let (send, mut source) = session.open(stream_open::Kind::Subscribe(open)).await?;
            let frame = source.next().await?;
            Ok::<_, StreamError>((send, source, frame))
        };
        let opened = self.while_attached(opening).await.ok_or(End::Detached)?;
        let (send, source, frame) = opened.map_err(lost)?;
        let frame = frame.ok_or(End::Retry(None))?;
        let reply: pb::SubscribeOpened = decode(frame).map_err(|error| lost(error.into()))?;
        match reply.result {
            Some(subscribe_opened::Result::Ready(ready)) => Ok(self.begin(send, source, ready)),
            Some(subscribe_opened::Result::Error(error)) => Err(self.refused(error.into())),
            None => Err(End::Fatal(SubscribeError::Protocol(
                "the answer to a subscribe open is empty".into(),
            ))),
        }
    }

    fn begin(
        &mut self,
        send: quinn::SendStream,
        source: FrameSource,
        ready: pb::SubscribeReady,
    ) -> Stream {
        let answers_unwanted = ready.ack_deadline_ms == 0;
        {
            let mut state = self.shared.state();
            state.answers_unwanted = answers_unwanted;
            state.obstacle = None;
        }
        if let Some(opened) = self.opened.take() {
            // Nobody may be waiting any more; the consumer is gone then, which is noticed elsewhere.
            let _ = opened.send(Ok(()));
        }
        Stream {
            send,
            source,
            outgoing: Bytes::new(),
            credit_events: i64::try_from(self.credit_events).unwrap_or(i64::MAX),
            credit_bytes: i64::try_from(self.credit_bytes).unwrap_or(i64::MAX),
            confirms: VecDeque::new(),
            next_confirm: 1,
            answers_unwanted,
            delivered: 0,
            told: 0,
            tell_at: None,
        }
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

    async fn drive(&mut self, stream: &mut Stream) -> End {
        loop {
            if stream.outgoing.is_empty() && self.gather(stream) {
                return End::Detached;
            }
            match self.wait(stream).await {
                Woken::Frame(Ok(Some(frame))) => {
                    if let Err(end) = self.apply_all(stream, frame) {
                        return end;
                    }
                }
                Woken::Frame(Ok(None)) => return End::Retry(None),
                Woken::Frame(Err(error)) => return lost(error),
                Woken::Written(Ok(())) => {}
                Woken::Other => self.note_handed_over(stream),
                Woken::Written(Err(error)) => {
                    debug!(%error, "the broker takes no more commands");
                    return self.last_words(stream).await;
                }
            }
            if self.shared.state().detached && stream.outgoing.is_empty() && self.gather(stream) {
                return End::Detached;
            }
        }
    }

    /// Waits for the first thing to happen. Dropping what did not happen loses nothing.
    async fn wait(&self, stream: &mut Stream) -> Woken {
        let Stream {
            send,
            source,
            outgoing,
            tell_at,
            ..
        } = stream;
        let writing = !outgoing.is_empty();
        let write = async {
            send.write_chunks(std::slice::from_mut(outgoing)).await?;
            Ok(())
        };
        tokio::select! {
            frame = source.next() => Woken::Frame(frame),
            written = write, if writing => Woken::Written(written),
            () = self.shared.wake.notified() => Woken::Other,
            () = tokio::time::sleep_until(tell_at.unwrap_or_else(Instant::now)), if tell_at.is_some() && !writing => Woken::Other,
        }
    }

    /// The application may have got more: when that is to be told.
    fn note_handed_over(&self, stream: &mut Stream) {
        if stream.tell_at.is_none() && self.shared.state().handed_over > stream.told {
            stream.tell_at = Some(Instant::now() + TELL_AFTER);
        }
    }

    /// Reads what the broker still says after it stopped listening: most likely why.
    async fn last_words(&mut self, stream: &mut Stream) -> End {
        loop {
            match tokio::time::timeout(DETACH_TIMEOUT, stream.source.next()).await {
                Ok(Ok(Some(frame))) => {
                    if let Err(end) = self.apply_all(stream, frame) {
                        return end;
                    }
                }
                Ok(Err(error)) => return lost(error),
                Ok(Ok(None)) | Err(_) => return End::Retry(None),
            }
        }
    }

    /// Turns what the application said and took into commands. Returns true when the consumer is gone and there is
    /// nothing left to say.
    fn gather(&self, stream: &mut Stream) -> bool {
        let due = stream.tell_at.is_some_and(|at| at <= Instant::now());
        let (answers, events, bytes, confirms, detached, handed_over, ask) = {
            let mut state = self.shared.state();
            // Whatever is taken next wakes us, unless we look at it by ourselves.
            state.tell = stream.tell_at.is_none() || due;
            (
                std::mem::take(&mut state.answers),
                std::mem::take(&mut state.taken_events),
                std::mem::take(&mut state.taken_bytes),
                std::mem::take(&mut state.confirms),
                state.detached,
                state.handed_over,
                state.ask.take(),
            )
        };
        if due {
            stream.tell_at = None;
        }
        let mut out = BytesMut::new();
        let (events, bytes) = if detached { (0, 0) } else { (events, bytes) };
        let handed_over = handed_over.max(ask.unwrap_or_default());
        let tell = handed_over > stream.told && (due || detached);
        if events > 0 || bytes > 0 || tell || ask.is_some() {
            stream.told = stream.told.max(handed_over);
            stream.credit_events = stream.credit_events.saturating_add_unsigned(events);
            stream.credit_bytes = stream.credit_bytes.saturating_add_unsigned(bytes);
            let credit = Command::Credit(pb::Credit {
                events,
                bytes,
                handed_over: stream.told,
                confirm_handed_over: ask.is_some(),
            });
            encode_frame(
                &pb::ConsumerCommand {
                    command: Some(credit),
                },
                &mut out,
            );
        }
        let confirm = if confirms.is_empty() {
            0
        } else {
            stream.confirm(confirms)
        };
        for command in answers.into_commands(confirm) {
            encode_frame(&command, &mut out);
        }
        stream.outgoing = out.freeze();
        detached && stream.outgoing.is_empty()
    }

    /// Applies `frame` and all further ones that are here already.
    fn apply_all(&mut self, stream: &mut Stream, frame: Bytes) -> Result<(), End> {
        let mut next = Some(frame);
        while let Some(frame) = next {
            let message: pb::BrokerToConsumer =
                decode(frame).map_err(|error| lost(error.into()))?;
            match message.message {
                Some(broker_to_consumer::Message::Deliver(deliver)) => {
                    self.deliver(stream, deliver)?
                }
                Some(broker_to_consumer::Message::Confirmed(confirmed)) => {
                    self.confirmed(stream, &confirmed.confirm)
                }
                Some(broker_to_consumer::Message::HandedOver(heard)) => {
                    let asker = {
                        let mut state = self.shared.state();
                        state.heard = state.heard.max(heard.deliveries);
                        state.asker.take()
                    };
                    asker.into_iter().for_each(Waker::wake);
                }
                Some(broker_to_consumer::Message::Error(error)) => {
                    return Err(self.refused(error.into()));
                }
                // A kind of message from a later version.
                None => {}
            }
            next = stream.source.buffered().map_err(lost)?;
        }
        Ok(())
    }

    fn deliver(&mut self, stream: &mut Stream, deliver: pb::Deliver) -> Result<(), End> {
        self.backoff.reset();
        let generation = self.shared.state().generation;
        let suspect = deliver.suspect;
        let mut handout =
            Handout::new(deliver, generation, !stream.answers_unwanted).map_err(End::Fatal)?;
        let (events, bytes) = handout.cost();
        stream.delivered += events;
        handout.hear_first = suspect.then_some(stream.delivered);
        stream.spend(events, bytes, self.credit_events, self.credit_bytes)?;
        // When nobody receives any more, the consumer is gone, which is noticed elsewhere.
        let _ = self.handouts.send(Ok(handout));
        Ok(())
    }

    fn confirmed(&self, stream: &mut Stream, confirmed: &[u64]) {
        for number in confirmed {
            let waiting = stream
                .confirms
                .iter()
                .position(|(waiting, _)| waiting == number);
            let Some((_, waiters)) = waiting.and_then(|index| stream.confirms.remove(index)) else {
                continue;
            };
            for waiter in waiters {
                // Nobody may be waiting any more.
                let _ = waiter.send(Ok(()));
            }
        }
        let mut state = self.shared.state();
        if stream.confirms.is_empty() && stream.outgoing.is_empty() && state.answers.is_empty() {
            state.unconfirmed = false;
        }
    }

    /// Sends what is left to say, ends the stream, and waits for the broker to have heard it; not for long.
    async fn say_goodbye(&self, stream: &mut Stream) {
        // Fails only when the stream is over already.
        let _ = stream.send.finish();
        let heard = async {
            let stopped = stream.send.stopped();
            tokio::pin!(stopped);
            loop {
                tokio::select! {
                    _ = &mut stopped => return,
                    // Deliveries that cross our goodbye; the broker gives them to others.
                    frame = stream.source.next() => if !matches!(frame, Ok(Some(_))) { return },
                }
            }
        };
        let _ = tokio::time::timeout(DETACH_TIMEOUT, heard).await;
    }

    /// What `stream` delivered is no longer ours. Tells whoever waits for confirmation.
    fn lose(&self, stream: Stream) {
        let waiting = {
            let mut state = self.shared.state();
            state.generation += 1;
            state.answers = Default::default();
            (state.taken_events, state.taken_bytes) = (0, 0);
            (state.handed_over, state.heard, state.ask) = (0, 0, None);
            // It looks again, and finds that what it waits for is no longer its own.
            state.asker.take().into_iter().for_each(Waker::wake);
            let mut waiting = std::mem::take(&mut state.confirms);
            waiting.extend(stream.confirms.into_iter().flat_map(|(_, waiters)| waiters));
            // One who waits is told now; otherwise the next who asks.
            if std::mem::take(&mut state.unconfirmed) && waiting.is_empty() {
                state.acks_lost = true;
            }
            waiting
        };
        for waiter in waiting {
            let _ = waiter.send(Err(SubscribeError::AcksLost));
        }
    }

    /// Passes a fatal error to the opener, or to the consumer's queue.
    fn report(&mut self, error: SubscribeError) -> SubscribeError {
        match self.opened.take() {
            Some(opened) => drop(opened.send(Err(error.clone()))),
            None => drop(self.handouts.send(Err(error.clone()))),
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
                done = &mut work => return Some(done),
                () = self.shared.wake.notified() => {}
            }
        }
    }
}

impl Stream {
    /// A number for a confirmation that `waiters` wait for.
    fn confirm(&mut self, waiters: Vec<Waiter>) -> u64 {
        let number = self.next_confirm;
        self.next_confirm += 1;
        self.confirms.push_back((number, waiters));
        number
    }

    /// Takes the cost of deliveries off the broker's credit. One delivery may overdraw the bytes, and a broker that
    /// sends whole frames may overdraw a little more; one that ignores the credit would fill the memory.
    fn spend(
        &mut self,
        events: u64,
        bytes: u64,
        credit_events: u64,
        credit_bytes: u64,
    ) -> Result<(), End> {
        self.credit_events = self.credit_events.saturating_sub_unsigned(events);
        self.credit_bytes = self.credit_bytes.saturating_sub_unsigned(bytes);
        let events_over = self.credit_events < -i64::try_from(credit_events).unwrap_or(i64::MAX);
        let slack = credit_bytes.saturating_add(tidegate_wire::limits::FRAME_BYTES_MAX as u64);
        let bytes_over = self.credit_bytes < -i64::try_from(slack).unwrap_or(i64::MAX);
        if events_over || bytes_over {
            return Err(End::Fatal(SubscribeError::Protocol(
                "the broker ignores the consumer's credit".into(),
            )));
        }
        Ok(())
    }

    /// Ends the stream at once, in both directions.
    fn abandon(&mut self) {
        // Both fail only when the stream is over already; a finished side that was heard is not touched.
        let _ = self.send.reset(VarInt::from_u32(0));
        self.source.stop();
    }
}

/// The stream is over; what came was no protocol, or nothing came.
fn lost(error: StreamError) -> End {
    match error {
        StreamError::Lost(reason) => {
            debug!(reason, "the consumer's stream is lost");
            End::Retry(None)
        }
        StreamError::Frame(error) => End::Fatal(SubscribeError::Protocol(error.to_string())),
    }
}
