//! Names of topics, subscriptions and whatever else people name, and the patterns that select topics: dotted tokens, `*` for one
//! token, a final `>` for one or more. The grammar is that of NATS subjects, which most readers know.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::glob;

/// Longest topic name or pattern, in bytes.
const TOPIC_BYTES_MAX: usize = 255;
/// Longest name of a subscription, route, plugin or output, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Why a name or a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// Over the length limit.
    #[error("`{name}…` is {length} bytes long; at most {max} are allowed")]
    TooLong {
        /// Its first characters.
        name: String,
        /// Its length in bytes.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// Two dots in a row, or a dot at an end.
    #[error("`{0}` has an empty token; write tokens separated by single dots, as in `orders.eu`")]
    EmptyToken(String),
    /// A character that is not allowed.
    #[error("`{name}` contains {character:?}; allowed are letters, digits and `{allowed}`")]
    Character {
        /// The name.
        name: String,
        /// The first offending character.
        character: char,
        /// What is allowed beside letters and digits.
        allowed: &'static str,
    },
    /// A wildcard in a topic name.
    #[error("`{0}` has a wildcard; a topic to publish to must be spelled out")]
    Wildcard(String),
    /// `>` before the last token.
    #[error("`{0}` has `>` before its end; `>` stands for the rest and must be the last token")]
    RestNotLast(String),
    /// A wildcard inside a token.
    #[error(
        "`{0}` mixes a wildcard with other characters; `*` and `>` each stand for whole tokens"
    )]
    MixedToken(String),
    /// It may have been given once, but nothing new gets such a name.
    #[error(
        "`{0}` cannot be the name of anything new: a name does not begin with `-` or `/`, and no part of it between slashes is empty, `.` or `..`"
    )]
    Confusing(String),
}

macro_rules! text_type {
    ($name:ident, $error:ty) => {
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
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
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

/// Selects subscriptions or plugins by name: `billing-*`, where `*` stands for any run of characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern(Arc<str>);
text_type!(NamePattern, NameError);

/// The name of a topic: dotted tokens without wildcards, such as `orders.eu.created`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);
text_type!(TopicName, NameError);

/// Selects topics: `orders.*.created`, `orders.>`, or a plain name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern(Arc<str>);
text_type!(TopicPattern, NameError);

/// The name of a subscription, route, plugin or output: dotted tokens of letters, digits and `-_:/@$`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);
text_type!(Name, NameError);

impl FromStr for TopicName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        for token in tokens(text)? {
            if token.contains(['*', '>']) {
                return Err(NameError::Wildcard(text.to_owned()));
            }
            check_token(text, token)?;
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for TopicPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut tokens = tokens(text)?.peekable();
        while let Some(token) = tokens.next() {
            match token {
                "*" => {}
                ">" if tokens.peek().is_none() => {}
                ">" => return Err(NameError::RestNotLast(text.to_owned())),
                _ if token.contains(['*', '>']) => {
                    return Err(NameError::MixedToken(text.to_owned()));
                }
                _ => check_token(text, token)?,
            }
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_length(text, NAME_BYTES_MAX)?;
        check_token(text, text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_length(text, NAME_BYTES_MAX)?;
        check_token(text, &text.replace('*', "a"))?;
        Ok(Self(text.into()))
    }
}

impl NamePattern {
    /// Whether `name` is selected.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        glob::matches(&self.0, name)
    }
}

impl Name {
    /// Whether something new may have this name. Names that were given before stay as they are.
    ///
    /// # Errors
    ///
    /// It would pass for an option of a command, or for another place in an address or a folder.
    pub fn check_new(&self) -> Result<(), NameError> {
        check_new(&self.0)
    }
}

impl TopicName {
    /// Whether a new topic may have this name. Topics that exist keep theirs.
    ///
    /// # Errors
    ///
    /// As for [`Name::check_new`].
    pub fn check_new(&self) -> Result<(), NameError> {
        check_new(&self.0)
    }

    /// The text, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl TopicPattern {
    /// `>`: every topic.
    #[must_use]
    pub fn everything() -> Self {
        Self(">".into())
    }

    /// Whether `topic` is selected.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        self.covers_text(topic.as_str())
    }

    /// Whether every topic that `other` can select is also selected by `self`.
    #[must_use]
    pub fn covers(&self, other: &TopicPattern) -> bool {
        self.covers_text(other.as_str())
    }

    /// The topic this pattern names, when it has no wildcard.
    #[must_use]
    pub fn as_topic(&self) -> Option<TopicName> {
        self.0.parse().ok()
    }

    /// Whether it asks for the dead letters of the topics it matches: it spells at least their first token out, which is
    /// `dead` unless a subscription sends its letters elsewhere. Who begins with a wildcard asks for what is published.
    #[must_use]
    pub fn asks_for_letters(&self) -> bool {
        !self.0.starts_with(['*', '>'])
    }

    // A wildcard in `other` is a token like any other, except that only a wildcard at least as wide covers
    // it: `*` does not cover `>`.
    fn covers_text(&self, other: &str) -> bool {
        let mut theirs = other.split('.');
        for ours in self.0.split('.') {
            let Some(their) = theirs.next() else {
                return false;
            };
            match ours {
                ">" => return true,
                "*" if their != ">" => {}
                _ if ours == their => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }
}

impl From<&TopicName> for TopicPattern {
    fn from(topic: &TopicName) -> Self {
        Self(topic.0.clone())
    }
}

fn tokens(text: &str) -> Result<impl Iterator<Item = &str>, NameError> {
    check_length(text, TOPIC_BYTES_MAX)?;
    Ok(text.split('.'))
}

fn check_length(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong {
            name: text.chars().take(32).collect(),
            length: text.len(),
            max,
        });
    }
    Ok(())
}

fn check_new(text: &str) -> Result<(), NameError> {
    let misleading = |part: &str| ["", ".", ".."].contains(&part);
    if text.starts_with('-') || text.split('/').any(misleading) {
        return Err(NameError::Confusing(text.to_owned()));
    }
    Ok(())
}

fn check_token(whole: &str, token: &str) -> Result<(), NameError> {
    const ALLOWED: &str = "-_.:/@$";
    if token.is_empty() {
        return Err(NameError::EmptyToken(whole.to_owned()));
    }
    match token
        .chars()
        .find(|c| !c.is_alphanumeric() && !ALLOWED.contains(*c))
    {
        None => Ok(()),
        Some(character) => Err(NameError::Character {
            name: whole.to_owned(),
            character,
            allowed: ALLOWED,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_what_they_should() {
        let check = |pattern: &str, topic: &str, expected: bool| {
            let pattern: TopicPattern = pattern.parse().expect("valid pattern");
            let topic: TopicName = topic.parse().expect("valid topic");
            assert_eq!(pattern.matches(&topic), expected, "{pattern} on {topic}");
        };
        check("orders", "orders", true);
        check("orders", "orders.eu", false);
        check("orders.*", "orders.eu", true);
        check("orders.*", "orders", false);
        check("orders.*", "orders.eu.created", false);
        check("orders.>", "orders.eu.created", true);
        check("orders.>", "orders", false);
        check("*.eu.*", "orders.eu.created", true);
        check(">", "a.b.c", true);
    }

    #[test]
    fn letters_are_asked_for_by_the_first_token_of_their_topic() {
        let check = |pattern: &str, expected: bool| {
            let pattern: TopicPattern = pattern.parse().expect("valid pattern");
            assert_eq!(pattern.asks_for_letters(), expected, "{pattern}");
        };
        for asks in ["dead", "dead.s", "dead.>", "dead.*.x", "errors.*", "a.b.c"] {
            check(asks, true);
        }
        for asks_not in [">", "*", "*.s", "*.>", "*.dead"] {
            check(asks_not, false);
        }
    }

    #[test]
    fn covering_is_never_wider_than_matching() {
        let check = |wide: &str, narrow: &str, expected: bool| {
            let wide: TopicPattern = wide.parse().expect("valid pattern");
            let narrow: TopicPattern = narrow.parse().expect("valid pattern");
            assert_eq!(wide.covers(&narrow), expected, "{wide} covers {narrow}");
        };
        check(">", "a.*", true);
        check("a.>", "a.>", true);
        check("a.*", "a.>", false);
        check("a.*", "a.*", true);
        check("a.b", "a.*", false);
        check("a.>", ">", false);
    }

    #[test]
    fn bad_names_are_refused_with_their_reason() {
        let topic = |text: &str| text.parse::<TopicName>().expect_err(text);
        let pattern = |text: &str| text.parse::<TopicPattern>().expect_err(text);
        assert_eq!(topic(""), NameError::Empty);
        assert_eq!(topic("a..b"), NameError::EmptyToken("a..b".into()));
        assert_eq!(topic("a.*"), NameError::Wildcard("a.*".into()));
        assert!(matches!(
            topic("a b"),
            NameError::Character { character: ' ', .. }
        ));
        assert!(matches!(
            topic(&"a".repeat(256)),
            NameError::TooLong { length: 256, .. }
        ));
        assert_eq!(pattern("a.>.b"), NameError::RestNotLast("a.>.b".into()));
        assert_eq!(pattern("a*.b"), NameError::MixedToken("a*.b".into()));
    }

    #[test]
    fn new_names_pass_for_nothing_else() {
        for bad in ["-x", "--", "/x", ".", "..", "a//b", "a/", "a/../b", "./a"] {
            let name: Name = bad.parse().expect("it could be given once");
            assert_eq!(name.check_new(), Err(NameError::Confusing(bad.into())));
        }
        for good in ["a", "a-b", "a/b", ".hidden", "..a..", "a:b", "$x", "@x"] {
            let name: Name = good.parse().expect("a name");
            assert_eq!(name.check_new(), Ok(()));
        }
        let topic = |text: &str| text.parse::<TopicName>().expect("a name").check_new();
        assert!(topic("-a.b").is_err() && topic("/a.b").is_err() && topic("a/.b").is_ok());
    }

    #[test]
    fn patterns_of_names_have_stars_anywhere() {
        let pattern = |text: &str| text.parse::<NamePattern>();
        assert!(pattern("billing-*").is_ok_and(|ours| ours.matches("billing-eu")));
        assert!(pattern("*").is_ok_and(|ours| ours.matches("anything")));
        assert!(pattern("billing").is_ok_and(|ours| !ours.matches("billing-eu")));
        for bad in ["", "a b", "a>", "a?"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
