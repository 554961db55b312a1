//! Another connection beside the one there is: what for it is attempted, that the one there is is listened to meanwhile, and what becomes
//! of that. How streams move to it is tried elsewhere (`moving`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tidegate_wire::counters::ConnectionCounters;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::{self, measure_opened, stream_open};
use tidegate_wire::stream::memory::{MemoryConnection, MemoryReceive, MemorySend};
use tidegate_wire::stream::{Connection, ConnectionEnd, Traffic};
use tokio::time::Instant;

use super::broker::{Broker, Manner, Stream, soon, welcome};
use super::network::{Behind, Network};
use crate::{
    Answered, Client, ClientOptions, ConnectError, Connector, Consumer, ConsumerOptions, Delivery,
    Event, Publisher, PublisherOptions,
};

/// A long way to the broker of a test, which says what goes over it.
#[derive(Clone)]
pub(super) struct Road {
    network: Network,
    /// What is behind it for the next connection.
    behind: Arc<Mutex<Behind>>,
    /// Of each attempt, whether it expects reordering.
    expected: Arc<Mutex<Vec<bool>>>,
    pub(super) seen: Arc<Seen>,
}

#[derive(Default)]
pub(super) struct Seen {
    asked: AtomicU64,
    heard: AtomicU64,
    /// On this connection alone something more was asked, and not answered.
    unheard_on: AtomicU64,
    /// Connections that were made.
    made: AtomicU64,
    /// Looks at the way to the broker.
    routes: AtomicU64,
    /// Packets that count as lost, of 1,000 that were sent.
    pub(super) lost: AtomicU64,
    /// Of the others, those that were acknowledged after later ones.
    pub(super) overtaken: AtomicU64,
}

/// A connection over it, which is the first, or the second, and so on.
#[derive(Clone)]
pub(super) struct Far(MemoryConnection, Arc<Seen>, u64);

impl Connector for Road {
    type Address = usize;
    type Connection = Far;

    async fn resolve(&self) -> Result<Vec<usize>, ConnectError> {
        Ok(vec![0])
    }

    async fn dial(
        &self,
        address: &usize,
        answered: &Answered,
        expects_reordering: bool,
    ) -> Result<Far, ConnectError> {
        self.expected.lock().unwrap().push(expects_reordering);
        let mut network = self.network.clone();
        network.addresses = vec![*self.behind.lock().unwrap()];
        let connection = network.dial(address, answered, expects_reordering);
        let connection = connection.await?;
        let number = self.seen.made.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Far(connection, Arc::clone(&self.seen), number))
    }

    async fn heard_of_close(&self, _: &Far) {}
}

impl Connection for Far {
    type Send = MemorySend;
    type Receive = MemoryReceive;

    async fn open(&self) -> Result<(MemorySend, MemoryReceive), ConnectionEnd> {
        self.0.open().await
    }

    async fn accept(&self) -> Result<(MemorySend, MemoryReceive), ConnectionEnd> {
        self.0.accept().await
    }

    fn close(&self, code: u32, reason: &str) {
        self.0.close(code, reason);
    }

    async fn closed(&self) -> ConnectionEnd {
        self.0.closed().await
    }

    fn end(&self) -> Option<ConnectionEnd> {
        self.0.end()
    }

    fn round_trip(&self) -> Duration {
        self.0.round_trip()
    }

    fn is_long(&self) -> bool {
        true
    }

    fn traffic(&self) -> Traffic {
        let more = self.1.unheard_on.load(Ordering::Relaxed) == self.2;
        Traffic {
            asked: self.1.asked.load(Ordering::Relaxed) + u64::from(more),
            heard: self.1.heard.load(Ordering::Relaxed),
        }
    }

    fn overtaken(&self) -> u64 {
        self.1.overtaken.load(Ordering::Relaxed)
    }

    fn follow_route(&self) -> bool {
        self.1.routes.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn counters(&self) -> ConnectionCounters {
        let mut counters = ConnectionCounters::default();
        (counters.datagrams_sent, counters.packets_sent) = (1_000, 1_000);
        counters.packets_lost = self.1.lost.load(Ordering::Relaxed);
        counters
    }

    fn send_window(&self) -> usize {
        self.0.send_window()
    }

    fn set_receive_window(&self, bytes: usize) {
        self.0.set_receive_window(bytes);
    }
}

pub(super) type FarBroker = Broker<MemoryConnection, Road>;

impl FarBroker {
    pub(super) fn far_away() -> Self {
        let (network, incoming) = Network::new();
        let road = Road {
            network,
            behind: Arc::new(Mutex::new(Behind::Broker)),
            expected: Arc::default(),
            seen: Arc::default(),
        };
        Self::behind(road, incoming, Manner::Answers(welcome(1)))
    }

    pub(super) async fn far_client(&self) -> Client {
        self.far_client_that(true).await
    }

    async fn far_client_that(&self, reconnects: bool) -> Client {
        let options = ClientOptions::new("a broker far away").seed(1);
        let options = options.reconnect(reconnects);
        let connecting = Client::connect_over(self.door.clone(), options);
        soon(connecting).await.unwrap()
    }

    /// From now on this is behind the road.
    fn put_behind(&self, behind: Behind) {
        *self.door.behind.lock().unwrap() = behind;
    }

    /// When attempts were made.
    fn attempts(&self) -> Vec<Duration> {
        let attempts = self.door.network.attempts.lock().unwrap();
        attempts.iter().map(|(at, _)| *at).collect()
    }

    fn expected(&self) -> Vec<bool> {
        self.door.expected.lock().unwrap().clone()
    }

    pub(super) async fn attempts_are(&self, count: usize) {
        soon(until(|| self.attempts().len() >= count)).await;
        assert_eq!(self.attempts().len(), count);
    }

    /// Answers the question of the client with what says that nothing was lost.
    pub(super) async fn has_everything(&mut self) {
        let mut stream = self.stream().await;
        assert!(matches!(stream.open, stream_open::Kind::Measure(_)));
        let ready = measure_opened::Result::Ready(pb::MeasureReady::default());
        let result = Some(ready);
        stream.write(&pb::MeasureOpened { result }).await;
        let _: pb::MeasureCommand = stream.read().await.expect("a question");
        let counters = pb::ConnectionCounters {
            datagrams_received: 1_000,
            ..Default::default()
        };
        let answer = Some(Answer::Counters(counters));
        stream.write(&pb::MeasureAnswer { answer }).await;
    }
}

fn reason(end: &ConnectionEnd) -> &str {
    match end {
        ConnectionEnd::Peer { reason, .. } => reason,
        other => panic!("not closed by the client: {other}"),
    }
}

pub(super) async fn until(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn beside_a_silent_broker_another_connection_is_attempted_which_outlives_the_old_one() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    broker.put_behind(Behind::Line(Duration::from_secs(4)));
    assert_eq!(client.unanswered(), Duration::ZERO);
    broker.door.seen.asked.fetch_add(1, Ordering::Relaxed);
    soon(until(|| client.unanswered() >= Duration::from_secs(1))).await;
    assert!(client.trouble().is_none(), "that is too short for trouble");
    broker.attempts_are(2).await;
    let begun = broker.attempts()[1];
    assert!(
        begun >= Duration::from_secs(6) && begun < Duration::from_secs(9),
        "{begun:?}"
    );
    let trouble = client.trouble().expect("silence");
    assert!(matches!(*trouble, ConnectError::Silent { .. }), "{trouble}");
    broker.drop_connections();
    let lost = || {
        matches!(
            client.trouble().as_deref(),
            Some(ConnectError::Lost(_) | ConnectError::Refused(_))
        )
    };
    soon(until(lost)).await;
    soon(until(|| client.trouble().is_none())).await;
    assert_eq!(client.unanswered(), Duration::ZERO);
    assert_eq!(broker.attempts().len(), 2, "the place in the line is kept");
    // It is of use.
    let (publisher, _) = tokio::join!(publisher(&client, true), opened(&mut broker));
    drop(publisher);
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_when_there_is_another() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (publisher, mut first) = tokio::join!(publisher(&client, true), opened(&mut broker));
    let ticket = publisher.send("a", Event::new("x")).await.unwrap();
    let (batch, _) = first.batch().await;
    broker.door.seen.unheard_on.store(1, Ordering::Relaxed);
    let end = broker.closed().await;
    assert!(
        reason(&end).contains("on which the broker answers"),
        "{end}"
    );
    let mut second = opened(&mut broker).await;
    let (again, payloads) = second.batch().await;
    assert_eq!(
        (again.first_number, payloads),
        (batch.first_number, vec!["x".to_owned()])
    );
    second.ack(again.correlation, 1, false).await;
    soon(ticket).await.unwrap();
    assert_eq!(broker.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn silence_on_the_connection_that_streams_move_from_ends_the_move() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    // One whose events have no numbers, so that it waits for their answers.
    let (publisher, mut first) = tokio::join!(publisher(&client, false), opened(&mut broker));
    let (mut consumer, mut consuming) = consumer(&mut broker, &client).await;
    consuming.deliver(1, &[1]).await;
    let in_hand = take(&mut consumer).await;
    let ticket = publisher.send("a", Event::new("x")).await.unwrap();
    first.batch().await;
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
    // The old way is gone, and the batch on it is not answered.
    let begun = Instant::now();
    broker.door.seen.unheard_on.store(1, Ordering::Relaxed);
    let mut opens = [broker.stream().await, broker.stream().await];
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(6) && took < Duration::from_secs(9),
        "{took:?}"
    );
    opens.sort_by_key(|stream| matches!(stream.open, stream_open::Kind::Subscribe(_)));
    let [mut second, mut consuming] = opens;
    second.publish_ready(1_000, 10).await;
    consuming.subscribe_ready().await;
    let (batch, payloads) = second.batch().await;
    assert_eq!(payloads, ["x"]);
    second.ack(batch.correlation, 1, false).await;
    soon(ticket).await.unwrap();
    assert!(in_hand.is_expired());
    let end = broker.closed().await;
    assert!(reason(&end).starts_with("silent"), "{end}");
    assert!(client.trouble().is_none());
    assert_eq!(broker.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_closed_closes_the_connection_that_streams_move_from() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let (consumer, mut stream) = consumer(&mut broker, &client).await;
    stream.deliver(1, &[1]).await;
    another_after_goodbye(&broker, &client).await;
    soon(client.close()).await;
    let first = broker.closed();
    assert_eq!(
        reason(&first.now_or_never().expect("closed before")),
        "client closed"
    );
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_heard_again_is_not_looked_for_any_more() {
    let broker = FarBroker::far_away();
    let client = broker.far_client().await;
    broker.put_behind(Behind::Silence);
    broker.door.seen.asked.fetch_add(1, Ordering::Relaxed);
    broker.attempts_are(2).await;
    broker.door.seen.heard.fetch_add(1, Ordering::Relaxed);
    soon(until(|| client.trouble().is_none())).await;
    let attempts = broker.attempts().len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.attempts().len(), attempts);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_reconnect_has_one_connection() {
    let broker = FarBroker::far_away();
    let client = broker.far_client_that(false).await;
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.door.seen.asked.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.attempts().len(), 1);
    assert!(client.trouble().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_heard_while_another_connection_is_attempted() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    broker.put_behind(Behind::Line(Duration::from_secs(4)));
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
    assert!(client.trouble().is_none(), "the one there is works");
    broker.go_away().await;
    soon(until(|| client.trouble().is_some())).await;
    soon(until(|| client.trouble().is_none())).await;
    assert_eq!(broker.attempts().len(), 2, "the place in the line is kept");
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_another_connection_is_tried_until_there_is_one_and_none_is_expected_so_after_a_loss()
 {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (publisher, mut before) = tokio::join!(publisher(&client, true), opened(&mut broker));
    broker.put_behind(Behind::Busy(2));
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
    let first = broker.attempts()[1];
    // It has failed. The next time there is a reason to, and not at once, the broker is asked again.
    broker.door.seen.lost.store(500, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(3).await;
    assert!(broker.attempts()[2] - first >= Duration::from_secs(5));
    assert_eq!(broker.expected(), [false, true, true]);
    // The publisher moves to it.
    let mut stream = opened(&mut broker).await;
    before.ended().await;
    let end = broker.closed().await;
    assert_eq!(reason(&end), "replaced by another connection");
    // That was the better one: it is not looked at any more.
    broker.door.seen.lost.store(900, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.attempts().len(), 3);
    broker.door.seen.lost.store(0, Ordering::Relaxed);
    broker.drop_connections();
    broker.stream().await.publish_ready(1_000, 10).await;
    assert_eq!(broker.expected(), [false, true, true, false]);
    stream.ended().await;
    drop(publisher);
}

#[tokio::test(start_paused = true)]
async fn where_most_packets_come_late_the_broker_is_not_asked_first() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (publisher, _before) = tokio::join!(publisher(&client, true), opened(&mut broker));
    broker.door.seen.overtaken.store(5, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(broker.attempts().len(), 1, "nothing counts as lost");
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    let begun = Instant::now();
    broker.attempts_are(2).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(broker.expected(), [false, true]);
    opened(&mut broker).await;
    drop(publisher);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_measured_is_kept_although_a_better_one_was_on_its_way() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (publisher, mut before) = tokio::join!(publisher(&client, true), opened(&mut broker));
    broker.put_behind(Behind::Line(Duration::from_secs(4)));
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
    let (meter, mut measured) = tokio::join!(soon(client.meter()), async {
        let mut stream = broker.stream().await;
        let ready = measure_opened::Result::Ready(pb::MeasureReady::default());
        let result = Some(ready);
        stream.write(&pb::MeasureOpened { result }).await;
        stream
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let end = broker.one_closed(1).await;
    assert!(reason(&end).contains("measured"), "{end}");
    assert!(client.trouble().is_none());
    let ticket = publisher.send("a", Event::new("x")).await.unwrap();
    let (batch, _) = before.batch().await;
    before.ack(batch.correlation, 1, false).await;
    soon(ticket).await.unwrap();
    // Once it is not measured any more, a better one is looked for again, when there is a reason to.
    drop(meter);
    measured.ended().await;
    broker.door.seen.lost.store(500, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(3).await;
    let _moved = opened(&mut broker).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_beside_a_silent_connection_hurry_when_that_is_lost() {
    let broker = FarBroker::far_away();
    let client = broker.far_client().await;
    broker.put_behind(Behind::Broken);
    broker.door.seen.asked.fetch_add(1, Ordering::Relaxed);
    // From then on seconds are between two of them.
    broker.attempts_are(8).await;
    broker.put_behind(Behind::Broker);
    broker.drop_connections();
    let lost = Instant::now();
    soon(until(|| client.trouble().is_none())).await;
    let took = lost.elapsed();
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_eq!(broker.attempts().len(), 9);
}

pub(super) async fn publisher(client: &Client, idempotent: bool) -> Publisher {
    let options = PublisherOptions {
        idempotent,
        ..Default::default()
    };
    soon(client.publisher(options)).await.unwrap()
}

pub(super) async fn opened<D>(broker: &mut Broker<MemoryConnection, D>) -> Stream {
    let mut stream = broker.stream().await;
    stream.publish_ready(1_000, 10).await;
    stream
}

pub(super) async fn consumer<D>(
    broker: &mut Broker<MemoryConnection, D>,
    client: &Client,
) -> (Consumer, Stream) {
    let options = ConsumerOptions::default();
    let (consumer, stream) = tokio::join!(soon(client.subscribe("s", options)), async {
        let mut stream = broker.stream().await;
        stream.subscribe_ready().await;
        stream
    });
    (consumer.unwrap(), stream)
}

pub(super) async fn take(consumer: &mut Consumer) -> Delivery {
    soon(consumer.next()).await.expect("a delivery").unwrap()
}

/// The broker says goodbye, and the client connects again.
pub(super) async fn another_after_goodbye(broker: &Broker, client: &Client) {
    another_after(broker, client, None).await;
}

pub(super) async fn another_after(broker: &Broker, client: &Client, acks_ms: Option<u64>) {
    broker.go_away_after(acks_ms).await;
    soon(until(|| broker.door.attempts.lock().unwrap().len() > 1)).await;
    soon(until(|| client.trouble().is_none())).await;
}

#[tokio::test(start_paused = true)]
async fn the_way_to_the_broker_is_looked_at_for_as_long_as_there_is_a_connection() {
    let broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let looks = || broker.door.seen.routes.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!((115..=120).contains(&looks()), "{}", looks());
    client.close().await;
    let before = looks();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(looks(), before);
}
