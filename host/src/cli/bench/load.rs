//! The bench's clients: publishers in a closed loop or at a fixed rate, and consumers. Each task measures for
//! itself and hands its figures back at its end, so that measuring shares nothing between tasks.

use std::convert::Infallible;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use tidegate_client::{Client, ConsumerOptions, Event, Publisher, PublisherOptions};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::waiting;

/// Topic of all events of the bench.
pub(super) const TOPIC: &str = "bench.events";
/// Values of the field that filters look at: each rule wants one of them, so a tenth of the events.
pub(super) const GROUPS: u64 = 10;
/// Longest latency told apart, in microseconds: two minutes.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Intended send times a late publisher may be behind before the pacing itself waits. It is never reached
/// before the run is useless anyway.
const PACE_QUEUE_MAX: usize = 1 << 20;
/// Events per second up to which each is sent as exactly as the kernel can.
const PRECISE_RATE_MAX: u64 = 10_000;

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Load runs, nothing counts.
    WarmUp,
    /// Load runs and counts.
    Measure,
    /// Publishers are done; consumers take what is left.
    Drain,
    /// Everybody stops.
    Done,
}

/// What all tasks of a run share.
pub(super) struct Run {
    started: Instant,
    /// Microseconds after the start between which an event must be sent to count; `u64::MAX` when unknown yet.
    window: [AtomicU64; 2],
    /// Events answered, over all publishers and phases.
    pub(super) acked: AtomicU64,
    /// Deliveries to be expected for what was answered.
    pub(super) due: AtomicU64,
    /// Deliveries, over all consumers and phases.
    pub(super) delivered: AtomicU64,
    phase: watch::Sender<Phase>,
    /// Says why the first publisher waits, should it.
    said: OnceLock<AbortOnDropHandle<Infallible>>,
}

/// What one task measured.
pub(super) struct Figures {
    /// Answers or deliveries that came inside the window.
    pub(super) count: u64,
    /// From (intended) send to answer or delivery, of events sent inside the window.
    pub(super) latency_us: Histogram<u64>,
}

/// What a publisher sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a payload.
    pub(super) size: usize,
    /// JSON with a field to filter by, rather than plain bytes.
    pub(super) json: bool,
    /// Deliveries that an event of each group makes.
    pub(super) deliveries_by_group: [u64; GROUPS as usize],
}

impl Run {
    /// A run that starts now, in its warm-up.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            window: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            acked: AtomicU64::new(0),
            due: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::WarmUp),
            said: OnceLock::new(),
        })
    }

    // One of them speaks for all: what the broker refuses it refuses everybody.
    fn say_why_it_waits(&self, publisher: &Publisher) {
        let publisher = publisher.clone();
        self.said.get_or_init(|| {
            let said = waiting::say_why(move || publisher.obstacle());
            AbortOnDropHandle::new(tokio::spawn(said))
        });
    }

    /// Goes on to `phase`.
    pub(super) fn enter(&self, phase: Phase) {
        match phase {
            Phase::Measure => self.window[0].store(self.now_us(), Ordering::Relaxed),
            Phase::Drain => self.window[1].store(self.now_us(), Ordering::Relaxed),
            Phase::WarmUp | Phase::Done => {}
        }
        self.phase.send_replace(phase);
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    fn is_publishing(&self) -> bool {
        *self.phase.borrow() < Phase::Drain
    }

    fn is_measured(&self, sent_us: u64) -> bool {
        let [from, to] = &self.window;
        (from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed)).contains(&sent_us)
    }
}

impl Figures {
    /// Nothing measured yet.
    pub(super) fn new() -> Self {
        Self {
            count: 0,
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("one to two minutes at three digits is a valid range"),
        }
    }

    fn record(&mut self, run: &Run, sent_us: u64) {
        let now = run.now_us();
        self.count += u64::from(run.is_measured(now));
        if run.is_measured(sent_us) {
            self.latency_us
                .saturating_record(now.saturating_sub(sent_us).max(1));
        }
    }

    /// The figures of several tasks together.
    pub(super) fn merge(all: Vec<Self>) -> Self {
        all.into_iter().fold(Self::new(), |mut sum, one| {
            sum.count += one.count;
            // Both have the same range, so nothing can be out of it.
            let _ = sum.latency_us.add(one.latency_us);
            sum
        })
    }
}

/// Publishes with `outstanding` events unanswered at all times until the run drains.
pub(super) async fn publish(
    client: Client,
    run: Arc<Run>,
    shape: Shape,
    outstanding: usize,
) -> anyhow::Result<Figures> {
    let publisher = client.publisher(options(outstanding)).await?;
    run.say_why_it_waits(&publisher);
    let padding = padding(shape.size);
    let mut answers = FuturesUnordered::new();
    let mut figures = Figures::new();
    let mut number = 0;
    while run.is_publishing() {
        while answers.len() < outstanding {
            let sent_us = run.now_us();
            let group = number % GROUPS;
            number += 1;
            let ticket = publisher
                .send(TOPIC, event(shape, group, sent_us, &padding))
                .await?;
            answers.push(ticket.map(move |answer| (sent_us, group, answer)));
        }
        let mut next = answers.next().await;
        while let Some((sent_us, group, answer)) = next {
            answer.context("publishing")?;
            settle(&run, &mut figures, shape, sent_us, group);
            next = answers.next().now_or_never().flatten();
        }
    }
    while let Some((sent_us, group, answer)) = answers.next().await {
        answer.context("publishing")?;
        settle(&run, &mut figures, shape, sent_us, group);
    }
    Ok(figures)
}

/// Publishes `rate` events per second. Latency counts from the moment an event was meant to be sent, so a stall
/// is charged to every event that it delays, sent or not.
pub(super) async fn publish_at_rate(
    client: Client,
    run: Arc<Run>,
    shape: Shape,
    rate: u64,
) -> anyhow::Result<Figures> {
    let publisher = client.publisher(options(1 << 16)).await?;
    run.say_why_it_waits(&publisher);
    let padding = padding(shape.size);
    let mut due = pace(run.clone(), rate);
    let mut answers = FuturesUnordered::new();
    let mut figures = Figures::new();
    let mut number = 0;
    loop {
        tokio::select! {
            intended = due.recv() => {
                let Some(sent_us) = intended else { break };
                let group = number % GROUPS;
                number += 1;
                let ticket = publisher.send(TOPIC, event(shape, group, sent_us, &padding)).await?;
                answers.push(ticket.map(move |answer| (sent_us, group, answer)));
            }
            Some((sent_us, group, answer)) = answers.next() => {
                answer.context("publishing")?;
                settle(&run, &mut figures, shape, sent_us, group);
            }
        }
    }
    while let Some((sent_us, group, answer)) = answers.next().await {
        answer.context("publishing")?;
        settle(&run, &mut figures, shape, sent_us, group);
    }
    Ok(figures)
}

/// Consumes and acks until the run is done.
pub(super) async fn consume(
    client: Client,
    run: Arc<Run>,
    subscription: String,
) -> anyhow::Result<Figures> {
    let mut consumer = client
        .subscribe(&subscription, ConsumerOptions::default())
        .await?;
    let mut phase = run.phase.subscribe();
    let mut figures = Figures::new();
    let done = phase.wait_for(|phase| *phase == Phase::Done);
    tokio::pin!(done);
    loop {
        let delivery = tokio::select! {
            biased;
            _ = &mut done => break,
            delivery = consumer.next() => delivery,
        };
        let Some(delivery) = delivery else { break };
        let delivery = delivery.with_context(|| format!("consuming `{subscription}`"))?;
        delivery.ack();
        run.delivered.fetch_add(1, Ordering::Relaxed);
        let sent_us = delivery.event().id.parse();
        figures.record(
            &run,
            sent_us.context("an event that the bench did not send")?,
        );
    }
    Ok(figures)
}

fn options(outstanding: usize) -> PublisherOptions {
    PublisherOptions {
        outstanding_events_max: outstanding,
        outstanding_bytes_max: 256 << 20,
        ..PublisherOptions::default()
    }
}

fn settle(run: &Run, figures: &mut Figures, shape: Shape, sent_us: u64, group: u64) {
    run.acked.fetch_add(1, Ordering::Relaxed);
    run.due
        .fetch_add(shape.deliveries_by_group[group as usize], Ordering::Relaxed);
    figures.record(run, sent_us);
}

// A thread of its own, since the runtime's timer ticks in milliseconds, which is what is to be measured.
fn pace(run: Arc<Run>, rate: u64) -> mpsc::Receiver<u64> {
    let (intended, due) = mpsc::channel(PACE_QUEUE_MAX);
    std::thread::spawn(move || {
        // The kernel lets a thread sleep up to 50 µs too long to save wake-ups, which would be charged to the broker. At high
        // rates that is welcome: events go out in small bursts, and no core is kept busy with waking up.
        if rate <= PRECISE_RATE_MAX {
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        let begin = run.started.elapsed();
        for number in 0_u64.. {
            let at = begin + Duration::from_secs_f64(number as f64 / rate as f64);
            std::thread::sleep(at.saturating_sub(run.started.elapsed()));
            // The receiver is gone when the publisher failed.
            if !run.is_publishing() || intended.blocking_send(at.as_micros() as u64).is_err() {
                return;
            }
        }
    });
    due
}

// Letters that do not compress to nothing.
fn padding(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_u32;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 24) as u8 % 26
    });
    letters.take(size).collect::<Vec<_>>().into()
}

// The id carries the send time: the one field that every workload has and no filter looks at.
fn event(shape: Shape, group: u64, sent_us: u64, padding: &Bytes) -> Event {
    let event = if shape.json {
        let mut text = format!(r#"{{"group":{group},"source":"bench","pad":""#).into_bytes();
        let room = shape.size.saturating_sub(text.len() + 2);
        text.extend_from_slice(&padding[..room]);
        text.extend_from_slice(br#""}"#);
        Event::json(text)
    } else {
        Event::new(padding.clone())
    };
    event.with_id(sent_us.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_sent_inside_the_window_count() {
        let run = Run::new();
        assert!(!run.is_measured(run.now_us()));
        run.enter(Phase::Measure);
        let inside = run.now_us();
        assert!(run.is_measured(inside));
        std::thread::sleep(Duration::from_millis(1));
        run.enter(Phase::Drain);
        assert!(run.is_measured(inside));
        assert!(!run.is_measured(run.now_us() + 1));
        assert!(!run.is_publishing());
    }

    #[test]
    fn json_events_have_the_size_asked_for() {
        let shape = Shape {
            size: 256,
            json: true,
            deliveries_by_group: [1; GROUPS as usize],
        };
        let event = event(shape, 3, 17, &padding(256));
        assert_eq!((event.payload.len(), event.id.as_str()), (256, "17"));
        let json: serde_json::Value = serde_json::from_slice(&event.payload).expect("valid JSON");
        assert_eq!(json["group"], 3);
    }
}
