//! Clients that break the protocol: each gets the typed error that fits, and the broker goes on serving others.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde_json::json;
use tidegate_tests::{BrokerProcess, RawClient, RawStream, Setup};
use tidegate_wire::pb::{self, ErrorCode, stream_open};

use crate::support::{consume, publish, take_numbers};

/// A broker beside whose abused connection an honest client works.
struct Abused {
    broker: BrokerProcess,
    raw: RawClient,
    welcome: pb::Welcome,
}

impl Abused {
    async fn start() -> anyhow::Result<Self> {
        let broker = BrokerProcess::start().await?;
        broker
            .admin()
            .create(json!({"name": "s", "topics": ["t"]}))
            .await?;
        let (raw, welcome) = RawClient::hello(&broker).await?;
        Ok(Self {
            broker,
            raw,
            welcome,
        })
    }

    async fn publish_stream(&self) -> anyhow::Result<RawStream> {
        let opened = self.raw.publish_stream(None, 0).await?;
        Ok(opened.expect("an honest open is accepted").0)
    }

    async fn subscribe_stream(&self) -> anyhow::Result<RawStream> {
        let opened = self.raw.subscribe_stream("s", 10, 1 << 20).await?;
        Ok(opened.expect("an honest open is accepted").0)
    }

    /// An honest client still gets through, from end to end.
    async fn still_serves(&mut self) -> anyhow::Result<()> {
        assert_eq!(self.broker.try_wait()?, None, "the broker is still there");
        // Consumers of the abused connection may hold events; they come back when it ends.
        self.raw.connection.close(0_u32.into(), b"");
        let client = self.broker.client().await?;
        publish(&client, "t", [4711]).await?;
        take_numbers(&mut consume(&client, "s").await?, [4711]).await?;
        Ok(())
    }
}

#[tokio::test]
async fn versions_nobody_knows_are_refused_with_those_that_are_known() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    for versions in [vec![], vec![99, 1_000]] {
        let raw = RawClient::connect(&broker, Some(broker.everybody())).await?;
        let (_stream, reply) = raw.say_hello(versions.clone()).await?;
        let error = reply.expect_err("no version in common");
        assert_eq!(
            error.code(),
            ErrorCode::UnsupportedVersion,
            "{versions:?}: {error:?}"
        );
        assert!(
            error.message.contains('1'),
            "names the version it speaks: {}",
            error.message
        );
        assert!(!error.retryable);
    }
    let raw = RawClient::connect(&broker, Some(broker.everybody())).await?;
    let (_stream, reply) = raw.say_hello(vec![99, 1]).await?;
    assert_eq!(reply.expect("one version in common").version, 1);
    Ok(())
}

#[tokio::test]
async fn another_application_protocol_is_refused_in_the_handshake() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let (addr, ca, who) = (broker.quic_addr(), broker.pki.ca_pem(), broker.everybody());
    let refused = RawClient::connect_to(addr, ca, Some(who), b"h3").await;
    assert!(refused.is_err());
    Ok(())
}

#[tokio::test]
async fn a_stream_before_the_hello_is_refused() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let raw = RawClient::connect(&broker, Some(broker.everybody())).await?;
    let mut stream = raw
        .open(stream_open::Kind::Publish(pb::PublishOpen::default()))
        .await?;
    check_refused(&raw, &mut stream, ErrorCode::Malformed).await
}

#[tokio::test]
async fn first_messages_that_are_none() -> anyhow::Result<()> {
    let mut abused = Abused::start().await?;
    let framed = |bytes: &[u8]| {
        let mut frame = BytesMut::new();
        frame.put_u8(bytes.len() as u8);
        frame.extend_from_slice(bytes);
        frame.to_vec()
    };
    let cases = [
        (
            "bytes that are no message",
            framed(&[0xff; 20]),
            ErrorCode::Malformed,
        ),
        ("a message of no kind", framed(&[]), ErrorCode::Malformed),
        (
            "a kind from the future",
            framed(&[0xfa, 0x01, 0x00]),
            ErrorCode::Malformed,
        ),
        (
            "a group, which proto3 does not have",
            framed(&[0x0b]),
            ErrorCode::Malformed,
        ),
        (
            "a name that is not UTF-8",
            framed(&[0x1a, 0x04, 0x0a, 0x02, 0xc3, 0x28]),
            ErrorCode::Malformed,
        ),
        (
            "a length prefix without end",
            vec![0xff; 11],
            ErrorCode::TooLarge,
        ),
    ];
    for (what, bytes, code) in cases {
        // A breach may cost the connection, so each has one of its own.
        let (raw, _) = RawClient::hello(&abused.broker).await?;
        let mut stream = raw.open_silent().await?;
        stream.send_bytes(&bytes).await?;
        assert_eq!(refused_with(&raw, &mut stream).await?, code, "{what}");
    }
    abused.still_serves().await
}

#[tokio::test]
async fn a_length_above_the_limit_is_refused_before_its_bytes_come() -> anyhow::Result<()> {
    let mut abused = Abused::start().await?;
    let mut prefix = BytesMut::new();
    let length = abused
        .welcome
        .limits
        .as_ref()
        .expect("limits")
        .frame_bytes_max
        + 1;
    prost::encoding::encode_varint(length, &mut prefix);
    let mut stream = abused.publish_stream().await?;
    stream.send_bytes(&prefix).await?;
    check_refused(&abused.raw, &mut stream, ErrorCode::TooLarge).await?;
    abused.still_serves().await
}

#[tokio::test]
async fn streams_that_stop_in_the_middle_do_no_harm() -> anyhow::Result<()> {
    let mut abused = Abused::start().await?;
    for ending in ["finish", "reset", "close"] {
        let (raw, _) = RawClient::hello(&abused.broker).await?;
        let (mut stream, _) = raw.publish_stream(None, 0).await?.expect("opens");
        let mut frame = BytesMut::new();
        tidegate_wire::frame::encode_frame(&batch(1, "t", 1), &mut frame);
        stream.send_bytes(&frame[..frame.len() / 2]).await?;
        match ending {
            "finish" => {
                stream.finish()?;
                let error = stream.receive_refusal().await?;
                assert_eq!(error.code(), ErrorCode::Malformed, "{error:?}");
            }
            "reset" => stream.reset()?,
            _ => raw.connection.close(1_u32.into(), b"gone"),
        }
    }
    assert_eq!(
        abused.broker.admin().evaluated("s").await?.depth,
        0,
        "nothing of it was taken"
    );
    abused.still_serves().await
}

#[tokio::test]
async fn batches_that_are_not_well_formed() -> anyhow::Result<()> {
    let mut abused = Abused::start().await?;
    let limits = abused.welcome.limits.expect("limits");
    let big = pb::Event {
        payload: vec![b'x'; limits.event_bytes_max as usize + 1].into(),
        ..Default::default()
    };
    let many_headers = pb::Event {
        headers: (0..=limits.headers_max)
            .map(|n| header(&n.to_string(), ""))
            .collect(),
        ..Default::default()
    };
    let big_headers = pb::Event {
        headers: vec![header("h", &"x".repeat(limits.header_bytes_max as usize))],
        ..Default::default()
    };
    let with = |event: Vec<u8>| pb::PublishBatch {
        events: vec![event.into()],
        ..batch(1, "t", 0)
    };
    let cases = [
        (
            "an event too large",
            with(big.encode_to_vec()),
            ErrorCode::TooLarge,
        ),
        (
            "too many headers",
            with(many_headers.encode_to_vec()),
            ErrorCode::TooLarge,
        ),
        (
            "headers too large",
            with(big_headers.encode_to_vec()),
            ErrorCode::TooLarge,
        ),
        (
            "too many events",
            batch(1, "t", limits.batch_events_max as usize + 1),
            ErrorCode::TooLarge,
        ),
        (
            "an event that is none",
            with(vec![0xff; 9]),
            ErrorCode::Malformed,
        ),
        (
            "an id that is not UTF-8",
            with(vec![0x0a, 0x02, 0xc3, 0x28]),
            ErrorCode::Malformed,
        ),
        (
            "a payload longer than the event",
            with(vec![0x2a, 0x7f, 0x01]),
            ErrorCode::Malformed,
        ),
        ("no events", batch(1, "t", 0), ErrorCode::InvalidArgument),
        ("no topic", batch(1, "", 1), ErrorCode::InvalidArgument),
        ("a wildcard", batch(1, "t.*", 1), ErrorCode::InvalidArgument),
        (
            "a topic with a space",
            batch(1, "a b", 1),
            ErrorCode::InvalidArgument,
        ),
        (
            "a topic too long",
            batch(1, &"a".repeat(300), 1),
            ErrorCode::InvalidArgument,
        ),
    ];
    for (what, message, code) in cases {
        let (raw, _) = RawClient::hello(&abused.broker).await?;
        let (mut stream, _) = raw.publish_stream(None, 0).await?.expect("opens");
        stream.send(&message).await?;
        assert_eq!(refused_with(&raw, &mut stream).await?, code, "{what}");
    }
    assert_eq!(
        abused.broker.admin().evaluated("s").await?.depth,
        0,
        "nothing of it was taken"
    );
    abused.still_serves().await
}

#[tokio::test]
async fn a_refused_batch_does_not_end_the_stream() -> anyhow::Result<()> {
    let mut abused = Abused::start().await?;
    let mut stream = abused.publish_stream().await?;
    stream.send(&batch(1, "no good", 1)).await?;
    stream.send(&batch(2, "t", 1)).await?;
    let mut answered = [false; 2];
    for _ in 0..2 {
        let reply: pb::PublishReply = stream.receive().await?;
        let acked = matches!(reply.result, Some(pb::publish_reply::Result::Ack(_)));
        assert_eq!(acked, reply.correlation == 2, "{reply:?}");
        answered[reply.correlation as usize - 1] = true;
    }
    assert_eq!(answered, [true, true]);
    let (raw, _) = RawClient::hello(&abused.broker).await?;
    let (mut subscriber, _) = raw.subscribe_stream("s", 1, 1 << 20).await?.expect("opens");
    let message: pb::BrokerToConsumer = subscriber.receive().await?;
    assert!(
        matches!(
            message.message,
            Some(pb::broker_to_consumer::Message::Deliver(_))
        ),
        "{message:?}"
    );
    ack_everything(&mut subscriber, &message).await?;
    abused.broker.admin().wait_drained("s").await?;
    abused.still_serves().await
}

#[tokio::test]
async fn more_than_the_credit_is_a_breach() -> anyhow::Result<()> {
    let broker =
        BrokerProcess::start_with(Setup::config("[limits]\npublish_credit_batches = 2\n")).await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let (raw, _) = RawClient::hello(&broker).await?;
    let (mut stream, ready) = raw.publish_stream(None, 0).await?.expect("opens");
    assert_eq!(ready.credit_batches, 2);
    // In one write, so that the broker reads them together: it cannot make each durable before the next but two.
    let mut bytes = BytesMut::new();
    for correlation in 1..=500 {
        tidegate_wire::frame::encode_frame(&batch(correlation, "t", 1), &mut bytes);
    }
    // The broker may end the stream before all of it is sent.
    let _ = stream.send_bytes(&bytes).await;
    check_refused(&raw, &mut stream, ErrorCode::FlowControl).await?;
    drop(stream);
    broker.admin().delete_subscription("s").await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let client = broker.client().await?;
    publish(&client, "t", [1]).await?;
    take_numbers(&mut consume(&client, "s").await?, [1]).await?;
    Ok(())
}

#[tokio::test]
async fn commands_of_consumers_that_make_no_sense() -> anyhow::Result<()> {
    use pb::consumer_command::Command;
    let mut abused = Abused::start().await?;
    let unequal = pb::Positions {
        first: vec![1, 2],
        more: vec![0],
    };
    let overflow = pb::Positions {
        first: vec![u64::MAX, 1],
        more: vec![0, 0],
    };
    let ack = |positions| {
        Some(Command::Ack(pb::Ack {
            positions: Some(positions),
            confirm: 0,
        }))
    };
    for command in [ack(unequal), ack(overflow), None] {
        let (raw, _) = RawClient::hello(&abused.broker).await?;
        let (mut stream, _) = raw.subscribe_stream("s", 1, 1_000).await?.expect("opens");
        stream.send(&pb::ConsumerCommand { command }).await?;
        check_refused(&raw, &mut stream, ErrorCode::Malformed).await?;
    }
    // Positions nobody holds are no fault: the acks of a consumer that lost a race look like that.
    let mut stream = abused.subscribe_stream().await?;
    let foreign = pb::Positions {
        first: vec![1_000_000],
        more: vec![u64::MAX - 2_000_000],
    };
    let confirm = Command::Ack(pb::Ack {
        positions: Some(foreign),
        confirm: 17,
    });
    stream
        .send(&pb::ConsumerCommand {
            command: Some(confirm),
        })
        .await?;
    let message: pb::BrokerToConsumer = stream.receive().await?;
    match message.message {
        Some(pb::broker_to_consumer::Message::Confirmed(confirmed)) => {
            assert_eq!(confirmed.confirm, [17])
        }
        other => panic!("no confirmation: {other:?}"),
    }
    abused.still_serves().await
}

#[tokio::test]
async fn a_producer_id_of_another_length_is_refused() -> anyhow::Result<()> {
    let mut abused = Abused::start().await?;
    let open = pb::PublishOpen {
        producer_id: Bytes::from_static(&[1; 15]),
        ..pb::PublishOpen::default()
    };
    let mut stream = abused.raw.open(stream_open::Kind::Publish(open)).await?;
    check_refused(&abused.raw, &mut stream, ErrorCode::InvalidArgument).await?;
    abused.still_serves().await
}

#[tokio::test]
async fn numbers_that_go_backwards_are_told_from_a_resend() -> anyhow::Result<()> {
    let abused = Abused::start().await?;
    let (mut stream, _) = abused
        .raw
        .publish_stream(Some([3; 16]), 0)
        .await?
        .expect("opens");
    let numbered = |correlation, first_number, count| pb::PublishBatch {
        first_number,
        ..batch(correlation, "t", count)
    };
    stream.send(&numbered(1, 1, 4)).await?;
    let reply: pb::PublishReply = stream.receive().await?;
    assert!(
        matches!(reply.result, Some(pb::publish_reply::Result::Ack(_))),
        "{reply:?}"
    );
    stream.send(&numbered(2, 3, 4)).await?;
    check_refused(&abused.raw, &mut stream, ErrorCode::ProducerOutOfOrder).await?;
    assert_eq!(abused.broker.admin().topic("t").await?.next_sequence.0, 5);
    Ok(())
}

#[tokio::test]
async fn random_bytes_on_random_streams_leave_the_broker_unharmed() -> anyhow::Result<()> {
    use rand::{RngExt, SeedableRng};
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut abused = Abused::start().await?;
    for _ in 0..40 {
        let (raw, _) = RawClient::hello(&abused.broker).await?;
        for _ in 0..5 {
            let mut stream = match rng.random_range(0..3) {
                0 => raw.open_silent().await,
                1 => raw
                    .publish_stream(None, 0)
                    .await
                    .map(|opened| opened.expect("opens").0),
                _ => raw
                    .subscribe_stream("s", 1, 1)
                    .await
                    .map(|opened| opened.expect("opens").0),
            };
            // The broker may have closed the connection for what came before.
            let Ok(stream) = &mut stream else { break };
            let length = rng.random_range(1..200);
            let mut bytes: Vec<u8> = (0..length).map(|_| rng.random()).collect();
            if rng.random() {
                bytes[0] = (length - 1).min(127) as u8;
            }
            if stream.send_bytes(&bytes).await.is_err() || rng.random() {
                continue;
            }
            let _ = stream.finish();
        }
    }
    abused.still_serves().await
}

fn batch(correlation: u64, topic: &str, events: usize) -> pb::PublishBatch {
    let event = pb::Event {
        payload: Bytes::from_static(br#"{"n":0}"#),
        ..Default::default()
    };
    pb::PublishBatch {
        correlation,
        topic: topic.to_owned(),
        events: vec![event.encode_to_vec().into(); events],
        ..Default::default()
    }
}

fn header(name: &str, value: &str) -> pb::Header {
    pb::Header {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

async fn ack_everything(
    stream: &mut RawStream,
    message: &pb::BrokerToConsumer,
) -> anyhow::Result<()> {
    let Some(pb::broker_to_consumer::Message::Deliver(deliver)) = &message.message else {
        anyhow::bail!("not a delivery: {message:?}");
    };
    let positions = tidegate_wire::positions::decode_deltas(&deliver.positions)?;
    let ranges = positions.into_iter().map(|position| position..=position);
    let ack = pb::Ack {
        positions: Some(tidegate_wire::positions::encode_positions(ranges)),
        confirm: 0,
    };
    let command = Some(pb::consumer_command::Command::Ack(ack));
    stream.send(&pb::ConsumerCommand { command }).await
}

async fn check_refused(
    raw: &RawClient,
    stream: &mut RawStream,
    code: ErrorCode,
) -> anyhow::Result<()> {
    assert_eq!(refused_with(raw, stream).await?, code);
    Ok(())
}

// A refusal is an error on the stream, or the connection's close code for what breaks the protocol as such.
async fn refused_with(raw: &RawClient, stream: &mut RawStream) -> anyhow::Result<ErrorCode> {
    let error = match stream.receive_refusal().await {
        Ok(error) => return Ok(error.code()),
        Err(error) => error,
    };
    let code = match raw.connection.close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
        _ => return Err(error),
    };
    ErrorCode::try_from(code as i32).map_err(|_| error)
}
