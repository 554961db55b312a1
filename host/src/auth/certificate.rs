//! From a client's certificate to its principal. The kind of name decides, never its spelling: a URI names
//! the holder, else a DNS name, else the common name. Chain and dates are not looked at here; TLS has
//! checked them.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::domain::{Millis, Principal, is_plain};

/// Why a certificate names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalFromCertError {
    /// The bytes are not an X.509 certificate, or its subject alternative names are damaged.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// Two URIs could be two identities; SPIFFE forbids it.
    #[error(
        "the certificate has {0} URI names; exactly one identifies its holder, so issue one with a single URI"
    )]
    SeveralUris(usize),
    /// Two common names, and nothing better.
    #[error(
        "the certificate has {0} common names and no URI or DNS name; issue one with a subject alternative name"
    )]
    SeveralCommonNames(usize),
    /// A name that is empty or has characters that control, change the direction of text or show nothing, which would garble logs, or pass for
    /// another name.
    #[error(
        "the certificate's name {0:?} is empty or has characters that show nothing or control what is shown; issue one with a plain name"
    )]
    UnprintableName(String),
    /// Nothing in it names its holder.
    #[error(
        "the certificate has neither a URI nor a DNS name nor a common name; issue one with a subject alternative name"
    )]
    Nameless,
}

/// The principal that the holder of this certificate acts as: `uri:` when it has exactly one URI among its
/// subject alternative names, else `dns:` with the first DNS name, else `cn:`.
///
/// # Errors
///
/// The certificate cannot be read, or names nobody or more than one.
pub fn principal_of(cert_der: &[u8]) -> Result<Principal, PrincipalFromCertError> {
    let (_, certificate) = X509Certificate::from_der(cert_der)
        .map_err(|error| PrincipalFromCertError::Malformed(error.to_string()))?;
    let names = alternative_names(&certificate)?;
    match names.uris[..] {
        [] => {}
        [uri] => return printable(uri).map(Principal::uri),
        _ => return Err(PrincipalFromCertError::SeveralUris(names.uris.len())),
    }
    if let Some(name) = names.first_dns {
        return printable(name).map(Principal::dns);
    }
    common_name(&certificate)
}

/// When a client's certificate ends, after which nobody acts by it.
///
/// # Errors
///
/// It cannot be read.
pub fn end_of(cert_der: &[u8]) -> Result<Millis, PrincipalFromCertError> {
    let (_, certificate) = X509Certificate::from_der(cert_der)
        .map_err(|error| PrincipalFromCertError::Malformed(error.to_string()))?;
    let seconds = certificate.validity().not_after.timestamp();
    Ok(Millis(
        u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000),
    ))
}

struct AlternativeNames<'a> {
    uris: Vec<&'a str>,
    first_dns: Option<&'a str>,
}

fn alternative_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<AlternativeNames<'a>, PrincipalFromCertError> {
    let mut names = AlternativeNames {
        uris: Vec::new(),
        first_dns: None,
    };
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| PrincipalFromCertError::Malformed(error.to_string()))?;
    for name in extension
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::URI(uri) => names.uris.push(uri),
            GeneralName::DNSName(name) => {
                names.first_dns.get_or_insert(name);
            }
            // Skipping it could turn a broken URI into a DNS identity.
            GeneralName::Invalid(tag, _) => {
                let message = format!("a subject alternative name of kind {} is damaged", tag.0);
                return Err(PrincipalFromCertError::Malformed(message));
            }
            _ => {}
        }
    }
    Ok(names)
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<Principal, PrincipalFromCertError> {
    let names: Vec<_> = certificate.subject().iter_common_name().collect();
    match names[..] {
        [] => Err(PrincipalFromCertError::Nameless),
        [name] => {
            let name = name
                .as_str()
                .map_err(|error| PrincipalFromCertError::Malformed(error.to_string()))?;
            printable(name).map(Principal::common_name)
        }
        _ => Err(PrincipalFromCertError::SeveralCommonNames(names.len())),
    }
}

fn printable(name: &str) -> Result<&str, PrincipalFromCertError> {
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(PrincipalFromCertError::UnprintableName(name.to_owned()));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_names: &[&str], alternative: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in common_names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.subject_alt_names = alternative;
        let key = KeyPair::generate().expect("key");
        params
            .self_signed(&key)
            .expect("certificate")
            .der()
            .to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ascii"))
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().expect("ascii"))
    }

    #[test]
    fn the_kind_of_name_decides() {
        let check = |common_names: &[&str],
                     alternative: Vec<SanType>,
                     expected: Result<&str, PrincipalFromCertError>| {
            let found = principal_of(&certificate(common_names, alternative));
            assert_eq!(
                found.as_ref().map(Principal::as_str),
                expected.as_ref().copied()
            );
        };
        let spiffe = "spiffe://plant/press-4";
        check(
            &["x"],
            vec![dns("a.example"), uri(spiffe)],
            Ok("uri:spiffe://plant/press-4"),
        );
        check(
            &["x"],
            vec![dns("a.example"), dns("b.example")],
            Ok("dns:a.example"),
        );
        check(&["press 4"], vec![], Ok("cn:press 4"));
        check(&[spiffe], vec![], Ok("cn:spiffe://plant/press-4"));
        check(
            &["x"],
            vec![uri(spiffe), uri("spiffe://plant/press-5"), dns("a.example")],
            Err(PrincipalFromCertError::SeveralUris(2)),
        );
        check(&[], vec![], Err(PrincipalFromCertError::Nameless));
        check(
            &["a\nb"],
            vec![],
            Err(PrincipalFromCertError::UnprintableName("a\nb".into())),
        );
        check(
            &["a"],
            vec![dns("")],
            Err(PrincipalFromCertError::UnprintableName(String::new())),
        );
    }

    #[test]
    fn damaged_bytes_are_refused_at_every_length() {
        let whole = certificate(&["x"], vec![uri("spiffe://a/b")]);
        for cut in 0..whole.len() {
            assert!(matches!(
                principal_of(&whole[..cut]),
                Err(PrincipalFromCertError::Malformed(_))
            ));
        }
    }
}
