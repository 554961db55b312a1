//! How sessions end when the broker stops.

use std::time::Duration;

use tidegate_wire::pb::ErrorCode;
use tidegate_wire::stream::memory::MemoryOptions;
use tidegate_wire::stream::{Connection, SendHalf};
use tokio::time::Instant;

use super::client::{Consuming, Publishing, batch, publish};
use super::served::Served;
use super::{Sessions, until};
use crate::domain::{Millis, Principal, SubscriptionSpec};

#[tokio::test(start_paused = true)]
async fn a_shutdown_says_goodbye_and_ends() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    sessions.shutdown.cancel();
    let go_away = client.go_away().await.expect("a goodbye");
    assert_eq!((go_away.grace_ms, go_away.acks_ms), (10_000, Some(5_000)));
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    until(|| sessions.service.stats.counts().connections_open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_is_waited_for_as_long_as_the_grace_lasts() {
    let sessions = Sessions::start(|_| {});
    let client = sessions.welcomed().await;
    // One that has said nothing yet, longer than the grace.
    let mut shy = client.send(&publish()[..1]).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let started = Instant::now();
    sessions.shutdown.cancel();
    let go_away = client.go_away().await.expect("a goodbye");
    let late = client.refusal(&publish(), false).await;
    assert_eq!(late.code(), ErrorCode::ShuttingDown);
    assert_eq!(client.connection.end(), None, "the stream is waited for");
    shy.send.reset(0);
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    assert!(started.elapsed() <= Duration::from_millis(go_away.grace_ms));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_the_certificate_that_it_is_by() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let sessions = &served.sessions;
    let ends = Millis(sessions.service.clock.now().0 + 2 * 24 * 60 * 60 * 1_000);
    let client = sessions.connect_until(MemoryOptions::default(), Some(ends));
    let client = client.welcomed().await;
    let consuming = Consuming::open(&client, "s", 10).await.expect("attached");
    tokio::time::advance(DAY).await;
    assert_eq!(client.connection.end(), None, "it still holds");
    tokio::time::advance(DAY + Duration::from_secs(1)).await;
    assert_eq!(client.close_code().await, Some(ErrorCode::PermissionDenied));
    drop(consuming);
    until(|| sessions.service.stats.counts().connections_open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_session_has_in_hand_when_its_certificate_lapses_counts_nothing() {
    let served = Served::start(|_| {}).await;
    // One that counts would be the last.
    let mut spec = SubscriptionSpec::new(
        "s".parse().expect("valid"),
        vec!["orders.>".parse().expect("valid")],
    );
    spec.delivery.attempts_max = 1;
    let local = Principal::local();
    let created = served.broker.create_subscription(&local, spec);
    created.await.expect("created");
    let sessions = &served.sessions;
    let ends = Millis(sessions.service.clock.now().0 + 10_000);
    let client = sessions.connect_until(MemoryOptions::default(), Some(ends));
    let client = client.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("attached");
    let other = sessions.welcomed().await;
    let mut publishing = Publishing::open(&other, &[], 0).await;
    publishing.write(&batch(1, "orders.eu", 0, &["a"])).await;
    publishing.ack().await;
    let (_, attempt, position) = consuming.event().await;
    assert_eq!(attempt, 1);
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(client.close_code().await, Some(ErrorCode::PermissionDenied));
    // It is not taken for what brought its consumer down, and comes again at once.
    let mut consuming = Consuming::open(&other, "s", 10).await.expect("attached");
    assert_eq!(consuming.event().await, ("a".to_owned(), 2, position));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_answers_what_is_under_way() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.sessions.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("attached");
    let mut publishing = Publishing::open(&client, &[], 0).await;
    publishing.write(&batch(1, "orders.eu", 0, &["a"])).await;
    publishing.ack().await;
    consuming.event().await;
    served.sessions.shutdown.cancel();
    assert_eq!(publishing.reply().await, None);
    // It may ack for a moment.
    tokio::time::advance(served.sessions.service.options.shutdown_acks()).await;
    assert_eq!(consuming.refusal().await, ErrorCode::ShuttingDown);
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    // It was never acked.
    assert_eq!(served.depth("s"), 1);
    until(|| served.sessions.service.stats.counts().connections_open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_with_nothing_in_hand_is_not_waited_for() {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.sessions.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("attached");
    let started = Instant::now();
    served.sessions.shutdown.cancel();
    client.go_away().await.expect("a goodbye");
    // In which it is seen that there is nothing.
    for _ in 0..5 {
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert_eq!(consuming.refusal().await, ErrorCode::ShuttingDown);
    assert_eq!(client.close_code().await, Some(ErrorCode::ShuttingDown));
    let acks = served.sessions.service.options.shutdown_acks();
    assert!(started.elapsed() < acks / 2, "{:?}", started.elapsed());
    until(|| served.sessions.service.stats.counts().connections_open == 0).await;
}
