//! A document of the repository as Markdown has it: its blocks of code, its headings and its links. Nothing here runs or
//! judges what they say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// A Markdown file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where it is, from the root of the repository.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
    /// Its blocks of code, in order.
    pub blocks: Vec<Block>,
}

/// A block of code between two fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of its first fence, from 1.
    pub line: usize,
    /// The first word behind the fence; empty without one.
    pub language: String,
    /// The other words behind the fence.
    pub marks: Vec<String>,
    /// The line before the fence.
    pub before: String,
    /// What is between the fences.
    pub text: String,
}

/// A link of a document to a file, or to a heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The file, as it is written: from the document's folder. Empty for a heading of the document itself.
    pub path: String,
    /// The heading, without `#`, if it names one.
    pub anchor: Option<String>,
}

impl Block {
    /// Whether it bears this mark.
    #[must_use]
    pub fn is(&self, mark: &str) -> bool {
        self.marks.iter().any(|one| one == mark)
    }

    /// The value of a mark `name=value`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.marks
            .iter()
            .find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Document {
    /// Reads a file of the repository.
    ///
    /// # Errors
    /// There is none, or a block does not end.
    pub fn read(path: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let path = path.into();
        let text = fs::read_to_string(repository().join(&path))
            .with_context(|| path.display().to_string())?;
        let blocks = blocks(&text).with_context(|| path.display().to_string())?;
        Ok(Self { path, text, blocks })
    }

    /// Its text without what stands in blocks of code.
    #[must_use]
    pub fn prose(&self) -> String {
        let mut inside = false;
        let lines = self.text.lines().filter(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What its headings are called in links.
    #[must_use]
    pub fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let titles = prose.lines().filter_map(|line| {
            let title = line.trim_start_matches('#');
            (title.len() < line.len()).then_some(title.strip_prefix(' ')?)
        });
        titles.map(anchor).collect()
    }

    /// Its links to files and headings, pictures included; those to the web are left out.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1);
        targets
            .filter_map(|rest| rest.split_once(')'))
            .map(|(target, _)| target)
            .filter(|target| !target.contains("://") && !target.contains(' '))
            .map(|target| match target.split_once('#') {
                Some((path, anchor)) => Link {
                    path: path.to_owned(),
                    anchor: Some(anchor.to_owned()),
                },
                None => Link {
                    path: target.to_owned(),
                    anchor: None,
                },
            })
            .collect()
    }
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Markdown files of the repository, from its root, in order.
///
/// # Errors
/// A folder cannot be read.
pub fn documents() -> anyhow::Result<Vec<Document>> {
    let mut paths = Vec::new();
    collect(Path::new(""), &mut paths)?;
    paths.sort();
    ensure!(!paths.is_empty(), "there are no documents");
    paths.into_iter().map(Document::read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(repository().join(folder))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
        let name = name.to_string_lossy();
        match entry.file_type()?.is_dir() {
            // Built, installed or hidden: not written here.
            true if name.starts_with('.') || ["target", "node_modules"].contains(&&*name) => {}
            true => collect(&path, paths)?,
            false if name.ends_with(".md") => paths.push(path),
            false => {}
        }
    }
    Ok(())
}

fn blocks(text: &str) -> anyhow::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        match (open.take(), line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                open = Some(Block {
                    line: index + 1,
                    language: words.next().unwrap_or_default(),
                    marks: words.collect(),
                    before: before.to_owned(),
                    text: String::new(),
                });
            }
            (Some(block), Some(_)) => blocks.push(block),
            (Some(mut block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
        before = line;
    }
    match open {
        Some(block) => anyhow::bail!("the block of line {} does not end", block.line),
        None => Ok(blocks),
    }
}

// As GitHub and mdBook make it of a title: words in lower case with hyphens, without other signs.
fn anchor(title: &str) -> String {
    let text = without_links(title).to_lowercase().replace(' ', "-");
    text.chars()
        .filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c))
        .collect()
}

// `[text](target)` reads as its text.
fn without_links(title: &str) -> String {
    let mut text = String::new();
    let mut rest = title;
    while let Some((head, tail)) = rest.split_once("](") {
        text.push_str(&head.replacen('[', "", 1));
        rest = tail.split_once(')').map_or("", |(_, tail)| tail);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_know_their_marks_and_what_stands_before_them() {
        let text = "# A\n\n<!-- why -->\n```sh no-run needs=curl\na\nb\n```\n\n```\nc\n```\n";
        let found = blocks(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].language.as_str()), (4, "sh"));
        assert_eq!(found[0].before, "<!-- why -->");
        assert_eq!(found[0].text, "a\nb\n");
        assert!(found[0].is("no-run"));
        assert_eq!(found[0].value("needs"), Some("curl"));
        assert_eq!((found[1].line, found[1].language.as_str()), (9, ""));
        assert!(blocks("```sh\na\n").is_err());
    }

    #[test]
    fn headings_are_found_by_their_anchors() {
        let document = Document {
            path: PathBuf::new(),
            text: "# How to add …\n```\n# not this\n```\n## [Full](x.md) disks: `a_b`\n".to_owned(),
            blocks: Vec::new(),
        };
        let anchors = document.anchors();
        let anchors: Vec<&str> = anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["full-disks-a_b", "how-to-add-"]);
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        let document = Document {
            path: PathBuf::new(),
            text: "[a](b.md#c) ![d](e.svg) [f](#g) [h](https://i)\n```\n[j](k)\n```\n".to_owned(),
            blocks: Vec::new(),
        };
        let said = document.links();
        let said: Vec<(&str, Option<&str>)> = said
            .iter()
            .map(|link| (link.path.as_str(), link.anchor.as_deref()))
            .collect();
        assert_eq!(
            said,
            [("b.md", Some("c")), ("e.svg", None), ("", Some("g"))]
        );
    }
}
