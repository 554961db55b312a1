//! What the gauges of a broker say of its bounded queues, read as a monitor reads them: how full each is gets into the history, whenever it
//! is fuller than it was in this life.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_client::PublisherOptions;
use tidegate_simulated::broker::Broker;
use tidegate_simulated::domain::Principal;
use tokio::time::sleep;

use crate::disk::SimDisk;
use crate::history::{History, What};
use crate::life::Sizes;
use crate::plan::{Plan, Publishing, Role};

/// How often they are read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Changes of the filters of a subscription that may wait.
const CHANGES_MAX: u64 = 8;

/// How long the journal may be: as it is set, and beyond that by one batch, since the last group that it has room for takes one more.
pub(super) fn journal_bytes_max(sizes: Sizes, plan: &Plan) -> u64 {
    let batch_bytes_max = PublisherOptions::default().batch_bytes_max as u64;
    let sent = plan.actors.iter().map(|actor| match &actor.role {
        Role::Publisher(does) => does.iter().map(|timed| bytes_of(&timed.does)).sum::<u64>(),
        Role::Consumer(_) => 0,
    });
    let batch_bytes = sent.max().unwrap_or_default().min(batch_bytes_max);
    sizes.journal_bytes_max() + batch_bytes
}

fn bytes_of(does: &Publishing) -> u64 {
    match does {
        Publishing::Publish { events, bytes, .. } => events * bytes,
        Publishing::Flush | Publishing::Die => 0,
    }
}

/// Reads the gauges of one life of the broker, again and again.
pub(super) async fn watch(history: History, broker: Broker, disk: SimDisk, journal_bytes_max: u64) {
    let mut fullest: BTreeMap<&str, u64> = BTreeMap::new();
    loop {
        sleep(LOOK_EVERY).await;
        // Whoever has lost its power says nothing.
        if disk.is_off() {
            return;
        }
        let gauges = read(&broker);
        let said = |gauge: &str| gauges.get(gauge).copied().unwrap_or(u64::MAX);
        for (gauge, at_most) in [
            ("journal_bytes", journal_bytes_max),
            ("subscription_pending_changes", CHANGES_MAX),
            ("plugins_instances", said("plugins_instances_max")),
            ("plugins_memory_bytes", said("plugins_memory_bytes_max")),
        ] {
            let is = gauges.get(gauge).copied().unwrap_or_default();
            let before = fullest.entry(gauge).or_default();
            if is > *before {
                *before = is;
                let gauge = gauge.into();
                history.note("broker", What::Fills { gauge, is, at_most });
            }
        }
    }
}

// The largest of each.
fn read(broker: &Broker) -> BTreeMap<&'static str, u64> {
    let families = broker.metrics_of_state(&Principal::local()).into_iter();
    let gauges = families.map(|family| {
        let values = family.samples.into_iter().map(|(_, value)| value as u64);
        (family.name, values.max().unwrap_or_default())
    });
    gauges.collect()
}
