//! What idempotent producers have published: per producer its epoch, its highest committed number and the
//! batches whose answers it may not have seen. Enough to answer a resend like the first time. Memory is
//! bounded by the number of producers; the committer owns this state and persists it.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::idle::{ByOwner, Idleness, Owner};
use crate::domain::{PrincipalDigest, ProducerId, Sequence};

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
        if first_number > known.last_number {
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
        known.batches.drain(..resolved.max(surplus));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::Principal;

    const P: ProducerId = ProducerId(7);

    fn me() -> PrincipalDigest {
        Principal::local().digest()
    }

    #[derive(Clone, Debug)]
    struct Step {
        producer: u128,
        epoch: u32,
        // Where the batch starts, relative to the highest number of this producer.
        back: u64,
        count: u32,
        resolved_back: u64,
        reopen: bool,
        restart: bool,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (
            0u128..3,
            0u32..3,
            0u64..12,
            1u32..6,
            0u64..20,
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.1),
        )
            .prop_map(
                |(producer, epoch, back, count, resolved_back, reopen, restart)| Step {
                    producer,
                    epoch,
                    back,
                    count,
                    resolved_back,
                    reopen,
                    restart,
                },
            );
        prop::collection::vec(step, 1..100)
    }

    // Every number's sequence, for ever, and what the producer says it has seen.
    #[derive(Default)]
    struct Model {
        epoch: u32,
        sequences: BTreeMap<u64, u64>,
        // Numbers → the last number of their batch.
        batch_last: BTreeMap<u64, u64>,
        resolved: u64,
    }

    proptest! {
        #[test]
        fn behaves_like_a_naive_memory_of_all_numbers(steps in steps()) {
            let mut producers = Producers::new(10);
            let mut models: HashMap<u128, Model> = HashMap::new();
            let mut next_sequence = 1;
            for step in steps {
                let id = ProducerId(step.producer);
                let model = models.entry(step.producer).or_default();
                let committed = model.sequences.keys().next_back().copied().unwrap_or(0);
                if step.reopen {
                    let expected = if step.epoch < model.epoch {
                        Err(OpenError::Fenced { epoch: model.epoch })
                    } else {
                        model.epoch = step.epoch;
                        Ok(committed)
                    };
                    prop_assert_eq!(producers.open(id, step.epoch, me()), expected);
                }
                let first = (committed + 3).saturating_sub(step.back).max(1);
                let last = first + u64::from(step.count) - 1;
                let verdict = producers.check(id, step.epoch, first, step.count);
                let remembered = (first..=last).all(|number| {
                    model.batch_last.get(&number).is_some_and(|last| *last > model.resolved)
                });
                let in_a_row = (first..last).all(|number| {
                    model.sequences.get(&number).map(|s| s + 1) == model.sequences.get(&(number + 1)).copied()
                });
                let expected = if step.epoch < model.epoch {
                    Verdict::Fenced
                } else if first > committed {
                    Verdict::Fresh
                } else if remembered && in_a_row {
                    Verdict::Duplicate { first_sequence: Sequence(model.sequences[&first]) }
                } else {
                    Verdict::OutOfOrder { committed }
                };
                prop_assert_eq!(verdict, expected);
                if verdict == Verdict::Fresh {
                    let resolved = committed.saturating_sub(step.resolved_back);
                    producers.commit(id, step.epoch, first, step.count, Sequence(next_sequence), resolved);
                    // Again, as recovery may.
                    producers.commit(id, step.epoch, first, step.count, Sequence(next_sequence), resolved);
                    model.epoch = step.epoch;
                    model.resolved = model.resolved.max(resolved);
                    for number in first..=last {
                        model.sequences.insert(number, next_sequence + number - first);
                        model.batch_last.insert(number, last);
                    }
                    next_sequence += u64::from(step.count) + u64::from(step.count % 2);
                }
                if step.restart {
                    producers = Producers::restore(&producers.snapshot(), 10).expect("just written");
                }
            }
        }

        #[test]
        fn restoring_nonsense_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = bytes;
            let _ = Producers::restore(&bytes, 10);
            for known in [VERSION_OWNERLESS, VERSION] {
                if let Some(version) = bytes.first_mut() {
                    *version = known;
                }
                if let Ok(producers) = Producers::restore(&bytes, 10) {
                    let _ = producers.check(ProducerId(0), u32::MAX, 1, 5);
                }
            }
        }
    }

    #[test]
    fn what_is_taken_back_can_come_again() {
        let mut producers = Producers::new(10);
        assert_eq!(producers.commit(P, 0, 1, 10, Sequence(1), 0), 0);
        let refused = [(20, 5), (30, 5)];
        let before =
            refused.map(|(first, count)| producers.commit(P, 1, first, count, Sequence(50), 10));
        assert_eq!(before, [10, 24]);
        for last_number in before.into_iter().rev() {
            producers.take_back(P, last_number);
        }
        assert_eq!(producers.last_number(P), 10);
        // Between what was refused and what was committed as well.
        assert_eq!(producers.check(P, 1, 11, 5), Verdict::Fresh);
        let kept = producers.batches;
        assert_eq!(kept, producers.by_id[&P].known.batches.len());
        // What said nothing new takes nothing with it.
        let before = producers.commit(P, 1, 5, 2, Sequence(5), 0);
        producers.take_back(P, before);
        assert_eq!((producers.last_number(P), producers.batches), (10, kept));
    }

    #[test]
    fn numbers_may_have_gaps() {
        let mut producers = Producers::new(10);
        producers.commit(P, 0, 1, 10, Sequence(1), 0);
        assert_eq!(producers.check(P, 0, 21, 10), Verdict::Fresh);
        producers.commit(P, 0, 21, 10, Sequence(11), 0);
        assert_eq!(
            producers.check(P, 0, 11, 10),
            Verdict::OutOfOrder { committed: 30 }
        );
        assert_eq!(
            producers.check(P, 0, 5, 20),
            Verdict::OutOfOrder { committed: 30 }
        );
        assert_eq!(
            producers.check(P, 0, 21, 10),
            Verdict::Duplicate {
                first_sequence: Sequence(11)
            }
        );
    }

    #[test]
    fn numbers_near_the_end_do_not_overflow() {
        let mut producers = Producers::new(10);
        producers.commit(P, 0, u64::MAX, 5, Sequence(1), 0);
        assert!(matches!(
            producers.check(P, 0, u64::MAX, 2),
            Verdict::OutOfOrder { .. }
        ));
        assert!(matches!(
            producers.check(P, 0, 1, 2),
            Verdict::OutOfOrder { .. }
        ));
    }

    #[test]
    fn only_so_many_batches_are_remembered() {
        let mut producers = Producers::new(10);
        let count = BATCHES_MAX as u64 + 1;
        for number in 1..=count {
            producers.commit(P, 0, number, 1, Sequence(number), 0);
        }
        assert_eq!(
            producers.check(P, 0, 1, 1),
            Verdict::OutOfOrder { committed: count }
        );
        assert_eq!(
            producers.check(P, 0, 2, 1),
            Verdict::Duplicate {
                first_sequence: Sequence(2)
            }
        );
    }

    #[test]
    fn all_together_remember_no_more_than_there_is_room_for() {
        let mut producers = Producers::new(200);
        let max = producers.batches_max();
        for id in 1..=100 {
            for number in 1..=100 {
                producers.commit(ProducerId(id), 0, number, 1, Sequence(number), 0);
            }
            let remembered = |producers: &Producers| -> usize {
                let known = producers.by_id.values();
                known.map(|one| one.known.batches.len()).sum()
            };
            assert_eq!(producers.batches, remembered(&producers));
            assert!(producers.batches <= max, "{} of {max}", producers.batches);
        }
        // Who was active last can resend; who is idle longest cannot, but is known.
        let resent = producers.check(ProducerId(100), 0, 1, 1);
        assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
        let resent = producers.check(ProducerId(1), 0, 1, 1);
        assert_eq!(resent, Verdict::OutOfOrder { committed: 100 });
        let restored = Producers::restore(&producers.snapshot(), 200).expect("just written");
        assert_eq!(restored.batches, producers.batches);
    }

    #[test]
    fn memory_of_resolved_batches_is_given_back() {
        let mut producers = Producers::new(10);
        for number in 1..=BATCHES_MAX as u64 {
            producers.commit(P, 0, number, 1, Sequence(number), 0);
        }
        let next = BATCHES_MAX as u64 + 1;
        producers.commit(P, 0, next, 1, Sequence(next), next - 1);
        assert_eq!(producers.batches, 1);
        assert!(producers.by_id[&P].known.batches.capacity() <= BATCHES_KEPT);
    }

    #[test]
    fn who_never_published_is_forgotten_before_who_is_idle() {
        let mut producers = Producers::new(3);
        for id in 1..=3 {
            producers.commit(ProducerId(id), 0, 1, 1, Sequence(1), 0);
        }
        producers.commit(ProducerId(1), 0, 2, 1, Sequence(2), 0);
        for id in 100..200 {
            producers.open(ProducerId(id), 0, me()).expect("not fenced");
        }
        assert_eq!(producers.len(), 3);
        assert_eq!(
            producers.open(ProducerId(2), 0, me()),
            Ok(0),
            "idle longest, forgotten"
        );
        assert_eq!(producers.open(ProducerId(3), 0, me()), Ok(1));
        assert_eq!(producers.open(ProducerId(1), 0, me()), Ok(2));
    }

    #[test]
    fn a_flood_of_ids_makes_the_broker_forget_only_the_floods_own() {
        let theirs = Principal::common_name("other").digest();
        let mut producers = Producers::new(10);
        for id in 1..=4 {
            producers.open(ProducerId(id), 1, me()).expect("not fenced");
            producers.commit(ProducerId(id), 1, 1, 1, Sequence(id as u64), 0);
        }
        for id in 100..200 {
            let id = ProducerId(id);
            producers.open(id, 1, theirs).expect("not fenced");
            producers.commit(id, 1, 1, 1, Sequence(9), 0);
        }
        assert_eq!(producers.len(), 10);
        for id in 1..=4 {
            let id = ProducerId(id);
            let resent = producers.check(id, 1, 1, 1);
            assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
            assert_eq!(producers.open(id, 2, theirs), Err(OpenError::NotYours));
        }
        let restored = Producers::restore(&producers.snapshot(), 8).expect("just written");
        let known = |id: &u128| restored.check(ProducerId(*id), 1, 1, 1) != Verdict::Fresh;
        assert_eq!((1..=4).filter(known).count(), 4, "nor does a smaller limit");
    }

    #[test]
    fn a_producer_with_an_open_stream_is_forgotten_after_those_without() {
        let mut producers = Producers::new(3);
        let commit = |producers: &mut Producers, id| {
            producers.open(ProducerId(id), 1, me()).expect("not fenced");
            producers.commit(ProducerId(id), 1, 1, 1, Sequence(1), 0);
        };
        commit(&mut producers, 1);
        for id in 2..20 {
            commit(&mut producers, id);
            producers.close(ProducerId(id));
        }
        let resent = producers.check(ProducerId(1), 1, 1, 1);
        assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
        producers.close(ProducerId(1));
        for id in 20..23 {
            commit(&mut producers, id);
        }
        assert_eq!(producers.check(ProducerId(1), 1, 1, 1), Verdict::Fresh);
    }

    #[test]
    fn who_was_forgotten_is_owned_again_with_the_next_batch() {
        let theirs = Principal::common_name("other").digest();
        let mut producers = Producers::new(1);
        assert!(producers.own(P, me()));
        assert!(!producers.own(P, me()));
        assert!(producers.own(ProducerId(8), me()), "the only place");
        assert!(producers.own(P, me()), "to be written down again");
        assert_eq!(producers.open(P, 1, theirs), Err(OpenError::NotYours));
    }

    #[test]
    fn who_remembers_most_batches_forgets_first() {
        let theirs = Principal::common_name("other").digest();
        let mut producers = Producers::new(200);
        producers.open(P, 0, me()).expect("not fenced");
        for number in 1..=500 {
            producers.commit(P, 0, number, 1, Sequence(number), 0);
        }
        for id in 100..150 {
            let id = ProducerId(id);
            producers.open(id, 0, theirs).expect("not fenced");
            for number in 1..=100 {
                producers.commit(id, 0, number, 1, Sequence(number), 0);
            }
            producers.close(id);
        }
        let resent = producers.check(P, 0, 1, 1);
        assert!(matches!(resent, Verdict::Duplicate { .. }), "{resent:?}");
        // Of one that has the most by itself as well, however often it is used.
        let mut producers = Producers::new(200);
        for number in 1..=1_000 {
            producers.open(P, 0, me()).expect("not fenced");
            producers.commit(P, 0, number, 1, Sequence(number), 0);
        }
        for id in 100..102 {
            let id = ProducerId(id);
            producers.open(id, 0, theirs).expect("not fenced");
            producers.commit(id, 0, 1, 1, Sequence(1), 0);
        }
        assert_eq!(producers.by_owner.by_batches()[0], P);
    }

    #[test]
    fn a_producer_is_its_first_principals() {
        let theirs = Principal::common_name("other").digest();
        let mut producers = Producers::new(10);
        assert_eq!(producers.open(P, 1, me()), Ok(0));
        producers.commit(P, 1, 1, 5, Sequence(1), 0);
        for epoch in [0, 1, 9] {
            let refused = producers.open(P, epoch, theirs);
            assert_eq!(
                refused,
                Err(OpenError::NotYours),
                "not even that it is fenced"
            );
        }
        let mut restored = Producers::restore(&producers.snapshot(), 10).expect("just written");
        assert_eq!(restored.open(P, 9, theirs), Err(OpenError::NotYours));
        assert_eq!(restored.open(P, 1, me()), Ok(5), "nobody has fenced it");
    }

    #[test]
    fn a_state_without_owners_is_read_and_the_first_to_come_owns() {
        let known = Known {
            epoch: 3,
            last_number: 7,
            batches: VecDeque::new(),
        };
        let stored = vec![(P, true, known)];
        let bytes = postcard::to_extend(&stored, vec![VERSION_OWNERLESS]).expect("plain numbers");
        let mut producers = Producers::restore(&bytes, 10).expect("an older broker wrote it");
        assert_eq!(producers.open(P, 3, me()), Ok(7));
        let theirs = Principal::common_name("other").digest();
        assert_eq!(producers.open(P, 4, theirs), Err(OpenError::NotYours));
    }

    #[test]
    fn restoring_keeps_who_was_active_last() {
        let mut producers = Producers::new(10);
        for id in 1..=5 {
            producers.commit(ProducerId(id), 0, 1, 1, Sequence(1), 0);
        }
        let producers = Producers::restore(&producers.snapshot(), 2).expect("just written");
        assert_eq!(producers.len(), 2);
        assert_eq!(producers.check(ProducerId(1), 0, 1, 1), Verdict::Fresh);
        assert!(matches!(
            producers.check(ProducerId(5), 0, 1, 1),
            Verdict::Duplicate { .. }
        ));
    }
}
