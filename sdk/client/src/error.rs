//! Why something with the broker did not work. One enum per operation; what the broker itself refused is a
//! [`Refusal`] inside. Errors are cheap to clone, because one cause ends many tickets and streams.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::event::EventCheckError;
use tidegate_wire::frame::FrameError;
pub use tidegate_wire::pb::ErrorCode;
pub use tidegate_wire::stream::ConnectionEnd;
use tidegate_wire::stream::{ReceiveError, SendError};
use tidegate_wire::{PROTOCOL_VERSION, pb};

/// How long a broker is left alone that takes no connection and has not said for how long: it keeps those waiting that it has time
/// for within some seconds.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// The broker's no: what, why, and whether to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of refusal it is.
    pub code: ErrorCode,
    /// What is wrong and what to do, in the broker's words.
    pub message: String,
    /// The same request may succeed later.
    pub retryable: bool,
    /// How long to wait before a retry, when the broker says so.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => write!(formatter, "{}", self.code),
            message => write!(formatter, "{}: {message}", self.code),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<pb::Error> for Refusal {
    fn from(error: pb::Error) -> Self {
        Self {
            code: error.code(),
            retryable: error.retryable,
            retry_after: error.retry_wait(),
            message: error.message,
        }
    }
}

/// Why options are of no use.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not PEM, or not the right kind of it.
    #[error("the {what} is not valid PEM: {reason}")]
    Pem {
        /// Which of the files.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// PEM without anything of the kind that is needed.
    #[error("there is no {what} in the PEM given")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// The private key asks for a password.
    #[error(
        "the private key is encrypted, and there is nobody to ask for its password; write it without, readable for its user only: `openssl pkey -in ENCRYPTED.key -out PLAIN.key && chmod 600 PLAIN.key`"
    )]
    EncryptedKey,
    /// No certificate authority was given, so no broker could be trusted.
    #[error(
        "no root certificates are given; pass the CA that signed the broker's certificate to `roots_pem`"
    )]
    NoRoots,
    /// `server_name` is neither a DNS name nor an IP address.
    #[error(
        "`{name}` is neither a DNS name nor an IP address; set `server_name` to a name in the broker's certificate"
    )]
    ServerName {
        /// The name given.
        name: String,
    },
    /// The certificate or key does not work.
    #[error("the TLS configuration does not work")]
    Tls(#[source] rustls::Error),
}

/// Why there is no connection to the broker.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The options are of no use.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address does not resolve.
    #[error("cannot resolve `{addr}`; give it as host:port")]
    Resolve {
        /// The address given.
        addr: String,
        /// What the resolver says.
        source: Arc<io::Error>,
    },
    /// No UDP socket could be opened.
    #[error("cannot open a UDP socket")]
    Socket(#[source] Arc<io::Error>),
    /// The TLS handshake failed: one side does not accept the other's certificate, or they share no protocol.
    #[error(
        "the TLS handshake with `{addr}` failed ({reason}); check the CA, the client certificate and the server name"
    )]
    Handshake {
        /// The broker's address.
        addr: String,
        /// Whose objection, and which.
        reason: String,
    },
    /// No connection came about in time.
    #[error(
        "no connection to `{addr}` within {waited:?}; check the address, that the broker is running, and that nothing between drops UDP or datagrams of 1,200 bytes, which QUIC needs"
    )]
    TimedOut {
        /// The broker's address.
        addr: String,
        /// How long it was tried.
        waited: Duration,
        /// What went wrong last, when it was more than silence.
        source: Option<Box<ConnectError>>,
    },
    /// The broker is silent although it was asked for something. The connection may still come back; another one is being made.
    #[error("nothing was heard of the broker for {waited:?} after it was asked for something")]
    Silent {
        /// For how long it was when another one was begun. Before it was asked, there may have been nothing to hear for longer.
        waited: Duration,
    },
    /// The broker is there, and takes no connection at present: it has no time for it, or no place. It said so at once, and the
    /// attempt has cost it next to nothing.
    #[error(
        "the broker at `{addr}` takes no further connection at present: too many clients connect at once, or it has as many as it may (limits.connections_max); it runs and is reachable, so try again in some seconds"
    )]
    Busy {
        /// The broker's address.
        addr: String,
    },
    /// The connection was lost, or ended by the broker.
    #[error("the connection to the broker was lost")]
    Lost(#[from] ConnectionEnd),
    /// The broker answered the hello with a refusal.
    #[error("the broker refused the connection: {0}")]
    Refused(Refusal),
    /// The broker chose a version that this client does not speak.
    #[error(
        "the broker wants protocol version {chosen}, but this client speaks only {PROTOCOL_VERSION}; update the client"
    )]
    Version {
        /// The broker's choice.
        chosen: u32,
    },
    /// The broker broke the protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// [`Client::close`](crate::Client::close) was called.
    #[error("the client was closed")]
    Closed,
}

impl ConnectError {
    /// How long the broker wants to be left alone, if it said so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => {
                // One that was too many for a limit is as little use a moment later.
                let is_full = refusal.retryable && refusal.code == ErrorCode::Overloaded;
                refusal.retry_after.or(is_full.then_some(BUSY_WAIT))
            }
            Self::Busy { .. } => Some(BUSY_WAIT),
            _ => None,
        }
    }

    /// Whether the next attempt may go better although nobody changes anything here.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.retryable,
            Self::Lost(_)
            | Self::Silent { .. }
            | Self::Busy { .. }
            | Self::TimedOut { .. }
            | Self::Resolve { .. }
            | Self::Socket(_) => true,
            Self::Config(_)
            | Self::Handshake { .. }
            | Self::Version { .. }
            | Self::Protocol(_)
            | Self::Closed => false,
        }
    }
}

/// Why an event was not published, or a publisher not opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker refused the event's batch, or the publisher as a whole. After
    /// [`ErrorCode::ProducerFenced`] the publisher is of no more use.
    #[error("the broker refused to publish: {0}")]
    Refused(Refusal),
    /// The event itself is beyond what the broker accepts; it was not sent.
    #[error("the event cannot be published")]
    Event(#[from] EventCheckError),
    /// The topic's name is empty or too long; the event was not sent.
    #[error("a topic's name has 1 to {max} bytes, not {length}", max = tidegate_wire::limits::TOPIC_BYTES_MAX)]
    TopicName {
        /// Bytes of the name given.
        length: usize,
    },
    /// No answer within the publisher's delivery timeout. The event may or may not have been appended.
    #[error("no answer within {after:?}; the event may or may not have been appended")]
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// There is no connection, and none will be made.
    #[error("there is no connection to publish on")]
    Connection(#[source] Arc<ConnectError>),
    /// The broker broke the protocol. The event may or may not have been appended.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
}

/// Why a consumer gets no (more) deliveries.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The broker refused the consumer, or ended it.
    #[error("the broker refused the consumer: {0}")]
    Refused(Refusal),
    /// There is no connection, and none will be made.
    #[error("there is no connection to receive on")]
    Connection(#[source] Arc<ConnectError>),
    /// The broker broke the protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// The connection was lost before the broker confirmed these acks: their events may come again.
    #[error(
        "the connection was lost before all acks were confirmed; their events may be delivered again"
    )]
    AcksLost,
    /// Some of what was answered or extended was not this consumer's any more, and the broker took no notice: the ack deadline had passed.
    /// These events go to another consumer, or come again; all other answers are durable.
    #[error(
        "{events} of the events answered were not held any more, since their ack deadline had passed or their topic was deleted; what is not deleted may be delivered again. Extend what takes longer, or raise the subscription's ack deadline",
        events = not_held_events(positions, *more)
    )]
    NotHeld {
        /// The positions of these events, as ranges.
        positions: Vec<RangeInclusive<u64>>,
        /// There were more than these.
        more: bool,
    },
    /// The consumer was closed.
    #[error("the consumer was closed")]
    Closed,
}

/// Why a connection cannot be measured.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The broker is older than this, and cannot say what it has counted.
    #[error("this broker cannot say what it has counted of a connection; it takes a newer one")]
    Unsupported,
    /// The broker refused it.
    #[error("the broker refused to measure: {0}")]
    Refused(Refusal),
    /// There is no connection, and none will be made.
    #[error("there is no connection to measure")]
    Connection(#[source] Arc<ConnectError>),
    /// The connection that was measured is lost. Another may be there by now.
    #[error("the connection was lost while it was measured: {0}")]
    Lost(Arc<str>),
    /// The broker broke the protocol.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
}

/// How many events these are, for people.
fn not_held_events(positions: &[RangeInclusive<u64>], more: bool) -> String {
    let events = positions.iter().fold(0u64, |events, range| {
        events.saturating_add((range.end() - range.start()).saturating_add(1))
    });
    match more {
        true => format!("more than {events}"),
        false => events.to_string(),
    }
}

/// Why a stream ended; its owner decides what that means for its users.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The connection is gone, so no stream was opened.
    #[error("there is no stream: {0}")]
    Open(#[from] ConnectionEnd),
    /// Nothing more can be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Nothing more can be received.
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// What came is not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
}
