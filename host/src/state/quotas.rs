//! What quotas are held against: how many topics, subscriptions and plugins each principal has made, counted as they come and go, so that a limit is looked up
//! and never computed. What an older broker made is nobody's and counts for all only.

use std::collections::HashMap;

use crate::auth::{Policy, authorize};
use crate::domain::Principal;

/// How many there may be of something.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// In the broker.
    pub all: usize,
    /// Made by one principal, unless that has `admin` on `>`.
    pub principal: usize,
}

/// How many plugins there may be.
#[derive(Clone, Copy, Debug)]
pub struct PluginQuotas {
    /// Versions, and names whose versions are all deleted.
    pub versions: Quota,
    /// Bytes of those versions.
    pub bytes: Quota,
}

/// There are as many as there may be: which limit that is, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct QuotaReached(String);

/// What is counted, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Their name.
    pub(crate) what: &'static str,
    /// That in the keys of the configuration: `limits.KEY_max` and `limits.principal_KEY_max`.
    pub(crate) key: &'static str,
    /// What makes room.
    pub(crate) remedy: &'static str,
}

const DELETE: &str = "delete what is not needed";

pub(crate) const TOPICS: Counted = Counted {
    what: "topics",
    key: "topics",
    remedy: DELETE,
};
pub(crate) const SUBSCRIPTIONS: Counted = Counted {
    what: "subscriptions",
    key: "subscriptions",
    remedy: DELETE,
};
pub(crate) const SPECIFICATION_BYTES: Counted = Counted {
    what: "bytes of subscriptions' specifications (patterns, configurations of plugins, outputs)",
    key: "specification_bytes",
    remedy: "make it shorter, or delete subscriptions that are not needed",
};
pub(crate) const PLUGINS: Counted = Counted {
    what: "versions of plugins (a name whose versions are all deleted counts as one)",
    key: "plugins",
    remedy: "delete versions that are not needed, or have names freed by whoever runs the broker",
};
pub(crate) const PLUGIN_BYTES: Counted = Counted {
    what: "bytes of plugins",
    key: "plugin_bytes",
    remedy: "delete versions that are not needed",
};

/// Who has made how many of something.
#[derive(Clone, Debug, Default)]
pub(crate) struct QuotaUse {
    all: usize,
    by_creator: HashMap<Principal, usize>,
}

impl QuotaUse {
    pub(crate) fn add(&mut self, creator: Option<&Principal>) {
        self.add_many(creator, 1);
    }

    pub(crate) fn add_many(&mut self, creator: Option<&Principal>, count: usize) {
        self.all = self.all.saturating_add(count);
        let Some(creator) = creator.filter(|_| count > 0) else {
            return;
        };
        match self.by_creator.get_mut(creator) {
            Some(theirs) => *theirs = theirs.saturating_add(count),
            None => {
                self.by_creator.insert(creator.clone(), count);
            }
        }
    }

    pub(crate) fn remove(&mut self, creator: Option<&Principal>) {
        self.remove_many(creator, 1);
    }

    pub(crate) fn remove_many(&mut self, creator: Option<&Principal>, count: usize) {
        self.all = self.all.saturating_sub(count);
        let Some(creator) = creator else { return };
        if let Some(theirs) = self.by_creator.get_mut(creator) {
            *theirs = theirs.saturating_sub(count);
            if *theirs == 0 {
                self.by_creator.remove(creator);
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// How many of them `creator` has made.
    pub(crate) fn of(&self, creator: &Principal) -> usize {
        self.by_creator.get(creator).copied().unwrap_or(0)
    }

    /// Whether `creator` may make so many more.
    ///
    /// # Errors
    ///
    /// The limit that is reached, and what to do.
    pub(crate) fn admit(
        &self,
        counted: Counted,
        more: usize,
        creator: Option<&Principal>,
        quota: Quota,
        policy: &Policy,
    ) -> Result<(), QuotaReached> {
        let Counted { what, key, remedy } = counted;
        let all = self.all;
        if all.saturating_add(more) > quota.all {
            let max = quota.all;
            return Err(QuotaReached(format!(
                "the broker has {all} {what}, and {more} more would be beyond `limits.{key}_max` = {max}; {remedy}, or raise it"
            )));
        }
        let Some(creator) = creator else {
            return Ok(());
        };
        let theirs = self.of(creator);
        if theirs.saturating_add(more) > quota.principal && !authorize::is_operator(policy, creator)
        {
            let max = quota.principal;
            return Err(QuotaReached(format!(
                "{creator} has made {theirs} {what}, and {more} more would be beyond what `limits.principal_{key}_max` = {max} allows one principal; {remedy}, or ask whoever runs the broker to raise it"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Grant;

    #[test]
    fn a_principal_and_the_broker_have_limits_and_what_goes_makes_room() {
        let (who, other) = (Principal::common_name("a"), Principal::common_name("b"));
        let operator = Principal::local();
        let policy = Policy::new(vec![Grant {
            principals: vec!["local".parse().expect("valid")],
            admin: vec![">".parse().expect("valid")],
            ..Grant::default()
        }]);
        let quota = Quota {
            all: 5,
            principal: 2,
        };
        let mut census = QuotaUse::default();
        let admit = |census: &QuotaUse, more, who: Option<&Principal>| {
            let admitted = census.admit(TOPICS, more, who, quota, &policy);
            admitted.map_err(|error| error.to_string())
        };
        for _ in 0..2 {
            assert_eq!(admit(&census, 1, Some(&who)), Ok(()));
            census.add(Some(&who));
            census.add(Some(&operator));
        }
        let refused = admit(&census, 1, Some(&who)).expect_err("two are there");
        assert!(
            refused.contains("`limits.principal_topics_max`"),
            "{refused}"
        );
        assert_eq!(admit(&census, 1, Some(&other)), Ok(()));
        assert_eq!(admit(&census, 1, Some(&operator)), Ok(()));
        assert_eq!(admit(&census, 1, None), Ok(()));
        assert!(admit(&census, 2, None).is_err(), "four are there");
        census.add(None);
        for who in [Some(&operator), Some(&other), None] {
            let refused = admit(&census, 1, who).expect_err("five are there");
            assert!(refused.contains("`limits.topics_max`"), "{refused}");
        }
        census.remove(None);
        census.remove(Some(&who));
        assert_eq!(admit(&census, 1, Some(&who)), Ok(()));
        census.remove(Some(&who));
        assert!(!census.by_creator.contains_key(&who), "nothing is kept");
        census.add_many(Some(&who), 0);
        assert!(!census.by_creator.contains_key(&who), "nothing is kept");
    }
}
