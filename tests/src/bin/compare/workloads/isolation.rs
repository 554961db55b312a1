//! What a bad neighbour takes from others: ten good subscriptions with a content filter, alone, and beside a rule that
//! traps on every event, a consumer that never acks, and a filter that takes its time.

use super::delivery::{throughput, wanting};
use super::{Bench, SLOW_CONFIG, TOPIC, Table, misbehaving_filter};
use crate::broker::{Broker, Places, Subscription};
use crate::event_shape::Shape;
use crate::load::{Plan, Wants, drive};
use crate::report::Sample;
use crate::tidegate::Tidegate;

/// Bytes of an event.
const SIZE: usize = 1_024;
/// Good subscriptions; each wants one of as many values.
const SUBSCRIPTIONS: u64 = 10;

/// Who is beside the good ones.
#[derive(Clone, Copy, Debug)]
enum Neighbour {
    Nobody,
    Trap,
    NeverAcks,
    Slow,
}

impl Neighbour {
    const ALL: [Self; 4] = [Self::Nobody, Self::Trap, Self::NeverAcks, Self::Slow];

    fn label(self) -> &'static str {
        match self {
            Self::Nobody => "alone",
            Self::Trap => "a rule that traps on every event",
            Self::NeverAcks => "a consumer that never acks",
            Self::Slow => "a filter of 100 µs per event",
        }
    }
}

impl Bench {
    pub(super) async fn isolation(&mut self) -> anyhow::Result<()> {
        let module = misbehaving_filter().await?;
        let title = format!(
            "{SUBSCRIPTIONS} good subscriptions with a content filter, 1,024 B JSON, beside …"
        );
        let mut table = Table::new("isolation", title);
        for neighbour in Neighbour::ALL {
            table.row(neighbour.label());
        }
        table.compare(0..Neighbour::ALL.len(), 0);
        let plan = self.plan(Shape::json(SIZE, SUBSCRIPTIONS, TOPIC));
        let places = self.places.clone();
        self.take_turns(table, Neighbour::ALL.len(), async |row| {
            beside(&places, plan.clone(), Neighbour::ALL[row], &module).await
        })
        .await;
        Ok(())
    }
}

async fn beside(
    places: &Places,
    mut plan: Plan,
    neighbour: Neighbour,
    module: &[u8],
) -> anyhow::Result<Sample> {
    let tidegate = Tidegate::start(places, SLOW_CONFIG).await?;
    tidegate.admin().upload("bad", module.to_vec()).await?;
    let broker = Broker::tidegate(tidegate);
    for group in 0..SUBSCRIPTIONS {
        let name = format!("good{group}");
        let subscription = wanting(Subscription::new(&name, TOPIC), group);
        broker.subscribe(&subscription).await?;
        plan.consumers.push((name, Wants::Group(group)));
    }
    let bad = Subscription::new("bad", TOPIC);
    match neighbour {
        Neighbour::Nobody => {}
        Neighbour::Trap => broker.subscribe(&bad.filtered("bad", "trap")).await?,
        Neighbour::Slow => broker.subscribe(&bad.filtered("bad", "burn")).await?,
        Neighbour::NeverAcks => {
            broker.subscribe(&bad).await?;
            plan.consumers.push(("bad".to_owned(), Wants::Nothing));
        }
    }
    let measured = drive(&broker, &plan).await?;
    throughput(&broker, &measured)
}
