//! A door of a broker, and the files that open it. Plain values.

use std::path::PathBuf;

/// The files that prove who is who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// An address, and what said it: HOST:PORT by QUIC, or the URL of an admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) address: String,
    pub(super) from: String,
}

impl Door {
    /// What kind of port it has, for whoever looks what drops its packets.
    pub(super) fn port(&self) -> &'static str {
        match self.address.contains("://") {
            true => "the port of its admin API is TCP",
            false => "its QUIC port is UDP",
        }
    }
}
