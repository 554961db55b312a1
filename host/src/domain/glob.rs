//! Texts with `*` for any run of characters, as patterns of principals and of names have it. What such a text means is
//! said where it is used.

/// Whether `pattern` selects `text`. A `*` in `text` is a character like any other, so when `text` is a pattern itself, all
/// that it selects is selected by `pattern` too.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    // Greedy from the left, with the last piece anchored at the end: enough for `*`, and linear.
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_any_run_of_characters() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        };
        check("a", "a", true);
        check("a", "ab", false);
        check("*", "", true);
        check("a*", "a", true);
        check("a*c*", "abcd", true);
        check("*b", "abab", true);
        check("a*a", "a", false);
        check("a-*", "a-*", true);
        check("a-x*", "a-*", false);
    }
}
