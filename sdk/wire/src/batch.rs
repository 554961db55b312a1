//! `PublishBatch` and `Deliver` written in pieces: the events, which are kept as they lie, and a small head before them,
//! made anew for each time they are sent. Together they are one frame. A publisher appends events one by one to a body
//! that it keeps until they are answered, so an event is copied once; a broker sends slices of what it stores.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

use crate::frame::FrameError;
use crate::pb;

/// Field number of `events` in `PublishBatch` and `Deliver`.
const EVENTS_TAG: u32 = 15;
/// Field number of `deliver` in `BrokerToConsumer`.
const DELIVER_TAG: u32 = 1;

/// Field number of `payload` in `Event`, its last field.
const PAYLOAD_TAG: u32 = 5;

/// Appends `event` to `body`, as one element of `PublishBatch.events`. Returns the size of the encoded event itself. The
/// event is only borrowed for writing, and afterwards as it was.
#[expect(
    clippy::missing_panics_doc,
    reason = "a BytesMut grows, so encoding into it cannot run out of room"
)]
pub fn push_event(body: &mut BytesMut, event: &mut pb::Event) -> usize {
    let length = event.encoded_len();
    body.reserve(element_len(length));
    encode_key(EVENTS_TAG, WireType::LengthDelimited, body);
    encode_varint(length as u64, body);
    // prost clones `Bytes` to encode them, which allocates for those that were a `Vec` until then.
    let payload = std::mem::take(&mut event.payload);
    if length > payload_len(&payload) {
        event
            .encode(body)
            .expect("a BytesMut grows as needed, and that is the only way to fail");
    }
    if !payload.is_empty() {
        encode_key(PAYLOAD_TAG, WireType::LengthDelimited, body);
        encode_varint(payload.len() as u64, body);
        body.extend_from_slice(&payload);
    }
    event.payload = payload;
    length
}

// Bytes that the payload takes in an encoded event.
fn payload_len(payload: &[u8]) -> usize {
    match payload.len() {
        0 => 0,
        length => key_len(PAYLOAD_TAG) + encoded_len_varint(length as u64) + length,
    }
}

/// Bytes that an encoded event of `event_len` bytes takes in a body.
#[must_use]
pub fn element_len(event_len: usize) -> usize {
    key_len(EVENTS_TAG) + encoded_len_varint(event_len as u64) + event_len
}

/// Appends an encoded `event` to `body`, as one element of `events`.
pub(crate) fn push_encoded(body: &mut BytesMut, event: &[u8]) {
    body.reserve(element_len(event.len()));
    encode_key(EVENTS_TAG, WireType::LengthDelimited, body);
    encode_varint(event.len() as u64, body);
    body.extend_from_slice(event);
}

/// The elements of `events`, one behind the other.
pub(crate) fn encoded(events: &[Bytes]) -> BytesMut {
    let mut body =
        BytesMut::with_capacity(events.iter().map(|event| element_len(event.len())).sum());
    for event in events {
        push_encoded(&mut body, event);
    }
    body
}

/// The events whose elements lie one behind the other in `bytes`, in the same memory. `None` when that is something else, or a tag or
/// length in it is longer than it need be.
pub(crate) fn elements(bytes: &Bytes) -> Option<Vec<Bytes>> {
    let mut events = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let begin = bytes.len() - rest.len();
        if decode_key(&mut rest).ok()? != (EVENTS_TAG, WireType::LengthDelimited) {
            return None;
        }
        let length = delimited(&mut rest)?.len();
        let end = bytes.len() - rest.len();
        if end - begin != element_len(length) {
            return None;
        }
        events.push(bytes.slice(end - length..end));
    }
    Some(events)
}

/// Appends to `out` the bytes before `body_len` bytes of events that make one frame of them: the length, and `head`'s fields.
/// `head.events` must be empty. The events may be a `packed` field just as well, which `head` must not have either.
#[expect(
    clippy::missing_panics_doc,
    reason = "a BytesMut grows, so encoding into it cannot run out of room"
)]
pub fn push_batch_head(head: &pb::PublishBatch, body_len: usize, out: &mut BytesMut) {
    debug_assert!(
        head.events.is_empty() && head.packed.is_empty(),
        "events belong in the body"
    );
    let length = head.encoded_len();
    out.reserve(10 + length);
    encode_varint((length + body_len) as u64, out);
    head.encode(out)
        .expect("a BytesMut grows as needed, and that is the only way to fail");
}

/// Appends to `out` the bytes before `events_len` bytes of encoded elements of `Deliver.events` that make one frame of
/// them, a `BrokerToConsumer`: the lengths, and `head`'s fields. `head.events` must be empty. They may be a `packed` field just as well,
/// which `head` must not have either.
#[expect(
    clippy::missing_panics_doc,
    reason = "a BytesMut grows, so encoding into it cannot run out of room"
)]
pub fn push_deliver_head(head: &pb::Deliver, events_len: usize, out: &mut BytesMut) {
    debug_assert!(
        head.events.is_empty() && head.packed.is_empty(),
        "events follow the head"
    );
    let head_len = head.encoded_len();
    let deliver = head_len + events_len;
    let message = key_len(DELIVER_TAG) + encoded_len_varint(deliver as u64) + deliver;
    out.reserve(2 * 10 + key_len(DELIVER_TAG) + head_len);
    encode_varint(message as u64, out);
    encode_key(DELIVER_TAG, WireType::LengthDelimited, out);
    encode_varint(deliver as u64, out);
    head.encode(out)
        .expect("a BytesMut grows as needed, and that is the only way to fail");
}

/// A `PublishBatch` as a broker receives it: its events stay one slice of the frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedBatch {
    /// `correlation`.
    pub correlation: u64,
    /// `topic`.
    pub topic: String,
    /// `first_number`.
    pub first_number: u64,
    /// `resolved_through`.
    pub resolved_through: u64,
    /// `topic_number`.
    pub topic_number: u32,
    /// `remember`.
    pub remember: bool,
    /// `unpacked_bytes`.
    pub unpacked_bytes: u64,
    /// `packed`.
    pub packed: Bytes,
    /// `events`: the elements one behind the other, each behind its tag and a length of at most five bytes.
    pub events: Bytes,
}

impl ReceivedBatch {
    /// Reads a frame. Nothing is copied when the events lie together in it, as every sensible client writes them.
    ///
    /// # Errors
    ///
    /// The frame is not a `PublishBatch`.
    pub fn decode(frame: Bytes) -> Result<Self, FrameError> {
        match Self::in_place(&frame) {
            Some(batch) => Ok(batch),
            None => Ok(pb::PublishBatch::decode(frame)?.into()),
        }
    }

    // `None` when the frame is not as expected; prost knows whether it is wrong or only unusual.
    fn in_place(frame: &Bytes) -> Option<Self> {
        let mut batch = Self::default();
        let mut events = 0..0;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let begin = frame.len() - rest.len();
            let (tag, wire_type) = decode_key(&mut rest).ok()?;
            match (tag, wire_type) {
                (1, WireType::Varint) => batch.correlation = decode_varint(&mut rest).ok()?,
                (2, WireType::LengthDelimited) => {
                    let topic = delimited(&mut rest)?;
                    batch.topic = std::str::from_utf8(topic).ok()?.to_owned();
                }
                (3, WireType::Varint) => batch.first_number = decode_varint(&mut rest).ok()?,
                (4, WireType::Varint) => batch.resolved_through = decode_varint(&mut rest).ok()?,
                // As prost: of a number that is too long, the lower bits count.
                (5, WireType::Varint) => batch.topic_number = decode_varint(&mut rest).ok()? as u32,
                (12, WireType::Varint) => batch.remember = decode_varint(&mut rest).ok()? != 0,
                (13, WireType::Varint) => batch.unpacked_bytes = decode_varint(&mut rest).ok()?,
                (14, WireType::LengthDelimited) => {
                    let length = delimited(&mut rest)?.len();
                    let end = frame.len() - rest.len();
                    batch.packed = frame.slice(end - length..end);
                }
                (EVENTS_TAG, WireType::LengthDelimited) => {
                    let event = delimited(&mut rest)?;
                    let end = frame.len() - rest.len();
                    let together = events.is_empty() || events.end == begin;
                    let minimal = end - begin == element_len(event.len());
                    if !together || !minimal {
                        return None;
                    }
                    if events.is_empty() {
                        events.start = begin;
                    }
                    events.end = end;
                }
                _ => return None,
            }
        }
        // A slice keeps the whole frame, of which credit counts only the events. What is packed is not kept.
        batch.events = match events.len() * 2 < frame.len() {
            true => Bytes::copy_from_slice(&frame[events]),
            false => frame.slice(events),
        };
        Some(batch)
    }
}

impl From<pb::PublishBatch> for ReceivedBatch {
    fn from(batch: pb::PublishBatch) -> Self {
        let events = encoded(&batch.events);
        Self {
            correlation: batch.correlation,
            topic: batch.topic,
            first_number: batch.first_number,
            resolved_through: batch.resolved_through,
            topic_number: batch.topic_number,
            remember: batch.remember,
            unpacked_bytes: batch.unpacked_bytes,
            packed: batch.packed,
            events: events.freeze(),
        }
    }
}

fn delimited<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{FrameReader, decode, encode_frame};
    use crate::golden::any_event;

    // Whatever the bytes are, both readers find the same in them.
    fn check_received(bytes: &[u8]) {
        let frame = Bytes::copy_from_slice(bytes);
        let expected = pb::PublishBatch::decode(bytes).map(ReceivedBatch::from);
        let found = ReceivedBatch::decode(frame);
        assert_eq!(found.ok(), expected.ok(), "{bytes:02x?}");
    }

    #[test]
    fn unusual_batches_are_read_too() {
        check_received(b"");
        check_received(b"\x7a\x01a\x08\x07\x7a\x01b"); // Events with another field between them.
        check_received(b"\x7a\x81\x00a"); // A length that is longer than it need be.
        check_received(b"\xfa\x00\x01a"); // So is a tag.
        check_received(b"\x12\x01a\x12\x01b\x08\x01\x08\x02"); // The last one wins.
        check_received(b"\x12\x01\xff"); // Not UTF-8.
        check_received(b"\x7a\x02a"); // Truncated.
        check_received(b"\x78\x01"); // Wrong wire type.
        check_received(b"\x32\x01a\x7a\x01a"); // An unknown field.
        check_received(b"\x28\x07\x60\x01\x68\x03\x72\x02ab"); // Packed.
        check_received(b"\x72\x01a\x7a\x01b\x72\x01c\x60\x00"); // In both forms, and the last one wins.
        check_received(b"\x28\x81\x80\x80\x80\x10\x60\x02"); // A number beyond 32 bits, and a flag that is neither.
        check_received(b"\x72\x05ab"); // Truncated.
    }

    #[test]
    fn a_received_batch_is_not_copied() {
        let batch = pb::PublishBatch {
            topic: "a".into(),
            events: vec![Bytes::from_static(b"event")],
            ..Default::default()
        };
        let frame = Bytes::from(batch.encode_to_vec());
        let received = ReceivedBatch::decode(frame.clone()).unwrap();
        assert_eq!(received.events.as_ptr_range().end, frame.as_ptr_range().end);
    }

    #[test]
    fn few_events_do_not_keep_a_large_frame() {
        let topic = "a".repeat(100);
        let batch = pb::PublishBatch {
            topic,
            events: vec![Bytes::from_static(b"event")],
            ..Default::default()
        };
        let frame = Bytes::from(batch.encode_to_vec());
        let received = ReceivedBatch::decode(frame.clone()).unwrap();
        assert!(!frame.as_ptr_range().contains(&received.events.as_ptr()));
    }

    proptest! {
        #[test]
        fn received_batches_agree_with_prost(
            events in prop::collection::vec(any_event(), 0..5),
            correlation in any::<u64>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in any::<prop::sample::Index>(),
        ) {
            let events = events.iter().map(|event| event.encode_to_vec().into()).collect();
            let packed = Bytes::from(correlation.to_be_bytes().to_vec());
            let batch = pb::PublishBatch {
                correlation,
                topic: "a.b".into(),
                events,
                topic_number: correlation as u32,
                remember: correlation % 2 == 0,
                unpacked_bytes: correlation,
                packed,
                ..Default::default()
            };
            let mut bytes = batch.encode_to_vec();
            check_received(&bytes);
            for (index, byte) in damage {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            check_received(&bytes);
        }

        #[test]
        fn received_batches_agree_with_prost_on_small_alphabets(bytes in prop::collection::vec(
            prop::sample::select(vec![0u8, 1, 2, 3, 8, 0x12, 0x18, 0x20, 0x28, 0x60, 0x68, 0x72, 0x7a, 0x32, 0x61, 0x80, 0xff]), 0..40,
        )) {
            check_received(&bytes);
        }

        #[test]
        fn head_and_body_are_the_frame_prost_would_make(
            events in prop::collection::vec(any_event(), 0..5),
            correlation in any::<u64>(),
            first_number in any::<u64>(),
        ) {
            let mut body = BytesMut::new();
            for event in &events {
                let before = body.len();
                let mut pushed = event.clone();
                let length = push_event(&mut body, &mut pushed);
                prop_assert_eq!(&pushed, event);
                prop_assert_eq!(body.len() - before, element_len(length));
            }
            let head = pb::PublishBatch { correlation, topic: "a.b".into(), first_number, ..Default::default() };
            let mut stream = BytesMut::new();
            push_batch_head(&head, body.len(), &mut stream);
            stream.extend_from_slice(&body);
            let frame = FrameReader::new(1 << 20).next_frame(&mut stream).unwrap().unwrap();
            let events = events.iter().map(|event| event.encode_to_vec().into()).collect();
            prop_assert_eq!(decode::<pb::PublishBatch>(frame).unwrap(), pb::PublishBatch { events, ..head });
            prop_assert!(stream.is_empty());
        }

        #[test]
        fn a_delivery_in_pieces_is_the_frame_prost_would_make(
            events in prop::collection::vec(any_event(), 0..5),
            positions in prop::collection::vec(any::<u64>(), 0..5),
        ) {
            let mut body = BytesMut::new();
            for event in &events {
                push_event(&mut body, &mut event.clone());
            }
            let head = pb::Deliver { topic: "a.b".into(), attempt: 1, positions, ..Default::default() };
            let mut stream = BytesMut::new();
            push_deliver_head(&head, body.len(), &mut stream);
            stream.extend_from_slice(&body);
            let events = events.iter().map(|event| event.encode_to_vec().into()).collect();
            let deliver = pb::Deliver { events, ..head };
            let message = pb::BrokerToConsumer {
                message: Some(pb::broker_to_consumer::Message::Deliver(deliver)),
            };
            let mut expected = BytesMut::new();
            encode_frame(&message, &mut expected);
            prop_assert_eq!(stream, expected);
        }
    }
}
