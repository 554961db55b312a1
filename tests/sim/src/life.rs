//! Lives of a broker on one machine: each starts on what the disk holds, and ends when it is told to stop or when the power goes. What is
//! left of an ended life runs out beside the next one; it reaches nothing any more.

mod options;

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_simulated::broker::{Broker, RecoveredStore};
use tidegate_simulated::disk::FileSystem;
use tidegate_simulated::domain::Millis;
use tidegate_simulated::plugin::Plugins;
use tidegate_simulated::runtime::{Clock, Random};
use tidegate_simulated::store::{self, StoreOptions};
use tokio::time::{Instant, sleep};

use crate::disk::{End, SimDisk};
use crate::scheduler::{Owner, mix, new_owner, start_owned};
use crate::simulation;

pub use options::Sizes;

/// The data directory, and where in it the store lies.
const DATA: &str = "/data";
pub(crate) const STORE: &str = "/data/store";
/// What the wall says at first: some time in 2026.
const WALL: u64 = 1_790_000_000_000;
/// How long a broker that has started may take until it knows what its subscriptions hold, and how often that is looked at.
const KNOWN_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What outlives a broker.
pub struct Machine {
    /// Its disk.
    pub disk: SimDisk,
    seed: u64,
    sizes: Sizes,
    lives: u64,
    began: Instant,
}

impl Machine {
    /// One with this disk, which has an empty data directory from then on. What its brokers draw follows from the seed.
    ///
    /// # Errors
    ///
    /// The disk fails.
    pub fn new(seed: u64, disk: SimDisk, sizes: Sizes) -> io::Result<Self> {
        // As `host/src/app/data_directory.rs` does it, which is not simulated.
        let installed = disk.life();
        installed.create_dir(Path::new(DATA))?;
        installed.sync_dir(Path::new("/"))?;
        disk.end(End::Killed);
        Ok(Self {
            disk,
            seed,
            sizes,
            lives: 0,
            began: Instant::now(),
        })
    }

    /// Starts a broker, in strands of its own, without what is lost if that is accepted.
    ///
    /// # Errors
    ///
    /// It says why it does not start, and its life on the disk has ended.
    pub async fn begin(&mut self, accepts_loss: bool) -> Result<Life, String> {
        self.lives += 1;
        let parts = Parts {
            fs: Arc::new(self.disk.life()),
            clock: self.clock(),
            random: Random::seeded(mix(&[self.seed, self.lives])),
            sizes: self.sizes,
            accepts_loss,
        };
        let owner = new_owner();
        let started = start_owned(owner, "broker", start(parts)).ended().await;
        let broker = match started {
            Ok(Ok(broker)) => Ok(broker),
            Ok(Err(why)) => Err(why),
            Err(end) => Err(format!("its start did not come to an end: {end:?}")),
        };
        if broker.is_err() {
            self.disk.end(End::Killed);
        }
        broker.map(|broker| Life { broker, owner })
    }

    /// Lets a broker stop in order, and its process end.
    pub async fn stop(&self, life: Life) {
        let Life { broker, owner } = life;
        let stop = async move {
            broker.close_publishes();
            broker.shutdown().await;
        };
        // Whatever went wrong in it is told with the run.
        let _ = start_owned(owner, "stop", stop).ended().await;
        self.disk.end(End::Killed);
    }

    /// Ends a broker so, if its disk has not ended it already.
    pub fn cut(&self, life: Life, how: End) {
        self.disk.end(how);
        let Life { broker, owner } = life;
        let dies = async move { broker.shutdown().await };
        drop(start_owned(owner, "dies", dies).detached());
    }

    fn clock(&self) -> Clock {
        let past = u64::try_from(self.began.elapsed().as_millis());
        Clock::going_from(Millis(WALL + past.unwrap_or_default()))
    }
}

/// A broker that runs.
pub struct Life {
    /// The broker.
    pub broker: Broker,
    owner: Owner,
}

impl Life {
    /// What its strands belong to.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// How many events a subscription holds. `None` while that is not known: after a start all that there is has to be looked at first.
    #[must_use]
    pub fn depth(&self, subscription: &str) -> Option<u64> {
        let info = self.broker.subscription(subscription).ok()?;
        (info.unevaluated == 0).then_some(info.depth)
    }

    /// The same, once it is known. `None` if it is not in time.
    pub async fn known_depth(&self, subscription: &str) -> Option<u64> {
        let until = Instant::now() + KNOWN_MAX;
        while self.depth(subscription).is_none() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
        self.depth(subscription)
    }
}

struct Parts {
    fs: Arc<dyn FileSystem>,
    clock: Clock,
    random: Random,
    sizes: Sizes,
    accepts_loss: bool,
}

async fn start(parts: Parts) -> Result<Broker, String> {
    let Parts {
        fs,
        clock,
        random,
        sizes,
        accepts_loss,
    } = parts;
    let store = StoreOptions {
        accept_loss: accepts_loss,
        ..sizes.store(clock.clone(), random.clone())
    };
    let plugins = sizes.plugins(clock.clone(), random);
    let broker = sizes.broker(clock, Arc::clone(&fs));
    let producers_max = broker.producers_max;
    let read = move || {
        let examined = store::examine(Path::new(STORE), store, fs).map_err(|error| told(&error))?;
        RecoveredStore::of(examined, producers_max).map_err(|error| told(&error))
    };
    let read = simulation::start_blocking("store", read).ended().await;
    let readable = read.map_err(|end| format!("the store is not read: {end:?}"))??;
    let plugins = Plugins::start(plugins).map_err(|error| told(&error))?;
    let started = Broker::start(broker, readable, plugins, &[]).await;
    started.map_err(|error| told(&error))
}

// An error with its causes.
fn told(error: &dyn Error) -> String {
    let (mut told, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
