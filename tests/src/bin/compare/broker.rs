//! What every broker here can do, and the dispatch to those there are. A further peer is a variant of [`Kind`] and of
//! the enums below, and a file beside `nats.rs`; workloads know only what is here.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;

use crate::event_shape::Topic;
use crate::nats::{self, Nats};
use crate::relay::{self, Relay};
use crate::tidegate::{self, Tidegate};
use crate::usage::{Reading, resident_bytes_max};

/// Deliveries that a broker may send a consumer ahead of its acks.
pub(crate) const PREFETCH: usize = 4_096;
/// Without progress for so long, something is wrong.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(30);
/// How often a state is asked for that is waited for.
const POLL: Duration = Duration::from_millis(50);

/// Which broker, in which setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Tidegate: QUIC with mutual TLS, each answer after an fdatasync.
    Tidegate,
    /// Tidegate as it was before a change.
    #[value(skip)]
    Old,
    /// Tidegate as it is after that change.
    #[value(skip)]
    New,
    /// NATS JetStream as it comes: plain TCP, file storage, a sync every two minutes.
    Nats,
    /// NATS JetStream with a sync before each answer.
    NatsAlways,
    /// NATS JetStream with mutual TLS.
    NatsMtls,
    /// No broker: QUIC with TLS, and whatever comes is passed on.
    BareQuinn,
    /// The same, and everything is written to Tidegate's journal and synced before.
    BareQuinnJournal,
}

impl Kind {
    /// All brokers, in the order of the tables.
    pub(crate) const ALL: [Self; 4] =
        [Self::Tidegate, Self::Nats, Self::NatsAlways, Self::NatsMtls];
    /// Two builds of Tidegate, in the order in which they are given.
    pub(crate) const BUILDS: [Self; 2] = [Self::Old, Self::New];
    /// What a broker that is made of the same parts could be at best.
    pub(crate) const FLOORS: [Self; 2] = [Self::BareQuinn, Self::BareQuinnJournal];

    /// Its name in tables and on the command line.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Old => "old",
            Self::New => "new",
            Self::Nats => "nats",
            Self::NatsAlways => "nats-always",
            Self::NatsMtls => "nats-mtls",
            Self::BareQuinn => "bare-quinn",
            Self::BareQuinnJournal => "bare-quinn-journal",
        }
    }

    /// Whether it filters by the content of events.
    pub(crate) fn has_filters(self) -> bool {
        self.is_tidegate()
    }

    /// Whether it is a build of Tidegate.
    pub(crate) fn is_tidegate(self) -> bool {
        matches!(self, Self::Tidegate | Self::Old | Self::New)
    }

    /// The row that others are compared with, in the order of preference.
    pub(crate) fn base(kinds: &[Self]) -> Option<usize> {
        let place = |base| kinds.iter().position(|kind| *kind == base);
        place(Self::Old).or_else(|| place(Self::Nats))
    }

    /// Whether it still has what was published when it is started again.
    pub(crate) fn keeps(self) -> bool {
        !Self::FLOORS.contains(&self)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

/// Where brokers find their programs and keep their data.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Each broker makes a directory of its own in this one.
    pub(crate) directory: PathBuf,
    /// The NATS server's program, if there is one.
    pub(crate) nats: Option<PathBuf>,
    /// The programs of [`Kind::BUILDS`], if they take part.
    pub(crate) builds: Option<[PathBuf; 2]>,
}

impl Places {
    /// The program of a build of Tidegate: this one itself, if not said otherwise.
    pub(crate) fn tidegate(&self, kind: Kind) -> anyhow::Result<PathBuf> {
        match (kind, &self.builds) {
            (Kind::Old, Some([old, _])) => Ok(old.clone()),
            (Kind::New, Some([_, new])) => Ok(new.clone()),
            _ => Ok(std::env::current_exe()?),
        }
    }
}

/// A durable subscription to make.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// Its name.
    pub(crate) name: String,
    /// The topic it reads.
    pub(crate) topic: String,
    /// Plugin and configuration of its filter; only for brokers that have filters.
    pub(crate) filter: Option<(String, String)>,
}

impl Subscription {
    /// One that gets all events of `topic`.
    pub(crate) fn new(name: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            topic: topic.into(),
            filter: None,
        }
    }

    /// The same with a filter.
    pub(crate) fn filtered(mut self, plugin: &str, config: impl Into<String>) -> Self {
        self.filter = Some((plugin.to_owned(), config.into()));
        self
    }
}

/// A running broker on a fresh directory. Dropping it kills the process and removes the directory.
pub(crate) enum Broker {
    Tidegate(Box<Tidegate>),
    Nats(Box<Nats>),
    Relay(Box<Relay>),
}

impl Broker {
    /// Starts one and waits until it serves.
    pub(crate) async fn start(kind: Kind, places: &Places) -> anyhow::Result<Self> {
        let started = match kind {
            Kind::Tidegate | Kind::Old | Kind::New => {
                let started = Tidegate::start_build(kind, places, "").await;
                started.map(Self::tidegate)
            }
            Kind::Nats | Kind::NatsAlways | Kind::NatsMtls => {
                let started = Nats::start(kind, places).await;
                started.map(|nats| Self::Nats(Box::new(nats)))
            }
            Kind::BareQuinn | Kind::BareQuinnJournal => {
                let started = Relay::start(kind, &places.directory).await;
                started.map(|relay| Self::Relay(Box::new(relay)))
            }
        };
        started.with_context(|| format!("starting {kind}"))
    }

    /// This Tidegate among the others.
    pub(crate) fn tidegate(tidegate: Tidegate) -> Self {
        Self::Tidegate(Box::new(tidegate))
    }

    /// Makes a durable subscription.
    pub(crate) async fn subscribe(&self, subscription: &Subscription) -> anyhow::Result<()> {
        let made = match self {
            Self::Tidegate(broker) => broker.subscribe(subscription).await,
            Self::Nats(broker) => broker.subscribe(subscription).await,
            // Every consumer gets everything.
            Self::Relay(_) => Ok(()),
        };
        made.with_context(|| format!("making the subscription `{}`", subscription.name))
    }

    /// Sees to it that events of `topic` stay although nobody consumes them.
    pub(crate) async fn keep(&self, topic: &str) -> anyhow::Result<()> {
        match self {
            Self::Tidegate(broker) => broker.subscribe(&Subscription::new("kept", topic)).await,
            // A stream keeps its messages by itself.
            Self::Nats(_) | Self::Relay(_) => Ok(()),
        }
    }

    /// Waits until as many events are kept as were answered, and fails if they are not.
    pub(crate) async fn wait_kept(&self, events: u64) -> anyhow::Result<()> {
        let what = format!("{events} events to be kept");
        wait_until(&what, async || match self {
            Self::Tidegate(broker) => Ok(events.abs_diff(broker.depth("kept").await?)),
            Self::Nats(broker) => Ok(events.abs_diff(broker.messages().await?)),
            Self::Relay(_) => Ok(0),
        })
        .await
    }

    /// Waits until the broker knows that all events of a subscription are acked.
    pub(crate) async fn wait_acked(&self, subscription: &str) -> anyhow::Result<()> {
        let what = format!("all events of `{subscription}` to be acked");
        wait_until(&what, async || match self {
            Self::Tidegate(broker) => broker.depth(subscription).await,
            Self::Nats(broker) => broker.depth(subscription).await,
            Self::Relay(_) => Ok(0),
        })
        .await
    }

    /// A publisher on a connection of its own that leaves at most `outstanding` events unanswered.
    pub(crate) async fn publisher(&self, outstanding: usize) -> anyhow::Result<Publisher> {
        let publisher = match self {
            Self::Tidegate(broker) => broker.publisher(outstanding).await,
            Self::Nats(broker) => broker.publisher(outstanding).await,
            Self::Relay(relay) => relay.publisher().await,
        };
        publisher.context("opening a publisher")
    }

    /// A consumer of a subscription on a connection of its own.
    pub(crate) async fn consumer(&self, subscription: &str) -> anyhow::Result<Consumer> {
        let consumer = match self {
            Self::Tidegate(broker) => broker.consumer(subscription).await,
            Self::Nats(broker) => broker.consumer(subscription).await,
            Self::Relay(relay) => relay.consumer().await,
        };
        consumer.with_context(|| format!("consuming `{subscription}`"))
    }

    /// Stops the broker in good order, starts it again on its data, and answers how long it took until it served.
    pub(crate) async fn reopen(&mut self) -> anyhow::Result<Duration> {
        match self {
            Self::Tidegate(broker) => broker.reopen().await,
            Self::Nats(broker) => broker.reopen().await,
            Self::Relay(_) => bail!("it keeps nothing"),
        }
    }

    /// What its process has used so far.
    pub(crate) fn reading(&self) -> anyhow::Result<Reading> {
        Reading::now(self.pid()?)
    }

    /// Most memory its process ever had resident, in bytes.
    pub(crate) fn resident_bytes_max(&self) -> anyhow::Result<u64> {
        resident_bytes_max(self.pid()?)
    }

    /// Bytes that its data takes on disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        match self {
            Self::Tidegate(broker) => broker.disk_bytes(),
            Self::Nats(broker) => broker.disk_bytes(),
            Self::Relay(relay) => relay.disk_bytes(),
        }
    }

    fn pid(&self) -> anyhow::Result<u32> {
        match self {
            Self::Tidegate(broker) => broker.pid(),
            Self::Nats(broker) => broker.pid(),
            Self::Relay(relay) => Ok(relay.pid()),
        }
    }
}

/// Waits until `left` answers 0, and fails when it does not change for long.
pub(crate) async fn wait_until(
    what: &str,
    mut left: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<()> {
    let mut last = (u64::MAX, Instant::now());
    loop {
        let now = left().await?;
        if now == 0 {
            return Ok(());
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > STALLED_AFTER {
            bail!("waited in vain for {what}: {now} are off");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Publishes to one broker.
pub(crate) enum Publisher {
    Tidegate(tidegate::Publisher),
    Nats(Box<nats::Publisher>),
    Relay(Box<relay::Publisher>),
}

impl Publisher {
    /// Sends an event and returns a ticket for the broker's answer. Waits while too many are outstanding.
    pub(crate) async fn send(&self, topic: &Topic, payload: Bytes) -> anyhow::Result<Ticket> {
        match self {
            Self::Tidegate(publisher) => {
                let event = tidegate_client::Event::new(payload);
                Ok(Ticket::Tidegate(publisher.send(&topic.name, event).await?))
            }
            Self::Nats(publisher) => {
                let sent = publisher.publish(topic.subject.clone(), payload).await?;
                Ok(Ticket::Nats(sent.into_future()))
            }
            Self::Relay(publisher) => Ok(Ticket::Relay(publisher.send(&payload).await?)),
        }
    }
}

/// Resolves when the broker has answered that an event is as durable as it promises.
pub(crate) enum Ticket {
    Tidegate(tidegate::Ticket),
    Nats(nats::Ticket),
    Relay(relay::Ticket),
}

impl Future for Ticket {
    type Output = anyhow::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Tidegate(ticket) => Pin::new(ticket)
                .poll(context)
                .map(|answer| Ok(answer.map(drop)?)),
            Self::Nats(ticket) => ticket
                .as_mut()
                .poll(context)
                .map(|answer| Ok(answer.map(drop)?)),
            Self::Relay(ticket) => {
                let answer = Pin::new(ticket).poll(context);
                answer.map(|answer| answer.context("the relay ended"))
            }
        }
    }
}

/// Consumes a subscription of one broker.
pub(crate) enum Consumer {
    Tidegate(tidegate::Consumer),
    Nats(Box<nats::Consumer>),
    Relay(Box<relay::Consumer>),
}

/// An event that was handed out.
pub(crate) enum Delivery {
    Tidegate(tidegate::Delivery),
    Nats(Box<nats::Delivery>),
    Relay(Bytes),
}

impl Consumer {
    /// The next event. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Delivery> {
        match self {
            Self::Tidegate(consumer) => {
                let delivery = consumer.next().await.context("the consumer ended")??;
                Ok(Delivery::Tidegate(delivery))
            }
            Self::Nats(consumer) => Ok(Delivery::Nats(Box::new(nats::next(consumer).await?))),
            Self::Relay(consumer) => Ok(Delivery::Relay(consumer.next().await?)),
        }
    }

    /// Sees to it that the acks made so far reach the broker.
    pub(crate) async fn flush(&self) -> anyhow::Result<()> {
        match self {
            Self::Tidegate(consumer) => Ok(consumer.flush_acks().await?),
            // Acks are messages of the connection, which sends them by itself.
            Self::Nats(_) | Self::Relay(_) => Ok(()),
        }
    }
}

impl Delivery {
    /// Its payload.
    pub(crate) fn payload(&self) -> &Bytes {
        match self {
            Self::Tidegate(delivery) => &delivery.event().payload,
            Self::Nats(delivery) => &delivery.payload,
            Self::Relay(message) => message,
        }
    }

    /// It is done with.
    pub(crate) async fn ack(self) -> anyhow::Result<()> {
        match self {
            Self::Tidegate(delivery) => {
                delivery.ack();
                Ok(())
            }
            Self::Nats(delivery) => nats::ack(&delivery).await,
            Self::Relay(_) => Ok(()),
        }
    }
}
