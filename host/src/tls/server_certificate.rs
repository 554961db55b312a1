//! What the broker's own certificates say of themselves. TLS lets a server show anything; it is the clients that refuse, each of them
//! in words of its own and far from whoever could mend it. So a start looks at what they will look at.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::domain::Millis;

/// A certificate of the broker's chain that no client takes.
#[derive(Debug, thiserror::Error)]
#[error("{what} {why}")]
pub struct Unacceptable {
    /// Which of the chain.
    what: String,
    /// What is wrong with it, and what to do.
    why: String,
}

/// Refuses a chain that no client takes at `now`: the broker's own certificate first, then those that lead to the authority.
pub(super) fn check(chain: &[CertificateDer<'_>], now: Millis) -> Result<(), Unacceptable> {
    for (index, der) in chain.iter().enumerate() {
        let refused = |why: String| Unacceptable {
            what: match index {
                0 => "the broker's certificate".to_owned(),
                _ => format!("certificate {} of the broker's chain", index + 1),
            },
            why,
        };
        let certificate =
            parsed(der).map_err(|error| refused(format!("cannot be read: {error}")))?;
        holds(&certificate, now).map_err(refused)?;
        if index == 0 {
            is_for_servers(&certificate).map_err(refused)?;
        }
    }
    Ok(())
}

/// When the first of them ends.
pub(super) fn ends(chain: &[CertificateDer<'_>]) -> Option<Millis> {
    let ends = chain.iter().map(|der| Some(end_of(&parsed(der).ok()?)));
    ends.min().flatten()
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let parsed = X509Certificate::from_der(der);
    parsed
        .map(|(_, certificate)| certificate)
        .map_err(|error| error.to_string())
}

fn end_of(certificate: &X509Certificate<'_>) -> Millis {
    millis(certificate.validity().not_after.timestamp())
}

fn holds(certificate: &X509Certificate<'_>, now: Millis) -> Result<(), String> {
    let validity = certificate.validity();
    if now > end_of(certificate) {
        return Err(format!(
            "expired on {}, so no client accepts it; renew it",
            validity.not_after
        ));
    }
    if now < millis(validity.not_before.timestamp()) {
        return Err(format!(
            "is not valid before {}, so no client accepts it; look at this machine's clock, or wait",
            validity.not_before
        ));
    }
    Ok(())
}

fn is_for_servers(certificate: &X509Certificate<'_>) -> Result<(), String> {
    let unreadable = |error: x509_parser::error::X509Error| format!("cannot be read: {error}");
    let usage = certificate.extended_key_usage().map_err(unreadable)?;
    if let Some(usage) = usage.map(|usage| usage.value)
        && !(usage.server_auth || usage.any)
    {
        let what = match usage.client_auth {
            true => "is for clients only",
            false => "is not for servers",
        };
        return Err(format!(
            "{what}: its extended key usage has no serverAuth, so no client accepts it; have one issued for servers"
        ));
    }
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(
            "is an authority's, which clients do not accept from a server; have one issued by it, the broker's own first in the file"
                .to_owned(),
        );
    }
    let names = certificate.subject_alternative_name().map_err(unreadable)?;
    if names.is_none_or(|names| names.value.general_names.is_empty()) {
        return Err(
            "has no subject alternative name, which is where clients look for the broker's DNS name or address; have one issued with them"
                .to_owned(),
        );
    }
    Ok(())
}

// Since the epoch; before it there were no certificates.
fn millis(seconds: i64) -> Millis {
    Millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
    };
    use time::{Duration, OffsetDateTime};

    use super::*;

    fn at(time: OffsetDateTime) -> Millis {
        millis(time.unix_timestamp())
    }

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let names = vec!["localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("plain names");
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 2, 1);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").der().clone()
    }

    #[test]
    fn what_no_client_takes_is_refused_with_the_reason() {
        let middle = at(date_time_ymd(2026, 1, 15));
        let refused = |certificate: CertificateDer<'static>, now: Millis, why: &str| {
            let error = check(&[certificate], now).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(error.contains("broker's certificate"), "{error}");
        };
        let sound = certificate(|_| {});
        assert!(check(std::slice::from_ref(&sound), middle).is_ok());
        assert_eq!(
            ends(std::slice::from_ref(&sound)),
            Some(at(date_time_ymd(2026, 2, 1)))
        );
        let later = at(date_time_ymd(2026, 2, 1) + Duration::SECOND);
        refused(sound.clone(), later, "expired on Feb");
        refused(sound.clone(), Millis(0), "not valid before");
        let for_clients = certificate(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        refused(for_clients, middle, "for clients only");
        for usage in [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::Any,
        ] {
            let both = certificate(|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, usage];
            });
            assert!(check(&[both], middle).is_ok());
        }
        let authority = certificate(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        refused(authority.clone(), middle, "an authority's");
        let nameless = certificate(|params| params.subject_alt_names.clear());
        refused(nameless, middle, "no subject alternative name");
        // Above the first there may be authorities, which have to hold as well.
        assert!(check(&[sound.clone(), authority], middle).is_ok());
        let over = certificate(|params| {
            params.not_after = date_time_ymd(2026, 1, 2);
        });
        let error = check(&[sound.clone(), over.clone()], middle).expect_err("expired");
        assert!(error.to_string().starts_with("certificate 2 of"), "{error}");
        assert_eq!(
            ends(&[sound, over]),
            Some(at(date_time_ymd(2026, 1, 1) + Duration::DAY))
        );
    }
}
