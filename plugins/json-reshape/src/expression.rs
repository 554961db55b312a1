//! Templates and what can be computed in them. A template is JSON in which an object with one member named `$…` stands
//! for a computed value; everything else stands for itself.

use std::borrow::Cow;

use tidegate_plugin::Event;

use crate::error::{ConfigError, Path};
use crate::pointer::Pointer;
use crate::value::{Number, Text, Value};

/// What an expression can look at.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) event: &'a Event,
    /// The event's payload.
    pub(crate) document: &'a Value<'a>,
    /// The element an event is being made for, or the payload.
    pub(crate) item: &'a Value<'a>,
    pub(crate) index: usize,
}

/// A template, with the text of its own place for the reasons it may give.
#[derive(Clone, Debug)]
pub(crate) struct Expression {
    path: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Constant(Value<'static>),
    Object(Vec<(String, Expression)>),
    Array(Vec<Expression>),
    Get(Pointer),
    Item(Pointer),
    Index,
    Header(String),
    About(About),
    Call(Function, Vec<Expression>),
}

/// What an event says of itself.
#[derive(Clone, Copy, Debug, PartialEq)]
enum About {
    Topic,
    Sequence,
    Time,
    Key,
    ContentType,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Add,
    Subtract,
    Multiply,
    Divide,
    Concat,
    Upper,
    Lower,
    Length,
    Text,
    Number,
    Coalesce,
    If,
    And,
    Or,
    Not,
    Exists,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Name, function, and how many arguments it takes.
const FUNCTIONS: [(&str, Function, usize, usize); 22] = {
    use Function as F;
    [
        ("$add", F::Add, 2, usize::MAX),
        ("$sub", F::Subtract, 2, 2),
        ("$mul", F::Multiply, 2, usize::MAX),
        ("$div", F::Divide, 2, 2),
        ("$concat", F::Concat, 1, usize::MAX),
        ("$upper", F::Upper, 1, 1),
        ("$lower", F::Lower, 1, 1),
        ("$length", F::Length, 1, 1),
        ("$text", F::Text, 1, 1),
        ("$number", F::Number, 1, 1),
        ("$coalesce", F::Coalesce, 1, usize::MAX),
        ("$if", F::If, 3, 3),
        ("$and", F::And, 1, usize::MAX),
        ("$or", F::Or, 1, usize::MAX),
        ("$not", F::Not, 1, 1),
        ("$exists", F::Exists, 1, 1),
        ("$eq", F::Equal, 2, 2),
        ("$ne", F::NotEqual, 2, 2),
        ("$lt", F::Less, 2, 2),
        ("$le", F::LessOrEqual, 2, 2),
        ("$gt", F::Greater, 2, 2),
        ("$ge", F::GreaterOrEqual, 2, 2),
    ]
};

impl Expression {
    /// Reads a template.
    pub(crate) fn parse(template: &Value<'_>, path: &Path<'_>) -> Result<Self, ConfigError> {
        let kind = match template {
            Value::Object(members) => match operator(members) {
                Some((name, operand)) => parse_operator(&name, operand, &path.name(&name))?,
                None => parse_object(members, path)?,
            },
            Value::Array(elements) => Kind::Array(parse_all(elements, path)?),
            constant => Kind::Constant(constant.clone().into_owned()),
        };
        Ok(Self {
            path: path.to_string(),
            kind,
        })
    }

    /// Computes it. Nothing stands for a value that is missing.
    ///
    /// # Errors
    /// The reason for which the event cannot be reshaped.
    pub(crate) fn evaluate<'s>(&'s self, scope: Scope<'s>) -> Result<Option<Value<'s>>, String> {
        Ok(match &self.kind {
            Kind::Constant(value) => Some(value.clone()),
            Kind::Object(members) => {
                let mut object = Vec::with_capacity(members.len());
                for (name, expression) in members {
                    if let Some(value) = expression.evaluate(scope)? {
                        object.push((Text::plain(name.as_str()), value));
                    }
                }
                Some(Value::Object(object))
            }
            Kind::Array(elements) => {
                let mut array = Vec::with_capacity(elements.len());
                for expression in elements {
                    array.push(expression.evaluate(scope)?.unwrap_or(Value::Null));
                }
                Some(Value::Array(array))
            }
            Kind::Get(pointer) => pointer.read(scope.document),
            Kind::Item(pointer) => pointer.read(scope.item),
            Kind::Index => Some(Value::integer(scope.index as u64)),
            Kind::Header(name) => scope.event.header(name).map(Value::text),
            Kind::About(about) => about.of(scope.event),
            Kind::Call(function, arguments) => self.call(*function, arguments, scope)?,
        })
    }

    /// Computes it as text; `None` if it is missing or null.
    pub(crate) fn evaluate_text(&self, scope: Scope<'_>) -> Result<Option<String>, String> {
        match self.evaluate(scope)? {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.to_text(value).map(Some),
        }
    }

    /// Computes it as a condition: true, or not true.
    pub(crate) fn evaluate_condition(&self, scope: Scope<'_>) -> Result<bool, String> {
        match self.evaluate(scope)? {
            None | Some(Value::Null | Value::Bool(false)) => Ok(false),
            Some(Value::Bool(true)) => Ok(true),
            Some(other) => self.fail(&format!("want true or false, got {}", other.sort())),
        }
    }

    fn call<'s>(
        &'s self,
        function: Function,
        arguments: &'s [Self],
        scope: Scope<'s>,
    ) -> Result<Option<Value<'s>>, String> {
        let [first, ..] = arguments else {
            return self.fail("takes an argument");
        };
        Ok(Some(match function {
            Function::Add => {
                self.fold_numbers(arguments, scope, i128::checked_add, |a, b| a + b)?
            }
            Function::Subtract => {
                self.fold_numbers(arguments, scope, i128::checked_sub, |a, b| a - b)?
            }
            Function::Multiply => {
                self.fold_numbers(arguments, scope, i128::checked_mul, |a, b| a * b)?
            }
            Function::Divide => self.fold_numbers(arguments, scope, divide, |a, b| a / b)?,
            Function::Concat => {
                let mut text = String::new();
                for argument in arguments {
                    text += &argument.to_text(argument.needed(scope)?)?;
                }
                Value::text(text)
            }
            Function::Upper => Value::text(first.needed_text(scope)?.to_uppercase()),
            Function::Lower => Value::text(first.needed_text(scope)?.to_lowercase()),
            Function::Length => Value::integer(first.length(scope)? as u64),
            Function::Text => Value::text(first.to_text(first.needed(scope)?)?),
            Function::Number => Value::Number(first.to_number(first.needed(scope)?)?),
            Function::Coalesce => {
                for argument in arguments {
                    if let Some(value) = argument.evaluate(scope)?
                        && !value.is_null()
                    {
                        return Ok(Some(value));
                    }
                }
                return Ok(None);
            }
            Function::If => {
                let place = if first.evaluate_condition(scope)? {
                    1
                } else {
                    2
                };
                return match arguments.get(place) {
                    Some(argument) => argument.evaluate(scope),
                    None => Ok(None),
                };
            }
            Function::And => {
                for argument in arguments {
                    if !argument.evaluate_condition(scope)? {
                        return Ok(Some(Value::Bool(false)));
                    }
                }
                Value::Bool(true)
            }
            Function::Or => {
                for argument in arguments {
                    if argument.evaluate_condition(scope)? {
                        return Ok(Some(Value::Bool(true)));
                    }
                }
                Value::Bool(false)
            }
            Function::Not => Value::Bool(!first.evaluate_condition(scope)?),
            Function::Exists => Value::Bool(first.evaluate(scope)?.is_some()),
            _ => Value::Bool(self.compare(function, arguments, scope)?),
        }))
    }

    /// Equality takes anything; order takes two numbers or two texts.
    fn compare(
        &self,
        function: Function,
        arguments: &[Self],
        scope: Scope<'_>,
    ) -> Result<bool, String> {
        let [left, right] = arguments else {
            return self.fail("takes two arguments");
        };
        let (left, right) = (left.evaluate(scope)?, right.evaluate(scope)?);
        let order = match (&left, &right) {
            (Some(Value::Number(left)), Some(Value::Number(right))) => Some(left.order(right)),
            (Some(Value::Text(left)), Some(Value::Text(right))) => {
                Some(left.decode().cmp(&right.decode()))
            }
            _ => None,
        };
        let is_equal = match (&left, &right) {
            (Some(left), Some(right)) => left.equals(right),
            (left, right) => left.is_none() && right.is_none(),
        };
        match (function, order) {
            (Function::Equal, _) => Ok(is_equal),
            (Function::NotEqual, _) => Ok(!is_equal),
            (Function::Less, Some(order)) => Ok(order.is_lt()),
            (Function::LessOrEqual, Some(order)) => Ok(order.is_le()),
            (Function::Greater, Some(order)) => Ok(order.is_gt()),
            (Function::GreaterOrEqual, Some(order)) => Ok(order.is_ge()),
            _ => {
                let name =
                    |value: &Option<Value<'_>>| value.as_ref().map_or("nothing", Value::sort);
                let (left, right) = (name(&left), name(&right));
                self.fail(&format!("cannot compare {left} with {right}"))
            }
        }
    }

    fn fold_numbers<'s>(
        &'s self,
        arguments: &'s [Self],
        scope: Scope<'s>,
        exact: fn(i128, i128) -> Option<i128>,
        approximate: fn(f64, f64) -> f64,
    ) -> Result<Value<'s>, String> {
        let mut result: Option<Number<'s>> = None;
        for argument in arguments {
            let Value::Number(number) = argument.needed(scope)? else {
                return argument.fail("want a number; $number makes one of text");
            };
            let Some(before) = result else {
                result = Some(number);
                continue;
            };
            let integers = before.as_integer().zip(number.as_integer());
            let exact = integers.and_then(|(left, right)| fitting(exact(left, right)?));
            result = Some(match exact {
                Some(integer) => Number::of_integer(integer),
                None => match Number::of_f64(approximate(before.as_f64(), number.as_f64())) {
                    Some(number) => number,
                    None => return self.fail("the result is no finite number"),
                },
            });
        }
        Ok(result.map_or(Value::Null, Value::Number))
    }

    fn needed<'s>(&'s self, scope: Scope<'s>) -> Result<Value<'s>, String> {
        match self.evaluate(scope)? {
            Some(value) => Ok(value),
            None => self.fail(&format!(
                "{} is missing; $coalesce gives a default",
                self.describe()
            )),
        }
    }

    fn needed_text(&self, scope: Scope<'_>) -> Result<String, String> {
        match self.needed(scope)? {
            Value::Text(text) => Ok(text.decode().into_owned()),
            other => self.fail(&format!("want a text, got {}", other.sort())),
        }
    }

    /// Characters of a text, elements of an array, members of an object.
    fn length(&self, scope: Scope<'_>) -> Result<usize, String> {
        match self.needed(scope)? {
            Value::Text(text) => Ok(text.decode().chars().count()),
            Value::Array(elements) => Ok(elements.len()),
            Value::Object(members) => Ok(members.len()),
            other => self.fail(&format!("{} has no length", other.sort())),
        }
    }

    fn to_text(&self, value: Value<'_>) -> Result<String, String> {
        match value {
            Value::Text(text) => Ok(text.decode().into_owned()),
            Value::Number(number) => Ok(number.as_str().to_string()),
            Value::Bool(value) => Ok(value.to_string()),
            other => self.fail(&format!("cannot make a text of {}", other.sort())),
        }
    }

    fn to_number<'s>(&self, value: Value<'s>) -> Result<Number<'s>, String> {
        match value {
            Value::Number(number) => Ok(number),
            Value::Text(text) => {
                let text = text.decode();
                match Number::parse(text.trim()) {
                    Some(number) => Ok(number.into_owned()),
                    None => self.fail(&format!("{text:?} is no number")),
                }
            }
            other => self.fail(&format!("cannot make a number of {}", other.sort())),
        }
    }

    fn describe(&self) -> String {
        match &self.kind {
            Kind::Get(pointer) | Kind::Item(pointer) => pointer.to_string(),
            Kind::Header(name) => format!("header {name}"),
            _ => "the value".to_string(),
        }
    }

    fn fail<T>(&self, reason: &str) -> Result<T, String> {
        Err(format!("at {}: {reason}", self.path))
    }
}

impl About {
    fn of(self, event: &Event) -> Option<Value<'_>> {
        match self {
            Self::Topic => Some(Value::text(event.topic.as_str())),
            Self::Sequence => Some(Value::integer(event.sequence)),
            Self::Time => Some(Value::integer(event.time)),
            Self::Key => event.key_str().map(Value::text),
            Self::ContentType => event.content_type.as_deref().map(Value::text),
        }
    }
}

/// An object's members.
type Members<'a> = [(Text<'a>, Value<'a>)];

/// The operator of an object that is one: its only member begins with `$`.
fn operator<'v, 'a>(members: &'v Members<'a>) -> Option<(Cow<'v, str>, &'v Value<'a>)> {
    let [(name, operand)] = members else {
        return None;
    };
    let name = name.decode();
    name.starts_with('$').then_some((name, operand))
}

fn parse_object(members: &Members<'_>, path: &Path<'_>) -> Result<Kind, ConfigError> {
    let mut object: Vec<(String, Expression)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        let name = name.decode();
        let path = path.name(&name);
        if name.starts_with('$') {
            return Err(path.invalid(
                "an operator stands alone in its object; $literal keeps a name that begins with `$`",
            ));
        }
        if object.iter().any(|(earlier, _)| *earlier == name) {
            return Err(path.invalid("this name stands twice in one object"));
        }
        object.push((name.clone().into_owned(), Expression::parse(value, &path)?));
    }
    Ok(Kind::Object(object))
}

fn parse_all(elements: &[Value<'_>], path: &Path<'_>) -> Result<Vec<Expression>, ConfigError> {
    elements
        .iter()
        .enumerate()
        .map(|(index, element)| Expression::parse(element, &path.index(index)))
        .collect()
}

fn parse_operator(name: &str, operand: &Value<'_>, path: &Path<'_>) -> Result<Kind, ConfigError> {
    match name {
        "$literal" => Ok(Kind::Constant(operand.clone().into_owned())),
        "$get" => parse_pointer(operand, path).map(Kind::Get),
        "$item" => parse_pointer(operand, path).map(Kind::Item),
        "$index" => match operand {
            Value::Bool(true) => Ok(Kind::Index),
            _ => Err(path.invalid("want true")),
        },
        "$header" => match operand {
            Value::Text(name) => Ok(Kind::Header(name.decode().into_owned())),
            _ => Err(path.invalid("want the name of a header")),
        },
        "$event" => match operand.as_text().as_deref() {
            Some("topic") => Ok(Kind::About(About::Topic)),
            Some("sequence") => Ok(Kind::About(About::Sequence)),
            Some("time") => Ok(Kind::About(About::Time)),
            Some("key") => Ok(Kind::About(About::Key)),
            Some("content-type") => Ok(Kind::About(About::ContentType)),
            _ => Err(path.invalid("want topic, sequence, time, key or content-type")),
        },
        _ => parse_call(name, operand, path),
    }
}

fn parse_call(name: &str, operand: &Value<'_>, path: &Path<'_>) -> Result<Kind, ConfigError> {
    let Some((_, function, least, most)) = FUNCTIONS.iter().find(|entry| entry.0 == name) else {
        let names: Vec<_> = FUNCTIONS.iter().map(|entry| entry.0).collect();
        return Err(path.invalid(format!(
            "unknown operator: $get, $item, $index, $header, $event, $literal, {} exist",
            names.join(", ")
        )));
    };
    let arguments = match operand {
        Value::Array(arguments) => parse_all(arguments, path)?,
        // A single argument needs no brackets.
        single => vec![Expression::parse(single, path)?],
    };
    if arguments.len() < *least {
        return Err(path.invalid(format!("takes at least {least} arguments, in an array")));
    }
    if arguments.len() > *most {
        return Err(path.invalid(format!("takes at most {most} arguments")));
    }
    Ok(Kind::Call(*function, arguments))
}

/// Reads a pointer.
pub(crate) fn parse_pointer(value: &Value<'_>, path: &Path<'_>) -> Result<Pointer, ConfigError> {
    let Some(text) = value.as_text() else {
        return Err(path.invalid("want a JSON pointer, such as \"/customer/name\""));
    };
    Pointer::parse(&text).map_err(|reason| path.invalid(reason))
}

/// An integer, if it fits 64 bits, with a sign or without.
fn fitting(integer: i128) -> Option<i128> {
    let fits = i64::try_from(integer).is_ok() || u64::try_from(integer).is_ok();
    fits.then_some(integer)
}

/// Exact only if nothing is left over.
fn divide(left: i128, right: i128) -> Option<i128> {
    (left.checked_rem(right)? == 0).then(|| left.checked_div(right))?
}
