//! Which file of the host depends on which, read from its source: every path that begins with `crate`, `self` or `super`, or with the
//! name of a child or of a module that was imported, is followed through re-exports to the file that has the item. A module's name
//! alone is no dependence, what is named through it is. Of methods those are followed that a type calls on itself and has in another
//! file; whoever else calls one has the type, and so its file, from somewhere. Knows nothing of rules.

use std::collections::{BTreeMap, BTreeSet};

use super::lengths::name_of_function;

type Path = Vec<String>;

/// Files by what they depend on. A file that hands its children's items on, and does not use them, does not depend on them for that.
pub(super) struct Graph {
    pub(super) edges: BTreeMap<String, BTreeSet<String>>,
}

struct Module {
    file: String,
    // Names that it hands on, and where they are from.
    handed_on: BTreeMap<String, Path>,
    // Modules everything of which it hands on.
    globs: Vec<Path>,
    used: Vec<Path>,
    methods: Vec<Methods>,
}

// What one block has of a type's methods.
struct Methods {
    of: Path,
    has: BTreeSet<String>,
    // On `self` or `Self`.
    calls: BTreeSet<String>,
}

impl Graph {
    /// Of files, by path and source without comments and tests.
    pub(super) fn of(sources: &[(String, String)]) -> Self {
        let mut modules: BTreeMap<Path, Module> = BTreeMap::new();
        let paths: BTreeMap<Path, &(String, String)> = sources
            .iter()
            .map(|source| (module_path(&source.0), source))
            .collect();
        for (path, (file, source)) in &paths {
            let module = Module::read(path, file, source, &roots(path, source, &paths));
            modules.insert(path.clone(), module);
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for module in modules.values() {
            let of_module = edges.entry(module.file.clone()).or_default();
            for used in &module.used {
                of_module.extend(files_of(&modules, used));
            }
            of_module.remove(&module.file);
        }
        for (file, other) in calls_between_files(&modules) {
            edges.entry(file).or_default().insert(other);
        }
        Self { edges }
    }

    /// Files that depend on each other, all of one circle together; trivially a folder's own file and its children too.
    pub(super) fn circles(&self) -> Vec<BTreeSet<String>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> = self
            .edges
            .keys()
            .map(|file| (file.as_str(), self.reachable(file)))
            .collect();
        let mut circles = BTreeSet::new();
        for (file, reached) in &reach {
            if !reached.contains(file) {
                continue;
            }
            let with = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)));
            circles.insert(
                with.map(|other| (*other).to_owned())
                    .collect::<BTreeSet<String>>(),
            );
        }
        circles.into_iter().collect()
    }

    fn reachable<'a>(&'a self, from: &str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> = self
            .edges
            .get(from)
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(
                    self.edges
                        .get(file)
                        .into_iter()
                        .flatten()
                        .map(String::as_str),
                );
            }
        }
        reached
    }
}

// With what a path in a module can begin, and where that is.
type Roots = BTreeMap<String, Path>;

// Its children, and the modules that it imports.
fn roots<T>(module: &Path, source: &str, modules: &BTreeMap<Path, T>) -> Roots {
    let is_child = |other: &&Path| other.len() == module.len() + 1 && other.starts_with(module);
    let named = |child: &Path| Some((child.last()?.clone(), child.clone()));
    let mut roots: Roots = modules.keys().filter(is_child).filter_map(named).collect();
    for found in named_paths(module, source, &roots) {
        if let Some(name) = found.name()
            && found.is_import
            && modules.contains_key(&found.path)
        {
            roots.insert(name, found.path);
        }
    }
    roots
}

impl Module {
    fn read(path: &Path, file: &str, source: &str, roots: &Roots) -> Self {
        let mut module = Self {
            file: file.to_owned(),
            handed_on: BTreeMap::new(),
            globs: Vec::new(),
            used: Vec::new(),
            methods: Vec::new(),
        };
        let mut imported = BTreeMap::new();
        let used_here = words_outside_imports(source);
        for found in named_paths(path, source, roots) {
            if let Some(name) = found.name()
                && found.is_import
            {
                imported.insert(name, found.path.clone());
            }
            let is_own = found.path.starts_with(path);
            if found.is_handed_on {
                match found.name() {
                    Some(name) if name == "*" => {
                        module
                            .globs
                            .push(found.path[..found.path.len() - 1].to_vec());
                    }
                    Some(name) => drop(module.handed_on.insert(name, found.path.clone())),
                    None => {}
                }
            }
            let is_used = found.name().is_some_and(|name| used_here.contains(&*name));
            if !(found.is_handed_on && is_own) || is_used {
                module.used.push(found.path);
            }
        }
        let own = |name: &str| path.iter().cloned().chain([name.to_owned()]).collect();
        let type_of = |name: &str| imported.get(name).cloned().unwrap_or_else(|| own(name));
        module.methods = methods(source, type_of);
        module
    }
}

// Formatted, an import begins a line, and its `;` ends one.
fn words_outside_imports(source: &str) -> BTreeSet<&str> {
    let mut words = BTreeSet::new();
    let mut is_import = false;
    for line in source.lines() {
        let begins = line.trim_start();
        is_import |= begins.starts_with("use ")
            || begins.starts_with("pub") && begins.split_whitespace().take(3).any(|w| w == "use");
        if !is_import {
            words.extend(line.split(|c: char| !(c.is_alphanumeric() || c == '_')));
        }
        is_import &= !line.ends_with(';');
    }
    words
}

struct Found {
    // From the root.
    path: Path,
    alias: Option<String>,
    is_import: bool,
    is_handed_on: bool,
}

impl Found {
    // What it is called where it is imported.
    fn name(&self) -> Option<String> {
        self.alias.clone().or_else(|| self.path.last().cloned())
    }
}

// Every path into the host that the source of `module` names, groups taken apart.
fn named_paths(module: &Path, source: &str, roots: &Roots) -> Vec<Found> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    while let Some(step) = source[at..].find(is_word) {
        let begin = at + step;
        let rest = &source[begin..];
        at = begin + rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = &source[begin..at];
        let is_root = matches!(word, "crate" | "self" | "super") || roots.contains_key(word);
        let before = source[..begin].trim_end();
        let is_inside = before.ends_with("::") || before.ends_with('$');
        // `pub(in crate::x)` says who may see something.
        let is_visibility = before.ends_with("pub(in");
        if !is_root || !source[at..].starts_with("::") || is_inside || is_visibility {
            continue;
        }
        let statement = beginning_of_statement(&source[..begin]);
        let is_import = statement.contains("use ");
        let length = match is_import {
            true => rest.find(';'),
            false => rest.find(|c: char| !is_word(c) && c != ':'),
        };
        let end = begin + length.unwrap_or(rest.len());
        // What is before `::<T>` is a path as well.
        let tree = source[begin..end].trim_end_matches(':');
        let within = inline_module(&source[..begin]);
        let mut leaves = Vec::new();
        take_apart(&[], tree, &mut leaves);
        found.extend(leaves.into_iter().map(|(path, alias)| Found {
            path: absolute(module, within, &path, roots),
            alias,
            is_import,
            is_handed_on: is_import && statement.starts_with("pub") && within.is_none(),
        }));
        at = end.max(at);
    }
    found
}

// What stands between the end of the statement before and here, without attributes.
fn beginning_of_statement(before: &str) -> &str {
    let begin = before.rfind([';', '}', '{']).map_or(0, |end| end + 1);
    let statement = before[begin..].trim_start();
    let after_attributes = statement.rsplit(']').next();
    after_attributes.unwrap_or(statement).trim_start()
}

// The module in the middle of a file in which this ends. Formatted, it begins and ends at the margin.
fn inline_module(before: &str) -> Option<&str> {
    let mut upwards = before.lines().rev().take_while(|line| *line != "}");
    upwards.find_map(|line| {
        let (visibility, name) = line.strip_suffix(" {")?.rsplit_once("mod ")?;
        (visibility.is_empty() || visibility.starts_with("pub")).then_some(name)
    })
}

// The blocks of methods in a source, by their types. Formatted, a block begins and ends at the margin.
fn methods(source: &str, type_of: impl Fn(&str) -> Path) -> Vec<Methods> {
    let mut all = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if !(line.starts_with("impl ") || line.starts_with("impl<")) || line.ends_with("{}") {
            continue;
        }
        let name = implementing(line);
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "}").collect();
        let methods = body.iter().filter_map(|line| name_of_function(line));
        all.push(Methods {
            of: type_of(name),
            has: methods.map(str::to_owned).collect(),
            calls: calls_on_itself(&body.join("\n")),
        });
    }
    all
}

// `impl<T> Trait for Type<T> {` → `Type`.
fn implementing(head: &str) -> &str {
    let head = head.strip_prefix("impl").unwrap_or(head);
    let after_generics = match head.strip_prefix('<') {
        Some(generics) => generics.split_once("> ").map_or(generics, |(_, rest)| rest),
        None => head,
    };
    let of = after_generics.split_once(" for ");
    let of = of.map_or(after_generics, |(_, of)| of).trim_start();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let end = of.find(|c| !is_word(c)).unwrap_or(of.len());
    &of[..end]
}

fn calls_on_itself(body: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let after = |receiver: &'static str, separator: &'static str| {
        body.match_indices(receiver).filter_map(move |(at, _)| {
            let is_whole = !body[..at].ends_with(is_word);
            let rest = body[at + receiver.len()..].trim_start();
            let rest = rest.strip_prefix(separator).filter(|_| is_whole)?;
            let end = rest.find(|c| !is_word(c))?;
            let is_call = rest[end..].starts_with('(') || rest[end..].starts_with("::<");
            is_call.then(|| rest[..end].to_owned())
        })
    };
    after("self", ".").chain(after("Self", "::")).collect()
}

// From the file of a block to that of a block of the same type that has a method it calls.
fn calls_between_files(modules: &BTreeMap<Path, Module>) -> BTreeSet<(String, String)> {
    let mut by_type: BTreeMap<(String, &str), Vec<(&str, &Methods)>> = BTreeMap::new();
    for module in modules.values() {
        for block in &module.methods {
            if let (Some(home), Some(name)) = (file_of(modules, &block.of, 0), block.of.last()) {
                let blocks = by_type.entry((home, name)).or_default();
                blocks.push((&module.file, block));
            }
        }
    }
    let mut calls = BTreeSet::new();
    for blocks in by_type.values() {
        for (file, caller) in blocks {
            let has_called = |(_, other): &&(&str, &Methods)| !other.has.is_disjoint(&caller.calls);
            let others = blocks.iter().filter(has_called);
            let others = others.filter(|(other, _)| other != file);
            calls.extend(others.map(|(other, _)| ((*file).to_owned(), (*other).to_owned())));
        }
    }
    calls
}

// `a::{b, c::{self, d as e}}` as its leaves.
fn take_apart(prefix: &[String], tree: &str, leaves: &mut Vec<(Path, Option<String>)>) {
    let tree = tree.trim();
    if let Some(group) = tree.strip_prefix('{') {
        let (mut depth, mut begin) = (0, 0);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                '}' | ',' if depth == 0 => {
                    take_apart(prefix, &group[begin..at], leaves);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    match tree.split_once("::") {
        Some((first, rest)) => {
            let mut path = prefix.to_vec();
            path.push(first.trim().to_owned());
            take_apart(&path, rest, leaves);
        }
        None if tree.is_empty() => {}
        None => {
            let (name, alias) = match tree.split_once(" as ") {
                Some((name, alias)) => (name.trim(), Some(alias.trim().to_owned())),
                None => (tree, None),
            };
            let mut path = prefix.to_vec();
            if name != "self" {
                path.push(name.to_owned());
            }
            leaves.push((path, alias));
        }
    }
}

// `super::x`, named in `module` or in one in the middle of its file, from the root.
fn absolute(module: &Path, within: Option<&str>, path: &[String], roots: &Roots) -> Path {
    let mut base = module.clone();
    base.extend(within.map(str::to_owned));
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => {
            base.clear();
            rest = &path[1..];
        }
        Some("self") => rest = &path[1..],
        Some(first) => {
            if let Some(root) = roots.get(first) {
                base.clone_from(root);
                rest = &path[1..];
            }
        }
        None => {}
    }
    while rest.first().is_some_and(|first| first == "super") {
        base.pop();
        rest = &rest[1..];
    }
    base.extend(rest.iter().cloned());
    base
}

// The files that have what an absolute path names: one, but for a module, of which nothing is named yet, and for `*`, which is
// everything that a module has or hands on.
fn files_of(modules: &BTreeMap<Path, Module>, path: &Path) -> BTreeSet<String> {
    let Some((last, parent)) = path.split_last() else {
        return BTreeSet::new();
    };
    let parent = modules.get(parent);
    // An item may have the name of the module that it is from.
    let is_handed_on = parent.is_some_and(|parent| parent.handed_on.contains_key(last));
    if modules.contains_key(path) && !is_handed_on {
        return BTreeSet::new();
    }
    match parent {
        Some(parent) if last == "*" => {
            let handed_on = parent.handed_on.values().chain(&parent.globs);
            let from_others = handed_on.filter_map(|path| file_of(modules, path, 0));
            from_others.chain([parent.file.clone()]).collect()
        }
        _ => file_of(modules, path, 0).into_iter().collect(),
    }
}

// The file that has what an absolute path names.
fn file_of(modules: &BTreeMap<Path, Module>, path: &[String], depth: usize) -> Option<String> {
    let length = (0..=path.len())
        .rev()
        .find(|length| modules.contains_key(&path[..*length]))?;
    let module = modules.get(&path[..length])?;
    let Some(item) = path.get(length) else {
        return Some(module.file.clone());
    };
    // Re-exports of re-exports end.
    if depth > 8 {
        return Some(module.file.clone());
    }
    if let Some(target) = module.handed_on.get(item) {
        return file_of(modules, target, depth + 1);
    }
    for glob in &module.globs {
        let target: Path = glob.iter().chain([item]).cloned().collect();
        if let Some(child) = modules.get(glob.as_slice()) {
            return file_of(modules, &target, depth + 1).or_else(|| Some(child.file.clone()));
        }
    }
    Some(module.file.clone())
}

fn module_path(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    match path {
        "lib" => Vec::new(),
        _ => path.split('/').map(str::to_owned).collect(),
    }
}

#[test]
fn paths_are_followed_to_the_file_that_has_the_item() {
    let graph = graph_of(&[
        ("lib.rs", "pub mod a; pub mod b;"),
        (
            "a.rs",
            "mod x; mod y;\npub use x::X;\npub(crate) use y::{Y as Other, Z};\npub struct Own;",
        ),
        ("a/x.rs", "use super::y::Y;\npub struct X(Y);"),
        ("a/y.rs", "pub struct Y; pub struct Z;"),
        (
            "b.rs",
            "use crate::a::{self, Other, X};\nfn f() -> a::Own { crate::a::Own }",
        ),
        ("c.rs", "mod d;\nuse d::D;\nfn f() { d::call() }"),
        ("c/d.rs", "pub(super) use super::f; pub struct D;"),
    ]);
    assert!(edges(&graph, "a.rs").is_empty());
    assert_eq!(edges(&graph, "a/x.rs"), ["a/y.rs"]);
    assert_eq!(edges(&graph, "b.rs"), ["a.rs", "a/x.rs", "a/y.rs"]);
    let circle = BTreeSet::from(["c.rs".to_owned(), "c/d.rs".to_owned()]);
    assert_eq!(graph.circles(), [circle]);
}

#[test]
fn what_is_named_through_an_imported_module_counts_and_its_name_alone_does_not() {
    let graph = graph_of(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "mod x;\npub use x::X;\npub fn f() {}"),
        ("a/x.rs", "pub struct X;"),
        ("b.rs", "use crate::a;\nfn g() -> a::X { a::X }"),
        ("c.rs", "use super::a as other;\nfn g() { other::f() }"),
        ("d.rs", "use super::{a, b};"),
    ]);
    assert_eq!(edges(&graph, "b.rs"), ["a/x.rs"]);
    assert_eq!(edges(&graph, "c.rs"), ["a.rs"]);
    assert!(edges(&graph, "d.rs").is_empty());
}

#[test]
fn circles_through_whatever_a_parent_has_are_seen() {
    let graph = graph_of(&[
        ("a.rs", "mod x; mod y;\npub use y::Y;\nfn f(x: x::X) {}"),
        ("a/x.rs", "use super::*;\npub struct X(Y);"),
        ("a/y.rs", "pub struct Y;"),
        ("b.rs", "mod x;\nfn f(x: x::X) { x::made::<X>() }"),
        ("b/x.rs", "pub struct X;\nfn g() { super::f(X) }"),
        (
            "c.rs",
            "mod x;\npub(crate) use x::{\n    X,\n};\nfn f(x: X) {}",
        ),
        ("c/x.rs", "pub struct X;\nfn g() { super::f(X) }"),
        ("d.rs", "mod x;\npub use x::{\n    X,\n};\nfn f(x: u8) {}"),
        ("d/x.rs", "pub struct X;\nfn g() { super::f(1) }"),
    ]);
    assert_eq!(edges(&graph, "a/x.rs"), ["a.rs", "a/y.rs"]);
    let circle = |files: [&str; 2]| BTreeSet::from(files.map(str::to_owned));
    let expected = ["a", "b", "c"].map(|of| circle([&format!("{of}.rs"), &format!("{of}/x.rs")]));
    assert_eq!(graph.circles(), expected);
}

#[test]
fn who_may_see_something_and_a_module_within_a_file_tie_nothing() {
    let graph = graph_of(&[
        ("a.rs", "mod x;\nfn f(x: x::X) {}"),
        (
            "a/x.rs",
            "pub struct X {\n    pub(in crate::a) x: u8,\n}\npub(in crate::a) mod y {\n    use super::X;\n}\nuse crate::b::B;",
        ),
        ("b.rs", "pub struct B;\nfn g() { crate::b::f::<B>() }"),
    ]);
    assert_eq!(edges(&graph, "a/x.rs"), ["b.rs"]);
    assert!(graph.circles().is_empty());
}

#[test]
fn methods_that_a_type_has_in_another_file_and_calls_on_itself_are_seen() {
    let graph = graph_of(&[
        (
            "a.rs",
            "mod x;\npub struct A<T>(T);\nimpl<T: Copy> A<T> {\n    fn f(&self) {\n        self\n            .g(1);\n    }\n}",
        ),
        (
            "a/x.rs",
            "use super::A;\nimpl<T> A<T> {\n    pub(super) fn g(&self, b: &crate::b::B) {\n        b.h();\n    }\n}",
        ),
        (
            "b.rs",
            "mod x;\npub struct B;\nimpl B {\n    fn f(&self) {\n        self.own();\n        other.g();\n    }\n    fn own(&self) {}\n}",
        ),
        (
            "b/x.rs",
            "impl Drop for super::B {}\nuse super::B as C;\nimpl C {\n    fn h(&self) {\n        Self::own(self)\n    }\n}",
        ),
    ]);
    let circle = BTreeSet::from(["a.rs".to_owned(), "a/x.rs".to_owned()]);
    assert_eq!(graph.circles(), [circle]);
    assert_eq!(edges(&graph, "b/x.rs"), ["b.rs"]);
    assert!(edges(&graph, "b.rs").is_empty());
}

fn graph_of(sources: &[(&str, &str)]) -> Graph {
    let owned = |(path, source): &(&str, &str)| ((*path).to_owned(), (*source).to_owned());
    Graph::of(&sources.iter().map(owned).collect::<Vec<_>>())
}

fn edges(graph: &Graph, file: &str) -> Vec<String> {
    graph.edges[file].iter().cloned().collect()
}
