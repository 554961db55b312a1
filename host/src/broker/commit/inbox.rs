//! The inbox of the committer: a control queue, a publish queue and an ack queue, each bounded. Senders wait outside for
//! room; the committer takes whole queues at once, so a group gathers while the one before it syncs. What is in the queues is not
//! looked into.

mod seldom_publishers;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

pub(crate) use self::seldom_publishers::LastCame;
use self::seldom_publishers::SeldomPublishers;
use super::request::{Control, Mark, PublishItem, Reply};
use super::waiting_acks::{self, Acks, WaitingAcks};
use super::waiting_returns::Returns;
use crate::broker::error::Unavailable;
use crate::broker::subscriptions::effect_targets::AckSink;
use crate::domain::{Position, SubscriptionId};
use crate::locks::{Signal, lock};
use crate::runtime::clock::Clock;
use crate::state::CameBack;

/// What batches that wait for the committer may cost together, in bytes. Full: publishers wait for credit.
pub(crate) const PUBLISH_COST_MAX: usize = 64 * 1024 * 1024;
/// Of more waiting bytes than this, a group takes half: its publishers are answered and can go on while the other half is
/// written. Fewer are not worth a sync of their own.
const WHOLE_BYTES_MAX: usize = 128 * 1024;
/// Control items that may wait. Full: whoever asks waits.
const CONTROL_ITEMS_MAX: usize = 1_024;

/// The committer's inbox. Shared by everybody who writes.
pub(crate) struct Inbox {
    clock: Clock,
    queues: Mutex<Queues>,
    filled: Signal,
    #[cfg(test)]
    filled_for_task: tokio::sync::Notify,
    publish_room: Arc<Semaphore>,
    control_room: Arc<Semaphore>,
    // Ranges in the ack queue, and what takes as much memory, written under the lock of the queues.
    ack_ranges: AtomicUsize,
    ack_ranges_max: usize,
    acks_taken: Notify,
}

#[derive(Default)]
struct Queues {
    control: VecDeque<Control>,
    publish: VecDeque<PublishItem>,
    publish_bytes: usize,
    seldom: SeldomPublishers,
    acks: WaitingAcks,
    returns: Returns,
    // Of either.
    acks_since: Option<Instant>,
    // The committer waits and nobody has woken it yet. While it works there is no need to: it looks again before it waits.
    waiting: bool,
    // It lets publishes gather meanwhile, and looks by itself when that is over.
    gathering: bool,
    // It waits for longer than acks may, so they have to wake it.
    sleeping: bool,
    woken: bool,
    closing: bool,
    closed: bool,
}

/// What the committer has room for, and how long it waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appetite {
    /// Publishes are left alone otherwise.
    pub(crate) publishes: bool,
    /// At most this much of them is taken, or half of many; but one at least, whatever it costs.
    pub(crate) cost_max: usize,
    /// How long acks that nobody asked to confirm may wait for others.
    pub(crate) ack_delay: Duration,
    /// When it wants to look at something else at the latest.
    pub(crate) idle_until: Option<Instant>,
}

/// What the committer took.
pub(crate) struct Taken {
    pub(crate) control: VecDeque<Control>,
    pub(crate) publish: Vec<PublishItem>,
    pub(crate) acks: Acks,
    pub(crate) returns: Returns,
    /// No more publishes will come, and nobody makes room any more.
    pub(crate) stopping: bool,
    /// Nothing more will come.
    pub(crate) closing: bool,
}

impl Inbox {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Self::with_ack_room(clock, waiting_acks::RANGES_MAX)
    }

    /// One in which so many ranges of acks may wait before nothing more is handed out.
    pub(crate) fn with_ack_room(clock: Clock, ack_ranges_max: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            queues: Mutex::default(),
            filled: Signal::new(),
            #[cfg(test)]
            filled_for_task: tokio::sync::Notify::new(),
            publish_room: Arc::new(Semaphore::new(PUBLISH_COST_MAX)),
            control_room: Arc::new(Semaphore::new(CONTROL_ITEMS_MAX)),
            ack_ranges: AtomicUsize::new(0),
            ack_ranges_max,
            acks_taken: Notify::new(),
        })
    }

    /// Waits for room for a batch that costs `cost`. A larger batch than the whole room counts as the whole room.
    pub(crate) async fn publish_room(
        &self,
        cost: usize,
    ) -> Result<OwnedSemaphorePermit, Unavailable> {
        let room = self.publish_room.clone();
        room.acquire_many_owned(permits(cost))
            .await
            .map_err(|_| Unavailable::ShuttingDown)
    }

    /// The same without waiting: nothing when there is no room now.
    pub(crate) fn publish_room_now(
        &self,
        cost: usize,
    ) -> Result<Option<OwnedSemaphorePermit>, Unavailable> {
        let room = self.publish_room.clone();
        match room.try_acquire_many_owned(permits(cost)) {
            Ok(room) => Ok(Some(room)),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(Unavailable::ShuttingDown),
        }
    }

    /// Takes a batch of a stream that was here `last`.
    pub(crate) fn publish(&self, item: PublishItem, last: &LastCame) -> Result<(), Unavailable> {
        let mut queues = self.lock();
        if queues.closing {
            return Err(Unavailable::ShuttingDown);
        }
        queues.publish_bytes += item.bytes();
        queues.publish.push_back(item);
        queues.seldom.came(last);
        if !(queues.gathering && queues.is_gathering()) {
            self.wake_committer(queues);
        }
        Ok(())
    }

    /// Hands a control item over and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before there is room, nothing was asked for. Dropped later, it is done all the same, and takes its room until then.
    pub(crate) async fn ask<T, E: From<Unavailable>>(
        &self,
        make: impl FnOnce(Reply<T, E>) -> Control,
    ) -> Result<T, E> {
        let room = self.control_room.clone().acquire_owned().await;
        let room = room.map_err(|_| Unavailable::ShuttingDown)?;
        let (reply, answer) = oneshot::channel();
        self.hand_over(make(Reply::new(reply, Some(room))))?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.unanswered().into()))
    }

    /// Asks for a mark. It needs no room in the queue: there is one checkpointer, and what holds the queue's room may be waiting
    /// for the room in the journal that only a checkpoint makes.
    pub(crate) async fn ask_mark(&self) -> Result<Mark, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Control::Mark(Reply::new(reply, None)))?;
        answer.await.unwrap_or_else(|_| Err(self.unanswered()))
    }

    // Why something was dropped without an answer.
    fn unanswered(&self) -> Unavailable {
        match self.lock().closed {
            true => Unavailable::ShuttingDown,
            false => Unavailable::committer_died(),
        }
    }

    fn hand_over(&self, item: Control) -> Result<(), Unavailable> {
        let mut queues = self.lock();
        if queues.closed {
            return Err(Unavailable::ShuttingDown);
        }
        queues.control.push_back(item);
        self.wake_committer(queues);
        Ok(())
    }

    /// Waits while too many acks wait. Cancel-safe.
    pub(crate) async fn ack_room(&self) {
        while self.acks_are_full() {
            let taken = self.acks_taken.notified();
            tokio::pin!(taken);
            // Registered before looking, so that what is taken in between is not missed.
            taken.as_mut().enable();
            if !self.acks_are_full() {
                return;
            }
            reached!(AcksWaitForRoom);
            taken.await;
        }
    }

    fn acks_are_full(&self) -> bool {
        self.ack_ranges.load(Ordering::Relaxed) >= self.ack_ranges_max
    }

    // Adds to what follows what was written.
    fn add(&self, add: impl FnOnce(&mut Queues)) {
        let mut queues = self.lock();
        self.change_acks(&mut queues, add);
        if queues.acks_since.is_none() {
            queues.acks_since = Some(self.clock.instant());
            if queues.sleeping {
                self.wake_committer(queues);
            }
        }
    }

    // What is done with the ack queue. Its length is known without the lock.
    fn change_acks<T>(&self, queues: &mut Queues, change: impl FnOnce(&mut Queues) -> T) -> T {
        let answer = change(queues);
        self.ack_ranges.store(
            queues.acks.ranges() + queues.returns.cost(),
            Ordering::Relaxed,
        );
        answer
    }

    /// Makes the committer look again, though nothing was added: the journal may have room.
    pub(crate) fn wake(&self) {
        let mut queues = self.lock();
        queues.woken = true;
        self.wake_committer(queues);
    }

    /// No more publishes are taken, and the committer lets nothing wait for room in the journal, which may never be made any more.
    /// Control items still are taken, so that what drains can be recorded.
    pub(crate) fn close_publishes(&self) {
        let mut queues = self.lock();
        queues.closing = true;
        queues.woken = true;
        self.wake_committer(queues);
        self.publish_room.close();
    }

    /// Refuses the publishes that the committer has not begun by now: it waits for the disk. What it has begun was before them, so
    /// none is overtaken. Only once no more are taken.
    pub(crate) fn refuse_late_publishes(&self) {
        let mut queues = self.lock();
        debug_assert!(queues.closing, "others would overtake them");
        queues.publish_bytes = 0;
        let late = std::mem::take(&mut queues.publish);
        drop(queues);
        for item in late {
            item.refuse_at_end(&Unavailable::ShuttingDown);
        }
    }

    /// Whether no more publishes are taken.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    /// Nothing more is taken: the committer ends after what waits.
    pub(crate) fn close(&self) {
        let mut queues = self.lock();
        queues.closing = true;
        queues.closed = true;
        self.wake_committer(queues);
        self.publish_room.close();
        self.control_room.close();
    }

    // A wake-up is a call into the kernel whether anybody waits or not.
    fn wake_committer(&self, mut queues: MutexGuard<'_, Queues>) {
        let waiting = std::mem::take(&mut queues.waiting);
        drop(queues);
        if waiting && !planted!(WakeLost) {
            self.filled.notify_one();
            #[cfg(test)]
            self.filled_for_task.notify_one();
        }
    }

    /// Waits until there is something to take, or until the committer wants to look at something else, and blocks its thread.
    pub(crate) fn take(&self, appetite: &Appetite) -> Taken {
        let mut queues = self.lock();
        let begin = self.clock.instant();
        loop {
            let now = self.clock.instant();
            queues = match queues.wait(appetite, begin, now) {
                None => return self.take_from(queues, appetite),
                Some(Wait::Open) => self.filled.wait(&self.queues, queues),
                Some(Wait::Until(until)) => {
                    let timeout = until.saturating_duration_since(now);
                    self.filled.wait_timeout(&self.queues, queues, timeout)
                }
            };
        }
    }

    /// The same on a task.
    #[cfg(test)]
    pub(super) async fn taken(&self, appetite: &Appetite) -> Taken {
        let begin = self.clock.instant();
        loop {
            let now = self.clock.instant();
            let wait = {
                let mut queues = self.lock();
                match queues.wait(appetite, begin, now) {
                    None => return self.take_from(queues, appetite),
                    Some(wait) => wait,
                }
            };
            let filled = self.filled_for_task.notified();
            match wait {
                Wait::Open => filled.await,
                Wait::Until(until) => {
                    let timeout = until.saturating_duration_since(now);
                    let _ = tokio::time::timeout(timeout, filled).await;
                }
            }
        }
    }

    fn take_from(&self, mut queues: MutexGuard<'_, Queues>, appetite: &Appetite) -> Taken {
        let taken = self.change_acks(&mut queues, |queues| queues.take(appetite));
        drop(queues);
        let took_some = !taken.acks.is_empty() || !taken.returns.is_empty();
        if took_some && !planted!(AcksTakenUntold) {
            self.acks_taken.notify_waiters();
        }
        taken
    }

    /// Returns control items for which a group had no room. They come first next time, which is at once.
    pub(crate) fn put_back(&self, control: VecDeque<Control>) {
        let mut queues = self.lock();
        for item in control.into_iter().rev() {
            queues.control.push_front(item);
        }
    }

    /// Returns what could not be written. It goes with the next group.
    pub(crate) fn put_back_returns(&self, returns: Returns) {
        if !returns.is_empty() {
            self.add(|queues| queues.returns.again(returns));
        }
    }

    /// The same where there is no room for it. Whoever makes some wakes the committer.
    pub(crate) fn hold_returns(&self, returns: Returns) {
        if !returns.is_empty() {
            self.change_acks(&mut self.lock(), |queues| queues.returns.again(returns));
        }
    }

    /// Everything that still waits, when the committer cannot write any more.
    pub(crate) fn drain(&self) -> (VecDeque<Control>, VecDeque<PublishItem>) {
        let mut queues = self.lock();
        queues.publish_bytes = 0;
        (
            std::mem::take(&mut queues.control),
            std::mem::take(&mut queues.publish),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }
}

/// Acks follow what was written, so that they mostly find the committer at work, or about to look again by itself: they wake it
/// when it sleeps for longer than they may wait.
impl AckSink for Inbox {
    fn acked(&self, subscription: SubscriptionId, ranges: Vec<RangeInclusive<Position>>) {
        self.add(|queues| queues.acks.add(subscription, ranges));
    }

    fn came_back(&self, subscription: SubscriptionId, back: Vec<CameBack>) {
        self.add(|queues| queues.returns.came_back(subscription, back));
    }

    fn paused(&self, subscription: SubscriptionId, why: Option<Arc<str>>) {
        self.add(|queues| queues.returns.paused(subscription, why));
    }

    fn forget(&self, subscription: SubscriptionId) {
        self.change_acks(&mut self.lock(), |queues| {
            queues.acks.forget(subscription);
            queues.returns.forget(subscription);
        });
        self.acks_taken.notify_waiters();
    }
}

// How long the committer has nothing to do.
enum Wait {
    Until(Instant),
    /// Until somebody wakes it.
    Open,
}

impl Queues {
    // How long there is nothing to take for a committer that has waited since `begin`.
    fn wait(&mut self, appetite: &Appetite, begin: Instant, now: Instant) -> Option<Wait> {
        let Appetite {
            publishes,
            ack_delay,
            idle_until,
            ..
        } = *appetite;
        let acks_at = self.acks_since.map(|since| since + ack_delay);
        let acks_due = acks_at.is_some_and(|at| at <= now);
        let gathers_until = match publishes && !self.closing && self.is_gathering() {
            true => Some(begin + seldom_publishers::WAIT_MAX).filter(|until| *until > now),
            false => None,
        };
        let has_publishes = publishes && !self.publish.is_empty() && gathers_until.is_none();
        let idle_over = idle_until.is_some_and(|at| at <= now);
        if !self.control.is_empty()
            || has_publishes
            || acks_due
            || idle_over
            || self.closed
            || self.woken
        {
            return None;
        }
        // Acks mostly follow what was just written. To look again by itself after a while is cheaper than to be woken by them.
        let look_at = begin + ack_delay;
        let look_at = (look_at > now).then_some(look_at);
        let until = [acks_at, idle_until, look_at, gathers_until];
        let until = until.into_iter().flatten().min();
        self.gathering = gathers_until.is_some();
        self.sleeping = until.is_none_or(|until| until > now + ack_delay);
        self.waiting = true;
        Some(until.map_or(Wait::Open, Wait::Until))
    }

    // Whether what waits, or what will, waits for more, as far as it does not depend on the time.
    fn is_gathering(&self) -> bool {
        self.publish_bytes < WHOLE_BYTES_MAX && self.seldom.waits(self.publish.len())
    }

    fn take(&mut self, appetite: &Appetite) -> Taken {
        let (count, bytes) = match appetite.publishes {
            true => self.fitting(appetite.cost_max),
            false => (0, 0),
        };
        let publish = self.publish.drain(..count).collect();
        self.publish_bytes -= bytes;
        self.seldom.taken(count, self.publish.len());
        self.waiting = false;
        self.gathering = false;
        self.sleeping = false;
        self.woken = false;
        self.acks_since = None;
        Taken {
            control: std::mem::take(&mut self.control),
            publish,
            acks: self.acks.take(),
            returns: std::mem::take(&mut self.returns),
            stopping: self.closing,
            closing: self.closed && (self.publish.is_empty() || !appetite.publishes),
        }
    }

    // How many publishes from the front cost at most `cost_max`, or are half of many, and how many bytes these are.
    fn fitting(&self, cost_max: usize) -> (usize, usize) {
        let bytes_max = match self.publish_bytes > WHOLE_BYTES_MAX {
            true => self.publish_bytes / 2,
            false => usize::MAX,
        };
        let (mut count, mut cost, mut bytes) = (0, 0, 0);
        while let Some(item) = self.publish.get(count)
            && (count == 0 || (cost + item.cost <= cost_max && bytes < bytes_max))
        {
            cost += item.cost;
            bytes += item.bytes();
            count += 1;
        }
        (count, bytes)
    }
}

fn permits(cost: usize) -> u32 {
    cost.clamp(1, PUBLISH_COST_MAX) as u32
}

#[cfg(test)]
mod tests;
