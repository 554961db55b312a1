//! Who is acting. The kind is part of the identity, so a certificate's common name can never pass for a
//! SPIFFE URI however it is spelled.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::glob;

/// A typed identity: `uri:spiffe://plant/press-4`, `dns:sensor-7.example.org`, `cn:press 4`, `anonymous` or
/// `local` (a person at the machine itself, over the plain admin port on loopback).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

/// Selects principals: exact, or with `*` for any run of characters after the kind, as in
/// `uri:spiffe://plant/*`. A bare `*` selects everybody with a certificate; `anonymous` and `local` must be
/// named.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PrincipalPattern(Arc<str>);

/// The first half of a principal's SHA-256: nobody can find another principal with the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrincipalDigest(u128);

/// Why a text is not a principal or a pattern of principals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a principal; write `uri:…`, `dns:…`, `cn:…`, `anonymous` or `local` (in a policy also `*`)"
)]
pub struct PrincipalError(String);

const KINDS: [&str; 3] = ["uri:", "dns:", "cn:"];
const WITHOUT_CERTIFICATE: [&str; 2] = ["anonymous", "local"];

impl Principal {
    /// The holder of a certificate with exactly one URI SAN.
    #[must_use]
    pub fn uri(uri: &str) -> Self {
        Self(format!("uri:{uri}").into())
    }

    /// The holder of a certificate with a DNS SAN and no URI.
    #[must_use]
    pub fn dns(name: &str) -> Self {
        Self(format!("dns:{name}").into())
    }

    /// The holder of a certificate with neither.
    #[must_use]
    pub fn common_name(name: &str) -> Self {
        Self(format!("cn:{name}").into())
    }

    /// A client of a listener that asks for no certificate.
    #[must_use]
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// A caller of the plain admin port, which is open on loopback only.
    #[must_use]
    pub fn local() -> Self {
        Self("local".into())
    }

    /// The text, kind included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Principal {
    /// The same in few bytes, for what is kept of each of very many.
    #[must_use]
    pub fn digest(&self) -> PrincipalDigest {
        let hash = Sha256::digest(self.0.as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&hash[..16]);
        PrincipalDigest(u128::from_be_bytes(short))
    }
}

impl PrincipalPattern {
    /// Whether `principal` is selected.
    #[must_use]
    pub fn matches(&self, principal: &Principal) -> bool {
        let text = principal.as_str();
        if &*self.0 == "*" {
            return !WITHOUT_CERTIFICATE.contains(&text);
        }
        glob::matches(&self.0, text)
    }
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        let typed = KINDS
            .iter()
            .any(|kind| text.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()));
        if typed || WITHOUT_CERTIFICATE.contains(&text) {
            Ok(Self(text.into()))
        } else {
            Err(PrincipalError(text.to_owned()))
        }
    }
}

impl FromStr for PrincipalPattern {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        if text != "*" {
            text.parse::<Principal>()?;
        }
        Ok(Self(text.into()))
    }
}

macro_rules! principal_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
principal_text!(Principal);
principal_text!(PrincipalPattern);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_never_cross_kinds() {
        let check = |pattern: &str, principal: &Principal, expected: bool| {
            let pattern: PrincipalPattern = pattern.parse().expect("valid pattern");
            assert_eq!(
                pattern.matches(principal),
                expected,
                "{pattern} on {principal}"
            );
        };
        let spiffe = Principal::uri("spiffe://plant/press-4");
        check("*", &spiffe, true);
        check("uri:spiffe://plant/*", &spiffe, true);
        check("uri:spiffe://plant/*-4", &spiffe, true);
        check("uri:spiffe://plant/*-5", &spiffe, false);
        check("cn:*", &spiffe, false);
        check(
            "uri:*",
            &Principal::common_name("uri:spiffe://plant/press-4"),
            false,
        );
        check("*", &Principal::anonymous(), false);
        check("anonymous", &Principal::anonymous(), true);
        check("*", &Principal::local(), false);
    }

    #[test]
    fn untyped_text_is_refused() {
        for bad in ["", "press-4", "cn:", "URI:x"] {
            assert!(bad.parse::<Principal>().is_err(), "{bad}");
            assert!(bad.parse::<PrincipalPattern>().is_err(), "{bad}");
        }
    }
}
