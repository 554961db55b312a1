//! Text in one case, by Unicode's simple case folding: character by character, so that a prefix of a text folds to a prefix of its
//! fold, and never to half a character. Which characters are alike is in a table; a test holds it to Unicode's data.

use std::borrow::Cow;

mod table;

use table::RUNS;

/// Characters that lie `step` apart from `first` to `last`, and how far from each of them the one lies that stands for it.
struct Run {
    first: u32,
    last: u32,
    step: u32,
    add: i32,
}

/// Text in one case: equal for texts that differ in nothing else.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if !text.is_ascii() {
        return text.chars().map(fold_char).collect();
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return text.to_ascii_lowercase().into();
    }
    text.into()
}

fn fold_char(character: char) -> char {
    if character.is_ascii() {
        return character.to_ascii_lowercase();
    }
    let code = u32::from(character);
    let at = RUNS.partition_point(|run| run.last < code);
    match RUNS.get(at) {
        Some(run) if run.first <= code && (code - run.first).is_multiple_of(run.step) => code
            .checked_add_signed(run.add)
            .and_then(char::from_u32)
            .unwrap_or(character),
        _ => character,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::path::Path;

    use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

    use super::*;

    fn check(left: &str, right: &str, are_alike: bool) {
        assert_eq!(fold(left) == fold(right), are_alike, "{left} {right}");
    }

    #[test]
    fn texts_that_differ_in_case() {
        check("Alice", "aLICE", true);
        check("νικος", "ΝΙΚΟΣ", true);
        check("ς", "σ", true);
        check("\u{b5}m", "\u{3bc}M", true);
        check("\u{17f}", "S", true);
        check("\u{212a}", "k", true);
        check("\u{212b}", "å", true);
        // Other lengths in UTF-8.
        check("\u{23a}", "\u{2c65}", true);
        check("ẞ", "ß", true);
        check("Ꭰ", "ꭰ", true);
        check("𐐀", "𐐨", true);
        check("DŽ", "dž", true);
        check("Dž", "dž", true);
    }

    #[test]
    fn texts_that_differ_in_more() {
        check("straße", "STRASSE", false);
        check("ﬁ", "FI", false);
        check("\u{130}", "i", false);
        check("ı", "I", false);
        check("é", "e", false);
        check("a", "aa", false);
    }

    #[test]
    fn half_a_character_is_no_prefix() {
        assert!(!fold("\u{130}x").starts_with(fold("i").as_ref()));
        for character in char::MIN..=char::MAX {
            assert_eq!(fold(&character.to_string()).chars().count(), 1);
        }
    }

    // Who is alike with whom, by Unicode's data: the characters of each class, whose last one stands for all, or the small letter
    // of ASCII.
    fn standing_for() -> BTreeMap<u32, u32> {
        let mut all = BTreeMap::new();
        for character in char::MIN..=char::MAX {
            let mut class = ClassUnicode::new([ClassUnicodeRange::new(character, character)]);
            class
                .try_case_fold_simple()
                .expect("regex-syntax has the tables");
            let members = || class.iter().flat_map(|range| range.start()..=range.end());
            let stands = members()
                .find(char::is_ascii_lowercase)
                .or_else(|| members().last())
                .expect("it has the character itself");
            all.insert(u32::from(character), u32::from(stands));
        }
        all
    }

    #[test]
    fn the_table_is_that_of_unicode() {
        let want = standing_for();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fold/table.rs");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, rendered(&want)).expect("the sources can be written");
        }
        assert_eq!(
            std::fs::read_to_string(&path).expect("it is there"),
            rendered(&want),
            "run this test with UPDATE_GENERATED=1"
        );
        for (code, stands) in want {
            let character = char::from_u32(code).expect("it was one");
            assert_eq!(u32::from(fold_char(character)), stands, "{code:x}");
        }
    }

    fn rendered(standing_for: &BTreeMap<u32, u32>) -> String {
        let mut runs: Vec<Run> = Vec::new();
        for (&code, &stands) in standing_for {
            if code == stands || code < 128 {
                continue;
            }
            let add = stands.cast_signed() - code.cast_signed();
            if let Some(run) = runs.last_mut()
                && run.add == add
                && (code - run.last == run.step || (run.first == run.last && code - run.last == 2))
            {
                run.step = code - run.last;
                run.last = code;
                continue;
            }
            runs.push(Run {
                first: code,
                last: code,
                step: 1,
                add,
            });
        }
        let mut text = String::from(
            "//! Unicode's simple case folding. Generated by the test beside it; written anew with `UPDATE_GENERATED=1`.\n\n\
             use super::Run;\n\n\
             const fn run(first: u32, last: u32, step: u32, add: i32) -> Run {\n    \
                 Run {\n        first,\n        last,\n        step,\n        add,\n    }\n}\n\n\
             /// Sorted, and none overlaps another. What is in no run stands for itself.\n",
        );
        let _infallible = writeln!(text, "pub(super) static RUNS: [Run; {}] = [", runs.len());
        for run in runs {
            let _infallible = writeln!(
                text,
                "    run(0x{:04x}, 0x{:04x}, {}, {}),",
                run.first, run.last, run.step, run.add
            );
        }
        text + "];\n"
    }
}
