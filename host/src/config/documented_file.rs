//! The documented file, `examples/tidegate.toml`, which is also the list of the keys there are: it has every key, those without a default
//! commented out.

use toml::Table;

/// The documented file that is also the development configuration.
pub const DEVELOPMENT: &str = include_str!("../../../examples/tidegate.toml");

/// The documented file with its commented keys made real.
pub(super) fn full() -> String {
    DEVELOPMENT
        .lines()
        .map(|line| commented_key(line).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The key or section in a line that is commented out without a space; prose has one.
pub(super) fn commented_key(line: &str) -> Option<&str> {
    line.strip_prefix('#')
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
}

/// Every key there is, with a value of its type.
pub(super) fn all_keys() -> Table {
    full().parse().expect("a test parses the embedded text")
}
