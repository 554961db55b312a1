//! The load, the same for every broker: publishers in a closed loop or at a fixed rate, consumers that ack each event,
//! and the window in between in which they count. Afterwards it is checked that exactly what was answered has come.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::FutureExt;
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::broker::{Broker, Consumer, Publisher, Ticket, wait_until};
use crate::shape::{Shape, Tally, parse_group};
use crate::usage::Spent;

/// Longest latency told apart, in microseconds: two minutes.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Intended send times that a late publisher may be behind before the pacing itself waits. It is never reached
/// before the run is useless anyway.
const PACE_QUEUE_MAX: usize = 1 << 20;
/// Events per second up to which each is sent as exactly as the kernel can.
const PRECISE_RATE_MAX: u64 = 10_000;
/// How long before it sends one of those a publisher wakes up and watches the clock: longer than a core of a virtual machine
/// mostly takes for it. At most a part of the time between two events, so that no core is kept busy with it.
const AWAKE_BEFORE: Duration = Duration::from_micros(150);
const AWAKE_PART: u32 = 5;
/// Windows that a measurement may take when little is answered.
const WINDOWS_MAX: u32 = 10;
/// Events that a paced publisher may have unanswered: so many that it never waits.
const PACED_OUTSTANDING: usize = 1 << 16;

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
pub(crate) struct Outcome {
    /// Answers to publishers per second.
    pub(crate) published_per_second: f64,
    /// Deliveries that a consumer wanted and acked, per second.
    pub(crate) delivered_per_second: f64,
    /// Processor time of the broker per published event, in microseconds.
    pub(crate) cpu_us_per_event: f64,
    /// Bytes on the wire per published event, everything included.
    pub(crate) wire_bytes_per_event: f64,
    /// From intended send to delivery, in microseconds.
    pub(crate) latency_us: Histogram<u64>,
    /// Events of the whole run.
    pub(crate) published: u64,
}

/// Puts the load of `plan` on a broker whose subscriptions exist, and measures it.
///
/// # Errors
/// A client failed, or what came is not exactly what was published.
pub(crate) async fn drive(broker: &Broker, plan: &Plan) -> anyhow::Result<Outcome> {
    ensure!(
        plan.consumers.is_empty() || plan.publishers == 1,
        "events of several publishers are not told apart"
    );
    let load = Load::new();
    let mut consumers = Tasks::new();
    for (subscription, wants) in &plan.consumers {
        let consumer = broker.consumer(subscription).await?;
        let (load, shape) = (Arc::clone(&load), plan.shape.clone());
        let wants = *wants;
        consumers.spawn(async move {
            let taken = consume(consumer, &load, &shape, wants).await?;
            Ok(Ended::Consumer(wants, taken))
        });
    }
    let mut publishers = start_publishers(broker, plan, &load).await?;

    load_for(plan.warm_up, &mut publishers, &mut consumers).await?;
    let before = (broker.reading()?, load.counts());
    load.enter(Phase::Measure);
    measure(&load, plan, &mut publishers, &mut consumers).await?;
    let after = (broker.reading()?, load.counts());
    load.enter(Phase::Drain);

    let published = finish_publishers(publishers).await?;
    drain(&load, plan, published).await?;
    load.enter(Phase::Done);
    let latency_us = finish_consumers(consumers, plan, published).await?;
    for (subscription, wants) in &plan.consumers {
        if *wants != Wants::Nothing {
            broker.wait_acked(subscription).await?;
        }
    }
    let spent = before.0.until(after.0);
    Ok(outcome(spent, before.1, after.1, latency_us, published))
}

fn outcome(
    spent: Spent,
    before: Counts,
    after: Counts,
    latency_us: Histogram<u64>,
    published: u64,
) -> Outcome {
    let answered = (after.answered - before.answered) as f64;
    Outcome {
        published_per_second: answered / spent.seconds,
        delivered_per_second: (after.wanted - before.wanted) as f64 / spent.seconds,
        cpu_us_per_event: spent.cpu_us / answered.max(1.0),
        wire_bytes_per_event: spent.wire_bytes / answered.max(1.0),
        latency_us,
        published,
    }
}

type Tasks = JoinSet<anyhow::Result<Ended>>;

/// What a task hands back at its end.
enum Ended {
    Publisher(u64),
    Consumer(Wants, Taken),
}

async fn start_publishers(broker: &Broker, plan: &Plan, load: &Arc<Load>) -> anyhow::Result<Tasks> {
    let mut tasks = Tasks::new();
    for _ in 0..plan.publishers {
        let (load, shape) = (Arc::clone(load), plan.shape.clone());
        if let Some(rate) = plan.rate {
            let publisher = broker.publisher(PACED_OUTSTANDING).await?;
            tasks.spawn(async move {
                let published = publish_at_rate(&publisher, &load, &shape, rate).await?;
                Ok(Ended::Publisher(published))
            });
        } else {
            let publisher = broker.publisher(plan.outstanding).await?;
            let numbers = Numbers::default();
            let outstanding = plan.outstanding;
            tasks.spawn(async move {
                let published = publish(&publisher, &load, &shape, numbers, outstanding).await?;
                Ok(Ended::Publisher(published))
            });
        }
    }
    Ok(tasks)
}

// Lets the load run for the window, and longer when answers come so slowly or in such bursts that two rounds of what
// is outstanding do not fit into it.
async fn measure(
    load: &Load,
    plan: &Plan,
    publishers: &mut Tasks,
    consumers: &mut Tasks,
) -> anyhow::Result<()> {
    let before = load.counts().answered;
    let begin = Instant::now();
    let rounds = 2 * (plan.publishers * plan.outstanding) as u64;
    loop {
        load_for(plan.window, publishers, consumers).await?;
        let is_enough = load.counts().answered - before >= rounds;
        let is_late = begin.elapsed() >= WINDOWS_MAX * plan.window;
        if plan.rate.is_some() || is_enough || is_late {
            return Ok(());
        }
    }
}

// Lets the load run, and fails at once when a task fails.
async fn load_for(
    time: Duration,
    publishers: &mut Tasks,
    consumers: &mut Tasks,
) -> anyhow::Result<()> {
    let ended = tokio::select! {
        () = tokio::time::sleep(time) => return Ok(()),
        Some(ended) = publishers.join_next() => ended,
        Some(ended) = consumers.join_next() => ended,
    };
    ended??;
    bail!("a client ended before its time");
}

async fn finish_publishers(mut tasks: Tasks) -> anyhow::Result<u64> {
    let mut published = 0;
    while let Some(ended) = tasks.join_next().await {
        if let Ended::Publisher(events) = ended?? {
            published += events;
        }
    }
    Ok(published)
}

// Waits until everything that is due has come.
async fn drain(load: &Load, plan: &Plan, published: u64) -> anyhow::Result<()> {
    let due = |wants: &Wants| match wants {
        Wants::All | Wants::ParsedGroup(_) => published,
        Wants::Group(group) => (0..published)
            .filter(|number| plan.shape.group(*number) == *group)
            .count() as u64,
        Wants::Nothing => 0,
    };
    let due: u64 = plan.consumers.iter().map(|(_, wants)| due(wants)).sum();
    wait_until("all events to come", async || {
        Ok(due.saturating_sub(load.received.load(Ordering::Relaxed)))
    })
    .await
}

async fn finish_consumers(
    mut tasks: Tasks,
    plan: &Plan,
    published: u64,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency_us = histogram();
    while let Some(ended) = tasks.join_next().await {
        let Ended::Consumer(wants, taken) = ended?? else {
            continue;
        };
        latency_us.add(&taken.latency_us)?;
        let in_group = |number: u64, group: u64| plan.shape.group(number) == group;
        match wants {
            Wants::All => taken.tally.check(published, |_| true)?,
            Wants::Group(group) | Wants::ParsedGroup(group) => taken
                .tally
                .check(published, |number| in_group(number, group))?,
            Wants::Nothing => {}
        }
    }
    Ok(latency_us)
}

/// Where the load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Load runs, nothing counts.
    WarmUp,
    /// Load runs and counts.
    Measure,
    /// Publishers are done; consumers take what is left.
    Drain,
    /// Everybody stops.
    Done,
}

/// What all tasks of a load share.
pub(crate) struct Load {
    started: Instant,
    /// Microseconds after the start between which an event must be meant to be sent to count for latency.
    window: [AtomicU64; 2],
    answered: AtomicU64,
    received: AtomicU64,
    wanted: AtomicU64,
    phase: watch::Sender<Phase>,
}

/// What a load has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Events answered.
    pub(crate) answered: u64,
    /// Deliveries, wanted or not.
    pub(crate) received: u64,
    /// Deliveries that a consumer wanted.
    pub(crate) wanted: u64,
}

impl Load {
    /// A load that starts now, in its warm-up.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            window: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            answered: AtomicU64::new(0),
            received: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::WarmUp),
        })
    }

    /// Goes on to `phase`.
    pub(crate) fn enter(&self, phase: Phase) {
        match phase {
            Phase::Measure => self.window[0].store(self.now_us(), Ordering::Relaxed),
            Phase::Drain => self.window[1].store(self.now_us(), Ordering::Relaxed),
            Phase::WarmUp | Phase::Done => {}
        }
        self.phase.send_replace(phase);
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            answered: self.answered.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            wanted: self.wanted.load(Ordering::Relaxed),
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    // Watches the clock until then, so that whoever waits is at work when it comes. Other tasks go on in between.
    async fn wait_awake(&self, until_us: u64) {
        while self.now_us() < until_us {
            tokio::task::yield_now().await;
        }
    }

    fn is_publishing(&self) -> bool {
        *self.phase.borrow() < Phase::Drain
    }

    fn is_measured(&self, sent_us: u64) -> bool {
        let [from, to] = &self.window;
        (from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed)).contains(&sent_us)
    }
}

/// Which events a publisher sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// Number of the first.
    pub(crate) first: u64,
    /// How many; fewer when the load drains before.
    pub(crate) max: u64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            first: 0,
            max: u64::MAX,
        }
    }
}

/// Publishes with `outstanding` events unanswered at all times, and answers how many there were. Brokers answer a
/// publisher in order, so waiting for the oldest answer is all it takes.
pub(crate) async fn publish(
    publisher: &Publisher,
    load: &Load,
    shape: &Shape,
    numbers: Numbers,
    outstanding: usize,
) -> anyhow::Result<u64> {
    let mut tickets = VecDeque::with_capacity(outstanding);
    let mut sent = 0;
    while sent < numbers.max && load.is_publishing() {
        // One look at the clock for a burst: latency is not measured at full speed.
        let now = load.now_us();
        while tickets.len() < outstanding && sent < numbers.max {
            let number = numbers.first + sent;
            let payload = shape.payload(number, now);
            tickets.push_back(publisher.send(shape.topic(number), payload).await?);
            sent += 1;
        }
        settle_some(&mut tickets, load).await?;
    }
    while !tickets.is_empty() {
        settle_some(&mut tickets, load).await?;
    }
    Ok(sent)
}

// Waits for the oldest answer, and takes those after it that are there already.
async fn settle_some(tickets: &mut VecDeque<Ticket>, load: &Load) -> anyhow::Result<()> {
    let Some(oldest) = tickets.pop_front() else {
        return Ok(());
    };
    oldest.await.context("publishing")?;
    let mut settled = 1;
    while let Some(answer) = tickets.front_mut().and_then(|next| next.now_or_never()) {
        answer.context("publishing")?;
        tickets.pop_front();
        settled += 1;
    }
    load.answered.fetch_add(settled, Ordering::Relaxed);
    Ok(())
}

// Publishes `rate` events per second. Latency counts from the moment an event was meant to be sent, so a stall is
// charged to every event that it delays, sent or not.
async fn publish_at_rate(
    publisher: &Publisher,
    load: &Arc<Load>,
    shape: &Shape,
    rate: u64,
) -> anyhow::Result<u64> {
    let mut due = pace(Arc::clone(load), rate);
    let mut tickets: VecDeque<Ticket> = VecDeque::new();
    let mut sent = 0;
    loop {
        tokio::select! {
            intended = due.recv() => {
                let Some(sent_us) = intended else { break };
                load.wait_awake(sent_us).await;
                let payload = shape.payload(sent, sent_us);
                tickets.push_back(publisher.send(shape.topic(sent), payload).await?);
                sent += 1;
            }
            answer = oldest(&mut tickets), if !tickets.is_empty() => {
                answer.context("publishing")?;
                tickets.pop_front();
                load.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    while !tickets.is_empty() {
        settle_some(&mut tickets, load).await?;
    }
    Ok(sent)
}

async fn oldest(tickets: &mut VecDeque<Ticket>) -> anyhow::Result<()> {
    match tickets.front_mut() {
        Some(ticket) => ticket.await,
        None => Ok(()),
    }
}

// A thread of its own, since the runtime's timer ticks in milliseconds, which is what is to be measured. At rates up to
// `PRECISE_RATE_MAX` it calls early: a thread that sleeps wakes up late, by up to 50 µs since the kernel saves wake-ups, and
// by what the core takes for it, once here and once in the publisher. The rest is for `Load::wait_awake`. At higher rates
// being late is welcome: events go out in small bursts.
fn pace(load: Arc<Load>, rate: u64) -> mpsc::Receiver<u64> {
    let (intended, due) = mpsc::channel(PACE_QUEUE_MAX);
    std::thread::spawn(move || {
        let interval = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX);
        let mut early = Duration::ZERO;
        if rate <= PRECISE_RATE_MAX {
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            early = AWAKE_BEFORE.min(interval / AWAKE_PART);
        }
        let begin = load.started.elapsed() + early;
        for number in 0_u64.. {
            let at = begin + Duration::from_secs_f64(number as f64 / rate as f64);
            std::thread::sleep(at.saturating_sub(load.started.elapsed() + early));
            // The receiver is gone when the publisher failed.
            if !load.is_publishing() || intended.blocking_send(at.as_micros() as u64).is_err() {
                return;
            }
        }
    });
    due
}

/// What a consumer took.
pub(crate) struct Taken {
    /// Which events it wanted and got.
    pub(crate) tally: Tally,
    /// From intended send to delivery, of events sent inside the window, in microseconds.
    latency_us: Histogram<u64>,
}

/// Consumes until the load is done.
pub(crate) async fn consume(
    mut consumer: Consumer,
    load: &Load,
    shape: &Shape,
    wants: Wants,
) -> anyhow::Result<Taken> {
    let mut taken = Taken {
        tally: Tally::default(),
        latency_us: histogram(),
    };
    let mut phase = load.phase.subscribe();
    let done = phase.wait_for(|phase| *phase == Phase::Done);
    tokio::pin!(done);
    loop {
        let delivery = tokio::select! {
            biased;
            _ = &mut done => break,
            delivery = consumer.next() => delivery?,
        };
        if wants == Wants::Nothing {
            continue;
        }
        let payload = delivery.payload();
        let head = shape.head(payload)?;
        let is_wanted = match wants {
            Wants::ParsedGroup(group) => parse_group(payload)? == group,
            Wants::All | Wants::Group(_) | Wants::Nothing => true,
        };
        if is_wanted {
            taken.tally.came(head.number);
            if load.is_measured(head.sent_us) {
                let latency = load.now_us().saturating_sub(head.sent_us);
                taken.latency_us.saturating_record(latency.max(1));
            }
            load.wanted.fetch_add(1, Ordering::Relaxed);
        }
        delivery.ack().await?;
        load.received.fetch_add(1, Ordering::Relaxed);
    }
    if wants != Wants::Nothing {
        consumer.flush().await?;
    }
    Ok(taken)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, 3)
        .expect("one to two minutes at three digits is a valid range")
}
