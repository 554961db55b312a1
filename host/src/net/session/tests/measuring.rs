//! Measure streams: what is answered, and to whom.

use super::client::{Opened, frame, open};
use super::*;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, ErrorCode, measure_opened, stream_open};
use tidegate_wire::stream::SendHalf;

fn measure() -> bytes::Bytes {
    open(stream_open::Kind::Measure(pb::MeasureOpen {}))
}

fn ask(command: Option<Command>) -> bytes::Bytes {
    frame(&pb::MeasureCommand { command })
}

async fn opened(client: &Client<MemoryConnection>) -> Opened<MemoryConnection> {
    let mut stream = client.send(&measure()).await;
    let opened: pb::MeasureOpened = stream.recv.next().await.expect("an answer");
    assert!(matches!(
        opened.result,
        Some(measure_opened::Result::Ready(_))
    ));
    stream
}

#[tokio::test(start_paused = true)]
async fn counters_are_told_as_often_as_they_are_asked_for() {
    let sessions = Sessions::start(|_| {});
    let options = MemoryOptions {
        round_trip: Duration::from_millis(7),
        ..MemoryOptions::default()
    };
    let client = sessions.connect_by(options).welcomed().await;
    let mut stream = opened(&client).await;
    let open_streams = || sessions.service.stats.counts().measure_streams_open;
    assert_eq!(open_streams(), 1);
    let counters = || ask(Some(Command::Counters(pb::CountersWanted {})));
    // One at a time, and several at once.
    for times in [1, 3] {
        stream.write(&counters().repeat(times)).await;
        for _ in 0..times {
            let answer: pb::MeasureAnswer = stream.recv.next().await.expect("an answer");
            match answer.answer {
                Some(Answer::Counters(counters)) => assert_eq!(counters.round_trip_us, 7_000),
                other => panic!("{other:?}"),
            }
        }
    }
    stream.send.finish();
    assert_eq!(stream.recv.next::<pb::MeasureAnswer>().await, None);
    until(|| open_streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn who_may_do_nothing_may_not_measure() {
    let sessions = Sessions::start_with(Policy::new(Vec::new()), Backend::Absent, |_| {});
    let client = sessions.welcomed().await;
    let refused = client.refusal(&measure(), false).await;
    assert_eq!(refused.code(), ErrorCode::PermissionDenied);
    assert_eq!(
        tidegate_wire::stream::Connection::end(&client.connection),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn an_unknown_command_ends_the_connection_and_says_why() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let mut stream = opened(&client).await;
    stream.write(&ask(None)).await;
    let answer: pb::MeasureAnswer = stream.recv.next().await.expect("an answer");
    match answer.answer {
        Some(Answer::Error(error)) => assert_eq!(error.code(), ErrorCode::Malformed),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
}
