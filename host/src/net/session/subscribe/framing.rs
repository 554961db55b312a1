//! The framing of deliveries: how they become the wire's `Deliver` messages: neighbours that share topic, attempt and time travel
//! together, positions and sequences as distances, and no frame is larger than the consumer accepts. The events
//! themselves are not touched: a message has slices of the blocks they are stored in. Pure.

use bytes::Bytes;
use tidegate_wire::pb;

use crate::broker::{Body, Delivery, with_shorter_reason};
use crate::domain::{EncodedEvents, Position};

/// Bytes of events after which a frame is closed although more would fit, so that a consumer starts on the
/// first events while the next are still on their way.
pub(super) const FRAME_BYTES_TARGET: usize = 256 * 1024;

/// Bytes of a frame that are neither events nor their places: topic 258, attempt 6, time 11, the mark of a suspect 2, heads of
/// two lists and of the message 18, and a few to spare. With the head and the place of one event it stays within the kibibyte that the
/// limits leave between an event and a frame, so every event that was accepted can be delivered. So can its dead letter: what the
/// kibibyte leaves (`ADDED_BYTES_MAX`) holds all of the broker's headers but a long reason, of which whoever takes no larger frames
/// gets the beginning.
const HEAD_BYTES_MAX: usize = 304;

/// Bytes that an event takes in a `Deliver` beside its entry: position and sequence, 10 each.
const PLACE_BYTES_MAX: usize = 20;

/// What became of a run of deliveries.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Framed {
    /// Messages to send, in order.
    pub(super) messages: Vec<Message>,
    /// Deliveries that fit no frame the consumer accepts.
    pub(super) too_large: Vec<TooLarge>,
}

/// A `Deliver` in pieces.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Message {
    /// Everything but the events.
    pub(super) head: pb::Deliver,
    /// The events: elements of `Deliver.events`, encoded.
    pub(super) events: Vec<Bytes>,
}

/// A delivery that fits no frame the consumer accepts.
#[derive(Debug, PartialEq)]
pub(super) struct TooLarge {
    /// Which.
    pub(super) position: Position,
    /// Bytes of its events.
    pub(super) bytes: usize,
    /// Bytes of the frame it would need.
    pub(super) frame_bytes: usize,
}

/// Puts `deliveries`, in their order, into messages whose frames have at most `frame_bytes_max` bytes, and no more than `bytes_target`
/// unless a single event has.
pub(super) fn frame(
    deliveries: Vec<Delivery>,
    frame_bytes_max: usize,
    bytes_target: usize,
) -> Framed {
    let mut framed = Framed::default();
    let mut open: Option<OpenMessage> = None;
    for delivery in deliveries {
        for piece in pieces(&delivery, frame_bytes_max.min(bytes_target)) {
            let (position, event_bytes) = (piece.position, piece.entries.event_bytes());
            let was_bytes = piece.bytes();
            let Some(piece) = fitted(piece, frame_bytes_max) else {
                framed.too_large.push(TooLarge {
                    position: Position(position),
                    bytes: event_bytes,
                    frame_bytes: was_bytes + HEAD_BYTES_MAX,
                });
                continue;
            };
            let bytes = piece.bytes();
            let room = frame_bytes_max.min(bytes_target.max(bytes + HEAD_BYTES_MAX));
            let fitting = open.take_if(|open| !open.takes(&delivery, &piece, room));
            framed.messages.extend(fitting.map(|open| open.message));
            open.get_or_insert_with(|| OpenMessage::new(&delivery))
                .push(piece);
        }
    }
    framed.messages.extend(open.map(|open| open.message));
    framed
}

/// What goes into one message of a delivery.
struct Piece {
    position: u64,
    sequence: u64,
    /// How far apart the places of its events are: 0 for the parts of one event.
    step: u64,
    entries: EncodedEvents,
}

impl Piece {
    fn bytes(&self) -> usize {
        self.entries.bytes().len() + self.entries.count() as usize * PLACE_BYTES_MAX
    }
}

// Stored events are cut where a frame of `room` bytes is full; the parts of one event stay together.
fn pieces(delivery: &Delivery, room: usize) -> Vec<Piece> {
    let (mut position, mut sequence) = (delivery.position.0, delivery.sequence.0);
    let mut rest = match &delivery.body {
        Body::Stored(entries) => entries.clone(),
        Body::Made(parts) => {
            let entries = EncodedEvents::of(parts.iter().map(|part| &part[..]));
            return vec![Piece {
                position,
                sequence,
                step: 0,
                entries,
            }];
        }
    };
    let mut pieces = Vec::with_capacity(1);
    while rest.count() > 0 {
        let entries = rest.split_front(room.saturating_sub(HEAD_BYTES_MAX), PLACE_BYTES_MAX);
        let count = u64::from(entries.count());
        pieces.push(Piece {
            position,
            sequence,
            step: 1,
            entries,
        });
        position += count;
        sequence += count;
    }
    pieces
}

// A piece as it fits a frame: of a dead letter that is too large for one by what its reason says, less of the reason.
fn fitted(piece: Piece, frame_bytes_max: usize) -> Option<Piece> {
    let needed = piece.bytes() + HEAD_BYTES_MAX;
    let excess = needed.saturating_sub(frame_bytes_max);
    if excess == 0 {
        return Some(piece);
    }
    if piece.entries.count() != 1 {
        return None;
    }
    let letter = piece.entries.shared_events().next()?;
    let letter = with_shorter_reason(&letter, excess)?;
    Some(Piece {
        entries: EncodedEvents::of([&letter[..]]),
        ..piece
    })
}

/// A message that may still take events.
struct OpenMessage {
    message: Message,
    bytes: usize,
    last_position: u64,
    last_sequence: u64,
}

impl OpenMessage {
    fn new(first: &Delivery) -> Self {
        let head = pb::Deliver {
            topic: first.topic.as_str().to_owned(),
            attempt: first.attempt,
            time_ms: first.time.0,
            suspect: first.suspect,
            ..pb::Deliver::default()
        };
        Self {
            message: Message {
                head,
                ..Message::default()
            },
            bytes: HEAD_BYTES_MAX,
            last_position: 0,
            last_sequence: 0,
        }
    }

    fn takes(&self, delivery: &Delivery, piece: &Piece, room: usize) -> bool {
        let head = &self.message.head;
        self.bytes + piece.bytes() <= room
            && head.topic == delivery.topic.as_str()
            && head.attempt == delivery.attempt
            && head.time_ms == delivery.time.0
            && head.suspect == delivery.suspect
            // A distance of 0 would make it a part of the delivery before.
            && piece.position > self.last_position
            && piece.sequence >= self.last_sequence
    }

    fn push(&mut self, piece: Piece) {
        self.bytes += piece.bytes();
        let head = &mut self.message.head;
        for index in 0..u64::from(piece.entries.count()) {
            let position = piece.position + index * piece.step;
            let sequence = piece.sequence + index * piece.step;
            head.positions.push(position - self.last_position);
            head.sequences.push(sequence - self.last_sequence);
            (self.last_position, self.last_sequence) = (position, sequence);
        }
        self.message.events.push(piece.entries.bytes().clone());
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use prost::Message as _;
    use tidegate_wire::batch::push_deliver_head;
    use tidegate_wire::frame::{FrameReader, decode};
    use tidegate_wire::pb::broker_to_consumer;
    use tidegate_wire::positions::decode_deltas;

    use super::*;

    fn frame(deliveries: Vec<Delivery>, frame_bytes_max: usize) -> Framed {
        super::frame(deliveries, frame_bytes_max, FRAME_BYTES_TARGET)
    }
    use crate::domain::{Millis, Sequence};

    fn delivery(
        topic: &str,
        position: u64,
        sequence: u64,
        attempt: u32,
        parts: &[usize],
    ) -> Delivery {
        Delivery {
            topic: topic.parse().expect("valid topic"),
            position: Position(position),
            sequence: Sequence(sequence),
            time: Millis(1_000),
            attempt,
            suspect: false,
            body: Body::Made(events(parts)),
        }
    }

    fn stored(topic: &str, position: u64, sequence: u64, lengths: &[usize]) -> Delivery {
        let entries = EncodedEvents::of(events(lengths).iter().map(|event| &event[..]));
        Delivery {
            body: Body::Stored(entries),
            ..delivery(topic, position, sequence, 1, &[])
        }
    }

    fn events(lengths: &[usize]) -> Vec<Bytes> {
        let event = |length: &usize| Bytes::from(vec![7; *length]);
        lengths.iter().map(event).collect()
    }

    // Topic, positions, sequences and lengths of events of each message.
    type Shape = (String, Vec<u64>, Vec<u64>, Vec<usize>);

    // As a consumer reads them.
    fn shapes(framed: &Framed, frame_bytes_max: usize) -> Vec<Shape> {
        let shape = |message: &Message| {
            let mut stream = BytesMut::new();
            let length = message.events.iter().map(Bytes::len).sum();
            push_deliver_head(&message.head, length, &mut stream);
            message
                .events
                .iter()
                .for_each(|part| stream.extend_from_slice(part));
            let frame = FrameReader::new(frame_bytes_max).next_frame(&mut stream);
            let frame = frame.expect("short enough").expect("complete");
            match decode::<pb::BrokerToConsumer>(frame)
                .expect("a message")
                .message
            {
                Some(broker_to_consumer::Message::Deliver(deliver)) => (
                    deliver.topic,
                    decode_deltas(&deliver.positions).expect("rising"),
                    decode_deltas(&deliver.sequences).expect("rising"),
                    deliver.events.iter().map(Bytes::len).collect(),
                ),
                other => panic!("not a Deliver: {other:?}"),
            }
        };
        framed.messages.iter().map(shape).collect()
    }

    // As a shape, in literals.
    type Expected<'a> = (&'a str, &'a [u64], &'a [u64], &'a [usize]);

    fn check(deliveries: Vec<Delivery>, expected: &[Expected<'_>]) {
        let found = shapes(&frame(deliveries, 1 << 20), 1 << 20);
        let expected: Vec<Shape> = expected
            .iter()
            .map(|(topic, positions, sequences, events)| {
                (
                    (*topic).to_owned(),
                    positions.to_vec(),
                    sequences.to_vec(),
                    events.to_vec(),
                )
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn neighbours_travel_together() {
        check(
            vec![delivery("a", 5, 1, 1, &[3]), delivery("a", 9, 2, 1, &[4])],
            &[("a", &[5, 9], &[1, 2], &[3, 4])],
        );
        check(vec![], &[]);
    }

    #[test]
    fn another_topic_attempt_or_direction_is_another_message() {
        check(
            vec![
                delivery("a", 5, 1, 1, &[1]),
                delivery("b", 6, 1, 1, &[1]),
                delivery("b", 7, 2, 2, &[1]),
                delivery("b", 4, 3, 2, &[1]),
            ],
            &[
                ("a", &[5], &[1], &[1]),
                ("b", &[6], &[1], &[1]),
                ("b", &[7], &[2], &[1]),
                ("b", &[4], &[3], &[1]),
            ],
        );
    }

    #[test]
    fn parts_share_a_position() {
        check(
            vec![
                delivery("a", 5, 1, 1, &[1, 2, 3]),
                delivery("a", 6, 2, 1, &[4]),
            ],
            &[("a", &[5, 5, 5, 6], &[1, 1, 1, 2], &[1, 2, 3, 4])],
        );
    }

    #[test]
    fn a_position_never_repeats_across_deliveries() {
        check(
            vec![delivery("a", 5, 1, 1, &[1]), delivery("a", 5, 1, 1, &[1])],
            &[("a", &[5], &[1], &[1]), ("a", &[5], &[1], &[1])],
        );
    }

    #[test]
    fn frames_keep_to_the_consumers_limit() {
        let made: Vec<_> = (1..=500)
            .map(|n| delivery("a", n, n, 1, &[1_000]))
            .collect();
        let together = vec![stored("a", 1, 1, &[1_000; 500])];
        let both = [made, together].into_iter();
        for (deliveries, frame_bytes_max) in both.flat_map(|deliveries| {
            [4 * 1024, 64 * 1024, 1 << 20].map(|max| (deliveries.clone(), max))
        }) {
            let framed = frame(deliveries, frame_bytes_max);
            assert!(framed.too_large.is_empty());
            let shapes = shapes(&framed, frame_bytes_max);
            let positions: Vec<u64> = shapes.iter().flat_map(|shape| shape.1.clone()).collect();
            assert_eq!(positions, (1..=500).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn what_fits_no_frame_is_named_and_the_rest_goes_on() {
        let deliveries = vec![
            delivery("a", 1, 1, 1, &[10]),
            delivery("a", 2, 2, 1, &[3_000, 3_000]),
            delivery("a", 3, 3, 1, &[10]),
        ];
        let framed = frame(deliveries, 4 * 1024);
        // Each part has a tag of one byte and a length of two.
        let frame_bytes = 2 * (3 + 3_000 + PLACE_BYTES_MAX) + HEAD_BYTES_MAX;
        assert_eq!(
            framed.too_large,
            [TooLarge {
                position: Position(2),
                bytes: 6_000,
                frame_bytes
            }]
        );
        assert_eq!(
            shapes(&framed, 4 * 1024),
            [("a".to_owned(), vec![1, 3], vec![1, 3], vec![10, 10])]
        );
    }

    #[test]
    fn stored_events_are_sent_where_they_lie() {
        let delivery = stored("a", 5, 2, &[3, 4, 5]);
        let Body::Stored(entries) = &delivery.body else {
            panic!("made by `stored`")
        };
        let stored_at = entries.bytes().as_ptr();
        let framed = frame(vec![delivery], 1 << 20);
        assert_eq!(framed.messages[0].events[0].as_ptr(), stored_at);
        assert_eq!(
            shapes(&framed, 1 << 20),
            [("a".to_owned(), vec![5, 6, 7], vec![2, 3, 4], vec![3, 4, 5])]
        );
    }

    #[test]
    fn a_stored_event_that_fits_no_frame_is_named_and_its_neighbours_go_on() {
        let framed = frame(vec![stored("a", 1, 1, &[10, 5_000, 10])], 4 * 1024);
        assert_eq!(framed.too_large.len(), 1);
        assert_eq!(framed.too_large[0].position, Position(2));
        let positions: Vec<_> = shapes(&framed, 4 * 1024)
            .into_iter()
            .flat_map(|shape| shape.1)
            .collect();
        assert_eq!(positions, [1, 3]);
    }

    #[test]
    fn the_largest_event_of_the_default_limits_fits_a_default_frame() {
        let limits = tidegate_wire::Limits::default();
        let framed = frame(
            vec![delivery("a", 1, 1, 1, &[limits.event_bytes_max])],
            limits.frame_bytes_max,
        );
        assert!(framed.too_large.is_empty());
    }

    #[test]
    fn a_letter_with_a_long_reason_fits_the_frame_of_its_event() {
        let limits = tidegate_wire::Limits::default();
        let header = |name: &str, bytes| pb::Header {
            name: name.to_owned(),
            value: "r".repeat(bytes),
        };
        let mut letter = pb::Event {
            headers: vec![
                header(crate::broker::REASON_HEADER, 1_060),
                header("tidegate-all-others", 550),
            ],
            payload: vec![7; 1_000_000].into(),
            ..Default::default()
        };
        let with_headers = letter.encoded_len() - 1_000_000;
        letter.payload = vec![7; limits.event_bytes_max + 1_600 - with_headers].into();
        let delivery = Delivery {
            body: Body::Made(vec![letter.encode_to_vec().into()]),
            ..delivery("a", 5, 1, 1, &[])
        };
        let whole = frame(vec![delivery.clone()], limits.frame_bytes_max + 2_048);
        assert_eq!(whole.messages[0].events[0].len(), letter.encoded_len() + 4);
        let framed = frame(vec![delivery], limits.frame_bytes_max);
        assert_eq!(framed.too_large, []);
        let shapes = shapes(&framed, limits.frame_bytes_max);
        assert_eq!(shapes[0].1, [5]);
        assert!(shapes[0].3[0] < letter.encoded_len());
    }

    #[test]
    fn the_letter_of_the_largest_event_fits_a_default_frame() {
        let limits = tidegate_wire::Limits::default();
        let letter = limits.event_bytes_max + tidegate_wire::limits::ADDED_BYTES_MAX;
        let topic = "t".repeat(tidegate_wire::limits::TOPIC_BYTES_MAX);
        let late = u64::MAX / 2;
        let framed = frame(
            vec![delivery(&topic, late, late, u32::MAX, &[letter])],
            limits.frame_bytes_max,
        );
        assert!(framed.too_large.is_empty());
        // Checks the length of each frame.
        assert_eq!(shapes(&framed, limits.frame_bytes_max).len(), 1);
    }
}
