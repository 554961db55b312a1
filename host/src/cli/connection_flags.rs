//! Flags that say how to reach a broker and as whom, and the variables for each. What neither says is that of a
//! [target](super::target_broker): a context, or a data directory. So nothing has to be said to try one, and both doors and the
//! certificates are of the same broker. Who names a target by a flag means that one, whatever variables say.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tidegate_client::{ClientOptions, Compression, Congestion};

use super::door::{CertificateFiles, Door};
use super::human_values;
use super::target_broker::{ADDR, Said, TargetBroker};
use super::wrong_usage::wrong_usage;
use crate::disk::{PEM_BYTES_MAX, read_whole};

/// Certificates: those of the development set-up unless others are named.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct CertificateFlags {
    /// Broker as `tidegate context` knows it; then no variable says an address or a certificate [env: TIDEGATE_CONTEXT] [default: the
    /// one in use, else the data directory here, else the development broker that started last]
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    context: Option<String>,
    /// Data directory of a broker on this machine, for its addresses and development certificates, whatever variables say [env:
    /// TIDEGATE_DATA_DIR]
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Connection",
        conflicts_with = "context"
    )]
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
    /// Address of the broker's QUIC listener [env: TIDEGATE_ADDR]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Connection")]
    addr: Option<String>,
    /// Name in the broker's certificate [default: the host of the address]
    #[arg(long, value_name = "NAME", help_heading = "Connection")]
    server_name: Option<String>,
}

/// How what this end sends goes over the path.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(super) struct PathFlags {
    /// What decides how much this end has under way: auto, cubic or bbr, as the broker's listen.quic_congestion does for what it sends
    #[arg(
        long,
        value_name = "WHICH",
        default_value_t,
        help_heading = "Connection"
    )]
    congestion: Congestion,
    /// Whether events are compressed: auto (on long paths, where it pays), off (in neither direction) or always, as listen.quic_compression
    #[arg(
        long,
        value_name = "WHEN",
        default_value_t,
        help_heading = "Connection"
    )]
    compression: Compression,
}

/// Where to manage.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct AdminFlag {
    /// Address of the broker's admin API [env: TIDEGATE_ADMIN]
    #[arg(long, value_name = "URL", help_heading = "Connection")]
    admin: Option<String>,
}

impl CertificateFlags {
    /// Which broker is meant, where neither flags nor variables say its addresses or certificates.
    pub(super) fn target(&self) -> anyhow::Result<TargetBroker> {
        TargetBroker::find(&Said {
            context: self.context.clone(),
            data_dir: self.data_dir.clone(),
            context_variable: env("TIDEGATE_CONTEXT"),
            data_dir_variable: path("TIDEGATE_DATA_DIR"),
        })
    }

    pub(super) fn files(&self) -> anyhow::Result<CertificateFiles> {
        let variable = |name| self.variables_count().then(|| path(name)).flatten();
        let ca = self.ca.clone().or_else(|| variable("TIDEGATE_CA"));
        let cert = self.cert.clone().or_else(|| variable("TIDEGATE_CERT"));
        let key = self.cert_key.clone().or_else(|| variable("TIDEGATE_KEY"));
        match (&cert, &key) {
            (Some(cert), None) => wrong_usage!(
                "the certificate {} (from TIDEGATE_CERT) has no private key beside it; name that with TIDEGATE_KEY, or both with --cert and \
                 --cert-key",
                cert.display()
            ),
            (None, Some(key)) => wrong_usage!(
                "the private key {} (from TIDEGATE_KEY) has no certificate beside it; name that with TIDEGATE_CERT, or both with --cert and \
                 --cert-key",
                key.display()
            ),
            _ => {}
        }
        if let (Some(ca), Some(cert), Some(key)) = (ca.clone(), cert.clone(), key.clone()) {
            return Ok(CertificateFiles { ca, cert, key });
        }
        let target = self.target()?.with_certificates(ca, cert, key);
        target.files()
    }

    /// A door that a flag or a variable names.
    fn named(&self, flag: &Option<String>, name: &str, variable: &str) -> Option<Door> {
        let door = |address: String, from: &str| Door {
            address,
            from: from.to_owned(),
        };
        let of_flag = flag.clone().map(|address| door(address, name));
        let of_variable = || Some(door(env(variable)?, variable));
        of_flag.or_else(|| self.variables_count().then(of_variable).flatten())
    }

    /// Whether variables may say an address or a certificate. They may have been set long ago, for another broker than a flag names now.
    fn variables_count(&self) -> bool {
        self.context.is_none() && self.data_dir.is_none()
    }
}

impl AdminFlag {
    /// The admin API that is meant.
    pub(super) fn door(&self, certificates: &CertificateFlags) -> anyhow::Result<Door> {
        if let Some(named) = self.named(certificates) {
            return Ok(named);
        }
        let target = certificates.target()?;
        Ok(Door {
            address: target.admin()?,
            from: target.origin.to_string(),
        })
    }

    /// Refuses to go on when the other door was named and this one was not: they would be those of two brokers.
    pub(super) fn check_beside(
        &self,
        quic: &QuicFlags,
        certificates: &CertificateFlags,
    ) -> anyhow::Result<()> {
        let (given, missing) = match (quic.named(certificates), self.named(certificates)) {
            (Some(addr), None) => (addr, "--admin"),
            (None, Some(admin)) => (admin, "--addr"),
            _ => return Ok(()),
        };
        let Door { address, from } = given;
        wrong_usage!(
            "{from} is {address}, and this goes by both doors of a broker; say {missing} too"
        )
    }

    fn named(&self, certificates: &CertificateFlags) -> Option<Door> {
        certificates.named(&self.admin, "--admin", "TIDEGATE_ADMIN")
    }
}

impl PathFlags {
    /// The same options, with what the flags say.
    pub(super) fn on(self, mut options: ClientOptions) -> ClientOptions {
        options.congestion = self.congestion;
        options.compression = self.compression;
        options
    }
}

impl QuicFlags {
    /// The same, with the address if one is given apart from the flag.
    pub(super) fn at(mut self, address: Option<String>) -> Self {
        self.addr = address.or(self.addr);
        self
    }

    fn named(&self, certificates: &CertificateFlags) -> Option<Door> {
        certificates.named(&self.addr, "--addr", "TIDEGATE_ADDR")
    }

    /// The QUIC listener that is meant, and the name in its certificate if that is not its host.
    pub(super) fn door(
        &self,
        certificates: &CertificateFlags,
    ) -> anyhow::Result<(Door, Option<String>)> {
        if let Some(named) = self.named(certificates) {
            return Ok((named, self.server_name.clone()));
        }
        let target = certificates.target()?;
        let door = Door {
            address: target.addr()?,
            from: target.origin.to_string(),
        };
        Ok((
            door,
            self.server_name.clone().or(target.context.server_name),
        ))
    }

    /// Where the broker is, and options of the client, with the certificates read.
    pub(super) fn options(
        &self,
        certificates: &CertificateFlags,
    ) -> anyhow::Result<(Door, ClientOptions)> {
        let (door, server_name) = self.door(certificates)?;
        let Door { address, from } = &door;
        if !human_values::is_host_and_port(address) {
            wrong_usage!(
                "`{address}` (from {from}) is no address of a broker; write HOST:PORT, such as {ADDR}"
            );
        }
        let files = certificates.files()?;
        let options = ClientOptions::new(address)
            .roots_pem(&read(&files.ca)?)
            .with_context(|| format!("{} is of no use as an authority", files.ca.display()))?
            .identity_pem(&read(&files.cert)?, &read(&files.key)?)
            .with_context(|| format!("{} is of no use as a certificate", files.cert.display()))?;
        let options = match server_name {
            Some(name) => options.server_name(name),
            None => options,
        };
        Ok((door, options))
    }
}

/// A certificate or key, with advice when it is not there.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_whole(path, PEM_BYTES_MAX).with_context(|| {
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

fn path(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        path: PathFlags,
    }

    #[test]
    fn what_is_said_of_the_path_goes_to_the_client() {
        let options = |line: &str| {
            let line =
                Line::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
            let options = line.path.on(ClientOptions::new("h:1"));
            (options.congestion, options.compression)
        };
        assert_eq!(options("x"), (Congestion::Auto, Compression::Auto));
        for (congestion, compression) in [
            (Congestion::Cubic, Compression::Off),
            (Congestion::Bbr, Compression::Always),
        ] {
            let line = format!("x --congestion {congestion} --compression {compression}");
            assert_eq!(options(&line), (congestion, compression));
        }
        let refused = Line::try_parse_from(["x", "--congestion", "reno"]).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains("say auto, cubic or bbr"), "{said}");
    }
}
