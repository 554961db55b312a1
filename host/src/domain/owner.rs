//! Who something belongs to: a principal, or a group of them. Whether that gives a right is decided in `auth`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Principal, glob};

/// Longest owner, in bytes.
const OWNER_BYTES_MAX: usize = 1_024;

/// The owner of a subscription, route or plugin: one principal (`uri:spiffe://shop/billing`), or with `*` for any run of
/// characters all whose names are like that (`uri:spiffe://shop/billing/*`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(Principal);

/// Why a text is no owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// Not a principal.
    #[error(
        "`{0}` is no owner; write a principal, `uri:…`, `dns:…`, `cn:…`, `anonymous` or `local`, with `*` for any characters where all of a group shall own it"
    )]
    NoPrincipal(String),
    /// It would garble lists and logs.
    #[error("an owner has at most {OWNER_BYTES_MAX} bytes and no control characters")]
    Unprintable,
}

impl Owner {
    /// This principal alone. `None` for one whose own name has a `*`, which would be read as a group.
    #[must_use]
    pub fn of(principal: &Principal) -> Option<Self> {
        (!principal.as_str().contains('*')).then(|| Self(principal.clone()))
    }

    /// Whether `who` is the owner, or one of the group.
    #[must_use]
    pub fn is(&self, who: &Principal) -> bool {
        glob::matches(self.0.as_str(), who.as_str())
    }

    /// Whom to look up in grants. A grant holds for a group when it is for all that could be in it, and a `*` in this name
    /// sees to that: only a `*` in a grant's pattern selects it.
    #[must_use]
    pub fn subject(&self) -> &Principal {
        &self.0
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        if text.len() > OWNER_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(OwnerError::Unprintable);
        }
        text.parse()
            .map(Self)
            .map_err(|_| OwnerError::NoPrincipal(text.to_owned()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Owner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_one_principal_or_a_group() {
        let check = |owner: &str, who: &str, expected: bool| {
            let owner: Owner = owner.parse().expect("an owner");
            let who: Principal = who.parse().expect("a principal");
            assert_eq!(owner.is(&who), expected, "{owner} and {who}");
        };
        check("uri:spiffe://a/b", "uri:spiffe://a/b", true);
        check("uri:spiffe://a/b", "uri:spiffe://a/bc", false);
        check("uri:spiffe://a/*", "uri:spiffe://a/b", true);
        check("uri:*", "cn:uri:x", false);
        check("local", "local", true);
        for bad in ["*", "", "billing", "cn:", "cn:a\nb"] {
            assert!(bad.parse::<Owner>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_certificate_with_a_star_in_its_name_makes_no_group() {
        assert!(Owner::of(&Principal::dns("*.example.org")).is_none());
        let plain = Principal::dns("a.example.org");
        assert!(Owner::of(&plain).is_some_and(|owner| owner.is(&plain)));
    }
}
