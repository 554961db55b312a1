//! Bounds of every whole number in a configuration, both included, and which numbers of a text are beyond them. Looked at before the text
//! becomes types, so that a number that no type holds is told its bounds like any other. What follows from other keys is not known here.

use std::fmt;
use std::ops::RangeInclusive;

use toml::de::{DeInteger, DeTable, DeValue};

use super::error::{Problem, line_and_column};
use super::key_location;
use super::unknown_keys::NAMED_TABLES;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
const SECOND_US: u64 = 1_000_000;

/// Bytes of a message beside the one event in it: topic, positions, numbers.
pub(super) const ENVELOPE_BYTES_MAX: u64 = 1_024;
/// Files the journal turns over: one written, one being checkpointed, and room between them.
pub(super) const JOURNAL_FILES_MIN: u64 = 4;

const EVENT_BYTES_MIN: u64 = 1_024;
const EVENT_BYTES_MAX: u64 = GIB / 4;
const FRAME_BYTES_MIN: u64 = EVENT_BYTES_MIN + ENVELOPE_BYTES_MAX;
const JOURNAL_BYTES_MAX: u64 = 64 * TIB;

type Bounds = &'static [(&'static str, RangeInclusive<u64>)];

/// Those of `[plugins]` that hold for a plugin, and that `[plugins.override.NAME]` may say anew.
const OF_PLUGIN: Bounds = &[
    ("memory_bytes_max", MIB..=4 * GIB),
    ("deadline_base_ms", 1..=HOUR_MS),
    ("deadline_pair_us", 0..=SECOND_US),
    ("output_bytes_max", 1_024..=GIB),
    ("module_bytes_max", 1_024..=GIB),
];

const LIMITS: Bounds = &[
    ("event_bytes_max", EVENT_BYTES_MIN..=EVENT_BYTES_MAX),
    ("frame_bytes_max", FRAME_BYTES_MIN..=GIB),
    ("headers_max", 0..=65_536),
    ("header_bytes_max", 0..=EVENT_BYTES_MAX),
    ("batch_events_max", 1..=1_000_000),
    ("connections_max", 1..=1_000_000),
    ("principal_connections_max", 0..=1_000_000),
    ("connection_streams_max", 2..=65_536),
    ("publish_credit_bytes", FRAME_BYTES_MIN..=4 * GIB),
    ("publish_credit_total_bytes", FRAME_BYTES_MIN..=TIB),
    ("publish_credit_batches", 1..=1_000_000),
    ("send_window_total_bytes", 0..=TIB),
    ("producers_max", 1..=100_000_000),
    ("topics_max", 1..=100_000_000),
    ("principal_topics_max", 0..=100_000_000),
    ("subscriptions_max", 1..=10_000_000),
    ("principal_subscriptions_max", 0..=10_000_000),
    ("subscription_patterns_max", 1..=1_000_000),
    ("specification_bytes_max", 1..=TIB),
    ("principal_specification_bytes_max", 0..=TIB),
    ("plugins_max", 0..=1_000_000),
    ("principal_plugins_max", 0..=1_000_000),
    ("plugin_bytes_max", 0..=TIB),
    ("principal_plugin_bytes_max", 0..=TIB),
    ("handshake_timeout_ms", 100..=HOUR_MS),
    ("frame_timeout_ms", 100..=HOUR_MS),
    ("idle_timeout_ms", 1_000..=HOUR_MS),
    ("admin_connections_max", 2..=65_536),
    ("admin_address_connections_max", 1..=65_536),
    ("admin_principal_connections_max", 1..=65_536),
    ("admin_request_timeout_ms", 100..=HOUR_MS),
];

const STORE: Bounds = &[
    // A group is never split over files, and the largest holds at least one frame.
    ("journal_file_bytes", MIB..=4 * GIB),
    (
        "journal_bytes_max",
        JOURNAL_FILES_MIN * MIB..=JOURNAL_BYTES_MAX,
    ),
    ("journal_reserve_bytes", 64 * 1_024..=JOURNAL_BYTES_MAX / 2),
    ("journal_blocks_max", 1_024..=u32::MAX as u64),
    ("interval_ms", 1..=60_000),
    ("cache_bytes", MIB..=TIB),
    ("tail_bytes", MIB..=TIB),
    ("generations_open_max", 2..=1_024),
    ("generation_part_bytes", MIB..=4 * GIB),
];

const PLUGINS: Bounds = &[
    ("compile_timeout_ms", 1_000..=HOUR_MS),
    ("compile_memory_bytes_max", 64 * MIB..=64 * TIB),
    ("instances_max", 1..=10_000),
    ("owner_instances_max", 0..=10_000),
    ("instances_memory_bytes_max", MIB..=64 * TIB),
    ("owner_memory_bytes_max", 0..=64 * TIB),
    ("worker_threads", 0..=1_024),
];

const SECTIONS: &[(&str, Bounds)] = &[
    ("limits", LIMITS),
    ("store", STORE),
    ("topics", &[("recreate_after_ms", 0..=YEAR_MS)]),
    ("plugins", PLUGINS),
    ("plugins", OF_PLUGIN),
    ("shutdown", &[("deadline_ms", 0..=HOUR_MS)]),
];

/// Those of `key`, with its section. What has none may be anything.
pub(super) fn of(key: &str) -> RangeInclusive<u64> {
    let (section, name) = key.rsplit_once('.').unwrap_or_default();
    let mut sections = SECTIONS.iter().filter(|(of, _)| *of == section);
    let found = sections.find_map(|(_, bounds)| bounds.iter().find(|(of, _)| *of == name));
    found.map_or(0..=u64::MAX, |(_, bounds)| bounds.clone())
}

/// What of the numbers in `text` is no whole number within its bounds.
///
/// # Errors
///
/// The text is no TOML.
pub(super) fn broken(text: &str) -> Result<Vec<Problem>, toml::de::Error> {
    let document = DeTable::parse(text)?;
    let table = |key| {
        let (_, value) = key_location::entry(document.get_ref(), key)?;
        value.get_ref().as_table()
    };
    let mut problems = Vec::new();
    for (section, bounds) in SECTIONS {
        if let Some(values) = table(section) {
            problems.extend(of_section(text, section, values, bounds));
        }
    }
    for (plugin, values) in table(NAMED_TABLES).into_iter().flatten() {
        if let Some(values) = values.get_ref().as_table() {
            let section = format!("{NAMED_TABLES}.{}", plugin.get_ref());
            problems.extend(of_section(text, &section, values, OF_PLUGIN));
        }
    }
    Ok(problems)
}

fn of_section(text: &str, section: &str, values: &DeTable<'_>, bounds: Bounds) -> Vec<Problem> {
    let found = values.iter().filter_map(|(name, value)| {
        let (_, bounds) = bounds.iter().find(|(of, _)| name.get_ref() == of)?;
        Some(Problem {
            at: Some(line_and_column(text, name.span().start)),
            key: format!("{section}.{}", name.get_ref()),
            message: message(value.get_ref(), bounds)?,
        })
    });
    found.collect()
}

fn message(value: &DeValue<'_>, bounds: &RangeInclusive<u64>) -> Option<String> {
    let (min, max) = (bounds.start(), bounds.end());
    match value {
        DeValue::Integer(integer)
            if whole(integer).is_some_and(|whole| bounds.contains(&whole)) =>
        {
            None
        }
        DeValue::Integer(integer) => Some(out_of_bounds(integer, bounds)),
        _ => Some(format!("is no whole number; allowed are {min} to {max}")),
    }
}

/// What is said of `value`, which is not within `bounds`.
pub(super) fn out_of_bounds(value: &dyn fmt::Display, bounds: &RangeInclusive<u64>) -> String {
    let (min, max) = (bounds.start(), bounds.end());
    format!("{value} is out of bounds; allowed are {min} to {max}")
}

fn whole(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::documented_file;

    #[test]
    fn every_whole_number_of_the_documented_file_has_bounds_and_every_bound_a_key() {
        let keys = documented_file::all_keys();
        let mut bounded = Vec::new();
        for (section, values) in &keys {
            for (name, value) in values.as_table().into_iter().flatten() {
                let key = format!("{section}.{name}");
                if value.is_integer() {
                    assert_ne!(of(&key), 0..=u64::MAX, "{key} has no bounds");
                    bounded.push(key);
                }
            }
        }
        let all = SECTIONS.iter().map(|(_, bounds)| bounds.len());
        assert_eq!(bounded.len(), all.sum::<usize>(), "{bounded:?}");
    }
}
