//! What can go wrong in a guest, as all who call one see it, and how its author is told. Whose fault it was is not decided here.

use super::guest_output::readable;
use super::instance_budget::Exhausted;

// Longest message of a guest that is passed on.
const MESSAGE_BYTES_MAX: usize = 2048;
// Of what is told of a fault; a dead letter keeps 1,024 bytes of it.
const WHAT_BYTES_MAX: usize = 640;

/// What went wrong in a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// It trapped, used up its memory or its stack, or called what it may not.
    Trap,
    /// It ran longer than it may.
    Timeout,
    /// Its answer makes no sense.
    Nonsense,
    /// No fault of the guest: no instance is to be had, or no more memory for it, since others have them.
    Busy,
}

/// A call that failed. The instance is of no use any more.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// What happened, and all that the guest left of an explanation.
    pub(super) reason: String,
    /// Which function of its interface ran; empty if none did.
    pub(super) export: &'static str,
    /// What its author can do, as a sentence; empty if there is nothing.
    pub(super) advice: &'static str,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, reason: impl Into<String>, advice: &'static str) -> Self {
        Self {
            kind,
            reason: reason.into(),
            export: "",
            advice,
        }
    }

    pub(super) fn nonsense(reason: impl Into<String>) -> Self {
        let advice =
            "What a plugin may answer stands in the documentation of its world, in `wit/`.";
        Self::new(FaultKind::Nonsense, reason, advice)
    }

    pub(super) fn busy(reason: impl Into<String>) -> Self {
        Self::new(FaultKind::Busy, reason, "")
    }

    pub(super) fn in_export(self, export: &'static str) -> Self {
        Self { export, ..self }
    }

    /// What happened and what to do.
    pub(super) fn explained(&self) -> String {
        let what = clip_to(readable(self.reason.as_bytes()), WHAT_BYTES_MAX);
        match self.advice {
            "" => what,
            advice => format!("{what}. {advice}"),
        }
    }

    /// All of it: which plugin, in which of its functions, for whom, on which event, what happened, and what to do.
    pub(super) fn told(&self, plugin: &str, subscription: Option<&str>, event: &str) -> String {
        let mut told = format!("plugin {plugin} failed");
        if !self.export.is_empty() {
            told = format!("{told} in `{}`", self.export);
        }
        if let Some(subscription) = subscription {
            told = format!("{told} for {subscription}");
        }
        format!("{told} on {event}: {}", self.explained())
    }
}

impl From<Exhausted> for Fault {
    fn from(exhausted: Exhausted) -> Self {
        Self::busy(exhausted.to_string())
    }
}

/// A guest's message, cut to a bounded length.
pub(super) fn clip(message: String) -> String {
    clip_to(message, MESSAGE_BYTES_MAX)
}

fn clip_to(mut message: String, bytes_max: usize) -> String {
    if message.len() > bytes_max {
        let end = message.floor_char_boundary(bytes_max);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_in_a_sentence_that_is_bounded_and_safe_to_print() {
        let fault = Fault::new(FaultKind::Trap, "it\u{1b}[31m trapped", "Mend it.");
        let told = fault
            .in_export("evaluate")
            .told("scrub@3", Some("s"), "#5 of a");
        assert_eq!(
            told,
            "plugin scrub@3 failed in `evaluate` for s on #5 of a: it [31m trapped. Mend it."
        );
        let long = Fault::nonsense("é".repeat(10_000)).told("p@1", None, "#1 of a");
        assert!(
            long.starts_with("plugin p@1 failed on #1 of a: éé"),
            "{long}"
        );
        assert!(long.len() < 1_000 && long.ends_with("in `wit/`."), "{long}");
    }
}
