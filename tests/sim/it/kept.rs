//! What once broke is played each time: seeds and plans that are named in `kept.txt`, with why.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tidegate_sim::plan::Plan;
use tidegate_sim::stage::examine;

/// What is kept: its name, why, and its plan.
struct Kept {
    name: String,
    why: String,
    plan: Plan,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

// A line is a seed or the name of a file in `kept`, and why.
fn all_kept() -> Vec<Kept> {
    let list = fs::read_to_string(folder().join("kept.txt")).expect("a list");
    let lines = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let kept = lines.map(|line| {
        let (name, why) = line.split_once(' ').unwrap_or((line, ""));
        let plan = match name.parse() {
            Ok(seed) => Plan::of(seed),
            Err(_) => {
                let path = folder().join("kept").join(name);
                let json = fs::read_to_string(&path);
                let json = json.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                Plan::from_json(&json).unwrap_or_else(|why| panic!("{name}: {why}"))
            }
        };
        let (name, why) = (name.to_owned(), why.trim().to_owned());
        Kept { name, why, plan }
    });
    kept.collect()
}

#[test]
fn what_once_broke_does_not_again() {
    let failed = all_kept().into_iter().filter_map(|kept| {
        let Kept { name, why, plan } = kept;
        let report = examine(&plan, plan.options());
        let failed = report.failed(&plan)?;
        Some(format!("{name}, kept since {why}:\n{failed}"))
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn each_plan_that_is_kept_is_listed_once_with_why() {
    let kept = all_kept();
    assert!(kept.iter().all(|kept| !kept.why.is_empty()));
    let names: BTreeSet<String> = kept.iter().map(|kept| kept.name.clone()).collect();
    assert_eq!(names.len(), kept.len());
    for file in fs::read_dir(folder().join("kept")).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name} is not in kept.txt");
        // Other lists to draw from would make it another plan.
        let json = fs::read_to_string(file.path()).unwrap();
        for has in ["\"sizes\": {", "\"manner\": {"] {
            assert!(json.contains(has), "{name} has no {has}");
        }
    }
}
