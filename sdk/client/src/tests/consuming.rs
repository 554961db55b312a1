//! Consuming: answers, losses, goodbyes.

use std::time::Duration;

use futures_util::FutureExt;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, broker_to_consumer::Message};
use tokio::time::Instant;

use super::broker::{Broker, Stream, soon};
use crate::{Client, Consumer, ConsumerOptions, Delivery, ErrorCode, SubscribeError};

/// A consumer, and the broker's end of its stream.
pub(super) async fn attach(
    broker: &mut Broker,
    client: &Client,
    options: ConsumerOptions,
) -> (Consumer, Stream) {
    let (consumer, stream) = tokio::join!(soon(client.subscribe("s", options)), async {
        let mut stream = broker.stream().await;
        stream.subscribe_ready().await;
        stream
    });
    (consumer.unwrap(), stream)
}

pub(super) async fn take(consumer: &mut Consumer) -> Delivery {
    soon(consumer.next())
        .await
        .expect("a delivery, not the end")
        .unwrap()
}

fn positions(first: &[u64], more: &[u64]) -> Option<pb::Positions> {
    Some(pb::Positions {
        first: first.to_vec(),
        more: more.to_vec(),
    })
}

pub(super) fn ack(first: &[u64], more: &[u64], confirm: u64) -> Command {
    Command::Ack(pb::Ack {
        positions: positions(first, more),
        confirm,
    })
}

#[tokio::test(start_paused = true)]
async fn acks_travel_as_ranges() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    let open = pb::SubscribeOpen {
        subscription: "s".into(),
        credit_events: 4096,
        credit_bytes: 8 << 20,
        says_handed_over: true,
        look: false,
        tell_not_held: true,
        takes_compact: true,
        handed_over_max: 12,
    };
    assert_eq!(stream.subscribe_open(), &open);
    stream.deliver(1, &[5, 1, 1, 1, 2, 1]).await;
    let mut deliveries = Vec::new();
    for _ in 0..6 {
        deliveries.push(take(&mut consumer).await);
    }
    let first = &deliveries[0];
    assert_eq!(
        (
            &*first.topic,
            first.position,
            first.sequence,
            first.attempt,
            first.time_ms
        ),
        ("a", 5, 5, 1, 7)
    );
    assert_eq!(first.event().payload, "e0");
    // The driver runs when this task waits, so all of these are on one message.
    for delivery in deliveries.iter().rev() {
        delivery.ack();
        delivery.ack();
    }
    assert_eq!(stream.command().await, ack(&[5, 2], &[3, 1], 0));
    consumer.acker().ack(40);
    assert_eq!(stream.command().await, ack(&[40], &[0], 0));
}

#[tokio::test(start_paused = true)]
async fn other_answers_say_what_they_must() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 1, 1]).await;
    take(&mut consumer).await.nack(Some(Duration::from_secs(2)));
    take(&mut consumer).await.nack(None);
    take(&mut consumer).await.term("no use");
    let last = take(&mut consumer).await;
    last.extend();
    last.ack();
    last.extend();
    let nack = |position, delay_ms| {
        Command::Nack(pb::Nack {
            positions: positions(&[position], &[0]),
            delay_ms,
        })
    };
    for expected in [
        Command::Extend(pb::Extend {
            positions: positions(&[4], &[0]),
            extend_for_ms: None,
        }),
        nack(1, Some(2000)),
        nack(2, None),
        Command::Term(pb::Term {
            positions: positions(&[3], &[0]),
            reason: "no use".into(),
        }),
        ack(&[4], &[0], 0),
    ] {
        assert_eq!(stream.command().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn parts_are_one_delivery() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[3, 0, 0, 1]).await;
    let delivery = take(&mut consumer).await;
    let payloads: Vec<_> = delivery
        .parts()
        .iter()
        .map(|part| part.payload.clone())
        .collect();
    assert_eq!(
        (delivery.position, payloads),
        (3, vec!["e0".into(), "e1".into(), "e2".into()])
    );
    assert_eq!(take(&mut consumer).await.position, 4);
}

#[tokio::test(start_paused = true)]
async fn dropping_sends_the_last_acks_and_ends_the_stream() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1]).await;
    take(&mut consumer).await.ack();
    let held = take(&mut consumer).await;
    drop(consumer);
    assert_eq!(stream.command().await, ack(&[1], &[0], 0));
    assert_eq!(stream.read::<pb::ConsumerCommand>().await, None);
    // Too late, and harmless.
    held.ack();
}

#[tokio::test(start_paused = true)]
async fn closing_waits_until_the_broker_has_heard() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    let begun = Instant::now();
    let close = soon(consumer.close());
    tokio::pin!(close);
    assert!(close.as_mut().now_or_never().is_none());
    let ((), end) = tokio::join!(close, stream.read::<pb::ConsumerCommand>());
    assert_eq!((end, begun.elapsed()), (None, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_long_for_a_broker_that_hears_nothing() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    let begun = Instant::now();
    soon(consumer.close()).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    assert_eq!(stream.reset_code().await, Some(0));
}

#[tokio::test(start_paused = true)]
async fn confirmed_acks_are_durable() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    soon(consumer.flush_acks())
        .await
        .expect("nothing to confirm");
    stream.deliver(1, &[1]).await;
    take(&mut consumer).await.ack();
    let (flushed, ()) = tokio::join!(soon(consumer.flush_acks()), async {
        assert_eq!(stream.command().await, ack(&[1], &[0], 1));
        stream
            .say(Message::Confirmed(pb::Confirmed {
                confirm: vec![1],
                ..Default::default()
            }))
            .await;
    });
    flushed.unwrap();
    soon(consumer.flush_acks())
        .await
        .expect("nothing left to confirm");
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_covers_what_was_answered_before_it_was_asked_for() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    let confirmed = |number| {
        Message::Confirmed(pb::Confirmed {
            confirm: vec![number],
            ..Default::default()
        })
    };
    stream.deliver(1, &[1, 1, 1]).await;
    take(&mut consumer).await.ack();
    // One who asks, and does not wait for the answer.
    assert!(consumer.flush_acks().now_or_never().is_none());
    assert_eq!(stream.command().await, ack(&[1], &[0], 1));
    take(&mut consumer).await.ack();
    assert_eq!(stream.command().await, ack(&[2], &[0], 0));
    stream.say(confirmed(1)).await;
    // It is here when this is.
    stream.deliver(1, &[9]).await;
    take(&mut consumer).await;
    assert_eq!(take(&mut consumer).await.position, 9);
    let (flushed, ()) = tokio::join!(soon(consumer.flush_acks()), async {
        assert_eq!(stream.command().await, ack(&[], &[], 2));
        stream.say(confirmed(2)).await;
    });
    flushed.unwrap();
    let done = consumer.flush_acks().now_or_never();
    done.expect("nothing is left to confirm").unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_everything_comes_again() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 1]).await;
    let held = take(&mut consumer).await;
    let acked = take(&mut consumer).await;
    acked.ack();
    assert_eq!(stream.command().await, ack(&[2], &[0], 0));
    broker.drop_connections();

    let mut again = broker.stream().await;
    assert_eq!(again.subscribe_open(), stream.subscribe_open());
    again.subscribe_ready().await;
    held.ack();
    again.deliver(2, &[1, 2]).await;
    // The third of the first stream was not taken, and is not handed out any more.
    let redelivered = take(&mut consumer).await;
    assert_eq!((redelivered.position, redelivered.attempt), (1, 2));
    let error = soon(consumer.flush_acks()).await.unwrap_err();
    assert!(matches!(error, SubscribeError::AcksLost), "{error:?}");
    redelivered.ack();
    assert_eq!(
        again.command().await,
        ack(&[1], &[0], 0),
        "the ack of a lost stream was sent"
    );
    assert_eq!(take(&mut consumer).await.position, 3);
}

#[tokio::test(start_paused = true)]
async fn a_flush_under_way_hears_of_the_loss() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1]).await;
    take(&mut consumer).await.ack();
    let (flushed, ()) = tokio::join!(soon(consumer.flush_acks()), async {
        stream.command().await;
        broker.drop_connections();
    });
    assert!(
        matches!(flushed, Err(SubscribeError::AcksLost)),
        "{flushed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_typed() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (consumer, ()) = tokio::join!(
        soon(client.subscribe("s", ConsumerOptions::default())),
        async {
            let mut stream = broker.stream().await;
            let error = pb::Error::new(ErrorCode::NotFound, "there is no subscription `s`");
            let result = Some(pb::subscribe_opened::Result::Error(error));
            stream.write(&pb::SubscribeOpened { result }).await;
        }
    );
    let error = consumer.unwrap_err();
    assert!(
        matches!(&error, SubscribeError::Refused(refusal) if refusal.code == ErrorCode::NotFound),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_subscription_ends_the_consumer() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream
        .say(Message::Error(pb::Error::new(
            ErrorCode::SubscriptionGone,
            "deleted",
        )))
        .await;
    let error = soon(consumer.next()).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, SubscribeError::Refused(refusal) if refusal.code == ErrorCode::SubscriptionGone),
        "{error:?}"
    );
    assert!(soon(consumer.next()).await.is_none());
    let error = soon(consumer.flush_acks()).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Refused(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retryable_end_is_attached_again() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream
        .say(Message::Error(pb::Error::new(
            ErrorCode::ShuttingDown,
            "restarting",
        )))
        .await;
    let mut again = broker.stream().await;
    again.subscribe_ready().await;
    again.deliver(1, &[8]).await;
    assert_eq!(take(&mut consumer).await.position, 8);
}

#[tokio::test(start_paused = true)]
async fn the_broker_is_told_what_the_application_got() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 0, 1, 1]).await;
    let _held = take(&mut consumer).await;
    assert!(!stream.handed_over(1).await, "no answer is wanted");
    let _held = take(&mut consumer).await;
    stream.handed_over(2).await;
    let _held = take(&mut consumer).await;
    // Also as the last word.
    tokio::join!(soon(consumer.close()), stream.handed_over(3));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_waits_until_the_broker_has_heard_of_it() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1]).await;
    assert_eq!(take(&mut consumer).await.position, 1);
    stream.deliver_suspects(2, &[2, 1]).await;
    stream.deliver(1, &[9]).await;
    let (first, ()) = tokio::join!(take(&mut consumer), async {
        assert!(stream.handed_over(3).await || stream.handed_over(3).await);
        stream.heard(3).await;
    });
    assert_eq!((first.position, first.attempt), (2, 2));
    assert_eq!(take(&mut consumer).await.position, 3);
    assert_eq!(take(&mut consumer).await.position, 9);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_nobody_heard_of_goes_down_with_its_connection() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver_suspects(2, &[2]).await;
    let (delivery, _stream) = tokio::join!(take(&mut consumer), async {
        assert!(stream.handed_over(1).await);
        broker.drop_connections();
        let mut stream = broker.stream().await;
        stream.subscribe_ready().await;
        stream.deliver(1, &[7]).await;
        stream
    });
    assert_eq!(delivery.position, 7);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_goes_down_with_a_panic_says_so() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1]).await;
    let application = tokio::spawn(async move {
        take(&mut consumer).await;
        panic!("the application of a test fails, as it should");
    });
    assert!(soon(application).await.is_err());
    assert_eq!(stream.reset_code().await, Some(1));

    let (consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    drop(consumer);
    assert_eq!(stream.reset_code().await, None, "finished");
}

#[tokio::test(start_paused = true)]
async fn who_only_looks_says_so() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (consumer, stream) =
        tokio::join!(soon(client.look("s", ConsumerOptions::default())), async {
            let mut stream = broker.stream().await;
            stream.subscribe_ready().await;
            stream
        });
    assert!(stream.subscribe_open().look);
    drop(consumer.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_application_is_extended_and_then_given_back() {
    let mut broker = Broker::start();
    let client = broker
        .connect(broker.options().buffered_max(Duration::from_secs(25)))
        .await
        .unwrap();
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 1, 0, 4]).await;
    let slow = take(&mut consumer).await;
    // The ack deadline is 30 s: a sign every ten.
    let extend = Command::Extend(pb::Extend {
        positions: positions(&[2, 4], &[1, 0]),
        extend_for_ms: Some(30_000),
    });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(10_100)).await;
        assert_eq!(stream.command().await, extend);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let back = Command::GiveBack(pb::GiveBack {
        positions: positions(&[2, 4], &[1, 0]),
    });
    assert_eq!(stream.command().await, back);
    assert!(!slow.is_expired(), "it has 30 s from when it got it");
    // Nothing in their place, and they are not handed out, before it goes on.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(slow.is_expired());
    stream.deliver(1, &[9]).await;
    let next = take(&mut consumer).await;
    assert_eq!(next.position, 9);
    next.ack();
    slow.ack();
    let mut said = vec![stream.any_command().await, stream.any_command().await];
    said.sort_by_key(|command| matches!(command, Command::Ack(_)));
    let parked = Command::Credit(pb::Credit {
        events: 3,
        bytes: 16,
        // It has passed over those that were given back.
        handed_over: 4,
        handed_over_max: 16,
        ..Default::default()
    });
    assert_eq!(said, [parked, ack(&[1, 8], &[0, 0], 0)]);
}

#[tokio::test(start_paused = true)]
async fn who_takes_one_after_the_other_has_nothing_extended() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1; 20]).await;
    for position in 1..=5 {
        let delivery = take(&mut consumer).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!delivery.is_expired());
        delivery.ack();
        assert_eq!(stream.command().await, ack(&[position], &[0], 0));
    }
}

#[tokio::test(start_paused = true)]
async fn late_answers_are_told_to_the_application() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 1, 1]).await;
    let (lost, kept) = (take(&mut consumer).await, take(&mut consumer).await);
    // One that the application has, and one that it has not.
    let not_held = |confirm| {
        Message::Confirmed(pb::Confirmed {
            confirm,
            not_held: positions(&[1, 2], &[0, 0]),
            not_held_is_cut: false,
        })
    };
    stream.say(not_held(vec![])).await;
    while !lost.is_expired() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(take(&mut consumer).await.position, 4, "3 has gone");
    assert!(lost.is_expired() && !kept.is_expired());
    lost.ack();
    kept.ack();
    // Nothing is told before everything else is durable, though something is known.
    let (flushed, ()) = tokio::join!(soon(consumer.flush_acks()), async {
        // In place of the one that was passed over, another may come.
        let passed_over = pb::Credit {
            events: 1,
            bytes: 4,
            ..Default::default()
        };
        assert_eq!(stream.command().await, Command::Credit(passed_over));
        assert_eq!(stream.command().await, ack(&[1], &[1], 1));
        let confirmed = pb::Confirmed {
            confirm: vec![1],
            not_held: positions(&[1], &[0]),
            not_held_is_cut: true,
        };
        stream.say(Message::Confirmed(confirmed)).await;
    });
    let error = flushed.unwrap_err();
    assert!(
        matches!(&error, SubscribeError::NotHeld { positions, more: true } if *positions == [1..=1]),
        "{error:?}"
    );
    soon(consumer.flush_acks()).await.expect("told");
    // With nothing to confirm it is told at once.
    stream.say(not_held(vec![])).await;
    let told = async || loop {
        match soon(consumer.flush_acks()).await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => break error,
        }
    };
    assert!(matches!(
        soon(told()).await,
        SubscribeError::NotHeld { more: false, .. }
    ));
    // What comes again is held again.
    stream.deliver(2, &[1]).await;
    assert!(!take(&mut consumer).await.is_expired());
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_none_to_what_came_again() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 1, 1, 1]).await;
    let mut late = Vec::new();
    for _ in 0..5 {
        late.push(take(&mut consumer).await);
    }
    late[4].ack();
    assert_eq!(stream.command().await, ack(&[5], &[0], 0));
    // Of these the application has one, and the others wait for it.
    stream.deliver(2, &[1, 1, 1, 1]).await;
    let mut again = vec![take(&mut consumer).await];
    assert!(late[..4].iter().all(Delivery::is_expired));
    assert!(!again[0].is_expired());
    late[0].ack();
    late[1].nack(None);
    late[2].term("of no use");
    late[3].extend();
    let (flushed, ()) = tokio::join!(soon(consumer.flush_acks()), async {
        // Of the fifth.
        assert_eq!(stream.command().await, ack(&[], &[], 1));
        let confirmed = pb::Confirmed {
            confirm: vec![1],
            ..Default::default()
        };
        stream.say(Message::Confirmed(confirmed)).await;
    });
    let error = flushed.unwrap_err();
    assert!(
        matches!(&error, SubscribeError::NotHeld { positions, more: false } if *positions == [1..=1, 2..=2, 3..=3, 4..=4]),
        "{error:?}"
    );
    for _ in 1..4 {
        again.push(take(&mut consumer).await);
    }
    assert!(!again.iter().any(Delivery::is_expired));
    again.iter().for_each(Delivery::ack);
    assert_eq!(stream.command().await, ack(&[1], &[3], 0));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_expires_with_its_deadline_unless_it_is_extended() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (mut consumer, mut stream) = attach(&mut broker, &client, ConsumerOptions::default()).await;
    stream.deliver(1, &[1, 1, 1, 1]).await;
    let mut four = Vec::new();
    for _ in 0..4 {
        four.push(take(&mut consumer).await);
    }
    let after = async |seconds| {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let expired: Vec<_> = four.iter().map(Delivery::is_expired).collect();
        expired
    };
    assert_eq!(after(29).await, [false; 4]);
    four[1].extend();
    four[2].extend_for(Duration::from_secs(300));
    consumer.acker().extend_for(4, Duration::from_secs(300));
    assert_eq!(after(2).await, [true, false, false, false]);
    assert_eq!(after(29).await, [true, true, false, false]);
    assert_eq!(after(300).await, [true; 4]);
    let mut extended = Vec::new();
    while extended.len() < 2 {
        if let Command::Extend(extend) = stream.command().await {
            extended.push((extend.positions, extend.extend_for_ms));
        }
    }
    assert_eq!(
        extended,
        [
            (positions(&[2], &[0]), None),
            (positions(&[3], &[1]), Some(300_000))
        ]
    );
}
