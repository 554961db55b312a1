//! Where a key stands in the text of a configuration, so that what is wrong with its value can be told with a line.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::line_and_column;

/// Where `key` (dotted) stands in `text`.
pub(super) fn of(text: &str, key: &str) -> Option<(usize, usize)> {
    let document = DeTable::parse(text).ok()?;
    let (name, _) = entry(document.get_ref(), key)?;
    Some(line_and_column(text, name.span().start))
}

/// The name of `key` (dotted) in `document`, and its value. A dot in a token cannot be told from one between tokens.
pub(super) fn entry<'a, 'i>(
    document: &'a DeTable<'i>,
    key: &str,
) -> Option<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let (parents, last) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = document;
    for token in parents.split('.').filter(|token| !token.is_empty()) {
        let (_, value) = table.iter().find(|(name, _)| name.get_ref() == token)?;
        table = value.get_ref().as_table()?;
    }
    table.iter().find(|(name, _)| name.get_ref() == last)
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
