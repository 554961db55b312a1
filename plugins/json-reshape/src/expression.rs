//! Templates and what can be computed in them. A template is JSON in which an object with one member named `$…` stands
//! for a computed value; everything else stands for itself.

use serde_json::{Map, Number, Value};
use tidegate_plugin::Event;

use crate::error::{ConfigError, Path};
use crate::pointer::Pointer;

/// What an expression can look at.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) event: &'a Event,
    /// The event's payload.
    pub(crate) document: &'a Value,
    /// The element an event is being made for, or the payload.
    pub(crate) item: &'a Value,
    pub(crate) index: usize,
}

/// A template, with the text of its own place for the reasons it may give.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expression {
    path: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Constant(Value),
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
    pub(crate) fn parse(template: &Value, path: &Path<'_>) -> Result<Self, ConfigError> {
        let kind = match template {
            Value::Object(members) => match operator(members) {
                Some((name, operand)) => parse_operator(name, operand, &path.name(name))?,
                None => parse_object(members, path)?,
            },
            Value::Array(elements) => Kind::Array(parse_all(elements, path)?),
            constant => Kind::Constant(constant.clone()),
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
    pub(crate) fn evaluate(&self, scope: Scope<'_>) -> Result<Option<Value>, String> {
        Ok(match &self.kind {
            Kind::Constant(value) => Some(value.clone()),
            Kind::Object(members) => {
                let mut object = Map::new();
                for (name, expression) in members {
                    if let Some(value) = expression.evaluate(scope)? {
                        object.insert(name.clone(), value);
                    }
                }
                Some(Value::Object(object))
            }
            Kind::Array(elements) => {
                let mut array = Vec::with_capacity(elements.len());
                for expression in elements {
                    array.push(expression.evaluate(scope)?.unwrap_or_default());
                }
                Some(Value::Array(array))
            }
            Kind::Get(pointer) => pointer.get(scope.document).cloned(),
            Kind::Item(pointer) => pointer.get(scope.item).cloned(),
            Kind::Index => Some(scope.index.into()),
            Kind::Header(name) => scope.event.header(name).map(Value::from),
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
            Some(other) => self.fail(&format!("want true or false, got {}", sort(&other))),
        }
    }

    fn call(
        &self,
        function: Function,
        arguments: &[Self],
        scope: Scope<'_>,
    ) -> Result<Option<Value>, String> {
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
                text.into()
            }
            Function::Upper => first.needed_text(scope)?.to_uppercase().into(),
            Function::Lower => first.needed_text(scope)?.to_lowercase().into(),
            Function::Length => first.length(scope)?.into(),
            Function::Text => first.to_text(first.needed(scope)?)?.into(),
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
                        return Ok(Some(false.into()));
                    }
                }
                true.into()
            }
            Function::Or => {
                for argument in arguments {
                    if argument.evaluate_condition(scope)? {
                        return Ok(Some(true.into()));
                    }
                }
                false.into()
            }
            Function::Not => (!first.evaluate_condition(scope)?).into(),
            Function::Exists => first.evaluate(scope)?.is_some().into(),
            _ => self.compare(function, arguments, scope)?.into(),
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
            (Some(Value::Number(left)), Some(Value::Number(right))) => {
                match (as_integer(left), as_integer(right)) {
                    (Some(left), Some(right)) => Some(left.cmp(&right)),
                    _ => left
                        .as_f64()
                        .zip(right.as_f64())
                        .and_then(|(left, right)| left.partial_cmp(&right)),
                }
            }
            (Some(Value::String(left)), Some(Value::String(right))) => Some(left.cmp(right)),
            _ => None,
        };
        let is_equal = order.map_or(left == right, |order| order.is_eq());
        match (function, order) {
            (Function::Equal, _) => Ok(is_equal),
            (Function::NotEqual, _) => Ok(!is_equal),
            (Function::Less, Some(order)) => Ok(order.is_lt()),
            (Function::LessOrEqual, Some(order)) => Ok(order.is_le()),
            (Function::Greater, Some(order)) => Ok(order.is_gt()),
            (Function::GreaterOrEqual, Some(order)) => Ok(order.is_ge()),
            _ => {
                let name = |value: &Option<Value>| value.as_ref().map_or("nothing", sort);
                let (left, right) = (name(&left), name(&right));
                self.fail(&format!("cannot compare {left} with {right}"))
            }
        }
    }

    fn fold_numbers(
        &self,
        arguments: &[Self],
        scope: Scope<'_>,
        exact: fn(i128, i128) -> Option<i128>,
        approximate: fn(f64, f64) -> f64,
    ) -> Result<Value, String> {
        let mut result: Option<Number> = None;
        for argument in arguments {
            let Value::Number(number) = argument.needed(scope)? else {
                return argument.fail("want a number; $number makes one of text");
            };
            let Some(before) = result else {
                result = Some(number);
                continue;
            };
            let integers = as_integer(&before).zip(as_integer(&number));
            result = Some(
                match integers.and_then(|(left, right)| number_of(exact(left, right)?)) {
                    Some(integer) => integer,
                    None => {
                        let left = before.as_f64().unwrap_or(f64::NAN);
                        let right = number.as_f64().unwrap_or(f64::NAN);
                        match Number::from_f64(approximate(left, right)) {
                            Some(number) => number,
                            None => return self.fail("the result is no finite number"),
                        }
                    }
                },
            );
        }
        Ok(result.map_or(Value::Null, Value::Number))
    }

    fn needed(&self, scope: Scope<'_>) -> Result<Value, String> {
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
            Value::String(text) => Ok(text),
            other => self.fail(&format!("want a text, got {}", sort(&other))),
        }
    }

    /// Characters of a text, elements of an array, members of an object.
    fn length(&self, scope: Scope<'_>) -> Result<usize, String> {
        match self.needed(scope)? {
            Value::String(text) => Ok(text.chars().count()),
            Value::Array(elements) => Ok(elements.len()),
            Value::Object(members) => Ok(members.len()),
            other => self.fail(&format!("{} has no length", sort(&other))),
        }
    }

    fn to_text(&self, value: Value) -> Result<String, String> {
        match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(value) => Ok(value.to_string()),
            other => self.fail(&format!("cannot make a text of {}", sort(&other))),
        }
    }

    fn to_number(&self, value: Value) -> Result<Number, String> {
        match value {
            Value::Number(number) => Ok(number),
            Value::String(text) => match serde_json::from_str(text.trim()) {
                Ok(number) => Ok(number),
                Err(_) => self.fail(&format!("{text:?} is no number")),
            },
            other => self.fail(&format!("cannot make a number of {}", sort(&other))),
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
    fn of(self, event: &Event) -> Option<Value> {
        match self {
            Self::Topic => Some(event.topic.as_str().into()),
            Self::Sequence => Some(event.sequence.into()),
            Self::Time => Some(event.time.into()),
            Self::Key => event.key_str().map(Value::from),
            Self::ContentType => event.content_type.as_deref().map(Value::from),
        }
    }
}

/// The operator of an object that is one: its only member begins with `$`.
fn operator(members: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, operand) = members.iter().next()?;
    (members.len() == 1 && name.starts_with('$')).then_some((name, operand))
}

fn parse_object(members: &Map<String, Value>, path: &Path<'_>) -> Result<Kind, ConfigError> {
    let mut object = Vec::with_capacity(members.len());
    for (name, value) in members {
        let path = path.name(name);
        if name.starts_with('$') {
            return Err(path.invalid(
                "an operator stands alone in its object; $literal keeps a name that begins with `$`",
            ));
        }
        object.push((name.clone(), Expression::parse(value, &path)?));
    }
    Ok(Kind::Object(object))
}

fn parse_all(elements: &[Value], path: &Path<'_>) -> Result<Vec<Expression>, ConfigError> {
    elements
        .iter()
        .enumerate()
        .map(|(index, element)| Expression::parse(element, &path.index(index)))
        .collect()
}

fn parse_operator(name: &str, operand: &Value, path: &Path<'_>) -> Result<Kind, ConfigError> {
    match name {
        "$literal" => Ok(Kind::Constant(operand.clone())),
        "$get" => parse_pointer(operand, path).map(Kind::Get),
        "$item" => parse_pointer(operand, path).map(Kind::Item),
        "$index" => match operand {
            Value::Bool(true) => Ok(Kind::Index),
            _ => Err(path.invalid("want true")),
        },
        "$header" => match operand {
            Value::String(name) => Ok(Kind::Header(name.clone())),
            _ => Err(path.invalid("want the name of a header")),
        },
        "$event" => match operand.as_str() {
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

fn parse_call(name: &str, operand: &Value, path: &Path<'_>) -> Result<Kind, ConfigError> {
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
pub(crate) fn parse_pointer(value: &Value, path: &Path<'_>) -> Result<Pointer, ConfigError> {
    let Value::String(text) = value else {
        return Err(path.invalid("want a JSON pointer, such as \"/customer/name\""));
    };
    Pointer::parse(text).map_err(|reason| path.invalid(reason))
}

/// An integer of 64 bits, with a sign or without.
fn as_integer(number: &Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

fn number_of(integer: i128) -> Option<Number> {
    let signed = i64::try_from(integer).ok().map(Number::from);
    signed.or_else(|| u64::try_from(integer).ok().map(Number::from))
}

/// Exact only if nothing is left over.
fn divide(left: i128, right: i128) -> Option<i128> {
    (left.checked_rem(right)? == 0).then(|| left.checked_div(right))?
}

fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
