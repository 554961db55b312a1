//! What the types cannot say: bounds, and values that must fit together. Each rule names its key, so that the
//! message can point at the line.

use super::error::Problem;
use super::{Config, known};

/// Bytes of a message beside the one event in it: topic, positions, numbers.
const ENVELOPE_BYTES_MAX: u64 = 1_024;
/// Files the journal turns over: one written, one being checkpointed, and room between them.
const JOURNAL_FILES_MIN: u64 = 4;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR_MS: u64 = 3_600_000;

/// The rules that `config`, read from `text`, breaks.
pub(super) fn broken(config: &Config, text: &str) -> Vec<Problem> {
    let mut rules = Rules {
        text,
        problems: Vec::new(),
    };
    listen(config, &mut rules);
    tls(config, &mut rules);
    limits(config, &mut rules);
    store(config, &mut rules);
    plugins(config, &mut rules);
    log(config, &mut rules);
    rules.problems
}

/// What is allowed but probably not meant.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.policy.grants.is_empty() {
        warnings.push(
            "no grants: nobody may do anything, not even over the local admin port. Add [[policy.grants]]; \
             `tidegate config show` without a file has some to copy"
                .to_owned(),
        );
    }
    let anonymous_granted = config.policy.grants.iter().any(|grant| {
        grant
            .principals
            .iter()
            .any(|pattern| pattern.matches(&crate::domain::Principal::anonymous()))
    });
    if config.listen.anonymous.is_some() && !anonymous_granted {
        warnings.push("listen.anonymous is open, but no grant names `anonymous`".to_owned());
    }
    if config.listen.admin.is_none() && config.listen.admin_tls.is_none() {
        warnings.push(
            "neither listen.admin nor listen.admin_tls is set: subscriptions and plugins cannot be managed"
                .to_owned(),
        );
    }
    warnings
}

struct Rules<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Rules<'_> {
    fn require(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            let at = known::locate(self.text, key);
            self.problems.push(Problem {
                at,
                key: key.to_owned(),
                message: message(),
            });
        }
    }

    // Key, value, least, most.
    fn all_within(&mut self, bounds: &[(&str, u64, u64, u64)]) {
        for &(key, value, min, max) in bounds {
            self.require((min..=max).contains(&value), key, || {
                format!("{value} is out of bounds; allowed are {min} to {max}")
            });
        }
    }
}

fn listen(config: &Config, rules: &mut Rules<'_>) {
    let listen = &config.listen;
    if let Some(admin) = listen.admin {
        rules.require(admin.ip().is_loopback(), "listen.admin", || {
            format!(
                "{admin} can be reached from other machines, but plain HTTP is for loopback only (who reaches \
                 it is `local`). Use `listen.admin_tls = \"{admin}\"`, which asks for client certificates"
            )
        });
    }
    let same = |a: Option<std::net::SocketAddr>, b| {
        a.is_some() && a == b && a.is_some_and(|a| a.port() != 0)
    };
    rules.require(
        !same(listen.anonymous, Some(listen.quic)),
        "listen.anonymous",
        || "the same address as listen.quic; each listener needs its own".to_owned(),
    );
    rules.require(
        !same(listen.admin_tls, listen.admin),
        "listen.admin_tls",
        || "the same address as listen.admin; each listener needs its own".to_owned(),
    );
}

fn tls(config: &Config, rules: &mut Rules<'_>) {
    let tls = &config.tls;
    let files = [
        ("tls.cert", &tls.cert),
        ("tls.key", &tls.key),
        ("tls.client_ca", &tls.client_ca),
    ];
    if files.iter().all(|(_, file)| file.is_none()) {
        return;
    }
    for (key, file) in files {
        rules.require(file.is_some(), key, || {
            "is missing: give cert, key and client_ca together, or none for development certificates".to_owned()
        });
    }
}

fn limits(config: &Config, rules: &mut Rules<'_>) {
    let limits = &config.limits;
    let frame_min = limits.event_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    let frame = limits.frame_bytes_max;
    rules.all_within(&[
        (
            "limits.event_bytes_max",
            limits.event_bytes_max,
            1_024,
            GIB / 4,
        ),
        ("limits.frame_bytes_max", frame, frame_min, GIB),
        ("limits.headers_max", limits.headers_max.into(), 0, 65_536),
        (
            "limits.header_bytes_max",
            limits.header_bytes_max,
            0,
            limits.event_bytes_max,
        ),
        (
            "limits.batch_events_max",
            limits.batch_events_max.into(),
            1,
            1_000_000,
        ),
        (
            "limits.connections_max",
            limits.connections_max.into(),
            1,
            1_000_000,
        ),
        (
            "limits.principal_connections_max",
            limits.principal_connections_max.into(),
            0,
            limits.connections_max.into(),
        ),
        (
            "limits.connection_streams_max",
            limits.connection_streams_max.into(),
            2,
            65_536,
        ),
        (
            "limits.publish_credit_bytes",
            limits.publish_credit_bytes,
            frame,
            4 * GIB,
        ),
        (
            "limits.publish_credit_total_bytes",
            limits.publish_credit_total_bytes,
            frame,
            TIB,
        ),
        (
            "limits.publish_credit_batches",
            limits.publish_credit_batches.into(),
            1,
            1_000_000,
        ),
        ("limits.producers_max", limits.producers_max, 1, 100_000_000),
        ("limits.topics_max", limits.topics_max, 1, 100_000_000),
        (
            "limits.principal_topics_max",
            limits.principal_topics_max,
            0,
            100_000_000,
        ),
        (
            "limits.subscriptions_max",
            limits.subscriptions_max,
            1,
            10_000_000,
        ),
        (
            "limits.principal_subscriptions_max",
            limits.principal_subscriptions_max,
            0,
            10_000_000,
        ),
        (
            "limits.subscription_patterns_max",
            limits.subscription_patterns_max,
            1,
            1_000_000,
        ),
        (
            "limits.specification_bytes_max",
            limits.specification_bytes_max,
            1,
            TIB,
        ),
        (
            "limits.principal_specification_bytes_max",
            limits.principal_specification_bytes_max,
            0,
            TIB,
        ),
        ("limits.plugins_max", limits.plugins_max, 0, 1_000_000),
        (
            "limits.principal_plugins_max",
            limits.principal_plugins_max,
            0,
            1_000_000,
        ),
        ("limits.plugin_bytes_max", limits.plugin_bytes_max, 0, TIB),
        (
            "limits.principal_plugin_bytes_max",
            limits.principal_plugin_bytes_max,
            0,
            TIB,
        ),
        (
            "limits.handshake_timeout_ms",
            limits.handshake_timeout_ms,
            100,
            HOUR_MS,
        ),
        (
            "limits.frame_timeout_ms",
            limits.frame_timeout_ms,
            100,
            HOUR_MS,
        ),
        (
            "limits.idle_timeout_ms",
            limits.idle_timeout_ms,
            1_000,
            HOUR_MS,
        ),
        (
            "limits.admin_connections_max",
            limits.admin_connections_max.into(),
            2,
            65_536,
        ),
        (
            "limits.admin_address_connections_max",
            limits.admin_address_connections_max.into(),
            1,
            65_536,
        ),
        (
            "limits.admin_principal_connections_max",
            limits.admin_principal_connections_max.into(),
            1,
            65_536,
        ),
        (
            "limits.admin_request_timeout_ms",
            limits.admin_request_timeout_ms,
            100,
            HOUR_MS,
        ),
        (
            "shutdown.deadline_ms",
            config.shutdown.deadline_ms,
            0,
            HOUR_MS,
        ),
    ]);
}

fn store(config: &Config, rules: &mut Rules<'_>) {
    let store = &config.store;
    // A group is never split over files, and the largest holds at least one frame.
    let file_min = MIB.max(config.limits.frame_bytes_max.saturating_mul(2));
    let journal_min = store.journal_file_bytes.saturating_mul(JOURNAL_FILES_MIN);
    let journal = store.journal_bytes_max;
    rules.all_within(&[
        (
            "store.journal_file_bytes",
            store.journal_file_bytes,
            file_min,
            4 * GIB,
        ),
        ("store.journal_bytes_max", journal, journal_min, 64 * TIB),
        (
            "store.journal_reserve_bytes",
            store.journal_reserve_bytes,
            64 * 1_024,
            // Of a journal that is too small for itself there is nothing more to say.
            journal.max(journal_min) / 2,
        ),
        (
            "store.journal_blocks_max",
            store.journal_blocks_max,
            1_024,
            u32::MAX.into(),
        ),
        ("store.interval_ms", store.interval_ms, 1, 60_000),
        ("store.cache_bytes", store.cache_bytes, MIB, TIB),
        ("store.tail_bytes", store.tail_bytes, MIB, TIB),
        (
            "store.generations_open_max",
            store.generations_open_max.into(),
            2,
            1_024,
        ),
        (
            "store.generation_part_bytes",
            store.generation_part_bytes,
            MIB,
            4 * GIB,
        ),
    ]);
}

fn plugins(config: &Config, rules: &mut Rules<'_>) {
    const MEMORY_MAX: u64 = 4 * GIB;
    const SECOND_US: u64 = 1_000_000;
    let plugins = &config.plugins;
    rules.all_within(&[
        (
            "plugins.memory_bytes_max",
            plugins.memory_bytes_max,
            MIB,
            MEMORY_MAX,
        ),
        (
            "plugins.deadline_base_ms",
            plugins.deadline_base_ms,
            1,
            HOUR_MS,
        ),
        (
            "plugins.deadline_pair_us",
            plugins.deadline_pair_us,
            0,
            SECOND_US,
        ),
        (
            "plugins.output_bytes_max",
            plugins.output_bytes_max,
            1_024,
            GIB,
        ),
        (
            "plugins.module_bytes_max",
            plugins.module_bytes_max,
            1_024,
            GIB,
        ),
        (
            "plugins.compile_timeout_ms",
            plugins.compile_timeout_ms,
            1_000,
            HOUR_MS,
        ),
        (
            "plugins.instances_max",
            plugins.instances_max.into(),
            1,
            10_000,
        ),
        (
            "plugins.owner_instances_max",
            plugins.owner_instances_max.into(),
            0,
            plugins.instances_max.into(),
        ),
        (
            "plugins.instances_memory_bytes_max",
            plugins.instances_memory_bytes_max,
            MIB,
            64 * 1_024 * GIB,
        ),
        (
            "plugins.owner_memory_bytes_max",
            plugins.owner_memory_bytes_max,
            0,
            plugins.instances_memory_bytes_max,
        ),
        (
            "plugins.worker_threads",
            plugins.worker_threads.into(),
            0,
            1_024,
        ),
    ]);
    for (name, limits) in &plugins.overrides {
        let bounds = [
            ("memory_bytes_max", limits.memory_bytes_max, MIB, MEMORY_MAX),
            ("deadline_base_ms", limits.deadline_base_ms, 1, HOUR_MS),
            ("deadline_pair_us", limits.deadline_pair_us, 0, SECOND_US),
            ("output_bytes_max", limits.output_bytes_max, 1_024, GIB),
            ("module_bytes_max", limits.module_bytes_max, 1_024, GIB),
        ];
        for (key, value, min, max) in bounds {
            let key = format!("plugins.override.{name}.{key}");
            rules.all_within(&[(&key, value.unwrap_or(min), min, max)]);
        }
    }
}

fn log(config: &Config, rules: &mut Rules<'_>) {
    let parsed = tracing_subscriber::EnvFilter::builder().parse(&config.log.level);
    rules.require(parsed.is_ok(), "log.level", || {
        format!(
            "`{}` is no filter; write error, warn, info, debug or trace, or `info,tidegate::store=debug`",
            config.log.level
        )
    });
}
