//! What a run is to do: how large everything of the broker is, which topics and subscriptions there are, who publishes and consumes how, and
//! what goes wrong when. A plan is data. It is drawn from a seed, written as JSON and read again, and can be made smaller: whatever is taken
//! out of it leaves the rest as it is.

pub mod disk;
mod draw;
pub mod failing;
pub mod filter;
mod operation;
pub mod payload;
pub mod rot;
pub mod route;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::life::Sizes;
use crate::network::LinkShape;
use crate::scheduler::{Manner, Options};
use disk::{DiskFault, DiskShape};
use draw::Draw;
use failing::{Attempts, Poison};
use filter::{Filter, Plugin};
use rot::Rot;
use route::Route;

pub use draw::Weights;
pub use operation::Operation;

/// What a run is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What the broker, the disk, the network and the clients draw follows from this.
    pub seed: u64,
    /// How large everything of the broker is. Of a plan without it, as that follows from the seed now.
    #[serde(default)]
    pub sizes: Option<Sizes>,
    /// How the order of the run is chosen. Of a plan without it, as that follows from the seed now.
    #[serde(default)]
    pub manner: Option<Manner>,
    /// When everybody stops and what is there is consumed.
    pub lasts_ms: u64,
    /// What the disk is like.
    #[serde(default)]
    pub disk: DiskShape,
    /// All plugins, uploaded at first.
    #[serde(default)]
    pub plugins: Vec<Plugin>,
    /// All topics, created at first.
    pub topics: Vec<Topic>,
    /// All subscriptions, created at first.
    pub subscriptions: Vec<Subscription>,
    /// All routes, created at first.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Who is at work.
    pub actors: Vec<Actor>,
    /// What an operator does, in order.
    #[serde(default)]
    pub operations: Vec<Timed<Operation>>,
    /// What goes wrong beside the broker.
    pub faults: Vec<Timed<Fault>>,
    /// Ends of the broker's lives, in order.
    pub crashes: Vec<Crash>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Whether what was answered is synced.
    pub is_sync: bool,
}

/// A subscription to the events of a topic, or some of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// Whose events it gets.
    pub topic: String,
    /// How long a consumer may take.
    pub ack_deadline_ms: u64,
    /// What its events have to pass.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// How often it tries an event.
    #[serde(default)]
    pub attempts: Attempts,
}

/// Somebody with a client of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Who; its link is named so, too.
    pub name: String,
    /// How it reaches the broker.
    pub link: Link,
    /// What it is.
    pub role: Role,
}

/// What somebody does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It publishes, and does this in order.
    Publisher(Vec<Timed<Publishing>>),
    /// It consumes.
    Consumer(Consuming),
}

/// Something, and when: so long after what the same one did before; of faults, after the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed<T> {
    /// Milliseconds.
    pub after_ms: u64,
    /// What.
    pub does: T,
}

/// What a publisher does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Publishing {
    /// Publishes events of so many bytes, and hears later what became of them.
    Publish {
        /// Where to.
        topic: String,
        /// How many.
        events: u64,
        /// How large each is.
        bytes: u64,
    },
    /// Waits until all of them were answered.
    Flush,
    /// Its process ends without a word, and another begins.
    Die,
}

/// How a consumer works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consuming {
    /// Of which subscription.
    pub subscription: String,
    /// How many deliveries may wait for it.
    pub credit: u64,
    /// How often it answers how.
    pub says: Says,
    /// After how many answers it asks whether they are on disk.
    pub flushes_after: u64,
    /// After how many deliveries its process ends without a word, and another begins; 0 is never.
    pub dies_after: u64,
    /// How long it works on a delivery.
    pub takes_ms: u64,
    /// What it always fails on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poison: Option<Poison>,
}

/// How often a consumer says what, in parts of their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Says {
    /// Done.
    pub ack: u64,
    /// Again, at once.
    pub nack: u64,
    /// More time, and then done.
    pub extend: u64,
    /// Nothing at all.
    pub nothing: u64,
    /// Again, when the subscription says so.
    #[serde(default)]
    pub later: u64,
    /// Never again.
    #[serde(default)]
    pub term: u64,
}

/// A link, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// As of [`LinkShape`].
    pub delay_us: u64,
    /// As of [`LinkShape`].
    pub jitter_us: u64,
    /// As of [`LinkShape`].
    pub bytes_per_ms: u64,
    /// As of [`LinkShape`].
    pub piece_bytes: u64,
    /// As of [`LinkShape`].
    pub stream_bytes: u64,
}

/// What goes wrong beside the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// An actor's connections are lost.
    Cut {
        /// Whose.
        actor: String,
    },
    /// Its connection is lost in the middle of what it sends or gets.
    CutAfter {
        /// Whose.
        actor: String,
        /// Of what it sends.
        is_up: bool,
        /// After how many bytes.
        bytes: u64,
    },
    /// Nothing arrives for a while.
    Outage {
        /// On whose link.
        actor: String,
        /// In one direction only: of what it sends, or of what it gets.
        is_up: Option<bool>,
        /// How long.
        lasts_ms: u64,
    },
    /// Everything takes longer, until the run is nearly over.
    Slow {
        /// On whose link.
        actor: String,
        /// How many times as long.
        factor: u32,
    },
    /// The broker turns attempts to connect away.
    Refuse {
        /// Whose.
        actor: String,
        /// How many.
        times: u32,
    },
    /// The broker closes its connections without a word.
    Close {
        /// Whose.
        actor: String,
    },
    /// The disk takes longer, until the run is nearly over.
    SlowDisk {
        /// How many times as long.
        factor: u32,
    },
    /// The disk fails.
    Disk(DiskFault),
    /// A byte changes that lies on it.
    Rot(Rot),
}

/// The end of a life of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// When, since the life began.
    pub at: Moment,
    /// How.
    pub how: How,
    /// When the next one begins.
    pub back_after_ms: u64,
}

/// When a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// After so many milliseconds.
    Time(u64),
    /// In the middle of that operation of its disk.
    Operation(u64),
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It is told to stop, and does. Its disk is not asked when.
    Stop,
    /// Its process is killed.
    Kill,
    /// The power goes, in one of the ways that the disk knows.
    Power(u64),
}

impl Plan {
    /// The plan of a seed. Some kinds of trouble are left out in some, so that others come deeper.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Draw::new(seed).plan()
    }

    /// As it is written.
    ///
    /// # Panics
    ///
    /// Never: it is numbers and words.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and words can be written")
    }

    /// One that was written.
    ///
    /// # Errors
    ///
    /// It is none, or one that contradicts itself.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let mut plan: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        (plan.sizes, plan.manner) = (Some(plan.sizes()), Some(plan.options().manner));
        plan.check().map(|()| plan)
    }

    /// How large everything of the broker is.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.sizes.unwrap_or_else(|| Sizes::of(self.seed))
    }

    /// How it is played.
    #[must_use]
    pub fn options(&self) -> Options {
        let options = Options::of(self.seed);
        Options {
            manner: self.manner.unwrap_or(options.manner),
            ..options
        }
    }

    // What it names has to be in it.
    fn check(&self) -> Result<(), String> {
        let known = |name: &str, mut names: Box<dyn Iterator<Item = &String> + '_>| match names
            .any(|known| known == name)
        {
            true => Ok(()),
            false => Err(format!("{name} is not in the plan")),
        };
        let topic = |name: &str| known(name, Box::new(self.topics.iter().map(|of| &of.name)));
        let actor = |name: &str| known(name, Box::new(self.actors.iter().map(|of| &of.name)));
        for subscription in &self.subscriptions {
            topic(&subscription.topic)?;
        }
        for Route { from, outputs, .. } in &self.routes {
            topic(from)?;
            outputs.iter().try_for_each(|(_, to)| topic(to))?;
        }
        for Actor { role, .. } in &self.actors {
            match role {
                Role::Consumer(consuming) => {
                    let names = self.subscriptions.iter().map(|of| &of.name);
                    known(&consuming.subscription, Box::new(names))?;
                }
                Role::Publisher(does) => {
                    for timed in does {
                        if let Publishing::Publish { topic: name, .. } = &timed.does {
                            topic(name)?;
                        }
                    }
                }
            }
        }
        let plugin = |filter: &Filter| {
            let names = self.plugins.iter().map(|of| &of.name);
            known(&filter.plugin, Box::new(names))
        };
        for subscription in &self.subscriptions {
            subscription.filters.iter().try_for_each(plugin)?;
        }
        for Timed { does, .. } in &self.operations {
            does.filters().iter().try_for_each(plugin)?;
            does.topic().map_or(Ok(()), topic)?;
            let names = self.subscriptions.iter().map(|of| &of.name);
            does.subscription()
                .map_or(Ok(()), |name| known(name, Box::new(names)))?;
        }
        self.faults
            .iter()
            .filter_map(|fault| fault.does.actor())
            .try_for_each(actor)
    }
}

impl Actor {
    /// Whether it is a publisher.
    #[must_use]
    pub fn publishes(&self) -> bool {
        matches!(self.role, Role::Publisher(_))
    }
}

impl Fault {
    /// Whose link it is about.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        match self {
            Self::Cut { actor }
            | Self::CutAfter { actor, .. }
            | Self::Outage { actor, .. }
            | Self::Slow { actor, .. }
            | Self::Refuse { actor, .. }
            | Self::Close { actor } => Some(actor),
            Self::SlowDisk { .. } | Self::Disk(_) | Self::Rot(_) => None,
        }
    }

    /// What kind of fault it is, in words.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut",
            Self::CutAfter { .. } => "cut-after",
            Self::Outage { .. } => "outage",
            Self::Slow { .. } => "slow",
            Self::Refuse { .. } => "refuse",
            Self::Close { .. } => "close",
            Self::SlowDisk { .. } => "slow-disk",
            Self::Disk(DiskFault::Full { .. }) => "disk: full",
            Self::Disk(DiskFault::Errors { .. }) => "disk: errors",
            Self::Disk(DiskFault::NoFiles { .. }) => "disk: no-files",
            Self::Disk(DiskFault::SlowSyncs { .. }) => "disk: slow-syncs",
            Self::Disk(DiskFault::Moved { .. }) => "disk: moved",
            Self::Rot(rot) => rot.of.kind(),
        }
    }
}

impl Link {
    /// What the network goes by.
    #[must_use]
    pub fn shape(&self) -> LinkShape {
        let micros = std::time::Duration::from_micros;
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        LinkShape {
            delay: micros(self.delay_us),
            jitter: micros(self.jitter_us),
            bytes_per_ms: self.bytes_per_ms,
            piece_bytes_max: bytes(self.piece_bytes),
            stream_bytes_max: bytes(self.stream_bytes),
            ..LinkShape::NONE
        }
    }
}
