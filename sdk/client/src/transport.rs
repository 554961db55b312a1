//! Transports: what a client needs of whatever brings its connections about. QUIC is the one that [`Client::connect`] uses; the
//! rest of the client knows it only by this trait and those of [`tidegate_wire::stream`].
//!
//! [`Client::connect`]: crate::Client::connect

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_wire::stream::Connection;

use crate::error::ConnectError;

pub(crate) mod quic;
mod renewed_identity;

/// Makes connections to a broker, over one transport. When to make one, and what is said on it, is not its business.
pub trait Connector: Send + Sync + 'static {
    /// A place where the broker may be found; shown in logs.
    type Address: fmt::Display + Send + Sync;
    /// What it makes.
    type Connection: Connection;

    /// Where the broker may be found now, best first. All are tried, each a little later than the one before.
    ///
    /// # Errors
    /// When that cannot be found out.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn resolve(&self) -> impl Future<Output = Result<Vec<Self::Address>, ConnectError>> + Send;

    /// Makes a connection, and notes it when the other side has `answered`, long before everything is agreed on. It has no time
    /// limit of its own: who loses patience drops the future, and with it the attempt.
    ///
    /// # Errors
    /// [`ConnectError::Lost`] when the connection ended before it was made, else what hindered it.
    ///
    /// # Cancel safety
    /// May be dropped at any time; nothing is left of the attempt then.
    fn dial(
        &self,
        address: &Self::Address,
        answered: &Answered,
    ) -> impl Future<Output = Result<Self::Connection, ConnectError>> + Send;

    /// Waits until the broker has heard that `connection`, which was closed here, is; as far as the transport can know. May take
    /// for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn heard_of_close(&self, connection: &Self::Connection) -> impl Future<Output = ()> + Send;
}

/// Whether the other side has answered an attempt to connect. Who lost patience with it would lose what is agreed on already.
#[derive(Clone, Debug, Default)]
pub struct Answered(Arc<AtomicBool>);

impl Answered {
    /// It has.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
