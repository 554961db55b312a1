//! The set says what the plain evaluator says, whatever the patterns, the events and the other rules. Names and values
//! come from a few, so that they meet.

use proptest::prelude::*;
use tidegate_event_pattern::{Pattern, PatternSet};

const NAMES: [&str; 7] = ["a", "b", "c", "dd", "a.b", "b.a", "a.b.c"];
const TEXTS: [&str; 11] = [
    "", "x", "X", "xy", "xyx", "1", "10.0.0.1", "::1", "ς", "Σ", "\u{130}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn set_agrees_with_plain_evaluation(
        patterns in prop::collection::vec(pattern(), 1..12),
        removed in prop::collection::vec(any::<bool>(), 12),
        payloads in prop::collection::vec(payload(), 1..6),
        headers in prop::collection::vec((name(), text()), 0..4),
    ) {
        let mut set = PatternSet::new();
        let parsed: Vec<_> = patterns
            .iter()
            .map(|text| Pattern::parse(text).expect("it was parsed before"))
            .collect();
        for (rule, pattern) in (0..).zip(&parsed) {
            set.insert(rule, pattern.clone());
        }
        let kept = |rule: u32| !removed[rule as usize];
        for rule in (0..parsed.len() as u32).filter(|rule| !kept(*rule)) {
            set.remove(rule);
        }
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        for payload in &payloads {
            let mut got = Vec::new();
            set.evaluate(payload.as_bytes(), &headers, &mut got);
            got.sort_unstable();
            let want: Vec<u32> = (0..)
                .zip(&parsed)
                .filter(|(rule, pattern)| {
                    kept(*rule) && pattern.matches(payload.as_bytes(), &headers)
                })
                .map(|(rule, _)| rule)
                .collect();
            prop_assert_eq!(&got, &want, "{} {:?}\n{:#?}", payload, &headers, &patterns);
        }
    }

    #[test]
    fn anything_may_come(payload in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
        let _refused = Pattern::parse(&text);
        let pattern = Pattern::parse(r#"{"a": [{"exists": false}]}"#).unwrap();
        let _verdict = pattern.matches(&payload, &[]);
    }

    #[test]
    fn broken_json_is_broken_for_both(payload in payload(), cut in any::<prop::sample::Index>()) {
        let mut broken = payload.into_bytes();
        let at = cut.index(broken.len());
        broken[at] = b'}';
        let pattern = Pattern::parse(r#"{"a": [{"exists": false}, "x"]}"#).unwrap();
        let mut set = PatternSet::new();
        set.insert(0, pattern.clone());
        let mut got = Vec::new();
        set.evaluate(&broken, &[], &mut got);
        prop_assert_eq!(!got.is_empty(), pattern.matches(&broken, &[]));
    }
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(NAMES.to_vec()).prop_map(str::to_string)
}

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(TEXTS.to_vec()).prop_map(str::to_string)
}

fn quoted() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("\"{text}\""))
}

fn number() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["0", "1", "1.0", "1.5", "2", "-1", "1e0", "20e-1"])
        .prop_map(str::to_string)
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => quoted(),
        4 => number(),
        1 => Just("null".to_string()),
        1 => Just("true".to_string()),
        1 => Just("false".to_string()),
    ]
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((name(), value), 0..4).prop_map(|members| {
        let members: Vec<_> = members
            .into_iter()
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        format!("{{{}}}", members.join(", "))
    })
}

fn payload() -> impl Strategy<Value = String> {
    let value = scalar().prop_recursive(3, 24, 4, |value| {
        prop_oneof![
            prop::collection::vec(value.clone(), 0..4)
                .prop_map(|elements| format!("[{}]", elements.join(", "))),
            object_of(value),
        ]
    });
    prop_oneof![9 => object_of(value), 10 => list_of_objects(), 1 => scalar()]
}

/// Objects below one name, where it matters which values stand together.
fn list_of_objects() -> impl Strategy<Value = String> {
    let elements = prop::collection::vec(object_of(prop_oneof![quoted(), number()]), 1..5);
    (
        name(),
        elements,
        prop::sample::select(vec![("[", "]"), ("[[", "], []]")]),
    )
        .prop_map(|(name, elements, (open, close))| {
            format!(r#"{{"{name}": {open}{}{close}}}"#, elements.join(", "))
        })
}

fn text_matcher() -> impl Strategy<Value = String> {
    let affix = prop_oneof![
        quoted(),
        quoted().prop_map(|text| format!(r#"{{"equals-ignore-case": {text}}}"#)),
    ];
    let wildcard = prop::sample::select(vec!["*", "x*", "*x", "x*x", "*y*", "x*y*", "\\\\*"]);
    prop_oneof![
        affix
            .clone()
            .prop_map(|text| format!(r#""prefix": {text}"#)),
        affix.prop_map(|text| format!(r#""suffix": {text}"#)),
        quoted().prop_map(|text| format!(r#""equals-ignore-case": {text}"#)),
        wildcard.prop_map(|text| format!(r#""wildcard": "{text}""#)),
    ]
}

fn matcher() -> impl Strategy<Value = String> {
    let ranges = vec![
        r#"[">", 0]"#,
        r#"[">=", 1, "<", 2]"#,
        r#"["<=", 1.5]"#,
        r#"["=", 1]"#,
        r#"["<", 2, ">", -1]"#,
    ];
    let networks = vec!["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "::/0", "::1/128"];
    prop_oneof![
        3 => quoted(),
        2 => number(),
        2 => text_matcher().prop_map(|inner| format!("{{{inner}}}")),
        1 => text_matcher().prop_map(|inner| format!(r#"{{"anything-but": {{{inner}}}}}"#)),
        1 => prop_oneof![quoted(), number()]
            .prop_map(|value| format!(r#"{{"anything-but": [{value}, "x"]}}"#)),
        1 => prop::sample::select(ranges).prop_map(|range| format!(r#"{{"numeric": {range}}}"#)),
        1 => prop::sample::select(networks).prop_map(|block| format!(r#"{{"cidr": "{block}"}}"#)),
        1 => any::<bool>().prop_map(|exists| format!(r#"{{"exists": {exists}}}"#)),
    ]
}

fn matchers() -> impl Strategy<Value = String> {
    prop::collection::vec(matcher(), 1..3).prop_map(|matchers| format!("[{}]", matchers.join(", ")))
}

/// An object whose members have different names, with `$or` among them.
fn group_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::btree_map(name(), value, 1..4).prop_map(members)
}

fn members(members: impl IntoIterator<Item = (String, String)>) -> String {
    let members: Vec<_> = members
        .into_iter()
        .map(|(name, value)| format!("\"{name}\": {value}"))
        .collect();
    format!("{{{}}}", members.join(", "))
}

fn group() -> impl Strategy<Value = String> {
    let payload_matchers = prop_oneof![
        6 => matchers(),
        1 => scalar().prop_map(|value| format!("[{value}]")),
    ];
    group_of(payload_matchers).prop_recursive(3, 12, 3, |group| {
        prop_oneof![
            group_of(prop_oneof![matchers(), group.clone()]),
            (group.clone(), group, matchers()).prop_map(|(one, other, own)| format!(
                r#"{{"a": {own}, "$or": [{one}, {other}]}}"#
            )),
        ]
    })
}

fn pattern() -> impl Strategy<Value = String> {
    let headers = group_of(matchers()).boxed();
    let value = || prop_oneof![quoted(), number()].prop_map(|value| format!("[{value}]"));
    let together = (name(), prop::collection::btree_map(name(), value(), 2..4))
        .prop_map(|(name, fields)| format!(r#"{{"{name}": {}}}"#, members(fields)));
    let any = prop_oneof![
        3 => group(),
        3 => together,
        1 => headers.clone().prop_map(|headers| format!(r#"{{"$headers": {headers}}}"#)),
        1 => (headers.clone(), group()).prop_map(|(headers, group)| {
            format!(r#"{{"$headers": {headers}, "$payload": {group}}}"#)
        }),
        1 => (headers, group()).prop_map(|(headers, group)| {
            format!(r#"{{"$or": [{{"$headers": {headers}}}, {group}]}}"#)
        }),
    ];
    // The one thing that may be wrong: names that mean the same field.
    any.prop_filter("a field twice", |text| match Pattern::parse(text) {
        Ok(_) => true,
        Err(error) if error.to_string().contains("this field stands twice") => false,
        Err(error) => panic!("{text}: {error}"),
    })
}
