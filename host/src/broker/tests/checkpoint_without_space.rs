//! What a checkpoint does that does not fit on the disk: it lets go of what it can without it.

use super::*;
use crate::broker::delivery::fetcher::Manner;
use crate::domain::Sequence;

const EVENT_BYTES: usize = 60_000;

impl Fixture {
    // Takes and acks so many events.
    async fn drain(&self, name: &str, count: usize) {
        let consumer = self
            .broker
            .attach(&Principal::local(), name, Manner::Silent)
            .await;
        let consumer = consumer.expect("attached");
        let mut drained = 0;
        while drained < count {
            let deliveries = tokio::time::timeout(PATIENCE, consumer.next(16, 1 << 20)).await;
            let deliveries = deliveries.expect("in time").expect("delivered");
            let positions: Vec<_> = deliveries.iter().flat_map(Delivery::positions).collect();
            drained += positions.len();
            let acked: Vec<_> = positions.into_iter().map(|at| at..=at).collect();
            assert!(consumer.ack(&acked).is_empty());
            let confirmed = tokio::time::timeout(PATIENCE, consumer.acks_durable()).await;
            confirmed.expect("in time").expect("acked");
        }
        assert_eq!(drained, count);
    }

    fn checkpoints(&self) -> u64 {
        let text = self.metrics_text();
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("tidegate_checkpoints_total "));
        count.expect("a metric").parse().expect("a number")
    }

    async fn wait_for_checkpoints(&self, count: u64) {
        let is_so = || self.checkpoints() >= count;
        until(is_so, || format!("{} of {count}", self.checkpoints())).await;
    }

    // Names of the journal's files.
    fn journal_files(&self) -> Vec<String> {
        let journal = self.dir.path().join("store/journal");
        let files = fs::read_dir(journal).expect("a folder").map(|file| {
            let name = file.expect("a file").file_name();
            name.into_string().expect("plain")
        });
        let mut files: Vec<_> = files.filter(|name| name.ends_with(".log")).collect();
        files.sort();
        files
    }
}

impl Stream {
    async fn publish_all(&mut self, topic: &str, count: u64) {
        for correlation in 0..count {
            self.submit(correlation, topic, 1, EVENT_BYTES).await;
            let answer = self.answers(1).await.remove(0);
            answer.result.expect("appended");
        }
    }
}

// A disk on which a state fits, and no events.
async fn without_room_for_events() -> Fixture {
    let fixture = Fixture::start(1 << 20).await;
    let mut stream = fixture.publisher().await;
    // Further states replace older ones from now on.
    for round in 1..=2 {
        stream.publish_all("early", 18).await;
        fixture.wait_for_checkpoints(round).await;
    }
    fixture.subscribe("early", "early").await;
    fixture.subscribe("late", "late").await;
    let full = Fault::Error(std::io::ErrorKind::StorageFull);
    fixture.fs.fail_with(Operation::Sync, "part-", full);
    fixture
}

// A disk may be full long before the journal is as long as it may become.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_rid_of_journal_files_that_nobody_needs() {
    let fixture = Fixture::start(1 << 20).await;
    fixture.subscribe("s", ">").await;
    let mut stream = fixture.publisher().await;
    stream.publish_all("a.b", 40).await;
    fixture.drain("s", 40).await;
    let (files, checkpoints) = (fixture.journal_files(), fixture.checkpoints());
    fixture.fs.limit_allocations(MIB / 4);
    stream.publish_until_refused().await;
    fixture.wait_for(&Condition::DiskFull, true).await;
    let oldest = &files[0];
    let is_gone = || !fixture.journal_files().contains(oldest);
    until(is_gone, || format!("{oldest} is still there")).await;
    // It is counted once all of it is done.
    let is_counted = || fixture.checkpoints() > checkpoints;
    until(is_counted, || "no checkpoint is counted".to_owned()).await;
    fixture.fs.heal();
    fixture.wait_for(&Condition::DiskFull, false).await;
    stream.publish().await.expect("there is room again");
    fixture.broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_files_that_nobody_needs_go_although_what_is_pending_does_not_fit() {
    let fixture = without_room_for_events().await;
    let mut stream = fixture.publisher().await;
    stream.publish_all("early", 18).await;
    fixture.wait_for(&Condition::CheckpointFails, true).await;
    // Beside what an event of the newest file is for somebody, nothing is needed once this is drained.
    stream.publish_all("early", 17).await;
    stream.publish_all("late", 1).await;
    stream.publish_all("early", 1).await;
    let before = fixture.journal_files();
    // What the state has in it and the journal still says must not be taken for new at the next start.
    fixture.subscribe("gone", "early").await;
    stream.publish_all("early", 1).await;
    let gone = fixture.broker.find("gone").expect("there");
    let deleted = fixture.broker.delete_subscription(&gone).await;
    deleted.expect("deleted");
    let checkpoints = fixture.checkpoints();
    fixture.drain("early", 37).await;
    // As of the mark that failed before, of which everything is drained now; and then without what is still needed.
    fixture.wait_for_checkpoints(checkpoints + 2).await;
    let left = fixture.journal_files();
    assert!(left[0] > before[0], "{before:?}, {left:?}");
    let fails = fixture.broker.conditions();
    assert!(fails.reason(&Condition::CheckpointFails).is_some());
    let topic = "early".parse().expect("a name");
    let sequence = fixture.broker.topic(&topic).expect("there").next_sequence;
    drop(stream);

    let fixture = fixture.start_after(|_| ()).await;
    let again = fixture.broker.topic(&topic).expect("there");
    assert_eq!(again.next_sequence, sequence);
    assert!(sequence > Sequence(37));
    assert_eq!(
        fixture.broker.subscription("early").expect("there").depth,
        0
    );
    assert_eq!(fixture.broker.subscription("late").expect("there").depth, 1);
    assert!(fixture.broker.subscription("gone").is_err());
    fixture.drain("late", 1).await;
    // With room everything goes on.
    let checkpoints = fixture.checkpoints();
    let mut stream = fixture.publisher().await;
    stream.publish_all("early", 18).await;
    fixture.wait_for_checkpoints(checkpoints + 1).await;
    fixture.drain("early", 18).await;
    fixture.broker.shutdown().await;
}
