//! Measuring the connection: what the broker says of it, and brokers that cannot or do not want to.

use std::time::Duration;

use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, hello_reply, measure_opened, stream_open};

use super::broker::{Broker, Manner, Stream, soon, welcome};
use crate::{Client, ConnectionCounters, ErrorCode, MeasureError, Meter};

async fn open_as(stream: &mut Stream, result: measure_opened::Result) {
    assert!(matches!(stream.open, stream_open::Kind::Measure(_)));
    let result = Some(result);
    stream.write(&pb::MeasureOpened { result }).await;
}

async fn answer(stream: &mut Stream, answer: Option<Answer>) {
    let command: pb::MeasureCommand = stream.read().await.expect("a command");
    assert!(matches!(command.command, Some(Command::Counters(_))));
    stream.write(&pb::MeasureAnswer { answer }).await;
}

async fn meter(broker: &mut Broker, client: &Client) -> (Meter, Stream) {
    let (meter, stream) = tokio::join!(soon(client.meter()), async {
        let mut stream = broker.stream().await;
        let ready = pb::MeasureReady {};
        open_as(&mut stream, measure_opened::Result::Ready(ready)).await;
        stream
    });
    (meter.expect("ready"), stream)
}

#[tokio::test(start_paused = true)]
async fn a_meter_is_asked_again_and_again_on_one_stream() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut meter, mut stream) = meter(&mut broker, &client).await;
    for received in [10, 12] {
        let counters = pb::ConnectionCounters {
            datagrams_received: received,
            round_trip_us: 1_500,
            congestion: "cubic".into(),
            ..Default::default()
        };
        let (report, ()) = tokio::join!(
            soon(meter.report()),
            answer(&mut stream, Some(Answer::Counters(counters)))
        );
        let report = report.expect("a report");
        assert_eq!(report.broker.datagrams_received, received);
        assert_eq!(report.broker.round_trip, Duration::from_micros(1_500));
        assert_eq!(report.broker.congestion, "cubic");
        // A connection within the process counts nothing.
        assert_eq!(report.here, ConnectionCounters::default());
    }
    drop(meter);
    stream.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_older_is_not_asked() {
    let mut old = welcome(1);
    if let hello_reply::Result::Welcome(welcome) = &mut old {
        welcome.takes_measure = false;
    }
    let mut broker = Broker::start_with(Manner::Answers(old));
    let client = broker.client().await;
    let error = soon(client.link_report()).await.unwrap_err();
    assert!(matches!(error, MeasureError::Unsupported), "{error:?}");
    // The connection goes on: the next stream is another one.
    let publishing = tokio::spawn(async move { client.publisher(Default::default()).await });
    broker.stream().await.publish_ready(1_000, 10).await;
    soon(publishing).await.unwrap().expect("a publisher");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_refuses_is_told() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let refused = |error: MeasureError| match error {
        MeasureError::Refused(refusal) => refusal.code,
        other => panic!("{other:?}"),
    };
    let (report, ()) = tokio::join!(soon(client.link_report()), async {
        let error = pb::Error::new(ErrorCode::PermissionDenied, "not you");
        let mut stream = broker.stream().await;
        open_as(&mut stream, measure_opened::Result::Error(error)).await;
    });
    assert_eq!(refused(report.unwrap_err()), ErrorCode::PermissionDenied);

    let (mut first, mut stream) = meter(&mut broker, &client).await;
    let error = pb::Error::new(ErrorCode::Overloaded, "later");
    let (report, ()) = tokio::join!(
        soon(first.report()),
        answer(&mut stream, Some(Answer::Error(error)))
    );
    assert_eq!(refused(report.unwrap_err()), ErrorCode::Overloaded);

    let (mut second, mut stream) = meter(&mut broker, &client).await;
    let (report, ()) = tokio::join!(soon(second.report()), answer(&mut stream, None));
    assert!(matches!(report, Err(MeasureError::Protocol(_))));

    let (mut third, stream) = meter(&mut broker, &client).await;
    broker.drop_connections();
    let error = soon(third.report()).await.unwrap_err();
    assert!(matches!(error, MeasureError::Lost(_)), "{error:?}");
    drop(stream);
}
