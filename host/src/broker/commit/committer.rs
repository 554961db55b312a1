//! The committer: one thread, the only writer of the journal, the catalog and the sequences. It takes what
//! waits in the inbox as one group, writes it, makes it durable with one sync for everybody in it, and only
//! then tells anybody. It never waits for whoever reads what it wrote. A failed write or sync ends writing for
//! good: everything after it is refused, reading goes on. A group for which there is no room is refused and changes nothing.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::checkpoint_due::CheckpointDue;
use super::disk_space::{self, DiskSpace};
use super::draft::{CatalogLimits, Draft};
use super::group::GROUP_BYTES_MAX;
use super::inbox::{Appetite, Inbox, Taken};
use super::journal_note::{self, Note};
use super::producer_streams::ProducerStreams;
use super::request::{Control, Mark, Outputs, PublishItem, Reply};
use super::waiting_acks::Acks;
use super::waiting_returns::Returns;
use crate::auth::Policy;
use crate::broker::counters::Counters;
use crate::broker::error::Unavailable;
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::effect_targets::AckSink as _;
use crate::broker::subscriptions::registry::Registry;
use crate::broker::task_names::COMMITTER;
use crate::domain::Position;
use crate::runtime::clock::Clock;
use crate::runtime::spawn::panicked_serving;
use crate::runtime::thread_priority;
use crate::runtime::unfinished::panicked;
use crate::state::catalog::Catalog;
use crate::store::{JournalWriter, WriteError};
use crate::telemetry::conditions::{Condition, Conditions};
use crate::telemetry::error_line::with_causes;

/// How long acks that nobody asked to confirm wait for a group to join.
const ACK_DELAY: Duration = Duration::from_millis(50);
/// After an unclean start, topics with `interval` durability skip this many sequences, and the broker as many
/// positions, so that a number that was handed out and lost is never handed out again.
pub(crate) const UNSYNCED_EVENTS_CEILING: u64 = 1 << 20;

/// What the committer is made with.
pub(crate) struct CommitterParts {
    pub(crate) journal: Box<dyn JournalWriter>,
    pub(crate) catalog: Catalog,
    pub(crate) shared: Arc<RwLock<Catalog>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) streams: Arc<ProducerStreams>,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) clock: Clock,
    pub(crate) policy: Arc<Policy>,
    pub(crate) checkpoint_due: Arc<Notify>,
    pub(crate) conditions: Conditions,
    pub(crate) next_position: Position,
    pub(crate) settings: CommitterSettings,
}

/// What the configuration says to the committer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitterSettings {
    /// Longest time that something written stays unsynced.
    pub(crate) interval: Duration,
    /// When a checkpoint is due.
    pub(crate) checkpoint_at: CheckpointDue,
    /// Journal bytes at which even routes wait.
    pub(crate) journal_bytes_max: u64,
    /// What may exist.
    pub(crate) limits: CatalogLimits,
}

pub(crate) struct Committer {
    journal: Box<dyn JournalWriter>,
    draft: Draft,
    unsynced: Unsynced,
    space: DiskSpace,
    // Outputs that wait for room in the journal, oldest first. Bounded by the inbox's control room.
    waiting: VecDeque<Outputs>,
    log: Log,
    inbox: Arc<Inbox>,
    metrics: Arc<Counters>,
    clock: Clock,
    conditions: Conditions,
    settings: CommitterSettings,
}

/// What was written and may be lost with the power.
#[derive(Default)]
struct Unsynced {
    since: Option<Instant>,
    events: u64,
}

/// What a turn of the committer came to.
pub(crate) enum TurnEnd {
    /// There is more to come.
    Done,
    /// The inbox is closed and empty.
    Closed,
    /// The store failed for good.
    Failed(WriteError),
}

impl Committer {
    pub(crate) fn new(parts: CommitterParts) -> Self {
        let draft = Draft::new(
            (parts.catalog, parts.shared),
            parts.registry,
            parts.streams,
            parts.policy,
            parts.checkpoint_due,
            parts.settings.limits,
            parts.next_position,
        );
        Self {
            journal: parts.journal,
            draft,
            unsynced: Unsynced::default(),
            space: DiskSpace::new(parts.conditions.clone()),
            waiting: VecDeque::new(),
            log: parts.log,
            inbox: parts.inbox,
            metrics: parts.metrics,
            clock: parts.clock,
            conditions: parts.conditions,
            settings: parts.settings,
        }
    }

    /// Runs until the inbox is closed, then closes the journal. Should it ever panic, writing ends for good and
    /// whoever asks is told so, rather than waiting for ever.
    pub(crate) fn run(self) {
        // It mostly waits for the disk, and when the disk is done, everybody waits for it.
        thread_priority::take_short_turns();
        let (inbox, conditions) = (self.inbox.clone(), self.conditions.clone());
        let ended = panic::catch_unwind(AssertUnwindSafe(|| self.commit_all()));
        if let Err(panic) = ended {
            // What it had taken was answered as it was dropped.
            let why = format!("the committer: {}", panicked(&*panic));
            conditions.raise(Condition::TaskDied(COMMITTER.into()), why.clone());
            conditions.raise(Condition::StoreFailed, why.clone());
            refuse_everything(&inbox, &Unavailable::Store(why));
        }
    }

    fn commit_all(mut self) {
        let inbox = self.inbox.clone();
        loop {
            let taken = inbox.take(&self.appetite());
            match self.turn(taken) {
                TurnEnd::Done => {}
                TurnEnd::Closed => return self.close(),
                TurnEnd::Failed(error) => {
                    let refusal = self.fail(&error);
                    return refuse_everything(&inbox, &refusal);
                }
            }
        }
    }

    // Ends writing for good. Answers what everybody is told from now on.
    pub(super) fn fail(&mut self, error: &WriteError) -> Unavailable {
        let why = with_causes(error);
        tracing::error!(error = %why, "the store failed; no more writes are taken");
        reached!(WritingEnded);
        self.conditions.raise(Condition::StoreFailed, why.clone());
        let refusal = Unavailable::Store(why);
        self.refuse_waiting(&refusal);
        refusal
    }

    // What the next group has room for.
    fn appetite(&mut self) -> Appetite {
        let refused = self.space.refusal(&*self.journal).is_some();
        let is_full = !refused && self.journal.usage().is_full;
        if is_full {
            reached!(PublishesWaitForRoom);
        }
        let interval = self.settings.interval;
        let synced_until = self.unsynced.since.map(|since| since + interval);
        let looks_again = self.space.is_awaited(&*self.journal);
        let look_at = looks_again.then(|| self.clock.instant() + disk_space::LOOK_EVERY);
        Appetite {
            publishes: !is_full || self.inbox.is_closing() || planted!(FullJournalTakesMore),
            cost_max: self.group_bytes_max().max(usize::from(refused)),
            ack_delay: ACK_DELAY,
            idle_until: synced_until.into_iter().chain(look_at).min(),
        }
    }

    /// One turn on a task, which blocks while it writes: waits for what the next group has room for, and commits it. Cancel-safe
    /// while it waits.
    #[cfg(test)]
    pub(crate) async fn step(&mut self) -> TurnEnd {
        let appetite = self.appetite();
        let inbox = self.inbox.clone();
        let taken = inbox.taken(&appetite).await;
        self.turn(taken)
    }

    // Makes one group of what was taken, as far as it has room.
    fn turn(&mut self, mut taken: Taken) -> TurnEnd {
        let closing = taken.closing;
        if taken.stopping {
            self.stop_waiting(&mut taken);
        }
        // It may have slept since it looked.
        if let Some(refusal) = self.space.refusal(&*self.journal) {
            self.refuse_for_now(&mut taken, &refusal);
        }
        match self.commit(taken) {
            Ok(all) if closing && all => TurnEnd::Closed,
            Ok(_) => TurnEnd::Done,
            Err(error) => TurnEnd::Failed(error),
        }
    }

    // On the way down nothing waits for room: outputs are made again after the next start, of events that are still pending.
    fn stop_waiting(&mut self, taken: &mut Taken) {
        if self.journal.usage().is_full {
            refuse([], taken.publish.drain(..), &Unavailable::ShuttingDown);
        }
        self.refuse_waiting(&Unavailable::ShuttingDown);
        if !self.is_full_for_outputs() {
            return;
        }
        let control = std::mem::take(&mut taken.control).into_iter();
        let (outputs, others): (VecDeque<_>, VecDeque<_>) =
            control.partition(|item| matches!(item, Control::Outputs(_)));
        taken.control = others;
        refuse(outputs, [], &Unavailable::ShuttingDown);
    }

    pub(super) fn close(mut self) {
        self.refuse_waiting(&Unavailable::ShuttingDown);
        let (control, publish) = self.inbox.drain();
        refuse(control, publish, &Unavailable::ShuttingDown);
        self.note_end();
        if let Err(error) = self.journal.close() {
            tracing::error!(error = %with_causes(&error), "the journal could not be closed cleanly");
        }
    }

    // What is left alone until a moment that has passed by now must not wait once more, should the clock be set back meanwhile.
    fn note_end(&mut self) {
        let mut subscriptions = self.draft.registry.all().into_iter();
        if !subscriptions.any(|live| live.read().delayed() > 0) {
            return;
        }
        let mut notes = Vec::new();
        let at = self.clock.wall();
        journal_note::push(&Note::Stopped { at }, &mut notes);
        let journal = &mut *self.journal;
        let room = journal
            .group_bytes(&notes, &[])
            .map_err(WriteError::from)
            .and_then(|bytes| journal.make_room(bytes));
        // Without room for it, or after a failure, the end is only not known that well.
        if room.is_ok()
            && let Err(error) = journal.append(&notes, &[])
        {
            tracing::warn!(error = %with_causes(&error), "when the broker ended is not written down");
        }
    }

    // Half of the room that is left at most, since control items and publishes may each take that much: one group must not
    // overshoot a small journal.
    fn group_bytes_max(&self) -> usize {
        let journal_bytes_max = self.settings.journal_bytes_max;
        let room = journal_bytes_max.saturating_sub(self.journal.usage().all.bytes);
        usize::try_from(room / 2).map_or(GROUP_BYTES_MAX, |half| half.min(GROUP_BYTES_MAX))
    }

    // Returns whether the group had room for all of it.
    fn commit(&mut self, taken: Taken) -> Result<bool, WriteError> {
        let (acks, returns, ends) = (taken.acks, taken.returns, taken.closing);
        let (now, bytes_max) = (self.clock.wall(), self.group_bytes_max());
        self.draft.begin_group(now, bytes_max);
        let returns = self.note_returns(returns, ends);
        self.append_waiting();
        let mut marks = Vec::new();
        let mut control = taken.control;
        while let Some(item) = control.pop_front() {
            match item {
                Control::Change(request) => self.draft.decide(request),
                Control::Outputs(outputs) => self.append_or_wait(outputs),
                Control::ConfirmAcks(reply) => {
                    self.draft.group.needs_sync |= !planted!(AcksConfirmedUnsynced);
                    self.draft.group.answer(reply, Ok(()));
                }
                // A mark stands between groups.
                Control::Mark(reply) => marks.push(reply),
            }
            if self.draft.group.is_full() {
                reached!(GroupFull);
                break;
            }
        }
        let all = control.is_empty();
        self.inbox.put_back(control);
        for item in taken.publish {
            self.draft.publish(item);
        }
        if !planted!(AcksNotNoted) {
            self.draft.group.note_acks(&acks);
        }
        self.draft.group.finish_blocks();
        if let Err(error) = self.write() {
            return self.take_back((acks, returns), marks, error).map(|()| all);
        }
        self.show();
        self.answer_marks(marks)?;
        self.request_checkpoint();
        Ok(all)
    }

    // Before anything else of the group. An event may come back again and again, which must not take the room that is kept for acks
    // on a full disk or in a full journal: there it waits for the end. Answers what is in the group.
    fn note_returns(&mut self, mut returns: Returns, ends: bool) -> Returns {
        if (self.space.is_disk_full() || self.is_full_for_outputs()) && !ends {
            reached!(ReturnsHeld);
            let came_back = returns.take_came_back();
            self.inbox.hold_returns(came_back);
        }
        if !returns.is_empty() {
            let ahead = self.clock.wall_ahead_ms();
            self.draft.group.note_returns(returns.clone(), ahead);
        }
        returns
    }

    fn append_waiting(&mut self) {
        while !self.is_full_for_outputs() {
            let Some(outputs) = self.waiting.pop_front() else {
                return;
            };
            self.draft.append_outputs(outputs);
            // One group must not overshoot the limit by all that waits.
            if self.draft.group.is_full() {
                self.inbox.wake();
                return;
            }
        }
    }

    fn append_or_wait(&mut self, outputs: Outputs) {
        let full = self.is_full_for_outputs();
        if !full && !self.draft.group.is_full() && self.waiting.is_empty() {
            return self.draft.append_outputs(outputs);
        }
        reached!(OutputsWait);
        self.waiting.push_back(outputs);
        if !full {
            self.inbox.wake();
        }
    }

    // Full even for routes: only acks and marks still go in.
    fn is_full_for_outputs(&self) -> bool {
        self.journal.usage().all.bytes >= self.settings.journal_bytes_max
    }

    // Writes the group, and syncs as far as somebody in it, or the interval, asks for it.
    fn write(&mut self) -> Result<(), WriteError> {
        let appended = self.append();
        if matches!(appended, Err(WriteError::Final(_))) {
            return appended;
        }
        // What was written before is synced in time, also where nothing more can be written for now. Otherwise a turn would follow the
        // other as long as that lasts, since a sync is overdue.
        self.sync_if_due(appended.is_ok() && self.draft.group.needs_sync)?;
        appended?;
        let group = &self.draft.group;
        if !group.is_empty() {
            self.metrics.committed(group.events, group.event_bytes);
        }
        Ok(())
    }

    fn append(&mut self) -> Result<(), WriteError> {
        if planted!(AnsweredBeforeWritten) && !self.draft.group.needs_sync {
            self.draft.group.owed.confirm();
        }
        let (group, journal) = (&self.draft.group, &mut *self.journal);
        let clock = &self.clock;
        if !group.is_empty() || self.space.is_delayed() {
            self.space.make(journal, group)?;
        }
        if !group.is_empty() {
            for notes in &group.before {
                if planted!(NotesBeforeSkipped) {
                    continue;
                }
                reached!(NotesBeforeGroup);
                journal.append(notes, &[])?;
                self.unsynced.since.get_or_insert_with(|| clock.instant());
            }
            journal.append(&group.notes, &group.blocks)?;
            self.unsynced.events += group.events;
            self.unsynced.since.get_or_insert_with(|| clock.instant());
        }
        Ok(())
    }

    fn sync_if_due(&mut self, is_asked: bool) -> Result<(), WriteError> {
        let Some(since) = self.unsynced.since else {
            return Ok(());
        };
        if planted!(NotSyncedInTrouble) && self.space.refusal(&*self.journal).is_some() {
            self.unsynced = Unsynced::default();
            return Ok(());
        }
        let clock = &self.clock;
        let interval_over =
            clock.instant().saturating_duration_since(since) >= self.settings.interval;
        let ceiling_near = self.unsynced.events >= UNSYNCED_EVENTS_CEILING / 2;
        if planted!(AnsweredBeforeSync) && !interval_over && !ceiling_near {
            return Ok(());
        }
        if planted!(IntervalForgotten) && interval_over && !is_asked && !ceiling_near {
            self.unsynced = Unsynced::default();
            return Ok(());
        }
        if is_asked || interval_over || ceiling_near {
            if !is_asked {
                reached!(SyncedAtInterval);
            }
            let started = clock.instant();
            self.journal.sync()?;
            let took = clock.instant().saturating_duration_since(started);
            self.metrics.synced(took);
            self.unsynced = Unsynced::default();
        }
        Ok(())
    }

    // The group is as durable as it has to be: let everybody see it.
    fn show(&mut self) {
        let draft = &mut self.draft;
        draft.next_position = draft.group.next_position;
        draft.group.advance_topics();
        draft.show_changes();
        draft.show_pauses();
        for outputs in draft.group.owed.outputs.drain(..) {
            if let Some(live) = draft.registry.by_id(outputs.subscription) {
                // Before: who sees that the events are no longer pending must see where they went.
                live.has_letters(outputs.letters);
                live.apply(|state, _| state.is_acked(&outputs.acks));
            }
            let _ = outputs.done.send(Ok(()));
        }
        if !draft.group.blocks.is_empty() {
            self.journal.make_readable();
            let blocks = std::mem::take(&mut draft.group.blocks);
            self.log.append(blocks, draft.next_position);
        }
        draft.group.owed.confirm();
        draft.group.clear();
    }

    // Refuses everybody in a group of which nothing was written but acks, and takes back what was decided for it. The acks wait
    // for the next group. After a failure for good, what is in memory counts no more.
    fn take_back(
        &mut self,
        (acks, mut returns): (Acks, Returns),
        marks: Vec<Reply<Mark>>,
        error: WriteError,
    ) -> Result<(), WriteError> {
        let refusal = match &error {
            WriteError::Final(failure) => Unavailable::Store(with_causes(failure)),
            WriteError::Retry(delay) => self.space.not_now(&*self.journal, delay),
            // No batch and no change is so long by itself, and none is too late for its place.
            WriteError::Refused(refusal) => {
                let why = with_causes(refusal);
                tracing::error!(error = %why, "a group was refused by the journal");
                Unavailable::Internal(why)
            }
        };
        let is_final = matches!(error, WriteError::Final(_));
        if !is_final {
            reached!(GroupPutOff);
            self.draft.take_back();
        }
        self.draft.group.owed.refuse(&refusal);
        for reply in marks {
            let _ = reply.send(Err(refusal.clone()));
        }
        if is_final {
            return Err(error);
        }
        for (subscription, ranges) in acks {
            // Unless it is deleted, which they are done with then.
            if self.draft.registry.by_id(subscription).is_some() {
                self.inbox.acked(subscription, ranges);
            }
        }
        returns.keep_only(|subscription| self.draft.registry.by_id(subscription).is_some());
        self.inbox.put_back_returns(returns);
        self.draft.group.clear();
        Ok(())
    }

    fn answer_marks(&mut self, marks: Vec<Reply<Mark>>) -> Result<(), WriteError> {
        for reply in marks {
            let mark = match self.mark() {
                Ok(mark) => Ok(mark),
                Err(WriteError::Retry(delay)) => Err(self.space.not_now(&*self.journal, &delay)),
                Err(WriteError::Refused(refusal)) => {
                    Err(Unavailable::Internal(with_causes(&refusal)))
                }
                Err(error @ WriteError::Final(_)) => {
                    let _ = reply.send(Err(Unavailable::Store(with_causes(&error))));
                    return Err(error);
                }
            };
            let _ = reply.send(mark);
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<Mark, WriteError> {
        self.draft.forget_all_spent_chains();
        let group = self.journal.mark()?;
        self.unsynced = Unsynced::default();
        Ok(Mark {
            group,
            end: self.draft.next_position,
            catalog: self.draft.catalog.clone(),
            producers: self.draft.streams.producers().snapshot(),
            at: self.clock.wall(),
            wall_ahead_ms: self.clock.wall_ahead_ms(),
        })
    }

    fn request_checkpoint(&mut self) {
        if let Some(why) = self.journal.take_preparer_death() {
            panicked_serving(&self.conditions, "journal preparer", &why);
        }
        if self
            .settings
            .checkpoint_at
            .is_reached(&self.journal.usage())
        {
            self.draft.checkpoint_due.notify_one();
        }
    }

    // Refuses publishes that cannot be taken now. While the disk is full, outputs go on as far as they fit into what is spared
    // for them; otherwise they wait as they always do.
    fn refuse_for_now(&mut self, taken: &mut Taken, refusal: &Unavailable) {
        for item in taken.publish.drain(..) {
            item.refuse(refusal);
        }
        if !self.space.is_disk_full() {
            return;
        }
        let mut spare = self.journal.spare_bytes();
        let mut has_room = |outputs: &Outputs| {
            let left = spare.checked_sub(disk_space::record_bytes(outputs));
            spare = left.unwrap_or(spare);
            left.is_some()
        };
        // What has waited longest goes first.
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (waiting, refused): (VecDeque<_>, VecDeque<_>) = waiting.partition(&mut has_room);
        self.waiting = waiting;
        for outputs in refused {
            outputs.refuse(refusal.clone());
        }
        let control = std::mem::take(&mut taken.control).into_iter();
        let (taken_on, refused): (VecDeque<_>, VecDeque<_>) =
            control.partition(|item| match item {
                Control::Outputs(outputs) => has_room(outputs),
                _ => true,
            });
        taken.control = taken_on;
        for item in refused {
            item.refuse(refusal);
        }
    }

    fn refuse_waiting(&mut self, refusal: &Unavailable) {
        for outputs in self.waiting.drain(..) {
            outputs.refuse(refusal.clone());
        }
    }
}

/// Writes down, durably and before anything else, which numbers recovery has skipped.
pub(crate) fn reserve(journal: &mut dyn JournalWriter, reserved: &Note) -> Result<(), WriteError> {
    let mut notes = Vec::new();
    journal_note::push(reserved, &mut notes);
    journal.append(&notes, &[])?;
    journal.sync()
}

// After a fault: answers whatever comes, until the inbox is closed. Acks are dropped: they cannot be written any more, and
// reading goes on.
fn refuse_everything(inbox: &Inbox, refusal: &Unavailable) {
    let all = Appetite {
        publishes: true,
        cost_max: usize::MAX,
        ack_delay: ACK_DELAY,
        idle_until: None,
    };
    loop {
        let taken = inbox.take(&all);
        let closing = taken.closing;
        refuse(taken.control, taken.publish, refusal);
        if closing {
            return;
        }
    }
}

fn refuse(
    control: impl IntoIterator<Item = Control>,
    publish: impl IntoIterator<Item = PublishItem>,
    refusal: &Unavailable,
) {
    for item in control {
        item.refuse(refusal);
    }
    for item in publish {
        item.refuse(refusal);
    }
}
