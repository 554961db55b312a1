//! The client's link to its broker as publishers and consumers see it: the connection to use now, or that there is none. Only the
//! supervisor makes and ends connections; here one waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_wire::compact::Compression;
use tidegate_wire::stream::Connection;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::Backoff;
use crate::error::ConnectError;
use crate::hello::Established;
use crate::options::ClientOptions;
use crate::random::Random;
use crate::spawn::Spawner;

/// What the client, its publishers and its consumers share. When the last of them is gone, the connection is closed.
pub(crate) struct Link<C> {
    state: watch::Receiver<LinkState<C>>,
    unanswered_ms: Arc<AtomicU64>,
    backoff: Backoff,
    random: Random,
    /// As the options say, for consumers.
    pub(crate) frame_bytes_max: usize,
    /// The same, for publishers too.
    pub(crate) compression: Compression,
    pub(crate) buffered_max: Duration,
    /// For their tasks.
    pub(crate) spawner: Spawner,
    stop: CancellationToken,
    /// Cancelled when the supervisor has ended.
    ended: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// How the connection fares.
pub(crate) enum LinkState<C> {
    /// There is none at present, for this reason, which is the latest; another one is being made.
    Connecting(Arc<ConnectError>),
    /// This is it.
    Up(Arc<Established<C>>),
    /// There is none, and none will be made.
    Down(Arc<ConnectError>),
}

/// What the supervisor holds of a link.
pub(crate) struct LinkOwner<C> {
    /// Nobody else says how the connection fares.
    state: watch::Sender<LinkState<C>>,
    /// Milliseconds for which nothing has come on the connection that there is, although it should.
    unanswered_ms: Arc<AtomicU64>,
    /// Cancelled when there is to be no connection any more.
    pub(crate) stop: CancellationToken,
    /// Tells whoever waits for the end.
    pub(crate) _ended: DropGuard,
}

impl<C> LinkOwner<C> {
    /// How the connection fares now.
    pub(crate) fn say(&self, state: LinkState<C>) {
        self.say_unanswered(Duration::ZERO);
        self.state.send_replace(state);
    }

    /// For how long nothing has come on it, although it should.
    pub(crate) fn say_unanswered(&self, lasts: Duration) {
        let ms = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        self.unanswered_ms.store(ms, Ordering::Relaxed);
    }
}

impl<C: Connection> Link<C> {
    /// A link that is up.
    pub(crate) fn new(
        established: Arc<Established<C>>,
        options: &ClientOptions,
        random: Random,
    ) -> (Self, LinkOwner<C>) {
        let (sender, state) = watch::channel(LinkState::Up(established));
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let unanswered_ms = Arc::default();
        let owner = LinkOwner {
            state: sender,
            unanswered_ms: Arc::clone(&unanswered_ms),
            stop: stop.clone(),
            _ended: ended.clone().drop_guard(),
        };
        let link = Self {
            state,
            unanswered_ms,
            backoff: Backoff::new(options.backoff_min, options.backoff_max, random.clone()),
            random,
            frame_bytes_max: options.frame_bytes_max,
            compression: options.compression,
            buffered_max: options.buffered_max,
            spawner: options.spawner.clone(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            ended,
        };
        (link, owner)
    }

    /// The connection to use now; waits while there is none. One that is known to be dead is not handed out.
    ///
    /// # Errors
    /// Why there will never be one again.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn established(&self) -> Result<Arc<Established<C>>, Arc<ConnectError>> {
        let mut state = self.state.clone();
        let settled = |state: &LinkState<C>| match state {
            LinkState::Up(established) => established.connection.end().is_none(),
            LinkState::Connecting(_) => false,
            LinkState::Down(_) => true,
        };
        match state.wait_for(settled).await.as_deref() {
            Ok(LinkState::Up(established)) => Ok(Arc::clone(established)),
            Ok(LinkState::Down(error)) => Err(Arc::clone(error)),
            // The supervisor says `Down` before it ends; without a word it was aborted with its runtime.
            Ok(LinkState::Connecting(_)) | Err(_) => Err(Arc::new(ConnectError::Closed)),
        }
    }

    /// Who the broker takes this client for; empty while there is no connection.
    pub(crate) fn principal(&self) -> String {
        match &*self.state.borrow() {
            LinkState::Up(established) => established.principal.clone(),
            LinkState::Connecting(_) | LinkState::Down(_) => String::new(),
        }
    }

    /// Where the broker is that it is connected to; `None` while there is no connection.
    pub(crate) fn address(&self) -> Option<String> {
        match &*self.state.borrow() {
            LinkState::Up(established) => Some(established.address.clone()),
            LinkState::Connecting(_) | LinkState::Down(_) => None,
        }
    }

    /// Why there is no connection, if there is none.
    pub(crate) fn trouble(&self) -> Option<Arc<ConnectError>> {
        match &*self.state.borrow() {
            LinkState::Up(_) => None,
            LinkState::Connecting(error) | LinkState::Down(error) => Some(Arc::clone(error)),
        }
    }

    /// For how long nothing has come on the connection there is, although it should.
    pub(crate) fn unanswered(&self) -> Duration {
        Duration::from_millis(self.unanswered_ms.load(Ordering::Relaxed))
    }

    /// Sleeps for `wait`, less when the client is closed meanwhile.
    pub(crate) async fn pause(&self, wait: Duration) {
        let _ = tokio::time::timeout(wait, self.stop.cancelled()).await;
    }

    /// Closes the connection for good, and waits until that is done.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }

    /// A back-off for a stream on this connection.
    pub(crate) fn backoff(&self) -> Backoff {
        self.backoff.clone()
    }

    /// Where randomness comes from.
    pub(crate) fn random(&self) -> &Random {
        &self.random
    }
}
