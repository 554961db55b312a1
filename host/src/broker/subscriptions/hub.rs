//! The subscriptions of the running broker. Each has a [`Cell`]: its state machine behind a short mutex, shared
//! by its consumers, the router, its lanes and the timer. The hub finds cells, routes committed blocks to
//! unfiltered subscriptions, fires deadlines, and collects acks for the committer. Nothing here does I/O but
//! the router's reads, and no lock is held across an await.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Bound, RangeInclusive};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::given_up::GivenUp;
use super::plugin_log::PluginLog;
use crate::broker::commit::pending_acks::PendingAcks;
use crate::broker::delivery::transform::TransformChain;
use crate::broker::log::tail::Log;
use crate::domain::{
    Block, ConsumerId, Digest, LetterMark, Millis, Name, Position, SubscriptionId,
    SubscriptionSpec, TopicId, TopicName,
};
use crate::runtime::clock::Clock;
use crate::state::catalog::Subscription;
use crate::state::filter_chain::FilterChain;
use crate::state::handed::Handing;
use crate::state::ranges::push_range;
use crate::state::{Strain, SubscriptionState, TopicInterests, Unseen};
use crate::telemetry::errors::with_causes;
use crate::telemetry::log_limit::LogLimit;

/// Bytes of blocks the router looks at before it hands out what it found.
const ROUTER_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A live subscription or route.
pub(crate) struct Cell {
    pub(crate) id: SubscriptionId,
    pub(crate) name: Name,
    form: RwLock<Arc<Form>>,
    // Those that judge or will judge, in order, and perhaps some that have nothing left to judge.
    chains: RwLock<Vec<Arc<FilterChain>>>,
    state: Mutex<SubscriptionState>,
    /// Wakes everybody who waits for something to hand out.
    pub(crate) wake: Notify,
    deleted: AtomicBool,
    // Earliest moment for which the timer is armed; `u64::MAX` when it is not.
    armed_at: AtomicU64,
    // In the queue of the dead-letter task already, at work there, or resting before it is queued again.
    dead_letters_queued: AtomicBool,
    next_consumer: AtomicU64,
    pub(crate) consumers: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    pub(crate) letters_dropped: AtomicU64,
    // Follows the router, rather than a lane or a catch-up of its own.
    routed: AtomicBool,
    // The revision of the chain that lanes or a catch-up were last started for, and one more; 0: none yet.
    followed: AtomicU64,
    // Up to where everything is decided according to the newest checkpoint. A crash goes back no further.
    evaluated_on_disk: AtomicU64,
    // The position at which its filters or its catching up stand because it cannot be read; 0: nowhere.
    stands_at: AtomicU64,
    /// What each consumer was sent and its application has not got. Locked after the state, if both are.
    pub(crate) handing: Mutex<HashMap<ConsumerId, Arc<Mutex<Handing>>>>,
    /// The oldest pending position that was asked for, and when it was appended.
    pub(crate) oldest: Mutex<(Position, Millis)>,
    pub(crate) said: Said,
}

/// What the log has been told of a subscription lately.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) filter_failed: LogLimit,
    pub(crate) transform_failed: LogLimit,
    pub(crate) given_up: LogLimit,
    pub(crate) letters_dropped: LogLimit,
    pub(crate) unreadable: LogLimit,
    pub(crate) missing: LogLimit,
    pub(crate) stalled: LogLimit,
    /// That its dead letters wait for a right of its owner.
    pub(crate) letters_wait: AtomicBool,
    /// The same of its plugins' failures, for whoever the subscription belongs to.
    pub(crate) plugins: PluginLog,
    strain: Mutex<Strain>,
}

impl Said {
    /// The limits that the subscription has reached are these now; says so when they were others.
    pub(crate) fn strain(&self, subscription: &Name, strain: Strain) {
        let before = std::mem::replace(&mut *lock(&self.strain), strain);
        if before == strain {
            return;
        }
        let limits: Vec<&str> = strain.names().collect();
        match limits.is_empty() {
            true => {
                tracing::info!(%subscription, "the subscription is below its limits again");
            }
            false => {
                tracing::warn!(%subscription, limits = limits.join(" "), "the subscription has reached a limit and goes on less exactly; see `Limits` in the book");
            }
        }
    }
}

/// What a subscription is from now on, until it is changed again. Whoever works on a batch takes one and keeps it for
/// that batch.
pub(crate) struct Form {
    pub(crate) spec: Arc<SubscriptionSpec>,
    /// How often it was changed before.
    pub(crate) revision: u32,
    pub(crate) dead_letter: TopicName,
    /// Set up on first use, then shared by all consumers; and by later forms as long as they are the same.
    pub(crate) transforms: Arc<tokio::sync::OnceCell<Arc<TransformChain>>>,
}

impl Form {
    fn new(subscription: &Subscription, before: Option<&Self>) -> Arc<Self> {
        let spec = subscription.spec.clone();
        let same = before.filter(|before| before.spec.transforms == spec.transforms);
        Arc::new(Self {
            dead_letter: spec.dead_letter_topic(),
            transforms: same.map_or_else(Arc::default, |same| same.transforms.clone()),
            revision: subscription.revision,
            spec,
        })
    }
}

impl Cell {
    pub(crate) fn new(
        id: SubscriptionId,
        subscription: &Subscription,
        state: SubscriptionState,
    ) -> Arc<Self> {
        let cell = Arc::new(Self {
            id,
            name: subscription.spec.name.clone(),
            form: RwLock::new(Form::new(subscription, None)),
            chains: RwLock::default(),
            state: Mutex::new(state),
            wake: Notify::new(),
            deleted: AtomicBool::new(false),
            armed_at: AtomicU64::new(u64::MAX),
            dead_letters_queued: AtomicBool::new(false),
            next_consumer: AtomicU64::new(1),
            consumers: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            letters_dropped: AtomicU64::new(0),
            routed: AtomicBool::new(false),
            followed: AtomicU64::new(0),
            evaluated_on_disk: AtomicU64::new(0),
            oldest: Mutex::default(),
            said: Said::default(),
            stands_at: AtomicU64::new(0),
            handing: Mutex::default(),
        });
        cell.update(subscription);
        cell
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SubscriptionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It stands at an event that cannot be read, or does not any more, says who feeds it for the chain `revision`; unless that
    /// judges no more.
    pub(crate) fn stand_at(&self, revision: u32, position: Option<Position>) {
        let state = self.lock();
        if state.revision() == revision {
            let position = position.map_or(0, |position| position.0);
            self.stands_at.store(position, Ordering::Relaxed);
        }
    }

    pub(crate) fn stands_at(&self) -> Option<Position> {
        let position = self.stands_at.load(Ordering::Relaxed);
        (position > 0).then_some(Position(position))
    }

    /// What a consumer's application has not got; nothing is known of some.
    fn unseen_of(&self, consumer: ConsumerId) -> Option<Unseen> {
        let handing = lock(&self.handing).get(&consumer).cloned()?;
        let unseen = lock(&handing).unseen();
        Some(unseen)
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn next_consumer_id(&self) -> ConsumerId {
        ConsumerId(self.next_consumer.fetch_add(1, Ordering::Relaxed))
    }

    /// What it is now.
    pub(crate) fn form(&self) -> Arc<Form> {
        let form = self.form.read().unwrap_or_else(PoisonError::into_inner);
        form.clone()
    }

    /// Makes it what the catalog says. Repeating it changes nothing. Returns whether the state learned of filters that it
    /// did not know.
    pub(crate) fn update(&self, subscription: &Subscription) -> bool {
        {
            // Before the state: whoever finds a revision there looks for its chain here.
            let mut chains = self.chains.write().unwrap_or_else(PoisonError::into_inner);
            for chain in subscription.chains() {
                if chains.iter().all(|known| known.revision < chain.revision) {
                    chains.push(chain.clone());
                }
            }
        }
        {
            let mut form = self.form.write().unwrap_or_else(PoisonError::into_inner);
            *form = Form::new(subscription, Some(&form));
        }
        let mut state = self.lock();
        state.set_policy(subscription.spec.delivery.clone());
        let mut changed = false;
        for chain in subscription.chains() {
            changed |= state.change_filters(chain.revision, chain.from, chain.filters.len());
        }
        changed
    }

    /// Whether every chain that its state goes by is known.
    pub(crate) fn knows_its_filters(&self) -> bool {
        let revisions: Vec<(u32, usize)> = self.lock().revisions().collect();
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        revisions.into_iter().all(|(revision, stages)| {
            let mut chains = chains.iter();
            chains.any(|chain| chain.revision == revision && chain.filters.len() == stages)
        })
    }

    /// What it is fed by has to be started anew.
    pub(crate) fn forget_followed(&self) {
        self.followed.store(0, Ordering::Release);
    }

    /// The chain to start lanes or a catch-up for, if that is still to be done. Called by the supervisor only.
    pub(crate) fn follow_next(&self) -> Option<Arc<FilterChain>> {
        let revision = self.lock().revision();
        let followed = u64::from(revision) + 1;
        if self.followed.swap(followed, Ordering::AcqRel) == followed {
            return None;
        }
        // Where the one before stood is nothing to this one, which says itself where it stands.
        self.stands_at.store(0, Ordering::Relaxed);
        let mut chains = self.chains.write().unwrap_or_else(PoisonError::into_inner);
        chains.retain(|chain| chain.revision >= revision);
        chains
            .first()
            .filter(|chain| chain.revision == revision)
            .cloned()
    }

    /// The fence of its newest filters, when they are not those it was created with.
    pub(crate) fn fence(&self) -> Option<Position> {
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        let newest = chains.last().filter(|chain| chain.revision > 0);
        newest.map(|chain| chain.from)
    }

    /// Whether events of `topic` with this mark that are appended now are for this subscription.
    pub(crate) fn selects(&self, topic: &TopicName, mark: LetterMark) -> bool {
        let form = self.form();
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        let newest = chains.last();
        newest.is_some_and(|chain| chain.selects(&form.spec, topic, mark))
    }

    /// Whether events of `topic` that are not decided yet may be for this subscription, dead letters or not.
    pub(crate) fn may_select(&self, topic: &TopicName) -> bool {
        let form = self.form();
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        // Who takes in a topic's letters takes in its ordinary events.
        let mut chains = chains.iter();
        chains.any(|chain| chain.selects(&form.spec, topic, LetterMark::Ordinary))
    }

    /// Whether a plugin's lane judges for it, or will when its next filters take over.
    pub(crate) fn is_judged_by(&self, digest: Digest) -> bool {
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        let mut used = chains.iter().flat_map(|chain| chain.filters.iter());
        used.any(|used| used.digest == Some(digest))
    }

    /// Whether the router feeds it. A subscription that starts in the past, or whose events lanes filter, is fed by others.
    pub(crate) fn is_routed(&self) -> bool {
        self.routed.load(Ordering::Acquire)
    }

    /// A checkpoint on disk says that everything up to here is decided.
    pub(crate) fn checkpointed(&self, evaluated: Position) {
        self.evaluated_on_disk
            .fetch_max(evaluated.0, Ordering::AcqRel);
    }

    /// Up to where everything is decided for good: a crash changes nothing about it.
    pub(crate) fn evaluated_on_disk(&self) -> Position {
        Position(self.evaluated_on_disk.load(Ordering::Acquire))
    }
}

/// All live subscriptions. Shared by every task.
pub(crate) struct Hub {
    pub(crate) clock: Clock,
    subscriptions: RwLock<Subscriptions>,
    // Changes whenever a subscription comes or goes or starts to be routed.
    version: AtomicU64,
    router: Mutex<RouterState>,
    routed_through: watch::Sender<Position>,
    timers: Mutex<BTreeSet<(Millis, SubscriptionId)>>,
    timers_changed: Notify,
    /// Those that the committer has not taken yet.
    pub(crate) acks: PendingAcks,
    ack_waker: Box<dyn Fn() + Send + Sync>,
    dead_letters: mpsc::UnboundedSender<Arc<Cell>>,
    starts: mpsc::UnboundedSender<Start>,
    /// What an operator gave up.
    pub(crate) given_up: GivenUp,
}

/// What the supervisor is to start or to end. A few for each subscription and each of its changes, so their queue is bounded.
pub(crate) enum Start {
    /// Everything that a new subscription needs.
    Created(Arc<Cell>),
    /// What feeds a subscription whose next filters have taken over.
    Filters(Arc<Cell>),
    /// The lanes of a subscription once more.
    Anew(Arc<Cell>),
    /// Nothing any more: it was deleted, and what runs for it ends.
    Deleted(Arc<Cell>),
}

/// Whether a subscription could join the router.
pub(crate) enum Join {
    /// The router feeds it from here on.
    Joined,
    /// It has not seen what the router has, up to this position.
    Behind(Position),
    /// It is not, or will not be for long, a subscription without filters.
    Changing,
}

#[derive(Default)]
struct Subscriptions {
    by_id: HashMap<SubscriptionId, Arc<Cell>>,
    by_name: BTreeMap<Name, Arc<Cell>>,
    routes: BTreeMap<Name, Arc<Cell>>,
    interests: TopicInterests,
}

#[derive(Default)]
struct RouterState {
    // First position the router has not looked at.
    cursor: Position,
    version: u64,
    // For ordinary events and for dead letters.
    targets: HashMap<(TopicId, bool), Arc<[Arc<Cell>]>>,
}

impl Hub {
    /// `ack_waker` tells the committer that acks wait for it; cells with events to dead-letter go to
    /// `dead_letters`, each at most once at a time, so that queue is bounded by the number of subscriptions. What is to be
    /// started goes to `starts`.
    pub(crate) fn new(
        clock: Clock,
        cursor: Position,
        ack_waker: Box<dyn Fn() + Send + Sync>,
        dead_letters: mpsc::UnboundedSender<Arc<Cell>>,
        starts: mpsc::UnboundedSender<Start>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            subscriptions: RwLock::default(),
            version: AtomicU64::new(1),
            router: Mutex::new(RouterState {
                cursor,
                ..RouterState::default()
            }),
            routed_through: watch::Sender::new(cursor),
            timers: Mutex::default(),
            timers_changed: Notify::new(),
            acks: PendingAcks::default(),
            ack_waker,
            dead_letters,
            starts,
            given_up: GivenUp::default(),
        })
    }

    /// Adds a live subscription. Called by the committer before the blocks of the same group become readable.
    pub(crate) fn insert(&self, cell: Arc<Cell>) {
        let mut all = self
            .subscriptions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let spec = cell.form().spec.clone();
        all.interests.insert(cell.id, &spec.topics);
        if spec.is_route() {
            all.routes.insert(cell.name.clone(), cell.clone());
        }
        all.by_name.insert(cell.name.clone(), cell.clone());
        all.by_id.insert(cell.id, cell);
        drop(all);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Removes a subscription; its consumers end.
    pub(crate) fn remove(&self, id: SubscriptionId) -> Option<Arc<Cell>> {
        let mut all = self
            .subscriptions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let cell = all.by_id.remove(&id)?;
        all.interests.remove(id);
        all.by_name.remove(&cell.name);
        all.routes.remove(&cell.name);
        drop(all);
        self.version.fetch_add(1, Ordering::AcqRel);
        cell.deleted.store(true, Ordering::Release);
        cell.wake.notify_waiters();
        self.acks.forget(id);
        Some(cell)
    }

    pub(crate) fn by_id(&self, id: SubscriptionId) -> Option<Arc<Cell>> {
        self.read().by_id.get(&id).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Arc<Cell>> {
        self.read().by_name.get(name).cloned()
    }

    /// All, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Cell>> {
        self.read().by_name.values().cloned().collect()
    }

    /// Up to `count` of them after the one called `after`, or the first ones, by name.
    pub(crate) fn page(&self, after: Option<&str>, count: usize) -> Vec<Arc<Cell>> {
        page(&self.read().by_name, after, count)
    }

    /// The same of those that are routes.
    pub(crate) fn page_of_routes(&self, after: Option<&str>, count: usize) -> Vec<Arc<Cell>> {
        page(&self.read().routes, after, count)
    }

    /// How many subscriptions, and how many routes, there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let all = self.read();
        (all.by_name.len() - all.routes.len(), all.routes.len())
    }

    /// Subscriptions that select events of `topic` with this mark.
    pub(crate) fn selecting(&self, topic: &TopicName, mark: LetterMark) -> Vec<Arc<Cell>> {
        let mut cells: Vec<_> = {
            let all = self.read();
            let ids = all.interests.select(topic);
            let cells = ids.iter().filter_map(|id| all.by_id.get(id));
            cells.cloned().collect()
        };
        // Each has locks of its own; who comes and goes does not wait for them.
        cells.retain(|cell| cell.selects(topic, mark));
        cells
    }

    /// Whether any selects what is published to `topic`.
    pub(crate) fn is_selected(&self, topic: &TopicName) -> bool {
        let all = self.read();
        let selects = |id| {
            let cell = all.by_id.get(&id);
            cell.is_some_and(|cell| cell.selects(topic, LetterMark::Ordinary))
        };
        all.interests.any(topic, selects)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Subscriptions> {
        self.subscriptions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    // ── acks ────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes acks of a consumer. They are durable with the next group.
    pub(crate) fn ack(
        &self,
        cell: &Cell,
        consumer: ConsumerId,
        ranges: &[RangeInclusive<Position>],
    ) {
        let mut acked = Vec::new();
        let made_room = {
            let mut state = cell.lock();
            let before = state.has_deliverable();
            let testing = state.is_testing();
            state.ack(Some(consumer), ranges, &mut acked);
            testing || !before && state.has_deliverable()
        };
        if acked.is_empty() {
            return;
        }
        self.record_acks(cell.id, acked);
        if made_room {
            cell.wake.notify_waiters();
        }
    }

    /// The broker itself is done with an event: it was dropped by a transform or does not exist any more.
    pub(crate) fn ack_internally(&self, cell: &Cell, ranges: &[RangeInclusive<Position>]) {
        let mut acked = Vec::new();
        cell.lock().ack(None, ranges, &mut acked);
        if !acked.is_empty() {
            self.record_acks(cell.id, acked);
            // Others may have waited for the room.
            cell.wake.notify_waiters();
        }
    }

    fn record_acks(&self, id: SubscriptionId, acked: Vec<RangeInclusive<Position>>) {
        self.acks.add(id, acked);
        (self.ack_waker)();
    }

    /// Acks that were taken for a group and could not be written now wait for the next one.
    pub(crate) fn ack_again(&self, id: SubscriptionId, acked: Vec<RangeInclusive<Position>>) {
        if self.by_id(id).is_some() {
            self.record_acks(id, acked);
        }
    }

    // ── giving up ───────────────────────────────────────────────────────────────────────────────────────

    /// Tells the dead-letter task that `cell` has given events up.
    pub(crate) fn queue_dead_letters(&self, cell: &Arc<Cell>) {
        if !cell.dead_letters_queued.swap(true, Ordering::AcqRel) {
            // The receiver only ends with the broker.
            let _ = self.dead_letters.send(cell.clone());
        }
    }

    /// The dead-letter task is done with `cell`. Whatever it has given up meanwhile is queued now.
    pub(crate) fn dead_letters_done(&self, cell: &Arc<Cell>) {
        cell.dead_letters_queued.store(false, Ordering::Release);
        // Whoever gave something up before this look found the mark; whoever does after it finds none.
        if cell.lock().has_given_up() && !cell.is_deleted() {
            self.queue_dead_letters(cell);
        }
    }

    // ── timers ──────────────────────────────────────────────────────────────────────────────────────────

    /// Arms the timer for what the subscription waits for next. Call it after anything that may have set an earlier deadline.
    pub(crate) fn arm(&self, cell: &Cell, wakeup: Option<Millis>) {
        let Some(at) = wakeup else { return };
        let armed = cell.armed_at.load(Ordering::Acquire);
        if at.0 >= armed {
            return;
        }
        let mut timers = lock(&self.timers);
        let armed = cell.armed_at.load(Ordering::Acquire);
        if at.0 >= armed {
            return;
        }
        timers.remove(&(Millis(armed), cell.id));
        timers.insert((at, cell.id));
        cell.armed_at.store(at.0, Ordering::Release);
        let is_first = timers.first().is_some_and(|(first, _)| *first >= at);
        drop(timers);
        if is_first {
            self.timers_changed.notify_one();
        }
    }

    /// Fires ack deadlines, back-offs and the like until shutdown.
    pub(crate) async fn run_timers(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let first = lock(&self.timers).first().map(|(at, _)| *at);
            let sleep = async {
                match first {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at).into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.timers_changed.notified() => continue,
                () = sleep => {}
            }
            self.fire(self.clock.now());
        }
    }

    fn fire(&self, now: Millis) {
        let due: Vec<SubscriptionId> = {
            let mut timers = lock(&self.timers);
            let later = timers.split_off(&(now.plus(1), SubscriptionId(0)));
            std::mem::replace(&mut *timers, later)
                .into_iter()
                .map(|(_, id)| id)
                .collect()
        };
        for cell in due.into_iter().filter_map(|id| self.by_id(id)) {
            cell.armed_at.store(u64::MAX, Ordering::Release);
            self.tick(&cell, now);
        }
    }

    /// Takes up the deadlines and the unwritten dead letters of a subscription that was read from disk.
    pub(crate) fn arm_after_recovery(&self, cell: &Arc<Cell>) {
        self.tick(cell, self.clock.now());
    }

    fn tick(&self, cell: &Arc<Cell>, now: Millis) {
        let (deliverable, wakeup, given_up, strain, stalled) = {
            let mut state = cell.lock();
            let before = state.stalled();
            let deliverable = state.tick(now, |consumer| cell.unseen_of(consumer));
            let given_up = state.has_given_up();
            let stalled = state.stalled().saturating_sub(before) as u64;
            let wakeup = state.next_wakeup();
            (deliverable, wakeup, given_up, state.strain(), stalled)
        };
        cell.said.strain(&cell.name, strain);
        if let Some(consumers) = cell.said.stalled.admit(stalled) {
            tracing::warn!(subscription = %cell.name, consumers, "consumers' applications take nothing of what they were sent; it goes to others without an attempt, and they get nothing more until they go on");
        }
        self.arm(cell, wakeup);
        if given_up {
            self.queue_dead_letters(cell);
        }
        if deliverable {
            cell.wake.notify_waiters();
        }
    }

    // ── router ──────────────────────────────────────────────────────────────────────────────────────────

    /// First position the router has not looked at.
    pub(crate) fn routed_through(&self) -> watch::Receiver<Position> {
        self.routed_through.subscribe()
    }

    /// Feeds committed blocks to the unfiltered subscriptions that follow the end of the log, until shutdown.
    pub(crate) async fn run_router(
        self: Arc<Self>,
        log: Log,
        topic_name: impl Fn(TopicId) -> Option<TopicName> + Send,
        shutdown: CancellationToken,
    ) {
        let mut end = log.watch_end();
        loop {
            let cursor = lock(&self.router).cursor;
            // Taken before reading: what is appended meanwhile must not be skipped below.
            let at = log.end();
            match log.blocks_from(cursor, ROUTER_BATCH_BYTES).await {
                Ok(blocks) if blocks.is_empty() => {
                    if cursor < at {
                        // Positions that no block holds: skipped after an unclean start.
                        self.route(&[], at, &topic_name);
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        changed = end.wait_for(|end| *end > at) => if changed.is_err() { return },
                    }
                }
                Ok(blocks) => {
                    let through = blocks
                        .last()
                        .map_or(cursor, |block| block.last_position().next());
                    self.route(&blocks, through, &topic_name);
                }
                Err(error) => {
                    tracing::error!(%cursor, error = %with_causes(&error), "cannot read what was just committed; trying again");
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    }
                }
            }
        }
    }

    fn route(
        &self,
        blocks: &[Arc<Block>],
        next: Position,
        topic_name: &impl Fn(TopicId) -> Option<TopicName>,
    ) {
        let mut matched: HashMap<SubscriptionId, (Arc<Cell>, Vec<RangeInclusive<Position>>)> =
            HashMap::new();
        let mut router = lock(&self.router);
        let version = self.version.load(Ordering::Acquire);
        if router.version != version {
            router.version = version;
            router.targets.clear();
        }
        for block in blocks {
            let key = (block.topic, block.mark.is_letter());
            let targets = match router.targets.get(&key) {
                Some(targets) => targets.clone(),
                None => {
                    let targets = self.targets(block.topic, block.mark, topic_name);
                    router.targets.insert(key, targets.clone());
                    targets
                }
            };
            for cell in targets.iter() {
                let (_, ranges) = matched
                    .entry(cell.id)
                    .or_insert_with(|| (cell.clone(), Vec::new()));
                push_range(
                    ranges,
                    block.first_position.max(router.cursor)..=block.last_position(),
                );
            }
        }
        for (cell, ranges) in matched.into_values() {
            let Some(last) = ranges.last() else { continue };
            cell.lock().observe(*last.end(), ranges.iter().cloned());
            cell.wake.notify_waiters();
        }
        router.cursor = next;
        self.routed_through.send_replace(next);
    }

    fn targets(
        &self,
        topic: TopicId,
        mark: LetterMark,
        topic_name: &impl Fn(TopicId) -> Option<TopicName>,
    ) -> Arc<[Arc<Cell>]> {
        let Some(name) = topic_name(topic) else {
            return Arc::new([]);
        };
        let mut cells = self.selecting(&name, mark);
        cells.retain(|cell| cell.is_routed());
        cells.into()
    }

    /// Lets the router feed `cell` from here on, if the cell has no filters and has seen everything the router has.
    pub(crate) fn join_router(&self, cell: &Cell) -> Join {
        let router = lock(&self.router);
        let seen = {
            let state = cell.lock();
            if state.stages() > 0 || state.judges_until() != Position(u64::MAX) {
                return Join::Changing;
            }
            state.evaluated_through().next()
        };
        if seen < router.cursor {
            return Join::Behind(router.cursor);
        }
        cell.routed.store(true, Ordering::Release);
        self.version.fetch_add(1, Ordering::AcqRel);
        Join::Joined
    }

    // The router, whose lock the caller holds until the cell says why, feeds it no longer, and has shown it everything up to
    // its cursor.
    fn leave_router(&self, router: &RouterState, cell: &Cell) {
        if !cell.routed.swap(false, Ordering::AcqRel) {
            return;
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        let through = Position(router.cursor.0.saturating_sub(1));
        cell.lock().observe(through, std::iter::empty());
        // What is left of its present chain needs a catch-up.
        cell.forget_followed();
    }

    // ── changes ─────────────────────────────────────────────────────────────────────────────────────────

    /// Makes `cell` what the catalog says since a change. Called by the committer before the blocks of the same group become
    /// readable, so that nobody has judged anything at or past the fence.
    pub(crate) fn update(&self, cell: &Arc<Cell>, subscription: &Subscription, fenced: bool) {
        {
            let router = lock(&self.router);
            if fenced {
                self.leave_router(&router, cell);
            }
            cell.update(subscription);
        }
        if fenced {
            self.start(Start::Filters(cell.clone()));
        }
        cell.wake.notify_waiters();
    }

    /// Lets nothing more be decided for `cell` until the change `revision`, and returns the first position that is
    /// undecided.
    pub(crate) fn freeze(&self, cell: &Cell, revision: u32) -> Position {
        let router = lock(&self.router);
        self.leave_router(&router, cell);
        cell.lock().freeze(revision)
    }

    /// The change `revision` for which `cell` was frozen will not come: what feeds it begins anew, since lanes may have taken it for
    /// the end of what it judges.
    pub(crate) fn thaw(&self, cell: &Arc<Cell>, revision: u32) {
        let (is_frozen, is_filtered) = {
            let mut state = cell.lock();
            (state.thaw(revision), state.stages() > 0)
        };
        if !is_frozen {
            return;
        }
        // A catch-up goes on by itself; whoever has left the router gets one.
        self.start(match is_filtered {
            true => Start::Anew(cell.clone()),
            false => Start::Filters(cell.clone()),
        });
        cell.wake.notify_waiters();
    }

    /// What fed `cell` has died: it is paused for that reason, and fed anew once it is resumed.
    pub(crate) fn pause_unfed(&self, cell: &Cell, why: &str) {
        cell.forget_followed();
        cell.lock().pause(why);
        cell.wake.notify_waiters();
    }

    /// Hands something to the supervisor.
    pub(crate) fn start(&self, start: Start) {
        // The receiver ends with the broker only.
        let _ = self.starts.send(start);
    }

    /// Tells every routed subscription how far the router is, so that their checkpoints say it. Returns that
    /// position.
    pub(crate) fn settle(&self) -> Position {
        let router = lock(&self.router);
        let Some(through) = router.cursor.0.checked_sub(1).map(Position) else {
            return router.cursor;
        };
        for cell in self.all().iter().filter(|cell| cell.is_routed()) {
            cell.lock().observe(through, std::iter::empty());
        }
        router.cursor
    }
}

fn page(all: &BTreeMap<Name, Arc<Cell>>, after: Option<&str>, count: usize) -> Vec<Arc<Cell>> {
    let after = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rest = all.range::<str, _>((after, Bound::Unbounded));
    rest.take(count).map(|(_, cell)| cell.clone()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
