//! Streams on which topics have numbers and events are packed, with a broker behind them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tidegate_wire::batch::{push_batch_head, push_event};
use tidegate_wire::compact::{Compression, Packer, Unpacker};
use tidegate_wire::limits::{
    COMPACT_BYTES_MAX, FRAME_BYTES_MAX, PACKED_DENSITY_MAX, PACKED_HEAD_BYTES, UNPACKED_BYTES_MAX,
};
use tidegate_wire::pb::broker_to_consumer::Message as ToConsumer;
use tidegate_wire::pb::{self, ErrorCode, publish_reply, stream_open, subscribe_opened};
use tidegate_wire::stream::memory::{MemoryConnection, MemoryOptions};

use super::client::{Client, Consuming, Publishing, batch, frame, open};
use super::served::Served;
use super::until;

/// What shrinks.
const WORDS: &str = "one two three one two three one two three one two three one two three";

/// Lines of words, of so many bytes at least: alike, but not so much that they are too dense for being packed.
fn lines(bytes: usize) -> String {
    let lines = (0..).map(|number| format!("{number} {WORDS}\n"));
    let mut text = String::with_capacity(bytes + 100);
    text.extend(lines.take(bytes.div_ceil(WORDS.len())));
    text
}

/// What a sender of compact batches does.
struct Sender(Packer);

impl Sender {
    fn new() -> Self {
        Self(Packer::new(Compression::Always))
    }

    /// A batch as it goes over the stream, and whether it is packed.
    fn batch(&mut self, correlation: u64, topic: &str, payloads: &[&str]) -> (Bytes, bool) {
        let mut body = BytesMut::new();
        for payload in payloads {
            let payload = Bytes::copy_from_slice(payload.as_bytes());
            let mut event = pb::Event {
                payload,
                ..pb::Event::default()
            };
            push_event(&mut body, &mut event);
        }
        let body = body.freeze();
        let mut head = pb::PublishBatch {
            correlation,
            topic: topic.to_owned(),
            ..Default::default()
        };
        let packed = self.0.pack_batch(&mut head, &body, true, || true);
        let sent = packed.as_ref().unwrap_or(&body);
        let mut stream = BytesMut::new();
        push_batch_head(&head, sent.len(), &mut stream);
        stream.extend_from_slice(sent);
        (stream.freeze(), packed.is_some())
    }
}

/// Far away.
async fn welcomed_far(served: &Served) -> Client<MemoryConnection> {
    let options = MemoryOptions {
        stream_bytes_max: 16 << 20,
        round_trip: Duration::from_millis(100),
        ..MemoryOptions::default()
    };
    served.sessions.connect_by(options).welcomed().await
}

/// A consumer, which reads compact deliveries or not.
async fn attached(
    client: &Client<MemoryConnection>,
    credit: (u64, u64),
    takes_compact: bool,
) -> Consuming<MemoryConnection> {
    let subscribe = pb::SubscribeOpen {
        subscription: "s".to_owned(),
        credit_events: credit.0,
        credit_bytes: credit.1,
        takes_compact,
        ..Default::default()
    };
    let opening = open(stream_open::Kind::Subscribe(subscribe));
    let mut stream = client.send(&opening).await;
    let opened: pb::SubscribeOpened = stream.recv.next().await.expect("answered");
    assert!(matches!(
        opened.result,
        Some(subscribe_opened::Result::Ready(_))
    ));
    Consuming { stream }
}

/// The next delivery as it came.
async fn delivery(consuming: &mut Consuming<MemoryConnection>) -> pb::Deliver {
    match consuming.next().await {
        ToConsumer::Deliver(deliver) => deliver,
        other => panic!("{other:?}"),
    }
}

fn payloads(deliver: &pb::Deliver) -> Vec<String> {
    let payload = |event: &Bytes| {
        let event = pb::Event::decode(event.clone()).expect("an event");
        String::from_utf8(event.payload.to_vec()).expect("text")
    };
    deliver.events.iter().map(payload).collect()
}

#[tokio::test(start_paused = true)]
async fn packed_batches_are_those_that_were_sent() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let mut sender = Sender::new();
    let mut came = 0;
    let topics = ["orders.eu", "orders.us", "orders.eu", "orders.us"];
    for (number, topic) in topics.into_iter().enumerate() {
        let said = format!("{number} {WORDS}");
        let (bytes, packed) = sender.batch(number as u64, topic, &[&said, "end"]);
        assert!(packed);
        came += bytes.len();
        publishing.write(&bytes).await;
        publishing.ack().await;
    }
    // For who does not say that it reads anything else, all is as it always was.
    let mut plain = attached(&client, (100, 1 << 20), false).await;
    for (number, topic) in topics.into_iter().enumerate() {
        let deliver = delivery(&mut plain).await;
        assert_eq!((deliver.topic.as_str(), deliver.topic_number), (topic, 0));
        assert!(deliver.packed.is_empty() && !deliver.remember);
        assert_eq!(payloads(&deliver), [&format!("{number} {WORDS}"), "end"]);
    }
    let counts = served.sessions.service.stats.counts();
    assert!(
        counts.packed_in > 0 && counts.packed_in < came as u64,
        "{counts:?}"
    );
    assert!(counts.unpacked_in > 4 * WORDS.len() as u64, "{counts:?}");
    assert_eq!((counts.packed_out, counts.unpacked_out), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_still_says_what_its_number_stands_for() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let mut sender = Sender::new();
    for (number, topic, refused) in [
        (1, "invoices", true),
        (2, "orders.eu", false),
        (3, "invoices", true),
        (4, "orders.eu", false),
    ] {
        let (bytes, _) = sender.batch(number, topic, &[WORDS]);
        publishing.write(&bytes).await;
        let (correlation, result) = publishing.reply().await.expect("a reply");
        assert_eq!(correlation, number);
        let expected = refused.then_some(ErrorCode::PermissionDenied);
        assert_eq!(result.err(), expected, "{topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_knows_no_numbers_and_no_events_of_another() {
    let served = Served::start(|_| {}).await;
    for packed_first in [false, true] {
        let client = served.sessions.welcomed().await;
        let mut sender = Sender::new();
        let mut first = Publishing::open(&client, &[], 0).await;
        let (bytes, _) = sender.batch(1, "orders.eu", &[WORDS]);
        first.write(&bytes).await;
        first.ack().await;
        let mut second = Publishing::open(&client, &[], 0).await;
        let (mut bytes, packed) = sender.batch(2, "orders.eu", &[WORDS]);
        assert!(packed);
        if packed_first {
            // With its topic, and with events that only the first stream has seen.
            let mut stream = BytesMut::from(&bytes[1..]);
            stream.extend_from_slice(b"\x12\x09orders.eu");
            let mut framed = BytesMut::from(&[stream.len() as u8][..]);
            framed.extend_from_slice(&stream);
            bytes = framed.freeze();
        }
        second.write(&bytes).await;
        assert_eq!(second.refusal().await, (0, ErrorCode::Malformed));
        assert_eq!(second.reply().await, None);
        assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_packed_costs_what_it_unpacks_to() {
    let served = Served::start(|options| {
        options.publish_credit_bytes = 64 << 10;
        options.publish_credit_total_bytes = 1 << 30;
    })
    .await;
    let _room = served.broker.take_publish_room(0).await;
    let client = served.sessions.welcomed().await;
    let large = lines(30 << 10);
    let mut publishing = Publishing::open(&client, &[], 0).await;
    assert_eq!(publishing.ready.credit_bytes, 64 << 10);
    let mut sender = Sender::new();
    // Some hundred bytes each, and nothing is answered meanwhile.
    for number in 1..=3 {
        let (bytes, packed) = sender.batch(number, "orders.eu", &[&large]);
        assert!(packed && bytes.len() < 6_000);
        publishing.write(&bytes).await;
    }
    assert_eq!(publishing.refusal().await, (0, ErrorCode::FlowControl));
    assert_eq!(publishing.reply().await, None);
    // As many as fit into the credit are no fault; and one that costs more than all of it is not taken packed, though plain it is.
    let too_large = lines(64 << 10);
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let (bytes, packed) = Sender::new().batch(1, "orders.eu", &[&too_large]);
    assert!(packed && bytes.len() < 12_000);
    publishing.write(&bytes).await;
    assert_eq!(publishing.refusal().await, (0, ErrorCode::FlowControl));
    let mut publishing = Publishing::open(&client, &[], 0).await;
    publishing
        .write(&batch(1, "orders.eu", 0, &[&too_large]))
        .await;
    drop(_room);
    publishing.ack().await;
}

/// A packed batch that unpacks to this, said by these bytes.
fn packed_batch(topic: &str, unpacked_bytes: u64, packed: Vec<u8>) -> pb::PublishBatch {
    pb::PublishBatch {
        correlation: 1,
        topic: topic.to_owned(),
        unpacked_bytes,
        packed: packed.into(),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn who_announces_what_cannot_be_ends_the_connection() {
    let served = Served::start(|_| {}).await;
    let most = UNPACKED_BYTES_MAX as u64;
    let block_bytes = UNPACKED_BYTES_MAX / PACKED_DENSITY_MAX - PACKED_HEAD_BYTES;
    for (unpacked_bytes, packed, code, why) in [
        (u64::MAX, 50_000, ErrorCode::TooLarge, "at most"),
        (most + 1, 50_000, ErrorCode::TooLarge, "at most"),
        (most, block_bytes - 1, ErrorCode::TooLarge, "32 times"),
        (most, block_bytes, ErrorCode::Malformed, "no block"),
        (0, 1, ErrorCode::Malformed, "cannot be"),
    ] {
        let client = served.sessions.welcomed().await;
        let mut publishing = Publishing::open(&client, &[], 0).await;
        let bomb = packed_batch("orders.eu", unpacked_bytes, vec![0; packed]);
        publishing.write(&frame(&bomb)).await;
        let reply: Option<pb::PublishReply> = publishing.stream.recv.next().await;
        let Some(publish_reply::Result::Error(error)) = reply.and_then(|reply| reply.result) else {
            panic!("not refused")
        };
        assert_eq!(error.code(), code, "{unpacked_bytes}");
        assert!(error.message.contains(why), "{}", error.message);
        assert_eq!(publishing.reply().await, None);
        assert_eq!(client.close_code().await, Some(code));
    }
    let counts = served.sessions.service.stats.counts();
    assert_eq!(
        (counts.packed_in, counts.unpacked_in),
        (0, 0),
        "not one was"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_unpacked_for_who_has_no_right_to_its_topic() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    // No block, which nobody finds out.
    let foreign = packed_batch("invoices", 1 << 20, vec![0; 40_000]);
    for _ in 0..3 {
        publishing.write(&frame(&foreign)).await;
        assert_eq!(publishing.refusal().await, (1, ErrorCode::PermissionDenied));
    }
    let counts = served.sessions.service.stats.counts();
    assert_eq!((counts.packed_in, counts.unpacked_in), (0, 0));
    // What those after it cannot be read without is unpacked all the same, and is small.
    let mut sender = Sender::new();
    for number in 1..=2 {
        let (bytes, packed) = sender.batch(number, "invoices", &[WORDS]);
        assert!(packed && bytes.len() < 100);
        publishing.write(&bytes).await;
        let refused = publishing.refusal().await;
        assert_eq!(refused, (number, ErrorCode::PermissionDenied));
    }
    let (bytes, _) = sender.batch(3, "orders.eu", &[WORDS]);
    publishing.write(&bytes).await;
    publishing.ack().await;
}

#[tokio::test(start_paused = true)]
async fn others_have_their_turns_while_much_is_unpacked() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.connect_by(MemoryOptions {
        stream_bytes_max: 16 << 20,
        ..MemoryOptions::default()
    });
    let client = client.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let mut sender = Sender::new();
    let mut all = BytesMut::new();
    let said = lines(200 << 10);
    for number in 0..8 {
        let (bytes, packed) = sender.batch(number, "orders.eu", &[&said]);
        assert!(packed);
        all.extend_from_slice(&bytes);
    }
    let stats = served.sessions.service.stats.clone();
    let before = stats.counts().unpacked_in;
    let one = (said.len() + 8) as u64;
    publishing.write(&all).await;
    // Whoever has a turn sees how far it is: never by two at once.
    let mut seen = before;
    while seen < before + 8 * said.len() as u64 {
        tokio::task::yield_now().await;
        let now = stats.counts().unpacked_in;
        assert!(now - seen <= one + 8, "{seen}, and then {now}");
        seen = now;
    }
    for _ in 0..8 {
        publishing.ack().await;
    }
}

#[tokio::test(start_paused = true)]
async fn far_consumers_that_read_it_get_deliveries_packed() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = welcomed_far(&served).await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let mut consuming = attached(&client, (100, 1 << 20), true).await;
    let mut unpacker = Unpacker::new(FRAME_BYTES_MAX);
    let mut packed = 0;
    for number in 0..10_u64 {
        let said = format!("{number} {WORDS}");
        let topic = ["orders.eu", "orders.us"][number as usize % 2];
        publishing.write(&batch(number, topic, 0, &[&said])).await;
        publishing.ack().await;
        let mut deliver = delivery(&mut consuming).await;
        assert_eq!(deliver.topic.is_empty(), number >= 2, "{deliver:?}");
        assert_eq!(deliver.topic_number, 1 + number as u32 % 2);
        packed += u32::from(!deliver.packed.is_empty());
        unpacker.unpack_deliver(&mut deliver).expect("compact");
        assert_eq!(
            (deliver.topic.as_str(), payloads(&deliver)),
            (topic, vec![said])
        );
    }
    assert!(packed >= 9, "{packed} of 10");
    let counts = served.sessions.service.stats.counts();
    assert!(
        counts.packed_out > 0 && counts.packed_out * 2 < counts.unpacked_out,
        "{counts:?}"
    );
    assert_eq!((counts.packed_in, counts.unpacked_in), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn deliveries_take_credit_for_what_they_unpack_to() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = welcomed_far(&served).await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let said = WORDS.repeat(10);
    for number in 0..10 {
        publishing
            .write(&batch(number, "orders.eu", 0, &[&said]))
            .await;
        publishing.ack().await;
    }
    // Enough for three, as they are, and for all of them as they go over the wire.
    let mut consuming = attached(&client, (100, 2 * said.len() as u64 + 100), true).await;
    let mut unpacker = Unpacker::new(FRAME_BYTES_MAX);
    let mut came = 0;
    while came < 3 {
        let mut deliver = delivery(&mut consuming).await;
        unpacker.unpack_deliver(&mut deliver).expect("compact");
        came += deliver.events.len();
    }
    assert_eq!(came, 3);
    // What is answered now comes before any other delivery, for which there is no credit.
    consuming.ack_confirmed(1).await;
    let counts = served.sessions.service.stats.counts();
    assert!(counts.packed_out < said.len() as u64, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_room_for_what_is_remembered_gets_deliveries_unpacked() {
    // Enough for two consumers of one connection, and for no third.
    let served = Served::start(|options| {
        options.publish_credit_total_bytes = 2 * 4 * 2 * COMPACT_BYTES_MAX;
    })
    .await;
    served.subscription("s", "orders.>").await;
    let client = welcomed_far(&served).await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let mut numbers = 0..;
    let mut publish = async |publishing: &mut Publishing<_>| {
        let number = numbers.next().expect("endless");
        publishing
            .write(&batch(number, "orders.eu", 0, &[WORDS]))
            .await;
        publishing.ack().await;
    };
    let mut packing = Vec::new();
    for ordinal in 0..4 {
        if ordinal == 3 {
            // Whoever goes gives back what it had.
            let gone: Consuming<_> = packing.pop().expect("two");
            let last = packing.pop().expect("one");
            drop((gone, last));
            let stats = &served.sessions.service.stats;
            until(|| stats.counts().subscribe_streams_open == 1).await;
        }
        let mut consuming = attached(&client, (1, 1 << 20), true).await;
        publish(&mut publishing).await;
        let deliver = delivery(&mut consuming).await;
        assert_eq!(deliver.topic_number, u32::from(ordinal != 2), "{ordinal}");
        packing.push(consuming);
    }
}

#[tokio::test(start_paused = true)]
async fn large_deliveries_are_packed_only_while_the_path_holds_them_up() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let narrow = MemoryOptions {
        stream_bytes_max: 32 * 1024,
        round_trip: Duration::from_millis(100),
        ..MemoryOptions::default()
    };
    let client = served.sessions.connect_by(narrow).welcomed().await;
    let publisher = welcomed_far(&served).await;
    let mut publishing = Publishing::open(&publisher, &[], 0).await;
    let mut consuming = attached(&client, (100, 1 << 20), true).await;
    let mut unpacker = Unpacker::new(FRAME_BYTES_MAX);
    let said = lines(12 * 1024);
    let mut numbers = 0..;
    // How many deliveries are packed of so many events that all wait before the first is read.
    let mut carry = async |events: usize| {
        for _ in 0..events {
            let number = numbers.next().expect("endless");
            let batch = batch(number, "orders.eu", 0, &[&said]);
            publishing.write(&batch).await;
            publishing.ack().await;
        }
        let (mut came, mut packed) = (0, 0);
        while came < events {
            let mut deliver = delivery(&mut consuming).await;
            let is_packed = !deliver.packed.is_empty();
            packed += usize::from(is_packed);
            unpacker.unpack_deliver(&mut deliver).expect("compact");
            let payloads = payloads(&deliver);
            assert!(payloads.iter().all(|payload| *payload == said));
            // The first of them as well.
            assert!(!is_packed || payloads.len() * said.len() <= 64 * 1024);
            came += payloads.len();
        }
        packed
    };
    for _ in 0..4 {
        assert_eq!(carry(1).await, 0, "the path has room for it");
    }
    assert!(carry(24).await > 0, "more than the path holds");
    // Nothing waits any more.
    for _ in 0..20 {
        carry(1).await;
    }
    assert_eq!(carry(1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn near_consumers_get_deliveries_as_they_are() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let mut consuming = attached(&client, (100, 1 << 20), true).await;
    for number in 0..4 {
        publishing
            .write(&batch(number, "orders.eu", 0, &[WORDS]))
            .await;
        publishing.ack().await;
        let deliver = delivery(&mut consuming).await;
        assert_eq!((deliver.topic_number, deliver.remember), (0, false));
        assert_eq!(payloads(&deliver), [WORDS]);
    }
}
