//! What idempotent producers have published: per producer its epoch, its highest committed number and the
//! batches whose answers it may not have seen. Enough to answer a resend with the sequences of the first time. Memory is
//! bounded by the number of producers. Connections open producers, the committer says what they committed, a checkpoint keeps it.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use self::eviction::{ByOwner, Idleness, Owner};
use crate::domain::{PrincipalDigest, ProducerId, Sequence};

mod eviction;
#[cfg(test)]
mod tests;

const VERSION: u8 = 2;
/// Without owners.
const VERSION_OWNERLESS: u8 = 1;
/// Batches remembered per producer. A client that lets more be unanswered cannot resend the oldest.
const BATCHES_MAX: usize = 1_024;
/// Batches remembered over all producers, for each that there may be. Whoever says what it has seen needs a few.
const BATCHES_MEAN_MAX: usize = 10;
/// Memory for so many batches is never given back early.
const BATCHES_KEPT: usize = 32;

/// All producers the broker remembers.
#[derive(Clone, Debug)]
pub struct Producers {
    producers_max: usize,
    by_id: HashMap<ProducerId, Producer>,
    /// Says who is forgotten first.
    by_owner: ByOwner,
    clock: u64,
    /// Batches remembered over all of them.
    batches: usize,
}

#[derive(Clone, Debug)]
struct Producer {
    idleness: Idleness,
    owner: Owner,
    known: Known,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Known {
    epoch: u32,
    last_number: u64,
    /// Numbers rise.
    batches: VecDeque<Batch>,
}

/// A producer as the state keeps it.
type Stored = (ProducerId, bool, Known, Owner);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Batch {
    first_number: u64,
    count: u32,
    first_sequence: Sequence,
}

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before: append it.
    Fresh,
    /// Committed before: answer as then.
    Duplicate {
        /// The sequence its first event got.
        first_sequence: Sequence,
    },
    /// Its numbers are not above what is committed, and it is no resend of a batch that is remembered.
    OutOfOrder {
        /// Highest committed number.
        committed: u64,
    },
    /// A newer stream of the same producer took over.
    Fenced,
}

/// Why a producer's stream is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A newer stream of the same producer took over.
    #[error("epoch {epoch} of this producer took over")]
    Fenced {
        /// The epoch that counts.
        epoch: u32,
    },
    /// It is another principal's.
    #[error("this producer id is another principal's")]
    NotYours,
}

/// Why the bytes are not the producers' state.
#[derive(Debug, thiserror::Error)]
pub enum ProducersRestoreError {
    /// Written by another version.
    #[error(
        "the producers' state has version {0}, this broker reads up to {VERSION}; start the version that wrote it"
    )]
    Version(u8),
    /// It cannot be read.
    #[error("the producers' state is damaged")]
    Damaged(#[from] postcard::Error),
    /// The parts contradict each other.
    #[error("the producers' state is inconsistent: {0}")]
    Inconsistent(&'static str),
}

impl Producers {
    /// Nobody yet; at most `producers_max` are remembered (at least one).
    #[must_use]
    pub fn new(producers_max: usize) -> Self {
        Self {
            producers_max: producers_max.max(1),
            by_id: HashMap::new(),
            by_owner: ByOwner::default(),
            clock: 0,
            batches: 0,
        }
    }

    /// Number of producers remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What [`open`](Self::open) would answer, while nothing is changed.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn may_open(
        &self,
        id: ProducerId,
        epoch: u32,
        owner: PrincipalDigest,
    ) -> Result<u64, OpenError> {
        let Some(producer) = self.by_id.get(&id) else {
            return Ok(0);
        };
        if producer.owner.is_some_and(|theirs| theirs != owner) {
            return Err(OpenError::NotYours);
        }
        let known = producer.known.epoch;
        if known > epoch {
            return Err(OpenError::Fenced { epoch: known });
        }
        Ok(producer.known.last_number)
    }

    /// A producer of `owner` opens a stream: lower epochs are fenced from now on, and other principals do not get it any
    /// more. Until [`close`](Self::close) it is forgotten only when its owner has nothing else to forget. Returns its highest
    /// committed number, 0 when none is known.
    ///
    /// # Errors
    ///
    /// It is another principal's, or a higher epoch of it was seen. Nothing is changed then.
    pub fn open(
        &mut self,
        id: ProducerId,
        epoch: u32,
        owner: PrincipalDigest,
    ) -> Result<u64, OpenError> {
        self.may_open(id, epoch, owner)?;
        self.own(id, owner);
        self.rank(id, |idleness| idleness.is_open = true);
        let known = &mut self.touch(id).known;
        known.epoch = epoch;
        Ok(known.last_number)
    }

    /// Its stream has ended, and it has no other.
    pub fn close(&mut self, id: ProducerId) {
        self.rank(id, |idleness| idleness.is_open = false);
    }

    /// Whose a producer is: its stream says so with each batch, in case it was forgotten meanwhile, and recovery reads it.
    /// Returns whether that was not known.
    pub fn own(&mut self, id: ProducerId, owner: PrincipalDigest) -> bool {
        let owner = Some(owner);
        let known = self.by_id.get(&id);
        if known.is_some_and(|producer| producer.owner == owner) {
            return false;
        }
        let producer = self.touch_of(id, owner);
        let before = std::mem::replace(&mut producer.owner, owner);
        let (idleness, batches) = (producer.idleness, producer.known.batches.len());
        self.by_owner.remove(before, idleness, batches);
        self.by_owner.insert(owner, idleness, id, batches);
        true
    }

    /// Highest committed number of a producer, 0 when none is known.
    #[must_use]
    pub fn last_number(&self, id: ProducerId) -> u64 {
        self.by_id
            .get(&id)
            .map_or(0, |producer| producer.known.last_number)
    }

    /// What the batch of `count` events from `first_number` on is. A batch without events is fresh.
    #[must_use]
    pub fn check(&self, id: ProducerId, epoch: u32, first_number: u64, count: u32) -> Verdict {
        let Some(Producer { known, .. }) = self.by_id.get(&id) else {
            return Verdict::Fresh;
        };
        if epoch < known.epoch {
            return Verdict::Fenced;
        }
        if count == 0 {
            return Verdict::Fresh;
        }
        let out_of_order = Verdict::OutOfOrder {
            committed: known.last_number,
        };
        let Some(last_number) = first_number.checked_add(u64::from(count) - 1) else {
            return out_of_order;
        };
        if first_number > known.last_number || planted!(ResendIsFresh) {
            return Verdict::Fresh;
        }
        known
            .resent(first_number, last_number)
            .map_or(out_of_order, |first_sequence| Verdict::Duplicate {
                first_sequence,
            })
    }

    /// Records a committed batch, and that its producer has seen the answers for all numbers up to
    /// `resolved_through`. Recording what is recorded already (recovery) changes nothing. Returns the highest number that was
    /// committed before, with which [`take_back`](Self::take_back) undoes it.
    pub fn commit(
        &mut self,
        id: ProducerId,
        epoch: u32,
        first_number: u64,
        count: u32,
        first_sequence: Sequence,
        resolved_through: u64,
    ) -> u64 {
        self.touch(id);
        self.rank(id, |idleness| idleness.committed = true);
        let Some(producer) = self.by_id.get_mut(&id) else {
            return 0;
        };
        let known = &mut producer.known;
        let last_before = known.last_number;
        known.epoch = known.epoch.max(epoch);
        let batch = Batch {
            first_number,
            count,
            first_sequence,
        };
        let before = known.batches.len();
        if count > 0 && first_number > known.last_number {
            known.last_number = batch.last_number();
            known.batches.push_back(batch);
        }
        let resolved = known
            .batches
            .partition_point(|batch| batch.last_number() <= resolved_through);
        let surplus = known.batches.len().saturating_sub(BATCHES_MAX);
        let early = usize::from(planted!(AnswersForgottenEarly)).min(known.batches.len());
        known.batches.drain(..resolved.max(surplus).max(early));
        let after = known.batches.len();
        let room = known.batches.capacity();
        if room > BATCHES_KEPT && after < room / 4 {
            known.batches.shrink_to(after.max(BATCHES_KEPT / 2));
        }
        self.batches = self.batches + after - before;
        self.by_owner
            .count_batches(producer.owner, producer.idleness, before, after);
        if self.batches > self.batches_max() {
            self.forget_batches(id);
        }
        last_before
    }

    /// A batch that was recorded could not be committed: nothing above `last_number` is. Of several batches the last is taken
    /// back first.
    pub fn take_back(&mut self, id: ProducerId, last_number: u64) {
        let Some(producer) = self.by_id.get_mut(&id) else {
            return;
        };
        let known = &mut producer.known;
        known.last_number = known.last_number.min(last_number);
        let kept = known
            .batches
            .partition_point(|batch| batch.last_number() <= last_number);
        let before = known.batches.len();
        self.batches -= before - kept;
        known.batches.truncate(kept);
        self.by_owner
            .count_batches(producer.owner, producer.idleness, before, kept);
    }

    fn batches_max(&self) -> usize {
        let mean = self.producers_max.saturating_mul(BATCHES_MEAN_MAX);
        mean.max(BATCHES_MAX)
    }

    // Forgets the batches of those that are idle longest, all but `busy`, until a quarter of the room is free, so that this is
    // seldom done; of whoever has the most batches first. What they resend is refused then, as after more batches than are
    // remembered of one.
    fn forget_batches(&mut self, busy: ProducerId) {
        let enough = self.batches_max() / 4 * 3;
        let ids = self.by_owner.by_batches();
        for id in ids.into_iter().filter(|id| *id != busy) {
            if self.batches <= enough {
                return;
            }
            if let Some(producer) = self.by_id.get_mut(&id) {
                let forgotten = std::mem::take(&mut producer.known.batches).len();
                self.batches -= forgotten;
                self.by_owner
                    .count_batches(producer.owner, producer.idleness, forgotten, 0);
            }
        }
    }

    /// The state as bytes.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let stored = |id: &ProducerId| {
            let producer = self.by_id.get(id)?;
            let committed = producer.idleness.committed;
            Some((*id, committed, &producer.known, producer.owner))
        };
        let idlest_first = self.by_owner.by_idleness();
        let known: Vec<(ProducerId, bool, &Known, Owner)> =
            idlest_first.iter().filter_map(stored).collect();
        postcard::to_extend(&known, vec![VERSION])
            .expect("plain numbers always serialize into a Vec")
    }

    /// The state that [`snapshot`](Self::snapshot) wrote. When it has more than `producers_max` producers,
    /// those that are idle longest are forgotten.
    ///
    /// # Errors
    ///
    /// The bytes are not such a state, or of another version.
    pub fn restore(bytes: &[u8], producers_max: usize) -> Result<Self, ProducersRestoreError> {
        let (version, bytes) = bytes
            .split_first()
            .ok_or(ProducersRestoreError::Inconsistent("it is empty"))?;
        let (stored, rest) = match *version {
            VERSION => postcard::take_from_bytes::<Vec<Stored>>(bytes)?,
            VERSION_OWNERLESS => {
                let (stored, rest) =
                    postcard::take_from_bytes::<Vec<(ProducerId, bool, Known)>>(bytes)?;
                let ownerless = |(id, committed, known)| (id, committed, known, None);
                (stored.into_iter().map(ownerless).collect(), rest)
            }
            version => return Err(ProducersRestoreError::Version(version)),
        };
        if !rest.is_empty() {
            return Err(ProducersRestoreError::Inconsistent("bytes follow its end"));
        }
        let mut producers = Self::new(producers_max);
        for (id, committed, known, owner) in stored {
            if !known.is_sound() || producers.by_id.contains_key(&id) {
                return Err(ProducersRestoreError::Inconsistent(
                    "a producer's numbers do not rise",
                ));
            }
            producers.touch_of(id, owner);
            producers.rank(id, |idleness| idleness.committed = committed);
            let batches = known.batches.len();
            producers.batches += batches;
            if let Some(producer) = producers.by_id.get_mut(&id) {
                producer.known = known;
                let idleness = producer.idleness;
                producers
                    .by_owner
                    .count_batches(owner, idleness, 0, batches);
            }
        }
        Ok(producers)
    }

    // The producer, now the last one to be forgotten of its kind.
    fn touch(&mut self, id: ProducerId) -> &mut Producer {
        self.touch_of(id, None)
    }

    // The same; `owner` is that of one that is not known yet.
    fn touch_of(&mut self, id: ProducerId, owner: Owner) -> &mut Producer {
        self.clock += 1;
        let now = self.clock;
        if self.by_id.contains_key(&id) {
            self.rank(id, |idleness| idleness.used = now);
        } else {
            self.make_room(owner);
            let idleness = Idleness {
                committed: false,
                is_open: false,
                used: now,
            };
            self.by_owner.insert(owner, idleness, id, 0);
            let known = Known::default();
            let fresh = Producer {
                idleness,
                owner,
                known,
            };
            self.by_id.insert(id, fresh);
        }
        self.by_id.get_mut(&id).expect("it was there, or was made")
    }

    // For one more.
    fn make_room(&mut self, newcomer: Owner) {
        if self.by_id.len() < self.producers_max {
            return;
        }
        let first = self.by_owner.first_to_go(newcomer);
        let forgotten = first.and_then(|id| self.by_id.remove(&id));
        if let Some(Producer {
            idleness,
            owner,
            known,
        }) = forgotten
        {
            let batches = known.batches.len();
            self.batches -= batches;
            self.by_owner.remove(owner, idleness, batches);
        }
    }

    fn rank(&mut self, id: ProducerId, change: impl FnOnce(&mut Idleness)) {
        if let Some(producer) = self.by_id.get_mut(&id) {
            let before = producer.idleness;
            change(&mut producer.idleness);
            let batches = producer.known.batches.len();
            self.by_owner
                .rank(producer.owner, before, producer.idleness, batches);
        }
    }
}

impl Known {
    // The sequence that `first_number` got, when all of the range is remembered and got sequences in a row.
    fn resent(&self, first_number: u64, last_number: u64) -> Option<Sequence> {
        let from = self
            .batches
            .partition_point(|batch| batch.last_number() < first_number);
        let first = self
            .batches
            .get(from)
            .filter(|batch| batch.first_number <= first_number)?;
        let first_sequence = Sequence(first.first_sequence.0 + (first_number - first.first_number));
        let mut before = first;
        for batch in self.batches.range(from + 1..) {
            if before.last_number() >= last_number {
                break;
            }
            let follows = batch.first_number == before.last_number() + 1
                && batch.first_sequence.0 == before.first_sequence.0 + u64::from(before.count);
            if !follows {
                return None;
            }
            before = batch;
        }
        (before.last_number() >= last_number).then_some(first_sequence)
    }

    // Numbers rise, nothing overflows, and the highest is the last batch's or above.
    fn is_sound(&self) -> bool {
        let mut after = Some(0u64);
        let rising = self.batches.iter().all(|batch| {
            let last = batch.first_number.checked_add(u64::from(batch.count));
            let sound = batch.count > 0
                && after.is_some_and(|after| batch.first_number >= after)
                && batch
                    .first_sequence
                    .0
                    .checked_add(u64::from(batch.count))
                    .is_some();
            after = last;
            sound && last.is_some()
        });
        rising
            && self
                .batches
                .back()
                .is_none_or(|batch| batch.last_number() <= self.last_number)
    }
}

impl Batch {
    fn last_number(&self) -> u64 {
        self.first_number
            .saturating_add(u64::from(self.count))
            .saturating_sub(1)
    }
}
