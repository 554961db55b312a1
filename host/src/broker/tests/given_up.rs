//! What an operator gives up while it is in somebody's hands.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::broker::delivery::fetcher::Manner;
use crate::domain::Position;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_in_hand_when_it_was_given_up_gets_its_letter_once_it_is_missing() {
    let fixture = Fixture::start(0).await;
    fixture.subscribe("kept", "a").await;
    let mut stream = fixture.publisher().await;
    stream.submit(0, "a", 4, 60_000).await;
    stream.answers(1).await;
    let consumer = fixture
        .broker
        .attach(&Principal::local(), "kept", Manner::Silent)
        .await
        .expect("attached");
    let taken = tokio::time::timeout(PATIENCE, consumer.next(4, MIB as usize)).await;
    let taken = taken.expect("in time").expect("delivered");
    let in_hand: Vec<Position> = taken.iter().flat_map(Delivery::positions).collect();
    for correlation in 1..8 {
        stream.submit(correlation, "a", 4, 60_000).await;
    }
    stream.answers(7).await;
    fixture
        .wait_for_metric("tidegate_checkpoints_total 1\n")
        .await;
    assert!(fixture.damage_generations() > 0);
    fixture.subscribe_to_all("late").await;
    fixture
        .wait_info("late", |late| late.stands_at.is_some())
        .await;
    let given_up = fixture.broker.give_up_unreadable(true).await;
    assert!(!given_up.expect("given up").is_empty());
    let kept = fixture.broker.subscription("kept").expect("it exists");
    assert!(kept.depth >= in_hand.len() as u64, "nobody took them away");
    // They come back, and there is nothing to hand out any more; what was not damaged is.
    consumer.give_back(in_hand.into_iter());
    let acked = Arc::new(AtomicU64::new(0));
    let counted = acked.clone();
    let reading = tokio::spawn(async move {
        while let Ok(deliveries) = consumer.next(4, MIB as usize).await {
            let positions = deliveries.iter().flat_map(Delivery::positions);
            let read: Vec<_> = positions.map(|at| at..=at).collect();
            counted.fetch_add(read.len() as u64, Ordering::Relaxed);
            consumer.ack(&read);
        }
    });
    let kept = fixture.wait_info("kept", |kept| kept.depth == 0).await;
    let acked = acked.load(Ordering::Relaxed);
    assert_eq!(kept.dead_lettered + acked, 32, "{kept:?}");
    reading.abort();
    fixture.broker.shutdown().await;
}
