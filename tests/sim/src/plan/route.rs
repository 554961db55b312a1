//! Routes of a run: each with a rule in words, from which it follows what comes of an event.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::simulation::rules::{Becomes, TransformRule, emitted, replaced};

/// The one plugin that all routes use.
pub const RESHAPES: &str = "reshapes";

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The topic that it is from.
    pub from: String,
    /// What becomes of an event: see [`TransformRule`].
    pub rule: String,
    /// Topics by the names of outputs.
    pub outputs: Vec<(String, String)>,
}

/// What is uploaded.
#[must_use]
pub fn script() -> Vec<u8> {
    [
        b"\0asm\x0d\0\x01\0",
        format!("transform {RESHAPES}").as_bytes(),
    ]
    .concat()
}

/// What a route makes of an event with this number: topics, and payloads where they are others.
#[must_use]
pub fn made(route: &Route, number: u64) -> Vec<(&str, Option<String>)> {
    let Ok(rule) = route.rule.parse::<TransformRule>() else {
        return Vec::new();
    };
    let to = |output: Option<&str>| {
        let mut outputs = route.outputs.iter();
        let to = outputs.find(|(name, _)| output.is_none_or(|output| output == name));
        to.map(|(_, topic)| topic.as_str())
    };
    match rule.becomes {
        Becomes::Nothing => Vec::new(),
        Becomes::Itself => to(None).map(|topic| (topic, None)).into_iter().collect(),
        Becomes::Another => {
            let another = to(None).map(|topic| (topic, Some(replaced(number))));
            another.into_iter().collect()
        }
        Becomes::Others { count, output } => {
            let all = (0..count).filter_map(|at| {
                let topic = to(output.as_deref())?;
                Some((topic, Some(emitted(number, at))))
            });
            all.collect()
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&json)
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }
}
