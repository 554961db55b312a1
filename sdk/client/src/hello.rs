//! The hello: the first stream of a connection, on which client and broker say who they are and what they speak. It stays open,
//! for the broker's goodbye.

use std::time::Duration;

use tidegate_wire::frame::decode;
use tidegate_wire::pb::{self, hello_reply, stream_open};
use tidegate_wire::stream::{Connection, ConnectionEnd, ReceiveError, SendError};
use tidegate_wire::{Limits, PROTOCOL_VERSION};
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::error::{ConnectError, Refusal, StreamError};
use crate::frames::FrameStream;
use crate::options::ClientOptions;

/// A connection whose hello was answered: streams may be opened on it.
pub(crate) struct Established<C> {
    pub(crate) connection: C,
    /// Where the broker is, for logs.
    pub(crate) address: String,
    /// Who the broker takes this client for.
    pub(crate) principal: String,
    /// What the broker accepts.
    pub(crate) limits: Limits,
    /// Whether it knows measure streams.
    pub(crate) takes_measure: bool,
    /// Whether it reads numbers of topics and packed events.
    pub(crate) takes_compact: bool,
    /// Both ends expect packets to overtake each other on the way.
    pub(crate) expects_reordering: bool,
    /// Streams that run on it, and those of them that measure it. While there is one of these, it is not replaced by a better one.
    pub(crate) streams: TaskTracker,
    pub(crate) meters: TaskTracker,
    /// Cancelled when there is another connection, to which its streams are to move.
    pub(crate) moves: CancellationToken,
    /// The broker has said goodbye on it. Whoever waits for that is woken.
    pub(crate) goodbye: SetOnce<Goodbye>,
}

/// A broker's goodbye, to the streams of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goodbye {
    pub(crate) came_at: Instant,
    /// Until when an answer of a consumer that is said here comes in time there, as far as is known.
    pub(crate) answers_until: Option<Instant>,
}

impl Goodbye {
    /// One that came just now, on a path of this round trip.
    pub(crate) fn new(go_away: &pb::GoAway, round_trip: Duration) -> Self {
        // It was on its way for half of that, and so is an answer.
        let lasts = |acks_ms| Duration::from_millis(acks_ms).saturating_sub(round_trip);
        let answers_last = go_away.acks_ms.map(lasts);
        let came_at = Instant::now();
        Self {
            came_at,
            answers_until: answers_last.and_then(|lasts| came_at.checked_add(lasts)),
        }
    }
}

impl<C: Connection> Established<C> {
    /// The broker says goodbye on this connection; its streams are told.
    pub(crate) fn note_goodbye(&self, go_away: &pb::GoAway) {
        let goodbye = Goodbye::new(go_away, self.connection.round_trip());
        // One that is said again is the same.
        if self.goodbye.set(goodbye).is_ok() {
            info!(
                reason = go_away.reason,
                grace_ms = go_away.grace_ms,
                "the broker says goodbye"
            );
        }
    }
}

/// What is left of the hello stream. Our side of it stays open as long as the connection.
pub(crate) struct HelloStream<C: Connection>(FrameStream<C>);

impl<C: Connection> HelloStream<C> {
    /// Waits for the broker's goodbye. Never, when the stream ends without one: the connection tells the rest.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn go_away(&mut self) -> pb::GoAway {
        if let Ok(Some(frame)) = self.0.next().await
            && let Ok(goodbye) = decode(frame)
        {
            return goodbye;
        }
        std::future::pending().await
    }
}

/// Says hello on a new connection to the broker at `address`, and waits for the answer.
///
/// # Errors
/// When the broker refuses, speaks another version, or no answer comes.
pub(crate) async fn say_hello<C: Connection>(
    connection: C,
    address: String,
    options: &ClientOptions,
) -> Result<(Established<C>, HelloStream<C>), ConnectError> {
    let hello = pb::Hello {
        versions: vec![PROTOCOL_VERSION],
        client: options.client_name.clone(),
        frame_bytes_max: options.frame_bytes_max as u64,
    };
    let opened = FrameStream::open(&connection, stream_open::Kind::Hello(hello)).await;
    let mut stream = opened.map_err(no_answer)?;
    let frame = stream.next().await.map_err(no_answer)?;
    let frame = frame.ok_or_else(|| lost("the hello was not answered"))?;
    let reply: pb::HelloReply = decode(frame).map_err(|error| no_answer(error.into()))?;
    let welcome = match reply.result {
        Some(hello_reply::Result::Welcome(welcome)) => welcome,
        Some(hello_reply::Result::Error(error)) => {
            return Err(ConnectError::Refused(Refusal::from(error)));
        }
        None => {
            return Err(ConnectError::Protocol(
                "the answer to the hello is empty".into(),
            ));
        }
    };
    if welcome.version != PROTOCOL_VERSION {
        return Err(ConnectError::Version {
            chosen: welcome.version,
        });
    }
    let established = Established {
        connection,
        address,
        principal: welcome.principal,
        limits: Limits::from(welcome.limits.as_ref()),
        takes_measure: welcome.takes_measure,
        takes_compact: welcome.takes_compact,
        expects_reordering: false,
        streams: TaskTracker::new(),
        meters: TaskTracker::new(),
        moves: CancellationToken::new(),
        goodbye: SetOnce::new(),
    };
    Ok((established, HelloStream(stream)))
}

// A broker that ends in the midst of it may have ended the stream before the connection, so only what it says can be against the protocol.
fn no_answer(error: StreamError) -> ConnectError {
    match error {
        StreamError::Frame(error) => ConnectError::Protocol(error.to_string()),
        StreamError::Open(end)
        | StreamError::Send(SendError::Lost(end))
        | StreamError::Receive(ReceiveError::Lost(end)) => ConnectError::Lost(end),
        error => lost(&error.to_string()),
    }
}

fn lost(why: &str) -> ConnectError {
    ConnectError::Lost(ConnectionEnd::Failed(why.to_owned()))
}
