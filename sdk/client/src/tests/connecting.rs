//! Connections: made, refused, lost, ended.

use std::time::Duration;

use tidegate_wire::pb::{self, hello_reply};

use super::broker::{Authority, Broker, soon, welcome};
use crate::{
    Client, ConnectError, ConsumerOptions, ErrorCode, Event, PublishError, PublisherOptions,
    SubscribeError,
};

async fn refused_by(hello: hello_reply::Result) -> ConnectError {
    let broker = Broker::start_with(hello, false);
    soon(Client::connect(broker.options())).await.unwrap_err()
}

#[tokio::test]
async fn the_broker_says_who_we_are() {
    let broker = Broker::start();
    assert_eq!(broker.client().await.principal(), "cn:tester");
}

#[tokio::test]
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

#[tokio::test]
async fn a_version_we_do_not_speak_is_refused() {
    let error = refused_by(welcome(2)).await;
    assert!(
        matches!(error, ConnectError::Version { chosen: 2 }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_foreign_authority_is_no_authority() {
    let broker = Broker::start();
    let mut options = broker.options();
    options.roots.clear();
    let options = options
        .roots_pem(Authority::new().pem().as_bytes())
        .unwrap();
    let error = soon(Client::connect(options)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_client_certificate_is_a_failed_handshake() {
    let broker = Broker::start_with(welcome(1), true);
    let error = soon(Client::connect(broker.options())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake { .. }), "{error:?}");
    let mut options = broker.options();
    options.identity = Some(broker.authority.identity());
    soon(Client::connect(options)).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_an_error_after_the_timeout() {
    let broker = Broker::start();
    // Nothing speaks QUIC on this socket.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = broker.options().connect_timeout(Duration::from_millis(200));
    options.addr = silent.local_addr().unwrap().to_string();
    let error = soon(Client::connect(options)).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
}

#[tokio::test]
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
    assert!(
        matches!(end, quinn::ConnectionError::ApplicationClosed(_)),
        "{end:?}"
    );
}

#[tokio::test]
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

#[tokio::test]
async fn without_reconnect_a_loss_is_final() {
    let mut broker = Broker::start();
    let client = soon(Client::connect(broker.options().reconnect(false)))
        .await
        .unwrap();
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

#[tokio::test]
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
    broker.go_away().await;
    // What runs on the old connection goes on there until the broker ends it.
    let ticket = soon(publisher.send("a", Event::new("x"))).await.unwrap();
    let (batch, _) = first.batch().await;
    first.ack(batch.correlation, 1, false).await;
    assert_eq!(soon(ticket).await.unwrap().sequence, 1);
    first.send.finish().unwrap();
    let mut second = broker.stream().await;
    assert_eq!(second.publish_open(), first.publish_open());
    second.publish_ready(1000, 10).await;
    let ticket = soon(publisher.send("a", Event::new("y"))).await.unwrap();
    let (batch, _) = second.batch().await;
    second.ack(batch.correlation, 2, false).await;
    assert_eq!(soon(ticket).await.unwrap().sequence, 2);
}

#[tokio::test]
async fn a_connection_closed_with_a_code_is_a_refusal() {
    let broker = Broker::start_closing(ErrorCode::PermissionDenied, "not you");
    let error = soon(Client::connect(broker.options())).await.unwrap_err();
    match error {
        ConnectError::Refused(refusal) => {
            assert_eq!(refusal.code, ErrorCode::PermissionDenied);
            assert_eq!(refusal.message, "not you");
        }
        other => panic!("{other:?}"),
    }
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
