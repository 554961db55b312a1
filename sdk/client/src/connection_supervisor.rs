//! The supervisor: one task per client, which keeps one connection to the broker, makes a new one for one that is lost, and closes
//! it when nobody needs it any more. What the connection is used for is not known here.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::attempts::reach;
use crate::backoff::Backoff;
use crate::dial::Dialer;
use crate::error::ConnectError;
use crate::hello::{Established, HelloStream};
use crate::link::{Link, LinkOwner, LinkState};
use crate::options::ClientOptions;
use crate::random::Random;
use crate::reordering;
use crate::silence::{LOOK_EVERY, SILENT_AFTER, Silence};
use crate::spawn;
use crate::transport::Connector;

/// A connection that lived for this long worked: the next loss starts from the shortest back-off. One that the
/// broker closes at once, again and again, does not.
const SETTLED_AFTER: Duration = Duration::from_millis(250);

/// How long attempts that were made beside a silent connection go on when that is lost, before all begins anew as after any loss: as
/// long as a busy broker may keep them waiting, and a handshake.
const LOST_MAX: Duration = Duration::from_secs(6);

/// How long a connection that is to be better than the one there is may take.
const ANEW_MAX: Duration = Duration::from_secs(20);

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
        overtaking: false,
    };
    spawn::spawn(supervisor.run(established, hello));
    Ok(link)
}

async fn first_connection<K: Connector>(
    dialer: &Dialer<K>,
    mut backoff: Backoff,
) -> Result<(Established<K::Connection>, HelloStream<K::Connection>), ConnectError> {
    let waited = dialer.options.connect_timeout;
    let mut source: Option<Box<ConnectError>> = None;
    let reaching = reach(dialer, &mut backoff, Duration::ZERO, |error| {
        if !matches!(error, ConnectError::TimedOut { .. }) {
            source = Some(Box::new(error.clone()));
        }
        !error.is_transient()
    });
    let reached = tokio::time::timeout(waited, reaching).await;
    reached.unwrap_or_else(|_| match source.as_deref() {
        // It says more than that time is over.
        Some(busy @ ConnectError::Busy { .. }) => Err(busy.clone()),
        _ => Err(ConnectError::TimedOut {
            addr: dialer.options.addr.clone(),
            waited,
            source,
        }),
    })
}

struct Supervisor<K: Connector> {
    dialer: Dialer<K>,
    link: LinkOwner<K::Connection>,
    backoff: Backoff,
    /// When the connection was made.
    since: Instant,
    /// The path was found to let packets overtake each other; it is not looked at again.
    overtaking: bool,
}

/// A connection that is up, and its hello stream.
type Current<C> = (Arc<Established<C>>, HelloStream<C>);

/// What can happen to a connection.
enum Event {
    Stopped,
    Lost(ConnectionEnd),
    Silent,
    Reorders,
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
                Event::Silent => Some(self.look_elsewhere((established, hello)).await),
                Event::Reorders => Some(self.expect_reordering((established, hello)).await),
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
        let makes_others = self.dialer.options.reconnect;
        tokio::select! {
            biased;
            () = self.link.stop.cancelled() => Event::Stopped,
            end = established.connection.closed() => Event::Lost(end),
            goodbye = goodbye => Event::GoAway(goodbye),
            () = silent(&established.connection), if makes_others => Event::Silent,
            () = reordering::found(established), if makes_others && !self.overtaking => Event::Reorders,
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
        let Self {
            dialer,
            link,
            backoff,
            ..
        } = self;
        let first_wait = backoff.next();
        let retry_objections = dialer.options.retry_objections;
        let mut objection_is_said = false;
        let reaching = reach(dialer, backoff, first_wait, |error| {
            let ends = gives_up(error, retry_objections);
            if !ends {
                // The others pass; this one often takes somebody.
                let objects = matches!(error, ConnectError::Handshake { .. });
                if objects && !std::mem::replace(&mut objection_is_said, true) {
                    warn!(%error, "a certificate is not accepted; trying again");
                }
                debug!(%error, "connecting to the broker failed; trying again");
                link.say(LinkState::Connecting(Arc::new(error.clone())));
            }
            ends
        });
        let reached = tokio::select! {
            biased;
            () = link.stop.cancelled() => Err(ConnectError::Closed),
            reached = reaching => reached,
        };
        match reached {
            Ok((established, hello)) => Some((self.establish(established), hello)),
            Err(error) => {
                if !matches!(error, ConnectError::Closed) {
                    warn!(%error, "not connecting to the broker any more");
                }
                self.say(LinkState::Down(Arc::new(error)));
                None
            }
        }
    }

    /// Makes a connection beside one on which the broker is silent, and returns whichever is of use first: packets are sent again
    /// ever more seldom, so that after an outage a new connection may be there long before the old one, and on some paths only the
    /// old one goes on.
    async fn look_elsewhere(&mut self, current: Current<K::Connection>) -> Current<K::Connection> {
        let waited = SILENT_AFTER;
        info!(?waited, "the broker is silent; connecting beside");
        self.say(LinkState::Connecting(Arc::new(ConnectError::Silent {
            waited,
        })));
        let old = &current.0.connection;
        match self.reach_beside(old).await {
            Some((established, hello)) => {
                old.close(0, "replaced by a connection on which the broker answers");
                (self.establish(established), hello)
            }
            None => {
                if old.end().is_none() {
                    self.say(LinkState::Up(current.0.clone()));
                }
                current
            }
        }
    }

    /// Makes a connection beside `old`; `None` when that answers, or it took too long after that was lost.
    async fn reach_beside(
        &mut self,
        old: &K::Connection,
    ) -> Option<(Established<K::Connection>, HelloStream<K::Connection>)> {
        let heard = old.traffic().heard;
        let answers = async {
            while old.traffic().heard == heard {
                tokio::time::sleep(LOOK_EVERY / 10).await;
            }
        };
        self.backoff.reset();
        let Self {
            dialer,
            link,
            backoff,
            ..
        } = self;
        // Whatever a broker may say against a second connection, the first is still there.
        let mut reaching = pin!(reach(dialer, backoff, Duration::ZERO, |error| {
            debug!(%error, "connecting beside a silent connection failed");
            false
        }));
        let mut reached = tokio::select! {
            biased;
            () = link.stop.cancelled() => None,
            _ = old.closed() => None,
            () = answers => None,
            reached = reaching.as_mut() => reached.ok(),
        };
        let is_lost = old.end().is_some_and(|end| end != ConnectionEnd::Here);
        if reached.is_none() && is_lost && dialer.options.reconnect {
            // What is under way may have waited for a busy broker already, so it is not begun anew at once.
            reached = tokio::select! {
                biased;
                () = link.stop.cancelled() => None,
                reached = tokio::time::timeout(LOST_MAX, reaching) => reached.ok().and_then(Result::ok),
            };
        }
        reached
    }

    /// Makes a connection on which packets that come late are waited for, and gives up the one where they count as lost. That one is
    /// kept when there is no other at once; each later one is patient anyway.
    async fn expect_reordering(
        &mut self,
        current: Current<K::Connection>,
    ) -> Current<K::Connection> {
        self.overtaking = true;
        if !self.dialer.connector.expect_reordering() {
            return current;
        }
        info!("packets overtake each other on the way; connecting anew, to wait for late ones");
        self.backoff.reset();
        let Self {
            dialer,
            link,
            backoff,
            ..
        } = self;
        let reaching = reach(dialer, backoff, Duration::ZERO, |error| {
            debug!(%error, "connecting beside a connection with late packets failed");
            true
        });
        let old = &current.0.connection;
        let reached = tokio::select! {
            biased;
            () = link.stop.cancelled() => None,
            _ = old.closed() => None,
            reached = tokio::time::timeout(ANEW_MAX, reaching) => reached.ok().and_then(Result::ok),
        };
        match reached {
            Some((established, hello)) => {
                old.close(0, "replaced by a connection that waits for late packets");
                (self.establish(established), hello)
            }
            None => current,
        }
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

    fn say(&self, state: LinkState<K::Connection>) {
        self.link.say(state);
    }
}

/// Whether reconnecting ends at `error`.
fn gives_up(error: &ConnectError, retry_objections: bool) -> bool {
    match error {
        ConnectError::Handshake { .. } => !retry_objections,
        ConnectError::Protocol(_) => false,
        error => !error.is_transient(),
    }
}

/// Waits until the broker is silent on `connection`.
async fn silent(connection: &impl Connection) {
    let mut silence = Silence::default();
    while !silence.look(Instant::now(), connection.traffic()) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Keeps a connection that the broker will close for as long as it serves what runs on it.
async fn linger<C: Connection>(established: Arc<Established<C>>, hello: HelloStream<C>) {
    established.connection.closed().await;
    drop(hello);
}
