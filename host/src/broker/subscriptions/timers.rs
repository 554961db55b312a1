//! The deadlines of all subscriptions, one for each at a time: its earliest. One task waits for the first of them. What a
//! subscription does when its deadline comes is its state's business.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::live::LiveSubscription;
use super::registry::Registry;
use crate::domain::{Millis, SubscriptionId};
use crate::locks::lock;
use crate::runtime::clock::Clock;

/// What is armed. Part of every subscription's surroundings.
#[derive(Default)]
pub(crate) struct Timers {
    armed: Mutex<BTreeSet<(Millis, SubscriptionId)>>,
    // The first of them is another one.
    changed: Notify,
}

impl Timers {
    /// Arms it for a subscription, unless it is armed for an earlier moment.
    pub(super) fn arm(&self, live: &LiveSubscription, at: Millis) {
        if at.0 >= live.armed_at.load(Ordering::Acquire) {
            return;
        }
        let mut timers = lock(&self.armed);
        let armed = live.armed_at.load(Ordering::Acquire);
        if at.0 >= armed {
            return;
        }
        timers.remove(&(Millis(armed), live.id));
        timers.insert((at, live.id));
        live.armed_at.store(at.0, Ordering::Release);
        let is_first = timers.first().is_some_and(|(first, _)| *first >= at);
        drop(timers);
        if is_first {
            self.changed.notify_one();
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

/// Ticks subscriptions whose deadlines have come, until shutdown.
pub(crate) async fn run(registry: Arc<Registry>, shutdown: CancellationToken) {
    let (clock, surroundings) = (registry.clock.clone(), registry.surroundings());
    let timers = &surroundings.timers;
    loop {
        let first = timers.first();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = timers.changed.notified() => continue,
            () = until(&clock, first) => {}
        }
        for id in timers.take_due(clock.now()) {
            // It may be gone.
            if let Some(live) = registry.by_id(id) {
                live.tick();
            }
        }
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

    use super::super::testing::Rig;
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
            .lasting("timers", run(rig.registry.clone(), shutdown));
        rig
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
