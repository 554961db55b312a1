//! How a session opens, and what happens to those who break the protocol.

use super::client::{hello, open, publish};
use super::*;
use tidegate_wire::pb::{self, ErrorCode, hello_reply, stream_open};
use tidegate_wire::stream::{Connection, SendHalf};
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_hello_is_answered_with_who_the_client_is_and_what_it_may_send() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.connect();
    match client.hello(&[7, 1]).await.expect("answered").0 {
        hello_reply::Result::Welcome(welcome) => {
            assert_eq!((welcome.version, welcome.principal.as_str()), (1, CLIENT));
            let limits = tidegate_wire::Limits::from(welcome.limits.as_ref());
            assert_eq!(limits, tidegate_wire::Limits::default());
        }
        other => panic!("{other:?}"),
    }
    let counts = sessions.service.stats.counts();
    assert_eq!((counts.connections_open, counts.connections_total), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_refused_with_the_known_one() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.connect();
    match client.hello(&[2, 3]).await.expect("answered").0 {
        hello_reply::Result::Error(error) => {
            assert_eq!(error.code(), ErrorCode::UnsupportedVersion);
            assert!(
                error.message.contains("speaks version 1"),
                "{}",
                error.message
            );
        }
        other => panic!("{other:?}"),
    }
    let code = client.close_code().await;
    assert_eq!(code, Some(ErrorCode::UnsupportedVersion));
}

#[tokio::test(start_paused = true)]
async fn whoever_says_no_hello_is_closed_when_its_time_is_over() {
    let sessions = Sessions::start(|_| {});
    let within = sessions.service.options.handshake_timeout;
    let started = Instant::now();
    let silent = sessions.connect();
    // It may be late for no fault of its own, and comes again.
    assert!(ErrorCode::Overloaded.is_retryable());
    assert_eq!(silent.close_code().await, Some(ErrorCode::Overloaded));
    assert!((within..2 * within).contains(&started.elapsed()));
    let half = sessions.connect();
    let _stream = half.send(&hello(&[1])[..2]).await;
    assert_eq!(half.close_code().await, Some(ErrorCode::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_its_client_needs_no_more_is_refused_nothing() {
    let sessions = Sessions::start(|_| {});
    let stats = &sessions.service.stats;
    let silent = sessions.connect();
    let half = sessions.connect();
    let _stream = half.send(&hello(&[1])[..2]).await;
    until(|| stats.counts().connections_open == 2).await;
    for attempt in [&silent, &half] {
        attempt.connection.close(0, "another was faster");
    }
    until(|| stats.counts().connections_open == 0).await;
    let counts = stats.counts();
    assert_eq!(counts.attempts_withdrawn, 2);
    let refusals = counts.refusals.iter().map(|(_, count)| count);
    assert_eq!(refusals.sum::<u64>(), 0);
    // Who is refused has withdrawn nothing, and who was welcome neither.
    let refused = sessions.connect();
    assert!(refused.hello(&[2]).await.is_some());
    refused.close_code().await;
    // Nor who closes the connection as soon as it knows.
    let refused = sessions.connect();
    assert!(refused.hello(&[2]).await.is_some());
    refused.connection.close(0, "refused");
    sessions.welcomed().await.connection.close(0, "done");
    until(|| stats.counts().connections_open == 0).await;
    assert_eq!(stats.counts().attempts_withdrawn, 2);
}

#[tokio::test(start_paused = true)]
async fn each_way_to_break_the_protocol() {
    let sessions = Sessions::start(|_| {});
    let innocent = sessions.welcomed().await;
    let check = async |bytes: &[u8], finish: bool, code: ErrorCode| {
        let client = sessions.welcomed().await;
        let refused = client.refusal(bytes, finish).await.code();
        assert_eq!(refused, code, "{bytes:02x?}");
        assert_eq!(client.close_code().await, Some(code), "{bytes:02x?}");
    };
    let kind_9 = [2, 9 << 3 | 2, 0];
    let text_not_utf8 = [6, 3 << 3 | 2, 4, 1 << 3 | 2, 2, 0xff, 0xff];
    check(&[0], false, ErrorCode::Malformed).await;
    check(&kind_9, false, ErrorCode::Malformed).await;
    check(&[3, 0xff, 0xff, 0xff], false, ErrorCode::Malformed).await;
    check(&text_not_utf8, false, ErrorCode::Malformed).await;
    check(&[0xff; 16], false, ErrorCode::TooLarge).await;
    check(&[0x81, 0x80, 0x01], false, ErrorCode::TooLarge).await;
    check(&[0x80; 10], false, ErrorCode::Malformed).await;
    check(&[9, 1, 2], true, ErrorCode::Malformed).await;
    check(&hello(&[1]), false, ErrorCode::Malformed).await;
    // Nobody else noticed: a well-formed stream still gets as far as the broker.
    let refused = innocent.refusal(&publish(), false).await.code();
    assert_eq!(refused, ErrorCode::Internal);
}

#[tokio::test(start_paused = true)]
async fn the_first_stream_must_be_the_hello() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.connect();
    let refused = client.refusal(&publish(), false).await.code();
    assert_eq!(refused, ErrorCode::Malformed);
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
}

#[tokio::test(start_paused = true)]
async fn nothing_may_follow_the_hello() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.connect();
    let (_, mut stream) = client.hello(&[1]).await.expect("answered");
    stream.write(&hello(&[1])).await;
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_leaves_the_connection_alone() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let bad_id = open(stream_open::Kind::Publish(pb::PublishOpen {
        producer_id: vec![1; 5].into(),
        ..pb::PublishOpen::default()
    }));
    let refused = client.refusal(&bad_id, false).await.code();
    assert_eq!(refused, ErrorCode::InvalidArgument);
    // Opened and given up, finished without a word, or reset: all the client's good right.
    drop(client.send(&[]).await);
    let mut reset = client.send(&[5]).await;
    reset.send.reset(0);
    let refused = client.refusal(&publish(), false).await.code();
    assert_eq!(refused, ErrorCode::Internal);
    assert_eq!(client.connection.end(), None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_say_what_it_is_is_refused_when_its_time_is_over() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    let (started, within) = (Instant::now(), sessions.service.options.handshake_timeout);
    let error = client.refusal(&publish()[..1], false).await;
    assert_eq!(
        (error.code(), error.retryable),
        (ErrorCode::Overloaded, true)
    );
    assert!((within..2 * within).contains(&started.elapsed()));
    let refused = client.refusal(&publish(), false).await.code();
    assert_eq!(refused, ErrorCode::Internal, "the connection goes on");
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_cap_are_refused() {
    let sessions = Sessions::start(|options| options.streams_max = 1);
    let client = sessions.welcomed().await;
    let _held = client.send(&publish()[..1]).await;
    let error = client.refusal(&publish(), false).await;
    assert_eq!(
        (error.code(), error.retryable),
        (ErrorCode::Overloaded, true)
    );
}

#[tokio::test(start_paused = true)]
async fn without_any_grant_no_stream_opens_and_nothing_is_asked_of_the_broker() {
    let sessions = Sessions::start_with(Policy::default(), Backend::Absent, |_| {});
    let client = sessions.welcomed().await;
    let subscribe = open(stream_open::Kind::Subscribe(pb::SubscribeOpen {
        subscription: "s".to_owned(),
        ..pb::SubscribeOpen::default()
    }));
    for first in [publish(), subscribe] {
        let error = client.refusal(&first, false).await;
        assert_eq!(error.code(), ErrorCode::PermissionDenied);
        assert!(error.message.contains("right at all"), "{}", error.message);
    }
    assert_eq!(client.connection.end(), None);
    assert_eq!(sessions.service.stats.counts().publish_streams_open, 0);
}
