//! Encoded events that lie one behind the other, each behind a tag and a length exactly as in the wire's repeated
//! field. This is how a publisher's batch arrives, how a block stores events, and how a delivery forwards them: a part
//! of any of them is a slice of the same memory, never a copy.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// Tag byte of field 15, length-delimited: `events` in the wire's batches and deliveries.
const TAG: u8 = 15 << 3 | 2;
/// Bytes of a tag and the longest length.
pub(super) const HEAD_BYTES_MAX: usize = 6;

/// Whole entries. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    bytes: Bytes,
    count: u32,
    event_bytes: usize,
}

/// Where one entry lies in the bytes of its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of its tag.
    pub start: usize,
    /// Offset of the encoded event.
    pub event: usize,
    /// Offset after it.
    pub end: usize,
}

/// The entry at this offset is malformed: it does not start with its tag, or reaches past the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry at byte {0} is malformed")]
pub struct EntryError(pub usize);

impl Entries {
    /// Takes bytes that a peer or a disk says are entries.
    ///
    /// # Errors
    ///
    /// They are not, or they are more than 2^32.
    pub fn parse(bytes: Bytes) -> Result<Self, EntryError> {
        let (mut count, mut event_bytes) = (0u32, 0);
        for span in spans(&bytes) {
            let span = span?;
            count = count.checked_add(1).ok_or(EntryError(span.start))?;
            event_bytes += span.event_len();
        }
        Ok(Self {
            bytes,
            count,
            event_bytes,
        })
    }

    /// A list of these encoded events, which are copied.
    #[must_use]
    pub fn of<'a>(events: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = BytesMut::new();
        let (mut count, mut event_bytes) = (0, 0);
        for event in events {
            put(&mut bytes, event);
            count += 1;
            event_bytes += event.len();
        }
        Self {
            bytes: bytes.freeze(),
            count,
            event_bytes,
        }
    }

    /// A slice of a list whose entries are known: `count` of them, with events of `event_bytes` in all, at `range`.
    pub(super) fn slice_of(
        list: &Bytes,
        range: Range<usize>,
        count: u32,
        event_bytes: usize,
    ) -> Self {
        Self {
            bytes: list.slice(range),
            count,
            event_bytes,
        }
    }

    /// Like [`slice_of`](Self::slice_of), in memory of its own.
    pub(super) fn copy_of(
        list: &[u8],
        range: Range<usize>,
        count: u32,
        event_bytes: usize,
    ) -> Self {
        Self {
            bytes: Bytes::copy_from_slice(&list[range]),
            count,
            event_bytes,
        }
    }

    /// Their encoded form, heads included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the encoded events without their heads: what credit counts.
    #[must_use]
    pub fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// The encoded events.
    pub fn events(&self) -> impl Iterator<Item = &[u8]> {
        // Checked when this was made, so there is no error to find.
        spans(&self.bytes)
            .map_while(Result::ok)
            .map(|span| &self.bytes[span.event..span.end])
    }

    /// The encoded events as slices that share this memory.
    pub fn shared_events(&self) -> impl Iterator<Item = Bytes> {
        spans(&self.bytes)
            .map_while(Result::ok)
            .map(|span| self.bytes.slice(span.event..span.end))
    }

    /// Takes off the front as many entries as fit into `bytes_max`, heads included, but at least one if there is any.
    /// `overhead` is what each costs beside its own bytes.
    #[must_use]
    pub fn split_front(&mut self, bytes_max: usize, overhead: usize) -> Self {
        if self.bytes.len() + overhead * self.count as usize <= bytes_max {
            return std::mem::take(self);
        }
        let mut front = Self::default();
        let mut end = 0;
        for span in spans(&self.bytes).map_while(Result::ok) {
            let cost = span.end + overhead * (front.count as usize + 1);
            if cost > bytes_max && front.count > 0 {
                break;
            }
            end = span.end;
            front.count += 1;
            front.event_bytes += span.event_len();
        }
        front.bytes = self.bytes.split_to(end);
        self.count -= front.count;
        self.event_bytes -= front.event_bytes;
        front
    }
}

impl Span {
    /// Bytes of the encoded event.
    #[must_use]
    pub fn event_len(&self) -> usize {
        self.end - self.event
    }
}

/// Where the entries lie in `bytes`, in order. Ends after the first error.
pub(super) fn spans(bytes: &[u8]) -> impl Iterator<Item = Result<Span, EntryError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let span = span_at(bytes, at).ok_or(EntryError(at));
        at = span.map_or(bytes.len(), |span| span.end);
        Some(span)
    })
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

fn span_at(bytes: &[u8], at: usize) -> Option<Span> {
    if *bytes.get(at)? != TAG {
        return None;
    }
    let mut length: usize = 0;
    let lengths = bytes.get(at + 1..)?.iter().take(HEAD_BYTES_MAX - 1);
    for (ordinal, byte) in lengths.enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * ordinal);
        if byte & 0x80 == 0 {
            let event = at + 2 + ordinal;
            let end = event.checked_add(length)?;
            return (end <= bytes.len()).then_some(Span {
                start: at,
                event,
                end,
            });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(lengths: &[usize]) -> Entries {
        let events: Vec<Vec<u8>> = lengths.iter().map(|length| vec![7; *length]).collect();
        let entries = Entries::of(events.iter().map(Vec::as_slice));
        assert_eq!(
            Entries::parse(entries.bytes().clone()).as_ref(),
            Ok(&entries)
        );
        entries
    }

    #[test]
    fn what_is_put_is_found() {
        let entries = entries(&[0, 1, 127, 128, 20_000]);
        assert_eq!((entries.count(), entries.event_bytes()), (5, 20_256));
        let lengths: Vec<usize> = entries.events().map(<[u8]>::len).collect();
        assert_eq!(lengths, [0, 1, 127, 128, 20_000]);
    }

    #[test]
    fn damage_is_an_error_at_every_cut() {
        let whole = entries(&[3, 300]).bytes().clone();
        for cut in (1..whole.len()).filter(|cut| *cut != 5) {
            assert!(Entries::parse(whole.slice(..cut)).is_err(), "{cut}");
        }
        assert_eq!(
            Entries::parse(Bytes::from_static(b"\x7a\xff\xff\xff\xff\xff\x01")),
            Err(EntryError(0))
        );
    }

    #[test]
    fn the_front_is_what_fits_and_never_nothing() {
        let check = |bytes_max: usize, overhead: usize, expected: (u32, u32)| {
            let mut rest = entries(&[10, 10, 10]);
            let front = rest.split_front(bytes_max, overhead);
            assert_eq!((front.count(), rest.count()), expected, "{bytes_max}");
            for part in [front, rest] {
                assert_eq!(Entries::parse(part.bytes().clone()), Ok(part));
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
