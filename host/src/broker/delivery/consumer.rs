//! From a subscription's state to events in hand: leases positions, reads their blocks, applies transforms. Used
//! by consumers, whose connection sends the result, and by routes, which append it. Each caller reads for
//! itself; the state machine is locked only to lease and to answer.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::transform::{Disposition, TransformChain};
use crate::auth::{Policy, rights};
use crate::broker::commit::inbox::Inbox;
use crate::broker::commit::request::Control;
use crate::broker::counters::Counters;
use crate::broker::error::BrokerError;
use crate::broker::log::tail::Log;
use crate::broker::subscriptions::live::{LiveSubscription, Settings};
use crate::broker::subscriptions::registry::Registry;
use crate::domain::{
    Block, ConsumerId, Entries, FailurePolicy, Millis, PluginUse, Position, Principal, Sequence,
    TopicName,
};
use crate::plugin::{ConfigureError, Plugins};
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;
use crate::state::handed::Handing;
use crate::state::ranges::push_range;
use crate::state::{GiveUpReason, Lease};
use crate::store::ReadError;
use crate::telemetry::errors::with_causes;

/// Events leased at once. More would only lie around while they are read.
const LEASE_EVENTS_MAX: usize = 512;
/// How long an event that the store cannot read is left alone.
pub(crate) const UNREADABLE_MS: u64 = 10_000;

/// When to try again to set up transforms for which the broker had no instance left.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// What reading and answering need of the broker. Shared by all consumers and routes.
pub(crate) struct DeliveryParts {
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Log,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) catalog: Arc<std::sync::RwLock<Catalog>>,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) spawner: Spawner,
    pub(crate) policy: Arc<Policy>,
    /// Bytes of the largest event of a topic, without what the broker adds.
    pub(crate) event_bytes_max: usize,
    pub(crate) shutdown: tokio_util::sync::CancellationToken,
}

impl DeliveryParts {
    /// The topic of a block, as long as it exists.
    pub(crate) fn topic_of(&self, block: &Block) -> Option<TopicName> {
        let catalog = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        catalog.topic_name(block.topic)
    }

    /// The configured transforms of a subscription, made on first use.
    pub(crate) async fn transforms(
        &self,
        settings: &Settings,
    ) -> Result<Arc<TransformChain>, ConfigureError> {
        let configure = || async {
            let spec = &settings.spec;
            let label = |used: &PluginUse| self.label(spec.responsible(), used);
            let uses = spec.transforms.iter().map(|used| (used, label(used)));
            let chain = TransformChain::configure(&self.plugins, uses.collect()).await?;
            Ok(Arc::new(chain))
        };
        settings
            .transforms
            .get_or_try_init(configure)
            .await
            .cloned()
    }

    fn label(&self, whose: Option<&Principal>, used: &PluginUse) -> String {
        let catalog = self.catalog.read().unwrap_or_else(PoisonError::into_inner);
        catalog.plugin_label(&self.policy, whose, used)
    }
}

/// A delivery's entries of at least this many bytes are sent as they are, and kept until they have arrived. Shorter ones are
/// copied into what is sent, which is cheaper than a piece more in QUIC's queue, so until then they may be slices of something
/// much larger.
pub const SHARED_BYTES_MIN: usize = 2 * 1024;

/// Leased events that are neighbours in a block and have been handed out equally often, read. They are a slice of the block:
/// whoever keeps a run while waiting for anything detaches it first, or a few events keep a whole batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) topic: TopicName,
    pub(crate) first_position: Position,
    pub(crate) first_sequence: Sequence,
    pub(crate) time: Millis,
    pub(crate) attempt: u32,
    /// See [`Lease::suspect`].
    pub(crate) suspect: bool,
    entries: Entries,
    // Bytes of the entries that these are a slice of.
    within_bytes: usize,
}

impl Run {
    /// The events one by one, for guests, who take their time.
    pub(crate) fn into_events(mut self) -> Vec<Leased> {
        self.detach();
        let leased = |(index, event)| Leased {
            topic: self.topic.clone(),
            position: Position(self.first_position.0 + index),
            sequence: Sequence(self.first_sequence.0 + index),
            time: self.time,
            attempt: self.attempt,
            suspect: self.suspect,
            event,
        };
        (0..)
            .zip(self.entries.shared_events())
            .map(leased)
            .collect()
    }

    // Makes the events independent of their block, unless they are most of it.
    fn detach(&mut self) {
        let bytes = self.entries.bytes().len();
        if bytes * 2 < self.within_bytes {
            self.entries = self.entries.detached();
            self.within_bytes = bytes;
        }
    }
}

/// A leased event, read.
#[derive(Clone, Debug)]
pub(crate) struct Leased {
    pub(crate) topic: TopicName,
    pub(crate) position: Position,
    pub(crate) sequence: Sequence,
    pub(crate) time: Millis,
    pub(crate) attempt: u32,
    pub(crate) suspect: bool,
    pub(crate) event: Bytes,
}

/// How a consumer goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It only looks: it holds nothing, and nothing it does counts.
    Looks,
    /// It says what it hands to its application, with [`Consumer::handed_over`].
    Says,
    /// It does not say so: its application may have everything that was sent.
    Silent,
}

/// One taker of a subscription's events. Dropping it gives what it holds back at once.
pub(crate) struct Taker {
    // Its connection was lost, rather than that it or the broker ended it.
    is_cut: bool,
    // It only looks: what it finds out changes nothing.
    looks: bool,
    // What it has in hand; all it holds if it does not send it on.
    handing: Option<Arc<Mutex<Handing>>>,
    pub(crate) live: Arc<LiveSubscription>,
    pub(crate) id: ConsumerId,
    pub(crate) parts: Arc<DeliveryParts>,
}

impl Taker {
    fn attach(parts: Arc<DeliveryParts>, live: Arc<LiveSubscription>) -> Self {
        let id = live.next_consumer_id();
        live.lock().attach(id);
        live.consumers.fetch_add(1, Ordering::Relaxed);
        Self {
            is_cut: false,
            looks: false,
            handing: None,
            live,
            id,
            parts,
        }
    }

    /// One that answers everything by itself, and whose delays are no event's fault.
    pub(crate) fn attach_untimed(parts: Arc<DeliveryParts>, live: Arc<LiveSubscription>) -> Self {
        let taker = Self::attach(parts, live);
        taker.live.lock().attach_untimed(taker.id);
        taker
    }

    // One that sends what it takes to somebody else.
    fn attach_for(parts: Arc<DeliveryParts>, live: Arc<LiveSubscription>, manner: Manner) -> Self {
        let mut taker = Self::attach(parts, live);
        let handing = Arc::new(Mutex::new(Handing::new(manner == Manner::Says)));
        lock(&taker.live.handing).insert(taker.id, handing.clone());
        taker.handing = Some(handing);
        taker.looks = manner == Manner::Looks;
        let mut state = taker.live.lock();
        match manner {
            Manner::Looks => state.attach_to_look(taker.id),
            Manner::Says => state.attach_saying(taker.id),
            Manner::Silent => {}
        }
        drop(state);
        taker
    }

    fn handing<T>(&self, change: impl FnOnce(&mut Handing) -> T) -> Option<T> {
        let handing = self.handing.as_ref()?;
        Some(change(&mut lock(handing)))
    }

    /// Waits for events and leases and reads them. Each run is of one block, and rises.
    ///
    /// Cancel-safe: what a cancelled call had leased is given back.
    pub(crate) async fn take(
        &self,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Run>, BrokerError> {
        loop {
            let leases = self.lease(events_max.min(LEASE_EVENTS_MAX)).await?;
            let mut held = Held {
                taker: self,
                leases,
                read: 0,
                kept: 0,
            };
            let runs = self.read(&mut held, bytes_max).await;
            held.kept = held.read;
            if !runs.is_empty() {
                return Ok(runs);
            }
        }
    }

    async fn lease(&self, max: usize) -> Result<Vec<Lease>, BrokerError> {
        // What is handed out will be acked, and that has to wait somewhere while the disk stands still.
        tokio::select! {
            () = self.parts.registry.acks.room() => {}
            () = self.parts.shutdown.cancelled() => {}
        }
        let mut leases = Vec::new();
        loop {
            let notified = self.live.wake.notified();
            tokio::pin!(notified);
            // Registered before looking, so that nothing that comes between is missed.
            notified.as_mut().enable();
            if self.live.is_deleted() {
                return Err(BrokerError::SubscriptionGone(self.live.name.clone()));
            }
            if self.parts.shutdown.is_cancelled() {
                return Err(BrokerError::ShuttingDown);
            }
            let wakeup = {
                let mut state = self.live.lock();
                state.lease(self.id, max, self.parts.registry.clock.now(), &mut leases);
                state.next_wakeup()
            };
            self.parts.registry.arm(&self.live, wakeup);
            if !leases.is_empty() {
                let positions = leases.iter().map(|lease| lease.position);
                self.handing(|handing| handing.begin(positions));
                return Ok(leases);
            }
            tokio::select! {
                () = notified => {}
                () = self.parts.shutdown.cancelled() => {}
            }
        }
    }

    // Reads leased events until about `bytes_max`; what does not fit is given back by the caller's guard.
    async fn read(&self, held: &mut Held<'_>, bytes_max: usize) -> Vec<Run> {
        let mut runs = Runs::default();
        let mut missing = Vec::new();
        let mut unreadable = Unreadable::default();
        let mut block: Option<OpenBlock> = None;
        while let Some(lease) = held.leases.get(held.read).copied() {
            if runs.bytes >= bytes_max {
                break;
            }
            held.read += 1;
            // What shares a fate with the one before it is not asked for.
            if unreadable.covers(lease.position) {
                unreadable.add(lease.position);
                continue;
            }
            if !block
                .as_ref()
                .is_some_and(|open| open.covers(lease.position))
            {
                if let Some(open) = block.take() {
                    runs.close(&open);
                }
                let next = match self.parts.log.block_in_memory(lease.position) {
                    Some(next) => Ok(Some(next)),
                    None => {
                        runs.detach();
                        self.read_block(lease.position).await
                    }
                };
                match next.and_then(|next| self.open_block(next)) {
                    Ok(next) => block = next,
                    Err(error) => {
                        unreadable.found(lease.position, &error);
                        continue;
                    }
                }
            }
            let found = block
                .as_ref()
                .and_then(|open| Some((open, open.block.place(lease.position)?)));
            match found {
                Some((open, place)) => runs.add(open, place, (lease.attempt, lease.suspect)),
                None => push_range(&mut missing, lease.position..=lease.position),
            }
        }
        if let Some(open) = &block {
            runs.close(open);
        }
        if !missing.is_empty() {
            self.forget(&missing);
        }
        if !unreadable.ranges.is_empty() {
            self.postpone(&unreadable);
        }
        runs.done
    }

    // `None` when the event does not exist any more; an error says why it cannot be read.
    async fn read_block(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        self.parts.log.block_at(position).await
    }

    // `None` when there is no block, or its topic does not exist any more.
    fn open_block(&self, block: Option<Arc<Block>>) -> Result<Option<OpenBlock>, ReadError> {
        let Some(block) = block else {
            return Ok(None);
        };
        let Some(topic) = self.parts.topic_of(&block) else {
            return Ok(None);
        };
        let position = block.first_position;
        let damaged = |why| {
            let what = format!("the block at position {position} ({why})");
            ReadError::damaged(Path::new("store"), what)
        };
        OpenBlock::new(topic, block).map(Some).map_err(damaged)
    }

    // Events that the disk does not give back now. They stay pending and are tried again later; the others go on.
    fn postpone(&self, unreadable: &Unreadable) {
        let Unreadable { ranges, why, .. } = unreadable;
        self.parts.metrics.unreadable(count(ranges));
        if let Some(events) = self.live.log_limits.unreadable.admit(count(ranges)) {
            tracing::error!(
                subscription = %self.live.name,
                first = %ranges[0].start(),
                events,
                error = why,
                retry_ms = UNREADABLE_MS,
                "pending events cannot be read; they stay pending and are tried again"
            );
        }
        self.change(|state, now, id| state.postpone(id, ranges, now.plus(UNREADABLE_MS), now));
    }

    // Events that are pending but exist no more: there is nothing to deliver, ever.
    fn forget(&self, ranges: &[RangeInclusive<Position>]) {
        if self.looks {
            // Others have acked them since.
            return;
        }
        let count = count(ranges);
        self.parts.metrics.missing(count);
        let first = *ranges[0].start();
        let (letters, ranges) = self.parts.registry.given_up.split(ranges);
        if !letters.is_empty() {
            // They were in this one's hands when they were given up.
            self.change(|state, now, id| {
                for (range, reason) in letters {
                    state.postpone(id, std::slice::from_ref(&range), now, now);
                    state.give_up_pending(range, &reason);
                }
            });
        }
        if let Some(count) = self.live.log_limits.missing.admit(count) {
            tracing::warn!(
                subscription = %self.live.name,
                %first,
                count,
                "pending events do not exist any more (topic deleted, or a loss accepted); they count as done, those that were given up with a dead letter"
            );
        }
        self.parts.registry.ack_internally(&self.live, &ranges);
    }

    // There is nothing to deliver of these.
    fn done_with(&self, ranges: &[RangeInclusive<Position>]) {
        if !self.looks {
            self.parts.registry.ack_internally(&self.live, ranges);
        }
    }

    pub(crate) fn give_back(&self, positions: impl Iterator<Item = Position>) {
        let mut positions = positions.peekable();
        if positions.peek().is_some() {
            self.live.lock().give_back(self.id, positions);
            self.live.wake.notify_waiters();
        }
    }

    pub(crate) fn nack(&self, ranges: &[RangeInclusive<Position>], delay_ms: Option<u64>) {
        self.change(|state, now, id| state.nack(id, ranges, delay_ms, now));
    }

    /// Tries events again after so many milliseconds, for a reason that is not theirs: no attempt counts.
    pub(crate) fn put_back(&self, ranges: &[RangeInclusive<Position>], after_ms: u64) {
        self.change(|state, now, id| state.postpone(id, ranges, now.plus(after_ms), now));
    }

    pub(crate) fn term(&self, ranges: &[RangeInclusive<Position>], reason: &str) {
        self.change(|state, _, id| state.term(id, ranges, reason));
    }

    pub(crate) fn extend(&self, ranges: &[RangeInclusive<Position>]) {
        self.change(|state, now, id| state.extend(id, ranges, now));
    }

    pub(crate) fn give_up(&self, position: Position, reason: GiveUpReason) {
        self.change(|state, _, id| {
            state.give_up(id, position, &reason);
        });
    }

    fn change(
        &self,
        change: impl FnOnce(&mut crate::state::SubscriptionState, Millis, ConsumerId),
    ) {
        let (wakeup, given_up, strain) = {
            let mut state = self.live.lock();
            change(&mut state, self.parts.registry.clock.now(), self.id);
            (state.next_wakeup(), state.has_given_up(), state.strain())
        };
        self.live.log_limits.strain(&self.live.name, strain);
        self.parts.registry.arm(&self.live, wakeup);
        if given_up {
            self.parts.registry.queue_dead_letters(&self.live);
        }
        self.live.wake.notify_waiters();
    }

    /// Does what a transform's failure asks for; `Some` when the policy lets the event pass unchanged.
    pub(crate) fn settle(
        &self,
        leased: &Leased,
        disposition: Disposition,
    ) -> Option<Vec<super::transform::Output>> {
        let here = leased.position..=leased.position;
        match disposition {
            Disposition::Outputs(outputs) => return Some(outputs),
            _ if self.looks => return None,
            Disposition::Reject(reason) => {
                self.give_up(
                    leased.position,
                    GiveUpReason::TransformRejected(reason.into()),
                );
            }
            Disposition::Retry(reason) => {
                tracing::debug!(subscription = %self.live.name, position = %leased.position, reason, "a transform asks to try again");
                self.nack(&[here], None);
            }
            Disposition::Untried { reason, after } => {
                tracing::debug!(subscription = %self.live.name, position = %leased.position, reason, ?after, "a transform was not tried");
                let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
                self.put_back(&[here], after);
            }
            Disposition::Fault { policy, reason } => {
                if let Some(events) = self.live.log_limits.transform_failed.admit(1) {
                    tracing::warn!(subscription = %self.live.name, position = %leased.position, reason, ?policy, events, "a transform failed");
                    let said = format!(
                        "a transform failed on the event at position {} ({events} since the last line): {reason}",
                        leased.position
                    );
                    let now = self.parts.registry.clock.now();
                    self.live.log_limits.plugins.push(now, said);
                }
                match policy {
                    FailurePolicy::DeadLetter => {
                        let reason = GiveUpReason::TransformFailed(reason.into());
                        self.give_up(leased.position, reason);
                    }
                    FailurePolicy::Drop => self.parts.registry.ack_internally(&self.live, &[here]),
                    FailurePolicy::Pass => {
                        return Some(vec![super::transform::Output::unchanged(leased)]);
                    }
                    FailurePolicy::Pause => {
                        let mut state = self.live.lock();
                        state.give_back(self.id, [leased.position]);
                        state.pause(&format!(
                            "a transform failed at position {}: {reason}",
                            leased.position
                        ));
                    }
                }
            }
        }
        None
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.live.consumers.fetch_sub(1, Ordering::Relaxed);
        self.change(|state, now, id| {
            let handing = self.handing(|handing| (handing.all_unseen(), handing.says()));
            let (unseen, says) = handing.unwrap_or_default();
            match self.is_cut {
                true => state.cut(id, &unseen, says, now),
                false => state.detach(id, &unseen),
            }
        });
        // Only now: as long as it holds something, that may be asked for.
        lock(&self.live.handing).remove(&self.id);
    }
}

// Leases that go back when this is dropped, but for the first `kept`.
struct Held<'a> {
    taker: &'a Taker,
    leases: Vec<Lease>,
    read: usize,
    kept: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let rest = self.leases.get(self.kept..).unwrap_or_default();
        self.taker
            .give_back(rest.iter().map(|lease| lease.position));
    }
}

// Leased events whose block cannot be read, and why the first of them.
#[derive(Default)]
struct Unreadable {
    ranges: Vec<RangeInclusive<Position>>,
    why: String,
    // The stretch that was found last.
    known: Option<RangeInclusive<Position>>,
}

impl Unreadable {
    fn covers(&self, position: Position) -> bool {
        let known = self.known.as_ref();
        known.is_some_and(|known| known.contains(&position))
    }

    fn found(&mut self, position: Position, error: &ReadError) {
        if self.ranges.is_empty() {
            self.why = with_causes(error);
        }
        if let ReadError::Unreadable { first, last, .. } = error {
            self.known = Some(*first..=*last);
        }
        self.add(position);
    }

    fn add(&mut self, position: Position) {
        push_range(&mut self.ranges, position..=position);
    }
}

// Nothing of it can be half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(ranges: &[RangeInclusive<Position>]) -> u64 {
    let counts = ranges
        .iter()
        .map(|range| range.end().0 - range.start().0 + 1);
    counts.sum()
}

// Attempt and suspicion of a lease, which all events of a run share.
type Tried = (u32, bool);

// A block with its entries found.
struct OpenBlock {
    topic: TopicName,
    block: Arc<Block>,
    present: Entries,
}

impl OpenBlock {
    fn new(topic: TopicName, block: Arc<Block>) -> Result<Self, String> {
        let present = block.present();
        let present = present.map_err(|error| format!("a stored block is damaged: {error}"))?;
        Ok(Self {
            topic,
            block,
            present,
        })
    }

    fn covers(&self, position: Position) -> bool {
        self.block.first_position <= position && position <= self.block.last_position()
    }

    fn run(&self, places: Range<usize>, (attempt, suspect): Tried) -> Run {
        let first = self.block.index(places.start);
        Run {
            topic: self.topic.clone(),
            first_position: self.block.position(first),
            first_sequence: self.block.sequence(first),
            time: self.block.time,
            attempt,
            suspect,
            entries: self.present.part(places),
            within_bytes: self.present.bytes().len(),
        }
    }
}

// Runs in the making: the last one grows while events are neighbours in the open block.
#[derive(Default)]
struct Runs {
    done: Vec<Run>,
    // How many of those are detached.
    detached: usize,
    // Its places among the present events of the open block.
    growing: Option<(Range<usize>, Tried)>,
    bytes: usize,
}

impl Runs {
    fn add(&mut self, open: &OpenBlock, place: usize, tried: Tried) {
        self.bytes += open.present.event_len(place);
        if let Some((places, of_run)) = &mut self.growing
            && *of_run == tried
            && places.end == place
            && open.block.index(place - 1) + 1 == open.block.index(place)
        {
            places.end = place + 1;
            return;
        }
        self.close(open);
        self.growing = Some((place..place + 1, tried));
    }

    // Before anything is waited for.
    fn detach(&mut self) {
        let rest = self.done.get_mut(self.detached..).unwrap_or_default();
        rest.iter_mut().for_each(Run::detach);
        self.detached = self.done.len();
    }

    fn close(&mut self, open: &OpenBlock) {
        if let Some((places, tried)) = self.growing.take() {
            self.done.push(open.run(places, tried));
        }
    }
}

/// One consumer attached to a subscription. Dropping it detaches it, which gives its events back at once.
pub struct Consumer {
    taker: Taker,
    who: Principal,
    // Of which version of the policy the answer was that let it in.
    let_in_by: u64,
}

impl Consumer {
    pub(crate) fn attach(
        parts: Arc<DeliveryParts>,
        live: Arc<LiveSubscription>,
        manner: Manner,
        who: Principal,
        let_in_by: u64,
    ) -> Self {
        Self {
            taker: Taker::attach_for(parts, live, manner),
            who,
            let_in_by,
        }
    }

    /// Waits until whoever consumes may do so no more: grants were taken away, or the subscription has another owner.
    /// Cancel-safe.
    pub async fn denied(&self) -> BrokerError {
        let policy = &self.taker.parts.policy;
        let mut news = policy.watch();
        let mut known = self.let_in_by;
        loop {
            let version = *news.borrow_and_update();
            if version != known {
                known = version;
                let spec = self.spec();
                let may = rights::attach(policy, &self.who, spec.name.as_str(), Some(&spec));
                if let Err(denied) = may {
                    return denied.into();
                }
            }
            if news.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The subscription as it is now.
    #[must_use]
    pub fn spec(&self) -> Arc<crate::domain::SubscriptionSpec> {
        self.taker.live.settings().spec.clone()
    }

    /// Waits until something can be delivered and returns at most `events_max` events of at most about
    /// `bytes_max` bytes (one event may exceed it, so that a large event is not stuck for ever).
    ///
    /// # Errors
    ///
    /// The subscription was deleted, the broker is shutting down, its store cannot be read, or transforms that the
    /// subscription was changed to cannot be set up.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: events handed out to a cancelled call are given back.
    pub async fn next(
        &self,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let (events_max, bytes_max) = (events_max.max(1), bytes_max.max(1));
        loop {
            let runs = self.taker.take(events_max, bytes_max).await?;
            let deliveries = self.deliveries(runs).await?;
            if deliveries.is_empty() {
                continue;
            }
            let events: u64 = deliveries.iter().map(Delivery::count).sum();
            let bytes: usize = deliveries.iter().map(Delivery::bytes).sum();
            self.taker.parts.metrics.delivered(events, bytes as u64);
            self.taker
                .handing(|handing| handing.fetched(deliveries.iter().map(Delivery::range)));
            return Ok(deliveries);
        }
    }

    // With the transforms that the subscription has now.
    async fn deliveries(&self, runs: Vec<Run>) -> Result<Vec<Delivery>, BrokerError> {
        let settings = self.taker.live.settings();
        if settings.spec.transforms.is_empty() {
            return Ok(runs.into_iter().map(Delivery::from).collect());
        }
        let leased: Vec<Leased> = runs.into_iter().flat_map(Run::into_events).collect();
        // Given back if this call is dropped while it waits.
        let guard = InHand {
            taker: &self.taker,
            positions: leased.iter().map(|l| l.position).collect(),
        };
        let transforms = match self.taker.parts.transforms(&settings).await {
            Ok(transforms) => transforms,
            Err(error) if error.is_passing() => {
                tracing::warn!(subscription = %self.taker.live.name, %error, "transforms cannot be set up now; trying again");
                drop(guard);
                tokio::time::sleep(BUSY_RETRY).await;
                return Ok(Vec::new());
            }
            Err(error) => return Err(BrokerError::Invalid(with_causes(&error))),
        };
        let dispositions = transforms.apply(&leased).await;
        guard.done();
        let rest = leased.get(dispositions.len()..).unwrap_or_default();
        self.taker
            .give_back(rest.iter().map(|leased| leased.position));
        let mut deliveries = Vec::with_capacity(leased.len());
        for (leased, disposition) in leased.into_iter().zip(dispositions) {
            let Some(outputs) = self.taker.settle(&leased, disposition) else {
                continue;
            };
            if outputs.is_empty() {
                let here = leased.position..=leased.position;
                self.taker.done_with(&[here]);
            } else {
                let parts = outputs.into_iter().map(|output| output.event).collect();
                deliveries.push(Delivery {
                    topic: leased.topic,
                    position: leased.position,
                    sequence: leased.sequence,
                    time: leased.time,
                    attempt: leased.attempt,
                    suspect: leased.suspect,
                    body: Body::Made(parts),
                });
            }
        }
        Ok(deliveries)
    }

    /// The events are done with. Positions that this consumer does not hold are ignored.
    pub fn ack(&self, positions: &[RangeInclusive<Position>]) {
        self.taker
            .parts
            .registry
            .ack(&self.taker.live, self.taker.id, positions);
    }

    /// Like [`ack`](Self::ack), and completes once the acks are on disk.
    pub fn ack_confirmed(
        &self,
        positions: &[RangeInclusive<Position>],
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        self.ack(positions);
        let inbox = self.taker.parts.inbox.clone();
        async move { inbox.ask(Control::ConfirmAcks).await }
    }

    /// Deliver again, after `delay_ms` or the subscription's back-off.
    pub fn nack(&self, positions: &[RangeInclusive<Position>], delay_ms: Option<u64>) {
        self.taker.nack(positions, delay_ms);
    }

    /// To the dead-letter topic.
    pub fn term(&self, positions: &[RangeInclusive<Position>], reason: &str) {
        self.taker.term(positions, reason);
    }

    /// Starts the ack deadline anew.
    pub fn extend(&self, positions: &[RangeInclusive<Position>]) {
        self.taker.extend(positions);
    }

    /// Of what [`next`](Self::next) returned, so many deliveries are on their way now, in that order, and of these the
    /// `ranges`; the others cannot be sent.
    pub fn sent(
        &self,
        deliveries: usize,
        ranges: impl IntoIterator<Item = RangeInclusive<Position>>,
    ) {
        self.taker.handing(|handing| {
            handing.is_sent(deliveries);
            ranges.into_iter().for_each(|range| handing.sent(range));
        });
    }

    /// The application may have got so many events of all that were sent. For those it still holds, the ack deadline begins.
    pub fn handed_over(&self, events: u64) {
        let Taker {
            live, parts, id, ..
        } = &self.taker;
        // Locked for both, so that nobody finds the events handed over and their deadline not begun.
        let mut state = live.lock();
        let ranges = self.taker.handing(|handing| handing.handed_over(events));
        let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) else {
            return;
        };
        let handed = state.handed_over(*id, &ranges, parts.registry.clock.now());
        drop(state);
        parts.registry.arm(live, handed.deadline);
        if handed.goes_on {
            live.wake.notify_waiters();
        }
    }

    /// Ends it because its connection is lost: what the application may have had in hand becomes suspect. Dropping it
    /// otherwise detaches it: nothing counts as an attempt.
    pub fn cut(mut self) {
        self.taker.is_cut = true;
    }

    /// Gives events back that were handed out but not sent; this attempt does not count.
    pub fn give_back(&self, positions: impl Iterator<Item = Position>) {
        self.taker.give_back(positions);
    }
}

// Positions that go back if the call that holds them is dropped.
struct InHand<'a> {
    taker: &'a Taker,
    positions: Vec<Position>,
}

impl InHand<'_> {
    fn done(mut self) {
        self.positions.clear();
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.taker.give_back(self.positions.iter().copied());
    }
}

/// Events for a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Their topic.
    pub topic: TopicName,
    /// Place of the first event in the broker; acks name it. The others follow without a gap.
    pub position: Position,
    /// Place of the first event in its topic. The others follow without a gap.
    pub sequence: Sequence,
    /// When they were appended.
    pub time: Millis,
    /// How often they have been handed out, this time included.
    pub attempt: u32,
    /// A consumer that had them before lost its connection.
    pub suspect: bool,
    /// What they say.
    pub body: Body,
}

/// What a [`Delivery`] holds.
#[derive(Clone, Debug)]
pub enum Body {
    /// Events as they are stored: at least one. Fewer bytes than [`SHARED_BYTES_MIN`] may keep much more in memory.
    Stored(Entries),
    /// The parts that transforms made of one event, encoded: at least one.
    Made(Vec<Bytes>),
}

impl Delivery {
    /// How many events are delivered, each of which is acked by its position.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.body {
            Body::Stored(entries) => u64::from(entries.count()),
            Body::Made(_) => 1,
        }
    }

    /// Bytes of the encoded events: what a consumer's credit counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.body {
            Body::Stored(entries) => entries.event_bytes(),
            Body::Made(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    /// First and last position of the events.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<Position> {
        let last = self.position.0 + self.count().saturating_sub(1);
        self.position..=Position(last)
    }

    /// Positions of the events.
    pub fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        let first = self.position.0;
        (first..first + self.count()).map(Position)
    }
}

impl From<Run> for Delivery {
    fn from(mut run: Run) -> Self {
        if run.entries.bytes().len() >= SHARED_BYTES_MIN {
            run.detach();
        }
        Self {
            topic: run.topic,
            position: run.first_position,
            sequence: run.first_sequence,
            time: run.time,
            attempt: run.attempt,
            suspect: run.suspect,
            body: Body::Stored(run.entries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BlockBuilder, TopicId};

    fn open(lengths: &[usize]) -> OpenBlock {
        let mut builder = BlockBuilder::default();
        for length in lengths {
            builder.push(&vec![7; *length]);
        }
        let block = builder.finish(TopicId(1), Position(10), Sequence(3), Millis(0));
        OpenBlock::new("a".parse().expect("a name"), Arc::new(block)).expect("sound block")
    }

    fn is_slice(open: &OpenBlock, bytes: &[u8]) -> bool {
        open.block.entries.as_ptr_range().contains(&bytes.as_ptr())
    }

    #[test]
    fn neighbours_of_one_attempt_are_one_run() {
        let open = open(&[1, 2, 3, 4]);
        let mut runs = Runs::default();
        for (place, attempt) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
            runs.add(&open, place, (attempt, false));
        }
        runs.add(&open, 1, (2, false));
        runs.close(&open);
        let found = |run: &Run| {
            (
                run.first_position.0,
                run.first_sequence.0,
                run.entries.count(),
            )
        };
        let found: Vec<_> = runs.done.iter().map(found).collect();
        assert_eq!(found, [(10, 3, 2), (12, 5, 2), (11, 4, 1)]);
        assert_eq!(runs.bytes, 12);
    }

    #[test]
    fn a_delivery_is_a_slice_when_it_is_copied_at_once_or_most_of_its_block() {
        let open = open(&[100, SHARED_BYTES_MIN, 4 * SHARED_BYTES_MIN]);
        let shares = |places: Range<usize>| {
            let delivery = Delivery::from(open.run(places, (1, false)));
            let Body::Stored(entries) = delivery.body else {
                panic!("nobody has made anything of it");
            };
            is_slice(&open, entries.bytes())
        };
        assert!(shares(0..1), "short");
        assert!(!shares(1..2), "kept until it has arrived");
        assert!(shares(1..3), "most of the block");
    }

    #[test]
    fn what_waits_for_a_disk_or_a_guest_does_not_keep_its_block() {
        let open = open(&[1, 100]);
        let mut runs = Runs::default();
        runs.add(&open, 0, (1, false));
        runs.close(&open);
        assert!(is_slice(&open, runs.done[0].entries.bytes()));
        runs.detach();
        assert!(!is_slice(&open, runs.done[0].entries.bytes()));
        assert!(!is_slice(
            &open,
            &open.run(0..1, (1, false)).into_events()[0].event
        ));
        assert!(is_slice(
            &open,
            &open.run(1..2, (1, false)).into_events()[0].event
        ));
    }
}
