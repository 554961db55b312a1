//! Both ends of compact streams: what is said comes out as it was, it is shorter where it can be, and nothing that a peer may say
//! costs more than it may.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message;

use super::{CompactError, Compression, Packer, Unpacker};
use crate::batch::{ReceivedBatch, push_batch_head, push_encoded, push_event};
use crate::frame::{FrameReader, decode, encode_frame};
use crate::limits::{FRAME_BYTES_MAX, REMEMBERED_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::pb::{self, ErrorCode, broker_to_consumer};

/// Both ends of one direction.
struct Ends {
    packer: Packer,
    unpacker: Unpacker,
    is_long: bool,
}

/// What went over the wire of a batch.
#[derive(Debug, PartialEq)]
struct Sent {
    frame_bytes: usize,
    topic_number: u32,
    names_its_topic: bool,
    remember: bool,
    is_packed: bool,
}

impl Ends {
    fn new(compression: Compression) -> Self {
        Self {
            packer: Packer::new(compression),
            unpacker: Unpacker::new(FRAME_BYTES_MAX),
            is_long: true,
        }
    }

    /// Sends a batch, and checks that it comes as it was.
    fn publish(&mut self, topic: &str, body: &Bytes) -> Sent {
        let mut head = pb::PublishBatch {
            correlation: 7,
            topic: topic.to_owned(),
            ..Default::default()
        };
        let packed = self
            .packer
            .pack_batch(&mut head, body, true, || self.is_long);
        let sent = packed.as_ref().unwrap_or(body);
        let mut stream = BytesMut::new();
        push_batch_head(&head, sent.len(), &mut stream);
        stream.extend_from_slice(sent);
        let frame_bytes = stream.len();
        let frame = FrameReader::new(2 * FRAME_BYTES_MAX)
            .next_frame(&mut stream)
            .unwrap()
            .unwrap();
        let mut batch = ReceivedBatch::decode(frame).unwrap();
        let names_its_topic = !batch.topic.is_empty();
        let announced = self.unpacker.resolve(&mut batch).unwrap();
        assert_eq!(announced, packed.as_ref().map(|_| body.len()));
        self.unpacker.unpack_batch(&mut batch).unwrap();
        assert_eq!((batch.topic.as_str(), &batch.events), (topic, body));
        Sent {
            frame_bytes,
            topic_number: head.topic_number,
            names_its_topic,
            remember: head.remember,
            is_packed: packed.is_some(),
        }
    }

    /// The same with a delivery.
    fn deliver(&mut self, topic: &str, entries: &[Bytes]) -> Sent {
        let mut head = pb::Deliver {
            topic: topic.to_owned(),
            attempt: 1,
            ..Default::default()
        };
        let packed = self
            .packer
            .pack_deliver(&mut head, entries, || self.is_long);
        let sent = packed.clone().map(|packed| vec![packed]);
        let sent = sent.as_deref().unwrap_or(entries);
        let mut stream = BytesMut::new();
        crate::batch::push_deliver_head(&head, sent.iter().map(Bytes::len).sum(), &mut stream);
        sent.iter().for_each(|part| stream.extend_from_slice(part));
        let frame_bytes = stream.len();
        let frame = FrameReader::new(2 * FRAME_BYTES_MAX)
            .next_frame(&mut stream)
            .unwrap()
            .unwrap();
        let message = decode::<pb::BrokerToConsumer>(frame).unwrap().message;
        let Some(broker_to_consumer::Message::Deliver(mut deliver)) = message else {
            panic!("not a delivery")
        };
        let names_its_topic = !deliver.topic.is_empty();
        self.unpacker.unpack_deliver(&mut deliver).unwrap();
        let mut came = BytesMut::new();
        for event in &deliver.events {
            push_encoded(&mut came, event);
        }
        assert_eq!(
            (deliver.topic.as_str(), came),
            (topic, BytesMut::from(&entries.concat()[..]))
        );
        Sent {
            frame_bytes,
            topic_number: head.topic_number,
            names_its_topic,
            remember: head.remember,
            is_packed: packed.is_some(),
        }
    }
}

fn body(payloads: &[Vec<u8>]) -> Bytes {
    let mut body = BytesMut::new();
    for payload in payloads {
        let mut event = pb::Event {
            payload: payload.clone().into(),
            ..Default::default()
        };
        push_event(&mut body, &mut event);
    }
    body.freeze()
}

/// As a sensor says it, some 256 bytes.
fn reading(number: u64) -> Vec<u8> {
    let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (value, id) = (noise % 1_000, noise >> 32);
    format!(
        r#"{{"device":"press-{}","site":"plant-north","line":7,"sequence":{number},"temperature_c":{value}.{:03},"pressure_kpa":{},"vibration_mm_s":{}.{:02},"state":"running","trace":"{id:08x}","unit":"metric","firmware":"4.11.2","quality":"good"}}"#,
        number % 5,
        id % 1_000,
        noise % 977,
        noise % 13,
        noise % 100,
    )
    .into_bytes()
}

fn random(seed: u64, bytes: usize) -> Vec<u8> {
    // SplitMix64.
    let word = |index: u64| {
        let step = seed.wrapping_mul(1_000).wrapping_add(index + 1);
        let mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u8
    };
    (0..bytes as u64).map(word).collect()
}

#[test]
fn compression_is_chosen_by_name() {
    for compression in Compression::ALL {
        assert_eq!(compression.to_string().parse(), Ok(compression));
    }
    assert!("zstd".parse::<Compression>().is_err());
}

#[test]
fn single_small_events_shrink_where_they_are_alike() {
    for compression in [Compression::Auto, Compression::Always] {
        let mut ends = Ends::new(compression);
        let (mut plain, mut sent) = (0, 0);
        for number in 0..100 {
            let body = body(&[reading(number)]);
            plain += body.len();
            let publish = ends.publish("plant.north.readings", &body);
            sent += publish.frame_bytes;
            let first = number == 0;
            assert_eq!((publish.topic_number, publish.remember), (1, true));
            assert_eq!(publish.names_its_topic, first);
            assert!(publish.is_packed || first);
        }
        assert!(sent * 2 < plain, "{compression}: {sent} of {plain} bytes");
    }
}

#[test]
fn deliveries_shrink_whatever_pieces_they_lie_in() {
    let mut ends = Ends::new(Compression::Auto);
    let pieces: Vec<Bytes> = (0..40).map(|number| body(&[reading(number)])).collect();
    let plain: usize = pieces.iter().map(Bytes::len).sum();
    let all = ends.deliver("t", &pieces);
    assert!(
        all.is_packed && !all.remember && all.frame_bytes * 2 < plain,
        "{all:?}"
    );
    let few = ends.deliver("t", &pieces[..3]);
    assert!(
        few.is_packed && few.remember && !few.names_its_topic,
        "{few:?}"
    );
    // The same again is nearly nothing.
    let again = ends.deliver("t", &pieces[..3]);
    assert!(again.is_packed && again.frame_bytes < 60, "{again:?}");
    assert!(!ends.deliver("t", &[]).is_packed);
}

#[test]
fn what_does_not_shrink_is_sent_as_it_is_and_seldom_tried() {
    let mut ends = Ends::new(Compression::Auto);
    let mut tried = Vec::new();
    for number in 0..400 {
        let sent = ends.publish("t", &body(&[random(number, 200)]));
        assert!(!sent.is_packed);
        // What is tried is remembered.
        if sent.remember {
            tried.push(number);
        }
    }
    // The first has nothing to be like; then pauses of 1, 2, 4 and so on.
    assert_eq!(tried, [0, 1, 3, 6, 11, 20, 37, 70, 135, 200, 265, 330, 395]);
    // Once it pays, all is tried again.
    let alike = body(&[reading(1), reading(2), reading(3), reading(4)]);
    let packed = (0..70).filter(|_| ends.publish("t", &alike).is_packed);
    assert_eq!(packed.count(), 70 - 60);
    assert!(ends.publish("t", &alike).is_packed);
}

#[test]
fn nothing_is_compact_on_a_short_path_or_when_it_is_off() {
    let plain = Sent {
        frame_bytes: 0,
        topic_number: 0,
        names_its_topic: true,
        remember: false,
        is_packed: false,
    };
    let alike = body(&[reading(1), reading(2), reading(3), reading(4)]);
    let mut ends = Ends::new(Compression::Auto);
    ends.is_long = false;
    for _ in 0..100 {
        let sent = ends.publish("t", &alike);
        assert_eq!(
            Sent {
                frame_bytes: 0,
                ..sent
            },
            plain
        );
    }
    // The path is looked at now and then.
    ends.is_long = true;
    let long = (0..40)
        .filter(|_| ends.publish("t", &alike).is_packed)
        .count();
    assert!((8..=40).contains(&long), "{long} of 40");
    let mut off = Ends::new(Compression::Off);
    for _ in 0..3 {
        let sent = off.publish("t", &alike);
        assert_eq!(
            Sent {
                frame_bytes: 0,
                ..sent
            },
            plain
        );
    }
    let mut always = Ends::new(Compression::Always);
    always.is_long = false;
    assert!(always.publish("t", &alike).is_packed);
}

#[test]
fn what_its_reader_would_not_take_is_not_packed() {
    let alike = body(&[reading(1), reading(2), reading(3), reading(4)]);
    let mut packer = Packer::new(Compression::Always);
    let mut head = pb::PublishBatch {
        topic: "t".into(),
        ..Default::default()
    };
    assert_eq!(packer.pack_batch(&mut head, &alike, false, || true), None);
    assert_eq!((head.topic_number, head.remember), (1, false));
    let mut ends = Ends::new(Compression::Always);
    let large = body(&vec![random(1, 4_000); 200]);
    assert!(
        !ends.publish("t", &large).is_packed,
        "200 to 1 is too dense"
    );
    let payload = |number: u64| [random(number, 200), vec![7; 4_000]].concat();
    let large = body(&(0..240).map(payload).collect::<Vec<_>>());
    assert!(ends.publish("t", &large).is_packed);
    let too_large = body(&(0..250).map(payload).collect::<Vec<_>>());
    assert!(too_large.len() > UNPACKED_BYTES_MAX);
    assert!(!ends.publish("t", &too_large).is_packed);
}

/// A batch as a peer may send it.
fn check(batch: pb::PublishBatch, frame_bytes_max: usize, expected: Result<&[u8], ErrorCode>) {
    let mut received = ReceivedBatch::decode(batch.encode_to_vec().into()).unwrap();
    let mut unpacker = Unpacker::new(frame_bytes_max);
    let found = unpacker.unpack_batch(&mut received);
    let found = found.map(|()| &received.events[..]);
    let code = |error: CompactError| pb::Error::from(&error).code();
    assert_eq!(found.map_err(code), expected, "{batch:?}");
    let mut deliver = pb::Deliver {
        topic: batch.topic,
        topic_number: batch.topic_number,
        remember: batch.remember,
        unpacked_bytes: batch.unpacked_bytes,
        packed: batch.packed,
        events: batch.events,
        ..Default::default()
    };
    let found = Unpacker::new(frame_bytes_max).unpack_deliver(&mut deliver);
    assert_eq!(found.map_err(code).err(), expected.err());
}

#[test]
fn each_way_a_packed_batch_can_be_wrong() {
    // Four literal bytes: one event of two.
    let packed = |packed: &'static [u8], unpacked_bytes| pb::PublishBatch {
        topic: "t".into(),
        packed: packed.into(),
        unpacked_bytes,
        ..Default::default()
    };
    let good = b"\x40\x7a\x02ab";
    check(packed(good, 4), 100, Ok(b"\x7a\x02ab"));
    check(packed(good, 4), 4, Ok(b"\x7a\x02ab"));
    check(packed(good, 4), 3, Err(ErrorCode::TooLarge));
    check(packed(good, 3), 100, Err(ErrorCode::Malformed));
    check(packed(good, 5), 100, Err(ErrorCode::Malformed));
    check(packed(good, 0), 100, Err(ErrorCode::Malformed));
    check(packed(b"", 4), 100, Err(ErrorCode::Malformed));
    check(
        packed(good, 32 * (5 + 16)),
        1_000,
        Err(ErrorCode::Malformed),
    );
    check(
        packed(good, 32 * (5 + 16) + 1),
        1_000,
        Err(ErrorCode::TooLarge),
    );
    check(packed(b"\x50\x7a\x02ab", 5), 100, Err(ErrorCode::Malformed));
    // A match before the first byte, and one of no distance.
    check(
        packed(b"\x10\x7a\x05\x00\x00", 5),
        100,
        Err(ErrorCode::Malformed),
    );
    check(
        packed(b"\x10\x7a\x00\x00\x00", 5),
        100,
        Err(ErrorCode::Malformed),
    );
    let remembered = |bytes: usize| pb::PublishBatch {
        remember: true,
        events: vec![vec![7; bytes].into()],
        ..Default::default()
    };
    let most = remembered(REMEMBERED_BYTES_MAX - 3);
    let elements = [&b"\x7a\xfd\x3f"[..], &most.events[0]].concat();
    check(most, 100, Ok(&elements));
    let more = remembered(REMEMBERED_BYTES_MAX - 2);
    check(more, 100, Err(ErrorCode::Malformed));
    let packed_more = pb::PublishBatch {
        unpacked_bytes: REMEMBERED_BYTES_MAX as u64 + 1,
        packed: vec![7; REMEMBERED_BYTES_MAX].into(),
        events: Vec::new(),
        ..remembered(0)
    };
    check(packed_more, 10_000, Err(ErrorCode::Malformed));
    let both = pb::PublishBatch {
        events: vec![Bytes::from_static(b"ab")],
        ..packed(good, 4)
    };
    check(both, 100, Err(ErrorCode::Malformed));
    let unsaid = pb::PublishBatch {
        topic_number: 1,
        ..packed(good, 4)
    };
    check(unsaid.clone(), 100, Ok(b"\x7a\x02ab"));
    let topic = String::new();
    check(
        pb::PublishBatch { topic, ..unsaid },
        100,
        Err(ErrorCode::Malformed),
    );
}

#[test]
fn what_is_announced_costs_nothing_before_it_is_checked() {
    let mut unpacker = Unpacker::new(usize::MAX);
    let mut batch = ReceivedBatch {
        packed: Bytes::from_static(&[0x1f, 0x7a, 0x01, 0x00, 0xff]),
        ..ReceivedBatch::default()
    };
    for (announced, expected) in [
        (32 * 21, CompactError::Corrupt { announced: 32 * 21 }),
        (
            32 * 21 + 1,
            CompactError::TooDense {
                announced: 32 * 21 + 1,
                packed: 5,
            },
        ),
        (
            UNPACKED_BYTES_MAX as u64 + 1,
            CompactError::TooLarge {
                announced: UNPACKED_BYTES_MAX as u64 + 1,
                max: UNPACKED_BYTES_MAX,
            },
        ),
        (
            u64::MAX,
            CompactError::TooLarge {
                announced: u64::MAX,
                max: UNPACKED_BYTES_MAX,
            },
        ),
    ] {
        batch.unpacked_bytes = announced;
        assert_eq!(unpacker.unpack_batch(&mut batch), Err(expected));
    }
}

#[test]
fn who_resolves_a_batch_need_not_unpack_it() {
    let mut ends = Ends::new(Compression::Always);
    let large = body(&(0..60).map(reading).collect::<Vec<_>>());
    let mut head = pb::PublishBatch {
        topic: "t".into(),
        ..Default::default()
    };
    let field = ends.packer.pack_batch(&mut head, &large, true, || true);
    let field = field.expect("shrinks");
    let block = pb::PublishBatch::decode(field.clone()).unwrap().packed;
    assert_eq!(super::block_len(&field), block.len());
    let mut batch = ReceivedBatch::from(pb::PublishBatch {
        packed: block,
        ..head
    });
    assert_eq!(ends.unpacker.resolve(&mut batch), Ok(Some(large.len())));
    assert!(!batch.remember, "it is too large");
    // What comes after it is read as if it had been.
    let next = ends.publish("t", &body(&[reading(70)]));
    assert!(!next.names_its_topic && next.remember);
    assert!(ends.publish("t", &body(&[reading(71)])).is_packed);
}

#[test]
fn packed_bytes_that_are_no_events_are_told() {
    for unpacked in [
        &b"\x7a\x05ab"[..],
        b"\x7a\x82\x00ab",
        b"\x08\x01",
        b"\xfa\x00\x01a",
    ] {
        let mut packed = vec![(unpacked.len() as u8) << 4];
        packed.extend_from_slice(unpacked);
        let mut deliver = pb::Deliver {
            packed: packed.into(),
            unpacked_bytes: unpacked.len() as u64,
            ..Default::default()
        };
        let found = Unpacker::new(100).unpack_deliver(&mut deliver);
        assert_eq!(found, Err(CompactError::NoEvents), "{unpacked:02x?}");
    }
}

/// What a stream may carry: topics and payloads, which are like earlier ones or not.
fn any_batches() -> impl Strategy<Value = Vec<(usize, Vec<Vec<u8>>)>> {
    let payload = prop_oneof![
        (0u64..9).prop_map(reading),
        (any::<u64>(), 0usize..300).prop_map(|(seed, bytes)| random(seed, bytes)),
        (any::<u8>(), 0usize..REMEMBERED_BYTES_MAX).prop_map(|(byte, bytes)| vec![byte; bytes]),
    ];
    prop::collection::vec((0usize..70, prop::collection::vec(payload, 0..6)), 0..90)
}

proptest! {
    #[test]
    fn whatever_is_sent_comes_as_it_was(
        batches in any_batches(),
        compression in prop::sample::select(Compression::ALL.to_vec()),
        long_from in 0usize..20,
    ) {
        let (mut batch, mut delivery) = (Ends::new(compression), Ends::new(compression));
        for (index, (topic, payloads)) in batches.iter().enumerate() {
            let topic = format!("topics.{topic}");
            batch.is_long = index >= long_from;
            delivery.is_long = index >= long_from;
            // The ends check it.
            batch.publish(&topic, &body(payloads));
            let pieces: Vec<Bytes> = payloads.chunks(2).map(body).collect();
            delivery.deliver(&topic, &pieces);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic_or_take_too_much(
        batches in prop::collection::vec(
            (
                prop::collection::vec(any::<u8>(), 0..80),
                prop_oneof![0u64..600, any::<u64>()],
                any::<bool>(),
                0u32..70,
                prop::sample::select(vec!["", "a"]),
            ),
            1..8,
        ),
    ) {
        let (mut reader, mut deliveries) = (Unpacker::new(500), Unpacker::new(500));
        for (packed, unpacked_bytes, remember, topic_number, topic) in batches {
            let mut batch = ReceivedBatch {
                topic: topic.to_owned(),
                topic_number,
                remember,
                unpacked_bytes,
                packed: packed.clone().into(),
                ..ReceivedBatch::default()
            };
            let _ = reader.unpack_batch(&mut batch);
            prop_assert!(batch.events.len() <= 500);
            let mut deliver = pb::Deliver {
                remember,
                unpacked_bytes,
                packed: packed.into(),
                ..Default::default()
            };
            let _ = deliveries.unpack_deliver(&mut deliver);
        }
    }

    #[test]
    fn damaged_blocks_are_found_or_harmless(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut ends = Ends::new(Compression::Always);
        ends.publish("t", &body(&[reading(1)]));
        let events = body(&[reading(2), reading(3)]);
        let mut head = pb::PublishBatch { topic: "t".into(), ..Default::default() };
        let field = ends.packer.pack_batch(&mut head, &events, true, || true).unwrap();
        let mut whole = BytesMut::new();
        encode_frame(&head, &mut whole);
        let mut packed = field.to_vec();
        for (index, byte) in damage {
            let index = index.index(packed.len());
            packed[index] = byte;
        }
        packed.truncate(1 + cut.index(packed.len()));
        let mut frame = head.encode_to_vec();
        frame.extend_from_slice(&packed);
        if let Ok(mut batch) = ReceivedBatch::decode(frame.into())
            && ends.unpacker.unpack_batch(&mut batch).is_ok()
        {
            prop_assert!(batch.events.is_empty() || batch.events.len() == events.len());
        }
    }
}
