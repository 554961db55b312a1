//! JSON as it stands in a document: numbers keep their text, strings their escapes, objects the order of their members and every
//! repetition. So what is not touched goes out as it came in. Nothing here knows what a configuration is.

use std::borrow::Cow;
use std::fmt::Write;

use tidegate_json_scanner::{Kind, Malformed, RawText, Scanner, unescape};

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number<'a>),
    Text(Text<'a>),
    Array(Vec<Value<'a>>),
    Object(Vec<(Text<'a>, Value<'a>)>),
    /// What was taken away, while others still count its place. [`Value::sweep`] leaves none.
    Gone,
}

/// A number, as its text.
#[derive(Clone, Debug)]
pub(crate) struct Number<'a>(Cow<'a, str>);

/// A string, or the name of a member.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a> {
    text: Cow<'a, str>,
    /// The text is what stood in a document, with escapes.
    is_escaped: bool,
}

#[cfg(test)]
thread_local! {
    /// How often a name was compared.
    pub(crate) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl<'a> Value<'a> {
    /// Reads a whole document.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut scanner = Scanner::new(text);
        let value = Self::read(&mut scanner)?;
        scanner.end()?;
        Ok(value)
    }

    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Malformed> {
        let mut first = true;
        Ok(match scanner.kind()? {
            Kind::Null => {
                scanner.null()?;
                Self::Null
            }
            Kind::Bool => Self::Bool(scanner.bool()?),
            Kind::Number => Self::Number(Number(scanner.number()?.into())),
            Kind::Text => Self::Text(scanner.text()?.into()),
            Kind::Array => {
                scanner.enter()?;
                let mut elements = Vec::new();
                while scanner.next_element(&mut first)? {
                    elements.push(Self::read(scanner)?);
                }
                Self::Array(elements)
            }
            Kind::Object => {
                scanner.enter()?;
                let mut members = Vec::new();
                while let Some(name) = scanner.next_member(&mut first)? {
                    members.push((name.into(), Self::read(scanner)?));
                }
                Self::Object(members)
            }
        })
    }

    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::Text(Text::plain(text))
    }

    pub(crate) fn integer(integer: impl Into<i128>) -> Self {
        Self::Number(Number::of_integer(integer.into()))
    }

    pub(crate) fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(text.decode()),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether the two say the same: numbers by value, members of objects in any order.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Number(left), Self::Number(right)) => left.order(right).is_eq(),
            (Self::Text(left), Self::Text(right)) => left.decode() == right.decode(),
            (Self::Array(left), Self::Array(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l.equals(r))
            }
            (Self::Object(left), Self::Object(right)) => {
                let (left, right) = (by_name(left), by_name(right));
                left.len() == right.len()
                    && left
                        .iter()
                        .zip(&right)
                        .all(|((name, l), (other, r))| name == other && l.equals(r))
            }
            _ => false,
        }
    }

    /// Without what was taken away.
    pub(crate) fn sweep(&mut self) {
        match self {
            Self::Array(elements) => {
                elements.retain(|element| !matches!(element, Self::Gone));
                elements.iter_mut().for_each(Self::sweep);
            }
            Self::Object(members) => {
                members.retain(|(_, value)| !matches!(value, Self::Gone));
                members.iter_mut().for_each(|(_, value)| value.sweep());
            }
            _ => {}
        }
    }

    /// The same, with nothing borrowed.
    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Number(number) => Value::Number(Number(number.0.into_owned().into())),
            Self::Text(text) => Value::Text(text.into_owned()),
            Self::Array(elements) => {
                Value::Array(elements.into_iter().map(Self::into_owned).collect())
            }
            Self::Object(members) => Value::Object(
                members
                    .into_iter()
                    .map(|(name, value)| (name.into_owned(), value.into_owned()))
                    .collect(),
            ),
            Self::Gone => Value::Gone,
        }
    }

    /// As a document.
    pub(crate) fn to_json(&self) -> String {
        let mut json = String::new();
        self.write(&mut json);
        json
    }

    fn write(&self, json: &mut String) {
        match self {
            Self::Null | Self::Gone => json.push_str("null"),
            Self::Bool(true) => json.push_str("true"),
            Self::Bool(false) => json.push_str("false"),
            Self::Number(number) => json.push_str(&number.0),
            Self::Text(text) => text.write(json),
            Self::Array(elements) => {
                json.push('[');
                for (place, element) in elements.iter().enumerate() {
                    if place > 0 {
                        json.push(',');
                    }
                    element.write(json);
                }
                json.push(']');
            }
            Self::Object(members) => {
                json.push('{');
                for (place, (name, value)) in members.iter().enumerate() {
                    if place > 0 {
                        json.push(',');
                    }
                    name.write(json);
                    json.push(':');
                    value.write(json);
                }
                json.push('}');
            }
        }
    }

    /// What kind of value it is, for people.
    pub(crate) fn sort(&self) -> &'static str {
        match self {
            Self::Null | Self::Gone => "null",
            Self::Bool(_) => "a truth value",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

// Of members with one name the last one counts.
fn by_name<'v, 'a>(
    members: &'v [(Text<'a>, Value<'a>)],
) -> std::collections::BTreeMap<Cow<'v, str>, &'v Value<'a>> {
    members
        .iter()
        .map(|(name, value)| (name.decode(), value))
        .collect()
}

impl<'a> Number<'a> {
    pub(crate) fn of_integer(integer: i128) -> Self {
        Self(integer.to_string().into())
    }

    /// `None` if it is not finite, which JSON cannot say.
    pub(crate) fn of_f64(float: f64) -> Option<Self> {
        float.is_finite().then(|| Self(format!("{float:?}").into()))
    }

    /// From the text of a JSON number.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut scanner = Scanner::new(text);
        if scanner.kind() != Ok(Kind::Number) {
            return None;
        }
        let number = scanner.number().ok()?;
        scanner.end().ok()?;
        Some(Self(number.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// If it is written as an integer, without fraction and exponent, and fits.
    pub(crate) fn as_integer(&self) -> Option<i128> {
        self.0.parse().ok()
    }

    /// The nearest double, infinite for what is too large.
    pub(crate) fn as_f64(&self) -> f64 {
        self.0.parse().unwrap_or(f64::NAN)
    }

    pub(crate) fn order(&self, other: &Self) -> std::cmp::Ordering {
        match self.as_integer().zip(other.as_integer()) {
            Some((left, right)) => left.cmp(&right),
            // No JSON number is NaN, and 0 is -0.
            None => self
                .as_f64()
                .partial_cmp(&other.as_f64())
                .unwrap_or(std::cmp::Ordering::Equal),
        }
    }

    pub(crate) fn into_owned(self) -> Number<'static> {
        Number(self.0.into_owned().into())
    }
}

impl<'a> Text<'a> {
    pub(crate) fn plain(text: impl Into<Cow<'a, str>>) -> Self {
        Self {
            text: text.into(),
            is_escaped: false,
        }
    }

    /// What it says.
    pub(crate) fn decode(&self) -> Cow<'_, str> {
        match self.is_escaped {
            true => unescape(&self.text).into(),
            false => Cow::Borrowed(&self.text),
        }
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        #[cfg(test)]
        COMPARED.set(COMPARED.get() + 1);
        match self.is_escaped {
            true => unescape(&self.text) == name,
            false => self.text == name,
        }
    }

    fn into_owned(self) -> Text<'static> {
        Text {
            text: self.text.into_owned().into(),
            is_escaped: self.is_escaped,
        }
    }

    fn write(&self, json: &mut String) {
        json.push('"');
        if self.is_escaped {
            json.push_str(&self.text);
        } else {
            escape(&self.text, json);
        }
        json.push('"');
    }
}

impl<'a> From<RawText<'a>> for Text<'a> {
    fn from(raw: RawText<'a>) -> Self {
        Self {
            text: raw.raw().into(),
            is_escaped: raw.is_escaped(),
        }
    }
}

fn escape(mut text: &str, json: &mut String) {
    let is_special = |byte: u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    while let Some(at) = text.bytes().position(is_special) {
        // A special byte is ASCII, so both its sides are boundaries.
        let (plain, rest) = text.split_at(at);
        json.push_str(plain);
        match rest.as_bytes()[0] {
            b'"' => json.push_str("\\\""),
            b'\\' => json.push_str("\\\\"),
            b'\n' => json.push_str("\\n"),
            b'\r' => json.push_str("\\r"),
            b'\t' => json.push_str("\\t"),
            other => {
                let _infallible = write!(json, "\\u{other:04x}");
            }
        }
        text = &rest[1..];
    }
    json.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_as_it_was() {
        for json in [
            r#"{"b":1e400,"a":-0,"b":[1.50,12345678901234567890123456789,0.1E+2]}"#,
            r#"["\u0041\ud800","é\/","\"",null,true,false,{},[]]"#,
            r#"{"\u0061":1}"#,
        ] {
            assert_eq!(Value::parse(json).unwrap().to_json(), json);
        }
        assert!(Value::parse("[1,]").is_err());
    }

    #[test]
    fn what_is_made_is_escaped() {
        let text = Value::text("a\"b\\c\n\u{1}é\u{7f}");
        assert_eq!(text.to_json(), "\"a\\\"b\\\\c\\n\\u0001é\u{7f}\"");
    }

    #[test]
    fn equal_is_what_says_the_same() {
        let check = |left: &str, right: &str, want: bool| {
            let equals = Value::parse(left)
                .unwrap()
                .equals(&Value::parse(right).unwrap());
            assert_eq!(equals, want, "{left} {right}");
        };
        check("1", "1.0", true);
        check("9007199254740993", "9007199254740992", false);
        check("18446744073709551617", "18446744073709551616", false);
        check("-0", "0.0", true);
        check(r#""\u0061""#, r#""a""#, true);
        check(r#"{"a":1,"b":[2]}"#, r#"{"b":[2.0],"a":1}"#, true);
        check(r#"{"a":1}"#, r#"{"a":1,"b":null}"#, false);
        check("null", "false", false);
    }
}
