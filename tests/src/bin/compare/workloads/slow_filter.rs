//! What further cores do for one filter that takes its time, as an interpreted one does: one subscription, nobody consuming, with
//! one thread for plugins and with as many as there are cores.

use ::tidegate::cli::load::{Numbers, Run, publish};

use super::rules::{check, name, wait_evaluated};
use super::{Bench, OUTSTANDING, SLOW_CONFIG, TOPIC, Table, misbehaving_filter};
use crate::broker::{Broker, Places, Subscription};
use crate::event_shape::Shape;
use crate::load::PeerSender;
use crate::report::{Sample, Unit, figure};
use crate::tidegate::{self, Tidegate};

/// Bytes of an event.
const SIZE: usize = 1_024;
/// Events before anything counts, from which the broker learns how long they take.
const WARM_UP: u64 = 1_000;
/// Events per second of measurement: somewhat more than one thread can do.
const EVENTS_PER_SECOND: u64 = 10_000;

impl Bench {
    pub(super) async fn slow(&mut self) -> anyhow::Result<()> {
        let module = misbehaving_filter().await?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = [1, cores];
        let title = "a subscription with a filter of 100 µs per event, nobody consuming, 1,024 B";
        let mut table = Table::new("slow", title);
        for threads in threads {
            table.row(format!("plugin threads: {threads}"));
        }
        table.compare(0..threads.len(), 0);
        let events = EVENTS_PER_SECOND * self.args.window().as_secs();
        let places = self.places.clone();
        self.take_turns(table, threads.len(), async |row| {
            evaluated(&places, threads[row], events, &module).await
        })
        .await;
        Ok(())
    }
}

async fn evaluated(
    places: &Places,
    threads: usize,
    events: u64,
    module: &[u8],
) -> anyhow::Result<Sample> {
    let config = format!("{SLOW_CONFIG}worker_threads = {threads}\n");
    let tidegate = Tidegate::start(places, &config).await?;
    let admin = tidegate.admin();
    admin.upload("slow", module.to_vec()).await?;
    let broker = Broker::tidegate(tidegate);
    let subscription = Subscription::new(name(0), TOPIC).filtered("slow", "burn");
    tidegate::subscribe(&admin, &subscription).await?;
    let publisher = broker.publisher(OUTSTANDING).await?;
    let mut sender = PeerSender::new(publisher, Shape::plain(SIZE, TOPIC));
    let run = Run::new();
    let mut first = 0;
    let mut pass = async |max: u64| {
        let numbers = Numbers { first, max };
        first += max;
        publish(&mut sender, &run, numbers, OUTSTANDING).await?;
        wait_evaluated(&admin, 1).await
    };

    pass(WARM_UP).await?;
    let before = broker.reading()?;
    pass(events).await?;
    let spent = before.until(broker.reading()?);

    check(&admin, WARM_UP + events).await?;
    Ok(vec![
        figure(
            "evaluated events/s",
            Unit::Count,
            events as f64 / spent.seconds,
        ),
        figure(
            "CPU µs/event",
            Unit::FineMicroseconds,
            spent.cpu_us / events as f64,
        ),
        figure(
            "peak RSS MiB",
            Unit::Mebibytes,
            broker.resident_bytes_max()? as f64,
        ),
    ])
}
