//! Asking before something goes for good: on a terminal, with what goes and from which broker. Scripts are not asked, as is usual.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};

use super::admin_client::Api;
use crate::domain::plain_lines;

/// Whether to ask.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ConfirmFlags {
    /// Do not ask. Nobody is asked anyway when standard input is no terminal
    #[arg(long, short, help_heading = "Output")]
    yes: bool,
}

impl ConfirmFlags {
    /// Whether somebody is there to be asked.
    pub(super) fn would_ask(&self) -> bool {
        !self.yes && io::stdin().is_terminal()
    }

    /// Asks whether to do `what`, such as "delete it", if somebody is there to be asked. `lost` says what goes of the broker that `api`
    /// is for, in a line or several.
    ///
    /// # Errors
    ///
    /// The answer is not yes, or there is somebody and no way to ask.
    pub(super) fn confirm(&self, api: &Api, what: &str, lost: &str) -> anyhow::Result<()> {
        if !self.would_ask() {
            return Ok(());
        }
        let question = format!("{lost}\nat {}\n{what}? [y/N] ", api.broker());
        put(&question)
            .context("there is no terminal to ask on whether that is meant; say --yes, if it is")?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !is_yes(&answer) {
            bail!("nothing was done, since the answer is not yes");
        }
        Ok(())
    }
}

// Also when standard error goes elsewhere: whoever types the answer sees the question.
fn put(question: &str) -> io::Result<()> {
    let question = plain_lines(question);
    if io::stderr().is_terminal() {
        io::stderr().write_all(question.as_bytes())?;
        return io::stderr().flush();
    }
    let mut terminal = OpenOptions::new().write(true).open("/dev/tty")?;
    terminal.write_all(question.as_bytes())
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
