//! A JSON scanner that accepts the same documents whether a value is read or skipped. What is skipped depends on the
//! other rules of an instance, so with a laxer skip the verdict of one rule could depend on its neighbours.

use std::borrow::Cow;

use crate::number::Number;

/// Deeper documents are refused, read or skipped.
const DEPTH_MAX: usize = 128;

/// Not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Byte offset.
    pub(crate) offset: usize,
    /// What is wrong there.
    pub(crate) what: &'static str,
}

/// A whole value, for the reference evaluator and for configurations. Objects keep the order of their members and every
/// repetition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl<'a> Node<'a> {
    /// Parses a whole document.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut scanner = Scanner::new(text);
        let node = scanner.node()?;
        scanner.end()?;
        Ok(node)
    }
}

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    Text,
    Array,
    Object,
}

/// A string as it stands in the document, without its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawText<'a> {
    text: &'a str,
    escaped: bool,
}

impl<'a> RawText<'a> {
    pub(crate) fn decode(self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(unescape(self.text))
        } else {
            Cow::Borrowed(self.text)
        }
    }
}

/// Reads a document from front to back.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            position: 0,
            depth: 0,
        }
    }

    /// The kind of the value that comes next.
    pub(crate) fn kind(&mut self) -> Result<Kind, Malformed> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => Ok(Kind::Text),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.malformed("want a value")),
        }
    }

    /// Enters an object or array; [`kind`](Self::kind) has said that it is one.
    pub(crate) fn enter(&mut self) -> Result<(), Malformed> {
        if self.depth == DEPTH_MAX {
            return Err(self.malformed("nested too deep"));
        }
        self.depth += 1;
        self.position += 1;
        Ok(())
    }

    /// The name of the object's next member, with its value next, or the object's end.
    pub(crate) fn next_member(
        &mut self,
        first: &mut bool,
    ) -> Result<Option<RawText<'a>>, Malformed> {
        if self.at_end(first, b'}', "want `,` or `}`")? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return Err(self.malformed("want a member's name in quotes"));
        }
        let name = self.text()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.malformed("want `:`"));
        }
        self.position += 1;
        Ok(Some(name))
    }

    /// Whether the array has another element, which is then next.
    pub(crate) fn next_element(&mut self, first: &mut bool) -> Result<bool, Malformed> {
        Ok(!self.at_end(first, b']', "want `,` or `]`")?)
    }

    /// A string; [`kind`](Self::kind) has said that it is one.
    pub(crate) fn text(&mut self) -> Result<RawText<'a>, Malformed> {
        let bytes = self.text.as_bytes();
        let start = self.position + 1;
        let mut escaped = false;
        let mut at = start;
        loop {
            at = plain_until(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape_end(at)?;
                }
                Some(_) => return Err(Malformed::at(at, "control character in a string")),
                None => return Err(Malformed::at(at, "string without an end")),
            }
        }
        self.position = at + 1;
        // Both ends stand beside an ASCII quote, so they are boundaries.
        let text = self.text.get(start..at).unwrap_or_default();
        Ok(RawText { text, escaped })
    }

    /// A number; [`kind`](Self::kind) has said that it is one.
    pub(crate) fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.position;
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        if self.peek() == Some(b'0') {
            self.position += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.position += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.position += 1;
            }
            self.digits()?;
        }
        Ok(self.text.get(start..self.position).unwrap_or_default())
    }

    /// `true`, `false`; [`kind`](Self::kind) has said that it is one.
    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        let value = self.peek() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// `null`.
    pub(crate) fn null(&mut self) -> Result<(), Malformed> {
        self.word("null")
    }

    /// Passes over a value, as strictly as if it were read.
    pub(crate) fn skip(&mut self) -> Result<(), Malformed> {
        match self.kind()? {
            Kind::Null => self.null(),
            Kind::Bool => self.bool().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::Text => self.text().map(drop),
            Kind::Array => {
                self.enter()?;
                let mut first = true;
                while self.next_element(&mut first)? {
                    self.skip()?;
                }
                Ok(())
            }
            Kind::Object => {
                self.enter()?;
                let mut first = true;
                while self.next_member(&mut first)?.is_some() {
                    self.skip()?;
                }
                Ok(())
            }
        }
    }

    /// Nothing but white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.position == self.text.len() {
            Ok(())
        } else {
            Err(self.malformed("something follows the document"))
        }
    }

    fn node(&mut self) -> Result<Node<'a>, Malformed> {
        Ok(match self.kind()? {
            Kind::Null => {
                self.null()?;
                Node::Null
            }
            Kind::Bool => Node::Bool(self.bool()?),
            Kind::Number => Node::Number(Number::from_json(self.number()?)),
            Kind::Text => Node::Text(self.text()?.decode()),
            Kind::Array => {
                self.enter()?;
                let (mut first, mut elements) = (true, Vec::new());
                while self.next_element(&mut first)? {
                    elements.push(self.node()?);
                }
                Node::Array(elements)
            }
            Kind::Object => {
                self.enter()?;
                let (mut first, mut members) = (true, Vec::new());
                while let Some(name) = self.next_member(&mut first)? {
                    members.push((name.decode(), self.node()?));
                }
                Node::Object(members)
            }
        })
    }

    /// Passes the comma before the next item, or the bracket behind the last one.
    fn at_end(
        &mut self,
        first: &mut bool,
        close: u8,
        want: &'static str,
    ) -> Result<bool, Malformed> {
        self.skip_space();
        let is_first = std::mem::replace(first, false);
        match self.peek() {
            Some(byte) if byte == close => {
                self.position += 1;
                self.depth -= 1;
                return Ok(true);
            }
            _ if is_first => {}
            Some(b',') => {
                self.position += 1;
                self.skip_space();
            }
            _ => return Err(self.malformed(want)),
        }
        Ok(false)
    }

    /// The place behind the escape at `at`.
    fn escape_end(&self, at: usize) -> Result<usize, Malformed> {
        let bytes = self.text.as_bytes();
        match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                let digits = bytes.get(at + 2..at + 6);
                if digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    Ok(at + 6)
                } else {
                    Err(Malformed::at(at, "want four hexadecimal digits"))
                }
            }
            _ => Err(Malformed::at(at, "unknown escape")),
        }
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.position;
        while let Some(b'0'..=b'9') = self.peek() {
            self.position += 1;
        }
        if self.position == start {
            return Err(self.malformed("want a digit"));
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), Malformed> {
        let end = self.position + word.len();
        if self.text.as_bytes().get(self.position..end) != Some(word.as_bytes()) {
            return Err(self.malformed("want a value"));
        }
        self.position = end;
        Ok(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.position += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed::at(self.position, what)
    }
}

impl Malformed {
    fn at(offset: usize, what: &'static str) -> Self {
        Self { offset, what }
    }
}

/// The first place from `at` on with a quote, a backslash or a control character: eight bytes at a time, since skipping
/// strings is most of the work on an event.
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let backslashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let hits = quotes | backslashes | controls;
        if hits != 0 {
            // A borrow can only make a false hit above a true one, so the lowest is true.
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// Decodes the escapes of a string that the scanner has passed. Half a surrogate pair becomes U+FFFD.
fn unescape(raw: &str) -> String {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut length = 2;
        match escape {
            b'b' => decoded.push('\u{8}'),
            b'f' => decoded.push('\u{c}'),
            b'n' => decoded.push('\n'),
            b'r' => decoded.push('\r'),
            b't' => decoded.push('\t'),
            b'u' => {
                let (unit, size) = unicode_escape(&rest[at..]);
                decoded.push(unit);
                length = size;
            }
            other => decoded.push(char::from(other)),
        }
        rest = rest.get(at + length..).unwrap_or_default();
    }
    decoded.push_str(rest);
    decoded
}

/// The character of one `\uXXXX`, or of two that make a surrogate pair, and how many bytes they take.
fn unicode_escape(text: &str) -> (char, usize) {
    let unit = |from: usize| -> Option<u32> {
        (text.get(from..from + 2)? == "\\u")
            .then(|| u32::from_str_radix(text.get(from + 2..from + 6)?, 16).ok())?
    };
    let first = unit(0).unwrap_or(0xfffd);
    if let 0xd800..=0xdbff = first
        && let Some(second @ 0xdc00..=0xdfff) = unit(6)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code).unwrap_or('\u{fffd}'), 12);
    }
    (char::from_u32(first).unwrap_or('\u{fffd}'), 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Option<Node<'_>>) {
        assert_eq!(Node::parse(text).ok(), want, "{text}");
        let mut scanner = Scanner::new(text);
        let skipped = scanner.skip().and_then(|()| scanner.end());
        assert_eq!(skipped.is_ok(), want.is_some(), "skip {text}");
    }

    fn text(value: &str) -> Option<Node<'_>> {
        Some(Node::Text(value.into()))
    }

    #[test]
    fn values() {
        check(" null ", Some(Node::Null));
        check("true", Some(Node::Bool(true)));
        check("-1.5e+3", Some(Node::Number(Number::Integer(-1500))));
        check("[]", Some(Node::Array(vec![])));
        check("{ }", Some(Node::Object(vec![])));
        check(
            r#"[1, {"a":null ,"a":[false]}]"#,
            Some(Node::Array(vec![
                Node::Number(Number::Integer(1)),
                Node::Object(vec![
                    ("a".into(), Node::Null),
                    ("a".into(), Node::Array(vec![Node::Bool(false)])),
                ]),
            ])),
        );
    }

    #[test]
    fn strings() {
        check(r#""""#, text(""));
        check(r#""twelve bytes and é""#, text("twelve bytes and é"));
        check(r#""a\"b\\c\/\b\f\n\r\t""#, text("a\"b\\c/\u{8}\u{c}\n\r\t"));
        check(
            r#""\u00e9\ud83d\ude00 \ud83d \ude00""#,
            text("é😀 \u{fffd} \u{fffd}"),
        );
        check(r#""\ud83d\u0041""#, text("\u{fffd}A"));
        for at in 0..20 {
            let mut control = "x".repeat(20);
            control.replace_range(at..=at, "\n");
            check(&format!("\"{control}\""), None);
        }
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            " ",
            "nul",
            "nulll",
            "01",
            "1.",
            ".5",
            "1e",
            "-",
            "+1",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "1 2",
            "[}",
            "{]",
            "'a'",
            "NaN",
        ] {
            check(bad, None);
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Node::parse(&nested(DEPTH_MAX)).is_ok());
        check(&nested(DEPTH_MAX + 1), None);
    }
}
