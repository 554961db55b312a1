//! Publishing: numbers, credit, resends, refusals.

use std::time::Duration;

use futures_util::FutureExt;
use tidegate_wire::limits::EVENT_BYTES_MAX;
use tidegate_wire::pb;

use super::broker::{Broker, Stream, soon};
use crate::{
    Client, ErrorCode, Event, PublishError, PublishTicket, Published, Publisher, PublisherOptions,
};

/// A publisher, and the broker's end of its stream, with that much credit.
async fn open(
    broker: &mut Broker,
    client: &Client,
    options: PublisherOptions,
    credit: (u64, u32),
) -> (Publisher, Stream) {
    let (publisher, stream) = tokio::join!(soon(client.publisher(options)), async {
        let mut stream = broker.stream().await;
        stream.publish_ready(credit.0, credit.1).await;
        stream
    });
    (publisher.unwrap(), stream)
}

async fn send(publisher: &Publisher, topic: &str, payload: &'static str) -> PublishTicket {
    soon(publisher.send(topic, Event::new(payload)))
        .await
        .unwrap()
}

const PLENTY: (u64, u32) = (1 << 20, 100);

#[tokio::test(start_paused = true)]
async fn tickets_resolve_to_sequences() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    assert_eq!(stream.publish_open().producer_id.len(), 16);
    // The driver runs when this task waits, so these are gathered before it looks.
    let tickets = [
        send(&publisher, "a", "1").await,
        send(&publisher, "a", "2").await,
    ];
    let other = send(&publisher, "b", "3").await;
    let (batch, payloads) = stream.batch().await;
    assert_eq!((batch.topic.as_str(), batch.first_number), ("a", 1));
    assert_eq!(payloads, ["1", "2"]);
    let (second, payloads) = stream.batch().await;
    assert_eq!(
        (second.topic.as_str(), second.first_number, payloads),
        ("b", 3, vec!["3".to_owned()])
    );
    // Answers come in any order.
    stream.ack(second.correlation, 70, false).await;
    let published = Published {
        sequence: 70,
        duplicate: false,
        unkept: false,
    };
    assert_eq!(soon(other).await.unwrap(), published);
    stream.ack(batch.correlation, 40, false).await;
    for (ticket, sequence) in tickets.into_iter().zip([40, 41]) {
        assert_eq!(soon(ticket).await.unwrap().sequence, sequence);
    }
    soon(publisher.flush()).await.unwrap();
    let _ticket = send(&publisher, "a", "4").await;
    let (third, _) = stream.batch().await;
    assert_eq!((third.first_number, third.resolved_through), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn a_resend_keeps_order_and_numbers() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    let answered = send(&publisher, "a", "1").await;
    let (batch, _) = stream.batch().await;
    stream.ack(batch.correlation, 1, false).await;
    soon(answered).await.unwrap();
    let tickets = [
        send(&publisher, "a", "2").await,
        send(&publisher, "b", "3").await,
    ];
    let sent = [stream.batch().await.0, stream.batch().await.0];
    broker.drop_connections();
    // Sent while there is no connection.
    let late = send(&publisher, "a", "4").await;

    let mut again = broker.stream().await;
    assert_eq!(again.publish_open(), stream.publish_open());
    again
        .publish_opened(pb::PublishReady {
            credit_bytes: 1 << 20,
            credit_batches: 10,
            last_number: 2,
        })
        .await;
    for expected in &sent {
        let (batch, _) = again.batch().await;
        assert_eq!(batch.resolved_through, 1);
        assert_eq!(
            (&batch.topic, batch.first_number, &batch.events),
            (&expected.topic, expected.first_number, &expected.events)
        );
        again
            .ack(
                batch.correlation,
                10 + batch.first_number,
                batch.first_number == 2,
            )
            .await;
    }
    let (batch, payloads) = again.batch().await;
    assert_eq!((batch.first_number, payloads), (4, vec!["4".to_owned()]));
    again.ack(batch.correlation, 14, false).await;
    for (ticket, (sequence, duplicate)) in tickets.into_iter().zip([(12, true), (13, false)]) {
        assert_eq!(
            soon(ticket).await.unwrap(),
            Published {
                sequence,
                duplicate,
                unkept: false
            }
        );
    }
    assert_eq!(soon(late).await.unwrap().sequence, 14);
}

#[tokio::test(start_paused = true)]
async fn credit_in_batches_is_obeyed() {
    check_credit((1 << 20, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn credit_in_bytes_is_obeyed() {
    // An event of one byte takes three.
    check_credit((10, 100)).await;
}

/// With credit for only one batch of three events, what comes later waits for the answer, and grows meanwhile.
async fn check_credit(credit: (u64, u32)) {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), credit).await;
    let mut tickets = Vec::new();
    for payload in ["1", "2", "3"] {
        tickets.push(send(&publisher, "a", payload).await);
    }
    let (first, payloads) = stream.batch().await;
    assert_eq!(payloads, ["1", "2", "3"]);
    for payload in ["4", "5", "6"] {
        tickets.push(send(&publisher, "a", payload).await);
        // The driver gets its chance to send too much.
        tokio::task::yield_now().await;
    }
    stream.ack(first.correlation, 1, false).await;
    let (second, payloads) = stream.batch().await;
    assert_eq!(
        payloads,
        ["4", "5", "6"],
        "they went out before there was credit"
    );
    stream.ack(second.correlation, 4, false).await;
    for (ticket, sequence) in tickets.into_iter().zip(1..) {
        assert_eq!(soon(ticket).await.unwrap().sequence, sequence);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_chosen_are_kept_to_and_others_go_by_the_broker() {
    let mega = || Event::new(vec![0; 1_000_000]);
    for (outstanding_bytes_max, events) in [(0, 32), (16 << 20, 16), (1 << 20, 1)] {
        let mut broker = Broker::start();
        let client = broker.client().await;
        let options = PublisherOptions {
            outstanding_bytes_max,
            ..PublisherOptions::default()
        };
        let credit = (33_000_000, 1_000);
        let (publisher, _stream) = open(&mut broker, &client, options, credit).await;
        let mut sent = 0;
        let second = Duration::from_secs(1);
        while let Ok(ticket) = tokio::time::timeout(second, publisher.send("a", mega())).await {
            drop(ticket.unwrap());
            sent += 1;
        }
        assert_eq!(sent, events, "{outstanding_bytes_max}");
    }
}

/// Room for a single event.
fn one_at_a_time() -> PublisherOptions {
    PublisherOptions {
        outstanding_events_max: 1,
        ..PublisherOptions::default()
    }
}

#[tokio::test(start_paused = true)]
async fn sending_waits_for_room() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) = open(&mut broker, &client, one_at_a_time(), PLENTY).await;
    let _first = send(&publisher, "a", "1").await;
    assert!(
        publisher
            .send("a", Event::new("2"))
            .now_or_never()
            .is_none()
    );
    let (batch, _) = stream.batch().await;
    stream.ack(batch.correlation, 1, false).await;
    let second = send(&publisher, "a", "2").await;
    let (batch, _) = stream.batch().await;
    stream.ack(batch.correlation, 2, false).await;
    assert_eq!(soon(second).await.unwrap().sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn room_goes_to_who_waits_in_order_and_past_who_gave_up() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) = open(&mut broker, &client, one_at_a_time(), PLENTY).await;
    let _first = send(&publisher, "a", "1").await;
    let [mut second, mut third, mut fourth] =
        ["2", "3", "4"].map(|payload| Box::pin(publisher.send("a", Event::new(payload))));
    for waiting in [&mut second, &mut third, &mut fourth] {
        assert!(waiting.now_or_never().is_none());
    }
    // It was its turn, and nobody else's.
    drop(second);
    let (batch, _) = stream.batch().await;
    stream.ack(batch.correlation, 1, false).await;
    let third = soon(third).await.unwrap();
    assert!((&mut fourth).now_or_never().is_none());
    let (batch, payloads) = stream.batch().await;
    assert_eq!(payloads, ["3"]);
    stream.ack(batch.correlation, 2, false).await;
    assert_eq!(soon(third).await.unwrap().sequence, 2);
    let newcomer = publisher.send("a", Event::new("5"));
    assert!(newcomer.now_or_never().is_none(), "another one waits");
    let _fourth = soon(fourth).await.unwrap();
    let (_, payloads) = stream.batch().await;
    assert_eq!(payloads, ["4"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_of_its_batch_alone() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    let (denied, unawaited, fine) = (
        send(&publisher, "denied", "1").await,
        send(&publisher, "unawaited", "2").await,
        send(&publisher, "fine", "3").await,
    );
    drop(unawaited);
    let denied = tokio::spawn(denied);
    for _ in 0..3 {
        let (batch, _) = stream.batch().await;
        match batch.topic.as_str() {
            "fine" => stream.ack(batch.correlation, 1, false).await,
            topic => {
                let error = pb::Error::new(ErrorCode::PermissionDenied, topic);
                stream.refuse(batch.correlation, error).await;
            }
        }
    }
    assert_eq!(soon(fine).await.unwrap().sequence, 1);
    match soon(denied).await.unwrap().unwrap_err() {
        PublishError::Refused(refusal) => {
            assert_eq!(
                (refusal.code, refusal.retryable),
                (ErrorCode::PermissionDenied, false)
            );
        }
        other => panic!("{other:?}"),
    }
    let error = soon(publisher.flush()).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Refused(refusal) if refusal.message == "unawaited"),
        "{error:?}"
    );
    soon(publisher.flush()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retryable_refusal_brings_everything_again() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    let tickets = [
        send(&publisher, "a", "1").await,
        send(&publisher, "b", "2").await,
    ];
    let sent = [stream.batch().await.0, stream.batch().await.0];
    let error =
        pb::Error::new(ErrorCode::Overloaded, "later").retry_after(Duration::from_millis(1));
    stream.refuse(sent[0].correlation, error).await;
    stream.finish();
    let mut again = broker.stream().await;
    again.publish_ready(PLENTY.0, PLENTY.1).await;
    for (expected, ticket) in sent.into_iter().zip(tickets) {
        let (batch, _) = again.batch().await;
        assert_eq!(
            (batch.first_number, batch.topic),
            (expected.first_number, expected.topic)
        );
        again.ack(batch.correlation, 5, false).await;
        assert_eq!(soon(ticket).await.unwrap().sequence, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_producer_is_done() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    let tickets = [
        send(&publisher, "a", "1").await,
        send(&publisher, "b", "2").await,
    ];
    let (batch, _) = stream.batch().await;
    stream
        .refuse(
            batch.correlation,
            pb::Error::new(ErrorCode::ProducerFenced, "newer"),
        )
        .await;
    let is_fenced = |error: &PublishError| matches!(error, PublishError::Refused(refusal) if refusal.code == ErrorCode::ProducerFenced);
    for ticket in tickets {
        let error = soon(ticket).await.unwrap_err();
        assert!(is_fenced(&error), "{error:?}");
    }
    let error = soon(publisher.send("a", Event::new("3")))
        .await
        .unwrap_err();
    assert!(is_fenced(&error), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_opening_is_typed() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, ()) =
        tokio::join!(soon(client.publisher(PublisherOptions::default())), async {
            let mut stream = broker.stream().await;
            let error = pb::Error::new(ErrorCode::Overloaded, "too many producers");
            let result = Some(pb::publish_opened::Result::Error(error));
            stream.write(&pb::PublishOpened { result }).await;
        });
    let error = publisher.unwrap_err();
    assert!(
        matches!(&error, PublishError::Refused(refusal) if refusal.code == ErrorCode::Overloaded),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_known_producer_goes_on_after_its_last_number() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = PublisherOptions {
        producer_id: Some([7; 16]),
        epoch: 3,
        ..PublisherOptions::default()
    };
    let (publisher, mut stream) = tokio::join!(soon(client.publisher(options)), async {
        let mut stream = broker.stream().await;
        stream
            .publish_opened(pb::PublishReady {
                credit_bytes: 1000,
                credit_batches: 10,
                last_number: 41,
            })
            .await;
        stream
    });
    let expected = pb::PublishOpen {
        producer_id: vec![7; 16].into(),
        epoch: 3,
        counts_costs: true,
    };
    assert_eq!(stream.publish_open(), &expected);
    let publisher = publisher.unwrap();
    let _ticket = send(&publisher, "a", "1").await;
    let (batch, _) = stream.batch().await;
    assert_eq!((batch.first_number, batch.resolved_through), (42, 41));
}

#[tokio::test(start_paused = true)]
async fn without_idempotence_there_are_no_numbers() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = PublisherOptions {
        idempotent: false,
        ..PublisherOptions::default()
    };
    let (publisher, mut stream) = open(&mut broker, &client, options, PLENTY).await;
    assert!(stream.publish_open().producer_id.is_empty());
    let _ticket = send(&publisher, "a", "1").await;
    let (batch, _) = stream.batch().await;
    assert_eq!((batch.first_number, batch.resolved_through), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_event_fails_after_its_timeout() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let after = Duration::from_millis(30);
    let options = PublisherOptions {
        delivery_timeout: Some(after),
        ..PublisherOptions::default()
    };
    let (publisher, mut stream) = open(&mut broker, &client, options, PLENTY).await;
    let ticket = send(&publisher, "a", "1").await;
    let (batch, _) = stream.batch().await;
    let error = soon(ticket).await.unwrap_err();
    assert!(matches!(error, PublishError::TimedOut { .. }), "{error:?}");
    // The late answer changes nothing, and the publisher goes on.
    stream.ack(batch.correlation, 1, false).await;
    let ticket = send(&publisher, "a", "2").await;
    let (batch, _) = stream.batch().await;
    assert_eq!((batch.first_number, batch.resolved_through), (2, 1));
    stream.ack(batch.correlation, 2, false).await;
    assert_eq!(soon(ticket).await.unwrap().sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn a_linger_ends_with_a_flush() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = PublisherOptions {
        linger: Duration::from_secs(3600),
        ..PublisherOptions::default()
    };
    let (publisher, mut stream) = open(&mut broker, &client, options, PLENTY).await;
    let mut ticket = send(&publisher, "a", "1").await;
    assert!((&mut ticket).now_or_never().is_none());
    let (flushed, ()) = tokio::join!(soon(publisher.flush()), async {
        let (batch, _) = stream.batch().await;
        stream.ack(batch.correlation, 1, false).await;
    });
    flushed.unwrap();
    assert_eq!(soon(ticket).await.unwrap().sequence, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_outlives_its_publisher() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    let ticket = send(&publisher, "a", "1").await;
    drop(publisher);
    drop(client);
    let (batch, payloads) = stream.batch().await;
    assert_eq!(payloads, ["1"]);
    stream.ack(batch.correlation, 1, false).await;
    soon(ticket).await.unwrap();
    stream.ended().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_beyond_the_limits_is_not_sent() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        open(&mut broker, &client, PublisherOptions::default(), PLENTY).await;
    let largest = EVENT_BYTES_MAX - 4;
    let error = soon(publisher.send("a", Event::new(vec![0; largest + 1])))
        .await
        .unwrap_err();
    assert!(matches!(error, PublishError::Event(_)), "{error:?}");
    let error = soon(publisher.send("", Event::new(""))).await.unwrap_err();
    assert!(
        matches!(error, PublishError::TopicName { length: 0 }),
        "{error:?}"
    );
    let ticket = soon(publisher.send("a", Event::new(vec![0; largest])))
        .await
        .unwrap();
    let (batch, _) = stream.batch().await;
    assert_eq!(batch.events[0].len(), EVENT_BYTES_MAX);
    stream.ack(batch.correlation, 1, false).await;
    soon(ticket).await.unwrap();
}
