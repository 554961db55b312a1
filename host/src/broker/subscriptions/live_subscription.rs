//! One subscription that runs: its definition, and its state machine behind a short lock, shared by its consumers, whoever feeds
//! it, and the timers. The state is changed by [`apply`](LiveSubscription::apply) only, which does what the change makes
//! necessary. Which subscriptions there are is not known here.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::dead_letter_counts::DeadLetterCounts;
use super::definition::{self, Definition, Settings};
use super::effect_targets::{EffectTargets, Start};
use super::log_limits::LogLimits;
use super::resting_subscription::RestingSubscription;
use super::timers::Alarm;
use crate::domain::{
    BlockOrigin, ConsumerId, Digest, Millis, Name, Position, SubscriptionId, TopicName,
};
use crate::locks::{lock, read, write};
use crate::state::catalog::Subscription;
use crate::state::filter_chain::FilterChain;
use crate::state::handover::Handover;
use crate::state::{Effects, SubscriptionState, Unseen};

/// A live subscription or route.
pub(crate) struct LiveSubscription {
    pub(crate) id: SubscriptionId,
    pub(crate) name: Name,
    effect_targets: Arc<EffectTargets>,
    definition: RwLock<Definition>,
    state: Mutex<SubscriptionState>,
    // Wakes everybody who waits for something to hand out, or for a change.
    wake: Notify,
    // Why it stands still, as far as that is told.
    paused: watch::Sender<Option<Arc<str>>>,
    deleted: AtomicBool,
    alarm: Alarm,
    // In the queue of the dead-letter task already, at work there, or resting before it is queued again.
    letters_queued: AtomicBool,
    next_consumer: AtomicU64,
    pub(crate) consumers: AtomicU64,
    dead_lettered: AtomicU64,
    letters_dropped: AtomicU64,
    // Follows the end of the log with others, rather than a lane or a catch-up of its own.
    pub(super) routed: AtomicBool,
    // The revision of the chain that lanes or a catch-up were last started for, and one more; 0: none yet.
    followed: AtomicU64,
    // Up to where everything is decided according to the newest checkpoint. A crash goes back no further.
    evaluated_on_disk: AtomicU64,
    // The position at which its filters or its catching up stand because it cannot be read; 0: nowhere.
    stands_at: AtomicU64,
    /// What each consumer was sent and its application has not got. Locked after the state, if both are.
    pub(crate) handing: Mutex<HashMap<ConsumerId, Arc<Mutex<Handover>>>>,
    /// The oldest position, pending or not decided, that was asked for, and when it was appended.
    pub(crate) oldest: Mutex<(Position, Millis)>,
    /// The same of the oldest one that is in somebody's hands.
    pub(crate) oldest_held: Mutex<(Position, Millis)>,
    pub(crate) log_limits: LogLimits,
}

impl LiveSubscription {
    pub(crate) fn new(
        mut resting: RestingSubscription,
        effect_targets: Arc<EffectTargets>,
    ) -> Arc<Self> {
        // Nobody was there for whom they would have been.
        resting.state.take_effects();
        let paused = resting.state.paused().map(Arc::from);
        Arc::new(Self {
            id: resting.id,
            name: resting.name,
            effect_targets,
            definition: RwLock::new(resting.definition),
            state: Mutex::new(resting.state),
            wake: Notify::new(),
            paused: watch::Sender::new(paused),
            deleted: AtomicBool::new(false),
            alarm: Alarm::new(resting.id),
            letters_queued: AtomicBool::new(false),
            next_consumer: AtomicU64::new(1),
            consumers: AtomicU64::new(0),
            dead_lettered: AtomicU64::new(0),
            letters_dropped: AtomicU64::new(0),
            routed: AtomicBool::new(false),
            followed: AtomicU64::new(0),
            evaluated_on_disk: AtomicU64::new(resting.evaluated_on_disk.0),
            stands_at: AtomicU64::new(0),
            handing: Mutex::default(),
            oldest: Mutex::default(),
            oldest_held: Mutex::default(),
            log_limits: LogLimits::default(),
        })
    }

    // ── state ───────────────────────────────────────────────────────────────────────────────────────────

    /// Changes its state, now, and does what that makes necessary: nobody else needs to know what that is.
    pub(crate) fn apply<T>(&self, change: impl FnOnce(&mut SubscriptionState, Millis) -> T) -> T {
        let (answer, effects) = {
            let mut state = lock(&self.state);
            // Under the lock, so that no change is earlier than the one before it.
            let answer = change(&mut state, self.effect_targets.clock.now());
            (answer, state.take_effects())
        };
        self.perform(effects);
        answer
    }

    /// Its state, to look at. Nothing else happens to it meanwhile.
    pub(crate) fn read(&self) -> impl Deref<Target = SubscriptionState> + '_ {
        ReadOnly(lock(&self.state))
    }

    // All of them are named, so that none that comes later is forgotten.
    fn perform(&self, effects: Effects) {
        let Effects {
            wakes,
            deadline,
            has_given_up,
            acked,
            came_back,
            paused,
            took_over,
            stalled,
            strain,
        } = effects;
        if !acked.is_empty() {
            self.effect_targets.acks.acked(self.id, acked);
        }
        if !came_back.is_empty() {
            self.effect_targets.acks.came_back(self.id, came_back);
        }
        if paused {
            self.tell_paused();
        }
        if let Some(deadline) = deadline {
            self.effect_targets.timers.arm(&self.alarm, deadline);
        }
        if has_given_up {
            self.queue_letters();
        }
        if took_over {
            self.effect_targets.start(Start::Filters(self.id));
        }
        if let Some(strain) = strain {
            self.log_limits.strained(&self.name, strain);
        }
        if stalled > 0 {
            self.log_limits.stalled(&self.name, stalled);
        }
        if wakes {
            self.wake.notify_waiters();
        }
    }

    /// Waits for the next change that somebody who found nothing may wait for.
    pub(crate) fn woken(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Follows why it stands still.
    pub(crate) fn paused(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.paused.subscribe()
    }

    // Under the lock, so that what is told last is how it is: to whoever follows it, and to the journal.
    fn tell_paused(&self) {
        let state = self.read();
        let why = state.paused().map(Arc::from);
        self.effect_targets.acks.paused(self.id, why);
        if planted!(PauseUntold) {
            return;
        }
        self.paused.send_if_modified(|told| {
            let is_news = told.as_deref() != state.paused();
            if is_news {
                *told = state.paused().map(Arc::from);
            }
            is_news
        });
    }

    /// Takes up what its deadlines ask for, and arms the timer for the next one.
    pub(crate) fn tick(&self) {
        self.alarm.went_off();
        self.apply(|state, now| state.tick(now, |consumer| self.unseen_of(consumer)));
    }

    // What a consumer's application has not got; nothing is known of some.
    fn unseen_of(&self, consumer: ConsumerId) -> Option<Unseen> {
        let handing = lock(&self.handing).get(&consumer).cloned()?;
        let unseen = lock(&handing).unseen();
        Some(unseen)
    }

    // ── giving up ───────────────────────────────────────────────────────────────────────────────────────

    // Tells the dead-letter task that it has given events up.
    fn queue_letters(&self) {
        if !self.letters_queued.swap(true, Ordering::AcqRel) {
            // The receiver only ends with the broker.
            let _ = self.effect_targets.letters.send(self.id);
        }
    }

    /// The dead-letter task is done with it. Whatever it has given up meanwhile is queued now.
    pub(crate) fn letters_done(&self) {
        self.letters_queued.store(false, Ordering::Release);
        // Whoever gave something up before this look found the mark; whoever does after it finds none.
        if self.read().has_given_up() && !self.is_deleted() {
            self.queue_letters();
        }
    }

    /// What became of some that it had given up is written.
    pub(crate) fn has_letters(&self, letters: DeadLetterCounts) {
        let DeadLetterCounts { written, dropped } = letters;
        self.dead_lettered.fetch_add(written, Ordering::Relaxed);
        self.letters_dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// What became of all that it has given up since the broker started. Only ever rises.
    pub(crate) fn letters(&self) -> DeadLetterCounts {
        DeadLetterCounts {
            written: self.dead_lettered.load(Ordering::Relaxed),
            dropped: self.letters_dropped.load(Ordering::Relaxed),
        }
    }

    // ── coming and going ────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// It was deleted: its consumers end, and what it was done with is not written any more.
    pub(super) fn end(&self) {
        self.deleted.store(true, Ordering::Release);
        self.wake.notify_waiters();
        self.effect_targets.acks.forget(self.id);
    }

    /// Whether one is attached.
    pub(crate) fn has_consumers(&self) -> bool {
        self.consumers.load(Ordering::Relaxed) > 0
    }

    /// How many have been, since the broker started.
    pub(crate) fn consumers_ever(&self) -> u64 {
        self.next_consumer.load(Ordering::Relaxed) - 1
    }

    pub(crate) fn next_consumer_id(&self) -> ConsumerId {
        ConsumerId(self.next_consumer.fetch_add(1, Ordering::Relaxed))
    }

    // ── definition ──────────────────────────────────────────────────────────────────────────────────────

    /// What it is now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        read(&self.definition).settings().clone()
    }

    /// Makes it what the catalog says. Repeating it changes nothing.
    pub(super) fn update(&self, subscription: &Subscription) {
        // Before the state: whoever finds a revision there looks for its chain here.
        write(&self.definition).update(subscription);
        self.apply(|state, _| definition::tell(state, subscription));
    }

    /// Whether events of `topic` with this mark that are appended now are for this subscription.
    pub(crate) fn selects(&self, topic: &TopicName, mark: BlockOrigin) -> bool {
        read(&self.definition).selects(topic, mark)
    }

    /// Whether events of `topic` that are not decided yet may be for this subscription, dead letters or not.
    pub(crate) fn may_select(&self, topic: &TopicName) -> bool {
        read(&self.definition).may_select(topic)
    }

    /// The fence of its newest filters, when they are not those it was created with.
    pub(crate) fn fence(&self) -> Option<Position> {
        read(&self.definition).fence()
    }

    /// Whether a plugin's lane judges for it, or will when its next filters take over.
    pub(crate) fn is_judged_by(&self, digest: Digest) -> bool {
        read(&self.definition).is_judged_by(digest)
    }

    // ── who feeds it ────────────────────────────────────────────────────────────────────────────────────

    /// Whether the router feeds it. A subscription that starts in the past, or whose events lanes filter, is fed by others.
    pub(crate) fn is_routed(&self) -> bool {
        self.routed.load(Ordering::Acquire)
    }

    /// What it is fed by has to be started anew.
    pub(crate) fn forget_followed(&self) {
        self.followed.store(0, Ordering::Release);
    }

    /// The chain to start lanes or a catch-up for, if that is still to be done. Called by the supervisor only.
    pub(crate) fn follow_next(&self) -> Option<Arc<FilterChain>> {
        let revision = self.read().revision();
        let followed = u64::from(revision) + 1;
        if self.followed.swap(followed, Ordering::AcqRel) == followed {
            return None;
        }
        // Where the one before stood is nothing to this one, which says itself where it stands.
        self.stands_at.store(0, Ordering::Relaxed);
        write(&self.definition).forget_before(revision)
    }

    /// It stands at an event that cannot be read, or does not any more, says who feeds it for the chain `revision`; unless that
    /// judges no more.
    pub(crate) fn stand_at(&self, revision: u32, position: Option<Position>) {
        let state = self.read();
        if state.revision() == revision {
            let position = position.map_or(0, |position| position.0);
            self.stands_at.store(position, Ordering::Relaxed);
        }
    }

    pub(crate) fn stands_at(&self) -> Option<Position> {
        let position = self.stands_at.load(Ordering::Relaxed);
        (position > 0).then_some(Position(position))
    }

    // ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────

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

// A state that is locked and cannot be changed.
struct ReadOnly<'a>(MutexGuard<'a, SubscriptionState>);

impl Deref for ReadOnly<'_> {
    type Target = SubscriptionState;

    fn deref(&self) -> &SubscriptionState {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::super::effect_targets::AckSink;
    use super::super::test_rig::{self, Rig};
    use super::*;
    use crate::state::{CameBack, GiveUpReason};

    const C: ConsumerId = ConsumerId(1);

    fn at(position: u64) -> std::ops::RangeInclusive<Position> {
        Position(position)..=Position(position)
    }

    fn is_woken(live: &LiveSubscription, change: impl FnOnce()) -> bool {
        use futures_util::FutureExt as _;
        let mut woken = std::pin::pin!(live.woken());
        woken.as_mut().enable();
        change();
        woken.now_or_never().is_some()
    }

    #[test]
    fn whoever_waits_is_waked_by_what_matches() {
        let rig = Rig::new(serde_json::json!({}));
        let observe = || {
            rig.live
                .apply(|state, _| state.observe(Position(1), [at(1)]));
        };
        assert!(is_woken(&rig.live, observe));
        assert!(!is_woken(&rig.live, observe), "nothing new");
        assert!(is_woken(&rig.live, || rig.live.end()), "there is no more");
    }

    #[test]
    fn acks_go_to_whoever_writes_them_and_a_deleted_subscription_has_none() {
        let rig = Rig::new(serde_json::json!({}));
        rig.matched(3);
        assert_eq!(rig.lease(C, 2), [1, 2]);
        rig.live.apply(|state, _| state.ack(C, &[at(2)]));
        rig.live.apply(|state, _| state.is_acked(&[at(1)]));
        assert_eq!(rig.acks(), [at(2)], "the other is durable already");
        rig.live.end();
        assert_eq!(rig.acks(), []);
    }

    #[test]
    fn what_is_given_up_calls_its_writer_once() {
        let mut rig = Rig::new(serde_json::json!({}));
        rig.matched(2);
        for position in [1, 2] {
            let reason = GiveUpReason::HopLimit;
            rig.live
                .apply(|state, _| state.give_up_pending(at(position), &reason));
        }
        assert_eq!(rig.letters.try_recv(), Ok(rig.live.id));
        assert!(rig.letters.try_recv().is_err(), "it comes by itself");
        rig.live.letters_done();
        assert!(rig.letters.try_recv().is_ok(), "there is something left");
    }

    #[test]
    fn the_next_filters_call_the_supervisor() {
        let mut rig = Rig::new(serde_json::json!({}));
        rig.live
            .apply(|state, _| state.change_filters(1, Position(5), 1));
        assert!(rig.starts.try_recv().is_err(), "not before their fence");
        rig.matched(4);
        assert_eq!(rig.starts.try_recv(), Ok(Start::Filters(rig.live.id)));
    }

    // Somebody lets the subscription go on between a change that pauses it and what that change reaches.
    #[derive(Default)]
    struct GoesOnMeanwhile {
        live: OnceLock<Arc<LiveSubscription>>,
        told: Mutex<Vec<Option<Arc<str>>>>,
    }

    impl AckSink for GoesOnMeanwhile {
        fn acked(&self, _: SubscriptionId, _: Vec<std::ops::RangeInclusive<Position>>) {}

        fn came_back(&self, _: SubscriptionId, _: Vec<CameBack>) {
            let live = self.live.get().expect("it is set");
            live.apply(|state, _| state.resume());
        }

        fn paused(&self, _: SubscriptionId, why: Option<Arc<str>>) {
            lock(&self.told).push(why);
        }

        fn forget(&self, _: SubscriptionId) {}
    }

    #[test]
    fn the_last_that_is_written_of_a_pause_is_how_it_is() {
        let sink = Arc::new(GoesOnMeanwhile::default());
        let resting = test_rig::resting(serde_json::json!({}));
        let (_registry, live, _letters, _starts) = test_rig::alive(resting, sink.clone());
        let _ = sink.live.set(live.clone());
        live.apply(|state, now| {
            state.observe(Position(1), [at(1)]);
            state.attach(C);
            state.lease(C, 1, now, &mut Vec::new());
            state.nack(C, &[at(1)], None, now);
            state.pause("so");
        });
        assert_eq!(live.read().paused(), None);
        let told = lock(&sink.told);
        assert_eq!(told.last(), Some(&None), "{told:?}");
        assert_eq!(*live.paused().borrow(), None);
    }
}
