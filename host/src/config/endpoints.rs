//! Where a running broker can be reached: written to its data directory for programs that started it with port 0.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{Access, RealFileSystem, replace};

/// The addresses that were bound, ports being the real ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// QUIC with client certificates.
    pub quic: SocketAddr,
    /// QUIC without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<SocketAddr>,
    /// Base of the plain admin API, such as `http://127.0.0.1:4480`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Base of the admin API over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_tls: Option<String>,
}

impl Endpoints {
    /// From bound sockets.
    #[must_use]
    pub fn new(
        quic: SocketAddr,
        anonymous: Option<SocketAddr>,
        admin: Option<SocketAddr>,
        admin_tls: Option<SocketAddr>,
    ) -> Self {
        Self {
            quic,
            anonymous,
            admin: admin.map(|address| format!("http://{address}")),
            admin_tls: admin_tls.map(|address| format!("https://{address}")),
        }
    }

    /// The file in a data directory that [`save`](Self::save) writes.
    #[must_use]
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("endpoints.json")
    }

    /// Writes `endpoints.json` to the data directory; it appears whole. To be called once the sockets are
    /// bound. A broker that ends leaves the file, so its existence says nothing about one that runs.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, data_dir: &Path) -> io::Result<()> {
        let path = Self::path(data_dir);
        let text = serde_json::to_vec(self)?;
        let aside = path.with_extension("json.new");
        replace(&RealFileSystem, &path, &aside, Access::Owner, |file| {
            file.write_at(&text, 0)
        })?;
        Ok(())
    }

    /// What [`save`](Self::save) wrote; `None` when there is no such file or it is not readable.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(data_dir)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_file_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Endpoints::read(dir.path()), None);
        let endpoints = Endpoints::new(
            address("127.0.0.1:7"),
            None,
            Some(address("127.0.0.1:8")),
            None,
        );
        endpoints.save(dir.path()).expect("written");
        assert_eq!(Endpoints::read(dir.path()), Some(endpoints));
    }
}
