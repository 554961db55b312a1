//! From the text of a pattern to its tree. Every refusal names the place: path, line and column.

use std::fmt::Write;
use std::net::IpAddr;
use std::ops::Bound;

use tidegate_json_scanner::{DEPTH_MAX, Scanner, line_and_column};

use crate::PatternError;
use crate::fold::fold;
use crate::matcher::{Matcher, Network, Range, Wildcard};
use crate::node::Node;
use crate::number::Number;
use crate::pattern::{Field, Group, Root, Test};

/// Combinations of `$or` alternatives a pattern may have; each is a rule of its own in the index.
const COMBINATIONS_MAX: usize = 1_000;

/// Levels of objects a pattern may have, those in dotted names included.
const LEVELS_MAX: usize = DEPTH_MAX;

type Members<'n> = [(std::borrow::Cow<'n, str>, Node<'n>)];

/// Reads a whole pattern.
pub(crate) fn pattern(text: &str) -> Result<Root, PatternError> {
    let node = Node::parse(text).map_err(|malformed| {
        let (line, column) = line_and_column(text, malformed.offset);
        PatternError::Syntax {
            what: malformed.what,
            line,
            column,
        }
    })?;
    let mut reader = Reader::default();
    let root = reader.root(&node).map_err(|refusal| {
        // Where the reader stopped.
        let offset = locate(text, &reader.path).unwrap_or_default();
        let (line, column) = line_and_column(text, offset);
        PatternError::Invalid {
            path: refusal.path,
            line,
            column,
            reason: refusal.reason,
        }
    })?;
    let combinations = root_combinations(&root);
    if combinations > COMBINATIONS_MAX {
        return Err(PatternError::TooManyCombinations {
            combinations,
            max: COMBINATIONS_MAX,
        });
    }
    Ok(root)
}

/// Where in a document a path leads: to the name of a member, or to an element. Looks again, so that reading need not know.
fn locate(text: &str, path: &[Step]) -> Option<usize> {
    let mut scanner = Scanner::new(text);
    scanner.kind().ok()?;
    let mut offset = scanner.position();
    for step in path {
        scanner.kind().ok()?;
        scanner.enter().ok()?;
        let mut first = true;
        let mut found = None;
        match step {
            // The last one of this name: if there are several, that is what is wrong.
            Step::Name(wanted) => {
                while let Some(name) = scanner.next_member(&mut first).ok()? {
                    if name.decode() == *wanted {
                        let quote = name.raw().as_ptr().addr() - text.as_ptr().addr() - 1;
                        found = Some((quote, scanner.clone()));
                    }
                    scanner.skip().ok()?;
                }
            }
            Step::Index(index) => {
                for _ in 0..=*index {
                    if !scanner.next_element(&mut first).ok()? {
                        return None;
                    }
                    scanner.kind().ok()?;
                    found = Some((scanner.position(), scanner.clone()));
                    scanner.skip().ok()?;
                }
            }
        }
        (offset, scanner) = found?;
    }
    Some(offset)
}

/// Why a part of a pattern was refused, and its path.
struct Refusal {
    path: String,
    reason: String,
}

/// What a field's values are, which decides the operators that make sense.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Payload,
    Headers,
}

/// Walks the pattern and knows where it is.
#[derive(Default)]
struct Reader {
    path: Vec<Step>,
    /// Levels of objects above what is being read.
    levels: usize,
}

enum Step {
    Name(String),
    Index(usize),
}

impl Reader {
    fn root(&mut self, node: &Node<'_>) -> Result<Root, Refusal> {
        let members = self.object(node)?;
        let mut root = Root::default();
        for (name, value) in members {
            match name.as_ref() {
                "$or" => {
                    let alternatives = self.below(name, |reader| {
                        reader.alternatives(value, |reader, node| reader.root(node))
                    })?;
                    root.any_of.push(alternatives);
                }
                "$payload" => {
                    let group = self.below(name, |reader| reader.group(value, Source::Payload))?;
                    root.payload.fields.extend(group.fields);
                    root.payload.any_of.extend(group.any_of);
                }
                "$headers" => {
                    root.headers =
                        self.below(name, |reader| reader.group(value, Source::Headers))?;
                }
                other if other.starts_with('$') => {
                    return self.below(name, |reader| {
                        reader.invalid(
                            "names that begin with `$` are reserved here: $payload, $headers and $or \
                             exist; a payload field of this name goes inside $payload",
                        )
                    });
                }
                _ => {
                    self.below(name, |reader| {
                        reader.field(&mut root.payload, name, value, Source::Payload)
                    })?;
                }
            }
        }
        Ok(root)
    }

    fn group(&mut self, node: &Node<'_>, source: Source) -> Result<Group, Refusal> {
        let members = self.object(node)?;
        let mut group = Group::default();
        for (name, value) in members {
            self.below(name, |reader| {
                if name == "$or" {
                    let alternatives =
                        reader.alternatives(value, |reader, node| reader.group(node, source))?;
                    group.any_of.push(alternatives);
                } else {
                    reader.field(&mut group, name, value, source)?;
                }
                Ok(())
            })?;
        }
        Ok(group)
    }

    /// Reads a field and adds it to `group`.
    fn field(
        &mut self,
        group: &mut Group,
        name: &str,
        value: &Node<'_>,
        source: Source,
    ) -> Result<(), Refusal> {
        let levels = match source {
            Source::Payload => 1 + name.bytes().filter(|byte| *byte == b'.').count(),
            Source::Headers => 1,
        };
        if source == Source::Payload && name.split('.').skip(1).any(|part| part == "$or") {
            return self.invalid(
                "`$or` is no field: write it inside of the object, as in {\"a\": {\"$or\": […]}}",
            );
        }
        self.levels += levels;
        if self.levels > LEVELS_MAX {
            return self.invalid(&format!(
                "nested too deep: a pattern has at most {LEVELS_MAX} levels"
            ));
        }
        let test = match value {
            Node::Array(matchers) => Test::Values(self.matchers(matchers, source)?),
            Node::Object(_) if source == Source::Payload => {
                Test::Object(self.group(value, source)?)
            }
            Node::Object(_) => {
                return self.invalid("a header has no fields: want an array of values");
            }
            _ => {
                return self.invalid(
                    "want an array of values, such as [\"a\", \"b\"], or an object of fields",
                );
            }
        };
        self.levels -= levels;
        match source {
            Source::Payload => self.add(group, name, test),
            Source::Headers => {
                group.fields.push(Field {
                    name: name.to_string(),
                    test,
                });
                Ok(())
            }
        }
    }

    /// Adds a test to a group of the payload. A dot in the name is a level; what is said of one object in several ways is one group,
    /// so that it holds for the same element of an array.
    fn add(&self, group: &mut Group, name: &str, test: Test) -> Result<(), Refusal> {
        if let Some((first, rest)) = name.split_once('.') {
            return self.add(below(group, first), rest, test);
        }
        match test {
            Test::Object(more) => {
                let group = below(group, name);
                for field in more.fields {
                    self.add(group, &field.name, field.test)?;
                }
                group.any_of.extend(more.any_of);
            }
            Test::Values(_) => {
                let is_there =
                    |field: &Field| field.name == name && matches!(field.test, Test::Values(_));
                if group.fields.iter().any(is_there) {
                    return self.invalid(
                        "this field stands twice, once with dots in its name: a dot is a level",
                    );
                }
                group.fields.push(Field {
                    name: name.to_string(),
                    test,
                });
            }
        }
        Ok(())
    }

    fn alternatives<T>(
        &mut self,
        node: &Node<'_>,
        mut read: impl FnMut(&mut Self, &Node<'_>) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, Refusal> {
        let Node::Array(alternatives) = node else {
            return self.invalid("$or wants an array of patterns");
        };
        if alternatives.len() < 2 {
            return self.invalid("$or wants at least two patterns");
        }
        self.each(alternatives, &mut read)
    }

    fn matchers(&mut self, nodes: &[Node<'_>], source: Source) -> Result<Vec<Matcher>, Refusal> {
        if nodes.is_empty() {
            return self.invalid("an empty array matches nothing: name at least one value");
        }
        self.each(nodes, |reader, node| reader.matcher(node, source))
    }

    fn matcher(&mut self, node: &Node<'_>, source: Source) -> Result<Matcher, Refusal> {
        match node {
            Node::Null | Node::Bool(_) if source == Source::Headers => {
                self.invalid("a header's value is text: put it in quotes")
            }
            Node::Null => Ok(Matcher::Null),
            Node::Bool(value) => Ok(Matcher::Bool(*value)),
            Node::Number(number) => Ok(Matcher::Number(*number)),
            Node::Text(text) => Ok(Matcher::Text(text.to_string())),
            Node::Array(_) => self.invalid("values are not nested: list them in one array"),
            Node::Object(members) => {
                let (name, value) = self.only_member(members)?;
                self.below(name, |reader| reader.operator(name, value))
            }
        }
    }

    fn operator(&mut self, name: &str, value: &Node<'_>) -> Result<Matcher, Refusal> {
        match name {
            "anything-but" => self.anything_but(value),
            "cidr" => self.network(value),
            "equals-ignore-case" => {
                Ok(Matcher::TextIgnoreCase(fold(self.text(value)?).into_owned()))
            }
            "exists" => match value {
                Node::Bool(true) => Ok(Matcher::Exists),
                Node::Bool(false) => Ok(Matcher::Absent),
                _ => self.invalid("want true or false"),
            },
            "numeric" => self.numeric(value),
            "prefix" => self.affix(value, Matcher::Prefix, Matcher::PrefixIgnoreCase),
            "suffix" => self.affix(value, Matcher::Suffix, Matcher::SuffixIgnoreCase),
            "wildcard" => self.wildcard(value),
            _ => self.invalid(
                "unknown operator: anything-but, cidr, equals-ignore-case, exists, numeric, prefix, \
                 suffix and wildcard exist",
            ),
        }
    }

    fn anything_but(&mut self, node: &Node<'_>) -> Result<Matcher, Refusal> {
        let refused = match node {
            Node::Text(_) | Node::Number(_) => vec![self.refused_value(node)?],
            Node::Array(nodes) if !nodes.is_empty() => {
                self.each(nodes, |reader, node| reader.refused_value(node))?
            }
            Node::Object(members) => {
                let (name, value) = self.only_member(members)?;
                self.below(name, |reader| match name {
                    "prefix" | "suffix" | "equals-ignore-case" | "wildcard" => match value {
                        Node::Array(nodes) if !nodes.is_empty() => {
                            reader.each(nodes, |reader, node| reader.operator(name, node))
                        }
                        _ => Ok(vec![reader.operator(name, value)?]),
                    },
                    _ => reader.invalid(
                        "anything-but takes prefix, suffix, equals-ignore-case or wildcard here",
                    ),
                })?
            }
            _ => {
                return self.invalid(
                    "want a string, a number, a list of them, or an object with prefix, suffix, \
                     equals-ignore-case or wildcard",
                );
            }
        };
        Ok(Matcher::Not(refused))
    }

    fn refused_value(&mut self, node: &Node<'_>) -> Result<Matcher, Refusal> {
        match node {
            Node::Text(text) => Ok(Matcher::Text(text.to_string())),
            Node::Number(number) => Ok(Matcher::Number(*number)),
            _ => self.invalid("want a string or a number"),
        }
    }

    fn affix(
        &mut self,
        node: &Node<'_>,
        exact: fn(String) -> Matcher,
        ignoring_case: fn(String) -> Matcher,
    ) -> Result<Matcher, Refusal> {
        let Node::Object(members) = node else {
            return Ok(exact(self.text(node)?.to_string()));
        };
        let (name, value) = self.only_member(members)?;
        self.below(name, |reader| {
            if name != "equals-ignore-case" {
                return reader.invalid("want a string or {\"equals-ignore-case\": …}");
            }
            Ok(ignoring_case(fold(reader.text(value)?).into_owned()))
        })
    }

    fn wildcard(&mut self, node: &Node<'_>) -> Result<Matcher, Refusal> {
        let text = self.text(node)?;
        let mut pieces = vec![String::new()];
        let mut characters = text.chars();
        let mut after_star = false;
        while let Some(character) = characters.next() {
            let literal = match character {
                '*' if after_star => {
                    return self.invalid("two `*` in a row: one matches the same");
                }
                '*' => {
                    after_star = true;
                    pieces.push(String::new());
                    continue;
                }
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '\\')) => escaped,
                    _ => return self.invalid("`\\` may only stand before `*` and `\\`"),
                },
                other => other,
            };
            after_star = false;
            if let Some(piece) = pieces.last_mut() {
                piece.push(literal);
            }
        }
        let last = pieces.pop().unwrap_or_default();
        if pieces.is_empty() {
            return Ok(Matcher::Text(last));
        }
        let first = pieces.remove(0);
        Ok(Matcher::Wildcard(Wildcard {
            first,
            middle: pieces,
            last,
        }))
    }

    fn numeric(&mut self, node: &Node<'_>) -> Result<Matcher, Refusal> {
        const WANT: &str =
            "want [\"=\", 5], [\">\", 0], or two bounds such as [\">\", 0, \"<=\", 5]";
        let Node::Array(items) = node else {
            return self.invalid(WANT);
        };
        let mut comparisons = Vec::new();
        for pair in items.chunks(2) {
            let [Node::Text(comparison), Node::Number(number)] = pair else {
                return self.invalid(WANT);
            };
            comparisons.push((comparison.as_ref(), *number));
        }
        if let [("=", number)] = comparisons[..] {
            return Ok(Matcher::Number(number));
        }
        if comparisons.is_empty() || comparisons.len() > 2 {
            return self.invalid(WANT);
        }
        let (mut low, mut high) = (Bound::Unbounded, Bound::Unbounded);
        for (comparison, number) in comparisons {
            let (bound, value) = match comparison {
                ">" => (&mut low, Bound::Excluded(number)),
                ">=" => (&mut low, Bound::Included(number)),
                "<" => (&mut high, Bound::Excluded(number)),
                "<=" => (&mut high, Bound::Included(number)),
                _ => return self.invalid(WANT),
            };
            if *bound != Bound::Unbounded {
                return self.invalid("two bounds on the same side");
            }
            *bound = value;
        }
        if is_empty_range(low, high) {
            return self.invalid("no number lies between these bounds");
        }
        Ok(Matcher::Range(Range { low, high }))
    }

    fn network(&mut self, node: &Node<'_>) -> Result<Matcher, Refusal> {
        let text = self.text(node)?;
        let network = text.split_once('/').and_then(|(address, bits)| {
            let address = address.parse::<IpAddr>().ok()?;
            Network::around(address, bits.parse().ok()?)
        });
        match network {
            Some(network) => Ok(Matcher::Network(network)),
            None => self.invalid("want a block such as \"10.0.0.0/8\" or \"2001:db8::/32\""),
        }
    }

    fn text<'n>(&self, node: &'n Node<'_>) -> Result<&'n str, Refusal> {
        match node {
            Node::Text(text) => Ok(text),
            _ => self.invalid("want a string"),
        }
    }

    fn object<'n>(&mut self, node: &'n Node<'n>) -> Result<&'n Members<'n>, Refusal> {
        let Node::Object(members) = node else {
            return self.invalid("want an object of fields");
        };
        if members.is_empty() {
            return self.invalid("an empty object says nothing: name at least one field");
        }
        for (index, (name, _)) in members.iter().enumerate() {
            if members[..index].iter().any(|(earlier, _)| earlier == name) {
                return self.below(name, |reader| {
                    reader.invalid("this name stands twice in one object")
                });
            }
        }
        Ok(members)
    }

    fn only_member<'n>(
        &self,
        members: &'n Members<'n>,
    ) -> Result<(&'n str, &'n Node<'n>), Refusal> {
        match members {
            [(name, value)] => Ok((name, value)),
            _ => self.invalid("want exactly one operator, such as {\"prefix\": \"a\"}"),
        }
    }

    fn each<T>(
        &mut self,
        nodes: &[Node<'_>],
        mut read: impl FnMut(&mut Self, &Node<'_>) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, Refusal> {
        let mut items = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            self.path.push(Step::Index(index));
            items.push(read(self, node)?);
            self.path.pop();
        }
        Ok(items)
    }

    /// Reads something under a member's name. The path is only put back on success: a failure ends the reading.
    fn below<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.path.push(Step::Name(name.to_string()));
        let item = read(self)?;
        self.path.pop();
        Ok(item)
    }

    fn invalid<T>(&self, reason: &str) -> Result<T, Refusal> {
        let mut path = String::new();
        for step in &self.path {
            let _infallible = match step {
                Step::Name(name) if path.is_empty() => write!(path, "{name}"),
                Step::Name(name) => write!(path, ".{name}"),
                Step::Index(index) => write!(path, "[{index}]"),
            };
        }
        if path.is_empty() {
            path.push_str("the top level");
        }
        Err(Refusal {
            path,
            reason: reason.to_string(),
        })
    }
}

/// The group that holds for the object under a name, new or there.
fn below<'g>(group: &'g mut Group, name: &str) -> &'g mut Group {
    let is_it = |field: &Field| field.name == name && matches!(field.test, Test::Object(_));
    let place = group.fields.iter().position(is_it).unwrap_or_else(|| {
        group.fields.push(Field {
            name: name.to_string(),
            test: Test::Object(Group::default()),
        });
        group.fields.len() - 1
    });
    match &mut group.fields[place].test {
        Test::Object(below) => below,
        // `place` is that of a field which `is_it`, or of the one that was pushed.
        Test::Values(_) => unreachable!("an object was found or made"),
    }
}

fn is_empty_range(low: Bound<Number>, high: Bound<Number>) -> bool {
    match (low, high) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low >= high,
    }
}

fn root_combinations(root: &Root) -> usize {
    let payload = group_combinations(&root.payload);
    let headers = group_combinations(&root.headers);
    let alternatives = product(&root.any_of, root_combinations);
    payload.saturating_mul(headers).saturating_mul(alternatives)
}

fn group_combinations(group: &Group) -> usize {
    let fields = group.fields.iter().map(|field| match &field.test {
        Test::Values(_) => 1,
        Test::Object(group) => group_combinations(group),
    });
    fields
        .fold(1, usize::saturating_mul)
        .saturating_mul(product(&group.any_of, group_combinations))
}

fn product<T>(any_of: &[Vec<T>], combinations: impl Fn(&T) -> usize) -> usize {
    any_of
        .iter()
        .map(|alternatives| {
            alternatives
                .iter()
                .map(&combinations)
                .fold(0, usize::saturating_add)
        })
        .fold(1, usize::saturating_mul)
}
