//! Filters of a run: scripted plugins, and uses of them in chains, which the history writes as words.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::simulation::rules::{Fault, FilterRule};

/// How long a plugin may take over one event of one rule, as `PluginLimits` has it.
const ALONE_MAX: Duration = Duration::from_millis(50);

/// A scripted plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// How long it is compiled.
    pub compiles_ms: u64,
}

/// One use of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Which one.
    pub plugin: String,
    /// What becomes of an event on which it fails.
    pub on_failure: OnFailure,
    /// What it is told: see [`FilterRule`].
    pub rule: String,
}

/// What becomes of an event on which a filter fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// A dead letter.
    DeadLetter,
    /// Nothing.
    Drop,
    /// What becomes of one that it takes.
    Pass,
    /// It stays, and the subscription stands still.
    Pause,
}

/// What a filter says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes it.
    Yes,
    /// It does not.
    No,
    /// It fails on it, also alone.
    Fails,
}

impl Plugin {
    /// What is uploaded.
    #[must_use]
    pub fn script(&self, tag: u64) -> Vec<u8> {
        let Self { name, compiles_ms } = self;
        let words = format!("filter compiles {compiles_ms} {name}.{tag}");
        [b"\0asm\x0d\0\x01\0", words.as_bytes()].concat()
    }
}

impl Filter {
    /// What it says of an event by itself.
    #[must_use]
    pub fn verdict(&self, topic: &str, number: u64) -> Verdict {
        let Ok(rule) = self.rule.parse::<FilterRule>() else {
            return Verdict::Fails;
        };
        let on = rule.faults.iter().filter(|(_, on)| on.contains(&number));
        let mut slow = Duration::ZERO;
        for (fault, _) in on {
            match fault {
                Fault::Trap | Fault::Nonsense => return Verdict::Fails,
                Fault::Slow(time) => slow += *time,
                // Nobody is guilty of these.
                Fault::TrapOnce | Fault::Together(_) | Fault::Reject | Fault::Retry(_) => {}
            }
        }
        match (slow > ALONE_MAX, rule.wants(topic, number)) {
            (true, _) => Verdict::Fails,
            (false, true) => Verdict::Yes,
            (false, false) => Verdict::No,
        }
    }

    /// The same without what is wrong with it.
    #[must_use]
    pub fn mended(&self) -> Self {
        let faults = ["trap", "once-trap", "together", "slow", "nonsense"];
        let words = self.rule.split_whitespace();
        let sound: Vec<&str> = words.take_while(|word| !faults.contains(word)).collect();
        Self {
            rule: sound.join(" "),
            ..self.clone()
        }
    }
}

/// Whether a chain hands out an event.
#[must_use]
pub fn takes(chain: &[Filter], topic: &str, number: u64) -> bool {
    let mut verdicts = chain.iter().map(|filter| {
        let verdict = filter.verdict(topic, number);
        verdict == Verdict::Yes || verdict == Verdict::Fails && filter.on_failure == OnFailure::Pass
    });
    verdicts.all(|takes| takes)
}

/// A chain in words, of which there may be none.
#[must_use]
pub fn written(chain: &[Filter]) -> String {
    let filters: Vec<String> = chain.iter().map(ToString::to_string).collect();
    filters.join(" + ")
}

/// A chain of words.
///
/// # Errors
///
/// They are none.
pub fn read(words: &str) -> Result<Vec<Filter>, String> {
    let filters = words.split(" + ").filter(|filter| !filter.is_empty());
    filters.map(str::parse).collect()
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeadLetter => "dead-letter",
            Self::Drop => "drop",
            Self::Pass => "pass",
            Self::Pause => "pause",
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plugin,
            on_failure,
            rule,
        } = self;
        write!(f, "{plugin} {on_failure} {rule}")
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let mut parts = words.splitn(3, ' ');
        let mut next = || parts.next().ok_or(format!("no filter: {words}"));
        let (plugin, on_failure, rule) = (next()?, next()?, next()?);
        let on_failure = match on_failure {
            "dead-letter" => OnFailure::DeadLetter,
            "drop" => OnFailure::Drop,
            "pass" => OnFailure::Pass,
            "pause" => OnFailure::Pause,
            _ => return Err(format!("nothing becomes {on_failure}")),
        };
        Ok(Self {
            plugin: plugin.to_owned(),
            on_failure,
            rule: rule.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_read_as_it_was_written() {
        let words = "f0 dead-letter mod 3 1 trap on 5..9 + f1 pass all slow 20 on 1..2";
        let chain = read(words).unwrap();
        assert_eq!((chain.len(), written(&chain)), (2, words.to_owned()));
        assert_eq!(read(""), Ok(Vec::new()));
        for wrong in ["f0", "f0 drop", "f0 burn all"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_event_passes_that_every_filter_takes() {
        for (words, number, expected) in [
            ("", 1, true),
            ("f drop mod 3 1", 4, true),
            ("f drop mod 3 1", 5, false),
            ("f drop all + g drop none", 1, false),
            ("f drop topic t", 1, true),
            ("f drop topic u", 1, false),
            ("f drop all trap on 4..5", 3, true),
            ("f drop all trap on 4..5", 4, false),
            ("f dead-letter all nonsense on 4..5", 5, false),
            ("f pass none trap on 4..5", 4, true),
            ("f pause all trap on 4..5", 4, false),
            ("f drop all once-trap on 4..5", 4, true),
            ("f drop all together x on 4..5", 4, true),
            ("f drop all slow 50 on 4..5", 4, true),
            ("f drop all slow 51 on 4..5", 4, false),
            ("f drop all slow 30 on 4..5 slow 30 on 5..6", 5, false),
        ] {
            let chain = read(words).unwrap();
            assert_eq!(takes(&chain, "t", number), expected, "{words}: {number}");
            let mended: Vec<Filter> = chain.iter().map(Filter::mended).collect();
            let is_sound = |filter: &Filter| filter.verdict("t", number) != Verdict::Fails;
            assert!(mended.iter().all(is_sound), "{words}");
        }
    }
}
