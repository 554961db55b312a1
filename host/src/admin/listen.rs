//! Accepts connections, plain on loopback and TLS with client certificates, finds out who is calling, and runs
//! HTTP/1.1 over them. One task per listener, ended by shutdown, and one per connection, ended by its peer, by
//! an idle limit or by shutdown. A connection that fails is nobody else's concern.

use std::io;
use std::net::SocketAddr;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::guard::{self, Guard};
use super::metrics::AdminMetrics;
use crate::auth::principal_of;
use crate::domain::Principal;
use crate::tasks::Spawner;

/// Time for a TLS handshake, and for the head of each request; so also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
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

/// The bound sockets of the admin API.
pub struct Listeners {
    plain: Option<TcpListener>,
    tls: Option<(TcpListener, Arc<ServerConfig>)>,
}

impl Listeners {
    /// Binds what is asked for: `plain` must be a loopback address, `tls` comes with its set-up from
    /// [`tls_config`](super::tls_config).
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

/// Serves `router` on all listeners until `shutdown`, then drains.
pub(super) async fn serve(
    listeners: Listeners,
    router: Router,
    connections_max: usize,
    metrics: Arc<AdminMetrics>,
    spawner: &Spawner,
    shutdown: CancellationToken,
) {
    let port = listeners.plain_addr().map_or(0, |address| address.port());
    let server = Server {
        // Each listener holds one while it waits.
        permits: Arc::new(Semaphore::new(connections_max.max(2))),
        tasks: spawner.apart(shutdown.clone()),
        metrics,
        shutdown,
    };
    let guarded = |guard: Guard| {
        router
            .clone()
            .layer(from_fn_with_state(guard, guard::check))
    };
    let plain = async {
        if let Some(listener) = &listeners.plain {
            server
                .accept(listener, None, &guarded(Guard::Loopback { port }))
                .await;
        }
    };
    let tls = async {
        if let Some((listener, config)) = &listeners.tls {
            let acceptor = TlsAcceptor::from(Arc::clone(config));
            server
                .accept(listener, Some(acceptor), &guarded(Guard::SameOrigin))
                .await;
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

struct Server {
    // One per open connection; when none is left, nothing more is accepted.
    permits: Arc<Semaphore>,
    tasks: Spawner,
    metrics: Arc<AdminMetrics>,
    shutdown: CancellationToken,
}

impl Server {
    async fn accept(&self, listener: &TcpListener, acceptor: Option<TlsAcceptor>, router: &Router) {
        while let Some((stream, permit)) = self.next_stream(listener).await {
            let connection = Connection {
                _permit: permit,
                metrics: Arc::clone(&self.metrics),
                shutdown: self.shutdown.clone(),
            };
            let router = router.clone();
            let acceptor = acceptor.clone();
            let serve = async move {
                match acceptor {
                    None => connection.run(stream, Principal::local(), router).await,
                    Some(acceptor) => connection.run_tls(stream, acceptor, router).await,
                }
            };
            drop(self.tasks.serving("admin connection", serve));
        }
    }

    // `None` at shutdown.
    async fn next_stream(
        &self,
        listener: &TcpListener,
    ) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        loop {
            let accepted = async {
                // The semaphore is never closed, so this waits until a connection ends.
                let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
                Some(listener.accept().await.map(|(stream, _)| (stream, permit)))
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                accepted = accepted => match accepted? {
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
    _permit: OwnedSemaphorePermit,
    metrics: Arc<AdminMetrics>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run_tls(self, stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
        match handshake(stream, &acceptor).await {
            Ok((stream, who)) => self.run(stream, who, router).await,
            Err(reason) => {
                self.metrics.count_failed_handshake();
                tracing::info!(reason, "admin TLS handshake failed");
            }
        }
    }

    async fn run<S>(self, stream: S, who: Principal, router: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(router.layer(Extension(who.clone())));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        self.metrics.connection_opened();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        self.metrics.connection_closed();
        if let Err(error) = ended {
            tracing::debug!(principal = %who, %error, "admin connection ended early");
        }
    }
}

async fn handshake(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, Principal), String> {
    let stream = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream))
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
    Ok((stream, who))
}

#[cfg(test)]
mod tests;
