//! Transports: what a client needs of whatever brings its connections about. QUIC is the one that [`Client::connect`] uses; the
//! rest of the client knows it only by this trait and those of [`tidegate_wire::stream`].
//!
//! [`Client::connect`]: crate::Client::connect

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_wire::stream::Connection;
use tokio::sync::Notify;

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

    /// Makes a connection, and notes whatever is heard of the other side, which has `answered` long before everything is agreed on. With
    /// `expects_reordering`, both ends of it are to expect that packets overtake each other on the way. It has no time limit of its own:
    /// who waits no longer drops the future, and with it the attempt.
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
        expects_reordering: bool,
    ) -> impl Future<Output = Result<Self::Connection, ConnectError>> + Send;

    /// Waits until the broker has heard that `connection`, which was closed here, is; as far as the transport can know. May take
    /// for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn heard_of_close(&self, connection: &Self::Connection) -> impl Future<Output = ()> + Send;
}

/// Whether anything was heard of the other side since an attempt to connect. Who gave it up then would lose what is agreed
/// on already, or its place in a line.
#[derive(Clone, Debug, Default)]
pub struct Answered(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    times: AtomicU64,
    /// Told of the first time.
    told: Arc<Notify>,
    /// What this is a part of, and hears of the same.
    whole: Option<Answered>,
}

impl Answered {
    /// Something was heard: anything at all, and not only what the handshake is about.
    pub fn note(&self) {
        if self.0.times.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.told.notify_one();
        }
        if let Some(whole) = &self.0.whole {
            whole.note();
        }
    }

    /// One whose first time is told.
    pub(crate) fn telling(told: Arc<Notify>) -> Self {
        Self(Arc::new(Heard {
            told,
            ..Heard::default()
        }))
    }

    /// One of several places that are tried, which is heard of by itself.
    pub(crate) fn part(&self) -> Self {
        Self(Arc::new(Heard {
            whole: Some(self.clone()),
            ..Heard::default()
        }))
    }

    /// How often something was heard.
    pub(crate) fn heard(&self) -> u64 {
        self.0.times.load(Ordering::Relaxed)
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
