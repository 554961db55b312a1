//! Topics with numbers and packed events: sent to who reads them, and read.

use std::time::Duration;

use bytes::BytesMut;
use prost::Message;
use tidegate_wire::batch::{ReceivedBatch, push_event};
use tidegate_wire::compact::{Packer, Unpacker};
use tidegate_wire::limits::FRAME_BYTES_MAX;
use tidegate_wire::pb::{self, broker_to_consumer};

use super::broker::{Broker, Manner, Stream, soon, welcome, welcome_compact};
use crate::{
    Client, Compression, Consumer, ConsumerOptions, Event, PublishTicket, Publisher,
    PublisherOptions, SubscribeError,
};

/// What shrinks.
const WORDS: &str = "one two three one two three one two three one two three one two three";

async fn publisher(broker: &mut Broker, client: &Client, credit_bytes: u64) -> (Publisher, Stream) {
    let publisher = client.publisher(PublisherOptions::default());
    let (publisher, stream) = tokio::join!(soon(publisher), async {
        let mut stream = broker.stream().await;
        stream.publish_ready(credit_bytes, 100).await;
        stream
    });
    (publisher.unwrap(), stream)
}

async fn send(publisher: &Publisher, topic: &str, payload: &str) -> PublishTicket {
    let event = Event::new(payload.to_owned());
    soon(publisher.send(topic, event)).await.unwrap()
}

/// The next batch as it came, and its topic and payloads.
async fn batch(
    stream: &mut Stream,
    unpacker: &mut Unpacker,
) -> (pb::PublishBatch, String, Vec<String>) {
    let batch: pb::PublishBatch = stream.read().await.expect("a batch, not the end");
    let mut received = ReceivedBatch::from(batch.clone());
    unpacker.unpack_batch(&mut received).expect("compact");
    let plain = pb::PublishBatch::decode(received.events).unwrap();
    let payload = |event: &bytes::Bytes| {
        let event = pb::Event::decode(event.clone()).unwrap();
        String::from_utf8(event.payload.to_vec()).unwrap()
    };
    let payloads = plain.events.iter().map(payload).collect();
    (batch, received.topic, payloads)
}

fn reader() -> Unpacker {
    Unpacker::new(FRAME_BYTES_MAX)
}

#[tokio::test(start_paused = true)]
async fn topics_are_named_once_and_events_packed() {
    check_packed(Compression::Always, Duration::ZERO).await;
    check_packed(Compression::Auto, Duration::from_millis(100)).await;
}

async fn check_packed(compression: Compression, round_trip: Duration) {
    let mut broker = Broker::start_with(Manner::Answers(welcome_compact()));
    broker.door.round_trip = round_trip;
    let options = broker.options().compression(compression);
    let client = broker.connect(options).await.unwrap();
    let (publisher, mut stream) = publisher(&mut broker, &client, 1 << 20).await;
    let mut unpacker = reader();
    for number in 0..6 {
        let topic = ["a.b", "a.c"][number % 2];
        let said = format!("{number} {WORDS}");
        let ticket = send(&publisher, topic, &said).await;
        let (sent, found, payloads) = batch(&mut stream, &mut unpacker).await;
        assert_eq!((found.as_str(), payloads), (topic, vec![said]));
        assert_eq!(sent.topic.is_empty(), number >= 2, "{sent:?}");
        assert!(sent.events.is_empty() && sent.remember, "{sent:?}");
        stream.ack(sent.correlation, 1, false).await;
        soon(ticket).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_stream_begins_anew_also_with_what_is_sent_again() {
    let mut broker = Broker::start_with(Manner::Answers(welcome_compact()));
    // To a near one, a batch at a time would go out.
    broker.door.round_trip = Duration::from_millis(100);
    let options = broker.options().compression(Compression::Always);
    let client = broker.connect(options).await.unwrap();
    let (publisher, mut stream) = publisher(&mut broker, &client, 1 << 20).await;
    let mut unpacker = reader();
    let mut tickets = Vec::new();
    for number in 0..3 {
        let said = format!("{number} {WORDS}");
        tickets.push(send(&publisher, "a.b", &said).await);
        batch(&mut stream, &mut unpacker).await;
    }
    broker.drop_connections();
    let mut stream = broker.stream().await;
    stream.publish_ready(1 << 20, 100).await;
    let mut unpacker = reader();
    for (number, ticket) in tickets.into_iter().enumerate() {
        let (sent, topic, payloads) = batch(&mut stream, &mut unpacker).await;
        assert_eq!(sent.topic.is_empty(), number > 0);
        assert_eq!(topic, "a.b");
        assert_eq!(payloads, [format!("{number} {WORDS}")]);
        stream.ack(sent.correlation, 1, false).await;
        soon(ticket).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn brokers_that_read_no_such_thing_and_near_ones_get_batches_as_they_always_were() {
    let compressions = Compression::ALL.map(|compression| (welcome(1), compression));
    let others = [Compression::Auto, Compression::Off];
    let others = others.map(|compression| (welcome_compact(), compression));
    for (hello, compression) in compressions.into_iter().chain(others) {
        let mut broker = Broker::start_with(Manner::Answers(hello));
        let options = broker.options().compression(compression);
        let client = broker.connect(options).await.unwrap();
        let (publisher, mut stream) = publisher(&mut broker, &client, 1 << 20).await;
        for _ in 0..3 {
            let ticket = send(&publisher, "a.b", WORDS).await;
            let (sent, payloads) = stream.batch().await;
            assert_eq!(payloads, [WORDS]);
            let compact = (sent.topic_number, sent.remember, sent.unpacked_bytes);
            assert_eq!((sent.topic.as_str(), compact), ("a.b", (0, false, 0)));
            stream.ack(sent.correlation, 1, false).await;
            soon(ticket).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_costs_more_than_all_credit_is_not_packed() {
    let mut broker = Broker::start_with(Manner::Answers(welcome_compact()));
    let options = broker.options().compression(Compression::Always);
    let client = broker.connect(options).await.unwrap();
    let (publisher, mut stream) = publisher(&mut broker, &client, 2_000).await;
    let mut unpacker = reader();
    for (times, packed) in [(10, true), (20, false), (10, true)] {
        let ticket = send(&publisher, "a.b", &WORDS.repeat(times)).await;
        let (sent, _, payloads) = batch(&mut stream, &mut unpacker).await;
        assert_eq!(payloads, [WORDS.repeat(times)]);
        assert_eq!(!sent.packed.is_empty(), packed, "{times}");
        stream.ack(sent.correlation, 1, false).await;
        soon(ticket).await.unwrap();
    }
}

async fn consumer(broker: &mut Broker, client: &Client) -> (Consumer, Stream) {
    let consumer = client.subscribe("s", ConsumerOptions::default());
    let (consumer, stream) = tokio::join!(soon(consumer), async {
        let mut stream = broker.stream().await;
        stream.subscribe_ready().await;
        stream
    });
    (consumer.unwrap(), stream)
}

#[tokio::test(start_paused = true)]
async fn packed_deliveries_are_read() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = consumer(&mut broker, &client).await;
    assert!(stream.subscribe_open().takes_compact);
    let mut packer = Packer::new(Compression::Always);
    for number in 0..4_u64 {
        let said = [format!("{number} {WORDS}"), "end".to_owned()];
        let mut body = BytesMut::new();
        for payload in &said {
            push_event(&mut body, &mut Event::new(payload.clone()).into());
        }
        let mut head = pb::Deliver {
            topic: "a.b".into(),
            attempt: 1,
            positions: vec![10 * number + 1, 1],
            sequences: vec![10 * number + 1, 1],
            ..pb::Deliver::default()
        };
        let body = [body.freeze()];
        let packed = packer.pack_deliver(&mut head, &body, || true);
        // Behind its tag and length.
        let packed = packed.expect("shrinks");
        let packed = pb::Deliver::decode(packed).unwrap().packed;
        let deliver = pb::Deliver { packed, ..head };
        stream
            .say(broker_to_consumer::Message::Deliver(deliver))
            .await;
        for (index, payload) in said.iter().enumerate() {
            let delivery = soon(consumer.next()).await.unwrap().unwrap();
            assert_eq!(&*delivery.topic, "a.b");
            assert_eq!(delivery.position, 10 * number + 1 + index as u64);
            assert_eq!(&delivery.event().payload[..], payload.as_bytes());
        }
    }
    // A number that stands for nothing is a fault of the broker's.
    let unknown = pb::Deliver {
        topic_number: 9,
        attempt: 1,
        ..pb::Deliver::default()
    };
    stream
        .say(broker_to_consumer::Message::Deliver(unknown))
        .await;
    match soon(consumer.next()).await {
        Some(Err(SubscribeError::Protocol(error))) => {
            assert!(error.contains("topic_number 9"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_nothing_compressed_says_so() {
    let mut broker = Broker::start();
    let options = broker.options().compression(Compression::Off);
    let client = broker.connect(options).await.unwrap();
    let (_consumer, stream) = consumer(&mut broker, &client).await;
    assert!(!stream.subscribe_open().takes_compact);
}
