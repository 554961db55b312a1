//! A comment that sends its reader to another file is true in the one respect that can be checked: that file exists.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_tests::repository;

use super::collect;

#[test]
fn files_that_comments_name_exist() {
    let mut files = Vec::new();
    for root in ["host/src", "sdk", "plugins"] {
        collect(&repository().join(root), &mut files);
    }
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for file in files {
        let source = fs::read_to_string(&file).expect("a readable source file");
        for name in source.lines().flat_map(named) {
            looked_at += 1;
            if !is_there(&file, name) {
                missing.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(looked_at > 10, "{looked_at} names");
    assert!(missing.is_empty(), "{missing:#?}");
}

// What a line names in quotes, if it is a comment.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let comment = line.trim_start().strip_prefix("//").unwrap_or_default();
    let quoted = comment.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.ends_with(".rs") && !name.contains(' '))
}

// A name begins in the repository, in the host's rooms, in the file's own room or in one above.
fn is_there(file: &Path, name: &str) -> bool {
    let root: PathBuf = repository();
    let above = file.ancestors().skip(1);
    let rooms = above.take_while(|room| room.starts_with(&root));
    let mut places = rooms
        .map(Path::to_owned)
        .chain([root.join("host/src"), file.with_extension("")]);
    places.any(|place| place.join(name).is_file())
}

#[test]
fn names_are_found_in_comments_only() {
    let check = |line: &str, expected: &[&str]| {
        assert_eq!(named(line).collect::<Vec<_>>(), expected, "{line}");
    };
    check(
        "//! See `store/error.rs`, and `a b.rs`.",
        &["store/error.rs"],
    );
    check("    // As in `a.rs` and `b/c.rs`.", &["a.rs", "b/c.rs"]);
    check("/// `Position`, of `domain`", &[]);
    check("let path = \"`a.rs`\";", &[]);
    let file = repository().join("host/src/store/journal.rs");
    for name in [
        "record.rs",
        "reader.rs",
        "store/journal/record.rs",
        "host/build.rs",
    ] {
        assert!(is_there(&file, name), "{name}");
    }
    assert!(!is_there(&file, "no_such_file.rs"));
}
