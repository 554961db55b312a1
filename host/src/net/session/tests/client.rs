//! A client for tests, which says whatever it is told to, in bare frames, over any transport.

use std::collections::VecDeque;
use std::fmt;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tidegate_wire::frame::{FrameReader, decode, encode_frame};
use tidegate_wire::limits::FRAME_BYTES_MAX;
use tidegate_wire::pb::broker_to_consumer::Message as ToConsumer;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{
    self, ErrorCode, hello_reply, publish_opened, publish_reply, stream_open, subscribe_opened,
};
use tidegate_wire::stream::{Connection, ConnectionEnd, ReceiveHalf, SendHalf};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::HANG;

/// A message as it goes over a stream.
pub(in crate::net) fn frame<M: Message>(message: &M) -> Bytes {
    let mut out = BytesMut::new();
    encode_frame(message, &mut out);
    out.freeze()
}

/// The first message of a stream.
pub(in crate::net) fn open(kind: stream_open::Kind) -> Bytes {
    frame(&pb::StreamOpen { kind: Some(kind) })
}

/// A hello.
pub(in crate::net) fn hello(versions: &[u32]) -> Bytes {
    open(stream_open::Kind::Hello(pb::Hello {
        versions: versions.to_vec(),
        client: "test".to_owned(),
        frame_bytes_max: 0,
    }))
}

/// The first message of a publish stream that says as little as possible.
pub(in crate::net) fn publish() -> Bytes {
    open(stream_open::Kind::Publish(pb::PublishOpen::default()))
}

/// A batch of events with these payloads.
pub(in crate::net) fn batch(
    correlation: u64,
    topic: &str,
    first_number: u64,
    payloads: &[&str],
) -> Bytes {
    let event = |payload: &&str| {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        pb::Event {
            payload,
            ..pb::Event::default()
        }
        .encode_to_vec()
        .into()
    };
    frame(&pb::PublishBatch {
        correlation,
        topic: topic.to_owned(),
        first_number,
        resolved_through: 0,
        events: payloads.iter().map(event).collect(),
        ..Default::default()
    })
}

/// The messages that come on a stream.
pub(in crate::net) struct Reader<R> {
    recv: R,
    buffer: BytesMut,
    frames: FrameReader,
}

impl<R: ReceiveHalf> Reader<R> {
    /// The next one, or `None` when no more come, for whatever reason.
    pub(in crate::net) async fn next<M: Message + Default>(&mut self) -> Option<M> {
        let frame = async {
            loop {
                let frame = self.frames.next_frame(&mut self.buffer);
                if let Some(frame) = frame.expect("a frame") {
                    return Some(decode(frame).expect("a message"));
                }
                if !matches!(self.recv.receive(&mut self.buffer).await, Ok(1..)) {
                    return None;
                }
            }
        };
        timeout(HANG, frame).await.expect("in time")
    }
}

/// A stream that the client has opened.
pub(in crate::net) struct Opened<C: Connection> {
    pub(in crate::net) send: C::Send,
    pub(in crate::net) recv: Reader<C::Receive>,
}

impl<C: Connection> Opened<C> {
    pub(in crate::net) async fn write(&mut self, bytes: &[u8]) {
        let mut queue = VecDeque::from([Bytes::copy_from_slice(bytes)]);
        while !queue.is_empty() {
            self.send.send(&mut queue).await.expect("written");
        }
    }
}

/// A client.
pub(in crate::net) struct Client<C: Connection> {
    pub(in crate::net) connection: C,
    /// Kept open, as the protocol wants it.
    hello: Mutex<Option<Opened<C>>>,
}

impl<C: Connection> Client<C> {
    pub(in crate::net) fn new(connection: C) -> Self {
        Self {
            connection,
            hello: Mutex::default(),
        }
    }

    /// Says hello, and has to be welcomed.
    pub(in crate::net) async fn welcomed(self) -> Self {
        let (reply, stream) = self.hello(&[1]).await.expect("answered");
        assert!(
            matches!(reply, hello_reply::Result::Welcome(_)),
            "{reply:?}"
        );
        *self.hello.lock().await = Some(stream);
        self
    }

    /// Says hello.
    pub(in crate::net) async fn hello(
        &self,
        versions: &[u32],
    ) -> Option<(hello_reply::Result, Opened<C>)> {
        let mut stream = self.send(&hello(versions)).await;
        let reply: pb::HelloReply = stream.recv.next().await?;
        Some((reply.result?, stream))
    }

    /// Opens a stream that begins with these bytes.
    pub(in crate::net) async fn send(&self, bytes: &[u8]) -> Opened<C> {
        let (send, recv) = self.connection.open().await.expect("connection is up");
        let recv = Reader {
            recv,
            buffer: BytesMut::new(),
            frames: FrameReader::new(FRAME_BYTES_MAX),
        };
        let mut opened = Opened { send, recv };
        opened.write(bytes).await;
        opened
    }

    /// What a stream that begins with `bytes` is refused with.
    pub(in crate::net) async fn refusal(&self, bytes: &[u8], finish: bool) -> pb::Error {
        let mut stream = self.send(bytes).await;
        if finish {
            stream.send.finish();
        }
        let opened: pb::PublishOpened = stream.recv.next().await.expect("an answer");
        match opened.result {
            Some(publish_opened::Result::Error(error)) => error,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// The goodbye, if the broker says one.
    pub(in crate::net) async fn go_away(&self) -> Option<pb::GoAway> {
        let mut hello = self.hello.lock().await;
        hello.as_mut().expect("welcomed").recv.next().await
    }

    /// Why the broker closes the connection.
    pub(in crate::net) async fn close_code(&self) -> Option<ErrorCode> {
        // As a client does, which waits for a goodbye.
        if let Some(mut hello) = self.hello.lock().await.take() {
            while hello.recv.next::<pb::GoAway>().await.is_some() {}
        }
        match timeout(HANG, self.connection.closed())
            .await
            .expect("closed in time")
        {
            ConnectionEnd::Peer { code, .. } => ErrorCode::try_from(i32::try_from(code).ok()?).ok(),
            _ => None,
        }
    }
}

/// A publish stream.
pub(in crate::net) struct Publishing<C: Connection> {
    pub(in crate::net) stream: Opened<C>,
    pub(in crate::net) ready: pb::PublishReady,
}

impl<C: Connection> Publishing<C> {
    pub(in crate::net) async fn open(client: &Client<C>, producer_id: &[u8], epoch: u32) -> Self {
        let producer_id = Bytes::copy_from_slice(producer_id);
        let opening = open(stream_open::Kind::Publish(pb::PublishOpen {
            producer_id,
            epoch,
            counts_costs: true,
        }));
        let mut stream = client.send(&opening).await;
        let opened: pb::PublishOpened = stream.recv.next().await.expect("answered");
        match opened.result {
            Some(publish_opened::Result::Ready(ready)) => Self { stream, ready },
            other => panic!("{other:?}"),
        }
    }

    pub(in crate::net) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write(bytes).await;
    }

    pub(in crate::net) async fn reply(
        &mut self,
    ) -> Option<(u64, Result<pb::PublishAck, ErrorCode>)> {
        let reply: pb::PublishReply = self.stream.recv.next().await?;
        let result = match reply.result.expect("a result") {
            publish_reply::Result::Ack(ack) => Ok(ack),
            publish_reply::Result::Error(error) => Err(error.code()),
        };
        Some((reply.correlation, result))
    }

    pub(in crate::net) async fn ack(&mut self) -> pb::PublishAck {
        let (correlation, result) = self.reply().await.expect("a reply");
        result.unwrap_or_else(|code| panic!("batch {correlation} refused: {code}"))
    }

    pub(in crate::net) async fn refusal(&mut self) -> (u64, ErrorCode) {
        let (correlation, result) = self.reply().await.expect("a reply");
        (correlation, result.expect_err("refused"))
    }
}

/// A subscribe stream.
pub(in crate::net) struct Consuming<C: Connection> {
    pub(in crate::net) stream: Opened<C>,
}

impl<C: Connection> fmt::Debug for Consuming<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consuming").finish_non_exhaustive()
    }
}

impl<C: Connection> Consuming<C> {
    /// With credit for so many events, and a mebibyte of them.
    pub(in crate::net) async fn open(
        client: &Client<C>,
        subscription: &str,
        events: u64,
    ) -> Result<Self, ErrorCode> {
        Self::open_as(client, subscription, events, false).await
    }

    /// One that wants to be told of late answers at once, or not.
    pub(in crate::net) async fn open_as(
        client: &Client<C>,
        subscription: &str,
        events: u64,
        tell_not_held: bool,
    ) -> Result<Self, ErrorCode> {
        let subscribe = pb::SubscribeOpen {
            subscription: subscription.to_owned(),
            credit_events: events,
            credit_bytes: 1 << 20,
            tell_not_held,
            ..Default::default()
        };
        Self::open_with(client, subscribe).await
    }

    pub(in crate::net) async fn open_with(
        client: &Client<C>,
        subscribe: pb::SubscribeOpen,
    ) -> Result<Self, ErrorCode> {
        let opening = open(stream_open::Kind::Subscribe(subscribe));
        let mut stream = client.send(&opening).await;
        let opened: pb::SubscribeOpened = stream.recv.next().await.expect("answered");
        match opened.result.expect("a result") {
            subscribe_opened::Result::Ready(ready) => {
                assert_eq!(ready.ack_deadline_ms, 30_000);
                Ok(Self { stream })
            }
            subscribe_opened::Result::Error(error) => Err(error.code()),
        }
    }

    pub(in crate::net) async fn say(&mut self, command: Command) {
        let command = frame(&pb::ConsumerCommand {
            command: Some(command),
        });
        self.stream.write(&command).await;
    }

    pub(in crate::net) async fn grant(&mut self, events: u64, bytes: u64) {
        self.say(Command::Credit(pb::Credit {
            events,
            bytes,
            ..Default::default()
        }))
        .await;
    }

    pub(in crate::net) async fn ack(&mut self, position: u64, confirm: u64) {
        let positions = Some(pb::Positions {
            first: vec![position],
            more: vec![0],
        });
        self.say(Command::Ack(pb::Ack { positions, confirm })).await;
    }

    pub(in crate::net) async fn ack_confirmed(&mut self, position: u64) {
        let confirm = 7;
        self.ack(position, confirm).await;
        match self.next().await {
            ToConsumer::Confirmed(confirmed) => assert_eq!(confirmed.confirm, [confirm]),
            other => panic!("{other:?}"),
        }
    }

    /// The next message, or `None` at the end of the stream.
    pub(in crate::net) async fn message(&mut self) -> Option<ToConsumer> {
        let message: pb::BrokerToConsumer = self.stream.recv.next().await?;
        Some(message.message.expect("of a kind"))
    }

    pub(in crate::net) async fn next(&mut self) -> ToConsumer {
        self.message().await.expect("a message")
    }

    /// What the stream ends with: nothing comes after it.
    pub(in crate::net) async fn refusal(&mut self) -> ErrorCode {
        let code = match self.next().await {
            ToConsumer::Error(error) => error.code(),
            other => panic!("{other:?}"),
        };
        assert_eq!(self.message().await, None);
        code
    }

    /// Payload and attempt of one event, and its position.
    pub(in crate::net) async fn event(&mut self) -> (String, u32, u64) {
        match self.next().await {
            ToConsumer::Deliver(deliver) => {
                assert_eq!(deliver.events.len(), 1, "{deliver:?}");
                let event = pb::Event::decode(deliver.events[0].clone()).expect("an event");
                let payload = String::from_utf8(event.payload.to_vec()).expect("text");
                (payload, deliver.attempt, deliver.positions[0])
            }
            other => panic!("{other:?}"),
        }
    }
}
