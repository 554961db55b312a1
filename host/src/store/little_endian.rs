//! Little-endian numbers, read out of bytes that may be too few for them.

/// The four bytes from `at` on as a number; `None` when they are not all there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The eight bytes from `at` on as a number; `None` when they are not all there.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
