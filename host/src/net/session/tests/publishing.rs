//! Publish streams with a broker behind them.

use std::sync::Arc;

use tidegate_wire::pb::{self, ErrorCode, publish_opened};
use tidegate_wire::stream::{Connection, SendHalf};

use super::client::{Consuming, Publishing, batch, publish};
use super::served::{Disk, MIB, Served, TOPICS_MAX};
use super::until;

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_room_is_not_overtaken() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
    let read = || served.sessions.bytes_in();
    let room = served.broker.take_publish_room(1_100).await;
    let before = read();
    // At once: the broker has room for the others, but not for the first.
    let mut batches = batch(1, "orders.eu", 1, &["x".repeat(200).as_str()]).to_vec();
    for number in 2..=5 {
        batches.extend(batch(number, "orders.eu", number, &["fits"]));
    }
    publishing.write(&batches).await;
    until(|| read() >= before + batches.len() as u64).await;
    drop(room);
    publishing
        .write(&batch(6, "orders.eu", 6, &["comes later"]))
        .await;
    for number in 1..=6 {
        let ack = publishing.ack().await;
        assert_eq!((ack.first_sequence, ack.duplicate), (number, false));
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_answered_and_a_resend_is_recognised() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
    assert_eq!(
        (publishing.ready.credit_bytes, publishing.ready.last_number),
        (8 << 20, 0)
    );
    publishing
        .write(&batch(1, "orders.eu", 1, &["a", "b"]))
        .await;
    let ack = publishing.ack().await;
    assert_eq!(
        (ack.first_sequence, ack.count, ack.duplicate, ack.unkept),
        (1, 2, false, true)
    );
    publishing.write(&batch(2, "invoices", 3, &["c"])).await;
    assert_eq!(publishing.refusal().await, (2, ErrorCode::PermissionDenied));
    publishing.write(&batch(3, "orders.eu", 3, &["d"])).await;
    assert_eq!(publishing.ack().await.first_sequence, 3);
    drop(publishing);
    let mut again = Publishing::open(&client, &[1; 16], 1).await;
    assert_eq!(again.ready.last_number, 3);
    again.write(&batch(1, "orders.eu", 1, &["a", "b"])).await;
    let ack = again.ack().await;
    assert_eq!((ack.first_sequence, ack.count, ack.duplicate), (1, 2, true));
    assert_eq!(
        served.sessions.service.stats.counts().publish_streams_open,
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_finishes_still_gets_its_answers() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    for correlation in 1..=20 {
        publishing
            .write(&batch(correlation, "orders.eu", 0, &["a"]))
            .await;
    }
    publishing.stream.send.finish();
    for _ in 0..20 {
        publishing.ack().await;
    }
    assert_eq!(publishing.reply().await, None);
    assert!(client.connection.end().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_taken_over_producer_is_told_and_ends() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut old = Publishing::open(&client, &[1; 16], 0).await;
    let _new = Publishing::open(&client, &[1; 16], 1).await;
    old.write(&batch(1, "orders.eu", 1, &["a"])).await;
    assert_eq!(old.refusal().await, (1, ErrorCode::ProducerFenced));
    assert_eq!(old.reply().await, None);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_credit_ends_the_stream_and_only_that() {
    let served = Served::start(|options| options.publish_credit_batches = 1).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let flood: Vec<u8> = (1..=300)
        .flat_map(|n| batch(n, "orders.eu", 0, &["a"]))
        .collect();
    publishing.write(&flood).await;
    loop {
        match publishing
            .reply()
            .await
            .expect("the refusal comes before the end")
        {
            (_, Ok(_)) => {}
            (correlation, Err(code)) => {
                assert_eq!((correlation, code), (0, ErrorCode::FlowControl));
                break;
            }
        }
    }
    assert_eq!(publishing.reply().await, None);
    let mut other = Publishing::open(&client, &[], 0).await;
    other.write(&batch(1, "orders.eu", 0, &["a"])).await;
    other.ack().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_count_costs_gets_credit_for_fewer_batches() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut stream = client.send(&publish()).await;
    let opened: pb::PublishOpened = stream.recv.next().await.expect("answered");
    let Some(publish_opened::Result::Ready(ready)) = opened.result else {
        panic!("{opened:?}");
    };
    assert_eq!((ready.credit_bytes, ready.credit_batches), (4 << 20, 63));
}

#[tokio::test(start_paused = true)]
async fn empty_events_cost_credit() {
    let served = Served::start(|_| {}).await;
    let _room = served.broker.take_publish_room(0).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    let empty = batch(1, "orders.eu", 0, &[""; 4_096]);
    let batches = 8 * (MIB as usize) / (1_024 + 4_096 * 16);
    publishing.write(&empty.repeat(batches)).await;
    publishing.write(&empty).await;
    // Nothing is answered meanwhile, so the last one is too much.
    assert_eq!(publishing.refusal().await, (0, ErrorCode::FlowControl));
    assert_eq!(publishing.reply().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_come_whole_in_time_ends_its_stream_only() {
    let served = Served::start(|_| {}).await;
    let within = served.sessions.service.options.frame_timeout;
    served.subscription("s", "orders.>").await;
    let client = served.sessions.welcomed().await;
    let mut slow = Publishing::open(&client, &[], 0).await;
    let whole = batch(1, "orders.eu", 0, &["a"]);
    served.read(&mut slow.stream, &whole[..3]).await;
    // Each byte that comes is no new beginning.
    tokio::time::advance(within / 2).await;
    served.read(&mut slow.stream, &whole[3..5]).await;
    tokio::time::advance(within / 2).await;
    assert_eq!(slow.refusal().await, (0, ErrorCode::Overloaded));
    let mut consuming = Consuming::open(&client, "s", 1).await.expect("attached");
    served.read(&mut consuming.stream, &[9]).await;
    tokio::time::advance(within).await;
    assert_eq!(consuming.refusal().await, ErrorCode::Overloaded);
    let mut other = Publishing::open(&client, &[], 0).await;
    other.write(&whole).await;
    other.ack().await;
}

#[tokio::test(start_paused = true)]
async fn large_messages_of_one_connection_take_turns() {
    let served = Served::start(|options| {
        options.publish_credit_bytes = 32 << 10;
        options.publish_credit_total_bytes = 1 << 20;
    })
    .await;
    let client = served.sessions.welcomed().await;
    let mut first = Publishing::open(&client, &[], 0).await;
    let mut second = Publishing::open(&client, &[], 0).await;
    assert_eq!(first.ready.credit_bytes, 32 << 10);
    // Beyond its credit this takes all that one connection may have: a sixteenth of what all have.
    let large = batch(1, "orders.eu", 0, &["x".repeat(95 << 10).as_str()]);
    let read = || served.sessions.bytes_in();
    let before = read();
    let half = large.len() / 2;
    first.write(&large[..half]).await;
    until(|| read() >= before + half as u64).await;
    let waiting = tokio::spawn(async move {
        let large = batch(1, "orders.eu", 0, &["y".repeat(95 << 10).as_str()]);
        second.write(&large).await;
        second.ack().await.first_sequence
    });
    // The second is whole before the first is, and yet has to wait for it.
    until(|| read() > before + half as u64).await;
    first.write(&large[half..]).await;
    assert_eq!(first.ack().await.first_sequence, 1);
    assert_eq!(waiting.await.expect("no panic"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_gathers_while_the_disk_stands_still_is_not_written_as_one_group() {
    let disk = Arc::new(Disk::default());
    let served = Served::start_on(disk.clone(), |_| {}).await;
    let client = served.sessions.welcomed().await;
    let empty = |correlation| batch(correlation, "orders.eu", 0, &[""; 4_096]);
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(Publishing::open(&client, &[], 0).await);
    }
    disk.stall();
    streams[0].write(&empty(0)).await;
    disk.until_somebody_waits().await;
    let before = served.sessions.bytes_in();
    let batches = 70;
    let mut sent = 0;
    for stream in &mut streams {
        for correlation in 1..=batches {
            let batch = empty(correlation);
            sent += batch.len() as u64;
            stream.write(&batch).await;
        }
    }
    until(|| served.sessions.bytes_in() >= before + sent).await;
    disk.go_on();
    streams[0].ack().await;
    for stream in &mut streams {
        for _ in 0..batches {
            stream.ack().await;
        }
    }
    let longest = disk.longest_write();
    assert!(
        longest < MIB as usize,
        "{sent} bytes waited, {longest} were written at once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_topic_too_many_is_refused_alone() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    for number in 1..=TOPICS_MAX as u64 {
        let topic = format!("orders.number{number}");
        publishing.write(&batch(number, &topic, 0, &["a"])).await;
        publishing.ack().await;
    }
    publishing.write(&batch(90, "orders.more", 0, &["a"])).await;
    let refused = publishing.refusal().await;
    assert_eq!(refused, (90, ErrorCode::LimitReached));
    // The stream goes on, and so does what exists.
    publishing
        .write(&batch(91, "orders.number1", 0, &["a"]))
        .await;
    publishing.ack().await;
}

#[tokio::test(start_paused = true)]
async fn silence_between_two_messages_is_no_fault() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    for correlation in 1..=3 {
        tokio::time::advance(10 * served.sessions.service.options.frame_timeout).await;
        let event = batch(correlation, "orders.eu", 0, &["a"]);
        publishing.write(&event).await;
        publishing.ack().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_inside_a_message_ends_alone_and_leaves_nothing_behind() {
    let served = Served::start(|_| {}).await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
    publishing.write(&batch(1, "orders.eu", 1, &["a"])).await;
    publishing.ack().await;
    let half = batch(2, "orders.eu", 2, &["x".repeat(1_000).as_str()]);
    let half = &half[..half.len() / 2];
    served.read(&mut publishing.stream, half).await;
    publishing.stream.send.reset(0);
    let stats = &served.sessions.service.stats;
    until(|| stats.counts().publish_streams_open == 0).await;
    assert_eq!(publishing.reply().await, None);
    assert_eq!(client.connection.end(), None);
    // What came whole counts, and what did not is nowhere.
    let mut again = Publishing::open(&client, &[1; 16], 1).await;
    assert_eq!(again.ready.last_number, 1);
    again.write(&batch(1, "orders.eu", 2, &["b"])).await;
    assert_eq!(again.ack().await.first_sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn a_transport_may_tear_everything_to_pieces() {
    for stream_bytes_max in [1, 7] {
        let served = Served::start(|_| {}).await;
        served.subscription("s", "orders.>").await;
        let client = served.sessions.welcomed_narrow(stream_bytes_max).await;
        let mut publishing = Publishing::open(&client, &[1; 16], 0).await;
        let payload = "x".repeat(200);
        publishing
            .write(&batch(1, "orders.eu", 1, &[&payload]))
            .await;
        assert_eq!(publishing.ack().await.first_sequence, 1);
        let mut consuming = Consuming::open(&client, "s", 1).await.expect("attached");
        let (found, _, position) = consuming.event().await;
        assert_eq!(found, payload);
        consuming.ack_confirmed(position).await;
    }
}
