//! A door to sessions for which nothing listens: connections that are there already are brought to it, whatever carries them.

use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_wire::compact::Compression;
use tidegate_wire::stream::Connection;
use tokio_util::sync::CancellationToken;

use super::session::error_codes::{close, overloaded};
use super::session::known_client::KnownClient;
use super::session::lifecycle;
use super::session::options::SessionOptions;
use super::session::service::{Backend, Service};
use crate::auth::Policy;
use crate::broker::Broker;
use crate::domain::Principal;

/// A door to sessions for which nothing listens: whoever has a connection, and knows whose it is, brings it. Clones are one.
#[derive(Clone)]
pub struct Door(Arc<Service>);

impl Door {
    /// The door to sessions of `broker`. Once `shutdown` is cancelled they say goodbye.
    #[must_use]
    pub fn open(
        options: SessionOptions,
        policy: Arc<Policy>,
        broker: Broker,
        shutdown: CancellationToken,
    ) -> Self {
        Self(Service::new(
            options,
            policy,
            Backend::Broker(broker),
            shutdown,
        ))
    }

    /// Serves a client until its connection is over. One for whom there is no place is told so, and its connection closed.
    pub async fn serve<C: Connection>(
        &self,
        connection: C,
        principal: Principal,
        remote: SocketAddr,
    ) {
        let slot = match self.0.admit(&principal, remote.ip().into()) {
            Ok(slot) => slot,
            Err(full) => return close(&connection, &overloaded(full.to_string())),
        };
        let client = KnownClient {
            principal,
            lapses: None,
            remote,
            compression: Compression::Auto,
        };
        lifecycle::serve(self.0.clone(), connection, client, slot).await;
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::pb::ErrorCode;
    use tidegate_wire::stream::memory::{MemoryConnection, MemoryOptions, pair};

    use super::*;
    use crate::net::session::tests::client;
    use crate::net::session::tests::served::Served;

    fn knock(door: &Door) -> client::Client<MemoryConnection> {
        let (theirs, ours) = pair(MemoryOptions::default());
        let (door, remote) = (door.clone(), SocketAddr::from(([192, 0, 2, 1], 4_096)));
        let who = "dns:client.example".parse().expect("a principal");
        tokio::spawn(async move { door.serve(ours, who, remote).await });
        client::Client::new(theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_door_clients_are_served_as_far_as_there_is_place() {
        let served = Served::start(|_| {}).await;
        let options = SessionOptions {
            connections_max: 1,
            ..SessionOptions::default()
        };
        let (policy, broker) = (served.policy.clone(), served.broker.clone());
        let shutdown = CancellationToken::new();
        let door = Door::open(options, policy, broker, shutdown.clone());
        let client = knock(&door).welcomed().await;
        let refused = knock(&door).close_code().await;
        assert_eq!(refused, Some(ErrorCode::Overloaded));
        shutdown.cancel();
        assert!(client.go_away().await.is_some(), "it says goodbye");
    }
}
