//! The aligned buffer of bytes on their way into a journal file, so that the disk can take them from where they are: in whole blocks,
//! at an aligned address. A record rarely ends where a block does, so the last, partly filled block is kept and written
//! again, unchanged at its front, with the record after it. Pure: writes nothing itself.

use crate::disk::DIRECT_BYTES;

/// The memory shrinks back to this after an unusually large record.
const BYTES_KEPT: usize = 8 << 20;

/// The next write to a file, and the end of the last one.
#[derive(Debug, Default)]
pub(super) struct AlignedBuffer {
    memory: Vec<u8>,
    /// Where in `memory` the write begins. What lies before only makes its address a multiple of a block.
    start: usize,
    /// What the file's last block holds so far, shorter than a block.
    tail: Vec<u8>,
    /// The same before the last write.
    tail_before: Vec<u8>,
}

impl AlignedBuffer {
    /// The next write goes to a file whose content ends with a whole block.
    pub(super) fn forget_tail(&mut self) {
        self.tail.clear();
    }

    /// What [`finish`](Self::finish) answered last was not written, and the file ends where it did before.
    pub(super) fn take_back(&mut self) {
        std::mem::swap(&mut self.tail, &mut self.tail_before);
    }

    /// Starts a write of a record of this many bytes. What it answers holds the file's last block already, as far as that is
    /// filled: the caller appends the record to it, and no more than was announced, or the address changes.
    pub(super) fn begin(&mut self, bytes: usize) -> &mut Vec<u8> {
        self.memory.clear();
        self.memory.shrink_to(BYTES_KEPT);
        // Room for all of it, so that the address stays.
        self.memory
            .reserve(DIRECT_BYTES + (self.tail.len() + bytes).next_multiple_of(DIRECT_BYTES));
        self.start = self.memory.as_ptr().align_offset(DIRECT_BYTES) % DIRECT_BYTES;
        self.memory.resize(self.start, 0);
        self.memory.extend_from_slice(&self.tail);
        &mut self.memory
    }

    /// The whole blocks to be written, with zeros after the record, and where in the file they go. The record itself goes to
    /// `at`.
    pub(super) fn finish(&mut self, at: u64) -> (&[u8], u64) {
        let offset = at - self.tail.len() as u64;
        let length = self.memory.len() - self.start;
        let rest = length % DIRECT_BYTES;
        std::mem::swap(&mut self.tail, &mut self.tail_before);
        self.tail.clear();
        self.tail
            .extend_from_slice(&self.memory[self.memory.len() - rest..]);
        let padded = self.start + length.next_multiple_of(DIRECT_BYTES);
        self.memory.resize(padded, 0);
        (&self.memory[self.start..], offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_whole_aligned_blocks_and_add_up_to_what_was_staged() {
        let mut staging = AlignedBuffer::default();
        let (mut file, mut content) = (Vec::new(), Vec::new());
        let lengths = [8, 4080, 8, 4096, 1, 0, 3 * 4096 - 1, 1, 9 << 20, 5, 100];
        for (index, length) in lengths.into_iter().enumerate() {
            let record = vec![index as u8 + 1; length];
            staging.begin(length).extend_from_slice(&record);
            let (bytes, offset) = staging.finish(content.len() as u64);
            let aligned = [bytes.as_ptr().addr(), bytes.len(), offset as usize];
            assert!(
                aligned.iter().all(|value| value % DIRECT_BYTES == 0),
                "{aligned:?}"
            );
            file.resize(offset as usize + bytes.len(), 0);
            file[offset as usize..].copy_from_slice(bytes);
            content.extend_from_slice(&record);
            assert!(file.starts_with(&content), "after {length} bytes");
            assert!(file[content.len()..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn what_was_not_written_leaves_no_trace_in_what_is_written_instead() {
        let mut staging = AlignedBuffer::default();
        staging.begin(3).extend_from_slice(b"one");
        staging.finish(0);
        staging.begin(7).extend_from_slice(b"refused");
        staging.finish(3);
        staging.take_back();
        staging.begin(3).extend_from_slice(b"two");
        let (bytes, offset) = staging.finish(3);
        assert_eq!((&bytes[..7], offset), (&b"onetwo\0"[..], 0));
    }

    #[test]
    fn a_new_file_starts_without_the_end_of_the_old_one() {
        let mut staging = AlignedBuffer::default();
        staging.begin(3).extend_from_slice(b"old");
        staging.finish(0);
        staging.forget_tail();
        staging.begin(3).extend_from_slice(b"new");
        let (bytes, offset) = staging.finish(4096);
        assert_eq!((&bytes[..4], offset), (&b"new\0"[..], 4096));
    }
}
