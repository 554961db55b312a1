//! Saying why a command waits. The client sends again and connects again by itself, for as long as it takes; whoever sits before
//! the command is told after two seconds what is in the way, again now and then, and when it goes on.

use std::convert::Infallible;
use std::time::Duration;

use super::output;
use crate::domain::plain_text;

/// How often it is looked.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Something has to be in the way for so many looks before it is said: two seconds.
const LOOKS_BEFORE: u32 = 8;
/// Looks between two lines about the same: half a minute at first, then ever longer.
const LOOKS_BETWEEN: u32 = 120;
/// At most ten minutes.
const LOOKS_BETWEEN_MAX: u32 = 2_400;
/// The same if something else is in the way by now, and has been for as long as anything has to be: five seconds.
const LOOKS_BETWEEN_OTHERS: u32 = 20;
/// Nothing has to be in the way for so many looks before that is said.
const LOOKS_CLEAR: u32 = 2;

/// What is said when nothing is in the way any more of what was.
pub(super) const GOING_ON: &str = "going on";

/// Says on standard error what `obstacle` tells, as long as this is polled. Cancel-safe.
pub(super) async fn say_why(
    patience: &mut Patience,
    mut obstacle: impl FnMut() -> Option<String>,
) -> Infallible {
    loop {
        patience.say(obstacle());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What was in the way lately, and what was said of it.
#[derive(Default)]
pub(super) struct Patience {
    latest: Option<String>,
    /// Looks since something is in the way, or since it was last said what.
    looks: u32,
    /// Looks for which it has been the same as now.
    lasts: u32,
    clear: u32,
    said: Option<Said>,
}

struct Said {
    what: String,
    again_after: u32,
}

impl Patience {
    /// Says it, if it has lasted. To be called every [`LOOK_EVERY`].
    pub(super) fn say(&mut self, obstacle: Option<String>) {
        if let Some(line) = self.look(obstacle) {
            output::note(&plain_text(&line));
        }
    }

    /// What was waited for is there, so nothing is in the way any more: says that, unless it was said.
    pub(super) fn is_over(&mut self) {
        if let Some(line) = self.end() {
            output::note(line);
        }
    }

    /// The latest obstacle, for as long as there is one.
    pub(super) fn obstacle(&self) -> Option<&str> {
        self.latest.as_deref()
    }

    // The line that is to be said now.
    fn look(&mut self, obstacle: Option<String>) -> Option<String> {
        let Some(what) = obstacle else {
            return self.look_clear();
        };
        self.clear = 0;
        self.looks = self.looks.saturating_add(1);
        let due = match &self.said {
            None => LOOKS_BEFORE,
            Some(said) if said.what != what => LOOKS_BETWEEN_OTHERS,
            Some(said) => said.again_after,
        };
        self.lasts = match self.latest.as_ref() == Some(&what) {
            true => self.lasts.saturating_add(1),
            false => 1,
        };
        self.latest = Some(what.clone());
        // What is seen for a moment, while things go on again, is no reason to wait.
        let is_passing =
            self.lasts < LOOKS_BEFORE && self.said.as_ref().is_some_and(|said| said.what != what);
        if self.looks < due || is_passing {
            return None;
        }
        self.looks = 0;
        let again_after = match &self.said {
            Some(said) if said.what == what => {
                said.again_after.saturating_mul(2).min(LOOKS_BETWEEN_MAX)
            }
            _ => LOOKS_BETWEEN,
        };
        let line = match &self.said {
            Some(said) if said.what == what => format!("still waiting: {what}"),
            _ => format!("waiting: {what}"),
        };
        self.said = Some(Said { what, again_after });
        Some(line)
    }

    fn look_clear(&mut self) -> Option<String> {
        self.clear = self.clear.saturating_add(1);
        if self.clear < LOOKS_CLEAR {
            return None;
        }
        self.end().map(str::to_owned)
    }

    // The line that is to be said of it.
    fn end(&mut self) -> Option<&'static str> {
        (self.looks, self.latest) = (0, None);
        self.said.take().map(|_| GOING_ON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(patience: &mut Patience, obstacle: Option<&str>, looks: u32) -> Vec<String> {
        let look = |_| patience.look(obstacle.map(str::to_owned));
        (0..looks).filter_map(look).collect()
    }

    #[test]
    fn what_lasts_two_seconds_is_said_then_seldom_and_the_end_of_it_too() {
        let mut patience = Patience::default();
        let mut said = |obstacle: Option<&str>, looks: u32| look(&mut patience, obstacle, looks);
        assert!(said(None, 100).is_empty());
        assert!(said(Some("full"), LOOKS_BEFORE - 1).is_empty());
        assert!(
            said(None, LOOKS_CLEAR).is_empty(),
            "nothing was said before"
        );
        assert_eq!(said(Some("full"), LOOKS_BEFORE), ["waiting: full"]);
        assert!(said(Some("full"), LOOKS_BETWEEN - 1).is_empty());
        assert_eq!(said(Some("full"), 1), ["still waiting: full"]);
        assert!(said(Some("full"), 2 * LOOKS_BETWEEN - 1).is_empty());
        assert_eq!(said(Some("full"), 1), ["still waiting: full"]);
        assert_eq!(said(Some("lost"), LOOKS_BETWEEN_OTHERS), ["waiting: lost"]);
        assert!(said(None, LOOKS_CLEAR - 1).is_empty());
        assert_eq!(said(None, 100), ["going on"]);
        assert_eq!(said(Some("lost"), LOOKS_BEFORE), ["waiting: lost"]);
    }

    #[test]
    fn what_ends_in_success_has_gone_on_however_soon_after() {
        let mut patience = Patience::default();
        look(&mut patience, Some("away"), LOOKS_BEFORE - 1);
        assert_eq!(patience.end(), None, "nothing was said");
        look(&mut patience, Some("away"), LOOKS_BEFORE);
        assert_eq!(patience.end(), Some(GOING_ON));
        assert_eq!(patience.end(), None, "said once");
        look(&mut patience, Some("away"), LOOKS_BEFORE);
        assert_eq!(look(&mut patience, None, LOOKS_CLEAR), [GOING_ON]);
        assert_eq!(patience.end(), None, "said once");
    }

    #[test]
    fn what_is_in_the_way_for_a_moment_while_things_go_on_again_is_not_said() {
        let mut patience = Patience::default();
        let mut said = |obstacle: Option<&str>, looks: u32| look(&mut patience, obstacle, looks);
        assert_eq!(said(Some("silent"), LOOKS_BEFORE), ["waiting: silent"]);
        assert!(said(Some("silent"), LOOKS_BETWEEN - 1).is_empty());
        assert!(said(Some("lost"), LOOKS_BEFORE - 1).is_empty());
        assert_eq!(said(None, LOOKS_CLEAR), ["going on"]);
        assert_eq!(said(Some("silent"), LOOKS_BEFORE), ["waiting: silent"]);
        assert!(said(Some("silent"), LOOKS_BETWEEN - 1).is_empty());
        assert_eq!(said(Some("lost"), LOOKS_BEFORE), ["waiting: lost"]);
    }

    #[test]
    fn reasons_that_take_turns_fill_no_terminal() {
        let mut patience = Patience::default();
        let looks = 4 * 60 * 60;
        let reasons = ["a", "b", "c"];
        let lines = (0..looks).filter_map(|n| patience.look(Some(reasons[n % 3].to_owned())));
        assert!(lines.count() <= looks / LOOKS_BETWEEN_OTHERS as usize + 1);
        let mut patience = Patience::default();
        let day = 4 * 60 * 60 * 24;
        assert!(look(&mut patience, Some("away"), day).len() < 160);
    }
}
