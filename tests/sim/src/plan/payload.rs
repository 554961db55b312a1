//! What an event holds: its number, and a filler that follows from number and length. So nobody has to remember what was published, and the
//! bytes of a delivery say by themselves whether they are right.

use bytes::Bytes;

use crate::scheduler::mix;

/// The payload of an event, of so many bytes, or as many as its number takes.
#[must_use]
pub fn payload(n: u64, bytes: u64) -> Bytes {
    let mut payload = format!("{n} ").into_bytes();
    let wanted = usize::try_from(bytes).unwrap_or(payload.len());
    let mut word = mix(&[n, bytes]);
    while payload.len() < wanted {
        word = mix(&[word]);
        let left = (wanted - payload.len()).min(8);
        payload.extend_from_slice(&word.to_le_bytes()[..left]);
    }
    payload.into()
}

/// The number of an event with this payload.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u64> {
    let end = payload.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&payload[..end]).ok()?.parse().ok()
}

/// What differs when a byte does.
#[must_use]
pub fn hash(payload: &[u8]) -> u64 {
    let words = payload.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(payload.len() as u64, |hash, word| mix(&[hash, word]))
}
