//! Flags that say how to reach a broker and as whom. What is not said is that of the broker whose data directory it is: the
//! addresses that it wrote there and its development certificates. So nothing has to be said to try one, and both doors and
//! the certificates are of the same broker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate_client::{Client, ClientOptions, ConnectError};

use super::human_values;
use crate::config::Endpoints;
use crate::pki::DevPki;

/// Where a broker without a configuration listens, for when no data directory says it.
const ADDR: &str = "127.0.0.1:4433";
const ADMIN: &str = "http://127.0.0.1:4480";
const DATA_DIR: &str = "tidegate-data";
/// A person waits; a broker that is there answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Certificates: those of the development set-up unless others are named.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct CertificateFlags {
    /// Data directory of a broker on this machine, for its addresses and development certificates [env: TIDEGATE_DATA_DIR]
    /// [default: tidegate-data]
    #[arg(long, value_name = "DIR", help_heading = "Connection")]
    data_dir: Option<PathBuf>,
    /// Authority that signed the broker's certificate, PEM [env: TIDEGATE_CA]
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    ca: Option<PathBuf>,
    /// Certificate to show, PEM [env: TIDEGATE_CERT]
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Connection",
        requires = "cert_key"
    )]
    cert: Option<PathBuf>,
    /// Private key of that certificate, PEM [env: TIDEGATE_KEY]
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Connection",
        requires = "cert"
    )]
    cert_key: Option<PathBuf>,
}

/// Where to publish and consume.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct QuicFlags {
    /// Address of the broker's QUIC listener [env: TIDEGATE_ADDR] [default: what the data directory says, or 127.0.0.1:4433]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Connection")]
    addr: Option<String>,
    /// Name in the broker's certificate [default: the host of the address]
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    server_name: Option<String>,
}

/// Where to manage.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct AdminFlag {
    /// Address of the broker's admin API [env: TIDEGATE_ADMIN] [default: what the data directory says, or
    /// http://127.0.0.1:4480]
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    admin: Option<String>,
}

/// The files that prove who is who.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    pub(super) ca: PathBuf,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl CertificateFlags {
    fn data_dir(&self) -> PathBuf {
        path_or(&self.data_dir, "TIDEGATE_DATA_DIR", Path::new(DATA_DIR))
    }

    /// Where the broker whose data directory it is listens, or did when it last ran.
    fn endpoints(&self) -> Option<Endpoints> {
        Endpoints::read(&self.data_dir())
    }

    pub(super) fn files(&self) -> CertificateFiles {
        let development = DevPki::at(&self.data_dir().join("pki"));
        CertificateFiles {
            ca: path_or(&self.ca, "TIDEGATE_CA", &development.ca),
            cert: path_or(&self.cert, "TIDEGATE_CERT", &development.client_cert),
            key: path_or(&self.cert_key, "TIDEGATE_KEY", &development.client_key),
        }
    }
}

impl AdminFlag {
    pub(super) fn url(&self, certificates: &CertificateFlags) -> String {
        self.named()
            .or_else(|| certificates.endpoints()?.admin_here())
            .unwrap_or_else(|| ADMIN.to_owned())
    }

    /// Refuses to go on when the other door was named and this one was not: they would be those of two brokers.
    pub(super) fn check_beside(&self, quic: &QuicFlags) -> anyhow::Result<()> {
        let (given, missing) = match (quic.named(), self.named()) {
            (Some(addr), None) => (format!("--addr (or TIDEGATE_ADDR) is {addr}"), "--admin"),
            (None, Some(admin)) => (format!("--admin (or TIDEGATE_ADMIN) is {admin}"), "--addr"),
            _ => return Ok(()),
        };
        bail!("{given}, and this goes by both doors of a broker; say {missing} too")
    }

    fn named(&self) -> Option<String> {
        self.admin.clone().or_else(|| env("TIDEGATE_ADMIN"))
    }
}

impl QuicFlags {
    fn addr(&self, certificates: &CertificateFlags) -> String {
        self.named()
            .or_else(|| Some(certificates.endpoints()?.quic_here()))
            .unwrap_or_else(|| ADDR.to_owned())
    }

    fn named(&self) -> Option<String> {
        self.addr.clone().or_else(|| env("TIDEGATE_ADDR"))
    }

    /// Options of the client, with the certificates read.
    pub(super) fn options(&self, certificates: &CertificateFlags) -> anyhow::Result<ClientOptions> {
        let files = certificates.files();
        let addr = self.addr(certificates);
        if !human_values::is_host_and_port(&addr) {
            bail!("`{addr}` is no address of a broker; write HOST:PORT, such as {ADDR}");
        }
        let options = ClientOptions::new(addr)
            .roots_pem(&read(&files.ca)?)
            .with_context(|| format!("{} is of no use as an authority", files.ca.display()))?
            .identity_pem(&read(&files.cert)?, &read(&files.key)?)
            .with_context(|| format!("{} is of no use as a certificate", files.cert.display()))?;
        Ok(match &self.server_name {
            Some(name) => options.server_name(name),
            None => options,
        })
    }
}

/// A connection to the broker that the flags name.
pub(super) async fn connect(
    quic: &QuicFlags,
    certificates: &CertificateFlags,
) -> anyhow::Result<Client> {
    let options = quic.options(certificates)?.connect_timeout(CONNECT_TIMEOUT);
    Client::connect(options).await.map_err(|error| match error {
        ConnectError::TimedOut { .. } | ConnectError::Lost(_) => anyhow::Error::new(error).context(
            "is a broker running? Start it with `tidegate serve`, or name another with --addr",
        ),
        ConnectError::Config(_) => {
            let CertificateFiles { cert, key, .. } = certificates.files();
            anyhow::Error::new(error).context(format!(
                "cannot connect with {} and {}",
                cert.display(),
                key.display()
            ))
        }
        error => error.into(),
    })
}

/// A certificate or key, with advice when it is not there.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| {
        format!(
            "cannot read {}; `tidegate serve` makes development certificates in its data directory (name it with \
             --data-dir), or name your own with --ca, --cert and --cert-key",
            path.display()
        )
    })
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn path_or(flag: &Option<PathBuf>, name: &str, default: &Path) -> PathBuf {
    let from_env = || {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    flag.clone()
        .or_else(from_env)
        .unwrap_or_else(|| default.to_owned())
}
