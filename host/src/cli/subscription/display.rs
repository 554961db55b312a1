//! How subscriptions are shown to people. Routes are shown by much of the same.

use crate::cli::human_values;
use crate::cli::output::{self, Format};
use crate::domain::{
    LogLine, Millis, Owner, PluginUse, Principal, SubscriptionInfo, SubscriptionSpec, plain_text,
};

pub(super) fn list(format: Format, all: &[SubscriptionInfo]) -> String {
    let rows = all.iter().map(|info| {
        let owner = info.spec.owner.as_ref();
        vec![
            info.spec.name.to_string(),
            joined(&info.spec.topics, " "),
            plugins(&info.spec, " "),
            info.depth.to_string(),
            info.unevaluated.to_string(),
            info.in_flight.to_string(),
            human_values::age_if_known(info.oldest_unacked_ms),
            info.dead_lettered.to_string(),
            info.consumers.to_string(),
            state(info),
            owner.map_or_else(String::new, ToString::to_string),
            human_values::age(info.spec.delivery.ack_deadline_ms),
            info.spec.delivery.attempts_max.to_string(),
            info.redelivered.to_string(),
            human_values::moment(info.spec.created.0),
        ]
    });
    let heading = [
        "SUBSCRIPTION",
        "TOPICS",
        "PLUGINS",
        "DEPTH",
        "UNEVALUATED",
        "IN FLIGHT",
        "OLDEST",
        "DEAD",
        "CONSUMERS",
        "STATE",
        "OWNER",
        "ACK DEADLINE",
        "ATTEMPTS",
        "REDELIVERED",
        "CREATED",
    ];
    let (heading, rows) = output::columns(format, 10, &heading, rows.collect());
    output::table("no subscriptions", heading, rows)
}

pub(in crate::cli) fn details(info: &SubscriptionInfo) -> String {
    let SubscriptionSpec {
        name,
        topics,
        filters,
        transforms,
        start,
        delivery,
        outputs,
        owner,
        include_dead_letters,
        delete_after_idle_ms,
        created,
        created_by,
    } = &info.spec;
    let mut rows = vec![
        ("name", name.to_string()),
        ("topics", joined(topics, "\n")),
        ("filters", plugins_in_full(filters)),
        ("transforms", plugins_in_full(transforms)),
    ];
    if info.spec.is_route() {
        let lines: Vec<String> = outputs
            .iter()
            .map(|(name, topic)| format!("{name} = {topic}"))
            .collect();
        rows.push(("outputs", lines.join("\n")));
    }
    let backoff: Vec<String> = delivery
        .backoff_ms
        .iter()
        .map(|ms| human_values::age(*ms))
        .collect();
    let letters = match include_dead_letters {
        true => "of all its topics",
        false => "of topics whose first token a pattern spells out",
    };
    let attempts = match delivery.attempts_max {
        0 => "without end".to_owned(),
        max => max.to_string(),
    };
    rows.extend([
        ("takes dead letters", letters.to_owned()),
        ("start", human_values::word_of(start)),
        ("ack deadline", human_values::age(delivery.ack_deadline_ms)),
        ("attempts", attempts),
        ("back-off", backoff.join(", ")),
        ("dead letters", info.spec.dead_letter_topic().to_string()),
        ("in flight max", delivery.in_flight_events_max.to_string()),
        ("owner", owner_of(owner.as_ref())),
        (
            "goes when idle",
            delete_after_idle_ms.map_or_else(
                || "no".to_owned(),
                |ms| format!("after {}", human_values::age(ms)),
            ),
        ),
        ("created", created_at(*created, created_by.as_ref())),
        ("changes", changes(info)),
        ("state", state(info)),
        ("depth", info.depth.to_string()),
        ("unevaluated", info.unevaluated.to_string()),
        ("in flight", in_flight(info)),
        ("delayed", delayed(info)),
        ("oldest", human_values::age_if_known(info.oldest_unacked_ms)),
        ("consumers", info.consumers.to_string()),
        ("redelivered", info.redelivered.to_string()),
        ("dead-lettered", info.dead_lettered.to_string()),
        ("letters dropped", info.letters_dropped.to_string()),
        ("unreadable", info.unreadable.to_string()),
    ]);
    output::details(rows)
}

fn in_flight(info: &SubscriptionInfo) -> String {
    match &info.oldest_in_flight {
        Some(oldest) => format!(
            "{}, the oldest at position {}, {} old, handed out {} times",
            info.in_flight,
            oldest.position,
            human_values::age_if_known(oldest.age_ms),
            oldest.handed_out
        ),
        None => info.in_flight.to_string(),
    }
}

fn delayed(info: &SubscriptionInfo) -> String {
    match info.delayed_for_ms {
        Some(ms) => format!("{}, the first for {}", info.delayed, human_values::age(ms)),
        None => info.delayed.to_string(),
    }
}

pub(in crate::cli) fn state(info: &SubscriptionInfo) -> String {
    let mut state = match (&info.paused, &info.stopped) {
        (Some(reason), _) => return with_limits(format!("paused: {reason}"), info),
        (None, Some(denied)) if info.spec.is_route() => {
            return with_limits(format!("stopped: {denied}"), info);
        }
        (None, _) => "active".to_owned(),
    };
    match info.pending_changes {
        0 => {}
        1 => state.push_str(", 1 change pending"),
        pending => state.push_str(&format!(", {pending} changes pending")),
    }
    if let Some(denied) = &info.stopped {
        state.push_str(&format!(", dead letters wait: {denied}"));
    }
    with_limits(state, info)
}

fn with_limits(mut state: String, info: &SubscriptionInfo) -> String {
    if let Some(position) = info.stands_at {
        state.push_str(&format!(
            ", stands at position {position}, which cannot be read (see `tidegate loss list`)"
        ));
    } else if info.unreadable > 0 {
        state.push_str(&format!(", {} events cannot be read", info.unreadable));
    }
    if !info.limits_reached.is_empty() {
        state.push_str(&format!(", at a limit: {}", info.limits_reached.join(" ")));
    }
    state
}

pub(super) fn log(lines: &[LogLine]) -> String {
    let line = |line: &LogLine| {
        let text = plain_text(&line.text);
        format!("{} {text}", human_values::moment(line.time.0))
    };
    match lines {
        [] => "nothing was said since the broker started".to_owned(),
        lines => lines.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

fn owner_of(owner: Option<&Owner>) -> String {
    match owner {
        Some(owner) => owner.to_string(),
        None => "nobody; whoever may subscribe to its topics may attach".to_owned(),
    }
}

fn created_at(created: Millis, by: Option<&Principal>) -> String {
    let at = human_values::moment(created.0);
    by.map_or(at.clone(), |by| format!("{at} by {by}"))
}

fn changes(info: &SubscriptionInfo) -> String {
    let fence = info.fence;
    let fence = fence.map(|fence| format!("; these filters hold from position {fence} on"));
    let pending = match info.pending_changes {
        0 => String::new(),
        pending => format!("; {pending} pending"),
    };
    format!("{}{}{pending}", info.revision, fence.unwrap_or_default())
}

pub(in crate::cli) fn joined<T: ToString>(items: &[T], separator: &str) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(separator)
}

/// Names of all plugins, in the order of their use.
pub(in crate::cli) fn plugins(spec: &SubscriptionSpec, separator: &str) -> String {
    let names = spec
        .filters
        .iter()
        .chain(&spec.transforms)
        .map(|plugin| plugin.plugin.as_str());
    names.collect::<Vec<_>>().join(separator)
}

fn plugins_in_full(plugins: &[PluginUse]) -> String {
    let lines = plugins.iter().map(|plugin| {
        let on_failure = human_values::word_of(&plugin.on_failure);
        format!(
            "{} (on failure: {on_failure}) {}",
            plugin.plugin,
            plugin.config.trim()
        )
    });
    lines
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
