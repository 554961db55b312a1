//! Sessions with a whole broker behind them, whose time a test moves, and whose disk it can hold up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use tidegate_wire::stream::Connection;

use super::client::Opened;
use super::{CLIENT, HANG, Sessions, until};
use crate::auth::{Grant, Policy};
use crate::broker::{Broker, BrokerOptions, CheckpointDue, PluginQuotas, RecoveredStore};
use crate::disk::{File, FileSystem, Hold, RealFileSystem};
use crate::domain::{Principal, SubscriptionSpec};
use crate::net::session::options::SessionOptions;
use crate::net::session::service::Backend;
use crate::plugin::{PluginOptions, Plugins};
use crate::state::quotas::Quota;
use crate::store::{self, StoreOptions};

pub(super) const MIB: u64 = 1 << 20;
/// Topics that there may be.
pub(super) const TOPICS_MAX: usize = 4;

/// Sessions with a whole broker behind them.
pub(in crate::net) struct Served {
    pub(in crate::net) sessions: Sessions,
    pub(in crate::net) broker: Broker,
    pub(in crate::net) policy: Arc<Policy>,
    /// What the policy has at first: the client may use `orders.>`, and the operator everything.
    pub(in crate::net) grants: Vec<Grant>,
    _clock: HeldClock,
    _dir: tempfile::TempDir,
}

/// Keeps time that is paused from running ahead as soon as every task waits: the broker's threads may be at work for them.
struct HeldClock {
    _released: mpsc::Sender<()>,
    ran: Arc<AtomicBool>,
}

impl HeldClock {
    fn hold() -> Self {
        let (released, holds) = mpsc::channel::<()>();
        let ran = Arc::new(AtomicBool::new(false));
        let runs = ran.clone();
        // The clock stands still while something blocks. A test that waits in vain is let go on, so that its own time-outs say for what.
        drop(tokio::task::spawn_blocking(move || {
            let overdue = Err(mpsc::RecvTimeoutError::Timeout);
            runs.store(holds.recv_timeout(HANG) == overdue, Ordering::Relaxed);
        }));
        Self {
            _released: released,
            ran,
        }
    }
}

impl Drop for HeldClock {
    fn drop(&mut self) {
        let ran = self.ran.load(Ordering::Relaxed);
        assert!(
            !ran || std::thread::panicking(),
            "the test waited for time that it did not let pass"
        );
    }
}

impl Served {
    pub(in crate::net) async fn start(change: impl FnOnce(&mut SessionOptions)) -> Self {
        Self::start_on(Arc::new(RealFileSystem), change).await
    }

    pub(in crate::net) async fn start_on(
        file_system: Arc<dyn FileSystem>,
        change: impl FnOnce(&mut SessionOptions),
    ) -> Self {
        let clock = HeldClock::hold();
        let dir = tempfile::tempdir().expect("directory");
        let options = StoreOptions {
            journal_file_bytes: MIB,
            journal_bytes_max: 16 * MIB,
            journal_reserve_bytes: 4 * MIB,
            ..StoreOptions::default()
        };
        let examined = store::examine(&dir.path().join("store"), options, file_system);
        let readable = RecoveredStore::of(examined.expect("opens"), 100);
        let cache_dir = dir.path().join("cache");
        let plugins = Plugins::start(PluginOptions {
            cache_dir,
            ..PluginOptions::default()
        });
        let topics = |pattern: &str| vec![pattern.parse().expect("valid")];
        let grant = |who: &str, pattern: &str| Grant {
            principals: vec![who.parse().expect("valid")],
            publish: topics(pattern),
            subscribe: topics(pattern),
            ..Grant::default()
        };
        let grants = vec![grant(CLIENT, "orders.>"), grant("local", ">")];
        let policy = Arc::new(Policy::new(grants.clone()));
        let many = Quota {
            all: 1_000,
            principal: 1_000,
        };
        let few = Quota {
            all: TOPICS_MAX,
            principal: TOPICS_MAX,
        };
        let options = BrokerOptions {
            clock: crate::runtime::Clock::start(),
            metrics: crate::telemetry::Metrics::default(),
            file_system: Arc::new(RealFileSystem),
            plugins_dir: dir.path().join("plugins"),
            auto_create_topics: true,
            recreate_after_ms: 0,
            interval_ms: 100,
            tail_bytes: 4 << 20,
            checkpoint_at: CheckpointDue {
                bytes: 8 * MIB,
                blocks: 10_000,
            },
            journal_bytes_max: 16 * MIB,
            producers_max: 100,
            topics: few,
            subscriptions: many,
            specification_bytes: Quota {
                all: 1 << 30,
                principal: 1 << 30,
            },
            plugins: PluginQuotas {
                versions: many,
                bytes: many,
            },
            subscription_patterns_max: 4,
            event_bytes_max: tidegate_wire::limits::EVENT_BYTES_MAX,
            delivery_bytes_max: tidegate_wire::limits::EVENT_BYTES_MAX,
            policy: policy.clone(),
        };
        let broker = Broker::start(
            options,
            readable.expect("readable"),
            plugins.expect("starts"),
            &[],
        )
        .await
        .expect("starts");
        let backend = Backend::Broker(broker.clone());
        let sessions = Sessions::start_with(policy.clone(), backend, change);
        Self {
            sessions,
            broker,
            policy,
            grants,
            _clock: clock,
            _dir: dir,
        }
    }

    pub(in crate::net) async fn subscription(&self, name: &str, topics: &str) {
        let topics = vec![topics.parse().expect("valid")];
        let spec = SubscriptionSpec::new(name.parse().expect("valid"), topics);
        self.broker
            .create_subscription(&Principal::local(), spec)
            .await
            .expect("created");
    }

    /// Says something on a stream, and waits until the session has read it.
    pub(in crate::net) async fn read<C: Connection>(&self, stream: &mut Opened<C>, bytes: &[u8]) {
        let before = self.sessions.bytes_in();
        stream.write(bytes).await;
        until(|| self.sessions.bytes_in() >= before + bytes.len() as u64).await;
        // And waits for more.
        tokio::task::yield_now().await;
    }

    pub(in crate::net) fn depth(&self, name: &str) -> u64 {
        self.broker.subscription(name).expect("exists").depth
    }
}

/// A disk whose syncs can be held up, and that remembers its longest write.
#[derive(Default)]
pub(super) struct Disk {
    state: Arc<DiskState>,
}

#[derive(Default)]
struct DiskState {
    stalled: Mutex<bool>,
    goes_on: std::sync::Condvar,
    waiting: AtomicUsize,
    longest: AtomicUsize,
}

impl Disk {
    pub(super) fn stall(&self) {
        *self.state.stalled.lock().expect("not poisoned") = true;
    }

    pub(super) async fn until_somebody_waits(&self) {
        until(|| self.state.waiting.load(Ordering::Relaxed) > 0).await;
    }

    pub(super) fn go_on(&self) {
        *self.state.stalled.lock().expect("not poisoned") = false;
        self.state.goes_on.notify_all();
    }

    pub(super) fn longest_write(&self) -> usize {
        self.state.longest.load(Ordering::Relaxed)
    }

    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        let state = self.state.clone();
        Arc::new(DiskFile { file, state })
    }
}

impl FileSystem for Disk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.create_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        RealFileSystem.list(path)
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealFileSystem.open(path).map(|file| self.wrap(file))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealFileSystem.create(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFileSystem.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.remove_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFileSystem.sync_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Hold>>> {
        RealFileSystem.lock(path)
    }
}

struct DiskFile {
    file: Arc<dyn File>,
    state: Arc<DiskState>,
}

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn write_blocks_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.state.longest.fetch_max(bytes.len(), Ordering::Relaxed);
        self.file.write_blocks_at(bytes, offset)
    }
    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
    fn sync(&self) -> io::Result<()> {
        let stalled = self.state.stalled.lock().expect("not poisoned");
        self.state
            .waiting
            .fetch_add(usize::from(*stalled), Ordering::Relaxed);
        let held = self.state.goes_on.wait_while(stalled, |stalled| *stalled);
        drop(held.expect("not poisoned"));
        self.file.sync()
    }
}
