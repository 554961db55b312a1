//! The sender's end of a compact stream: which batch names its topic, which is packed, and which is remembered.

use std::borrow::Cow;

use bytes::Bytes;
use lz4_flex::block::{compress_into_with_dict, get_maximum_output_size};
use prost::encoding::{WireType, encode_key, encode_varint, key_len};

use super::Compression;
use super::history::History;
use super::topic_numbers::GivenNumbers;
use super::unpacked_max;
use crate::limits::{REMEMBERED_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::pb;

/// Field number of `packed` in `PublishBatch` and `Deliver`.
const PACKED_TAG: u32 = 14;
/// Bytes of its tag and of the longest length before it.
const PREFIX_BYTES_MAX: usize = 6;
/// Bytes of `unpacked_bytes` in a head, at most: a tag, and three for what is at most a mebibyte.
const UNPACKED_HEAD_BYTES: usize = 4;

/// After batches that did not become smaller, so many are not tried at most.
const UNTRIED_MAX: u32 = 64;

/// The path is looked at before each of the first batches, and ever more seldom, down to once for so many.
const UNLOOKED_MAX: u32 = 32;

/// The sender's end of one direction of a stream.
#[derive(Debug)]
pub struct Packer {
    compression: Compression,
    numbers: GivenNumbers,
    history: History,
    trials: Seldom,
    /// Looks at the path.
    looks: Seldom,
    /// What the last one saw.
    is_long: bool,
}

/// What a head says of a batch, and what comes in place of its events.
#[derive(Debug, Default)]
struct Compacted {
    topic_number: u32,
    remember: bool,
    unpacked_bytes: u64,
    packed: Option<Bytes>,
}

impl Packer {
    /// That of a stream on which nothing was said.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            numbers: GivenNumbers::default(),
            history: History::default(),
            trials: Seldom::after_at_most(UNTRIED_MAX),
            looks: Seldom::after_at_most(UNLOOKED_MAX),
            is_long: false,
        }
    }

    /// Says in `head` what there is to say of a batch whose events are `body`, and returns what is to be sent in place of them, if it is
    /// packed. It is to be sent next. `may_pack` says whether the reader would take a packed one, `is_long` whether the path is long
    /// at present, which is seldom asked.
    pub fn pack_batch(
        &mut self,
        head: &mut pb::PublishBatch,
        body: &Bytes,
        may_pack: bool,
        is_long: impl FnOnce() -> bool,
    ) -> Option<Bytes> {
        let body = std::slice::from_ref(body);
        let compacted = self.compact(&mut head.topic, body, may_pack, is_long);
        head.topic_number = compacted.topic_number;
        head.remember = compacted.remember;
        head.unpacked_bytes = compacted.unpacked_bytes;
        compacted.packed
    }

    /// The same of a delivery whose events are `entries`, one list after the other.
    pub fn pack_deliver(
        &mut self,
        head: &mut pb::Deliver,
        entries: &[Bytes],
        is_long: impl FnOnce() -> bool,
    ) -> Option<Bytes> {
        let compacted = self.compact(&mut head.topic, entries, true, is_long);
        head.topic_number = compacted.topic_number;
        head.remember = compacted.remember;
        head.unpacked_bytes = compacted.unpacked_bytes;
        compacted.packed
    }

    fn compact(
        &mut self,
        topic: &mut String,
        entries: &[Bytes],
        may_pack: bool,
        is_long: impl FnOnce() -> bool,
    ) -> Compacted {
        let always = self.compression == Compression::Always;
        let compact = match self.compression {
            Compression::Auto => self.is_long(is_long),
            Compression::Off => false,
            Compression::Always => true,
        };
        if !compact {
            return Compacted::default();
        }
        let (topic_number, known) = self.numbers.number(topic);
        if known {
            topic.clear();
        }
        let bytes: usize = entries.iter().map(Bytes::len).sum();
        let packs = may_pack && (1..=UNPACKED_BYTES_MAX).contains(&bytes);
        let compacted = match packs && (always || self.trials.is_due()) {
            true => self.pack(entries, bytes),
            false => Compacted::default(),
        };
        Compacted {
            topic_number,
            ..compacted
        }
    }

    fn pack(&mut self, entries: &[Bytes], bytes: usize) -> Compacted {
        let elements: Cow<'_, [u8]> = match entries {
            [body] => Cow::Borrowed(body),
            entries => Cow::Owned(entries.concat()),
        };
        let packed = packed_field(&elements, self.history.bytes());
        let packed = packed.filter(|packed| self.pays(packed, bytes));
        let remember = bytes <= REMEMBERED_BYTES_MAX;
        match &packed {
            Some(_) => self.trials.succeeded(),
            // The first of many small ones has nothing to be like.
            None if remember && self.history.bytes().is_empty() => {}
            None => self.trials.failed(),
        }
        if remember {
            self.history.push(&elements);
        }
        Compacted {
            topic_number: 0,
            remember,
            unpacked_bytes: packed.as_ref().map_or(0, |_| bytes as u64),
            packed,
        }
    }

    fn is_long(&mut self, look: impl FnOnce() -> bool) -> bool {
        if self.looks.is_due() {
            let is_long = look();
            match is_long == self.is_long {
                true => self.looks.failed(),
                false => self.looks.succeeded(),
            }
            self.is_long = is_long;
        }
        self.is_long
    }

    // Whether it is worth it, and the reader takes it.
    fn pays(&self, packed: &Bytes, bytes: usize) -> bool {
        if bytes > unpacked_max(block_len(packed)) {
            return false;
        }
        let needed = packed.len() + UNPACKED_HEAD_BYTES;
        match self.compression {
            Compression::Always => needed < bytes,
            Compression::Auto => needed * 10 < bytes * 9,
            Compression::Off => false,
        }
    }
}

// The field `packed` with `elements` in it. `None` never comes, for there is room enough.
fn packed_field(elements: &[u8], dictionary: &[u8]) -> Option<Bytes> {
    let room = get_maximum_output_size(elements.len());
    // The prefix is as long as what comes after it turns out to be, so it is put before that in the end.
    let mut field = vec![0; PREFIX_BYTES_MAX + room];
    let length =
        compress_into_with_dict(elements, &mut field[PREFIX_BYTES_MAX..], dictionary).ok()?;
    let mut prefix = Vec::with_capacity(PREFIX_BYTES_MAX);
    encode_key(PACKED_TAG, WireType::LengthDelimited, &mut prefix);
    encode_varint(length as u64, &mut prefix);
    let begin = PREFIX_BYTES_MAX - prefix.len();
    field[begin..PREFIX_BYTES_MAX].copy_from_slice(&prefix);
    field.truncate(PREFIX_BYTES_MAX + length);
    field.shrink_to_fit();
    Some(Bytes::from(field).slice(begin..))
}

/// Bytes of the block in `field`, which is a packed one as it is sent.
#[must_use]
pub fn block_len(field: &[u8]) -> usize {
    let tag = key_len(PACKED_TAG);
    let length = field.iter().skip(tag);
    let more = length.take_while(|byte| **byte & 0x80 != 0).count();
    field.len().saturating_sub(tag + more + 1)
}

/// What is tried ever more seldom while it fails, or brings nothing new.
#[derive(Debug)]
struct Seldom {
    /// So many times more it is not tried.
    untried: u32,
    /// So many times it was not tried after the last failure.
    pause: u32,
    pause_max: u32,
}

impl Seldom {
    fn after_at_most(pause_max: u32) -> Self {
        Self {
            untried: 0,
            pause: 0,
            pause_max,
        }
    }

    fn is_due(&mut self) -> bool {
        if self.untried == 0 {
            return true;
        }
        self.untried -= 1;
        false
    }

    fn failed(&mut self) {
        self.pause = (2 * self.pause).clamp(1, self.pause_max);
        self.untried = self.pause;
    }

    fn succeeded(&mut self) {
        self.pause = 0;
    }
}
