//! Rules of scripted plugins, in words: what the plugins of a run go by, and whoever checks that run afterwards. An event is known by the
//! number that its payload begins with.
//!
//! A filter's rule says what it takes: `all`, `none`, `topic NAME`, or `mod K R` for numbers that leave `R` when divided by `K`. A
//! transform's says what becomes of an event: `keep`, `drop`, `replace`, or `emit N` with `to OUTPUT` behind it or without. Behind that
//! stand faults, as many as there are, each with the numbers that it is on, as in `trap on 5..9`.

use std::ops::RangeInclusive;
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

/// Which events a filter takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Every one.
    All,
    /// None.
    None,
    /// Those of this topic.
    Topic(String),
    /// Those whose number leaves this when divided by that.
    Every {
        /// What is left.
        rest: u64,
        /// What it is divided by.
        of: u64,
    },
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `trap`: a call with such an event traps.
    Trap,
    /// `once-trap`: so does the first such call that proves nothing, since others are in it or the instance has a past, and none after
    /// it. Nobody is guilty.
    TrapOnce,
    /// `together TAG`: a call with such an event traps when another rule of the same tag is in it. Nobody is guilty.
    Together(String),
    /// `slow MS`: a call with such an event takes so long.
    Slow(Duration),
    /// `nonsense`: the answer to a call with such an event speaks of a rule that was not asked.
    Nonsense,
    /// `reject`: a transform refuses it.
    Reject,
    /// `retry N`: a transform wants it again, so many times.
    Retry(u32),
}

/// Faults with the events that they are on.
pub type Faults = Vec<(Fault, RangeInclusive<u64>)>;

/// A filter's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// What it takes.
    pub takes: Takes,
    /// What is wrong with it.
    pub faults: Faults,
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// Itself.
    Itself,
    /// Nothing.
    Nothing,
    /// The same with another payload, see [`replaced`].
    Another,
    /// So many others, see [`emitted`].
    Others {
        /// How many.
        count: u64,
        /// Where they go, if not where all do.
        output: Option<String>,
    },
}

/// A transform's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransformRule {
    /// What becomes of an event.
    pub becomes: Becomes,
    /// What is wrong with it.
    pub faults: Faults,
}

impl FilterRule {
    /// Whether it takes an event.
    #[must_use]
    pub fn wants(&self, topic: &str, number: u64) -> bool {
        match &self.takes {
            Takes::All => true,
            Takes::None => false,
            Takes::Topic(name) => name == topic,
            Takes::Every { rest, of } => number % of == *rest,
        }
    }
}

impl FromStr for FilterRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let takes = match words.next() {
            Some("all") => Takes::All,
            Some("none") => Takes::None,
            Some("topic") => Takes::Topic(next(&mut words)?),
            Some("mod") => Takes::Every {
                of: next(&mut words)?,
                rest: next(&mut words)?,
            },
            _ => return Err(format!("no rule of a filter: {text}")),
        };
        if let Takes::Every { of: 0, .. } = takes {
            return Err("nothing is divided by 0".to_owned());
        }
        let faults = faults(words)?;
        Ok(Self { takes, faults })
    }
}

impl FromStr for TransformRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let becomes = match words.next() {
            Some("keep") => Becomes::Itself,
            Some("drop") => Becomes::Nothing,
            Some("replace") => Becomes::Another,
            Some("emit") => {
                let count = next(&mut words)?;
                let mut rest = words.clone();
                let mut output = None;
                if rest.next() == Some("to") {
                    output = Some(next(&mut rest)?);
                    words = rest;
                }
                Becomes::Others { count, output }
            }
            _ => return Err(format!("no rule of a transform: {text}")),
        };
        let faults = faults(words)?;
        Ok(Self { becomes, faults })
    }
}

/// The number of an event with this payload.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u64> {
    let digits = payload.iter().take_while(|byte| byte.is_ascii_digit());
    let digits = payload.get(..digits.count())?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The payload of what stands for an event.
#[must_use]
pub fn replaced(number: u64) -> String {
    format!("{number} replaced")
}

/// The payload of the `at`-th of the events that come of one.
#[must_use]
pub fn emitted(number: u64, at: u64) -> String {
    format!("{number} emitted {at}")
}

fn faults(mut words: SplitWhitespace<'_>) -> Result<Faults, String> {
    let mut faults = Vec::new();
    while let Some(word) = words.next() {
        let fault = match word {
            "trap" => Fault::Trap,
            "once-trap" => Fault::TrapOnce,
            "together" => Fault::Together(next(&mut words)?),
            "slow" => Fault::Slow(Duration::from_millis(next(&mut words)?)),
            "nonsense" => Fault::Nonsense,
            "reject" => Fault::Reject,
            "retry" => Fault::Retry(next(&mut words)?),
            _ => return Err(format!("no fault: {word}")),
        };
        let on = (
            words.next(),
            words.next().and_then(|on| on.split_once("..")),
        );
        let (Some("on"), Some((from, to))) = on else {
            return Err(format!("{word} says not on which events"));
        };
        faults.push((fault, parsed(from)?..=parsed(to)?));
    }
    Ok(faults)
}

fn next<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Result<T, String> {
    parsed(words.next().unwrap_or_default())
}

fn parsed<T: FromStr>(word: &str) -> Result<T, String> {
    let parsed = word.parse();
    parsed.map_err(|_| format!("`{word}` stands where it makes no sense"))
}
