//! What a principal may do: denied unless a grant allows it, always. Holds the grants and counts refusals;
//! it keeps no caches, so callers that ask often (a publish stream) remember the answers themselves.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Grant;
use crate::domain::{Principal, SubscriptionSpec, TopicName, TopicPattern};

/// The grants of the configuration, and how often they did not suffice.
#[derive(Debug, Default)]
pub struct Policy {
    grants: Vec<Grant>,
    denied_publish: AtomicU64,
    denied_subscribe: AtomicU64,
    denied_admin: AtomicU64,
}

/// A kind of right, named as the key of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// `publish`
    Publish,
    /// `subscribe`
    Subscribe,
    /// `admin`
    Admin,
}

/// What somebody is about to do.
#[derive(Clone, Copy, Debug)]
pub enum Action<'a> {
    /// Publish to a topic, or have the broker do so (dead letters, a route's outputs).
    Publish(&'a TopicName),
    /// Receive all topics that a pattern selects. One granted pattern must cover it.
    Subscribe(&'a TopicPattern),
    /// Create, change or delete the topics that a pattern selects, or subscriptions to them.
    AdminTopic(&'a TopicPattern),
    /// Upload or delete a plugin. Needs admin on `>`: a plugin serves all topics.
    AdminPlugins,
    /// See lists, details and settings. Needs admin on anything.
    AdminRead,
}

/// Somebody lacks a right. The message says which, and what grant would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who asked.
    pub who: Principal,
    /// What they lack.
    pub right: Right,
    /// On what: a topic or a pattern. Empty: on anything at all.
    pub on: String,
}

/// Refusals since the start, by the right that was lacking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeniedCounts {
    /// Lack of `publish`.
    pub publish: u64,
    /// Lack of `subscribe`.
    pub subscribe: u64,
    /// Lack of `admin`.
    pub admin: u64,
}

impl Policy {
    /// A policy of these grants; without any, everything is denied.
    #[must_use]
    pub fn new(grants: Vec<Grant>) -> Self {
        Self {
            grants,
            ..Self::default()
        }
    }

    /// Whether `who` may do `action`. A refusal is counted.
    ///
    /// # Errors
    ///
    /// No grant allows it.
    pub fn check(&self, who: &Principal, action: &Action<'_>) -> Result<(), Denied> {
        if self.allows(who, action) {
            return Ok(());
        }
        Err(self.deny(who, action))
    }

    /// Whether `who` has `right` on anything at all: asked before any work is done for somebody who might have it. A refusal is
    /// counted.
    ///
    /// # Errors
    ///
    /// No grant gives it.
    pub fn check_any(&self, who: &Principal, right: Right) -> Result<(), Denied> {
        if self.holds(who, right) {
            return Ok(());
        }
        Err(self.refuse(who, right, String::new()))
    }

    /// Whether `who` has `right` on anything at all.
    #[must_use]
    pub fn holds(&self, who: &Principal, right: Right) -> bool {
        let mut grants = self.grants.iter().filter(|grant| grant.selects(who));
        grants.any(|grant| match right {
            Right::Publish => !grant.publish.is_empty(),
            Right::Subscribe => !grant.subscribe.is_empty(),
            Right::Admin => !grant.admin.is_empty(),
        })
    }

    /// Refusals since the start, of all kinds.
    #[must_use]
    pub fn denied_total(&self) -> u64 {
        let counts = self.denied_counts();
        counts.publish + counts.subscribe + counts.admin
    }

    /// Refusals since the start, by kind.
    #[must_use]
    pub fn denied_counts(&self) -> DeniedCounts {
        DeniedCounts {
            publish: self.denied_publish.load(Ordering::Relaxed),
            subscribe: self.denied_subscribe.load(Ordering::Relaxed),
            admin: self.denied_admin.load(Ordering::Relaxed),
        }
    }

    fn allows(&self, who: &Principal, action: &Action<'_>) -> bool {
        let mut grants = self.grants.iter().filter(|grant| grant.selects(who));
        grants.any(|grant| match action {
            Action::Publish(topic) => grant.publish.iter().any(|ours| ours.matches(topic)),
            Action::Subscribe(pattern) => grant.subscribe.iter().any(|ours| ours.covers(pattern)),
            Action::AdminTopic(pattern) => grant.admin.iter().any(|ours| ours.covers(pattern)),
            Action::AdminPlugins => grant.admin.iter().any(|ours| ours.as_str() == ">"),
            Action::AdminRead => !grant.admin.is_empty(),
        })
    }

    fn deny(&self, who: &Principal, action: &Action<'_>) -> Denied {
        let (right, on) = match action {
            Action::Publish(topic) => (Right::Publish, topic.to_string()),
            Action::Subscribe(pattern) => (Right::Subscribe, pattern.to_string()),
            Action::AdminTopic(pattern) => (Right::Admin, pattern.to_string()),
            Action::AdminPlugins | Action::AdminRead => (Right::Admin, ">".to_owned()),
        };
        self.refuse(who, right, on)
    }

    fn refuse(&self, who: &Principal, right: Right, on: String) -> Denied {
        let counter = match right {
            Right::Publish => &self.denied_publish,
            Right::Subscribe => &self.denied_subscribe,
            Right::Admin => &self.denied_admin,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Denied {
            who: who.clone(),
            right,
            on,
        }
    }
}

/// Whether `who` may create the subscription or route `spec`: subscribe or admin on each of its patterns,
/// and publish on its dead-letter topic and on every output, since the broker will publish there in its
/// name. Plugins need no right to be used, only to be uploaded.
///
/// # Errors
///
/// The first right that is lacking.
pub fn check_subscription(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
) -> Result<(), Denied> {
    for pattern in &spec.topics {
        if !policy.allows(who, &Action::AdminTopic(pattern)) {
            policy.check(who, &Action::Subscribe(pattern))?;
        }
    }
    policy.check(who, &Action::Publish(&spec.dead_letter_topic()))?;
    for output in spec.outputs.values() {
        policy.check(who, &Action::Publish(output))?;
    }
    Ok(())
}

/// Whether `who` may attach a consumer to `spec`: subscribe on each of its patterns.
///
/// # Errors
///
/// The first right that is lacking.
pub fn check_attach(
    policy: &Policy,
    who: &Principal,
    spec: &SubscriptionSpec,
) -> Result<(), Denied> {
    spec.topics
        .iter()
        .try_for_each(|pattern| policy.check(who, &Action::Subscribe(pattern)))
}

impl Right {
    /// The key of a grant that gives it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, right, on } = self;
        let key = right.key();
        if on.is_empty() {
            return write!(
                f,
                "{who} has no {key} right at all; a table [[policy.grants]] with principals = [{:?}] and {key} = [TOPICS] would give one",
                who.as_str(),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{DeliveryPolicy, Millis, StartAt};

    fn policy(text: &str) -> Policy {
        #[derive(serde::Deserialize)]
        struct Section {
            grants: Vec<Grant>,
        }
        Policy::new(
            toml::from_str::<Section>(text)
                .expect("valid grants")
                .grants,
        )
    }

    fn pattern(text: &str) -> TopicPattern {
        text.parse().expect("valid pattern")
    }

    fn spec(topics: &[&str], dead: &str, outputs: &[(&str, &str)]) -> SubscriptionSpec {
        SubscriptionSpec {
            name: "s".parse().expect("valid name"),
            topics: topics.iter().map(|text| pattern(text)).collect(),
            filters: vec![],
            transforms: vec![],
            start: StartAt::New,
            delivery: DeliveryPolicy {
                dead_letter: Some(dead.parse().expect("valid topic")),
                ..DeliveryPolicy::default()
            },
            outputs: outputs
                .iter()
                .map(|(name, topic)| (name.parse().expect("name"), topic.parse().expect("topic")))
                .collect::<BTreeMap<_, _>>(),
            created: Millis(0),
        }
    }

    const PLANT: &str = r#"
        [[grants]]
        principals = ["uri:spiffe://plant/*"]
        publish = ["plant.>", "dead.>"]
        subscribe = ["plant.presses.*"]
        [[grants]]
        principals = ["cn:chief", "local"]
        admin = ["plant.>"]
        publish = ["dead.>"]
        [[grants]]
        principals = ["cn:root"]
        admin = [">"]
    "#;

    #[test]
    fn denied_unless_granted() {
        let policy = policy(PLANT);
        let check = |who: &str, action: Action<'_>, expected: bool| {
            let who: Principal = who.parse().expect("valid principal");
            assert_eq!(
                policy.check(&who, &action).is_ok(),
                expected,
                "{who}: {action:?}"
            );
        };
        let topic = |text: &str| text.parse::<TopicName>().expect("valid topic");
        let press = "uri:spiffe://plant/press-4";
        check(press, Action::Publish(&topic("plant.presses.4")), true);
        check(press, Action::Publish(&topic("office.mail")), false);
        check(
            "cn:uri:spiffe://plant/press-4",
            Action::Publish(&topic("plant.presses.4")),
            false,
        );
        check(
            "anonymous",
            Action::Publish(&topic("plant.presses.4")),
            false,
        );
        check(press, Action::Subscribe(&pattern("plant.presses.*")), true);
        check(press, Action::Subscribe(&pattern("plant.presses.>")), false);
        check(press, Action::AdminRead, false);
        check(
            "cn:chief",
            Action::AdminTopic(&pattern("plant.presses.>")),
            true,
        );
        check("local", Action::AdminTopic(&pattern("plant.x")), true);
        check("cn:chief", Action::AdminTopic(&pattern(">")), false);
        check("cn:chief", Action::AdminRead, true);
        check("cn:chief", Action::AdminPlugins, false);
        check("cn:root", Action::AdminPlugins, true);
        assert_eq!(
            policy.denied_counts(),
            DeniedCounts {
                publish: 3,
                subscribe: 1,
                admin: 3
            }
        );
        assert_eq!(policy.denied_total(), 7);
    }

    #[test]
    fn whoever_has_a_right_on_anything_is_told_from_those_who_have_none() {
        let policy = policy(PLANT);
        let check = |who: &str, right: Right, expected: bool| {
            let who: Principal = who.parse().expect("valid principal");
            assert_eq!(policy.check_any(&who, right).is_ok(), expected, "{who}");
        };
        let press = "uri:spiffe://plant/press-4";
        check(press, Right::Publish, true);
        check(press, Right::Subscribe, true);
        check(press, Right::Admin, false);
        check("cn:chief", Right::Admin, true);
        check("cn:chief", Right::Subscribe, false);
        check("cn:stranger", Right::Publish, false);
        check("anonymous", Right::Publish, false);
        let stranger = Principal::common_name("stranger");
        let denied = policy.check_any(&stranger, Right::Publish);
        assert_eq!(
            denied.expect_err("no grant").to_string(),
            "cn:stranger has no publish right at all; a table [[policy.grants]] with principals = [\"cn:stranger\"] and publish = [TOPICS] would give one"
        );
        assert_eq!(policy.denied_counts().publish, 3);
    }

    #[test]
    fn without_grants_everything_is_denied() {
        let policy = Policy::default();
        assert!(
            policy
                .check(&Principal::local(), &Action::AdminRead)
                .is_err()
        );
    }

    #[test]
    fn creating_needs_the_inputs_and_every_place_the_broker_will_publish_to() {
        let policy = policy(PLANT);
        let check = |who: &str, spec: SubscriptionSpec, lacking: Option<(Right, &str)>| {
            let who: Principal = who.parse().expect("valid principal");
            let denied = check_subscription(&policy, &who, &spec).err();
            let found = denied
                .as_ref()
                .map(|denied| (denied.right, denied.on.as_str()));
            assert_eq!(found, lacking);
        };
        let press = "uri:spiffe://plant/press-4";
        check(press, spec(&["plant.presses.4"], "dead.s", &[]), None);
        check(
            press,
            spec(&["plant.>"], "dead.s", &[]),
            Some((Right::Subscribe, "plant.>")),
        );
        check(
            press,
            spec(&["plant.presses.4"], "lost", &[]),
            Some((Right::Publish, "lost")),
        );
        check(
            press,
            spec(&["plant.presses.4"], "dead.s", &[("o", "plant.out")]),
            None,
        );
        check(
            press,
            spec(&["plant.presses.4"], "dead.s", &[("o", "office.out")]),
            Some((Right::Publish, "office.out")),
        );
        // Admin stands in for subscribe when creating, not when receiving.
        let by_chief = spec(&["plant.>"], "dead.s", &[]);
        check("cn:chief", by_chief.clone(), None);
        let chief = Principal::common_name("chief");
        assert!(check_attach(&policy, &chief, &by_chief).is_err());
        assert!(
            check_attach(
                &policy,
                &press.parse().expect("valid"),
                &spec(&["plant.presses.*"], "x", &[])
            )
            .is_ok()
        );
    }

    #[test]
    fn a_refusal_names_the_grant_that_is_missing() {
        let denied = Policy::default()
            .check(
                &Principal::dns("a.example"),
                &Action::Subscribe(&pattern("orders.>")),
            )
            .expect_err("nothing is granted");
        assert_eq!(
            denied.to_string(),
            "dns:a.example has no subscribe right on `orders.>`; a table [[policy.grants]] with principals = [\"dns:a.example\"] and subscribe = [\"orders.>\"] would give it"
        );
    }

    #[test]
    fn an_unknown_key_in_a_grant_is_refused() {
        let error = toml::from_str::<Grant>("principals = [\"*\"]\nwrite = [\"a\"]")
            .expect_err("unknown key");
        assert!(error.to_string().contains("write"), "{error}");
    }
}
