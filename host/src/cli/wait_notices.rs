//! Saying why a command waits. The client sends again and connects again by itself, for as long as it takes; whoever sits before
//! the command is told after a moment what is in the way, once for each reason.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::Duration;

/// How often it is looked.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So many looks in a row find the same before it is said: what passes within a second is not worth a line.
const LOOKS_MIN: u32 = 4;

/// Says on standard error what `obstacle` tells, as long as this is polled. Cancel-safe.
pub(super) async fn say_why(obstacle: impl Fn() -> Option<String>) -> Infallible {
    let mut patience = Patience::default();
    loop {
        patience.say(obstacle());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What was seen so far, and said.
#[derive(Default)]
pub(super) struct Patience {
    seen: Option<String>,
    looks: u32,
    said: HashSet<String>,
}

impl Patience {
    /// Says it, if it has lasted. To be called every [`LOOK_EVERY`].
    pub(super) fn say(&mut self, obstacle: Option<String>) {
        if let Some(why) = self.look(obstacle) {
            eprintln!("waiting: {why}");
        }
    }

    // What is to be said now.
    fn look(&mut self, obstacle: Option<String>) -> Option<String> {
        if obstacle != self.seen {
            self.looks = 0;
            self.seen = obstacle;
        }
        self.looks = self.looks.saturating_add(1);
        let why = self.seen.as_ref().filter(|_| self.looks >= LOOKS_MIN)?;
        self.said.insert(why.clone()).then(|| why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_said_once_for_each_reason() {
        let mut patience = Patience::default();
        let mut said = |obstacle: Option<&str>, looks: u32| {
            let look = |_| patience.look(obstacle.map(str::to_owned));
            (0..looks).filter_map(look).collect::<Vec<_>>()
        };
        assert!(said(None, 100).is_empty());
        assert!(said(Some("full"), LOOKS_MIN - 1).is_empty());
        assert!(said(None, 1).is_empty());
        assert_eq!(said(Some("full"), 100), ["full"]);
        assert_eq!(said(Some("lost"), 100), ["lost"]);
        assert!(said(None, 100).is_empty());
        assert!(said(Some("full"), 100).is_empty());
    }
}
