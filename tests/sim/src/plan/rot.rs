//! Bit rot, as a plan has it: a byte of the store changes where it lies, whether a broker serves or not.

use serde::{Deserialize, Serialize};

/// A byte that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rot {
    /// Of which files.
    pub of: Rotten,
    /// Of which of them: so many thousandths of all come before it. The oldest comes first.
    pub file: u64,
    /// Where in it: so many thousandths of it come before.
    pub at: u64,
    /// Which bits of the byte.
    pub bits: u8,
}

/// What rots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotten {
    /// Files of the journal. The newest one only while the witness says how it ended: without that, the end of what was synced last
    /// cannot be told from what the power cuts in half, as `decisions/torn-or-corrupt.md` says.
    Journal,
    /// The witness.
    Witness,
    /// The manifest.
    Manifest,
    /// What generations say of themselves.
    About,
    /// Databases with a state.
    State,
    /// Databases with events.
    Part,
}

impl Rotten {
    /// What it is called where faults are counted.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Journal => "rot: journal",
            Self::Witness => "rot: witness",
            Self::Manifest => "rot: manifest",
            Self::About => "rot: about",
            Self::State => "rot: state",
            Self::Part => "rot: part",
        }
    }
}
