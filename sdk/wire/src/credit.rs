//! What a batch costs of a publish stream's credit: one rule, by which clients count and brokers check. It stands for the
//! memory and the journal that a batch takes in the broker until it is answered, so that neither many empty events nor many
//! small batches are free. Which credit a stream has is the broker's decision and not made here.

use crate::limits::ENVELOPE_BYTES_MAX;

/// What every event costs beside its encoded bytes. Its tag and length are up to five of them, the place where it ends four;
/// the rest is for what the broker knows of an event while it routes it.
pub const EVENT_COST_BYTES: usize = 16;

/// What every batch costs beside its events: as much as its head may take in a frame. In the broker the batch's place in a queue,
/// its topic's name and its answer are about that much too.
pub const BATCH_COST_BYTES: usize = ENVELOPE_BYTES_MAX;

/// What a batch of so many events costs, whose encoded bytes are `event_bytes` together. Never less than the bytes of its frame.
#[must_use]
pub fn batch_cost(events: usize, event_bytes: usize) -> usize {
    events
        .saturating_mul(EVENT_COST_BYTES)
        .saturating_add(event_bytes)
        .saturating_add(BATCH_COST_BYTES)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::batch::{push_batch_head, push_event};
    use crate::limits::TOPIC_BYTES_MAX;
    use crate::pb;

    #[test]
    fn a_batch_costs_at_least_the_bytes_of_its_frame() {
        for (events, payload) in [
            (1, 0),
            (4_096, 0),
            (4_096, 1),
            (100, 200),
            (3, 70_000),
            (1, 1 << 20),
        ] {
            let mut body = BytesMut::new();
            let mut event_bytes = 0;
            for _ in 0..events {
                let mut event = pb::Event {
                    payload: vec![0; payload].into(),
                    ..Default::default()
                };
                event_bytes += push_event(&mut body, &mut event);
            }
            let head = pb::PublishBatch {
                correlation: u64::MAX,
                topic: "t".repeat(TOPIC_BYTES_MAX),
                first_number: u64::MAX,
                resolved_through: u64::MAX,
                topic_number: u32::MAX,
                remember: true,
                ..Default::default()
            };
            let mut frame = BytesMut::new();
            push_batch_head(&head, body.len(), &mut frame);
            let cost = batch_cost(events, event_bytes);
            assert!(cost >= frame.len() + body.len(), "{events} of {payload}");
        }
    }

    #[test]
    fn nothing_is_free_and_nothing_overflows() {
        assert_eq!(batch_cost(1, 0), 1_024 + 16);
        assert_eq!(batch_cost(4_096, 0), 1_024 + 65_536);
        assert_eq!(batch_cost(usize::MAX, usize::MAX), usize::MAX);
    }
}
