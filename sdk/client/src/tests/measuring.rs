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
        let ready = pb::MeasureReady::default();
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

    // It takes the question no more, and says why after that.
    let (mut third, stream) = meter(&mut broker, &client).await;
    let last_words = stream.take_nothing_more();
    let (report, ()) = tokio::join!(soon(third.report()), async {
        tokio::task::yield_now().await;
        let error = pb::Error::new(ErrorCode::Overloaded, "another has begun");
        let answer = Some(Answer::Error(error));
        last_words.say(&pb::MeasureAnswer { answer }).await;
    });
    assert_eq!(refused(report.unwrap_err()), ErrorCode::Overloaded);

    let (mut fourth, stream) = meter(&mut broker, &client).await;
    broker.drop_connections();
    let error = soon(fourth.report()).await.unwrap_err();
    assert!(matches!(error, MeasureError::Lost(_)), "{error:?}");
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_test_counts_what_went_each_way() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (test, mut stream) = tokio::join!(soon(client.link_test()), async {
        let mut stream = broker.stream().await;
        assert_eq!(
            stream.open,
            stream_open::Kind::Measure(pb::MeasureOpen { test: true })
        );
        let ready = pb::MeasureReady {
            publish_credit_bytes: 5_000,
            publish_credit_batches: 6,
        };
        open_as(&mut stream, measure_opened::Result::Ready(ready)).await;
        stream
    });
    let mut test = test.expect("ready");
    let settings = test.settings();
    assert_eq!(
        (
            settings.publish_credit_bytes,
            settings.publish_credit_batches
        ),
        (5_000, 6)
    );
    // Within the process nothing takes any time, so the broker is near.
    assert_eq!(settings.small_batches_max, 1);

    const BYTES: u64 = 300_000;
    let playing = async {
        let mut received = 0;
        loop {
            let command: pb::MeasureCommand = stream.read().await.expect("a command");
            let answers = match command.command {
                Some(Command::Filler(filler)) => {
                    received += filler.payload.len() as u64;
                    continue;
                }
                Some(Command::Echo(echo)) => vec![Answer::Echo(echo)],
                Some(Command::FillerWanted(wanted)) => {
                    assert_eq!(wanted.within_ms, 2_000);
                    let payload = vec![0; wanted.bytes as usize / 2];
                    let filler = || {
                        Answer::Filler(pb::Filler {
                            payload: payload.clone().into(),
                        })
                    };
                    vec![
                        filler(),
                        filler(),
                        Answer::FillerEnd(pb::FillerEnd {
                            bytes: wanted.bytes,
                        }),
                    ]
                }
                other => panic!("{other:?}"),
            };
            let last = matches!(answers[0], Answer::Filler(_));
            for answer in answers {
                let answer = Some(answer);
                stream.write(&pb::MeasureAnswer { answer }).await;
            }
            if last {
                break received;
            }
        }
    };
    let testing = async {
        let within = Duration::from_secs(2);
        soon(test.echo()).await.expect("an echo");
        let up = soon(test.send(BYTES, within)).await.expect("sent");
        let down = soon(test.receive(BYTES, within)).await.expect("received");
        (up.bytes, down.bytes)
    };
    let (received, carried) = tokio::join!(playing, testing);
    assert_eq!((received, carried), (BYTES, (BYTES, BYTES)));
    let error = test.rebind().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}
