//! How the life of a broker ends, as its disk sees it, and how it is drawn what is found afterwards.

use crate::scheduler::{mix, text};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is killed: everything that it wrote is there, what it was writing in part.
    Killed,
    /// The power goes, kindly: of each file the first changes since its sync, the next one cut at a byte; of each folder the first
    /// changes of names since its sync.
    Mild,
    /// The power goes. Of what was not synced each sector holds anything that it ever held, and so does each length, each by itself:
    /// writes are dropped, kept, torn and reordered. Of each folder the first changes of names.
    Usual,
    /// The same, but names change in one order on the whole disk, as on ext4 and xfs.
    Ordered,
    /// The power goes, and only what was synced is there.
    Cruel,
}

impl End {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Killed,
        Self::Mild,
        Self::Usual,
        Self::Ordered,
        Self::Cruel,
    ];
}

/// What is drawn about one thing of a disk, at one of its ends.
pub(super) struct Draw {
    pub(super) seed: u64,
    pub(super) about: u64,
    pub(super) end: u64,
}

impl Draw {
    /// One of `among`, from 0; the same whenever it is asked again.
    pub(super) fn among(&self, what: &str, number: usize, among: usize) -> usize {
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let drawn = mix(&[self.seed, text(what), self.about, self.end, number]);
        let among = u64::try_from(among.max(1)).unwrap_or(u64::MAX);
        usize::try_from(drawn % among).unwrap_or_default()
    }
}
