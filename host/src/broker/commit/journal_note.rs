//! The notes of a journal group: what it says beside its blocks, and how that is encoded. The store keeps these bytes without looking at them.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Millis, PLACE_MAX, Position, PrincipalDigest, ProducerId, Sequence, SubscriptionId, TopicId,
};
use crate::state::CameBack;
use crate::state::catalog::Change;

/// First byte of a group's notes: the version of their encoding.
const VERSION: u8 = 1;
/// The same with notes that a broker of the version before does not know.
const WITH_RETURNS: u8 = 2;

/// One statement of a group.
#[expect(
    clippy::large_enum_variant,
    reason = "changes are as rare as they are large, and a group has few notes"
)]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// The catalog changed.
    Change(Change),
    /// A subscription is done with these positions.
    Acks {
        /// Which.
        subscription: SubscriptionId,
        /// First position and how many more, rising.
        ranges: Vec<(u64, u64)>,
    },
    /// Numbers below these may have been handed out before an unclean end; none of them is given again.
    Reserved {
        /// First position that may be given.
        next_position: Position,
        /// First sequences that may be given, by topic.
        next_sequences: Vec<(TopicId, Sequence)>,
    },
    /// A producer's batch is in this group.
    Batch {
        /// Whose.
        producer: ProducerId,
        /// Its epoch.
        epoch: u32,
        /// Number of the first event.
        first_number: u64,
        /// How many.
        count: u32,
        /// Sequence of the first event.
        first_sequence: Sequence,
        /// The producer has seen the answers up to this number.
        resolved_through: u64,
    },
    /// Whose a producer is. In the group of the first batch of each of its streams, before that.
    ProducerOwner {
        /// Which.
        producer: ProducerId,
        /// Whose.
        owner: PrincipalDigest,
    },
    /// What became of events that came back from consumers.
    CameBack {
        /// Whose consumers.
        subscription: SubscriptionId,
        /// When this was written.
        at: Millis,
        /// Each after what was said of it before. Their moments are, as `at` is, those of a clock on the wall.
        events: Vec<CameBack>,
    },
    /// A subscription is paused, and why, or goes on.
    Paused {
        /// Which.
        subscription: SubscriptionId,
        /// Absent: it goes on.
        why: Option<Arc<str>>,
    },
    /// The broker ended, and when that was.
    Stopped {
        /// On the wall.
        at: Millis,
    },
}

impl Note {
    fn version(&self) -> u8 {
        match self {
            Self::Change(Change::RemoveTopic { .. })
            | Self::CameBack { .. }
            | Self::Paused { .. }
            | Self::Stopped { .. } => WITH_RETURNS,
            Self::Change(_)
            | Self::Acks { .. }
            | Self::Reserved { .. }
            | Self::Batch { .. }
            | Self::ProducerOwner { .. } => VERSION,
        }
    }
}

/// Why the notes of a group cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// Another version of the encoding.
    #[error("the journal was written by a newer Tidegate (notes version {0}); start that one")]
    Version(u8),
    /// Not what was written.
    #[error("a journal group is sound but its notes are not readable")]
    Malformed(#[source] postcard::Error),
    /// A position or sequence that is beyond all that are ever given.
    #[error("a journal group is sound but its notes name a place that there is not")]
    Place,
}

/// Appends a note to those of a group, which are empty at first.
pub(crate) fn push(note: &Note, out: &mut Vec<u8>) {
    let version = note.version();
    match out.first_mut() {
        Some(first) => *first = version.max(*first),
        None => out.push(version),
    }
    // Only a custom serializer that fails or a full fixed buffer could make this fail; there is neither.
    *out = postcard::to_extend(note, std::mem::take(out)).expect("notes serialize into memory");
}

/// Appends the notes in `more`, which may be none, to those of a group.
pub(crate) fn join(more: &[u8], out: &mut Vec<u8>) {
    match (more.split_first(), out.is_empty()) {
        (None, _) => {}
        (Some(_), true) => out.extend_from_slice(more),
        (Some((version, notes)), false) => {
            out[0] = out[0].max(*version);
            out.extend_from_slice(notes);
        }
    }
}

/// The notes of a group.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Note>, NoteError> {
    let Some((version, mut rest)) = bytes.split_first() else {
        return Ok(Vec::new());
    };
    if !(VERSION..=WITH_RETURNS).contains(version) {
        return Err(NoteError::Version(*version));
    }
    let mut notes = Vec::new();
    while !rest.is_empty() {
        let (note, after) = postcard::take_from_bytes(rest).map_err(NoteError::Malformed)?;
        check_places(&note)?;
        notes.push(note);
        rest = after;
    }
    Ok(notes)
}

// What is counted on from here is a number that may have been given.
fn check_places(note: &Note) -> Result<(), NoteError> {
    let is_there = |place: u64| place <= PLACE_MAX;
    let all_are = match note {
        Note::Reserved {
            next_position,
            next_sequences,
        } => {
            let mut sequences = next_sequences.iter();
            is_there(next_position.0) && sequences.all(|(_, next)| is_there(next.0))
        }
        Note::Batch { first_sequence, .. } => is_there(first_sequence.0),
        Note::Change(Change::RemoveTopic { next_sequence, .. }) => is_there(next_sequence.0),
        Note::Change(_)
        | Note::Acks { .. }
        | Note::ProducerOwner { .. }
        | Note::CameBack { .. }
        | Note::Paused { .. }
        | Note::Stopped { .. } => true,
    };
    all_are.then_some(()).ok_or(NoteError::Place)
}

/// Ranges as a note keeps them.
pub(crate) fn pack(ranges: impl IntoIterator<Item = RangeInclusive<Position>>) -> Vec<(u64, u64)> {
    ranges
        .into_iter()
        .map(|range| (range.start().0, range.end().0 - range.start().0))
        .collect()
}

/// Ranges from a note. Numbers that overflow are dropped: no position is that high.
pub(crate) fn unpack(ranges: &[(u64, u64)]) -> Vec<RangeInclusive<Position>> {
    ranges
        .iter()
        .filter_map(|(first, more)| Some(Position(*first)..=Position(first.checked_add(*more)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_never_given_is_an_error() {
        let reserved = |position: u64, sequence: u64| Note::Reserved {
            next_position: Position(position),
            next_sequences: vec![(TopicId(1), Sequence(sequence))],
        };
        let check = |note: &Note, is_there: bool| {
            let mut bytes = Vec::new();
            push(note, &mut bytes);
            assert_eq!(decode(&bytes).is_ok(), is_there, "{note:?}");
        };
        check(&reserved(PLACE_MAX, PLACE_MAX), true);
        check(&reserved(PLACE_MAX + 1, 1), false);
        check(&reserved(1, u64::MAX), false);
    }

    #[test]
    fn an_older_broker_is_told_of_notes_that_it_does_not_know() {
        let one = |note: &Note| {
            let mut bytes = Vec::new();
            push(note, &mut bytes);
            bytes
        };
        let acks = one(&Note::Acks {
            subscription: SubscriptionId(3),
            ranges: vec![(1, 4)],
        });
        let paused = one(&Note::Paused {
            subscription: SubscriptionId(3),
            why: Some("so".into()),
        });
        assert_eq!((acks[0], paused[0]), (VERSION, WITH_RETURNS));
        for (first, then) in [(&acks, &paused), (&paused, &acks)] {
            let mut joined = first.clone();
            join(then, &mut joined);
            assert_eq!(joined[0], WITH_RETURNS);
            assert_eq!(decode(&joined).expect("readable").len(), 2);
        }
    }

    #[test]
    fn notes_round_trip_and_damage_is_an_error() {
        let notes = [
            Note::Acks {
                subscription: SubscriptionId(3),
                ranges: vec![(1, 4), (9, 0)],
            },
            Note::Batch {
                producer: ProducerId(7),
                epoch: 1,
                first_number: 10,
                count: 2,
                first_sequence: Sequence(4),
                resolved_through: 9,
            },
            Note::ProducerOwner {
                producer: ProducerId(7),
                owner: crate::domain::Principal::local().digest(),
            },
        ];
        let mut bytes = Vec::new();
        notes.iter().for_each(|note| push(note, &mut bytes));
        assert_eq!(
            format!("{:?}", decode(&bytes).expect("readable")),
            format!("{notes:?}")
        );
        let mut joined = Vec::new();
        for part in [0..1, 1..1, 1..3] {
            let mut more = Vec::new();
            notes[part].iter().for_each(|note| push(note, &mut more));
            join(&more, &mut joined);
        }
        assert_eq!(joined, bytes);
        assert!(matches!(decode(&[9]), Err(NoteError::Version(9))));
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[]).expect("no notes").is_empty());
    }
}
