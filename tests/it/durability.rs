//! What survives the end of the process: topics that sync in intervals, subscriptions that start in the past, and
//! subscriptions that stand still until somebody resumes them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::json;
use tidegate_client::Event;
use tidegate_tests::{BrokerProcess, Setup, guest, wait_for};

use crate::support::{
    SMALL, consume, next, number_of, numbers, publish, publish_events, take, take_numbers,
};

/// Configuration of `misbehaving_filter`: traps on events that say so, and wants all others.
const TRAP_ON_BAD: &str = "trap bad";

async fn broker_with_interval_topic() -> anyhow::Result<BrokerProcess> {
    // The interval is longer than any test: what is on disk is there for another reason.
    let broker =
        BrokerProcess::start_with(Setup::config("[store]\ninterval_ms = 60_000\n")).await?;
    let topic = json!({"name": "t", "durability": "interval"});
    let created = broker.admin().try_create_topic(topic).await?;
    assert!(created.is_ok(), "{created:?}");
    for name in ["online", "offline"] {
        broker
            .admin()
            .create(json!({"name": name, "topics": ["t"]}))
            .await?;
    }
    Ok(broker)
}

#[tokio::test]
async fn a_topic_that_syncs_in_intervals_delivers_before_it_does() -> anyhow::Result<()> {
    let broker = broker_with_interval_topic().await?;
    let client = broker.client().await?;
    let mut consumer = consume(&client, "online").await?;
    for round in 0..5 {
        let events = round * 100..(round + 1) * 100;
        publish(&client, "t", events.clone()).await?;
        let again = take_numbers(&mut consumer, events).await?;
        assert_eq!(again, 0, "nothing comes twice");
        broker.admin().wait_drained("online").await?;
    }
    assert_eq!(broker.admin().evaluated("offline").await?.depth, 500);
    Ok(())
}

#[tokio::test]
async fn sequences_of_a_topic_that_syncs_in_intervals_skip_ahead_after_a_kill() -> anyhow::Result<()>
{
    let mut broker = broker_with_interval_topic().await?;
    let mut highest = 0;
    let mut answered = Vec::new();
    for round in 0..4 {
        let client = broker.client().await?;
        let published = publish(&client, "t", round * 100..(round + 1) * 100).await?;
        let sequences: Vec<u64> = published.iter().map(|answer| answer.sequence).collect();
        assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
        if round > 0 {
            assert!(
                sequences[0] > highest + 1,
                "{} after {highest} is no skip",
                sequences[0]
            );
        }
        highest = sequences[sequences.len() - 1];
        answered.extend(sequences);
        take_numbers(
            &mut consume(&client, "online").await?,
            round * 100..(round + 1) * 100,
        )
        .await?;
        broker.kill()?;
        broker.restart().await?;
    }
    // The end of the process takes nothing that was answered, and nothing of it moves.
    let client = broker.client().await?;
    let all = take(&mut consume(&client, "offline").await?, 400).await?;
    assert_eq!(numbers(&all)?, (0..400).collect::<Vec<_>>());
    let delivered: Vec<u64> = all.iter().map(|delivery| delivery.sequence).collect();
    assert_eq!(delivered, answered);
    let positions: BTreeSet<u64> = all.iter().map(|delivery| delivery.position).collect();
    assert_eq!(positions.len(), 400, "each position once");
    let info = broker.admin().wait_drained("online").await?;
    assert_eq!(info.depth, 0, "flushed acks stay");
    Ok(())
}

#[tokio::test]
async fn sequences_go_on_without_a_gap_after_an_orderly_stop() -> anyhow::Result<()> {
    let mut broker = broker_with_interval_topic().await?;
    publish(&broker.client().await?, "t", 0..100).await?;
    let status = broker.stop().await?;
    assert!(status.success(), "{status}");
    broker.restart().await?;
    let client = broker.client().await?;
    let published = publish(&client, "t", 100..200).await?;
    assert_eq!(published[0].sequence, 101);
    take_numbers(&mut consume(&client, "offline").await?, 0..200).await?;
    Ok(())
}

#[tokio::test]
async fn who_starts_with_the_earliest_sees_what_others_keep() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "keeper", "topics": ["t"]}))
        .await?;
    // Too much for the journal: most of it is in generations.
    let events = 6_000;
    publish_events(&client, "t", (0..events).map(padded)).await?;
    let seventh = json!([{"plugin": "event-pattern", "config": r#"{"seventh": [true]}"#}]);
    for spec in [
        json!({"name": "early", "topics": ["t"], "start": "earliest"}),
        json!({"name": "sevenths", "topics": ["t"], "start": "earliest", "filters": seventh}),
        json!({"name": "new", "topics": ["t"], "start": "new"}),
    ] {
        broker.admin().create(spec).await?;
    }
    take_numbers(&mut consume(&client, "early").await?, 0..events).await?;
    take_numbers(
        &mut consume(&client, "sevenths").await?,
        (0..events).step_by(7),
    )
    .await?;
    broker.kill()?;
    broker.restart().await?;
    for name in ["early", "sevenths", "new"] {
        broker.admin().wait_drained(name).await?;
    }
    assert_eq!(broker.admin().evaluated("keeper").await?.depth, events);
    Ok(())
}

#[tokio::test]
async fn who_starts_with_the_earliest_sees_no_more_than_is_kept() -> anyhow::Result<()> {
    let broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    let events = 12_000;
    publish_events(&client, "t", (0..events).map(padded)).await?;
    broker
        .admin()
        .create(json!({"name": "early", "topics": ["t"], "start": "earliest"}))
        .await?;
    // Of those before it there may be none left: a checkpoint that nobody wanted anything of may just end.
    publish_events(&client, "t", [padded(events)]).await?;
    let mut consumer = consume(&client, "early").await?;
    let mut expected = None;
    while expected != Some(events + 1) {
        let delivery = next(&mut consumer).await?;
        let number = number_of(&delivery)?;
        assert_eq!(number, expected.unwrap_or(number), "without a gap");
        assert!(
            expected.is_some() || number > 0,
            "nobody kept the first event"
        );
        assert_eq!(delivery.sequence, number + 1);
        expected = Some(number + 1);
        delivery.ack();
    }
    broker.admin().wait_drained("early").await?;
    Ok(())
}

#[tokio::test]
async fn who_starts_with_the_earliest_counts_on_nothing_that_is_about_to_go() -> anyhow::Result<()>
{
    let broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    let every = json!([{"plugin": "event-pattern", "config": r#"{"n": [{"exists": true}]}"#}]);
    let mut published = 0;
    for round in 0..8 {
        let name = format!("early-{round}");
        // Created while checkpoints run one after the other and let go of what nobody has wanted so far.
        let part = published..published + 3_000;
        published = part.end;
        let filters = if round % 2 == 0 {
            json!([])
        } else {
            every.clone()
        };
        let creating = async {
            let spec =
                json!({"name": name, "topics": ["t"], "start": "earliest", "filters": filters});
            broker.admin().create(spec).await
        };
        tokio::try_join!(publish_events(&client, "t", part.map(padded)), creating)?;
        // Of those before it there may be none left.
        publish_events(&client, "t", [padded(published)]).await?;
        published += 1;
        let mut consumer = consume(&client, &name).await?;
        let mut last = None;
        while last.is_none_or(|last| last + 1 < published) {
            let delivery = next(&mut consumer).await?;
            let number = number_of(&delivery)?;
            assert!(Some(number) > last, "{number} after {last:?}");
            last = Some(number);
            delivery.ack();
        }
        broker.admin().wait_drained(&name).await?;
        broker.admin().delete_subscription(&name).await?;
    }
    let missing = broker
        .admin()
        .metric("tidegate_missing_events_total")
        .await?;
    assert_eq!(
        missing, 0.0,
        "found, but gone when they were to be delivered"
    );
    Ok(())
}

#[tokio::test]
async fn a_subscription_that_paused_goes_on_once_it_is_resumed() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .upload("p", guest("misbehaving_filter").await?)
        .await?;
    let spec = json!({
        "name": "s",
        "topics": ["t.>"],
        "filters": [{"plugin": "p", "config": TRAP_ON_BAD, "on_failure": "pause"}],
    });
    broker.admin().create(spec).await?;
    publish(&client, "t.good", 0..10).await?;
    publish_events(&client, "t.bad", [Event::json(r#"{"n":10,"bad":true}"#)]).await?;
    publish(&client, "t.good", 11..20).await?;
    let paused = wait_paused(&broker).await?;
    assert_eq!(
        paused.depth + paused.unevaluated,
        20,
        "nothing is lost: {paused:?}"
    );

    // With the cause still there it stops at the same place, having delivered what came before.
    broker.admin().resume("s").await?;
    let paused = wait_paused(&broker).await?;
    assert_eq!(
        (paused.depth, paused.unevaluated),
        (10, 10),
        "it stands before the event: {paused:?}"
    );

    broker.admin().delete_topic("t.bad").await?;
    broker.admin().resume("s").await?;
    let mut consumer = consume(&client, "s").await?;
    let deliveries = take(&mut consumer, 19).await?;
    let expected: Vec<u64> = (0..20).filter(|n| *n != 10).collect();
    assert_eq!(numbers(&deliveries)?, expected);
    for delivery in &deliveries {
        delivery.ack();
    }
    let info = broker.admin().wait_drained("s").await?;
    assert_eq!((info.paused, info.dead_lettered), (None, 0));

    publish(&client, "t.good", 20..30).await?;
    take_numbers(&mut consumer, 20..30).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_disk_does_not_give_back_holds_up_only_itself() -> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    let events = 1_000;
    publish_events(&client, "t", (0..events).map(padded)).await?;
    // Started anew, it has nothing in memory.
    broker.stop().await?;
    broker.restart().await?;
    let client = broker.client().await?;
    let journal = JournalFile::with(&broker, br#"{"n":7,"#)?;
    journal.overwrite(b"damaged")?;

    let mut consumer = consume(&client, "s").await?;
    let mut seen = BTreeSet::new();
    while !seen.contains(&(events - 1)) {
        let delivery = next(&mut consumer).await?;
        seen.insert(number_of(&delivery)?);
        delivery.ack();
    }
    assert!(!seen.contains(&7));
    let left = events - seen.len() as u64;
    assert!(left <= 64, "only the events of one block are missing");
    assert!(
        broker
            .admin()
            .metric("tidegate_unreadable_events_total")
            .await?
            >= left as f64
    );

    journal.overwrite(br#"{"n":7,"#)?;
    for delivery in take(&mut consumer, left as usize).await? {
        assert_eq!(
            delivery.attempt, 1,
            "an attempt that never left the broker does not count"
        );
        assert!(seen.insert(number_of(&delivery)?));
        delivery.ack();
    }
    broker.admin().wait_drained("s").await?;
    Ok(())
}

/// A file of the running broker's journal, and where some bytes stand in it.
struct JournalFile {
    path: std::path::PathBuf,
    at: u64,
}

impl JournalFile {
    fn with(broker: &BrokerProcess, bytes: &[u8]) -> anyhow::Result<Self> {
        for file in std::fs::read_dir(broker.data_directory().join("store/journal"))? {
            let path = file?.path();
            let content = std::fs::read(&path)?;
            let found = content
                .windows(bytes.len())
                .position(|window| window == bytes);
            if let Some(at) = found {
                let at = at as u64;
                return Ok(Self { path, at });
            }
        }
        anyhow::bail!("the journal does not hold these bytes")
    }

    fn overwrite(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let file = std::fs::OpenOptions::new().write(true).open(&self.path)?;
        Ok(file.write_all_at(bytes, self.at)?)
    }
}

async fn wait_paused(broker: &BrokerProcess) -> anyhow::Result<tidegate::domain::SubscriptionInfo> {
    broker
        .admin()
        .wait_subscription("s", "to pause", |s| s.paused.is_some())
        .await
}

/// An event of about a kibibyte that says whether seven divides its number.
fn padded(n: u64) -> Event {
    let seventh = n.is_multiple_of(7);
    let pad = "x".repeat(1_000);
    Event::json(format!(r#"{{"n":{n},"seventh":{seventh},"pad":"{pad}"}}"#))
}

#[tokio::test]
async fn a_data_directory_that_is_moved_under_the_broker_stops_writes_until_it_is_back()
-> anyhow::Result<()> {
    let mut broker = BrokerProcess::start_with(Setup::config(SMALL)).await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&client, "t", 0..10).await?;
    let data = broker.data_directory();
    let away = data.with_file_name("away");
    fs::rename(&data, &away)?;
    wait_for("the broker to notice", async || {
        Ok((!broker.admin().is_ready().await).then_some(()))
    })
    .await?;
    let lost = "tidegate_condition{condition=\"folder_lost\"}";
    assert!(broker.admin().metric(lost).await? > 0.0);
    let topic = json!({"name": "u"});
    let refused = broker.admin().try_create_topic(topic).await?;
    let refused = refused.expect_err("nothing is written");
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.text.contains("was renamed"), "{}", refused.text);
    assert!(!data.exists(), "nothing was made where it was");
    // Clients try again by themselves.
    let back = async { Ok(fs::rename(&away, &data)?) };
    tokio::try_join!(publish(&client, "t", 10..20), back)?;
    wait_for("the broker to be ready", async || {
        Ok(broker.admin().is_ready().await.then_some(()))
    })
    .await?;
    broker.kill()?;
    broker.restart().await?;
    let client = broker.client().await?;
    take_numbers(&mut consume(&client, "s").await?, 0..20).await?;
    Ok(())
}

#[tokio::test]
async fn without_its_lock_file_a_broker_is_still_the_only_one_on_its_directory()
-> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    fs::remove_file(broker.data_directory().join("store/lock"))?;
    let second = broker.second_on_same_directory().await?;
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another broker is running"), "{said}");
    Ok(())
}

#[tokio::test]
async fn events_in_a_journal_file_that_somebody_removes_are_saved_by_a_checkpoint()
-> anyhow::Result<()> {
    let mut broker = BrokerProcess::start().await?;
    let client = broker.client().await?;
    broker
        .admin()
        .create(json!({"name": "s", "topics": ["t"]}))
        .await?;
    publish(&client, "t", 0..10).await?;
    for entry in fs::read_dir(broker.data_directory().join("store/journal"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "log") {
            fs::remove_file(path)?;
        }
    }
    publish(&client, "t", 10..20).await?;
    wait_for("a checkpoint", async || {
        let made = broker.admin().metric("tidegate_checkpoints_total").await?;
        let lost = "tidegate_condition{condition=\"journal_file_lost\"}";
        let lost = broker.admin().metric(lost).await?;
        Ok((made > 0.0 && lost == 0.0).then_some(()))
    })
    .await?;
    broker.kill()?;
    broker.restart().await?;
    let client = broker.client().await?;
    take_numbers(&mut consume(&client, "s").await?, 0..20).await?;
    Ok(())
}
