//! How streams move to another connection: publishers when everything is answered, consumers when the application has nothing in hand any
//! more or has had its time, and that a move is over in time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, broker_to_consumer};
use tidegate_wire::stream::memory::MemoryConnection;
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::Instant;

use super::another_connection::{
    FarBroker, another_after, another_after_goodbye, consumer, opened, publisher, take, until,
};
use super::broker::{Broker, Stream, soon};
use crate::{Client, Consumer, ConsumerOptions, Delivery, Event, SubscribeError};

#[tokio::test(start_paused = true)]
async fn a_publisher_moves_when_everything_is_answered_and_sends_nothing_twice() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut first) = tokio::join!(publisher(&client, false), opened(&mut broker));
    let before = publisher.send("a", Event::new("x")).await.unwrap();
    let (batch, _) = first.batch().await;
    another_after_goodbye(&broker, &client).await;
    let after = publisher.send("a", Event::new("y")).await.unwrap();
    // However long it takes.
    tokio::time::sleep(Duration::from_secs(15)).await;
    first.ack(batch.correlation, 1, false).await;
    assert_eq!(soon(before).await.unwrap().sequence, 1);
    let mut second = opened(&mut broker).await;
    first.ended().await;
    let (batch, payloads) = second.batch().await;
    assert_eq!(payloads, ["y"]);
    second.ack(batch.correlation, 2, false).await;
    assert_eq!(soon(after).await.unwrap().sequence, 2);
    // Nothing runs on the old connection any more.
    assert!(matches!(broker.closed().await, ConnectionEnd::Peer { .. }));
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_publisher_moves_at_once_if_its_events_have_numbers() {
    for idempotent in [true, false] {
        let mut broker = FarBroker::far_away();
        let client = broker.far_client().await;
        let opening = publisher(&client, idempotent);
        let (publisher, mut first) = tokio::join!(opening, opened(&mut broker));
        let before = publisher.send("a", Event::new("x")).await.unwrap();
        let (batch, _) = first.batch().await;
        packets_come_late(&mut broker).await;
        if !idempotent {
            tokio::time::sleep(Duration::from_secs(15)).await;
            first.ack(batch.correlation, 1, false).await;
            soon(before).await.unwrap();
            opened(&mut broker).await;
            continue;
        }
        let mut second = opened(&mut broker).await;
        let (again, payloads) = second.batch().await;
        assert_eq!(
            (again.first_number, payloads),
            (batch.first_number, vec!["x".to_owned()])
        );
        assert_eq!(publisher.obstacle(), None);
        // The broker had it.
        second.ack(again.correlation, 1, true).await;
        let published = soon(before).await.unwrap();
        assert_eq!((published.sequence, published.duplicate), (1, true));
        assert!(matches!(broker.closed().await, ConnectionEnd::Peer { .. }));
    }
}

fn acked(position: u64, confirm: u64) -> Command {
    Command::Ack(pb::Ack {
        positions: Some(pb::Positions {
            first: vec![position],
            more: vec![0],
        }),
        confirm,
    })
}

async fn confirm(stream: &mut Stream, number: u64) {
    let confirmed = pb::Confirmed {
        confirm: vec![number],
        ..Default::default()
    };
    let message = broker_to_consumer::Message::Confirmed(confirmed);
    stream.say(message).await;
}

// The number of the first confirmation that the client asks for.
async fn asked_to_confirm<C: Connection>(stream: &mut Stream<C>) -> u64 {
    loop {
        if let Command::Ack(pb::Ack { confirm, .. }) = stream.any_command().await
            && confirm > 0
        {
            return confirm;
        }
    }
}

// The client finishes, once all is confirmed that it asks for.
async fn finished(stream: &mut Stream) {
    while let Some(pb::ConsumerCommand { command }) = stream.read().await {
        if let Some(Command::Ack(pb::Ack { confirm: asked, .. })) = command
            && asked > 0
        {
            confirm(stream, asked).await;
        }
    }
}

// The last that the client asks for on a stream from which it moves.
async fn confirms_the_last(stream: &mut Stream) {
    let number = asked_to_confirm(stream).await;
    confirm(stream, number).await;
}

// The client has finished the first stream, and has another.
async fn goes_on_elsewhere<D>(mut first: Stream, broker: &mut Broker<MemoryConnection, D>) {
    assert_eq!(first.reset_code().await, None, "finished");
    subscribes_elsewhere(first, broker).await;
}

// The broker finishes the first stream too, and the client has another.
async fn subscribes_elsewhere<D>(mut first: Stream, broker: &mut Broker<MemoryConnection, D>) {
    first.finish();
    broker.stream().await.subscribe_ready().await;
}

// The last is confirmed that the client asks for, and it moves.
async fn moves_without_loss(mut first: Stream, broker: &mut FarBroker, consumer: &mut Consumer) {
    confirms_the_last(&mut first).await;
    has_moved_without_loss(first, broker, consumer).await;
}

// All is confirmed, so the client moves.
async fn has_moved_without_loss(first: Stream, broker: &mut FarBroker, consumer: &mut Consumer) {
    goes_on_elsewhere(first, broker).await;
    soon(consumer.flush_acks()).await.expect("nothing is lost");
}

// A consumer whose broker is far away, on its first stream.
async fn far_consumer() -> (FarBroker, Client, Consumer, Stream) {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (consumer, first) = consumer(&mut broker, &client).await;
    (broker, client, consumer, first)
}

// One whose application has the first event in hand.
async fn far_consumer_with_one() -> (FarBroker, Client, Consumer, Stream, Delivery) {
    let (broker, client, mut consumer, mut first) = far_consumer().await;
    first.deliver(1, &[1]).await;
    let one = take(&mut consumer).await;
    (broker, client, consumer, first, one)
}

// The client finds that, and makes another connection.
async fn packets_come_late(broker: &mut FarBroker) {
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
}

// So it does, and waits longer than it may for what the application has in hand.
async fn waits_in_vain(broker: &mut FarBroker, job: &Delivery) {
    packets_come_late(broker).await;
    job.extend_for(Duration::from_secs(3_600));
    tokio::time::sleep(Duration::from_secs(40)).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_moves_when_what_the_application_has_is_acked() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    first.deliver(1, &[1, 1, 1]).await;
    let (one, two) = (take(&mut consumer).await, take(&mut consumer).await);
    one.ack();
    assert_eq!(first.command().await, acked(1, 0));
    another_after_goodbye(&broker, &client).await;
    // It gets no more from there, and has a moment for what it has.
    let none = tokio::time::timeout(Duration::from_secs(1), consumer.next());
    assert!(none.await.is_err());
    assert!(!two.is_expired());
    given_back(&mut first, 3).await;
    two.ack();
    assert_eq!(first.command().await, acked(2, 0));
    let asked = first.command().await;
    let Command::Ack(pb::Ack {
        confirm: number, ..
    }) = asked
    else {
        panic!("{asked:?}");
    };
    let flushed = tokio::spawn(async move {
        let flushed = consumer.flush_acks().await;
        (consumer, flushed)
    });
    tokio::task::yield_now().await;
    confirm(&mut first, number).await;
    assert_eq!(first.reset_code().await, None, "finished");
    first.finish();
    let mut second = broker.stream().await;
    second.subscribe_ready().await;
    let (mut consumer, flushed) = soon(flushed).await.unwrap();
    flushed.expect("nothing is lost");
    second.deliver(1, &[3]).await;
    assert_eq!(take(&mut consumer).await.position, 3);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_application_does_not_answer_moves_all_the_same() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    first.deliver(1, &[1]).await;
    let slow = take(&mut consumer).await;
    broker.go_away().await;
    goes_on_elsewhere(first, &mut broker).await;
    soon(until(|| slow.is_expired())).await;
    slow.ack();
    let lost = soon(consumer.flush_acks()).await;
    assert!(matches!(lost, Err(SubscribeError::AcksLost)), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn an_application_has_as_long_for_its_answers_as_the_broker_takes_them() {
    for (acks_ms, least_ms, most_ms) in [
        (None, 4_900, 5_100),
        (Some(0), 0, 100),
        (Some(9_000), 8_800, 9_000),
    ] {
        let mut broker = Broker::start();
        let client = broker.client().await;
        let (mut consumer, mut first) = consumer(&mut broker, &client).await;
        first.deliver(1, &[1]).await;
        let in_hand = take(&mut consumer).await;
        let begun = Instant::now();
        another_after(&broker, &client, acks_ms).await;
        // The ack deadline is for a broker that goes on.
        in_hand.extend_for(Duration::from_secs(600));
        finished(&mut first).await;
        let took = begun.elapsed().as_millis();
        assert!((least_ms..=most_ms).contains(&took), "{acks_ms:?}: {took}");
        subscribes_elsewhere(first, &mut broker).await;
        assert!(in_hand.is_expired());
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_is_over_in_time_however_often_the_application_is_heard_meanwhile() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    first.deliver(1, &[1]).await;
    take(&mut consumer).await.ack();
    let begun = Instant::now();
    another_after(&broker, &client, Some(9_000)).await;
    asked_to_confirm(&mut first).await;
    // The broker confirms nothing, and whoever asks goes on asking.
    let asking = tokio::spawn(async move {
        loop {
            let flushed = tokio::time::timeout(Duration::from_secs(2), consumer.flush_acks());
            if let Ok(flushed) = flushed.await {
                return (consumer, flushed);
            }
        }
    });
    broker.stream().await.subscribe_ready().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(7), "{took:?}");
    let (_consumer, flushed) = soon(asking).await.unwrap();
    assert!(
        matches!(flushed, Err(SubscribeError::AcksLost)),
        "{flushed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_move_is_over_in_time_although_the_old_connection_takes_nothing_more() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    // More answers than may be under way, since none is a neighbour of another.
    let positions: Vec<u64> = (0..4_000).map(|_| 1_000_000).collect();
    first.deliver(1, &positions).await;
    let mut in_hand = Vec::new();
    for _ in 0..4_000 {
        in_hand.push(take(&mut consumer).await);
    }
    let begun = Instant::now();
    another_after(&broker, &client, Some(3_000)).await;
    for delivery in in_hand.iter().step_by(2) {
        delivery.nack(Some(Duration::from_millis(delivery.position)));
    }
    broker.stream().await.subscribe_ready().await;
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(10),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_named_twice_keeps_nothing_else_from_being_waited_for() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    let acker = consumer.acker();
    first.deliver(1, &[1, 1]).await;
    let (one, two) = (take(&mut consumer).await, take(&mut consumer).await);
    one.ack();
    acker.ack(one.position);
    acker.ack(7);
    another_after(&broker, &client, Some(9_000)).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!two.is_expired());
    acker.ack(two.position);
    confirms_the_last(&mut first).await;
    goes_on_elsewhere(first, &mut broker).await;
    assert!(two.is_expired());
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_waits_for_what_the_application_still_holds() {
    let (mut broker, _client, mut consumer, mut first) = far_consumer().await;
    first.deliver(1, &[1, 1]).await;
    let (one, two) = (take(&mut consumer).await, take(&mut consumer).await);
    packets_come_late(&mut broker).await;
    two.extend_for(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!one.is_expired());
    let obstacle = consumer.obstacle().expect("it waits for answers");
    assert!(obstacle.contains("another connection"), "{obstacle}");
    one.ack();
    // Longer than the ack deadline.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!two.is_expired());
    two.ack();
    moves_without_loss(first, &mut broker, &mut consumer).await;
    assert_eq!(consumer.obstacle(), None);
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_stays_that_has_something_in_hand_for_long() {
    let (mut broker, _client, mut consumer, mut first, job) = far_consumer_with_one().await;
    let begun = Instant::now();
    packets_come_late(&mut broker).await;
    job.extend_for(Duration::from_secs(3_600));
    assert!(
        consumer
            .obstacle()
            .is_none_or(|why| why.contains("another connection"))
    );
    // What came is given back meanwhile, so credit for as much is due.
    first.deliver(1, &[2]).await;
    given_back(&mut first, 2).await;
    let next = tokio::time::timeout(Duration::from_secs(60), async {
        until(|| consumer.obstacle().is_none()).await;
        first.deliver(1, &[2]).await;
        consumer.next().await
    });
    let next = next.await.expect("it goes on").unwrap().unwrap();
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_secs(28) && waited < Duration::from_secs(34),
        "{waited:?}"
    );
    assert_eq!(next.position, 2);
    loop {
        if let Command::Credit(pb::Credit { events, .. }) = first.any_command().await
            && events > 0
        {
            assert_eq!(events, 1);
            break;
        }
    }
    next.ack();
    tokio::time::sleep(Duration::from_secs(600)).await;
    // It moves once nothing is in hand.
    job.ack();
    moves_without_loss(first, &mut broker, &mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_always_holds_something_moves_in_a_later_pause() {
    let (mut broker, _client, mut consumer, mut first, job) = far_consumer_with_one().await;
    let begun = Instant::now();
    waits_in_vain(&mut broker, &job).await;
    // Each is answered soon after the next has come, so that there is never none in hand.
    let (mut before, mut position) = (job, 2);
    while begun.elapsed() < Duration::from_secs(290) {
        assert_eq!(consumer.obstacle(), None);
        first.deliver(1, &[position]).await;
        let next = take(&mut consumer).await;
        before.ack();
        tokio::time::sleep(Duration::from_secs(10)).await;
        (before, position) = (next, position + 1);
    }
    soon(until(|| consumer.obstacle().is_some())).await;
    let waited = begun.elapsed();
    assert!(
        waited > Duration::from_secs(295) && waited < Duration::from_secs(310),
        "{waited:?}"
    );
    before.ack();
    moves_without_loss(first, &mut broker, &mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_stays_is_paused_again_when_the_broker_says_goodbye() {
    let (mut broker, _client, mut consumer, mut first, job) = far_consumer_with_one().await;
    waits_in_vain(&mut broker, &job).await;
    assert_eq!(consumer.obstacle(), None);
    // It waits for the application when the goodbye comes.
    first.deliver(1, &[2]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.go_away_after(Some(4_000)).await;
    let said = Instant::now();
    given_back(&mut first, 2).await;
    let took = said.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(consumer.obstacle().is_some());
    job.ack();
    let number = asked_to_confirm(&mut first).await;
    // What comes while the last answers are confirmed is given back too.
    first.deliver(1, &[3]).await;
    given_back(&mut first, 3).await;
    confirm(&mut first, number).await;
    has_moved_without_loss(first, &mut broker, &mut consumer).await;
}

// The client gives this back, and says before that it counts among those handed over.
async fn given_back<C: Connection>(stream: &mut Stream<C>, position: u64) {
    let mut said = (0, 0);
    loop {
        match stream.any_command().await {
            Command::Credit(credit) => said = (credit.handed_over, credit.handed_over_max),
            Command::GiveBack(given) => {
                let positions = given.positions.expect("some");
                assert_eq!(
                    (&*positions.first, &*positions.more),
                    (&[position][..], &[0][..])
                );
                // They are numbered like their positions here.
                assert_eq!(said.0, position);
                assert!(said.1 >= position + 8, "{said:?}");
                return;
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_loses_no_answers_to_a_slow_broker() {
    let (mut broker, _client, mut consumer, mut first, one) = far_consumer_with_one().await;
    packets_come_late(&mut broker).await;
    one.ack();
    let number = asked_to_confirm(&mut first).await;
    // Its disk takes its time, and it says other things meanwhile. It would wait no longer than for some seconds once the client has
    // finished.
    for _ in 0..3 {
        let ended = tokio::time::timeout(Duration::from_secs(15), first.ended());
        assert!(ended.await.is_err(), "finished with answers unconfirmed");
        first.heard(1).await;
    }
    confirm(&mut first, number).await;
    has_moved_without_loss(first, &mut broker, &mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_closed_while_it_moves_does_not_wait_for_a_slow_broker() {
    let (mut broker, _client, consumer, mut first, one) = far_consumer_with_one().await;
    packets_come_late(&mut broker).await;
    one.ack();
    asked_to_confirm(&mut first).await;
    let begun = Instant::now();
    let closing = tokio::spawn(consumer.close());
    assert_eq!(first.reset_code().await, None, "finished");
    soon(closing).await.unwrap();
    let took = begun.elapsed();
    assert!(took <= Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_on_a_connection_that_is_to_end_hears_the_goodbye_there() {
    for acks_ms in [Some(4_000), None] {
        let (mut broker, _client, mut consumer, mut first) = far_consumer().await;
        first.deliver(1, &[1, 1]).await;
        let (one, two) = (take(&mut consumer).await, take(&mut consumer).await);
        packets_come_late(&mut broker).await;
        one.ack();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!two.is_expired());
        let said = Instant::now();
        broker.go_away_after(acks_ms).await;
        let number = asked_to_confirm(&mut first).await;
        let took = said.elapsed().as_millis() as u64;
        let lasts = acks_ms.unwrap_or(5_000);
        assert!((lasts - 200..=lasts).contains(&took), "{took}");
        confirm(&mut first, number).await;
        subscribes_elsewhere(first, &mut broker).await;
        assert!(two.is_expired());
        soon(consumer.flush_acks()).await.expect("nothing is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_for_a_last_confirmation_hears_the_goodbye_there() {
    let (mut broker, _client, consumer, mut first, one) = far_consumer_with_one().await;
    packets_come_late(&mut broker).await;
    one.ack();
    asked_to_confirm(&mut first).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let said = Instant::now();
    broker.go_away_after(Some(4_000)).await;
    broker.stream().await.subscribe_ready().await;
    let took = said.elapsed();
    assert!(
        took > Duration::from_secs(5) && took < Duration::from_secs(7),
        "{took:?}"
    );
    let lost = soon(consumer.flush_acks()).await;
    assert!(matches!(lost, Err(SubscribeError::AcksLost)), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_waits_for_nothing_that_it_has_not_held_for_long() {
    #[derive(Debug)]
    enum Before {
        Forgotten,
        Extended,
        ExtendedByPosition,
        AckedByPosition,
    }
    for before in [
        Before::Forgotten,
        Before::Extended,
        Before::ExtendedByPosition,
        Before::AckedByPosition,
    ] {
        let (mut broker, _client, mut consumer, mut first, one) = far_consumer_with_one().await;
        let acker = consumer.acker();
        match before {
            Before::Forgotten => {}
            Before::Extended => {
                one.extend_for(Duration::from_secs(3_600));
                one.ack();
                one.extend_for(Duration::from_secs(7_200));
            }
            Before::ExtendedByPosition => {
                acker.extend_for(1, Duration::from_secs(3_600));
                one.ack();
            }
            // It may have been another that it had before.
            Before::AckedByPosition => acker.ack(1),
        }
        tokio::time::sleep(Duration::from_secs(31)).await;
        first.deliver(1, &[2]).await;
        take(&mut consumer).await.ack();
        let begun = Instant::now();
        packets_come_late(&mut broker).await;
        confirms_the_last(&mut first).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{before:?}: {took:?}");
        subscribes_elsewhere(first, &mut broker).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_waits_for_no_answer_after_the_ack_deadline() {
    let (mut broker, _client, _consumer, mut first, forgotten) = far_consumer_with_one().await;
    packets_come_late(&mut broker).await;
    // Nothing that is waited for at once takes as long as the ack deadline.
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(!forgotten.is_expired());
    assert_eq!(first.reset_code().await, None, "finished");
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(29) && took < Duration::from_secs(31),
        "{took:?}"
    );
    assert!(forgotten.is_expired());
    subscribes_elsewhere(first, &mut broker).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_the_broker_ends_at_a_goodbye_goes_on_elsewhere_at_once() {
    let mut broker = Broker::start();
    let options = broker.options();
    let client = broker.connect(options.backoff(Duration::from_secs(3), Duration::from_secs(3)));
    let client = client.await.unwrap();
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    first.deliver(1, &[1]).await;
    let in_hand = take(&mut consumer).await;
    another_after_goodbye(&broker, &client).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended = Instant::now();
    let error = pb::Error::new(pb::ErrorCode::ShuttingDown, "the broker is shutting down");
    first.say(broker_to_consumer::Message::Error(error)).await;
    broker.stream().await.subscribe_ready().await;
    assert!(ended.elapsed() < Duration::from_secs(1), "no back-off");
    assert!(in_hand.is_expired());
}

#[tokio::test(start_paused = true)]
async fn one_that_only_looks_stays_where_it_is() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = ConsumerOptions::default();
    let (looking, mut stream) = tokio::join!(soon(client.look("s", options)), async {
        let mut stream = broker.stream().await;
        stream.subscribe_ready().await;
        stream
    });
    let mut looking = looking.unwrap();
    another_after_goodbye(&broker, &client).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    stream.deliver(1, &[1]).await;
    assert_eq!(take(&mut looking).await.position, 1);
}
