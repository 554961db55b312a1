//! The connection and its supervisor. One task per client keeps one connection to the broker; publishers and
//! consumers wait for it and use it, but never make or end it.

use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use tidegate_wire::pb;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::consumer::Consumer;
use crate::error::{ConnectError, PublishError, SubscribeError};
use crate::options::{ClientOptions, ConsumerOptions, PublisherOptions};
use crate::publisher::Publisher;
use crate::transport::{HelloStream, Session, Transport};

/// How long one attempt to connect gets, in turn. A fresh attempt asks at once, where an old one waits ever longer
/// between its packets, so short ones find a broker soon after it comes up; the long ones are for slow networks.
const ATTEMPT_TIMEOUTS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// A connection that lived for this long worked: the next loss starts from the shortest back-off. One that the
/// broker closes at once, again and again, does not.
const SETTLED_AFTER: Duration = Duration::from_millis(250);

/// How long [`Client::close`] waits for the broker to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection to a broker that mends itself. Cheap to clone; when the last clone, publisher and consumer are gone,
/// the connection is closed.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<ClientHandle>,
}

impl Client {
    /// Connects to a broker. Tries until the connect timeout is over, but returns at once when trying again cannot
    /// help (a refused certificate, an unknown version). Later losses are mended in the background.
    ///
    /// # Errors
    /// Why there is no connection: see [`ConnectError`].
    pub async fn connect(options: ClientOptions) -> Result<Client, ConnectError> {
        let transport = Transport::new(options)?;
        let (session, hello) = first_connection(&transport).await?;
        let session = Arc::new(session);
        let (link_sender, link) = watch::channel(Link::Up(Arc::clone(&session)));
        let stop = CancellationToken::new();
        let ended = CancellationToken::new();
        let supervisor = Supervisor {
            backoff: backoff(transport.options()),
            transport,
            link: link_sender,
            since: Instant::now(),
            stop: stop.clone(),
            _ended: ended.clone().drop_guard(),
        };
        let handle = ClientHandle {
            options: supervisor.transport.options().clone(),
            link,
            stop: stop.clone(),
            ended,
            _stop_on_drop: stop.drop_guard(),
        };
        tokio::spawn(supervisor.run(session, hello));
        Ok(Client {
            handle: Arc::new(handle),
        })
    }

    /// Who the broker takes this client for, as it said in its last welcome; empty when the connection has ended
    /// for good or is being made anew.
    #[must_use]
    pub fn principal(&self) -> String {
        match &*self.handle.link.borrow() {
            Link::Up(session) => session.principal.clone(),
            Link::Connecting | Link::Down(_) => String::new(),
        }
    }

    /// Opens a publisher. Waits for a connection, if there is none, and for the broker's answer.
    ///
    /// # Errors
    /// When the broker refuses it, or the connection has ended for good.
    pub async fn publisher(&self, options: PublisherOptions) -> Result<Publisher, PublishError> {
        Publisher::open(Arc::clone(&self.handle), options).await
    }

    /// Attaches a consumer to the durable subscription `subscription`. Waits for a connection, if there is none,
    /// and for the broker's answer.
    ///
    /// # Errors
    /// When the broker refuses it, or the connection has ended for good.
    pub async fn subscribe(
        &self,
        subscription: &str,
        options: ConsumerOptions,
    ) -> Result<Consumer, SubscribeError> {
        Consumer::open(Arc::clone(&self.handle), subscription, options, false).await
    }

    /// Attaches a consumer that only looks: it is shown each pending event once, in order of commit, also those that other
    /// consumers have in hand, and holds none of them. Answers about them are ignored, nobody waits for it, and nothing counts
    /// as an attempt. After a lost connection it begins anew.
    ///
    /// # Errors
    /// As for [`subscribe`](Self::subscribe).
    pub async fn look(
        &self,
        subscription: &str,
        options: ConsumerOptions,
    ) -> Result<Consumer, SubscribeError> {
        Consumer::open(Arc::clone(&self.handle), subscription, options, true).await
    }

    /// Closes the connection, for every clone. Flushes nothing: call [`Publisher::flush`] and
    /// [`Consumer::flush_acks`] first. Returns when the broker has heard of it, or after half a second.
    pub async fn close(&self) {
        self.handle.stop.cancel();
        self.handle.ended.cancelled().await;
    }
}

/// What the client, its publishers and its consumers share.
#[derive(Debug)]
pub(crate) struct ClientHandle {
    options: ClientOptions,
    link: watch::Receiver<Link>,
    stop: CancellationToken,
    /// Cancelled when the supervisor has ended.
    ended: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl ClientHandle {
    /// The session to use now; waits while there is none. A session whose connection is known to be dead is not
    /// handed out.
    ///
    /// # Errors
    /// Why there will never be one again.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Arc<ConnectError>> {
        let mut link = self.link.clone();
        let usable = |link: &Link| match link {
            Link::Up(session) => session.connection.close_reason().is_none(),
            Link::Connecting => false,
            Link::Down(_) => true,
        };
        match link.wait_for(usable).await.as_deref() {
            Ok(Link::Up(session)) => Ok(Arc::clone(session)),
            Ok(Link::Down(error)) => Err(Arc::clone(error)),
            // The supervisor says `Down` before it ends; without a word it was aborted with its runtime.
            Ok(Link::Connecting) | Err(_) => Err(Arc::new(ConnectError::Closed)),
        }
    }

    /// Sleeps for `wait`, less when the client is closed meanwhile.
    pub(crate) async fn pause(&self, wait: Duration) {
        let _ = tokio::time::timeout(wait, self.stop.cancelled()).await;
    }

    /// The back-off for streams on this connection.
    pub(crate) fn backoff(&self) -> Backoff {
        backoff(&self.options)
    }
}

/// How the connection fares.
#[derive(Clone, Debug)]
enum Link {
    Connecting,
    Up(Arc<Session>),
    Down(Arc<ConnectError>),
}

fn backoff(options: &ClientOptions) -> Backoff {
    Backoff::new(options.backoff_min, options.backoff_max)
}

fn attempt_timeout(attempt: usize) -> Duration {
    ATTEMPT_TIMEOUTS[attempt % ATTEMPT_TIMEOUTS.len()]
}

/// Tries until it works, cannot work, or the connect timeout is over.
async fn first_connection(transport: &Transport) -> Result<(Session, HelloStream), ConnectError> {
    let options = transport.options();
    let waited = options.connect_timeout;
    let deadline = Instant::now() + waited;
    let mut backoff = backoff(options);
    let mut source = None;
    let mut attempt = 0;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectError::TimedOut {
                addr: options.addr.clone(),
                waited,
                source,
            });
        }
        match transport.connect(attempt_timeout(attempt).min(left)).await {
            Ok(connected) => return Ok(connected),
            Err(error) if !error.is_transient() => return Err(error),
            Err(ConnectError::TimedOut { .. }) => {}
            Err(error) => source = Some(Box::new(error)),
        }
        attempt += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(backoff.next().min(left)).await;
    }
}

/// Keeps the connection. Owns the sending half of the link: nobody else says how the connection fares.
struct Supervisor {
    transport: Transport,
    link: watch::Sender<Link>,
    backoff: Backoff,
    /// When the connection was made.
    since: Instant,
    stop: CancellationToken,
    _ended: DropGuard,
}

/// Why a session is over for the supervisor.
enum SessionEnd {
    Stopped,
    Lost(quinn::ConnectionError),
    GoAway(pb::GoAway, HelloStream),
}

impl Supervisor {
    async fn run(mut self, session: Arc<Session>, hello: HelloStream) {
        let mut current = Some((session, hello));
        while let Some((session, hello)) = current.take() {
            current = match self.watch(&session, hello).await {
                SessionEnd::Stopped => {
                    self.hang_up(&session, ConnectError::Closed).await;
                    None
                }
                SessionEnd::Lost(error) => {
                    info!(%error, "connection to the broker lost");
                    self.replace(ConnectError::Lost(error)).await
                }
                SessionEnd::GoAway(goodbye, hello) => {
                    info!(
                        reason = goodbye.reason,
                        grace_ms = goodbye.grace_ms,
                        "the broker says goodbye"
                    );
                    tokio::spawn(linger(session, hello));
                    let error = pb::Error::new(pb::ErrorCode::ShuttingDown, goodbye.reason);
                    self.replace(ConnectError::Refused(error.into())).await
                }
            };
        }
    }

    async fn watch(&self, session: &Session, mut hello: HelloStream) -> SessionEnd {
        tokio::select! {
            () = self.stop.cancelled() => SessionEnd::Stopped,
            error = session.connection.closed() => SessionEnd::Lost(error),
            goodbye = hello.go_away() => match goodbye {
                Some(goodbye) => SessionEnd::GoAway(goodbye, hello),
                // The stream ended without a word; the connection tells the rest.
                None => tokio::select! {
                    () = self.stop.cancelled() => SessionEnd::Stopped,
                    error = session.connection.closed() => SessionEnd::Lost(error),
                },
            },
        }
    }

    /// Makes a new connection for one that is over because of `cause`, however long it takes; `None` when it must
    /// not or cannot be.
    async fn replace(&mut self, cause: ConnectError) -> Option<(Arc<Session>, HelloStream)> {
        if !self.transport.options().reconnect {
            self.link.send_replace(Link::Down(Arc::new(cause)));
            return None;
        }
        self.link.send_replace(Link::Connecting);
        if self.since.elapsed() >= SETTLED_AFTER {
            self.backoff.reset();
        }
        for attempt in 0.. {
            let wait = self.backoff.next();
            let connecting = async {
                tokio::time::sleep(wait).await;
                let timeout = attempt_timeout(attempt);
                let timeout = timeout.min(self.transport.options().connect_timeout);
                self.transport.connect(timeout).await
            };
            let connected = tokio::select! {
                () = self.stop.cancelled() => Err(ConnectError::Closed),
                connected = connecting => connected,
            };
            match connected {
                Ok((session, hello)) => return Some(self.establish(session, hello)),
                Err(error) if gives_up(&error) => {
                    if !matches!(error, ConnectError::Closed) {
                        warn!(%error, "not connecting to the broker any more");
                    }
                    self.link.send_replace(Link::Down(Arc::new(error)));
                    return None;
                }
                Err(error) => debug!(%error, "connecting to the broker failed; trying again"),
            }
        }
        None
    }

    fn establish(&mut self, session: Session, hello: HelloStream) -> (Arc<Session>, HelloStream) {
        info!(broker = %session.connection.remote_address(), "connected to the broker again");
        self.since = Instant::now();
        let session = Arc::new(session);
        self.link.send_replace(Link::Up(Arc::clone(&session)));
        (session, hello)
    }

    async fn hang_up(&self, session: &Session, reason: ConnectError) {
        self.link.send_replace(Link::Down(Arc::new(reason)));
        session
            .connection
            .close(VarInt::from_u32(0), b"client closed");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, session.endpoint.wait_idle()).await;
    }
}

/// Keeps a session that the broker will close for as long as it serves what runs on it.
async fn linger(session: Arc<Session>, hello: HelloStream) {
    session.connection.closed().await;
    drop(hello);
}

/// Whether reconnecting ends at `error`. A failed handshake does not end it: certificates are renewed, and brokers
/// come back with the right one.
fn gives_up(error: &ConnectError) -> bool {
    !error.is_transient()
        && !matches!(
            error,
            ConnectError::Handshake { .. } | ConnectError::Protocol(_)
        )
}
