//! Identifiers and offsets, each a type of its own so that a sequence can never be passed for a position.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A topic, for as long as it exists. Never reused: deleting and re-creating a name is a new id.
    TopicId(u64)
}
number! {
    /// A subscription or route. Never reused.
    SubscriptionId(u64)
}
number! {
    /// Place of an event in its topic, starting at 1. Without gaps at append, never reused.
    Sequence(u64)
}
number! {
    /// Place of an event in the whole broker, in order of commit, starting at 1.
    ///
    /// Cursors and pending sets are kept in positions, so an interest in 10,000 topics is one cursor.
    Position(u64)
}
number! {
    /// Number of a committed group in the journal, starting at 1, without gaps.
    CommitNumber(u64)
}
number! {
    /// One live stream attached to a subscription. Unique while the broker process lives.
    ConsumerId(u64)
}
number! {
    /// One QUIC connection. Unique while the broker process lives.
    ConnectionId(u64)
}
number! {
    /// Milliseconds since the Unix epoch. Passed into pure code instead of a clock.
    Millis(u64)
}

/// No position and no sequence is larger, whatever a disk says: a thousand million events a second take 146 years to get there.
/// What is added to one that is read needs no look at where numbers end.
pub const PLACE_MAX: u64 = 1 << 62;

impl Position {
    /// The position after this one, saturating.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Millis {
    /// This moment, so many milliseconds later or earlier, saturating.
    #[must_use]
    pub fn shifted(self, by_ms: i64) -> Self {
        Self(self.0.saturating_add_signed(by_ms))
    }

    /// This moment plus `delay_ms` milliseconds, saturating.
    #[must_use]
    pub fn plus(self, delay_ms: u64) -> Self {
        Self(self.0.saturating_add(delay_ms))
    }
}

/// Identifies a publisher across reconnects, so that a resend is recognised. Chosen by the client at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProducerId(pub u128);

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// SHA-256 of a plugin's bytes: its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error)]
#[error("a digest is `sha256:` and 64 hexadecimal digits")]
pub struct DigestError;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| DigestError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| DigestError)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
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
    fn digest_text_round_trips_and_refuses_nonsense() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
        for bad in [
            "",
            "sha256:",
            "sha256:zz",
            &"é".repeat(32),
            &"+a".repeat(32),
            &"a".repeat(63),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
