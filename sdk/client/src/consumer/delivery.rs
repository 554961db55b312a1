//! What an application gets, and how it answers. A frame of deliveries stays encoded until its events are taken, so
//! that the driver only reads and the application's task decodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_wire::frame::decode;
use tidegate_wire::pb;
use tidegate_wire::positions::decode_deltas;

use super::shared::Shared;
use crate::error::SubscribeError;
use crate::event::Event;

/// One event for this consumer, or the parts that a transform made of it.
///
/// Its answers never block: they are joined and sent by the consumer's task. The first of [`ack`](Self::ack),
/// [`nack`](Self::nack) and [`term`](Self::term) counts. A delivery that is dropped without an answer is delivered
/// again after the subscription's ack deadline.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its place in its topic.
    pub sequence: u64,
    /// Its place in the whole broker, the order of commit; what an [`Acker`](crate::Acker) names.
    pub position: u64,
    /// How often it has been handed out, this time included: 1 for the first time.
    pub attempt: u32,
    /// When the broker appended it, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    parts: Parts,
    generation: u64,
    settled: AtomicBool,
    shared: Arc<Shared>,
}

/// Most deliveries have one part; it needs no list.
#[derive(Debug)]
enum Parts {
    One([Event; 1]),
    Many(Vec<Event>),
}

impl Delivery {
    /// The event: the first part, and in most deliveries the only one.
    #[must_use]
    pub fn event(&self) -> &Event {
        // Never empty: made with at least one part.
        &self.parts()[0]
    }

    /// All parts, at least one. They are acknowledged together.
    #[must_use]
    pub fn parts(&self) -> &[Event] {
        match &self.parts {
            Parts::One(part) => part,
            Parts::Many(parts) => parts,
        }
    }

    /// It is done with.
    pub fn ack(&self) {
        if self.settle() {
            self.shared
                .answer(Some(self.generation), |answers| answers.ack(self.position));
        }
    }

    /// It could not be handled now: deliver it again, after `delay` or, without one, when the subscription's
    /// back-off says.
    pub fn nack(&self, delay: Option<Duration>) {
        if self.settle() {
            self.shared.answer(Some(self.generation), |answers| {
                answers.nack(self.position, delay)
            });
        }
    }

    /// It can never be handled: to the dead-letter topic with it, and `reason` (cut at 1 KiB).
    pub fn term(&self, reason: &str) {
        if self.settle() {
            self.shared.answer(Some(self.generation), |answers| {
                answers.term(self.position, reason)
            });
        }
    }

    /// Still at work: its ack deadline starts anew. May be called as often as needed.
    pub fn extend(&self) {
        if !self.settled.load(Ordering::Relaxed) {
            self.shared.answer(Some(self.generation), |answers| {
                answers.extend(self.position)
            });
        }
    }

    /// True for the first who settles it.
    fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::Relaxed)
    }
}

/// One frame of deliveries, handed out one by one.
#[derive(Debug)]
pub(super) struct Handout {
    pub(super) generation: u64,
    /// The broker delivers what was not acked again, so a stale handout is better forgotten.
    pub(super) discard_when_stale: bool,
    /// It is not to be handed out before the broker has heard that this many deliveries of the stream are: a consumer
    /// that had these events before lost its connection.
    pub(super) hear_first: Option<u64>,
    topic: Arc<str>,
    attempt: u32,
    time_ms: u64,
    positions: Vec<u64>,
    sequences: Vec<u64>,
    events: Vec<Bytes>,
    at: usize,
}

impl Handout {
    /// # Errors
    /// When the lists do not fit together.
    pub(super) fn new(
        deliver: pb::Deliver,
        generation: u64,
        discard_when_stale: bool,
    ) -> Result<Self, SubscribeError> {
        let protocol = |error: String| SubscribeError::Protocol(error);
        let positions =
            decode_deltas(&deliver.positions).map_err(|error| protocol(error.to_string()))?;
        let sequences =
            decode_deltas(&deliver.sequences).map_err(|error| protocol(error.to_string()))?;
        if positions.len() != deliver.events.len() || sequences.len() != deliver.events.len() {
            return Err(protocol("the lists of a delivery differ in length".into()));
        }
        Ok(Self {
            generation,
            discard_when_stale,
            hear_first: None,
            topic: deliver.topic.into(),
            attempt: deliver.attempt,
            time_ms: deliver.time_ms,
            positions,
            sequences,
            events: deliver.events,
            at: 0,
        })
    }

    /// Deliveries in it, and bytes of their events, as credit counts them.
    pub(super) fn cost(&self) -> (u64, u64) {
        let further = self
            .positions
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .count();
        let bytes = self.events.iter().map(|event| event.len() as u64).sum();
        ((self.positions.len() - further) as u64, bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.positions.len()
    }

    /// The next delivery and the bytes of its events; `None` when there is none left.
    pub(super) fn next(
        &mut self,
        shared: &Arc<Shared>,
    ) -> Option<(Result<Delivery, SubscribeError>, u64)> {
        let position = *self.positions.get(self.at)?;
        let first = self.at;
        let parts = self.positions[first..]
            .iter()
            .take_while(|other| **other == position)
            .count();
        self.at += parts;
        let encoded = &mut self.events[first..first + parts];
        let bytes = encoded.iter().map(|event| event.len() as u64).sum();
        let decoded = match encoded {
            [event] => decode_event(event).map(|event| Parts::One([event])),
            events => events
                .iter_mut()
                .map(decode_event)
                .collect::<Result<_, _>>()
                .map(Parts::Many),
        };
        let delivery = decoded.map(|parts| Delivery {
            topic: Arc::clone(&self.topic),
            sequence: self.sequences[first],
            position,
            attempt: self.attempt,
            time_ms: self.time_ms,
            parts,
            generation: self.generation,
            settled: AtomicBool::new(false),
            shared: Arc::clone(shared),
        });
        Some((delivery, bytes))
    }
}

/// Decodes an event, leaving nothing behind that would keep its frame in memory.
fn decode_event(encoded: &mut Bytes) -> Result<Event, SubscribeError> {
    let event: pb::Event = decode(std::mem::take(encoded))
        .map_err(|error| SubscribeError::Protocol(error.to_string()))?;
    Ok(event.into())
}
