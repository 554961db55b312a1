//! A block of events as bytes, the same in the journal and in sealed generations: pure, no I/O. Its head says which events they
//! are and covers them with a checksum; its body is the events themselves. In the journal the heads of a group stand together in
//! the record's table; on its own, as generations store it, a block is its head and then its body, which may be compressed.
//!
//! ```text
//! head of a block, all numbers little-endian
//!    0 u64 topic    8 u64 first position    16 u64 first sequence
//!   24 u64 time in milliseconds, its highest byte the mark of dead letters (see `BlockOrigin::code`)
//!   32 u32 number of events               36 u32 number of kept indices; `u32::MAX`: all events are there
//!   40 u32 length of the body             44 u32 CRC32C of the body
//! body of a block: kept indices (u32 each), then the entries; its CRC32C is in the head
//!
//! block on its own: its head, kept indices, then the entries as they are or, when fewer bytes follow than the head says,
//!    as one LZ4 block
//! ```

use std::borrow::Cow;

use bytes::Bytes;

use super::little_endian::{u32_at, u64_at};
use crate::domain::{Block, BlockOrigin, Millis, PLACE_MAX, Position, Sequence, TopicId};

/// The time of a block leaves its highest byte free for the mark.
const MARK_SHIFT: u32 = 56;
/// One block in the table of a record.
pub(super) const BLOCK_HEAD_BYTES: usize = 48;
const ALL_KEPT: u32 = u32::MAX;
/// Entries stay as they are unless compressing them spares this part of them, since reading them then costs more.
const LEAST_GAIN: usize = 8;
/// A byte of an LZ4 block stands for at most this many: each byte by which a length goes on adds up to 255. From
/// <https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>.
const LZ4_RATIO_MAX: usize = 255;

/// What is known of a block without reading its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) topic: TopicId,
    pub(super) mark: BlockOrigin,
    pub(super) first_position: Position,
    pub(super) first_sequence: Sequence,
    pub(super) time: Millis,
    pub(super) count: u32,
    /// How many indices precede the entries; `None` when every event is present.
    pub(super) kept: Option<u32>,
    pub(super) body_bytes: u32,
    pub(super) crc: u32,
}

/// A block, or the record it should be in, would be longer than its form allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

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

    pub(super) fn of(block: &Block) -> Result<Self, TooLong> {
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

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
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

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let time = u64_at(bytes, 24)?;
        let kept = u32_at(bytes, 36)?;
        let head = Self {
            topic: TopicId(u64_at(bytes, 0)?),
            mark: BlockOrigin::from_code((time >> MARK_SHIFT) as u8),
            first_position: Position(u64_at(bytes, 8)?),
            first_sequence: Sequence(u64_at(bytes, 16)?),
            time: Millis(time_alone(time)),
            count: u32_at(bytes, 32)?,
            kept: (kept != ALL_KEPT).then_some(kept),
            body_bytes: u32_at(bytes, 40)?,
            crc: u32_at(bytes, 44)?,
        };
        let places = [head.first_position.0, head.first_sequence.0];
        if places.into_iter().any(|place| place > PLACE_MAX) {
            return None;
        }
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
        if !self.covers(body) && !planted!(DamageDelivered) {
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

// Milliseconds since 1970 fill 41 bits of the 56 for a long time to come.
fn time_alone(time: u64) -> u64 {
    time & ((1 << MARK_SHIFT) - 1)
}

/// Length of the body of a block.
pub(super) fn body_bytes(block: &Block) -> usize {
    block.kept.as_ref().map_or(0, Vec::len) * 4 + block.entries.len()
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

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

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

    // Blocks of brokers that knew no marks have no bits there, so theirs are ordinary events, as they were.
    #[test]
    fn a_mark_is_in_the_head_whichever_way_a_block_is_stored_and_costs_no_byte() {
        for mark in [BlockOrigin::Letter, BlockOrigin::LastLetter] {
            let (plain, letters) = (block(), block().marked(mark));
            let (before, after) = (stored(&plain), stored(&letters));
            let differ = (0..after.len()).filter(|at| before[*at] != after[*at]);
            assert_eq!(Vec::from_iter(differ), [31], "the highest byte of the time");
            assert_eq!(after[31], mark.code());
            let repeated = with_entries(&b"z\x05apple".repeat(1_000), Some(vec![1])).marked(mark);
            for block in [letters, repeated] {
                assert_eq!(decode_block(&stored(&block)), Some(block));
            }
        }
        let mut far = block();
        far.time = Millis(u64::MAX);
        let read = decode_block(&stored(&far)).expect("sound");
        assert_eq!(read.mark, BlockOrigin::Ordinary, "no time makes a letter");
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
    fn a_block_in_a_place_that_there_is_not_is_none() {
        for (at, is_there) in [(PLACE_MAX, true), (PLACE_MAX + 1, false), (u64::MAX, false)] {
            for field in [8, 16] {
                let mut bytes = stored(&block()).to_vec();
                bytes[field..field + 8].copy_from_slice(&at.to_le_bytes());
                assert_eq!(decode_block(&bytes.into()).is_some(), is_there, "{at}");
            }
        }
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
