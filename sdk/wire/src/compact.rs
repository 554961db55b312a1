//! Compact streams: what is said shorter in one direction of a stream because of what was said on it before. Topics are named once and
//! have numbers from then on, and events are packed: LZ4, with the last events of the stream as dictionary, so that even single small
//! ones shrink where they are alike. A [`Packer`] is the sender's end, an [`Unpacker`] the reader's; both are as old as their stream,
//! and everybody who sends or reads such a stream has one of them. Whether the other side can read it was agreed on before. Pure.

mod history;
mod packer;
#[cfg(test)]
mod tests;
mod topic_numbers;
mod unpacker;

pub use packer::{Packer, block_len};
pub use unpacker::{CompactError, Unpacker};

use crate::choices::choices;
use crate::limits::{PACKED_DENSITY_MAX, PACKED_HEAD_BYTES};

// The most bytes to which a block of so many may unpack.
fn unpacked_max(block_bytes: usize) -> usize {
    block_bytes
        .saturating_add(PACKED_HEAD_BYTES)
        .saturating_mul(PACKED_DENSITY_MAX)
}

/// Whether topics have numbers and events are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// On long paths; events are packed where that makes them smaller by a tenth, and seldom tried where it does not.
    #[default]
    Auto,
    /// Never, and the other end is asked for the same.
    Off,
    /// On every path; events are packed whenever it makes them smaller.
    Always,
}

choices!(Compression, "kind of compression" {
    Auto => "auto",
    Off => "off",
    Always => "always",
});
