//! How subscriptions are shown to people. Routes are shown by much of the same.

use super::going_on::going_on;
use crate::cli::human_values;
use crate::cli::output::{self, Format};
use crate::domain::{
    FailurePolicy, LogLine, Millis, Owner, PluginUse, Principal, SubscriptionInfo,
    SubscriptionSpec, plain_text, shell_word,
};

/// Characters of a state that a row of a table has room for.
const STATE_CHARS_MAX: usize = 60;

pub(super) fn list(format: Format, all: &[SubscriptionInfo]) -> String {
    let rows = all.iter().map(|info| {
        let owner = info.spec.owner.as_ref();
        vec![
            info.spec.name.to_string(),
            joined(&info.spec.topics, " "),
            plugins(info, " "),
            info.depth.to_string(),
            info.unevaluated.to_string(),
            info.in_flight.to_string(),
            human_values::age_if_known(info.oldest_unacked_ms),
            info.dead_lettered.to_string(),
            info.consumers.to_string(),
            state_in_list(format, info),
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
    let labels = info.plugin_labels.as_slice();
    let (labels_of_filters, labels_of_transforms) =
        labels.split_at(filters.len().min(labels.len()));
    let mut rows = vec![
        ("name", name.to_string()),
        ("topics", joined(topics, "\n")),
        ("filters", plugins_in_full(filters, labels_of_filters)),
        (
            "transforms",
            plugins_in_full(transforms, labels_of_transforms),
        ),
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
        ("dead letters", dead_letters(info)),
        ("in flight max", delivery.in_flight_events_max.to_string()),
        ("owner", owner_of(owner.as_ref(), &info.spec)),
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
    ]);
    if info.paused.is_some() {
        rows.push(("to go on", going_on(info)));
    }
    rows.extend([
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

/// The state in a row of a table, of which not more is said than a row has room for; the others have it whole.
pub(in crate::cli) fn state_in_list(format: Format, info: &SubscriptionInfo) -> String {
    let state = state(info);
    match format {
        Format::Table if state.chars().count() > STATE_CHARS_MAX => {
            let cut: String = state.chars().take(STATE_CHARS_MAX - 1).collect();
            format!("{}…", cut.trim_end())
        }
        _ => state,
    }
}

fn dead_letters(info: &SubscriptionInfo) -> String {
    let topic = info.spec.dead_letter_topic();
    match info.letters_kept {
        Some(false) => format!(
            "{topic}\nnot kept, since no subscription is for it; to keep them: {}",
            keeping_letters(info)
        ),
        Some(true) | None => topic.to_string(),
    }
}

/// What is to be known of the dead letters of one that was just made or changed: that nobody keeps them, and the command that would.
pub(in crate::cli) fn letters_note(info: &SubscriptionInfo) -> Option<String> {
    let SubscriptionSpec {
        name,
        filters,
        transforms,
        delivery,
        ..
    } = &info.spec;
    // What is tried for ever and seen by no plugin is given up by its consumers alone.
    let gives_up = delivery.attempts_max > 0
        || !transforms.is_empty()
        || info.spec.is_route()
        || filters
            .iter()
            .any(|filter| filter.on_failure == FailurePolicy::DeadLetter);
    (info.letters_kept == Some(false) && gives_up).then(|| {
        format!(
            "note: events that {name} gives up are not kept, since no subscription is for {}; to keep them: {}",
            info.spec.dead_letter_topic(),
            keeping_letters(info)
        )
    })
}

// Without end, so that it gives up none of them in turn.
fn keeping_letters(info: &SubscriptionInfo) -> String {
    let topic = info.spec.dead_letter_topic();
    let topic = shell_word(topic.as_str());
    format!("tidegate subscription create {topic} --topic {topic} --attempts 0")
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

// Nobody attaches to a route.
fn owner_of(owner: Option<&Owner>, spec: &SubscriptionSpec) -> String {
    match owner {
        Some(owner) => owner.to_string(),
        None if spec.is_route() => match &spec.created_by {
            Some(by) => format!("nobody; it works with the rights of {by}, who created it"),
            None => "nobody".to_owned(),
        },
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

/// All plugins with their versions, in the order of their use.
pub(in crate::cli) fn plugins(info: &SubscriptionInfo, separator: &str) -> String {
    labels(info).collect::<Vec<_>>().join(separator)
}

/// The same without versions.
pub(super) fn plugin_names(info: &SubscriptionInfo) -> Vec<String> {
    let name = |label: &str| label.split('@').next().unwrap_or_default().to_owned();
    labels(info).map(name).collect()
}

fn labels(info: &SubscriptionInfo) -> impl Iterator<Item = &str> {
    let uses = info.spec.filters.iter().chain(&info.spec.transforms);
    uses.enumerate()
        .map(move |(index, used)| label(used, info.plugin_labels.get(index)))
}

// A broker of an earlier version says nothing of versions.
fn label<'a>(used: &'a PluginUse, label: Option<&'a String>) -> &'a str {
    label.unwrap_or(&used.plugin)
}

fn plugins_in_full(plugins: &[PluginUse], labels: &[String]) -> String {
    let lines = plugins.iter().enumerate().map(|(index, used)| {
        let on_failure = human_values::word_of(&used.on_failure);
        format!(
            "{} (on failure: {on_failure}) {}",
            label(used, labels.get(index)),
            used.config.trim()
        )
    });
    lines
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
