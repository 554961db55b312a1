//! A pattern as a tree, and what can be asked of it without an event.

use std::collections::BTreeSet;

use crate::PatternError;
use crate::matcher::Matcher;
use crate::parse;

/// What one subscription wants: conditions on the payload and on headers.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    pub(crate) root: Root,
}

impl Pattern {
    /// Reads a pattern from JSON. The README describes the form.
    ///
    /// # Errors
    /// Says what is wrong and at which path of the pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        parse::pattern(text).map(|root| Self { root })
    }

    /// Whether it looks at the payload.
    #[must_use]
    pub fn wants_payload(&self) -> bool {
        self.root.wants_payload()
    }

    /// The names of the headers it looks at, sorted, each once.
    #[must_use]
    pub fn header_names(&self) -> Vec<&str> {
        let mut names = BTreeSet::new();
        self.root.collect_header_names(&mut names);
        names.into_iter().collect()
    }
}

/// The outermost level, where payload and headers meet. Everything in it must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Root {
    pub(crate) payload: Group,
    /// Leaves only.
    pub(crate) headers: Group,
    /// Of each of these, one alternative must hold.
    pub(crate) any_of: Vec<Vec<Root>>,
}

impl Root {
    fn wants_payload(&self) -> bool {
        !self.payload.is_empty() || self.any_of.iter().flatten().any(Self::wants_payload)
    }

    fn collect_header_names<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        self.headers.collect_names(names);
        for alternative in self.any_of.iter().flatten() {
            alternative.collect_header_names(names);
        }
    }
}

/// What must hold within one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Group {
    /// All of these.
    pub(crate) fields: Vec<Field>,
    /// Of each of these, one alternative.
    pub(crate) any_of: Vec<Vec<Group>>,
}

impl Group {
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.any_of.is_empty()
    }

    fn collect_names<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        names.extend(self.fields.iter().map(|field| field.name.as_str()));
        for alternative in self.any_of.iter().flatten() {
            alternative.collect_names(names);
        }
    }
}

/// A member of an object and what must hold for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) test: Test,
}

/// What must hold for a member.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    /// One of its values must satisfy one of these.
    Values(Vec<Matcher>),
    /// It, or an element of it, must be an object in which this holds.
    Object(Group),
}
