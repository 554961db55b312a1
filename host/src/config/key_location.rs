//! Where a key stands in the text of a configuration, so that what is wrong with its value can be told with a line.

use toml::de::DeTable;

use super::error::line_and_column;

/// Where `key` (dotted) stands in `text`.
pub(super) fn of(text: &str, key: &str) -> Option<(usize, usize)> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut tokens = key.split('.').peekable();
    while let Some(token) = tokens.next() {
        let (found, value) = table.iter().find(|(name, _)| name.get_ref() == token)?;
        if tokens.peek().is_none() {
            return Some(line_and_column(text, found.span().start));
        }
        table = value.get_ref().as_table()?;
    }
    None
}

/// Where `key` of the grant at `index` stands in `text`, or the grant itself.
pub(super) fn of_grant(text: &str, index: usize, key: Option<&str>) -> Option<(usize, usize)> {
    let document = DeTable::parse(text).ok()?;
    let policy = document.get_ref().get("policy")?.get_ref().as_table()?;
    let grants = policy.get("grants")?.get_ref().as_array()?;
    let grant = grants.get(index)?;
    let start = match key {
        None => grant.span().start,
        Some(key) => {
            let mut keys = grant.get_ref().as_table()?.iter();
            let (name, _) = keys.find(|(name, _)| name.get_ref() == key)?;
            name.span().start
        }
    };
    Some(line_and_column(text, start))
}
