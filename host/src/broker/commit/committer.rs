//! The committer: one thread, the only writer of the journal, the catalog and the sequences. It takes what
//! waits in the inbox as one group, writes it, makes it durable with one sync for everybody in it, and only
//! then tells anybody. It never waits for whoever reads what it wrote. A failed write or sync ends writing for
//! good: everything after it is refused, reading goes on. A group for which there is no room is refused and changes nothing.

mod plugins;
mod room;
mod undo;

use std::collections::{BTreeSet, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::inbox::{Appended, Control, Inbox, Mark, Outputs, PublishItem, Taken, Update};
use super::note::{self, Note};
use super::producers::Sessions;
use super::publisher::{PublishOutcome, PublishReplies, PublishReply};
use crate::auth::Policy;
use crate::broker::error::BrokerError;
use crate::broker::log::tail::Log;
use crate::broker::subscriptions::live::LiveSubscription;
use crate::broker::subscriptions::registry::{Registry, Start};
use crate::domain::{
    BLOCK_BYTES_MAX, Block, BlockBuilder, Durability, Entries, LetterMark, Millis, PluginUse,
    Position, Principal, Sequence, StartAt, SubscriptionId, SubscriptionSpec, TopicId, TopicName,
    TopicSpec,
};
use crate::runtime::spawn::{panicked, panicked_serving};
use crate::runtime::thread_priority;
use crate::state::catalog::{Catalog, Change, Json, Subscription, Topic};
use crate::state::census::{self, Quota};
use crate::state::{SubscriptionState, Verdict};
use crate::store::{JournalWriter, WriteError, WriteFailure};
use crate::telemetry::errors::with_causes;
use crate::telemetry::health::{Condition, Conditions};
use crate::telemetry::metrics::Metrics;

pub use plugins::PluginQuotas;
pub(crate) use plugins::admit_upload;

/// A group takes nothing more once it is this long, heads, notes and all: about what one sync moves at full speed.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What one batch, or one item of outputs, may add to a group; more is refused. A group takes at most one of each beyond
/// [`GROUP_BYTES_MAX`], and everything else in it is bounded as well, so it is never longer than a record of the journal may be.
const ITEM_BYTES_MAX: usize = 384 * 1024 * 1024;
/// Acks of a group; more are written as groups of their own before it.
const ACK_BYTES_MAX: usize = 1024 * 1024;
/// Ranges of acks in one note: each takes up to 20 bytes.
const NOTE_RANGES_MAX: usize = 16 * 1024;
/// What a block takes in a record beside its entries, and its part of the padding.
const BLOCK_HEAD_BYTES: usize = 56;
/// What an event takes in a block beside its own bytes, at most.
const ENTRY_HEAD_BYTES: usize = 6;
/// Memory for notes that is kept for the next group.
const NOTES_KEPT_BYTES: usize = 1024 * 1024;
/// Entries of a batch that are this long make a block of their own, which shares the memory they were received in. Shorter
/// ones are copied together: a block costs an entry in the index, and a slice keeps the whole buffer it lies in.
const SHARED_BLOCK_BYTES_MIN: usize = 32 * 1024;
/// How long acks that nobody asked to confirm wait for a group to join.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// After an unclean start, topics with `interval` durability skip this many sequences, and the broker as many
/// positions, so that a number that was handed out and lost is never handed out again.
pub(crate) const UNSYNCED_EVENTS_CEILING: u64 = 1 << 20;
/// Changes of a subscription's filters that wait for their fence. Each is a chain whose plugins are kept.
const CHANGES_PENDING_MAX: usize = 8;
/// Filter chains kept for a subscription, most of them only until a checkpoint says that nothing can ask for them any
/// more. From half of it on, every further change asks for that checkpoint.
const CHAINS_MAX: usize = 64;
/// What these may have in configurations together before a further one is refused, each of which may have 1 MiB.
const CHAIN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Topics of a group that the memory for the next one has room for.
const TOPICS_KEPT: usize = 4_096;

/// What the committer is made with.
pub(crate) struct CommitterParts {
    pub(crate) journal: JournalWriter,
    pub(crate) catalog: Catalog,
    pub(crate) shared: Arc<RwLock<Catalog>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) checkpoint_due: Arc<tokio::sync::Notify>,
    pub(crate) conditions: Conditions,
    pub(crate) next_position: Position,
    pub(crate) settings: CommitterSettings,
}

/// What the configuration says to the committer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitterSettings {
    /// A publish to a topic that does not exist creates it.
    pub(crate) auto_create: bool,
    /// Longest time that something written stays unsynced.
    pub(crate) interval: Duration,
    /// Journal bytes at which a checkpoint is due.
    pub(crate) checkpoint_bytes: u64,
    /// Journal blocks at which a checkpoint is due.
    pub(crate) checkpoint_blocks: usize,
    /// Journal bytes at which even routes wait.
    pub(crate) journal_bytes_max: u64,
    /// Topics there may be.
    pub(crate) topics: Quota,
    /// Subscriptions and routes there may be.
    pub(crate) subscriptions: Quota,
    /// Bytes that their specifications may have.
    pub(crate) specification_bytes: Quota,
    /// Plugins there may be.
    pub(crate) plugins: PluginQuotas,
}

pub(crate) struct Committer {
    parts: CommitterParts,
    unsynced_since: Option<Instant>,
    unsynced_events: u64,
    // Outputs that wait for room in the journal, oldest first. Bounded by the inbox's control room.
    held: VecDeque<Outputs>,
    // Whether any subscription selects a topic; forgotten when subscriptions change.
    kept: FxHashMap<TopicId, bool>,
    // Of the group before: a place for the next one.
    topics: FxHashMap<TopicId, OpenTopic>,
    notes: Vec<u8>,
    undo: undo::Undo,
    said: room::AnnouncedRefusal,
}

/// What is about to be written.
#[derive(Default)]
struct Group {
    time: Millis,
    // Encoded.
    notes: Vec<u8>,
    // Encoded notes for which groups of their own are written before this one.
    before: Vec<Vec<u8>>,
    changes: Vec<Change>,
    topics: FxHashMap<TopicId, OpenTopic>,
    blocks: Vec<Block>,
    next_position: Position,
    needs_sync: bool,
    owed: Owed,
    events: u64,
    bytes: u64,
    // Bytes of the blocks in the record, or a little more.
    block_bytes: usize,
    // How long it gets before it takes nothing more.
    bytes_max: usize,
    undo: undo::Undo,
}

/// The answers that wait for a group. Whoever drops them has died, and those who wait are told so.
#[derive(Default)]
struct Owed {
    // Neighbours for the same stream together, so that it is woken once and answers once.
    replies: Vec<(PublishReplies, Vec<PublishReply>)>,
    outputs: Vec<Outputs>,
    answers: Vec<Answer>,
}

/// Tells whoever asked for a change what became of the group it was in.
type Answer = Box<dyn FnOnce(Result<(), BrokerError>) + Send>;

struct OpenTopic {
    topic: Arc<Topic>,
    // Of one mark: dead letters never share a block with other events.
    builder: BlockBuilder,
    mark: LetterMark,
    first_sequence: Sequence,
    next_sequence: Sequence,
}

impl Committer {
    pub(crate) fn new(parts: CommitterParts) -> Self {
        Self {
            parts,
            unsynced_since: None,
            unsynced_events: 0,
            held: VecDeque::new(),
            kept: FxHashMap::default(),
            topics: FxHashMap::default(),
            notes: Vec::new(),
            undo: undo::Undo::default(),
            said: room::AnnouncedRefusal::default(),
        }
    }

    /// Runs until the inbox is closed, then closes the journal. Should it ever panic, writing ends for good and
    /// whoever asks is told so, rather than waiting for ever.
    pub(crate) fn run(self) {
        // It mostly waits for the disk, and when the disk is done, everybody waits for it.
        thread_priority::take_short_turns();
        let (inbox, conditions) = (self.parts.inbox.clone(), self.parts.conditions.clone());
        let registry = self.parts.registry.clone();
        let ended = panic::catch_unwind(AssertUnwindSafe(|| self.commit_all()));
        if let Err(panic) = ended {
            // What it had taken was answered as it was dropped.
            let why = format!("the committer: {}", panicked(&*panic));
            conditions.raise(Condition::TaskDied("committer".into()), why.clone());
            conditions.raise(Condition::StoreFailed, why.clone());
            refuse_everything(&inbox, &registry, &why, &mut VecDeque::new());
        }
    }

    fn commit_all(mut self) {
        let inbox = self.parts.inbox.clone();
        loop {
            let refused = self.refusal().is_some();
            let synced_until = self
                .unsynced_since
                .map(|since| since + self.parts.settings.interval);
            let look_at = self
                .waits_for_room()
                .then(|| Instant::now() + room::LOOK_EVERY);
            let mut taken = inbox.take(
                refused || !self.parts.journal.is_full(),
                self.group_bytes_max().max(usize::from(refused)),
                ACK_DELAY,
                synced_until.into_iter().chain(look_at).min(),
            );
            let closing = taken.closing;
            // It may have slept since it looked.
            if let Some(refusal) = self.refusal() {
                self.refuse_for_now(&mut taken, &refusal);
            }
            match self.commit(taken) {
                Ok(all) if closing && all => break,
                Ok(_) => {}
                Err(error) => {
                    let why = with_causes(&error);
                    tracing::error!(error = %why, "the store failed; no more writes are taken");
                    self.parts
                        .conditions
                        .raise(Condition::StoreFailed, why.clone());
                    refuse_everything(&inbox, &self.parts.registry, &why, &mut self.held);
                    return;
                }
            }
        }
        for item in std::mem::take(&mut self.held) {
            let _ = item.done.send(Err(BrokerError::ShuttingDown));
        }
        refuse(inbox.drain(), &BrokerError::ShuttingDown);
        if let Err(error) = self.parts.journal.close() {
            tracing::error!(error = %with_causes(&error), "the journal could not be closed cleanly");
        }
    }

    // Half of the room that is left at most, since control items and publishes may each take that much: one group must not
    // overshoot a small journal.
    fn group_bytes_max(&self) -> usize {
        let journal_bytes_max = self.parts.settings.journal_bytes_max;
        let room = journal_bytes_max.saturating_sub(self.parts.journal.used_bytes());
        usize::try_from(room / 2).map_or(GROUP_BYTES_MAX, |half| half.min(GROUP_BYTES_MAX))
    }

    // Returns whether the group had room for all of it.
    fn commit(&mut self, taken: Taken) -> Result<bool, WriteError> {
        let acks = self.parts.registry.acks.take();
        let mut marks = Vec::new();
        let mut group = Group {
            time: self.parts.registry.clock.now(),
            next_position: self.parts.next_position,
            topics: std::mem::take(&mut self.topics),
            notes: std::mem::take(&mut self.notes),
            undo: std::mem::take(&mut self.undo),
            bytes_max: self.group_bytes_max(),
            ..Group::default()
        };
        self.release_held(&mut group);
        let mut control = taken.control;
        while let Some(item) = control.pop_front() {
            match item {
                Control::Mark(reply) => marks.push(reply),
                item => self.control(item, &mut group),
            }
            if group.is_full() {
                break;
            }
        }
        let all = control.is_empty();
        self.parts.inbox.put_back(control);
        for item in taken.publish {
            self.publish(item, &mut group);
        }
        group.note_acks(&acks);
        group.finish_blocks();
        if let Err(error) = self.write(&group) {
            let marks = marks.into_iter().map(Control::Mark).collect();
            let (refusal, taken_back) = match self.take_back(group, acks, error) {
                Ok(refusal) => (refusal, Ok(all)),
                Err(error) => (
                    BrokerError::StoreUnavailable(with_causes(&error)),
                    Err(error),
                ),
            };
            refuse((marks, VecDeque::new()), &refusal);
            return taken_back;
        }
        self.publish_group(group);
        for reply in marks {
            let mark = match self.mark() {
                Ok(mark) => Ok(mark),
                Err(error) if error.failure() == WriteFailure::Final => {
                    let _ = reply.send(Err(BrokerError::StoreUnavailable(with_causes(&error))));
                    return Err(error);
                }
                Err(error) => Err(self.not_now(&error)),
            };
            let _ = reply.send(mark);
        }
        self.request_checkpoint();
        Ok(all)
    }

    // Writes and syncs as far as somebody in the group, or the interval, asks for it.
    fn write(&mut self, group: &Group) -> Result<(), WriteError> {
        if !group.is_empty() || self.said.looks_for_files() {
            self.make_room(group)?;
        }
        let journal = &mut self.parts.journal;
        if !group.is_empty() {
            for notes in &group.before {
                journal.append(notes, &[])?;
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
            journal.append(&group.notes, &group.blocks)?;
            self.unsynced_events += group.events;
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        let interval_over = self
            .unsynced_since
            .is_some_and(|since| since.elapsed() >= self.parts.settings.interval);
        let ceiling_near = self.unsynced_events >= UNSYNCED_EVENTS_CEILING / 2;
        if self.unsynced_since.is_some() && (group.needs_sync || interval_over || ceiling_near) {
            let started = Instant::now();
            journal.sync()?;
            self.parts.metrics.synced(started.elapsed());
            self.unsynced_since = None;
            self.unsynced_events = 0;
        }
        if !group.is_empty() {
            self.parts.metrics.committed(group.events, group.bytes);
        }
        Ok(())
    }

    // The group is as durable as it has to be: let everybody see it.
    fn publish_group(&mut self, mut group: Group) {
        self.parts.next_position = group.next_position;
        for open in group.topics.values() {
            open.topic.advance_to(open.next_sequence);
        }
        self.apply_changes(&group.changes);
        for outputs in group.owed.outputs.drain(..) {
            if let Some(live) = self.parts.registry.by_id(outputs.subscription) {
                live.lock().ack(None, &outputs.acks, &mut Vec::new());
                live.wake.notify_waiters();
            }
            let _ = outputs.done.send(Ok(()));
        }
        if !group.blocks.is_empty() {
            self.parts.journal.make_readable();
            let blocks = std::mem::take(&mut group.blocks);
            self.parts.log.append(blocks, group.next_position);
        }
        for (replies, together) in group.owed.replies.drain(..) {
            // The stream may be gone; the events are there all the same.
            let _ = replies.send(together);
        }
        for answer in group.owed.answers.drain(..) {
            answer(Ok(()));
        }
        self.keep_memory(group);
    }

    fn apply_changes(&mut self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        {
            let mut shared = self
                .parts
                .shared
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            // The topic itself is shared with the master, so that one sequence counter serves both.
            for change in changes {
                match change {
                    Change::CreateTopic { id, .. } => {
                        if let Some(topic) = self.parts.catalog.topics_by_id.get(id) {
                            shared.insert_topic(topic.clone());
                        }
                    }
                    // Without the filter chains that the master has forgotten.
                    Change::UpdateSubscription { id, .. } => {
                        if let Some(subscription) = self.parts.catalog.subscriptions.get(id) {
                            shared.insert_subscription(*id, subscription.clone());
                        }
                    }
                    change => shared.apply(change),
                }
            }
        }
        for change in changes {
            match change {
                Change::CreateSubscription { id, spec, start } => {
                    let spec = Arc::new(spec.0.clone());
                    let state =
                        SubscriptionState::new(spec.delivery.clone(), *start, spec.filters.len());
                    let live = LiveSubscription::new(*id, &Subscription::new(spec, *start), state);
                    // One that has filters, or starts in the past, is refused here and fed by others.
                    let _ = self.parts.registry.join_router(&live);
                    self.parts.registry.insert(live.clone());
                    self.kept.clear();
                    // Lanes, routes and catch-ups start elsewhere.
                    self.parts.registry.start(Start::Created(live));
                }
                Change::UpdateSubscription {
                    id,
                    revision,
                    fence,
                    ..
                } => {
                    let subscription = self.parts.catalog.subscriptions.get(id);
                    let Some((live, subscription)) =
                        self.parts.registry.by_id(*id).zip(subscription)
                    else {
                        continue;
                    };
                    self.parts
                        .registry
                        .update(&live, subscription, fence.is_some());
                    self.kept.clear();
                    let pending = live.lock().pending_changes();
                    match fence {
                        Some(fence) => {
                            tracing::info!(subscription = %live.name, revision, %fence, pending, "subscription changed; its filters hold from the fence on");
                        }
                        None => {
                            tracing::info!(subscription = %live.name, revision, "subscription changed");
                        }
                    }
                }
                Change::DeleteSubscription(id) => {
                    if let Some(live) = self.parts.registry.remove(*id) {
                        self.parts.registry.start(Start::Deleted(live));
                    }
                    self.kept.clear();
                }
                Change::CreateTopic { .. }
                | Change::DeleteTopic(_)
                | Change::AddPlugin(_)
                | Change::DeletePlugin { .. }
                | Change::GivePlugin { .. }
                | Change::FreePlugin { .. } => {}
            }
        }
    }

    fn mark(&mut self) -> Result<Mark, WriteError> {
        self.forget_all_spent_chains();
        let group = self.parts.journal.rotate()?;
        self.unsynced_since = None;
        self.unsynced_events = 0;
        Ok(Mark {
            group,
            end: self.parts.next_position,
            catalog: self.parts.catalog.clone(),
            producers: self.parts.sessions.producers().snapshot(),
        })
    }

    fn request_checkpoint(&mut self) {
        if let Some(why) = self.parts.journal.take_preparer_death() {
            panicked_serving(&self.parts.conditions, "journal preparer", &why);
        }
        let (journal, settings) = (&self.parts.journal, &self.parts.settings);
        // Without what a checkpoint that is under way will release anyway.
        let (bytes, blocks) = journal.unmarked();
        if bytes > settings.checkpoint_bytes
            || blocks > settings.checkpoint_blocks
            || journal.is_full()
        {
            self.parts.checkpoint_due.notify_one();
        }
    }

    // ── publishes ───────────────────────────────────────────────────────────────────────────────────────

    fn publish(&mut self, item: PublishItem, group: &mut Group) {
        let result = self.append_batch(&item, group);
        let Some((stream, reply)) = item.promise.keep(result) else {
            return;
        };
        match group.owed.replies.last_mut() {
            Some((replies, together)) if replies.same_channel(&stream) => {
                together.push(reply);
            }
            _ => group.owed.replies.push((stream, vec![reply])),
        }
    }

    fn append_batch(
        &mut self,
        item: &PublishItem,
        group: &mut Group,
    ) -> Result<PublishOutcome, BrokerError> {
        let count = item.entries.count();
        if let Some(session) = &item.session {
            if session.is_fenced() {
                return Err(BrokerError::Fenced);
            }
            if session.is_refused() {
                return Err(BrokerError::Overloaded(
                    "a batch before this one was refused for now; send both again on a new stream"
                        .into(),
                ));
            }
            let verdict = self.parts.sessions.producers().check(
                session.producer,
                session.epoch,
                item.first_number,
                count,
            );
            match verdict {
                Verdict::Fresh => {}
                Verdict::Fenced => return Err(BrokerError::Fenced),
                Verdict::OutOfOrder { committed } => {
                    return Err(BrokerError::OutOfOrder {
                        first: item.first_number,
                        last: item.first_number + u64::from(count) - 1,
                        committed,
                    });
                }
                Verdict::Duplicate { first_sequence } => {
                    return Ok(PublishOutcome {
                        first_sequence,
                        count,
                        duplicate: true,
                        unkept: false,
                    });
                }
            }
        }
        check_item(item.cost)?;
        let topic = self.topic_for_publish(&item.topic, &item.by, group)?;
        let unkept = !self.is_kept(&topic);
        let first_sequence = group.append(&topic, item.entries.clone());
        group.needs_sync |= topic.spec.durability == Durability::Sync;
        if let Some(session) = &item.session {
            let mut producers = self.parts.sessions.producers();
            // It may have been forgotten while its stream was open.
            if producers.own(session.producer, session.owner) | session.tell_owner() {
                group.undo.told.push(session.clone());
                group.note(&Note::ProducerOwner {
                    producer: session.producer,
                    owner: session.owner,
                });
            }
            let last_number = producers.commit(
                session.producer,
                session.epoch,
                item.first_number,
                count,
                first_sequence,
                item.resolved_through,
            );
            drop(producers);
            group.undo.batches.push((session.clone(), last_number));
            group.note(&Note::Batch {
                producer: session.producer,
                epoch: session.epoch,
                first_number: item.first_number,
                count,
                first_sequence,
                resolved_through: item.resolved_through,
            });
        }
        Ok(PublishOutcome {
            first_sequence,
            count,
            duplicate: false,
            unkept,
        })
    }

    fn topic_for_publish(
        &mut self,
        name: &TopicName,
        by: &Principal,
        group: &mut Group,
    ) -> Result<Arc<Topic>, BrokerError> {
        if let Some(topic) = self.parts.catalog.topics.get(name) {
            return Ok(topic.clone());
        }
        if !self.parts.settings.auto_create {
            return Err(BrokerError::NoTopic(name.clone()));
        }
        name.check_new()?;
        self.admit_topics(1, Some(by))?;
        let spec = implicit_topic(name, Some(by.clone()));
        Ok(self.create_topic(spec, group))
    }

    fn admit_topics(&self, more: usize, by: Option<&Principal>) -> Result<(), BrokerError> {
        let (catalog, quota) = (&self.parts.catalog, self.parts.settings.topics);
        let census = &catalog.topics_census;
        Ok(census.admit(census::TOPICS, more, by, quota, &self.parts.policy)?)
    }

    // Whether specifications may be so many bytes longer.
    fn admit_specification(&self, more: usize, by: Option<&Principal>) -> Result<(), BrokerError> {
        let (catalog, quota) = (&self.parts.catalog, self.parts.settings.specification_bytes);
        let (census, counted) = (&catalog.specifications_census, census::SPECIFICATION_BYTES);
        Ok(census.admit(counted, more, by, quota, &self.parts.policy)?)
    }

    fn admit_subscription(&self, by: Option<&Principal>) -> Result<(), BrokerError> {
        let (catalog, quota) = (&self.parts.catalog, self.parts.settings.subscriptions);
        let census = &catalog.subscriptions_census;
        Ok(census.admit(census::SUBSCRIPTIONS, 1, by, quota, &self.parts.policy)?)
    }

    fn is_kept(&mut self, topic: &Topic) -> bool {
        let registry = &self.parts.registry;
        *self
            .kept
            .entry(topic.id)
            .or_insert_with(|| registry.is_selected(&topic.spec.name))
    }

    // ── control ─────────────────────────────────────────────────────────────────────────────────────────

    fn control(&mut self, control: Control, group: &mut Group) {
        match control {
            Control::CreateTopic(spec, reply) => {
                let result = if self.parts.catalog.topics.contains_key(&spec.name) {
                    Err(BrokerError::Exists {
                        kind: "topic",
                        name: spec.name.to_string(),
                    })
                } else {
                    let admitted = self.admit_topics(1, spec.created_by.as_ref());
                    admitted.map(|()| drop(self.create_topic(spec, group)))
                };
                group.answer(reply, result);
            }
            Control::DeleteTopic(name, reply) => {
                let result = self.delete_topic(&name, group);
                group.answer(reply, result);
            }
            Control::CreateSubscription(spec, reply) => {
                let result = self.create_subscription(spec, group);
                group.answer(reply, result);
            }
            Control::UpdateSubscription(update, reply) => {
                let result = self.update_subscription(update, group);
                group.answer(reply, result);
            }
            Control::DeleteSubscription(id, reply) => {
                let result = match self.parts.catalog.subscriptions.get(&id) {
                    Some(_) => {
                        self.change(Change::DeleteSubscription(id), group);
                        Ok(())
                    }
                    None => Err(BrokerError::NoSubscription(id.to_string())),
                };
                group.answer(reply, result);
            }
            Control::AddPlugin(upload, reply) => {
                let result = self.add_plugin(upload, group);
                group.answer(reply, result);
            }
            Control::GivePlugin(name, owner, reply) => {
                let result = self.give_plugin(&name, owner, group);
                group.answer(reply, result);
            }
            Control::DeletePlugin(deletion, reply) => {
                let result = self.delete_plugins(deletion, group);
                group.answer(reply, result);
            }
            Control::Outputs(outputs) => {
                let full = self.journal_is_full();
                if full || group.is_full() || !self.held.is_empty() {
                    self.held.push_back(outputs);
                    if !full {
                        self.parts.inbox.wake();
                    }
                } else {
                    self.append_outputs(outputs, group);
                }
            }
            Control::ConfirmAcks(reply) => {
                group.needs_sync = true;
                group.answer(reply, Ok(()));
            }
            // Taken out before: a mark stands between groups.
            Control::Mark(reply) => {
                let _ = reply.send(Err(BrokerError::Internal("a mark inside a group".into())));
            }
        }
    }

    fn create_topic(&mut self, spec: TopicSpec, group: &mut Group) -> Arc<Topic> {
        let id = self.parts.catalog.next_topic_id();
        self.change(
            Change::CreateTopic {
                id,
                spec: Json(spec),
            },
            group,
        );
        self.parts.catalog.topics_by_id[&id].clone()
    }

    fn delete_topic(&mut self, name: &TopicName, group: &mut Group) -> Result<(), BrokerError> {
        let Some(topic) = self.parts.catalog.topics.get(name) else {
            return Err(BrokerError::NoTopic(name.clone()));
        };
        let id = topic.id;
        let mut specs = self
            .parts
            .catalog
            .subscriptions
            .values()
            .map(|subscription| &subscription.spec);
        if let Some(user) = specs.find(|spec| spec.outputs.values().any(|output| output == name)) {
            return Err(BrokerError::InUse {
                what: format!("topic `{name}`"),
                by: user.name.to_string(),
            });
        }
        self.change(Change::DeleteTopic(id), group);
        Ok(())
    }

    fn create_subscription(
        &mut self,
        spec: SubscriptionSpec,
        group: &mut Group,
    ) -> Result<SubscriptionId, BrokerError> {
        let subscriptions = self.parts.catalog.subscriptions.values();
        let mut specs = subscriptions.map(|subscription| &subscription.spec);
        if let Some(existing) = specs.find(|existing| existing.name == spec.name) {
            let kind = if existing.is_route() {
                "route"
            } else {
                "subscription"
            };
            return Err(BrokerError::Exists {
                kind,
                name: spec.name.to_string(),
            });
        }
        self.check_plugins(&spec)?;
        self.admit_subscription(spec.created_by.as_ref())?;
        self.admit_specification(spec.text_bytes(), spec.created_by.as_ref())?;
        let topics = self.topics_of(&spec, true)?;
        self.create_topics(topics, spec.created_by.as_ref(), group);
        let id = self.parts.catalog.next_subscription_id();
        let start = match spec.start {
            // Publishes of this group come after its control items.
            StartAt::New => {
                group.finish_blocks();
                group.next_position
            }
            StartAt::Earliest => Position(1),
        };
        self.change(
            Change::CreateSubscription {
                id,
                spec: Json(spec),
                start,
            },
            group,
        );
        Ok(id)
    }

    fn update_subscription(
        &mut self,
        update: Update,
        group: &mut Group,
    ) -> Result<(), BrokerError> {
        let Update {
            id,
            from_revision,
            spec,
        } = update;
        self.forget_spent_chains(id);
        let subscription = self.parts.catalog.subscriptions.get(&id);
        let subscription =
            subscription.ok_or_else(|| BrokerError::NoSubscription(spec.name.to_string()))?;
        // Somebody may have deleted it and created another one of its name as well.
        let is_same = subscription.spec.created == spec.created;
        if subscription.revision != from_revision || !is_same {
            return Err(BrokerError::Overloaded(format!(
                "`{}` was changed by somebody else meanwhile; look at it and try again",
                spec.name
            )));
        }
        self.check_plugins(&spec)?;
        let longer = spec.text_bytes();
        let longer = longer.saturating_sub(subscription.spec.text_bytes());
        if longer > 0 {
            self.admit_specification(longer, spec.created_by.as_ref())?;
        }
        let topics = self.topics_of(&spec, false)?;
        let revision = from_revision + 1;
        let newest = subscription.chains().last();
        let judged_otherwise = newest.is_none_or(|chain| chain.differs_from(&spec));
        let fence = match judged_otherwise {
            true => Some(self.fence(id, revision, group)?),
            false => None,
        };
        self.create_topics(topics, spec.created_by.as_ref(), group);
        self.change(
            Change::UpdateSubscription {
                id,
                revision,
                spec: Json(spec),
                fence,
            },
            group,
        );
        Ok(())
    }

    // Topics that a specification names to append to, and that are not there. They count for whoever makes the subscription, as does
    // that of its dead letters, which comes into being with the first of them.
    fn topics_of(
        &self,
        spec: &SubscriptionSpec,
        is_new: bool,
    ) -> Result<BTreeSet<TopicName>, BrokerError> {
        let known = &self.parts.catalog.topics;
        let named = spec.outputs.values().chain(&spec.delivery.dead_letter);
        let missing = named.filter(|topic| !known.contains_key(*topic));
        let missing: BTreeSet<TopicName> = missing.cloned().collect();
        let letters = spec.dead_letter_topic();
        let letters_too = is_new && !known.contains_key(&letters) && !missing.contains(&letters);
        let count = missing.len() + usize::from(letters_too);
        if count > 0 {
            self.admit_topics(count, spec.created_by.as_ref())?;
        }
        Ok(missing)
    }

    fn create_topics(
        &mut self,
        topics: BTreeSet<TopicName>,
        by: Option<&Principal>,
        group: &mut Group,
    ) {
        for topic in topics {
            self.create_topic(implicit_topic(&topic, by.cloned()), group);
        }
    }

    // From which position the changed filters of a subscription hold: the next one that is given out. A subscription that
    // is paused may stand at an event that its filter can never judge, so there it is the first undecided event,
    // and nothing more is decided until the change is there.
    fn fence(
        &self,
        id: SubscriptionId,
        revision: u32,
        group: &mut Group,
    ) -> Result<Position, BrokerError> {
        group.finish_blocks();
        let next = group.next_position;
        let catalog = &self.parts.catalog;
        let Some((live, subscription)) = self
            .parts
            .registry
            .by_id(id)
            .zip(catalog.subscriptions.get(&id))
        else {
            // Created in this group.
            return Ok(next);
        };
        let chains = subscription.chains();
        let filters = chains.iter().flat_map(|chain| &chain.filters);
        let bytes: usize = filters.map(PluginUse::text_bytes).sum();
        if chains.len() >= CHAINS_MAX / 2 || bytes >= CHAIN_BYTES_MAX / 2 {
            self.parts.checkpoint_due.notify_one();
        }
        if bytes >= CHAIN_BYTES_MAX {
            return Err(BrokerError::Overloaded(format!(
                "`{}` was changed since the last checkpoint with configurations of {bytes} bytes together, all of which are kept until the next one; that is on its way, try again in a moment",
                live.name
            )));
        }
        if chains.len() >= CHAINS_MAX {
            return Err(BrokerError::Overloaded(format!(
                "`{}` was changed {CHAINS_MAX} times since the last checkpoint; the next one is on its way, try again in a moment",
                live.name
            )));
        }
        let (paused, undecided) = {
            let state = live.lock();
            (state.paused().is_some(), state.evaluated_through().next())
        };
        if paused {
            return Ok(self.parts.registry.freeze(&live, revision).min(next));
        }
        let pending = chains.iter().filter(|chain| chain.from > undecided).count();
        if pending >= CHANGES_PENDING_MAX {
            return Err(BrokerError::Overloaded(format!(
                "{pending} changes of `{}` wait until its filters have looked at what was published before them; try again when some have",
                live.name
            )));
        }
        Ok(next)
    }

    // A crash goes back to the newest checkpoint, and what that says is decided is not judged again.
    fn forget_spent_chains(&mut self, id: SubscriptionId) {
        if let Some(live) = self.parts.registry.by_id(id)
            && let Some(subscription) = self.parts.catalog.subscriptions.get_mut(&id)
        {
            subscription.forget_chains(live.evaluated_on_disk());
        }
    }

    fn forget_all_spent_chains(&mut self) {
        let catalog = &self.parts.catalog;
        let changed = catalog.subscriptions.iter();
        let changed: Vec<SubscriptionId> = changed
            .filter(|(_, subscription)| subscription.chains().len() > 1)
            .map(|(id, _)| *id)
            .collect();
        for id in changed {
            self.forget_spent_chains(id);
        }
    }

    // Makes a change in the master catalog and in the group. Others see it once it is durable.
    fn change(&mut self, change: Change, group: &mut Group) {
        self.parts.catalog.apply(&change);
        group.needs_sync = true;
        group.note(&Note::Change(change.clone()));
        group.changes.push(change);
    }

    fn release_held(&mut self, group: &mut Group) {
        while !self.journal_is_full() {
            let Some(outputs) = self.held.pop_front() else {
                return;
            };
            self.append_outputs(outputs, group);
            // One group must not overshoot the limit by all that is held.
            if group.is_full() {
                self.parts.inbox.wake();
                return;
            }
        }
    }

    // Full even for routes: only acks and marks still go in.
    fn journal_is_full(&self) -> bool {
        self.parts.journal.used_bytes() >= self.parts.settings.journal_bytes_max
    }

    fn append_outputs(&mut self, outputs: Outputs, group: &mut Group) {
        let bytes = outputs.events.iter().map(|one| one.event.len()).sum();
        if let Err(error) = check_item(bytes) {
            let _ = outputs.done.send(Err(error));
            return;
        }
        if !self.is_still_owed(&outputs, group) {
            let error = BrokerError::Overloaded(
                "an event of this batch was settled meanwhile; the others are tried again".into(),
            );
            let _ = outputs.done.send(Err(error));
            return;
        }
        // A subscription that was deleted meanwhile has nothing to say any more.
        if self
            .parts
            .catalog
            .subscriptions
            .contains_key(&outputs.subscription)
        {
            for Appended { topic, mark, event } in &outputs.events {
                let topic = match self.parts.catalog.topics.get(topic) {
                    Some(topic) => topic.clone(),
                    // There was room for it when the subscription was created. What was accepted since is not refused here.
                    None => {
                        let subscriptions = &self.parts.catalog.subscriptions;
                        let subscription = subscriptions.get(&outputs.subscription);
                        let by = subscription.and_then(|one| one.spec.created_by.clone());
                        self.create_topic(implicit_topic(topic, by), group)
                    }
                };
                group.append_event(&topic, *mark, event);
            }
            group.needs_sync = true;
            group.note(&Note::Acks {
                subscription: outputs.subscription,
                ranges: note::pack(outputs.acks.iter().cloned()),
            });
        }
        group.owed.outputs.push(outputs);
    }
}

impl Committer {
    // Whether every event of `outputs` is still pending. A lease may expire while a route works, and the event be given up
    // or handed out again; only the first of its outcomes counts, and the one writer is where they meet.
    fn is_still_owed(&self, outputs: &Outputs, group: &Group) -> bool {
        let Some(live) = self.parts.registry.by_id(outputs.subscription) else {
            return true;
        };
        let state = live.lock();
        let others = || {
            let same = |other: &&Outputs| other.subscription == outputs.subscription;
            group
                .owed
                .outputs
                .iter()
                .filter(same)
                .flat_map(|other| &other.acks)
        };
        outputs.acks.iter().all(|range| {
            let (first, last) = (*range.start(), *range.end());
            state.needed(first, last).len() == last.0 - first.0 + 1
                && !others().any(|other| *other.start() <= last && first <= *other.end())
        })
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.blocks.is_empty() && self.before.is_empty()
    }

    // Takes nothing more that can wait for the next one.
    fn is_full(&self) -> bool {
        self.notes.len() + self.block_bytes >= self.bytes_max
    }

    fn note(&mut self, note: &Note) {
        note::push(note, &mut self.notes);
    }

    // All acks are written before this group is synced, so whoever waits for theirs may wait for that. How many they are does
    // not make the group any longer.
    fn note_acks(&mut self, acks: &room::Acks) {
        let mut notes = Vec::new();
        for (&subscription, ranges) in acks {
            for ranges in ranges.chunks(NOTE_RANGES_MAX) {
                let ranges = note::pack(ranges.iter().cloned());
                note::push(
                    &Note::Acks {
                        subscription,
                        ranges,
                    },
                    &mut notes,
                );
                if notes.len() >= ACK_BYTES_MAX {
                    self.before.push(std::mem::take(&mut notes));
                }
            }
        }
        note::join(&notes, &mut self.notes);
    }

    // Appends entries to a topic, in order, and returns the sequence of the first.
    fn append(&mut self, topic: &Arc<Topic>, entries: Entries) -> Sequence {
        self.count(entries.count(), entries.event_bytes());
        self.block_bytes += entries.bytes().len() + BLOCK_HEAD_BYTES;
        let open = open_topic(&mut self.topics, topic);
        let first = open.next_sequence;
        open.next_sequence.0 += u64::from(entries.count());
        let others = open.begin(LetterMark::Ordinary, &mut self.next_position, self.time);
        self.blocks.extend(others);
        let mut rest = entries;
        while rest.count() > 0 {
            let part = rest.split_front(BLOCK_BYTES_MAX, 0);
            self.block_bytes += BLOCK_HEAD_BYTES;
            let bytes = part.bytes().len();
            let shared = bytes >= SHARED_BLOCK_BYTES_MIN;
            if shared || !open.builder.fits_entries(bytes) {
                let closed = open.close(&mut self.next_position, self.time);
                self.blocks.extend(closed);
            }
            if shared {
                let block = open.share(part, &mut self.next_position, self.time);
                self.blocks.push(block);
            } else {
                open.builder.push_all(&part);
            }
        }
        first
    }

    fn append_event(&mut self, topic: &Arc<Topic>, mark: LetterMark, event: &[u8]) {
        self.count(1, event.len());
        self.block_bytes += event.len() + ENTRY_HEAD_BYTES + BLOCK_HEAD_BYTES;
        let open = open_topic(&mut self.topics, topic);
        open.next_sequence.0 += 1;
        let others = open.begin(mark, &mut self.next_position, self.time);
        self.blocks.extend(others);
        if !open.builder.fits(event.len()) {
            let closed = open.close(&mut self.next_position, self.time);
            self.blocks.extend(closed);
        }
        open.builder.push(event);
    }

    fn count(&mut self, events: u32, bytes: usize) {
        self.events += u64::from(events);
        self.bytes += bytes as u64;
    }

    fn finish_blocks(&mut self) {
        let mut place = self.next_position;
        for open in self.topics.values_mut() {
            self.blocks.extend(open.close(&mut place, self.time));
        }
        self.next_position = place;
    }

    fn answer<T: Send + 'static>(
        &mut self,
        reply: oneshot::Sender<Result<T, BrokerError>>,
        result: Result<T, BrokerError>,
    ) {
        self.owed.answers.push(Box::new(move |written| {
            let _ = reply.send(written.and(result));
        }));
    }
}

impl Owed {
    fn refuse(&mut self, error: &BrokerError) {
        for (replies, together) in self.replies.drain(..) {
            let refused = together.into_iter().map(|reply| PublishReply {
                result: Err(error.clone()),
                ..reply
            });
            let _ = replies.send(refused.collect());
        }
        for outputs in self.outputs.drain(..) {
            let _ = outputs.done.send(Err(error.clone()));
        }
        for answer in self.answers.drain(..) {
            answer(Err(error.clone()));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let is_settled =
            self.replies.is_empty() && self.outputs.is_empty() && self.answers.is_empty();
        if !is_settled {
            self.refuse(&BrokerError::committer_died());
        }
    }
}

fn open_topic<'a>(
    topics: &'a mut FxHashMap<TopicId, OpenTopic>,
    topic: &Arc<Topic>,
) -> &'a mut OpenTopic {
    topics.entry(topic.id).or_insert_with(|| OpenTopic {
        topic: topic.clone(),
        builder: BlockBuilder::default(),
        mark: LetterMark::Ordinary,
        first_sequence: topic.next_sequence(),
        next_sequence: topic.next_sequence(),
    })
}

impl OpenTopic {
    // What comes next has this mark. Returns the block so far if its events have another one.
    fn begin(&mut self, mark: LetterMark, place: &mut Position, time: Millis) -> Option<Block> {
        if self.mark == mark {
            return None;
        }
        let others = self.close(place, time);
        self.mark = mark;
        others
    }

    // The block so far, placed at `place`, which moves on; the next one starts empty.
    fn close(&mut self, place: &mut Position, time: Millis) -> Option<Block> {
        let builder = std::mem::take(&mut self.builder);
        let count = builder.count();
        if count == 0 {
            return None;
        }
        let block = builder.finish(self.topic.id, *place, self.first_sequence, time);
        self.advance(count, place);
        Some(block.marked(self.mark))
    }

    // A block that shares the memory of `entries`, placed at `place`, which moves on.
    fn share(&mut self, entries: Entries, place: &mut Position, time: Millis) -> Block {
        let block = Block::of(entries, self.topic.id, *place, self.first_sequence, time);
        self.advance(block.count, place);
        block
    }

    fn advance(&mut self, count: u32, place: &mut Position) {
        place.0 += u64::from(count);
        self.first_sequence.0 += u64::from(count);
    }
}

/// Writes down, durably and before anything else, which numbers recovery has skipped.
pub(crate) fn reserve(journal: &mut JournalWriter, reserved: &Note) -> Result<(), WriteError> {
    let mut notes = Vec::new();
    note::push(reserved, &mut notes);
    journal.append(&notes, &[])?;
    journal.sync()
}

/// A topic that comes into being because something is appended to it.
fn implicit_topic(name: &TopicName, created_by: Option<Principal>) -> TopicSpec {
    TopicSpec {
        name: name.clone(),
        durability: Durability::Sync,
        created_by,
    }
}

// Refuses what alone would make a group too long to be written.
fn check_item(bytes: usize) -> Result<(), BrokerError> {
    if bytes <= ITEM_BYTES_MAX {
        return Ok(());
    }
    Err(BrokerError::Invalid(format!(
        "{bytes} bytes are to be written at once, but at most {ITEM_BYTES_MAX} can be; publish smaller batches, or let a transform make less of an event"
    )))
}

// After a fault: answers whatever comes, until the inbox is closed. Acks are dropped: they cannot be written any more, and
// reading goes on.
fn refuse_everything(inbox: &Inbox, registry: &Registry, why: &str, held: &mut VecDeque<Outputs>) {
    let error = BrokerError::StoreUnavailable(why.to_owned());
    for item in held.drain(..) {
        let _ = item.done.send(Err(error.clone()));
    }
    loop {
        let taken = inbox.take(true, usize::MAX, ACK_DELAY, None);
        let closing = taken.closing;
        drop(registry.acks.take());
        refuse((taken.control, taken.publish.into()), &error);
        if closing {
            return;
        }
    }
}

fn refuse((control, publish): (VecDeque<Control>, VecDeque<PublishItem>), error: &BrokerError) {
    for item in control {
        match item {
            Control::CreateTopic(_, reply)
            | Control::DeleteTopic(_, reply)
            | Control::UpdateSubscription(_, reply)
            | Control::DeleteSubscription(_, reply)
            | Control::DeletePlugin(_, reply)
            | Control::GivePlugin(_, _, reply)
            | Control::ConfirmAcks(reply) => drop(reply.send(Err(error.clone()))),
            Control::CreateSubscription(_, reply) => drop(reply.send(Err(error.clone()))),
            Control::AddPlugin(_, reply) => drop(reply.send(Err(error.clone()))),
            Control::Mark(reply) => drop(reply.send(Err(error.clone()))),
            Control::Outputs(outputs) => drop(outputs.done.send(Err(error.clone()))),
        }
    }
    for item in publish {
        if let Some(session) = &item.session {
            session.refuse_from_here();
        }
        item.promise.refuse(error.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;

    use super::*;
    use crate::store::RECORD_BYTES_MAX;

    #[test]
    fn the_longest_group_there_can_be_fits_a_record() {
        // What is held or asked for, then publishes, each with one item beyond the limit; notes of acks, and what rounding adds.
        let longest = 2 * (GROUP_BYTES_MAX + ITEM_BYTES_MAX) + 2 * ACK_BYTES_MAX + GROUP_BYTES_MAX;
        assert!((longest as u64) < RECORD_BYTES_MAX);
        assert!(check_item(ITEM_BYTES_MAX).is_ok());
        let refused = check_item(ITEM_BYTES_MAX + 1).expect_err("too long");
        assert!(!refused.is_retryable());
    }

    #[test]
    fn acks_that_are_too_many_for_a_group_go_before_it() {
        let single = |number: u64| Position(2 * number)..=Position(2 * number);
        let ranges: Vec<RangeInclusive<Position>> = (0..1_000_000).map(single).collect();
        let mut group = Group::default();
        let change = Note::Change(Change::DeleteSubscription(SubscriptionId(9)));
        group.note(&change);
        let acks = [
            (SubscriptionId(1), ranges.clone()),
            (SubscriptionId(2), vec![single(7)]),
        ];
        group.note_acks(&acks.into());
        assert!(group.before.len() > 1, "{} groups", group.before.len());
        let mut found = Vec::new();
        let mut changes = 0;
        for notes in group.before.iter().chain([&group.notes]) {
            assert!(notes.len() < 2 * ACK_BYTES_MAX);
            for note in note::decode(notes).expect("readable") {
                match note {
                    Note::Acks {
                        subscription,
                        ranges,
                    } => {
                        found.extend(note::unpack(&ranges).into_iter().map(|r| (subscription, r)));
                    }
                    _ => changes += 1,
                }
            }
        }
        assert_eq!(changes, 1);
        let first = ranges.into_iter().map(|range| (SubscriptionId(1), range));
        let expected = first.chain([(SubscriptionId(2), single(7))]);
        found.sort_unstable_by_key(|(id, range)| (*id, *range.start()));
        assert!(found.into_iter().eq(expected));
    }

    #[test]
    fn a_group_counts_what_it_takes_on_disk() {
        let spec = TopicSpec {
            name: "t".parse().expect("a name"),
            durability: Durability::Sync,
            created_by: None,
        };
        let mut catalog = Catalog::default();
        let id = catalog.next_topic_id();
        catalog.apply(&Change::CreateTopic {
            id,
            spec: Json(spec),
        });
        let topic = catalog.topics_by_id[&id].clone();
        for (count, length) in [(1, 0), (4_096, 0), (4_096, 1), (100, 1_000), (3, 70_000)] {
            let mut group = Group::default();
            let event = vec![7; length];
            let events: Vec<&[u8]> = vec![&event; count];
            group.append(&topic, Entries::of(events.clone()));
            // By turns, so that each has to begin a block.
            let marks = [LetterMark::Letter, LetterMark::LastLetter];
            for (event, mark) in events.iter().zip(marks.into_iter().cycle()) {
                group.append_event(&topic, mark, event);
            }
            group.finish_blocks();
            let written: usize = group
                .blocks
                .iter()
                .map(|block| block.entries.len() + 48)
                .sum();
            assert!(group.block_bytes >= written, "{count} of {length}");
        }
    }

    fn dead_letters() -> Arc<Topic> {
        let spec = implicit_topic(&"dead.s".parse().expect("valid name"), None);
        Arc::new(Topic::new(TopicId(1), spec, Sequence(5)))
    }

    #[test]
    fn dead_letters_share_no_block_with_other_events_and_keep_the_order() {
        let topic = dead_letters();
        let mut group = Group {
            next_position: Position(10),
            ..Group::default()
        };
        let published = || Entries::of([&b"published"[..], b"too"]);
        group.append_event(&topic, LetterMark::Letter, b"first");
        group.append_event(&topic, LetterMark::Letter, b"second");
        assert_eq!(group.append(&topic, published()), Sequence(7));
        group.append_event(&topic, LetterMark::Ordinary, b"a route's");
        group.append_event(&topic, LetterMark::LastLetter, b"last");
        // Large enough for a block of its own.
        let large = vec![7; SHARED_BLOCK_BYTES_MIN];
        let first = group.append(&topic, Entries::of([&large[..]]));
        assert_eq!(first, Sequence(11));
        group.append_event(&topic, LetterMark::Letter, b"third");
        group.finish_blocks();

        let blocks = group.blocks.iter();
        let found: Vec<_> = blocks
            .map(|block| {
                (
                    block.mark,
                    block.first_position.0,
                    block.first_sequence.0,
                    block.count,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (LetterMark::Letter, 10, 5, 2),
                (LetterMark::Ordinary, 12, 7, 3),
                (LetterMark::LastLetter, 15, 10, 1),
                (LetterMark::Ordinary, 16, 11, 1),
                (LetterMark::Letter, 17, 12, 1),
            ]
        );
        assert_eq!(group.next_position, Position(18));
        assert_eq!(group.topics[&topic.id].next_sequence, Sequence(13));
    }
}
