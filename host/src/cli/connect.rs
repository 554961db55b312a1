//! The connection to the broker that flags name, and what is told of one that does not come about or does not last.

use std::sync::Arc;
use std::time::Duration;

use tidegate_client::{Client, ClientOptions, ConnectError, PublishError, SubscribeError};

use super::connection_flags::{CertificateFlags, QuicFlags};
use super::door::{CertificateFiles, Door};
use super::failed_connection::FailedConnection;
use super::obstacles::PortWatch;
use super::time_limit::{TimeIsOver, TimeLimit};
use super::wait_notices;

/// A person waits; a broker that is there answers within milliseconds.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A broker, and the connection to it.
pub(super) struct Connected {
    pub(super) client: Client,
    door: Door,
    files: Option<CertificateFiles>,
}

impl Connected {
    /// The error that ends a command, and what is wrong with the connection if that is why.
    pub(super) async fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let lost =
            error
                .chain()
                .find_map(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
                    (Some(SubscribeError::Connection(lost)), _)
                    | (_, Some(PublishError::Connection(lost))) => Some(Arc::clone(lost)),
                    _ => None,
                });
        let (door, files) = (self.door.clone(), self.files.clone());
        let Some(lost) = lost else {
            return error;
        };
        let failed = FailedConnection::of(door, &lost, files).await;
        failed.map_or(error, anyhow::Error::new)
    }
}

/// A connection to the broker that the flags name. Says why it waits.
pub(super) async fn connect(
    quic: &QuicFlags,
    certificates: &CertificateFlags,
    limit: TimeLimit,
) -> anyhow::Result<Connected> {
    connect_with(quic, certificates, limit, |options| options).await
}

/// The same, with what `adjust` makes of the options.
pub(super) async fn connect_with(
    quic: &QuicFlags,
    certificates: &CertificateFlags,
    limit: TimeLimit,
    adjust: impl FnOnce(ClientOptions) -> ClientOptions,
) -> anyhow::Result<Connected> {
    let (door, options) = quic.options(certificates)?;
    let files = certificates.files().ok();
    // The files are read once, so nothing changes here that would let the other side think again.
    let options = adjust(options)
        .connect_timeout(limit.get().unwrap_or(CONNECT_TIMEOUT))
        .retry_objections(false);
    let mut port = PortWatch::new(&door.address);
    let why = || Some(port.obstacle(&door));
    let connected = tokio::select! {
        connected = Client::connect(options) => connected,
        never = wait_notices::say_why(why) => match never {},
    };
    match connected {
        Ok(client) => Ok(Connected {
            client,
            door,
            files,
        }),
        Err(error) => {
            let is_over = matches!(
                error,
                ConnectError::TimedOut { .. } | ConnectError::Busy { .. }
            );
            let told = unconnected(error, door, files).await;
            Err(match limit.get() {
                Some(after) if is_over => told.context(TimeIsOver::new("no connection", after)),
                _ => told,
            })
        }
    }
}

async fn unconnected(
    error: ConnectError,
    door: Door,
    files: Option<CertificateFiles>,
) -> anyhow::Error {
    if let Some(failed) = FailedConnection::of(door, &error, files.clone()).await {
        return failed.into();
    }
    match (error, files) {
        (error @ ConnectError::Config(_), Some(CertificateFiles { cert, key, .. })) => {
            anyhow::Error::new(error).context(format!(
                "cannot connect with {} and {}",
                cert.display(),
                key.display()
            ))
        }
        (error, _) => error.into(),
    }
}
