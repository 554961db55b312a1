//! Where a running broker can be reached: written to its data directory for programs that started it with
//! port 0, and printed for the person who did.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Config, defaults};

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
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.persist(Self::path(data_dir))?;
        Ok(())
    }

    /// What [`save`](Self::save) wrote; `None` when there is no such file or it is not readable.
    #[must_use]
    pub fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(data_dir)).ok()?).ok()
    }

    /// What a person who starts a broker wants to know: what was chosen, and the lines to try. `program` is
    /// what they called it by.
    #[must_use]
    pub fn banner(&self, config: &Config, program: &str) -> String {
        let mut out = format!("Tidegate {}\n", env!("CARGO_PKG_VERSION"));
        let mut line = |name: &str, text: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {name:<10}{text}");
        };
        line("data", &config.data_dir.display().to_string());
        line(
            "quic",
            &format!("{} (client certificate required)", self.quic),
        );
        if let Some(address) = self.anonymous {
            line("", &format!("{address} (no certificate: `anonymous`)"));
        }
        for base in self.admin.iter().chain(&self.admin_tls) {
            line("admin", &format!("{base} (/healthz, /metrics, /v1/…)"));
        }
        if config.tls.cert.is_none() {
            let client = config.pki_dir().join("client.pem");
            line(
                "certs",
                &format!("development CA; clients use {}", client.display()),
            );
        }
        let flags = self.client_flags(config);
        let _ = write!(
            out,
            "Try it from two other terminals:\n  \
             {program} sub hello --create --topic 'greetings.>'{flags}\n  \
             {program} pub greetings.en 'Hello, world'{}\n",
            flags.replace(&self.admin_flag(), "")
        );
        out
    }

    // What a client has to say because it is not what it would assume.
    fn client_flags(&self, config: &Config) -> String {
        let mut flags = String::new();
        if config.data_dir != Path::new(defaults::DATA_DIR) && config.tls.cert.is_none() {
            flags.push_str(&format!(
                " --data-dir {}",
                quoted(&config.data_dir.display().to_string())
            ));
        }
        if config.tls.cert.is_some() {
            flags.push_str(" --ca CA.pem --cert CLIENT.pem --cert-key CLIENT.key");
        }
        if self.quic.to_string() != defaults::LISTEN_QUIC {
            flags.push_str(&format!(" --addr {}", self.quic));
        }
        flags + &self.admin_flag()
    }

    fn admin_flag(&self) -> String {
        match self.admin.as_ref().or(self.admin_tls.as_ref()) {
            Some(base) if *base != format!("http://{}", defaults::LISTEN_ADMIN) => {
                format!(" --admin {base}")
            }
            _ => String::new(),
        }
    }
}

// For a shell, when it needs it.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
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

    #[test]
    fn the_banner_has_lines_that_work() {
        let check = |config: &Config, quic: &str, admin: &str, expected: &[&str]| {
            let endpoints = Endpoints::new(address(quic), None, Some(address(admin)), None);
            let banner = endpoints.banner(config, "tidegate");
            for line in expected {
                assert!(banner.contains(&format!("  {line}\n")), "{banner}");
            }
        };
        let mut config = Config::default();
        check(
            &config,
            "127.0.0.1:4433",
            "127.0.0.1:4480",
            &[
                "tidegate sub hello --create --topic 'greetings.>'",
                "tidegate pub greetings.en 'Hello, world'",
            ],
        );
        config.data_dir = "/tmp/a b".into();
        check(
            &config,
            "127.0.0.1:1",
            "127.0.0.1:2",
            &[
                "tidegate sub hello --create --topic 'greetings.>' --data-dir '/tmp/a b' --addr 127.0.0.1:1 --admin http://127.0.0.1:2",
                "tidegate pub greetings.en 'Hello, world' --data-dir '/tmp/a b' --addr 127.0.0.1:1",
            ],
        );
    }
}
