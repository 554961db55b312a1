//! The checkpointer, driven turn by turn beside a committer, on one thread and in virtual time: the journal is in memory, generations
//! are real ones in a temporary folder.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::checkpointer::{
    Checkpointer, CheckpointerParts, Decision, RECLAIM_EVERY, RELEASE_EVERY,
};
use crate::broker::commit::tests::fixture::Fixture;
use crate::broker::matching::unfiltered_router::Router;
use crate::domain::{Position, SubscriptionId, TopicId};
use crate::locks;
use crate::store::tests::memory_store::{Call, Fault};
use crate::store::{GenerationInfo, STATES_KEPT};
use crate::telemetry::conditions::Condition;

/// Turns after which what is not so will never be.
const TURNS_MAX: usize = 200;

struct Bench {
    fixture: Fixture,
    checkpointer: Checkpointer,
    // As long as it lives.
    router: Option<BoxFuture<'static, ()>>,
    id: SubscriptionId,
    _decide: mpsc::Sender<Decision>,
}

impl Bench {
    /// A subscription that has this many events of a stream pending.
    async fn with_pending(events: u64) -> Self {
        let mut fixture = Fixture::new();
        let id = fixture.subscribe("s").await;
        let mut stream = fixture.stream(None);
        for number in 1..=events {
            stream.publish("a", number);
            fixture.turn().await;
        }
        assert!(stream.answers().iter().all(Result::is_ok));
        let (decide, decisions) = mpsc::channel(1);
        let catalog = fixture.shared.clone();
        let names = move |id: TopicId| locks::read(&catalog).topic_name(id);
        let registry = fixture.registry.clone();
        let router = Router::new(registry, fixture.log.clone(), names);
        let router = router.run(CancellationToken::new());
        let checkpointer = Checkpointer::new(CheckpointerParts {
            checkpoints: fixture.checkpoints.take().expect("not taken yet"),
            folders: fixture.reader.folders(),
            reader: fixture.reader.clone(),
            log: fixture.log.clone(),
            registry: fixture.registry.clone(),
            inbox: fixture.inbox.clone(),
            metrics: fixture.metrics.clone(),
            clock: fixture.clock.clone(),
            due: fixture.checkpoint_due.clone(),
            shutdown: CancellationToken::new(),
            conditions: fixture.conditions.clone(),
            decisions,
        });
        Self {
            fixture,
            checkpointer,
            router: Some(router.boxed()),
            id,
            _decide: decide,
        }
    }

    /// Lets the router see everything.
    async fn route(&mut self) {
        let end = self.fixture.log.end();
        let mut routed = self.fixture.registry.followers.routed_before();
        tokio::select! {
            biased;
            () = alive(&mut self.router) => panic!("it ends"),
            routed = routed.wait_for(|through| *through >= end) => drop(routed.expect("it runs")),
        }
    }

    /// One turn of the checkpointer, with as much of the committer and the router as it waits for.
    async fn turn(&mut self) {
        let Self {
            fixture,
            checkpointer,
            router,
            ..
        } = self;
        let turn = checkpointer.turn();
        tokio::pin!(turn);
        loop {
            tokio::select! {
                biased;
                goes_on = &mut turn => return assert!(goes_on),
                _ = fixture.committer.step() => {}
                () = alive(router) => panic!("it ends"),
            }
        }
    }

    async fn turn_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS_MAX {
            if is_so(self) {
                return;
            }
            self.turn().await;
        }
        panic!(
            "{:?}: {:?}",
            self.generations(),
            self.fixture.conditions.all()
        );
    }

    fn generations(&self) -> Vec<GenerationInfo> {
        self.checkpointer.parts.checkpoints.generations()
    }

    fn events_kept(&self) -> u64 {
        let generations = self.generations();
        generations.iter().map(|generation| generation.events).sum()
    }

    fn ack(&self, first: u64, last: u64) {
        let live = self.fixture.registry.by_id(self.id).expect("it runs");
        let range = Position(first)..=Position(last);
        live.apply(|state, _| state.finish(&[range]));
    }
}

async fn alive(router: &mut Option<BoxFuture<'static, ()>>) {
    match router {
        Some(router) => router.await,
        None => std::future::pending().await,
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_moves_what_is_pending_and_lets_the_journal_go() {
    let mut bench = Bench::with_pending(4).await;
    bench.route().await;
    bench.ack(2, 3);
    bench.turn().await;
    assert_eq!(bench.generations(), [], "nobody has asked for one");
    bench.fixture.checkpoint_due.notify_one();
    bench.turn().await;
    assert_eq!(bench.events_kept(), 2);
    assert_eq!(bench.fixture.journal.groups(), []);
    for (position, is_kept) in [(1, true), (2, false), (4, true)] {
        let found = bench.fixture.reader.block_at(Position(position));
        assert_eq!(found.expect("readable").is_some(), is_kept, "{position}");
    }
    assert_eq!(bench.fixture.conditions.all(), []);
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_nobody_needs_any_more_goes_with_newer_states() {
    let mut bench = Bench::with_pending(3).await;
    bench.route().await;
    bench.fixture.checkpoint_due.notify_one();
    bench.turn().await;
    assert_eq!(bench.events_kept(), 3);
    bench.ack(1, 2);
    for _ in 0..20 {
        bench.turn().await;
    }
    assert_eq!(bench.events_kept(), 3, "one of them is needed");
    bench.ack(3, 3);
    // What it is kept for by now is its state alone, so newer ones are made in time.
    bench.turn_until(|bench| bench.events_kept() == 0).await;
    assert!(bench.generations().len() <= STATES_KEPT);
    let found = bench.fixture.reader.block_at(Position(3));
    assert!(found.expect("nothing is wrong").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_gets_no_mark_is_tried_again_by_itself() {
    let mut bench = Bench::with_pending(1).await;
    bench.route().await;
    bench.fixture.journal.fail_next(Call::Mark, Fault::Retry);
    bench.fixture.checkpoint_due.notify_one();
    bench.turn().await;
    let why = bench.fixture.conditions.reason(&Condition::CheckpointFails);
    assert!(why.is_some_and(|why| why.contains("no mark")));
    assert_eq!(bench.generations(), []);
    bench.turn_until(|bench| bench.events_kept() == 1).await;
    assert_eq!(bench.fixture.conditions.all(), []);
}

// As long as the disk fails, which may be for hours.
#[tokio::test(start_paused = true)]
async fn while_a_failed_checkpoint_waits_each_turn_rests() {
    let mut bench = Bench::with_pending(1).await;
    bench.route().await;
    bench.fixture.checkpoint_due.notify_one();
    bench.turn().await;
    // From now on the generation is there for its state only, which a checkpoint is asked for.
    bench.ack(1, 1);
    tokio::time::sleep(RELEASE_EVERY * 2).await;
    let begun = tokio::time::Instant::now();
    let turns = 40;
    for _ in 0..turns {
        bench.fixture.journal.fail_next(Call::Mark, Fault::Retry);
        bench.turn().await;
    }
    let why = bench.fixture.conditions.reason(&Condition::CheckpointFails);
    assert!(why.is_some_and(|why| why.contains("no mark")));
    // The one after it was asked for comes at once.
    assert!(
        begun.elapsed() >= RECLAIM_EVERY * (turns - 2),
        "{turns} turns in {:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_for_the_router_unless_that_is_dead() {
    let mut bench = Bench::with_pending(1).await;
    let router = bench.router.take();
    let died = Condition::TaskDied("router".into());
    bench.fixture.conditions.raise(died, "a fault");
    bench.fixture.checkpoint_due.notify_one();
    bench.turn().await;
    let why = bench.fixture.conditions.reason(&Condition::CheckpointFails);
    assert!(why.is_some_and(|why| why.contains("a fault")));
    assert!(
        !bench.fixture.journal.groups().is_empty(),
        "it keeps everything"
    );
    bench.router = router;
    bench.route().await;
    bench.turn_until(|bench| bench.events_kept() == 1).await;
    assert_eq!(
        bench.fixture.conditions.all().len(),
        1,
        "the router's alone"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_after_the_shutdown() {
    let mut bench = Bench::with_pending(1).await;
    bench.fixture.checkpoint_due.notify_one();
    bench.checkpointer.parts.shutdown.cancel();
    assert!(!bench.checkpointer.turn().await);
    assert_eq!(bench.generations(), []);
}
