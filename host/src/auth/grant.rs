//! One `[[policy.grants]]` table of the configuration. It only holds what was written; what it means is
//! decided in `policy`.

use serde::{Deserialize, Serialize};

use super::right::Right;
use crate::domain::{NamePattern, Principal, PrincipalPattern, TopicPattern};

/// Rights for everybody that one of `principals` selects. Grants add up; there is no way to take a right
/// away, so what no grant gives is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Who: `uri:spiffe://plant/*`, `dns:sensor-7.example.org`, `cn:press 4`, `*` for everybody with a
    /// certificate, `anonymous` for clients of a listener that asks for none, `local` for callers of the
    /// plain admin port.
    pub principals: Vec<PrincipalPattern>,
    /// Topics they may publish to, as patterns: `orders.>`. Also needed, by whoever creates a subscription or route or owns
    /// it, on its dead-letter topic and on every output. Default: none.
    #[serde(default)]
    pub publish: Vec<TopicPattern>,
    /// Topics they may receive, by consumers, and through routes and dead letters of theirs. Default: none.
    #[serde(default)]
    pub subscribe: Vec<TopicPattern>,
    /// Topics they may create and delete, and whose subscriptions and routes they may create, change, delete, resume and
    /// give an owner. Any pattern also allows to look at lists; `>` includes every right on plugins. Default: none.
    #[serde(default)]
    pub admin: Vec<TopicPattern>,
    /// Subscriptions of other owners that they may consume, by name: `billing-*`. Default: none.
    #[serde(default)]
    pub consume: Vec<NamePattern>,
    /// Names under which they may upload plugins, as far as these are not somebody else's. Default: none.
    #[serde(default)]
    pub upload: Vec<NamePattern>,
    /// Plugins of other owners that they may use and look at, by name. Default: none.
    #[serde(default)]
    pub r#use: Vec<NamePattern>,
    /// Whether they may read all metrics, those of others' subscriptions and plugins among them. Default: no.
    #[serde(default)]
    pub metrics: bool,
}

impl Grant {
    /// Whether whoever it is for runs the broker: it has `admin` on every topic.
    #[must_use]
    pub fn administers_everything(&self) -> bool {
        self.admin.contains(&TopicPattern::everything())
    }

    /// Whether it gives nothing at all.
    #[must_use]
    pub fn is_without_rights(&self) -> bool {
        Right::ALL.iter().all(|right| !self.gives(*right))
    }

    /// Whether it gives `right` on anything.
    #[must_use]
    pub fn gives(&self, right: Right) -> bool {
        match right {
            Right::Publish => !self.publish.is_empty(),
            Right::Subscribe => !self.subscribe.is_empty(),
            Right::Admin => !self.admin.is_empty(),
            Right::Consume => !self.consume.is_empty(),
            Right::Upload => !self.upload.is_empty(),
            Right::Use => !self.r#use.is_empty(),
            Right::Metrics => self.metrics,
        }
    }

    /// Whether this grant is about `who`.
    #[must_use]
    pub fn selects(&self, who: &Principal) -> bool {
        self.principals.iter().any(|pattern| pattern.matches(who))
    }
}
