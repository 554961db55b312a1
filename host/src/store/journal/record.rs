//! The bytes of a journal file: pure, no I/O. A file is a head and then records, back to back; a record is one committed group.
//! The form of the blocks in it is that of `store/block_format.rs`.
//!
//! ```text
//! file head, 4,096 bytes, written twice (at 0 and at 2,048) against a bad sector
//!    0 u64 "TGJOURN1"    8 u64 number of the first group    16 u64 salt    24 u32 CRC32C of 0..24
//! record, all numbers little-endian, padded with zeros to a multiple of 8
//!    0 u32 magic (from the file's salt)      4 u32 CRC32C of 8..48 (seeded by the salt)
//!    8 u32 kind                             12 u32 length of the notes
//!   16 u64 commit number                    24 u64 highest commit number known durable when written
//!   32 u32 number of blocks                 36 u32 CRC32C of table and notes
//!   40 u64 length of the whole record
//!   48 table: the head of each block, 48 bytes; then the notes, then the blocks' bodies
//! ```
//!
//! The salt is random per file, so nobody who publishes events can plant bytes that pass for a record.

use crate::domain::{Block, CommitNumber};
use crate::store::block_format::{BLOCK_HEAD_BYTES, BlockHead, TooLong, body_bytes};
use crate::store::little_endian::{u32_at, u64_at};

/// Bytes before the first record of a file.
pub(super) const FILE_HEAD_BYTES: u64 = 4096;
/// Where the second copy of the file head lies.
pub(super) const FILE_HEAD_COPY_AT: usize = 2048;
/// Fixed part of a record.
pub(super) const HEADER_BYTES: usize = 48;
/// A record is refused beyond this, at writing and at reading.
pub const RECORD_BYTES_MAX: u64 = 1 << 30;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"TGJOURN1");
/// What the titles of all versions begin with.
const FILE_MAGIC_BYTES: usize = 7;
const FILE_HEAD_COPY_BYTES: usize = 28;

/// Makes the records of one file recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt(pub(super) u64);

/// Start of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHead {
    pub(super) first: CommitNumber,
    pub(super) salt: Salt,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A committed group.
    Group,
    /// The broker shut down cleanly. Its number is the next group's.
    Close,
    /// Written by repair: groups from its number up to (not including) its `durable` field were lost.
    Gap,
}

/// Fixed part of a record, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) number: CommitNumber,
    pub(super) durable: CommitNumber,
    pub(super) blocks: u32,
    pub(super) notes_bytes: u32,
    pub(super) head_crc: u32,
    pub(super) length: u64,
    /// CRC32C of the fixed part as it was read. Through the other checksums it covers the whole record.
    pub(super) crc: u32,
}

/// What a file's head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileTitle {
    /// It is a journal file as this version writes them.
    Ours(FileHead),
    /// It is one of another version; this is its title.
    Other(String),
    /// It cannot be read.
    Damaged,
}

impl Salt {
    fn magic(self) -> u32 {
        // Never zero: preallocated space must not look like a record.
        self.0 as u32 | 1
    }

    fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append((self.0 >> 32) as u32, bytes)
    }

    /// What a witness says of it.
    pub(super) fn lower(self) -> u32 {
        self.0 as u32
    }

    /// Whether a record may start with these four bytes.
    pub(super) fn starts(self, bytes: &[u8]) -> bool {
        bytes
            .get(..4)
            .is_some_and(|start| start == self.magic().to_le_bytes())
    }
}

impl FileHead {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(28);
        copy.extend_from_slice(&FILE_MAGIC.to_le_bytes());
        copy.extend_from_slice(&self.first.0.to_le_bytes());
        copy.extend_from_slice(&self.salt.0.to_le_bytes());
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        let mut bytes = vec![0; FILE_HEAD_BYTES as usize];
        bytes[..copy.len()].copy_from_slice(&copy);
        bytes[FILE_HEAD_COPY_AT..FILE_HEAD_COPY_AT + copy.len()].copy_from_slice(&copy);
        bytes
    }

    /// What the head says, from whichever copy is sound. Another version's title counts when its copy is sound, or when both
    /// copies bear it: one that was damaged into it stands there once.
    pub(super) fn read(bytes: &[u8]) -> FileTitle {
        let copies = [0, FILE_HEAD_COPY_AT]
            .map(|at| bytes.get(at..at + FILE_HEAD_COPY_BYTES).unwrap_or_default());
        if let Some(head) = copies.into_iter().find_map(Self::decode_copy) {
            return FileTitle::Ours(head);
        }
        let title =
            |copy: &[u8]| -> Option<u64> { u64_at(copy, 0).filter(|title| is_other(*title)) };
        let [first, second] = copies.map(title);
        let sound = copies.into_iter().filter(|copy| is_sound(copy));
        let other = sound.filter_map(title).next();
        match other.or(first.filter(|_| first == second)) {
            Some(title) => {
                FileTitle::Other(String::from_utf8_lossy(&title.to_le_bytes()).into_owned())
            }
            None => FileTitle::Damaged,
        }
    }

    fn decode_copy(copy: &[u8]) -> Option<Self> {
        if u64_at(copy, 0)? != FILE_MAGIC || !is_sound(copy) {
            return None;
        }
        Some(Self {
            first: CommitNumber(u64_at(copy, 8)?),
            salt: Salt(u64_at(copy, 16)?),
        })
    }
}

// Whether a copy of a head is as it was written, by whichever version.
fn is_sound(copy: &[u8]) -> bool {
    let covered = copy.get(..24).map(crc32c::crc32c);
    covered.is_some() && covered == u32_at(copy, 24)
}

fn is_other(title: u64) -> bool {
    let (ours, bytes) = (FILE_MAGIC.to_le_bytes(), title.to_le_bytes());
    title != FILE_MAGIC && bytes[..FILE_MAGIC_BYTES] == ours[..FILE_MAGIC_BYTES] && bytes.is_ascii()
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Self::Group => 1,
            Self::Close => 2,
            Self::Gap => 3,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [Self::Group, Self::Close, Self::Gap]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

impl Header {
    /// The kind of a record that is sound but of no kind that this version knows.
    pub(super) fn unknown_kind(bytes: &[u8], salt: Salt) -> Option<u32> {
        let code = u32_at(Self::sound(bytes, salt)?, 8)?;
        Kind::from_code(code).is_none().then_some(code)
    }

    fn sound(bytes: &[u8], salt: Salt) -> Option<&[u8]> {
        let bytes = bytes.get(..HEADER_BYTES)?;
        let is_sound = salt.starts(bytes) && u32_at(bytes, 4)? == salt.crc(bytes.get(8..)?);
        is_sound.then_some(bytes)
    }

    /// Parses and checks the fixed part; every length in it is consistent, but not yet compared with the file.
    pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let bytes = Self::sound(bytes, salt)?;
        let header = Self {
            kind: Kind::from_code(u32_at(bytes, 8)?)?,
            notes_bytes: u32_at(bytes, 12)?,
            number: CommitNumber(u64_at(bytes, 16)?),
            durable: CommitNumber(u64_at(bytes, 24)?),
            blocks: u32_at(bytes, 32)?,
            head_crc: u32_at(bytes, 36)?,
            length: u64_at(bytes, 40)?,
            crc: u32_at(bytes, 4)?,
        };
        let fits = header.head_bytes() <= header.length
            && header.length <= RECORD_BYTES_MAX
            && header.length.is_multiple_of(ALIGNMENT as u64);
        fits.then_some(header)
    }

    /// Header, table and notes together.
    pub(super) fn head_bytes(&self) -> u64 {
        HEADER_BYTES as u64
            + u64::from(self.blocks) * BLOCK_HEAD_BYTES as u64
            + u64::from(self.notes_bytes)
    }

    /// The blocks' heads with the offset of each body in the record; `None` when
    /// the head part is damaged. `head` starts with the header.
    pub(super) fn table(&self, head: &[u8]) -> Option<Vec<(BlockHead, u64)>> {
        let end = usize::try_from(self.head_bytes()).ok()?;
        let checked = head.get(HEADER_BYTES..end)?;
        if crc32c::crc32c(checked) != self.head_crc {
            return None;
        }
        let mut at = self.head_bytes();
        let mut table = Vec::with_capacity(self.blocks as usize);
        for bytes in checked
            .chunks_exact(BLOCK_HEAD_BYTES)
            .take(self.blocks as usize)
        {
            let block = BlockHead::decode(bytes)?;
            table.push((block, at));
            at = at.checked_add(u64::from(block.body_bytes))?;
        }
        (at.next_multiple_of(ALIGNMENT as u64) == self.length).then_some(table)
    }

    /// Where the notes lie in the record.
    pub(super) fn notes_range(&self) -> std::ops::Range<usize> {
        let start = HEADER_BYTES + self.blocks as usize * BLOCK_HEAD_BYTES;
        start..start + self.notes_bytes as usize
    }
}

/// Length of the record of a group.
pub(super) fn group_bytes(notes: &[u8], blocks: &[Block]) -> Result<u64, TooLong> {
    let head = HEADER_BYTES + blocks.len() * BLOCK_HEAD_BYTES + notes.len();
    let bodies: usize = blocks.iter().map(body_bytes).sum();
    let length = ((head + bodies) as u64).next_multiple_of(ALIGNMENT as u64);
    if length > RECORD_BYTES_MAX {
        return Err(TooLong);
    }
    Ok(length)
}

/// Adds the record of a group to `out`. Answers the blocks' heads with the offset of each body in the record.
pub(super) fn encode_group(
    out: &mut Vec<u8>,
    salt: Salt,
    number: CommitNumber,
    durable: CommitNumber,
    notes: &[u8],
    blocks: &[Block],
) -> Result<Vec<(BlockHead, u64)>, TooLong> {
    let length = group_bytes(notes, blocks)?;
    let notes_bytes = u32::try_from(notes.len()).map_err(|_| TooLong)?;
    let block_count = u32::try_from(blocks.len()).map_err(|_| TooLong)?;
    let mut at = (HEADER_BYTES + blocks.len() * BLOCK_HEAD_BYTES + notes.len()) as u64;
    let start = out.len();
    out.reserve(length as usize);
    out.resize(start + HEADER_BYTES, 0);
    let mut table = Vec::with_capacity(blocks.len());
    for block in blocks {
        let head = BlockHead::of(block)?;
        head.encode(out);
        table.push((head, at));
        at += u64::from(head.body_bytes);
    }
    out.extend_from_slice(notes);
    let head_crc = crc32c::crc32c(&out[start + HEADER_BYTES..]);
    for block in blocks {
        for index in block.kept.iter().flatten() {
            out.extend_from_slice(&index.to_le_bytes());
        }
        out.extend_from_slice(&block.entries);
    }
    out.resize(start + length as usize, 0);
    let header = Header {
        kind: Kind::Group,
        number,
        durable,
        blocks: block_count,
        notes_bytes,
        head_crc,
        length,
        crc: 0,
    };
    put_header(&mut out[start..], salt, &header);
    Ok(table)
}

/// Adds a record without notes and blocks to `out`.
pub(super) fn encode_mark(
    out: &mut Vec<u8>,
    salt: Salt,
    kind: Kind,
    number: CommitNumber,
    durable: CommitNumber,
) {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    let header = Header {
        kind,
        number,
        durable,
        blocks: 0,
        notes_bytes: 0,
        head_crc: 0,
        length: HEADER_BYTES as u64,
        crc: 0,
    };
    put_header(&mut out[start..], salt, &header);
}

fn put_header(out: &mut [u8], salt: Salt, header: &Header) {
    out[0..4].copy_from_slice(&salt.magic().to_le_bytes());
    out[8..12].copy_from_slice(&header.kind.code().to_le_bytes());
    out[12..16].copy_from_slice(&header.notes_bytes.to_le_bytes());
    out[16..24].copy_from_slice(&header.number.0.to_le_bytes());
    out[24..32].copy_from_slice(&header.durable.0.to_le_bytes());
    out[32..36].copy_from_slice(&header.blocks.to_le_bytes());
    out[36..40].copy_from_slice(&header.head_crc.to_le_bytes());
    out[40..48].copy_from_slice(&header.length.to_le_bytes());
    let crc = salt.crc(&out[8..HEADER_BYTES]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The checksum of the fixed part of a record, see [`Header::crc`].
pub(super) fn crc_of(record: &[u8]) -> Option<u32> {
    u32_at(record, 4)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::{BlockOrigin, Millis, Position, Sequence, TopicId};

    const GOLDEN: &str = "090706055935a9c101000000040000000300000000000000020000000000000001000000da6fc946\
        78000000000000000700000000000000640000000000000\
        00a00000000000000050000000000000003000000020000000e000000dbec683e\
        6e6f746500000000020000007a01617a0162000000000000";
    const SALT: Salt = Salt(0x0102_0304_0506_0708);

    fn block() -> Block {
        Block::stored(
            TopicId(7),
            Position(100),
            Sequence(10),
            Millis(5),
            3,
            Some(vec![0, 2]),
            Bytes::from_static(b"z\x01az\x01b"),
        )
    }

    fn record() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_group(
            &mut bytes,
            SALT,
            CommitNumber(3),
            CommitNumber(2),
            b"note",
            &[block()],
        )
        .expect("short");
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<(Header, Vec<Block>)> {
        let header = Header::decode(bytes, SALT)?;
        let table = header.table(bytes)?;
        let bytes = Bytes::copy_from_slice(bytes);
        let blocks = table.iter().map(|(head, at)| {
            let start = *at as usize;
            let end = start + head.body_bytes as usize;
            head.block(&bytes.slice(start..end.min(bytes.len())))
        });
        Some((header, blocks.collect::<Option<_>>()?))
    }

    // What is on disk today must be readable by every later version.
    #[test]
    fn the_bytes_of_a_record_are_these() {
        let hex: String = record().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    #[test]
    fn a_mark_of_a_block_comes_back_with_its_record() {
        for mark in [BlockOrigin::Letter, BlockOrigin::LastLetter] {
            let (plain, letters) = (block(), block().marked(mark));
            let mut bytes = Vec::new();
            let number = CommitNumber(3);
            let blocks = [plain.clone(), letters];
            encode_group(&mut bytes, SALT, number, number, b"", &blocks).expect("short");
            let (_, read) = parse(&bytes).expect("sound");
            assert_eq!(read, blocks);
            assert_eq!(read[1].time, plain.time);
        }
    }

    #[test]
    fn a_record_round_trips_and_no_flip_or_cut_passes() {
        let bytes = record();
        let (header, blocks) = parse(&bytes).expect("sound");
        assert_eq!(
            (header.number, header.durable),
            (CommitNumber(3), CommitNumber(2))
        );
        assert_eq!(&bytes[header.notes_range()], b"note");
        assert_eq!(blocks, [block()]);
        let covered = HEADER_BYTES + BLOCK_HEAD_BYTES + 4 + 14;
        for at in 0..covered {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert_eq!(parse(&flipped), None, "flip at {at}");
        }
        (0..covered).for_each(|at| assert_eq!(Header::decode(&bytes[..at.min(47)], SALT), None));
        assert_eq!(Header::decode(&bytes, Salt(1)), None);
    }

    #[test]
    fn the_title_of_another_version_is_told_from_damage() {
        let head = FileHead {
            first: CommitNumber(3),
            salt: SALT,
        };
        let bytes = head.encode();
        assert_eq!(FileHead::read(&bytes), FileTitle::Ours(head));
        // As another version would write it, with a checksum like ours or of its own.
        let mut other = bytes.clone();
        for at in [0, FILE_HEAD_COPY_AT] {
            other[at + 7] = b'2';
        }
        assert_eq!(FileHead::read(&other), FileTitle::Other("TGJOURN2".into()));
        let crc = crc32c::crc32c(&other[..24]);
        other[24..28].copy_from_slice(&crc.to_le_bytes());
        other[FILE_HEAD_COPY_AT..].fill(0);
        assert_eq!(FileHead::read(&other), FileTitle::Other("TGJOURN2".into()));
        // Damaged into it: the other copy is sound, or not.
        let mut flipped = bytes;
        flipped[7] = b'2';
        assert_eq!(FileHead::read(&flipped), FileTitle::Ours(head));
        flipped[FILE_HEAD_COPY_AT + 9] ^= 1;
        assert_eq!(FileHead::read(&flipped), FileTitle::Damaged);
        assert_eq!(FileHead::read(&[]), FileTitle::Damaged);
    }

    #[test]
    fn a_sound_record_of_an_unknown_kind_is_not_damage() {
        let mut bytes = record();
        assert_eq!(Header::unknown_kind(&bytes, SALT), None);
        bytes[8] = 77;
        assert_eq!(Header::unknown_kind(&bytes, SALT), None, "damaged");
        let crc = SALT.crc(&bytes[8..HEADER_BYTES]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::unknown_kind(&bytes, SALT), Some(77));
        assert_eq!(Header::decode(&bytes, SALT), None);
    }
}
