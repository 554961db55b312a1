//! What becomes of publishers when there is no room: they are told, and go on when there is.

use super::*;

impl Stream {
    // Publishes until it is refused, and returns why.
    async fn publish_until_refused(&mut self) -> BrokerError {
        for correlation in 0..1_000 {
            self.submit(correlation, "a.b", 1, 60_000).await;
            if let Err(refusal) = self.answers(1).await.remove(0).result {
                return refusal;
            }
        }
        panic!("60 MB found room in 4 MiB");
    }

    async fn publish(&mut self) -> Result<PublishOutcome, BrokerError> {
        self.submit(0, "a.b", 1, 10).await;
        self.answers(1).await.remove(0).result
    }
}

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
        .attach(&Principal::local(), "s", false)
        .await
        .expect("attached");
    let deliveries = tokio::time::timeout(PATIENCE, consumer.next(16, 1 << 20)).await;
    let deliveries = deliveries.expect("in time").expect("delivered");
    let positions = deliveries.iter().flat_map(Delivery::positions);
    let acked: Vec<_> = positions.map(|at| at..=at).collect();
    let confirmed = tokio::time::timeout(PATIENCE, consumer.ack_confirmed(&acked)).await;
    confirmed.expect("in time").expect("acks go on");
    fixture.fs.heal();
    fixture.wait_for(&Condition::DiskFull, false).await;
    stream.publish().await.expect("there is room again");
    assert!(fixture.broker.health().ready, "{:?}", fixture.raised());
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
