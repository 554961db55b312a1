//! A client that is known by now, as whoever accepted its connection hands it to the session.

use std::net::SocketAddr;

use tidegate_wire::compact::Compression;

use crate::domain::{Millis, Principal};

/// A client that is known by now.
pub(in crate::net) struct KnownClient {
    pub(in crate::net) principal: Principal,
    /// When what it proved that with ends. `None`: it proved nothing.
    pub(in crate::net) lapses: Option<Millis>,
    pub(in crate::net) remote: SocketAddr,
    /// Whether events are compressed on the way to and from it.
    pub(in crate::net) compression: Compression,
}
