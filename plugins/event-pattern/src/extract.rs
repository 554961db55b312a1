//! From an event to the values that some rule asks for. The paths of all rules make a trie; one pass over the payload
//! follows it, and everything else is passed over without being built.

use tidegate_json_scanner::{Kind, Malformed, RawText, Scanner};

use crate::fast_hash::FastMap;
use crate::matcher::Scalar;
use crate::number::Number;

/// A path that some rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FieldId(pub(crate) u32);

/// An object that lies on such a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

const ROOT: NodeId = NodeId(0);
const NONE: u32 = u32::MAX;

/// All paths that rules ask for.
#[derive(Debug)]
pub(crate) struct Paths {
    nodes: Vec<TrieNode>,
    headers: FastMap<Box<str>, FieldId>,
    fields: u32,
}

#[derive(Debug, Default)]
struct TrieNode {
    children: FastMap<Box<str>, NodeId>,
    /// One bit per length of a child's name, modulo 64: most members of most events are ruled out by it.
    lengths: u64,
    /// Lengths of the names of children with children, sorted: where the dot of a member's name is that reaches into one of them.
    dots: Vec<usize>,
    field: Option<FieldId>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            nodes: vec![TrieNode::default()],
            headers: FastMap::default(),
            fields: 0,
        }
    }
}

impl Paths {
    /// The field of a path in the payload, and the objects on the way, without the outermost.
    pub(crate) fn payload_field(&mut self, path: &[&str]) -> (FieldId, Vec<NodeId>) {
        let mut node = ROOT;
        let mut way = Vec::with_capacity(path.len());
        for (depth, name) in path.iter().enumerate() {
            let parent = node;
            node = self.child_or_insert(parent, name);
            way.push(node);
            let dots = &mut self.nodes[parent.0 as usize].dots;
            if depth + 1 < path.len()
                && let Err(place) = dots.binary_search(&name.len())
            {
                dots.insert(place, name.len());
            }
        }
        way.pop();
        let next = FieldId(self.fields);
        let field = *self.nodes[node.0 as usize].field.get_or_insert(next);
        self.fields += u32::from(field == next);
        (field, way)
    }

    /// The field of a header.
    pub(crate) fn header_field(&mut self, name: &str) -> FieldId {
        let next = FieldId(self.fields);
        let field = *self.headers.entry(name.into()).or_insert(next);
        self.fields += u32::from(field == next);
        field
    }

    pub(crate) fn field_count(&self) -> usize {
        self.fields as usize
    }

    fn wants_payload(&self) -> bool {
        self.nodes.len() > 1
    }

    fn child_or_insert(&mut self, node: NodeId, name: &str) -> NodeId {
        if let Some(child) = self.nodes[node.0 as usize].children.get(name) {
            return *child;
        }
        let child = NodeId(self.nodes.len() as u32);
        let parent = &mut self.nodes[node.0 as usize];
        parent.children.insert(name.into(), child);
        parent.lengths |= length_bit(name);
        self.nodes.push(TrieNode::default());
        child
    }

    fn child(&self, node: NodeId, name: RawText<'_>) -> Option<NodeId> {
        self.descend(node, &name.decode())
    }

    /// The child that a member's name means, over several levels if it has dots.
    #[inline]
    fn descend(&self, mut node: NodeId, mut name: &str) -> Option<NodeId> {
        loop {
            let here = &self.nodes[node.0 as usize];
            let Some((child, rest)) = here.dotted(name) else {
                if here.lengths & length_bit(name) == 0 {
                    return None;
                }
                return here.children.get(name).copied();
            };
            node = child;
            name = rest;
        }
    }
}

impl TrieNode {
    /// The child that a dotted name reaches into, and what is left of the name. Looks at a byte for each length of such a child's
    /// name, and not for dots: most names have none.
    #[inline]
    fn dotted<'n>(&self, name: &'n str) -> Option<(NodeId, &'n str)> {
        let bytes = name.as_bytes();
        let at = self
            .dots
            .iter()
            .map_while(|at| Some((*at, bytes.get(*at)?)))
            .find(|(_, byte)| **byte == b'.');
        let (first, rest) = name.split_at_checked(at?.0)?;
        // No child has a dot in its name, so only the first dot can be the one.
        let child = self.children.get(first)?;
        Some((*child, rest.get(1..)?))
    }
}

fn length_bit(name: &str) -> u64 {
    1 << (name.len() % 64)
}

/// The values found in one event, by field, and which objects were met more than once. Keeps its tables from event to
/// event; clearing costs what the last event filled.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// The last value of each field in the event's list, or [`NONE`].
    last: Vec<u32>,
    touched: Vec<FieldId>,
    visits: Vec<u32>,
    visited: Vec<NodeId>,
    is_repeated: bool,
}

/// The values of one event.
pub(crate) struct Values<'a, 't> {
    tables: &'t mut Tables,
    /// A value and the place of the one before it in the same field.
    values: Vec<(Scalar<'a>, u32)>,
    payload_is_object: bool,
}

impl<'a, 't> Values<'a, 't> {
    /// Reads an event. A payload that is no JSON object has no values.
    pub(crate) fn extract(
        paths: &Paths,
        tables: &'t mut Tables,
        payload: &'a [u8],
        headers: &[(&'a str, &'a str)],
    ) -> Self {
        tables.reset(paths);
        let mut values = Self {
            tables,
            values: Vec::with_capacity(16),
            payload_is_object: false,
        };
        if paths.wants_payload() {
            values.payload_is_object = values.read_payload(paths, payload).is_some();
            if !values.payload_is_object {
                // What was read before the mistake does not count.
                values.values.clear();
                values.tables.reset(paths);
            }
        }
        if !paths.headers.is_empty() {
            for (name, value) in headers {
                if let Some(field) = paths.headers.get(*name) {
                    values.add(*field, Scalar::header(value));
                }
            }
        }
        values
    }

    /// Whether the payload is a JSON object. Not looked at, and false, if no rule asks for the payload.
    pub(crate) fn payload_is_object(&self) -> bool {
        self.payload_is_object
    }

    /// The fields that have values, each once.
    pub(crate) fn fields(&self) -> &[FieldId] {
        &self.tables.touched
    }

    pub(crate) fn has(&self, field: FieldId) -> bool {
        self.tables.last[field.0 as usize] != NONE
    }

    /// The values of a field.
    pub(crate) fn of(&self, field: FieldId) -> impl Iterator<Item = &Scalar<'a>> {
        let mut at = self.tables.last[field.0 as usize];
        std::iter::from_fn(move || {
            let (value, before) = self.values.get(at as usize)?;
            at = *before;
            Some(value)
        })
    }

    /// Whether more than one object was met at one of these places, so that it matters which values stand together.
    pub(crate) fn is_any_repeated(&self, nodes: &[NodeId]) -> bool {
        self.tables.is_repeated
            && nodes
                .iter()
                .any(|node| self.tables.visits[node.0 as usize] > 1)
    }

    fn read_payload(&mut self, paths: &Paths, payload: &'a [u8]) -> Option<()> {
        let text = std::str::from_utf8(payload).ok()?;
        let mut scanner = Scanner::new(text);
        if scanner.kind().ok()? != Kind::Object {
            return None;
        }
        self.read_object(paths, &mut scanner, ROOT).ok()?;
        scanner.end().ok()
    }

    fn read_object(
        &mut self,
        paths: &Paths,
        scanner: &mut Scanner<'a>,
        node: NodeId,
    ) -> Result<(), Malformed> {
        self.tables.visit(node);
        scanner.enter()?;
        let mut first = true;
        while let Some(name) = scanner.next_member(&mut first)? {
            match paths.child(node, name) {
                Some(child) => self.read_value(paths, scanner, child)?,
                None => scanner.skip()?,
            }
        }
        Ok(())
    }

    fn read_value(
        &mut self,
        paths: &Paths,
        scanner: &mut Scanner<'a>,
        node: NodeId,
    ) -> Result<(), Malformed> {
        let trie_node = &paths.nodes[node.0 as usize];
        let kind = scanner.kind()?;
        match kind {
            Kind::Array => {
                scanner.enter()?;
                let mut first = true;
                while scanner.next_element(&mut first)? {
                    self.read_value(paths, scanner, node)?;
                }
                return Ok(());
            }
            Kind::Object if !trie_node.children.is_empty() => {
                return self.read_object(paths, scanner, node);
            }
            Kind::Object => return scanner.skip(),
            _ => {}
        }
        let Some(field) = trie_node.field else {
            return scanner.skip();
        };
        let value = match kind {
            Kind::Bool => Scalar::Bool(scanner.bool()?),
            Kind::Number => Scalar::Number(Number::from_json(scanner.number()?)),
            Kind::Text => Scalar::text(scanner.text()?.decode()),
            Kind::Null | Kind::Array | Kind::Object => {
                scanner.null()?;
                Scalar::Null
            }
        };
        self.add(field, value);
        Ok(())
    }

    fn add(&mut self, field: FieldId, value: Scalar<'a>) {
        let place = self.values.len() as u32;
        let last = &mut self.tables.last[field.0 as usize];
        if *last == NONE {
            self.tables.touched.push(field);
        }
        self.values.push((value, *last));
        *last = place;
    }
}

impl Tables {
    fn reset(&mut self, paths: &Paths) {
        for field in self.touched.drain(..) {
            self.last[field.0 as usize] = NONE;
        }
        for node in self.visited.drain(..) {
            self.visits[node.0 as usize] = 0;
        }
        self.is_repeated = false;
        self.last.resize(paths.field_count(), NONE);
        self.visits.resize(paths.nodes.len(), 0);
    }

    fn visit(&mut self, node: NodeId) {
        let visits = &mut self.visits[node.0 as usize];
        if *visits == 0 {
            self.visited.push(node);
        } else {
            self.is_repeated = true;
        }
        *visits = visits.saturating_add(1);
    }
}
