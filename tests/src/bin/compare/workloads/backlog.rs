//! W7: a backlog that one consumer drains while publishing goes on at full speed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ::tidegate::cli::load::{Numbers, Phase, Run, publish};
use anyhow::{Context, ensure};

use super::{Bench, OUTSTANDING, TOPIC};
use crate::broker::{Broker, Kind, Places, STALLED_AFTER, Subscription};
use crate::event_shape::Shape;
use crate::load::{PeerReceiver, PeerSender, Wants, consume};
use crate::report::{Sample, Unit, figure};
use crate::usage::Reading;

/// Bytes of an event.
const SIZE: usize = 1_024;
const NAME: &str = "backlog";
/// How often the consumer's progress is looked at.
const POLL: Duration = Duration::from_millis(5);

impl Bench {
    pub(super) async fn backlog(&mut self) {
        let mebibytes = self.args.backlog_mib;
        let events = (mebibytes << 20) / SIZE as u64;
        let title = format!(
            "{mebibytes} MiB of 1,024 B events wait, then one consumer while publishing goes on"
        );
        // A sync for each event would take hours to fill it.
        let syncs_each = |kind: &Kind| *kind == Kind::NatsAlways;
        let all = self.kinds.iter().copied();
        let kinds: Vec<Kind> = all.filter(|kind| !syncs_each(kind)).collect();
        let table = self.table("backlog", title, &kinds);
        let places = self.places.clone();
        let filling = self.args.backlog_filling.clone();
        self.take_turns(table, kinds.len(), async |row| {
            let shape = shape(filling.as_deref())?;
            Box::pin(drained(kinds[row], &places, &shape, events)).await
        })
        .await;
    }
}

fn shape(filling: Option<&Path>) -> anyhow::Result<Shape> {
    let shape = Shape::plain(SIZE, TOPIC);
    let Some(path) = filling else {
        return Ok(shape);
    };
    let filling = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let shape = shape.filled_with(filling.into());
    shape.with_context(|| format!("filling events with {}", path.display()))
}

async fn drained(
    kind: Kind,
    places: &Places,
    shape: &Shape,
    events: u64,
) -> anyhow::Result<Sample> {
    let broker = Broker::start(kind, places).await?;
    broker.subscribe(&Subscription::new(NAME, TOPIC)).await?;
    let run = Run::new();
    let mut sender = PeerSender::new(broker.publisher(OUTSTANDING).await?, shape.clone());
    let (backlog, more) = (
        Numbers {
            first: 0,
            max: events,
        },
        Numbers {
            first: events,
            max: u64::MAX,
        },
    );

    let begin = broker.reading()?;
    publish(&mut sender, &run, backlog, OUTSTANDING).await?;
    let filled = broker.reading()?;

    let receiver = PeerReceiver::new(broker.consumer(NAME).await?, shape.clone(), Wants::All);
    let published = publish(&mut sender, &run, more, OUTSTANDING);
    let taken = consume(receiver, &run);
    let ended = drain(&broker, &run, events);
    let (_, taken, ended) = tokio::try_join!(published, taken, ended)?;
    taken.tally.check_reached(events)?;

    let (fill, drain) = (begin.until(filled), filled.until(ended.reading));
    Ok(vec![
        figure(
            "drained events/s",
            Unit::Count,
            ended.received as f64 / drain.seconds,
        ),
        figure(
            "published/s meanwhile",
            Unit::Count,
            ended.published as f64 / drain.seconds,
        ),
        figure("filled events/s", Unit::Count, events as f64 / fill.seconds),
        figure(
            "peak RSS MiB",
            Unit::Mebibytes,
            broker.resident_bytes_max()? as f64,
        ),
        figure("disk MiB", Unit::Mebibytes, broker.disk_bytes() as f64),
        figure(
            "CPU µs/drained event",
            Unit::FineMicroseconds,
            drain.cpu_us / ended.received.max(1) as f64,
        ),
    ])
}

struct Ended {
    reading: Reading,
    received: u64,
    published: u64,
}

// Waits until as many events came as there were waiting, and stops publisher and consumer.
async fn drain(broker: &Broker, run: &Run, events: u64) -> anyhow::Result<Ended> {
    let before = run.counts();
    let missing = run.wait_received(events, POLL, STALLED_AFTER).await;
    ensure!(missing == 0, "{missing} of {events} events did not come");
    let counts = run.counts();
    let reading = broker.reading()?;
    run.enter(Phase::Drain);
    run.enter(Phase::Done);
    Ok(Ended {
        reading,
        received: counts.received,
        published: counts.answered - before.answered,
    })
}
