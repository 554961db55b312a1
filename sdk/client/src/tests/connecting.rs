//! Connections: made, refused, lost, ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_wire::pb::{self, hello_reply};
use tidegate_wire::stream::Connection;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::broker::{Broker, Manner, soon, welcome};
use super::network::{Behind, Network};
use crate::{
    Client, ClientOptions, ConnectError, ConnectionEnd, ConsumerOptions, ErrorCode, Event,
    PublishError, PublisherOptions, SubscribeError,
};

async fn refused_by(hello: hello_reply::Result) -> ConnectError {
    let broker = Broker::start_with(Manner::Answers(hello));
    broker.connect(broker.options()).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn the_broker_says_who_we_are() {
    let broker = Broker::start();
    assert_eq!(broker.client().await.principal(), "cn:tester");
}

#[tokio::test(start_paused = true)]
async fn every_task_is_run_by_whom_the_options_name() {
    let mut broker = Broker::start();
    let handed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&handed);
    let options = broker.options().spawner(move |task| {
        counted.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(task);
    });
    let client = broker.connect(options).await.unwrap();
    let so_far = || handed.load(Ordering::Relaxed);
    assert_eq!(so_far(), 1, "the supervisor");
    let (publisher, _stream) = tokio::join!(soon(client.publisher(Default::default())), async {
        let mut stream = broker.stream().await;
        stream.publish_ready(1 << 20, 100).await;
        stream
    });
    publisher.unwrap();
    assert_eq!(so_far(), 2);
    let (consumer, _stream) =
        tokio::join!(soon(client.subscribe("s", Default::default())), async {
            let mut stream = broker.stream().await;
            stream.subscribe_ready().await;
            stream
        });
    consumer.unwrap();
    assert_eq!(so_far(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_runs_is_closed() {
    let broker = Broker::start();
    let client = broker.connect(broker.options().spawner(drop)).await;
    let client = client.expect("the first connection is made before any task");
    let refused = soon(client.publisher(Default::default())).await;
    assert!(
        matches!(&refused, Err(PublishError::Connection(why)) if matches!(**why, ConnectError::Closed)),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_hello_is_typed() {
    let error = pb::Error::new(ErrorCode::UnsupportedVersion, "speak version 7");
    match refused_by(hello_reply::Result::Error(error)).await {
        ConnectError::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::UnsupportedVersion);
            assert_eq!(
                refusal.to_string(),
                "unsupported protocol version: speak version 7"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_we_do_not_speak_is_refused() {
    let error = refused_by(welcome(2)).await;
    assert!(
        matches!(error, ConnectError::Version { chosen: 2 }),
        "{error:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_an_error_after_the_timeout() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Silence];
    let begun = Instant::now();
    let patience = Duration::from_secs(9);
    let options = broker.options().connect_timeout(patience);
    let error = broker.connect(options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), patience.as_secs());
    // One attempt after the other, with more time for each: a second, two, four, and what is left.
    let attempts = broker.door.attempts.lock().unwrap().clone();
    let seconds: Vec<u64> = attempts.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(seconds, [0, 1, 3, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_answered_is_left_alone_however_far_the_broker_is() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Distance(Duration::from_millis(1_500))];
    let begun = Instant::now();
    broker.client().await;
    assert_eq!(begun.elapsed(), Duration::from_millis(4_500));
    // The second was made before the first was answered, and was of no use.
    let attempts = broker.door.attempts.lock().unwrap().clone();
    assert_eq!(attempts, [(Duration::ZERO, 0), (Duration::from_secs(1), 0)]);
}

#[tokio::test(start_paused = true)]
async fn whichever_address_answers_is_taken() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Silence, Behind::Broker];
    broker.client().await;
    let attempts = broker.door.attempts.lock().unwrap().clone();
    let later = Duration::from_millis(200);
    assert_eq!(attempts, [(Duration::ZERO, 0), (later, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_slower_attempt_is_closed_and_told_why() {
    let (mut network, mut incoming) = Network::new();
    network.addresses = vec![Behind::Broker, Behind::Broker];
    let options = ClientOptions::new("two addresses").seed(1);
    let connecting = tokio::spawn(Client::connect_over(network, options));
    // The hello at the first of them is answered late.
    let slow = soon(incoming.recv()).await.unwrap();
    let (door, rest) = mpsc::unbounded_channel();
    let _broker = Broker::behind((), rest, Manner::Answers(welcome(1)));
    let _ = door.send(soon(incoming.recv()).await.unwrap());
    let _client = soon(connecting).await.unwrap().unwrap();
    let ConnectionEnd::Peer { code: 0, reason } = soon(slow.closed()).await else {
        panic!("not closed by the client");
    };
    assert!(reason.starts_with("another attempt was faster"), "{reason}");
}

fn attempts(broker: &Broker) -> Vec<(Duration, usize)> {
    broker.door.attempts.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_keeps_us_waiting_is_not_asked_again() {
    let mut broker = Broker::start();
    // Neither by another attempt nor at another address.
    let line = Behind::Line(Duration::from_millis(4_500));
    broker.door.addresses = vec![line, Behind::Broker];
    broker.client().await;
    assert_eq!(attempts(&broker), [(Duration::ZERO, 0)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_went_away_while_it_kept_us_waiting_is() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Line(Duration::from_secs(3_600))];
    let options = broker.options().connect_timeout(Duration::from_secs(10));
    let error = broker.connect(options).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    let seconds = |(at, _): &(Duration, usize)| at.as_secs();
    let made: Vec<u64> = attempts(&broker).iter().map(seconds).collect();
    // It is looked after a second, and then after six more.
    assert_eq!(made, [0, 7]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_time_is_asked_ever_more_seldom() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Busy(3)];
    let backoff = (Duration::from_millis(50), Duration::from_secs(5));
    let options = broker.options().backoff(backoff.0, backoff.1);
    broker.connect(options).await.unwrap();
    let made = attempts(&broker);
    let waits: Vec<u128> = made
        .windows(2)
        .map(|two| (two[1].0 - two[0].0).as_millis())
        .collect();
    assert_eq!(waits.len(), 3);
    for (wait, range) in waits
        .iter()
        .zip([1_000..=1_501, 1_000..=2_001, 2_000..=4_001])
    {
        assert!(range.contains(wait), "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_has_no_time_for_long_is_told_from_one_that_is_not_there() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Busy(usize::MAX)];
    let options = broker.options().connect_timeout(Duration::from_secs(9));
    let error = broker.connect(options).await.unwrap_err();
    assert!(matches!(error, ConnectError::Busy { .. }), "{error:?}");
    assert!(error.to_string().contains("try again"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_address_does_not_hide_that_the_broker_has_no_time() {
    let mut broker = Broker::start();
    broker.door.addresses = vec![Behind::Busy(1), Behind::Silence];
    broker.client().await;
    let made = attempts(&broker);
    assert_eq!(made[..2], [(Duration::ZERO, 0), (Duration::ZERO, 1)]);
    let (at, address) = made[2];
    assert_eq!(address, 0);
    assert!(
        at > Duration::from_secs(2) && at < Duration::from_secs(3),
        "{at:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_that_has_no_time_hide_a_broker_that_is_far_away() {
    let mut broker = Broker::start();
    let far = Behind::Distance(Duration::from_millis(800));
    broker.door.addresses = vec![Behind::Busy(usize::MAX), far];
    broker.client().await;
    let made = attempts(&broker);
    assert_eq!(made, [(Duration::ZERO, 0), (Duration::ZERO, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_host_without_addresses_is_not_found() {
    let mut broker = Broker::start();
    broker.door.addresses.clear();
    let options = broker.options().connect_timeout(Duration::from_millis(1));
    match broker.connect(options).await.unwrap_err() {
        ConnectError::TimedOut { source, .. } => {
            let source = source.expect("more than silence");
            assert!(
                matches!(*source, ConnectError::Resolve { .. }),
                "{source:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_everything_closes_the_connection() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut stream) =
        tokio::join!(client.publisher(PublisherOptions::default()), async {
            let mut stream = broker.stream().await;
            stream.publish_ready(1000, 10).await;
            stream
        });
    drop(client);
    stream.ack(4711, 1, false).await;
    drop(publisher);
    stream.ended().await;
    let end = broker.closed().await;
    assert!(matches!(end, ConnectionEnd::Peer { .. }), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_publishers_and_consumers() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let options = PublisherOptions::default();
    let (publisher, mut published) = tokio::join!(client.publisher(options), async {
        let mut stream = broker.stream().await;
        stream.publish_ready(1000, 10).await;
        stream
    });
    let (consumer, _consumed) =
        tokio::join!(client.subscribe("s", ConsumerOptions::default()), async {
            let mut stream = broker.stream().await;
            stream.subscribe_ready().await;
            stream
        });
    let (publisher, mut consumer) = (publisher.unwrap(), consumer.unwrap());
    let ticket = soon(publisher.send("a", Event::new("x"))).await.unwrap();
    published.batch().await;
    soon(client.close()).await;
    let error = soon(ticket).await.unwrap_err();
    assert!(matches!(error, PublishError::Connection(_)), "{error:?}");
    let error = soon(publisher.send("a", Event::new("x")))
        .await
        .unwrap_err();
    assert!(matches!(error, PublishError::Connection(_)), "{error:?}");
    let error = soon(consumer.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, SubscribeError::Connection(_)), "{error:?}");
    assert!(soon(consumer.next()).await.is_none());
    assert_eq!(client.principal(), "");
}

#[tokio::test(start_paused = true)]
async fn without_reconnect_a_loss_is_final() {
    let mut broker = Broker::start();
    let options = broker.options().reconnect(false);
    let client = broker.connect(options).await.unwrap();
    let (publisher, mut stream) =
        tokio::join!(client.publisher(PublisherOptions::default()), async {
            let mut stream = broker.stream().await;
            stream.publish_ready(1000, 10).await;
            stream
        });
    let ticket = soon(publisher.unwrap().send("a", Event::new("x")))
        .await
        .unwrap();
    stream.batch().await;
    broker.drop_connections();
    let error = soon(ticket).await.unwrap_err();
    assert!(matches!(error, PublishError::Connection(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_moves_new_streams_to_a_new_connection() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (publisher, mut first) =
        tokio::join!(client.publisher(PublisherOptions::default()), async {
            let mut stream = broker.stream().await;
            stream.publish_ready(1000, 10).await;
            stream
        });
    let publisher = publisher.unwrap();
    let ticket = soon(publisher.send("a", Event::new("x"))).await.unwrap();
    let (batch, _) = first.batch().await;
    broker.go_away().await;
    // What is under way on the old connection is answered there.
    first.ack(batch.correlation, 1, false).await;
    assert_eq!(soon(ticket).await.unwrap().sequence, 1);
    first.finish();
    let mut second = broker.stream().await;
    assert_eq!(second.publish_open(), first.publish_open());
    second.publish_ready(1000, 10).await;
    let ticket = soon(publisher.send("a", Event::new("y"))).await.unwrap();
    let (batch, _) = second.batch().await;
    second.ack(batch.correlation, 2, false).await;
    assert_eq!(soon(ticket).await.unwrap().sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_gives_the_hello_up_is_asked_again() {
    let broker = Broker::start_with(Manner::ForgetsFirst(welcome(1)));
    broker.client().await;
    assert_eq!(broker.door.attempts.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_closed_with_a_code_is_a_refusal() {
    let broker = Broker::start_with(Manner::Closes(ErrorCode::PermissionDenied, "not you"));
    let error = broker.connect(broker.options()).await.unwrap_err();
    match error {
        ConnectError::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::PermissionDenied);
            assert_eq!(refusal.message, "not you");
        }
        other => panic!("{other:?}"),
    }
}

/// When a client with this seed comes back to a broker that drops it as soon as it is welcome, and as which producer it publishes.
async fn run_of(seed: u64) -> (Vec<(Duration, usize)>, Vec<bytes::Bytes>) {
    let mut broker = Broker::start();
    let client = broker.connect(broker.options().seed(seed)).await.unwrap();
    let mut producers = Vec::new();
    for _ in 0..2 {
        let (publisher, stream) =
            tokio::join!(soon(client.publisher(PublisherOptions::default())), async {
                let mut stream = broker.stream().await;
                stream.publish_ready(1000, 10).await;
                stream
            });
        publisher.unwrap();
        producers.push(stream.publish_open().producer_id.clone());
        for _ in 0..5 {
            broker.drop_connections();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let attempts = broker.door.attempts.lock().unwrap().clone();
    (attempts, producers)
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_run() {
    let (attempts, producers) = run_of(7).await;
    assert_eq!((attempts.len(), producers.len()), (11, 2));
    assert_eq!(run_of(7).await, (attempts.clone(), producers.clone()));
    let (other_attempts, other_producers) = run_of(8).await;
    assert_ne!(other_attempts, attempts);
    assert_ne!(other_producers, producers);
}

#[test]
fn handles_travel_between_tasks() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Client>();
    check::<crate::Publisher>();
    check::<crate::PublishTicket>();
    check::<crate::Consumer>();
    check::<crate::Delivery>();
    check::<crate::Acker>();
}

#[tokio::test(start_paused = true)]
async fn why_there_is_no_connection_can_be_asked() {
    let broker = Broker::start();
    let client = broker.client().await;
    assert!(client.trouble().is_none());
    assert!(client.address().is_some());
    broker.drop_connections();
    let lost = async {
        while client.trouble().is_none() {
            tokio::task::yield_now().await;
        }
    };
    soon(lost).await;
    let trouble = client.trouble().expect("it is not there again yet");
    assert!(
        matches!(*trouble, ConnectError::Refused(_) | ConnectError::Lost(_)),
        "{trouble:?}"
    );
    assert!(client.address().is_none());
    let back = async {
        while client.trouble().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(back).await;
    assert!(client.address().is_some());
}
