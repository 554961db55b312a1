//! How long functions and files may be, counted in the source of the whole workspace as rustfmt leaves it. No function is
//! too long; a file may be, with its reason.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a function, from its `fn` to its last brace.
const FUNCTION_LINES_MAX: usize = 100;
/// Lines of a file.
const FILE_LINES_MAX: usize = 700;

/// Files that are longer, by the end of their path, and why: tables, which nobody reads from end to end.
const LONG_FILES: &[(&str, &str)] = &[];

#[test]
fn files_are_short() {
    let long: Vec<(String, usize)> = sources()
        .into_iter()
        .map(|(path, source)| (path, source.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .collect();
    let is_listed = |path: &str| LONG_FILES.iter().any(|(end, _)| is_end(path, end));
    let unlisted: Vec<_> = long.iter().filter(|(path, _)| !is_listed(path)).collect();
    assert!(
        unlisted.is_empty(),
        "more than {FILE_LINES_MAX} lines; divide them by what they do: {unlisted:#?}"
    );
    for (end, _) in LONG_FILES {
        assert!(
            long.iter().any(|(path, _)| is_end(path, end)),
            "no file `…/{end}` is too long any more; take it off the list"
        );
    }
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (path, source) in sources() {
        let functions = functions(&source).into_iter();
        let longer = functions.filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
        long.extend(longer.map(|(name, lines)| (path.clone(), name, lines)));
    }
    assert!(
        long.is_empty(),
        "more than {FUNCTION_LINES_MAX} lines; give their steps names: {long:#?}"
    );
}

#[test]
fn every_exception_has_a_reason() {
    assert!(LONG_FILES.iter().all(|(_, why)| why.len() > 10));
}

#[test]
fn functions_are_counted_from_their_first_line_to_their_last_brace() {
    let check = |source: &str, expected: &[(&str, usize)]| {
        let found = functions(source);
        let found: Vec<(&str, usize)> = found
            .iter()
            .map(|(name, lines)| (name.as_str(), *lines))
            .collect();
        assert_eq!(found, expected, "{source}");
    };
    check("fn f() {}\n", &[("f", 1)]);
    check("pub(crate) async fn f() {\n    g();\n}\n", &[("f", 3)]);
    check(
        "pub fn f(\n    a: u8,\n) -> u8\nwhere\n    u8: Copy,\n{\n    a\n}\n\nfn g() {\n}\n",
        &[("f", 8), ("g", 2)],
    );
    // Braces in texts and comments are nobody's end, and what is inside counts for both.
    check(
        "impl A {\n    const unsafe extern \"C\" fn f() {\n        // }\n        let s = \"}\";\n        fn g() {\n        }\n    }\n}\n",
        &[("f", 6), ("g", 2)],
    );
    // What has no body.
    check(
        "trait T {\n    fn f(&self);\n    fn g(\n        &self,\n    ) -> u8;\n    fn h<X>(&self)\n    where\n        X: Copy;\n    fn i(&self) {\n    }\n}\n",
        &[("i", 2)],
    );
    check("type F = fn() -> u8;\n// fn f() {\nlet fn_of = 1;\n", &[]);
}

#[test]
fn an_end_of_a_path_is_made_of_whole_names() {
    assert!(is_end("host/src/commit/group.rs", "group.rs"));
    assert!(is_end("host/src/commit/group.rs", "commit/group.rs"));
    assert!(!is_end("host/src/commit/subgroup.rs", "group.rs"));
}

fn is_end(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

// Name and lines of each function that has a body. In formatted source a body ends with the first brace that stands below the
// beginning of the function's first line.
fn functions(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let indentation = line.len() - line.trim_start().len();
        let Some(name) = name_of_function(line) else {
            continue;
        };
        let mut is_open = false;
        for (last, line) in lines.iter().enumerate().skip(first) {
            if !is_open {
                if line.ends_with('}') {
                    found.push((name.to_owned(), last - first + 1));
                    break;
                }
                if line.ends_with(';') {
                    break;
                }
                is_open = line.ends_with('{');
            } else if line.len() == indentation + 1 && line.ends_with('}') {
                found.push((name.to_owned(), last - first + 1));
                break;
            }
        }
    }
    found
}

// Of a line that begins a function: any words that may stand before `fn`, and then it.
pub(super) fn name_of_function(line: &str) -> Option<&str> {
    let mut words = line.trim_start();
    while let Some((word, rest)) = words.split_once(' ') {
        match word {
            "fn" => {
                let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
                let end = rest.find(|c| !is_of_name(c))?;
                return (end > 0).then(|| &rest[..end]);
            }
            "async" | "const" | "default" | "extern" | "pub" | "unsafe" => words = rest,
            word if is_abi(word) => words = rest,
            word if word.starts_with("pub(") => {
                // `pub(in crate::x)` has a blank.
                words = match word.ends_with("(in") {
                    true => rest.split_once(' ')?.1,
                    false => rest,
                };
            }
            _ => return None,
        }
    }
    None
}

// The name in `extern "C"`.
fn is_abi(word: &str) -> bool {
    word.len() > 2 && word.starts_with('"') && word.ends_with('"')
}

// Path from the workspace's folder and text of every source file, except what tools made; a generator says so in the first line of what
// it writes.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 100, "the workspace is at {}", root.display());
    let read = |path: PathBuf| {
        let source = fs::read_to_string(&path).expect("a readable source file");
        let relative = path.strip_prefix(&root).expect("found under the root");
        (relative.to_string_lossy().into_owned(), source)
    };
    let is_written = |(_, source): &(String, String)| {
        let first = source.lines().next().unwrap_or_default().to_lowercase();
        !(first.starts_with("// ") && first.contains("generated"))
    };
    files.into_iter().map(read).filter(is_written).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let is_made = name == "target" || name.to_string_lossy().starts_with('.');
        if path.is_dir() && !is_made {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
