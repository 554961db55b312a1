//! From the text of a configuration to a [`Reshape`]. Unknown names are refused, and every refusal names its path.

use serde_json::{Map, Value};

use crate::error::{ConfigError, Path};
use crate::expression::{Expression, parse_pointer};
use crate::pointer::Pointer;

/// One configuration: what becomes of an event's payload, key, content type and headers.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Payload {
    /// It is made anew.
    Template(Expression),
    /// It, or the element, is changed, in this order.
    Edits {
        pick: Option<Vec<Pointer>>,
        remove: Vec<Pointer>,
        rename: Vec<(Pointer, Pointer)>,
        set: Vec<(Pointer, Expression)>,
    },
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
        let Value::Object(members) = serde_json::from_str(text)? else {
            return Err(top.invalid("want an object"));
        };
        if members.is_empty() {
            return Err(top.invalid(format!("nothing to do: {NAMES}")));
        }
        let mut reader = Reader { members };
        let reshape = Self {
            each: reader.take("each", parse_pointer)?,
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
        match reader.members.keys().next() {
            Some(unknown) => Err(top.name(unknown).invalid(format!("unknown: {NAMES}"))),
            None => Ok(reshape),
        }
    }
}

/// Takes members out of the configuration; what is left is unknown.
struct Reader {
    members: Map<String, Value>,
}

impl Reader {
    fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value, &Path<'_>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.members
            .remove(name)
            .map(|value| read(&value, &Path::Top.name(name)))
            .transpose()
    }

    fn payload(&mut self) -> Result<Payload, ConfigError> {
        let template = self.take("payload", Expression::parse)?;
        let pick = self.take("pick", pointers)?;
        let remove = self.take("remove", pointers)?;
        let rename = self.take("rename", |value, path| {
            object(value, path, |from, to, path| {
                let from = below_whole(&Value::from(from), path)?;
                Ok((from, below_whole(to, path)?))
            })
        })?;
        let set = self.take("set", |value, path| {
            object(value, path, |pointer, value, path| {
                let pointer = parse_pointer(&Value::from(pointer), path)?;
                Ok((pointer, Expression::parse(value, path)?))
            })
        })?;
        let Some(template) = template else {
            return Ok(Payload::Edits {
                pick,
                remove: remove.unwrap_or_default(),
                rename: rename.unwrap_or_default(),
                set: set.unwrap_or_default(),
            });
        };
        if pick.is_some() || remove.is_some() || rename.is_some() || set.is_some() {
            return Err(Path::Top.name("payload").invalid(
                "makes the payload anew, so pick, remove, rename and set have nothing to change",
            ));
        }
        Ok(Payload::Template(template))
    }
}

fn pointers(value: &Value, path: &Path<'_>) -> Result<Vec<Pointer>, ConfigError> {
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
fn below_whole(value: &Value, path: &Path<'_>) -> Result<Pointer, ConfigError> {
    let pointer = parse_pointer(value, path)?;
    if pointer.is_whole() {
        return Err(path.invalid("this points to the whole payload; want a part of it"));
    }
    Ok(pointer)
}

fn object<T>(
    value: &Value,
    path: &Path<'_>,
    read: impl Fn(&str, &Value, &Path<'_>) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    let Value::Object(members) = value else {
        return Err(path.invalid("want an object"));
    };
    members
        .iter()
        .map(|(name, value)| read(name, value, &path.name(name)))
        .collect()
}
