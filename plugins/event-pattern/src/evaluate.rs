//! The reference: one pattern against one event, written for obviousness. The index must agree with it, and asks it
//! where the order of array elements matters.
//!
//! What a pattern means: strike out every field that asks for absence and whose path has no value anywhere in the event;
//! the rest must be satisfied together, so that fields below one array are satisfied within the same element.

use crate::Pattern;
use crate::json::Node;
use crate::matcher::{Matcher, Scalar};
use crate::pattern::{Group, Root, Test};

impl Pattern {
    /// Whether the pattern matches an event: its payload and its headers, in the publisher's order.
    ///
    /// Parses the payload each time; for many patterns over one event see [`PatternSet`](crate::PatternSet).
    #[must_use]
    pub fn matches(&self, payload: &[u8], headers: &[(&str, &str)]) -> bool {
        Subject::new(payload, headers).satisfies(self)
    }
}

/// An event, parsed as a whole.
pub(crate) struct Subject<'a> {
    /// An object, or nothing.
    payload: Option<Node<'a>>,
    /// The headers in the form of an object.
    headers: Node<'a>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(payload: &'a [u8], headers: &[(&'a str, &'a str)]) -> Self {
        let payload = std::str::from_utf8(payload)
            .ok()
            .and_then(|text| Node::parse(text).ok())
            .filter(|node| matches!(node, Node::Object(_)));
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).into(), Node::Text((*value).into())))
            .collect();
        Self {
            payload,
            headers: Node::Object(headers),
        }
    }

    pub(crate) fn satisfies(&self, pattern: &Pattern) -> bool {
        self.satisfies_root(&pattern.root)
    }

    fn satisfies_root(&self, root: &Root) -> bool {
        let payload = root.payload.is_empty()
            || self.payload.as_ref().is_some_and(|document| {
                let part = Part {
                    document,
                    scalar: payload_scalar,
                };
                part.satisfies(&root.payload, Some(document), &mut Vec::new())
            });
        let part = Part {
            document: &self.headers,
            scalar: header_scalar,
        };
        payload
            && part.satisfies(&root.headers, Some(&self.headers), &mut Vec::new())
            && root.any_of.iter().all(|alternatives| {
                alternatives
                    .iter()
                    .any(|alternative| self.satisfies_root(alternative))
            })
    }
}

/// The payload or the headers.
struct Part<'d> {
    document: &'d Node<'d>,
    scalar: fn(&'d Node<'d>) -> Option<Scalar<'d>>,
}

impl<'d> Part<'d> {
    /// Whether `group` holds in `object`, which is found at `path`. Without an object only absence can satisfy.
    fn satisfies<'p>(
        &self,
        group: &'p Group,
        object: Option<&'d Node<'d>>,
        path: &mut Vec<&'p str>,
    ) -> bool {
        let fields = group.fields.iter().all(|field| {
            path.push(&field.name);
            let satisfied = self.satisfies_field(&field.name, &field.test, object, path);
            path.pop();
            satisfied
        });
        fields
            && group.any_of.iter().all(|alternatives| {
                alternatives
                    .iter()
                    .any(|alternative| self.satisfies(alternative, object, path))
            })
    }

    fn satisfies_field<'p>(
        &self,
        name: &str,
        test: &'p Test,
        object: Option<&'d Node<'d>>,
        path: &mut Vec<&'p str>,
    ) -> bool {
        let mut found = Vec::new();
        if let Some(object) = object {
            members(object, name, &mut found);
        }
        match test {
            Test::Values(matchers) => {
                (matchers.contains(&Matcher::Absent) && !has_value(self.document, path))
                    || found
                        .iter()
                        .filter_map(|node| (self.scalar)(node))
                        .any(|value| matchers.iter().any(|matcher| matcher.accepts(&value)))
            }
            Test::Object(group) => {
                self.satisfies(group, None, path)
                    || found
                        .iter()
                        .filter(|node| matches!(node, Node::Object(_)))
                        .any(|node| self.satisfies(group, Some(node), path))
            }
        }
    }
}

/// Everything found under `name` in an object, with arrays spread out.
fn members<'d>(object: &'d Node<'d>, name: &str, found: &mut Vec<&'d Node<'d>>) {
    let Node::Object(members) = object else {
        return;
    };
    for (member, value) in members {
        if member == name {
            spread(value, found);
        }
    }
}

fn spread<'d>(node: &'d Node<'d>, found: &mut Vec<&'d Node<'d>>) {
    match node {
        Node::Array(elements) => elements.iter().for_each(|element| spread(element, found)),
        other => found.push(other),
    }
}

/// Whether there is a value, not an object, at `path`.
fn has_value(node: &Node<'_>, path: &[&str]) -> bool {
    let mut found = Vec::new();
    let Some((name, rest)) = path.split_first() else {
        return !matches!(node, Node::Object(_));
    };
    members(node, name, &mut found);
    found.into_iter().any(|node| has_value(node, rest))
}

fn payload_scalar<'d>(node: &'d Node<'d>) -> Option<Scalar<'d>> {
    match node {
        Node::Null => Some(Scalar::Null),
        Node::Bool(value) => Some(Scalar::Bool(*value)),
        Node::Number(number) => Some(Scalar::Number(*number)),
        Node::Text(text) => Some(Scalar::text(text.as_ref())),
        Node::Array(_) | Node::Object(_) => None,
    }
}

fn header_scalar<'d>(node: &'d Node<'d>) -> Option<Scalar<'d>> {
    match node {
        Node::Text(text) => Some(Scalar::header(text)),
        _ => None,
    }
}
