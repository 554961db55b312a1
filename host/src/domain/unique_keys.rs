//! JSON in which a name stands twice in one object. Most parsers take the last one without a word, others the first: whoever checks a
//! text and whoever acts on it may read two different ones. So it is refused, at any depth, before anything else is made of it.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Any JSON without such names. Nothing is kept of it.
#[derive(Debug)]
pub(super) struct UniqueKeys;

impl UniqueKeys {
    /// Looks at all of `text`.
    ///
    /// # Errors
    ///
    /// A name stands twice in an object, or it is no JSON; the error says where.
    pub(super) fn check(text: &[u8]) -> Result<(), serde_json::Error> {
        serde_json::from_slice::<Self>(text).map(|Self| ())
    }
}

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_i64<E>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_u64<E>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_f64<E>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_str<E>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueKeys, A::Error> {
        while items.next_element::<UniqueKeys>()?.is_some() {}
        Ok(UniqueKeys)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<UniqueKeys, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if names.contains(&name) {
                return Err(A::Error::custom(format_args!(
                    "`{name}` stands twice in one object"
                )));
            }
            names.insert(name);
            fields.next_value::<UniqueKeys>()?;
        }
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once_in_each_object_however_deep_it_is() {
        for good in [
            r#"{"a":1,"b":{"a":[{"a":null},{"a":true}]}}"#,
            r#"{"a":-1.5e400,"A":"a","":{}}"#,
            "[]",
        ] {
            let checked = UniqueKeys::check(good.as_bytes());
            // A number that no machine has is not for this to refuse, nor to take.
            let about = checked.err().map(|error| error.to_string());
            assert!(
                !about.is_some_and(|error| error.contains("twice")),
                "{good}"
            );
        }
        for (bad, name) in [
            (r#"{"name":"a","topics":["x"],"name":"b"}"#, "`name`"),
            (r#"{"a":1,"\u0061":1}"#, "`a`"),
            (r#"{"x":[{"delivery":{"n":1,"n":1}}]}"#, "`n`"),
            (r#"{"":0,"":0}"#, "``"),
        ] {
            let error = UniqueKeys::check(bad.as_bytes())
                .expect_err(bad)
                .to_string();
            assert!(error.contains(name) && error.contains("twice"), "{error}");
            assert!(error.contains("line 1 column"), "{error}");
        }
        let deep = "[".repeat(1_000_000);
        assert!(UniqueKeys::check(deep.as_bytes()).is_err(), "and no panic");
    }
}
