//! Accepts connections, plain on loopback and TLS with client certificates, finds out who is calling, and runs
//! HTTP/1.1 over them. One task per listener, ended by shutdown, and one per connection, ended by its peer, by
//! a deadline, by somebody who needs its place or by shutdown. A connection that fails is nobody else's concern,
//! and no listener waits for another's connections or for its own: see [`connection_pool`](super::connection_pool).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::server::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection_pool::{Place, Pool, PoolLimits};
use super::counters::AdminCounters;
use super::cross_site::{self, CrossSiteGuard};
use super::write_timeout::WriteTimeout;
use super::{request, unread_body};
use crate::auth::{end_of, principal_of};
use crate::domain::{Millis, Principal};
use crate::runtime::Clock;
use crate::runtime::patience::Patience;
use crate::runtime::spawn::Spawner;
use crate::telemetry::log_limit::LogLimit;

/// Time for a TLS handshake, and then for the head of the first request: several round trips to the other side of the
/// world, and nothing that anybody has to think about.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the head of each further request; so also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time in which a peer has to read something of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of a listener, beyond those that may ask for anything, that may ask for health and metrics: some scrapers and
/// probes at the same time.
const RESERVE: usize = 16;
/// Time that requests in progress have to finish at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait after a failed accept (too many open files): long enough not to spin, short enough to recover.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the admin API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not of this machine.
    #[error(
        "cannot listen on {address} for the admin API; is another broker running? Choose another `{key}`"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The key of the configuration that has it.
        key: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Plain HTTP on an address that other machines reach.
    #[error(
        "{0} is not a loopback address; the plain admin port is for loopback only, use `listen.admin_tls`"
    )]
    NotLoopback(SocketAddr),
}

/// What is spoken over TLS.
pub const ALPN: &[u8] = b"http/1.1";

/// The bound sockets of the admin API.
pub struct Listeners {
    plain: Option<TcpListener>,
    tls: Option<(TcpListener, Arc<ServerConfig>)>,
}

impl Listeners {
    /// Binds what is asked for: `plain` must be a loopback address, `tls` comes with its set-up, which speaks [`ALPN`].
    ///
    /// # Errors
    ///
    /// An address cannot be used.
    pub async fn bind(
        plain: Option<SocketAddr>,
        tls: Option<(SocketAddr, Arc<ServerConfig>)>,
    ) -> Result<Self, BindError> {
        let plain = match plain {
            Some(address) if !address.ip().is_loopback() => {
                return Err(BindError::NotLoopback(address));
            }
            Some(address) => Some(bind(address, "listen.admin").await?),
            None => None,
        };
        let tls = match tls {
            Some((address, config)) => Some((bind(address, "listen.admin_tls").await?, config)),
            None => None,
        };
        Ok(Self { plain, tls })
    }

    /// Where plain HTTP is served, the port being the real one.
    #[must_use]
    pub fn plain_addr(&self) -> Option<SocketAddr> {
        self.plain.as_ref()?.local_addr().ok()
    }

    /// Where HTTPS is served, the port being the real one.
    #[must_use]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls.as_ref()?.0.local_addr().ok()
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError::Bind {
            address,
            key,
            source,
        })
}

/// How many may be connected to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// All of them.
    pub(super) connections_max: usize,
    /// From one address, TLS only: who reaches loopback has one anyway.
    pub(super) address_connections_max: usize,
    /// By one principal, TLS only.
    pub(super) principal_connections_max: usize,
}

/// Serves `router` on all listeners until `shutdown`, then drains.
pub(super) async fn serve(
    listeners: Listeners,
    router: Router,
    shares: Shares,
    metrics: Arc<AdminCounters>,
    (spawner, clock): (&Spawner, Clock),
    shutdown: CancellationToken,
) {
    let port = listeners.plain_addr().map_or(0, |address| address.port());
    let server = Server {
        tasks: spawner.apart(shutdown.clone()),
        metrics,
        failed_handshake: Arc::default(),
        clock,
        shutdown,
    };
    let guarded = |guard: CrossSiteGuard| {
        router
            .clone()
            .layer(from_fn_with_state(guard, cross_site::check))
            .layer(axum::middleware::from_fn(request::seated))
            .layer(from_fn_with_state(
                server.tasks.clone(),
                unread_body::read_away,
            ))
    };
    let plain = async {
        if let Some(listener) = &listeners.plain {
            let door = Door {
                acceptor: None,
                pool: Pool::new(shares.plain()),
                router: guarded(CrossSiteGuard::Loopback { port }),
            };
            server.accept(listener, &door).await;
        }
    };
    let tls = async {
        if let Some((listener, config)) = &listeners.tls {
            let door = Door {
                acceptor: Some(TlsAcceptor::from(Arc::clone(config))),
                pool: Pool::new(shares.tls()),
                router: guarded(CrossSiteGuard::SameOrigin),
            };
            server.accept(listener, &door).await;
        }
    };
    tokio::join!(plain, tls);
    if tokio::time::timeout(DRAIN_TIMEOUT, server.tasks.ended())
        .await
        .is_err()
    {
        tracing::warn!(
            "admin requests were still in progress at shutdown; their connections are dropped"
        );
    }
}

impl Shares {
    fn plain(self) -> PoolLimits {
        PoolLimits {
            connections_max: self.connections_max,
            address_connections_max: usize::MAX,
            principal_connections_max: usize::MAX,
            reserve: RESERVE,
        }
    }

    fn tls(self) -> PoolLimits {
        PoolLimits {
            address_connections_max: self.address_connections_max,
            principal_connections_max: self.principal_connections_max,
            ..self.plain()
        }
    }
}

struct Server {
    tasks: Spawner,
    metrics: Arc<AdminCounters>,
    failed_handshake: Arc<LogLimit>,
    clock: Clock,
    shutdown: CancellationToken,
}

// What a listener lets its connections into.
struct Door {
    acceptor: Option<TlsAcceptor>,
    pool: Arc<Pool>,
    router: Router,
}

impl Door {
    // Who reaches loopback has one address anyway.
    fn share_of(&self, peer: SocketAddr) -> Option<IpAddr> {
        self.acceptor.as_ref().map(|_| peer.ip())
    }
}

impl Server {
    async fn accept(&self, listener: &TcpListener, door: &Door) {
        while let Some((stream, peer)) = self.next_stream(listener).await {
            let Some(place) = door.pool.admit(door.share_of(peer)) else {
                self.metrics.count_refused_connection();
                continue;
            };
            self.metrics.connection_opened();
            let connection = Connection {
                place: Arc::new(place),
                metrics: Arc::clone(&self.metrics),
                failed_handshake: Arc::clone(&self.failed_handshake),
                clock: self.clock.clone(),
                shutdown: self.shutdown.clone(),
            };
            let router = door.router.clone();
            let acceptor = door.acceptor.clone();
            let serve = connection.serve(stream, acceptor, router);
            drop(self.tasks.serving("admin connection", serve));
        }
    }

    // `None` at shutdown.
    async fn next_stream(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                accepted = listener.accept() => match accepted {
                    Ok(found) => return Some(found),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept an admin connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

struct Connection {
    place: Arc<Place>,
    metrics: Arc<AdminCounters>,
    failed_handshake: Arc<LogLimit>,
    clock: Clock,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>, router: Router) {
        let ended = async {
            match acceptor {
                None => self.run(stream, Principal::local(), None, router).await,
                Some(acceptor) => self.run_tls(stream, &acceptor, router).await,
            }
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = self.place.evicted() => {
                self.metrics.count_evicted_connection();
                tracing::debug!("an admin connection made room for another one");
            }
        }
    }

    async fn run_tls(&self, stream: TcpStream, acceptor: &TlsAcceptor, router: Router) {
        match handshake(stream, acceptor).await {
            Ok((stream, who, lapses)) => {
                self.place.identify(&who);
                self.run(stream, who, Some(lapses), router).await;
            }
            Err(reason) => {
                self.metrics.count_failed_handshake();
                if let Some(times) = self.failed_handshake.admit(1) {
                    tracing::info!(reason, times, "admin TLS handshake failed");
                }
            }
        }
    }

    // Until it ends, and at most until what `who` proved to be that with `lapses`.
    async fn run<S>(&self, stream: S, who: Principal, lapses: Option<Millis>, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = router
            .layer(Extension(who.clone()))
            .layer(Extension(Arc::clone(&self.place)));
        let stream = WriteTimeout::new(stream, READ_TIMEOUT);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => ended,
            () = self.silence() => {
                tracing::debug!(principal = %who, "admin connection ended: nothing was asked in time");
                return;
            }
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = self.lapsed(lapses) => {
                tracing::info!(principal = %who, "admin connection ended: the client's certificate has expired");
                // What was asked before is answered.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(principal = %who, %error, "admin connection ended early");
        }
    }

    async fn lapsed(&self, lapses: Option<Millis>) {
        match lapses {
            Some(at) => self.clock.passed(at).await,
            None => std::future::pending().await,
        }
    }

    // Completes when the time for a first request is over and there was none.
    async fn silence(&self) {
        tokio::time::sleep(FIRST_TIMEOUT).await;
        if !self.place.is_silent() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.metrics.connection_closed();
    }
}

async fn handshake(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> Result<
    (
        tokio_rustls::server::TlsStream<TcpStream>,
        Principal,
        Millis,
    ),
    String,
> {
    let stream = Patience::new(FIRST_TIMEOUT)
        .wait(acceptor.accept(stream))
        .await
        .map_err(|_| "it took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let certificate = certificate.ok_or("the client showed no certificate")?;
    let who = principal_of(certificate).map_err(|error| error.to_string())?;
    let lapses = end_of(certificate).map_err(|error| error.to_string())?;
    Ok((stream, who, lapses))
}

#[cfg(test)]
mod tests;
