//! Documents are true: their commands work as they are shown, their links lead somewhere, and what they name of the sources,
//! the configuration and the metrics exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, stream};
use tidegate_tests::{
    Block, BrokerProcess, Document, Terminal, documents, example, has_program, repository, shows,
};

/// Where the book is.
const BOOK: &str = "host/docs/src";
/// Pages that are followed at a time; each has a broker.
const AT_A_TIME: usize = 2;
/// The component of the example that documents upload, where cargo puts it.
const COMPONENT: &str = "target/wasm32-wasip2/release/big_filter.wasm";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_readme_and_the_book_do_what_is_shown() {
    let pages = readme_and_book()
        .into_iter()
        .filter(|page| page.blocks.iter().any(is_run));
    let results: Vec<anyhow::Result<()>> = stream::iter(pages)
        .map(async |page| {
            let followed = follow(&page).await;
            followed.with_context(|| page.path.display().to_string())
        })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    assert!(results.len() > 8, "pages with commands: {}", results.len());
    let failures: Vec<String> = results
        .into_iter()
        .filter_map(|result| Some(format!("{:#}", result.err()?)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

// Types what the page says, block by block, and compares what comes out.
async fn follow(page: &Document) -> anyhow::Result<()> {
    let mut terminal = Terminal::open()?;
    if page.text.contains(COMPONENT) {
        let component = example("examples/plugins/rust-filter", "big_filter").await?;
        terminal.write(COMPONENT, &component)?;
    }
    let mut blocks = page.blocks.iter().peekable();
    while let Some(block) = blocks.next() {
        if let Some(name) = block.value("file") {
            terminal.write(name, block.text.as_bytes())?;
        }
        if !is_run(block) {
            continue;
        }
        let shown = blocks
            .peek()
            .filter(|next| next.language == "text")
            .map(|next| next.text.as_str());
        let done = step(&mut terminal, block, shown).await;
        done.with_context(|| format!("line {}:\n{}", block.line, block.text))?;
    }
    Ok(())
}

async fn step(terminal: &mut Terminal, block: &Block, shown: Option<&str>) -> anyhow::Result<()> {
    if let Some(program) = block.value("needs")
        && !has_program(program)?
    {
        eprintln!("not run, since there is no {program}:\n{}", block.text);
        return Ok(());
    }
    if block.is("terminal") {
        let shown = shown.context("what it prints has to be shown, since that is waited for")?;
        terminal.run_beside(&block.text)?;
        terminal.beside(|printed| shows(shown, printed)).await?;
        return Ok(());
    }
    let fails = block.is("fails");
    let said = match fails {
        true => terminal.run_apart(&block.text).await?,
        false => terminal.run(&block.text).await?,
    };
    ensure!(
        said.well != fails,
        "it {}:\n{}",
        if said.well { "did not fail" } else { "failed" },
        said.output
    );
    if let Some(shown) = shown {
        ensure!(
            shows(shown, &said.output),
            "the page shows:\n{shown}\nit printed:\n{}",
            said.output
        );
    }
    Ok(())
}

fn is_run(block: &Block) -> bool {
    block.language == "sh" && !block.is("no-run")
}

#[test]
fn what_is_not_run_says_why_and_marks_are_known() {
    let known = ["no-run", "terminal", "fails"];
    for page in readme_and_book() {
        for block in page.blocks.iter().filter(|block| block.language == "sh") {
            let place = format!("{}:{}", page.path.display(), block.line);
            for mark in &block.marks {
                let is_known = known.contains(&mark.as_str()) || mark.starts_with("needs=");
                assert!(is_known, "{place}: what is `{mark}`?");
            }
            let reason = block.before.strip_prefix("<!-- not run: ");
            assert_eq!(
                block.is("no-run"),
                reason.is_some_and(|reason| reason.len() > " -->".len()),
                "{place}: `no-run` takes a comment `<!-- not run: why -->` before it, and nothing else does"
            );
        }
    }
}

#[tokio::test]
async fn blocks_that_are_no_commands_are_what_they_say() {
    let mut checked = 0;
    for page in readme_and_book() {
        for block in &page.blocks {
            let result = check_block(block).await;
            checked += usize::from(matches!(result, Ok(true)));
            if let Err(error) = result {
                panic!("{}:{}: {error:#}", page.path.display(), block.line);
            }
        }
    }
    assert!(checked >= 5, "{checked} blocks were checked");
}

// Whether there was something to check.
async fn check_block(block: &Block) -> anyhow::Result<bool> {
    if let Some(file) = block.value("copy") {
        let source = fs::read_to_string(repository().join(file)).context(file.to_owned())?;
        ensure!(source.contains(&block.text), "it does not stand in {file}");
        return Ok(true);
    }
    match block.language.as_str() {
        "rust" => bail!("say with `copy=FILE` which file it is a part of"),
        "json" => {
            let _: serde_json::Value = serde_json::from_str(&block.text)?;
            Ok(true)
        }
        // One that is a file is checked by the commands of its page.
        "toml" if block.value("file").is_none() => {
            let mut terminal = Terminal::open()?;
            terminal.write("page.toml", block.text.as_bytes())?;
            let said = terminal.run("tidegate config check page.toml").await?;
            ensure!(said.well, "{}", said.output);
            Ok(true)
        }
        _ => Ok(false),
    }
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    let documents = documents().unwrap();
    let mut broken = Vec::new();
    let mut looked_at = 0;
    for document in &documents {
        let folder = document.path.parent().unwrap();
        for link in document.links() {
            looked_at += 1;
            let target = match link.path.is_empty() {
                true => document.path.clone(),
                false => normal(&folder.join(&link.path)),
            };
            let heading = link.anchor.as_ref().is_none_or(|anchor| {
                let found = documents.iter().find(|other| other.path == target);
                found.is_some_and(|found| found.anchors().contains(anchor))
            });
            if !repository().join(&target).exists() || !heading {
                broken.push(format!("{}: {link:?}", document.path.display()));
            }
        }
    }
    assert!(looked_at > 200, "{looked_at} links");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_summary_once() {
    let summary = Document::read(format!("{BOOK}/SUMMARY.md")).unwrap();
    let named: Vec<PathBuf> = summary
        .links()
        .into_iter()
        .map(|link| Path::new(BOOK).join(link.path))
        .collect();
    let pages: BTreeSet<PathBuf> = book()
        .into_iter()
        .map(|page| page.path)
        .filter(|path| !path.ends_with("SUMMARY.md"))
        .collect();
    assert_eq!(named.iter().cloned().collect::<BTreeSet<_>>(), pages);
    assert_eq!(named.len(), pages.len(), "one is named twice");
}

#[test]
fn every_decision_has_its_headings_and_a_line_in_architecture() {
    let architecture = Document::read("ARCHITECTURE.md").unwrap();
    let list = Document::read(format!("{BOOK}/decisions.md")).unwrap();
    let listed = |document: &Document, path: &Path| {
        let folder = document.path.parent().unwrap();
        let is_it = |link: &tidegate_tests::Link| normal(&folder.join(&link.path)) == path;
        document.links().iter().filter(|link| is_it(link)).count()
    };
    let folder = Path::new(BOOK).join("decisions");
    let decisions: Vec<Document> = book()
        .into_iter()
        .filter(|page| page.path.starts_with(&folder))
        .collect();
    assert!(decisions.len() > 40);
    for decision in decisions {
        let name = decision.path.display();
        let headings: Vec<&str> = decision
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        assert_eq!(
            headings,
            ["Context", "Decision", "Measured", "Dropped"],
            "{name}"
        );
        assert!(listed(&architecture, &decision.path) >= 1, "{name}");
        assert_eq!(listed(&list, &decision.path), 1, "{name}");
    }
}

#[test]
fn readme_and_architecture_are_short() {
    for (path, bytes_max) in [("README.md", 9 * 1024), ("ARCHITECTURE.md", 15 * 1024)] {
        let bytes = Document::read(path).unwrap().text.len();
        assert!(
            bytes <= bytes_max,
            "{path} has {bytes} bytes, of {bytes_max}; the book has room"
        );
    }
}

#[test]
fn architecture_maps_every_room_and_nothing_else() {
    let architecture = Document::read("ARCHITECTURE.md").unwrap();
    let map = &architecture.blocks[1].text;
    let named: BTreeSet<String> = map
        .lines()
        .filter_map(|line| line.split_once("  "))
        .flat_map(|(rooms, _)| rooms.split(", "))
        .map(|room| room.trim_end_matches('/').to_owned())
        .collect();
    let rooms: BTreeSet<String> = fs::read_dir(repository().join("host/src"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .filter(|name| name != "lib")
        .collect();
    assert_eq!(named, rooms);
    for line in architecture.blocks[0].text.lines() {
        let folder = line.split_whitespace().next().unwrap();
        assert!(repository().join(folder).is_dir(), "{folder}");
    }
}

#[test]
fn where_to_change_things_names_files_that_exist() {
    let architecture = Document::read("ARCHITECTURE.md").unwrap();
    let section = architecture
        .text
        .split("## Where do I change …")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("the section");
    let answers: Vec<Vec<&str>> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .map(|(_, answer)| quoted(answer))
        .filter(|paths| !paths.is_empty())
        .collect();
    assert!(answers.len() >= 10, "{} answers", answers.len());
    for path in answers.into_iter().flatten() {
        assert!(is_there(path), "{path}");
    }
}

#[test]
fn files_that_documents_name_exist() {
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for document in manuals() {
        let prose = document.prose();
        for name in quoted(&prose).into_iter().filter(|name| is_source(name)) {
            looked_at += 1;
            if !is_there(name) {
                missing.push(format!("{}: {name}", document.path.display()));
            }
        }
    }
    assert!(looked_at > 80, "{looked_at} paths");
    assert!(missing.is_empty(), "{missing:#?}");
}

// Wherever the paths of a document may begin: the repository, the host's rooms, the client's.
fn is_there(path: &str) -> bool {
    let mut roots = ["", "host/src", "sdk/client/src"].into_iter();
    roots.any(|root| repository().join(root).join(path).is_file())
}

fn is_source(name: &str) -> bool {
    let is_path = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
    let is_placeholder = ["foo.rs"].contains(&name);
    // Configurations go by their name in the reader's own folder.
    let ends: &[&str] = match name.contains('/') {
        true => &[".rs", ".toml", ".proto"],
        false => &[".rs"],
    };
    is_path && !is_placeholder && ends.iter().any(|end| name.ends_with(end))
}

#[test]
fn settings_that_documents_name_exist() {
    let configuration = fs::read_to_string(repository().join("examples/tidegate.toml")).unwrap();
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in configuration.lines() {
        let line = line.trim_start_matches('#');
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.insert(format!("{section}.{key}"));
        }
    }
    let sections: BTreeSet<&str> = keys
        .iter()
        .filter_map(|key| key.split('.').next())
        .filter(|section| !section.is_empty())
        .collect();
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for document in manuals() {
        let prose = document.prose();
        for name in quoted(&prose) {
            let is_key = name
                .split_once('.')
                .is_some_and(|(section, key)| sections.contains(section) && key != "rs");
            let is_word = name
                .chars()
                .all(|c| c.is_ascii_lowercase() || "._".contains(c));
            if !is_key || !is_word {
                continue;
            }
            looked_at += 1;
            if !keys.contains(name) {
                missing.push(format!("{}: {name}", document.path.display()));
            }
        }
    }
    assert!(looked_at > 25, "{looked_at} settings");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[tokio::test]
async fn metrics_that_documents_name_exist() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let metrics = broker.admin().metrics().await?;
    let names: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next())
        .map(|name| name.trim_end_matches("_total"))
        .collect();
    let mut looked_at = 0;
    for document in manuals() {
        let prose = document.prose();
        let named = quoted(&prose)
            .into_iter()
            .filter(|name| name.starts_with("tidegate_"));
        for name in named {
            let name = name.split('{').next().unwrap_or(name);
            looked_at += 1;
            ensure!(
                names.contains(name.trim_end_matches("_total")),
                "{} names {name}",
                document.path.display()
            );
        }
    }
    ensure!(looked_at > 25, "{looked_at} metrics");
    Ok(())
}

// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

fn book() -> Vec<Document> {
    let documents = documents().unwrap();
    documents
        .into_iter()
        .filter(|document| document.path.starts_with(BOOK))
        .collect()
}

fn readme_and_book() -> Vec<Document> {
    let mut pages = book();
    pages.push(Document::read("README.md").unwrap());
    pages
}

// What describes the project as it is now; the changelog also tells of what was.
fn manuals() -> Vec<Document> {
    let mut pages = readme_and_book();
    for path in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        pages.push(Document::read(path).unwrap());
    }
    pages
}

// Without `..`, as `documents` names files.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[test]
fn the_budget_of_a_build_is_the_one_that_is_checked() {
    let script = fs::read_to_string(repository().join(".ci/budget")).unwrap();
    let contributing = fs::read_to_string(repository().join("CONTRIBUTING.md")).unwrap();
    let limit = |name: &str| {
        let line = script.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in .ci/budget"))
    };
    for said in [
        format!(
            "| {} MB |",
            limit("BINARY_BYTES_MAX=").trim_end_matches("000000")
        ),
        format!("| {} s |", limit("CPU_SECONDS_MAX=")),
        format!("| {} |", limit("CRATES_MAX=")),
    ] {
        assert!(contributing.contains(&said), "{said} in CONTRIBUTING");
    }
}
