//! W1: durable publishes that stay, because nobody consumes them.

use super::{Bench, TOPIC, usage};
use crate::broker::{Broker, Kind, Places};
use crate::event_shape::Shape;
use crate::load::{Plan, drive};
use crate::report::{Sample, Unit, figure};

/// Publishers and bytes of an event.
const CASES: [(usize, usize); 4] = [(1, 256), (1, 1_024), (16, 256), (16, 1_024)];

impl Bench {
    pub(super) async fn publish(&mut self) {
        for (publishers, size) in CASES {
            let title = format!("durable publish, {publishers} × 1,000 outstanding, {size} B");
            let table = self.table("publish", title, &self.kinds);
            let mut plan = self.plan(Shape::plain(size, TOPIC));
            plan.publishers = publishers;
            let (kinds, places) = (self.kinds.clone(), self.places.clone());
            self.take_turns(table, kinds.len(), async |row| {
                published(kinds[row], &places, &plan).await
            })
            .await;
        }
    }
}

/// Publishes on a fresh broker, and checks that it keeps what it answered.
pub(super) async fn published(kind: Kind, places: &Places, plan: &Plan) -> anyhow::Result<Sample> {
    let broker = Broker::start(kind, places).await?;
    broker.keep(TOPIC).await?;
    let measured = drive(&broker, plan).await?;
    broker.wait_kept(measured.published).await?;
    let mut sample = vec![figure(
        "acked events/s",
        Unit::Count,
        measured.published_per_second,
    )];
    sample.extend(usage(&broker, &measured)?);
    Ok(sample)
}
