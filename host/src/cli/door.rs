//! A door of a broker, and the files that open it. Plain values.

use std::path::PathBuf;

/// The files that prove who is who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// An address, and what said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Door {
    pub(super) address: String,
    pub(super) from: String,
}
