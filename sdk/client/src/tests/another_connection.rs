//! Another connection beside the one there is: what for it is attempted, that the one there is is listened to meanwhile, and how
//! streams move to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tidegate_wire::counters::ConnectionCounters;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::measure_answer::Answer;
use tidegate_wire::pb::{self, broker_to_consumer, measure_opened, stream_open};
use tidegate_wire::stream::memory::{MemoryConnection, MemoryReceive, MemorySend};
use tidegate_wire::stream::{Connection, ConnectionEnd, Traffic};
use tokio::time::Instant;

use super::broker::{Broker, Manner, Stream, soon, welcome};
use super::network::{Behind, Network};
use crate::{
    Answered, Client, ClientOptions, ConnectError, Connector, Consumer, ConsumerOptions, Delivery,
    Event, Publisher, PublisherOptions, SubscribeError,
};

/// A long way to the broker of a test, which says what goes over it.
#[derive(Clone)]
struct Road {
    network: Network,
    /// What is behind it for the next connection.
    behind: Arc<Mutex<Behind>>,
    /// Of each attempt, whether it expects reordering.
    expected: Arc<Mutex<Vec<bool>>>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    asked: AtomicU64,
    heard: AtomicU64,
    /// On this connection alone something more was asked, and not answered.
    unheard_on: AtomicU64,
    /// Connections that were made.
    made: AtomicU64,
    /// Packets that count as lost, of 1,000 that were sent.
    lost: AtomicU64,
}

/// A connection over it, which is the first, or the second, and so on.
#[derive(Clone)]
struct Far(MemoryConnection, Arc<Seen>, u64);

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

    fn counters(&self) -> ConnectionCounters {
        let mut counters = ConnectionCounters::default();
        counters.datagrams_sent = 1_000;
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

type FarBroker = Broker<MemoryConnection, Road>;

impl FarBroker {
    fn far_away() -> Self {
        let (network, incoming) = Network::new();
        let road = Road {
            network,
            behind: Arc::new(Mutex::new(Behind::Broker)),
            expected: Arc::default(),
            seen: Arc::default(),
        };
        Self::behind(road, incoming, Manner::Answers(welcome(1)))
    }

    async fn far_client(&self) -> Client {
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

    async fn attempts_are(&self, count: usize) {
        soon(until(|| self.attempts().len() >= count)).await;
        assert_eq!(self.attempts().len(), count);
    }

    /// Answers the question of the client with what says that nothing was lost.
    async fn has_everything(&mut self) {
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

async fn until(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn beside_a_silent_broker_another_connection_is_attempted_which_outlives_the_old_one() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    broker.put_behind(Behind::Line(Duration::from_secs(4)));
    broker.door.seen.asked.fetch_add(1, Ordering::Relaxed);
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
    let (publisher, mut first) = tokio::join!(publisher(&client, true), opened(&mut broker));
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

async fn publisher(client: &Client, idempotent: bool) -> Publisher {
    let options = PublisherOptions {
        idempotent,
        ..Default::default()
    };
    soon(client.publisher(options)).await.unwrap()
}

async fn opened<D>(broker: &mut Broker<MemoryConnection, D>) -> Stream {
    let mut stream = broker.stream().await;
    stream.publish_ready(1_000, 10).await;
    stream
}

/// The broker says goodbye, and the client connects again.
async fn another_after_goodbye(broker: &Broker, client: &Client) {
    broker.go_away().await;
    soon(until(|| broker.door.attempts.lock().unwrap().len() > 1)).await;
    soon(until(|| client.trouble().is_none())).await;
}

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

async fn consumer<D>(
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

async fn take(consumer: &mut Consumer) -> Delivery {
    soon(consumer.next()).await.expect("a delivery").unwrap()
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
    assert_eq!(first.reset_code().await, None, "finished");
    confirm(&mut first, number).await;
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
    assert_eq!(first.reset_code().await, None, "finished");
    first.finish();
    broker.stream().await.subscribe_ready().await;
    soon(until(|| slow.is_expired())).await;
    slow.ack();
    let lost = soon(consumer.flush_acks()).await;
    assert!(matches!(lost, Err(SubscribeError::AcksLost)), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_waits_for_what_the_application_still_holds() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    first.deliver(1, &[1, 1]).await;
    let (one, two) = (take(&mut consumer).await, take(&mut consumer).await);
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
    two.extend_for(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!one.is_expired());
    one.ack();
    // Longer than the ack deadline.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!two.is_expired());
    two.ack();
    let number = loop {
        if let Command::Ack(pb::Ack { confirm, .. }) = first.any_command().await
            && confirm > 0
        {
            break confirm;
        }
    };
    confirm(&mut first, number).await;
    first.finish();
    broker.stream().await.subscribe_ready().await;
    soon(consumer.flush_acks()).await.expect("nothing is lost");
}

#[tokio::test(start_paused = true)]
async fn where_packets_come_late_a_consumer_waits_for_no_answer_after_the_ack_deadline() {
    let mut broker = FarBroker::far_away();
    let client = broker.far_client().await;
    let (mut consumer, mut first) = consumer(&mut broker, &client).await;
    first.deliver(1, &[1]).await;
    let forgotten = take(&mut consumer).await;
    broker.door.seen.lost.store(400, Ordering::Relaxed);
    broker.has_everything().await;
    broker.attempts_are(2).await;
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
    first.finish();
    broker.stream().await.subscribe_ready().await;
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
