//! What the types cannot say: bounds, and values that must fit together. Each rule names its key, so that the
//! message can point at the line.

use std::ops::RangeInclusive;

use super::error::{Problem, Warning};
use super::sections::Config;
use super::{key_location, log_levels};
use crate::auth::Right;
use crate::domain::Principal;

/// Bytes of a message beside the one event in it: topic, positions, numbers.
const ENVELOPE_BYTES_MAX: u64 = 1_024;
/// Files the journal turns over: one written, one being checkpointed, and room between them.
const JOURNAL_FILES_MIN: u64 = 4;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;

/// Requires of keys of a section that their values are within bounds, both included. A field is called as its key.
macro_rules! within {
    ($rules:ident, $config:ident.$section:ident { $($key:ident: $bounds:expr),* $(,)? }) => {
        $($rules.within(
            concat!(stringify!($section), ".", stringify!($key)),
            $config.$section.$key.into(),
            $bounds,
        );)*
    };
}

/// The rules that `config`, read from `text`, breaks.
pub(super) fn broken(config: &Config, text: &str) -> Vec<Problem> {
    let mut rules = Rules {
        text,
        problems: Vec::new(),
    };
    data_dir(config, &mut rules);
    listen(config, &mut rules);
    tls(config, &mut rules);
    limits(config, &mut rules);
    store(config, &mut rules);
    plugins(config, &mut rules);
    log(config, &mut rules);
    policy(config, &mut rules);
    rules.problems
}

/// What is allowed in `config` but probably not meant.
pub(super) fn warnings(config: &Config) -> Vec<Warning> {
    let anonymous = Principal::anonymous();
    let grants = &config.policy.grants;
    let mut principals = grants.iter().flat_map(|grant| &grant.principals);
    let is_anonymous_granted = principals.any(|pattern| pattern.matches(&anonymous));
    let listen = &config.listen;
    let found = [
        (grants.is_empty(), Warning::NoGrants),
        (
            listen.anonymous.is_some() && !is_anonymous_granted,
            Warning::AnonymousWithoutGrant,
        ),
        (
            listen.admin.is_none() && listen.admin_tls.is_none(),
            Warning::NoAdmin,
        ),
    ];
    let there = found.into_iter().filter(|(is_there, _)| *is_there);
    there.map(|(_, warning)| warning).collect()
}

struct Rules<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Rules<'_> {
    fn require(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        let text = self.text;
        self.require_at(holds, || key_location::of(text, key), key, message);
    }

    fn require_at(
        &mut self,
        holds: bool,
        at: impl FnOnce() -> Option<(usize, usize)>,
        key: &str,
        message: impl FnOnce() -> String,
    ) {
        if !holds {
            self.problems.push(Problem {
                at: at(),
                key: key.to_owned(),
                message: message(),
            });
        }
    }

    fn within(&mut self, key: &str, value: u64, bounds: RangeInclusive<u64>) {
        self.require(bounds.contains(&value), key, || {
            let (min, max) = bounds.into_inner();
            format!("{value} is out of bounds; allowed are {min} to {max}")
        });
    }
}

fn data_dir(config: &Config, rules: &mut Rules<'_>) {
    // It would be taken for the directory the broker is started in.
    rules.require(!config.data_dir.as_os_str().is_empty(), "data_dir", || {
        "is empty; name the directory where everything durable lives, or leave the key out for `tidegate-data`".to_owned()
    });
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
        let is_named = |file: &std::path::PathBuf| !file.as_os_str().is_empty();
        rules.require(file.as_ref().is_none_or(is_named), key, || {
            "is empty; name a file, or leave all three keys out for development certificates"
                .to_owned()
        });
    }
}

fn limits(config: &Config, rules: &mut Rules<'_>) {
    let limits = &config.limits;
    let frame = limits.frame_bytes_max;
    let frame_min = limits.event_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    within!(rules, config.limits {
        event_bytes_max: 1_024..=GIB / 4,
        frame_bytes_max: frame_min..=GIB,
        headers_max: 0..=65_536,
        header_bytes_max: 0..=limits.event_bytes_max,
        batch_events_max: 1..=1_000_000,
        connections_max: 1..=1_000_000,
        principal_connections_max: 0..=limits.connections_max.into(),
        connection_streams_max: 2..=65_536,
        publish_credit_bytes: frame..=4 * GIB,
        publish_credit_total_bytes: frame..=TIB,
        publish_credit_batches: 1..=1_000_000,
        send_window_total_bytes: 0..=TIB,
        producers_max: 1..=100_000_000,
        topics_max: 1..=100_000_000,
        principal_topics_max: 0..=100_000_000,
        subscriptions_max: 1..=10_000_000,
        principal_subscriptions_max: 0..=10_000_000,
        subscription_patterns_max: 1..=1_000_000,
        specification_bytes_max: 1..=TIB,
        principal_specification_bytes_max: 0..=TIB,
        plugins_max: 0..=1_000_000,
        principal_plugins_max: 0..=1_000_000,
        plugin_bytes_max: 0..=TIB,
        principal_plugin_bytes_max: 0..=TIB,
        handshake_timeout_ms: 100..=HOUR_MS,
        frame_timeout_ms: 100..=HOUR_MS,
        idle_timeout_ms: 1_000..=HOUR_MS,
        admin_connections_max: 2..=65_536,
        admin_address_connections_max: 1..=65_536,
        admin_principal_connections_max: 1..=65_536,
        admin_request_timeout_ms: 100..=HOUR_MS,
    });
    within!(rules, config.topics { recreate_after_ms: 0..=YEAR_MS });
    within!(rules, config.shutdown { deadline_ms: 0..=HOUR_MS });
}

fn store(config: &Config, rules: &mut Rules<'_>) {
    let store = &config.store;
    // A group is never split over files, and the largest holds at least one frame.
    let file_min = MIB.max(config.limits.frame_bytes_max.saturating_mul(2));
    let journal_min = store.journal_file_bytes.saturating_mul(JOURNAL_FILES_MIN);
    // Of a journal that is too small for itself there is nothing more to say.
    let reserve_max = store.journal_bytes_max.max(journal_min) / 2;
    within!(rules, config.store {
        journal_file_bytes: file_min..=4 * GIB,
        journal_bytes_max: journal_min..=64 * TIB,
        journal_reserve_bytes: 64 * 1_024..=reserve_max,
        journal_blocks_max: 1_024..=u32::MAX.into(),
        interval_ms: 1..=60_000,
        cache_bytes: MIB..=TIB,
        tail_bytes: MIB..=TIB,
        generations_open_max: 2..=1_024,
        generation_part_bytes: MIB..=4 * GIB,
    });
}

fn plugins(config: &Config, rules: &mut Rules<'_>) {
    const MEMORY_MAX: u64 = 4 * GIB;
    const SECOND_US: u64 = 1_000_000;
    let plugins = &config.plugins;
    within!(rules, config.plugins {
        memory_bytes_max: MIB..=MEMORY_MAX,
        deadline_base_ms: 1..=HOUR_MS,
        deadline_pair_us: 0..=SECOND_US,
        output_bytes_max: 1_024..=GIB,
        module_bytes_max: 1_024..=GIB,
        compile_timeout_ms: 1_000..=HOUR_MS,
        compile_memory_bytes_max: 64 * MIB..=64 * TIB,
        instances_max: 1..=10_000,
        owner_instances_max: 0..=plugins.instances_max.into(),
        instances_memory_bytes_max: MIB..=64 * TIB,
        owner_memory_bytes_max: 0..=plugins.instances_memory_bytes_max,
        worker_threads: 0..=1_024,
    });
    for (name, limits) in &plugins.overrides {
        let bounds = [
            (
                "memory_bytes_max",
                limits.memory_bytes_max,
                MIB..=MEMORY_MAX,
            ),
            ("deadline_base_ms", limits.deadline_base_ms, 1..=HOUR_MS),
            ("deadline_pair_us", limits.deadline_pair_us, 0..=SECOND_US),
            ("output_bytes_max", limits.output_bytes_max, 1_024..=GIB),
            ("module_bytes_max", limits.module_bytes_max, 1_024..=GIB),
        ];
        for (key, value, bounds) in bounds {
            if let Some(value) = value {
                rules.within(&format!("plugins.override.{name}.{key}"), value, bounds);
            }
        }
    }
}

fn log(config: &Config, rules: &mut Rules<'_>) {
    let checked = log_levels::check(&config.log.level);
    rules.require(checked.is_ok(), "log.level", || {
        checked.err().unwrap_or_default()
    });
}

// What a grant without either is for nobody can say, and it looks like one that works.
fn policy(config: &Config, rules: &mut Rules<'_>) {
    for (index, grant) in config.policy.grants.iter().enumerate() {
        let text = rules.text;
        let at = |key| move || key_location::of_grant(text, index, key);
        rules.require_at(
            !grant.principals.is_empty(),
            at(Some("principals")),
            "policy.grants.principals",
            || {
                "is empty, so the grant is for nobody; name principals, such as \"local\" or \"uri:spiffe://plant/*\", or remove the grant"
                    .to_owned()
            },
        );
        rules.require_at(!grant.is_without_rights(), at(None), "policy.grants", || {
            let rights: Vec<String> = Right::ALL
                .iter()
                .map(|right| format!("`{}`", right.key()))
                .collect();
            format!(
                "this grant gives no right, and there are none that take one away; give it one of {}, or remove it",
                rights.join(", ")
            )
        });
    }
}
