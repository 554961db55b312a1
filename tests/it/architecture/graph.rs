//! Which file of the host depends on which, read from its source: every path that begins with `crate`, `self` or `super`, or with a
//! child module's name, is followed through re-exports to the file that has the item. Knows nothing of rules.

use std::collections::{BTreeMap, BTreeSet};

type Path = Vec<String>;

/// Files by what they depend on. A file that only hands its children's items on does not depend on them for that.
pub(super) struct Graph {
    pub(super) edges: BTreeMap<String, BTreeSet<String>>,
}

struct Module {
    file: String,
    children: BTreeSet<String>,
    // Names that it hands on, and where they are from.
    handed_on: BTreeMap<String, Path>,
    // Modules everything of which it hands on.
    globs: Vec<Path>,
    used: Vec<Path>,
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
            let children = paths
                .keys()
                .filter(|other| other.len() == path.len() + 1 && other.starts_with(path));
            let children = children.filter_map(|child| child.last().cloned());
            modules.insert(
                path.clone(),
                Module::read(path, file, source, children.collect()),
            );
        }
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for module in modules.values() {
            let of_module = edges.entry(module.file.clone()).or_default();
            for used in &module.used {
                if let Some(file) = file_of(&modules, used, 0)
                    && file != module.file
                {
                    of_module.insert(file);
                }
            }
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

impl Module {
    fn read(path: &Path, file: &str, source: &str, children: BTreeSet<String>) -> Self {
        let mut module = Self {
            file: file.to_owned(),
            children,
            handed_on: BTreeMap::new(),
            globs: Vec::new(),
            used: Vec::new(),
        };
        for found in named_paths(source, &module.children) {
            let absolute = absolute(path, &found.path, &module.children);
            let hands_on = found.is_handed_on && absolute.starts_with(path);
            match absolute.last().map(String::as_str) {
                Some("*") if found.is_handed_on => {
                    module.globs.push(absolute[..absolute.len() - 1].to_vec());
                }
                Some(name) if found.is_handed_on => {
                    let name = found.alias.unwrap_or_else(|| name.to_owned());
                    module.handed_on.insert(name, absolute.clone());
                }
                _ => {}
            }
            if !hands_on {
                module.used.push(absolute);
            }
        }
        module
    }
}

struct Found {
    path: Path,
    alias: Option<String>,
    is_handed_on: bool,
}

// Every path into the host, groups taken apart.
fn named_paths(source: &str, children: &BTreeSet<String>) -> Vec<Found> {
    let mut found = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    while let Some(step) = source[at..].find(is_word) {
        let begin = at + step;
        let length = source[begin..]
            .find(|c| !is_word(c))
            .unwrap_or(source.len() - begin);
        at = begin + length;
        let word = &source[begin..at];
        let is_root = matches!(word, "crate" | "self" | "super") || children.contains(word);
        let before = source[..begin].trim_end();
        if !is_root
            || !source[at..].starts_with("::")
            || before.ends_with("::")
            || before.ends_with('$')
        {
            continue;
        }
        let statement = source[..begin]
            .rfind([';', '}', '{'])
            .map_or(0, |end| end + 1);
        let statement = source[statement..begin].trim_start();
        let statement = statement
            .rsplit(']')
            .next()
            .unwrap_or(statement)
            .trim_start();
        let is_use = statement.contains("use ");
        let is_handed_on = is_use && statement.starts_with("pub");
        let end = match is_use {
            true => source[begin..]
                .find(';')
                .map_or(source.len(), |end| begin + end),
            false => {
                begin
                    + source[begin..]
                        .find(|c: char| !is_word(c) && c != ':')
                        .unwrap_or(source.len() - begin)
            }
        };
        let mut leaves = Vec::new();
        take_apart(&[], &source[begin..end], &mut leaves);
        found.extend(leaves.into_iter().map(|(path, alias)| Found {
            path,
            alias,
            is_handed_on,
        }));
        at = end.max(at);
    }
    found
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

fn absolute(module: &Path, path: &[String], children: &BTreeSet<String>) -> Path {
    let mut base = module.clone();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => {
            base.clear();
            rest = &path[1..];
        }
        Some("self") => rest = &path[1..],
        Some(first) if children.contains(first) => {}
        _ => {}
    }
    while rest.first().is_some_and(|first| first == "super") {
        base.pop();
        rest = &rest[1..];
    }
    base.extend(rest.iter().cloned());
    base
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
    let sources = [
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
    ];
    let sources = sources.map(|(path, source)| (path.to_owned(), source.to_owned()));
    let graph = Graph::of(&sources);
    let edges = |file: &str| -> Vec<String> { graph.edges[file].iter().cloned().collect() };
    assert!(edges("a.rs").is_empty());
    assert_eq!(edges("a/x.rs"), ["a/y.rs"]);
    assert_eq!(edges("b.rs"), ["a.rs", "a/x.rs", "a/y.rs"]);
    let circle = BTreeSet::from(["c.rs".to_owned(), "c/d.rs".to_owned()]);
    assert_eq!(graph.circles(), [circle]);
}
