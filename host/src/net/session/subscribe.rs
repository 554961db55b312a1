//! A subscribe stream: one consumer of a durable subscription. Futures of one task share it: one reads the
//! client's commands (see `command`), one takes deliveries from the broker as far as credit goes, one writes. Reading never
//! waits for writing, so a client that does not read its deliveries can still ack, and however the stream
//! ends, the consumer is ended at once, which gives its events back: as detached when one side says so, as cut when
//! the connection is lost.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tidegate_wire::compact::block_len;
use tidegate_wire::pb::{self, ErrorCode, broker_to_consumer, subscribe_opened};
use tidegate_wire::stream::Connection;
use tokio::sync::{Notify, mpsc};
use tracing::Span;

use self::command::Command;
use self::confirmations::Confirmations;
use self::framing::{FRAME_BYTES_TARGET, Framed, Message, TooLarge, frame};
use self::late_answers::LateAnswers;
use self::packing::Packing;
use super::credit::ConsumerCredit;
use super::error_codes::{StreamEnd, from_broker, from_denied, shutting_down};
use super::frames::{FrameRecv, FrameSend};
use super::peer::{Peer, tell_apart};
use super::shutdown;
use crate::auth::authorize;
use crate::broker::{Consumer, Delivery, Manner, Unavailable};
use crate::domain::Position;

mod command;
mod confirmations;
mod framing;
mod late_answers;
mod packing;
pub(super) mod silence;
pub(super) mod successors;

/// Taken from the broker in one go, at most, and no more than the path carries now: what is taken belongs to this client, while another
/// may be nearer. One go may wait while another is written, so twice this, beyond the send window, is in memory per consumer at most.
const FETCH_EVENTS_MAX: usize = 1_024;
const FETCH_BYTES_MAX: usize = 512 * 1024;

/// Confirmations a client may wait for at once on one stream.
const CONFIRMS_MAX: usize = 1_024;

/// Time for the confirmations that are still due when the client finishes.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);

/// Bytes of commands that a consumer may have under way: more than the largest of our client's.
const COMMAND_WINDOW_BYTES: usize = 128 * 1024;

/// Confirmations of acks that are not durable yet.
type Confirms = FuturesUnordered<BoxFuture<'static, (u64, Result<(), Unavailable>)>>;

/// Serves a consumer until its stream ends; says what is to be told of that on the connection.
pub(super) async fn serve<C: Connection>(
    peer: &Peer<C>,
    span: &Span,
    open: &pb::SubscribeOpen,
    recv: &mut FrameRecv<C::Receive>,
    send: &mut FrameSend<C::Send>,
) -> Result<(), StreamEnd> {
    let _counted = peer.stats().subscribe_stream();
    tell_apart(span, "subscription", &open.subscription);
    let consumer = match attach(peer, open).await {
        Ok(consumer) => consumer,
        Err(error) => {
            send.push(&answer_open(subscribe_opened::Result::Error(error.clone())));
            return Err(StreamEnd::Refused(error));
        }
    };
    if open.handed_over_max > 0 {
        consumer.hands_over_at_most(open.handed_over_max);
    }
    let _window = peer.window.widen(COMMAND_WINDOW_BYTES);
    let ack_deadline_ms = consumer.spec().delivery.ack_deadline();
    let ready = pb::SubscribeReady {
        ack_deadline_ms,
        takes_give_back: true,
    };
    send.push(&answer_open(subscribe_opened::Result::Ready(ready)));
    let stream = SubscribeStream {
        peer,
        span,
        takes_compact: open.takes_compact,
        credit: Arc::new(ConsumerCredit::new(open.credit_events, open.credit_bytes)),
        confirmed: Confirmations::default(),
        late: LateAnswers::new(open.tell_not_held),
        heard: Confirmations::default(),
        took: Notify::new(),
    };
    let mut confirms = Confirms::new();
    let ended = stream.run(consumer, &mut confirms, recv, send).await;
    stream.finish(ended, confirms, send).await
}

fn answer_open(result: subscribe_opened::Result) -> pb::SubscribeOpened {
    pb::SubscribeOpened {
        result: Some(result),
    }
}

// Rights come first: whether the client may consume at all, then, before anything is set up, whether it may consume this.
async fn attach<C: Connection>(
    peer: &Peer<C>,
    open: &pb::SubscribeOpen,
) -> Result<Consumer, pb::Error> {
    authorize::consume_anything(peer.policy(), &peer.principal)
        .map_err(|denied| from_denied(&denied))?;
    let manner = match (open.look, open.says_handed_over) {
        (true, _) => Manner::Looks,
        (false, true) => Manner::Says,
        (false, false) => Manner::Silent,
    };
    let broker = peer.broker().map_err(|error| from_broker(&error))?;
    tokio::select! {
        biased;
        attached = broker.attach(&peer.principal, &open.subscription, manner) => {
            attached.map_err(|error| from_broker(&error))
        }
        // It may wait for plugins to be set up.
        () = peer.service.shutdown.cancelled() => Err(shutting_down()),
    }
}

/// A subscribe stream that is open: what its futures share.
struct SubscribeStream<'a, C> {
    peer: &'a Peer<C>,
    span: &'a Span,
    /// The client reads numbers of topics and packed events.
    takes_compact: bool,
    credit: Arc<ConsumerCredit>,
    confirmed: Confirmations,
    /// What it answered too late.
    late: LateAnswers,
    /// What the client said to have handed over, and wants to know heard.
    heard: Confirmations,
    /// Something was taken from the broker.
    took: Notify,
}

/// The consumer of a stream, which ends with this: as cut when its connection is lost, also when the stream's task
/// is dropped for that.
struct Attached<'a, C: Connection> {
    consumer: Option<Consumer>,
    /// What was taken from the broker and waits for being written.
    fetched: mpsc::Receiver<Vec<Delivery>>,
    peer: &'a Peer<C>,
    failed: bool,
}

impl<C: Connection> Drop for Attached<'_, C> {
    fn drop(&mut self) {
        let Some(consumer) = self.consumer.take() else {
            return;
        };
        // Never sent, so nothing counts, whatever client it is.
        while let Ok(deliveries) = self.fetched.try_recv()
            && !planted!(UnsentCounts)
        {
            consumer.give_back(deliveries.iter().flat_map(Delivery::positions));
        }
        if self.failed || self.peer.is_cut() {
            consumer.cut();
        }
    }
}

impl<C: Connection> SubscribeStream<'_, C> {
    // The consumer ends when this returns or is dropped, and with it its events are given back.
    async fn run(
        &self,
        consumer: Consumer,
        confirms: &mut Confirms,
        recv: &mut FrameRecv<C::Receive>,
        send: &mut FrameSend<C::Send>,
    ) -> Result<(), StreamEnd> {
        let (fetched_in, fetched) = mpsc::channel(1);
        let mut attached = Attached {
            consumer: None,
            fetched,
            peer: self.peer,
            failed: false,
        };
        let Attached {
            consumer: place,
            fetched,
            ..
        } = &mut attached;
        let consumer = &*place.insert(consumer);
        // Gone before the consumer is, so that nobody waits for it to take over.
        let Peer {
            id,
            window,
            service,
            ..
        } = self.peer;
        let listed = service.successors.list(*id, window, consumer, &self.credit);
        let mut is_silent = false;
        // In this order, so that what is fetched is written at once.
        let ended = tokio::select! {
            biased;
            ended = self.read(consumer, confirms, recv) => ended,
            ended = self.fetch(consumer, fetched_in) => ended,
            ended = self.write(consumer, fetched, send) => ended,
            ended = shutdown::drain_acks(self.peer, || consumer.holds_nothing()) => Err(ended),
            denied = consumer.denied() => Err(denied.into()),
            waited = silence::of_client(self.peer, consumer, &listed, &self.took) => {
                self.peer.log_silent(self.span, waited);
                // What is under way to it is somebody else's now.
                send.reset();
                is_silent = true;
                Err(StreamEnd::Lost)
            }
        };
        attached.failed = match ended {
            _ if is_silent => true,
            Err(StreamEnd::Violation(_)) => true,
            _ => recv.reset_code() == Some(tidegate_wire::APPLICATION_FAILED),
        };
        ended
    }

    // Reads commands until the client finishes.
    async fn read(
        &self,
        consumer: &Consumer,
        confirms: &mut Confirms,
        recv: &mut FrameRecv<C::Receive>,
    ) -> Result<(), StreamEnd> {
        loop {
            // Confirmations first: there are only as many as commands asked for, so commands never wait for long, while an endless
            // stream of commands could keep confirmations back.
            tokio::select! {
                biased;
                Some((confirm, result)) = confirms.next() => {
                    result?;
                    self.confirmed.push(confirm);
                }
                command = recv.next::<pb::ConsumerCommand>() => match command? {
                    Some(command) => self.apply(Command::try_from(command)?, consumer, confirms)?,
                    None => return Ok(()),
                },
            }
        }
    }

    fn apply(
        &self,
        command: Command,
        consumer: &Consumer,
        confirms: &mut Confirms,
    ) -> Result<(), StreamEnd> {
        match command {
            Command::Credit {
                events,
                bytes,
                handed_over,
                handed_over_max,
                confirm,
            } => {
                if handed_over_max > 0 {
                    consumer.hands_over_at_most(handed_over_max);
                }
                if handed_over > 0 {
                    consumer.handed_over(handed_over);
                }
                if confirm {
                    self.heard.raise(handed_over);
                }
                if events > 0 {
                    consumer.goes_on();
                }
                if !planted!(CreditNotGrown) {
                    self.credit.grow(events, bytes);
                }
            }
            Command::Ack {
                positions,
                confirm: 0,
            } => self.late.add(consumer.ack(&positions)),
            Command::Ack { positions, confirm } => {
                self.check_confirms(confirms.len())?;
                self.late.add(consumer.ack(&positions));
                let durable = consumer.acks_durable();
                if planted!(ConfirmedEarly) {
                    confirms.push(Box::pin(async move { (confirm, Ok(())) }));
                    return Ok(());
                }
                confirms.push(Box::pin(async move { (confirm, durable.await) }));
            }
            Command::Nack {
                positions,
                delay_ms,
            } => self.late.add(consumer.nack(&positions, delay_ms)),
            Command::Term { positions, reason } => {
                self.late.add(consumer.term(&positions, &reason));
            }
            Command::Extend {
                positions,
                extend_for_ms,
            } => self.late.add(consumer.extend(&positions, extend_for_ms)),
            Command::GiveBack { positions } => consumer.take_back(&positions),
        }
        Ok(())
    }

    fn check_confirms(&self, under_way: usize) -> Result<(), StreamEnd> {
        if under_way + self.confirmed.len() < CONFIRMS_MAX {
            return Ok(());
        }
        let message = format!(
            "{CONFIRMS_MAX} confirmations are due or unread on this stream; read them first"
        );
        Err(StreamEnd::Refused(pb::Error::new(
            ErrorCode::FlowControl,
            message,
        )))
    }

    // Takes deliveries as long as there is credit; none are taken any more once the broker stops.
    async fn fetch(
        &self,
        consumer: &Consumer,
        fetched: mpsc::Sender<Vec<Delivery>>,
    ) -> Result<(), StreamEnd> {
        let take = async {
            loop {
                // Room first: what waits here without being written is in flight for nothing.
                let Ok(room) = fetched.reserve().await else {
                    return Err(StreamEnd::Lost);
                };
                let (events, bytes) = self
                    .credit
                    .available(FETCH_EVENTS_MAX, FETCH_BYTES_MAX)
                    .await;
                let bytes = bytes.min(self.peer.send_window());
                let deliveries = consumer.next(events, bytes).await?;
                let events: u64 = deliveries.iter().map(Delivery::count).sum();
                let bytes = deliveries.iter().map(Delivery::bytes).sum();
                self.credit.spend(events, bytes);
                room.send(deliveries);
                self.took.notify_one();
            }
        };
        tokio::select! {
            biased;
            () = self.peer.service.shutdown.cancelled() => std::future::pending().await,
            ended = take => ended,
        }
    }

    async fn write(
        &self,
        consumer: &Consumer,
        fetched: &mut mpsc::Receiver<Vec<Delivery>>,
        send: &mut FrameSend<C::Send>,
    ) -> Result<(), StreamEnd> {
        let mut packing = match self.takes_compact {
            true => Packing::of(self.peer),
            false => None,
        };
        let mut paused = consumer.paused();
        // What goes on is no news for who comes.
        if paused.borrow_and_update().is_some() {
            paused.mark_changed();
        }
        loop {
            send.flush().await?;
            tokio::select! {
                biased;
                Ok(()) = paused.changed() => send.push(&paused_for(paused.borrow_and_update().as_deref())),
                confirm = self.confirmed.take() => send.push(&confirmed(confirm, &self.late)),
                () = self.late.are_to_be_told() => send.push(&confirmed(Vec::new(), &self.late)),
                heard = self.heard.take() => send.push(&heard_of(&heard)),
                Some(deliveries) = fetched.recv() => {
                    self.push_deliveries(consumer, deliveries, packing.as_mut(), send).await;
                }
            }
        }
    }

    async fn push_deliveries(
        &self,
        consumer: &Consumer,
        deliveries: Vec<Delivery>,
        mut packing: Option<&mut Packing<'_, C>>,
        send: &mut FrameSend<C::Send>,
    ) {
        let sent: Vec<_> = deliveries.iter().map(Delivery::range).collect();
        let bytes_target = match packing.as_deref_mut() {
            Some(packing) => packing.bytes_target(send.take_waited()),
            None => FRAME_BYTES_TARGET,
        };
        let Framed {
            messages,
            too_large,
        } = frame(deliveries, self.peer.frame_bytes_max, bytes_target);
        let mut pieces = Vec::with_capacity(sent.len());
        for range in &sent {
            without(range, &too_large, |piece| pieces.push(piece));
        }
        // Before others have their turn, in which this may end.
        consumer.sent(sent.len(), pieces);
        for too_large in &too_large {
            self.set_aside(consumer, too_large);
        }
        for Message { mut head, events } in messages {
            let Some(packing) = packing.as_deref_mut() else {
                send.push_deliver(&head, &events);
                continue;
            };
            match packing.pack(&mut head, &events).await {
                None => send.push_deliver(&head, &events),
                Some(packed) => {
                    let block_bytes = block_len(&packed);
                    self.peer.stats().packed(block_bytes, head.unpacked_bytes);
                    send.push_deliver(&head, &[packed]);
                }
            }
        }
    }

    // An event that this consumer cannot take: another may. It counts as an attempt, so that where all of them are alike it is given up
    // in the end, with the reason.
    fn set_aside(&self, consumer: &Consumer, event: &TooLarge) {
        let TooLarge {
            position,
            bytes,
            frame_bytes,
        } = *event;
        let theirs = self.peer.frame_bytes_max;
        let reason = format!(
            "the delivery needs a frame of {frame_bytes} bytes, but the consumer accepts {theirs}"
        );
        self.peer
            .log_fault(self.span, &format!("position {position}: {reason}"));
        // The client will never give this credit back.
        self.credit.grow(1, bytes as u64);
        consumer.too_large(position, &reason);
    }

    // The last words: confirmations that are still due, and why it ended.
    async fn finish(
        &self,
        ended: Result<(), StreamEnd>,
        mut confirms: Confirms,
        send: &mut FrameSend<C::Send>,
    ) -> Result<(), StreamEnd> {
        if ended != Err(StreamEnd::Lost) {
            let due = async {
                while let Some((confirm, result)) = confirms.next().await {
                    if result.is_ok() {
                        self.confirmed.push(confirm);
                    }
                }
            };
            // What is not confirmed by then stays unconfirmed; the client asks again.
            let _ = tokio::time::timeout(LAST_CONFIRMS, due).await;
            if self.confirmed.len() > 0 {
                send.push(&confirmed(self.confirmed.take().await, &self.late));
            }
        }
        if let Some(error) = ended.as_ref().err().and_then(StreamEnd::error) {
            send.push(&to_consumer(broker_to_consumer::Message::Error(
                error.clone(),
            )));
        }
        ended
    }
}

fn to_consumer(message: broker_to_consumer::Message) -> pb::BrokerToConsumer {
    pb::BrokerToConsumer {
        message: Some(message),
    }
}

// A range of deliveries in the pieces between those that were not sent.
fn without(
    range: &RangeInclusive<Position>,
    unsent: &[TooLarge],
    mut piece: impl FnMut(RangeInclusive<Position>),
) {
    let mut first = *range.start();
    let unsent = unsent.iter().map(|event| event.position);
    for hole in unsent.filter(|position| range.contains(position)) {
        if first < hole {
            piece(first..=Position(hole.0 - 1));
        }
        first = hole.next();
    }
    if first <= *range.end() {
        piece(first..=*range.end());
    }
}

fn paused_for(why: Option<&str>) -> pb::BrokerToConsumer {
    let reason = why.map(str::to_owned);
    to_consumer(broker_to_consumer::Message::Paused(pb::Paused { reason }))
}

fn heard_of(heard: &[u64]) -> pb::BrokerToConsumer {
    let deliveries = heard.last().copied().unwrap_or_default();
    to_consumer(broker_to_consumer::Message::HandedOver(pb::HandedOver {
        deliveries,
    }))
}

// With everything that was answered too late until now, so that no late answer is confirmed as if it were none.
fn confirmed(confirm: Vec<u64>, late: &LateAnswers) -> pb::BrokerToConsumer {
    let (not_held, not_held_is_cut) = late.take();
    to_consumer(broker_to_consumer::Message::Confirmed(pb::Confirmed {
        confirm,
        not_held,
        not_held_is_cut,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_leaves_holes() {
        let check = |unsent: &[u64], expected: &[(u64, u64)]| {
            let too_large = |position: &u64| TooLarge {
                position: Position(*position),
                bytes: 1,
                frame_bytes: 1,
            };
            let unsent: Vec<_> = unsent.iter().map(too_large).collect();
            let mut pieces = Vec::new();
            without(&(Position(5)..=Position(9)), &unsent, |piece| {
                pieces.push((piece.start().0, piece.end().0));
            });
            assert_eq!(pieces, expected);
        };
        check(&[], &[(5, 9)]);
        check(&[4, 5, 7, 10], &[(6, 6), (8, 9)]);
        check(&[5, 6, 7, 8, 9], &[]);
    }
}
