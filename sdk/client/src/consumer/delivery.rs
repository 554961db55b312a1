//! What an application gets, and how it answers. A frame of deliveries stays encoded until its events are taken, so
//! that the driver only reads and the application's task decodes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_wire::frame::decode;
use tidegate_wire::pb;
use tidegate_wire::positions::decode_deltas;

use super::shared::{Shared, Which};
use super::unsent_answers::Ranges;
use crate::error::SubscribeError;
use crate::event::Event;

/// One event for this consumer, or the parts that a transform made of it.
///
/// Its answers never block: they are joined and sent by the consumer's task. The first of [`ack`](Self::ack),
/// [`nack`](Self::nack) and [`term`](Self::term) counts. A delivery that is dropped without an answer is delivered
/// again after the subscription's ack deadline. That begins when the application gets it. An answer that is late changes
/// nothing, also when the event has come again by then, and [`flush_acks`](crate::Consumer::flush_acks) says so.
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
    /// Which of its stream's deliveries it is.
    number: u64,
    settled: AtomicBool,
    /// When its ack deadline passes, as the consumer's clock counts; `u64::MAX` when it has none.
    expires_ms: AtomicU64,
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
                .settle(self.which(), |answers| answers.ack(self.position));
        }
    }

    /// It could not be handled now: deliver it again, after `delay` or, without one, when the subscription's
    /// back-off says.
    pub fn nack(&self, delay: Option<Duration>) {
        if self.settle() {
            self.shared
                .settle(self.which(), |answers| answers.nack(self.position, delay));
        }
    }

    /// It can never be handled: to the dead-letter topic with it, and `reason` (cut at 1 KiB).
    pub fn term(&self, reason: &str) {
        if self.settle() {
            self.shared
                .settle(self.which(), |answers| answers.term(self.position, reason));
        }
    }

    /// Still at work: its ack deadline starts anew. May be called as often as needed.
    pub fn extend(&self) {
        self.extend_by(None);
    }

    /// The same, and it lasts as long as `duration` says, from now on: at most a day, which the broker sees to. An extension that is
    /// shorter than what is left shortens it.
    pub fn extend_for(&self, duration: Duration) {
        self.extend_by(Some(duration));
    }

    /// Whether it is not this consumer's any more, as far as is known here: its ack deadline has passed, its connection was lost, or it has
    /// come again. Then it comes again or has gone to another consumer, and an answer changes nothing. `false` is no promise, since the
    /// answer takes its time to the broker, which decides.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        let expires_ms = self.expires_ms.load(Ordering::Relaxed);
        self.shared
            .is_expired(self.generation, self.number, self.position, expires_ms)
    }

    fn extend_by(&self, duration: Option<Duration>) {
        let is_answered = || self.settled.load(Ordering::Relaxed);
        if let Some(expires_ms) = self.shared.extend(self.which(), duration, is_answered) {
            self.expires_ms.store(expires_ms, Ordering::Relaxed);
        }
    }

    fn which(&self) -> Which {
        Which {
            position: self.position,
            of_stream: Some((self.generation, self.number)),
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
    /// Number of the stream that delivered it.
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
    /// Those of its positions that are not this consumer's any more.
    void: BTreeSet<u64>,
    at: usize,
}

/// A delivery as it came.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) generation: u64,
    pub(super) position: u64,
    /// It is not this consumer's any more.
    pub(super) is_void: bool,
    topic: Arc<str>,
    sequence: u64,
    attempt: u32,
    time_ms: u64,
    parts: EncodedParts,
}

/// As [`Parts`], but encoded.
#[derive(Debug)]
enum EncodedParts {
    One([Bytes; 1]),
    Many(Vec<Bytes>),
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
            void: BTreeSet::new(),
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

    /// Where its deliveries are, and their numbers, if they were handed out before and are to be answered; `delivered` is the number of the
    /// last.
    pub(super) fn come_again(&self, delivered: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let mut positions = match self.attempt > 1 && self.discard_when_stale {
            true => self.positions.clone(),
            false => Vec::new(),
        };
        positions.dedup();
        let before = delivered.saturating_sub(positions.len() as u64);
        positions.into_iter().zip(before + 1..)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.positions.len()
    }

    /// Nothing was taken from it.
    pub(super) fn is_whole(&self) -> bool {
        self.at == 0
    }

    /// Adds the positions that are left in it and still this consumer's.
    pub(super) fn positions_left(&self, positions: &mut Ranges) {
        let mut last = None;
        for position in self.positions.get(self.at..).unwrap_or_default() {
            if last != Some(*position) && !self.is_void(*position) {
                positions.push(*position);
            }
            last = Some(*position);
        }
    }

    /// Those of `ranges`, which are ascending and disjoint, that are left in it are not this consumer's any more; they are added to
    /// `here`.
    pub(super) fn void(&mut self, ranges: &[RangeInclusive<u64>], here: &mut Ranges) {
        let left = self.positions.get(self.at..).unwrap_or_default();
        for position in left {
            let first = ranges.partition_point(|range| range.end() < position);
            if ranges
                .get(first)
                .is_some_and(|range| range.contains(position))
            {
                here.push(*position);
                self.void.insert(*position);
            }
        }
    }

    fn is_void(&self, position: u64) -> bool {
        self.void.contains(&position)
    }

    /// The next delivery; `None` when there is none left.
    pub(super) fn take(&mut self) -> Option<Encoded> {
        let position = *self.positions.get(self.at)?;
        let first = self.at;
        let parts = self.positions[first..]
            .iter()
            .take_while(|other| **other == position)
            .count();
        self.at += parts;
        let parts = match &mut self.events[first..first + parts] {
            [event] => EncodedParts::One([std::mem::take(event)]),
            events => EncodedParts::Many(events.iter_mut().map(std::mem::take).collect()),
        };
        Some(Encoded {
            generation: self.generation,
            position,
            is_void: self.is_void(position),
            topic: Arc::clone(&self.topic),
            sequence: self.sequences[first],
            attempt: self.attempt,
            time_ms: self.time_ms,
            parts,
        })
    }
}

impl Encoded {
    /// The parts, encoded.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Bytes> {
        match &self.parts {
            EncodedParts::One(part) => part.iter(),
            EncodedParts::Many(parts) => parts.iter(),
        }
    }

    /// As the application gets it, as delivery `number` of its stream.
    pub(super) fn decode(
        self,
        shared: &Arc<Shared>,
        number: u64,
        expires_ms: u64,
    ) -> Result<Delivery, SubscribeError> {
        let parts = match self.parts {
            EncodedParts::One([event]) => Parts::One([decode_event(event)?]),
            EncodedParts::Many(events) => {
                let events = events.into_iter().map(decode_event);
                Parts::Many(events.collect::<Result<_, _>>()?)
            }
        };
        Ok(Delivery {
            topic: self.topic,
            sequence: self.sequence,
            position: self.position,
            attempt: self.attempt,
            time_ms: self.time_ms,
            parts,
            generation: self.generation,
            number,
            settled: AtomicBool::new(false),
            expires_ms: AtomicU64::new(expires_ms),
            shared: Arc::clone(shared),
        })
    }
}

/// Decodes an event, leaving nothing behind that would keep its frame in memory.
fn decode_event(encoded: Bytes) -> Result<Event, SubscribeError> {
    let event: pb::Event =
        decode(encoded).map_err(|error| SubscribeError::Protocol(error.to_string()))?;
    Ok(event.into())
}
