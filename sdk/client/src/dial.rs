//! One attempt to reach the broker: every address it may have, until one of them answers the hello. When to make an attempt, and how
//! long it may take, is decided in `attempts`; how a connection comes about is the transport's business.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_ok;
use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, ConnectionEnd};

use crate::error::{ConnectError, ErrorCode, Refusal};
use crate::hello::{Established, HelloStream, say_hello};
use crate::options::ClientOptions;
use crate::transport::{Answered, Connector};

/// How long each further address of a host waits for the ones before it.
const ADDRESS_STAGGER: Duration = Duration::from_millis(200);

/// Reaches one broker over one transport.
pub(crate) struct Dialer<K> {
    pub(crate) connector: K,
    pub(crate) options: ClientOptions,
}

/// What an attempt comes to.
pub(crate) type Dialed<C> = Result<(Established<C>, HelloStream<C>), ConnectError>;

impl<K: Connector> Dialer<K> {
    /// Connects and says hello, to whichever address answers first.
    pub(crate) async fn dial(&self, answered: &Answered) -> Dialed<K::Connection> {
        let addresses = self.connector.resolve().await?;
        let attempt = |(index, address): (usize, K::Address)| {
            async move {
                let turn = u32::try_from(index).unwrap_or(u32::MAX);
                tokio::time::sleep(ADDRESS_STAGGER * turn).await;
                self.dial_one(&address, answered).await
            }
            .boxed()
        };
        let attempts: Vec<_> = addresses.into_iter().enumerate().map(attempt).collect();
        if attempts.is_empty() {
            return Err(ConnectError::Resolve {
                addr: self.options.addr.clone(),
                source: Arc::new(std::io::ErrorKind::NotFound.into()),
            });
        }
        select_ok(attempts).await.map(|(dialed, _)| dialed)
    }

    async fn dial_one(&self, address: &K::Address, answered: &Answered) -> Dialed<K::Connection> {
        let connection = self.connector.dial(address, answered).await;
        let connection = connection.map_err(|error| match error {
            ConnectError::Lost(end) => self.explain(end),
            error => error,
        })?;
        let hello = say_hello(connection.clone(), address.to_string(), &self.options).await;
        hello.map_err(|error| match connection.end() {
            // The handshake may end for us before the broker has looked at our certificate.
            Some(end) => self.explain(end),
            None => error,
        })
    }

    /// Tells a failed handshake and a refusal from a lost connection.
    fn explain(&self, end: ConnectionEnd) -> ConnectError {
        match end {
            ConnectionEnd::Rejected { by_peer, reason } => {
                let who = if by_peer { "the broker" } else { "this client" };
                ConnectError::Handshake {
                    addr: self.options.addr.clone(),
                    reason: format!("{who} objects: {reason}"),
                }
            }
            ConnectionEnd::Peer { code, ref reason } => {
                let refusal = refusal_of(code, reason);
                refusal.map_or(ConnectError::Lost(end), ConnectError::Refused)
            }
            end => ConnectError::Lost(end),
        }
    }
}

/// A broker closes a connection with the code of the refusal that makes it do so.
fn refusal_of(code: u32, reason: &str) -> Option<Refusal> {
    let code = ErrorCode::try_from(i32::try_from(code).ok()?).ok()?;
    (code != ErrorCode::Unspecified).then(|| pb::Error::new(code, reason).into())
}
