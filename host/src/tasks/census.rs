//! How many topics and subscriptions each principal has made, counted as they come and go, so that a limit is looked up and
//! never computed. What an older broker made is nobody's and counts for nobody.

use std::collections::HashMap;

use crate::auth::Policy;
use crate::domain::Principal;

use super::BrokerError;

/// How many there may be of something.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// In the broker.
    pub all: usize,
    /// Made by one principal, unless that has `admin` on `>`.
    pub principal: usize,
}

/// Who has made how many of something.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    by_creator: HashMap<Principal, usize>,
}

impl Census {
    pub(super) fn add(&mut self, creator: Option<&Principal>) {
        let Some(creator) = creator else { return };
        match self.by_creator.get_mut(creator) {
            Some(count) => *count += 1,
            None => {
                self.by_creator.insert(creator.clone(), 1);
            }
        }
    }

    pub(super) fn remove(&mut self, creator: Option<&Principal>) {
        let Some(creator) = creator else { return };
        if let Some(count) = self.by_creator.get_mut(creator) {
            *count -= 1;
            if *count == 0 {
                self.by_creator.remove(creator);
            }
        }
    }

    fn of(&self, creator: &Principal) -> usize {
        self.by_creator.get(creator).copied().unwrap_or(0)
    }

    /// Whether `creator` may make one more of what there are `all` of. `what` is their name, and that of the keys of the
    /// configuration: `limits.WHAT_max` and `limits.principal_WHAT_max`.
    ///
    /// # Errors
    ///
    /// The limit that is reached, and what to do.
    pub(super) fn admit(
        &self,
        what: &'static str,
        all: usize,
        creator: Option<&Principal>,
        quota: Quota,
        policy: &Policy,
    ) -> Result<(), BrokerError> {
        if all >= quota.all {
            return Err(BrokerError::LimitReached(format!(
                "the broker has {all} {what}, as many as `limits.{what}_max` allows; delete what is not needed, or raise it"
            )));
        }
        let Some(creator) = creator else {
            return Ok(());
        };
        let theirs = self.of(creator);
        if theirs >= quota.principal && !policy.is_operator(creator) {
            return Err(BrokerError::LimitReached(format!(
                "{creator} has made {theirs} {what}, as many as `limits.principal_{what}_max` allows one principal; delete what is not needed, or ask whoever runs the broker to raise it"
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
        let mut census = Census::default();
        let admit = |census: &Census, all, who: Option<&Principal>| {
            let admitted = census.admit("topics", all, who, quota, &policy);
            admitted.map_err(|error| error.to_string())
        };
        for _ in 0..2 {
            assert_eq!(admit(&census, 0, Some(&who)), Ok(()));
            census.add(Some(&who));
            census.add(Some(&operator));
        }
        let refused = admit(&census, 4, Some(&who)).expect_err("two are there");
        assert!(refused.contains("principal_topics_max"), "{refused}");
        assert_eq!(admit(&census, 4, Some(&other)), Ok(()));
        assert_eq!(admit(&census, 4, Some(&operator)), Ok(()));
        assert_eq!(admit(&census, 4, None), Ok(()));
        for who in [Some(&operator), Some(&other), None] {
            let refused = admit(&census, 5, who).expect_err("five are there");
            assert!(refused.contains("`limits.topics_max`"), "{refused}");
        }
        census.remove(Some(&who));
        assert_eq!(admit(&census, 3, Some(&who)), Ok(()));
        census.remove(Some(&who));
        assert!(!census.by_creator.contains_key(&who), "nothing is kept");
    }
}
