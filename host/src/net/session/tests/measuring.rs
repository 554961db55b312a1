//! Measure streams: what is answered, and to whom.

use super::client::{Opened, frame, open};
use super::*;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::measure_command::Command;
use tidegate_wire::pb::{self, ErrorCode, measure_opened, stream_open};
use tidegate_wire::stream::SendHalf;

fn measure() -> bytes::Bytes {
    open(stream_open::Kind::Measure(pb::MeasureOpen { test: false }))
}

fn test() -> bytes::Bytes {
    open(stream_open::Kind::Measure(pb::MeasureOpen { test: true }))
}

fn ask(command: Option<Command>) -> bytes::Bytes {
    frame(&pb::MeasureCommand { command })
}

async fn opened(client: &Client<MemoryConnection>) -> Opened<MemoryConnection> {
    opened_as(client, &measure()).await
}

async fn opened_as(client: &Client<MemoryConnection>, open: &[u8]) -> Opened<MemoryConnection> {
    let mut stream = client.send(open).await;
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
    let begun = tokio::time::Instant::now();
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
    // Whoever asks all the time is not told all the time.
    assert_eq!(begun.elapsed(), Duration::from_millis(30));
    stream.send.finish();
    assert_eq!(stream.recv.next::<pb::MeasureAnswer>().await, None);
    until(|| open_streams() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn the_measure_streams_of_a_connection_take_turns() {
    let sessions = Sessions::start(|_| {});
    let (client, other) = (sessions.welcomed().await, sessions.welcomed().await);
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(opened(&client).await);
    }
    let mut of_another = opened(&other).await;
    let begun = tokio::time::Instant::now();
    let counters = || ask(Some(Command::Counters(pb::CountersWanted {})));
    for stream in &mut streams {
        stream.write(&counters().repeat(5)).await;
    }
    // Who goes meanwhile holds up nobody.
    drop(streams.pop());
    of_another.write(&counters()).await;
    let answer: Option<pb::MeasureAnswer> = of_another.recv.next().await;
    assert!(answer.is_some() && begun.elapsed() < Duration::from_millis(10));
    for stream in &mut streams {
        for _ in 0..5 {
            let answer: pb::MeasureAnswer = stream.recv.next().await.expect("an answer");
            assert!(matches!(answer.answer, Some(Answer::Counters(_))));
        }
    }
    // The first at once, and of the stream that went some or none.
    let took = begun.elapsed();
    let all = Duration::from_millis(140)..=Duration::from_millis(190);
    assert!(all.contains(&took), "{took:?}");
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

async fn answer(stream: &mut Opened<MemoryConnection>) -> Answer {
    let answer: pb::MeasureAnswer = stream.recv.next().await.expect("an answer");
    answer.answer.expect("one of them")
}

async fn refused(stream: &mut Opened<MemoryConnection>) -> ErrorCode {
    match answer(stream).await {
        Answer::Error(error) => error.code(),
        other => panic!("{other:?}"),
    }
}

fn wanted(bytes: u64) -> bytes::Bytes {
    ask(Some(Command::FillerWanted(pb::FillerWanted {
        bytes,
        within_ms: 10_000,
    })))
}

fn echo(bytes: usize) -> bytes::Bytes {
    let payload = vec![7; bytes].into();
    ask(Some(Command::Echo(pb::Echo { payload })))
}

#[tokio::test(start_paused = true)]
async fn a_test_has_echoes_and_filler_both_ways_and_is_counted() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let mut stream = opened_as(&client, &test()).await;
    let filler = pb::Filler {
        payload: vec![1; 8_192].into(),
    };
    let filler = ask(Some(Command::Filler(filler)));
    stream.write(&filler.repeat(5)).await;
    stream.write(&echo(9)).await;
    match answer(&mut stream).await {
        Answer::Echo(echo) => assert_eq!(echo.payload, vec![7; 9]),
        other => panic!("{other:?}"),
    }
    stream.write(&wanted(100_000)).await;
    let mut bytes = 0;
    loop {
        match answer(&mut stream).await {
            Answer::Filler(filler) => bytes += filler.payload.len() as u64,
            Answer::FillerEnd(end) => break assert_eq!(end.bytes, bytes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes, 100_000);
    let counts = sessions.service.stats.counts();
    let carried = 5 * 8_192 + 9 + 100_000;
    assert_eq!((counts.link_tests, counts.link_test_bytes), (1, carried));
}

#[tokio::test(start_paused = true)]
async fn a_principal_has_one_test_at_a_time_and_all_have_four() {
    let sessions = Sessions::start(|_| {});
    let welcomed = async |who: &str| {
        let connected = sessions.connect_as(who, MemoryOptions::default(), None);
        connected.welcomed().await
    };
    let mut clients = Vec::new();
    for who in ["cn:a", "cn:b", "cn:c", "cn:d"] {
        let client = welcomed(who).await;
        let stream = opened_as(&client, &test()).await;
        // Whichever of its connections.
        let again = welcomed(who).await.refusal(&test(), false).await;
        assert_eq!(again.code(), ErrorCode::Overloaded);
        let said = again.message;
        assert!(said.starts_with("another connection of yours is"), "{said}");
        // To ask for counters is no test.
        drop(opened(&client).await);
        clients.push((client, stream));
    }
    let fifth = welcomed("cn:e").await;
    let refused = fifth.refusal(&test(), false).await;
    assert_eq!(refused.code(), ErrorCode::Overloaded);
    assert!(
        refused.retryable && refused.message.contains('4'),
        "{refused:?}"
    );
    // One that ends makes room.
    drop(clients.pop());
    until(|| sessions.service.stats.counts().measure_streams_open == 3).await;
    opened_as(&fifth, &test()).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_tested_waits_for_as_long_as_that_took() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let mut stream = opened_as(&client, &test()).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    stream.write(&echo(1)).await;
    assert!(matches!(answer(&mut stream).await, Answer::Echo(_)));
    stream.send.finish();
    assert_eq!(stream.recv.next::<pb::MeasureAnswer>().await, None);
    until(|| sessions.service.stats.counts().measure_streams_open == 0).await;
    let early = client.refusal(&test(), false).await;
    assert_eq!(early.code(), ErrorCode::Overloaded);
    assert_eq!(early.retry_wait(), Some(Duration::from_secs(9)));
    tokio::time::advance(Duration::from_secs(9)).await;
    opened_as(&client, &test()).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_test_gives_way_to_the_next_of_its_principal() {
    let sessions = Sessions::start(|_| {});
    let (killed, client) = (sessions.welcomed().await, sessions.welcomed().await);
    let mut silent = opened_as(&killed, &test()).await;
    tokio::time::advance(Duration::from_secs(6)).await;
    let mut stream = opened_as(&client, &test()).await;
    match answer(&mut silent).await {
        Answer::Error(error) => assert!(error.message.contains("another has begun"), "{error:?}"),
        other => panic!("{other:?}"),
    }
    stream.write(&echo(1)).await;
    assert!(matches!(answer(&mut stream).await, Answer::Echo(_)));
}

#[tokio::test(start_paused = true)]
async fn who_has_no_right_any_more_measures_no_longer() {
    let policy = Arc::new(everything());
    let sessions = Sessions::start_with(policy.clone(), Backend::Absent, |_| {});
    let client = sessions.welcomed().await;
    let mut meter = opened(&client).await;
    policy.reload(Vec::new());
    assert_eq!(refused(&mut meter).await, ErrorCode::PermissionDenied);
    assert_eq!(
        tidegate_wire::stream::Connection::end(&client.connection),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn what_carries_nothing_counts_too_and_no_command_is_large() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let mut stream = opened_as(&client, &test()).await;
    let empty = ask(Some(Command::Filler(pb::Filler::default())));
    let until_refused = async {
        loop {
            if stream
                .send
                .send(&mut [empty.repeat(1_000).into()].into())
                .await
                .is_err()
            {
                break;
            }
        }
    };
    until_refused.await;
    assert_eq!(refused(&mut stream).await, ErrorCode::Overloaded);

    let mut stream = opened_as(&client, &test()).await;
    stream.write(&echo(16 * 1024)).await;
    assert_eq!(refused(&mut stream).await, ErrorCode::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn a_test_is_bounded_in_bytes_and_time() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let mut stream = opened_as(&client, &test()).await;
    stream.write(&echo(1_024)).await;
    assert!(matches!(answer(&mut stream).await, Answer::Echo(_)));
    stream.write(&echo(1_025)).await;
    assert_eq!(refused(&mut stream).await, ErrorCode::InvalidArgument);

    let mut stream = opened_as(&client, &test()).await;
    stream.write(&wanted((256 << 20) + 1)).await;
    let mut bytes = 0;
    loop {
        match answer(&mut stream).await {
            Answer::Filler(filler) => bytes += filler.payload.len(),
            Answer::Error(error) => break assert_eq!(error.code(), ErrorCode::Overloaded),
            other => panic!("{other:?}"),
        }
    }
    // The command counts, too, and what is sent comes in pieces.
    assert_eq!(bytes, (256 << 20) - 32 * 1_024);

    // Whoever only keeps one open is sent away after a minute.
    let started = tokio::time::Instant::now();
    let mut stream = opened_as(&client, &test()).await;
    tokio::time::sleep(Duration::from_secs(40)).await;
    match answer(&mut stream).await {
        Answer::Error(error) => assert!(error.message.contains("60s"), "{error:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(started.elapsed().as_secs(), 60);
    assert_eq!(
        tidegate_wire::stream::Connection::end(&client.connection),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_but_counters_is_told_without_a_test() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    for command in [echo(1), wanted(1)] {
        let mut stream = opened(&client).await;
        stream.write(&command).await;
        assert_eq!(refused(&mut stream).await, ErrorCode::InvalidArgument);
    }
}
