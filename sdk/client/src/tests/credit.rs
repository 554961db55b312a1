//! Credit: how much the broker may send to a consumer, ahead of the application and in all.

use futures_util::FutureExt;
use tidegate_wire::pb;
use tidegate_wire::pb::consumer_command::Command;

use super::broker::{Broker, soon};
use super::consuming::{ack, attach, take};
use crate::{ConsumerOptions, SubscribeError};

#[tokio::test(start_paused = true)]
async fn credit_comes_back_as_deliveries_are_taken() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = ConsumerOptions {
        credit_events: 4,
        ..ConsumerOptions::default()
    };
    let (mut consumer, mut stream) = attach(&mut broker, &client, options).await;
    stream.deliver(1, &[1, 1, 1, 1]).await;
    let _first = take(&mut consumer).await;
    let _second = take(&mut consumer).await;
    // "e0" takes four bytes encoded.
    assert_eq!(
        stream.command().await,
        Command::Credit(pb::Credit {
            events: 2,
            bytes: 8,
            ..Default::default()
        })
    );
    // Nothing more until the next two are taken.
    let third = take(&mut consumer).await;
    third.ack();
    assert_eq!(stream.command().await, ack(&[3], &[0], 0));
    let _fourth = take(&mut consumer).await;
    assert_eq!(
        stream.command().await,
        Command::Credit(pb::Credit {
            events: 2,
            bytes: 8,
            ..Default::default()
        })
    );
}

#[tokio::test(start_paused = true)]
async fn scarce_credit_comes_back_at_once() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = ConsumerOptions {
        credit_events: 100,
        credit_bytes: 1000,
        ..ConsumerOptions::default()
    };
    let (mut consumer, mut stream) = attach(&mut broker, &client, options).await;
    stream.deliver(1, &[1]).await;
    let _delivery = take(&mut consumer).await;
    assert!(consumer.next().now_or_never().is_none());
    let command = stream.command().await;
    assert_eq!(
        command,
        Command::Credit(pb::Credit {
            events: 1,
            bytes: 4,
            ..Default::default()
        })
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_is_asked_for_than_the_application_takes_in_all() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let count = |events_max, credit_events| ConsumerOptions {
        events_max,
        credit_events,
        ..ConsumerOptions::default()
    };
    for (events_max, credit_events, first) in [(7, 4, 4), (3, 4, 3), (3, 0, 3), (5_000, 0, 4_096)] {
        let options = count(events_max, credit_events);
        let (mut consumer, mut stream) = attach(&mut broker, &client, options).await;
        let mut credit = stream.subscribe_open().credit_events;
        assert_eq!(credit, first);
        let mut position = 0;
        while position < events_max {
            assert!(position < credit, "it waits for more");
            position += 1;
            stream.deliver(1, &[position]).await;
            let delivery = take(&mut consumer).await;
            assert_eq!(delivery.position, position);
            delivery.ack();
            // The ack comes with it or after it.
            loop {
                match stream.command().await {
                    Command::Credit(more) => credit += more.events,
                    Command::Ack(_) => break,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(credit, events_max);
        assert!(consumer.next().now_or_never().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn on_another_stream_no_more_is_asked_for_than_is_left() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = ConsumerOptions {
        events_max: 3,
        ..ConsumerOptions::default()
    };
    let (mut consumer, mut stream) = attach(&mut broker, &client, options).await;
    assert_eq!(stream.subscribe_open().credit_events, 3);
    stream.deliver(1, &[1, 1, 1]).await;
    take(&mut consumer).await;
    broker.drop_connections();
    let mut again = broker.stream().await;
    assert_eq!(again.subscribe_open().credit_events, 2);
    again.subscribe_ready().await;
    again.deliver(2, &[2, 1]).await;
    assert_eq!(take(&mut consumer).await.position, 2);
    assert_eq!(take(&mut consumer).await.position, 3);
    broker.drop_connections();
    assert_eq!(broker.stream().await.subscribe_open().credit_events, 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_ignores_credit_is_left() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = ConsumerOptions {
        credit_events: 2,
        ..ConsumerOptions::default()
    };
    let (mut consumer, mut stream) = attach(&mut broker, &client, options).await;
    stream.deliver(1, &[1; 4]).await;
    stream.deliver(1, &[9]).await;
    stream.ended().await;
    let mut last = None;
    while let Some(delivery) = soon(consumer.next()).await {
        last = Some(delivery);
    }
    assert!(
        matches!(last, Some(Err(SubscribeError::Protocol(_)))),
        "{last:?}"
    );
}
