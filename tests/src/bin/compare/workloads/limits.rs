//! What the machine and the parts of the broker can do by themselves, with the durable publishes of the same run as a part
//! of each.

use super::publish::published;
use super::{Bench, TOPIC, Table};
use crate::broker::Kind;
use crate::event_shape::Shape;
use crate::limits::{Limit, measure};
use crate::report::{Unit, figure};

/// Bytes of an event.
const SIZE: usize = 1_024;

impl Bench {
    pub(super) async fn limits(&mut self) {
        let mut table = Table::new(
            "limits",
            "what the machine can do, and what the publishes of 1,024 B are of it",
        );
        table.row("tidegate, 1 × 1,000 outstanding, payloads");
        for limit in Limit::ALL {
            table.row(limit.label());
        }
        let plan = self.plan(Shape::plain(SIZE, TOPIC));
        let (places, window) = (self.places.clone(), self.args.window());
        let mut bytes_per_second = 0.0;
        self.take_turns(table, Limit::ALL.len() + 1, async |row| {
            let Some(limit) = row.checked_sub(1).map(|index| Limit::ALL[index]) else {
                bytes_per_second = 0.0;
                let sample = published(Kind::Tidegate, &places, &plan).await?;
                let rate = sample.first().map_or(0.0, |rate| rate.value);
                bytes_per_second = rate * SIZE as f64;
                return Ok(vec![figure("MiB/s", Unit::Mebibytes, bytes_per_second)]);
            };
            let most = measure(limit, &places.directory, window).await?;
            let share = bytes_per_second / most;
            Ok(vec![
                figure("MiB/s", Unit::Mebibytes, most),
                figure("tidegate's part of it", Unit::Fraction, share),
            ])
        })
        .await;
    }
}
