//! A whole document, for the reference evaluator and for configurations.

use std::borrow::Cow;

use tidegate_json_scanner::{Kind, Malformed, Scanner};

use crate::number::Number;

/// A whole value. Objects keep the order of their members and every
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
        let node = Self::read(&mut scanner)?;
        scanner.end()?;
        Ok(node)
    }

    fn read(scanner: &mut Scanner<'a>) -> Result<Self, Malformed> {
        Ok(match scanner.kind()? {
            Kind::Null => {
                scanner.null()?;
                Self::Null
            }
            Kind::Bool => Self::Bool(scanner.bool()?),
            Kind::Number => Self::Number(Number::from_json(scanner.number()?)),
            Kind::Text => Self::Text(scanner.text()?.decode()),
            Kind::Array => {
                scanner.enter()?;
                let (mut first, mut elements) = (true, Vec::new());
                while scanner.next_element(&mut first)? {
                    elements.push(Self::read(scanner)?);
                }
                Self::Array(elements)
            }
            Kind::Object => {
                scanner.enter()?;
                let (mut first, mut members) = (true, Vec::new());
                while let Some(name) = scanner.next_member(&mut first)? {
                    members.push((name.decode(), Self::read(scanner)?));
                }
                Self::Object(members)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_keeps_order_and_repetitions() {
        assert_eq!(
            Node::parse(r#"[-1.5e+3, {"a":null ,"a":[false, "\u00e9"]}]"#),
            Ok(Node::Array(vec![
                Node::Number(Number::Integer(-1500)),
                Node::Object(vec![
                    ("a".into(), Node::Null),
                    (
                        "a".into(),
                        Node::Array(vec![Node::Bool(false), Node::Text("é".into())])
                    ),
                ]),
            ]))
        );
        assert!(Node::parse("[1,]").is_err());
    }
}
