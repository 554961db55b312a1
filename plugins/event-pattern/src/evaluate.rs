//! The reference: one pattern against one event, written for obviousness. The index must agree with it, and asks it
//! where the order of array elements matters.
//!
//! What a pattern means: strike out every field that asks for absence and whose path has no value anywhere in the event;
//! the rest must be satisfied together, so that fields below one array are satisfied within the same element. A dot in the name of a
//! payload's member is a level: `{"a.b": 1}` is `{"a": {"b": 1}}`, beside whatever else `a` is.

use std::borrow::Cow;

use crate::Pattern;
use crate::matcher::{Matcher, Scalar};
use crate::node::Node;
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
                    has_levels: true,
                };
                part.satisfies(&root.payload, &View::of(document), &mut Vec::new())
            });
        let part = Part {
            document: &self.headers,
            scalar: header_scalar,
            has_levels: false,
        };
        payload
            && part.satisfies(&root.headers, &View::of(&self.headers), &mut Vec::new())
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
    /// Whether a dot in a member's name is a level, as in the payload.
    has_levels: bool,
}

/// What a pattern's object is compared with: an object of the event, and beside it the members of objects above that reach into it
/// with a dotted name, called by what is left of the name. Either may be missing.
#[derive(Clone, Default)]
struct View<'d> {
    object: &'d [(Cow<'d, str>, Node<'d>)],
    dotted: Vec<(&'d str, &'d Node<'d>)>,
}

/// What a view has under a name.
#[derive(Default)]
struct Found<'d> {
    /// With arrays spread out.
    nodes: Vec<&'d Node<'d>>,
    dotted: Vec<(&'d str, &'d Node<'d>)>,
}

impl<'d> Part<'d> {
    /// Whether `group` holds in `view`, which is found at `path`. In an empty view only absence can satisfy.
    fn satisfies<'p>(&self, group: &'p Group, view: &View<'d>, path: &mut Vec<&'p str>) -> bool {
        let fields = group.fields.iter().all(|field| {
            path.push(&field.name);
            let satisfied = self.satisfies_field(&field.name, &field.test, view, path);
            path.pop();
            satisfied
        });
        fields
            && group.any_of.iter().all(|alternatives| {
                alternatives
                    .iter()
                    .any(|alternative| self.satisfies(alternative, view, path))
            })
    }

    fn satisfies_field<'p>(
        &self,
        name: &str,
        test: &'p Test,
        view: &View<'d>,
        path: &mut Vec<&'p str>,
    ) -> bool {
        let found = self.find(view, name);
        match test {
            Test::Values(matchers) => {
                (matchers.contains(&Matcher::Absent)
                    && !self.has_value(&View::of(self.document), path))
                    || found
                        .nodes
                        .iter()
                        .filter_map(|node| (self.scalar)(node))
                        .any(|value| matchers.iter().any(|matcher| matcher.accepts(&value)))
            }
            Test::Object(group) => {
                self.satisfies(group, &View::default(), path)
                    || found
                        .views()
                        .any(|below| self.satisfies(group, &below, path))
            }
        }
    }

    /// Whether there is a value, not an object, at `path`.
    fn has_value(&self, view: &View<'d>, path: &[&str]) -> bool {
        let Some((name, rest)) = path.split_first() else {
            return false;
        };
        let found = self.find(view, name);
        if rest.is_empty() {
            return found
                .nodes
                .iter()
                .any(|node| !matches!(node, Node::Object(_)));
        }
        found.views().any(|below| self.has_value(&below, rest))
    }

    fn find(&self, view: &View<'d>, name: &str) -> Found<'d> {
        let mut found = Found::default();
        let own = view.object.iter().map(|(name, node)| (&**name, node));
        for (member, node) in own.chain(view.dotted.iter().copied()) {
            if member == name {
                spread(node, &mut found.nodes);
            } else if self.has_levels
                && let Some(rest) = member.strip_prefix(name)
                && let Some(rest) = rest.strip_prefix('.')
            {
                found.dotted.push((rest, node));
            }
        }
        found
    }
}

impl<'d> View<'d> {
    fn of(node: &'d Node<'d>) -> Self {
        let object = match node {
            Node::Object(members) => members.as_slice(),
            _ => &[],
        };
        Self {
            object,
            dotted: Vec::new(),
        }
    }
}

impl<'d> Found<'d> {
    /// The objects found: each with all that dotted names say, which lies in none of them and so in each.
    fn views(&self) -> impl Iterator<Item = View<'d>> {
        let mut objects: Vec<&[_]> = self
            .nodes
            .iter()
            .filter_map(|node| match node {
                Node::Object(members) => Some(members.as_slice()),
                _ => None,
            })
            .collect();
        if objects.is_empty() && !self.dotted.is_empty() {
            objects.push(&[]);
        }
        objects.into_iter().map(|object| View {
            object,
            dotted: self.dotted.clone(),
        })
    }
}

fn spread<'d>(node: &'d Node<'d>, found: &mut Vec<&'d Node<'d>>) {
    match node {
        Node::Array(elements) => elements.iter().for_each(|element| spread(element, found)),
        other => found.push(other),
    }
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
