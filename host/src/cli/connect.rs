//! The connection to the broker that flags name, and what is told of one that does not come about or does not last.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tidegate_client::{Client, ClientOptions, ConnectError, PublishError, SubscribeError};

use super::connection_flags::{CertificateFlags, QuicFlags};
use super::door::{CertificateFiles, Door};
use super::failed_connection::{FailedConnection, Why, why_silent_for};
use super::obstacles::PortWatch;
use super::time_limit::{TimeIsOver, TimeLimit};
use super::wait_notices::{self, Patience};

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
        let address = door.address.clone();
        let silence = why_silent_for(&address, CONNECT_TIMEOUT);
        let failed = FailedConnection::of(door, &lost, files, silence).await;
        failed.map_or(error, anyhow::Error::new)
    }
}

/// A connection to the broker that the flags name, with what `adjust` makes of the options. Says why it waits.
pub(super) async fn connect(
    quic: &QuicFlags,
    certificates: &CertificateFlags,
    limit: TimeLimit,
    adjust: impl FnOnce(ClientOptions) -> ClientOptions,
) -> anyhow::Result<Connected> {
    let (door, options) = quic.options(certificates)?;
    let files = certificates.files().ok();
    let within = limit.get().unwrap_or(CONNECT_TIMEOUT);
    // The files are read once, so nothing changes here that would let the other side think again.
    let options = adjust(options)
        .connect_timeout(within)
        .retry_objections(false);
    let mut port = PortWatch::new(&door.address);
    let mut connecting = pin!(Client::connect(options));
    // Beside it, so that the reason is known by the time that it is given up.
    let mut silence = pin!(why_silent_for(&door.address, within));
    let mut found = None;
    let mut patience = Patience::default();
    let connected = {
        let obstacle = || Some(port.obstacle(&door));
        let mut said = pin!(wait_notices::say_why(&mut patience, obstacle));
        loop {
            tokio::select! {
                biased;
                connected = &mut connecting => break connected,
                why = &mut silence, if found.is_none() => found = Some(why),
                never = &mut said => match never {},
            }
        }
    };
    match connected {
        Ok(client) => {
            patience.is_over();
            Ok(Connected {
                client,
                door: door.clone(),
                files,
            })
        }
        Err(error) => {
            let is_over = matches!(
                error,
                ConnectError::TimedOut { .. } | ConnectError::Busy { .. }
            );
            let silence = async {
                let why = match found {
                    Some(why) => why,
                    None => silence.await,
                };
                why.or_closed(port.was_closed())
            };
            let told = unconnected(error, door.clone(), files, silence).await;
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
    silence: impl Future<Output = Why>,
) -> anyhow::Error {
    if let Some(failed) = FailedConnection::of(door, &error, files.clone(), silence).await {
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
