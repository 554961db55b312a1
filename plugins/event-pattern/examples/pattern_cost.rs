//! Prints what one event of about 1 KiB costs, for sets of 1 to 10,000 rules of several kinds.
//!
//! `cargo run --release -p tidegate-event-pattern --example pattern_cost`

use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use tidegate_event_pattern::{Pattern, PatternSet};

const EVENTS: usize = 256;

/// A kind of rule: a name, and the text of the rule with this number.
type Kind = (&'static str, fn(usize) -> String);

const KINDS: [Kind; 6] = [
    ("exact id", |i| {
        format!(r#"{{"type": ["bid"], "bidder": {{"id": [{i}]}}}}"#)
    }),
    ("prefix", |i| {
        format!(r#"{{"url": [{{"prefix": "https://shop.example/item/{i}/"}}]}}"#)
    }),
    ("range of 10", |i| {
        format!(
            r#"{{"price": [{{"numeric": [">=", {i}, "<", {}]}}]}}"#,
            i + 10
        )
    }),
    ("open range and id", |i| {
        format!(
            r#"{{"price": [{{"numeric": [">", {i}]}}], "auction": [{}]}}"#,
            i % 100
        )
    }),
    ("wildcard", |i| {
        format!(r#"{{"url": [{{"wildcard": "*/item/{i}/*"}}]}}"#)
    }),
    ("mixed", |i| match i % 5 {
        0 => format!(r#"{{"auction": [{i}], "channel": ["web", "app"]}}"#),
        1 => format!(
            r#"{{"price": [{{"numeric": [">=", {i}, "<", {}]}}], "type": ["bid"]}}"#,
            i + 5
        ),
        2 => format!(r#"{{"bidder": {{"city": [{{"equals-ignore-case": "CITY-{i}"}}]}}}}"#),
        3 => format!(r#"{{"$or": [{{"bidder": {{"id": [{i}]}}}}, {{"auction": [{i}]}}]}}"#),
        _ => format!(
            r#"{{"bidder": {{"ip": [{{"cidr": "10.{}.{}.0/24"}}]}}}}"#,
            i / 256 % 256,
            i % 256
        ),
    }),
];

fn main() {
    let events: Vec<String> = (0..EVENTS).map(event).collect();
    let bytes: usize = events.iter().map(String::len).sum();
    println!("{EVENTS} events of {} bytes on average", bytes / EVENTS);
    println!("microseconds per event (rules matched per event)\n");
    println!(
        "{:20}{:>16}{:>16}{:>16}{:>16}{:>16}",
        "rules", 1, 10, 100, 1_000, 10_000
    );
    for (name, rule) in KINDS {
        let mut line = format!("{name:20}");
        for count in [1, 10, 100, 1_000, 10_000] {
            let (cost, matched) = measure(rule, count, &events);
            let cell = format!("{:.2} ({matched:.2})", cost.as_secs_f64() * 1e6);
            let _infallible = write!(line, "{cell:>16}");
        }
        println!("{line}");
    }
}

/// The best of several passes over the events, per event.
fn measure(rule: fn(usize) -> String, count: usize, events: &[String]) -> (Duration, f64) {
    let mut set = PatternSet::new();
    for number in 0..count {
        match Pattern::parse(&rule(number)) {
            Ok(pattern) => set.insert(number as u32, pattern),
            Err(error) => panic!("{}: {error}", rule(number)),
        }
    }
    let mut matched = Vec::new();
    let mut best = Duration::MAX;
    let mut total = 0;
    for _ in 0..30 {
        let start = Instant::now();
        total = 0;
        for event in events {
            matched.clear();
            set.evaluate(black_box(event.as_bytes()), &[], &mut matched);
            total += matched.len();
        }
        best = best.min(start.elapsed());
    }
    (
        best / events.len() as u32,
        total as f64 / events.len() as f64,
    )
}

/// A bid with the usual mixture of what is asked for and what is not.
fn event(i: usize) -> String {
    let id = i * 37 % 1_000;
    let extra = "lorem ipsum dolor sit amet ".repeat(20);
    format!(
        r#"{{"type": "bid", "auction": {id}, "price": {price}, "channel": "{channel}",
        "url": "https://shop.example/item/{id}/bid?ref={i}",
        "bidder": {{"id": {id}, "name": "Person Number {i}", "city": "City-{id}", "state": "OR",
            "ip": "10.0.{octet}.7", "email": "person{i}@mail.example", "credit": "1234 5678 {i:04} 9012"}},
        "dateTime": "2026-01-05T10:{minute:02}:00.000Z", "flags": [true, false, null, 1, 2, 3],
        "trace": {{"span": "00f067aa0ba902b7", "parent": "4bf92f3577b34da6a3ce929d0e0e4736"}},
        "extra": "{extra}"}}"#,
        price = i * 13 % 1_000,
        channel = ["web", "app", "tv"][i % 3],
        octet = i % 256,
        minute = i % 60,
    )
}
