//! All the listeners together: what takes connection attempts from the sockets, and how everything ends at a shutdown: in which order,
//! how long connections have, and how those that are left are closed. What is decided about an attempt is in `admission`, what happens
//! on a connection in `connection`, and what a client is told of a shutdown in `session/shutdown.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::admission::Admission;
use super::connection::Attempt;
use super::listener_context::ListenerContext;
use super::options::QuicOptions;
use super::socket::{Bound, ServeError, bind};
use crate::net::counters::NetCounters;
use crate::net::session::error_codes::{close_code, shutting_down};
use crate::net::session::service::Service;
use crate::runtime::spawn::Spawner;
use crate::tls::{ClientAuth, TlsIdentity};

/// Time beyond the grace period for connections to bring their last words home, and for sockets to say
/// goodbye.
const AFTER_GRACE: Duration = Duration::from_secs(5);

/// How long the peers of one listener have to answer the close of their connections. Who does not is not waited for.
const CLOSE_ANSWERED: Duration = Duration::from_secs(1);

/// How often idle connections are looked for that others could use the send budget of. There is no state to wait for: that somebody
/// writes nothing is no event. But it is one timer for all, and only those are looked at that have a part of it: mostly nobody.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// The running network side.
#[derive(Debug)]
pub struct NetHandle {
    /// Where it listens, in the order of the options; port 0 is resolved.
    pub local_addrs: Vec<SocketAddr>,
    /// Its counters.
    pub stats: Arc<NetCounters>,
    tasks: Spawner,
}

impl NetHandle {
    /// Completes when the network side has shut down: some time after its token was cancelled, at most the
    /// grace period and a few seconds. Never fails; a panic of its own is a condition of the broker.
    pub async fn stopped(self) {
        self.tasks.ended().await;
    }
}

/// Starts to listen, and carries sessions of `service` until it shuts down. Then nothing new is accepted, and what is left after the
/// grace period is closed.
///
/// # Errors
///
/// An address, certificate or setting cannot be used. Nothing is served then.
pub(in crate::net) fn listen(
    options: QuicOptions,
    tls: &TlsIdentity,
    service: Arc<Service>,
) -> Result<NetHandle, ServeError> {
    if options.listeners.is_empty() {
        return Err(ServeError::NoListener);
    }
    let mut endpoints = Vec::new();
    let mut local_addrs = Vec::new();
    for listener in &options.listeners {
        let bound = bind(listener, &options, &service.options, tls)?;
        let addr = bound
            .endpoint
            .local_addr()
            .map_err(|source| ServeError::Bind {
                addr: listener.addr,
                source,
            })?;
        info!(%addr, client_auth = ?listener.client_auth, "listening for QUIC");
        local_addrs.push(addr);
        endpoints.push((bound, listener.client_auth));
    }
    let stats = service.stats.clone();
    let tasks = service.spawner();
    let context = ListenerContext::new(service, options);
    tasks.lasting("network", supervise(context, endpoints));
    Ok(NetHandle {
        local_addrs,
        stats,
        tasks,
    })
}

// Owns the accept loops and all connections.
async fn supervise(context: Arc<ListenerContext>, endpoints: Vec<(Bound, ClientAuth)>) {
    let service = &context.service;
    let connections = service.spawner();
    let accepting = service.spawner();
    let (admission, attempts) = Admission::new(Arc::clone(&context), connections.clone());
    accepting.lasting("QUIC admission", admission.run());
    accepting.lasting("QUIC send budget", watch_send_budget(context.clone()));
    for (bound, client_auth) in &endpoints {
        let endpoint = &bound.endpoint;
        let name = match endpoint.local_addr() {
            Ok(addr) => format!("QUIC listener {addr}"),
            Err(_) => "QUIC listener".to_owned(),
        };
        let accept = accept(
            context.clone(),
            bound.clone(),
            *client_auth,
            attempts.clone(),
        );
        accepting.lasting(name, accept);
    }
    drop(attempts);
    accepting.ended().await;
    service.shutdown.cancelled().await;
    end(service, &connections, &endpoints).await;
}

// What is left of a shutdown once nothing new is accepted: sessions end by themselves, what does not is closed, and then the sockets
// have said goodbye.
async fn end(service: &Service, connections: &Spawner, endpoints: &[(Bound, ClientAuth)]) {
    let grace = service.options.shutdown_grace + AFTER_GRACE;
    if tokio::time::timeout(grace, connections.ended())
        .await
        .is_err()
    {
        warn!(
            connections = connections.running(),
            "connections are closed although they are not done"
        );
    }
    let reason = shutting_down();
    let code = close_code(&reason);
    for (Bound { endpoint, .. }, _) in endpoints {
        endpoint.close(code.into(), reason.message.as_bytes());
        let _ = tokio::time::timeout(CLOSE_ANSWERED, endpoint.wait_idle()).await;
    }
}

// Has connections that write nothing any more give back what others may need, until the shutdown.
async fn watch_send_budget(context: Arc<ListenerContext>) {
    loop {
        tokio::select! {
            biased;
            () = context.service.shutdown.cancelled() => return,
            () = tokio::time::sleep(IDLE_LOOK_EVERY) => context.send_budget.take_back_from_idle(),
        }
    }
}

async fn accept(
    context: Arc<ListenerContext>,
    bound: Bound,
    client_auth: ClientAuth,
    attempts: mpsc::Sender<Attempt>,
) {
    let Bound {
        endpoint,
        for_reordering,
        compression,
    } = bound;
    loop {
        let incoming = tokio::select! {
            biased;
            () = context.service.shutdown.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else {
            error!("a QUIC listener ended by itself; its socket failed");
            break;
        };
        let attempt = Attempt {
            incoming,
            client_auth,
            for_reordering: Arc::clone(&for_reordering),
            compression,
        };
        // Waits while the admission has others to look at; it ends with the shutdown, and then an attempt is refused as it is dropped.
        if attempts.send(attempt).await.is_err() {
            break;
        }
    }
    // From here on attempts are refused by quinn.
    endpoint.set_server_config(None);
}
