//! W8: many connections, many topics, many subscriptions that nothing comes to; what they cost a publisher, in memory, and
//! when the broker is started again on what it has.

use clap::ValueEnum;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Bench, OUTSTANDING, TOPIC};
use crate::args::Axis;
use crate::broker::{Broker, Kind, Places, Subscription};
use crate::event_shape::Shape;
use crate::load::{Plan, drive};
use crate::report::{Sample, Table, Unit, figure};

/// Bytes of an event.
const SIZE: usize = 1_024;
/// Subscriptions that are made at a time.
const CREATED_AT_ONCE: usize = 16;

impl Axis {
    fn title(self) -> &'static str {
        match self {
            Self::Connections => {
                "connections with a publisher each, 1,000 events outstanding in all"
            }
            Self::Topics => "topics that one publisher publishes to in turn",
            Self::IdleSubscriptions => "durable subscriptions that nothing comes to, one publisher",
        }
    }

    fn counts(self) -> &'static [usize] {
        match self {
            Self::Connections | Self::Topics => &[1, 10, 100, 1_000],
            Self::IdleSubscriptions => &[1, 100, 1_000, 10_000],
        }
    }
}

impl Bench {
    pub(super) async fn scale(&mut self) {
        // More would take hours; TLS and syncing have their own tables above.
        let compared = |kind: &Kind| kind.is_tidegate() || *kind == Kind::Nats;
        let brokers: Vec<Kind> = self.kinds.iter().copied().filter(compared).collect();
        for axis in Axis::value_variants() {
            let mut kinds = brokers.clone();
            if let Axis::Connections = axis {
                kinds.extend(&self.floors);
            }
            if self.args.axes.is_empty() || self.args.axes.contains(axis) {
                self.scale_along(*axis, &kinds).await;
            }
        }
    }

    async fn scale_along(&mut self, axis: Axis, kinds: &[Kind]) {
        let mut table = Table::new("scale", axis.title());
        let mut rows = Vec::new();
        let range = self.args.scale_min as usize..=self.args.scale_max as usize;
        for &count in axis.counts().iter().filter(|count| range.contains(count)) {
            let first = rows.len();
            for kind in kinds {
                table.row(format!("{count}, {kind}"));
                rows.push((*kind, count));
            }
            if let Some(base) = Kind::base(kinds) {
                table.compare(first..rows.len(), first + base);
            }
        }
        let plan = self.plan(Shape::plain(SIZE, TOPIC));
        let places = self.places.clone();
        self.take_turns(table, rows.len(), async |row| {
            let (kind, count) = rows[row];
            scaled(kind, &places, plan.clone(), axis, count).await
        })
        .await;
    }
}

async fn scaled(
    kind: Kind,
    places: &Places,
    mut plan: Plan,
    axis: Axis,
    count: usize,
) -> anyhow::Result<Sample> {
    let mut broker = Broker::start(kind, places).await?;
    broker.keep("compare.>").await?;
    match axis {
        Axis::Connections => {
            plan.publishers = count;
            plan.outstanding = (OUTSTANDING / count).max(1);
        }
        Axis::Topics => {
            let topics = (0..count).map(|index| format!("compare.topics.{index}"));
            plan.shape = plan.shape.over(topics);
        }
        Axis::IdleSubscriptions => subscribe_idle(&broker, count).await?,
    }
    let measured = drive(&broker, &plan).await?;
    broker.wait_kept(measured.published).await?;
    let resident = broker.resident_bytes_max()?;
    let disk = broker.disk_bytes();
    let mut sample = vec![
        figure("acked events/s", Unit::Count, measured.published_per_second),
        figure(
            "CPU µs/event",
            Unit::FineMicroseconds,
            measured.cpu_us_per_event,
        ),
        figure(
            "clients' µs/event",
            Unit::FineMicroseconds,
            measured.client_cpu_us_per_event,
        ),
        figure("peak RSS MiB", Unit::Mebibytes, resident as f64),
        figure("disk MiB", Unit::Mebibytes, disk as f64),
    ];
    if kind.keeps() {
        let opened = broker.reopen().await?;
        broker.wait_kept(measured.published).await?;
        sample.extend([
            figure("open ms", Unit::Milliseconds, opened.as_secs_f64() * 1e3),
            figure(
                "RSS after open MiB",
                Unit::Mebibytes,
                broker.resident_bytes_max()? as f64,
            ),
        ]);
    }
    Ok(sample)
}

async fn subscribe_idle(broker: &Broker, count: usize) -> anyhow::Result<()> {
    let each = (0..count).map(|index| async move {
        let idle = Subscription::new(format!("idle{index}"), format!("compare.idle.{index}"));
        broker.subscribe(&idle).await
    });
    stream::iter(each)
        .buffer_unordered(CREATED_AT_ONCE)
        .try_collect()
        .await
}
