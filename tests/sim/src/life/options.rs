//! How large everything of a simulated broker is: small, so that it is full all the time. Every option is named, since what the defaults
//! have of the machine would make each run another one.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_simulated::auth::Policy;
use tidegate_simulated::broker::{BrokerOptions, CheckpointDue, PluginQuotas};
use tidegate_simulated::disk::FileSystem;
use tidegate_simulated::domain::EVENT_BYTES_MAX;
use tidegate_simulated::plugin::{Compiler, PluginLimits, PluginOptions};
use tidegate_simulated::runtime::{Clock, Random, Threads};
use tidegate_simulated::state::Quota;
use tidegate_simulated::store::StoreOptions;
use tidegate_simulated::telemetry::Metrics;

use crate::scheduler::{mix, text};
use crate::simulation::{self, Point};

/// What may differ between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Of a file of the journal.
    pub journal_file_bytes: u64,
    /// Files of that size that the journal may have.
    pub journal_files_max: u64,
    /// Of a database.
    pub part_bytes: u64,
    /// Of recent blocks in memory.
    pub tail_bytes: usize,
    /// Of blocks in memory that were read.
    pub cache_bytes: u64,
    /// How long an event of a topic with `interval` may stay unsynced.
    pub interval_ms: u64,
    /// How long a publish does not make a topic again that was deleted.
    pub recreate_after_ms: u64,
}

impl Sizes {
    /// Those of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let among = |what: &str, sizes: &[u64]| {
            let drawn = mix(&[seed, text(what)]) % sizes.len() as u64;
            sizes[usize::try_from(drawn).unwrap_or_default()]
        };
        Self {
            journal_file_bytes: among("file", &[32 << 10, 64 << 10, 256 << 10]),
            journal_files_max: among("files", &[6, 8, 16]),
            part_bytes: among("part", &[8 << 10, 64 << 10]),
            tail_bytes: usize::try_from(among("tail", &[1, 4 << 10, 64 << 10])).unwrap_or(1),
            cache_bytes: among("cache", &[1, 64 << 10]),
            interval_ms: among("interval", &[10, 100]),
            recreate_after_ms: among("recreate", &[0, 2_000, 600_000]),
        }
    }

    /// Of the journal.
    pub(crate) fn journal_bytes_max(&self) -> u64 {
        self.journal_file_bytes * self.journal_files_max
    }

    pub(super) fn store(&self, clock: Clock, random: Random) -> StoreOptions {
        StoreOptions {
            journal_file_bytes: self.journal_file_bytes,
            journal_bytes_max: self.journal_bytes_max(),
            journal_reserve_bytes: self.journal_file_bytes,
            journal_blocks_max: 4_096,
            generations_open_max: 2,
            generation_part_bytes: self.part_bytes,
            cache_bytes: self.cache_bytes,
            accept_loss: false,
            unreadable_retry_min: Duration::from_secs(1),
            clock,
            random,
            threads: Arc::new(Strands),
            marker: None,
        }
    }

    pub(super) fn broker(&self, clock: Clock, fs: Arc<dyn FileSystem>) -> BrokerOptions {
        let many = quota(1_000);
        let grant = json!({
            "principals": ["local"], "publish": [">"], "subscribe": [">"], "admin": [">"],
        });
        let grant = serde_json::from_value(grant).expect("a grant");
        BrokerOptions {
            clock,
            metrics: Metrics::default(),
            file_system: fs,
            plugins_dir: PathBuf::from("/data/plugins"),
            auto_create_topics: true,
            recreate_after_ms: self.recreate_after_ms,
            interval_ms: self.interval_ms,
            tail_bytes: self.tail_bytes,
            checkpoint_at: CheckpointDue {
                bytes: self.journal_bytes_max() / 3,
                blocks: 1_000,
            },
            journal_bytes_max: self.journal_bytes_max(),
            producers_max: 16,
            topics: many,
            subscriptions: many,
            specification_bytes: quota(1 << 20),
            plugins: PluginQuotas {
                versions: many,
                bytes: quota(1 << 20),
            },
            subscription_patterns_max: 16,
            event_bytes_max: EVENT_BYTES_MAX,
            delivery_bytes_max: EVENT_BYTES_MAX,
            policy: Arc::new(Policy::new(vec![grant])),
        }
    }

    pub(super) fn plugins(&self, clock: Clock, random: Random) -> PluginOptions {
        PluginOptions {
            limits: PluginLimits::default(),
            overrides: BTreeMap::new(),
            compiler: Compiler::InProcess,
            compile_timeout: Duration::from_secs(10),
            compile_memory_bytes_max: 1 << 20,
            rules_per_instance_max: 4,
            replica_part_min: Duration::from_millis(1),
            instances_max: 32,
            owner_instances_max: 0,
            instances_memory_bytes_max: 4 << 20,
            owner_memory_bytes_max: 0,
            worker_threads: 2,
            cache_dir: PathBuf::from("/data/plugin-cache"),
            pause_min: Duration::from_secs(1),
            pause_max: Duration::from_secs(4),
            clock,
            random,
        }
    }
}

fn quota(all: usize) -> Quota {
    Quota {
        all,
        principal: all,
    }
}

/// Whose threads are strands. Whoever looks at the journal at a start does so alone: helpers would be waited for as only threads can be.
#[derive(Debug)]
struct Strands;

impl Threads for Strands {
    fn start(&self, name: &'static str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        if name == "journal-survey" {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        drop(simulation::start_blocking(name, run).detached());
        Ok(())
    }

    fn rest(&self, time: Duration) {
        simulation::in_charge().pause(Point::Rest(time));
    }
}
