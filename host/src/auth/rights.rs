//! The kinds of rights there are ([`Right`]), the grants that give them ([`Grant`], one `[[policy.grants]]` table of the
//! configuration), and what each of them allows ([`Action`]). A new kind of right is all in here; which of them an operation takes is said
//! in `authorize`.

use serde::{Deserialize, Serialize};

use crate::domain::{NamePattern, Principal, PrincipalPattern, TopicName, TopicPattern};

/// A kind of right, named as the key of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// `publish`
    Publish,
    /// `subscribe`
    Subscribe,
    /// `admin`
    Admin,
    /// `consume`
    Consume,
    /// `upload`
    Upload,
    /// `use`
    Use,
    /// `metrics`
    Metrics,
}

impl Right {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Publish,
        Self::Subscribe,
        Self::Admin,
        Self::Consume,
        Self::Upload,
        Self::Use,
        Self::Metrics,
    ];

    /// The key of a grant that gives it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Admin => "admin",
            Self::Consume => "consume",
            Self::Upload => "upload",
            Self::Use => "use",
            Self::Metrics => "metrics",
        }
    }
}

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

/// What somebody is about to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action<'a> {
    /// Publish to a topic, or have the broker do so (dead letters, a route's outputs).
    Publish(&'a TopicName),
    /// Receive all topics that a pattern selects. One granted pattern must cover it.
    Subscribe(&'a TopicPattern),
    /// Create, change or delete the topics that a pattern selects, or subscriptions to them.
    AdminTopic(&'a TopicPattern),
    /// Do with plugins whatever can be done. Needs admin on `>`: a plugin serves all topics.
    AdminPlugins,
    /// See all lists, details and settings. Needs admin on anything.
    AdminRead,
    /// Look for subscriptions and see one's own. Whoever may create or consume any may.
    SeeSubscriptions,
    /// Look for plugins and see those that one may use. Whoever may create subscriptions or upload may.
    SeePlugins,
    /// Attach to a subscription of this name that is somebody else's.
    Consume(&'a str),
    /// Upload a plugin under this name.
    Upload(&'a str),
    /// Use a plugin of this name that is somebody else's.
    Use(&'a str),
    /// Read all metrics. Whoever sees all lists may.
    ReadMetrics,
}

impl Action<'_> {
    /// Whether this grant alone allows it.
    pub(super) fn is_granted(&self, grant: &Grant) -> bool {
        match self {
            Self::Publish(topic) => grant.publish.iter().any(|ours| ours.matches(topic)),
            Self::Subscribe(pattern) => grant.subscribe.iter().any(|ours| ours.covers(pattern)),
            Self::AdminTopic(pattern) => grant.admin.iter().any(|ours| ours.covers(pattern)),
            Self::AdminPlugins => grant.administers_everything(),
            Self::AdminRead => !grant.admin.is_empty(),
            Self::SeeSubscriptions => {
                !(grant.admin.is_empty() && grant.subscribe.is_empty() && grant.consume.is_empty())
            }
            Self::SeePlugins => {
                !(grant.admin.is_empty()
                    && grant.subscribe.is_empty()
                    && grant.upload.is_empty()
                    && grant.r#use.is_empty())
            }
            Self::Consume(name) => grant.consume.iter().any(|ours| ours.matches(name)),
            Self::Upload(name) => {
                grant.upload.iter().any(|ours| ours.matches(name)) || grant.administers_everything()
            }
            Self::Use(name) => {
                grant.r#use.iter().any(|ours| ours.matches(name)) || grant.administers_everything()
            }
            Self::ReadMetrics => grant.metrics || !grant.admin.is_empty(),
        }
    }

    /// The right it takes, and on what.
    pub(super) fn needs(&self) -> (Right, String) {
        match self {
            Self::Publish(topic) => (Right::Publish, topic.to_string()),
            Self::Subscribe(pattern) => (Right::Subscribe, pattern.to_string()),
            Self::AdminTopic(pattern) => (Right::Admin, pattern.to_string()),
            Self::AdminPlugins => (Right::Admin, ">".to_owned()),
            Self::AdminRead => (Right::Admin, String::new()),
            Self::SeeSubscriptions => (Right::Subscribe, String::new()),
            Self::SeePlugins => (Right::Use, String::new()),
            Self::Consume(name) => (Right::Consume, (*name).to_owned()),
            Self::Upload(name) => (Right::Upload, (*name).to_owned()),
            Self::Use(name) => (Right::Use, (*name).to_owned()),
            Self::ReadMetrics => (Right::Metrics, String::new()),
        }
    }
}
