//! One attempt to reach the broker: every address it may have, until one of them answers the hello. When to make an attempt, and how
//! long it may take, is decided in `attempts`; how a connection comes about is the transport's business.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tidegate_wire::pb;
use tidegate_wire::stream::{Connection, ConnectionEnd};
use tokio::time::{Instant, sleep_until};

use crate::error::{ConnectError, ErrorCode, Refusal};
use crate::hello::{Established, HelloStream, say_hello};
use crate::options::ClientOptions;
use crate::transport::{Answered, Connector};

/// How long each further address of a host waits for the ones before it.
const ADDRESS_STAGGER: Duration = Duration::from_millis(200);

/// How long the last of them has to be heard of when the broker at another has no time.
const LAST_HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Reaches one broker over one transport.
pub(crate) struct Dialer<K> {
    pub(crate) connector: K,
    pub(crate) options: ClientOptions,
}

/// What an attempt comes to.
pub(crate) type Dialed<C> = Result<(Established<C>, HelloStream<C>), ConnectError>;

impl<K: Connector> Dialer<K> {
    /// Connects and says hello, to whichever address answers first. The next address is tried when the ones before are silent for a
    /// moment, or have failed: who has answered is not asked at two addresses.
    pub(crate) async fn dial(
        &self,
        answered: &Answered,
        expects_reordering: bool,
    ) -> Dialed<K::Connection> {
        let mut addresses = self.connector.resolve().await?.into_iter().peekable();
        let mut under_way = FuturesUnordered::new();
        let mut parts: Vec<Answered> = Vec::new();
        let mut failed: Option<ConnectError> = None;
        let mut next_at = Instant::now();
        let mut begun_at = next_at;
        loop {
            let has_more = addresses.peek().is_some();
            // One that is there and has no time says more than others that say nothing.
            let is_busy = matches!(failed, Some(ConnectError::Busy { .. }));
            let was_heard = parts.iter().any(|part| part.heard() > 0);
            let is_over = is_busy && !has_more && !was_heard && !parts.is_empty();
            let wakes_at = match has_more {
                true => next_at,
                false => begun_at + LAST_HEARD_WITHIN,
            };
            tokio::select! {
                biased;
                Some((part, dialed)) = under_way.next(), if !under_way.is_empty() => {
                    let part: Answered = part;
                    parts.retain(|one| !one.is(&part));
                    match dialed {
                        Ok(dialed) => return Ok(dialed),
                        Err(error) if !is_busy => failed = Some(error),
                        Err(_) => {}
                    }
                    next_at = Instant::now();
                }
                () = sleep_until(wakes_at), if has_more || is_over => {
                    next_at += ADDRESS_STAGGER;
                    let was_heard = parts.iter().any(|part| part.heard() > 0);
                    match addresses.peek() {
                        Some(_) if was_heard => {}
                        Some(_) => if let Some(address) = addresses.next() {
                            let part = answered.part();
                            parts.push(part.clone());
                            begun_at = Instant::now();
                            under_way.push(self.dial_one(address, part, expects_reordering));
                        }
                        None if was_heard => begun_at = Instant::now(),
                        None => return Err(failed.unwrap_or_else(|| self.nowhere())),
                    }
                }
                else => return Err(failed.unwrap_or_else(|| self.nowhere())),
            }
        }
    }

    fn nowhere(&self) -> ConnectError {
        ConnectError::Resolve {
            addr: self.options.addr.clone(),
            source: Arc::new(std::io::ErrorKind::NotFound.into()),
        }
    }

    async fn dial_one(
        &self,
        address: K::Address,
        answered: Answered,
        expects_reordering: bool,
    ) -> (Answered, Dialed<K::Connection>) {
        let dialed = self.reach(&address, &answered, expects_reordering).await;
        (answered, dialed)
    }

    async fn reach(
        &self,
        address: &K::Address,
        answered: &Answered,
        expects_reordering: bool,
    ) -> Dialed<K::Connection> {
        let dialed = self.connector.dial(address, answered, expects_reordering);
        let connection = dialed.await.map_err(|error| match error {
            ConnectError::Lost(end) => self.explain(end),
            error => error,
        })?;
        let withdrawn = ClosedWhenDropped(Some(&connection));
        let hello = say_hello(connection.clone(), address.to_string(), &self.options).await;
        withdrawn.keep();
        let (mut established, hello) = hello.map_err(|error| match connection.end() {
            // The handshake may end for us before the broker has looked at our certificate.
            Some(end) => self.explain(end),
            None => error,
        })?;
        established.expects_reordering = expects_reordering;
        Ok((established, hello))
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
            ConnectionEnd::Busy => ConnectError::Busy {
                addr: self.options.addr.clone(),
            },
            end => ConnectError::Lost(end),
        }
    }
}

/// Closes a connection when nobody waits any more for what comes of its hello.
struct ClosedWhenDropped<'a, C: Connection>(Option<&'a C>);

impl<C: Connection> ClosedWhenDropped<'_, C> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl<C: Connection> Drop for ClosedWhenDropped<'_, C> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.close(0, "another attempt was faster, or this one took too long");
        }
    }
}

/// A broker closes a connection with the code of the refusal that makes it do so.
fn refusal_of(code: u32, reason: &str) -> Option<Refusal> {
    let code = ErrorCode::try_from(i32::try_from(code).ok()?).ok()?;
    (code != ErrorCode::Unspecified).then(|| pb::Error::new(code, reason).into())
}
