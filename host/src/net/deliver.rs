//! From deliveries to the wire's `Deliver` messages: neighbours that share topic, attempt and time travel
//! together, positions and sequences as distances, and no frame is larger than the consumer accepts. Pure.

use bytes::Bytes;
use tidegate_wire::pb::{self, broker_to_consumer};

use crate::domain::Position;
use crate::tasks::Delivery;

/// Bytes of events after which a frame is closed although more would fit, so that a consumer starts on the
/// first events while the next are still on their way.
const FRAME_BYTES_TARGET: usize = 256 * 1024;

/// Bytes of a frame that are neither events nor their places: topic 258, attempt 6, time 11, heads of two lists
/// and of the message 18. With one part's overhead it stays below the kibibyte that the wire's limits leave
/// between an event and a frame, so every event that was accepted can be delivered.
const HEAD_BYTES_MAX: usize = 512;

/// Bytes that a part takes in a `Deliver` beside the event: tag 1, length 5, position and sequence 10 each.
const PART_OVERHEAD: usize = 26;

/// What became of a run of deliveries.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Packed {
    /// Messages to send, in order.
    pub(super) messages: Vec<pb::BrokerToConsumer>,
    /// Deliveries that fit no frame the consumer accepts.
    pub(super) too_large: Vec<TooLarge>,
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

/// Bytes of events in a delivery; this is what its credit costs.
pub(super) fn delivery_bytes(delivery: &Delivery) -> usize {
    delivery.parts.iter().map(Bytes::len).sum()
}

/// Packs `deliveries`, in their order, into messages whose frames have at most `frame_bytes_max` bytes.
pub(super) fn pack(deliveries: Vec<Delivery>, frame_bytes_max: usize) -> Packed {
    let mut packed = Packed::default();
    let mut open: Option<Open> = None;
    for delivery in deliveries {
        let bytes = delivery_bytes(&delivery) + delivery.parts.len() * PART_OVERHEAD;
        if bytes + HEAD_BYTES_MAX > frame_bytes_max {
            packed.too_large.push(TooLarge {
                position: delivery.position,
                bytes: delivery_bytes(&delivery),
                frame_bytes: bytes + HEAD_BYTES_MAX,
            });
            continue;
        }
        let room = frame_bytes_max.min(FRAME_BYTES_TARGET.max(bytes + HEAD_BYTES_MAX));
        let fitting = open.take_if(|open| !open.takes(&delivery, bytes, room));
        packed.messages.extend(fitting.map(Open::close));
        open.get_or_insert_with(|| Open::new(&delivery))
            .push(delivery, bytes);
    }
    packed.messages.extend(open.map(Open::close));
    packed
}

/// A message that may still take deliveries.
struct Open {
    message: pb::Deliver,
    bytes: usize,
    last_position: u64,
    last_sequence: u64,
}

impl Open {
    fn new(first: &Delivery) -> Self {
        let message = pb::Deliver {
            topic: first.topic.as_str().to_owned(),
            attempt: first.attempt,
            time_ms: first.time.0,
            ..pb::Deliver::default()
        };
        Self {
            message,
            bytes: HEAD_BYTES_MAX,
            last_position: 0,
            last_sequence: 0,
        }
    }

    fn takes(&self, delivery: &Delivery, bytes: usize, room: usize) -> bool {
        self.bytes + bytes <= room
            && self.message.topic == delivery.topic.as_str()
            && self.message.attempt == delivery.attempt
            && self.message.time_ms == delivery.time.0
            // A distance of 0 would make it a part of the delivery before.
            && delivery.position.0 > self.last_position
            && delivery.sequence.0 >= self.last_sequence
    }

    // All parts of a delivery have its position and sequence, so from the second on the distance is 0.
    fn push(&mut self, delivery: Delivery, bytes: usize) {
        for part in delivery.parts {
            self.message
                .positions
                .push(delivery.position.0 - self.last_position);
            self.message
                .sequences
                .push(delivery.sequence.0 - self.last_sequence);
            self.message.events.push(part);
            (self.last_position, self.last_sequence) = (delivery.position.0, delivery.sequence.0);
        }
        self.bytes += bytes;
    }

    fn close(self) -> pb::BrokerToConsumer {
        pb::BrokerToConsumer {
            message: Some(broker_to_consumer::Message::Deliver(self.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tidegate_wire::positions::decode_deltas;

    use super::*;
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
            parts: parts
                .iter()
                .map(|length| Bytes::from(vec![7; *length]))
                .collect(),
        }
    }

    // Topic, positions, sequences and lengths of events of each message.
    type Shape = (String, Vec<u64>, Vec<u64>, Vec<usize>);

    fn shapes(packed: &Packed) -> Vec<Shape> {
        let shape = |message: &pb::BrokerToConsumer| match &message.message {
            Some(broker_to_consumer::Message::Deliver(deliver)) => (
                deliver.topic.clone(),
                decode_deltas(&deliver.positions).expect("rising"),
                decode_deltas(&deliver.sequences).expect("rising"),
                deliver.events.iter().map(Bytes::len).collect(),
            ),
            other => panic!("not a Deliver: {other:?}"),
        };
        packed.messages.iter().map(shape).collect()
    }

    // As a shape, in literals.
    type Expected<'a> = (&'a str, &'a [u64], &'a [u64], &'a [usize]);

    fn check(deliveries: Vec<Delivery>, expected: &[Expected<'_>]) {
        let found = shapes(&pack(deliveries, 1 << 20));
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
        let deliveries: Vec<_> = (1..=500)
            .map(|n| delivery("a", n, n, 1, &[1_000]))
            .collect();
        for frame_bytes_max in [4 * 1024, 64 * 1024, 1 << 20] {
            let packed = pack(deliveries.clone(), frame_bytes_max);
            assert!(packed.too_large.is_empty());
            assert!(
                packed
                    .messages
                    .iter()
                    .all(|message| message.encoded_len() <= frame_bytes_max)
            );
            let events: usize = shapes(&packed).iter().map(|shape| shape.3.len()).sum();
            assert_eq!(events, 500);
        }
    }

    #[test]
    fn what_fits_no_frame_is_named_and_the_rest_goes_on() {
        let deliveries = vec![
            delivery("a", 1, 1, 1, &[10]),
            delivery("a", 2, 2, 1, &[3_000, 3_000]),
            delivery("a", 3, 3, 1, &[10]),
        ];
        let packed = pack(deliveries, 4 * 1024);
        let frame_bytes = 6_000 + 2 * PART_OVERHEAD + HEAD_BYTES_MAX;
        assert_eq!(
            packed.too_large,
            [TooLarge {
                position: Position(2),
                bytes: 6_000,
                frame_bytes
            }]
        );
        assert_eq!(
            shapes(&packed),
            [("a".to_owned(), vec![1, 3], vec![1, 3], vec![10, 10])]
        );
    }

    #[test]
    fn the_largest_event_of_the_default_limits_fits_a_default_frame() {
        let limits = tidegate_wire::Limits::default();
        let packed = pack(
            vec![delivery("a", 1, 1, 1, &[limits.event_bytes_max])],
            limits.frame_bytes_max,
        );
        assert!(packed.too_large.is_empty());
    }
}
