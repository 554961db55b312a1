//! The network of most tests: connections within the process, made at once, to whichever of a host's addresses answers.

use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::stream::memory::{MemoryConnection, MemoryOptions, pair};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Answered, ConnectError, ConnectionEnd, Connector};

/// What is behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// The broker.
    Broker,
    /// The broker, an answer of which takes so long.
    Distance(Duration),
    /// The broker, which is heard at once and keeps everybody waiting for so long.
    Line(Duration),
    /// The broker, which has no time for so many attempts.
    Busy(usize),
    /// The broker, to which no connection comes about.
    Broken,
    /// Nobody.
    Silence,
}

/// A way to the broker of a test.
#[derive(Clone)]
pub(super) struct Network {
    incoming: mpsc::UnboundedSender<MemoryConnection>,
    /// What its host resolves to, in order.
    pub(super) addresses: Vec<Behind>,
    /// What its connections say of their round trip.
    pub(super) round_trip: Duration,
    /// When each attempt was made, and at which address.
    pub(super) attempts: Arc<std::sync::Mutex<Vec<(Duration, usize)>>>,
    begun: Instant,
}

impl Network {
    /// A network, and the broker's end of it.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<MemoryConnection>) {
        let (incoming, accepted) = mpsc::unbounded_channel();
        let network = Self {
            incoming,
            addresses: vec![Behind::Broker],
            round_trip: Duration::ZERO,
            attempts: Arc::default(),
            begun: Instant::now(),
        };
        (network, accepted)
    }
}

impl Connector for Network {
    type Address = usize;
    type Connection = MemoryConnection;

    async fn resolve(&self) -> Result<Vec<usize>, ConnectError> {
        Ok((0..self.addresses.len()).collect())
    }

    async fn dial(
        &self,
        address: &usize,
        answered: &Answered,
        _: bool,
    ) -> Result<MemoryConnection, ConnectError> {
        let attempt = (self.begun.elapsed(), *address);
        self.attempts.lock().unwrap().push(attempt);
        match self.addresses[*address] {
            Behind::Broker => {}
            Behind::Line(wait) => {
                answered.note();
                tokio::time::sleep(wait).await;
            }
            Behind::Busy(times) => {
                answered.note();
                let attempts = self.attempts.lock().unwrap();
                let made = attempts.iter().filter(|(_, at)| at == address);
                if made.count() <= times {
                    return Err(ConnectError::Lost(ConnectionEnd::Busy));
                }
            }
            Behind::Broken => return Err(ConnectError::Lost(ConnectionEnd::TimedOut)),
            Behind::Silence => std::future::pending().await,
            Behind::Distance(round_trip) => {
                tokio::time::sleep(round_trip).await;
                answered.note();
                tokio::time::sleep(2 * round_trip).await;
            }
        }
        let (ours, theirs) = pair(MemoryOptions {
            round_trip: self.round_trip,
            ..MemoryOptions::default()
        });
        // Fails when the broker of the test is gone; then the connection is, too.
        let _ = self.incoming.send(theirs);
        Ok(ours)
    }

    async fn heard_of_close(&self, _: &MemoryConnection) {}
}
