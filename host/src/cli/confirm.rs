//! Asking before something is deleted: on a terminal, with what goes with it. Scripts are not asked, as is usual.

use std::io::{self, IsTerminal, Write};

use anyhow::bail;

/// Whether to ask.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ConfirmFlags {
    /// Do not ask. Nobody is asked anyway when standard input is no terminal
    #[arg(long, short, help_heading = "Output")]
    yes: bool,
}

impl ConfirmFlags {
    /// Asks whether to delete, if somebody is there to be asked. `what` says what goes, in a line or several.
    ///
    /// # Errors
    ///
    /// The answer is not yes.
    pub(super) fn confirm(&self, what: &str) -> anyhow::Result<()> {
        if self.yes || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(());
        }
        eprint!("{what}\nDelete it? [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !is_yes(&answer) {
            bail!("nothing was deleted");
        }
        Ok(())
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Names in a sentence, not too many of them.
pub(super) fn some_of(names: &[String]) -> String {
    const NAMES_MAX: usize = 10;
    match names.len().checked_sub(NAMES_MAX) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMES_MAX].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for yes in ["y\n", "Y", " yes \n", "YES"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "no", "yesterday", "j"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }

    #[test]
    fn not_all_of_many_names_are_said() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(some_of(&names(2)), "0, 1");
        assert!(some_of(&names(10)).ends_with("8, 9"));
        assert!(some_of(&names(12)).ends_with("9 and 2 more"));
    }
}
