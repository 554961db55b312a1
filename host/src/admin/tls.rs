//! TLS for the admin listener: version 1.3, a client certificate required, and no session tickets, because
//! resuming a session would skip the certificate check.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why certificates make no TLS set-up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is not PEM of the kind that is needed.
    #[error("cannot read the {what} (PEM): {reason}")]
    Pem {
        /// Which of the three.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The certificates do not fit together.
    #[error("the certificates cannot be used: {0}")]
    Unusable(String),
}

/// A TLS set-up for [`Listeners::bind`](super::Listeners::bind) from PEM texts.
///
/// # Errors
///
/// A text cannot be read, or certificate and key do not fit.
pub fn tls_config(
    cert: &[u8],
    key: &[u8],
    client_ca: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
    let chain = certificates("certificate", cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem {
        what: "private key",
        reason: error.to_string(),
    })?;
    let mut roots = RootCertStore::empty();
    for root in certificates("client authorities", client_ca)? {
        roots.add(root).map_err(|error| unusable(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(&error))?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Pem {
        what,
        reason: error.to_string(),
    })?;
    if found.is_empty() {
        return Err(TlsError::Pem {
            what,
            reason: "there is no certificate in it".to_owned(),
        });
    }
    Ok(found)
}
