//! What the types cannot say: bounds, and values that must fit together. Each rule names its key, so that the
//! message can point at the line.

use super::error::Problem;
use super::{Config, known};

/// Bytes of a message beside the one event in it: topic, positions, numbers.
const ENVELOPE_BYTES_MAX: u64 = 1_024;
/// Files the journal turns over: one written, one being checkpointed, and room between them.
const JOURNAL_FILES_MIN: u64 = 4;

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

    fn within(&mut self, value: u64, min: u64, max: u64, key: &str) {
        self.require((min..=max).contains(&value), key, || {
            format!("{value} is out of bounds; allowed are {min} to {max}")
        });
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
    const GIB: u64 = 1 << 30;
    const HOUR_MS: u64 = 3_600_000;
    let limits = &config.limits;
    let frame_min = limits.event_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    rules.within(
        limits.event_bytes_max,
        1_024,
        GIB / 4,
        "limits.event_bytes_max",
    );
    rules.within(
        limits.frame_bytes_max,
        frame_min,
        GIB,
        "limits.frame_bytes_max",
    );
    rules.within(limits.headers_max.into(), 0, 65_536, "limits.headers_max");
    rules.within(
        limits.header_bytes_max,
        0,
        limits.event_bytes_max,
        "limits.header_bytes_max",
    );
    rules.within(
        limits.batch_events_max.into(),
        1,
        1_000_000,
        "limits.batch_events_max",
    );
    rules.within(
        limits.connections_max.into(),
        1,
        1_000_000,
        "limits.connections_max",
    );
    rules.within(
        limits.connection_streams_max.into(),
        2,
        65_536,
        "limits.connection_streams_max",
    );
    rules.within(
        limits.publish_credit_bytes,
        limits.frame_bytes_max,
        4 * GIB,
        "limits.publish_credit_bytes",
    );
    rules.within(
        limits.publish_credit_batches.into(),
        1,
        1_000_000,
        "limits.publish_credit_batches",
    );
    rules.within(
        limits.handshake_timeout_ms,
        100,
        HOUR_MS,
        "limits.handshake_timeout_ms",
    );
    rules.within(
        limits.idle_timeout_ms,
        1_000,
        HOUR_MS,
        "limits.idle_timeout_ms",
    );
    rules.within(
        limits.admin_connections_max.into(),
        1,
        65_536,
        "limits.admin_connections_max",
    );
    rules.within(
        limits.admin_request_timeout_ms,
        100,
        HOUR_MS,
        "limits.admin_request_timeout_ms",
    );
    rules.within(
        config.topics.topics_max,
        1,
        100_000_000,
        "topics.topics_max",
    );
    rules.within(
        config.shutdown.deadline_ms,
        0,
        HOUR_MS,
        "shutdown.deadline_ms",
    );
}

fn store(config: &Config, rules: &mut Rules<'_>) {
    const MIB: u64 = 1 << 20;
    const TIB: u64 = 1 << 40;
    let store = &config.store;
    // A group is never split over files, and the largest holds at least one frame.
    let file_min = MIB.max(config.limits.frame_bytes_max.saturating_mul(2));
    rules.within(
        store.journal_file_bytes,
        file_min,
        4 * 1_024 * MIB,
        "store.journal_file_bytes",
    );
    rules.within(
        store.journal_bytes_max,
        store.journal_file_bytes.saturating_mul(JOURNAL_FILES_MIN),
        64 * TIB,
        "store.journal_bytes_max",
    );
    rules.within(store.interval_ms, 1, 60_000, "store.interval_ms");
    rules.within(store.ack_delay_ms, 0, 10_000, "store.ack_delay_ms");
    rules.within(store.cache_bytes, MIB, TIB, "store.cache_bytes");
    rules.within(store.tail_bytes, MIB, TIB, "store.tail_bytes");
    rules.within(
        store.generations_open_max.into(),
        1,
        1_024,
        "store.generations_open_max",
    );
    rules.within(
        store.generation_bytes_max,
        MIB,
        4 * 1_024 * MIB,
        "store.generation_bytes_max",
    );
}

fn plugins(config: &Config, rules: &mut Rules<'_>) {
    const MEMORY_MIN: u64 = 1 << 20;
    const MEMORY_MAX: u64 = 4 << 30;
    const HOUR_MS: u64 = 3_600_000;
    const SECOND_US: u64 = 1_000_000;
    let plugins = &config.plugins;
    rules.within(
        plugins.memory_bytes_max,
        MEMORY_MIN,
        MEMORY_MAX,
        "plugins.memory_bytes_max",
    );
    rules.within(
        plugins.deadline_base_ms,
        1,
        HOUR_MS,
        "plugins.deadline_base_ms",
    );
    rules.within(
        plugins.deadline_event_us,
        0,
        SECOND_US,
        "plugins.deadline_event_us",
    );
    rules.within(
        plugins.module_bytes_max,
        1_024,
        1 << 30,
        "plugins.module_bytes_max",
    );
    rules.within(
        plugins.compile_timeout_ms,
        1_000,
        HOUR_MS,
        "plugins.compile_timeout_ms",
    );
    rules.within(
        plugins.worker_threads.into(),
        0,
        1_024,
        "plugins.worker_threads",
    );
    for (name, limits) in &plugins.overrides {
        let mut within = |value: Option<u64>, min, max, key: &str| {
            if let Some(value) = value {
                rules.within(value, min, max, &format!("plugins.override.{name}.{key}"));
            }
        };
        within(
            limits.memory_bytes_max,
            MEMORY_MIN,
            MEMORY_MAX,
            "memory_bytes_max",
        );
        within(limits.deadline_base_ms, 1, HOUR_MS, "deadline_base_ms");
        within(limits.deadline_event_us, 0, SECOND_US, "deadline_event_us");
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
