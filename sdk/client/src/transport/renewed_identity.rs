//! The certificate that a client shows, when it may be another for each connection: the newest one that is to be had. Nothing here
//! decides whether it is any good; the broker does.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tracing::warn;

use crate::options::{Identity, IdentitySource};

/// Asks for the newest identity with each handshake that wants one.
#[derive(Debug)]
pub(super) struct RenewedIdentity {
    source: IdentitySource,
    provider: CryptoProvider,
    /// What was shown last.
    latest: Mutex<Arc<CertifiedKey>>,
}

impl RenewedIdentity {
    /// # Errors
    /// The first one is of no use.
    pub(super) fn new(
        first: &Identity,
        source: IdentitySource,
        provider: CryptoProvider,
    ) -> Result<Self, rustls::Error> {
        let latest = Mutex::new(certified(first, &provider)?);
        Ok(Self {
            source,
            provider,
            latest,
        })
    }

    fn newest(&self) -> Result<Arc<CertifiedKey>, Box<dyn Error + Send + Sync>> {
        Ok(certified(&self.source.ask()?, &self.provider)?)
    }
}

impl ResolvesClientCert for RenewedIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Asked outside of the lock, since it may take its time.
        let newest = self.newest();
        // One that panicked had not changed it yet, or had done so wholly.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match newest {
            Ok(newest) => *latest = newest,
            Err(error) => {
                warn!(
                    error = &*error,
                    "no newer certificate is to be had; showing the one before"
                );
            }
        }
        Some(Arc::clone(&latest))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(
    identity: &Identity,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let (chain, key) = (identity.chain.clone(), identity.key.clone_key());
    CertifiedKey::from_der(chain, key, provider).map(Arc::new)
}
