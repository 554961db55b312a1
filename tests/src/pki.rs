//! Certificates for tests: an authority made on the spot, and clients of every kind that a broker may meet.

use std::fs;
use std::path::Path;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// An authority with the broker's certificate and any number of clients.
pub struct TestPki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A client's certificate and key.
#[derive(Clone, Debug)]
pub struct TestIdentity {
    /// Certificate, PEM.
    pub cert_pem: String,
    /// Private key, PEM.
    pub key_pem: String,
}

impl TestPki {
    /// A new authority.
    ///
    /// # Errors
    /// Key generation failed.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Tidegate test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            ca_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A client with the URI `spiffe://tidegate.test/<name>`.
    ///
    /// # Errors
    /// The name makes no URI.
    pub fn client(&self, name: &str) -> anyhow::Result<TestIdentity> {
        self.issue(
            name,
            vec![SanType::URI(
                format!("spiffe://tidegate.test/{name}").try_into()?,
            )],
            |_| {},
        )
    }

    /// A client with these subject alternative names and a common name.
    ///
    /// # Errors
    /// Signing failed.
    pub fn client_with_names(
        &self,
        common_name: &str,
        names: Vec<SanType>,
    ) -> anyhow::Result<TestIdentity> {
        self.issue(common_name, names, |_| {})
    }

    /// A client whose certificate has expired.
    ///
    /// # Errors
    /// Signing failed.
    pub fn expired_client(&self, name: &str) -> anyhow::Result<TestIdentity> {
        let names = vec![SanType::URI(
            format!("spiffe://tidegate.test/{name}").try_into()?,
        )];
        self.issue(name, names, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 12, 31);
        })
    }

    /// Writes what a broker needs into `directory`, as `server.pem`, `server.key` and `ca.pem`, and returns the
    /// `[tls]` section that names them.
    ///
    /// # Errors
    /// Signing failed, or the files cannot be written.
    pub fn write_server_files(&self, directory: &Path) -> anyhow::Result<String> {
        fs::create_dir_all(directory)?;
        let server = self.server()?;
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            restrict(&path)?;
            anyhow::Ok(path)
        };
        let cert = write("server.pem", &server.cert_pem)?;
        let key = write("server.key", &server.key_pem)?;
        let client_ca = write("ca.pem", &self.ca_pem)?;
        Ok(format!(
            "[tls]\ncert = {cert:?}\nkey = {key:?}\nclient_ca = {client_ca:?}\n"
        ))
    }

    fn server(&self) -> anyhow::Result<TestIdentity> {
        let names = vec![
            SanType::DnsName("localhost".try_into()?),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        self.issue("localhost", names, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<TestIdentity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common_name.is_empty() {
            params
                .distinguished_name
                .push(DnType::CommonName, common_name);
        }
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        Ok(TestIdentity {
            cert_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

// A broker may refuse a private key that others can read.
fn restrict(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
