//! The content of one file: as it is read now, and what of it may be found after the power went. A change becomes durable with the next
//! sync. One that failed leaves its changes in doubt: they are read until the end of this life, no later sync writes them, and each
//! may or may not be on the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::survival::{Draw, End};

/// What is given out of the room of a disk at a time.
pub(super) const PAGE: usize = 4096;

/// A change of a file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                if content.len() < end && !bytes.is_empty() {
                    content.resize(end, 0);
                }
                if !bytes.is_empty() {
                    content[*at..end].copy_from_slice(bytes);
                }
            }
        }
    }

    // Sectors whose bytes it may change, of a content of this length.
    fn sectors(&self, length: usize, sector: usize) -> std::ops::Range<usize> {
        let bytes = match self {
            Self::Write { bytes, .. } if bytes.is_empty() => 0..0,
            Self::Write { at, bytes } => *at..at + bytes.len(),
            // What is cut off is zeros if the file grows again.
            Self::Length(to) => *to..length.max(*to),
        };
        if bytes.is_empty() {
            return 0..0;
        }
        bytes.start / sector..bytes.end.div_ceil(sector)
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    now: Vec<u8>,
    /// As it was when it was last synced, whether that went well or not.
    synced: Vec<u8>,
    /// What is on the disk for sure.
    base: Vec<u8>,
    /// Since the last sync.
    pending: Vec<Change>,
    /// What else sectors may hold since a sync failed.
    doubtful: BTreeMap<usize, Vec<Vec<u8>>>,
    doubtful_lengths: Vec<usize>,
    /// Pages that it has of the disk's room.
    pages: BTreeSet<usize>,
    /// Sectors that nobody can read until they are written again.
    unreadable: BTreeSet<usize>,
}

impl Content {
    pub(super) fn now(&self) -> &[u8] {
        &self.now
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Pages that it would take more to have all from `from` to `to`.
    pub(super) fn lacking(&self, from: usize, to: usize) -> Vec<usize> {
        let all = from / PAGE..to.div_ceil(PAGE).max(from / PAGE);
        all.filter(|page| !self.pages.contains(page)).collect()
    }

    pub(super) fn take_pages(&mut self, pages: &[usize]) {
        self.pages.extend(pages);
    }

    /// Nobody can reach it in this life.
    pub(super) fn give_room_back(&mut self) {
        self.pages.clear();
    }

    pub(super) fn change(&mut self, change: Change, sector: usize) {
        if let Change::Write { .. } = change {
            let written = change.sectors(self.now.len(), sector);
            self.unreadable.retain(|at| !written.contains(at));
        }
        change.apply(&mut self.now);
        if let Change::Length(length) = change {
            self.pages.retain(|page| page * PAGE < length);
        }
        self.pending.push(change);
    }

    pub(super) fn is_readable(&self, from: usize, to: usize, sector: usize) -> bool {
        let sectors = from / sector..to.div_ceil(sector).max(from / sector);
        self.unreadable.range(sectors).next().is_none()
    }

    pub(super) fn has_unreadable(&self) -> bool {
        !self.unreadable.is_empty()
    }

    /// What cannot be read is zeros from now on. Whether there was anything.
    pub(super) fn rescue(&mut self, sector: usize) -> bool {
        let unreadable = std::mem::take(&mut self.unreadable);
        for at in &unreadable {
            for content in [&mut self.now, &mut self.synced, &mut self.base] {
                let from = (at * sector).min(content.len());
                let to = (from + sector).min(content.len());
                content[from..to].fill(0);
            }
        }
        !unreadable.is_empty()
    }

    /// Everything written is durable.
    pub(super) fn sync(&mut self, sector: usize) {
        if self.pending.is_empty() {
            return;
        }
        let versions = self.versions(sector);
        self.base.resize(self.now.len(), 0);
        for at in versions.sectors.into_keys() {
            let (from, to) = (at * sector, ((at + 1) * sector).min(self.now.len()));
            if from < to {
                self.base[from..to].copy_from_slice(&self.now[from..to]);
            }
            self.doubtful.remove(&at);
        }
        self.doubtful_lengths.clear();
        self.pending.clear();
        self.synced.clone_from(&self.now);
    }

    /// The sync fails: nobody knows what it wrote, and nothing will write it again.
    pub(super) fn fail_sync(&mut self, sector: usize) {
        let versions = self.versions(sector);
        for (at, held) in versions.sectors {
            self.doubtful.entry(at).or_default().extend(held);
        }
        self.doubtful_lengths.extend(versions.lengths);
        self.pending.clear();
        self.synced.clone_from(&self.now);
    }

    /// Changes bytes where they lie, as time does.
    pub(super) fn rot(&mut self, at: usize, flip: u8) -> bool {
        let is_there = at < self.now.len();
        for content in [&mut self.now, &mut self.synced, &mut self.base] {
            if let Some(byte) = content.get_mut(at) {
                *byte ^= flip;
            }
        }
        is_there
    }

    /// What is found after an end of this kind.
    pub(super) fn survives(&self, how: End, tears: bool, sector: usize, draw: &Draw) -> Self {
        let mut unreadable = self.unreadable.clone();
        let found = match how {
            End::Killed => self.now.clone(),
            End::Cruel => self.base.clone(),
            End::Mild => self.begun(draw),
            End::Usual | End::Ordered => {
                let (found, written) = self.mixed(sector, draw);
                let torn = |at: &usize| {
                    tears && draw.among("torn", *at, 16) == 0 && !self.is_only_added_to(*at, sector)
                };
                unreadable.extend(written.into_iter().filter(torn));
                found
            }
        };
        let mut pages = self.pages.clone();
        if pages.is_empty() {
            // It had given its room back, and is there again.
            pages.extend(0..found.len().div_ceil(PAGE));
        }
        pages.retain(|page| page * PAGE < found.len());
        Self {
            pages,
            synced: found.clone(),
            base: found.clone(),
            now: found,
            unreadable,
            ..Self::default()
        }
    }

    // Whether something is durable in a sector, and all that was written there since has the same at its front: disks do not harm that.
    fn is_only_added_to(&self, at: usize, sector: usize) -> bool {
        let of = |content: &[u8]| {
            let (from, to) = (at * sector, ((at + 1) * sector).min(content.len()));
            content.get(from..to).unwrap_or_default().to_vec()
        };
        let durable = of(&self.synced);
        let used = durable.iter().rposition(|byte| *byte != 0);
        let durable = &durable[..used.map_or(0, |last| last + 1)];
        let mut held = self
            .versions(sector)
            .sectors
            .remove(&at)
            .unwrap_or_default();
        held.extend(self.doubtful.get(&at).cloned().unwrap_or_default());
        !durable.is_empty() && held.iter().all(|held| held.starts_with(durable))
    }

    // The first changes, and the next one in part.
    fn begun(&self, draw: &Draw) -> Vec<u8> {
        let mut found = self.synced.clone();
        let kept = draw.among("kept changes", 0, self.pending.len() + 1);
        let (whole, rest) = self.pending.split_at(kept);
        whole.iter().for_each(|change| change.apply(&mut found));
        if let Some(Change::Write { at, bytes }) = rest.first() {
            let cut = draw.among("cut", 0, bytes.len() + 1);
            let (at, bytes) = (*at, bytes[..cut].to_vec());
            Change::Write { at, bytes }.apply(&mut found);
        }
        found
    }

    // Of each sector anything that it held since it was last durable, and any of the lengths; and which sectors were written, for which a
    // change of the length does not count.
    fn mixed(&self, sector: usize, draw: &Draw) -> (Vec<u8>, BTreeSet<usize>) {
        let versions = self.versions(sector);
        let mut lengths = vec![self.base.len()];
        lengths.extend(&self.doubtful_lengths);
        lengths.extend(versions.lengths);
        let length = lengths[draw.among("length", 0, lengths.len())];
        let mut sectors = self.doubtful.clone();
        for (at, held) in versions.sectors {
            sectors.entry(at).or_default().extend(held);
        }
        let mut found = self.base.clone();
        let written = versions.written;
        for (at, held) in sectors {
            // The first is what is there for sure.
            if let Some(held) = draw
                .among("sector", at, held.len() + 1)
                .checked_sub(1)
                .map(|chosen| &held[chosen])
            {
                let bytes = held.clone();
                let at = at * sector;
                Change::Write { at, bytes }.apply(&mut found);
            }
        }
        found.resize(length, 0);
        (found, written)
    }

    // What sectors and the length were since the last sync, after each change that touched them.
    fn versions(&self, sector: usize) -> Versions {
        let mut versions = Versions::default();
        let mut content = self.synced.clone();
        for change in &self.pending {
            let (sectors, before) = (change.sectors(content.len(), sector), content.len());
            change.apply(&mut content);
            if let Change::Write { .. } = change {
                versions.written.extend(sectors.clone());
            }
            for at in sectors {
                let (from, to) = (at * sector, ((at + 1) * sector).min(content.len()));
                let mut held = content.get(from..to).unwrap_or_default().to_vec();
                held.resize(sector, 0);
                versions.sectors.entry(at).or_default().push(held);
            }
            if content.len() != before {
                versions.lengths.push(content.len());
            }
        }
        versions
    }
}

#[derive(Default)]
struct Versions {
    sectors: BTreeMap<usize, Vec<Vec<u8>>>,
    written: BTreeSet<usize>,
    lengths: Vec<usize>,
}
