//! Tests of the schema itself: the exact bytes of every message, so that no edit of the schema changes what older
//! peers see, and round trips of arbitrary messages.

use proptest::prelude::*;
use std::fmt::Debug;

use prost::Message;

use crate::pb;
use crate::pb::{broker_to_consumer, consumer_command, hello_reply, publish_opened, publish_reply};
use crate::pb::{stream_open, subscribe_opened};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `message` must encode to exactly these bytes, and they must decode to it.
#[track_caller]
fn check<M: Message + Default + PartialEq + Debug>(message: M, expected: &str) {
    let bytes = message.encode_to_vec();
    assert_eq!(hex(&bytes), expected.replace(' ', ""), "{message:?}");
    assert_eq!(M::decode(&bytes[..]).unwrap(), message);
}

fn positions() -> Option<pb::Positions> {
    Some(pb::Positions {
        first: vec![7, 3],
        more: vec![2, 0],
    })
}

fn error() -> pb::Error {
    pb::Error {
        code: 9,
        message: "no".into(),
        retryable: true,
        retry_after_ms: 300,
    }
}

const ERROR: &str = "0809 12026e6f 1801 20ac02";

#[test]
fn stream_open_bytes() {
    let open = |kind| pb::StreamOpen { kind: Some(kind) };
    check(
        open(stream_open::Kind::Hello(pb::Hello {
            versions: vec![1],
            client: "c".into(),
            frame_bytes_max: 1 << 20,
        })),
        "0a0a 0a0101 120163 18808040",
    );
    check(
        open(stream_open::Kind::Publish(pb::PublishOpen {
            producer_id: b"ab".as_slice().into(),
            epoch: 2,
            counts_costs: false,
        })),
        "1206 0a026162 1002",
    );
    check(
        open(stream_open::Kind::Publish(pb::PublishOpen {
            producer_id: bytes::Bytes::new(),
            epoch: 0,
            counts_costs: true,
        })),
        "1202 1801",
    );
    check(
        open(stream_open::Kind::Subscribe(pb::SubscribeOpen {
            subscription: "s".into(),
            credit_events: 5,
            credit_bytes: 1000,
            ..Default::default()
        })),
        "1a08 0a0173 1005 18e807",
    );
    check(
        open(stream_open::Kind::Subscribe(pb::SubscribeOpen {
            says_handed_over: true,
            look: true,
            tell_not_held: true,
            takes_compact: true,
            handed_over_max: 300,
            ..Default::default()
        })),
        "1a0b 2001 2801 3001 3801 40ac02",
    );
}

#[test]
fn hello_reply_bytes() {
    let limits = pb::Limits {
        frame_bytes_max: 1,
        event_bytes_max: 2,
        headers_max: 3,
        header_bytes_max: 4,
        batch_events_max: 5,
    };
    let welcome = pb::Welcome {
        version: 1,
        broker: "b".into(),
        principal: "cn:x".into(),
        limits: Some(limits),
        takes_measure: false,
        takes_compact: false,
    };
    let reply = |result| pb::HelloReply {
        result: Some(result),
    };
    check(
        reply(hello_reply::Result::Welcome(welcome)),
        "0a17 0801 120162 1a04636e3a78 220a 0801 1002 1803 2004 2805",
    );
    let knows = pb::Welcome {
        takes_measure: true,
        ..Default::default()
    };
    check(reply(hello_reply::Result::Welcome(knows)), "0a02 2801");
    let compact = pb::Welcome {
        takes_compact: true,
        ..Default::default()
    };
    check(reply(hello_reply::Result::Welcome(compact)), "0a02 3001");
    check(
        reply(hello_reply::Result::Error(error())),
        &format!("120b {ERROR}"),
    );
    check(
        pb::GoAway {
            reason: "bye".into(),
            grace_ms: 10,
            acks_ms: None,
        },
        "0a03627965 100a",
    );
    check(
        pb::GoAway {
            reason: "bye".into(),
            grace_ms: 10,
            acks_ms: Some(0),
        },
        "0a03627965 100a 1800",
    );
}

#[test]
fn event_bytes() {
    let header = pb::Header {
        name: "n".into(),
        value: "v".into(),
    };
    let event = pb::Event {
        id: "i".into(),
        key: Some(b"k".as_slice().into()),
        headers: vec![header],
        content_type: "t".into(),
        payload: b"p".as_slice().into(),
    };
    check(event, "0a0169 12016b 1a06 0a016e 120176 220174 2a0170");
    check(
        pb::Event {
            key: Some(Default::default()),
            ..Default::default()
        },
        "1200",
    );
}

#[test]
fn publish_bytes() {
    let opened = |result| pb::PublishOpened {
        result: Some(result),
    };
    let ready = pb::PublishReady {
        credit_bytes: 8,
        credit_batches: 4,
        last_number: 2,
    };
    check(
        opened(publish_opened::Result::Ready(ready)),
        "0a06 0808 1004 1802",
    );
    check(
        opened(publish_opened::Result::Error(error())),
        &format!("120b {ERROR}"),
    );
    check(
        pb::PublishBatch {
            correlation: 1,
            topic: "a.b".into(),
            first_number: 9,
            resolved_through: 8,
            events: vec![b"e".as_slice().into(), Default::default()],
            ..Default::default()
        },
        "0801 1203612e62 1809 2008 7a0165 7a00",
    );
    check(
        pb::PublishBatch {
            correlation: 1,
            topic_number: 64,
            remember: true,
            unpacked_bytes: 300,
            packed: b"lz".as_slice().into(),
            ..Default::default()
        },
        "0801 2840 6001 68ac02 72026c7a",
    );
    let reply = |result| pb::PublishReply {
        correlation: 1,
        result: Some(result),
    };
    let ack = pb::PublishAck {
        first_sequence: 3,
        count: 2,
        duplicate: true,
        unkept: true,
    };
    check(
        reply(publish_reply::Result::Ack(ack)),
        "0801 1208 0803 1002 1801 2001",
    );
    check(
        reply(publish_reply::Result::Error(error())),
        &format!("0801 1a0b {ERROR}"),
    );
}

#[test]
fn subscribe_bytes() {
    let opened = |result| pb::SubscribeOpened {
        result: Some(result),
    };
    let ready = pb::SubscribeReady {
        ack_deadline_ms: 300,
        takes_give_back: true,
    };
    check(
        opened(subscribe_opened::Result::Ready(ready)),
        "0a05 08ac02 1001",
    );
    check(
        opened(subscribe_opened::Result::Error(error())),
        &format!("120b {ERROR}"),
    );
}

#[test]
fn consumer_command_bytes() {
    use consumer_command::Command;
    let command = |command| pb::ConsumerCommand {
        command: Some(command),
    };
    let list = "0a08 0a020703 12020200";
    check(
        command(Command::Credit(pb::Credit {
            events: 1,
            bytes: 2,
            ..Default::default()
        })),
        "0a04 0801 1002",
    );
    check(
        command(Command::Credit(pb::Credit {
            handed_over: 300,
            confirm_handed_over: true,
            handed_over_max: 301,
            ..Default::default()
        })),
        "0a08 18ac02 2001 28ad02",
    );
    check(
        command(Command::Ack(pb::Ack {
            positions: positions(),
            confirm: 6,
        })),
        &format!("120c {list} 1006"),
    );
    check(
        command(Command::Nack(pb::Nack {
            positions: positions(),
            delay_ms: Some(0),
        })),
        &format!("1a0c {list} 1000"),
    );
    check(
        command(Command::Term(pb::Term {
            positions: positions(),
            reason: "r".into(),
        })),
        &format!("220d {list} 120172"),
    );
    check(
        command(Command::Extend(pb::Extend {
            positions: positions(),
            extend_for_ms: None,
        })),
        &format!("2a0a {list}"),
    );
    check(
        command(Command::Extend(pb::Extend {
            positions: None,
            extend_for_ms: Some(0),
        })),
        "2a02 1000",
    );
    check(
        command(Command::GiveBack(pb::GiveBack {
            positions: positions(),
        })),
        &format!("320a {list}"),
    );
}

#[test]
fn broker_to_consumer_bytes() {
    use broker_to_consumer::Message;
    let message = |message| pb::BrokerToConsumer {
        message: Some(message),
    };
    let deliver = pb::Deliver {
        topic: "a".into(),
        attempt: 1,
        time_ms: 2,
        positions: vec![5, 0],
        sequences: vec![4, 0],
        suspect: false,
        events: vec![b"e".as_slice().into(), b"f".as_slice().into()],
        ..pb::Deliver::default()
    };
    check(
        message(Message::Deliver(deliver)),
        "0a15 0a0161 1001 1802 22020500 2a020400 7a0165 7a0166",
    );
    let suspect = pb::Deliver {
        suspect: true,
        ..pb::Deliver::default()
    };
    check(message(Message::Deliver(suspect)), "0a02 3001");
    let packed = pb::Deliver {
        attempt: 1,
        topic_number: 2,
        remember: true,
        unpacked_bytes: 300,
        packed: b"lz".as_slice().into(),
        ..pb::Deliver::default()
    };
    check(
        message(Message::Deliver(packed)),
        "0a0d 1001 3802 6001 68ac02 72026c7a",
    );
    check(
        message(Message::HandedOver(pb::HandedOver { deliveries: 7 })),
        "2202 0807",
    );
    check(
        message(Message::Confirmed(pb::Confirmed {
            confirm: vec![1, 2],
            ..Default::default()
        })),
        "1204 0a020102",
    );
    let reason = Some("so".into());
    check(
        message(Message::Paused(pb::Paused { reason })),
        "2a04 0a02736f",
    );
    let goes_on = pb::Paused { reason: None };
    check(message(Message::Paused(goes_on)), "2a00");
    check(
        message(Message::Confirmed(pb::Confirmed {
            confirm: vec![],
            not_held: Some(pb::Positions {
                first: vec![7],
                more: vec![2],
            }),
            not_held_is_cut: true,
        })),
        "120a 1206 0a0107 120102 1801",
    );
    check(message(Message::Error(error())), &format!("1a0b {ERROR}"));
}

#[test]
fn measure_bytes() {
    use pb::measure_answer::Answer;
    use pb::measure_command::Command;
    for (test, bytes) in [(false, "2200"), (true, "2202 0801")] {
        let open = stream_open::Kind::Measure(pb::MeasureOpen { test });
        check(pb::StreamOpen { kind: Some(open) }, bytes);
    }
    let opened = |result| pb::MeasureOpened {
        result: Some(result),
    };
    let ready = pb::MeasureReady {
        publish_credit_bytes: 5,
        publish_credit_batches: 6,
    };
    let ready = pb::measure_opened::Result::Ready(ready);
    check(opened(ready), "0a04 0805 1006");
    check(
        opened(pb::measure_opened::Result::Error(error())),
        &format!("120b {ERROR}"),
    );
    check(
        pb::MeasureCommand {
            command: Some(Command::Counters(pb::CountersWanted {})),
        },
        "0a00",
    );
    let answer = |answer| pb::MeasureAnswer {
        answer: Some(answer),
    };
    let counters = pb::ConnectionCounters {
        datagrams_sent: 1,
        datagrams_received: 2,
        bytes_sent: 3,
        bytes_received: 4,
        packets_sent: 5,
        packets_lost: 6,
        bytes_lost: 7,
        mtu_probes_lost: 8,
        round_trip_us: 9,
        congestion_window_bytes: 10,
        mtu: 11,
        peer_address: "a".into(),
        congestion: "c".into(),
        send_window_bytes: 14,
        frames_sent: 15,
        frames_received: 16,
    };
    check(
        answer(Answer::Counters(counters)),
        "0a23 0801 1002 1803 2004 2805 3006 3807 4008 4809 500a 580b 620161 6a0163 700e 780f 800110",
    );
    let payload = || b"ab".as_slice().into();
    for (answer, bytes) in [
        (
            Answer::Echo(pb::Echo { payload: payload() }),
            "1a04 0a026162",
        ),
        (
            Answer::Filler(pb::Filler { payload: payload() }),
            "2204 0a026162",
        ),
        (Answer::FillerEnd(pb::FillerEnd { bytes: 7 }), "2a02 0807"),
    ] {
        check(
            pb::MeasureAnswer {
                answer: Some(answer),
            },
            bytes,
        );
    }
    for (command, bytes) in [
        (
            Command::Echo(pb::Echo { payload: payload() }),
            "1204 0a026162",
        ),
        (
            Command::Filler(pb::Filler { payload: payload() }),
            "1a04 0a026162",
        ),
        (
            Command::FillerWanted(pb::FillerWanted {
                bytes: 7,
                within_ms: 9,
            }),
            "2204 0807 1009",
        ),
    ] {
        check(
            pb::MeasureCommand {
                command: Some(command),
            },
            bytes,
        );
    }
    check(answer(Answer::Error(error())), &format!("120b {ERROR}"));
}

#[test]
fn error_codes_keep_their_numbers() {
    for (number, code) in [
        (0, pb::ErrorCode::Unspecified),
        (1, pb::ErrorCode::Malformed),
        (2, pb::ErrorCode::UnsupportedVersion),
        (3, pb::ErrorCode::TooLarge),
        (4, pb::ErrorCode::PermissionDenied),
        (5, pb::ErrorCode::NotFound),
        (6, pb::ErrorCode::AlreadyExists),
        (7, pb::ErrorCode::InvalidArgument),
        (8, pb::ErrorCode::StoreUnavailable),
        (9, pb::ErrorCode::Overloaded),
        (10, pb::ErrorCode::ShuttingDown),
        (11, pb::ErrorCode::ProducerFenced),
        (12, pb::ErrorCode::ProducerOutOfOrder),
        (13, pb::ErrorCode::SubscriptionGone),
        (14, pb::ErrorCode::FlowControl),
        (15, pb::ErrorCode::Internal),
        (16, pb::ErrorCode::LimitReached),
    ] {
        assert_eq!(code as i32, number);
        assert_eq!(pb::ErrorCode::try_from(number), Ok(code));
    }
}

fn any_bytes() -> impl Strategy<Value = bytes::Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Into::into)
}

prop_compose! {
    /// An event with arbitrary fields.
    pub(crate) fn any_event()(
        id in ".{0,12}",
        key in prop::option::of(any_bytes()),
        headers in prop::collection::vec((".{0,8}", ".{0,8}"), 0..4),
        content_type in ".{0,12}",
        payload in any_bytes(),
    ) -> pb::Event {
        let headers = headers.into_iter().map(|(name, value)| pb::Header { name, value }).collect();
        pb::Event { id, key, headers, content_type, payload }
    }
}

fn round_trip<M: Message + Default + PartialEq + Debug>(message: M) {
    assert_eq!(
        M::decode(bytes::Bytes::from(message.encode_to_vec())).unwrap(),
        message
    );
}

proptest! {
    #[test]
    fn messages_with_payloads_round_trip(
        event in any_event(),
        topic in ".{0,20}",
        numbers in any::<[u64; 4]>(),
        attempt in any::<u32>(),
        list in prop::collection::vec(any::<u64>(), 0..9),
        events in prop::collection::vec(any_bytes(), 0..9),
    ) {
        round_trip(event);
        round_trip(pb::PublishBatch {
            correlation: numbers[0],
            topic: topic.clone(),
            first_number: numbers[1],
            resolved_through: numbers[2],
            topic_number: attempt,
            remember: attempt % 3 == 0,
            unpacked_bytes: numbers[3],
            packed: events.first().cloned().unwrap_or_default(),
            events: events.clone(),
        });
        let deliver = pb::Deliver {
            topic,
            attempt,
            time_ms: numbers[3],
            positions: list.clone(),
            sequences: list,
            suspect: attempt % 2 == 0,
            topic_number: attempt,
            remember: attempt % 3 == 0,
            unpacked_bytes: numbers[0],
            packed: events.first().cloned().unwrap_or_default(),
            events,
        };
        round_trip(pb::BrokerToConsumer { message: Some(broker_to_consumer::Message::Deliver(deliver)) });
    }

    #[test]
    fn small_messages_round_trip(
        text in ".{0,20}",
        numbers in any::<[u64; 3]>(),
        small in any::<[u32; 2]>(),
        flags in any::<[bool; 2]>(),
        delay_ms in any::<Option<u64>>(),
        first in prop::collection::vec(any::<u64>(), 0..9),
        code in any::<i32>(),
    ) {
        let error = pb::Error { code, message: text.clone(), retryable: flags[0], retry_after_ms: numbers[0] };
        round_trip(pb::PublishReply {
            correlation: numbers[0],
            result: Some(publish_reply::Result::Error(error)),
        });
        let ack = pb::PublishAck {
            first_sequence: numbers[0],
            count: small[0],
            duplicate: flags[0],
            unkept: flags[1],
        };
        round_trip(pb::PublishReply { correlation: numbers[1], result: Some(publish_reply::Result::Ack(ack)) });
        round_trip(pb::StreamOpen { kind: Some(stream_open::Kind::Hello(pb::Hello {
            versions: small.to_vec(),
            client: text.clone(),
            frame_bytes_max: numbers[2],
        })) });
        let positions = Some(pb::Positions { first: first.clone(), more: first.clone() });
        let nack = pb::Nack { positions, delay_ms };
        round_trip(pb::ConsumerCommand { command: Some(consumer_command::Command::Nack(nack)) });
        round_trip(pb::GoAway { reason: text, grace_ms: numbers[1], acks_ms: delay_ms });
        round_trip(pb::Confirmed { confirm: first, ..Default::default() });
    }
}
