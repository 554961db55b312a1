//! From a subscription's state to events in hand: positions are leased, their blocks read, and what becomes of each event is
//! answered. Used by consumers, whose connection sends the events, and by routes, which append what they make of them. Each reads
//! for itself; the state is locked only to lease and to answer.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::context::DeliveryContext;
use super::leased_events::{LeasedEvent, LeasedSlice, LeasedSlices, OpenBlock};
use super::transform_chain::{Disposition, Output};
use super::unreadable_in_hand::{RETRY_MS, UnreadableEvents};
use crate::broker::error::{ConsumeError, Unavailable};
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::{
    Block, ConsumerId, FailurePolicy, Millis, PluginWorld, Position, plugin_pause,
};
use crate::locks::lock;
use crate::state::handover::Handover;
use crate::state::range_map::push_range;
use crate::state::{GiveUpReason, Lease, SubscriptionState};
use crate::store::ReadError;

/// Events leased at once. More would only lie around while they are read.
const LEASE_EVENTS_MAX: usize = bound!(512, 8);

/// How a consumer goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It only looks: it holds nothing, and nothing it does counts.
    Looks,
    /// It says what it hands to its application, with [`Consumer::handed_over`](super::consumer::Consumer::handed_over).
    Says,
    /// It does not say so: its application may have everything that was sent.
    Silent,
}

/// One fetcher of a subscription's events. Dropping it gives what it holds back at once.
pub(crate) struct Fetcher {
    // Its connection was lost, rather than that it or the broker ended it.
    pub(super) is_cut: bool,
    // It only looks: what it finds out changes nothing.
    looks: bool,
    // How far what it holds has come on its way to an application. Nothing for a route, which sends nothing on.
    handing: Option<Arc<Mutex<Handover>>>,
    pub(crate) live: Arc<LiveSubscription>,
    pub(crate) id: ConsumerId,
    pub(crate) context: Arc<DeliveryContext>,
}

impl Fetcher {
    fn attach(context: Arc<DeliveryContext>, live: Arc<LiveSubscription>) -> Self {
        let id = live.next_consumer_id();
        live.apply(|state, _| state.attach(id));
        live.consumers.fetch_add(1, Ordering::Relaxed);
        Self {
            is_cut: false,
            looks: false,
            handing: None,
            live,
            id,
            context,
        }
    }

    /// One that answers everything by itself, and whose delays are no event's fault.
    pub(crate) fn attach_untimed(
        context: Arc<DeliveryContext>,
        live: Arc<LiveSubscription>,
    ) -> Self {
        let fetcher = Self::attach(context, live);
        fetcher
            .live
            .apply(|state, _| state.attach_untimed(fetcher.id));
        fetcher
    }

    // One that sends what it takes to somebody else.
    pub(super) fn attach_for(
        context: Arc<DeliveryContext>,
        live: Arc<LiveSubscription>,
        manner: Manner,
    ) -> Self {
        let mut fetcher = Self::attach(context, live);
        let handing = Arc::new(Mutex::new(Handover::new(manner == Manner::Says)));
        lock(&fetcher.live.handing).insert(fetcher.id, handing.clone());
        fetcher.handing = Some(handing);
        fetcher.looks = manner == Manner::Looks;
        fetcher.live.apply(|state, _| match manner {
            Manner::Looks => state.attach_to_look(fetcher.id),
            Manner::Says => state.attach_saying(fetcher.id),
            Manner::Silent => {}
        });
        fetcher
    }

    pub(super) fn handing<T>(&self, change: impl FnOnce(&mut Handover) -> T) -> Option<T> {
        let handing = self.handing.as_ref()?;
        Some(change(&mut lock(handing)))
    }

    /// Waits for events and leases and reads them. Each slice is of one block, and rises.
    ///
    /// Cancel-safe: what a cancelled call had leased is given back.
    pub(crate) async fn take(
        &self,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<LeasedSlice>, ConsumeError> {
        loop {
            let leases = self.lease(events_max.min(LEASE_EVENTS_MAX)).await?;
            let mut held = LeaseGuard {
                fetcher: self,
                leases,
                read: 0,
                kept: 0,
            };
            let slices = self.read(&mut held, bytes_max).await;
            held.kept = held.read;
            if !slices.is_empty() {
                return Ok(slices);
            }
        }
    }

    async fn lease(&self, max: usize) -> Result<Vec<Lease>, ConsumeError> {
        // What is handed out will be acked, and that has to wait somewhere while the disk stands still.
        tokio::select! {
            biased;
            () = self.context.inbox.ack_room() => {}
            () = self.context.shutdown.cancelled() => {}
        }
        let mut leases = Vec::new();
        loop {
            let notified = self.live.woken();
            tokio::pin!(notified);
            // Registered before looking, so that nothing that comes between is missed.
            notified.as_mut().enable();
            if self.live.is_deleted() {
                return Err(ConsumeError::Gone(self.live.name.clone()));
            }
            if self.context.shutdown.is_cancelled() {
                return Err(Unavailable::ShuttingDown.into());
            }
            // Both in one, so that no deadline passes of what nobody knows to be on its way.
            self.live.apply(|state, now| {
                state.lease(self.id, max, now, &mut leases);
                let positions = leases.iter().map(|lease| lease.position);
                if !leases.is_empty() {
                    self.handing(|handing| handing.begin(positions));
                }
            });
            if !leases.is_empty() {
                return Ok(leases);
            }
            tokio::select! {
                biased;
                () = notified => {}
                () = self.context.shutdown.cancelled() => {}
            }
        }
    }

    // Reads leased events until about `bytes_max`; what does not fit is given back by the caller's guard.
    async fn read(&self, held: &mut LeaseGuard<'_>, bytes_max: usize) -> Vec<LeasedSlice> {
        let mut slices = LeasedSlices::default();
        let mut missing = Vec::new();
        let mut unreadable = UnreadableEvents::default();
        let mut block: Option<OpenBlock> = None;
        while let Some(lease) = held.leases.get(held.read).copied() {
            if slices.bytes >= bytes_max {
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
                    slices.close(&open);
                }
                let next = match self.context.log.block_in_memory(lease.position) {
                    Some(next) => Ok(Some(next)),
                    None => {
                        slices.detach();
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
                Some((open, place)) => slices.add(open, place, (lease.attempt, lease.suspect)),
                None => push_range(&mut missing, lease.position..=lease.position),
            }
        }
        if let Some(open) = &block {
            slices.close(open);
        }
        if !missing.is_empty() {
            self.forget(&missing);
        }
        if !unreadable.ranges().is_empty() {
            self.postpone(&unreadable);
        }
        slices.done
    }

    // `None` when the event does not exist any more; an error says why it cannot be read.
    async fn read_block(&self, position: Position) -> Result<Option<Arc<Block>>, ReadError> {
        self.context.log.block_at(position).await
    }

    // `None` when there is no block, or its topic does not exist any more.
    fn open_block(&self, block: Option<Arc<Block>>) -> Result<Option<OpenBlock>, ReadError> {
        let Some(block) = block else {
            return Ok(None);
        };
        let Some(topic) = self.context.topic_of(&block) else {
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
    fn postpone(&self, unreadable: &UnreadableEvents) {
        let (ranges, why) = (unreadable.ranges(), unreadable.why());
        self.context.metrics.unreadable(count(ranges));
        if let Some(events) = self.live.log_limits.unreadable.admit(count(ranges)) {
            tracing::error!(
                subscription = %self.live.name,
                position = %ranges[0].start(),
                events,
                error = why,
                retry_ms = RETRY_MS,
                "pending events cannot be read; they stay pending and are tried again"
            );
        }
        self.put_back(ranges, RETRY_MS);
    }

    // Events that are pending but exist no more: there is nothing to deliver, ever.
    fn forget(&self, ranges: &[RangeInclusive<Position>]) {
        if self.looks {
            // Others have acked them since.
            return;
        }
        let count = count(ranges);
        self.context.metrics.missing(count);
        let position = *ranges[0].start();
        let (letters, ranges) = self.context.registry.given_up.split(ranges);
        if !letters.is_empty() {
            // They were in this one's hands when they were given up.
            self.live.apply(|state, now| {
                for (range, reason) in letters {
                    state.postpone(self.id, std::slice::from_ref(&range), now, now);
                    state.give_up_pending(range, &reason);
                }
            });
        }
        if let Some(events) = self.live.log_limits.missing.admit(count) {
            tracing::warn!(
                subscription = %self.live.name,
                %position,
                events,
                "pending events do not exist any more (topic deleted, or a loss accepted); they count as done, those that were given up with a dead letter"
            );
        }
        self.finish(&ranges);
    }

    /// There is nothing to deliver of these.
    pub(super) fn finish(&self, ranges: &[RangeInclusive<Position>]) {
        if !self.looks {
            self.live.apply(|state, _| state.finish(ranges));
        }
    }

    pub(crate) fn give_back(&self, positions: impl Iterator<Item = Position>) {
        let mut positions = positions.peekable();
        if positions.peek().is_some() {
            self.live
                .apply(|state, _| state.give_back(self.id, positions));
        }
    }

    /// Once the subscription is deleted nobody holds anything of it, whatever its state says.
    pub(super) fn answer(
        &self,
        ranges: &[RangeInclusive<Position>],
        answer: impl FnOnce(&mut SubscriptionState, Millis) -> Vec<RangeInclusive<Position>>,
    ) -> Vec<RangeInclusive<Position>> {
        let late = match self.live.is_deleted() {
            true if self.looks => Vec::new(),
            true => ranges.to_vec(),
            false => self.live.apply(answer),
        };
        if !late.is_empty() {
            self.context.metrics.late_answers(count(&late));
        }
        late
    }

    /// Tries events again after so many milliseconds, for a reason that is not theirs: no attempt counts.
    pub(crate) fn put_back(&self, ranges: &[RangeInclusive<Position>], after_ms: u64) {
        self.live
            .apply(|state, now| state.postpone(self.id, ranges, now.plus(after_ms), now));
    }

    pub(crate) fn give_up(&self, position: Position, reason: GiveUpReason) {
        self.live
            .apply(|state, _| state.give_up(self.id, position, &reason));
    }

    /// What goes on of events after their transforms, in order; what these ask for beside that is done. When one of them pauses
    /// the subscription, nothing after its event goes on, and nothing has happened to it.
    pub(super) fn conclude_all(
        &self,
        results: impl IntoIterator<Item = (LeasedEvent, Disposition)>,
    ) -> Vec<(LeasedEvent, Vec<Output>)> {
        let mut results = results.into_iter();
        let mut going_on = Vec::with_capacity(results.size_hint().0);
        while let Some((leased, disposition)) = results.next() {
            let pauses = !self.looks && disposition.pauses();
            if let Some(outputs) = self.conclude(&leased, disposition) {
                going_on.push((leased, outputs));
            }
            if pauses {
                // Nobody else gets them now.
                self.give_back(results.map(|(leased, _)| leased.position));
                break;
            }
        }
        going_on
    }

    // What goes on of one.
    fn conclude(&self, leased: &LeasedEvent, disposition: Disposition) -> Option<Vec<Output>> {
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
            Disposition::Retry { plugin, reason } => {
                tracing::debug!(subscription = %self.live.name, topic = %leased.topic, %plugin, position = %leased.position, reason, "a transform asks to try again");
                self.live.apply(|state, now| {
                    state.nack(self.id, &[here], None, now);
                });
            }
            Disposition::Untried {
                plugin,
                reason,
                after,
            } => {
                let retry_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
                tracing::debug!(subscription = %self.live.name, topic = %leased.topic, %plugin, position = %leased.position, reason, retry_ms, "a transform was not tried");
                self.put_back(&[here], retry_ms);
            }
            Disposition::Fault {
                plugin,
                on_failure,
                reason,
            } => {
                if let Some(events) = self.live.log_limits.transform_failed.admit(1) {
                    tracing::warn!(subscription = %self.live.name, topic = %leased.topic, %plugin, position = %leased.position, reason, ?on_failure, events, "a transform failed");
                    let said = format!(
                        "a transform failed on the event at position {} ({events} since the last line): {reason}",
                        leased.position
                    );
                    let now = self.context.registry.clock.wall();
                    self.live.log_limits.told.push(now, said);
                }
                match on_failure {
                    FailurePolicy::DeadLetter => {
                        let reason = GiveUpReason::TransformFailed(reason.into());
                        self.give_up(leased.position, reason);
                    }
                    FailurePolicy::Drop => self.finish(&[here]),
                    FailurePolicy::Pass => {
                        return Some(vec![Output::unchanged(leased.event.clone())]);
                    }
                    FailurePolicy::Pause => {
                        let position = leased.position;
                        let why = plugin_pause(PluginWorld::Transform, position, &reason);
                        self.live.apply(|state, _| {
                            state.give_back(self.id, [position]);
                            // Before anybody is handed it.
                            state.pause(&why);
                        });
                    }
                }
            }
        }
        None
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.live.consumers.fetch_sub(1, Ordering::Relaxed);
        self.live.apply(|state, now| {
            let handing = self.handing(|handing| {
                let out_of_reach = match self.is_cut {
                    true => handing.out_of_reach(),
                    false => Vec::new(),
                };
                (handing.all_unseen(), out_of_reach, handing.says())
            });
            let (unseen, out_of_reach, says) = handing.unwrap_or_default();
            match self.is_cut {
                true => state.cut(self.id, &unseen, &out_of_reach, says, now),
                false => state.detach(self.id, &unseen),
            }
        });
        // Only now: as long as it holds something, that may be asked for.
        lock(&self.live.handing).remove(&self.id);
    }
}

// Leases that go back when this is dropped, but for the first `kept`.
struct LeaseGuard<'a> {
    fetcher: &'a Fetcher,
    leases: Vec<Lease>,
    read: usize,
    kept: usize,
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        if planted!(LeasesNotGivenBack) {
            return;
        }
        let rest = self.leases.get(self.kept..).unwrap_or_default();
        self.fetcher
            .give_back(rest.iter().map(|lease| lease.position));
    }
}

/// Positions in these.
pub(super) fn count(ranges: &[RangeInclusive<Position>]) -> u64 {
    let counts = ranges
        .iter()
        .map(|range| (range.end().0 - range.start().0).saturating_add(1));
    counts.fold(0, u64::saturating_add)
}
