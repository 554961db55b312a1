//! What only a library that is compiled for simulation has: faults that runs are looked through for, each at one place of the host, which
//! the table in `tests/RELIABILITY.md` names; and states that runs reach, each at one place, too.

use std::collections::BTreeMap;
use std::fs;

use tidegate_tests::repository;

use super::{collect, host_sources};

const PLANTED: &str = "planted!(";
const BUGS: &str = "tests/sim/seams/bugs.rs";
const STATES: &str = "tests/sim/seams/states.rs";
const TABLE: &str = "tests/RELIABILITY.md";

#[test]
fn each_planted_fault_stands_at_the_one_place_that_the_table_names() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).expect(path);
    let bugs = named(&read(BUGS), "bugs! {\n");
    assert!(bugs.len() >= 40, "{} faults", bugs.len());
    let table = rows(&read(TABLE));
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, source) in host_sources() {
        for (bug, function) in marks(&source, PLANTED) {
            let place = format!("{path}::{function}");
            places.entry(bug).or_default().push(place);
        }
    }
    let mut wrong = Vec::new();
    for bug in &bugs {
        let at = places.remove(bug).unwrap_or_default();
        match (&*at, table.iter().find(|(name, _)| name == bug)) {
            ([place], Some((_, named))) if place == named => {}
            (_, row) => wrong.push(format!(
                "{bug} stands in {at:?}, and the table says {row:?}"
            )),
        }
    }
    wrong.extend(places.keys().map(|bug| format!("{bug} is in no list")));
    let strangers = table.iter().filter(|(name, _)| !bugs.contains(name));
    wrong.extend(strangers.map(|(name, _)| format!("{name} is in {TABLE} only")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_test_of_the_host_has_a_planted_fault() {
    let mut files = Vec::new();
    collect(&repository().join("host/src"), &mut files);
    let in_all = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("a readable source file"))
        .map(|source| marks(&source, PLANTED).len());
    let outside: usize = host_sources()
        .iter()
        .map(|(_, source)| marks(source, PLANTED).len())
        .sum();
    assert_eq!(in_all.sum::<usize>(), outside);
}

#[test]
fn each_state_is_reached_at_one_place() {
    let states = fs::read_to_string(repository().join(STATES)).expect(STATES);
    let states = named(&states, "states! {\n");
    assert!(states.len() >= 40, "{} states", states.len());
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, source) in host_sources() {
        for (state, function) in marks(&source, "reached!(") {
            let place = format!("{path}::{function}");
            places.entry(state).or_default().push(place);
        }
    }
    let mut wrong = Vec::new();
    for state in &states {
        let at = places.remove(state).unwrap_or_default();
        if at.len() != 1 {
            wrong.push(format!("{state} is reached in {at:?}"));
        }
    }
    wrong.extend(places.keys().map(|state| format!("{state} is in no list")));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_bound_otherwise_in_simulated_runs_is_a_constant() {
    let mut wrong = Vec::new();
    for (path, source) in host_sources() {
        let lines = source.lines().filter(|line| line.contains("bound!("));
        let others = lines.filter(|line| !line.contains("const "));
        wrong.extend(others.map(|line| format!("{path}: {}", line.trim())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// The variants that a list has, which begins so: one a line, with a comma.
fn named(source: &str, begins: &str) -> Vec<String> {
    let list = source
        .split(begins)
        .nth(1)
        .and_then(|list| list.split("\n}").next());
    let lines = list.unwrap_or_default().lines().map(str::trim);
    let names = lines.filter_map(|line| line.strip_suffix(','));
    names
        .filter(|name| name.chars().all(char::is_alphanumeric))
        .map(str::to_owned)
        .collect()
}

// Name and place of each row: `| `Name` | `path::function` | …`.
fn rows(table: &str) -> Vec<(String, String)> {
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_matches('`');
        let place = cells.next()?.trim_matches('`');
        let (path, _) = place.split_once("::")?;
        path.ends_with(".rs")
            .then(|| (name.to_owned(), place.to_owned()))
    });
    rows.collect()
}

// Each with the function that it stands in: the last one that begins before it.
fn marks(source: &str, mark: &str) -> Vec<(String, String)> {
    let mut function = String::new();
    let mut marks = Vec::new();
    for line in source.lines() {
        if let Some(begun) = begins(line) {
            function = begun;
        }
        let rest = line.split(mark).skip(1);
        let names = rest.filter_map(|rest| rest.split(')').next());
        marks.extend(names.map(|name| (name.to_owned(), function.clone())));
    }
    marks
}

// The name of a function whose first line this is.
fn begins(line: &str) -> Option<String> {
    let is_before = |word: &&str| {
        word.starts_with("pub") || word.ends_with(')') || ["async", "const"].contains(word)
    };
    let mut rest = line.split_ascii_whitespace().skip_while(is_before);
    let name = rest.next().filter(|word| *word == "fn").and(rest.next())?;
    let end = name.find(|char: char| char != '_' && !char.is_alphanumeric());
    Some(name[..end.unwrap_or(name.len())].to_owned())
}

#[test]
fn faults_and_rows_are_read() {
    let source =
        "macro\nbugs! {\n    // A room.\n    /// It says, a lot,\n    One,\n    Two,\n}\nx,";
    assert_eq!(named(source, "bugs! {\n"), ["One", "Two"]);
    let table = "| name | where |\n|---|---|\n| `One` | `store/journal/writer.rs::sync` | it | I1 |\n| `x` | `y` |\n";
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    assert_eq!(rows(table), [pair("One", "store/journal/writer.rs::sync")]);
    let source = "pub(in crate::a) async fn sync<T>(\n    if planted!(One) || !planted!(Two) {\n// a fn is\nfn next() {\n planted!(Three)";
    let expected = [
        pair("One", "sync"),
        pair("Two", "sync"),
        pair("Three", "next"),
    ];
    assert_eq!(marks(source, PLANTED), expected);
}
