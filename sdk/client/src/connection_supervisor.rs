//! The supervisor: one task per client, which keeps one connection to the broker and attempts another when that is lost, is to end, is
//! silent, or is worse than it could be. Until there is another, the one there is goes on and is listened to. What connections are used
//! for is not known here.

use std::sync::Arc;
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
use crate::silence::{LOOK_EVERY, Sign, SilenceWatch};
use crate::transport::Connector;

/// A connection that lived for this long worked: the next loss starts from the shortest back-off. One that the
/// broker closes at once, again and again, does not.
const SETTLED_AFTER: Duration = Duration::from_millis(250);

/// How long after an attempt at a better connection that came to nothing another is made, at first and at last.
const BETTER_AGAIN_MIN: Duration = Duration::from_secs(10);
const BETTER_AGAIN_MAX: Duration = Duration::from_secs(600);

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
        attempting: None,
        lingering: Vec::new(),
        closing: TaskTracker::new(),
        backoff,
        look_at: Instant::now() + LOOK_EVERY,
        late_look_at: Instant::now(),
        better_again: Backoff::new(BETTER_AGAIN_MIN, BETTER_AGAIN_MAX, random.clone()),
        better_from: Instant::now(),
        objection_is_said: false,
        random,
        dialer,
    };
    link.spawner.spawn(supervisor.run());
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
    /// Those at another, which are made while there is none, or beside the one there is.
    attempting: Option<Attempting<K>>,
    /// Connections that are to end, each in the hands of a task.
    lingering: Vec<Lingering<K::Connection>>,
    closing: TaskTracker,
    /// Between attempts.
    backoff: Backoff,
    /// When to look at the connections, and whether packets come late on the one there is.
    look_at: Instant,
    late_look_at: Instant,
    /// How long none better is looked for after an attempt at one has come to nothing, and until when that is.
    better_again: Backoff,
    better_from: Instant,
    objection_is_said: bool,
    random: Random,
}

/// A connection that is up.
struct Current<C: Connection> {
    established: Arc<Established<C>>,
    hello: HelloStream<C>,
    since: Instant,
    silence: SilenceWatch,
    late: LatePackets,
}

/// One that is to end when nothing runs on it any more.
struct Lingering<C: Connection> {
    established: Arc<Established<C>>,
    silence: SilenceWatch,
    /// Tells its task that the broker is silent on it.
    is_silent: CancellationToken,
}

/// Attempts at another connection, and what for.
struct Attempting<K: Connector> {
    attempts: Attempts<K>,
    why: Why,
}

/// What for another connection is attempted.
#[derive(Debug)]
enum Why {
    /// There is none, or none that lasts. The streams of that are told by this when there is another.
    Gone { ending: Option<CancellationToken> },
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
    LateLook,
    LatePackets,
}

impl<C: Connection> Current<C> {
    fn new(established: Arc<Established<C>>, hello: HelloStream<C>, random: &Random) -> Self {
        Self {
            established,
            hello,
            since: Instant::now(),
            silence: SilenceWatch::new(random),
            late: LatePackets::new(),
        }
    }

    // What happens to it by itself. Cancel-safe.
    async fn next_event(&mut self) -> Event<C> {
        tokio::select! {
            biased;
            end = self.established.connection.closed() => Event::Lost(end),
            goodbye = self.hello.go_away() => Event::GoAway(goodbye),
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
        if let Some(current) = self.current.take() {
            close(&self.dialer, &current.established.connection, CLOSED).await;
        }
        // Streams may run on these until the client is closed, which closes them too.
        self.closing.close();
        let looks = self.dialer.options.reconnect;
        loop {
            tokio::select! {
                biased;
                () = self.closing.wait() => return,
                () = sleep_until(self.look_at), if looks => {
                    self.look_at = Instant::now() + LOOK_EVERY;
                    look_at_lingering(&mut self.lingering);
                }
            }
        }
    }

    async fn next_event(&mut self) -> Event<K::Connection> {
        let Self {
            current,
            attempting,
            backoff,
            lingering,
            ..
        } = self;
        let is_any = current.is_some() || !lingering.is_empty();
        let looks = self.dialer.options.reconnect && is_any;
        let can_be_better = |current: &Current<_>| !current.established.expects_reordering;
        let looks_for_late = looks && current.as_ref().is_some_and(can_be_better);
        let happens = async {
            match current {
                Some(current) => current.next_event().await,
                None => std::future::pending().await,
            }
        };
        let dialed = async {
            match attempting {
                Some(attempting) => attempting.attempts.next(backoff).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.link.stop.cancelled() => Event::Stopped,
            event = happens => event,
            dialed = dialed => Event::Dialed(dialed),
            () = sleep_until(self.look_at), if looks => Event::Look,
            () = sleep_until(self.late_look_at), if looks_for_late => Event::LateLook,
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
                if let Some(current) = &self.current {
                    current.established.note_goodbye(&goodbye);
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
            Event::LateLook => {
                self.look_for_late();
                Ok(())
            }
            Event::LatePackets => {
                self.wait_for_late();
                Ok(())
            }
        }
    }

    fn look_for_late(&mut self) {
        self.late_look_at = Instant::now() + LOOK_EVERY;
        let is_kept = self.attempting.is_some() || Instant::now() < self.better_from;
        let Some(current) = self.current.as_mut().filter(|_| !is_kept) else {
            return;
        };
        let are_late = current.late.look(&current.established);
        self.late_look_at = Instant::now() + current.late.look_again();
        if are_late {
            self.wait_for_late();
        }
    }

    fn wait_for_late(&mut self) {
        // One beside a silent connection is needed more.
        if self.attempting.is_none() {
            info!("packets overtake each other on the way; connecting anew, to wait for late ones");
            self.attempt_beside(Why::Late);
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
        let ending = (!is_lost).then(|| current.established.moves.clone());
        if !is_lost {
            self.linger(current);
        }
        if !self.dialer.options.reconnect {
            return Err(cause);
        }
        self.link.say(LinkState::Connecting(Arc::new(cause)));
        self.attempt(Why::Gone { ending }, expects_reordering);
        Ok(())
    }

    // What is under way may have waited for a busy broker already, so it is not begun anew.
    fn attempt(&mut self, why: Why, expects_reordering: bool) {
        let backoff = &mut self.backoff;
        let mut first_wait = || match why {
            Why::Gone { .. } => backoff.next(),
            Why::Silent | Why::Late => Duration::ZERO,
        };
        match &mut self.attempting {
            Some(attempting) => {
                attempting.attempts.hurry(first_wait);
                attempting.attempts.expects_reordering = expects_reordering;
                attempting.why = why;
            }
            None => {
                let attempts = Attempts::new(&self.dialer, first_wait(), expects_reordering);
                self.attempting = Some(Attempting { attempts, why });
            }
        }
    }

    fn attempt_beside(&mut self, why: Why) {
        self.backoff.reset();
        let expects_reordering = matches!(why, Why::Late);
        self.attempt(why, expects_reordering);
    }

    fn attempt_better_later(&mut self, wait: Duration) {
        self.attempting = None;
        self.better_from = Instant::now() + wait;
    }

    // An attempt failed; there are others, if it is not over.
    fn failed(&mut self, error: ConnectError) -> Result<(), ConnectError> {
        let Some(attempting) = &self.attempting else {
            return Ok(());
        };
        match attempting.why {
            Why::Late => {
                debug!(%error, "there is no better connection now");
                let wait = self.better_again.next_after_error(&error);
                self.attempt_better_later(wait);
            }
            // Whatever a broker may say against a second connection, the first is still there.
            Why::Silent => debug!(%error, "connecting beside a silent connection failed"),
            Why::Gone { .. } if gives_up(&error, self.dialer.options.retry_objections) => {
                warn!(%error, "not connecting to the broker any more");
                return Err(error);
            }
            Why::Gone { .. } => {
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
        let Some(Attempting { why, .. }) = self.attempting.take() else {
            return;
        };
        let is_measured = |current: &Current<_>| !current.established.meters.is_empty();
        if matches!(why, Why::Late) && self.current.as_ref().is_some_and(is_measured) {
            debug!("the connection is being measured, and kept");
            let wait = self.better_again.next();
            self.attempt_better_later(wait);
            let (dialer, closes) = (Arc::clone(&self.dialer), self.closing.token());
            let spawner = dialer.options.spawner.clone();
            spawner.spawn(async move {
                let why = "the one before is being measured, and kept";
                close(&dialer, &established.connection, why).await;
                drop((hello, closes));
            });
            return;
        }
        info!(broker = %established.address, "connected to the broker again");
        self.better_again.reset();
        self.objection_is_said = false;
        let established = Arc::new(established);
        self.link.say(LinkState::Up(Arc::clone(&established)));
        let current = Current::new(established, hello, &self.random);
        self.late_look_at = Instant::now() + current.late.look_again();
        let old = self.current.replace(current);
        match (why, old) {
            (Why::Gone { ending }, _) => ending.iter().for_each(CancellationToken::cancel),
            (Why::Silent, Some(old)) => old
                .established
                .connection
                .close(0, "replaced by a connection on which the broker answers"),
            (Why::Late, Some(old)) => {
                old.established.moves.cancel();
                self.linger(old);
            }
            (Why::Silent | Why::Late, None) => {}
        }
    }

    fn look(&mut self) {
        // From now on, so that nothing is made up for after a standstill.
        self.look_at = Instant::now() + LOOK_EVERY;
        look_at_lingering(&mut self.lingering);
        let Some(current) = &mut self.current else {
            return;
        };
        let established = Arc::clone(&current.established);
        established.connection.follow_route();
        let sign = current.silence.look(established.connection.traffic());
        self.link.say_unanswered(current.silence.lasts());
        match sign {
            Some(Sign::Silent(waited)) => {
                info!(?waited, "the broker is silent; connecting beside");
                let error = Arc::new(ConnectError::Silent { waited });
                self.link.say(LinkState::Connecting(error));
                self.attempt_beside(Why::Silent);
            }
            Some(Sign::Heard) => {
                info!("the broker is heard again");
                self.attempting = None;
                self.link.say(LinkState::Up(established));
            }
            None => {}
        }
    }

    // Keeps a connection that is to end for as long as streams run on it, the broker wants it, and is heard on it when it is asked. A
    // goodbye that comes meanwhile is for those streams.
    fn linger(&mut self, old: Current<K::Connection>) {
        let (stop, dialer) = (self.link.stop.clone(), Arc::clone(&self.dialer));
        let Current {
            established,
            mut hello,
            silence,
            ..
        } = old;
        let is_silent = CancellationToken::new();
        self.lingering.push(Lingering {
            established: Arc::clone(&established),
            silence,
            is_silent: is_silent.clone(),
        });
        let closes = self.closing.token();
        let spawner = dialer.options.spawner.clone();
        spawner.spawn(async move {
            let Established {
                connection,
                streams,
                ..
            } = &*established;
            streams.close();
            let why = loop {
                tokio::select! {
                    biased;
                    _ = connection.closed() => break None,
                    () = stop.cancelled() => break Some(CLOSED),
                    () = streams.wait() => break Some("replaced by another connection"),
                    () = is_silent.cancelled() => {
                        break Some("silent, and replaced by another connection");
                    }
                    goodbye = hello.go_away() => established.note_goodbye(&goodbye),
                }
            };
            if let Some(why) = why {
                close(&dialer, connection, why).await;
            }
            drop((hello, closes));
        });
    }
}

fn look_at_lingering<C: Connection>(lingering: &mut Vec<Lingering<C>>) {
    lingering.retain_mut(|one| {
        let connection = &one.established.connection;
        if connection.end().is_some() {
            return false;
        }
        connection.follow_route();
        if let Some(Sign::Silent(waited)) = one.silence.look(connection.traffic()) {
            info!(
                ?waited,
                "the broker is silent on a connection that is to end"
            );
            one.is_silent.cancel();
        }
        true
    });
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
