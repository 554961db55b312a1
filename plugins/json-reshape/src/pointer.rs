//! JSON pointers (RFC 6901), and `*` in them for every element or member: parsed once, then used to read, take, put and keep.

use std::collections::HashMap;
use std::fmt;

use crate::value::{Text, Value};

/// A parsed pointer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pointer {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Of a member, or the place of an element.
    Name(String),
    /// Every member or element.
    Every,
}

impl Pointer {
    /// From `""` or `/a/b/0`, with `~1` for `/`, `~0` for `~` and `~2` for `*`.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self { steps: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a JSON pointer begins with `/`, such as \"/customer/name\"");
        };
        let step = |step| match step {
            "*" => Ok(Step::Every),
            name => unescape(name).map(Step::Name),
        };
        let steps = rest.split('/').map(step).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many steps it has.
    pub(crate) fn depth(&self) -> usize {
        self.steps.len()
    }

    /// How many of them are `*`.
    pub(crate) fn stars(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| **step == Step::Every)
            .count()
    }

    /// What it points to: if it has a `*`, an array of all there is; nothing if nothing is there.
    pub(crate) fn read<'a>(&self, document: &Value<'a>) -> Option<Value<'a>> {
        if self.stars() == 0 {
            return self.get(document).cloned();
        }
        let mut found = Vec::new();
        read_all(&self.steps, document, &mut found);
        (!found.is_empty()).then_some(Value::Array(found))
    }

    /// What it points to, if that is there. It has no `*`.
    pub(crate) fn get<'v, 'a>(&self, document: &'v Value<'a>) -> Option<&'v Value<'a>> {
        self.steps
            .iter()
            .try_fold(document, |value, step| match (value, step) {
                // Of several members with one name the last one counts.
                (Value::Object(members), Step::Name(name)) => members
                    .iter()
                    .rev()
                    .find(|(member, _)| member.is(name))
                    .map(|(_, value)| value),
                (Value::Array(elements), Step::Name(name)) => elements.get(index(name)?),
                _ => None,
            })
    }

    /// Takes away all that it points to, and leaves [`Value::Gone`] in its place. Each comes with what `*` stood for.
    pub(crate) fn take<'a>(
        &self,
        document: &mut Value<'a>,
        taken: &mut Vec<(Vec<String>, Value<'a>)>,
    ) {
        take(&self.steps, document, &mut Vec::new(), taken);
    }

    /// With these in place of `*`, from the front.
    pub(crate) fn with(&self, stars: &[String]) -> Self {
        let mut stars = stars.iter();
        let steps = self.steps.iter().map(|step| match step {
            Step::Every => stars.next().cloned().map_or(Step::Every, Step::Name),
            name => name.clone(),
        });
        Self {
            steps: steps.collect(),
        }
    }

    /// Puts a value there. Objects on the way that are missing are made; `-` stands for the end of an array; `*` for those that are
    /// there.
    pub(crate) fn set<'a>(
        &self,
        document: &mut Value<'a>,
        value: &Value<'a>,
    ) -> Result<(), String> {
        set(&self.steps, document, value)
            .map_err(|(step, reason)| format!("cannot set {self}: {}", reason.says(step)))
    }
}

/// Fewer values than this are put where they belong one by one: to find the places of all members costs more.
const MANY: usize = 8;

/// Puts each value where its pointer says, one after the other, as [`Pointer::set`] does it. Members that another of their name
/// replaces may stay as [`Value::Gone`].
pub(crate) fn set_all<'a>(
    document: &mut Value<'a>,
    values: Vec<(Pointer, Value<'a>)>,
) -> Result<(), String> {
    if values.len() < MANY {
        return values
            .iter()
            .try_for_each(|(to, value)| to.set(document, value));
    }
    let mut places = Places::default();
    for (to, value) in values {
        put(&to.steps, document, value, &mut places)
            .map_err(|(step, reason)| format!("cannot set {to}: {}", reason.says(step)))?;
    }
    Ok(())
}

/// What the pointers find, where it is; nothing if they find nothing.
pub(crate) fn pick<'a>(pointers: &[Pointer], document: &Value<'a>) -> Option<Value<'a>> {
    let ways: Vec<_> = pointers
        .iter()
        .map(|pointer| pointer.steps.as_slice())
        .collect();
    picked(&ways, document)
}

fn picked<'a>(ways: &[&[Step]], value: &Value<'a>) -> Option<Value<'a>> {
    if ways.iter().any(|way| way.is_empty()) {
        return Some(value.clone());
    }
    let below = |is_it: &dyn Fn(&str) -> bool, value: &Value<'a>| {
        let ways: Vec<_> = ways
            .iter()
            .filter_map(|way| {
                let (step, rest) = way.split_first()?;
                step.is(is_it).then_some(rest)
            })
            .collect();
        match ways.is_empty() {
            true => None,
            false => picked(&ways, value),
        }
    };
    match value {
        Value::Object(members) => {
            let kept: Vec<_> = members
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.clone(), below(&|step| name.is(step), value)?))
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(elements) => {
            let kept: Vec<_> = elements
                .iter()
                .enumerate()
                .filter_map(|(place, value)| below(&|step| index(step) == Some(place), value))
                .collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => None,
    }
}

impl Step {
    fn is(&self, is_it: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Every => true,
            Self::Name(name) => is_it(name),
        }
    }
}

fn read_all<'a>(steps: &[Step], value: &Value<'a>, found: &mut Vec<Value<'a>>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push(value.clone());
        return;
    };
    match (value, step) {
        (Value::Object(members), _) => {
            let of_name = members
                .iter()
                .filter(|(name, _)| step.is(&|step| name.is(step)));
            of_name.for_each(|(_, value)| read_all(rest, value, found));
        }
        (Value::Array(elements), Step::Every) => {
            elements
                .iter()
                .for_each(|value| read_all(rest, value, found));
        }
        (Value::Array(elements), Step::Name(name)) => {
            if let Some(value) = index(name).and_then(|index| elements.get(index)) {
                read_all(rest, value, found);
            }
        }
        _ => {}
    }
}

fn take<'a>(
    steps: &[Step],
    value: &mut Value<'a>,
    stars: &mut Vec<String>,
    taken: &mut Vec<(Vec<String>, Value<'a>)>,
) {
    let Some((step, rest)) = steps.split_first() else {
        let value = std::mem::replace(value, Value::Gone);
        if !matches!(value, Value::Gone) {
            taken.push((stars.clone(), value));
        }
        return;
    };
    let mut below = |stood_for: Option<String>, value: &mut Value<'a>| {
        let is_star = stood_for.is_some();
        stars.extend(stood_for);
        take(rest, value, stars, taken);
        if is_star {
            stars.pop();
        }
    };
    match (value, step) {
        (Value::Object(members), Step::Every) => {
            for (name, value) in members {
                below(Some(name.decode().into_owned()), value);
            }
        }
        (Value::Array(elements), Step::Every) => {
            for (place, value) in elements.iter_mut().enumerate() {
                below(Some(place.to_string()), value);
            }
        }
        (Value::Object(members), Step::Name(name)) => {
            for (_, value) in members.iter_mut().filter(|(member, _)| member.is(name)) {
                below(None, value);
            }
        }
        (Value::Array(elements), Step::Name(name)) => {
            if let Some(value) = index(name).and_then(|index| elements.get_mut(index)) {
                below(None, value);
            }
        }
        _ => {}
    }
}

/// Why a value cannot be put somewhere.
enum Unsettable {
    NoElement,
    NoContainer,
}

impl Unsettable {
    fn says(&self, step: &str) -> String {
        match self {
            Self::NoElement => format!("the array has no element {step}"),
            Self::NoContainer => format!("what is above {step} is neither object nor array"),
        }
    }
}

fn set<'s, 'a>(
    steps: &'s [Step],
    at: &mut Value<'a>,
    value: &Value<'a>,
) -> Result<(), (&'s str, Unsettable)> {
    let Some((step, rest)) = steps.split_first() else {
        *at = value.clone();
        return Ok(());
    };
    let name = match step {
        Step::Name(name) => name,
        Step::Every => {
            return match at {
                Value::Object(members) => members
                    .iter_mut()
                    .try_for_each(|(_, at)| set(rest, at, value)),
                Value::Array(elements) => {
                    elements.iter_mut().try_for_each(|at| set(rest, at, value))
                }
                _ => Ok(()),
            };
        }
    };
    // Of what is not there nothing is an element.
    let wants_more = rest.contains(&Step::Every);
    if matches!(at, Value::Null | Value::Gone) {
        if wants_more {
            return Ok(());
        }
        *at = Value::Object(Vec::new());
    }
    match at {
        Value::Object(members) => {
            let last = members.iter().rposition(|(member, _)| member.is(name));
            if last.is_none() && wants_more {
                return Ok(());
            }
            let place = last.unwrap_or_else(|| {
                members.push((Text::plain(name.clone()), Value::Null));
                members.len() - 1
            });
            set(rest, &mut members[place].1, value)?;
            // Others of the name would say something else.
            let mut before = 0..place;
            members.retain(|(member, _)| before.next().is_none() || !member.is(name));
            Ok(())
        }
        Value::Array(elements) => {
            if name == "-" {
                if wants_more {
                    return Ok(());
                }
                elements.push(Value::Null);
            }
            let place = match name.as_str() {
                "-" => elements.len().checked_sub(1),
                name => index(name),
            };
            let Some(at) = place.and_then(|place| elements.get_mut(place)) else {
                return Err((name, Unsettable::NoElement));
            };
            set(rest, at, value)
        }
        _ => Err((name, Unsettable::NoContainer)),
    }
}

/// Where the members of a value are, so that none is searched twice.
#[derive(Default)]
struct Places {
    /// Of an object's members, by name, in order. Of several with one name only the last one counts.
    names: Option<HashMap<String, Vec<usize>>>,
    below: HashMap<usize, Places>,
}

impl Places {
    /// The place of the member of that name, which is made if there is none.
    fn of(&mut self, name: &str, members: &mut Vec<(Text<'_>, Value<'_>)>) -> usize {
        let names = self.names.get_or_insert_with(|| {
            let mut names: HashMap<String, Vec<usize>> = HashMap::new();
            for (place, (member, _)) in members.iter().enumerate() {
                let member = member.decode().into_owned();
                names.entry(member).or_default().push(place);
            }
            names
        });
        if !names.contains_key(name) {
            names.insert(name.to_owned(), vec![members.len()]);
            members.push((Text::plain(name.to_owned()), Value::Null));
        }
        let of_name = names.get_mut(name);
        let last = of_name.and_then(|places| {
            let last = places.pop()?;
            // Others of the name would say something else. They keep their places, which are known here.
            places
                .drain(..)
                .for_each(|before| members[before].1 = Value::Gone);
            places.push(last);
            Some(last)
        });
        last.unwrap_or_default()
    }
}

/// The same as [`set`], with what is known of places below `at`.
fn put<'s, 'a>(
    steps: &'s [Step],
    at: &mut Value<'a>,
    value: Value<'a>,
    places: &mut Places,
) -> Result<(), (&'s str, Unsettable)> {
    let (name, rest) = match steps.split_first() {
        Some((Step::Name(name), rest)) => (name, rest),
        Some((Step::Every, _)) | None => {
            *places = Places::default();
            return set(steps, at, &value);
        }
    };
    if matches!(at, Value::Null | Value::Gone) {
        *places = Places::default();
        *at = Value::Object(Vec::new());
    }
    match at {
        Value::Object(members) => {
            let place = places.of(name, members);
            let below = places.below.entry(place).or_default();
            put(rest, &mut members[place].1, value, below)
        }
        Value::Array(elements) if name != "-" => {
            let place = index(name).filter(|place| *place < elements.len());
            let place = place.ok_or((name.as_str(), Unsettable::NoElement))?;
            let below = places.below.entry(place).or_default();
            put(rest, &mut elements[place], value, below)
        }
        // At its end, where nothing is known of, or nowhere.
        _ => set(steps, at, &value),
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return f.write_str("the whole value");
        }
        for step in &self.steps {
            match step {
                Step::Every => f.write_str("/*")?,
                Step::Name(name) if name == "*" => f.write_str("/~2")?,
                Step::Name(name) => {
                    write!(f, "/{}", name.replace('~', "~0").replace('/', "~1"))?;
                }
            }
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
                Some('2') => '*',
                _ => return Err("in a JSON pointer `~` may only stand in `~0`, `~1` and `~2`"),
            },
            other => other,
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    fn value(text: &str) -> Value<'_> {
        Value::parse(text).unwrap()
    }

    #[test]
    fn reads() {
        let document = r#"{"a":[{"b/c":1},2],"~":3,"":4,"01":5,"*":6,"d":1,"d":2,"\u0065":7}"#;
        let check = |text, want: Option<&str>| {
            let read = pointer(text).read(&value(document));
            assert_eq!(read.map(|value| value.to_json()).as_deref(), want, "{text}");
        };
        check("", Some(document));
        check("/a/0/b~1c", Some("1"));
        check("/a/1", Some("2"));
        check("/a/01", None);
        check("/a/-", None);
        check("/~0", Some("3"));
        check("/", Some("4"));
        check("/01", Some("5"));
        check("/~2", Some("6"));
        check("/d", Some("2"));
        check("/e", Some("7"));
        check("/a/1/x", None);
        check("/a/*", Some(r#"[{"b/c":1},2]"#));
        check("/a/*/*", Some("[1]"));
        check("/a/*/x", None);
        check("/d/*", None);
        assert!(Pointer::parse("a").is_err());
        assert!(Pointer::parse("/~3").is_err());
        for text in ["/a/0/b~1c", "/~0", "/*/~2"] {
            assert_eq!(pointer(text).to_string(), text);
        }
    }

    #[test]
    fn many_are_put_as_each_by_itself() {
        let names = ["a", "b", "0", "1", "-", "new"];
        let pointers = names.iter().flat_map(|first| {
            names.iter().flat_map(move |second| {
                [
                    format!("/{first}"),
                    format!("/{first}/{second}"),
                    format!("/{first}/b/{second}"),
                ]
            })
        });
        let pointers: Vec<_> = pointers.map(|text| pointer(&text)).collect();
        for document in [
            r#"{"a":{"b":1,"b":{"a":2}},"a":[1,{"b":2}],"b":{},"\u0061":{"b":{"b":3},"0":4}}"#,
            r#"[{"a":1,"a":{"b":2}},[3]]"#,
            r#"{"0":{"b":[]},"0":{"b":[1,{"b":[2]}]}}"#,
        ] {
            for skipped in 0..pointers.len() {
                let values: Vec<_> = pointers
                    .iter()
                    .cycle()
                    .skip(skipped * 7)
                    .step_by(1 + skipped % 5)
                    .take(12)
                    .map(|to| (to.clone(), value(r#"{"b":5,"b":6}"#)))
                    .collect();
                let mut one_by_one = value(document);
                let expected = values
                    .iter()
                    .try_for_each(|(to, value)| to.set(&mut one_by_one, value));
                let mut together = value(document);
                assert_eq!(set_all(&mut together, values), expected);
                if expected.is_ok() {
                    together.sweep();
                    one_by_one.sweep();
                    assert_eq!(together.to_json(), one_by_one.to_json());
                }
            }
        }
    }

    #[test]
    fn what_is_put_into_large_objects_is_not_searched_for_among_all() {
        use crate::value::COMPARED;
        const MEMBERS: usize = 2_000;
        let members: Vec<_> = (0..MEMBERS).map(|n| format!(r#""{n}":{{}}"#)).collect();
        let members = members.join(",");
        let document = format!(r#"{{"by":{{{members}}},"cards":{{{members}}}}}"#);
        let mut document = value(&document);
        let values = ["by", "cards", "more"].into_iter().flat_map(|object| {
            (0..MEMBERS).map(move |n| (pointer(&format!("/{object}/{n}/card")), Value::Null))
        });
        COMPARED.set(0);
        set_all(&mut document, values.collect()).expect("there are objects");
        assert!(COMPARED.get() < MEMBERS, "{}", COMPARED.get());
        let put = pointer("/more/1999").get(&document).map(Value::to_json);
        assert_eq!(put.as_deref(), Some(r#"{"card":null}"#));
    }

    #[test]
    fn puts_and_takes() {
        let mut document = value(r#"{"a":[1],"d":1,"d":2}"#);
        let mut put = |text: &str, json: &'static str| {
            pointer(text)
                .set(&mut document, &value(json))
                .map(|()| document.to_json())
        };
        let done = |json: &str| Ok(json.to_string());
        assert_eq!(put("/a/-", "2"), done(r#"{"a":[1,2],"d":1,"d":2}"#));
        assert_eq!(put("/d", "3"), done(r#"{"a":[1,2],"d":3}"#));
        assert_eq!(put("/a/*", "[0]"), done(r#"{"a":[[0],[0]],"d":3}"#));
        assert_eq!(put("/a/*/0", "4"), done(r#"{"a":[[4],[4]],"d":3}"#));
        assert_eq!(
            put("/b/c", "5"),
            done(r#"{"a":[[4],[4]],"d":3,"b":{"c":5}}"#)
        );
        assert!(put("/a/5", "0").is_err());
        assert!(put("/d/x", "0").is_err());
        for nothing in ["/none/*", "/none/x/*", "/a/-/*", "/b/c/*"] {
            let before = r#"{"a":[[4],[4]],"d":3,"b":{"c":5}}"#;
            assert_eq!(put(nothing, "0"), done(before), "{nothing}");
        }

        let mut taken = Vec::new();
        let mut document = value(r#"{"a":[{"x":1},{"x":2},3],"d":1,"d":2}"#);
        pointer("/a/*/x").take(&mut document, &mut taken);
        pointer("/d").take(&mut document, &mut taken);
        pointer("/a/0").take(&mut document, &mut taken);
        pointer("/a/0").take(&mut document, &mut taken);
        pointer("/a/9").take(&mut document, &mut taken);
        document.sweep();
        assert_eq!(document.to_json(), r#"{"a":[{},3]}"#);
        let taken: Vec<_> = taken
            .iter_mut()
            .map(|(stars, value)| {
                value.sweep();
                (stars.join(","), value.to_json())
            })
            .collect();
        let of = |stars: &str, json: &str| (stars.to_string(), json.to_string());
        assert_eq!(
            taken,
            [
                of("0", "1"),
                of("1", "2"),
                of("", "1"),
                of("", "2"),
                of("", "{}")
            ]
        );
    }
}
