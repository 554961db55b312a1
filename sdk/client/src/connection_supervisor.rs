//! The supervisor: one task per client, which keeps one connection to the broker, makes a new one for one that is lost, and closes
//! it when nobody needs it any more. What the connection is used for is not known here.

use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::dial::Dialer;
use crate::error::ConnectError;
use crate::hello::{Established, HelloStream};
use crate::link::{Link, LinkOwner, LinkState};
use crate::options::ClientOptions;
use crate::random::Random;
use crate::spawn;
use crate::transport::Connector;

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

/// How long a client that is closed waits for the broker to hear of it.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes the first connection, and keeps one from then on.
///
/// # Errors
/// Why there is no first one. Tries until it works, cannot work, or the connect timeout is over.
pub(crate) async fn connect<K: Connector>(
    connector: K,
    options: ClientOptions,
) -> Result<Link<K::Connection>, ConnectError> {
    let random = Random::new(options.seed);
    let dialer = Dialer { connector, options };
    let backoff = Backoff::new(
        dialer.options.backoff_min,
        dialer.options.backoff_max,
        random.clone(),
    );
    let (established, hello) = first_connection(&dialer, backoff.clone()).await?;
    let established = Arc::new(established);
    let (link, owner) = Link::new(Arc::clone(&established), &dialer.options, random);
    let supervisor = Supervisor {
        dialer,
        link: owner,
        backoff,
        since: Instant::now(),
    };
    spawn::spawn(supervisor.run(established, hello));
    Ok(link)
}

async fn first_connection<K: Connector>(
    dialer: &Dialer<K>,
    mut backoff: Backoff,
) -> Result<(Established<K::Connection>, HelloStream<K::Connection>), ConnectError> {
    let options = &dialer.options;
    let waited = options.connect_timeout;
    let deadline = Instant::now() + waited;
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
        match dialer.dial(attempt_timeout(attempt).min(left)).await {
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

fn attempt_timeout(attempt: usize) -> Duration {
    ATTEMPT_TIMEOUTS[attempt % ATTEMPT_TIMEOUTS.len()]
}

struct Supervisor<K: Connector> {
    dialer: Dialer<K>,
    link: LinkOwner<K::Connection>,
    backoff: Backoff,
    /// When the connection was made.
    since: Instant,
}

/// A connection that is up, and its hello stream.
type Current<C> = (Arc<Established<C>>, HelloStream<C>);

/// What can happen to a connection.
enum Event {
    Stopped,
    Lost(ConnectionEnd),
    GoAway(pb::GoAway),
}

impl<K: Connector> Supervisor<K> {
    async fn run(
        mut self,
        established: Arc<Established<K::Connection>>,
        hello: HelloStream<K::Connection>,
    ) {
        let mut current = Some((established, hello));
        while let Some((established, mut hello)) = current.take() {
            current = match self.next_event(&established, &mut hello).await {
                Event::Stopped => {
                    self.hang_up(&established).await;
                    None
                }
                Event::Lost(end) => {
                    info!(error = %end, "connection to the broker lost");
                    self.replace(ConnectError::Lost(end)).await
                }
                Event::GoAway(goodbye) => {
                    info!(
                        reason = goodbye.reason,
                        grace_ms = goodbye.grace_ms,
                        "the broker says goodbye"
                    );
                    spawn::spawn(linger(established, hello));
                    let error = pb::Error::new(pb::ErrorCode::ShuttingDown, goodbye.reason);
                    self.replace(ConnectError::Refused(error.into())).await
                }
            };
        }
    }

    async fn next_event(
        &self,
        established: &Established<K::Connection>,
        hello: &mut HelloStream<K::Connection>,
    ) -> Event {
        let goodbye = async {
            match hello.go_away().await {
                Some(goodbye) => goodbye,
                // The stream ended without a word; the connection tells the rest.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.link.stop.cancelled() => Event::Stopped,
            end = established.connection.closed() => Event::Lost(end),
            goodbye = goodbye => Event::GoAway(goodbye),
        }
    }

    /// Makes a new connection for one that is over because of `cause`, however long it takes; `None` when it must
    /// not or cannot be.
    async fn replace(&mut self, cause: ConnectError) -> Option<Current<K::Connection>> {
        if !self.dialer.options.reconnect {
            self.say(LinkState::Down(Arc::new(cause)));
            return None;
        }
        self.say(LinkState::Connecting(Arc::new(cause)));
        if self.since.elapsed() >= SETTLED_AFTER {
            self.backoff.reset();
        }
        let mut objection_is_said = false;
        for attempt in 0.. {
            let wait = self.backoff.next();
            let dialing = async {
                tokio::time::sleep(wait).await;
                let timeout = attempt_timeout(attempt);
                let timeout = timeout.min(self.dialer.options.connect_timeout);
                self.dialer.dial(timeout).await
            };
            let dialed = tokio::select! {
                biased;
                () = self.link.stop.cancelled() => Err(ConnectError::Closed),
                dialed = dialing => dialed,
            };
            match dialed {
                Ok((established, hello)) => return Some((self.establish(established), hello)),
                Err(error) if self.gives_up(&error) => {
                    if !matches!(error, ConnectError::Closed) {
                        warn!(%error, "not connecting to the broker any more");
                    }
                    self.say(LinkState::Down(Arc::new(error)));
                    return None;
                }
                Err(error) => {
                    // The others pass; this one often takes somebody.
                    let objects = matches!(error, ConnectError::Handshake { .. });
                    if objects && !std::mem::replace(&mut objection_is_said, true) {
                        warn!(%error, "a certificate is not accepted; trying again");
                    }
                    debug!(%error, "connecting to the broker failed; trying again");
                    self.say(LinkState::Connecting(Arc::new(error)));
                }
            }
        }
        None
    }

    fn establish(
        &mut self,
        established: Established<K::Connection>,
    ) -> Arc<Established<K::Connection>> {
        info!(broker = %established.address, "connected to the broker again");
        self.since = Instant::now();
        let established = Arc::new(established);
        self.say(LinkState::Up(Arc::clone(&established)));
        established
    }

    async fn hang_up(&self, established: &Established<K::Connection>) {
        self.say(LinkState::Down(Arc::new(ConnectError::Closed)));
        established.connection.close(0, "client closed");
        let heard = self
            .dialer
            .connector
            .heard_of_close(&established.connection);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, heard).await;
    }

    /// Whether reconnecting ends at `error`.
    fn gives_up(&self, error: &ConnectError) -> bool {
        match error {
            ConnectError::Handshake { .. } => !self.dialer.options.retry_objections,
            ConnectError::Protocol(_) => false,
            error => !error.is_transient(),
        }
    }

    fn say(&self, state: LinkState<K::Connection>) {
        self.link.state.send_replace(state);
    }
}

/// Keeps a connection that the broker will close for as long as it serves what runs on it.
async fn linger<C: Connection>(established: Arc<Established<C>>, hello: HelloStream<C>) {
    established.connection.closed().await;
    drop(hello);
}
