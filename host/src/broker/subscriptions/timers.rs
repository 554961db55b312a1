//! The deadlines of all subscriptions, one for each at a time: its earliest. Whoever waits here is told whose have come. What a
//! subscription is, and what it does when its deadline comes, is not known here.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::domain::{Millis, SubscriptionId};
use crate::locks::lock;
use crate::runtime::clock::Clock;

/// One subscription's place among the [`Timers`].
pub(super) struct Alarm {
    subscription: SubscriptionId,
    // Earliest moment for which it is armed; `u64::MAX` when it is not.
    armed_at: AtomicU64,
}

impl Alarm {
    pub(super) fn new(subscription: SubscriptionId) -> Self {
        Self {
            subscription,
            armed_at: AtomicU64::new(u64::MAX),
        }
    }

    /// It went off, and is armed for nothing.
    pub(super) fn went_off(&self) {
        self.armed_at.store(u64::MAX, Ordering::Release);
    }
}

/// What is armed. Part of every subscription's [`EffectTargets`](super::effect_targets::EffectTargets).
#[derive(Default)]
pub(super) struct Timers {
    armed: Mutex<BTreeSet<(Millis, SubscriptionId)>>,
    // The first of them is another one.
    changed: Notify,
}

impl Timers {
    /// Arms a subscription's alarm, unless it is armed for an earlier moment.
    pub(super) fn arm(&self, alarm: &Alarm, at: Millis) {
        if at.0 >= alarm.armed_at.load(Ordering::Acquire) {
            return;
        }
        let mut timers = lock(&self.armed);
        let armed = alarm.armed_at.load(Ordering::Acquire);
        if at.0 >= armed {
            return;
        }
        timers.remove(&(Millis(armed), alarm.subscription));
        timers.insert((at, alarm.subscription));
        alarm.armed_at.store(at.0, Ordering::Release);
        let is_first = timers.first().is_some_and(|(first, _)| *first >= at);
        drop(timers);
        if is_first {
            self.changed.notify_one();
        }
    }

    /// Waits until a deadline has come, and returns whose have. They are armed for nothing any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is taken before it is returned.
    pub(super) async fn due(&self, clock: &Clock) -> Vec<SubscriptionId> {
        loop {
            let first = self.first();
            tokio::select! {
                biased;
                // Before the other, so that it comes to it however often another deadline becomes the first.
                () = until(clock, first) => return self.take_due(clock.now()),
                () = self.changed.notified() => {}
            }
        }
    }

    fn first(&self) -> Option<Millis> {
        lock(&self.armed).first().map(|(at, _)| *at)
    }

    fn take_due(&self, now: Millis) -> Vec<SubscriptionId> {
        let mut timers = lock(&self.armed);
        let later = timers.split_off(&(now.plus(1), SubscriptionId(0)));
        let due = std::mem::replace(&mut *timers, later);
        due.into_iter().map(|(_, id)| id).collect()
    }
}

async fn until(clock: &Clock, first: Option<Millis>) {
    match first {
        Some(at) => tokio::time::sleep_until(clock.instant_of(at).into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::super::test_rig::Rig;
    use super::*;
    use crate::domain::{ConsumerId, Position};
    use crate::runtime::spawn::Spawner;
    use crate::telemetry::conditions::Conditions;

    const C: ConsumerId = ConsumerId(1);

    async fn started(settings: serde_json::Value) -> Rig {
        let rig = Rig::new(settings);
        let shutdown = CancellationToken::new();
        // Ends with the test's runtime.
        Spawner::new(Conditions::default(), shutdown.clone())
            .lasting("timers", rig.registry.clone().run_timers(shutdown));
        rig
    }

    #[tokio::test(start_paused = true)]
    async fn whose_deadline_has_come_is_told_once_and_an_earlier_one_counts() {
        let (clock, timers) = (Clock::start(), Timers::default());
        let [one, two] = [1, 2].map(|id| Alarm::new(SubscriptionId(id)));
        let after = |ms| clock.now().plus(ms);
        timers.arm(&one, after(200));
        timers.arm(&two, after(500));
        timers.arm(&two, after(100));
        timers.arm(&two, after(300));
        assert_eq!(timers.due(&clock).await, [SubscriptionId(2)]);
        two.went_off();
        timers.arm(&two, after(300));
        assert_eq!(timers.due(&clock).await, [SubscriptionId(1)]);
        assert_eq!(timers.due(&clock).await, [SubscriptionId(2)]);
        assert!(lock(&timers.armed).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_misses_its_deadline_is_handed_out_again_after_its_back_off() {
        let delivery = serde_json::json!({"ack_deadline_ms": 5_000, "backoff_ms": [2_000]});
        let rig = started(serde_json::json!({"delivery": delivery})).await;
        rig.matched(1);
        assert_eq!(rig.lease(C, 9), [1]);
        for (after, expected) in [(4_900, 1), (200, 0)] {
            tokio::time::sleep(Duration::from_millis(after)).await;
            assert_eq!(rig.live.read().in_flight(), expected, "{after} ms later");
        }
        assert!(rig.lease(C, 9).is_empty(), "it is left alone");
        let begin = tokio::time::Instant::now();
        rig.live.woken().await;
        let waited = begin.elapsed().as_millis();
        assert!((1_800..=2_000).contains(&waited), "{waited} ms");
        assert_eq!(rig.lease(C, 9), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_attempt_that_misses_its_deadline_is_given_up() {
        let delivery =
            serde_json::json!({"ack_deadline_ms": 1_000, "attempts_max": 2, "backoff_ms": [0]});
        let mut rig = started(serde_json::json!({"delivery": delivery})).await;
        rig.matched(1);
        for _ in 0..2 {
            assert_eq!(rig.lease(C, 9), [1]);
            assert!(rig.letters.try_recv().is_err());
            tokio::time::sleep(Duration::from_millis(1_001)).await;
        }
        assert!(rig.letters.try_recv().is_ok());
        let given_up = rig.live.apply(|state, _| state.take_given_up(9));
        assert_eq!(
            (given_up[0].position, given_up[0].attempts),
            (Position(1), 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_is_not_slept_over_and_a_later_one_not_forgotten() {
        let delivery = serde_json::json!({"ack_deadline_ms": 60_000, "backoff_ms": [0]});
        let rig = started(serde_json::json!({"delivery": delivery})).await;
        rig.matched(2);
        assert_eq!(rig.lease(C, 9), [1, 2]);
        // So that the task waits for the deadline.
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.live
            .apply(|state, now| state.nack(C, &[Position(1)..=Position(1)], Some(3_000), now));
        tokio::time::sleep(Duration::from_millis(3_100)).await;
        assert_eq!(rig.lease(C, 9), [1]);
        tokio::time::sleep(Duration::from_secs(56)).await;
        assert_eq!(rig.live.read().in_flight(), 1, "the other's has come");
        assert_eq!(rig.lease(C, 9), [2]);
    }
}
