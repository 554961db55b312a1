//! The checkpointer: one thread that keeps the journal short. Before the journal drops a file, what in it is still
//! undelivered to somebody goes into a sealed generation together with the broker's state; a generation that
//! nobody needs any more is deleted whole. Neither ever holds the committer up: it is asked once for a mark.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::still_needed::{is_mostly_acked, is_needed, keep, keep_for};
use super::{reclaim, saved_state};
use crate::broker::commit::inbox::Inbox;
use crate::broker::commit::request::Mark;
use crate::broker::counters::Counters;
use crate::broker::error::Unavailable;
use crate::broker::event_log::tail::{Log, Releasing};
use crate::broker::event_log::unreadable_conditions::Watch;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::broker::subscriptions::registry::Registry;
use crate::broker::task_names::ROUTER;
use crate::domain::{CommitNumber, Position, SubscriptionId, TopicId, TopicName};
use crate::runtime::clock::Clock;
use crate::runtime::{executor, thread_priority};
use crate::state::GiveUpReason;
use crate::state::release::Release;
use crate::store::{BlockMeta, CheckpointError, Checkpoints, Folders, Loss, StoreReader};
use crate::telemetry::conditions::{Condition, Conditions};
use crate::telemetry::error_line::with_causes;

/// How often generations are looked at while there are any.
pub(super) const RECLAIM_EVERY: Duration = Duration::from_millis(500);
/// At most this often a checkpoint is made only to let acked events of the newest generations go.
pub(super) const RELEASE_EVERY: Duration = Duration::from_secs(5);
/// How long a failed checkpoint waits before the next try, at first and at most. One that does not fit may fit once consumers have
/// drained something, and takes what the disk has left until it fails again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(16);
/// A part of a checkpoint is made only if it frees so much more than it takes for good.
const EASED_BYTES_MIN: u64 = 64 << 10;
/// When the disk has so much more room than after it failed, it is tried again at once.
const FREED_BYTES_MIN: u64 = 16 << 20;

/// What the checkpointer is made with.
pub(crate) struct CheckpointerParts {
    pub(crate) checkpoints: Checkpoints,
    pub(crate) folders: Arc<Folders>,
    pub(crate) reader: StoreReader,
    pub(crate) log: Log,
    pub(crate) registry: Arc<Registry>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) clock: Clock,
    /// Somebody asks for a checkpoint.
    pub(crate) due: Arc<Notify>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) conditions: Conditions,
    pub(crate) decisions: mpsc::Receiver<Decision>,
}

pub(crate) struct Checkpointer {
    pub(super) parts: CheckpointerParts,
    last_checkpoint: Instant,
    unreadable: Watch,
    // A file of the journal is not there any more.
    misses_file: bool,
    // Of a checkpoint that failed: the next try is made as of the same moment, or each would begin a journal file of its own.
    mark: Option<Mark>,
    retry: Option<Retry>,
}

/// An operator's word about what cannot be read: it is given up.
pub(crate) struct Decision {
    /// Subscriptions for which it is pending get a dead letter for each event, with what is known.
    pub(crate) dead_letters: bool,
    /// What was given up.
    pub(crate) done: oneshot::Sender<Result<Vec<Loss>, String>>,
}

// What the checkpointer is waked for.
enum Due {
    Checkpoint,
    /// Nothing but time.
    Look,
    Decision(Decision),
}

// When a failed checkpoint is tried again.
struct Retry {
    at: Instant,
    pause: Duration,
    // What the disk had left after the last try.
    free_bytes: Option<u64>,
}

/// Why a checkpoint was not made.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the committer gave no mark")]
    Mark(#[source] Unavailable),
    #[error("the generation was not written")]
    Write(#[source] CheckpointError),
    #[error("the router died, so nobody knows what is still needed: {0}")]
    Router(String),
    #[error("the broker is stopping")]
    Stopping,
}

impl Retry {
    // With this much it is tried again at once.
    fn more_bytes(&self) -> Option<u64> {
        let free = self.free_bytes?;
        Some(free.saturating_add(FREED_BYTES_MIN))
    }
}

impl Failed {
    fn is_full(&self) -> bool {
        matches!(self, Self::Write(CheckpointError::NoRoom(_)))
    }
}

impl Checkpointer {
    pub(crate) fn new(mut parts: CheckpointerParts) -> Self {
        // The journal keeps everything, and the next start need not wait for this one's end.
        let shutdown = parts.shutdown.clone();
        parts
            .checkpoints
            .give_up_when(move || shutdown.is_cancelled());
        Self {
            last_checkpoint: parts.clock.instant(),
            parts,
            unreadable: Watch::default(),
            misses_file: false,
            mark: None,
            retry: None,
        }
    }

    /// Runs on the calling thread until shutdown, and waits with the timers of `runtime`. A checkpoint under way then is given
    /// up after its step, or finished if that was the last; it is never half named.
    pub(crate) fn run(mut self, runtime: &Handle) {
        // It has until the journal is full, and what it takes from publishers and consumers on a busy machine they feel at once.
        // sled's threads are begun by this one and inherit it.
        thread_priority::give_way();
        executor::wait_on(runtime, async { while self.turn().await {} });
    }

    /// Waits until there is something to do, and does it. It blocks while it reads and writes. Answers whether there will be more;
    /// nothing comes after the shutdown.
    pub(super) async fn turn(&mut self) -> bool {
        let parts = &mut self.parts;
        let due = tokio::select! {
            biased;
            () = parts.shutdown.cancelled(), if !planted!(CheckpointerGoesOn) => return false,
            Some(decision) = parts.decisions.recv() => Due::Decision(decision),
            () = parts.due.notified() => Due::Checkpoint,
            () = tokio::time::sleep(RECLAIM_EVERY) => Due::Look,
        };
        let asked = matches!(due, Due::Checkpoint);
        if let Due::Decision(decision) = due {
            self.give_up(decision);
        }
        // It goes on from where it is once the store is back in its place.
        if self.parts.folders.lost().is_some() {
            return true;
        }
        self.save_missing_file();
        if self.is_time(asked) {
            self.checkpoint_or_retry().await;
        }
        let parts = &mut self.parts;
        let state_only =
            reclaim::delete_unneeded(&mut parts.checkpoints, &parts.registry, &parts.log);
        let is_long_ago = self.since_last_checkpoint() > RELEASE_EVERY;
        if is_long_ago && (state_only || self.fills_the_disk_in_vain()) {
            self.ask();
        }
        self.parts.reader.try_unneeded();
        let unreadable = self.parts.reader.unreadable();
        self.unreadable.update(&self.parts.conditions, &unreadable);
        let checkpoints = &mut self.parts.checkpoints;
        if checkpoints.is_short() && checkpoints.replenish().is_ok() {
            self.parts.inbox.wake();
        }
        true
    }

    // Whether the disk is full while the journal has files that nobody needs. For its own sake the journal asks for a checkpoint only
    // when it is long, which it may never become on a small disk.
    fn fills_the_disk_in_vain(&self) -> bool {
        let is_full = self.parts.conditions.reason(&Condition::DiskFull).is_some();
        is_full && self.retry.is_none() && self.releasable_before(CommitNumber(u64::MAX)).is_some()
    }

    // Asks itself for a checkpoint. While a failed one waits that would change nothing, but for turns without a pause between them
    // until it is tried again.
    fn ask(&self) {
        if self.retry.is_none() {
            self.parts.due.notify_one();
        }
    }

    // Whoever asks while a failed checkpoint waits gets the one that is tried again.
    fn is_time(&self, asked: bool) -> bool {
        match &self.retry {
            None => asked,
            Some(retry) => {
                let free = self.parts.checkpoints.free_bytes();
                let has_more = free.zip(retry.more_bytes());
                retry.at <= self.parts.clock.instant()
                    || has_more.is_some_and(|(free, wanted)| free > wanted)
            }
        }
    }

    fn since_last_checkpoint(&self) -> Duration {
        let now = self.parts.clock.instant();
        now.saturating_duration_since(self.last_checkpoint)
    }

    // What is in a journal file that somebody removed is there as long as it is open. A checkpoint moves it out of there, together
    // with what is written to it until then.
    fn save_missing_file(&mut self) {
        let Some(path) = self.parts.reader.missing_journal_file() else {
            if std::mem::take(&mut self.misses_file) {
                self.parts.conditions.clear(&Condition::JournalFileLost);
            }
            return;
        };
        // All of the folder may be elsewhere, which is another condition.
        if self.parts.folders.look().is_some() {
            return;
        }
        let why = format!(
            "{} was removed or replaced; what is in it is still open, and is saved by a checkpoint: do not stop the broker before \
             this is over",
            path.display()
        );
        self.parts.conditions.raise(Condition::JournalFileLost, why);
        if !self.misses_file || self.since_last_checkpoint() > RELEASE_EVERY {
            self.ask();
        }
        self.misses_file = true;
    }

    async fn checkpoint_or_retry(&mut self) {
        let mut made = self.checkpoint().await;
        if made.as_ref().is_err_and(Failed::is_full) && self.parts.checkpoints.release_reserve() {
            made = self.checkpoint().await;
        }
        let eased = made.as_ref().is_err_and(Failed::is_full) && self.ease().await;
        if eased {
            reached!(CheckpointInPart);
            // There is more room now, so the next try comes soon.
            self.retry = None;
        }
        match made {
            Ok(()) => {
                self.retry = None;
                self.parts.conditions.clear(&Condition::CheckpointFails);
            }
            Err(Failed::Stopping | Failed::Mark(Unavailable::ShuttingDown)) => return,
            Err(error) => {
                reached!(CheckpointFailed);
                let why = with_causes(&error);
                let why = format!("{why}; the journal keeps everything, and it is tried again");
                self.parts.conditions.raise(Condition::CheckpointFails, why);
                let pause = match &self.retry {
                    Some(retry) => (retry.pause * 2).min(RETRY_AFTER_MAX),
                    None => RETRY_AFTER,
                };
                let at = self.parts.clock.instant() + pause;
                self.retry = Some(Retry {
                    at,
                    pause,
                    free_bytes: self.parts.checkpoints.free_bytes(),
                });
            }
        }
        // The reserve may have been taken, and its room be there again.
        if let Err(error) = self.parts.checkpoints.replenish() {
            tracing::debug!(%error, "the reserve is not whole");
        }
        // Publishers may have been waiting for the room, or for being told that there is none.
        self.parts.inbox.wake();
    }

    async fn checkpoint(&mut self) -> Result<(), Failed> {
        let mut mark = match self.mark.take() {
            Some(mark) => {
                reached!(CheckpointTriedAgain);
                mark
            }
            None => {
                let asked = self.parts.inbox.ask_mark().await;
                asked.map_err(Failed::Mark)?
            }
        };
        // Whoever asked for one before the mark gets this one.
        let _ = self.parts.due.notified().now_or_never();
        let end = mark.group;
        let made = self.checkpoint_as_of(&mut mark, end).await;
        if made.is_err() {
            self.mark = Some(mark);
        }
        made
    }

    // What does not fit as a whole may fit in part: the oldest journal files go, as far as nobody needs their events, and the
    // others stay. The state says then which groups of those it has in it. Answers whether any went.
    async fn ease(&mut self) -> bool {
        let Some(mut mark) = self.mark.take() else {
            return false;
        };
        let made = match self.releasable_before(mark.group) {
            Some(end) => {
                let made = self.checkpoint_as_of(&mut mark, end).await;
                made.map(|()| true)
            }
            None => Ok(false),
        };
        self.mark = Some(mark);
        made.unwrap_or_else(|error| {
            tracing::debug!(error = %with_causes(&error), "no part of a checkpoint fits either");
            false
        })
    }

    // Up to where the journal is worth letting go of without the rest. That is mostly what nobody needs. Where somebody needs
    // a little of the oldest file, that moves, and the file goes.
    fn releasable_before(&self, mark: CommitNumber) -> Option<CommitNumber> {
        self.parts.registry.tell_followers();
        let subscriptions = self.parts.registry.all();
        let segments = self.parts.checkpoints.journal_segments(mark);
        let unneeded = segments
            .iter()
            .take_while(|segment| !is_needed(&subscriptions, &segment.positions))
            .count();
        let going = match unneeded {
            0 if segments
                .first()
                .is_some_and(|oldest| is_mostly_acked(&subscriptions, oldest)) =>
            {
                1
            }
            unneeded => unneeded,
        };
        let going = segments.get(..going)?;
        let bytes: u64 = going.iter().map(|segment| segment.bytes).sum();
        let is_worth_it = bytes > self.parts.checkpoints.state_bytes() + EASED_BYTES_MIN;
        going.last().filter(|_| is_worth_it).map(|last| last.end)
    }

    // Writes down the state as of `mark`, and what somebody needs of the journal files before the group `end`, which go.
    async fn checkpoint_as_of(&mut self, mark: &mut Mark, end: CommitNumber) -> Result<(), Failed> {
        self.wait_for_router(mark.end).await?;
        let blocks = self.parts.checkpoints.journal_blocks(end);
        // What leaves is out of sight until this ends, however it does. Without blocks nothing leaves.
        let known = match end < mark.group {
            true => mark.group,
            false => CommitNumber(0),
        };
        let Needs {
            releasing,
            state,
            decided,
        } = self.needs(mark, known, &blocks);
        let reader = self.parts.reader.clone();
        let kept = releasing.iter().flat_map(|releasing| {
            let keep = |meta| keep(releasing.release(), &reader, meta).transpose();
            blocks.iter().filter_map(keep)
        });
        let info = self
            .parts
            .checkpoints
            .write_generation(end, kept, state.into_iter())
            .map_err(|error| match error {
                CheckpointError::GivenUp => Failed::Stopping,
                error => Failed::Write(error),
            })?;
        if let Some(releasing) = releasing {
            releasing.done();
        }
        for (live, through) in decided {
            live.checkpointed(through);
        }
        self.last_checkpoint = self.parts.clock.instant();
        self.parts.metrics.checkpointed();
        tracing::debug!(generation = %info.id, events = info.events, bytes = info.bytes, "checkpoint");
        Ok(())
    }

    // What the router has not seen would look unwanted.
    async fn wait_for_router(&self, end: Position) -> Result<(), Failed> {
        if planted!(CheckpointBeforeRouter) {
            return Ok(());
        }
        let mut routed = self.parts.registry.followers.routed_before();
        tokio::select! {
            biased;
            () = self.parts.shutdown.cancelled() => Err(Failed::Stopping),
            reached = routed.wait_for(|before| *before >= end) => {
                reached.map(|_| ()).map_err(|_| Failed::Stopping)
            }
            why = self.router_died() => Err(Failed::Router(why)),
        }
    }

    // Completes when the router is dead, which nobody else would tell.
    async fn router_died(&self) -> String {
        let died = Condition::TaskDied(ROUTER.into());
        loop {
            tokio::time::sleep(RECLAIM_EVERY).await;
            if let Some(why) = self.parts.conditions.reason(&died) {
                return why;
            }
        }
    }

    // The state of all subscriptions, and which events of `blocks` some of them still need. Each is looked at once, under its
    // lock, so that what its snapshot says is pending is what is kept for it. With it, up to where each has decided: what
    // has nothing left to judge then is not written down. Groups before `known` stay in the journal though the state has them.
    fn needs(&self, mark: &mut Mark, known: CommitNumber, blocks: &[BlockMeta]) -> Needs {
        let routed_before = self.parts.registry.tell_followers();
        // As of the mark, since what the groups after it say comes on top, and tells when the wall was set back.
        let (at, wall_ahead_ms) = (mark.at, mark.wall_ahead_ms);
        let names: HashMap<TopicId, TopicName> = mark
            .catalog
            .topics_by_id
            .iter()
            .map(|(id, topic)| (*id, topic.spec.name.clone()))
            .collect();
        let bounds = blocks.first().zip(blocks.last());
        let bounds = bounds.map(|(first, last)| first.first_position..=last.last_position);
        let mut release = Release::new(bounds);
        let mut snapshots = Vec::new();
        let mut decided = Vec::new();
        let mut looked_at: HashSet<SubscriptionId> = HashSet::new();
        for live in self.parts.registry.all() {
            let (snapshot, evaluated) = keep_for(&mut release, &live, &names, |state| {
                (state.snapshot(wall_ahead_ms), state.evaluated_through())
            });
            looked_at.insert(live.id);
            if let Some(subscription) = mark.catalog.subscriptions.get_mut(&live.id) {
                subscription.forget_chains(evaluated);
                snapshots.push((live.id, snapshot));
                decided.push((live, evaluated));
            }
        }
        let state = saved_state::encode(
            &mark.catalog,
            mark.end,
            routed_before,
            known,
            mark.producers.clone(),
            snapshots,
            at,
        );
        let releasing = self.parts.log.release(|| {
            // Those that have come since the first look, which takes a while, and may have read the log already.
            let subscriptions = self.parts.registry.all();
            for live in subscriptions
                .iter()
                .filter(|live| !looked_at.contains(&live.id))
            {
                keep_for(&mut release, live, &names, |_| ());
            }
            (!blocks.is_empty()).then_some(release)
        });
        Needs {
            releasing,
            state,
            decided,
        }
    }

    fn give_up(&mut self, decision: Decision) {
        let subscriptions = self.parts.registry.all();
        let letters = |losses: &[Loss]| {
            let lost = losses
                .iter()
                .filter_map(|loss| Some((loss, loss.positions?)));
            for (loss, (first, last)) in lost.filter(|_| decision.dead_letters) {
                let why = loss.path.display().to_string();
                let reason = GiveUpReason::Unreadable(why.into());
                self.parts
                    .registry
                    .given_up
                    .add((first, last), reason.clone());
                for live in &subscriptions {
                    live.apply(|state, _| state.give_up_pending(first..=last, &reason));
                }
            }
        };
        let given_up = self.parts.checkpoints.give_up_damage(false, letters);
        for loss in given_up.iter().flatten() {
            reached!(DamageGivenUp);
            tracing::error!(%loss, kept_aside = ?loss.kept_aside, "what cannot be read was given up, as an operator asked");
        }
        // Whoever asked may have gone.
        let _ = decision
            .done
            .send(given_up.map_err(|error| with_causes(&error)));
    }
}

/// What a checkpoint finds when it has looked at all subscriptions.
struct Needs {
    /// The blocks that are looked at, and what of them somebody needs; `None` without any.
    releasing: Option<Releasing>,
    /// The state as pairs of keys and values.
    state: Vec<(bytes::Bytes, bytes::Bytes)>,
    /// Up to where each subscription has decided, as that state has it.
    decided: Vec<(Arc<LiveSubscription>, Position)>,
}
