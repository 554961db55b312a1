//! Every way a pattern can be wrong, and what the refusal says.

use tidegate_event_pattern::{Pattern, PatternError};

/// Asserts that `pattern` is refused and that the refusal begins with `says`, but for line and column, which are somewhere in the
/// pattern.
fn check(pattern: &str, says: &str) {
    let error = Pattern::parse(pattern).expect_err(pattern);
    let mut text = error.to_string();
    if let PatternError::Invalid { line, column, .. } = error {
        let place = format!(" (line {line}, column {column})");
        assert!(text.contains(&place), "{pattern}: {text}");
        text = text.replacen(&place, "", 1);
        let ends = pattern
            .lines()
            .nth(line - 1)
            .map(|line| line.chars().count());
        assert!(
            ends.is_some_and(|end| (1..=end).contains(&column)),
            "{pattern}: {text}"
        );
    }
    assert!(text.starts_with(says), "{pattern}: {text}");
}

/// Asserts which text stands where the refusal says.
fn check_place(pattern: &str, line: usize, column: usize, text: &str) {
    let error = Pattern::parse(pattern).expect_err(pattern).to_string();
    let place = format!(" (line {line}, column {column}): ");
    assert!(error.contains(&place), "{pattern}: {error}");
    let there: String = pattern
        .lines()
        .nth(line - 1)
        .expect("a line")
        .chars()
        .skip(column - 1)
        .collect();
    assert!(there.starts_with(text), "{there}");
}

#[test]
fn refusals_name_line_and_column() {
    check_place(
        "{\n  \"a\": {\n    \"b\": [\"x\", {\"prefx\": \"y\"}]\n  }\n}",
        3,
        17,
        "\"prefx\"",
    );
    check_place(r#"{"é": ["x", ["y"]]}"#, 1, 13, "[\"y\"]");
    check_place(
        r#"{"a": ["x"], "b": [1], "a": ["y"]}"#,
        1,
        24,
        "\"a\": [\"y\"]",
    );
    check_place(r#"{"$or": [{"a": [1]}, {}]}"#, 1, 22, "{}");
    check_place(r#"  {"\u0061": 1}"#, 1, 4, r#""\u0061""#);
    check_place("  []", 1, 3, "[]");
}

#[test]
fn dotted_names_are_levels() {
    check(r#"{"a.b": 1}"#, "at a.b: want an array of values");
    check(
        r#"{"a": {"b": ["x"]}, "a.b": ["y"]}"#,
        "at a.b: this field stands twice",
    );
    check(
        r#"{"a.b": {"c": ["x"]}, "a": {"b": {"c": ["y"]}}}"#,
        "at a: this field stands twice",
    );
    check(
        r#"{"a.$or": [{"b": [1]}, {"c": [1]}]}"#,
        "at a.$or: `$or` is no field",
    );
    let deep = |levels: usize| format!(r#"{{"{}a": [1]}}"#, "a.".repeat(levels - 1));
    assert!(Pattern::parse(&deep(128)).is_ok());
    check(
        &deep(129),
        &format!("at {}a: nested too deep", "a.".repeat(128)),
    );
    check(&deep(100_000), "at a.");
    let both = format!(r#"{{"{}b": {}}}"#, "a.".repeat(100), deep(29));
    check(&both, "at a.");
}

#[test]
fn refusals_name_the_path() {
    check("", "not JSON: want a value at line 1, column 1");
    check(
        "{\n  \"a\": [1,]}",
        "not JSON: want a value at line 2, column 11",
    );
    check("[]", "at the top level: want an object");
    check("{}", "at the top level: an empty object");
    check(r#"{"a": {}}"#, "at a: an empty object");
    check(r#"{"a": []}"#, "at a: an empty array");
    check(r#"{"a": "x"}"#, "at a: want an array of values");
    check(r#"{"a": {"b": 1}}"#, "at a.b: want an array of values");
    check(r#"{"a": ["x", ["y"]]}"#, "at a[1]: values are not nested");
    check(
        r#"{"a": ["x"], "a": ["y"]}"#,
        "at a: this name stands twice",
    );
    check(
        r#"{"a": [{"prefx": "x"}]}"#,
        "at a[0].prefx: unknown operator",
    );
    check(
        r#"{"a": [{"prefix": "x", "suffix": "y"}]}"#,
        "at a[0]: want exactly one operator",
    );
    check(r#"{"a": [{}]}"#, "at a[0]: want exactly one operator");
    check(r#"{"a": [{"prefix": 1}]}"#, "at a[0].prefix: want a string");
    check(
        r#"{"a": [{"prefix": {"equals": "x"}}]}"#,
        "at a[0].prefix.equals: want a string or",
    );
    check(
        r#"{"a": [{"equals-ignore-case": ["x"]}]}"#,
        "at a[0].equals-ignore-case: want a string",
    );
    check(
        r#"{"a": [{"exists": "yes"}]}"#,
        "at a[0].exists: want true or false",
    );
    check(
        r#"{"a": [{"cidr": "10.0.0.0"}]}"#,
        "at a[0].cidr: want a block",
    );
    check(
        r#"{"a": [{"cidr": "10.0.0.0/33"}]}"#,
        "at a[0].cidr: want a block",
    );
    check(
        r#"{"a": [{"wildcard": "a**b"}]}"#,
        "at a[0].wildcard: two `*` in a row",
    );
    check(
        r#"{"a": [{"wildcard": "a\\b"}]}"#,
        "at a[0].wildcard: `\\` may only",
    );
    check(
        r#"{"a": [{"wildcard": "a\\"}]}"#,
        "at a[0].wildcard: `\\` may only",
    );
    check(
        r#"{"a": [{"anything-but": null}]}"#,
        "at a[0].anything-but: want a string, a number",
    );
    check(
        r#"{"a": [{"anything-but": []}]}"#,
        "at a[0].anything-but: want a string, a number",
    );
    check(
        r#"{"a": [{"anything-but": ["x", true]}]}"#,
        "at a[0].anything-but[1]: want a string or",
    );
    check(
        r#"{"a": [{"anything-but": {"cidr": "::/0"}}]}"#,
        "at a[0].anything-but.cidr: anything-but takes",
    );
    check(
        r#"{"a": [{"anything-but": {"prefix": ["x", 1]}}]}"#,
        "at a[0].anything-but.prefix[1]: want a string",
    );
}

#[test]
fn numeric_refusals() {
    for bad in [
        "5",
        "[]",
        r#"["="]"#,
        r#"["=", "5"]"#,
        r#"["!=", 5]"#,
        r#"["=", 5, "=", 5]"#,
        r#"["=", 5, ">", 5]"#,
        r#"[">", 1, "<", 5, "<", 6]"#,
    ] {
        check(
            &format!(r#"{{"a": [{{"numeric": {bad}}}]}}"#),
            "at a[0].numeric: want [",
        );
    }
    check(
        r#"{"a": [{"numeric": [">", 1, ">=", 2]}]}"#,
        "at a[0].numeric: two bounds on the same side",
    );
    check(
        r#"{"a": [{"numeric": [">", 5, "<", 1]}]}"#,
        "at a[0].numeric: no number lies",
    );
    check(
        r#"{"a": [{"numeric": [">", 5, "<=", 5]}]}"#,
        "at a[0].numeric: no number lies",
    );
}

#[test]
fn or_refusals() {
    check(r#"{"$or": {"a": [1]}}"#, "at $or: $or wants an array");
    check(r#"{"$or": [{"a": [1]}]}"#, "at $or: $or wants at least two");
    check(r#"{"$or": [{"a": [1]}, {}]}"#, "at $or[1]: an empty object");
    check(
        r#"{"$or": [{"a": [1]}, {"b": 1}]}"#,
        "at $or[1].b: want an array of values",
    );
    let pair = |name: usize| format!(r#"{{"$or": [{{"{name}": [1]}}, {{"x": [1]}}]}}"#);
    let many = |count: usize| {
        let pairs: Vec<_> = (0..count)
            .map(|i| format!("\"g{i}\": {}", pair(i)))
            .collect();
        Pattern::parse(&format!("{{{}}}", pairs.join(",")))
    };
    assert!(many(9).is_ok());
    assert!(matches!(
        many(10),
        Err(PatternError::TooManyCombinations {
            combinations: 1_024,
            ..
        })
    ));
    assert!(many(200).is_err(), "without counting them one by one");
}

#[test]
fn header_and_wrapper_refusals() {
    check(
        r#"{"$header": {"a": ["x"]}}"#,
        "at $header: names that begin with `$`",
    );
    check(r#"{"$headers": ["x"]}"#, "at $headers: want an object");
    check(
        r#"{"$headers": {"a": {"b": ["x"]}}}"#,
        "at $headers.a: a header has no fields",
    );
    check(
        r#"{"$headers": {"a": [true]}}"#,
        "at $headers.a[0]: a header's value is text",
    );
    check(
        r#"{"$headers": {"a": [null]}}"#,
        "at $headers.a[0]: a header's value is text",
    );
}
