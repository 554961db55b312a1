//! JSON pointers (RFC 6901): parsed once, then used to read, write and remove.

use std::fmt;

use serde_json::{Map, Value};

/// A parsed pointer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pointer {
    steps: Vec<String>,
}

impl Pointer {
    /// From `""` or `/a/b/0`, with `~1` for `/` and `~0` for `~`.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self { steps: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a JSON pointer begins with `/`, such as \"/customer/name\"");
        };
        let steps = rest.split('/').map(unescape).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.steps.is_empty()
    }

    /// What it points to, if that is there.
    pub(crate) fn get<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        self.steps
            .iter()
            .try_fold(document, |value, step| match value {
                Value::Object(members) => members.get(step),
                Value::Array(elements) => elements.get(index(step)?),
                _ => None,
            })
    }

    /// Puts a value there. Objects on the way that are missing are made; `-` stands for the end of an array.
    pub(crate) fn set(&self, document: &mut Value, value: Value) -> Result<(), String> {
        let mut at = document;
        for step in &self.steps {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            at = match at {
                Value::Object(members) => members.entry(step).or_insert(Value::Null),
                Value::Array(elements) => {
                    let place = if step == "-" {
                        elements.push(Value::Null);
                        Some(elements.len() - 1)
                    } else {
                        index(step)
                    };
                    place
                        .and_then(|place| elements.get_mut(place))
                        .ok_or_else(|| {
                            format!("cannot set {self}: the array has no element {step}")
                        })?
                }
                _ => {
                    return Err(format!(
                        "cannot set {self}: what is above {step} is neither object nor array"
                    ));
                }
            };
        }
        *at = value;
        Ok(())
    }

    /// Takes away what it points to, if that is there.
    pub(crate) fn remove(&self, document: &mut Value) -> Option<Value> {
        let (last, way) = self.steps.split_last()?;
        let parent = way.iter().try_fold(document, |value, step| match value {
            Value::Object(members) => members.get_mut(step),
            Value::Array(elements) => elements.get_mut(index(step)?),
            _ => None,
        })?;
        match parent {
            Value::Object(members) => members.remove(last),
            Value::Array(elements) => {
                let index = index(last).filter(|index| *index < elements.len())?;
                Some(elements.remove(index))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return f.write_str("the whole value");
        }
        for step in &self.steps {
            write!(f, "/{}", step.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

fn index(step: &str) -> Option<usize> {
    let is_plain = step == "0" || !step.starts_with(['0', '+']);
    is_plain.then(|| step.parse().ok())?
}

fn unescape(step: &str) -> Result<String, &'static str> {
    let mut plain = String::with_capacity(step.len());
    let mut characters = step.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '~' => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err("in a JSON pointer `~` may only stand in `~0` and `~1`"),
            },
            other => other,
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pointer(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    #[test]
    fn reads() {
        let document = json!({"a": [{"b/c": 1}, 2], "~": 3, "": 4, "01": 5});
        let check = |text, want: Option<Value>| {
            assert_eq!(pointer(text).get(&document), want.as_ref(), "{text}");
        };
        check("", Some(document.clone()));
        check("/a/0/b~1c", Some(json!(1)));
        check("/a/1", Some(json!(2)));
        check("/a/01", None);
        check("/a/-", None);
        check("/~0", Some(json!(3)));
        check("/", Some(json!(4)));
        check("/01", Some(json!(5)));
        check("/a/1/x", None);
        assert!(Pointer::parse("a").is_err());
        assert!(Pointer::parse("/~2").is_err());
    }

    #[test]
    fn writes_and_removes() {
        let mut document = json!({"a": [1]});
        pointer("/a/-").set(&mut document, json!(2)).unwrap();
        pointer("/b/c/d").set(&mut document, json!(3)).unwrap();
        assert_eq!(document, json!({"a": [1, 2], "b": {"c": {"d": 3}}}));
        assert!(pointer("/a/5").set(&mut document, json!(0)).is_err());
        assert!(pointer("/a/0/x").set(&mut document, json!(0)).is_err());
        assert_eq!(pointer("/a/0").remove(&mut document), Some(json!(1)));
        assert_eq!(pointer("/a/9").remove(&mut document), None);
        assert_eq!(pointer("/b/c").remove(&mut document), Some(json!({"d": 3})));
        assert_eq!(document, json!({"a": [2], "b": {}}));
    }
}
