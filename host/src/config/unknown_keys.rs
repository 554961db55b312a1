//! Keys of a configuration that do not exist: told with their place and the nearest one that does, before anything else is looked at,
//! because a misspelt key is the one mistake that would otherwise pass unnoticed. And those that are tables or lists, and are written as
//! something else, told with how they are written. Which keys there are says `documented_file`.

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::documented_file;
use super::error::{Problem, line_and_column};

/// The table whose keys are names that users choose.
pub(super) const NAMED_TABLES: &str = "plugins.override";

/// The keys of `text` that do not exist, or are no tables or lists although they have to be.
///
/// # Errors
///
/// The text is no TOML.
pub(super) fn find(text: &str) -> Result<Vec<Problem>, toml::de::Error> {
    let document = DeTable::parse(text)?;
    let known = documented_file::all_keys();
    let mut search = Search {
        text,
        known: &known,
        problems: Vec::new(),
    };
    search.table(document.get_ref(), &known, "");
    Ok(search.problems)
}

struct Search<'a> {
    text: &'a str,
    known: &'a Table,
    problems: Vec<Problem>,
}

impl Search<'_> {
    fn table(&mut self, table: &DeTable<'_>, known: &Table, prefix: &str) {
        for (name, value) in table {
            let key = join(prefix, name.get_ref());
            let expected = if prefix == NAMED_TABLES {
                known.values().next()
            } else {
                known.get(name.get_ref().as_ref())
            };
            match expected {
                Some(expected) => self.value(value, expected, &key),
                None => {
                    let message = advice(name.get_ref(), known, prefix, self.known);
                    self.wrong(name.span().start, &key, message);
                }
            }
        }
    }

    // A value of another type than expected is told by the typed parse, but for tables and lists, for which it has words of its own.
    fn value(&mut self, value: &Spanned<DeValue<'_>>, known: &Value, key: &str) {
        match (value.get_ref(), known) {
            (DeValue::Table(table), Value::Table(known)) => self.table(table, known, key),
            (DeValue::Array(array), Value::Array(list)) => {
                let Some(table @ Value::Table(known)) = list.first() else {
                    return;
                };
                for element in array.iter() {
                    match element.get_ref() {
                        DeValue::Table(table) => self.table(table, known, key),
                        _ => self.wrong(element.span().start, key, written(key, table, "[[", "]]")),
                    }
                }
            }
            (_, Value::Table(_)) => {
                self.wrong(value.span().start, key, written(key, known, "[", "]"));
            }
            (_, Value::Array(list)) => {
                let message = match list.first() {
                    Some(table @ Value::Table(_)) => written(key, table, "[[", "]]"),
                    _ => format!("this is a list, written as `{} = {known}`", last(key)),
                };
                self.wrong(value.span().start, key, message);
            }
            _ => {}
        }
    }

    fn wrong(&mut self, offset: usize, key: &str, message: String) {
        self.problems.push(Problem {
            at: Some(line_and_column(self.text, offset)),
            key: key.to_owned(),
            message,
        });
    }
}

// How a table is written, with the first key in it that is none itself.
fn written(key: &str, known: &Value, open: &str, close: &str) -> String {
    let first = known.as_table().and_then(|table| table.iter().next());
    match first {
        Some((name, table @ Value::Table(_))) => written(&join(key, name), table, "[", "]"),
        Some((name, Value::Array(list))) if matches!(list.first(), Some(Value::Table(_))) => {
            written(&join(key, name), &list[0], "[[", "]]")
        }
        Some((name, value)) => format!(
            "this is a table: write {open}{key}{close} on a line of its own, and its keys below, such as `{name} = {value}`"
        ),
        None => format!("this is a table: write {open}{key}{close} on a line of its own"),
    }
}

fn last(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}

fn advice(name: &str, siblings: &Table, prefix: &str, known: &Table) -> String {
    if let Some(near) = nearest(name, siblings.keys()) {
        return format!(
            "there is no such key; did you mean `{}`?",
            join(prefix, near)
        );
    }
    let elsewhere = known.iter().find_map(|(section, value)| {
        value
            .as_table()?
            .contains_key(name)
            .then(|| format!("{section}.{name}"))
    });
    match elsewhere {
        Some(key) => {
            format!("there is no such key here; did you mean `{key}`, in its own section?")
        }
        None => {
            let names: Vec<&str> = siblings.keys().map(String::as_str).collect();
            format!("there is no such key; known here: {}", names.join(", "))
        }
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    known
        .map(|key| (strsim::jaro_winkler(name, key), key.as_str()))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}.{name}")
    }
}
