//! Recovery: from what is on disk to a broker at rest. The newest generation's state, then every group of the journal
//! after its mark, applied as the committer applied it. Filters are not run here: lanes do that again from where
//! each subscription's state says, with the same verdicts.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::saved_state::{self, SavedState, StateError};
use crate::broker::commit::committer::UNSYNCED_EVENTS_CEILING;
use crate::broker::commit::journal_note::{self, Note, NoteError};
use crate::broker::subscriptions::resting_subscription::RestingSubscription;
use crate::domain::{
    Durability, Millis, Position, Sequence, StartAt, SubscriptionId, SubscriptionSpec, TopicId,
};
use crate::state::Producers;
use crate::state::catalog::{Catalog, Change, Subscription};
use crate::store::{BlockMeta, ReadError, Replayed, ReplayedGroup};

/// Where groups are lost, no more events, topics or subscriptions than this can have been in them: each takes a byte of a journal
/// at least. So many numbers of each kind are skipped there, so that none is given twice. It leaves room for two million such
/// losses in the numbers that every language can say.
const LOST_CEILING: u64 = 1 << 32;

/// Why the broker's state cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The newest generation is sound but says something this version does not understand.
    #[error(transparent)]
    State(StateError),
    /// A group of the journal cannot be read.
    #[error("the journal cannot be read")]
    Replay(#[source] ReadError),
    /// A group's notes cannot be read.
    #[error(transparent)]
    Notes(NoteError),
}

/// The broker at rest.
pub(crate) struct Recovered {
    pub(crate) catalog: Catalog,
    pub(crate) producers: Producers,
    pub(crate) next_position: Position,
    /// All subscriptions, and whether each follows the router.
    pub(crate) subscriptions: Vec<(RestingSubscription, bool)>,
    pub(crate) groups: u64,
    /// The last moment on the wall that anything on disk bears.
    pub(crate) last_time: Millis,
    /// To be written, durably, before anything else: which numbers were skipped.
    pub(crate) reserved: Option<Note>,
    /// Topics were deleted, and some of their events may still be pending.
    pub(crate) has_deleted: bool,
    /// Events of topics of which nothing is known any more, by topic. They are nobody's.
    pub(crate) orphans: BTreeMap<TopicId, u64>,
}

/// Rebuilds the state. `clean` says that the last run closed its journal. `sealed` answers which topics the events in
/// generations are of; it is asked where changes of the catalog may be lost.
pub(crate) fn recover(
    pairs: &[(bytes::Bytes, bytes::Bytes)],
    replay: impl Iterator<Item = Result<Replayed, ReadError>>,
    sealed: impl FnOnce() -> Vec<(TopicId, u64)>,
    clean: bool,
    producers_max: usize,
) -> Result<Recovered, RecoveryError> {
    let state = saved_state::decode(pairs, producers_max).map_err(RecoveryError::State)?;
    let mark = state.mark;
    let mut recovery = Recovery::new(state);
    let mut is_first = true;
    for piece in replay {
        match piece.map_err(RecoveryError::Replay)? {
            // There for its events only.
            Replayed::Group(group) if group.number < mark => {
                reached!(ReplayedForItsEventsOnly);
            }
            Replayed::Group(_) if planted!(ReplayFromTheNext) && !pairs.is_empty() && is_first => {
                is_first = false;
            }
            Replayed::Group(group) => recovery.apply(&group)?,
            Replayed::Gap => recovery.skip_what_was_lost(),
        }
    }
    if recovery.has_gaps {
        recovery.look_for_orphans(sealed());
    }
    recovery.stay_above_what_was_decided();
    let reserved = match clean {
        true => None,
        false => recovery.skip_what_may_have_been_handed_out(),
    };
    recovery.replace_lost_filters();
    Ok(recovery.finish(reserved))
}

struct Recovery {
    catalog: Catalog,
    producers: Producers,
    next_position: Position,
    restored: BTreeMap<SubscriptionId, Restored>,
    // Which routed subscriptions select a topic's ordinary events, and which its dead letters; forgotten with every change
    // of the catalog.
    targets: HashMap<(TopicId, bool), Vec<SubscriptionId>>,
    groups: u64,
    wall: Wall,
    has_gaps: bool,
    // The last topic that the state knows of. One before it that is not in the catalog was deleted.
    last_known_topic: TopicId,
    deleted: HashSet<TopicId>,
    orphans: BTreeMap<TopicId, u64>,
}

// The clock on the wall, as the journal tells it in its order. Moments are kept as it would have said them had it never been set
// back, so that what was to be left alone for a while is left alone so long, on whichever side of such a step it was decided.
struct Wall {
    last: Millis,
    set_back_ms: u64,
}

impl Wall {
    fn says(&mut self, at: Millis) {
        let at = at.plus(self.set_back_ms);
        self.set_back_ms = self
            .set_back_ms
            .saturating_add(self.last.0.saturating_sub(at.0));
        self.last = self.last.max(at);
    }

    // A moment as the wall has it since it was set last.
    fn as_set_last(&self, moment: Millis) -> Millis {
        Millis(moment.0.saturating_sub(self.set_back_ms))
    }
}

struct Restored {
    resting: RestingSubscription,
    // The router feeds it.
    routed: bool,
}

impl Restored {
    fn created(id: SubscriptionId, spec: SubscriptionSpec, start: Position) -> Self {
        let spec = Arc::new(spec);
        let routed = spec.filters.is_empty() && spec.start == StartAt::New;
        let subscription = Subscription::new(spec, start);
        Self {
            resting: RestingSubscription::created(id, &subscription, start),
            routed,
        }
    }
}

impl Recovery {
    fn new(state: SavedState) -> Self {
        let restored = state
            .subscriptions
            .into_iter()
            .filter_map(|(id, matches)| {
                let subscription = state.catalog.subscriptions.get(&id)?;
                let evaluated = matches.evaluated_through();
                let unfiltered = matches.stages() == 0 && matches.pending_changes() == 0;
                let routed = unfiltered && evaluated.next() >= state.routed_before;
                let mut resting = RestingSubscription::new(id, subscription, matches);
                resting.evaluated_on_disk = evaluated;
                Some((id, Restored { resting, routed }))
            })
            .collect();
        Self {
            last_known_topic: state.catalog.last_topic,
            catalog: state.catalog,
            producers: state.producers,
            next_position: state.next_position,
            restored,
            targets: HashMap::new(),
            groups: 0,
            wall: Wall {
                last: state.at,
                set_back_ms: 0,
            },
            has_gaps: false,
            deleted: HashSet::new(),
            orphans: BTreeMap::new(),
        }
    }

    fn apply(&mut self, group: &ReplayedGroup) -> Result<(), RecoveryError> {
        self.groups += 1;
        for note in journal_note::decode(&group.notes).map_err(RecoveryError::Notes)? {
            self.apply_note(note);
        }
        for block in &group.blocks {
            self.apply_block(block);
        }
        Ok(())
    }

    fn apply_block(&mut self, block: &BlockMeta) {
        if !planted!(PositionsGivenAgain) {
            self.next_position = self.next_position.max(block.last_position.next());
        }
        self.wall.says(block.time);
        self.catalog.saw(Some(block.topic), None);
        let Some(topic) = self.catalog.topics_by_id.get(&block.topic) else {
            // Deleted in this very group, or its creation is lost.
            if !self.deleted.contains(&block.topic) {
                *self.orphans.entry(block.topic).or_default() += u64::from(block.count);
            }
            return;
        };
        if !planted!(SequencesGivenAgain) {
            topic.advance_to(Sequence(block.first_sequence.0 + u64::from(block.count)));
        }
        let targets = (block.topic, block.mark.is_letter());
        let targets = self.targets.entry(targets).or_insert_with(|| {
            let name = &topic.spec.name;
            let routed = self.restored.values().filter(|restored| restored.routed);
            let resting = routed.map(|restored| &restored.resting);
            let selecting = resting.filter(|resting| resting.selects(name, block.mark));
            selecting.map(|resting| resting.id).collect()
        });
        let range = block.first_position..=block.last_position;
        for id in targets {
            if let Some(restored) = self.restored.get_mut(id) {
                let state = &mut restored.resting.state;
                state.observe(*range.end(), std::iter::once(range.clone()));
            }
        }
    }

    fn apply_note(&mut self, note: Note) {
        match note {
            Note::Change(change) => {
                reached!(ReplayedChange);
                self.apply_change(change);
            }
            Note::Acks {
                subscription,
                ranges,
            } => {
                self.catalog.saw(None, Some(subscription));
                if planted!(AcksNotReplayed) {
                    return;
                }
                if let Some(restored) = self.restored.get_mut(&subscription) {
                    reached!(ReplayedAcks);
                    restored
                        .resting
                        .state
                        .is_acked(&journal_note::unpack(&ranges));
                }
            }
            Note::Reserved {
                next_position,
                next_sequences,
            } => {
                if planted!(ReservedIgnored) {
                    return;
                }
                reached!(ReplayedSkippedNumbers);
                self.next_position = self.next_position.max(next_position);
                for (id, next) in next_sequences {
                    self.catalog.saw(Some(id), None);
                    if let Some(topic) = self.catalog.topics_by_id.get(&id) {
                        topic.advance_to(next);
                    }
                }
            }
            Note::CameBack { .. } if planted!(ReturnsNotReplayed) => {}
            Note::CameBack {
                subscription,
                at,
                events,
            } => {
                self.catalog.saw(None, Some(subscription));
                self.wall.says(at);
                reached!(ReplayedCameBack);
                let set_back_ms = i64::try_from(self.wall.set_back_ms).unwrap_or(i64::MAX);
                if let Some(restored) = self.restored.get_mut(&subscription) {
                    let state = &mut restored.resting.state;
                    for back in events {
                        state.is_back(&back.shifted(set_back_ms), self.wall.last);
                    }
                }
            }
            Note::Paused { why: Some(_), .. } if planted!(PauseNotReplayed) => {}
            Note::Paused { why: None, .. } if planted!(ResumeNotReplayed) => {}
            Note::Paused { subscription, why } => {
                self.catalog.saw(None, Some(subscription));
                reached!(ReplayedPause);
                if let Some(restored) = self.restored.get_mut(&subscription) {
                    let state = &mut restored.resting.state;
                    match why {
                        Some(why) => state.pause(&why),
                        None => state.resume(),
                    }
                }
            }
            Note::Stopped { at } => {
                reached!(ReplayedStop);
                self.wall.says(at);
            }
            Note::Batch { .. } if planted!(ProducerForgotten) => {}
            Note::ProducerOwner { producer, owner } => {
                self.producers.own(producer, owner);
            }
            Note::Batch {
                producer,
                epoch,
                first_number,
                count,
                first_sequence,
                resolved_through,
            } => {
                reached!(ReplayedBatch);
                self.producers.commit(
                    producer,
                    epoch,
                    first_number,
                    count,
                    first_sequence,
                    resolved_through,
                );
            }
        }
    }

    fn apply_change(&mut self, change: Change) {
        let is_forgotten = match &change {
            Change::UpdateSubscription { fence, .. } => match fence {
                Some(_) => planted!(FiltersNotReplayed),
                None => planted!(SettingsNotReplayed),
            },
            Change::DeleteTopic(_) | Change::RemoveTopic { .. } => planted!(DeletionNotReplayed),
            _ => false,
        };
        if is_forgotten {
            return;
        }
        self.catalog.apply(&change);
        self.targets.clear();
        match change {
            Change::CreateSubscription { id, spec, start } => {
                self.restored
                    .entry(id)
                    .or_insert_with(|| Restored::created(id, spec.0, start));
            }
            Change::UpdateSubscription { id, .. } => {
                let subscription = self.catalog.subscriptions.get(&id);
                if let Some((restored, subscription)) = self.restored.get_mut(&id).zip(subscription)
                    && restored.resting.update(subscription)
                {
                    // What is left before the fence, and what follows it, it catches up with after the start.
                    restored.routed = false;
                }
            }
            Change::DeleteSubscription(id) => {
                self.restored.remove(&id);
            }
            Change::DeleteTopic(id) | Change::RemoveTopic { id, .. } => {
                self.deleted.insert(id);
            }
            Change::CreateTopic { .. }
            | Change::AddPlugin(_)
            | Change::DeletePlugin { .. }
            | Change::GivePlugin { .. }
            | Change::FreePlugin { .. } => {}
        }
    }

    // Groups are lost here, with whatever they gave a number to. What follows from this must be the same at every start that
    // finds the gap, and is: the state before it and the groups are.
    fn skip_what_was_lost(&mut self) {
        reached!(ReplayedGap);
        self.has_gaps = true;
        if !planted!(NumbersOfLostGivenAgain) {
            self.catalog.skip_lost(LOST_CEILING);
            self.next_position.0 = self.next_position.0.saturating_add(LOST_CEILING);
        }
        // A checkpoint may have moved some of what was in those groups into a generation. Those that the router would feed look
        // at all of it again, from where their state says, as those with filters do.
        self.restored
            .values_mut()
            .for_each(|restored| restored.routed = false);
        self.targets.clear();
    }

    // What generations hold of topics that came into being in groups that are lost.
    fn look_for_orphans(&mut self, sealed: Vec<(TopicId, u64)>) {
        for (topic, events) in sealed {
            self.catalog.saw(Some(topic), None);
            let is_known = topic <= self.last_known_topic
                || self.catalog.topics_by_id.contains_key(&topic)
                || self.deleted.contains(&topic);
            if !is_known {
                *self.orphans.entry(topic).or_default() += events;
            }
        }
    }

    // Events of `interval` topics may have been answered and delivered, and then lost. Their numbers must not be
    // given to other events.
    fn skip_what_may_have_been_handed_out(&mut self) -> Option<Note> {
        let interval = |spec: &crate::domain::TopicSpec| spec.durability == Durability::Interval;
        let mut topics = self
            .catalog
            .topics
            .values()
            .filter(|topic| interval(&topic.spec))
            .peekable();
        topics.peek().filter(|_| !planted!(NothingReserved))?;
        let mut next_sequences = Vec::new();
        for topic in topics {
            reached!(NumbersSkipped);
            let next = Sequence(topic.next_sequence().0 + UNSYNCED_EVENTS_CEILING);
            topic.advance_to(next);
            next_sequences.push((topic.id, next));
        }
        self.next_position.0 += UNSYNCED_EVENTS_CEILING;
        Some(Note::Reserved {
            next_position: self.next_position,
            next_sequences,
        })
    }

    // A checkpoint may have seen events that were lost with a power cut, or with a loss that was accepted. What a
    // subscription has decided must not be asked again for other events, and what comes now is for its newest filters.
    fn stay_above_what_was_decided(&mut self) {
        for restored in self.restored.values() {
            let decided = restored.resting.state.evaluated_through().next();
            let fence = restored.resting.fence().unwrap_or_default();
            self.next_position = self.next_position.max(decided).max(fence);
        }
    }

    // After a loss that was accepted, a subscription's state may go by filters of which the journal tells no more. What is
    // undecided is then judged by those that are known last.
    fn replace_lost_filters(&mut self) {
        for (id, restored) in &mut self.restored {
            let Some(subscription) = self.catalog.subscriptions.get_mut(id) else {
                continue;
            };
            if restored.resting.knows_its_filters() {
                continue;
            }
            let (newest, undecided) = {
                let state = &restored.resting.state;
                let newest = state.revisions().map(|(revision, _)| revision).max();
                (newest, state.evaluated_through().next())
            };
            reached!(LostFiltersReplaced);
            let revision = newest.unwrap_or_default().max(subscription.revision) + 1;
            tracing::error!(subscription = %restored.resting.name, revision, fence = %undecided, "a change of this subscription's filters is lost; it goes on with those before it");
            subscription.update(revision, subscription.spec.clone(), Some(undecided));
            restored.resting.update(subscription);
            restored.routed = false;
        }
    }

    fn finish(mut self, reserved: Option<Note>) -> Recovered {
        for restored in self.restored.values_mut() {
            let state = &mut restored.resting.state;
            state.move_dues(|due| self.wall.as_set_last(due));
        }
        Recovered {
            catalog: self.catalog,
            producers: self.producers,
            next_position: self.next_position,
            subscriptions: self
                .restored
                .into_values()
                .map(|restored| (restored.resting, restored.routed))
                .collect(),
            groups: self.groups,
            last_time: self.wall.as_set_last(self.wall.last),
            has_deleted: !self.deleted.is_empty(),
            reserved,
            orphans: self.orphans,
        }
    }
}

#[cfg(test)]
mod tests;
