//! Compact streams: what is said shorter in one direction of a stream because of what was said on it before. Topics are named once and
//! have numbers from then on, and events are packed: LZ4, with the last events of the stream as dictionary, so that even single small
//! ones shrink where they are alike. A [`Packer`] is the sender's end, an [`Unpacker`] the reader's; both are as old as their stream,
//! and everybody who sends or reads such a stream has one of them. Whether the other side can read it was agreed on before. Pure.

use std::fmt;
use std::str::FromStr;

mod history;
mod packer;
#[cfg(test)]
mod tests;
mod topic_numbers;
mod unpacker;

pub use packer::{Packer, block_len};
pub use unpacker::{CompactError, Unpacker};

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

impl Compression {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Off, Self::Always];

    /// What it is called in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no kind of compression has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no kind of compression has that name: say auto, off or always")]
pub struct UnknownCompression;

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        let mut all = Self::ALL.into_iter();
        all.find(|one| one.name() == name).ok_or(UnknownCompression)
    }
}
