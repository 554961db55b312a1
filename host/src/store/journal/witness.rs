//! The witness: a small file beside the journal that says what the journal must have, so that a file that is missing, or
//! whose end is, is told from one that never was. It names the newest journal file, and after a clean end also where that
//! file ended and with which group.
//!
//! It may lag behind the journal and never runs ahead of it: a file is durable before the witness names it, and the close
//! record is before the witness says that the journal was closed. So a power cut between the two leaves a witness that asks
//! for less than there is, as a write that fails does, and a start asks only whether there is at least what it says. An
//! older broker, which leaves it alone, does no harm either.
//!
//! ```text
//! two slots of 4,096 bytes, written in turns, so that one is whole whenever the power goes; the higher count holds
//!    0 u64 "TGWITNS1"    8 u64 count    16 u64 number of the newest file    24 u64 its length, 0 while it is written
//!   32 u64 number of the next group    40 u32 checksum of the last group in the file, 0 without one    44 u32 CRC32C of 0..44
//! while it is written:
//!   32 u64 the length it began with, 0 when that is not known    40 u32 lower half of its salt
//! ```

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{File, FileSystem};
use crate::domain::CommitNumber;
use crate::store::file_names;
use crate::store::little_endian::{u32_at, u64_at};

const MAGIC: u64 = u64::from_le_bytes(*b"TGWITNS1");
/// What the titles of all versions begin with.
const MAGIC_BYTES: usize = 7;
const SLOT_BYTES: usize = 4096;
const SLOTS: u64 = 2;
const COVERED_BYTES: usize = 44;

/// What the journal must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    /// A file that begins with this group, or a later one, is there.
    pub(super) newest: CommitNumber,
    /// How that file ended, when the journal was closed.
    pub(super) closed: Option<End>,
    /// How that file began, while it is written; `None` when an older broker said it.
    pub(super) begun: Option<Begun>,
}

/// A journal file as it got its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// Its length, which was durable then: at least that it has until it is cut at the end of its last record.
    pub(super) bytes: u64,
    /// The lower half of its salt, which tells it from another file of the same name.
    pub(super) salt: u32,
}

/// The end of a journal that was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Length of the newest file, with the record that closes it.
    pub(super) bytes: u64,
    /// Number of the group that would have been next.
    pub(super) next: CommitNumber,
    /// Checksum of the last group in the file; `None` when there is none in it.
    pub(super) last: Option<u32>,
}

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct Testimony {
    /// `None` when there is no file, or none of it can be read: an older broker left the store, or the file was damaged.
    pub(super) witness: Option<Witness>,
    /// The file is there, and not empty, but says nothing that can be believed.
    pub(super) is_damaged: bool,
    count: u64,
}

/// Why there is no testimony to be had.
#[derive(Debug)]
pub(super) enum WitnessError {
    /// Another version wrote it; this is its title.
    Format(String),
    /// The file system fails.
    Io(io::Error),
}

/// The file, open for as long as the journal is written.
pub(super) struct WitnessFile {
    file: Arc<dyn File>,
    count: u64,
}

/// What the witness says about the journal in `dir`.
pub(super) fn load(fs: &dyn FileSystem, dir: &Path) -> Result<Testimony, WitnessError> {
    let file = match fs.open(&file_names::witness(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Testimony::default()),
        other => other.map_err(WitnessError::Io)?,
    };
    let mut bytes = vec![0; SLOT_BYTES * SLOTS as usize];
    let read = file.read_at(&mut bytes, 0).map_err(WitnessError::Io)?;
    let slots = || bytes[..read].chunks(SLOT_BYTES);
    if let Some((count, witness)) = slots().filter_map(decode).max_by_key(|(count, _)| *count) {
        return Ok(Testimony {
            witness: Some(witness),
            is_damaged: false,
            count,
        });
    }
    if let Some(title) = slots().find_map(other_title) {
        return Err(WitnessError::Format(title));
    }
    Ok(Testimony {
        is_damaged: bytes.iter().any(|byte| *byte != 0),
        ..Testimony::default()
    })
}

impl Testimony {
    /// The file says this now.
    pub(super) fn said(&mut self, witness: Witness) {
        self.count += 1;
        self.witness = Some(witness);
    }
}

impl WitnessFile {
    /// Opens the file that `testimony` was read from, or makes it, durably and without a word in it.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path, testimony: &Testimony) -> io::Result<Self> {
        let path = file_names::witness(dir);
        let file = match fs.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs.create(&path)?,
            other => other?,
        };
        // Reserved at once, so that later writes need no room.
        file.allocate(SLOT_BYTES as u64 * SLOTS)?;
        file.sync()?;
        fs.sync_dir(dir)?;
        Ok(Self {
            file,
            count: testimony.count,
        })
    }

    /// Opens it while the journal is written, if that can be done now.
    pub(super) fn reopen(fs: &dyn FileSystem, dir: &Path) -> Option<Self> {
        let testimony = load(fs, dir).ok()?;
        Self::open(fs, dir, &testimony).ok()
    }

    /// Whether it is still where others will look for it.
    pub(super) fn is_there(&self, dir: &Path) -> bool {
        !matches!(self.file.is_at(&file_names::witness(dir)), Ok(false))
    }

    /// Says this from now on, durably. After an error either this or what was said before holds.
    pub(super) fn say(&mut self, witness: &Witness) -> io::Result<()> {
        let count = self.count + 1;
        let slot = (count % SLOTS) * SLOT_BYTES as u64;
        self.file.write_at(&encode(count, witness), slot)?;
        self.file.sync()?;
        self.count = count;
        Ok(())
    }
}

fn encode(count: u64, witness: &Witness) -> Vec<u8> {
    let end = witness.closed;
    let begun = witness.begun.filter(|_| end.is_none());
    let mut bytes = Vec::with_capacity(COVERED_BYTES + 4);
    for number in [
        MAGIC,
        count,
        witness.newest.0,
        end.map_or(0, |end| end.bytes),
        match end {
            Some(end) => end.next.0,
            None => begun.map_or(0, |begun| begun.bytes),
        },
    ] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let last = match end {
        Some(end) => end.last.unwrap_or(0),
        None => begun.map_or(0, |begun| begun.salt),
    };
    bytes.extend_from_slice(&last.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Option<(u64, Witness)> {
    if u64_at(slot, 0)? != MAGIC || !is_sound(slot) {
        return None;
    }
    let bytes = u64_at(slot, 24)?;
    let (number, checksum) = (u64_at(slot, 32)?, u32_at(slot, 40)?);
    let end = End {
        bytes,
        next: CommitNumber(number),
        last: Some(checksum).filter(|last| *last != 0),
    };
    let begun = Begun {
        bytes: number,
        salt: checksum,
    };
    let witness = Witness {
        newest: CommitNumber(u64_at(slot, 16)?),
        closed: (bytes > 0).then_some(end),
        begun: (bytes == 0 && number > 0).then_some(begun),
    };
    Some((u64_at(slot, 8)?, witness))
}

fn is_sound(slot: &[u8]) -> bool {
    let covered = slot.get(..COVERED_BYTES).map(crc32c::crc32c);
    covered.is_some() && covered == u32_at(slot, COVERED_BYTES)
}

// The title of a sound slot of another version.
fn other_title(slot: &[u8]) -> Option<String> {
    let (title, ours) = (slot.get(..8)?, MAGIC.to_le_bytes());
    let is_other = title[..MAGIC_BYTES] == ours[..MAGIC_BYTES] && title != ours;
    (is_other && is_sound(slot)).then(|| String::from_utf8_lossy(title).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealFileSystem;

    fn closed(newest: u64) -> Witness {
        Witness {
            newest: CommitNumber(newest),
            closed: Some(End {
                bytes: 4144,
                next: CommitNumber(newest + 2),
                last: Some(7),
            }),
            begun: None,
        }
    }

    fn open(newest: u64) -> Witness {
        Witness {
            newest: CommitNumber(newest),
            closed: None,
            begun: Some(Begun {
                bytes: 8192,
                salt: 9,
            }),
        }
    }

    fn said(dir: &Path) -> Option<Witness> {
        load(&RealFileSystem, dir).expect("readable").witness
    }

    // What is on disk today must be readable by every later version.
    #[test]
    fn the_bytes_of_a_slot_are_these() {
        let bytes = encode(3, &closed(5));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "54475749544e53310300000000000000050000000000000030100000000000000700000000000000\
            0700000026bf8c58";
        assert_eq!(hex[..88], golden[..88]);
        assert_eq!(decode(&bytes), Some((3, closed(5))));
        assert_eq!(decode(&encode(4, &open(5))), Some((4, open(5))));
        // As it was said before files were known by how they begin.
        let without = Witness {
            begun: None,
            ..open(5)
        };
        assert_eq!(decode(&encode(4, &without)), Some((4, without)));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 2;
            assert_eq!(decode(&flipped), None, "flip at {at}");
        }
    }

    #[test]
    fn the_last_word_holds_and_the_one_before_it_when_that_is_damaged() {
        let dir = tempfile::tempdir().expect("folder");
        assert_eq!(said(dir.path()), None);
        let mut testimony = Testimony::default();
        for round in 1..4 {
            let mut file =
                WitnessFile::open(&RealFileSystem, dir.path(), &testimony).expect("file");
            file.say(&open(round)).expect("said");
            file.say(&closed(round)).expect("said");
            testimony = load(&RealFileSystem, dir.path()).expect("readable");
            assert_eq!(testimony.witness, Some(closed(round)));
        }
        let mut bytes = std::fs::read(file_names::witness(dir.path())).expect("read");
        assert_eq!(bytes.len(), SLOT_BYTES * SLOTS as usize);
        bytes[20] ^= 1;
        std::fs::write(file_names::witness(dir.path()), &bytes).expect("written");
        assert_eq!(said(dir.path()), Some(open(3)));
        bytes[SLOT_BYTES + 20] ^= 1;
        std::fs::write(file_names::witness(dir.path()), &bytes).expect("written");
        let testimony = load(&RealFileSystem, dir.path()).expect("readable");
        assert!(testimony.witness.is_none() && testimony.is_damaged);
    }

    #[test]
    fn the_title_of_another_version_is_told() {
        let dir = tempfile::tempdir().expect("folder");
        let mut bytes = encode(1, &open(1));
        bytes[7] = b'2';
        let crc = crc32c::crc32c(&bytes[..COVERED_BYTES]);
        bytes[COVERED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(file_names::witness(dir.path()), &bytes).expect("written");
        let told = load(&RealFileSystem, dir.path());
        assert!(matches!(told, Err(WitnessError::Format(title)) if title == "TGWITNS2"));
    }
}
