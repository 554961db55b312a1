//! Simulated power cuts. A file system in memory remembers what was synced and what was not; at a sampled
//! operation the power goes, every later operation fails, and the disk is rebuilt with the unsynced writes
//! dropped, kept, cut or mixed by sector, and the unsynced names in part. Whatever was synced must be there.
//! Generations are real folders (sled writes past any file system of ours), so there the power goes around them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::harness::*;
use crate::disk::{File, FileSystem, Hold, RealFileSystem, Unmoved};
use crate::domain::{Block, CommitNumber};
use crate::store::{Opened, StoreOptions, open};

const SECTOR: usize = 512;

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Default)]
struct Node {
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    now: Vec<u8>,
}

#[derive(Clone)]
enum Naming {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Default)]
struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    unsynced_names: HashMap<PathBuf, Vec<Naming>>,
    /// Operations until the power goes.
    power: usize,
}

/// A disk that loses its power.
#[derive(Clone, Default)]
struct PowerFileSystem(Arc<Mutex<Disk>>);

struct PowerFile {
    disk: PowerFileSystem,
    node: usize,
}

impl PowerFileSystem {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("lock")
    }

    // One operation's worth of power.
    fn use_power(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.disk();
        disk.power = disk
            .power
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("no power"))?;
        Ok(disk)
    }

    fn set_power(&self, operations: usize) {
        self.disk().power = operations;
    }

    // The disk as it may be found when the power is back.
    fn after_power_cut(&self, random: &mut StdRng) -> Self {
        let disk = self.disk();
        let mut names = disk.synced_names.clone();
        for changes in disk.unsynced_names.values() {
            let kept = random.random_range(0..=changes.len());
            changes[..kept]
                .iter()
                .for_each(|change| apply_naming(&mut names, change));
        }
        let nodes: Vec<Node> = disk
            .nodes
            .iter()
            .map(|node| {
                let content = surviving(node, random);
                Node {
                    synced: content.clone(),
                    unsynced: Vec::new(),
                    now: content,
                }
            })
            .collect();
        let disk = Disk {
            nodes,
            synced_names: names.clone(),
            names,
            unsynced_names: HashMap::new(),
            power: usize::MAX,
        };
        Self(Arc::new(Mutex::new(disk)))
    }
}

fn apply_naming(names: &mut BTreeMap<PathBuf, usize>, change: &Naming) {
    match change {
        Naming::Link(path, node) => {
            names.insert(path.clone(), *node);
        }
        Naming::Unlink(path) => {
            names.remove(path);
        }
        Naming::Rename(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn surviving(node: &Node, random: &mut StdRng) -> Vec<u8> {
    let mut content = node.synced.clone();
    match random.random_range(0..4) {
        0 => {}
        1 => node
            .unsynced
            .iter()
            .for_each(|change| apply_change(&mut content, change)),
        2 => {
            let kept = random.random_range(0..=node.unsynced.len());
            node.unsynced[..kept]
                .iter()
                .for_each(|change| apply_change(&mut content, change));
            if let Some(Change::Write(at, bytes)) = node.unsynced.get(kept) {
                let cut = random.random_range(0..=bytes.len());
                apply_change(&mut content, &Change::Write(*at, bytes[..cut].to_vec()));
            }
        }
        _ => {
            for change in &node.unsynced {
                let Change::Write(at, bytes) = change else {
                    if random.random() {
                        apply_change(&mut content, change);
                    }
                    continue;
                };
                let mut start = 0;
                while start < bytes.len() {
                    let end = bytes.len().min(start + SECTOR - (at + start) % SECTOR);
                    if random.random() {
                        let piece = Change::Write(at + start, bytes[start..end].to_vec());
                        apply_change(&mut content, &piece);
                    }
                    start = end;
                }
            }
        }
    }
    content
}

fn apply_change(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => content.resize(*length, 0),
        Change::Write(at, bytes) => {
            content.resize(content.len().max(at + bytes.len()), 0);
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn is_real(path: &Path) -> bool {
    path.iter().any(|part| part == "generations")
}

fn parent(path: &Path) -> PathBuf {
    path.parent().expect("has a folder").to_owned()
}

impl FileSystem for PowerFileSystem {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        drop(self.use_power()?);
        RealFileSystem.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        if is_real(path) {
            return RealFileSystem.list(path);
        }
        let disk = self.disk();
        Ok(disk
            .names
            .keys()
            .filter(|name| name.parent() == Some(path))
            .cloned()
            .collect())
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if is_real(path) {
            return RealFileSystem.open(path);
        }
        let disk = self.disk();
        let node = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(PowerFile {
            disk: self.clone(),
            node,
        }))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.use_power()?;
        if is_real(path) {
            return RealFileSystem.create(path);
        }
        disk.nodes.push(Node::default());
        let node = disk.nodes.len() - 1;
        disk.names.insert(path.to_owned(), node);
        let link = Naming::Link(path.to_owned(), node);
        disk.unsynced_names
            .entry(parent(path))
            .or_default()
            .push(link);
        Ok(Arc::new(PowerFile {
            disk: self.clone(),
            node,
        }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.use_power()?;
        let node = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), node);
        let rename = Naming::Rename(from.to_owned(), to.to_owned());
        disk.unsynced_names
            .entry(parent(to))
            .or_default()
            .push(rename);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.use_power()?;
        if is_real(path) {
            return RealFileSystem.remove(path);
        }
        disk.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        let unlink = Naming::Unlink(path.to_owned());
        disk.unsynced_names
            .entry(parent(path))
            .or_default()
            .push(unlink);
        Ok(())
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        drop(self.use_power()?);
        RealFileSystem.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.use_power()?;
        let changes = disk.unsynced_names.remove(path).unwrap_or_default();
        let names = &mut disk.synced_names;
        changes
            .iter()
            .for_each(|change| apply_naming(names, change));
        Ok(())
    }
    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        Ok(Some(Box::new(Unmoved)))
    }
}

impl PowerFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut disk = self.disk.use_power()?;
        let node = &mut disk.nodes[self.node];
        apply_change(&mut node.now, &change);
        node.unsynced.push(change);
        Ok(())
    }
}

impl File for PowerFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.disk.disk();
        let rest = disk.nodes[self.node]
            .now
            .get(offset as usize..)
            .unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset as usize, bytes.to_vec()))
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.disk().nodes[self.node].now.len() as u64)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length as usize))
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        let now = self.disk.disk().nodes[self.node].now.len();
        self.change(Change::Length(now.max(length as usize)))
    }
    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.use_power()?;
        let node = &mut disk.nodes[self.node];
        node.synced = node.now.clone();
        node.unsynced.clear();
        Ok(())
    }
}

// Everything ever appended, and how much of it was reported durable.
#[derive(Default)]
struct History {
    groups: Vec<Group>,
    durable: usize,
    // The journal was closed, and that was reported.
    closed: bool,
}

impl History {
    fn next_group(&self, random: &mut StdRng) -> Group {
        let last = self
            .groups
            .iter()
            .rev()
            .find_map(|group| group.blocks.last());
        let mut position = last.map_or(1, |block| block.last_position().0 + 1);
        let blocks = (0..random.random_range(0..3))
            .map(|_| {
                let (count, bytes) = (random.random_range(1..5), random.random_range(0..1500));
                let block = filled(random.random_range(1..4), position, position, count, bytes);
                position += count;
                block
            })
            .collect();
        let number = CommitNumber(self.groups.len() as u64 + 1);
        Group {
            number,
            notes: format!("notes {number}").into(),
            blocks,
        }
    }

    fn blocks(&self) -> Vec<Block> {
        self.groups
            .iter()
            .flat_map(|group| group.blocks.clone())
            .collect()
    }

    // Compares with what a start found, which may lack only what was never reported durable.
    fn check(&mut self, opened: &mut Opened, context: &str) {
        assert!(opened.clean || !self.closed, "{context}: it was closed");
        let found = replayed(opened);
        let next = opened.journal.next_number().0 as usize;
        let first = found.first().map_or(next, |group| group.number.0 as usize);
        assert!(
            next > self.durable,
            "{context}: {} durable, next is {next}",
            self.durable
        );
        assert_eq!(found, self.groups[first - 1..next - 1], "{context}");
        self.groups.truncate(next - 1);
        self.durable = self.groups.len();
        assert_eq!(
            read_all(&opened.reader, 0).expect("read"),
            self.blocks(),
            "{context}"
        );
    }
}

// Works until the power is gone; answers at the first error.
fn work(
    opened: &mut Opened,
    history: &mut History,
    random: &mut StdRng,
    checkpoints: bool,
) -> Option<()> {
    loop {
        match random.random_range(0..10) {
            0..5 => {
                let group = history.next_group(random);
                // What an append that fails leaves may or may not be found.
                history.groups.push(group.clone());
                opened.journal.append(&group.notes, &group.blocks).ok()?;
            }
            5..8 => {
                opened.journal.sync().ok()?;
                history.durable = history.groups.len();
            }
            8 => {
                opened.journal.mark().ok()?;
                history.durable = history.groups.len();
            }
            _ if checkpoints => {
                let mark = opened.journal.mark().ok()?;
                history.durable = history.groups.len();
                let metas = opened.checkpoints.journal_blocks(mark);
                let reader = opened.reader.clone();
                let blocks = metas.into_iter().map(|meta| {
                    let block = reader.block_at(meta.first_position)?;
                    Ok((*block.expect("in the journal")).clone())
                });
                let state = std::iter::once(("mark".into(), mark.to_string().into()));
                opened
                    .checkpoints
                    .write_generation(mark, blocks, state)
                    .ok()?;
            }
            _ => {}
        }
    }
}

// One store through several power cuts.
fn live_through_power_cuts(seed: u64, cuts: usize, power_max: usize, checkpoints: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    let dir = folder();
    let mut disk = PowerFileSystem::default();
    let mut history = History::default();
    let options = StoreOptions {
        journal_file_bytes: 12_000,
        ..small_options()
    };
    for cut in 0..cuts {
        let context = format!("seed {seed}, cut {cut}");
        disk.set_power(usize::MAX);
        // Sometimes the power goes while the store is opened.
        if random.random_range(0..3) == 0 {
            disk.set_power(random.random_range(0..12));
            let opened = open(dir.path(), options.clone(), Arc::new(disk.clone()));
            // Its new file, if it got that far, is not closed.
            history.closed &= opened.is_err();
            drop(opened);
            disk = disk.after_power_cut(&mut random);
        }
        let mut opened = open(dir.path(), options.clone(), Arc::new(disk.clone()))
            .unwrap_or_else(|error| panic!("{context}: {error}"));
        history.check(&mut opened, &context);
        disk.set_power(random.random_range(0..power_max));
        let stopped = work(&mut opened, &mut history, &mut random, checkpoints);
        assert_eq!(stopped, None);
        disk.set_power(0);
        drop(opened);
        disk = disk.after_power_cut(&mut random);
        history.closed = false;
        // Sometimes it runs once more, and the power goes while it is closed or right after.
        if random.random_range(0..2) == 0 {
            disk.set_power(usize::MAX);
            let mut opened = open(dir.path(), options.clone(), Arc::new(disk.clone()))
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            history.check(&mut opened, &context);
            let group = history.next_group(&mut random);
            history.groups.push(group.clone());
            let appended = opened.journal.append(&group.notes, &group.blocks);
            appended.expect("there is power");
            disk.set_power(random.random_range(0..8));
            if opened.journal.close().is_ok() {
                history.durable = history.groups.len();
                history.closed = true;
            }
            drop((opened.reader, opened.checkpoints, opened.replay));
            disk = disk.after_power_cut(&mut random);
        }
    }
}

#[test]
fn synced_groups_survive_power_cuts() {
    (0..60).for_each(|seed| live_through_power_cuts(seed, 6, 80, false));
}

#[test]
fn synced_groups_survive_power_cuts_amid_checkpoints() {
    (1000..1008).for_each(|seed| live_through_power_cuts(seed, 4, 120, true));
}
