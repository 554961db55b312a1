//! A QUIC connection before it carries a session: its handshake, who the client is, and a place for it among all connections. What is
//! said on it is the session's business.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError, Incoming, ServerConfig, TransportErrorCode};
use rustls_pki_types::CertificateDer;
use tidegate_wire::compact::Compression;
use tidegate_wire::pb::{self, ErrorCode};
use tidegate_wire::stream::quic::{QuicConnection, reordering};
use tokio::time::Instant;

use super::handshakes::Handshake;
use super::listener_context::ListenerContext;
use crate::auth::{end_of, principal_of};
use crate::domain::{Millis, Principal};
use crate::net::session::error_codes::{close, overloaded};
use crate::net::session::known_client::KnownClient;
use crate::net::session::lifecycle;
use crate::runtime::patience::Patience;
use crate::tls::ClientAuth;

/// An attempt to connect.
pub(super) struct Attempt {
    pub(super) incoming: Incoming,
    /// What its listener asks of clients.
    pub(super) client_auth: ClientAuth,
    /// For who says that packets overtake each other on the way.
    pub(super) for_reordering: Arc<ServerConfig>,
    /// Whether events are compressed on its listener's connections.
    pub(super) compression: Compression,
}

/// Why a connection does not get as far as its hello.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the handshake failed: {0}")]
    Quic(ConnectionError),
    #[error("its client has given it up: another attempt was faster, or this one took too long")]
    Withdrawn,
    #[error("the handshake was not done within {0:?}")]
    Deadline(Duration),
    #[error("too many handshakes are under way, and this one had stalled for longest")]
    GaveWay,
    #[error("the client sent no certificate")]
    NoCertificate,
    #[error(transparent)]
    Principal(#[from] crate::auth::PrincipalFromCertError),
}

impl From<ConnectionError> for HandshakeError {
    fn from(error: ConnectionError) -> Self {
        let is_withdrawn = match &error {
            // All that QUIC lets an application say before the handshake is done (RFC 9000, section 10.2.3).
            ConnectionError::ConnectionClosed(close) => {
                close.error_code == TransportErrorCode::APPLICATION_ERROR
            }
            ConnectionError::ApplicationClosed(_) => true,
            _ => false,
        };
        match is_withdrawn {
            true => Self::Withdrawn,
            false => Self::Quic(error),
        }
    }
}

/// Serves a connection from its first packet to its close. `handshake` has its place until that is done.
pub(super) async fn serve(context: Arc<ListenerContext>, attempt: Attempt, handshake: Handshake) {
    let Attempt {
        incoming,
        client_auth,
        for_reordering,
        compression,
    } = attempt;
    let remote = incoming.remote_address();
    let service = &context.service;
    let counted = service.stats.handshake();
    let log_failed = |error: &HandshakeError| {
        let reason = error.to_string();
        match error {
            HandshakeError::Withdrawn => context.log_withdrawn(remote, &reason),
            HandshakeError::GaveWay => context.log_failed(remote, &reason, true),
            _ => context.log_failed(remote, &reason, false),
        }
    };
    let deadline = service.options.handshake_timeout;
    let connection = match shake_hands(deadline, incoming, for_reordering, &handshake).await {
        Ok(connection) => connection,
        Err(error) => return log_failed(&error),
    };
    // Whoever it turns out to be, it took so long.
    handshake.succeeded(Instant::now());
    let identified = identify(&connection, client_auth);
    let connection = QuicConnection::new(connection, &context.send_budget);
    let (principal, lapses) = match identified {
        Ok(identified) => identified,
        Err(error) => {
            let refusal = pb::Error::new(ErrorCode::PermissionDenied, error.to_string());
            close(&connection, &refusal);
            return log_failed(&error);
        }
    };
    let slot = match service.admit(&principal, remote.ip().into()) {
        Ok(slot) => slot,
        Err(full) => {
            let reason = full.to_string();
            close(&connection, &overloaded(&*reason));
            return context.log_refused(remote, &reason);
        }
    };
    drop(counted);
    let client = KnownClient {
        principal,
        lapses,
        remote,
        compression,
    };
    lifecycle::serve(service.clone(), connection, client, slot).await;
}

async fn shake_hands(
    deadline: Duration,
    incoming: Incoming,
    for_reordering: Arc<ServerConfig>,
    handshake: &Handshake,
) -> Result<Connection, HandshakeError> {
    let connecting = match reordering::is_asked(&incoming.orig_dst_cid()) {
        true => incoming.accept_with(for_reordering)?,
        false => incoming.accept()?,
    };
    let mut patience = Patience::new(deadline);
    let connecting = patience.wait(connecting);
    tokio::select! {
        biased;
        connected = connecting => Ok(connected.map_err(|_| HandshakeError::Deadline(deadline))??),
        () = handshake.given_up.cancelled() => Err(HandshakeError::GaveWay),
    }
}

// Who it is, and until when.
fn identify(
    connection: &Connection,
    client_auth: ClientAuth,
) -> Result<(Principal, Option<Millis>), HandshakeError> {
    if client_auth == ClientAuth::Anonymous {
        return Ok((Principal::anonymous(), None));
    }
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or(HandshakeError::NoCertificate)?;
    Ok((principal_of(leaf)?, Some(end_of(leaf)?)))
}
