//! What becomes of those who publish when the journal does what a test says: it refuses, it cannot now, it fails for good. The
//! journal is in memory, so nothing here waits for a disk.

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::store::tests::memory_store::{Call, Fault, MemoryStore};
use crate::telemetry::Metrics;

struct Scripted {
    broker: Broker,
    store: MemoryStore,
    dir: TempDir,
}

impl Scripted {
    async fn start() -> Self {
        Self::start_on(
            MemoryStore::new(),
            tempfile::tempdir().expect("a directory"),
        )
        .await
    }

    async fn start_on(store: MemoryStore, dir: TempDir) -> Self {
        let readable = RecoveredStore::of_open(store.open(), 100).expect("readable");
        let broker = broker_on(readable, dir.path(), 1 << 20, &[], &Metrics::default()).await;
        Self { broker, store, dir }
    }

    async fn publisher(&self) -> Stream {
        let (replies, answers) = mpsc::unbounded_channel();
        let who = Principal::local();
        let opened = self.broker.publisher(&who, None, replies).await;
        let (publisher, _) = opened.expect("opens");
        Stream { publisher, answers }
    }

    // The events that are in the journal, and the numbers of its groups.
    fn events(&self) -> u32 {
        let groups = self.store.journal.groups();
        let blocks = groups.iter().flat_map(|group| &group.blocks);
        blocks.map(|block| block.count).sum()
    }
}

async fn publish(stream: &mut Stream) -> Result<PublishOutcome, PublishError> {
    stream.submit(0, "a.b", 1, 10).await;
    stream.answers(1).await.remove(0).result
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_durable_and_there_after_a_crash() {
    let scripted = Scripted::start().await;
    let mut stream = scripted.publisher().await;
    publish(&mut stream).await.expect("published");
    let before = scripted.store.journal.syncs();
    publish(&mut stream).await.expect("published");
    assert_eq!(scripted.store.journal.syncs(), before + 1, "one for it");
    assert_eq!(
        scripted.store.journal.after_crash().groups().len(),
        scripted.store.journal.groups().len()
    );
    let Scripted { broker, store, dir } = scripted;
    let store = store.after_crash();
    broker.shutdown().await;
    drop(broker);
    let scripted = Scripted::start_on(store, dir).await;
    assert_eq!(scripted.events(), 2);
    let mut stream = scripted.publisher().await;
    publish(&mut stream).await.expect("it goes on");
    scripted.broker.shutdown().await;
    assert!(scripted.store.journal.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_written_now_is_refused_as_something_to_try_again() {
    let scripted = Scripted::start().await;
    let mut stream = scripted.publisher().await;
    publish(&mut stream).await.expect("published");
    for fault in [Fault::Retry, Fault::Full] {
        let before = scripted.events();
        scripted.store.journal.fail_next(Call::MakeRoom, fault);
        let refusal = publish(&mut stream).await.expect_err("not now");
        assert!(refusal.is_retryable(), "{fault:?}: {refusal}");
        assert_eq!(scripted.events(), before, "nothing of it is there");
        let again = publish(&mut stream).await;
        again.expect("it was not for good");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_fails_for_good_ends_writing_and_says_so() {
    let scripted = Scripted::start().await;
    let mut stream = scripted.publisher().await;
    publish(&mut stream).await.expect("published");
    scripted.store.journal.fail_next(Call::Sync, Fault::Final);
    for _ in 0..2 {
        let refusal = publish(&mut stream).await.expect_err("it failed");
        let is_meant = matches!(refusal, PublishError::Unavailable(Unavailable::Store(_)));
        assert!(is_meant, "{refusal}");
    }
    let health = scripted.broker.health();
    let mut raised = health.conditions.iter();
    assert!(raised.any(|raised| raised.condition == Condition::StoreFailed));
    assert_eq!(scripted.events(), 1, "and nothing else is there");
}
