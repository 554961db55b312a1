//! Prints what holds in the form of the documented file: its prose, with the values in force.

use serde::Serialize;
use toml::{Table, Value};

use super::documented_file::{DEVELOPMENT, commented_key};
use super::sections::Config;
use crate::auth::Grant;

const FIRST_GRANT: &str = "[[policy.grants]]";
const EXAMPLE_OVERRIDE: &str = "#[plugins.override.";

/// `config` as a documented file that reads back to the same.
pub(super) fn render(config: &Config) -> String {
    let values = Table::try_from(config).expect("every setting has a form in TOML");
    let settings = DEVELOPMENT.split(FIRST_GRANT).next().unwrap_or_default();
    let mut out = String::new();
    let mut section = String::new();
    for line in settings.lines() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.to_owned();
        }
        // The example of an override stays as it is: the real ones follow below.
        if line.starts_with(EXAMPLE_OVERRIDE) {
            section.clear();
        }
        let key = commented_key(line)
            .unwrap_or(line)
            .split_once(" = ")
            .map(|(key, _)| key);
        match key.and_then(|key| Some((key, lookup(&values, &section, key)?))) {
            Some((key, value)) => out.push_str(&format!("{key} = {}", number_grouped(value))),
            None => out.push_str(line),
        }
        out.push('\n');
        if line.starts_with("#module_bytes_max") {
            push_overrides(&mut out, config);
        }
    }
    for grant in &config.policy.grants {
        push_grant(&mut out, grant);
    }
    out
}

fn lookup<'a>(values: &'a Table, section: &str, key: &str) -> Option<&'a Value> {
    let value = if section.is_empty() {
        values.get(key)
    } else {
        values.get(section)?.get(key)
    }?;
    // A closed address without a default keeps its commented line.
    let closed = matches!(value, Value::String(text) if text.is_empty()) && key != "admin";
    (!value.is_table() && !closed).then_some(value)
}

fn push_overrides(out: &mut String, config: &Config) {
    for (name, limits) in &config.plugins.overrides {
        let quoted = Value::String(name.as_str().to_owned());
        out.push_str(&format!(
            "\n[plugins.override.{quoted}]\n{}",
            to_toml(limits)
        ));
    }
}

fn push_grant(out: &mut String, grant: &Grant) {
    out.push_str(&format!("{FIRST_GRANT}\n{}\n", to_toml(grant)));
}

fn to_toml(value: &impl Serialize) -> String {
    toml::to_string(value).expect("every setting has a form in TOML")
}

// Large numbers in groups of three, as the documented file writes them.
fn number_grouped(value: &Value) -> String {
    let text = value.to_string();
    if !value.is_integer() {
        return text;
    }
    let mut out = String::new();
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (text.len() - index).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}
