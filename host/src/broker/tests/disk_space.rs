//! What becomes of publishers when there is no room: they are told, and go on when there is.

use super::*;
use crate::broker::delivery::fetcher::Manner;
use crate::domain::Event;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishes_lets_drain_and_passes() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", ">").await;
    let mut stream = fixture.publisher().await;
    stream.publish().await.expect("room");
    fixture.fs.limit_allocations(MIB / 4);
    let refusal = stream.publish_until_refused().await;
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(refusal.to_string().contains("full"), "{refusal}");
    fixture.wait_for(&Condition::DiskFull, true).await;
    assert!(!fixture.broker.health().ready);
    let consumer = fixture
        .broker
        .attach(&Principal::local(), "s", Manner::Silent)
        .await
        .expect("attached");
    let deliveries = tokio::time::timeout(PATIENCE, consumer.next(16, 1 << 20)).await;
    let deliveries = deliveries.expect("in time").expect("delivered");
    let positions = deliveries.iter().flat_map(Delivery::positions);
    let acked: Vec<_> = positions.map(|at| at..=at).collect();
    assert!(consumer.ack(&acked).is_empty());
    let confirmed = tokio::time::timeout(PATIENCE, consumer.acks_durable()).await;
    confirmed.expect("in time").expect("acks go on");
    fixture.fs.heal();
    fixture.wait_for(&Condition::DiskFull, false).await;
    stream.publish().await.expect("there is room again");
    assert!(fixture.broker.health().ready, "{:?}", fixture.raised());
    fixture.broker.shutdown().await;
}

// The disk takes nothing more in the middle of a group, as one can that did not keep what it had reserved.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_finds_no_room_is_refused_and_changes_nothing() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", ">").await;
    let mut stream = fixture.numbered_publisher(1).await;
    stream.submit_numbered(1, "a.b", 1).await;
    let first = stream.answers(1).await.remove(0).result.expect("appended");
    let last = fixture.create_topic("before").await.expect("created");

    let full = Fault::Error(std::io::ErrorKind::StorageFull);
    fixture.fs.fail_with(Operation::Write, "journal", full);
    for number in 2..10 {
        stream.submit_numbered(number, "a.new", 1).await;
    }
    for answer in stream.answers(8).await {
        let refusal = answer.result.expect_err("no room");
        assert!(refusal.is_retryable(), "{refusal}");
    }
    let refusal = fixture.create_topic("refused").await.expect_err("no room");
    assert!(refusal.is_retryable(), "{refusal}");
    fixture.wait_for(&Condition::DiskFull, true).await;

    fixture.fs.heal();
    fixture.wait_for(&Condition::DiskFull, false).await;
    assert_eq!(fixture.raised(), []);
    // What waited behind a batch that was refused does not overtake it.
    stream.submit_numbered(10, "a.b", 1).await;
    let refusal = stream
        .answers(1)
        .await
        .remove(0)
        .result
        .expect_err("behind");
    assert!(refusal.is_retryable(), "{refusal}");
    // The same numbers are no resend, the topic comes into being now, and no number was used up.
    let mut stream = fixture.numbered_publisher(2).await;
    for number in 2..10 {
        stream.submit_numbered(number, "a.new", 1).await;
    }
    for answer in stream.answers(8).await {
        assert!(!answer.result.expect("appended").duplicate);
    }
    let next = fixture.create_topic("refused").await.expect("created");
    assert_eq!(next.0, last.0 + 2);
    stream.submit_numbered(10, "a.b", 1).await;
    let tenth = stream.answers(1).await.remove(0).result.expect("appended");
    assert_eq!(tenth.first_sequence.0, first.first_sequence.0 + 1);
    drop(stream);
    let fixture = fixture.start_after(|_| ()).await;
    let line = "tidegate_subscription_depth{subscription=\"s\"} 10\n";
    fixture.wait_for_metric(line).await;
    // Whose the producer is was written down although it was refused at first.
    let mut stream = fixture.numbered_publisher(3).await;
    stream.submit_numbered(10, "a.b", 1).await;
    assert!(
        stream
            .answers(1)
            .await
            .remove(0)
            .result
            .expect("known")
            .duplicate
    );
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_run_out_are_not_called_a_full_disk() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    fixture
        .fs
        .fail_with(Operation::Create, "journal", Fault::OutOfFiles);
    let refusal = stream.publish_until_refused().await;
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(!refusal.to_string().contains("disk"), "{refusal}");
    let condition = Condition::OutOfFiles;
    let raised = fixture.raised();
    let of_disk = [Condition::DiskFull, Condition::StoreFailed];
    assert!(raised.contains(&condition), "{raised:?}");
    assert!(
        !raised.iter().any(|one| of_disk.contains(one)),
        "{raised:?}"
    );
    fixture.fs.heal();
    fixture.wait_for(&condition, false).await;
    stream.publish().await.expect("there are some again");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_are_told_when_no_checkpoint_makes_room_and_go_on_when_one_does() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    fixture.fs.fail(Operation::Write, "manifest");
    let refusal = stream.publish_until_refused().await;
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(refusal.to_string().contains("manifest"), "{refusal}");
    let raised = fixture.raised();
    let expected = [Condition::JournalFull, Condition::CheckpointFails];
    assert_eq!(raised, expected);
    fixture.fs.heal();
    fixture.wait_for(&Condition::JournalFull, false).await;
    fixture.wait_for(&Condition::CheckpointFails, false).await;
    stream.publish().await.expect("there is room again");
    fixture.broker.shutdown().await;
}

// A sync that fails while sled closes a database makes it panic.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_whose_databases_cannot_be_closed_is_tried_again() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    let failing = crate::store::failing::closing(fixture.dir.path());
    let refusal = stream.publish_until_refused().await;
    assert!(refusal.is_retryable(), "{refusal}");
    let expected = [Condition::JournalFull, Condition::CheckpointFails];
    assert_eq!(fixture.raised(), expected);
    drop(failing);
    fixture.wait_for(&Condition::JournalFull, false).await;
    fixture.wait_for(&Condition::CheckpointFails, false).await;
    assert!(fixture.broker.health().ready, "{:?}", fixture.raised());
    stream.publish().await.expect("there is room again");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_checkpointer_holds_up_nobody_for_ever() {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    fixture
        .fs
        .fail_with(Operation::Write, "manifest", Fault::Panic);
    let refusal = stream.publish_until_refused().await;
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(refusal.to_string().contains("checkpointer"), "{refusal}");
    fixture.wait_for(&died("checkpointer"), true).await;
    assert!(!fixture.broker.health().ready);
    let refused = fixture.broker.give_up_unreadable(true).await;
    let refused = refused.expect_err("nobody decides").to_string();
    assert!(refused.contains("checkpointer"), "{refused}");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_router_holds_up_no_publisher_for_ever() {
    let fixture = Fixture::start(0).await;
    fixture.subscribe("s", ">").await;
    fixture
        .fs
        .fail_with(Operation::Read, "journal", Fault::Panic);
    let mut stream = fixture.publisher().await;
    stream.submit(1, "a.b", 4, 60_000).await;
    assert!(stream.answers(1).await[0].result.is_ok());
    fixture.wait_for(&died("router"), true).await;
    let refusal = stream.publish_until_refused().await;
    assert!(refusal.to_string().contains("router"), "{refusal}");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_that_is_refused_fences_nobody() {
    let fixture = Fixture::start(1 << 20).await;
    let open = async |epoch| fixture.open(Some((ProducerId(7), epoch))).await;
    let mut first = open(1).await.expect("opens");
    let publish = async |stream: &mut Stream, number| {
        let request = PublishRequest {
            correlation: number,
            topic: "a.b".parse().expect("a name"),
            first_number: number,
            resolved_through: 0,
            entries: EncodedEvents::of([[7; 10].as_slice()].into_iter()),
            cost: 1_050,
        };
        stream.publisher.submit(request).await.expect("handed over");
        stream.answers(1).await.remove(0).result
    };
    publish(&mut first, 1).await.expect("room");
    let is_fenced = |stream: &Stream| {
        let stream = stream.publisher.stream.as_ref();
        stream.expect("it has a producer").is_fenced()
    };
    fixture.fs.fail(Operation::Write, "journal");
    publish(&mut first, 2).await.expect_err("it fails");
    fixture.wait_for(&Condition::StoreFailed, true).await;
    let refusal = open(2).await.err().expect("what was cannot be settled");
    assert!(refusal.is_retryable(), "{refusal}");
    assert!(!is_fenced(&first), "nobody took over");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_stream_of_a_producer_fences_the_older_one() {
    let fixture = Fixture::start(1 << 20).await;
    let open = async |epoch| fixture.open(Some((ProducerId(7), epoch))).await;
    let first = open(2).await.expect("opens");
    let refused = open(1).await.err();
    assert!(matches!(refused, Some(PublishError::Fenced)), "{refused:?}");
    let stream = first.publisher.stream.clone().expect("a producer");
    assert!(!stream.is_fenced());
    let second = open(3).await.expect("opens");
    assert!(stream.is_fenced());
    drop(second);
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_goes_on_into_most_of_the_reserve_and_leaves_room_for_acks() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", "a.b").await;
    let mut stream = fixture.publisher().await;
    // What a file gets then, the checkpoint's next one too.
    fixture.fs.limit_allocations(MIB / 2);
    // Routes look into events.
    let event = Event {
        payload: vec![7; 60_000].into(),
        ..Event::default()
    };
    let event = prost::Message::encode_to_vec(&event);
    loop {
        let request = PublishRequest {
            correlation: 1,
            topic: "a.b".parse().expect("a name"),
            first_number: 0,
            resolved_through: 0,
            entries: EncodedEvents::of([event.as_slice()]),
            cost: 1_024 + event.len() + 16,
        };
        let submitted = stream.publisher.submit(request).await;
        submitted.expect("handed over");
        if stream.answers(1).await.remove(0).result.is_err() {
            break;
        }
    }
    fixture.wait_for(&Condition::DiskFull, true).await;
    let route = serde_json::json!({
        "name": "r", "topics": ["a.b"], "start": "earliest", "outputs": {"out": "out"},
    });
    let route = serde_json::from_value(route).expect("a specification");
    let created = fixture
        .broker
        .create_subscription(&Principal::local(), route)
        .await;
    created.expect("changes go on");
    let out = "out".parse().expect("a name");
    let routed = || {
        let info = fixture.broker.topic(&out).ok();
        info.map_or(0, |info| info.next_sequence.0 - 1)
    };
    let moved = async {
        while routed() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let moved = tokio::time::timeout(PATIENCE, moved).await;
    moved.expect("it goes on although the disk is full");
    let consumer = fixture
        .broker
        .attach(&Principal::local(), "s", Manner::Silent)
        .await;
    let consumer = consumer.expect("attached");
    loop {
        let depth = fixture.broker.subscription("s").expect("there").depth;
        if depth == 0 {
            break;
        }
        let deliveries = tokio::time::timeout(PATIENCE, consumer.next(16, 1 << 20)).await;
        let deliveries = deliveries.expect("in time").expect("delivered");
        let positions = deliveries.iter().flat_map(Delivery::positions);
        let acked: Vec<_> = positions.map(|at| at..=at).collect();
        assert!(consumer.ack(&acked).is_empty());
        let confirmed = tokio::time::timeout(PATIENCE, consumer.acks_durable()).await;
        confirmed.expect("in time").expect("there is room for acks");
    }
    // A quarter of a usual file is left, so these go into the other half of such a half, or of the reserve.
    assert!((1..=13).contains(&routed()), "{}", routed());
    let refused = stream.publish().await.expect_err("the disk is full");
    assert!(refused.is_retryable(), "{refused}");
    fixture.fs.heal();
    fixture.wait_for(&Condition::DiskFull, false).await;
    fixture.wait_info("r", |route| route.depth == 0).await;
    fixture.broker.shutdown().await;
}
