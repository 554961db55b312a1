//! Settings with a few values: each has a name, and whatever else is written in its place, of whatever type, is refused with the names
//! there are.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// An enum whose values have names.
pub(super) trait Choice: Copy + 'static {
    /// All there are.
    const NAMED: &'static [(&'static str, Self)];

    /// What it is called in a file.
    fn name(self) -> &'static str;
}

/// Reads the name of a value.
pub(super) fn deserialize<'de, D: Deserializer<'de>, T: Choice>(
    deserializer: D,
) -> Result<T, D::Error> {
    // Of any type, so that one that is not a string is refused with the names as well.
    deserializer.deserialize_any(OneOf(PhantomData))
}

struct OneOf<T>(PhantomData<T>);

impl<T: Choice> Visitor<'_> for OneOf<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |(name, _): &(&str, T)| format!("\"{name}\"");
        let names: Vec<String> = T::NAMED.iter().map(quoted).collect();
        match names.split_last() {
            Some((last, others)) => write!(formatter, "{} or {last}", others.join(", ")),
            None => Ok(()),
        }
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        let mut named = T::NAMED.iter();
        let found = named.find(|(known, _)| *known == name);
        let found = found.map(|(_, value)| *value);
        found.ok_or_else(|| E::invalid_value(Unexpected::Str(name), &self))
    }
}

/// Gives the values of an enum their names in a file.
macro_rules! choices {
    ($type:ident { $($value:ident => $name:literal),+ $(,)? }) => {
        impl $crate::config::choices::Choice for $type {
            const NAMED: &'static [(&'static str, Self)] = &[$(($name, Self::$value)),+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($crate::config::choices::Choice::name(*self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::choices::deserialize(deserializer)
            }
        }
    };
}

pub(super) use choices;
