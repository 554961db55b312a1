//! Every operator with events it matches and events it does not. Each case is put to the plain evaluator and to a set
//! that also holds unrelated rules.

use tidegate_event_pattern::{Pattern, PatternSet};

/// Asserts that `pattern` matches all of `yes` and none of `no`.
fn check(pattern: &str, yes: &[&str], no: &[&str]) {
    let cases = yes.iter().map(|event| (*event, true));
    for (event, want) in cases.chain(no.iter().map(|event| (*event, false))) {
        verdict(pattern, event.as_bytes(), &[], want);
    }
}

/// The same for headers.
fn check_headers(pattern: &str, headers: &[(&str, &str)], want: bool) {
    verdict(pattern, b"", headers, want);
}

fn verdict(text: &str, payload: &[u8], headers: &[(&str, &str)], want: bool) {
    let pattern = Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let shown = String::from_utf8_lossy(payload);
    assert_eq!(
        pattern.matches(payload, headers),
        want,
        "plain: {text} on {shown} {headers:?}"
    );
    let mut set = PatternSet::new();
    for (rule, other) in [
        r#"{"a": ["x"], "z": [1]}"#,
        r#"{"a": {"b": [{"exists": true}], "c": [2]}}"#,
        r#"{"unrelated": [{"prefix": "p"}], "$headers": {"h": ["v"]}}"#,
    ]
    .iter()
    .enumerate()
    {
        set.insert(rule as u32, Pattern::parse(other).unwrap());
    }
    set.insert(77, pattern);
    let mut matched = Vec::new();
    set.evaluate(payload, headers, &mut matched);
    assert_eq!(
        matched.contains(&77),
        want,
        "set: {text} on {shown} {headers:?}"
    );
}

#[test]
fn exact_values() {
    check(
        r#"{"a": ["x"]}"#,
        &[
            r#"{"a": "x"}"#,
            r#"{"b": 1, "a": "x", "c": {}}"#,
            r#"{"a": "\u0078"}"#,
        ],
        &[
            r#"{"a": "X"}"#,
            r#"{"a": "xy"}"#,
            r#"{"b": "x"}"#,
            r#"{"a": null}"#,
            r#"{"A": "x"}"#,
            "{}",
        ],
    );
    check(
        r#"{"a": ["x", "y"]}"#,
        &[r#"{"a": "y"}"#],
        &[r#"{"a": "z"}"#],
    );
    check(
        r#"{"a": [""]}"#,
        &[r#"{"a": ""}"#],
        &[r#"{"a": null}"#, r#"{"a": " "}"#, "{}"],
    );
    check(
        r#"{"a": [null]}"#,
        &[r#"{"a": null}"#],
        &[r#"{"a": ""}"#, r#"{"a": "null"}"#, "{}"],
    );
    check(
        r#"{"a": [true]}"#,
        &[r#"{"a": true}"#],
        &[r#"{"a": false}"#, r#"{"a": "true"}"#, r#"{"a": 1}"#],
    );
}

#[test]
fn numbers_are_compared_by_value() {
    check(
        r#"{"a": [300]}"#,
        &[
            r#"{"a": 300}"#,
            r#"{"a": 300.0}"#,
            r#"{"a": 3.0e2}"#,
            r#"{"a": 30000E-2}"#,
        ],
        &[r#"{"a": "300"}"#, r#"{"a": 300.1}"#, r#"{"a": 30}"#],
    );
    check(r#"{"a": [-0.5]}"#, &[r#"{"a": -5e-1}"#], &[r#"{"a": 0.5}"#]);
    check(
        r#"{"a": [9007199254740993]}"#,
        &[r#"{"a": 9007199254740993}"#],
        &[r#"{"a": 9007199254740992}"#],
    );
    check(
        r#"{"a": [0]}"#,
        &[r#"{"a": -0}"#, r#"{"a": 0.0}"#],
        &[r#"{"a": false}"#],
    );
}

#[test]
fn prefix_and_suffix() {
    check(
        r#"{"a": [{"prefix": "ab"}]}"#,
        &[r#"{"a": "ab"}"#, r#"{"a": "abc"}"#],
        &[
            r#"{"a": "a"}"#,
            r#"{"a": "Abc"}"#,
            r#"{"a": "xab"}"#,
            r#"{"a": 1}"#,
            "{}",
        ],
    );
    check(
        r#"{"a": [{"prefix": ""}]}"#,
        &[r#"{"a": "x"}"#, r#"{"a": ""}"#],
        &[r#"{"a": 1}"#],
    );
    check(
        r#"{"a": [{"prefix": {"equals-ignore-case": "ÄB"}}]}"#,
        &[r#"{"a": "äbc"}"#, r#"{"a": "ÄBC"}"#],
        &[r#"{"a": "abc"}"#],
    );
    check(
        r#"{"a": [{"suffix": ".png"}]}"#,
        &[r#"{"a": "x.png"}"#, r#"{"a": ".png"}"#],
        &[r#"{"a": "png"}"#, r#"{"a": "x.PNG"}"#, r#"{"a": "x.pngx"}"#],
    );
    check(
        r#"{"a": [{"suffix": {"equals-ignore-case": ".Png"}}]}"#,
        &[r#"{"a": "x.PNG"}"#, r#"{"a": "x.png"}"#],
        &[r#"{"a": "x.jpg"}"#],
    );
}

#[test]
fn any_case_is_that_of_unicode() {
    check(
        r#"{"a": [{"equals-ignore-case": "νικος"}]}"#,
        &[r#"{"a": "ΝΙΚΟΣ"}"#, r#"{"a": "νικοσ"}"#],
        &[r#"{"a": "νικο"}"#],
    );
    check(
        r#"{"a": [{"prefix": {"equals-ignore-case": "i"}}]}"#,
        &[r#"{"a": "Ix"}"#],
        &[r#"{"a": "\u0130x"}"#, r#"{"a": "ıx"}"#],
    );
    check(
        r#"{"a": [{"suffix": {"equals-ignore-case": "\u00b5ſ"}}]}"#,
        &[r#"{"a": "5 μS"}"#, r#"{"a": "ΜS"}"#],
        &[r#"{"a": "5 mS"}"#],
    );
    check(
        r#"{"a": [{"anything-but": {"equals-ignore-case": "\u023a"}}]}"#,
        &[r#"{"a": "a"}"#],
        &[r#"{"a": "\u2c65"}"#],
    );
}

#[test]
fn equals_ignore_case() {
    check(
        r#"{"a": [{"equals-ignore-case": "Alice"}]}"#,
        &[
            r#"{"a": "ALICE"}"#,
            r#"{"a": "alice"}"#,
            r#"{"a": "Alice"}"#,
        ],
        &[r#"{"a": "alice "}"#, r#"{"a": 1}"#],
    );
}

#[test]
fn wildcard() {
    check(
        r#"{"a": [{"wildcard": "dir/*.png"}]}"#,
        &[r#"{"a": "dir/.png"}"#, r#"{"a": "dir/sub/x.png"}"#],
        &[
            r#"{"a": "dir/x.jpg"}"#,
            r#"{"a": "dirx.png"}"#,
            r#"{"a": "xdir/x.png"}"#,
        ],
    );
    check(
        r#"{"a": [{"wildcard": "*/lib/*"}]}"#,
        &[r#"{"a": "/lib/"}"#, r#"{"a": "usr/lib/x"}"#],
        &[r#"{"a": "lib"}"#, r#"{"a": 1}"#],
    );
    check(
        r#"{"a": [{"wildcard": "a*b*ab"}]}"#,
        &[
            r#"{"a": "abab"}"#,
            r#"{"a": "axbxab"}"#,
            r#"{"a": "abbbab"}"#,
        ],
        &[r#"{"a": "aab"}"#, r#"{"a": "ab"}"#, r#"{"a": "abaa"}"#],
    );
    check(
        r#"{"a": [{"wildcard": "ab*ba"}]}"#,
        &[r#"{"a": "abba"}"#],
        &[r#"{"a": "aba"}"#],
    );
    check(
        r#"{"a": [{"wildcard": "*"}]}"#,
        &[r#"{"a": ""}"#, r#"{"a": "x"}"#],
        &[r#"{"a": 1}"#, "{}"],
    );
    check(
        r#"{"a": [{"wildcard": "\\*\\\\*"}]}"#,
        &[r#"{"a": "*\\"}"#, r#"{"a": "*\\x"}"#],
        &[r#"{"a": "x\\"}"#, r#"{"a": "*x"}"#],
    );
    check(
        r#"{"a": [{"wildcard": "plain"}]}"#,
        &[r#"{"a": "plain"}"#],
        &[r#"{"a": "plainer"}"#],
    );
}

#[test]
fn anything_but() {
    check(
        r#"{"a": [{"anything-but": "x"}]}"#,
        &[
            r#"{"a": "y"}"#,
            r#"{"a": 1}"#,
            r#"{"a": null}"#,
            r#"{"a": ["x", "y"]}"#,
        ],
        &[
            r#"{"a": "x"}"#,
            "{}",
            r#"{"a": []}"#,
            r#"{"a": ["x"]}"#,
            r#"{"a": {"b": 1}}"#,
        ],
    );
    check(
        r#"{"a": [{"anything-but": [1, "x"]}]}"#,
        &[r#"{"a": 2}"#, r#"{"a": "1"}"#],
        &[r#"{"a": 1.0}"#, r#"{"a": "x"}"#],
    );
    check(
        r#"{"a": [{"anything-but": {"prefix": "us-"}}]}"#,
        &[r#"{"a": "eu-1"}"#, r#"{"a": 5}"#],
        &[r#"{"a": "us-1"}"#],
    );
    check(
        r#"{"a": [{"anything-but": {"suffix": [".png", ".jpg"]}}]}"#,
        &[r#"{"a": "x.gif"}"#],
        &[r#"{"a": "x.png"}"#, r#"{"a": "x.jpg"}"#],
    );
    check(
        r#"{"a": [{"anything-but": {"equals-ignore-case": ["new", "old"]}}]}"#,
        &[r#"{"a": "newer"}"#],
        &[r#"{"a": "NEW"}"#, r#"{"a": "Old"}"#],
    );
    check(
        r#"{"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}"#,
        &[r#"{"a": "/bin/"}"#],
        &[r#"{"a": "/lib/"}"#],
    );
    check(
        r#"{"a": [{"anything-but": {"prefix": {"equals-ignore-case": "US"}}}]}"#,
        &[r#"{"a": "eu"}"#],
        &[r#"{"a": "uS-1"}"#],
    );
}

#[test]
fn numeric() {
    check(
        r#"{"a": [{"numeric": [">", 0, "<=", 5]}]}"#,
        &[
            r#"{"a": 0.001}"#,
            r#"{"a": 5}"#,
            r#"{"a": 5.0}"#,
            r#"{"a": [9, 1]}"#,
        ],
        &[
            r#"{"a": 0}"#,
            r#"{"a": 5.001}"#,
            r#"{"a": "3"}"#,
            r#"{"a": null}"#,
            "{}",
        ],
    );
    check(
        r#"{"a": [{"numeric": ["<", 5, ">=", 1]}]}"#,
        &[r#"{"a": 1}"#],
        &[r#"{"a": 5}"#],
    );
    check(
        r#"{"a": [{"numeric": ["<", -1.5]}]}"#,
        &[r#"{"a": -2}"#],
        &[r#"{"a": -1.5}"#],
    );
    check(
        r#"{"a": [{"numeric": ["=", 3.018e2]}]}"#,
        &[r#"{"a": 301.8}"#],
        &[r#"{"a": 302}"#],
    );
    check(
        r#"{"a": [{"numeric": [">=", 1e300]}]}"#,
        &[r#"{"a": 1e999}"#],
        &[r#"{"a": -1e999}"#],
    );
    check(
        r#"{"a": [{"numeric": ["<", 0]}, {"numeric": [">", 10]}, "none"]}"#,
        &[r#"{"a": -1}"#, r#"{"a": 11}"#, r#"{"a": "none"}"#],
        &[r#"{"a": 5}"#],
    );
}

#[test]
fn cidr() {
    check(
        r#"{"ip": [{"cidr": "10.0.0.0/24"}]}"#,
        &[r#"{"ip": "10.0.0.0"}"#, r#"{"ip": "10.0.0.255"}"#],
        &[
            r#"{"ip": "10.0.1.0"}"#,
            r#"{"ip": "::ffff:10.0.0.1"}"#,
            r#"{"ip": "10.0.0"}"#,
            r#"{"ip": 10}"#,
        ],
    );
    check(
        r#"{"ip": [{"cidr": "10.1.2.3/8"}]}"#,
        &[r#"{"ip": "10.9.9.9"}"#],
        &[r#"{"ip": "11.0.0.0"}"#],
    );
    check(
        r#"{"ip": [{"cidr": "0.0.0.0/0"}]}"#,
        &[r#"{"ip": "1.2.3.4"}"#],
        &[r#"{"ip": "::1"}"#],
    );
    check(
        r#"{"ip": [{"cidr": "2001:db8::/32"}]}"#,
        &[r#"{"ip": "2001:db8::1"}"#, r#"{"ip": "2001:0DB8:ffff::"}"#],
        &[r#"{"ip": "2001:db9::"}"#, r#"{"ip": "32.1.13.184"}"#],
    );
    check(
        r#"{"ip": [{"cidr": "::1/128"}]}"#,
        &[r#"{"ip": "0:0::1"}"#],
        &[r#"{"ip": "::2"}"#],
    );
}

#[test]
fn exists_looks_at_values_not_at_objects() {
    check(
        r#"{"a": {"b": [{"exists": true}]}}"#,
        &[
            r#"{"a": {"b": 1}}"#,
            r#"{"a": {"b": null}}"#,
            r#"{"a": [{"c": 1}, {"b": ""}]}"#,
        ],
        &[
            r#"{"a": {"b": {"c": 1}}}"#,
            r#"{"a": {"b": []}}"#,
            r#"{"a": {}}"#,
            r#"{"a": 1}"#,
            "{}",
        ],
    );
    check(
        r#"{"a": {"b": [{"exists": false}]}}"#,
        &[
            r#"{"a": {"b": {"c": 1}}}"#,
            r#"{"a": {"b": []}}"#,
            r#"{"a": {}}"#,
            r#"{"a": 1}"#,
            "{}",
        ],
        &[
            r#"{"a": {"b": 1}}"#,
            r#"{"a": {"b": null}}"#,
            r#"{"a": [{"c": 1}, {"b": ""}]}"#,
        ],
    );
    check(
        r#"{"a": [{"exists": false}, "x"], "b": [1]}"#,
        &[r#"{"b": 1}"#, r#"{"a": "x", "b": 1}"#],
        &[r#"{"a": "y", "b": 1}"#, r#"{"a": "x"}"#],
    );
}

#[test]
fn arrays_match_by_any_element() {
    check(
        r#"{"a": ["x"]}"#,
        &[
            r#"{"a": ["y", "x"]}"#,
            r#"{"a": [["y"], [["x"]]]}"#,
            r#"{"a": [{"b": 1}, "x"]}"#,
        ],
        &[r#"{"a": ["y"]}"#, r#"{"a": []}"#, r#"{"a": [{"a": "x"}]}"#],
    );
}

#[test]
fn fields_below_an_array_must_match_in_one_element() {
    let people =
        r#"{"people": [{"first": "Anna", "last": "Smith"}, {"first": "Peter", "last": "Jones"}]}"#;
    let nested = r#"{"people": [[{"first": "Anna", "last": "Smith"}], [{"first": "Peter", "last": "Jones"}]]}"#;
    check(r#"{"people": {"first": ["Anna"]}}"#, &[people, nested], &[]);
    check(
        r#"{"people": {"first": ["Anna"], "last": ["Smith"]}}"#,
        &[people, nested],
        &[],
    );
    check(
        r#"{"people": {"first": ["Anna"], "last": ["Jones"]}}"#,
        &[],
        &[people, nested],
    );
    check(
        r#"{"people": {"last": ["Jones"], "$or": [{"first": ["Anna"]}, {"first": ["Paul"]}]}}"#,
        &[],
        &[people],
    );
    check(
        r#"{"orders": {"items": {"id": [1], "n": [2]}, "open": [true]}}"#,
        &[
            r#"{"orders": [{"open": true, "items": [{"id": 9}, {"id": 1, "n": 2}]}, {"open": false}]}"#,
        ],
        &[
            r#"{"orders": [{"open": false, "items": [{"id": 1, "n": 2}]}, {"open": true, "items": []}]}"#,
            r#"{"orders": [{"open": true, "items": [{"id": 1, "n": 3}, {"id": 2, "n": 2}]}]}"#,
        ],
    );
    // What asks for absence looks at the whole event, and binds no element.
    check(
        r#"{"people": {"first": ["Anna"], "age": [{"exists": false}]}}"#,
        &[people],
        &[r#"{"people": [{"first": "Anna"}, {"age": 5}]}"#],
    );
}

#[test]
fn a_repeated_member_counts_as_both() {
    check(
        r#"{"a": [1]}"#,
        &[r#"{"a": 1, "a": 2}"#, r#"{"a": 2, "a": 1}"#],
        &[],
    );
    check(
        r#"{"a": {"b": [1], "c": [2]}}"#,
        &[r#"{"a": {"b": 1, "c": 2}, "a": {}}"#],
        &[r#"{"a": {"b": 1}, "a": {"c": 2}}"#],
    );
}

#[test]
fn all_fields_and_one_alternative() {
    check(
        r#"{"a": [1], "b": {"c": [2], "d": [3]}}"#,
        &[r#"{"b": {"d": 3, "c": 2}, "a": 1}"#],
        &[r#"{"b": {"d": 3, "c": 2}}"#, r#"{"a": 1, "b": {"c": 2}}"#],
    );
    check(
        r#"{"s": ["m"], "$or": [{"a": [1, 2]}, {"b": [3], "$or": [{"c": [4]}, {"d": [5]}]}, {"e": [6]}]}"#,
        &[
            r#"{"s": "m", "a": 2}"#,
            r#"{"s": "m", "b": 3, "d": 5}"#,
            r#"{"s": "m", "e": 6}"#,
        ],
        &[r#"{"s": "m", "b": 3}"#, r#"{"a": 1}"#, r#"{"s": "m"}"#],
    );
    check(
        r#"{"a": {"$or": [{"b": [1]}, {"c": [2]}]}}"#,
        &[r#"{"a": {"b": 1}}"#, r#"{"a": {"c": 2}}"#],
        &[r#"{"b": 1}"#, r#"{"a": {}}"#],
    );
}

#[test]
fn a_dot_in_a_name_is_a_level() {
    for pattern in [
        r#"{"a.b.c": ["x"]}"#,
        r#"{"a.b": {"c": ["x"]}}"#,
        r#"{"a": {"b.c": ["x"]}}"#,
        r#"{"a": {"b": {"c": ["x"]}}}"#,
        r#"{"$payload": {"a.b.c": ["x"]}}"#,
    ] {
        check(
            pattern,
            &[
                r#"{"a": {"b": {"c": "x"}}}"#,
                r#"{"a.b.c": "x"}"#,
                r#"{"a.b": {"c": "x"}}"#,
                r#"{"a": {"b.c": "x"}}"#,
                r#"{"a": {"z": 1}, "a.b.c": ["y", "x"]}"#,
                r#"{"a": 5, "a.b": [{"c": "y"}, {"c": "x"}]}"#,
                r#"{"a\u002eb.c": "x"}"#,
            ],
            &[
                r#"{"a.b": "x"}"#,
                r#"{"a.b.c.d": "x"}"#,
                r#"{"a.b.cc": "x"}"#,
                r#"{"ab.c": "x"}"#,
                r#"{"a..b.c": "x"}"#,
                r#"{".a.b.c": "x"}"#,
                r#"{"b": {"c": "x"}, "c": "x"}"#,
            ],
        );
    }
    // What two names say of one object is said of it together.
    check(
        r#"{"a.b": [1], "a": {"c": [2]}, "a.d": [{"exists": false}]}"#,
        &[
            r#"{"a": {"b": 1, "c": 2}}"#,
            r#"{"a.b": 1, "a.c": 2}"#,
            r#"{"a": {"b": 1}, "a.c": 2}"#,
            r#"{"a": [{"b": 7}, {"b": 1}], "a.c": 2}"#,
        ],
        &[
            r#"{"a": [{"b": 1}, {"c": 2}]}"#,
            r#"{"a": {"b": 1, "c": 2}, "a.d": 0}"#,
            r#"{"a": [{"b.x": 1, "c": 2}]}"#,
        ],
    );
    check(
        r#"{"a": ["x"], "a.b": ["y"]}"#,
        &[r#"{"a": ["x", {"b": "y"}]}"#, r#"{"a": "x", "a.b": "y"}"#],
        &[r#"{"a": "x"}"#, r#"{"a.b": "y"}"#],
    );
    check(
        r#"{"o": {"a.b": [1], "c": [2]}}"#,
        &[r#"{"o": [{"c": 0}, {"a": {"b": 1}, "c": 2}]}"#],
        &[r#"{"o": [{"a.b": 1}, {"c": 2}]}"#],
    );
    check(
        r#"{"a..b": [1]}"#,
        &[
            r#"{"a..b": 1}"#,
            r#"{"a": {"": {"b": 1}}}"#,
            r#"{"a.": {"b": 1}}"#,
        ],
        &[r#"{"a": {"b": 1}}"#, r#"{"a.b": 1}"#],
    );
    // Headers have no levels.
    verdict(
        r#"{"$headers": {"a.b": ["x"]}}"#,
        b"",
        &[("a.b", "x")],
        true,
    );
    verdict(r#"{"$headers": {"a": ["x"]}}"#, b"", &[("a.b", "x")], false);
}

#[test]
fn names_are_whole() {
    check(r#"{"a": {"$b": [1]}}"#, &[r#"{"a": {"$b": 1}}"#], &[]);
    check(
        r#"{"$payload": {"$headers": [1]}}"#,
        &[r#"{"$headers": 1}"#],
        &[],
    );
    check(
        r#"{"\u00e9": [1]}"#,
        &[r#"{"é": 1}"#, r#"{"\u00e9": 1}"#],
        &[r#"{"e": 1}"#],
    );
}

#[test]
fn what_is_no_json_object_never_matches() {
    check(
        r#"{"a": [{"exists": false}]}"#,
        &["{}", " {\"b\": [1]} "],
        &[
            "",
            "null",
            "[]",
            "[{}]",
            "5",
            "{",
            "{}x",
            r#"{"b": 01}"#,
            r#"{"b": "\x"}"#,
        ],
    );
    verdict(
        r#"{"a": [{"exists": false}]}"#,
        b"{\"b\": \"\xff\"}",
        &[],
        false,
    );
    // What came before the mistake does not count.
    check(
        r#"{"a": [1]}"#,
        &[],
        &[r#"{"a": 1"#, r#"{"a": 1, "b": }"#, r#"{"a": 1}}"#],
    );
}

#[test]
fn headers() {
    let headers = [
        ("region", "eu-1"),
        ("amount", "300"),
        ("tag", "a"),
        ("tag", "b"),
    ];
    let yes = |pattern| check_headers(pattern, &headers, true);
    let no = |pattern| check_headers(pattern, &headers, false);
    yes(r#"{"$headers": {"region": [{"prefix": "eu-"}]}}"#);
    no(r#"{"$headers": {"Region": [{"prefix": "eu-"}]}}"#);
    yes(r#"{"$headers": {"tag": ["b"], "region": [{"exists": true}]}}"#);
    yes(r#"{"$headers": {"missing": [{"exists": false}]}}"#);
    no(r#"{"$headers": {"region": [{"exists": false}]}}"#);
    yes(r#"{"$headers": {"amount": ["300"]}}"#);
    yes(r#"{"$headers": {"amount": [300.0]}}"#);
    yes(r#"{"$headers": {"amount": [{"numeric": [">", 100]}]}}"#);
    no(r#"{"$headers": {"amount": [{"anything-but": 300}]}}"#);
    no(r#"{"$headers": {"amount": [{"anything-but": "300"}]}}"#);
    no(r#"{"$headers": {"region": [{"numeric": [">", 0]}]}}"#);
    yes(r#"{"$headers": {"$or": [{"region": ["x"]}, {"tag": ["a"]}]}}"#);
    no(r#"{"$headers": {"tag": ["a"]}, "a": [1]}"#);
    yes(r#"{"$or": [{"a": [1]}, {"$headers": {"tag": ["a"]}}]}"#);
}

#[test]
fn payload_and_headers_together() {
    let pattern = r#"{"a": [1], "$payload": {"b": [2]}, "$headers": {"h": ["v"]}}"#;
    verdict(pattern, br#"{"a": 1, "b": 2}"#, &[("h", "v")], true);
    verdict(pattern, br#"{"a": 1, "b": 2}"#, &[("h", "w")], false);
    verdict(pattern, br#"{"a": 1}"#, &[("h", "v")], false);
}

#[test]
fn what_a_pattern_looks_at_is_known() {
    let pattern = Pattern::parse(
        r#"{"$headers": {"b": ["x"]}, "$or": [{"$headers": {"a": ["x"]}}, {"$headers": {"b": ["y"]}}]}"#,
    )
    .unwrap();
    assert!(!pattern.wants_payload());
    assert_eq!(pattern.header_names(), ["a", "b"]);
    let pattern = Pattern::parse(r#"{"$or": [{"$headers": {"a": ["x"]}}, {"p": ["x"]}]}"#).unwrap();
    assert!(pattern.wants_payload());
}

#[test]
fn rules_come_and_go() {
    let mut set = PatternSet::new();
    let pattern = |value: u32| Pattern::parse(&format!("{{\"a\": [{value}]}}")).unwrap();
    let matching = |set: &mut PatternSet, value: u32| {
        let mut matched = Vec::new();
        set.evaluate(format!("{{\"a\": {value}}}").as_bytes(), &[], &mut matched);
        matched.sort_unstable();
        matched
    };
    for rule in 0..1_000 {
        set.insert(rule, pattern(rule % 10));
    }
    assert_eq!(set.len(), 1_000);
    assert_eq!(matching(&mut set, 3).len(), 100);
    for rule in 0..995 {
        set.remove(rule);
    }
    set.remove(4_000);
    assert_eq!(matching(&mut set, 6), [996]);
    set.insert(996, pattern(7));
    assert_eq!(matching(&mut set, 6), []);
    assert_eq!(matching(&mut set, 7), [996, 997]);
    assert_eq!(set.len(), 5);
}
