//! One QUIC connection, from its handshake to its close: who the client is, the hello, and a task for every
//! stream it opens. A connection knows nothing of topics or events; what a stream carries is the business of
//! `publish` and `subscribe`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn::{Connection, ConnectionError, Incoming, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use tidegate_wire::PROTOCOL_VERSION;
use tidegate_wire::limits::{FRAME_BYTES_MAX, OPEN_FRAME_BYTES_MAX};
use tidegate_wire::pb::{self, ErrorCode, hello_reply, publish_opened, stream_open};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::account::Account;
use super::frames::{FrameRecv, FrameSend};
use super::handshakes::{Handshake, Handshakes};
use super::options::{ClientAuth, NetOptions};
use super::refusal::{StreamEnd, invalid, overloaded, shutting_down};
use super::slots::{Slot, Slots};
use super::stats::NetStats;
use super::window::ReceiveWindow;
use super::{publish, subscribe};
use crate::auth::{Policy, Right, principal_of};
use crate::broker::{Broker, Unavailable};
use crate::domain::{ConnectionId, Principal};
use crate::runtime::spawn::{Spawner, panicked_serving};
#[cfg(test)]
use crate::telemetry::health::Conditions;
use crate::telemetry::log_limit::LogLimit;

/// Smallest frame a client may limit the broker to; below this not even refusals would fit reliably.
const PEER_FRAME_BYTES_MIN: usize = 4 * 1024;

/// Refusals of one connection that are logged as warnings; the rest only at debug level, so that a client in
/// a loop cannot fill the disk.
const REFUSALS_LOGGED_MAX: u64 = 20;

/// Characters of a client's self-description that are logged.
const CLIENT_NAME_CHARS_MAX: usize = 64;

/// What all connections of the broker share.
pub(super) struct Server {
    pub(super) options: NetOptions,
    pub(super) policy: Arc<Policy>,
    pub(super) backend: Backend,
    pub(super) stats: Arc<NetStats>,
    pub(super) handshakes: Arc<Handshakes>,
    pub(super) slots: Arc<Slots>,
    pub(super) shutdown: CancellationToken,
    connections: AtomicU64,
    failed_handshakes: LogLimit,
    refused: LogLimit,
}

/// Where requests go.
pub(super) enum Backend {
    Broker(Broker),
    /// For tests of everything that comes before the broker is asked.
    #[cfg(test)]
    Absent,
}

/// One client, past its hello.
pub(super) struct Peer {
    pub(super) server: Arc<Server>,
    pub(super) principal: Principal,
    /// Largest frame this client accepts.
    pub(super) frame_bytes_max: usize,
    /// What its connection takes memory from.
    pub(super) account: Arc<Account>,
    /// How much it may have under way.
    pub(super) window: Arc<ReceiveWindow>,
    /// Its place among all connections.
    _slot: Slot,
    connection: Connection,
    id: ConnectionId,
    remote: SocketAddr,
    refusals: AtomicU64,
}

/// Why a connection does not get as far as its hello.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the handshake failed: {0}")]
    Quic(#[from] ConnectionError),
    #[error("the handshake was not done within {0:?}")]
    Deadline(Duration),
    #[error("too many handshakes are under way, and this one had stalled for longest")]
    GaveWay,
    #[error("the client sent no certificate")]
    NoCertificate,
    #[error(transparent)]
    Principal(#[from] crate::auth::PrincipalFromCertError),
}

impl Server {
    pub(super) fn new(
        options: NetOptions,
        policy: Arc<Policy>,
        backend: Backend,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            handshakes: Handshakes::new(options.handshakes_max()),
            slots: Slots::new(options.slot_limits(), options.memory_share()),
            options,
            policy,
            backend,
            stats: Arc::new(NetStats::default()),
            shutdown,
            connections: AtomicU64::new(0),
            failed_handshakes: LogLimit::default(),
            refused: LogLimit::default(),
        }
    }

    /// Counts and logs a connection that is turned away by a limit. Such come in floods; the log gets a line a second.
    pub(super) fn log_refused(&self, remote: SocketAddr, reason: &str) {
        self.stats.connection_refused();
        if let Some(connections) = self.refused.admit(1) {
            warn!(%remote, reason, connections, "connection refused");
        }
    }

    fn log_failed_handshake(&self, remote: SocketAddr, error: &HandshakeError) {
        self.stats
            .handshake_failed(matches!(error, HandshakeError::GaveWay));
        if let Some(connections) = self.failed_handshakes.admit(1) {
            warn!(%remote, reason = %error, connections, "client refused before its hello");
        }
    }

    /// Starts tasks of the network, which may end once it shuts down.
    pub(super) fn spawner(&self) -> Spawner {
        match &self.backend {
            Backend::Broker(broker) => broker.spawner().apart(self.shutdown.clone()),
            #[cfg(test)]
            Backend::Absent => Spawner::new(Conditions::default(), self.shutdown.clone()),
        }
    }

    fn next_id(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Backend {
    pub(super) fn broker(&self) -> Result<&Broker, Unavailable> {
        match self {
            Self::Broker(broker) => Ok(broker),
            #[cfg(test)]
            Self::Absent => Err(Unavailable::Internal("no broker in this test".to_owned())),
        }
    }
}

impl Peer {
    /// Reads what the client says on one of its streams, which begins with a first message.
    fn frames_of(&self, recv: RecvStream) -> FrameRecv {
        let server = &self.server;
        FrameRecv::new(
            recv,
            OPEN_FRAME_BYTES_MAX,
            server.options.frame_timeout,
            self.account.clone(),
            server.stats.clone(),
        )
    }

    /// Whether the connection was lost, rather than ended by one side that said so. A client's process that dies may still
    /// close it, with nothing to say.
    pub(super) fn is_cut(&self) -> bool {
        match self.connection.close_reason() {
            None => false,
            _ if self.server.shutdown.is_cancelled() => false,
            Some(ConnectionError::ApplicationClosed(close)) => close.reason.is_empty(),
            Some(_) => true,
        }
    }

    /// Counts and logs the refusal of something on a stream.
    pub(super) fn log_refusal(&self, stream: &'static str, error: &pb::Error) {
        self.server.stats.refused(error.code());
        let earlier = self.refusals.fetch_add(1, Ordering::Relaxed);
        let (connection, remote, principal) = (self.id, self.remote, &self.principal);
        let (code, reason) = (error.code(), &error.message);
        if earlier < REFUSALS_LOGGED_MAX {
            warn!(%connection, %remote, %principal, stream, %code, reason, "refused");
        } else {
            debug!(%connection, %remote, %principal, stream, %code, reason, "refused");
        }
        if earlier + 1 == REFUSALS_LOGGED_MAX {
            warn!(%connection, %remote, %principal, "further refusals of this connection are logged at debug level");
        }
    }

    /// Logs what went wrong on a stream without a refusal.
    pub(super) fn log_fault(&self, stream: &'static str, reason: &str) {
        let (connection, remote, principal) = (self.id, self.remote, &self.principal);
        warn!(%connection, %remote, %principal, stream, reason, "fault");
    }
}

/// Serves a connection from its first packet to its close. `handshake` counts it as half open until then.
pub(super) async fn serve(
    server: Arc<Server>,
    incoming: Incoming,
    client_auth: ClientAuth,
    handshake: Handshake,
) {
    let remote = incoming.remote_address();
    let counted = server.stats.handshake();
    let connection = match shake_hands(&server, incoming, &handshake).await {
        Ok(connection) => connection,
        Err(error) => return server.log_failed_handshake(remote, &error),
    };
    let principal = match identify(&connection, client_auth) {
        Ok(principal) => principal,
        Err(error) => {
            close(
                &connection,
                &pb::Error::new(ErrorCode::PermissionDenied, error.to_string()),
            );
            return server.log_failed_handshake(remote, &error);
        }
    };
    let administers = server.policy.holds(&principal, Right::Admin);
    let slot = match server
        .slots
        .take(&principal, remote.ip().into(), administers)
    {
        Ok(slot) => slot,
        Err(full) => {
            let reason = full.to_string();
            close(&connection, &overloaded(&*reason));
            return server.log_refused(remote, &reason);
        }
    };
    let _counted = server.stats.connection();
    drop((handshake, counted));
    let Some((peer, hello)) = welcome(server, &connection, principal, slot).await else {
        return;
    };
    Live {
        peer: Arc::new(peer),
        connection,
        hello,
        streams: JoinSet::new(),
    }
    .run()
    .await;
}

async fn shake_hands(
    server: &Server,
    incoming: Incoming,
    handshake: &Handshake,
) -> Result<Connection, HandshakeError> {
    let deadline = server.options.handshake_timeout;
    let connecting = timeout(deadline, incoming.accept()?);
    tokio::select! {
        biased;
        connected = connecting => Ok(connected.map_err(|_| HandshakeError::Deadline(deadline))??),
        () = handshake.given_up.cancelled() => Err(HandshakeError::GaveWay),
    }
}

fn identify(connection: &Connection, client_auth: ClientAuth) -> Result<Principal, HandshakeError> {
    if client_auth == ClientAuth::Anonymous {
        return Ok(Principal::anonymous());
    }
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or(HandshakeError::NoCertificate)?;
    Ok(principal_of(leaf)?)
}

// The close code of a connection is the code of the refusal that closes it.
fn close(connection: &Connection, error: &pb::Error) {
    let code = u32::try_from(error.code).unwrap_or_default();
    connection.close(code.into(), error.message.as_bytes());
}

/// The hello stream, which stays open as long as the connection.
struct HelloStream {
    recv: FrameRecv,
    send: FrameSend,
}

// The hello, or nothing when the connection is over because of it.
async fn welcome(
    server: Arc<Server>,
    connection: &Connection,
    principal: Principal,
    slot: Slot,
) -> Option<(Peer, HelloStream)> {
    let within = server.options.handshake_timeout;
    let deadline = Instant::now() + within;
    let mut peer = Peer {
        id: server.next_id(),
        server,
        principal,
        frame_bytes_max: FRAME_BYTES_MAX,
        account: slot.account.clone(),
        window: ReceiveWindow::new(connection.clone()),
        _slot: slot,
        connection: connection.clone(),
        remote: connection.remote_address(),
        refusals: AtomicU64::new(0),
    };
    let Ok(accepted) = timeout_at(deadline, connection.accept_bi()).await else {
        let error = invalid(format!(
            "no hello within {within:?}; open the hello stream first"
        ));
        peer.log_refusal("hello", &error);
        close(connection, &error);
        return None;
    };
    let (send, recv) = accepted.ok()?;
    let mut hello = HelloStream {
        recv: peer.frames_of(recv),
        send: FrameSend::new(send, Arc::clone(&peer.server.stats)),
    };
    let read = timeout_at(deadline, hello.recv.next::<pb::StreamOpen>()).await;
    match read
        .map_err(|_| StreamEnd::Refused(invalid(format!("no hello within {within:?}"))))
        .and_then(|open| agree(open?))
    {
        Ok(agreed) => {
            peer.frame_bytes_max = agreed.frame_bytes_max;
            hello
                .send
                .push(&hello_reply(hello_reply::Result::Welcome(say_welcome(
                    &peer,
                ))));
            hello.send.flush().await.ok()?;
            log_open(&peer, &agreed.client);
            Some((peer, hello))
        }
        Err(end) => {
            let error = end.error()?;
            peer.log_refusal("hello", error);
            hello
                .send
                .push(&hello_reply(hello_reply::Result::Error(error.clone())));
            hello.send.finish().await;
            close(connection, error);
            None
        }
    }
}

fn log_open(peer: &Peer, client: &str) {
    let client: String = client.chars().take(CLIENT_NAME_CHARS_MAX).collect();
    info!(connection = %peer.id, remote = %peer.remote, principal = %peer.principal, ?client, "connected");
}

fn hello_reply(result: hello_reply::Result) -> pb::HelloReply {
    pb::HelloReply {
        result: Some(result),
    }
}

fn say_welcome(peer: &Peer) -> pb::Welcome {
    pb::Welcome {
        version: PROTOCOL_VERSION,
        broker: concat!("tidegate/", env!("CARGO_PKG_VERSION")).to_owned(),
        principal: peer.principal.to_string(),
        limits: Some((&peer.server.options.limits).into()),
    }
}

/// What a hello settles.
#[derive(Debug, PartialEq)]
struct Agreed {
    client: String,
    frame_bytes_max: usize,
}

fn agree(open: Option<pb::StreamOpen>) -> Result<Agreed, StreamEnd> {
    let Some(stream_open::Kind::Hello(hello)) = open.and_then(|open| open.kind) else {
        return Err(StreamEnd::malformed(
            "the first message of a connection must be a hello",
        ));
    };
    if !hello.versions.contains(&PROTOCOL_VERSION) {
        let message = format!(
            "none of the offered versions {:?} is known; this broker speaks version {PROTOCOL_VERSION}",
            &hello.versions[..hello.versions.len().min(8)],
        );
        return Err(StreamEnd::Refused(pb::Error::new(
            ErrorCode::UnsupportedVersion,
            message,
        )));
    }
    let frame_bytes_max = match usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX) {
        0 => FRAME_BYTES_MAX,
        bytes if bytes < PEER_FRAME_BYTES_MIN => {
            let message =
                format!("frame_bytes_max is {bytes}; accept at least {PEER_FRAME_BYTES_MIN}");
            return Err(StreamEnd::Refused(invalid(message)));
        }
        bytes => bytes,
    };
    Ok(Agreed {
        client: hello.client,
        frame_bytes_max,
    })
}

/// A connection past its hello. The one owner of its streams' tasks: dropping it ends them.
struct Live {
    peer: Arc<Peer>,
    connection: Connection,
    hello: HelloStream,
    streams: JoinSet<Result<(), StreamEnd>>,
}

/// What can happen to a connection.
enum Event {
    Opened(SendStream, RecvStream),
    Gone(ConnectionError),
    StreamEnded(Result<Result<(), StreamEnd>, JoinError>),
    /// The hello stream, on which the client has nothing more to say.
    Hello(Result<Option<pb::StreamOpen>, StreamEnd>),
    Shutdown,
    Deadline,
}

impl Live {
    async fn run(mut self) {
        // The earliest of these that applies ends the connection.
        let mut hello_open = true;
        let mut deadline = None;
        let closing = loop {
            match self.next_event(hello_open, deadline).await {
                Event::Opened(send, recv) => self.spawn(send, recv, deadline.is_some()),
                Event::Gone(error) => return self.log_close(&error.to_string()),
                Event::StreamEnded(ended) => {
                    if let Some(error) = self.violation(ended) {
                        break error;
                    }
                }
                Event::Hello(Ok(None) | Err(StreamEnd::Lost)) => hello_open = false,
                Event::Hello(Ok(Some(_))) => {
                    break self.hello_violation(StreamEnd::malformed(
                        "nothing may follow the hello on its stream",
                    ));
                }
                Event::Hello(Err(end)) => break self.hello_violation(end),
                Event::Shutdown => {
                    deadline = Some(Instant::now() + self.peer.server.options.shutdown_grace);
                    self.go_away().await;
                }
                Event::Deadline => break shutting_down(),
            }
            if deadline.is_some() && self.streams.is_empty() {
                break shutting_down();
            }
        };
        self.hello.send.finish().await;
        close(&self.connection, &closing);
        self.connection.closed().await;
        log_closed(&self.peer, &closing.message);
    }

    async fn next_event(&mut self, hello_open: bool, deadline: Option<Instant>) -> Event {
        let overdue = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.connection.accept_bi() => match accepted {
                Ok((send, recv)) => Event::Opened(send, recv),
                Err(error) => Event::Gone(error),
            },
            Some(ended) = self.streams.join_next() => Event::StreamEnded(ended),
            said = self.hello.recv.next(), if hello_open => Event::Hello(said),
            () = self.peer.server.shutdown.cancelled(), if deadline.is_none() => Event::Shutdown,
            () = overdue => Event::Deadline,
        }
    }

    fn spawn(&mut self, send: SendStream, recv: RecvStream, draining: bool) {
        let streams_max = self.peer.server.options.streams_max as usize;
        let refusal = if draining {
            Some(shutting_down())
        } else if self.streams.len() >= streams_max {
            let message = format!(
                "{streams_max} streams are open on this connection; close one or open another connection"
            );
            Some(pb::Error::new(ErrorCode::Overloaded, message))
        } else {
            None
        };
        self.streams
            .spawn(serve_stream(Arc::clone(&self.peer), send, recv, refusal));
    }

    // Why the connection must be closed, if a stream's end demands it.
    fn violation(&self, ended: Result<Result<(), StreamEnd>, JoinError>) -> Option<pb::Error> {
        match ended {
            Ok(Err(StreamEnd::Violation(error))) => Some(error),
            Ok(_) => None,
            Err(error) => {
                self.peer
                    .log_fault("stream", &format!("its task ended: {error}"));
                if error.is_panic() {
                    let spawner = self.peer.server.spawner();
                    panicked_serving(spawner.conditions(), "stream", &error.to_string());
                }
                None
            }
        }
    }

    fn hello_violation(&mut self, end: StreamEnd) -> pb::Error {
        let error = end.error().cloned().unwrap_or_else(shutting_down);
        self.peer.log_refusal("hello", &error);
        error
    }

    async fn go_away(&mut self) {
        let grace_ms = u64::try_from(self.peer.server.options.shutdown_grace.as_millis());
        self.hello.send.push(&pb::GoAway {
            reason: "the broker is shutting down".to_owned(),
            grace_ms: grace_ms.unwrap_or(u64::MAX),
        });
        // So little fits the stream's window unless the client never reads; then it is not told.
        let _ = timeout(Duration::from_millis(100), self.hello.send.flush()).await;
    }

    fn log_close(&self, reason: &str) {
        log_closed(&self.peer, reason);
    }
}

fn log_closed(peer: &Peer, reason: &str) {
    info!(connection = %peer.id, remote = %peer.remote, principal = %peer.principal, reason, "disconnected");
}

// Serves one stream, or refuses it outright, and brings its last words to the client.
async fn serve_stream(
    peer: Arc<Peer>,
    send: SendStream,
    recv: RecvStream,
    refusal: Option<pb::Error>,
) -> Result<(), StreamEnd> {
    let mut recv = peer.frames_of(recv);
    let mut send = FrameSend::new(send, Arc::clone(&peer.server.stats));
    let (kind, ended) = match refusal {
        Some(error) => (
            "stream",
            Err(refuse_open(&mut send, StreamEnd::Refused(error))),
        ),
        None => dispatch(&peer, &mut recv, &mut send).await,
    };
    if let Some(error) = ended.as_ref().err().and_then(StreamEnd::error) {
        peer.log_refusal(kind, error);
    }
    // Said before the last words are waited for, so that a client stops sending at once.
    drop(recv);
    if ended != Err(StreamEnd::Lost) {
        send.finish().await;
    }
    ended
}

async fn dispatch(
    peer: &Peer,
    recv: &mut FrameRecv,
    send: &mut FrameSend,
) -> (&'static str, Result<(), StreamEnd>) {
    let deadline = peer.server.options.handshake_timeout;
    let open = match timeout(deadline, recv.next::<pb::StreamOpen>()).await {
        Ok(Ok(Some(open))) => open,
        // Opened and given up again.
        Ok(Ok(None)) => return ("stream", Ok(())),
        Ok(Err(end)) => return ("stream", Err(refuse_open(send, end))),
        Err(_) => {
            let error = invalid(format!(
                "the stream's first message did not come within {deadline:?}"
            ));
            return ("stream", Err(refuse_open(send, StreamEnd::Refused(error))));
        }
    };
    recv.set_frame_bytes_max(peer.server.options.limits.frame_bytes_max);
    match open.kind {
        Some(stream_open::Kind::Publish(open)) => (
            "publish",
            Box::pin(publish::serve(peer, &open, recv, send)).await,
        ),
        Some(stream_open::Kind::Subscribe(open)) => (
            "subscribe",
            Box::pin(subscribe::serve(peer, &open, recv, send)).await,
        ),
        Some(stream_open::Kind::Hello(_)) => {
            let end = StreamEnd::malformed("a connection has one hello only");
            ("hello", Err(refuse_open(send, end)))
        }
        None => {
            let end = StreamEnd::malformed("the stream is of a kind this version does not know");
            ("stream", Err(refuse_open(send, end)))
        }
    }
}

// The first answer on a stream whose kind is not known: an error is field 2 of every kind's answer.
fn refuse_open(send: &mut FrameSend, end: StreamEnd) -> StreamEnd {
    if let Some(error) = end.error() {
        let result = Some(publish_opened::Result::Error(error.clone()));
        send.push(&pb::PublishOpened { result });
    }
    end
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_hello_is_agreed_on_or_refused() {
        let check = |versions: &[u32], frame_bytes_max: u64, expected: Result<usize, ErrorCode>| {
            let hello = pb::Hello {
                versions: versions.to_vec(),
                client: "c".into(),
                frame_bytes_max,
            };
            let open = pb::StreamOpen {
                kind: Some(stream_open::Kind::Hello(hello)),
            };
            let found = agree(Some(open)).map(|agreed| agreed.frame_bytes_max);
            assert_eq!(
                found.map_err(|end| end.error().expect("told").code()),
                expected
            );
        };
        check(&[1], 0, Ok(FRAME_BYTES_MAX));
        check(&[9, 1], 5_000, Ok(5_000));
        check(&[2, 3], 0, Err(ErrorCode::UnsupportedVersion));
        check(&[], 0, Err(ErrorCode::UnsupportedVersion));
        check(&[1], 100, Err(ErrorCode::InvalidArgument));
        assert!(matches!(agree(None), Err(StreamEnd::Violation(_))));
        assert!(matches!(
            agree(Some(pb::StreamOpen { kind: None })),
            Err(StreamEnd::Violation(_))
        ));
    }

    #[test]
    fn a_refusal_reads_the_same_whatever_the_stream_was_to_be() {
        let error = pb::Error::new(ErrorCode::Malformed, "m");
        let publish = pb::PublishOpened {
            result: Some(publish_opened::Result::Error(error.clone())),
        };
        let subscribe = pb::SubscribeOpened {
            result: Some(pb::subscribe_opened::Result::Error(error.clone())),
        };
        let hello = hello_reply(hello_reply::Result::Error(error));
        assert_eq!(publish.encode_to_vec(), subscribe.encode_to_vec());
        assert_eq!(publish.encode_to_vec(), hello.encode_to_vec());
    }
}
