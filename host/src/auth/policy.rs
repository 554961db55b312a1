//! What a principal may do: denied unless a grant allows it, always. Holds the grants, which may be replaced, and counts
//! refusals; it keeps no caches, so callers that ask often (a publish stream, a route) remember the answers themselves,
//! together with the [`version`](Policy::version) they are of. What each right allows is said in `rights`. Nobody outside of this room
//! asks it what it allows, but `authorize` what an operation takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

use super::denied::Denied;
use super::rights::{Action, Grant, Right};
use crate::domain::Principal;
use crate::locks::{read, write};

/// The grants of the configuration, and how often they did not suffice.
#[derive(Debug)]
pub struct Policy {
    grants: RwLock<Arc<[Grant]>>,
    denied: [AtomicU64; Right::ALL.len()],
    // Counts what may change answers: other grants, and other owners. Beside it those who wait for that.
    version: AtomicU64,
    news: watch::Sender<u64>,
}

impl Policy {
    /// A policy of these grants; without any, everything is denied.
    #[must_use]
    pub fn new(grants: Vec<Grant>) -> Self {
        Self {
            grants: RwLock::new(grants.into()),
            denied: Default::default(),
            version: AtomicU64::new(0),
            news: watch::Sender::new(0),
        }
    }

    /// One for tests that are not about rights: `local` may do everything.
    #[cfg(test)]
    pub(crate) fn of_local() -> Arc<Self> {
        let grant = r#"
            principals = ["local"]
            publish = [">"]
            subscribe = [">"]
            admin = [">"]
        "#;
        Arc::new(Self::new(vec![toml::from_str(grant).expect("a grant")]))
    }

    /// Replaces all grants. From now on they decide; whoever remembers answers, consumes or runs a route is told, and asks
    /// again.
    pub fn reload(&self, grants: Vec<Grant>) {
        *write(&self.grants) = grants.into();
        self.owners_changed();
    }

    /// Something has another owner than before, so answers may differ though the grants do not.
    pub fn owners_changed(&self) {
        let version = self.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.news.send_replace(version);
    }

    /// Of what the answers are that are given now. Rises with every [`reload`](Self::reload).
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Tells of new versions.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Whether `who` may do `action`. A refusal is counted.
    ///
    /// # Errors
    ///
    /// No grant allows it.
    pub(super) fn check(&self, who: &Principal, action: &Action<'_>) -> Result<(), Denied> {
        self.ask(who, action).map_err(|denied| self.counted(denied))
    }

    /// The same without counting, for what is looked at rather than refused.
    ///
    /// # Errors
    ///
    /// No grant allows it.
    pub(super) fn ask(&self, who: &Principal, action: &Action<'_>) -> Result<(), Denied> {
        if self.allows(who, action) {
            return Ok(());
        }
        let (right, on) = action.needs();
        Err(Denied {
            who: who.clone(),
            right,
            on,
        })
    }

    /// Counts a refusal.
    pub(super) fn counted(&self, denied: Denied) -> Denied {
        self.denied[denied.right as usize].fetch_add(1, Ordering::Relaxed);
        denied
    }

    /// Whether `who` has `right` on anything at all: asked before any work is done for somebody who might have it. A refusal is
    /// counted.
    ///
    /// # Errors
    ///
    /// No grant gives it.
    pub(super) fn check_any(&self, who: &Principal, right: Right) -> Result<(), Denied> {
        if self.holds(who, right) {
            return Ok(());
        }
        Err(self.counted(Denied {
            who: who.clone(),
            right,
            on: String::new(),
        }))
    }

    /// Whether `who` has `right` on anything at all.
    pub(super) fn holds(&self, who: &Principal, right: Right) -> bool {
        let grants = self.grants();
        let mut grants = grants.iter().filter(|grant| grant.selects(who));
        grants.any(|grant| grant.gives(right))
    }

    /// Whether `who` runs the broker: it has `admin` on everything. Nothing is counted.
    pub(super) fn is_operator(&self, who: &Principal) -> bool {
        let grants = self.grants();
        let mut grants = grants.iter().filter(|grant| grant.selects(who));
        grants.any(Grant::administers_everything)
    }

    /// Refusals since the start, of all kinds.
    #[must_use]
    pub fn denied_total(&self) -> u64 {
        self.denied_counts().map(|(_, count)| count).iter().sum()
    }

    /// Refusals since the start, by the right that was lacking.
    #[must_use]
    pub fn denied_counts(&self) -> [(Right, u64); Right::ALL.len()] {
        Right::ALL.map(|right| (right, self.denied[right as usize].load(Ordering::Relaxed)))
    }

    /// Whether any grant allows `action` to `who`.
    pub(super) fn allows(&self, who: &Principal, action: &Action<'_>) -> bool {
        let grants = self.grants();
        let mut grants = grants.iter().filter(|grant| grant.selects(who));
        grants.any(|grant| action.is_granted(grant))
    }

    fn grants(&self) -> Arc<[Grant]> {
        read(&self.grants).clone()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{TopicName, TopicPattern};

    pub(in crate::auth) fn policy(text: &str) -> Policy {
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

    const PLANT: &str = r#"
        [[grants]]
        principals = ["uri:spiffe://plant/*"]
        publish = ["plant.>", "dead.>"]
        subscribe = ["plant.presses.*"]
        consume = ["press-*"]
        upload = ["plant-*"]
        use = ["shared-*"]
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
        check(press, Action::Consume("press-4"), true);
        check(press, Action::Consume("office"), false);
        check(press, Action::Upload("plant-scrub"), true);
        check(press, Action::Upload("shared-scrub"), false);
        check(press, Action::Use("shared-scrub"), true);
        check(press, Action::Use("office-scrub"), false);
        check(
            "cn:chief",
            Action::AdminTopic(&pattern("plant.presses.>")),
            true,
        );
        check("local", Action::AdminTopic(&pattern("plant.x")), true);
        check("cn:chief", Action::AdminTopic(&pattern(">")), false);
        check("cn:chief", Action::AdminRead, true);
        check("cn:chief", Action::AdminPlugins, false);
        check("cn:chief", Action::Use("shared-scrub"), false);
        check("cn:root", Action::AdminPlugins, true);
        check("cn:root", Action::Upload("anything"), true);
        check("cn:root", Action::Use("anything"), true);
        check("cn:root", Action::Consume("press-4"), false);
        check("cn:root", Action::ReadMetrics, true);
        let counts = policy.denied_counts().map(|(right, n)| (right.key(), n));
        let expected = [
            ("publish", 3),
            ("subscribe", 1),
            ("admin", 3),
            ("consume", 2),
            ("upload", 1),
            ("use", 2),
            ("metrics", 0),
        ];
        assert_eq!(counts, expected);
        assert_eq!(policy.denied_total(), 12);
    }

    #[test]
    fn a_group_has_the_rights_that_all_of_it_have() {
        let policy = policy(PLANT);
        let allowed = |group: &str| {
            let group: crate::domain::Owner = group.parse().expect("an owner");
            policy.allows(group.subject(), &Action::Consume("press-4"))
        };
        assert!(allowed("uri:spiffe://plant/press-*"));
        assert!(allowed("uri:spiffe://plant/*"));
        assert!(!allowed("uri:spiffe://*"), "some of them have no grant");
        assert!(!allowed("uri:spiffe://plan*"), "neither");
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
        assert_eq!(policy.denied_counts()[0], (Right::Publish, 3));
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
    fn other_grants_decide_from_the_reload_on() {
        let policy = policy(PLANT);
        let told = policy.watch();
        let root = Principal::common_name("root");
        assert!(policy.allows(&root, &Action::AdminPlugins));
        policy.reload(Vec::new());
        assert!(!policy.allows(&root, &Action::AdminPlugins));
        assert!(told.has_changed().expect("the policy is there"));
        assert_eq!(policy.version(), 1);
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
