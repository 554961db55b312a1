//! Certificates for development, tests and small installations: an authority and what it signs, made with
//! rcgen and kept as PEM files. Private keys are only ever written to files that their owner alone can read,
//! whole or not at all. Checking certificates is TLS's business, telling who they name `auth`'s.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

use crate::disk::{self, Access, PEM_BYTES_MAX, RealFileSystem, read_whole_text, replace};
use crate::domain::{is_plain, plain_text};

/// Name of the development client: what its certificate makes it.
pub const DEV_CLIENT_URI: &str = "spiffe://tidegate.dev/client";

/// Days a development authority lives.
const DEV_CA_DAYS: u32 = 3_650;
/// Days a development certificate lives. It is issued anew when a start finds it in its last day.
const DEV_LEAF_DAYS: u32 = 365;
/// Characters of a common name (X.520, `ub-common-name`).
const COMMON_NAME_MAX: usize = 64;
/// Characters of a name of DNS.
const DNS_NAME_MAX: usize = 253;
/// Characters of a URI that names somebody, as of a SPIFFE id.
const URI_MAX: usize = 2_048;
/// Certificates start a little in the past, for peers whose clock is behind.
const CLOCK_SLACK: Duration = Duration::minutes(5);

/// Why certificates cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file exists that would be overwritten.
    #[error("{} exists already; choose another directory or name, or have it overwritten", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read, or is not what it should be.
    #[error("cannot use {}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that a certificate cannot hold.
    #[error("cannot make this certificate; names must be plain ASCII")]
    Issue(#[from] rcgen::Error),
    /// A name that asks for nothing, or that nobody may have.
    #[error("{0}")]
    Names(String),
}

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First moment.
    pub not_before: OffsetDateTime,
    /// Last moment.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// From now (a few minutes ago, for clocks that are behind) for `days` days.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            not_before: now - CLOCK_SLACK,
            not_after: now + Duration::days(days.into()),
        }
    }

    /// A day that ended an hour ago, for tests of refusals.
    #[must_use]
    pub fn expired() -> Self {
        let not_after = OffsetDateTime::now_utc() - Duration::HOUR;
        Self {
            not_before: not_after - Duration::DAY,
            not_after,
        }
    }
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct PemPair {
    /// The certificate.
    pub cert: String,
    /// The private key. A secret: keep it out of logs.
    pub key: String,
}

/// Names of a server, of which it needs at least one.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl ServerNames {
    /// `localhost`, `127.0.0.1` and `::1`.
    #[must_use]
    pub fn loopback() -> Self {
        Self {
            dns: vec!["localhost".to_owned()],
            ips: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        }
    }
}

/// Whom a client certificate names, which becomes its principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name.
    Dns(String),
    /// A common name.
    CommonName(String),
}

/// An authority that signs certificates.
pub struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority called `name`.
    ///
    /// # Errors
    ///
    /// `name` cannot be put into a certificate.
    pub fn new(name: &str, validity: Validity) -> Result<Self, PkiError> {
        check_common_name("the name of an authority", name)?;
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?.pem();
        Ok(Self {
            cert,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority that [`save`](Self::save) wrote to `dir`.
    ///
    /// # Errors
    ///
    /// Its files are missing, damaged, or do not belong together.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        let (cert_path, key_path) = pair_paths(dir, "ca");
        let unusable = |path: &Path, reason: String| PkiError::Unusable {
            path: path.to_owned(),
            reason,
        };
        let read = |path: &Path| {
            read_whole_text(path, PEM_BYTES_MAX).map_err(|error| unusable(path, error.to_string()))
        };
        let cert = read(&cert_path)?;
        let key = KeyPair::from_pem(&read(&key_path)?)
            .map_err(|error| unusable(&key_path, error.to_string()))?;
        if !is_of_key(&cert, &key) {
            let reason = "it is not the certificate of `ca.key` beside it".to_owned();
            return Err(unusable(&cert_path, reason));
        }
        let issuer = Issuer::from_ca_cert_pem(&cert, key)
            .map_err(|error| unusable(&cert_path, error.to_string()))?;
        Ok(Self { cert, issuer })
    }

    /// Writes `ca.pem` and `ca.key` to `dir`, which is created when missing.
    ///
    /// # Errors
    ///
    /// The files exist and `force` is not set, or cannot be written.
    pub fn save(&self, dir: &Path, force: bool) -> Result<(), PkiError> {
        save_pair(
            dir,
            "ca",
            &PemPair {
                cert: self.cert.clone(),
                key: self.issuer.key().serialize_pem(),
            },
            force,
        )
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert
    }

    /// A certificate for a broker.
    ///
    /// # Errors
    ///
    /// There is no name, or one that a certificate cannot hold.
    pub fn issue_server(
        &self,
        names: &ServerNames,
        validity: Validity,
    ) -> Result<PemPair, PkiError> {
        let first = names
            .dns
            .first()
            .cloned()
            .or_else(|| names.ips.first().map(ToString::to_string));
        let Some(first) = first else {
            let why = "a server needs a name that clients reach it by: of DNS, or an address";
            return Err(PkiError::Names(why.to_owned()));
        };
        names.dns.iter().try_for_each(|name| check_dns_name(name))?;
        let mut params = leaf_params(&first, validity, ExtendedKeyUsagePurpose::ServerAuth);
        for name in &names.dns {
            params
                .subject_alt_names
                .push(SanType::DnsName(name.as_str().try_into()?));
        }
        params
            .subject_alt_names
            .extend(names.ips.iter().copied().map(SanType::IpAddress));
        self.sign(&params)
    }

    /// A certificate for a client.
    ///
    /// # Errors
    ///
    /// A certificate cannot hold the name.
    pub fn issue_client(&self, name: &ClientName, validity: Validity) -> Result<PemPair, PkiError> {
        match name {
            ClientName::Uri(uri) => check_uri(uri)?,
            ClientName::Dns(dns) => check_dns_name(dns)?,
            ClientName::CommonName(name) => check_common_name("the name of a client", name)?,
        }
        // The common name of a certificate with a better name is for people who look at it.
        let (common_name, san) = match name {
            ClientName::Uri(uri) => (uri, Some(SanType::URI(uri.as_str().try_into()?))),
            ClientName::Dns(dns) => (dns, Some(SanType::DnsName(dns.as_str().try_into()?))),
            ClientName::CommonName(name) => (name, None),
        };
        let mut params = leaf_params(common_name, validity, ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names.extend(san);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<PemPair, PkiError> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        Ok(PemPair {
            cert,
            key: key.serialize_pem(),
        })
    }
}

/// The files of a development set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevPki {
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// Certificate of the broker, for loopback names.
    pub server_cert: PathBuf,
    /// Private key of the broker.
    pub server_key: PathBuf,
    /// Certificate of a client, principal `uri:` + [`DEV_CLIENT_URI`].
    pub client_cert: PathBuf,
    /// Private key of that client.
    pub client_key: PathBuf,
}

impl DevPki {
    /// Where the files of a set-up in `dir` are; nothing is made or checked.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        let (server_cert, server_key) = pair_paths(dir, "server");
        let (client_cert, client_key) = pair_paths(dir, "client");
        Self {
            ca: dir.join("ca.pem"),
            server_cert,
            server_key,
            client_cert,
            client_key,
        }
    }
}

/// Makes what is missing of a development set-up in `dir`, and issues certificates anew that are in their
/// last day. What is good stays, so clients that hold the authority's certificate keep working. Interrupted
/// anywhere, the next call completes it. One caller at a time: the broker holds its data directory's lock.
///
/// # Errors
///
/// Files are damaged or cannot be written.
pub fn ensure_dev_pki(dir: &Path) -> Result<DevPki, PkiError> {
    let pki = DevPki::at(dir);
    // The keys in it are nobody else's business.
    disk::create_dir_all(dir).map_err(|source| PkiError::Write {
        path: dir.to_owned(),
        source,
    })?;
    let (ca_cert, ca_key) = pair_paths(dir, "ca");
    let authority = if is_there(&ca_key)? && is_there(&ca_cert)? {
        Authority::load(dir)?
    } else {
        let authority = Authority::new("Tidegate development CA", Validity::days(DEV_CA_DAYS))?;
        // The certificate of an authority whose key is lost, and what it signed, is worth nothing with the new one. All of it goes
        // before: an interruption leaves nothing that does not belong together.
        for of_the_lost in [&pki.server_cert, &pki.client_cert, &ca_cert] {
            remove_if_there(of_the_lost)?;
        }
        authority.save(dir, true)?;
        authority
    };
    let ca = authority.cert_pem();
    if !is_pair_good(&pki.server_cert, &pki.server_key, ca) {
        let pair =
            authority.issue_server(&ServerNames::loopback(), Validity::days(DEV_LEAF_DAYS))?;
        save_pair(dir, "server", &pair, true)?;
    }
    if !is_pair_good(&pki.client_cert, &pki.client_key, ca) {
        let name = ClientName::Uri(DEV_CLIENT_URI.to_owned());
        let pair = authority.issue_client(&name, Validity::days(DEV_LEAF_DAYS))?;
        save_pair(dir, "client", &pair, true)?;
    }
    Ok(pki)
}

/// Writes `<stem>.pem` and `<stem>.key` to `dir`, which is created when missing; each file appears whole, the
/// key first and readable for its owner alone.
///
/// # Errors
///
/// A file exists and `force` is not set, or cannot be written.
pub fn save_pair(dir: &Path, stem: &str, pair: &PemPair, force: bool) -> Result<(), PkiError> {
    let (cert_path, key_path) = pair_paths(dir, stem);
    if !force
        && let Some(path) = [&key_path, &cert_path]
            .into_iter()
            .find(|path| path.exists())
    {
        return Err(PkiError::Exists(path.clone()));
    }
    fs::create_dir_all(dir).map_err(|source| PkiError::Write {
        path: dir.to_owned(),
        source,
    })?;
    write_whole(&key_path, &pair.key, Access::Owner)?;
    write_whole(&cert_path, &pair.cert, Access::Usual)
}

/// Paths of the certificate and the key that [`save_pair`] writes.
#[must_use]
pub fn pair_paths(dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
    (
        dir.join(format!("{stem}.pem")),
        dir.join(format!("{stem}.key")),
    )
}

// What `principal_of` takes, and X.520 allows.
fn check_common_name(what: &str, name: &str) -> Result<(), PkiError> {
    let length = name.chars().count();
    if length == 0 || length > COMMON_NAME_MAX {
        return Err(PkiError::Names(format!(
            "{what} has {length} characters; it needs one, and {COMMON_NAME_MAX} are the most that a common name may have (X.520)"
        )));
    }
    match name.chars().all(is_plain) {
        true => Ok(()),
        false => Err(PkiError::Names(format!(
            "{what}, `{}`, has characters that show nothing or control what is shown; choose a plain name",
            plain_text(name)
        ))),
    }
}

// As in a URL: letters, digits and hyphens between dots. An underscore is common, and `*` may stand for the first label.
fn check_dns_name(name: &str) -> Result<(), PkiError> {
    let is_label = |label: &str| {
        let is_of_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(is_of_label)
    };
    let labels = name.strip_prefix("*.").unwrap_or(name);
    if name.len() <= DNS_NAME_MAX && labels.split('.').all(is_label) {
        return Ok(());
    }
    Err(PkiError::Names(format!(
        "`{}` is no DNS name: write labels of up to 63 ASCII letters, digits and hyphens with dots between them, {DNS_NAME_MAX} characters at most",
        plain_text(name)
    )))
}

fn check_uri(uri: &str) -> Result<(), PkiError> {
    if (1..=URI_MAX).contains(&uri.len()) && uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(PkiError::Names(format!(
        "`{}` is no URI for a certificate: write up to {URI_MAX} printable ASCII characters without spaces",
        plain_text(uri)
    )))
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Of a better name that is longer, its beginning.
    let common_name: String = common_name.chars().take(COMMON_NAME_MAX).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = validity.not_before;
    params.not_after = validity.not_after;
    params
}

fn leaf_params(
    common_name: &str,
    validity: Validity,
    usage: ExtendedKeyUsagePurpose,
) -> CertificateParams {
    let mut params = params(common_name, validity);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

// Whether both files are there, belong together, and the certificate is of this authority and holds for another day.
fn is_pair_good(cert: &Path, key: &Path, ca: &str) -> bool {
    let (Ok(cert), Ok(key)) = (
        read_whole_text(cert, PEM_BYTES_MAX),
        read_whole_text(key, PEM_BYTES_MAX),
    ) else {
        return false;
    };
    let Ok(key) = KeyPair::from_pem(&key) else {
        return false;
    };
    let tomorrow = (OffsetDateTime::now_utc() + Duration::DAY).unix_timestamp();
    let ends = look_at(&cert, |cert| cert.validity().not_after.timestamp());
    is_of_key(&cert, &key) && is_signed_by(&cert, ca) && ends.is_some_and(|ends| ends > tomorrow)
}

// Whether this is the certificate of this key.
fn is_of_key(cert: &str, key: &KeyPair) -> bool {
    let raw = key.public_key_raw();
    let is_same = look_at(cert, |cert| {
        cert.public_key().subject_public_key.data.as_ref() == raw
    });
    is_same == Some(true)
}

// Whether `cert` names the key of `ca` as the one that signed it. Without a name of the key on both sides there is nothing to tell
// by, as with authorities that others made.
fn is_signed_by(cert: &str, ca: &str) -> bool {
    let key_of_ca = look_at(ca, |ca| {
        ca.iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
    });
    let signed_with = look_at(cert, |cert| {
        cert.iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(of) => {
                    of.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                _ => None,
            })
    });
    match (key_of_ca.flatten(), signed_with.flatten()) {
        (Some(key), Some(with)) => key == with,
        _ => true,
    }
}

// What `look` finds in a certificate, if it is one.
fn look_at<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let cert = pem.parse_x509().ok()?;
    Some(look(&cert))
}

// A disk that does not say is no reason for a new authority, which would shut out whoever holds a certificate of the old one.
fn is_there(path: &Path) -> Result<bool, PkiError> {
    path.try_exists().map_err(|error| PkiError::Unusable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn remove_if_there(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(PkiError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

// A reader never sees half a file, nor anybody a key.
fn write_whole(path: &Path, text: &str, access: Access) -> Result<(), PkiError> {
    // Others may have files of their own in this folder, and write such ones at the same time.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".tidegate-{}-{name}", std::process::id()));
    let written = replace(&RealFileSystem, path, &aside, access, |file| {
        file.write_at(text.as_bytes(), 0)
    });
    written.map(|_| ()).map_err(|source| PkiError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
