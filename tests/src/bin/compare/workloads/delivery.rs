//! W2 to W5: events on their way to consumers that ack each of them: end to end, latency, fan-out, and selection by
//! content.

use super::{Bench, TOPIC, compare_with_base, usage};
use crate::broker::{Broker, Kind, Places, Subscription};
use crate::event_shape::Shape;
use crate::load::{Measured, Plan, Wants, drive};
use crate::report::{Sample, Table, Unit, figure, median};

/// Bytes of an event where throughput is measured, and where latency is.
const SIZE: usize = 1_024;
const LATENCY_SIZE: usize = 256;
/// Events per second of the first latency measurement.
const LATENCY_RATE: u64 = 1_000;
/// Subscriptions of fan-out and filter; each of the latter wants one of as many values.
const SUBSCRIPTIONS: u64 = 10;
/// Head of the column that says how fast end to end is.
const DELIVERED: &str = "delivered events/s";

/// Who selects events by content.
#[derive(Clone, Copy, Debug)]
enum Selection {
    /// The broker, by a filter in WebAssembly.
    Filter,
    /// The client, which gets everything and parses it.
    Client,
    /// The broker, by the subject into which the publisher put the field.
    Routed,
}

impl Bench {
    pub(super) async fn end_to_end(&mut self) {
        let title = "one publisher, one consumer that acks each event, 1,024 B, both at full speed";
        let table = self.table("e2e", title, &self.kinds);
        let plan = self.plan(Shape::plain(SIZE, TOPIC));
        let (kinds, places) = (self.kinds.clone(), self.places.clone());
        self.take_turns(table, kinds.len(), async |row| {
            let (broker, measured) = delivered(kinds[row], &places, &plan, 1).await?;
            throughput(&broker, &measured)
        })
        .await;
    }

    pub(super) async fn latency(&mut self) {
        let title = "256 B at 1,000 events/s, from intended send to received";
        let kinds = [&self.kinds[..], &self.floors].concat();
        let table = self.table("latency", title, &kinds);
        let plan = self.plan(Shape::plain(LATENCY_SIZE, TOPIC));
        let rates = vec![LATENCY_RATE; kinds.len()];
        self.latency_at(table, &plan, &kinds, &rates).await;

        let rates = self.half_rates().await;
        let title = "1,024 B at half of what end to end reached";
        let table = self.table("latency", title, &self.kinds);
        let plan = self.plan(Shape::plain(SIZE, TOPIC));
        let kinds = self.kinds.clone();
        self.latency_at(table, &plan, &kinds, &rates).await;
    }

    async fn latency_at(&mut self, table: Table, plan: &Plan, kinds: &[Kind], rates: &[u64]) {
        let places = self.places.clone();
        self.take_turns(table, kinds.len(), async |row| {
            let mut plan = plan.clone();
            plan.rate = Some(rates[row]);
            let (broker, measured) = delivered(kinds[row], &places, &plan, 1).await?;
            let quantile = |part| measured.latencies.quantile_us(part) as f64;
            let mut sample = vec![
                figure("p50 µs", Unit::Microseconds, quantile(0.5)),
                figure("p99 µs", Unit::Microseconds, quantile(0.99)),
                figure("p99.9 µs", Unit::Microseconds, quantile(0.999)),
                figure(
                    "max µs",
                    Unit::Microseconds,
                    measured.latencies.max_us() as f64,
                ),
                figure("events/s", Unit::Count, measured.delivered_per_second),
            ];
            sample.extend(usage(&broker, &measured)?);
            Ok(sample)
        })
        .await;
    }

    // Half of each broker's own maximum, which is measured now if it was not before.
    async fn half_rates(&mut self) -> Vec<u64> {
        let prefix = "e2e:";
        if !self
            .tables
            .iter()
            .any(|table| table.title().starts_with(prefix))
        {
            self.end_to_end().await;
        }
        let found = self.tables.iter();
        let table = found.rev().find(|table| table.title().starts_with(prefix));
        let half = |row| {
            let values = table.map(|table| table.values(row, DELIVERED));
            ((median(&values.unwrap_or_default()) / 2.0) as u64).max(1)
        };
        (0..self.kinds.len()).map(half).collect()
    }

    pub(super) async fn fan_out(&mut self) {
        let title = format!("one publisher, {SUBSCRIPTIONS} durable subscriptions, 1,024 B");
        let table = self.table("fanout", title, &self.kinds);
        let plan = self.plan(Shape::plain(SIZE, TOPIC));
        let (kinds, places) = (self.kinds.clone(), self.places.clone());
        self.take_turns(table, kinds.len(), async |row| {
            let (broker, measured) = delivered(kinds[row], &places, &plan, SUBSCRIPTIONS).await?;
            throughput(&broker, &measured)
        })
        .await;
    }

    pub(super) async fn filter(&mut self) {
        let title = format!(
            "{SUBSCRIPTIONS} subscriptions that want a tenth each by a field of 1,024 B JSON"
        );
        let mut table = self.table("filter", title, &self.kinds);
        let own = |kind: Kind| match kind.has_filters() {
            true => (kind, Selection::Filter),
            false => (kind, Selection::Client),
        };
        let mut rows: Vec<(Kind, Selection)> = self.kinds.iter().copied().map(own).collect();
        if self.kinds.contains(&Kind::Nats) {
            table.row("nats, routed by subject");
            rows.push((Kind::Nats, Selection::Routed));
            let kinds: Vec<Kind> = rows.iter().map(|(kind, _)| *kind).collect();
            compare_with_base(&mut table, &kinds);
        }
        let plan = self.plan(Shape::json(SIZE, SUBSCRIPTIONS, TOPIC));
        let places = self.places.clone();
        self.take_turns(table, rows.len(), async |row| {
            let (kind, selection) = rows[row];
            selected(kind, &places, plan.clone(), selection).await
        })
        .await;
    }
}

// Runs a plan with this many subscriptions that get everything.
async fn delivered(
    kind: Kind,
    places: &Places,
    plan: &Plan,
    subscriptions: u64,
) -> anyhow::Result<(Broker, Measured)> {
    let broker = Broker::start(kind, places).await?;
    let mut plan = plan.clone();
    for index in 0..subscriptions {
        let name = format!("s{index}");
        broker.subscribe(&Subscription::new(&name, TOPIC)).await?;
        plan.consumers.push((name, Wants::All));
    }
    let measured = drive(&broker, &plan).await?;
    Ok((broker, measured))
}

async fn selected(
    kind: Kind,
    places: &Places,
    mut plan: Plan,
    selection: Selection,
) -> anyhow::Result<Sample> {
    let broker = Broker::start(kind, places).await?;
    if let Selection::Routed = selection {
        plan.shape = plan.shape.over((0..SUBSCRIPTIONS).map(routed));
    }
    for group in 0..SUBSCRIPTIONS {
        let name = format!("s{group}");
        let all = Subscription::new(&name, TOPIC);
        let (subscription, wants) = match selection {
            Selection::Filter => (wanting(all, group), Wants::Group(group)),
            Selection::Client => (all, Wants::ParsedGroup(group)),
            Selection::Routed => {
                let own = Subscription::new(&name, routed(group));
                (own, Wants::Group(group))
            }
        };
        broker.subscribe(&subscription).await?;
        plan.consumers.push((name, wants));
    }
    let measured = drive(&broker, &plan).await?;
    throughput(&broker, &measured)
}

// The topic of a group's events when the publisher routes them.
fn routed(group: u64) -> String {
    format!("{TOPIC}.{group}")
}

/// The subscription with a filter for one value of the field.
pub(super) fn wanting(subscription: Subscription, group: u64) -> Subscription {
    subscription.filtered("event-pattern", format!(r#"{{"group": [{group}]}}"#))
}

/// Deliveries and publishes per second, and what the broker used.
pub(super) fn throughput(broker: &Broker, measured: &Measured) -> anyhow::Result<Sample> {
    let mut sample = vec![
        figure(DELIVERED, Unit::Count, measured.delivered_per_second),
        figure("published/s", Unit::Count, measured.published_per_second),
    ];
    sample.extend(usage(broker, measured)?);
    Ok(sample)
}
