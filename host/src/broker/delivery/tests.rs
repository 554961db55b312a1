//! Delivery in virtual time: a log in memory, a subscription that runs with its timers and its writer of dead letters, and a test in
//! the committer's place, which takes from the inbox what is to be written.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::TransformCache;
use super::consumer::{Consumer, Delivery};
use super::context::DeliveryContext;
use super::dead_letters;
use super::fetcher::Manner;
use super::letter_headers::REASON_HEADER;
use crate::broker::commit::inbox::{Appetite, Inbox, Taken};
use crate::broker::commit::request::{Control, Outputs};
use crate::broker::counters::Counters;
use crate::broker::error::Unavailable;
use crate::broker::event_log::tail::Log;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::broker::subscriptions::test_rig;
use crate::domain::{
    BlockBuilder, Durability, Event, Millis, Position, Principal, Sequence, TopicId, TopicSpec,
};
use crate::plugin::{PluginOptions, Plugins};
use crate::runtime::clock::Clock;
use crate::runtime::spawn::Spawner;
use crate::state::catalog::{Catalog, Change, Json};
use crate::telemetry::conditions::Conditions;
use crate::telemetry::metrics_registry::Metrics;

struct Bench {
    live: Arc<LiveSubscription>,
    context: Arc<DeliveryContext>,
    next: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(settings: serde_json::Value) -> Self {
        Self::with_ack_room(settings, usize::MAX)
    }

    fn with_ack_room(settings: serde_json::Value, ack_ranges_max: usize) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let inbox = Inbox::with_ack_room(Clock::start(), ack_ranges_max);
        let (registry, live, letters, _) =
            test_rig::alive(test_rig::resting(settings), inbox.clone());
        let plugins = Plugins::start(PluginOptions {
            cache_dir: dir.path().join("cache"),
            ..PluginOptions::default()
        });
        let mut catalog = Catalog::default();
        catalog.apply(&Change::CreateTopic {
            id: TopicId(1),
            spec: Json(TopicSpec {
                name: "a".parse().expect("a name"),
                durability: Durability::Sync,
                created_by: None,
            }),
        });
        let (catalog, policy) = (
            Arc::new(RwLock::new(catalog)),
            crate::auth::Policy::of_local(),
        );
        let shutdown = CancellationToken::new();
        let context = Arc::new(DeliveryContext {
            registry: registry.clone(),
            log: Log::empty(&dir.path().join("store")),
            inbox,
            chains: TransformCache::new(plugins.expect("starts"), catalog.clone(), policy.clone()),
            catalog,
            metrics: Arc::new(Counters::registered(&Metrics::default())),
            spawner: Spawner::new(Conditions::default(), shutdown.clone()),
            policy,
            event_bytes_max: crate::domain::EVENT_BYTES_MAX,
            delivery_bytes_max: crate::domain::EVENT_BYTES_MAX,
            shutdown: shutdown.clone(),
        });
        let spawner = &context.spawner;
        spawner.lasting("timers", registry.run_timers(shutdown.clone()));
        let letters = dead_letters::run(context.clone(), letters, shutdown);
        spawner.lasting("dead letters", letters);
        Self {
            live,
            context,
            next: 1,
            _dir: dir,
        }
    }

    // So many events are committed, and matched by the subscription.
    fn publish(&mut self, events: u64) {
        let mut builder = BlockBuilder::default();
        for number in 0..events {
            let payload = vec![number as u8].into();
            let event = Event {
                payload,
                ..Event::default()
            };
            builder.push(&event.encode_to_vec());
        }
        let first = Position(self.next);
        let block = builder.finish(TopicId(1), first, Sequence(self.next), Millis(0));
        self.next += events;
        let last = block.last_position();
        self.context.log.append(vec![block], last.next());
        self.live
            .apply(|state, _| state.observe(last, [first..=last]));
    }

    fn consumer(&self) -> Consumer {
        let (context, live) = (self.context.clone(), self.live.clone());
        let let_in_by = self.context.policy.version();
        Consumer::attach(context, live, Manner::Silent, Principal::local(), let_in_by)
    }

    // What is to be written, as the committer takes it.
    fn take(&self) -> Taken {
        let inbox = &self.context.inbox;
        inbox.take(&Appetite {
            publishes: true,
            cost_max: usize::MAX,
            ack_delay: Duration::ZERO,
            idle_until: Some(self.context.registry.clock.instant()),
        })
    }

    // The next dead letters, and how long it took until they came.
    async fn letters(&self) -> (Outputs, Duration) {
        let begin = tokio::time::Instant::now();
        loop {
            if let Some(Control::Outputs(outputs)) = self.take().control.pop_front() {
                return (outputs, begin.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

// What the consumer is sent next, one event at a time, or nothing within an hour.
async fn next(consumer: &Consumer) -> Option<Delivery> {
    let hour = Duration::from_secs(3_600);
    let deliveries = tokio::time::timeout(hour, consumer.next(1, 1)).await.ok()?;
    let delivery = deliveries.expect("it goes on").pop().expect("not empty");
    consumer.sent(1, [delivery.range()]);
    Some(delivery)
}

#[tokio::test(start_paused = true)]
async fn an_event_that_misses_its_deadline_comes_again_after_its_back_off() {
    let delivery = serde_json::json!({"ack_deadline_ms": 5_000, "backoff_ms": [2_000]});
    let mut bench = Bench::new(serde_json::json!({"delivery": delivery}));
    let consumer = bench.consumer();
    bench.publish(1);
    let first = next(&consumer).await.expect("delivered");
    assert_eq!((first.position, first.attempt), (Position(1), 1));
    let begin = tokio::time::Instant::now();
    let again = next(&consumer).await.expect("delivered again");
    assert_eq!((again.position, again.attempt), (Position(1), 2));
    let waited = begin.elapsed().as_millis();
    assert!((7_000..7_100).contains(&waited), "{waited} ms");
    consumer.ack(&[again.range()]);
    assert_eq!(bench.take().acks[&bench.live.id], [again.range()]);
    assert!(next(&consumer).await.is_none(), "it is done with");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_is_waked_by_an_event_and_by_going_on_after_a_pause() {
    let mut bench = Bench::new(serde_json::json!({}));
    let consumer = bench.consumer();
    bench.live.apply(|state, _| state.pause("so"));
    bench.publish(2);
    let (delivery, ()) = tokio::join!(next(&consumer), async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        bench.live.apply(|state, _| state.resume());
    });
    assert_eq!(delivery.expect("delivered").position, Position(1));
    assert_eq!(next(&consumer).await.expect("too").position, Position(2));
    let (delivery, ()) = tokio::join!(next(&consumer), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.publish(1);
    });
    assert_eq!(delivery.expect("delivered").position, Position(3));
}

#[tokio::test(start_paused = true)]
async fn while_too_many_acks_wait_to_be_written_nothing_more_is_delivered() {
    let mut bench = Bench::with_ack_room(serde_json::json!({}), 1);
    let consumer = bench.consumer();
    bench.publish(2);
    let first = next(&consumer).await.expect("delivered");
    consumer.ack(&[first.range()]);
    assert!(next(&consumer).await.is_none(), "there is no room");
    assert_eq!(bench.take().acks.len(), 1);
    assert_eq!(next(&consumer).await.expect("room").position, Position(2));
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_ends_as_a_dead_letter_which_is_tried_again_until_it_is_written() {
    let delivery = serde_json::json!({"attempts_max": 2, "backoff_ms": [0]});
    let mut bench = Bench::new(serde_json::json!({"delivery": delivery}));
    let consumer = bench.consumer();
    bench.publish(1);
    for attempt in [1, 2] {
        let delivery = next(&consumer).await.expect("delivered");
        assert_eq!(delivery.attempt, attempt);
        consumer.nack(&[delivery.range()], None);
    }
    let (refused, _) = bench.letters().await;
    let no_room = Unavailable::Overloaded("no room".into()).into();
    refused.done.send(Err(no_room)).expect("it waits for that");

    let (letter, rested) = bench.letters().await;
    assert!(rested >= Duration::from_secs(1), "{rested:?}");
    assert_eq!(letter.acks, [Position(1)..=Position(1)]);
    let event = Event::decode(letter.events[0].event.clone()).expect("an event");
    let reason = event.headers.iter().find(|h| h.name == REASON_HEADER);
    let reason = &reason.expect("it says why").value;
    assert_eq!(reason, "handed out as often as the subscription allows");
    bench.live.apply(|state, _| state.is_acked(&letter.acks));
    letter.done.send(Ok(())).expect("it waits for that");

    // The writer rests no more.
    bench.publish(1);
    let delivery = next(&consumer).await.expect("delivered");
    consumer.term(&[delivery.range()], "broken");
    let (letter, waited) = bench.letters().await;
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    assert_eq!(letter.acks, [Position(2)..=Position(2)]);
}
