//! JSON in which a name stands twice in one object. Most parsers take the last one without a word, others the first: whoever checks a
//! text and whoever acts on it may read two different ones. So it is refused, at any depth, before anything else is made of it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::plain_text;

/// So many names of an object are compared one by one, which takes no memory of its own.
const COMPARED_MAX: usize = 16;

/// Any JSON without such names. Nothing is kept of it.
#[derive(Debug)]
pub(crate) struct UniqueKeys;

impl UniqueKeys {
    /// Looks at all of `text`.
    ///
    /// # Errors
    ///
    /// A name stands twice in an object, or it is no JSON; the error says where.
    pub(crate) fn check(text: &[u8]) -> Result<(), serde_json::Error> {
        serde_json::from_slice::<Self>(text).map(|Self| ())
    }

    /// The same of a text that need not be JSON: then there is nothing to say of it.
    ///
    /// # Errors
    ///
    /// It is JSON, and a name stands twice in an object; the error says where.
    pub(crate) fn check_if_json(text: &str) -> Result<(), serde_json::Error> {
        match Self::check(text.as_bytes()) {
            Err(error) if serde_json::from_str::<IgnoredAny>(text).is_ok() => Err(error),
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

/// A name as it stands in the text, where nothing in it is escaped.
#[derive(Deserialize)]
struct NameOf<'a>(#[serde(borrow)] Cow<'a, str>);

/// The names of one object.
#[derive(Default)]
struct Names<'a> {
    first: Vec<Cow<'a, str>>,
    more: HashSet<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    // Whether it is new.
    fn insert(&mut self, name: Cow<'a, str>) -> bool {
        if self.first.contains(&name) {
            return false;
        }
        match self.first.len() < COMPARED_MAX {
            true => self.first.push(name),
            false => return self.more.insert(name),
        }
        true
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
        let mut names = Names::default();
        while let Some(NameOf(name)) = fields.next_key()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!(
                    "`{}` stands twice in one object",
                    plain_text(&name)
                )));
            }
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
        let many: Vec<String> = (0..40).map(|n| format!("\"n{n}\":0")).collect();
        let many = many.join(",");
        UniqueKeys::check(format!("{{{many}}}").as_bytes()).expect("forty names");
        for again in ["n0", "n15", "n16", "n39"] {
            let bad = format!("{{{many},\"{again}\":1}}");
            let error = UniqueKeys::check(bad.as_bytes()).expect_err("one of them twice");
            assert!(error.to_string().contains(&format!("`{again}`")), "{error}");
        }
        let deep = "[".repeat(1_000_000);
        assert!(UniqueKeys::check(deep.as_bytes()).is_err(), "and no panic");
    }

    #[test]
    fn what_need_not_be_json_is_refused_only_for_a_name() {
        for good in [
            "",
            "a = 1\na = 2",
            "{\"a\":1,\"a\":2} and more",
            "{\"a\":1}",
        ] {
            UniqueKeys::check_if_json(good).expect(good);
        }
        let error = UniqueKeys::check_if_json("{\"a\":1,\n \"a\":2}").expect_err("JSON");
        let expected = "`a` stands twice in one object at line 2 column 4";
        assert_eq!(error.to_string(), expected);
    }
}
