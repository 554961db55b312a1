//! The certificates and the key that a broker shows, and the authority of its clients: read, and tried on each other.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use crate::admin;
use crate::config::Config;
use crate::disk::{PEM_BYTES_MAX, read_whole};
use crate::domain::Millis;
use crate::pki;
use crate::tls::{ClientAuth, TlsError, TlsIdentity};

/// Certificates and key, as files have them.
pub(super) struct Certificates {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl Certificates {
    /// A development set-up, made on first start.
    pub(super) fn development(config: &Config) -> anyhow::Result<Self> {
        let dev = pki::ensure_dev_pki(&config.pki_dir())
            .context("cannot make development certificates")?;
        Self::read(&dev.server_cert, &dev.server_key, &dev.ca)
    }

    /// Those of the configuration, if it names any, tried for all that they are needed for.
    pub(super) fn named_and_checked(config: &Config, now: Millis) -> anyhow::Result<Option<Self>> {
        let Some(pems) = Self::named(config)? else {
            return Ok(None);
        };
        let checked = pems.identity().and_then(|identity| {
            identity.server_config(ClientAuth::Required, &[])?;
            identity.check_chain(now)
        });
        checked.context("the files of [tls] cannot be used")?;
        if config.listen.admin_tls.is_some() {
            pems.admin_tls()
                .context("the files of [tls] cannot be used for the admin API")?;
        }
        Ok(Some(pems))
    }

    // Those of the configuration, if it names any.
    fn named(config: &Config) -> anyhow::Result<Option<Self>> {
        let tls = &config.tls;
        match (&tls.cert, &tls.key, &tls.client_ca) {
            (Some(cert), Some(key), Some(client_ca)) => Self::read(cert, key, client_ca).map(Some),
            // All or none, which was checked when it was read.
            _ => Ok(None),
        }
    }

    pub(super) fn identity(&self) -> Result<TlsIdentity, TlsError> {
        TlsIdentity::from_pem(&self.cert, &self.key, &self.client_ca)
    }

    pub(super) fn admin_tls(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let config = self
            .identity()?
            .server_config(ClientAuth::Required, &[admin::ALPN])?;
        Ok(Arc::new(config))
    }

    fn read(cert: &Path, key: &Path, client_ca: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            read_whole(path, PEM_BYTES_MAX)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            cert: read(cert)?,
            key: read(key)?,
            client_ca: read(client_ca)?,
        })
    }
}
