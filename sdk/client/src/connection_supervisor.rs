//! The supervisor: one task per client, which keeps one connection to the broker and attempts another when that is lost, is to end, is
//! silent, or is worse than it could be. Until there is another, the one there is goes on and is listened to. What connections are used
//! for is not known here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::attempts::Attempts;
use crate::backoff::Backoff;
use crate::dial::{Dialed, Dialer};
use crate::error::ConnectError;
use crate::hello::{Established, HelloStream};
use crate::late_packets::LatePackets;
use crate::link::{Link, LinkOwner, LinkState};
use crate::options::ClientOptions;
use crate::random::Random;
use crate::silence::{LOOK_EVERY, Sign, Silence};
use crate::spawn;
use crate::transport::Connector;

/// A connection that lived for this long worked: the next loss starts from the shortest back-off. One that the
/// broker closes at once, again and again, does not.
const SETTLED_AFTER: Duration = Duration::from_millis(250);

/// How long a connection that works is kept after an attempt at a better one has failed, at first and at last.
const KEPT_MIN: Duration = Duration::from_secs(10);
const KEPT_MAX: Duration = Duration::from_secs(600);

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
    let dialer = Arc::new(Dialer { connector, options });
    let options = &dialer.options;
    let backoff = Backoff::new(options.backoff_min, options.backoff_max, random.clone());
    let (established, hello) = first_connection(&dialer, backoff.clone()).await?;
    let established = Arc::new(established);
    let (link, owner) = Link::new(Arc::clone(&established), options, random.clone());
    let supervisor = Supervisor {
        link: owner,
        current: Some(Current::new(established, hello, &random)),
        attempts: None,
        why: Why::Gone,
        ending: None,
        lingering: TaskTracker::new(),
        backoff,
        look_at: Instant::now() + LOOK_EVERY,
        kept: Backoff::new(KEPT_MIN, KEPT_MAX, random.clone()),
        kept_until: Instant::now(),
        objection_is_said: false,
        random,
        dialer,
    };
    spawn::spawn(supervisor.run());
    Ok(link)
}

async fn first_connection<K: Connector>(
    dialer: &Arc<Dialer<K>>,
    mut backoff: Backoff,
) -> Dialed<K::Connection> {
    let waited = dialer.options.connect_timeout;
    let mut source: Option<Box<ConnectError>> = None;
    let mut attempts = Attempts::new(dialer, Duration::ZERO, false);
    let reaching = async {
        loop {
            match attempts.next(&mut backoff).await {
                Err(error) if error.is_transient() => {
                    if !matches!(error, ConnectError::TimedOut { .. }) {
                        source = Some(Box::new(error));
                    }
                }
                dialed => return dialed,
            }
        }
    };
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
    dialer: Arc<Dialer<K>>,
    link: LinkOwner<K::Connection>,
    /// The connection that there is.
    current: Option<Current<K::Connection>>,
    /// Those at another, which are made while there is none, or beside the one there is; and what for, as long as there are some.
    attempts: Option<Attempts<K>>,
    why: Why,
    /// Tells the streams of a connection that is to end when there is another.
    ending: Option<CancellationToken>,
    /// Connections that are to end, each in the hands of a task.
    lingering: TaskTracker,
    /// Between attempts.
    backoff: Backoff,
    /// When to look at the connection.
    look_at: Instant,
    /// How long one that works is kept after an attempt at a better one has failed, and until when that is.
    kept: Backoff,
    kept_until: Instant,
    objection_is_said: bool,
    random: Random,
}

/// A connection that is up.
struct Current<C: Connection> {
    established: Arc<Established<C>>,
    hello: HelloStream<C>,
    since: Instant,
    silence: Silence,
    late: LatePackets,
}

/// What for another connection is attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// There is none, or none that lasts.
    Gone,
    /// The broker is silent on the one there is. Packets are sent again ever more seldom, so that after an outage a new connection may
    /// be there long before the old one, and on some paths only the old one goes on.
    Silent,
    /// Packets overtake each other on its way, and count as lost on the one there is.
    Late,
}

/// What can happen.
#[expect(
    clippy::large_enum_variant,
    reason = "one is moved twice for each connection that is made"
)]
enum Event<C: Connection> {
    Stopped,
    Lost(ConnectionEnd),
    GoAway(pb::GoAway),
    Dialed(Dialed<C>),
    Look,
    LatePackets,
}

impl<C: Connection> Current<C> {
    fn new(established: Arc<Established<C>>, hello: HelloStream<C>, random: &Random) -> Self {
        Self {
            established,
            hello,
            since: Instant::now(),
            silence: Silence::new(random),
            late: LatePackets::new(),
        }
    }

    // What happens to it by itself. Cancel-safe.
    async fn next_event(&mut self) -> Event<C> {
        let goodbye = async {
            match self.hello.go_away().await {
                Some(goodbye) => goodbye,
                // The stream ended without a word; the connection tells the rest.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            end = self.established.connection.closed() => Event::Lost(end),
            goodbye = goodbye => Event::GoAway(goodbye),
            () = self.late.found() => Event::LatePackets,
        }
    }
}

impl<K: Connector> Supervisor<K> {
    async fn run(mut self) {
        let end = loop {
            let event = self.next_event().await;
            if let Err(end) = self.apply(event) {
                break end;
            }
        };
        self.link.say(LinkState::Down(Arc::new(end)));
        if let Some(current) = self.current {
            close(&self.dialer, &current.established.connection, CLOSED).await;
        }
        // Streams may run on these until the client is closed, which closes them too.
        self.lingering.close();
        self.lingering.wait().await;
    }

    async fn next_event(&mut self) -> Event<K::Connection> {
        let Self {
            current,
            attempts,
            backoff,
            ..
        } = self;
        let looks = self.dialer.options.reconnect && current.is_some();
        let happens = async {
            match current {
                Some(current) => current.next_event().await,
                None => std::future::pending().await,
            }
        };
        let dialed = async {
            match attempts {
                Some(attempts) => attempts.next(backoff).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.link.stop.cancelled() => Event::Stopped,
            event = happens => event,
            dialed = dialed => Event::Dialed(dialed),
            () = sleep_until(self.look_at), if looks => Event::Look,
        }
    }

    // Returns why it is over, if it is.
    fn apply(&mut self, event: Event<K::Connection>) -> Result<(), ConnectError> {
        match event {
            Event::Stopped => Err(ConnectError::Closed),
            Event::Lost(end) => {
                info!(error = %end, "connection to the broker lost");
                self.connect_again(ConnectError::Lost(end))
            }
            Event::GoAway(goodbye) => {
                info!(
                    reason = goodbye.reason,
                    grace_ms = goodbye.grace_ms,
                    "the broker says goodbye"
                );
                if let Some(current) = &self.current {
                    let is_ending = &current.established.is_ending;
                    is_ending.store(true, Ordering::Relaxed);
                }
                let error = pb::Error::new(pb::ErrorCode::ShuttingDown, goodbye.reason);
                self.connect_again(ConnectError::Refused(error.into()))
            }
            Event::Dialed(Ok((established, hello))) => {
                self.establish(established, hello);
                Ok(())
            }
            Event::Dialed(Err(error)) => self.failed(error),
            Event::Look => {
                self.look();
                Ok(())
            }
            Event::LatePackets => {
                // One beside a silent connection is needed more.
                if self.attempts.is_none() {
                    info!(
                        "packets overtake each other on the way; connecting anew, to wait for late ones"
                    );
                    self.attempt_beside(Why::Late);
                }
                Ok(())
            }
        }
    }

    // The connection there is is over because of `cause`, or soon will be.
    fn connect_again(&mut self, cause: ConnectError) -> Result<(), ConnectError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        if current.since.elapsed() >= SETTLED_AFTER {
            self.backoff.reset();
        }
        // One that is lost may be followed by one over another path.
        let is_lost = current.established.connection.end().is_some();
        let expects_reordering = current.established.expects_reordering && !is_lost;
        if !is_lost {
            self.ending = Some(current.established.moves.clone());
            self.linger(current);
        }
        if !self.dialer.options.reconnect {
            return Err(cause);
        }
        self.link.say(LinkState::Connecting(Arc::new(cause)));
        let wait = self.backoff.next();
        self.attempt(Why::Gone, wait, expects_reordering);
        Ok(())
    }

    // What is under way may have waited for a busy broker already, so it is not begun anew.
    fn attempt(&mut self, why: Why, first_wait: Duration, expects_reordering: bool) {
        self.why = why;
        match &mut self.attempts {
            Some(attempts) => attempts.expects_reordering = expects_reordering,
            None => {
                let attempts = Attempts::new(&self.dialer, first_wait, expects_reordering);
                self.attempts = Some(attempts);
            }
        }
    }

    fn attempt_beside(&mut self, why: Why) {
        self.backoff.reset();
        self.attempt(why, Duration::ZERO, why == Why::Late);
    }

    // An attempt failed; there are others, if it is not over.
    fn failed(&mut self, error: ConnectError) -> Result<(), ConnectError> {
        match self.why {
            Why::Late => {
                debug!(%error, "there is no better connection now");
                self.attempts = None;
                self.kept_until = Instant::now() + self.kept.next_after_error(&error);
            }
            // Whatever a broker may say against a second connection, the first is still there.
            Why::Silent => debug!(%error, "connecting beside a silent connection failed"),
            Why::Gone if gives_up(&error, self.dialer.options.retry_objections) => {
                warn!(%error, "not connecting to the broker any more");
                return Err(error);
            }
            Why::Gone => {
                // The others pass; this one often takes somebody.
                let objects = matches!(error, ConnectError::Handshake { .. });
                if objects && !std::mem::replace(&mut self.objection_is_said, true) {
                    warn!(%error, "a certificate is not accepted; trying again");
                }
                debug!(%error, "connecting to the broker failed; trying again");
                self.link.say(LinkState::Connecting(Arc::new(error)));
            }
        }
        Ok(())
    }

    // There is another connection; the streams of the one before move to it.
    fn establish(
        &mut self,
        established: Established<K::Connection>,
        hello: HelloStream<K::Connection>,
    ) {
        info!(broker = %established.address, "connected to the broker again");
        self.attempts = None;
        self.kept.reset();
        self.objection_is_said = false;
        let established = Arc::new(established);
        self.link.say(LinkState::Up(Arc::clone(&established)));
        let current = Current::new(established, hello, &self.random);
        if let Some(ending) = self.ending.take() {
            ending.cancel();
        }
        let Some(old) = self.current.replace(current) else {
            return;
        };
        match self.why {
            Why::Silent => old
                .established
                .connection
                .close(0, "replaced by a connection on which the broker answers"),
            Why::Late | Why::Gone => {
                old.established.moves.cancel();
                self.linger(old);
            }
        }
    }

    fn look(&mut self) {
        // From now on, so that nothing is made up for after a standstill.
        self.look_at = Instant::now() + LOOK_EVERY;
        let Some(current) = &mut self.current else {
            return;
        };
        let established = Arc::clone(&current.established);
        match current.silence.look(established.connection.traffic()) {
            Some(Sign::Silent(waited)) => {
                info!(?waited, "the broker is silent; connecting beside");
                let error = Arc::new(ConnectError::Silent { waited });
                self.link.say(LinkState::Connecting(error));
                self.attempt_beside(Why::Silent);
            }
            Some(Sign::Heard) => {
                info!("the broker is heard again");
                self.attempts = None;
                self.link.say(LinkState::Up(established));
            }
            None => {
                let is_kept = self.attempts.is_some() || Instant::now() < self.kept_until;
                if !is_kept && !established.expects_reordering {
                    current.late.look(&established);
                }
            }
        }
    }

    // Keeps a connection that is to end for as long as streams run on it, the broker wants it, and is heard on it when it is asked.
    fn linger(&self, old: Current<K::Connection>) {
        let (stop, dialer) = (self.link.stop.clone(), Arc::clone(&self.dialer));
        let Current {
            established,
            hello,
            mut silence,
            ..
        } = old;
        let lingers = self.lingering.token();
        spawn::spawn(async move {
            let Established {
                connection,
                streams,
                ..
            } = &*established;
            streams.close();
            let is_silent = async {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    if let Some(Sign::Silent(waited)) = silence.look(connection.traffic()) {
                        return waited;
                    }
                }
            };
            tokio::select! {
                biased;
                _ = connection.closed() => {}
                () = stop.cancelled() => close(&dialer, connection, CLOSED).await,
                () = streams.wait() => close(&dialer, connection, "replaced by another connection").await,
                waited = is_silent, if dialer.options.reconnect => {
                    info!(?waited, "the broker is silent on a connection that is to end");
                    close(&dialer, connection, "silent, and replaced by another connection").await;
                }
            }
            drop((hello, lingers));
        });
    }
}

/// Closes `connection`, and waits for the broker to hear of it, not for long.
async fn close<K: Connector>(dialer: &Dialer<K>, connection: &K::Connection, why: &str) {
    connection.close(0, why);
    let heard = dialer.connector.heard_of_close(connection);
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, heard).await;
}

/// Why a connection of a client that was closed is.
const CLOSED: &str = "client closed";

/// Whether reconnecting ends at `error`.
fn gives_up(error: &ConnectError, retry_objections: bool) -> bool {
    match error {
        ConnectError::Handshake { .. } => !retry_objections,
        ConnectError::Protocol(_) => false,
        error => !error.is_transient(),
    }
}
