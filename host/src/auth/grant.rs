//! One `[[policy.grants]]` table of the configuration. It only holds what was written; what it means is
//! decided in `policy`.

use serde::{Deserialize, Serialize};

use crate::domain::{Principal, PrincipalPattern, TopicPattern};

/// Rights for everybody that one of `principals` selects. Grants add up; there is no way to take a right
/// away, so what no grant gives is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Who: `uri:spiffe://plant/*`, `dns:sensor-7.example.org`, `cn:press 4`, `*` for everybody with a
    /// certificate, `anonymous` for clients of a listener that asks for none, `local` for callers of the
    /// plain admin port.
    pub principals: Vec<PrincipalPattern>,
    /// Topics they may publish to, as patterns: `orders.>`. Also needed, by whoever creates a subscription
    /// or route, on its dead-letter topic and on every output. Default: none.
    #[serde(default)]
    pub publish: Vec<TopicPattern>,
    /// Topics they may receive. A subscription may be attached to, or created, by those who hold every
    /// pattern it selects. Default: none.
    #[serde(default)]
    pub subscribe: Vec<TopicPattern>,
    /// Topics they may create and delete, and whose subscriptions and routes they may create, delete and
    /// resume. Any pattern also allows to look at lists; plugins are uploaded and deleted by those who hold
    /// `>`. Default: none.
    #[serde(default)]
    pub admin: Vec<TopicPattern>,
}

impl Grant {
    /// Whether this grant is about `who`.
    #[must_use]
    pub fn selects(&self, who: &Principal) -> bool {
        self.principals.iter().any(|pattern| pattern.matches(who))
    }
}
