//! From an event to what it becomes.

use tidegate_json_scanner::line_and_column;
use tidegate_plugin::{Emitted, Event, Failure, Header, Outcome, Output, Transform};

use crate::config::{Edits, Payload, Reshape};
use crate::expression::Scope;
use crate::pointer::{pick, set_all};
use crate::value::Value;

impl Transform for Reshape {
    fn configure(config: &str) -> Result<Self, String> {
        Self::parse(config).map_err(|error| error.to_string())
    }

    fn apply(&self, event: &Event) -> Result<Outcome, Failure> {
        let document =
            parse(&event.payload).map_err(|reason| format!("the payload is not JSON: {reason}"))?;
        let whole = Scope {
            event,
            document: &document,
            item: &document,
            index: 0,
        };
        let Some(each) = &self.each else {
            return Ok(match self.reshape(whole)? {
                None => Outcome::Drop,
                Some(emitted) if emitted.output.is_some() => Outcome::Emit(vec![emitted]),
                Some(emitted) => Outcome::Replace(emitted.event),
            });
        };
        let Some(Value::Array(elements)) = each.get(&document) else {
            return Err(format!("at each: there is no array at {each}").into());
        };
        let mut all = Vec::with_capacity(elements.len());
        for (index, item) in elements.iter().enumerate() {
            all.extend(self.reshape(Scope {
                item,
                index,
                ..whole
            })?);
        }
        Ok(Outcome::Emit(all))
    }
}

impl Reshape {
    /// The event made for one scope, unless its condition is not met.
    fn reshape(&self, scope: Scope<'_>) -> Result<Option<Emitted>, String> {
        if let Some(only_if) = &self.only_if
            && !only_if.evaluate_condition(scope)?
        {
            return Ok(None);
        }
        let event = Output {
            key: match &self.key {
                None => scope.event.key.clone(),
                Some(key) => key.evaluate_text(scope)?.map(String::into_bytes),
            },
            content_type: match &self.content_type {
                None => scope.event.content_type.clone(),
                Some(content_type) => content_type.evaluate_text(scope)?,
            },
            headers: self.headers(scope)?,
            payload: self.payload(scope)?.to_json().into_bytes(),
        };
        let output = match &self.output {
            None => None,
            Some(output) => output.evaluate_text(scope)?,
        };
        Ok(Some(Emitted { output, event }))
    }

    /// The event's headers; those that are set come last, in place of all of the same name.
    fn headers(&self, scope: Scope<'_>) -> Result<Vec<Header>, String> {
        let is_set = |name: &str| self.headers.iter().any(|(set, _)| set == name);
        let kept = scope.event.headers.iter();
        let mut headers: Vec<_> = kept
            .filter(|header| !is_set(&header.name))
            .cloned()
            .collect();
        for (name, expression) in &self.headers {
            if let Some(value) = expression.evaluate_text(scope)? {
                headers.push(Header {
                    name: name.clone(),
                    value,
                });
            }
        }
        Ok(headers)
    }

    fn payload<'s>(&'s self, scope: Scope<'s>) -> Result<Value<'s>, String> {
        match &self.payload {
            Payload::Template(template) => Ok(template.evaluate(scope)?.unwrap_or(Value::Null)),
            Payload::Edits(edits) => edits.apply(scope),
        }
    }
}

impl Edits {
    fn apply<'s>(&'s self, scope: Scope<'s>) -> Result<Value<'s>, String> {
        let mut payload = match &self.pick {
            None => scope.item.clone(),
            Some(pointers) => pick(pointers, scope.item).unwrap_or(match scope.item {
                Value::Array(_) => Value::Array(Vec::new()),
                _ => Value::Object(Vec::new()),
            }),
        };
        // Everything is taken out before anything is put anywhere, and places in arrays stay until then: so all pointers mean
        // the payload as it came, and what is renamed out of something that is removed stays.
        let mut taken = Vec::new();
        let mut moved = Vec::new();
        for (from, to) in &self.rename {
            from.take(&mut payload, &mut taken);
            moved.extend(
                taken
                    .drain(..)
                    .map(|(stars, value)| (to.with(&stars), value)),
            );
        }
        for pointer in &self.remove {
            pointer.take(&mut payload, &mut taken);
        }
        let is_changed = !moved.is_empty() || !taken.is_empty();
        // What is moved into something else that is moved comes behind it.
        moved.sort_by_key(|(to, _)| to.depth());
        set_all(&mut payload, moved)?;
        if is_changed {
            payload.sweep();
        }
        for (pointer, expression) in &self.set {
            if let Some(value) = expression.evaluate(scope)? {
                pointer.set(&mut payload, &value)?;
            }
        }
        Ok(payload)
    }
}

fn parse(payload: &[u8]) -> Result<Value<'_>, String> {
    let text = std::str::from_utf8(payload)
        .map_err(|error| format!("byte {} is not UTF-8", error.valid_up_to()))?;
    Value::parse(text).map_err(|malformed| {
        let (line, column) = line_and_column(text, malformed.offset);
        format!("{} at line {line}, column {column}", malformed.what)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ORDER: &str = r#"{"id": 7, "customer": {"name": "Anna", "card": "4111"},
        "items": [{"sku": "a", "price": 2.5, "count": 4}, {"sku": "b", "price": 3, "count": 1}]}"#;

    fn event(payload: &str) -> Event {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        Event {
            topic: "orders".into(),
            sequence: 12,
            time: 1_000,
            key: Some(b"k".to_vec()),
            content_type: Some("text/json".into()),
            headers: vec![header("a", "1"), header("b", "2"), header("a", "3")],
            payload: payload.into(),
        }
    }

    fn apply(config: Value, payload: &str) -> Result<Outcome, Failure> {
        Reshape::parse(&config.to_string())
            .unwrap_or_else(|error| panic!("{config}: {error}"))
            .apply(&event(payload))
    }

    fn payload(output: &Output) -> Value {
        serde_json::from_slice(&output.payload).unwrap()
    }

    /// Asserts that `config` replaces the payload by `want`.
    fn check(config: Value, input: &str, want: Value) {
        match apply(config.clone(), input) {
            Ok(Outcome::Replace(output)) => assert_eq!(payload(&output), want, "{config}"),
            other => panic!("{config}: {other:?}"),
        }
    }

    /// Asserts that `template`, for the order above, is `want`.
    fn check_template(template: Value, want: Value) {
        check(json!({"payload": template}), ORDER, want);
    }

    /// Asserts that the event is rejected for a reason that begins with `says`.
    fn check_rejected(config: Value, input: &str, says: &str) {
        match apply(config.clone(), input) {
            Err(Failure::Reject(reason)) => assert!(reason.starts_with(says), "{config}: {reason}"),
            other => panic!("{config}: {other:?}"),
        }
    }

    #[test]
    fn integers_of_64_bits_are_exact_with_and_without_a_sign() {
        let (max, below) = (u64::MAX, u64::MAX - 1);
        let computed = |template: Value, want: Value| {
            check_template(json!({"it": template}), json!({"it": want}));
        };
        computed(json!({"$eq": [max, below]}), json!(false));
        computed(json!({"$gt": [max, below]}), json!(true));
        computed(json!({"$lt": [-1, max]}), json!(true));
        computed(json!({"$add": [below, 1]}), json!(max));
        computed(json!({"$add": [i64::MAX, 1]}), json!(1_u64 << 63));
        computed(json!({"$sub": [max, below]}), json!(1));
        computed(json!({"$sub": [i64::MAX, max]}), json!(i64::MIN));
        computed(json!({"$mul": [i64::MAX, 2]}), json!(below));
        computed(json!({"$div": [max, 5]}), json!(max / 5));
        // What does not fit is a double, as before.
        computed(json!({"$add": [max, 1]}), json!(18446744073709551616.0));
        computed(
            json!({"$sub": [i64::MIN, 1]}),
            json!(-9223372036854775809.0),
        );
    }

    #[test]
    fn edits_come_in_a_fixed_order() {
        check(
            json!({"pick": ["/id", "/customer/name", "/missing"]}),
            ORDER,
            json!({"id": 7, "customer": {"name": "Anna"}}),
        );
        check(
            json!({"remove": ["/customer/card", "/items", "/missing"]}),
            ORDER,
            json!({"id": 7, "customer": {"name": "Anna"}}),
        );
        check(
            json!({
                "pick": ["/customer", "/id"],
                "remove": ["/customer/card"],
                "rename": {"/id": "/order/number", "/missing": "/x"},
                "set": {"/source": "shop", "/order/lines": {"$length": {"$get": "/items"}}, "/none": {"$get": "/none"}},
            }),
            ORDER,
            json!({"customer": {"name": "Anna"}, "order": {"number": 7, "lines": 2}, "source": "shop"}),
        );
    }

    /// Asserts the very text of the payload that `config` makes of `input`.
    fn check_text(config: &str, input: &str, want: &str) {
        let reshape = Reshape::parse(config).unwrap_or_else(|error| panic!("{config}: {error}"));
        match reshape.apply(&event(input)) {
            Ok(Outcome::Replace(output)) => {
                assert_eq!(String::from_utf8_lossy(&output.payload), want, "{config}");
            }
            other => panic!("{config}: {other:?}"),
        }
    }

    #[test]
    fn nothing_is_lost_that_was_not_named() {
        // Numbers, escapes, order, repetitions.
        check_text(
            r#"{"remove": ["/x"]}"#,
            r#"{"z": 1e400, "x": 0, "b": -0.10, "n": 123456789012345678901234567890, "s": "\ud800\u0041", "b": 2}"#,
            r#"{"z":1e400,"b":-0.10,"n":123456789012345678901234567890,"s":"\ud800\u0041","b":2}"#,
        );
        check_text(r#"{"key": "k"}"#, " [1.0, 1E5] ", "[1.0,1E5]");
        check_text(
            r#"{"pick": ["/b", "/a"]}"#,
            r#"{"a": 1.50, "c": 1, "b": 2e0}"#,
            r#"{"a":1.50,"b":2e0}"#,
        );
        check_text(
            r#"{"payload": {"b": {"$get": "/n"}, "a": {"$text": {"$get": "/n"}}}}"#,
            r#"{"n": 1e400}"#,
            r#"{"b":1e400,"a":"1e400"}"#,
        );
    }

    #[test]
    fn all_pointers_mean_the_payload_as_it_came() {
        let check = |config: &str, want: &str| {
            check_text(
                config,
                r#"{"a": {"b": 1, "c": 2}, "l": [0, 1, 2], "x": 9}"#,
                want,
            );
        };
        // The child that is renamed stays when its parent goes, in whatever order the two are written.
        check(
            r#"{"remove": ["/a"], "rename": {"/a/b": "/b"}}"#,
            r#"{"l":[0,1,2],"x":9,"b":1}"#,
        );
        check(
            r#"{"rename": {"/a/b": "/a/z"}, "remove": ["/a"]}"#,
            r#"{"a":{"z":1},"l":[0,1,2],"x":9}"#,
        );
        check(
            r#"{"rename": {"/a": "/n", "/a/b": "/b"}}"#,
            r#"{"l":[0,1,2],"x":9,"b":1,"n":{"c":2}}"#,
        );
        check(
            r#"{"rename": {"/a/b": "/a/c", "/a/c": "/a/b"}}"#,
            r#"{"a":{"b":2,"c":1},"l":[0,1,2],"x":9}"#,
        );
        // What is removed is what was there, not what comes there.
        check(
            r#"{"rename": {"/a": "/x"}, "remove": ["/x"]}"#,
            r#"{"l":[0,1,2],"x":{"b":1,"c":2}}"#,
        );
        check(
            r#"{"rename": {"/a/b": "/x/in", "/a": "/x"}}"#,
            r#"{"l":[0,1,2],"x":{"c":2,"in":1}}"#,
        );
    }

    #[test]
    fn places_in_arrays_are_those_of_before() {
        let check = |config: &str, want: &str| check_text(config, r#"{"l": [0, 1, 2]}"#, want);
        check(r#"{"remove": ["/l/0", "/l/1"]}"#, r#"{"l":[2]}"#);
        check(
            r#"{"rename": {"/l/0": "/a", "/l/1": "/b"}}"#,
            r#"{"l":[2],"a":0,"b":1}"#,
        );
        check(
            r#"{"remove": ["/l/0"], "rename": {"/l/1": "/l/2"}, "set": {"/l/-": 7}}"#,
            r#"{"l":[1,7]}"#,
        );
        check(r#"{"pick": ["/l/2", "/l/0"]}"#, r#"{"l":[0,2]}"#);
    }

    #[test]
    fn a_star_is_every_element_or_member() {
        let check = |config: &str, want: &str| {
            check_text(
                config,
                r#"{"items": [{"sku": "a", "card": 1}, {"sku": "b"}, 5], "by": {"x": {"card": 2}, "y": {}}}"#,
                want,
            );
        };
        check(
            r#"{"remove": ["/items/*/card", "/*/*/card", "/none/*"]}"#,
            r#"{"items":[{"sku":"a"},{"sku":"b"},5],"by":{"x":{},"y":{}}}"#,
        );
        check(
            r#"{"remove": ["/items/*"]}"#,
            r#"{"items":[],"by":{"x":{"card":2},"y":{}}}"#,
        );
        check(
            r#"{"pick": ["/items/*/sku", "/by/*/card"]}"#,
            r#"{"items":[{"sku":"a"},{"sku":"b"}],"by":{"x":{"card":2}}}"#,
        );
        check(
            r#"{"rename": {"/items/*/sku": "/items/*/id", "/by/*/card": "/cards/*"}, "remove": ["/items/2", "/by"]}"#,
            r#"{"items":[{"card":1,"id":"a"},{"id":"b"}],"cards":{"x":2}}"#,
        );
        check(
            r#"{"pick": ["/by"], "set": {"/by/*/seen": true, "/none/*": 1}}"#,
            r#"{"by":{"x":{"card":2,"seen":true},"y":{"seen":true}}}"#,
        );
        check(
            r#"{"payload": [{"$get": "/items/*/sku"}, {"$get": "/items/*/no"}, {"$length": {"$item": "/by/*"}}]}"#,
            r#"[["a","b"],null,2]"#,
        );
        check_rejected(
            json!({"set": {"/items/*/x": 1}}),
            r#"{"items": [{}, 5]}"#,
            "cannot set /items/*/x: what is above x",
        );
        check_text(
            r#"{"remove": ["/~2"]}"#,
            r#"{"*": 1, "a": 2}"#,
            r#"{"a":2}"#,
        );
    }

    #[test]
    fn a_repeated_member_is_taken_with_all_it_says() {
        let check = |config: &str, want: &str| {
            check_text(config, r#"{"a": 1, "b": 0, "a": {"c": 2}}"#, want);
        };
        check(r#"{"remove": ["/a"]}"#, r#"{"b":0}"#);
        check(r#"{"set": {"/a": 3}}"#, r#"{"b":0,"a":3}"#);
        check(r#"{"rename": {"/a": "/d"}}"#, r#"{"b":0,"d":{"c":2}}"#);
        check(r#"{"payload": {"$get": "/a/c"}}"#, "2");
    }

    #[test]
    fn templates() {
        check_template(
            json!({"a": {"$get": "/id"}, "b": [1, {"$get": "/items/1/sku"}, {"$get": "/no"}], "c": {"$get": "/no"}}),
            json!({"a": 7, "b": [1, "b", null]}),
        );
        check_template(json!({"$literal": {"$get": "/id"}}), json!({"$get": "/id"}));
        check_template(
            json!([{"$event": "topic"}, {"$event": "sequence"}, {"$event": "time"}, {"$event": "key"},
                {"$event": "content-type"}, {"$header": "a"}, {"$header": "z"}]),
            json!(["orders", 12, 1000, "k", "text/json", "1", null]),
        );
    }

    #[test]
    fn arithmetic() {
        check_template(json!({"$add": [1, {"$get": "/id"}, 2]}), json!(10));
        check_template(json!({"$sub": [1, 2]}), json!(-1));
        check_template(
            json!({"$mul": [{"$get": "/items/0/price"}, {"$get": "/items/0/count"}]}),
            json!(10.0),
        );
        check_template(json!({"$div": [6, 3]}), json!(2));
        check_template(json!({"$div": [1, 4]}), json!(0.25));
        check_template(
            json!({"$add": [18_446_744_073_709_551_615_u64, 1]}),
            json!(18_446_744_073_709_551_616_f64),
        );
        check_template(json!({"$number": " 1.5 "}), json!(1.5));
    }

    #[test]
    fn texts_and_choices() {
        check_template(
            json!({"$concat": ["order-", {"$get": "/id"}, "-", true]}),
            json!("order-7-true"),
        );
        check_template(json!({"$upper": {"$get": "/customer/name"}}), json!("ANNA"));
        check_template(json!({"$lower": ["ÄB"]}), json!("äb"));
        check_template(json!({"$length": "äb"}), json!(2));
        check_template(json!({"$text": 1.5}), json!("1.5"));
        check_template(
            json!({"$coalesce": [{"$get": "/no"}, null, {"$get": "/id"}]}),
            json!(7),
        );
        check_template(json!([{"$coalesce": [{"$get": "/no"}]}]), json!([null]));
        check_template(
            json!({"$if": [{"$gt": [{"$get": "/id"}, 5]}, "large", "small"]}),
            json!("large"),
        );
    }

    #[test]
    fn conditions() {
        for (condition, want) in [
            (json!({"$eq": [1, 1.0]}), true),
            (json!({"$eq": ["1", 1]}), false),
            (json!({"$ne": [{"$get": "/no"}, null]}), true),
            (json!({"$lt": ["a", "b"]}), true),
            (json!({"$le": [1, 1]}), true),
            (json!({"$ge": [1, 1.5]}), false),
            (json!({"$exists": {"$get": "/no"}}), false),
            (json!({"$not": {"$exists": {"$get": "/id"}}}), false),
            (json!({"$and": [true, {"$eq": [1, 2]}]}), false),
            (json!({"$or": [false, {"$eq": [1, 1]}]}), true),
        ] {
            check_template(condition, json!(want));
        }
        let only_if = |condition| apply(json!({"if": condition}), ORDER);
        assert!(matches!(
            only_if(json!({"$eq": [{"$get": "/id"}, 7]})),
            Ok(Outcome::Replace(_))
        ));
        assert!(matches!(
            only_if(json!({"$eq": [{"$get": "/id"}, 8]})),
            Ok(Outcome::Drop)
        ));
        assert!(matches!(only_if(json!({"$get": "/no"})), Ok(Outcome::Drop)));
    }

    #[test]
    fn one_event_per_element() {
        let outcome = apply(
            json!({
                "each": "/items",
                "if": {"$gt": [{"$item": "/count"}, 0]},
                "set": {"/order": {"$get": "/id"}, "/line": {"$index": true}},
                "key": {"$item": "/sku"},
                "output": {"$if": [{"$gt": [{"$item": "/count"}, 1]}, "bulk", "single"]},
            }),
            ORDER,
        );
        let Ok(Outcome::Emit(emitted)) = outcome else {
            panic!("{outcome:?}");
        };
        let seen: Vec<_> = emitted
            .iter()
            .map(|e| {
                (
                    e.output.as_deref(),
                    e.event.key.as_deref(),
                    payload(&e.event),
                )
            })
            .collect();
        assert_eq!(
            seen,
            [
                (
                    Some("bulk"),
                    Some(b"a".as_slice()),
                    json!({"sku": "a", "price": 2.5, "count": 4, "order": 7, "line": 0})
                ),
                (
                    Some("single"),
                    Some(b"b".as_slice()),
                    json!({"sku": "b", "price": 3, "count": 1, "order": 7, "line": 1})
                ),
            ]
        );
        assert_eq!(
            apply(json!({"each": "/items"}), r#"{"items": []}"#),
            Ok(Outcome::Emit(vec![]))
        );
        check_rejected(
            json!({"each": "/id"}),
            ORDER,
            "at each: there is no array at /id",
        );
    }

    #[test]
    fn what_is_not_named_stays() {
        let Ok(Outcome::Replace(output)) = apply(json!({"remove": ["/items"]}), ORDER) else {
            panic!();
        };
        let before = event("");
        assert_eq!(output.key, before.key);
        assert_eq!(output.content_type, before.content_type);
        assert_eq!(output.headers, before.headers);
    }

    #[test]
    fn key_content_type_and_headers() {
        let outcome = apply(
            json!({
                "key": {"$get": "/no"},
                "content-type": "application/json",
                "headers": {"a": {"$get": "/id"}, "b": null, "c": "new"},
                "output": "only",
            }),
            ORDER,
        );
        let Ok(Outcome::Emit(emitted)) = outcome else {
            panic!("{outcome:?}");
        };
        let output = &emitted[0].event;
        assert_eq!(output.key, None);
        assert_eq!(output.content_type.as_deref(), Some("application/json"));
        let headers: Vec<_> = output
            .headers
            .iter()
            .map(|header| (header.name.as_str(), header.value.as_str()))
            .collect();
        assert_eq!(headers, [("a", "7"), ("c", "new")]);
    }

    #[test]
    fn rejected_with_the_place_and_the_reason() {
        let template = |template| json!({"payload": template});
        check_rejected(template(json!(1)), "not json", "the payload is not JSON: ");
        check_rejected(template(json!(1)), "\u{fffd}", "the payload is not JSON: ");
        check_rejected(
            template(json!({"t": {"$add": [1, {"$get": "/no"}]}})),
            ORDER,
            "at payload.t.$add[1]: /no is missing; $coalesce gives a default",
        );
        check_rejected(
            template(json!({"$mul": [1, {"$get": "/customer"}]})),
            ORDER,
            "at payload.$mul[1]: want a number",
        );
        check_rejected(
            template(json!({"$div": [1, 0]})),
            ORDER,
            "at payload: the result is no finite",
        );
        check_rejected(
            template(json!({"$number": "x"})),
            ORDER,
            "at payload.$number: \"x\" is no number",
        );
        check_rejected(
            template(json!({"$lt": [1, "a"]})),
            ORDER,
            "at payload: cannot compare a number",
        );
        check_rejected(
            template(json!({"$upper": 1})),
            ORDER,
            "at payload.$upper: want a text",
        );
        check_rejected(json!({"if": 5}), ORDER, "at if: want true or false");
        check_rejected(
            json!({"key": {"$get": "/items"}}),
            ORDER,
            "at key: cannot make a text",
        );
        check_rejected(json!({"set": {"/id/x": 1}}), ORDER, "cannot set /id/x");
    }

    #[test]
    fn configurations_are_refused_with_their_path() {
        let check = |config: &str, says: &str| {
            let error = Reshape::configure(config).expect_err(config);
            assert!(error.starts_with(says), "{config}: {error}");
        };
        check("", "not JSON: ");
        check("[]", "at the top level: want an object");
        check("{}", "at the top level: nothing to do");
        check(r#"{"pik": []}"#, "at pik: unknown: each, ");
        check(r#"{"pick": "/a"}"#, "at pick: want an array");
        check(
            r#"{"pick": ["/a", "b"]}"#,
            "at pick[1]: a JSON pointer begins with",
        );
        check(
            r#"{"remove": [""]}"#,
            "at remove[0]: this points to the whole",
        );
        check(
            r#"{"rename": {"/a": 1}}"#,
            "at rename./a: want a JSON pointer",
        );
        check(
            r#"{"set": {"a": 1}}"#,
            "at set.a: a JSON pointer begins with",
        );
        check(
            r#"{"payload": 1, "pick": []}"#,
            "at payload: makes the payload anew",
        );
        check(
            r#"{"payload": {"a": {"$ad": [1]}}}"#,
            "at payload.a.$ad: unknown operator",
        );
        check(
            r#"{"payload": {"a": 1, "$add": [1, 2]}}"#,
            "at payload.$add: an operator stands alone",
        );
        check(
            r#"{"payload": {"$add": [1]}}"#,
            "at payload.$add: takes at least 2",
        );
        check(
            r#"{"payload": {"$sub": [1, 2, 3]}}"#,
            "at payload.$sub: takes at most 2",
        );
        check(
            r#"{"headers": {"a": {"$event": "size"}}}"#,
            "at headers.a.$event: want topic",
        );
        check(r#"{"each": 5}"#, "at each: want a JSON pointer");
        check(r#"{"each": "/a/*"}"#, "at each: `*` cannot stand here");
        check(
            r#"{"rename": {"/a/*": "/b"}}"#,
            "at rename./a/*: /a/* and /b differ in how many `*`",
        );
        check(
            r#"{"rename": {"/a": "/c", "/b": "/c"}}"#,
            "at rename./b: something else is renamed to /c too",
        );
        check(
            r#"{"set": {"/a": 1, "/a": 2}}"#,
            "at set./a: this name stands twice",
        );
        check(
            r#"{"key": "a", "key": "b"}"#,
            "at key: this name stands twice",
        );
        check(
            r#"{"payload": {"a": 1, "\u0061": 2}}"#,
            "at payload.a: this name stands twice",
        );
        check("{\n \"a\":}", "not JSON: want a value at line 2, column 6");
    }
}
