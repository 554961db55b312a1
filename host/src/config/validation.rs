//! What the types and the bounds of single numbers cannot say: values that must fit together. Each rule names its key, so that the
//! message can point at the line.

use std::ops::RangeInclusive;

use super::bounds::{self, ENVELOPE_BYTES_MAX, JOURNAL_FILES_MIN};
use super::error::{Problem, Warning};
use super::sections::Config;
use super::{key_location, log_levels};
use crate::auth::Right;
use crate::domain::Principal;

/// The rules that `config`, read from `text`, breaks, behind the `problems` that it has anyway.
pub(super) fn broken(config: &Config, text: &str, problems: Vec<Problem>) -> Vec<Problem> {
    let mut rules = Rules { text, problems };
    data_dir(config, &mut rules);
    listen(config, &mut rules);
    tls(config, &mut rules);
    fitting(config, &mut rules);
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

    /// Requires of the value of `key` that it is within bounds that follow from the one of `other`. Where one of them is wrong by itself,
    /// it says nothing of the other.
    fn follows(&mut self, key: &str, value: u64, other: &str, bounds: RangeInclusive<u64>) {
        let is_wrong = |problem: &Problem| problem.key == key || problem.key == other;
        if self.problems.iter().any(is_wrong) {
            return;
        }
        let (least, most) = bounds::of(key).into_inner();
        let bounds = least.max(*bounds.start())..=most.min(*bounds.end());
        let text = self.text;
        // One that has its default is at fault beside one that was set.
        let at = || key_location::of(text, key).or_else(|| key_location::of(text, other));
        self.require_at(bounds.contains(&value), at, key, || {
            let told = bounds::out_of_bounds(&value, &bounds);
            format!("{told}, since `{other}` is what it is")
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

fn fitting(config: &Config, rules: &mut Rules<'_>) {
    const ANY: u64 = u64::MAX;
    let Config {
        limits,
        store,
        plugins,
        ..
    } = config;
    let (event, frame) = ("limits.event_bytes_max", "limits.frame_bytes_max");
    let frame_min = limits.event_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    let of_event = 0..=limits.event_bytes_max;
    rules.follows(frame, limits.frame_bytes_max, event, frame_min..=ANY);
    let header_bytes = limits.header_bytes_max;
    rules.follows("limits.header_bytes_max", header_bytes, event, of_event);
    rules.follows(
        "limits.principal_connections_max",
        limits.principal_connections_max.into(),
        "limits.connections_max",
        0..=limits.connections_max.into(),
    );
    for (key, credit) in [
        ("limits.publish_credit_bytes", limits.publish_credit_bytes),
        (
            "limits.publish_credit_total_bytes",
            limits.publish_credit_total_bytes,
        ),
    ] {
        rules.follows(key, credit, frame, limits.frame_bytes_max..=ANY);
    }
    // A group is never split over files, and the largest holds at least one frame.
    let (file, journal) = ("store.journal_file_bytes", "store.journal_bytes_max");
    let file_min = limits.frame_bytes_max.saturating_mul(2);
    rules.follows(file, store.journal_file_bytes, frame, file_min..=ANY);
    let journal_min = store.journal_file_bytes.saturating_mul(JOURNAL_FILES_MIN);
    rules.follows(journal, store.journal_bytes_max, file, journal_min..=ANY);
    let (reserve, reserve_max) = (store.journal_reserve_bytes, store.journal_bytes_max / 2);
    rules.follows(
        "store.journal_reserve_bytes",
        reserve,
        journal,
        0..=reserve_max,
    );
    rules.follows(
        "plugins.owner_instances_max",
        plugins.owner_instances_max.into(),
        "plugins.instances_max",
        0..=plugins.instances_max.into(),
    );
    rules.follows(
        "plugins.owner_memory_bytes_max",
        plugins.owner_memory_bytes_max,
        "plugins.instances_memory_bytes_max",
        0..=plugins.instances_memory_bytes_max,
    );
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
