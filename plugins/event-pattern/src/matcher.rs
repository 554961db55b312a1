//! What one value of an event must be like: the operators of a pattern, and whether a value satisfies them. How each is
//! written is in `parse`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Bound;

use crate::fold::fold;
use crate::number::Number;

/// A value of an event: a leaf of its payload, or a header.
#[derive(Clone, Debug)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text {
        text: Cow<'a, str>,
        /// A header's value that reads as a number is one too: headers have no other way to carry numbers.
        number: Option<Number>,
    },
}

impl<'a> Scalar<'a> {
    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text {
            text: text.into(),
            number: None,
        }
    }

    pub(crate) fn header(value: &'a str) -> Self {
        let mut scanner = tidegate_json_scanner::Scanner::new(value);
        let starts_like_one = value
            .as_bytes()
            .first()
            .is_some_and(|byte| *byte == b'-' || byte.is_ascii_digit());
        let number = (starts_like_one).then(|| scanner.number().ok()).flatten();
        Self::Text {
            text: value.into(),
            number: number
                .filter(|digits| digits.len() == value.len())
                .map(Number::from_json),
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_number(&self) -> Option<Number> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text { number, .. } => *number,
            _ => None,
        }
    }
}

/// One operator. A field is satisfied if one of its values satisfies one of its matchers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Matcher {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    /// Folded.
    TextIgnoreCase(String),
    Prefix(String),
    /// Folded.
    PrefixIgnoreCase(String),
    Suffix(String),
    /// Folded.
    SuffixIgnoreCase(String),
    Wildcard(Wildcard),
    Range(Range),
    Network(Network),
    /// None of these.
    Not(Vec<Matcher>),
    /// Any value.
    Exists,
    /// No value at all at this path, anywhere in the event. Never satisfied by a value.
    Absent,
}

impl Matcher {
    /// Whether this value satisfies it.
    pub(crate) fn accepts(&self, value: &Scalar<'_>) -> bool {
        let text = |test: &dyn Fn(&str) -> bool| value.as_text().is_some_and(test);
        match self {
            Self::Null => matches!(value, Scalar::Null),
            Self::Bool(want) => matches!(value, Scalar::Bool(got) if got == want),
            Self::Number(want) => value.as_number() == Some(*want),
            Self::Text(want) => text(&|got| got == want),
            Self::TextIgnoreCase(want) => text(&|got| fold(got) == *want),
            Self::Prefix(want) => text(&|got| got.starts_with(want)),
            Self::PrefixIgnoreCase(want) => text(&|got| fold(got).starts_with(want)),
            Self::Suffix(want) => text(&|got| got.ends_with(want)),
            Self::SuffixIgnoreCase(want) => text(&|got| fold(got).ends_with(want)),
            Self::Wildcard(wildcard) => text(&|got| wildcard.accepts(got)),
            Self::Range(range) => value.as_number().is_some_and(|got| range.contains(got)),
            Self::Network(network) => text(&|got| network.contains_text(got)),
            Self::Not(refused) => !refused.iter().any(|matcher| matcher.accepts(value)),
            Self::Exists => true,
            Self::Absent => false,
        }
    }
}

/// Text with gaps: `first*…*last`, at least one gap.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wildcard {
    pub(crate) first: String,
    pub(crate) middle: Vec<String>,
    pub(crate) last: String,
}

impl Wildcard {
    fn accepts(&self, text: &str) -> bool {
        let Some(mut rest) = text
            .strip_prefix(self.first.as_str())
            .and_then(|rest| rest.strip_suffix(self.last.as_str()))
        else {
            return false;
        };
        // Taking the leftmost place for each piece leaves the most for the pieces behind it.
        for piece in &self.middle {
            let Some(at) = rest.find(piece.as_str()) else {
                return false;
            };
            rest = &rest[at + piece.len()..];
        }
        true
    }
}

/// An interval of numbers, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) low: Bound<Number>,
    pub(crate) high: Bound<Number>,
}

impl Range {
    pub(crate) fn contains(&self, number: Number) -> bool {
        self.low_admits(number) && self.high_admits(number)
    }

    pub(crate) fn low_admits(&self, number: Number) -> bool {
        match self.low {
            Bound::Unbounded => true,
            Bound::Included(low) => number >= low,
            Bound::Excluded(low) => number > low,
        }
    }

    pub(crate) fn high_admits(&self, number: Number) -> bool {
        high_admits(self.high, number)
    }
}

pub(crate) fn high_admits(high: Bound<Number>, number: Number) -> bool {
    match high {
        Bound::Unbounded => true,
        Bound::Included(high) => number <= high,
        Bound::Excluded(high) => number < high,
    }
}

/// A block of addresses, masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    pub(crate) is_v4: bool,
    /// Leading bits that count; of 32 for IPv4, of 128 for IPv6.
    pub(crate) bits: u32,
    pub(crate) address: u128,
}

impl Network {
    /// The block of `bits` leading bits around an address; `None` if the address has fewer bits.
    pub(crate) fn around(address: IpAddr, bits: u32) -> Option<Self> {
        let (is_v4, value, width) = match address {
            IpAddr::V4(v4) => (true, u128::from(v4.to_bits()), 32),
            IpAddr::V6(v6) => (false, v6.to_bits(), 128),
        };
        let host_bits = u32::checked_sub(width, bits)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self {
            is_v4,
            bits,
            address: value & mask,
        })
    }

    fn contains_text(self, text: &str) -> bool {
        text.parse::<IpAddr>().is_ok_and(|address| {
            address.is_ipv4() == self.is_v4 && Self::around(address, self.bits) == Some(self)
        })
    }
}
