//! The refusal of somebody who lacks a right, and what they are told of it. Whether they lack it is decided in `policy`.

use std::fmt;

use super::rights::Right;
use crate::domain::Principal;

/// Somebody lacks a right. The message says which, and what grant would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who lacks it.
    pub who: Principal,
    /// What they lack.
    pub right: Right,
    /// On what: a topic, a pattern or a name. Empty: on anything at all.
    pub on: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, right, on } = self;
        let key = right.key();
        if on.is_empty() {
            let what = match right {
                Right::Publish | Right::Subscribe | Right::Admin => "[TOPICS]",
                Right::Consume | Right::Upload | Right::Use => "[NAMES]",
                Right::Metrics => "true",
            };
            return write!(
                f,
                "{who} has no {key} right at all; a table [[policy.grants]] with principals = [{:?}] and {key} = {what} would give one",
                who.as_str(),
            );
        }
        if *right == Right::Consume {
            // The same for a subscription that does not exist: who may not consume does not learn which it is.
            return write!(
                f,
                "{who} may not consume `{on}`: there is no such subscription, or a grant is missing, which is subscribe on its topics, and where it has an owner {key} = [{on:?}]"
            );
        }
        write!(
            f,
            "{who} has no {key} right on `{on}`; a table [[policy.grants]] with principals = [{:?}] and {key} = [{on:?}] would give it",
            who.as_str(),
        )
    }
}

impl std::error::Error for Denied {}
