//! The load, the same for every broker: the publishers and consumers of [`tidegate::cli::load`], on a [`Broker`]. Afterwards it is
//! checked that exactly what was answered has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tidegate::cli::load::{
    self, Clients, Counts, Latencies, Numbers, PACED_OUTSTANDING, Phase, Published, Rate, Receiver,
    Run, Seen, Sender, publish, publish_at_rate,
};
use anyhow::ensure;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::broker::{Broker, Consumer, Delivery, Publisher, STALLED_AFTER, Ticket};
use crate::event_shape::{Shape, Tally, parse_group};
use crate::usage::Spent;

/// Publishers that connect at a time.
const CONNECTED_AT_ONCE: usize = 16;
/// Windows that a measurement may take when little is answered.
const WINDOWS_MAX: u32 = 10;
/// How often it is looked whether everything has come.
const POLL: Duration = Duration::from_millis(50);

/// One measurement of publishers and consumers.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Publishers, each on a connection of its own.
    pub(crate) publishers: usize,
    /// Events that each leaves unanswered.
    pub(crate) outstanding: usize,
    /// Events per second of the one publisher; as fast as it can by default.
    pub(crate) rate: Option<u64>,
    /// What they send.
    pub(crate) shape: Shape,
    /// Subscription of each consumer, and what it expects. With consumers there has to be one publisher.
    pub(crate) consumers: Vec<(String, Wants)>,
    /// Load before anything counts.
    pub(crate) warm_up: Duration,
    /// How long is measured.
    pub(crate) window: Duration,
}

/// What a consumer expects, and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Everything, and acks it.
    All,
    /// Events of one group, which the broker chooses, and acks them.
    Group(u64),
    /// Everything, and acks it, but only events of one group count, which it chooses by parsing the body.
    ParsedGroup(u64),
    /// Whatever comes, and never acks.
    Nothing,
}

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Answers to publishers per second.
    pub(crate) published_per_second: f64,
    /// Deliveries that a consumer wanted and acked, per second.
    pub(crate) delivered_per_second: f64,
    /// Processor time of the broker per published event, in microseconds.
    pub(crate) cpu_us_per_event: f64,
    /// Processor time of the clients per published event, in microseconds.
    pub(crate) client_cpu_us_per_event: f64,
    /// Bytes on the wire per published event, everything included.
    pub(crate) wire_bytes_per_event: f64,
    /// From intended send to delivery.
    pub(crate) latencies: Latencies,
    /// Events of the whole run.
    pub(crate) published: u64,
}

impl Plan {
    // Deliveries that are acked once all of `published` events have come.
    fn due(&self, published: u64) -> u64 {
        let due = |(_, wants): &(String, Wants)| match wants {
            Wants::All | Wants::ParsedGroup(_) => published,
            Wants::Group(group) => (0..published)
                .filter(|number| self.shape.group(*number) == *group)
                .count() as u64,
            Wants::Nothing => 0,
        };
        self.consumers.iter().map(due).sum()
    }
}

/// Puts the load of `plan` on a broker whose subscriptions exist, and measures it.
///
/// # Errors
/// A client failed, or what came is not exactly what was published.
pub(crate) async fn drive(broker: &Broker, plan: &Plan) -> anyhow::Result<Measured> {
    ensure!(
        plan.consumers.is_empty() || plan.publishers == 1,
        "events of several publishers are not told apart"
    );
    let run = Run::new();
    let mut clients = Clients::new(Arc::clone(&run));
    for (subscription, wants) in &plan.consumers {
        let consumer = broker.consumer(subscription).await?;
        let receiver = PeerReceiver::new(consumer, plan.shape.clone(), *wants);
        let run = Arc::clone(&run);
        clients.start_consumer(async move { consume(receiver, &run).await });
    }
    start_publishers(broker, plan, &run, &mut clients).await?;

    clients.run_for(plan.warm_up).await?;
    let before = (broker.reading()?, run.counts());
    run.enter(Phase::Measure);
    measure(&run, plan, &mut clients).await?;
    let after = (broker.reading()?, run.counts());

    let published = clients.stop_publishing().await?;
    let published = published.iter().map(|one| one.events).sum();
    let missing = run.wait_received(plan.due(published), POLL, STALLED_AFTER);
    let missing = missing.await;
    ensure!(missing == 0, "{missing} events did not come");
    let taken = clients.stop().await?;
    for one in &taken {
        one.check(&plan.shape, published)?;
    }
    for (subscription, wants) in &plan.consumers {
        if *wants != Wants::Nothing {
            broker.wait_acked(subscription).await?;
        }
    }
    let spent = before.0.until(after.0);
    let latencies = taken.into_iter().map(|one| one.latencies).collect();
    Ok(measured(spent, before.1, after.1, latencies, published))
}

fn measured(
    spent: Spent,
    before: Counts,
    after: Counts,
    latencies: Latencies,
    published: u64,
) -> Measured {
    let answered = (after.answered - before.answered) as f64;
    Measured {
        published_per_second: answered / spent.seconds,
        delivered_per_second: (after.wanted - before.wanted) as f64 / spent.seconds,
        cpu_us_per_event: spent.cpu_us / answered.max(1.0),
        client_cpu_us_per_event: spent.client_cpu_us / answered.max(1.0),
        wire_bytes_per_event: spent.wire_bytes / answered.max(1.0),
        latencies,
        published,
    }
}

async fn start_publishers(
    broker: &Broker,
    plan: &Plan,
    run: &Arc<Run>,
    clients: &mut Clients<Published, Taken>,
) -> anyhow::Result<()> {
    let rate = plan.rate.map(|per_second| Rate {
        per_second,
        publishers: plan.publishers as u64,
    });
    let outstanding = rate.map_or(plan.outstanding, |_| PACED_OUTSTANDING);
    // All of them before the first event: each would wait for the others' events else, longer the more there are.
    let connecting = (0..plan.publishers).map(|_| broker.publisher(outstanding));
    let publishers: Vec<Publisher> = stream::iter(connecting)
        .buffer_unordered(CONNECTED_AT_ONCE)
        .try_collect()
        .await?;
    for publisher in publishers {
        let mut sender = PeerSender::new(publisher, plan.shape.clone());
        let run = Arc::clone(run);
        clients.start_publisher(async move {
            match rate {
                Some(rate) => publish_at_rate(&mut sender, &run, rate).await,
                None => publish(&mut sender, &run, Numbers::default(), outstanding).await,
            }
        });
    }
    Ok(())
}

// Lets the load run for the window, and longer when answers come so slowly or in such bursts that two rounds of what
// is outstanding do not fit into it.
async fn measure(
    run: &Run,
    plan: &Plan,
    clients: &mut Clients<Published, Taken>,
) -> anyhow::Result<()> {
    let before = run.counts().answered;
    let begin = Instant::now();
    let rounds = 2 * (plan.publishers * plan.outstanding) as u64;
    loop {
        clients.run_for(plan.window).await?;
        let is_enough = run.counts().answered - before >= rounds;
        let is_late = begin.elapsed() >= WINDOWS_MAX * plan.window;
        if plan.rate.is_some() || is_enough || is_late {
            return Ok(());
        }
    }
}

/// Publishes events of a shape to one broker.
pub(crate) struct PeerSender {
    publisher: Publisher,
    shape: Shape,
}

impl PeerSender {
    /// Events of `shape`, numbered, by this publisher.
    pub(crate) fn new(publisher: Publisher, shape: Shape) -> Self {
        Self { publisher, shape }
    }
}

impl Sender for PeerSender {
    type Ticket = Ticket;
    // Latency is not measured at full speed.
    const TIMES_EACH: bool = false;

    async fn send(&mut self, number: u64, sent_us: u64) -> anyhow::Result<Ticket> {
        let payload = self.shape.payload(number, sent_us);
        self.publisher.send(self.shape.topic(number), payload).await
    }
}

/// Consumes a subscription of one broker, and keeps account of what came.
pub(crate) struct PeerReceiver {
    consumer: Consumer,
    shape: Shape,
    wants: Wants,
    tally: Tally,
}

impl PeerReceiver {
    /// Events of `shape`, of which it wants these.
    pub(crate) fn new(consumer: Consumer, shape: Shape, wants: Wants) -> Self {
        Self {
            consumer,
            shape,
            wants,
            tally: Tally::default(),
        }
    }
}

impl Receiver for PeerReceiver {
    type Delivery = Delivery;

    async fn next(&mut self) -> anyhow::Result<Delivery> {
        self.consumer.next().await
    }

    fn look(&mut self, delivery: &Delivery) -> anyhow::Result<Seen> {
        if self.wants == Wants::Nothing {
            return Ok(Seen::Ignored);
        }
        let payload = delivery.payload();
        let head = self.shape.head(payload)?;
        if let Wants::ParsedGroup(group) = self.wants
            && parse_group(payload)? != group
        {
            return Ok(Seen::Unwanted);
        }
        self.tally.came(head.number);
        Ok(Seen::Wanted {
            sent_us: head.sent_us,
        })
    }

    async fn ack(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        delivery.ack().await
    }
}

/// What a consumer took.
pub(crate) struct Taken {
    wants: Wants,
    /// Which events it wanted and got.
    pub(crate) tally: Tally,
    latencies: Latencies,
}

impl Taken {
    // Checks that of the events below `published` exactly those came that were wanted, each once.
    fn check(&self, shape: &Shape, published: u64) -> anyhow::Result<()> {
        match self.wants {
            Wants::All => self.tally.check(published, |_| true),
            Wants::Group(group) | Wants::ParsedGroup(group) => {
                let is_wanted = |number| shape.group(number) == group;
                self.tally.check(published, is_wanted)
            }
            Wants::Nothing => Ok(()),
        }
    }
}

/// Consumes until the run is done.
pub(crate) async fn consume(mut receiver: PeerReceiver, run: &Run) -> anyhow::Result<Taken> {
    let latencies = load::consume(&mut receiver, run).await?;
    let PeerReceiver {
        consumer,
        wants,
        tally,
        ..
    } = receiver;
    if wants != Wants::Nothing {
        consumer.flush().await?;
    }
    Ok(Taken {
        wants,
        tally,
        latencies,
    })
}
