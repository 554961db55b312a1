//! `PublishBatch` written in two pieces: the events, appended one by one as a publisher gathers them and kept until
//! they are answered, and a small head before them, made anew for each time they are sent. Together they are one
//! frame, and an event is copied once, from the publisher's fields into the body.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::pb;

/// Field number of `events` in `PublishBatch` and `Deliver`.
const EVENTS_TAG: u32 = 15;

/// Appends `event` to `body`, as one element of `PublishBatch.events`. Returns the size of the encoded event itself.
#[expect(
    clippy::missing_panics_doc,
    reason = "a BytesMut grows, so encoding into it cannot run out of room"
)]
pub fn push_event(body: &mut BytesMut, event: &pb::Event) -> usize {
    let length = event.encoded_len();
    body.reserve(element_len(length));
    encode_key(EVENTS_TAG, WireType::LengthDelimited, body);
    encode_varint(length as u64, body);
    event
        .encode(body)
        .expect("a BytesMut grows as needed, and that is the only way to fail");
    length
}

/// Bytes that an encoded event of `event_len` bytes takes in a body.
#[must_use]
pub fn element_len(event_len: usize) -> usize {
    key_len(EVENTS_TAG) + encoded_len_varint(event_len as u64) + event_len
}

/// The bytes before `body` that make one frame of it: the length, and `head`'s fields. `head.events` must be empty.
#[expect(
    clippy::missing_panics_doc,
    reason = "a BytesMut grows, so encoding into it cannot run out of room"
)]
#[must_use]
pub fn frame_head(head: &pb::PublishBatch, body: &[u8]) -> Bytes {
    debug_assert!(head.events.is_empty(), "events belong in the body");
    let length = head.encoded_len();
    let mut out = BytesMut::with_capacity(10 + length);
    encode_varint((length + body.len()) as u64, &mut out);
    head.encode(&mut out)
        .expect("a BytesMut grows as needed, and that is the only way to fail");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{FrameReader, decode};
    use crate::golden::any_event;

    proptest! {
        #[test]
        fn head_and_body_are_the_frame_prost_would_make(
            events in prop::collection::vec(any_event(), 0..5),
            correlation in any::<u64>(),
            first_number in any::<u64>(),
        ) {
            let mut body = BytesMut::new();
            for event in &events {
                let before = body.len();
                let length = push_event(&mut body, event);
                prop_assert_eq!(body.len() - before, element_len(length));
            }
            let head = pb::PublishBatch { correlation, topic: "a.b".into(), first_number, ..Default::default() };
            let mut stream = BytesMut::from(&frame_head(&head, &body)[..]);
            stream.extend_from_slice(&body);
            let frame = FrameReader::new(1 << 20).next_frame(&mut stream).unwrap().unwrap();
            let events = events.iter().map(|event| event.encode_to_vec().into()).collect();
            prop_assert_eq!(decode::<pb::PublishBatch>(frame).unwrap(), pb::PublishBatch { events, ..head });
            prop_assert!(stream.is_empty());
        }
    }
}
