//! The names of a disk: what leads where now, and which changes of it are not durable yet. Those of a folder become durable with its
//! sync, in the order in which they were made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::survival::{Draw, End};

/// What a path leads to; numbers are never given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    File(u64),
    Folder(u64),
}

#[derive(Clone, Debug)]
enum Naming {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Entry),
}

pub(super) type Tree = BTreeMap<PathBuf, Entry>;

impl Naming {
    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Add(path, entry) => drop(tree.insert(path.clone(), *entry)),
            Self::Remove(path) => drop(tree.remove(path)),
            Self::Rename(from, to, entry) => {
                let inside = match entry {
                    Entry::File(_) => Tree::new(),
                    Entry::Folder(_) => inside(tree, from),
                };
                if tree.get(from) == Some(entry) {
                    tree.remove(from);
                    tree.retain(|path, _| !inside.contains_key(path));
                    let moved = inside.iter();
                    tree.extend(moved.map(|(path, entry)| (moved_path(path, from, to), *entry)));
                }
                tree.insert(to.clone(), *entry);
            }
        }
    }

    // The same where a folder has another name meanwhile.
    fn moved(&self, from: &Path, to: &Path) -> Self {
        let moved = |path: &Path| moved_path(path, from, to);
        match self {
            Self::Add(path, entry) => Self::Add(moved(path), *entry),
            Self::Remove(path) => Self::Remove(moved(path)),
            Self::Rename(before, after, entry) => Self::Rename(moved(before), moved(after), *entry),
        }
    }
}

// What lies in a folder, however deep.
fn inside(tree: &Tree, folder: &Path) -> Tree {
    let inside = tree.iter();
    let inside = inside.filter(|(path, _)| path.starts_with(folder) && *path != folder);
    inside.map(|(path, entry)| (path.clone(), *entry)).collect()
}

// Where it lies once this folder is there.
fn moved_path(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}

/// The names of a disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    now: Tree,
    durable: Tree,
    /// By the folder whose sync makes them durable.
    pending: Vec<(PathBuf, Naming)>,
}

impl Names {
    /// Of a disk on which these are durable.
    pub(super) fn of(tree: Tree) -> Self {
        Self {
            durable: tree.clone(),
            now: tree,
            pending: Vec::new(),
        }
    }

    pub(super) fn get(&self, path: &Path) -> Option<Entry> {
        self.now.get(path).copied()
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.now
    }

    pub(super) fn in_folder<'a>(&'a self, folder: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
        let paths = self.now.keys();
        paths.filter(move |path| path.parent() == Some(folder))
    }

    pub(super) fn add(&mut self, path: &Path, entry: Entry) {
        self.make(folder(path), Naming::Add(path.to_owned(), entry));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.make(folder(path), Naming::Remove(path.to_owned()));
    }

    /// A folder takes along what is in it.
    pub(super) fn rename(&mut self, from: &Path, to: &Path, entry: Entry) {
        if matches!(entry, Entry::Folder(_)) {
            let within = self.pending.iter_mut();
            for (of, naming) in within.filter(|(of, _)| of.starts_with(from)) {
                (*of, *naming) = (moved_path(of, from, to), naming.moved(from, to));
            }
        }
        let naming = Naming::Rename(from.to_owned(), to.to_owned(), entry);
        self.make(folder(to), naming);
    }

    pub(super) fn sync(&mut self, folder: &Path) {
        let all = std::mem::take(&mut self.pending);
        let (synced, pending) = all.into_iter().partition(|(of, _)| of == folder);
        self.pending = pending;
        let synced: Vec<(PathBuf, Naming)> = synced;
        let durable = &mut self.durable;
        synced.iter().for_each(|(_, naming)| naming.apply(durable));
    }

    /// What is found after an end of this kind.
    pub(super) fn survives(&self, how: End, draw: &Draw) -> Tree {
        let mut tree = self.durable.clone();
        match how {
            End::Killed => tree.clone_from(&self.now),
            End::Cruel => {}
            End::Ordered => {
                let kept = draw.among("names", 0, self.pending.len() + 1);
                let pending = self.pending.iter().take(kept);
                pending.for_each(|(_, naming)| naming.apply(&mut tree));
            }
            End::Mild | End::Usual => {
                let mut left: BTreeMap<&PathBuf, usize> = BTreeMap::new();
                for (folder, _) in &self.pending {
                    *left.entry(folder).or_default() += 1;
                }
                for (number, left) in left.values_mut().enumerate() {
                    *left = draw.among("names of a folder", number, *left + 1);
                }
                for (folder, naming) in &self.pending {
                    if let Some(left) = left.get_mut(folder).filter(|left| **left > 0) {
                        *left -= 1;
                        naming.apply(&mut tree);
                    }
                }
            }
        }
        // What lies in a folder that is not there is gone with it.
        let mut reached = Tree::new();
        for (path, entry) in tree {
            let parent = path.parent();
            let is_reached = parent.is_none_or(|parent| {
                parent == Path::new("/") || matches!(reached.get(parent), Some(Entry::Folder(_)))
            });
            if is_reached {
                reached.insert(path, entry);
            }
        }
        reached
    }

    /// Renames a folder with all that is in it, durably, as an operator does beside the broker.
    pub(super) fn move_folder(&mut self, from: &Path, to: &Path) {
        let all = |tree: &Tree| {
            tree.iter()
                .map(|(path, entry)| (moved_path(path, from, to), *entry))
                .collect()
        };
        for (_, naming) in self.pending.extract_if(.., |(of, _)| of.starts_with(from)) {
            naming.apply(&mut self.durable);
        }
        (self.now, self.durable) = (all(&self.now), all(&self.durable));
    }

    fn make(&mut self, folder: PathBuf, naming: Naming) {
        naming.apply(&mut self.now);
        self.pending.push((folder, naming));
    }
}

fn folder(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}
