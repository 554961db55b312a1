//! The reference: one pattern against one event, written for obviousness. The index must agree with it, and asks it
//! where the order of array elements matters.
//!
//! What a pattern means: strike out every field that asks for absence and whose path has no value anywhere in the event;
//! the rest must be satisfied together, so that fields below one array are satisfied within the same element. A dot in the name of a
//! payload's member is a level: `{"a.b": 1}` is `{"a": {"b": 1}}`, beside whatever else `a` is.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

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
                    by_absence: RefCell::default(),
                };
                part.satisfies(&root.payload, &View::of(document), &mut Vec::new())
            });
        let part = Part {
            document: &self.headers,
            scalar: header_scalar,
            has_levels: false,
            by_absence: RefCell::default(),
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
    /// Which tests what is absent satisfies, wherever in the document.
    by_absence: RefCell<BTreeMap<*const Test, bool>>,
}

/// What a pattern's object is compared with: an object of the event, and beside it the members of objects above that reach into it
/// with a dotted name, called by what is left of the name. Either may be missing.
#[derive(Clone, Default)]
struct View<'d> {
    object: Members<'d>,
    /// Those of the nearest object first. All objects that they reach into share them, however many these are.
    dotted: Vec<Rc<Dotted<'d>>>,
}

type Members<'d> = &'d [(Cow<'d, str>, Node<'d>)];

/// Members of one object with dotted names, by what is left of these. There is one at least.
struct Dotted<'d> {
    members: Vec<(&'d str, &'d Node<'d>)>,
    /// What was found under a name, so that this is searched once and not for each object they reach into.
    found: RefCell<BTreeMap<String, Rc<Found<'d>>>>,
    /// Which tests these satisfy, together with those of the objects further above.
    satisfied: RefCell<BTreeMap<*const Test, bool>>,
}

/// What there is under a name.
struct Found<'d> {
    /// With arrays spread out.
    nodes: Vec<&'d Node<'d>>,
    dotted: Option<Rc<Dotted<'d>>>,
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
        let is_by_absence = once(&self.by_absence, test, || match test {
            Test::Values(matchers) => matchers.contains(&Matcher::Absent) && !self.has_value(path),
            Test::Object(group) => self.satisfies(group, &View::default(), path),
        });
        if is_by_absence {
            return true;
        }
        let own = self.find(view.members(), name);
        let others: Vec<_> = view
            .dotted
            .iter()
            .map(|dotted| self.find_dotted(dotted, name))
            .collect();
        let below = others.iter().filter_map(|others| others.dotted.as_ref());
        let below: Vec<_> = own.dotted.iter().chain(below).cloned().collect();
        let of_others = others
            .iter()
            .flat_map(|others| others.nodes.iter().copied());
        let of_own = own.nodes.iter().copied();
        let has_levels_of_own = own.dotted.is_some() && matches!(test, Test::Object(_));
        match view.dotted.first() {
            // The same whatever object they reach into.
            Some(nearest) if !has_levels_of_own => {
                once(&nearest.satisfied, test, || {
                    self.is_satisfied(of_others, &below, test, path)
                }) || (of_own.clone().any(|node| test.is_of(node))
                    && self.is_satisfied(of_own, &below, test, path))
            }
            Some(_) => self.is_satisfied(of_own.chain(of_others), &below, test, path),
            None => self.is_satisfied(of_own, &below, test, path),
        }
    }

    /// Whether one of these, or what dotted names say beside them, satisfies a test.
    fn is_satisfied<'p>(
        &self,
        nodes: impl Iterator<Item = &'d Node<'d>>,
        dotted: &[Rc<Dotted<'d>>],
        test: &'p Test,
        path: &mut Vec<&'p str>,
    ) -> bool {
        match test {
            Test::Values(matchers) => {
                let mut values = nodes.filter_map(|node| (self.scalar)(node));
                values.any(|value| matchers.iter().any(|matcher| matcher.accepts(&value)))
            }
            Test::Object(group) => {
                let mut objects: Vec<_> = nodes.filter_map(members_of).collect();
                if objects.is_empty() && !dotted.is_empty() {
                    objects.push(&[]);
                }
                // Each with all that dotted names say, which lies in none of them and so in each.
                objects.into_iter().any(|object| {
                    let dotted = dotted.to_vec();
                    self.satisfies(group, &View { object, dotted }, path)
                })
            }
        }
    }

    /// Whether there is a value, not an object, at `path` in the document.
    fn has_value(&self, path: &[&str]) -> bool {
        members_of(self.document).is_some_and(|members| self.lead_to_value(members, path))
    }

    fn lead_to_value(&self, members: Members<'d>, path: &[&str]) -> bool {
        members
            .iter()
            .any(|(name, node)| self.leads_to_value(name, node, path))
    }

    fn leads_to_value(&self, member: &str, node: &'d Node<'d>, path: &[&str]) -> bool {
        let Some((name, path)) = path.split_first() else {
            return false;
        };
        if member == *name {
            let mut nodes = Vec::new();
            spread(node, &mut nodes);
            return nodes.into_iter().any(|node| match members_of(node) {
                Some(members) => self.lead_to_value(members, path),
                None => path.is_empty(),
            });
        }
        let rest = member.strip_prefix(name);
        let rest = rest.and_then(|rest| rest.strip_prefix('.'));
        self.has_levels && rest.is_some_and(|rest| self.leads_to_value(rest, node, path))
    }

    fn find_dotted(&self, dotted: &Dotted<'d>, name: &str) -> Rc<Found<'d>> {
        if let Some(found) = dotted.found.borrow().get(name) {
            return found.clone();
        }
        let found = Rc::new(self.find(dotted.members.iter().copied(), name));
        let mut all = dotted.found.borrow_mut();
        all.insert(name.to_owned(), found.clone());
        found
    }

    fn find(
        &self,
        members: impl Iterator<Item = (&'d str, &'d Node<'d>)>,
        name: &str,
    ) -> Found<'d> {
        let (mut nodes, mut dotted) = (Vec::new(), Vec::new());
        for (member, node) in members {
            #[cfg(test)]
            LOOKED_AT.set(LOOKED_AT.get() + 1);
            if member == name {
                spread(node, &mut nodes);
            } else if self.has_levels
                && let Some(rest) = member.strip_prefix(name)
                && let Some(rest) = rest.strip_prefix('.')
            {
                dotted.push((rest, node));
            }
        }
        let dotted = (!dotted.is_empty()).then(|| {
            Rc::new(Dotted {
                members: dotted,
                found: RefCell::default(),
                satisfied: RefCell::default(),
            })
        });
        Found { nodes, dotted }
    }
}

#[cfg(test)]
thread_local! {
    /// How many members were looked at for a name.
    static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl<'d> View<'d> {
    fn of(node: &'d Node<'d>) -> Self {
        Self {
            object: members_of(node).unwrap_or_default(),
            dotted: Vec::new(),
        }
    }

    fn members(&self) -> impl Iterator<Item = (&'d str, &'d Node<'d>)> + use<'d> {
        self.object.iter().map(|(name, node)| (&**name, node))
    }
}

impl Test {
    /// Whether it may be satisfied by such a value.
    fn is_of(&self, node: &Node<'_>) -> bool {
        match self {
            Self::Values(_) => true,
            Self::Object(_) => members_of(node).is_some(),
        }
    }
}

/// What came of a test, which is tried only the first time.
fn once(
    known: &RefCell<BTreeMap<*const Test, bool>>,
    test: &Test,
    try_it: impl FnOnce() -> bool,
) -> bool {
    let test = std::ptr::from_ref(test);
    let before = known.borrow().get(&test).copied();
    before.unwrap_or_else(|| {
        let satisfied = try_it();
        known.borrow_mut().insert(test, satisfied);
        satisfied
    })
}

fn members_of<'n, 'd>(node: &'n Node<'d>) -> Option<&'n [(Cow<'d, str>, Node<'d>)]> {
    match node {
        Node::Object(members) => Some(members),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    // Looked at one by one, what one name says would be looked at for each of the others.
    #[test]
    fn what_is_looked_at_grows_as_the_event_does() {
        const MANY: usize = 1_000;
        let list = |item: &str| vec![item; MANY].join(",");
        let check = |pattern: &str, payload: String| {
            let pattern = Pattern::parse(pattern).expect("a pattern");
            LOOKED_AT.set(0);
            assert!(!pattern.matches(payload.as_bytes(), &[]));
            let looked_at = LOOKED_AT.get();
            assert!(looked_at < 30 * MANY, "{pattern:?}: {looked_at}");
        };
        let array =
            |item: &str, others: &str| format!(r#"{{"a":[{}],{}}}"#, list(item), list(others));
        let two = r#"{"a":{"b":["x"],"c":["y"]}}"#;
        check(two, array(r#"{"b":"x"},{"c":"y"}"#, r#""a.z":1"#));
        check(two, array(r#"{"b":"x"},{"c":"z"}"#, r#""a.c":1"#));
        check(two, array(r#"{"b":"x"},{"c.d":"z"}"#, r#""a.c":1"#));
        let deep = r#"{"a":{"b":["x"],"c":{"d":["y"]}}}"#;
        check(deep, array(r#"{"b":"x"},{}"#, r#""a.c":{"d":1}"#));
        check(deep, array(r#"{"b":"x"},{}"#, r#""a.c.d":1,"a.c.e":1"#));
        let absent = r#"{"a":{"b":["x",{"exists":false}],"c":["y"]}}"#;
        check(absent, array(r#"{"b":1},{"c":1}"#, r#""z":1"#));
    }
}
