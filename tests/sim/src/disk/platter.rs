//! What lies on a disk, and what is done to it at one moment: nothing here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::content::{Change, Content, PAGE};
use super::faults::{Failing, Fault, Operation, Shape};
use super::names::{Entry, Names, Tree};
use super::survival::{Draw, End};
use crate::history::Blow;

/// How many times as long a sync takes.
const SYNC: u32 = 8;

/// All of a disk.
pub(super) struct Platter {
    shape: Shape,
    nodes: BTreeMap<u64, Node>,
    names: Names,
    next: u64,
    room: u64,
    /// What others leave of it, by what ends that.
    rooms: BTreeMap<u64, u64>,
    pub(super) faults: BTreeMap<u64, Fault>,
    begun: u64,
    /// Operations that failed by plan and of which nobody was told.
    struck: Vec<Struck>,
    pub(super) slow: u32,
    /// How long a sync takes at most, if that is more than it takes anyway, by what ends that.
    syncs_max: BTreeMap<u64, Duration>,
    /// Folders with another name than their own, by what ends it.
    moved: BTreeMap<u64, Moved>,
    pub(super) operations: u64,
    pub(super) ends_at: Option<(u64, End)>,
    /// The life that there is, or was last.
    life: u64,
    pub(super) has_ended: bool,
    /// The last life ended in the middle of an operation.
    pub(super) has_gone: bool,
    ends: u64,
    locks: BTreeSet<u64>,
    /// Writes that have begun, by the number of their operation.
    pub(super) writing: BTreeMap<u64, (u64, Change)>,
}

#[derive(Default)]
struct Node {
    content: Content,
    /// Open files of this life.
    open: usize,
}

/// A folder that has another name for a while.
#[derive(Clone)]
struct Moved {
    folder: PathBuf,
    aside: PathBuf,
    is_over: bool,
}

/// An operation that failed by plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// What was asked.
    pub on: Operation,
    /// Why it failed.
    pub by: Blow,
    /// On what.
    pub path: PathBuf,
}

/// An operation that has begun.
pub(super) struct Begun {
    pub(super) number: u64,
    pub(super) time: Duration,
}

impl Platter {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            room: shape.room,
            rooms: BTreeMap::new(),
            shape,
            nodes: BTreeMap::new(),
            names: Names::default(),
            next: 0,
            faults: BTreeMap::new(),
            begun: 0,
            struck: Vec::new(),
            slow: 1,
            syncs_max: BTreeMap::new(),
            moved: BTreeMap::new(),
            operations: 0,
            ends_at: None,
            life: 0,
            has_ended: true,
            has_gone: false,
            ends: 0,
            locks: BTreeSet::new(),
            writing: BTreeMap::new(),
        }
    }

    pub(super) fn life(&mut self) -> u64 {
        assert!(self.has_ended, "a disk serves one life at a time");
        self.has_ended = false;
        self.has_gone = false;
        self.life += 1;
        self.life
    }

    pub(super) fn goes_on(&self, life: u64) -> io::Result<()> {
        match life == self.life && !self.has_ended {
            true => Ok(()),
            false => Err(io::Error::other("there is no power any more")),
        }
    }

    pub(super) fn begin(
        &mut self,
        life: u64,
        on: Operation,
        writes: Option<(u64, &Change)>,
    ) -> io::Result<Begun> {
        self.goes_on(life)?;
        self.operations += 1;
        let number = self.operations;
        if let Some((node, change)) = writes {
            self.writing.insert(number, (node, change.clone()));
        }
        if let Some((at, how)) = self.ends_at
            && at <= number
        {
            self.end(how);
            self.has_gone = true;
            return Err(io::Error::other("the power goes"));
        }
        let longest = match on {
            Operation::Sync | Operation::SyncFolder => self.shape.latency_max * SYNC,
            _ => self.shape.latency_max,
        };
        let part = self.draw(number).among("time", 0, 1025);
        let part = u32::try_from(part).unwrap_or_default();
        let longest = match on {
            Operation::Sync => {
                let longest = longest.saturating_mul(self.slow);
                self.syncs_max
                    .values()
                    .fold(longest, |one, other| one.max(*other))
            }
            _ => longest.saturating_mul(self.slow),
        };
        let time = longest * part / 1024;
        Ok(Begun { number, time })
    }

    /// The error of an operation that a fault strikes. Of a write some is done.
    pub(super) fn strikes(
        &mut self,
        on: Operation,
        path: &Path,
        writes: Option<(u64, &Change)>,
    ) -> Option<io::Error> {
        let mut faults = self.faults.values_mut();
        let struck = faults.find_map(|fault| fault.strikes_now(on, path).then_some(fault.failing));
        let failing = struck?;
        self.note_struck(on, failing.blow(), path);
        if let (Failing::Io, Some((node, change))) = (failing, writes) {
            let part = self.part(change, self.operations);
            let _ = self.write(node, part);
        }
        Some(failing.error())
    }

    pub(super) fn end(&mut self, how: End) {
        if self.has_ended {
            return;
        }
        self.has_ended = true;
        self.ends_at = None;
        self.ends += 1;
        for (number, (node, change)) in std::mem::take(&mut self.writing) {
            let part = self.part(&change, number);
            let _ = self.write(node, part);
        }
        let tree = self.names.survives(how, &self.draw(u64::MAX));
        let shape = self.shape;
        let mut nodes = BTreeMap::new();
        for entry in tree.values() {
            if let Entry::File(id) = entry
                && let Some(node) = self.nodes.get(id)
            {
                let draw = self.draw(*id);
                let content = node.content.survives(how, shape.tears, shape.sector, &draw);
                nodes.insert(*id, Node { content, open: 0 });
            }
        }
        self.nodes = nodes;
        self.names = Names::of(tree);
        self.locks.clear();
    }

    /// Something was asked on this path and failed, not by the broker's doing.
    pub(super) fn note_struck(&mut self, on: Operation, by: Blow, path: &Path) {
        let struck = Struck {
            on,
            by,
            path: path.to_owned(),
        };
        if !self.struck.contains(&struck) {
            self.struck.push(struck);
        }
    }

    pub(super) fn take_struck(&mut self) -> Vec<Struck> {
        std::mem::take(&mut self.struck)
    }

    // What another thing that goes wrong is ended by.
    fn begins(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    pub(super) fn inject(&mut self, fault: Fault) -> u64 {
        let number = self.begins();
        self.faults.insert(number, fault);
        number
    }

    pub(super) fn leave_room(&mut self, bytes: u64) -> u64 {
        let number = self.begins();
        let room = self.used() + bytes;
        self.rooms.insert(number, room);
        number
    }

    pub(super) fn slow_syncs(&mut self, up_to: Duration) -> u64 {
        let number = self.begins();
        self.syncs_max.insert(number, up_to);
        number
    }

    pub(super) fn move_away(&mut self, folder: &Path) -> Option<u64> {
        let mut aside = folder.as_os_str().to_owned();
        aside.push(".moved");
        let aside = PathBuf::from(aside);
        if !self.move_folder(folder, &aside) {
            return None;
        }
        let number = self.begins();
        let moved = Moved {
            folder: folder.to_owned(),
            aside,
            is_over: false,
        };
        self.moved.insert(number, moved);
        Some(number)
    }

    pub(super) fn move_back(&mut self) {
        self.moved
            .values_mut()
            .for_each(|moved| moved.is_over = true);
        self.come_back();
        self.moved.clear();
    }

    // What lies in a folder that is away waits for that one, which was moved after it.
    fn come_back(&mut self) {
        let over = self.moved.iter().rev().filter(|(_, moved)| moved.is_over);
        let over: Vec<(u64, Moved)> = over
            .map(|(number, moved)| (*number, moved.clone()))
            .collect();
        for (number, moved) in over {
            if self.move_folder(&moved.aside, &moved.folder) {
                self.moved.remove(&number);
            }
        }
    }

    pub(super) fn lift(&mut self, number: u64) {
        self.faults.remove(&number);
        self.rooms.remove(&number);
        self.syncs_max.remove(&number);
        if let Some(moved) = self.moved.get_mut(&number) {
            moved.is_over = true;
            self.come_back();
        }
    }

    pub(super) fn heal(&mut self) {
        self.move_back();
        self.faults.clear();
        self.rooms.clear();
        self.syncs_max.clear();
        self.slow = 1;
    }

    pub(super) fn set_room(&mut self, bytes: u64) {
        self.room = bytes;
    }

    fn room(&self) -> u64 {
        self.rooms
            .values()
            .fold(self.room, |one, other| one.min(*other))
    }

    pub(super) fn unreadable(&self) -> Vec<PathBuf> {
        let tree = self.names.tree();
        let files = tree.iter().filter(|(_, entry)| match entry {
            Entry::File(id) => self.content(*id).has_unreadable(),
            Entry::Folder(_) => false,
        });
        files.map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn rescue(&mut self) -> Vec<PathBuf> {
        let sector = self.shape.sector;
        let tree = self.names.tree();
        let files = tree.iter().filter_map(|(path, entry)| match entry {
            Entry::File(id) => Some((path.clone(), *id)),
            Entry::Folder(_) => None,
        });
        let files: Vec<(PathBuf, u64)> = files.collect();
        let rescued = files.into_iter().filter(|(_, id)| {
            let node = self.nodes.get_mut(id);
            node.is_some_and(|node| node.content.rescue(sector))
        });
        rescued.map(|(path, _)| path).collect()
    }

    pub(super) fn rot(&mut self, path: &Path, at: usize, flip: u8) -> bool {
        let Some(Entry::File(id)) = self.names.get(path) else {
            return false;
        };
        let node = self.nodes.get_mut(&id);
        node.is_some_and(|node| node.content.rot(at, flip))
    }

    pub(super) fn move_folder(&mut self, from: &Path, to: &Path) -> bool {
        let is_there = self.is_dir(from) && self.names.get(to).is_none();
        if is_there {
            self.names.move_folder(from, to);
        }
        is_there
    }

    pub(super) fn image(&self) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let tree: &Tree = self.names.tree();
        let all = tree.iter().map(|(path, entry)| {
            let content = match entry {
                Entry::File(id) => Some(self.content(*id).now().to_vec()),
                Entry::Folder(_) => None,
            };
            (path.clone(), content)
        });
        all.collect()
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Entry::Folder(_)) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            None => {
                self.folder(path.parent().unwrap_or(path))?;
                let id = self.next();
                self.names.add(path, Entry::Folder(id));
                Ok(())
            }
        }
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.folder(path)?;
        let paths = self.names.in_folder(path).cloned();
        let draw = self.draw(self.operations);
        let mut drawn: Vec<(usize, PathBuf)> = paths
            .enumerate()
            .map(|(number, path)| (draw.among("listed", number, usize::MAX), path))
            .collect();
        drawn.sort();
        Ok(drawn.into_iter().map(|(_, path)| path).collect())
    }

    pub(super) fn is_dir(&self, path: &Path) -> bool {
        self.folder(path).is_ok()
    }

    pub(super) fn folder(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::Folder(id)) => Ok(id),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None if path.parent().is_none() => Ok(u64::MAX),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Entry::File(id)) => {
                self.node(id).open += 1;
                Ok(id)
            }
            Some(Entry::Folder(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        if let Some(entry) = self.names.get(path) {
            let id = self.open(path)?;
            debug_assert_eq!(entry, Entry::File(id));
            self.set_length(id, 0);
            return Ok(id);
        }
        self.folder(path.parent().unwrap_or(path))?;
        let id = self.next();
        let node = Node {
            open: 1,
            ..Node::default()
        };
        self.nodes.insert(id, node);
        self.names.add(path, Entry::File(id));
        Ok(id)
    }

    pub(super) fn close(&mut self, life: u64, id: u64) {
        // Files of a life that has ended are closed with it.
        if self.goes_on(life).is_ok() {
            let node = self.node(id);
            node.open = node.open.saturating_sub(1);
            self.free(id);
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let Some(entry) = self.names.get(from) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.folder(to.parent().unwrap_or(to))?;
        let replaced = match self.names.get(to) {
            Some(Entry::Folder(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            Some(Entry::File(_)) if matches!(entry, Entry::Folder(_)) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Some(Entry::File(id)) => Some(id),
            None => None,
        };
        self.names.rename(from, to, entry);
        if let Some(id) = replaced {
            self.free(id);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Entry::File(id)) => {
                self.names.remove(path);
                self.free(id);
                Ok(())
            }
            Some(Entry::Folder(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) if self.names.in_folder(path).next().is_some() => {
                Err(io::ErrorKind::DirectoryNotEmpty.into())
            }
            Ok(_) => {
                self.names.remove(path);
                Ok(())
            }
        }
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.folder(path)?;
        self.names.sync(path);
        Ok(())
    }

    pub(super) fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.folder(path)?;
        Ok(self.room().saturating_sub(self.used()))
    }

    pub(super) fn lock(&mut self, path: &Path) -> io::Result<Option<u64>> {
        let folder = self.folder(path)?;
        Ok(self.locks.insert(folder).then_some(folder))
    }

    pub(super) fn unlock(&mut self, life: u64, folder: u64) {
        if self.goes_on(life).is_ok() {
            self.locks.remove(&folder);
        }
    }

    pub(super) fn displaced(&self, path: &Path, folder: u64) -> Option<&'static str> {
        match self.folder(path) {
            Ok(found) if found == folder => None,
            Ok(_) => Some("is another folder than the one that this broker opened"),
            Err(_) => {
                Some("is not there any more: it was renamed or deleted under the running broker")
            }
        }
    }

    pub(super) fn read_at(&self, id: u64, buffer: &mut [u8], at: usize) -> io::Result<usize> {
        let content = self.content(id);
        let from = at.min(content.now().len());
        let to = at.saturating_add(buffer.len()).min(content.now().len());
        let to = to.max(from);
        if !content.is_readable(from, to, self.shape.sector) {
            return Err(Failing::Io.error());
        }
        buffer[..to - from].copy_from_slice(&content.now()[from..to]);
        Ok(to - from)
    }

    pub(super) fn write(&mut self, id: u64, change: Change) -> io::Result<()> {
        let Change::Write { at, bytes } = change else {
            return Ok(());
        };
        let (fits, sector) = (self.free_pages(), self.shape.sector);
        let content = &mut self.node(id).content;
        let mut lacking = content.lacking(at, at + bytes.len());
        // What lies before the first page that does not fit is written.
        let until = lacking.get(fits).map(|page| page * PAGE);
        let written = until.map_or(bytes.len(), |until| until.saturating_sub(at));
        lacking.truncate(fits);
        content.take_pages(&lacking);
        let bytes = bytes[..written].to_vec();
        content.change(Change::Write { at, bytes }, sector);
        match until {
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    pub(super) fn length(&self, id: u64) -> u64 {
        u64::try_from(self.content(id).now().len()).unwrap_or(u64::MAX)
    }

    pub(super) fn set_length(&mut self, id: u64, length: usize) {
        let sector = self.shape.sector;
        self.node(id).content.change(Change::Length(length), sector);
    }

    pub(super) fn allocate(&mut self, id: u64, length: usize) -> io::Result<()> {
        let (fits, takes_some) = (
            self.free_pages(),
            self.draw(self.operations).among("allocated", 0, 2) == 1,
        );
        let content = &mut self.node(id).content;
        let mut lacking = content.lacking(0, length);
        if lacking.len() > fits {
            lacking.truncate(if takes_some { fits } else { 0 });
            content.take_pages(&lacking);
            return Err(io::ErrorKind::StorageFull.into());
        }
        content.take_pages(&lacking);
        if length > content.now().len() {
            self.set_length(id, length);
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, id: u64) {
        let sector = self.shape.sector;
        self.node(id).content.sync(sector);
    }

    pub(super) fn fail_sync(&mut self, life: u64, id: u64) {
        if self.goes_on(life).is_ok() {
            let sector = self.shape.sector;
            self.node(id).content.fail_sync(sector);
        }
    }

    pub(super) fn is_at(&self, id: u64, path: &Path) -> bool {
        self.names.get(path) == Some(Entry::File(id))
    }

    pub(super) fn used(&self) -> u64 {
        let pages: usize = self.nodes.values().map(|node| node.content.pages()).sum();
        u64::try_from(pages * PAGE).unwrap_or(u64::MAX)
    }

    fn free_pages(&self) -> usize {
        let free = self.room().saturating_sub(self.used());
        usize::try_from(free).unwrap_or(usize::MAX) / PAGE
    }

    // A file without name that nobody has open takes no room any more. What its names were may come back with a crash.
    fn free(&mut self, id: u64) {
        let is_named = self
            .names
            .tree()
            .values()
            .any(|entry| *entry == Entry::File(id));
        if let Some(node) = self.nodes.get_mut(&id)
            && !is_named
            && node.open == 0
        {
            node.content.give_room_back();
        }
    }

    // The first bytes of a write that did not come to its end.
    fn part(&self, change: &Change, number: u64) -> Change {
        match change {
            Change::Length(length) => Change::Length(*length),
            Change::Write { at, bytes } => {
                let cut = self.draw(number).among("written", 0, bytes.len() + 1);
                let bytes = bytes[..cut].to_vec();
                Change::Write { at: *at, bytes }
            }
        }
    }

    fn draw(&self, about: u64) -> Draw {
        Draw {
            seed: self.shape.seed,
            about,
            end: self.ends,
        }
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.entry(id).or_default()
    }

    fn content(&self, id: u64) -> &Content {
        let node = self.nodes.get(&id);
        &node
            .expect("a file that is open or has a name is there")
            .content
    }
}
