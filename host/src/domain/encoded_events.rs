//! Encoded events that lie one behind the other, each behind a tag and a length exactly as in the wire's repeated
//! field. This is how a publisher's batch arrives, how a block stores events, and how a delivery forwards them: a part
//! of any of them is a slice of the same memory, never a copy.
//!
//! Where each entry ends is found once, when a batch was just received and is in the processor's cache, and goes along with
//! it. To walk from head to head later costs a cache miss for each event, one after the other.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// Tag byte of field 15, length-delimited: `events` in the wire's batches and deliveries.
const TAG: u8 = 15 << 3 | 2;
/// Bytes of a tag and the longest length.
pub(super) const HEAD_BYTES_MAX: usize = 6;

/// Whole entries. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct EncodedEvents {
    bytes: Bytes,
    ends: Ends,
    event_bytes: usize,
}

/// The bytes say everything.
impl PartialEq for EncodedEvents {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for EncodedEvents {}

/// Where each of some entries ends. Cheap to clone; a part shares the memory of the whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    /// Of the whole list: offsets after each entry.
    whole: Arc<[u32]>,
    /// Which of them these are.
    places: Range<usize>,
    /// Offset in the whole list at which the first of these begins.
    begin: u32,
}

/// The entry at this offset is malformed: it does not start with its tag, has a length that is longer than it need be, or
/// reaches past the end; or it is beyond the 4 GiB that a list may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry at byte {0} is malformed")]
pub struct EntryError(pub usize);

impl EncodedEvents {
    /// Takes bytes that a peer or a disk says are entries.
    ///
    /// # Errors
    ///
    /// They are not, or they are more than 4 GiB.
    pub fn parse(bytes: Bytes) -> Result<Self, EntryError> {
        let ends = Ends::find(&bytes)?;
        Ok(Self::known(bytes, ends))
    }

    /// The same of a list that may have no more than `count_max` entries: `None` when there are more, which are not looked at.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn parse_at_most(bytes: Bytes, count_max: usize) -> Result<Option<Self>, EntryError> {
        let ends = Ends::find_at_most(&bytes, count_max)?;
        Ok(ends.map(|ends| Self::known(bytes, ends)))
    }

    /// A list of these encoded events, which are copied.
    #[must_use]
    pub fn of<'a>(events: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = BytesMut::new();
        let mut ends = Vec::new();
        for event in events {
            put(&mut bytes, event);
            ends.push(bytes.len() as u32);
        }
        Self::known(bytes.freeze(), Ends::of(ends))
    }

    /// Entries that end there.
    pub(super) fn known(bytes: Bytes, ends: Ends) -> Self {
        Self {
            event_bytes: ends.event_bytes(),
            bytes,
            ends,
        }
    }

    /// Their encoded form, heads included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Their encoded form, and where each ends.
    pub(super) fn into_parts(self) -> (Bytes, Ends) {
        (self.bytes, self.ends)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u32 {
        // At most half of 2^32: each takes two bytes at least.
        self.ends.len() as u32
    }

    /// Bytes of the encoded events without their heads: what credit counts.
    #[must_use]
    pub fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// The encoded events.
    pub fn events(&self) -> impl Iterator<Item = &[u8]> {
        let places = 0..self.ends.len();
        places.map(|place| &self.bytes[self.ends.event(place)])
    }

    /// The encoded events as slices that share this memory.
    pub fn shared_events(&self) -> impl Iterator<Item = Bytes> {
        let places = 0..self.ends.len();
        places.map(|place| self.shared_event(place))
    }

    /// The encoded event at `place`, which must be one, as a slice that shares this memory.
    #[must_use]
    pub fn shared_event(&self, place: usize) -> Bytes {
        self.bytes.slice(self.ends.event(place))
    }

    /// Bytes of the encoded event at `place`, which must be one.
    #[must_use]
    pub fn event_len(&self, place: usize) -> usize {
        self.ends.event(place).len()
    }

    /// The entries at `places`, which must be some. They share this memory.
    #[must_use]
    pub fn part(&self, places: Range<usize>) -> Self {
        let range = self.ends.begin_of(places.start)..self.ends.begin_of(places.end);
        Self::known(self.bytes.slice(range), self.ends.part(places))
    }

    /// The same in memory of their own: whoever keeps a few events for long must not keep what they are a part of with them.
    #[must_use]
    pub fn detached(&self) -> Self {
        let ends = self.ends.offsets().map(|end| end as u32).collect();
        Self::known(Bytes::copy_from_slice(&self.bytes), Ends::of(ends))
    }

    /// Takes off the front as many entries as fit into `bytes_max`, heads included, but at least one if there is any.
    /// `overhead` is what each costs beside its own bytes.
    #[must_use]
    pub fn split_front(&mut self, bytes_max: usize, overhead: usize) -> Self {
        let count = self.ends.fitting(bytes_max, overhead).max(1);
        if count >= self.ends.len() {
            return std::mem::take(self);
        }
        let rest = self.ends.part(count..self.ends.len());
        let front = self.ends.part(0..count);
        let bytes = self.bytes.split_to(front.begin_of(count));
        let front = Self::known(bytes, front);
        self.ends = rest;
        self.event_bytes -= front.event_bytes;
        front
    }
}

impl Ends {
    /// Finds them in `bytes`.
    ///
    /// # Errors
    ///
    /// These are no entries, or they are more than 4 GiB.
    pub(super) fn find(bytes: &[u8]) -> Result<Self, EntryError> {
        let ends = Self::find_at_most(bytes, usize::MAX)?;
        Ok(ends.unwrap_or_default())
    }

    // `None` when there are more.
    fn find_at_most(bytes: &[u8], count_max: usize) -> Result<Option<Self>, EntryError> {
        let mut ends = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if ends.len() == count_max {
                return Ok(None);
            }
            let end = end_of(bytes, at).and_then(|end| u32::try_from(end).ok());
            let end = end.ok_or(EntryError(at))?;
            ends.push(end);
            at = end as usize;
        }
        Ok(Some(Self::of(ends)))
    }

    /// They are these offsets.
    pub(super) fn of(whole: Vec<u32>) -> Self {
        Self {
            places: 0..whole.len(),
            whole: whole.into(),
            begin: 0,
        }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Where the entry at `place` begins, which is where the one before it ends.
    pub(super) fn begin_of(&self, place: usize) -> usize {
        let end = match place {
            0 => self.begin,
            _ => self.whole[self.places.clone()][place - 1],
        };
        (end - self.begin) as usize
    }

    /// Where each ends.
    pub(super) fn offsets(&self) -> impl Iterator<Item = usize> {
        (1..=self.len()).map(|place| self.begin_of(place))
    }

    // Where the encoded event at `place` lies.
    fn event(&self, place: usize) -> Range<usize> {
        let (begin, end) = (self.begin_of(place), self.begin_of(place + 1));
        end - event_len(end - begin)..end
    }

    // Those of the entries at `places`.
    fn part(&self, places: Range<usize>) -> Self {
        Self {
            whole: self.whole.clone(),
            begin: self.begin + self.begin_of(places.start) as u32,
            places: self.places.start + places.start..self.places.start + places.end,
        }
    }

    // Bytes of all encoded events, without their heads.
    fn event_bytes(&self) -> usize {
        (0..self.len()).map(|place| self.event(place).len()).sum()
    }

    // How many from the front take at most that many bytes, with so many more for each.
    fn fitting(&self, bytes_max: usize, overhead: usize) -> usize {
        let (mut fitting, mut beyond) = (0, self.len() + 1);
        while fitting + 1 < beyond {
            let count = usize::midpoint(fitting, beyond);
            match self.begin_of(count) + overhead * count <= bytes_max {
                true => fitting = count,
                false => beyond = count,
            }
        }
        fitting
    }
}

/// Appends an encoded event as an entry.
pub(super) fn put(entries: &mut BytesMut, event: &[u8]) {
    entries.reserve(event.len() + HEAD_BYTES_MAX);
    entries.put_u8(TAG);
    let mut length = event.len();
    while length >= 0x80 {
        entries.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    entries.put_u8(length as u8);
    entries.put_slice(event);
}

// Bytes of the event in an entry of this many: all but the tag, and a length of as few bytes as hold it at seven bits each.
fn event_len(entry_len: usize) -> usize {
    let mut length_bytes = 1;
    while (entry_len - 1 - length_bytes) >> (7 * length_bytes) > 0 {
        length_bytes += 1;
    }
    entry_len - 1 - length_bytes
}

fn end_of(bytes: &[u8], at: usize) -> Option<usize> {
    if *bytes.get(at)? != TAG {
        return None;
    }
    let mut length: usize = 0;
    let lengths = bytes.get(at + 1..)?.iter().take(HEAD_BYTES_MAX - 1);
    for (ordinal, byte) in lengths.enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * ordinal);
        if byte & 0x80 == 0 {
            if *byte == 0 && ordinal > 0 {
                return None;
            }
            let end = (at + 2 + ordinal).checked_add(length)?;
            return (end <= bytes.len()).then_some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(lengths: &[usize]) -> EncodedEvents {
        let events: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        let entries = EncodedEvents::of(events.iter().map(Vec::as_slice));
        assert_eq!(
            EncodedEvents::parse(entries.bytes().clone()).as_ref(),
            Ok(&entries)
        );
        entries
    }

    #[test]
    fn what_is_put_is_found() {
        let few = entries(&[0, 1, 127, 128, 20_000]);
        assert_eq!((few.count(), few.event_bytes()), (5, 20_256));
        let lengths = [0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152];
        let entries = entries(&lengths);
        assert_eq!(entries.count(), 9);
        assert_eq!(entries.event_bytes(), lengths.iter().sum::<usize>());
        let found: Vec<usize> = entries.events().map(<[u8]>::len).collect();
        assert_eq!(found, lengths);
        for (place, length) in lengths.into_iter().enumerate() {
            assert_eq!(entries.event_len(place), length);
        }
    }

    #[test]
    fn a_part_is_what_lies_there() {
        let whole = entries(&[3, 4, 200, 300, 5, 7]);
        let memory = whole.bytes().as_ptr_range();
        for places in [0..6, 1..4, 3..4, 5..6] {
            let part = whole.part(places.clone());
            assert_eq!(
                EncodedEvents::parse(part.bytes().clone()).as_ref(),
                Ok(&part)
            );
            let lengths =
                |entries: &EncodedEvents| entries.events().map(<[u8]>::len).collect::<Vec<_>>();
            assert_eq!(lengths(&part), lengths(&whole)[places]);
            assert_eq!(part.event_bytes(), lengths(&part).iter().sum::<usize>());
            let count = part.count() as usize;
            let again = part.part(count / 2..count);
            assert_eq!(lengths(&again), lengths(&part)[count / 2..]);
            let detached = part.detached();
            assert_eq!(lengths(&detached), lengths(&part));
            assert_eq!(detached.ends().whole.len(), count, "nor their ends");
            let is_shared = |entries: &EncodedEvents| memory.contains(&entries.bytes().as_ptr());
            assert_eq!((is_shared(&part), is_shared(&detached)), (true, false));
        }
    }

    #[test]
    fn a_length_is_as_short_as_it_can_be() {
        let padded = Bytes::from_static(b"\x7a\x00\x7a\x81\x00a");
        assert_eq!(EncodedEvents::parse(padded), Err(EntryError(2)));
    }

    #[test]
    fn damage_is_an_error_at_every_cut() {
        let whole = entries(&[3, 300]).bytes().clone();
        for cut in (1..whole.len()).filter(|cut| *cut != 5) {
            assert!(EncodedEvents::parse(whole.slice(..cut)).is_err(), "{cut}");
        }
        assert_eq!(
            EncodedEvents::parse(Bytes::from_static(b"\x7a\xff\xff\xff\xff\xff\x01")),
            Err(EntryError(0))
        );
    }

    #[test]
    fn no_more_entries_are_looked_for_than_there_may_be() {
        let whole = entries(&[3, 0, 300]);
        let at_most = |bytes: &Bytes, max| EncodedEvents::parse_at_most(bytes.clone(), max);
        assert_eq!(at_most(whole.bytes(), 3), Ok(Some(whole.clone())));
        assert_eq!(at_most(whole.bytes(), 2), Ok(None));
        assert_eq!(
            at_most(&Bytes::new(), 0),
            Ok(Some(EncodedEvents::default()))
        );
        let damaged = whole.bytes().slice(..whole.bytes().len() - 1);
        assert_eq!(at_most(&damaged, 2), Ok(None), "that is never read");
        assert_eq!(at_most(&damaged, 3), Err(EntryError(7)));
    }

    #[test]
    fn the_front_is_what_fits_and_never_nothing() {
        let check = |bytes_max: usize, overhead: usize, expected: (u32, u32)| {
            let mut rest = entries(&[10, 10, 10]);
            let front = rest.split_front(bytes_max, overhead);
            assert_eq!((front.count(), rest.count()), expected, "{bytes_max}");
            for part in [front, rest] {
                assert_eq!(EncodedEvents::parse(part.bytes().clone()), Ok(part));
            }
        };
        check(0, 0, (1, 2));
        check(12, 0, (1, 2));
        check(23, 0, (1, 2));
        check(24, 0, (2, 1));
        check(36, 0, (3, 0));
        check(36, 5, (2, 1));
        check(51, 5, (3, 0));
    }
}
