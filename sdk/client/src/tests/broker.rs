//! A broker of the tests: says hello by itself, and leaves every other stream to the test, which plays the broker's part word by
//! word. It plays over any transport: what brings connections to it is its door.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tidegate_wire::Limits;
use tidegate_wire::frame::decode;
use tidegate_wire::frame_queue::FrameQueue;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, broker_to_consumer, hello_reply, publish_opened, publish_reply};
use tidegate_wire::pb::{stream_open, subscribe_opened};
use tidegate_wire::stream::memory::MemoryConnection;
use tidegate_wire::stream::{Connection, ConnectionEnd, ReceiveError, SendHalf};
use tokio::sync::mpsc;

use super::network::Network;
use crate::error::StreamError;
use crate::frames::{FrameSource, new_queue};
use crate::{Client, ClientOptions, ConnectError, ErrorCode, Event};

/// Nothing in these tests takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `work`, but not for ever.
#[track_caller]
pub(super) fn soon<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let waited = tokio::time::timeout(PATIENCE, work).await;
        waited.unwrap_or_else(|_| panic!("nothing happened at {place}"))
    }
}

/// A broker whose connections come in by a door of its transport; within the process, when nothing else is said.
pub(super) struct Broker<C: Connection = MemoryConnection, D = Network> {
    pub(super) door: D,
    streams: mpsc::UnboundedReceiver<Stream<C>>,
    connections: Connections<C>,
    serving: tokio::task::JoinHandle<()>,
}

/// Those that are welcome, each with its hello stream.
type Connections<C> = Arc<Mutex<Vec<(C, Stream<C>)>>>;

impl<C: Connection, D> Drop for Broker<C, D> {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a broker does with a connection that comes in.
#[derive(Clone)]
pub(super) enum Manner {
    /// Answers its hello, and serves it.
    Answers(hello_reply::Result),
    /// Closes it at once.
    Closes(ErrorCode, &'static str),
    /// Gives up the hello stream of the first connection, which goes on, and answers those of others.
    ForgetsFirst(hello_reply::Result),
}

/// The answer to a hello that is welcome.
pub(super) fn welcome(version: u32) -> hello_reply::Result {
    hello_reply::Result::Welcome(pb::Welcome {
        version,
        broker: "test".into(),
        principal: "cn:tester".into(),
        limits: Some(pb::Limits::from(&Limits::default())),
        takes_measure: version == 1,
        takes_compact: false,
    })
}

/// That of a broker that reads numbers of topics and packed events.
pub(super) fn welcome_compact() -> hello_reply::Result {
    match welcome(1) {
        hello_reply::Result::Welcome(welcome) => hello_reply::Result::Welcome(pb::Welcome {
            takes_compact: true,
            ..welcome
        }),
        other => other,
    }
}

impl Broker {
    pub(super) fn start() -> Self {
        Self::start_with(Manner::Answers(welcome(1)))
    }

    pub(super) fn start_with(manner: Manner) -> Self {
        let (network, incoming) = Network::new();
        Self::behind(network, incoming, manner)
    }

    pub(super) fn options(&self) -> ClientOptions {
        ClientOptions::new("the broker of the test")
            .backoff(Duration::from_millis(1), Duration::from_millis(20))
            .seed(1)
    }

    pub(super) async fn connect(&self, options: ClientOptions) -> Result<Client, ConnectError> {
        soon(Client::connect_over(self.door.clone(), options)).await
    }

    pub(super) async fn client(&self) -> Client {
        self.connect(self.options()).await.unwrap()
    }
}

impl<C: Connection, D> Broker<C, D> {
    /// A broker for what comes in by `door`.
    pub(super) fn behind(
        door: D,
        mut incoming: mpsc::UnboundedReceiver<C>,
        manner: Manner,
    ) -> Self {
        let (stream_sender, streams) = mpsc::unbounded_channel();
        let connections = Connections::default();
        let welcomed = Arc::clone(&connections);
        let serving = tokio::spawn(async move {
            let mut is_first = true;
            while let Some(connection) = incoming.recv().await {
                match manner.clone() {
                    Manner::Closes(code, reason) => connection.close(code as u32, reason),
                    Manner::ForgetsFirst(_) if std::mem::take(&mut is_first) => {
                        tokio::spawn(async move {
                            drop(connection.accept().await);
                            connection.closed().await
                        });
                    }
                    Manner::Answers(hello) | Manner::ForgetsFirst(hello) => {
                        let (streams, welcomed) = (stream_sender.clone(), Arc::clone(&welcomed));
                        tokio::spawn(serve(connection, hello, streams, welcomed));
                    }
                }
            }
        });
        Self {
            door,
            streams,
            connections,
            serving,
        }
    }

    /// The next stream that a client opens.
    pub(super) async fn stream(&mut self) -> Stream<C> {
        soon(self.streams.recv()).await.unwrap()
    }

    /// Ends every connection there is, without a word on its streams.
    pub(super) fn drop_connections(&self) {
        for (connection, _) in self.connections.lock().unwrap().drain(..) {
            connection.close(1, "dropped by the test");
        }
    }

    /// Says goodbye on every connection there is, as a broker that does not say how long it takes answers, and leaves it open.
    pub(super) async fn go_away(&self) {
        self.go_away_after(None).await;
    }

    /// The same, as one that takes answers for so long.
    pub(super) async fn go_away_after(&self, acks_ms: Option<u64>) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        for (connection, mut hello) in connections {
            let goodbye = pb::GoAway {
                reason: "test".into(),
                grace_ms: 60_000,
                acks_ms,
            };
            hello.write(&goodbye).await;
            self.connections.lock().unwrap().push((connection, hello));
        }
    }

    /// How the first connection ends, once it does.
    pub(super) async fn closed(&self) -> ConnectionEnd {
        self.one_closed(0).await
    }

    /// The same of one after it.
    pub(super) async fn one_closed(&self, index: usize) -> ConnectionEnd {
        let connection = self.connections.lock().unwrap()[index].0.clone();
        soon(connection.closed()).await
    }
}

async fn serve<C: Connection>(
    connection: C,
    hello: hello_reply::Result,
    streams: mpsc::UnboundedSender<Stream<C>>,
    welcomed: Connections<C>,
) {
    while let Ok((send, receive)) = connection.accept().await {
        let mut source = FrameSource::new(receive);
        let Ok(Some(frame)) = source.next().await else {
            continue;
        };
        let open: pb::StreamOpen = decode(frame).unwrap();
        let mut stream = Stream {
            open: open.kind.unwrap(),
            send,
            queue: new_queue(),
            source,
        };
        if let stream_open::Kind::Hello(_) = stream.open {
            let result = Some(hello.clone());
            stream.write(&pb::HelloReply { result }).await;
            let mut welcomed = welcomed.lock().unwrap();
            welcomed.push((connection.clone(), stream));
        } else {
            let _ = streams.send(stream);
        }
    }
}

/// A stream that a client opened.
pub(super) struct Stream<C: Connection = MemoryConnection> {
    pub(super) open: stream_open::Kind,
    send: C::Send,
    queue: FrameQueue,
    source: FrameSource<C::Receive>,
}

impl<C: Connection> Stream<C> {
    pub(super) async fn write(&mut self, message: &impl Message) {
        self.queue.push(message);
        while !self.queue.is_empty() {
            soon(self.queue.send(&mut self.send)).await.unwrap();
        }
    }

    /// The broker has nothing more to say.
    pub(super) fn finish(&mut self) {
        self.send.finish();
    }

    /// The broker takes nothing more; what it still says is said by this.
    pub(super) fn take_nothing_more(self) -> LastWords<C> {
        LastWords(self.send, self.queue)
    }

    /// The next message; `None` when the client has finished its side.
    pub(super) async fn read<M: Message + Default>(&mut self) -> Option<M> {
        let frame = soon(self.source.next()).await.unwrap();
        frame.map(|frame| decode(frame).unwrap())
    }

    /// The client has finished or reset its side.
    pub(super) async fn ended(&mut self) {
        while let Ok(Some(_)) = soon(self.source.next()).await {}
    }
}

/// What a broker says that takes nothing more.
pub(super) struct LastWords<C: Connection = MemoryConnection>(C::Send, FrameQueue);

impl<C: Connection> LastWords<C> {
    pub(super) async fn say(mut self, message: &impl Message) {
        self.1.push(message);
        while !self.1.is_empty() {
            soon(self.1.send(&mut self.0)).await.unwrap();
        }
        self.0.finish();
    }
}

/// The broker's part on a publish stream.
impl<C: Connection> Stream<C> {
    pub(super) fn publish_open(&self) -> &pb::PublishOpen {
        match &self.open {
            stream_open::Kind::Publish(open) => open,
            other => panic!("not a publish stream: {other:?}"),
        }
    }

    pub(super) async fn publish_ready(&mut self, credit_bytes: u64, credit_batches: u32) {
        self.publish_opened(pb::PublishReady {
            credit_bytes,
            credit_batches,
            last_number: 0,
        })
        .await;
    }

    pub(super) async fn publish_opened(&mut self, ready: pb::PublishReady) {
        self.publish_open();
        self.write(&pb::PublishOpened {
            result: Some(publish_opened::Result::Ready(ready)),
        })
        .await;
    }

    /// The next batch, and the payloads of its events.
    pub(super) async fn batch(&mut self) -> (pb::PublishBatch, Vec<String>) {
        let batch: pb::PublishBatch = self.read().await.expect("a batch, not the end");
        let payload = |event: &Bytes| {
            let event: pb::Event = decode(event.clone()).unwrap();
            String::from_utf8(event.payload.to_vec()).unwrap()
        };
        let payloads = batch.events.iter().map(payload).collect();
        (batch, payloads)
    }

    pub(super) async fn ack(&mut self, correlation: u64, first_sequence: u64, duplicate: bool) {
        let ack = pb::PublishAck {
            first_sequence,
            count: 1,
            duplicate,
            unkept: false,
        };
        self.write(&pb::PublishReply {
            correlation,
            result: Some(publish_reply::Result::Ack(ack)),
        })
        .await;
    }

    pub(super) async fn refuse(&mut self, correlation: u64, error: pb::Error) {
        self.write(&pb::PublishReply {
            correlation,
            result: Some(publish_reply::Result::Error(error)),
        })
        .await;
    }
}

/// The broker's part on a consumer's stream.
impl<C: Connection> Stream<C> {
    pub(super) fn subscribe_open(&self) -> &pb::SubscribeOpen {
        match &self.open {
            stream_open::Kind::Subscribe(open) => open,
            other => panic!("not a consumer's stream: {other:?}"),
        }
    }

    pub(super) async fn subscribe_ready(&mut self) {
        self.subscribe_open();
        let ready = pb::SubscribeReady {
            ack_deadline_ms: 30_000,
            takes_give_back: true,
        };
        self.write(&pb::SubscribeOpened {
            result: Some(subscribe_opened::Result::Ready(ready)),
        })
        .await;
    }

    pub(super) async fn say(&mut self, message: broker_to_consumer::Message) {
        self.write(&pb::BrokerToConsumer {
            message: Some(message),
        })
        .await;
    }

    /// Delivers one event for each of `positions`, given as `Deliver` counts them.
    pub(super) async fn deliver(&mut self, attempt: u32, positions: &[u64]) {
        self.deliver_as(attempt, positions, false).await;
    }

    /// The same, of events that another consumer had in hand when it was lost.
    pub(super) async fn deliver_suspects(&mut self, attempt: u32, positions: &[u64]) {
        self.deliver_as(attempt, positions, true).await;
    }

    async fn deliver_as(&mut self, attempt: u32, positions: &[u64], suspect: bool) {
        let event =
            |index| Bytes::from(pb::Event::from(Event::new(format!("e{index}"))).encode_to_vec());
        let deliver = pb::Deliver {
            topic: "a".into(),
            attempt,
            time_ms: 7,
            positions: positions.to_vec(),
            sequences: positions.to_vec(),
            suspect,
            events: (0..positions.len()).map(event).collect(),
            ..pb::Deliver::default()
        };
        self.say(broker_to_consumer::Message::Deliver(deliver))
            .await;
    }

    /// The next command, but for what it says of what was handed over, which comes when it comes.
    pub(super) async fn command(&mut self) -> pb::consumer_command::Command {
        loop {
            match self.any_command().await {
                Command::Credit(pb::Credit {
                    events: 0,
                    bytes: 0,
                    ..
                }) => {}
                Command::Credit(credit) => {
                    return Command::Credit(pb::Credit {
                        handed_over: 0,
                        handed_over_max: 0,
                        ..credit
                    });
                }
                other => return other,
            }
        }
    }

    pub(super) async fn heard(&mut self, deliveries: u64) {
        self.say(broker_to_consumer::Message::HandedOver(pb::HandedOver {
            deliveries,
        }))
        .await;
    }

    /// The code with which the client resets its side; `None` when it finishes it.
    pub(super) async fn reset_code(&mut self) -> Option<u32> {
        loop {
            match soon(self.source.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(StreamError::Receive(ReceiveError::Reset(code))) => return Some(code),
                Err(other) => panic!("neither reset nor finished: {other}"),
            }
        }
    }

    pub(super) async fn any_command(&mut self) -> Command {
        let command: pb::ConsumerCommand = self.read().await.expect("a command, not the end");
        command.command.unwrap()
    }

    /// Waits until the client says that it has handed over so many deliveries; whether it wants that confirmed.
    pub(super) async fn handed_over(&mut self, deliveries: u64) -> bool {
        loop {
            if let Command::Credit(credit) = self.any_command().await
                && credit.handed_over >= deliveries
            {
                assert_eq!(credit.handed_over, deliveries);
                return credit.confirm_handed_over;
            }
        }
    }
}
