//! Where a running broker can be reached: written to its data directory for commands on the same machine, and for programs that
//! started it with port 0.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{Access, RealFileSystem, read_whole, replace};

/// What such a file may have; it has some hundred bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

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

    /// The QUIC listener as a program on the same machine reaches it, `host:port`.
    #[must_use]
    pub fn quic_here(&self) -> String {
        reached_here(self.quic).to_string()
    }

    /// The admin API as a program on the same machine reaches it; the plain one, if there is one.
    #[must_use]
    pub fn admin_here(&self) -> Option<String> {
        let base = self.admin.as_ref().or(self.admin_tls.as_ref())?;
        let (scheme, address) = base.split_once("://")?;
        Some(match address.parse() {
            Ok(address) => format!("{scheme}://{}", reached_here(address)),
            Err(_) => base.clone(),
        })
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
        let bytes = read_whole(&Self::path(data_dir), FILE_BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

// What listens on all addresses of a machine listens on loopback too, and no certificate names "all addresses".
fn reached_here(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
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
    #[test]
    fn what_listens_everywhere_is_reached_by_loopback() {
        let check =
            |quic: &str, plain: Option<&str>, tls: Option<&str>, here: (&str, Option<&str>)| {
                let endpoints =
                    Endpoints::new(address(quic), None, plain.map(address), tls.map(address));
                let admin = endpoints.admin_here();
                assert_eq!((endpoints.quic_here().as_str(), admin.as_deref()), here);
            };
        let plain = Some("127.0.0.1:8");
        check(
            "127.0.0.1:7",
            plain,
            None,
            ("127.0.0.1:7", Some("http://127.0.0.1:8")),
        );
        check(
            "0.0.0.0:7",
            None,
            Some("0.0.0.0:9"),
            ("127.0.0.1:7", Some("https://127.0.0.1:9")),
        );
        check(
            "[::]:7",
            plain,
            Some("[::]:9"),
            ("[::1]:7", Some("http://127.0.0.1:8")),
        );
        check("192.0.2.1:7", None, None, ("192.0.2.1:7", None));
    }
}
