//! Keys of a configuration that do not exist: told with their place and the nearest one that does, before anything else is looked at,
//! because a misspelt key is the one mistake that would otherwise pass unnoticed. Which keys there are says `documented_file`.

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::documented_file;
use super::error::{Problem, line_and_column};

/// The table whose keys are names that users choose.
pub(super) const NAMED_TABLES: &str = "plugins.override";

/// The keys of `text` that do not exist.
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
                Some(expected) => self.value(value.get_ref(), expected, &key),
                None => self.problems.push(Problem {
                    at: Some(line_and_column(self.text, name.span().start)),
                    message: advice(name.get_ref(), known, prefix, self.known),
                    key,
                }),
            }
        }
    }

    // A value of another shape than expected is a type error, which the typed parse tells better.
    fn value(&mut self, value: &DeValue<'_>, known: &Value, key: &str) {
        match (value, known) {
            (DeValue::Table(table), Value::Table(known)) => self.table(table, known, key),
            (DeValue::Array(array), Value::Array(known)) => {
                let Some(Value::Table(known)) = known.first() else {
                    return;
                };
                for element in array.iter() {
                    if let DeValue::Table(table) = element.get_ref() {
                        self.table(table, known, key);
                    }
                }
            }
            _ => {}
        }
    }
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
