//! One subscription that runs: its settings, the chains of filters that judge for it, and its state machine behind a short
//! lock, shared by its consumers, the router, its lanes and the timer. Which subscriptions there are is not known here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Notify;

use super::plugin_log::PluginLog;
use crate::broker::delivery::transform::TransformChain;
use crate::domain::{
    ConsumerId, Digest, LetterMark, Millis, Name, Position, SubscriptionId, SubscriptionSpec,
    TopicName,
};
use crate::state::catalog::Subscription;
use crate::state::filter_chain::FilterChain;
use crate::state::handed::Handing;
use crate::state::{Strain, SubscriptionState, Unseen};
use crate::telemetry::log_limit::LogLimit;

/// A live subscription or route.
pub(crate) struct LiveSubscription {
    pub(crate) id: SubscriptionId,
    pub(crate) name: Name,
    settings: RwLock<Arc<Settings>>,
    // Those that judge or will judge, in order, and perhaps some that have nothing left to judge.
    chains: RwLock<Vec<Arc<FilterChain>>>,
    pub(super) state: Mutex<SubscriptionState>,
    /// Wakes everybody who waits for something to hand out.
    pub(crate) wake: Notify,
    pub(super) deleted: AtomicBool,
    // Earliest moment for which the timer is armed; `u64::MAX` when it is not.
    pub(super) armed_at: AtomicU64,
    // In the queue of the dead-letter task already, at work there, or resting before it is queued again.
    pub(super) dead_letters_queued: AtomicBool,
    next_consumer: AtomicU64,
    pub(crate) consumers: AtomicU64,
    pub(crate) dead_lettered: AtomicU64,
    pub(crate) letters_dropped: AtomicU64,
    // Follows the router, rather than a lane or a catch-up of its own.
    pub(super) routed: AtomicBool,
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
    pub(crate) log_limits: LogLimits,
}

/// What the log has been told of a subscription lately.
#[derive(Debug, Default)]
pub(crate) struct LogLimits {
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

impl LogLimits {
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
pub(crate) struct Settings {
    pub(crate) spec: Arc<SubscriptionSpec>,
    /// How often it was changed before.
    pub(crate) revision: u32,
    pub(crate) dead_letter: TopicName,
    /// Set up on first use, then shared by all consumers; and by later settings as long as they are the same.
    pub(crate) transforms: Arc<tokio::sync::OnceCell<Arc<TransformChain>>>,
}

impl Settings {
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

impl LiveSubscription {
    pub(crate) fn new(
        id: SubscriptionId,
        subscription: &Subscription,
        state: SubscriptionState,
    ) -> Arc<Self> {
        let live = Arc::new(Self {
            id,
            name: subscription.spec.name.clone(),
            settings: RwLock::new(Settings::new(subscription, None)),
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
            log_limits: LogLimits::default(),
            stands_at: AtomicU64::new(0),
            handing: Mutex::default(),
        });
        live.update(subscription);
        live
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
    pub(super) fn unseen_of(&self, consumer: ConsumerId) -> Option<Unseen> {
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
    pub(crate) fn settings(&self) -> Arc<Settings> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        settings.clone()
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
            let mut settings = self
                .settings
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *settings = Settings::new(subscription, Some(&settings));
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
        let settings = self.settings();
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        let newest = chains.last();
        newest.is_some_and(|chain| chain.selects(&settings.spec, topic, mark))
    }

    /// Whether events of `topic` that are not decided yet may be for this subscription, dead letters or not.
    pub(crate) fn may_select(&self, topic: &TopicName) -> bool {
        let settings = self.settings();
        let chains = self.chains.read().unwrap_or_else(PoisonError::into_inner);
        // Who takes in a topic's letters takes in its ordinary events.
        let mut chains = chains.iter();
        chains.any(|chain| chain.selects(&settings.spec, topic, LetterMark::Ordinary))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
