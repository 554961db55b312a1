//! TLS of all listeners, those of QUIC and those of the admin API: the broker's certificate, the CAs whose clients it takes, and
//! rustls settings that leave no way around the client certificate. What is spoken over it is not known here, and whether a
//! certificate's holder may do anything is the policy's business.

mod server_certificate;

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::domain::Millis;

pub use server_certificate::Unacceptable;

/// Whether a listener asks for a client certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate signed by one of the client CAs, or no connection.
    #[default]
    Required,
    /// No certificate is asked for; every client is the principal `anonymous`.
    Anonymous,
}

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is not PEM, or lacks what it should hold.
    #[error("the {what} is not usable PEM: {reason}")]
    Pem {
        /// Which of the inputs.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Nobody is there to be asked for a password.
    #[error(
        "the private key is encrypted, and the broker has nobody to ask for its password; write it without, readable for the broker's user only: `openssl pkey -in ENCRYPTED.key -out PLAIN.key && chmod 600 PLAIN.key`"
    )]
    EncryptedKey,
    /// No client would take the broker for the one it looks for.
    #[error(transparent)]
    ServerCertificate(#[from] Unacceptable),
    /// A CA certificate that cannot be a trust anchor.
    #[error("a client CA certificate cannot be used")]
    ClientCa(#[source] rustls::Error),
    /// A listener requires certificates, but there is no CA to check them with.
    #[error(
        "a listener requires client certificates, but no client CA is configured; name one, or make the listener anonymous"
    )]
    NoClientCa,
    /// rustls refuses the certificate and key, for example because they do not belong together.
    #[error("the broker's certificate and key cannot be used")]
    Identity(#[source] rustls::Error),
    /// What rustls, or who uses the settings, refuses for another reason.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// Who the broker is, and whose clients it takes.
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_roots: Arc<RootCertStore>,
}

impl Clone for TlsIdentity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            client_roots: Arc::clone(&self.client_roots),
        }
    }
}

impl fmt::Debug for TlsIdentity {
    // The key stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("certificates", &self.chain.len())
            .field("client_cas", &self.client_roots.len())
            .finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Reads the broker's certificate chain (its own first), its private key, and the certificates of the
    /// CAs that sign clients (empty when all listeners are anonymous).
    ///
    /// # Errors
    ///
    /// A text is not PEM or lacks what it should hold. Whether key and certificate belong together shows
    /// when a listener starts.
    pub fn from_pem(chain: &[u8], key: &[u8], client_cas: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates(chain, "certificate chain")?;
        if chain.is_empty() {
            let reason = "it has no CERTIFICATE section".to_owned();
            return Err(TlsError::Pem {
                what: "certificate chain",
                reason,
            });
        }
        let key = private_key(key)?;
        let mut client_roots = RootCertStore::empty();
        for certificate in certificates(client_cas, "client CA file")? {
            client_roots.add(certificate).map_err(TlsError::ClientCa)?;
        }
        Ok(Self {
            chain,
            key,
            client_roots: Arc::new(client_roots),
        })
    }

    /// Looks at what the broker's certificates say of themselves, as every client will.
    ///
    /// # Errors
    ///
    /// One of them does not hold at `now`, or the broker's own is not for servers.
    pub fn check_chain(&self, now: Millis) -> Result<(), TlsError> {
        Ok(server_certificate::check(&self.chain, now)?)
    }

    /// When the first of the broker's certificates ends. `None` when that cannot be read.
    #[must_use]
    pub fn ends(&self) -> Option<Millis> {
        server_certificate::ends(&self.chain)
    }

    /// Settings for one protocol on top of TLS 1.3: no session tickets and no session store, because a
    /// resumed session would skip the check of the client's certificate; no early data.
    ///
    /// # Errors
    ///
    /// Certificate and key do not belong together, or certificates are required without a client CA.
    pub fn server_config(
        &self,
        client_auth: ClientAuth,
        alpn: &[&[u8]],
    ) -> Result<rustls::ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        let builder = match client_auth {
            ClientAuth::Anonymous => builder.with_no_client_auth(),
            ClientAuth::Required if self.client_roots.is_empty() => {
                return Err(TlsError::NoClientCa);
            }
            ClientAuth::Required => {
                let roots = Arc::clone(&self.client_roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| TlsError::Setup(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(TlsError::Identity)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok(config)
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    // Both forms that there are. The first has a label that the parser passes over, the second has one that it takes.
    let says = |words: &[u8]| pem.windows(words.len()).any(|at| at == words);
    if says(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || says(b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| TlsError::Pem {
        what: "private key",
        reason: match error {
            pem::Error::NoItemsFound => "it has no PRIVATE KEY section".to_owned(),
            error => error.to_string(),
        },
    })
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem {
            what,
            reason: error.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, ServerNames, Validity};

    fn authority() -> Authority {
        Authority::new("test CA", Validity::days(1)).expect("an authority")
    }

    // A certificate and its key.
    fn issue(authority: &Authority) -> (String, String) {
        let pair = authority.issue_server(&ServerNames::loopback(), Validity::days(1));
        let pair = pair.expect("a certificate");
        (pair.cert, pair.key)
    }

    #[test]
    fn each_way_the_files_can_be_wrong() {
        let ca = authority();
        let (chain, key) = issue(&ca);
        let (_, other_key) = issue(&ca);
        let config = |key: &str, roots: &str, auth| {
            TlsIdentity::from_pem(chain.as_bytes(), key.as_bytes(), roots.as_bytes())?
                .server_config(auth, &[b"x"])
        };
        assert!(config(&key, ca.cert_pem(), ClientAuth::Required).is_ok());
        assert!(config(&key, "", ClientAuth::Anonymous).is_ok());
        assert!(matches!(
            config(&key, "", ClientAuth::Required),
            Err(TlsError::NoClientCa)
        ));
        assert!(matches!(
            config(&other_key, "", ClientAuth::Anonymous),
            Err(TlsError::Identity(_))
        ));
        assert!(matches!(
            config("", "", ClientAuth::Anonymous),
            Err(TlsError::Pem {
                what: "private key",
                ..
            })
        ));
        let without_chain = TlsIdentity::from_pem(b"", key.as_bytes(), b"");
        assert!(matches!(
            without_chain,
            Err(TlsError::Pem {
                what: "certificate chain",
                ..
            })
        ));
        let encrypted = [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ];
        for key in encrypted {
            let error = config(key, "", ClientAuth::Anonymous).expect_err("encrypted");
            assert!(error.to_string().contains("openssl pkey"), "{error}");
        }
        let damaged = chain.replace("-----END", "----END");
        assert!(TlsIdentity::from_pem(damaged.as_bytes(), key.as_bytes(), b"").is_err());
    }

    #[test]
    fn nothing_lets_a_client_skip_the_certificate() {
        let ca = authority();
        let (chain, key) = issue(&ca);
        let identity =
            TlsIdentity::from_pem(chain.as_bytes(), key.as_bytes(), ca.cert_pem().as_bytes());
        let config = identity
            .and_then(|identity| identity.server_config(ClientAuth::Required, &[b"x"]))
            .expect("sound files");
        assert_eq!(config.send_tls13_tickets, 0);
        assert_eq!(config.max_early_data_size, 0);
        assert!(!config.session_storage.can_cache());
    }
}
