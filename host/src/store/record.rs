//! Bytes of the journal: pure, no I/O. A file is a head and then records, back to back; a record is one
//! committed group. Also the stored form of a single block, which generations use, and which may be compressed.
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
//!   48 table: per block 48 bytes, then the notes, then the blocks' bodies
//! block in the table
//!    0 u64 topic    8 u64 first position    16 u64 first sequence
//!   24 u64 time in milliseconds, its highest byte the mark of dead letters (see `LetterMark::code`)
//!   32 u32 number of events               36 u32 number of kept indices; `u32::MAX`: all events are there
//!   40 u32 length of the body             44 u32 CRC32C of the body
//! body of a block: kept indices (u32 each), then the entries; its CRC32C is in the table
//!
//! single block: what would be its 48 bytes of the table, kept indices, then the entries as they are or, when fewer bytes
//!    follow than the first 48 say, as one LZ4 block
//! ```
//!
//! The salt is random per file, so nobody who publishes events can plant bytes that pass for a record.

use std::borrow::Cow;

use bytes::Bytes;

use crate::domain::{Block, CommitNumber, LetterMark, Millis, Position, Sequence, TopicId};

/// The time of a block leaves its highest byte free for the mark.
const MARK_SHIFT: u32 = 56;

/// Bytes before the first record of a file.
pub(super) const FILE_HEAD_BYTES: u64 = 4096;
/// Where the second copy of the file head lies.
pub(super) const FILE_HEAD_COPY_AT: usize = 2048;
/// Fixed part of a record.
pub(super) const HEADER_BYTES: usize = 48;
/// One block in the table of a record.
pub(super) const BLOCK_HEAD_BYTES: usize = 48;
/// A record is refused beyond this, at writing and at reading.
pub const RECORD_BYTES_MAX: u64 = 1 << 30;
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

const FILE_MAGIC: u64 = u64::from_le_bytes(*b"TGJOURN1");
/// What the titles of all versions begin with.
const FILE_MAGIC_BYTES: usize = 7;
const FILE_HEAD_COPY_BYTES: usize = 28;
const ALL_KEPT: u32 = u32::MAX;
/// Entries stay as they are unless compressing them spares this part of them, since reading them then costs more.
const LEAST_GAIN: usize = 8;
/// A byte of an LZ4 block stands for at most this many: each byte by which a length goes on adds up to 255. From
/// <https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>.
const LZ4_RATIO_MAX: usize = 255;

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

/// What is known of a block without reading its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) topic: TopicId,
    pub(super) mark: LetterMark,
    pub(super) first_position: Position,
    pub(super) first_sequence: Sequence,
    pub(super) time: Millis,
    pub(super) count: u32,
    /// How many indices precede the entries; `None` when every event is present.
    pub(super) kept: Option<u32>,
    pub(super) body_bytes: u32,
    pub(super) crc: u32,
}

/// The record would be longer than a record may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

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

    /// The blocks' heads with the offset of each body in the record, and the range of the notes; `None` when
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

impl BlockHead {
    pub(super) fn last_position(&self) -> Position {
        Position(
            self.first_position
                .0
                .saturating_add(u64::from(self.count.max(1)) - 1),
        )
    }

    pub(super) fn last_sequence(&self) -> Sequence {
        Sequence(
            self.first_sequence
                .0
                .saturating_add(u64::from(self.count.max(1)) - 1),
        )
    }

    fn of(block: &Block) -> Result<Self, TooLong> {
        let kept = block.kept.as_ref().map(Vec::len);
        let body = body_bytes(block);
        let mut crc = 0;
        for index in block.kept.iter().flatten() {
            crc = crc32c::crc32c_append(crc, &index.to_le_bytes());
        }
        Ok(Self {
            topic: block.topic,
            mark: block.mark,
            first_position: block.first_position,
            first_sequence: block.first_sequence,
            time: block.time,
            count: block.count,
            kept: kept.map(u32::try_from).transpose().map_err(|_| TooLong)?,
            body_bytes: u32::try_from(body).map_err(|_| TooLong)?,
            crc: crc32c::crc32c_append(crc, &block.entries),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.topic.0.to_le_bytes());
        out.extend_from_slice(&self.first_position.0.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.0.to_le_bytes());
        let mark = u64::from(self.mark.code()) << MARK_SHIFT;
        out.extend_from_slice(&(time_alone(self.time.0) | mark).to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.kept.unwrap_or(ALL_KEPT).to_le_bytes());
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let time = u64_at(bytes, 24)?;
        let kept = u32_at(bytes, 36)?;
        let head = Self {
            topic: TopicId(u64_at(bytes, 0)?),
            mark: LetterMark::from_code((time >> MARK_SHIFT) as u8),
            first_position: Position(u64_at(bytes, 8)?),
            first_sequence: Sequence(u64_at(bytes, 16)?),
            time: Millis(time_alone(time)),
            count: u32_at(bytes, 32)?,
            kept: (kept != ALL_KEPT).then_some(kept),
            body_bytes: u32_at(bytes, 40)?,
            crc: u32_at(bytes, 44)?,
        };
        let kept = u64::from(head.kept.unwrap_or(0));
        (kept <= u64::from(head.count) && kept * 4 <= u64::from(head.body_bytes)).then_some(head)
    }

    /// A block of as many events in the same places, none of which is present any more.
    pub(super) fn without_events(&self) -> Block {
        Block::stored(
            self.topic,
            self.first_position,
            self.first_sequence,
            self.time,
            self.count,
            Some(Vec::new()),
            Bytes::new(),
        )
        .marked(self.mark)
    }

    /// Whether these are the bytes that were written.
    pub(super) fn covers(&self, body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && crc32c::crc32c(body) == self.crc
    }

    /// The block, of a body that [`Self::covers`] accepts; `None` otherwise.
    pub(super) fn block(&self, body: &Bytes) -> Option<Block> {
        if !self.covers(body) {
            return None;
        }
        let split = self.kept.unwrap_or(0) as usize * 4;
        let kept = self.kept.map(|_| {
            let indices = body.get(..split).unwrap_or_default().chunks_exact(4);
            indices.filter_map(|bytes| u32_at(bytes, 0)).collect()
        });
        let block = Block::stored(
            self.topic,
            self.first_position,
            self.first_sequence,
            self.time,
            self.count,
            kept,
            body.slice(split..),
        );
        Some(block.marked(self.mark))
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

// Milliseconds since 1970 fill 41 bits of the 56 for a long time to come.
fn time_alone(time: u64) -> u64 {
    time & ((1 << MARK_SHIFT) - 1)
}

fn body_bytes(block: &Block) -> usize {
    block.kept.as_ref().map_or(0, Vec::len) * 4 + block.entries.len()
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

/// A block as it is stored on its own: [`decode_block`] reads the pieces, one after the other.
pub(super) struct StoredBlock<'a> {
    /// Its head, and which events are kept.
    head: Vec<u8>,
    entries: Cow<'a, [u8]>,
}

impl<'a> StoredBlock<'a> {
    /// The stored form of `block`.
    pub(super) fn encode(block: &'a Block) -> Result<Self, TooLong> {
        let entries = &block.entries;
        let mut head = Vec::with_capacity(BLOCK_HEAD_BYTES + body_bytes(block) - entries.len());
        BlockHead::of(block)?.encode(&mut head);
        for index in block.kept.iter().flatten() {
            head.extend_from_slice(&index.to_le_bytes());
        }
        Ok(Self {
            head,
            entries: compressed(entries).map_or(Cow::Borrowed(&entries[..]), Cow::Owned),
        })
    }

    pub(super) fn pieces(&self) -> [&[u8]; 2] {
        [&self.head, &self.entries]
    }
}

/// The block stored as the pieces of a [`StoredBlock`]; `None` when damaged.
pub(super) fn decode_block(bytes: &Bytes) -> Option<Block> {
    let head = BlockHead::decode(bytes.get(..BLOCK_HEAD_BYTES)?)?;
    let body = bytes.slice(BLOCK_HEAD_BYTES..);
    if body.len() < head.body_bytes as usize {
        return head.block(&decompressed(&head, &body)?);
    }
    head.block(&body)
}

// `None` when it is not worth it.
fn compressed(entries: &[u8]) -> Option<Vec<u8>> {
    let compressed = lz4_flex::block::compress(entries);
    (compressed.len() < entries.len() - entries.len() / LEAST_GAIN).then_some(compressed)
}

// The body that `head` tells of, from one with compressed entries.
fn decompressed(head: &BlockHead, body: &[u8]) -> Option<Bytes> {
    let (kept, entries) = body.split_at_checked(head.kept.unwrap_or(0) as usize * 4)?;
    let body_bytes = head.body_bytes as usize;
    // Before memory is asked for: no length is believed that so few bytes cannot stand for.
    let entries_bytes = body_bytes.checked_sub(kept.len())?;
    if entries_bytes > entries.len().saturating_mul(LZ4_RATIO_MAX) {
        return None;
    }
    let mut out = vec![0; body_bytes];
    let (kept_out, entries_out) = out.split_at_mut(kept.len());
    kept_out.copy_from_slice(kept);
    let length = lz4_flex::block::decompress_into(entries, entries_out).ok()?;
    (length == entries_bytes).then(|| out.into())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    use super::*;

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

    // Blocks of brokers that knew no marks have no bits there, so theirs are ordinary events, as they were.
    #[test]
    fn a_mark_is_in_the_head_whichever_way_a_block_is_stored_and_costs_no_byte() {
        for mark in [LetterMark::Letter, LetterMark::LastLetter] {
            let (plain, letters) = (block(), block().marked(mark));
            let (before, after) = (stored(&plain), stored(&letters));
            let differ = (0..after.len()).filter(|at| before[*at] != after[*at]);
            assert_eq!(Vec::from_iter(differ), [31], "the highest byte of the time");
            assert_eq!(after[31], mark.code());
            let mut bytes = Vec::new();
            let number = CommitNumber(3);
            let blocks = [plain.clone(), letters.clone()];
            encode_group(&mut bytes, SALT, number, number, b"", &blocks).expect("short");
            let (_, read) = parse(&bytes).expect("sound");
            assert_eq!(read, blocks);
            assert_eq!(read[1].time, plain.time);
            let repeated = with_entries(&b"z\x05apple".repeat(1_000), Some(vec![1])).marked(mark);
            for block in [letters, repeated] {
                assert_eq!(decode_block(&stored(&block)), Some(block));
            }
        }
        let mut far = block();
        far.time = Millis(u64::MAX);
        let read = decode_block(&stored(&far)).expect("sound");
        assert_eq!(read.mark, LetterMark::Ordinary, "no time makes a letter");
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

    fn stored(block: &Block) -> Bytes {
        StoredBlock::encode(block)
            .expect("short")
            .pieces()
            .concat()
            .into()
    }

    fn with_entries(entries: &[u8], kept: Option<Vec<u32>>) -> Block {
        Block::stored(
            TopicId(7),
            Position(100),
            Sequence(10),
            Millis(5),
            3,
            kept,
            Bytes::copy_from_slice(entries),
        )
    }

    #[test]
    fn a_block_on_its_own_round_trips() {
        let bytes = stored(&block());
        assert_eq!(decode_block(&bytes), Some(block()));
        (0..bytes.len()).for_each(|at| assert_eq!(decode_block(&bytes.slice(..at)), None));
    }

    #[test]
    fn entries_that_repeat_themselves_are_compressed_and_others_are_not() {
        let repeated = b"z\x05apple".repeat(1_000);
        for kept in [None, Some(vec![]), Some(vec![1])] {
            let block = with_entries(&repeated, kept);
            let bytes = stored(&block);
            assert!(bytes.len() < 200, "{}", bytes.len());
            assert_eq!(decode_block(&bytes), Some(block));
        }
        let mut noise = [0; 5_000];
        StdRng::seed_from_u64(0).fill_bytes(&mut noise);
        for entries in [&noise[..], &[]] {
            let block = with_entries(entries, None);
            let bytes = stored(&block);
            assert_eq!(bytes.len(), BLOCK_HEAD_BYTES + entries.len());
            assert_eq!(decode_block(&bytes), Some(block));
        }
    }

    // What was compressed once must be readable by every later version, however that one compresses.
    #[test]
    fn a_compressed_block_that_was_stored_is_read() {
        let block = with_entries(&[b'a'; 100], Some(vec![0, 2]));
        let head = &stored(&block)[..BLOCK_HEAD_BYTES + 8];
        // A literal `a`, a match of 92 bytes one byte before, and seven literals: the format's rules for the end.
        let lz4 = [
            0x1f, b'a', 1, 0, 73, 0x70, b'a', b'a', b'a', b'a', b'a', b'a', b'a',
        ];
        let bytes = Bytes::from([head, &lz4].concat());
        assert_eq!(decode_block(&bytes), Some(block));
    }

    #[test]
    fn a_damaged_compressed_block_is_none_and_asks_for_no_memory() {
        let block = with_entries(&b"z\x05apple".repeat(1_000), Some(vec![1]));
        let bytes = stored(&block);
        for at in 0..bytes.len() {
            assert_eq!(decode_block(&bytes.slice(..at)), None, "cut at {at}");
            // Where the events are from and how many they were is covered by the item's checksum and not by the block's.
            if at >= 36 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 4;
                // What repeats itself can be told in many ways.
                let found = decode_block(&flipped.into());
                assert!(found.is_none_or(|found| found == block), "flip at {at}");
            }
        }
        let mut huge = bytes.to_vec();
        huge[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_block(&huge.into()), None);
    }
}
