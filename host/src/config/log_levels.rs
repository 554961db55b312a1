//! What may be asked of the log. The filter itself takes any word for the name of a module of which everything is wanted, and
//! nothing of all others: one that was meant as a level would silence the log.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const EXAMPLES: &str = "write error, warn, info, debug or trace, or `info,tidegate::store=debug` for more of one module";

/// Refuses directives that would silence what nobody meant to silence. Used for `log.level` and for `TIDEGATE_LOG`.
///
/// # Errors
///
/// What is wrong with them, and what to write.
pub fn check(directives: &str) -> Result<(), String> {
    let parts = || parts(directives).into_iter().map(str::trim);
    if parts().all(str::is_empty) {
        return Err(format!("it is empty; {EXAMPLES}"));
    }
    // A level, or what is wanted of a module or a span: only those have one of these.
    let is_of_part = |part: &&str| part.contains(['=', '[']);
    let words = parts().filter(|part| !part.is_empty() && !is_of_part(part));
    let mut words = words.peekable();
    if words.peek().is_none() {
        return Err(format!(
            "`{directives}` says nothing of all other modules, whose lines would be missing; put a level before it, as in `info,{directives}`, or `off,{directives}` if that is meant"
        ));
    }
    for word in words {
        if word.parse::<LevelFilter>().is_err() {
            return Err(format!("`{word}` is no level; {EXAMPLES}"));
        }
    }
    match EnvFilter::builder().parse(directives) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("`{directives}` is no filter ({error}); {EXAMPLES}")),
    }
}

// At commas, apart from those between the fields of a span.
fn parts(directives: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    directives
        .split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_means_a_level_does_not_silence_the_log() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,tidegate::store=debug",
            "warn,tidegate=trace",
            "off,tidegate::net=info",
            "info,[session{kind=a}]=debug",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("verbose", "`verbose` is no level"),
            ("information", "`information` is no level"),
            ("info,tidegate", "`tidegate` is no level"),
            ("", "empty"),
            (" , ", "empty"),
            ("tidegate=debug", "`info,tidegate=debug`"),
            ("info,tidegate=loud", "no filter"),
            ("info, tidegate=debug", "no filter"),
            ("loud=very=much", "`info,loud=very=much`"),
            ("info,loud=very=much", "no filter"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
