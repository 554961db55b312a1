//! From the text of a configuration to a [`Reshape`]. Unknown names are refused, and every refusal names its path.

use std::collections::HashSet;

use tidegate_json_scanner::line_and_column;

use crate::error::{ConfigError, Path};
use crate::expression::{Expression, parse_pointer};
use crate::pointer::Pointer;
use crate::value::{Text, Value};

/// One configuration: what becomes of an event's payload, key, content type and headers.
#[derive(Clone, Debug)]
pub struct Reshape {
    /// One event for each element of the array there.
    pub(crate) each: Option<Pointer>,
    /// Events for which this is not true are dropped.
    pub(crate) only_if: Option<Expression>,
    pub(crate) payload: Payload,
    pub(crate) key: Option<Expression>,
    pub(crate) content_type: Option<Expression>,
    pub(crate) headers: Vec<(String, Expression)>,
    pub(crate) output: Option<Expression>,
}

/// What becomes of the payload.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// It is made anew.
    Template(Expression),
    /// It, or the element, is changed.
    Edits(Edits),
}

/// How a payload is changed. Pointers of `remove` and `rename` mean what `pick` left, before any of them.
#[derive(Clone, Debug)]
pub(crate) struct Edits {
    pub(crate) pick: Option<Vec<Pointer>>,
    /// From where to where; the deepest sources first, since one may lie in another.
    pub(crate) rename: Vec<(Pointer, Pointer)>,
    pub(crate) remove: Vec<Pointer>,
    /// Outer places before those in them.
    pub(crate) set: Vec<(Pointer, Expression)>,
}

const NAMES: &str =
    "each, if, payload, pick, remove, rename, set, key, content-type, headers and output exist";

impl Reshape {
    /// Reads a configuration from JSON. The README describes the form.
    ///
    /// # Errors
    /// Says what is wrong and at which path of the configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let top = Path::Top;
        let value = Value::parse(text).map_err(|malformed| {
            let (line, column) = line_and_column(text, malformed.offset);
            ConfigError::Syntax {
                what: malformed.what,
                line,
                column,
            }
        })?;
        let Value::Object(members) = value else {
            return Err(top.invalid("want an object"));
        };
        check_names(&members, &top)?;
        if members.is_empty() {
            return Err(top.invalid(format!("nothing to do: {NAMES}")));
        }
        let mut reader = Reader { members };
        let reshape = Self {
            each: reader.take("each", |value, path| {
                without_stars(parse_pointer(value, path)?, path)
            })?,
            only_if: reader.take("if", Expression::parse)?,
            payload: reader.payload()?,
            key: reader.take("key", Expression::parse)?,
            content_type: reader.take("content-type", Expression::parse)?,
            headers: reader
                .take("headers", |value, path| {
                    object(value, path, |name, value, path| {
                        Ok((name.to_string(), Expression::parse(value, path)?))
                    })
                })?
                .unwrap_or_default(),
            output: reader.take("output", Expression::parse)?,
        };
        match reader.members.first() {
            Some((unknown, _)) => Err(top
                .name(&unknown.decode())
                .invalid(format!("unknown: {NAMES}"))),
            None => Ok(reshape),
        }
    }
}

/// Takes members out of the configuration; what is left is unknown.
struct Reader<'a> {
    members: Vec<(Text<'a>, Value<'a>)>,
}

impl Reader<'_> {
    fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value<'_>, &Path<'_>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(place) = self.members.iter().position(|(member, _)| member.is(name)) else {
            return Ok(None);
        };
        let (_, value) = self.members.remove(place);
        read(&value, &Path::Top.name(name)).map(Some)
    }

    fn payload(&mut self) -> Result<Payload, ConfigError> {
        let template = self.take("payload", Expression::parse)?;
        let pick = self.take("pick", pointers)?;
        let remove = self.take("remove", pointers)?;
        let rename = self.take("rename", renames)?;
        let set = self.take("set", |value, path| {
            object(value, path, |pointer, value, path| {
                let pointer = parse_pointer(&Value::text(pointer), path)?;
                Ok((pointer, Expression::parse(value, path)?))
            })
        })?;
        let Some(template) = template else {
            let mut set = set.unwrap_or_default();
            set.sort_by_key(|(pointer, _)| pointer.depth());
            return Ok(Payload::Edits(Edits {
                pick,
                rename: rename.unwrap_or_default(),
                remove: remove.unwrap_or_default(),
                set,
            }));
        };
        if pick.is_some() || remove.is_some() || rename.is_some() || set.is_some() {
            return Err(Path::Top.name("payload").invalid(
                "makes the payload anew, so pick, remove, rename and set have nothing to change",
            ));
        }
        Ok(Payload::Template(template))
    }
}

/// Pairs of pointers, the deepest sources first, and of equally deep ones those with the fewest `*`.
fn renames(value: &Value<'_>, path: &Path<'_>) -> Result<Vec<(Pointer, Pointer)>, ConfigError> {
    let mut renames = object(value, path, |from, to, path| {
        let from = below_whole(&Value::text(from), path)?;
        let to = below_whole(to, path)?;
        if from.stars() != to.stars() {
            return Err(path.invalid(format!(
                "{from} and {to} differ in how many `*` they have; each `*` of the second stands for what that of the first \
                 found"
            )));
        }
        Ok((from, to))
    })?;
    for (place, (from, to)) in renames.iter().enumerate() {
        if renames[..place].iter().any(|(_, earlier)| earlier == to) {
            return Err(path
                .name(&from.to_string())
                .invalid(format!("something else is renamed to {to} too")));
        }
    }
    renames.sort_by_key(|(from, _)| (std::cmp::Reverse(from.depth()), from.stars()));
    Ok(renames)
}

fn pointers(value: &Value<'_>, path: &Path<'_>) -> Result<Vec<Pointer>, ConfigError> {
    let Value::Array(elements) = value else {
        return Err(path.invalid("want an array of JSON pointers"));
    };
    elements
        .iter()
        .enumerate()
        .map(|(index, element)| below_whole(element, &path.index(index)))
        .collect()
}

/// A pointer to a part; the whole cannot be picked, removed or renamed.
fn below_whole(value: &Value<'_>, path: &Path<'_>) -> Result<Pointer, ConfigError> {
    let pointer = parse_pointer(value, path)?;
    if pointer.is_whole() {
        return Err(path.invalid("this points to the whole payload; want a part of it"));
    }
    Ok(pointer)
}

fn without_stars(pointer: Pointer, path: &Path<'_>) -> Result<Pointer, ConfigError> {
    if pointer.stars() > 0 {
        return Err(
            path.invalid("`*` cannot stand here, which takes one array; `~2` is a `*` in a name")
        );
    }
    Ok(pointer)
}

fn object<T>(
    value: &Value<'_>,
    path: &Path<'_>,
    read: impl Fn(&str, &Value<'_>, &Path<'_>) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    let Value::Object(members) = value else {
        return Err(path.invalid("want an object"));
    };
    check_names(members, path)?;
    members
        .iter()
        .map(|(name, value)| {
            let name = name.decode();
            read(&name, value, &path.name(&name))
        })
        .collect()
}

/// Of two members with one name the first would say nothing.
fn check_names(members: &[(Text<'_>, Value<'_>)], path: &Path<'_>) -> Result<(), ConfigError> {
    let mut names = HashSet::new();
    for (name, _) in members {
        let name = name.decode();
        if !names.insert(name.clone()) {
            return Err(path
                .name(&name)
                .invalid("this name stands twice in one object"));
        }
    }
    Ok(())
}
